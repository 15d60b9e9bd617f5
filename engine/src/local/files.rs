//! Files, for futures: every operation is a future that ends with it, and none keeps the shard waiting.
//!
//! A future that is dropped does not stop its operation, which may be done or not; nobody hears of it,
//! and a file that it has opened is closed. Errors of what names a file by its path say what was tried.

use super::{Command, Local};
use crate::driver::{
    DirectoryEntry, FileBuffer, FileId, FileLock, FileOpId, FileSystemSpace, FileTask,
    FileTaskDone, OpenFile,
};
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::task::{Poll, Waker};

new_key_type! {
    /// A file operation in flight.
    pub(crate) struct FileOpKey;
}

impl From<FileOpKey> for FileOpId {
    fn from(key: FileOpKey) -> Self {
        FileOpId(key.data().as_ffi())
    }
}

/// Reading and writing open files.
impl Local {
    /// Opens a file, to be closed with [`Local::close_file`]. The name of a new one is durable after
    /// [`Local::sync_directory`], and not before.
    ///
    /// # Errors
    /// As `open` reports them.
    pub async fn open_file(&self, path: &Path, options: OpenFile) -> io::Result<FileId> {
        let path = path.to_owned();
        match self.file_task(FileTask::Open { path, options }).await? {
            FileTaskDone::Opened(file) => Ok(file),
            other => unexpected(&other),
        }
    }

    /// Closes a file once what is in flight on it has ended. That of a file which was removed meanwhile
    /// frees its blocks, and the shard waits for it: close first, and remove then.
    pub fn close_file(&self, file: FileId) {
        self.push(Command::CloseFile(file));
    }

    /// Reads into all of `buffer` from `offset`; gives the buffer back, and the bytes read: fewer
    /// only at the end of the file.
    pub async fn read_file(
        &self,
        file: FileId,
        offset: u64,
        buffer: FileBuffer,
    ) -> (FileBuffer, io::Result<usize>) {
        self.bytes_op(|op| Command::Read { op, file, offset, buffer }).await
    }

    /// Writes all of `buffer` at `offset`; gives the buffer back.
    pub async fn write_file(
        &self,
        file: FileId,
        offset: u64,
        buffer: FileBuffer,
    ) -> (FileBuffer, io::Result<usize>) {
        self.bytes_op(|op| Command::Write { op, file, offset, buffer }).await
    }

    /// Makes durable what was written *and completed* before. The name of a new file is another
    /// matter: see [`Local::sync_directory`].
    ///
    /// # Errors
    /// As `fdatasync` reports them. After an error nothing is known about what was written since
    /// the last good sync: do not try again on the same file.
    pub async fn sync_file(&self, file: FileId) -> io::Result<()> {
        self.bytes_op(|op| Command::Sync { op, file }).await.1.map(drop)
    }
}

/// Names, room and locks. Each may take as long as the disk likes; none is for the path of a request.
impl Local {
    /// Creates a directory and the ones above it, as far as they are missing. Each name is durable
    /// once the directory that it is in was synced.
    ///
    /// # Errors
    /// As `mkdir` reports them.
    pub async fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.plain_task(FileTask::CreateDirectory { path: path.to_owned() }).await
    }

    /// What is in a directory, by name.
    ///
    /// # Errors
    /// As `open`, `getdents` and `stat` report them.
    pub async fn list_directory(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        match self.file_task(FileTask::ListDirectory { path: path.to_owned() }).await? {
            FileTaskDone::Entries(entries) => Ok(entries),
            other => unexpected(&other),
        }
    }

    /// Gives a file or directory another name on the same file system, in place of what had that name.
    /// A power failure leaves the old state or the new one, until each directory concerned was synced.
    ///
    /// # Errors
    /// As `rename` reports them.
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plain_task(FileTask::Rename { from: from.to_owned(), to: to.to_owned() }).await
    }

    /// Removes a file; its directory's sync makes that durable.
    ///
    /// # Errors
    /// As `unlink` reports them.
    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.plain_task(FileTask::RemoveFile { path: path.to_owned() }).await
    }

    /// Removes an empty directory; the sync of the one that it is in makes that durable.
    ///
    /// # Errors
    /// As `rmdir` reports them.
    pub async fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.plain_task(FileTask::RemoveDirectory { path: path.to_owned() }).await
    }

    /// Makes durable which names a directory holds, as far as that was done *and completed* before.
    ///
    /// # Errors
    /// As `fsync` reports them. After an error nothing is known of the names that were to become
    /// durable, and another sync does not help.
    pub async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.plain_task(FileTask::SyncDirectory { path: path.to_owned() }).await
    }

    /// The length of a file, in bytes.
    ///
    /// # Errors
    /// As `stat` reports them.
    pub async fn file_length(&self, path: &Path) -> io::Result<u64> {
        match self.file_task(FileTask::FileLength { path: path.to_owned() }).await? {
            FileTaskDone::Length(length) => Ok(length),
            other => unexpected(&other),
        }
    }

    /// Reserves room for the first `length` bytes of a file that exists, and lengthens it to as much
    /// if it is shorter. The next sync of the file makes that durable.
    ///
    /// # Errors
    /// As `fallocate` reports them; [`io::ErrorKind::StorageFull`] if there is not as much room.
    pub async fn preallocate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.plain_task(FileTask::Preallocate { path: path.to_owned(), length }).await
    }

    /// Creates a file of `length` zero bytes, written and synced, so that the syncs of later writes
    /// change no metadata. Its name is durable after [`Local::sync_directory`].
    ///
    /// # Errors
    /// As `open`, `write` and `fsync` report them; [`io::ErrorKind::AlreadyExists`] if the name is
    /// taken. There is no such file after any other.
    pub async fn create_zeroed(&self, path: &Path, length: u64) -> io::Result<()> {
        self.plain_task(FileTask::CreateZeroed { path: path.to_owned(), length }).await
    }

    /// The room on the file system that `path`, which exists, lies on.
    ///
    /// # Errors
    /// As `statvfs` reports them.
    pub async fn free_space(&self, path: &Path) -> io::Result<FileSystemSpace> {
        match self.file_task(FileTask::FreeSpace { path: path.to_owned() }).await? {
            FileTaskDone::Space(space) => Ok(space),
            other => unexpected(&other),
        }
    }

    /// Locks a file, which is created if it is missing, until the answer's last clone is dropped or the
    /// process has ended.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] if somebody has it, which the text says; otherwise as `open`
    /// and `flock` report them.
    pub async fn lock_file(&self, path: &Path) -> io::Result<FileLock> {
        match self.file_task(FileTask::Lock { path: path.to_owned() }).await? {
            FileTaskDone::Locked(lock) => Ok(lock),
            other => unexpected(&other),
        }
    }

    async fn plain_task(&self, task: FileTask) -> io::Result<()> {
        match self.file_task(task).await? {
            FileTaskDone::Done => Ok(()),
            other => unexpected(&other),
        }
    }

    async fn file_task(&self, task: FileTask) -> io::Result<FileTaskDone> {
        match self.file_op(|op| Command::FileTask { op, task }).await {
            FileOpDone::Task(result) => result,
            FileOpDone::Bytes(..) => unreachable!("a task was asked for"),
        }
    }
}

fn unexpected(done: &FileTaskDone) -> ! {
    unreachable!("a driver answers what it was asked, and not {done:?}")
}

/// The file operations that futures wait for.
#[derive(Default)]
pub(super) struct FileOps(RefCell<SlotMap<FileOpKey, FileOp>>);

#[derive(Default)]
struct FileOp {
    waker: Option<Waker>,
    done: Option<FileOpDone>,
}

/// How a file operation ended.
pub(crate) enum FileOpDone {
    /// A read, a write or a sync.
    Bytes(FileBuffer, io::Result<usize>),
    Task(io::Result<FileTaskDone>),
}

/// What the engine does with it.
impl Local {
    /// True while a future waits for this file operation.
    pub(crate) fn awaits_file_op(&self, op: FileOpKey) -> bool {
        self.0.file_ops.0.borrow().contains_key(op)
    }

    /// True while any future waits for a file operation.
    pub(crate) fn awaits_files(&self) -> bool {
        !self.0.file_ops.0.borrow().is_empty()
    }

    /// A file operation has ended.
    pub(crate) fn complete_file_op(&self, op: FileOpId, done: FileOpDone) {
        let key: FileOpKey = KeyData::from_ffi(op.0).into();
        let mut ops = self.0.file_ops.0.borrow_mut();
        let Some(op) = ops.get_mut(key) else {
            drop(ops);
            return self.forget_file_op(done);
        };
        op.done = Some(done);
        if let Some(waker) = op.waker.take() {
            waker.wake();
        }
    }

    /// Nobody waits for it any more: what it has opened is closed. A lock ends by being dropped.
    fn forget_file_op(&self, done: FileOpDone) {
        if let FileOpDone::Task(Ok(FileTaskDone::Opened(file))) = done {
            self.close_file(file);
        }
    }

    async fn bytes_op(
        &self,
        command: impl FnOnce(FileOpKey) -> Command,
    ) -> (FileBuffer, io::Result<usize>) {
        match self.file_op(command).await {
            FileOpDone::Bytes(buffer, result) => (buffer, result),
            FileOpDone::Task(_) => unreachable!("bytes were to be moved, or synced"),
        }
    }

    async fn file_op(&self, command: impl FnOnce(FileOpKey) -> Command) -> FileOpDone {
        let key = self.0.file_ops.0.borrow_mut().insert(FileOp::default());
        let _forget = Forget { local: self, key };
        self.push(command(key));
        std::future::poll_fn(|context| {
            let mut ops = self.0.file_ops.0.borrow_mut();
            let op = ops.get_mut(key).expect("removed by this future alone");
            match op.done.take() {
                Some(done) => Poll::Ready(done),
                None => {
                    op.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Ends the wait of a future for its operation, whether it had its answer or was dropped.
struct Forget<'a> {
    local: &'a Local,
    key: FileOpKey,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let op = self.local.0.file_ops.0.borrow_mut().remove(self.key);
        if let Some(done) = op.and_then(|op| op.done) {
            self.local.forget_file_op(done);
        }
    }
}
