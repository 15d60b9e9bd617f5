//! The start on a data directory: lock it, see what it is, begin the next incarnation.
//!
//! The first shard does this for all; the others wait for what it found.

use super::{DiskError, document};
use crate::backup::RESTORING;
use crate::log::manifest::{Identity, ManifestError, Served};
use crate::log::{DirectoryId, segment};
use crate::slot::Partitions;
use catena_engine::Local;
use catena_engine::driver::{DirectoryEntry, EntryKind, FileLock};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A data directory that this process has.
#[derive(Clone, Debug)]
pub struct DataDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// What it is; the incarnation is this one.
    pub identity: Identity,
    /// Former incarnations that have left something, the oldest first.
    pub former: Vec<u64>,
    /// Nobody else has it as long as one of these lives.
    pub lock: FileLock,
}

/// Why a data directory cannot be started on. Nothing was changed but, perhaps, that it exists.
#[derive(Debug)]
pub enum OpenError {
    /// A file operation failed.
    Disk(DiskError),
    /// Another process has it.
    Locked(PathBuf),
    /// The identity is damaged, or another version's.
    Identity(ManifestError),
    /// It has data of former starts, and no identity.
    NoIdentity(PathBuf),
    /// It was being made from a backup, which was cut off.
    CutOff(PathBuf),
    /// It has something else in it.
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// One of the names in it.
        name: PathBuf,
    },
    /// It was made for another number of partitions.
    Partitions {
        /// Asked for now.
        asked: u16,
        /// What it has.
        has: u16,
    },
}

const LOCK: &str = "LOCK";
const IDENTITY: &str = "IDENTITY";
/// See [`document::replace`].
const IDENTITY_UNREADY: &str = "IDENTITY.new";

/// Opens a data directory, or makes one for `partitions` (or the default).
///
/// # Errors
/// [`OpenError`]
pub async fn open(
    local: &Local,
    path: &Path,
    partitions: Option<Partitions>,
) -> Result<DataDirectory, OpenError> {
    local.create_directory(path).await.map_err(failed("create", path))?;
    refuse_foreign(path, &list(local, path).await?)?;
    let lock_path = path.join(LOCK);
    let lock = match local.lock_file(&lock_path).await {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            return Err(OpenError::Locked(path.to_path_buf()));
        }
        Err(error) => return Err(failed("lock", &lock_path)(error)),
    };
    let former = incarnations(&list(local, path).await?);
    let identity_path = path.join(IDENTITY);
    let identity = match document::read(local, &identity_path).await.map_err(OpenError::Disk)? {
        Some(content) => {
            let name = identity_path.display().to_string();
            let mut identity = Identity::decode(&content, &name).map_err(OpenError::Identity)?;
            if let Some(asked) = partitions.map(Partitions::count)
                && asked != identity.partitions
            {
                return Err(OpenError::Partitions { asked, has: identity.partitions });
            }
            // A start that ended before its identity was durable may have left its directory.
            let last = former.last().copied().unwrap_or(0);
            identity.incarnation = identity.incarnation.max(last) + 1;
            identity
        }
        None if !former.is_empty() => return Err(OpenError::NoIdentity(identity_path)),
        None => {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&local.random().to_le_bytes());
            id[8..].copy_from_slice(&local.random().to_le_bytes());
            Identity {
                directory: DirectoryId(id),
                partitions: partitions.unwrap_or_default().count(),
                hash_seed: local.random(),
                incarnation: 1,
                served: None,
            }
        }
    };
    // One that is new, or was made from a backup: nobody has done it.
    if former.len() <= 1 {
        sync_ancestors(local, path).await?;
    }
    document::replace(local, &identity_path, identity.encode().as_bytes())
        .await
        .map_err(OpenError::Disk)?;
    Ok(DataDirectory { path: path.to_path_buf(), identity, former, lock })
}

/// Says for all later starts that this one is about to serve: what it has left has to be there then.
///
/// # Errors
/// If that could not be made durable; nothing may be acknowledged then.
pub async fn mark_served(local: &Local, data: &DataDirectory) -> Result<(), DiskError> {
    let incarnation = data.identity.incarnation;
    let served = Some(Served { incarnation, shards: local.shard_count().into() });
    let identity = Identity { served, ..data.identity.clone() };
    document::replace(local, &data.path.join(IDENTITY), identity.encode().as_bytes()).await
}

/// Makes the name of a new data directory durable, and those of the directories that were made for it:
/// without them a power failure could take all that is in it.
async fn sync_ancestors(local: &Local, path: &Path) -> Result<(), OpenError> {
    for (above, ancestor) in path.ancestors().skip(1).enumerate() {
        // A relative path ends with nothing, which is where the process is.
        let empty = ancestor.as_os_str().is_empty();
        let ancestor = if empty { Path::new(".") } else { ancestor };
        match local.sync_directory(ancestor).await {
            // What nobody may even look into was not made for this.
            Err(error) if above > 0 && error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(failed("sync", ancestor))?,
        }
    }
    Ok(())
}

/// The incarnations that have a directory, the oldest first.
fn incarnations(entries: &[DirectoryEntry]) -> Vec<u64> {
    let directories = entries.iter().filter(|entry| entry.kind == EntryKind::Directory);
    let names = directories.filter_map(|entry| entry.name.to_str());
    let mut numbers: Vec<u64> = names.filter_map(segment::incarnation_number).collect();
    numbers.sort_unstable();
    numbers
}

/// A directory becomes a store's own if there is nothing in it: but for what a start leaves that was cut off,
/// and what a file system begins with.
fn refuse_foreign(path: &Path, entries: &[DirectoryEntry]) -> Result<(), OpenError> {
    const HARMLESS: [&str; 3] = [LOCK, IDENTITY_UNREADY, "lost+found"];
    if entries.iter().any(|entry| entry.name == RESTORING) {
        return Err(OpenError::CutOff(path.into()));
    }
    let is_a_stores = entries.iter().any(|entry| entry.name == IDENTITY);
    let foreign = entries.iter().find(|entry| !HARMLESS.iter().any(|name| entry.name == *name));
    match foreign {
        Some(foreign) if !is_a_stores && incarnations(entries).is_empty() => {
            Err(OpenError::Foreign { directory: path.into(), name: foreign.name.clone().into() })
        }
        _ => Ok(()),
    }
}

async fn list(local: &Local, path: &Path) -> Result<Vec<DirectoryEntry>, OpenError> {
    local.list_directory(path).await.map_err(failed("list", path))
}

impl DataDirectory {
    /// Where a shard of an incarnation keeps its files.
    pub fn of_shard(&self, incarnation: u64, shard: u32) -> PathBuf {
        let incarnation = self.path.join(segment::incarnation_name(incarnation));
        incarnation.join(segment::shard_name(shard))
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let to_disk_error = DiskError::of(doing, path);
    move |error| OpenError::Disk(to_disk_error(error))
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Disk(error) => error.fmt(f),
            OpenError::Locked(path) => write!(
                f,
                "another process serves the data in {}; end it first, or name another directory",
                path.display()
            ),
            OpenError::Identity(error) => error.fmt(f),
            OpenError::NoIdentity(path) => write!(
                f,
                "{} is missing, but there is data beside it: put the file back, or move the data away",
                path.display()
            ),
            OpenError::CutOff(path) => write!(
                f,
                "{0} has what a restore left that was cut off, and not all keys; remove {0}, and restore the \
                 backup again",
                path.display()
            ),
            OpenError::Foreign { directory, name } => write!(
                f,
                "{} is no data directory, and there is something in it already ({}); name one that is empty \
                 or not there",
                directory.display(),
                name.display()
            ),
            OpenError::Partitions { asked, has } => write!(
                f,
                "the data has {has} partitions, and {asked} were asked for: their number is fixed when a \
                 data directory is made; leave it out"
            ),
        }
    }
}

impl std::error::Error for OpenError {}
