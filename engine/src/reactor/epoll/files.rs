//! Reading, writing and syncing: epoll knows nothing of files, so a helper thread does them.
//!
//! The helper starts with the first operation and ends with the driver. What it has done it tells by
//! counting an eventfd up, which the shard's epoll set watches.

use crate::driver::{FileBuffer, FileId, FileOpId};
use crate::limits::DIRECT_IO_ALIGN_BYTES;
use crate::reactor::direct_io;
use crate::reactor::helper::{Helper, Share};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The open files of a shard and their helper thread.
#[derive(Default)]
pub(super) struct Files {
    open: BTreeMap<FileId, Arc<OpenedFile>>,
    /// Counts the files ever opened: an id is never given again.
    opened: u32,
    helper: Option<Helper<Job, Done>>,
    /// Fetched from the helper, not yet reported.
    done: VecDeque<Done>,
}

struct OpenedFile {
    file: File,
    /// Goes past the page cache; the helper finds out where it cannot.
    direct: AtomicBool,
}

struct Job {
    op: FileOpId,
    /// Keeps the file open until its last operation has ended.
    file: Arc<OpenedFile>,
    action: Action,
}

pub(super) enum Action {
    Read { offset: u64, buffer: FileBuffer },
    Write { offset: u64, buffer: FileBuffer },
    Sync,
}

/// An operation that has ended; see [`crate::driver::Completion::File`].
pub(super) struct Done {
    pub op: FileOpId,
    pub buffer: FileBuffer,
    pub result: io::Result<usize>,
}

/// An eventfd that a helper counts up for each job done. It is never read: each write is an edge.
#[derive(Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub fn new() -> Result<Self, Errno> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell(Arc::new(counter)))
    }

    pub fn ring(&self) {
        // Fails only on an overflow, when the counter is far from 0 and the shard will wake anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Files {
    /// Takes a file in that was opened.
    pub fn adopt(&mut self, descriptor: OwnedFd, direct: bool) -> FileId {
        self.opened =
            self.opened.checked_add(1).expect("fewer than 2^32 files in the life of a shard");
        let id = FileId(self.opened);
        let file = OpenedFile { file: descriptor.into(), direct: AtomicBool::new(direct) };
        self.open.insert(id, Arc::new(file));
        id
    }

    /// Hands an operation to the helper, who rings when it is done. If there can be none, it fails at once.
    ///
    /// # Panics
    /// If the file is not open: somebody uses an id after its end.
    pub fn submit(&mut self, file: FileId, op: FileOpId, action: Action, bell: &Bell) {
        let Some(file) = self.open.get(&file).cloned() else { void(file) };
        if self.helper.is_none() {
            let its = bell.clone();
            match Helper::start(
                "catena-files",
                Share::Equal,
                |job: Job, _: &_| job.perform(),
                move || its.ring(),
            ) {
                Ok(helper) => self.helper = Some(helper),
                Err(error) => {
                    let buffer = action.into_buffer();
                    self.done.push_back(Done { op, buffer, result: Err(error) });
                    return bell.ring();
                }
            }
        }
        let helper = self.helper.as_ref().expect("it was started");
        helper.submit(Job { op, file, action });
    }

    /// Forgets the file; jobs under way hold it open until they have ended.
    ///
    /// # Panics
    /// As [`Files::submit`].
    pub fn close(&mut self, file: FileId) {
        let Some(_) = self.open.remove(&file) else { void(file) };
    }

    /// The next operation that has ended.
    pub fn next_done(&mut self) -> Option<Done> {
        if self.done.is_empty()
            && let Some(helper) = &self.helper
        {
            helper.take_done(&mut self.done);
        }
        self.done.pop_front()
    }
}

fn void(file: FileId) -> ! {
    panic!("{file:?} is used, which is void or was closed")
}

impl Job {
    fn perform(self) -> Done {
        let (buffer, result) = self.action.perform(&self.file);
        Done { op: self.op, buffer, result }
    }
}

impl Action {
    fn into_buffer(self) -> FileBuffer {
        match self {
            Action::Read { buffer, .. } | Action::Write { buffer, .. } => buffer,
            Action::Sync => FileBuffer::default(),
        }
    }

    fn perform(self, file: &OpenedFile) -> (FileBuffer, io::Result<usize>) {
        match self {
            Action::Read { offset, mut buffer } => {
                let length = buffer.bytes().len();
                let result = file.perform(offset, length, |direct| {
                    read_all(&file.file, direct, offset, buffer.bytes_mut())
                });
                (buffer, result)
            }
            Action::Write { offset, buffer } => {
                let length = buffer.bytes().len();
                let result = file.perform(offset, length, |direct| {
                    write_all(&file.file, direct, offset, buffer.bytes())
                });
                (buffer, result)
            }
            Action::Sync => (FileBuffer::default(), file.file.sync_data().map(|()| 0)),
        }
    }
}

impl OpenedFile {
    /// Does `work`, which is told whether it goes past the page cache; once more and through it, where
    /// the file system turns out to refuse that.
    fn perform(
        &self,
        offset: u64,
        length: usize,
        mut work: impl FnMut(bool) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let direct = self.direct.load(Ordering::Relaxed);
        let result = work(direct);
        let error = result.as_ref().err().and_then(Errno::from_io_error);
        let is_refused = |error| direct && direct_io::is_refused(error, offset, length);
        if error.is_some_and(is_refused) && direct_io::give_up(&self.file) {
            self.direct.store(false, Ordering::Relaxed);
            return work(false);
        }
        result
    }
}

/// Reads until `memory` is full or the file ends.
fn read_all(file: &File, direct: bool, offset: u64, memory: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < memory.len() {
        match file.read_at(&mut memory[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Direct I/O takes whole blocks, so only the end of the file cuts one.
        if direct && filled % DIRECT_IO_ALIGN_BYTES != 0 {
            break;
        }
    }
    Ok(filled)
}

/// Writes all of `memory`.
fn write_all(file: &File, direct: bool, offset: u64, memory: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < memory.len() {
        match file.write_at(&memory[written..], offset + written as u64) {
            Ok(0) => return Err(Errno::NOSPC.into()),
            Ok(length) if direct && written + length < memory.len() => {
                // Resume at a whole block; the same bytes once more do no harm.
                let whole = (written + length) / DIRECT_IO_ALIGN_BYTES * DIRECT_IO_ALIGN_BYTES;
                if whole == written {
                    return Err(Errno::NOSPC.into());
                }
                written = whole;
            }
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_ends_with_its_files() {
        let mut files = Files::default();
        let bell = Bell::new().expect("a descriptor is left");
        let null = File::options().read(true).write(true).open("/dev/null");
        let file = files.adopt(null.expect("every Linux has it").into(), false);
        for op in 0..100 {
            let buffer = FileBuffer::zeroed(1_000);
            files.submit(file, FileOpId(op), Action::Write { offset: 0, buffer }, &bell);
            files.submit(file, FileOpId(op), Action::Sync, &bell);
        }
        assert_eq!(Arc::strong_count(&bell.0), 2, "one helper");
        drop(files);
        assert_eq!(Arc::strong_count(&bell.0), 1, "the helper still runs");
    }

    /// A file system that takes the flag and refuses the operation.
    #[test]
    fn what_cannot_go_past_the_page_cache_goes_through_it() {
        let file = || {
            let file = File::open("/dev/null").expect("every Linux has it");
            OpenedFile { file, direct: AtomicBool::new(true) }
        };
        let block = DIRECT_IO_ALIGN_BYTES;
        let refusing = |direct| if direct { Err(Errno::INVAL.into()) } else { Ok(block) };
        let kept = file();
        assert_eq!(kept.perform(0, block, refusing).expect("the second try"), block);
        assert!(!kept.direct.load(Ordering::Relaxed), "not tried again");
        let broken = file();
        assert!(broken.perform(1, block, refusing).is_err(), "the caller's own fault is told");
        assert!(broken.direct.load(Ordering::Relaxed));
    }
}
