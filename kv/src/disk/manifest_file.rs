//! The manifest of a running shard: two tasks change it, one at a time.

use super::{DiskError, document};
use crate::log::manifest::Manifest;
use async_lock::Mutex;
use catena_engine::Local;
use std::path::{Path, PathBuf};

/// See the module page.
#[derive(Debug)]
pub struct ManifestFile {
    directory: PathBuf,
    current: Mutex<Manifest>,
}

impl ManifestFile {
    /// One that says this already.
    pub fn new(directory: PathBuf, manifest: Manifest) -> Self {
        ManifestFile { directory, current: Mutex::new(manifest) }
    }

    /// The directory of the shard's files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it says.
    pub async fn read(&self) -> Manifest {
        self.current.lock().await.clone()
    }

    /// Changes it; durable when this returns.
    ///
    /// # Errors
    /// The step that failed; it says the old or the new.
    pub async fn change(
        &self,
        local: &Local,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<(), DiskError> {
        let mut current = self.current.lock().await;
        let mut next = current.clone();
        change(&mut next);
        let path = self.directory.join("MANIFEST");
        document::replace(local, &path, next.encode().as_bytes()).await?;
        *current = next;
        Ok(())
    }
}
