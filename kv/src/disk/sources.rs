//! Which logs a shard recovers from: those that have entries of its partitions.
//!
//! A partition's entries are in the log of the shard that had it, in each start since its last checkpoint.
//! The newest start in which that shard had recovered says which older logs are needed and where they
//! end. A start with another number of shards just gives the partitions to others. The last start that came
//! to serve is known ([`open::mark_served`](super::open::mark_served)), so that a loss of its files is, too.

use super::open::DataDirectory;
use super::{DiskError, document};
use crate::log::LogEnd;
use crate::log::manifest::{Manifest, ManifestError};
use crate::log::segment;
use crate::slot::{Partition, Partitions, shard_of};
use catena_engine::Local;
use catena_engine::driver::EntryKind;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// One log to recover from.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Where its files are.
    pub directory: PathBuf,
    /// Where it ends, if a later start has decided that.
    pub end: Option<LogEnd>,
}

/// Why it is not known what to recover from. Nothing was changed.
#[derive(Debug)]
pub enum SourceError {
    /// A file operation failed.
    Disk(DiskError),
    /// A manifest is damaged, or another version's.
    Manifest(ManifestError),
    /// There is, or was, a log in this directory, and nothing that says what of it counts.
    NoManifest(PathBuf),
    /// A manifest is another directory's, another start's or another shard's.
    Foreign(PathBuf),
    /// Two manifests say otherwise where a log ends.
    Ends(PathBuf),
}

/// The logs that have entries of these partitions, in the order in which they are to be taken in.
///
/// # Errors
/// [`SourceError`]
pub async fn find(
    local: &Local,
    data: &DataDirectory,
    own: Range<u16>,
) -> Result<Vec<Source>, SourceError> {
    let partitions = Partitions::new(data.identity.partitions).expect("an identity is checked");
    let mut starts = BTreeMap::new();
    for incarnation in &data.former {
        starts.insert(*incarnation, manifests(local, data, *incarnation).await?);
    }
    if let Some(served) = data.identity.served {
        let last = starts.get(&served.incarnation);
        let is_gone = |shard: &u32| !last.is_some_and(|last| last.contains_key(shard));
        if let Some(gone) = (0..served.shards).find(is_gone) {
            return Err(SourceError::NoManifest(data.of_shard(served.incarnation, gone)));
        }
    }
    let mut needed: BTreeMap<(u64, u32), Option<LogEnd>> = BTreeMap::new();
    for partition in own.map(Partition) {
        let Some(newest) = newest_manifest(&starts, partition, partitions) else { continue };
        needed.entry((newest.incarnation, newest.shard)).or_default();
        for older in &newest.older {
            let path = data.of_shard(older.incarnation, older.shard);
            let end = needed.entry((older.incarnation, older.shard)).or_default();
            if end.is_some_and(|end| end != older.end) {
                return Err(SourceError::Ends(path));
            }
            *end = Some(older.end);
        }
    }
    let source = |((incarnation, shard), end)| {
        let directory = data.of_shard(incarnation, shard);
        let manifest = starts.get(&incarnation).and_then(|start| start.get(&shard));
        let manifest = manifest.ok_or_else(|| SourceError::NoManifest(directory.clone()))?;
        Ok(Source { manifest: manifest.clone(), directory, end })
    };
    needed.into_iter().map(source).collect()
}

/// The manifests of one start, by shard: of those that had recovered.
async fn manifests(
    local: &Local,
    data: &DataDirectory,
    incarnation: u64,
) -> Result<BTreeMap<u32, Manifest>, SourceError> {
    let path = data.path.join(segment::incarnation_name(incarnation));
    let failed = |path: &PathBuf| {
        let to_disk_error = DiskError::of("list", path);
        move |error| SourceError::Disk(to_disk_error(error))
    };
    let mut manifests = BTreeMap::new();
    for entry in local.list_directory(&path).await.map_err(failed(&path))? {
        let is_directory = entry.kind == EntryKind::Directory;
        let shard = entry.name.to_str().and_then(segment::shard_number);
        let Some(shard) = shard.filter(|_| is_directory) else { continue };
        let directory = data.of_shard(incarnation, shard);
        let path = directory.join("MANIFEST");
        let Some(content) = document::read(local, &path).await.map_err(SourceError::Disk)? else {
            let names = local.list_directory(&directory).await.map_err(failed(&directory))?;
            let is_of_use = |name: &str| {
                segment::segment_number(name).or(segment::checkpoint_number(name)).is_some()
            };
            if names.iter().filter_map(|entry| entry.name.to_str()).any(is_of_use) {
                return Err(SourceError::NoManifest(directory));
            }
            // It had not recovered.
            continue;
        };
        let manifest = Manifest::decode(&content, &path.display().to_string());
        let manifest = manifest.map_err(SourceError::Manifest)?;
        let says = (manifest.directory, manifest.incarnation, manifest.shard);
        if says != (data.identity.directory, incarnation, shard) {
            return Err(SourceError::Foreign(path));
        }
        manifests.insert(shard, manifest);
    }
    Ok(manifests)
}

/// What the shard says that had a partition last, and had recovered.
fn newest_manifest(
    starts: &BTreeMap<u64, BTreeMap<u32, Manifest>>,
    partition: Partition,
    partitions: Partitions,
) -> Option<&Manifest> {
    starts.values().rev().find_map(|start| {
        let shards = u16::try_from(start.values().next()?.shards).ok()?;
        start.get(&u32::from(shard_of(partition, partitions, shards).0))
    })
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceError::Disk(error) => error.fmt(f),
            SourceError::Manifest(error) => error.fmt(f),
            SourceError::NoManifest(path) => write!(
                f,
                "{} is missing, but there is, or was, a log or a checkpoint beside it: put it back, or \
                 restore a backup",
                path.join("MANIFEST").display()
            ),
            SourceError::Foreign(path) => write!(
                f,
                "{} was written for another directory: files of several stores are mixed up",
                path.display()
            ),
            SourceError::Ends(path) => write!(
                f,
                "two manifests say otherwise where the log in {} ends: files of several copies of the store \
                 are mixed up; restore a backup",
                path.display()
            ),
        }
    }
}

impl std::error::Error for SourceError {}
