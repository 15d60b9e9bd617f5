//! A config store in a directory that all nodes see: several processes on one machine. Beyond one machine it
//! is as good as the locks and renames of a shared file system, which is not good enough.
//!
//! ```text
//! LOCK    held by who changes the view
//! VIEW    the view, replaced whole: write, sync, rename, sync of the directory
//! ```

use super::{Asked, Changed, ConfigStore, ConfigStoreError};
use crate::cluster::view::{Change, View};
use crate::disk::document;
use catena_engine::Local;
use catena_engine::time::Duration;
use std::io;
use std::path::{Path, PathBuf};

const VIEW: &str = "VIEW";
const LOCK: &str = "LOCK";

/// From one try to lock it to the next, on average: a change takes about a millisecond on a good disk.
const TRY_AGAIN: Duration = Duration::from_millis(2);

/// How long to try before that is an error: somebody stands still with the lock.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module page.
#[derive(Clone, Debug)]
pub struct InDirectory {
    path: PathBuf,
}

impl InDirectory {
    /// In this directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        InDirectory { path: path.into() }
    }

    /// Makes a cluster there.
    ///
    /// # Errors
    /// If there is one already, or the directory cannot be written.
    pub fn create(path: &Path, view: &View) -> Result<(), ConfigStoreError> {
        let failed = |doing, path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| ConfigStoreError(format!("cannot {doing} {path}: {error}"))
        };
        std::fs::create_dir_all(path).map_err(failed("create", path))?;
        let (file, unready) = (path.join(VIEW), path.join("VIEW.init"));
        std::fs::write(&unready, view.encode()).map_err(failed("write", &unready))?;
        let synced = std::fs::File::open(&unready).and_then(|file| file.sync_all());
        synced.map_err(failed("sync", &unready))?;
        // A link is made once, whoever else tries to.
        let linked = std::fs::hard_link(&unready, &file);
        let _superfluous = std::fs::remove_file(&unready);
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let path = path.display();
                return Err(ConfigStoreError(format!("there is a cluster in {path} already")));
            }
            linked => linked.map_err(failed("create", &file))?,
        }
        let synced = std::fs::File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(failed("sync", path))
    }

    /// The view, for who is no shard.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn look(path: &Path) -> Result<View, ConfigStoreError> {
        let file = path.join(VIEW);
        let content = std::fs::read(&file);
        let content = content.map_err(|error| unreadable(&file, &error, error.kind()))?;
        decoded(&file, &content)
    }
}

impl ConfigStore for InDirectory {
    fn read(&self, local: &Local) -> Asked<View> {
        let (path, local) = (self.path.clone(), local.clone());
        Box::pin(async move { read(&local, &path).await })
    }

    fn change(&self, local: &Local, changes: Vec<Change>) -> Asked<Changed> {
        let (path, local) = (self.path.clone(), local.clone());
        Box::pin(async move { change(&local, &path, &changes).await })
    }
}

async fn read(local: &Local, path: &Path) -> Result<View, ConfigStoreError> {
    let file = path.join(VIEW);
    match document::read(local, &file).await {
        Ok(Some(content)) => decoded(&file, &content),
        Ok(None) => Err(unreadable(&file, &"there is no such file", io::ErrorKind::NotFound)),
        Err(error) => Err(ConfigStoreError(error.to_string())),
    }
}

async fn change(
    local: &Local,
    path: &Path,
    changes: &[Change],
) -> Result<Changed, ConfigStoreError> {
    let lock_path = path.join(LOCK);
    let until = local.now() + PATIENCE;
    let _lock = loop {
        match local.lock_file(&lock_path).await {
            Ok(lock) => break lock,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && local.now() < until => {
                let tenths = 5 + (local.random() % 10) as u32;
                local.sleep(TRY_AGAIN * tenths / 10).await;
            }
            Err(error) => {
                let path = lock_path.display();
                return Err(ConfigStoreError(format!("cannot lock {path}: {error}")));
            }
        }
    };
    let before = read(local, path).await?;
    let mut view = before.clone();
    let results = changes.iter().map(|change| view.apply(change)).collect();
    if view != before {
        let replaced = document::replace(local, &path.join(VIEW), view.encode().as_bytes()).await;
        replaced.map_err(|error| ConfigStoreError(error.to_string()))?;
    }
    Ok(Changed { results, view })
}

fn decoded(file: &Path, content: &[u8]) -> Result<View, ConfigStoreError> {
    let file = file.display();
    View::decode(content).map_err(|problem| {
        ConfigStoreError(format!("{file} is no view of a cluster: {problem}. Nothing was changed"))
    })
}

fn unreadable(file: &Path, why: &dyn std::fmt::Display, kind: io::ErrorKind) -> ConfigStoreError {
    let hint = match kind {
        io::ErrorKind::NotFound => "; make the cluster first: catena cluster init",
        _ => "",
    };
    ConfigStoreError(format!("cannot read {}: {why}{hint}", file.display()))
}
