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
//! | [`checkpoint`] | while it runs: checkpoints, and the end of what they make superfluous |
//! | [`former`] | the end of what former starts have left |
//! | [`manifest_file`] | what both of these change |

pub mod checkpoint;
pub mod document;
pub mod former;
pub mod journal;
pub mod manifest_file;
pub mod open;
pub mod recover;
pub mod sources;

use catena_engine::driver::FileTaskError;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::task::Poll;

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
        // What the driver tried itself it tells itself.
        let is_told = FileTaskError::is_within(error);
        match is_told {
            true => write!(f, "{error}")?,
            false => write!(f, "cannot {doing} {}: {error}", path.display())?,
        }
        f.write_str(match error.kind() {
            io::ErrorKind::StorageFull if is_told => "",
            io::ErrorKind::StorageFull => "; make room on that file system",
            io::ErrorKind::PermissionDenied => "; the process needs to write there",
            io::ErrorKind::NotFound if *doing == "open" => {
                "; it was there: put it back, or restore a backup into another directory"
            }
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

/// Lets the others of the shard have their turn.
pub(crate) async fn next_turn() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_engine::driver::FileTask;

    #[test]
    fn a_failure_is_told_once_with_its_file_and_what_to_do() {
        let path = Path::new("/data/log-7.new");
        let task = FileTask::CreateZeroed { path: path.into(), length: 4_096 };
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for error in [task.explain(&full()), full()] {
            let text = DiskError::of("create", path)(error).to_string();
            assert!(text.starts_with("cannot create /data/log-7.new"), "{text}");
            for once in ["cannot", "log-7.new", "make room"] {
                assert_eq!(text.matches(once).count(), 1, "{once} in {text}");
            }
        }
    }
}
