//! The rare operations on files and directories: everything but reading, writing and syncing a file.
//!
//! A file is prepared under a name of its own, filled, synced, and renamed to where it is looked for;
//! then the directory is synced. What each step promises of a power failure:
//!
//! | step | afterwards |
//! |---|---|
//! | write, preallocate | each is kept, lost or torn on its own |
//! | [`sync`](super::Driver::sync) of the file | its bytes and its length are durable, **its name is not** |
//! | open with `create`, create, rename, remove | each is kept or undone on its own, a rename as a whole |
//! | [`FileTask::SyncDirectory`] | the names in that directory are durable, those below it are not |
//!
//! Tasks name files by their paths and leave no file open but where they say so, so that they need
//! nothing of what the shard has open.

use super::{FileId, OpenFile};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What a shard may ask of the file system besides reading, writing and syncing an open file. See the
/// module page for what survives a power failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileTask {
    /// Opens a file; answered with [`FileTaskDone::Opened`].
    Open {
        /// Which.
        path: PathBuf,
        /// How.
        options: OpenFile,
    },
    /// Creates a directory and the ones above it, as far as they are missing.
    CreateDirectory {
        /// The lowest of them.
        path: PathBuf,
    },
    /// Lists a directory; answered with [`FileTaskDone::Entries`].
    ListDirectory {
        /// Which.
        path: PathBuf,
    },
    /// Gives a file or a directory another name on the same file system. What had that name is
    /// replaced: whoever looks sees the old one or the new one, at every moment.
    Rename {
        /// What it is called.
        from: PathBuf,
        /// What it will be called.
        to: PathBuf,
    },
    /// Removes a file. Who has it open may go on using it.
    RemoveFile {
        /// Which.
        path: PathBuf,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// Which.
        path: PathBuf,
    },
    /// Makes durable which names a directory holds, as far as that was *completed* before this.
    SyncDirectory {
        /// Which.
        path: PathBuf,
    },
    /// Asks for the length of a file; answered with [`FileTaskDone::Length`].
    FileLength {
        /// Which.
        path: PathBuf,
    },
    /// Reserves room for the first `length` bytes of a file, which exists, and lengthens it to as much
    /// if it is shorter: zeros. A full disk shows now, and not at a write.
    Preallocate {
        /// Which.
        path: PathBuf,
        /// In bytes.
        length: u64,
    },
    /// Creates a file of `length` zero bytes, really written and synced: later writes into it change
    /// no metadata, so their syncs have less to do. Its name is as durable as any new one. There is no
    /// such file after a failure.
    CreateZeroed {
        /// A name that is not taken.
        path: PathBuf,
        /// In bytes.
        length: u64,
    },
    /// Asks for the room on a file system; answered with [`FileTaskDone::Space`].
    FreeSpace {
        /// A file or directory there.
        path: PathBuf,
    },
    /// Locks a file, creating it if it is missing, against everybody else who locks it; answered with
    /// [`FileTaskDone::Locked`]. Fails with [`io::ErrorKind::ResourceBusy`] if somebody has it.
    Lock {
        /// Which.
        path: PathBuf,
    },
}

/// The answer to a [`FileTask`].
#[derive(Debug)]
pub enum FileTaskDone {
    /// There is nothing more to say.
    Done,
    /// The file is open. Whoever asked closes it.
    Opened(FileId),
    /// What is in the directory, by name.
    Entries(Vec<DirectoryEntry>),
    /// In bytes.
    Length(u64),
    /// The room there is.
    Space(FileSystemSpace),
    /// The lock is the caller's.
    Locked(FileLock),
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirectoryEntry {
    /// Without the directory.
    pub name: OsString,
    /// What it names.
    pub kind: EntryKind,
    /// Of a file, in bytes; 0 of anything else.
    pub length: u64,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EntryKind {
    /// An ordinary file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, a socket, a device …
    Other,
}

/// The room on a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileSystemSpace {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// What this process may still fill, in bytes; less than what is free where some is reserved.
    pub available_bytes: u64,
}

/// The right to a locked file, which ends when its last clone is dropped, or with the process,
/// however that ends. Any thread may hold it.
#[derive(Clone)]
pub struct FileLock {
    _held: Arc<dyn Send + Sync>,
}

impl FileLock {
    /// For drivers: a lock that ends when `held` is dropped.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        FileLock { _held: Arc::new(held) }
    }
}

impl fmt::Debug for FileLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileLock")
    }
}

impl FileTask {
    /// For drivers: an error of the file system's with what was being tried, to which file. Its kind
    /// stays; what it holds is a [`FileTaskError`].
    pub fn explain(&self, error: &io::Error) -> io::Error {
        let advice = match (self, error.kind()) {
            (FileTask::Lock { .. }, io::ErrorKind::ResourceBusy) => {
                ": another process, or another part of this one, has locked it; stop that first, or \
                 use another directory"
            }
            (_, io::ErrorKind::StorageFull) => "; make room on that file system",
            _ => "",
        };
        io::Error::new(error.kind(), FileTaskError(format!("cannot {self}: {error}{advice}")))
    }
}

/// Within an [`io::Error`]: it says already what could not be done to which file, so that nobody has to say
/// it once more.
#[derive(Debug)]
pub struct FileTaskError(String);

impl FileTaskError {
    /// True if `error` is one.
    pub fn is_within(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<FileTaskError>())
    }
}

impl fmt::Display for FileTaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FileTaskError {}

/// As it follows a "cannot".
impl fmt::Display for FileTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileTask::Open { path, options: OpenFile { create: true, .. } } => {
                write!(f, "open or create {}", path.display())
            }
            FileTask::Open { path, .. } => write!(f, "open {}", path.display()),
            FileTask::CreateDirectory { path } => {
                write!(f, "create the directory {}", path.display())
            }
            FileTask::ListDirectory { path } => write!(f, "list the directory {}", path.display()),
            FileTask::Rename { from, to } => {
                write!(f, "rename {} to {}", from.display(), to.display())
            }
            FileTask::RemoveFile { path } => write!(f, "remove the file {}", path.display()),
            FileTask::RemoveDirectory { path } => {
                write!(f, "remove the directory {}", path.display())
            }
            FileTask::SyncDirectory { path } => write!(f, "sync the directory {}", path.display()),
            FileTask::FileLength { path } => write!(f, "tell the length of {}", path.display()),
            FileTask::Preallocate { path, length } => {
                write!(f, "reserve {length} bytes for {}", path.display())
            }
            FileTask::CreateZeroed { path, length } => {
                write!(f, "create {} with {length} zero bytes", path.display())
            }
            FileTask::FreeSpace { path } => {
                write!(f, "tell the room on the file system of {}", path.display())
            }
            FileTask::Lock { path } => write!(f, "lock {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_was_tried_and_keeps_its_kind() {
        let rename = FileTask::Rename { from: "/a/new".into(), to: "/a/b".into() };
        let error = rename.explain(&io::ErrorKind::StorageFull.into());
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let text = error.to_string();
        assert!(text.starts_with("cannot rename /a/new to /a/b: "), "{text}");
        assert!(text.ends_with("make room on that file system"), "{text}");
        assert!(FileTaskError::is_within(&error));
        assert!(!FileTaskError::is_within(&io::ErrorKind::StorageFull.into()));
        let lock = FileTask::Lock { path: "/a/LOCK".into() };
        let text = lock.explain(&io::ErrorKind::ResourceBusy.into()).to_string();
        assert!(text.contains("/a/LOCK") && text.contains("has locked it"), "{text}");
    }

    #[test]
    fn a_lock_ends_with_its_last_clone() {
        let held = Arc::new(());
        let lock = FileLock::new(held.clone());
        let clone = lock.clone();
        drop(lock);
        assert_eq!(Arc::strong_count(&held), 2);
        drop(clone);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
