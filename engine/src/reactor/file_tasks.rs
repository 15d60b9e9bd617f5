//! The rare operations on files, for both drivers: a helper thread does them by plain system calls.
//!
//! One thread for each shard that has ever asked for such a thing. With one for all of them, filling a
//! log segment for one shard, which takes tenths of a second, would hold up the rename that publishes
//! another's checkpoint; and it would have to be counted who still needs it. A thread that waits costs
//! the mapping of a stack. It is not the thread that reads, writes and syncs under epoll either: those
//! are on the path of requests.

use super::direct_io;
use super::helper::{Ending, Helper, Share};
use crate::driver::{
    Completion, DirectoryEntry, EntryKind, FileId, FileLock, FileOpId, FileSystemSpace, FileTask,
    FileTaskDone,
};
use crate::limits::{FILL_SYNC_BYTES, FILL_WRITE_BYTES};
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::{self, File, FileType};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The tasks of one shard.
#[derive(Default)]
pub(super) struct FileTasks {
    helper: Option<Helper<Job, Done>>,
    /// Fetched from the helper, not yet reported.
    done: VecDeque<Done>,
    in_flight: u32,
}

struct Job {
    op: FileOpId,
    task: FileTask,
}

/// A task that has ended.
pub(super) struct Done {
    op: FileOpId,
    result: io::Result<Outcome>,
}

/// The answer to a task, before the driver has given an opened file its id.
enum Outcome {
    /// The flag says whether it goes past the page cache.
    Opened(OwnedFd, bool),
    Other(FileTaskDone),
}

impl Done {
    /// What the shard is told; `adopt` takes an opened file in, and whether it bypasses the page cache.
    pub fn into_completion(self, adopt: impl FnOnce(OwnedFd, bool) -> FileId) -> Completion {
        let result = self.result.map(|outcome| match outcome {
            Outcome::Opened(descriptor, direct) => FileTaskDone::Opened(adopt(descriptor, direct)),
            Outcome::Other(done) => done,
        });
        Completion::FileTask { op: self.op, result }
    }
}

impl FileTasks {
    /// Hands a task to the helper, which the first one starts: to call `wake` after each of them. If
    /// there can be no helper, the task has failed when this returns.
    pub fn submit(&mut self, task: FileTask, op: FileOpId, wake: impl Fn() + Send + 'static) {
        self.in_flight += 1;
        if self.helper.is_none() {
            match Helper::start("catena-tasks", Share::Less, Job::perform, wake) {
                Ok(helper) => self.helper = Some(helper),
                Err(error) => {
                    let result = Err(task.explain(&error));
                    return self.done.push_back(Done { op, result });
                }
            }
        }
        let helper = self.helper.as_ref().expect("it was started");
        helper.submit(Job { op, task });
    }

    /// True until all tasks have been reported.
    pub fn are_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// True if [`FileTasks::next_done`] has something. Next to free while no task is in flight.
    pub fn has_done(&self) -> bool {
        self.in_flight > 0
            && (!self.done.is_empty() || self.helper.as_ref().is_some_and(Helper::has_done))
    }

    /// The next task that has ended.
    pub fn next_done(&mut self) -> Option<Done> {
        if !self.has_done() {
            return None;
        }
        if self.done.is_empty()
            && let Some(helper) = &self.helper
        {
            helper.take_done(&mut self.done);
        }
        let done = self.done.pop_front()?;
        self.in_flight -= 1;
        Some(done)
    }
}

impl std::fmt::Debug for FileTasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileTasks").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Job {
    fn perform(self, ending: &Ending) -> Done {
        let result = perform(&self.task, ending);
        Done { op: self.op, result: result.map_err(|error| self.task.explain(&error)) }
    }
}

fn perform(task: &FileTask, ending: &Ending) -> io::Result<Outcome> {
    let done = match task {
        FileTask::Open { path, options } => {
            let (descriptor, direct) = direct_io::open(path, *options)?;
            return Ok(Outcome::Opened(descriptor, direct));
        }
        FileTask::CreateDirectory { path } => without_answer(fs::create_dir_all(path)),
        FileTask::ListDirectory { path } => list(path).map(FileTaskDone::Entries),
        FileTask::Rename { from, to } => without_answer(fs::rename(from, to)),
        FileTask::RemoveFile { path } => without_answer(fs::remove_file(path)),
        FileTask::RemoveDirectory { path } => without_answer(fs::remove_dir(path)),
        FileTask::SyncDirectory { path } => without_answer(sync_directory(path)),
        FileTask::FileLength { path } => length(path).map(FileTaskDone::Length),
        FileTask::Preallocate { path, length } => {
            without_answer(preallocate(path, *length, ending))
        }
        FileTask::CreateZeroed { path, length } => {
            without_answer(create_zeroed(path, *length, ending))
        }
        FileTask::FreeSpace { path } => space(path).map(FileTaskDone::Space),
        FileTask::Lock { path } => lock(path).map(FileTaskDone::Locked),
    };
    done.map(Outcome::Other)
}

fn without_answer(result: io::Result<()>) -> io::Result<FileTaskDone> {
    result.map(|()| FileTaskDone::Done)
}

fn list(path: &Path) -> io::Result<Vec<DirectoryEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since it was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let kind = kind_of(metadata.file_type());
        let length = if kind == EntryKind::File { metadata.len() } else { 0 };
        entries.push(DirectoryEntry { name: entry.file_name(), kind, length });
    }
    entries.sort_unstable();
    Ok(entries)
}

fn kind_of(file_type: FileType) -> EntryKind {
    match file_type {
        is if is.is_file() => EntryKind::File,
        is if is.is_dir() => EntryKind::Directory,
        _ => EntryKind::Other,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let flags = libc::O_DIRECTORY;
    File::options().read(true).custom_flags(flags).open(path)?.sync_all()
}

fn length(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() { Err(Errno::ISDIR.into()) } else { Ok(metadata.len()) }
}

fn preallocate(path: &Path, length: u64, ending: &Ending) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    if reserve(&file, length)? {
        return Ok(());
    }
    // What the C library does for file systems that cannot reserve: take the room by filling it.
    let there = file.metadata()?.len();
    fill(&file, there, length, ending)
}

/// Reserves the first `length` bytes. False: this file system cannot.
fn reserve(file: &File, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn create_zeroed(path: &Path, length: u64, ending: &Ending) -> io::Result<()> {
    let file = File::options().write(true).create_new(true).mode(direct_io::MODE).open(path)?;
    // Reserved first: a full disk shows before anything is written, and the blocks lie together.
    let filled = reserve(&file, length)
        .and_then(|_| fill(&file, 0, length, ending))
        .and_then(|()| file.sync_all());
    if filled.is_err() {
        // Its blocks may be just what somebody else needs. Of two errors the first one matters.
        let _ = fs::remove_file(path);
    }
    filled
}

/// Writes zeros from `start` to `end`, a piece at a time, synced every now and then: what a file system
/// has to write out before it can sync somebody else's file stays small.
fn fill(file: &File, start: u64, end: u64, ending: &Ending) -> io::Result<()> {
    let zeros = vec![0u8; FILL_WRITE_BYTES.min(end.saturating_sub(start)) as usize];
    let (mut at, mut synced_at) = (start, start);
    while at < end {
        if ending.has_begun() {
            return Err(io::Error::other("the shard that asked for it has ended"));
        }
        let length = (end - at).min(FILL_WRITE_BYTES) as usize;
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
        if at - synced_at >= FILL_SYNC_BYTES {
            file.sync_data()?;
            synced_at = at;
        }
    }
    Ok(())
}

fn space(path: &Path) -> io::Result<FileSystemSpace> {
    let told = rustix::fs::statvfs(path)?;
    Ok(FileSystemSpace {
        total_bytes: told.f_blocks.saturating_mul(told.f_frsize),
        available_bytes: told.f_bavail.saturating_mul(told.f_frsize),
    })
}

/// `flock` and not a record lock: it belongs to the opened file, so that it holds against others in this
/// process too, and is not lost when somebody here opens and closes the same file.
fn lock(path: &Path) -> io::Result<FileLock> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(direct_io::MODE)
        .open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(FileLock::new(file)),
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::ResourceBusy.into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    /// A file name of the test's own; the file is gone with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("catena-tasks-{}-{name}", std::process::id());
            Scratch(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn zeros_are_written_and_not_only_promised() {
        let scratch = Scratch::new("zeroed");
        let length = 2 * FILL_WRITE_BYTES + 4_097;
        create_zeroed(&scratch.0, length, &Ending::default()).expect("there is room");
        let bytes = fs::read(&scratch.0).expect("it is there");
        assert!(bytes.len() as u64 == length && bytes.iter().all(|byte| *byte == 0));
        let room = fs::metadata(&scratch.0).expect("it is there").blocks() * 512;
        assert!(room >= length, "{room} bytes of room for {length}");
    }

    #[test]
    fn room_is_reserved_and_not_only_promised() {
        let scratch = Scratch::new("reserved");
        fs::write(&scratch.0, b"kept").expect("the directory is writable");
        preallocate(&scratch.0, 1 << 20, &Ending::default()).expect("there is room");
        let metadata = fs::metadata(&scratch.0).expect("it is there");
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 >= 1 << 20, "{} blocks", metadata.blocks());
        assert!(fs::read(&scratch.0).expect("it is there").starts_with(b"kept\0"));
    }

    #[test]
    fn a_fill_stops_when_its_shard_ends() {
        let scratch = Scratch::new("stopped");
        let mut tasks = FileTasks::default();
        let length = 1 << 40;
        tasks.submit(
            FileTask::CreateZeroed { path: scratch.0.clone(), length },
            FileOpId(1),
            || {},
        );
        // Where no such room can be reserved it has failed already; either way this returns.
        drop(tasks);
        assert!(!scratch.0.exists(), "what was not finished is removed");
    }

    #[test]
    fn room_that_cannot_be_reserved_is_filled() {
        let scratch = Scratch::new("filled");
        fs::write(&scratch.0, b"kept").expect("the directory is writable");
        let file = File::options().write(true).open(&scratch.0).expect("it was written");
        fill(&file, 4, 100_000, &Ending::default()).expect("there is room");
        let bytes = fs::read(&scratch.0).expect("it is there");
        assert!(bytes.len() == 100_000 && bytes.starts_with(b"kept\0"));
    }

    #[test]
    fn every_outcome_is_told_once() {
        let mut tasks = FileTasks::default();
        assert!(!tasks.has_done());
        let (wake, woken) = std::sync::mpsc::channel();
        let path = std::env::temp_dir();
        for op in 0..20 {
            let wake = wake.clone();
            let wake = move || wake.send(()).expect("the test waits for it");
            tasks.submit(FileTask::FreeSpace { path: path.clone() }, FileOpId(op), wake);
        }
        for op in 0..20 {
            woken.recv().expect("the helper wakes");
            assert!(tasks.has_done(), "there is an outcome before the wake");
            let done = tasks.next_done().expect("it was told so");
            assert!(done.op == FileOpId(op) && done.result.is_ok(), "in their order");
        }
        assert!(!tasks.has_done() && tasks.next_done().is_none() && !tasks.are_in_flight());
    }
}
