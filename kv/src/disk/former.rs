//! The end of what former starts have left, once no shard needs it.

use super::open::DataDirectory;
use crate::log::segment;
use catena_engine::Local;
use catena_engine::driver::EntryKind;
use catena_engine::shard_index::ShardIndex;
use std::io;
use std::path::{Path, PathBuf};

/// From each shard to the first: the oldest incarnation that it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs {
    /// Its own, or an older one whose log it still has to recover from.
    pub oldest: u64,
}

/// What the first shard knows of all shards' needs.
#[derive(Debug)]
pub struct FormerStarts {
    data: DataDirectory,
    oldest: Vec<Option<u64>>,
}

impl FormerStarts {
    /// Of so many shards, none of which has said anything.
    pub fn new(data: DataDirectory, shards: u16) -> Self {
        FormerStarts { data, oldest: vec![None; shards.into()] }
    }

    /// A shard says what it needs. The starts that nobody needs any more, each once.
    pub fn note(&mut self, shard: ShardIndex, needs: Needs) -> Vec<u64> {
        self.oldest[shard.index()] = Some(needs.oldest);
        let Some(oldest) = self.oldest.iter().copied().min().flatten() else { return Vec::new() };
        let needless = self.data.former.partition_point(|incarnation| *incarnation < oldest);
        self.data.former.drain(..needless).collect()
    }

    /// True when every shard has said what it needs: each has recovered.
    pub fn have_all_recovered(&self) -> bool {
        self.oldest.iter().all(Option::is_some)
    }

    /// What they run on.
    pub fn data(&self) -> &DataDirectory {
        &self.data
    }

    /// Where their directories are.
    pub fn path(&self) -> &Path {
        &self.data.path
    }
}

/// Removes what these starts have left. What cannot be removed takes room until the next start, and is
/// harmless: nothing refers to it.
pub async fn remove(local: Local, path: PathBuf, incarnations: Vec<u64>) {
    for incarnation in incarnations {
        let directory = path.join(segment::incarnation_name(incarnation));
        match remove_start(&local, &directory).await {
            Ok(()) => tracing::info!(incarnation, "what a former start has left is removed"),
            Err(error) => tracing::warn!("cannot remove all of {}: {error}", directory.display()),
        }
    }
}

/// Shard by shard, and of each the manifest last.
async fn remove_start(local: &Local, directory: &Path) -> io::Result<()> {
    let entries = local.list_directory(directory).await?;
    let shards = entries.iter().filter(|entry| entry.kind == EntryKind::Directory);
    let shards: Vec<_> = shards.map(|entry| directory.join(&entry.name)).collect();
    for shard in &shards {
        let files = local.list_directory(shard).await?;
        // A crash within leaves a manifest without a log, which nobody asks for. The other way round it
        // would leave a log that nothing explains, which a start refuses; so the order is made durable.
        let (manifests, others): (Vec<_>, Vec<_>) =
            files.iter().partition(|file| file.name == "MANIFEST");
        for files in [others, manifests] {
            for file in files {
                local.remove_file(&shard.join(&file.name)).await?;
            }
            local.sync_directory(shard).await?;
        }
        local.remove_directory(shard).await?;
    }
    local.remove_directory(directory).await
}
