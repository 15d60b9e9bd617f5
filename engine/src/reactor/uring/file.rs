//! Files: read, written and synced through the ring; whatever else is done with them by a helper, which
//! wakes the ring through the parker.

use super::UringDriver;
use super::op::{Op, SLOTS_MAX, Tag};
use crate::driver::{Completion, FileBuffer, FileId, FileOpId};
use crate::limits::DIRECT_IO_ALIGN_BYTES;
use crate::reactor::direct_io;
use crate::sys::in_flight::Landed;
use crate::sys::ring::{Brings, Reaped};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Files and the operations on them that are in flight.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Open, or closing.
    files: BTreeMap<FileId, File>,
    /// Counts the files ever opened: an id is never given again.
    opened: u32,
    ops: Vec<FileOp>,
    vacant_ops: Vec<u32>,
}

#[derive(Debug)]
struct File {
    descriptor: OwnedFd,
    /// Bypasses the page cache.
    direct: bool,
    closing: bool,
    in_flight: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Sync,
}

#[derive(Clone, Copy, Debug)]
struct FileOp {
    file: FileId,
    id: FileOpId,
    kind: Kind,
    /// Where in the file the buffer begins, and how much of it is done.
    offset: u64,
    done: usize,
    length: usize,
    /// It was submitted past the page cache.
    direct: bool,
}

impl Files {
    /// Takes a file in that was opened.
    fn adopt(&mut self, descriptor: OwnedFd, direct: bool) -> FileId {
        self.opened =
            self.opened.checked_add(1).expect("fewer than 2^32 files in the life of a shard");
        let id = FileId(self.opened);
        self.files.insert(id, File { descriptor, direct, closing: false, in_flight: 0 });
        id
    }

    /// Notes a new operation; answers its slot.
    fn begin(&mut self, file: FileId, id: FileOpId, kind: Kind, offset: u64, length: usize) -> u32 {
        let entry = self.open(file);
        entry.in_flight += 1;
        let op = FileOp { file, id, kind, offset, done: 0, length, direct: entry.direct };
        if let Some(slot) = self.vacant_ops.pop() {
            self.ops[slot as usize] = op;
            return slot;
        }
        assert!(self.ops.len() < SLOTS_MAX as usize, "fewer than 2^24 file operations at a time");
        self.ops.push(op);
        self.ops.len() as u32 - 1
    }

    fn end(&mut self, slot: u32) -> FileOp {
        let op = self.ops[slot as usize];
        self.vacant_ops.push(slot);
        let file = self.files.get_mut(&op.file).expect("a file outlives its operations");
        file.in_flight -= 1;
        if file.closing && file.in_flight == 0 {
            self.files.remove(&op.file);
        }
        op
    }

    /// A file that is open.
    ///
    /// # Panics
    /// If it is not: somebody uses an id after its end.
    fn open(&mut self, file: FileId) -> &mut File {
        let entry = self.files.get_mut(&file).filter(|file| !file.closing);
        entry.unwrap_or_else(|| panic!("{file:?} is used, which is void or was closed"))
    }

    /// The descriptor of a file with operations in flight.
    fn descriptor(&self, file: FileId) -> &OwnedFd {
        &self.files.get(&file).expect("a file outlives its operations").descriptor
    }
}

impl UringDriver {
    /// A file task that has ended, of which there is one.
    pub(super) fn next_task_done(&mut self) -> Option<Completion> {
        let done = self.file_tasks.next_done()?;
        Some(done.into_completion(|descriptor, direct| self.files.adopt(descriptor, direct)))
    }

    pub(super) fn read_file(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: FileBuffer,
        id: FileOpId,
    ) {
        let slot = self.files.begin(file, id, Kind::Read, offset, buffer.bytes().len());
        let user_data = Op::new(Tag::File, slot, 0).encode();
        self.ring.read(self.files.descriptor(file).as_fd(), offset, buffer, user_data);
    }

    pub(super) fn write_file(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: FileBuffer,
        id: FileOpId,
    ) {
        let slot = self.files.begin(file, id, Kind::Write, offset, buffer.bytes().len());
        let user_data = Op::new(Tag::File, slot, 0).encode();
        self.ring.write(self.files.descriptor(file).as_fd(), offset, buffer, user_data);
    }

    pub(super) fn sync_file(&mut self, file: FileId, id: FileOpId) {
        let slot = self.files.begin(file, id, Kind::Sync, 0, 0);
        let user_data = Op::new(Tag::File, slot, 0).encode();
        self.ring.sync(self.files.descriptor(file).as_fd(), user_data);
    }

    pub(super) fn end_file(&mut self, file: FileId) {
        let entry = self.files.open(file);
        entry.closing = true;
        if entry.in_flight == 0 {
            self.files.files.remove(&file);
        }
    }

    pub(super) fn on_file(&mut self, op: Op, reaped: Reaped) -> Option<Completion> {
        let Brings::Memory(landed) = reaped.brings else {
            let result = match usize::try_from(reaped.result) {
                Ok(_) => Ok(0),
                Err(_) => Err(io::Error::from_raw_os_error(-reaped.result)),
            };
            let id = self.files.end(op.slot).id;
            return Some(Completion::File { op: id, buffer: FileBuffer::default(), result });
        };
        let result = match self.progress(op.slot, reaped.result) {
            Progress::Again => {
                self.go_on(op, landed);
                return None;
            }
            Progress::Done(result) => result,
        };
        let buffer = self.ring.take_file_buffer(landed);
        let id = self.files.end(op.slot).id;
        Some(Completion::File { op: id, buffer, result })
    }

    /// Counts what was read or written, and decides whether that was all.
    fn progress(&mut self, slot: u32, result: i32) -> Progress {
        let op = &mut self.files.ops[slot as usize];
        let file = self.files.files.get_mut(&op.file).expect("a file outlives its operations");
        let Ok(moved) = usize::try_from(result) else {
            return match -result {
                libc::EINTR | libc::EAGAIN => Progress::Again,
                // Some file systems take the flag and refuse the operation.
                error
                    if op.direct
                        && op.is_refused(error)
                        && direct_io::give_up(&file.descriptor) =>
                {
                    (op.direct, file.direct) = (false, false);
                    Progress::Again
                }
                error => Progress::Done(Err(io::Error::from_raw_os_error(error))),
            };
        };
        let before = op.done;
        op.done += moved;
        if op.done == op.length {
            return Progress::Done(Ok(op.done));
        }
        let odd = if op.direct { op.done % DIRECT_IO_ALIGN_BYTES } else { 0 };
        match op.kind {
            // A direct read that ends off the alignment has met the end of the file.
            Kind::Read if moved == 0 || odd != 0 => Progress::Done(Ok(op.done)),
            Kind::Read => Progress::Again,
            Kind::Write | Kind::Sync => {
                // A direct write goes on from the alignment, some of it a second time.
                op.done -= odd;
                if op.done > before {
                    Progress::Again
                } else {
                    Progress::Done(Err(io::ErrorKind::WriteZero.into()))
                }
            }
        }
    }

    fn go_on(&mut self, op: Op, landed: Landed) {
        let FileOp { file, kind, offset, done, .. } = self.files.ops[op.slot as usize];
        let descriptor = self.files.descriptor(file).as_fd();
        let offset = offset + done as u64;
        match kind {
            Kind::Read => self.ring.read_rest(descriptor, offset, landed, done),
            Kind::Write => self.ring.write_rest(descriptor, offset, landed, done),
            Kind::Sync => unreachable!("a sync has no memory"),
        }
    }
}

impl FileOp {
    fn is_refused(&self, error: i32) -> bool {
        direct_io::is_refused(Errno::from_raw_os_error(error), self.offset, self.length)
    }
}

enum Progress {
    /// There is more to do.
    Again,
    Done(io::Result<usize>),
}
