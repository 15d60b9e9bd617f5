//! File operations: epoll knows nothing of files, so a helper thread does them.
//!
//! The helper starts with the first open and ends with the driver. It works through the jobs in
//! order, puts what it has done aside and counts an eventfd up, which the shard's epoll set watches.
//! The queues keep their memory: in steady state nothing is allocated.

use crate::driver::{FileBuffer, FileId, FileOpId, OpenFile};
use crate::limits::DIRECT_IO_ALIGN_BYTES;
use crate::reactor::direct_io;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// The open files of a shard and their helper thread.
#[derive(Default)]
pub(super) struct Files {
    open: BTreeMap<FileId, Arc<OpenedFile>>,
    /// Counts the files ever opened: an id is never given again.
    opened: u32,
    helper: Option<Helper>,
    /// Fetched from the helper, not yet reported.
    done: VecDeque<Done>,
}

struct OpenedFile {
    file: File,
    /// Goes past the page cache; the helper finds out where it cannot.
    direct: AtomicBool,
}

struct Helper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What shard and helper both see.
struct Shared {
    queue: Mutex<Queue>,
    queue_changed: Condvar,
    done: Mutex<VecDeque<Done>>,
    /// Counted up for each job done; the shard's epoll set watches it.
    done_counter: OwnedFd,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stop: bool,
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

impl Files {
    /// Starts the helper unless it runs. Returns, once, the counter that tells of finished jobs.
    pub fn start(&mut self) -> io::Result<Option<BorrowedFd<'_>>> {
        if self.helper.is_some() {
            return Ok(None);
        }
        let done_counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            queue_changed: Condvar::new(),
            done: Mutex::default(),
            done_counter,
        });
        let its = shared.clone();
        let thread = std::thread::Builder::new()
            .name("catena-files".into())
            .spawn(move || while its.do_next_job() {})?;
        let helper = self.helper.insert(Helper { shared, thread: Some(thread) });
        Ok(Some(helper.shared.done_counter.as_fd()))
    }

    /// Opens a file; on a file system that refuses direct I/O, through the page cache.
    pub fn open(&mut self, path: &Path, options: OpenFile) -> io::Result<FileId> {
        let (descriptor, direct) = direct_io::open(path, options)?;
        self.opened = self.opened.checked_add(1).ok_or(Errno::MFILE)?;
        let id = FileId(self.opened);
        let file = OpenedFile { file: descriptor.into(), direct: AtomicBool::new(direct) };
        self.open.insert(id, Arc::new(file));
        Ok(id)
    }

    /// Hands an operation to the helper.
    ///
    /// # Panics
    /// If the file is not open: somebody uses an id after its end.
    pub fn submit(&mut self, file: FileId, op: FileOpId, action: Action) {
        let Some(file) = self.open.get(&file).cloned() else { void(file) };
        let helper = self.helper.as_ref().expect("the helper starts before the first file opens");
        helper.shared.queue().jobs.push_back(Job { op, file, action });
        helper.shared.queue_changed.notify_one();
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
        if self.done.is_empty() {
            let helper = self.helper.as_ref()?;
            std::mem::swap(&mut self.done, &mut *helper.shared.done());
        }
        self.done.pop_front()
    }
}

fn void(file: FileId) -> ! {
    panic!("{file:?} is used, which is void or was closed")
}

impl Drop for Helper {
    /// The job under way is finished; what was not begun is dropped, as nothing was promised of it.
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.stop = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.queue_changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A helper that panicked has already said so on stderr.
            let _ = thread.join();
        }
    }
}

const NO_PANIC: &str = "neither side panics while it holds the lock";

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect(NO_PANIC)
    }

    fn done(&self) -> MutexGuard<'_, VecDeque<Done>> {
        self.done.lock().expect(NO_PANIC)
    }

    /// The helper's loop body: waits for a job and does it. False: the driver is gone.
    fn do_next_job(&self) -> bool {
        let waiting = |queue: &mut Queue| queue.jobs.is_empty() && !queue.stop;
        let mut queue = self.queue_changed.wait_while(self.queue(), waiting).expect(NO_PANIC);
        let Some(job) = queue.jobs.pop_front() else { return false };
        drop(queue);
        let (buffer, result) = job.action.perform(&job.file);
        self.done().push_back(Done { op: job.op, buffer, result });
        // Fails only on an overflow, when the counter is far from 0 and the shard will wake anyway.
        let _ = rustix::io::write(&self.done_counter, &1u64.to_ne_bytes());
        true
    }
}

impl Action {
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
        let path = std::env::temp_dir().join(format!("catena-files-{}", std::process::id()));
        let mut files = Files::default();
        assert!(files.start().expect("threads are to be had").is_some());
        assert!(files.start().expect("threads are to be had").is_none(), "one helper");
        let options = OpenFile { create: true, direct: false };
        let file = files.open(&path, options).expect("the directory is writable");
        for op in 0..100 {
            let buffer = FileBuffer::zeroed(1_000);
            files.submit(file, FileOpId(op), Action::Write { offset: op * 1_000, buffer });
            files.submit(file, FileOpId(op), Action::Sync);
        }
        let shared = files.helper.as_ref().map(|helper| Arc::downgrade(&helper.shared));
        drop(files);
        let left = shared.expect("it was started").upgrade();
        assert!(left.is_none(), "the helper still runs, or its jobs are still there");
        std::fs::remove_file(&path).expect("it was created");
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
