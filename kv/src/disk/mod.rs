//! A store's files: what reads and writes them, through the driver's own operations.
//!
//! ```text
//! DIR/LOCK                               one process at a time
//! DIR/IDENTITY                           what the directory is, and how often it was started on
//! DIR/gen-<incarnation>/shard-<k>/       what one start has written: MANIFEST, log-<n>, checkpoint-<n>
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`document`] | small files that are replaced whole |
//! | [`open`] | at a start: the lock, the identity, the next incarnation |
//! | [`sources`] | at a start: which logs of former starts are needed |
//! | [`recover`] | at a start: checkpoints and logs back into memory |
//! | [`journal`] | while it runs: batches into segments |

pub mod document;
pub mod journal;
pub mod open;
pub mod recover;
pub mod sources;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed, and on what.
#[derive(Debug)]
pub struct DiskError {
    /// What was to be done, as in "write".
    pub doing: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// Why, as the system says it.
    pub error: io::Error,
}

impl DiskError {
    /// For `map_err`.
    pub fn of(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError + use<> {
        let path = path.to_path_buf();
        move |error| DiskError { doing, path, error }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DiskError { doing, path, error } = self;
        write!(f, "cannot {doing} {}: {error}", path.display())?;
        f.write_str(match error.kind() {
            io::ErrorKind::StorageFull => "; make room on that file system",
            io::ErrorKind::PermissionDenied => "; the process needs to write there",
            io::ErrorKind::ReadOnlyFilesystem => "; the store cannot keep anything there",
            _ => "",
        })
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
