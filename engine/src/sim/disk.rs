//! The disk of one host: files that survive crashes, as far as they were synced.
//!
//! ```text
//! write ─► in flight ─► completed: seen by reads ─► sync ─► durable
//! ```
//!
//! A sync makes durable exactly what had completed when it was issued. When the power fails, each
//! write that is not durable is kept, lost or torn on its own, so later writes may survive earlier
//! ones; and a length that was reserved is there or not. When only the process is killed, the page
//! cache lives on, and just what was in flight is uncertain. The sync of a file does nothing for its
//! name: see `names`.

mod file;
mod names;
mod tasks;

use super::config::DiskConfig;
use super::event_log::{EventKind, Hash, Place};
use super::fault::{Crash, DiskOp};
use super::host::{HostId, Notice, ShardAt};
use super::image::{Fate, Image, draw_fate};
use super::stage::{Event, Stage};
use crate::driver::{FileBuffer, FileId, FileOpId};
use crate::limits::DIRECT_IO_ALIGN_BYTES;
use crate::rng::Rng;
use crate::time::Instant;
use file::{File, What};
use names::{Names, Node, View};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Weak;
use tasks::Started;

/// See the module page.
#[derive(Debug)]
pub(super) struct Disk {
    host: HostId,
    config: DiskConfig,
    rng: Rng,
    /// By index, which is never used again. What nothing leads to any more is empty.
    files: Vec<File>,
    names: Names,
    /// Who has locked a file, as long as the lock lives.
    locks: BTreeMap<usize, Weak<()>>,
    handles: BTreeMap<(ShardAt, FileId), Handle>,
    handles_begun: u32,
    operations: BTreeMap<u64, Operation>,
    tasks: BTreeMap<u64, Started>,
    /// Operations and tasks.
    operations_begun: u64,
    slow_until: Instant,
    slow_factor: u32,
    full_until: Instant,
    failures: BTreeMap<DiskOp, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    file: usize,
    direct: bool,
    in_flight: u32,
    closing: bool,
}

#[derive(Debug)]
struct Operation {
    at: ShardAt,
    handle: FileId,
    file: usize,
    direct: bool,
    op: FileOpId,
    work: Work,
    buffer: FileBuffer,
}

/// What a file operation does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Read {
        offset: u64,
    },
    Write {
        offset: u64,
    },
    /// Covers the writes completed up to a number; known when it is issued.
    Sync {
        up_to: u64,
    },
}

impl Disk {
    pub fn new(host: HostId, config: DiskConfig, rng: Rng) -> Self {
        Disk {
            host,
            config,
            rng,
            files: Vec::new(),
            names: Names::default(),
            locks: BTreeMap::new(),
            handles: BTreeMap::new(),
            handles_begun: 0,
            operations: BTreeMap::new(),
            tasks: BTreeMap::new(),
            operations_begun: 0,
            slow_until: Instant::ZERO,
            slow_factor: 1,
            full_until: Instant::ZERO,
            failures: BTreeMap::new(),
        }
    }

    /// Starts a file operation.
    pub fn submit(
        &mut self,
        stage: &mut Stage,
        at: ShardAt,
        file: FileId,
        mut work: Work,
        buffer: FileBuffer,
        op: FileOpId,
    ) {
        let handle = self.handle(at, file);
        handle.in_flight += 1;
        let Handle { file: index, direct, .. } = *handle;
        let latency = match &mut work {
            Work::Read { .. } => self.config.read_latency,
            Work::Write { .. } => self.config.write_latency,
            Work::Sync { up_to } => {
                *up_to = self.files[index].changes_completed();
                self.config.sync_latency
            }
        };
        let latency = latency.draw(&mut self.rng) * self.slowness(stage);
        let key = self.next_key();
        let operation = Operation { at, handle: file, file: index, direct, op, work, buffer };
        self.operations.insert(key, operation);
        stage.after(latency, Event::DiskDone(self.host, key));
    }

    pub fn close_file(&mut self, at: ShardAt, file: FileId) {
        let handle = self.handle(at, file);
        handle.closing = true;
        if handle.in_flight == 0 {
            self.handles.remove(&(at, file));
            self.forget_files();
        }
    }

    /// A file operation has ended, unless its process ended first.
    pub fn on_done(&mut self, stage: &mut Stage, key: u64) {
        let Some(mut operation) = self.operations.remove(&key) else {
            return self.on_task_done(stage, key);
        };
        let id = (operation.at, operation.handle);
        let handle = self.handles.get_mut(&id).expect("a handle outlives its operations");
        handle.in_flight -= 1;
        let is_last = handle.closing && handle.in_flight == 0;
        let result = self.carry_out(stage, &mut operation);
        if is_last {
            self.handles.remove(&id);
            self.forget_files();
        }
        let kind = match (result, operation.work) {
            (Err(Errno::NOSPC), _) => EventKind::DiskWasFull,
            (Err(_), _) => EventKind::FileFailed,
            (Ok(_), Work::Read { .. }) => EventKind::Read,
            (Ok(_), Work::Write { .. }) => EventKind::Written,
            (Ok(_), Work::Sync { .. }) => EventKind::Synced,
        };
        let facts = [
            ("file", operation.file as u64),
            ("offset", operation.work.offset()),
            ("bytes", result.unwrap_or(0) as u64),
            ("digest", Hash::of(operation.buffer.bytes())),
        ];
        stage.record_at(operation.at, kind, &facts);
        let Operation { at, op, buffer, .. } = operation;
        stage.notify(at, Notice::File { op, buffer, result });
    }

    /// What a crash leaves of the files.
    pub fn crash(&mut self, stage: &mut Stage, how: Crash) {
        self.handles.clear();
        self.locks.clear();
        for operation in std::mem::take(&mut self.operations).into_values() {
            let Work::Write { offset } = operation.work else { continue };
            let (index, bytes) = (operation.file, operation.buffer.bytes());
            let write = What::Write { offset, bytes: bytes.to_vec() };
            match how {
                // The page cache lives on: just how far this write got is uncertain.
                Crash::Kill => {
                    for piece in self.survivors(stage, index, write) {
                        self.files[index].complete(piece);
                    }
                }
                // It is no worse off than the writes that had completed.
                Crash::PowerLoss => self.files[index].complete(write),
            }
        }
        self.crash_tasks(stage);
        if how == Crash::PowerLoss {
            (0..self.files.len()).for_each(|index| self.lose_power(stage, index));
            let drawn = self.names.lose_power(&mut self.rng);
            self.record_names(stage, &drawn);
        }
        self.forget_files();
    }

    /// All operations of a kind fail, so many times.
    pub fn fail(&mut self, op: DiskOp, times: u32) {
        *self.failures.entry(op).or_default() += times;
    }

    /// Everything takes `factor` times as long until an instant.
    pub fn slow(&mut self, factor: u32, until: Instant) {
        (self.slow_factor, self.slow_until) = (factor, until);
    }

    /// Nothing finds room until an instant.
    pub fn fill(&mut self, until: Instant) {
        self.full_until = until;
    }

    /// The disk is in order again.
    pub fn heal(&mut self) {
        (self.slow_until, self.full_until) = (Instant::ZERO, Instant::ZERO);
        self.failures.clear();
    }

    /// Two machines change their disks, `new` being one that nobody has used.
    pub fn change_places(&mut self, new: &mut Disk) {
        assert!(new.operations_begun == 0, "the disk of {} was used", new.host);
        std::mem::swap(self, new);
        std::mem::swap(&mut self.host, &mut new.host);
        // What was under way in the machine that is down is still reported to it, and must find nothing.
        self.operations_begun = new.operations_begun;
    }

    /// What a file holds, as reads see it.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let Ok(Node::File(file)) = self.names.find(View::Seen, path) else { return None };
        Some(bytes_of(&self.files[file].cached))
    }

    /// What a power failure would leave of a file at least, where its name is durable, too.
    pub fn durable_contents(&self, path: &Path) -> Option<Vec<u8>> {
        let Ok(Node::File(file)) = self.names.find(View::Durable, path) else { return None };
        Some(bytes_of(&self.files[file].durable))
    }

    /// Does the work of an operation, all at the moment when it ends.
    fn carry_out(&mut self, stage: &mut Stage, operation: &mut Operation) -> Result<usize, Errno> {
        let Operation { file: index, direct, work, ref mut buffer, .. } = *operation;
        let align = DIRECT_IO_ALIGN_BYTES as u64;
        let bytes = buffer.bytes().len();
        if direct && !(work.offset().is_multiple_of(align) && (bytes as u64).is_multiple_of(align))
        {
            return Err(Errno::INVAL);
        }
        let failing = self.is_failing(work);
        match work {
            Work::Read { .. } if failing => Err(Errno::IO),
            Work::Read { offset } => Ok(self.files[index].cached.read(offset, buffer.bytes_mut())),
            Work::Write { offset } => {
                let growth = self.files[index].cached.growth_bytes(offset, bytes);
                let full = !self.has_room(stage, growth);
                if full || failing {
                    // Some of it may be there nevertheless.
                    let (_, kept) = draw_fate(offset, bytes, &mut self.rng);
                    for range in kept {
                        let at = offset + range.start as u64;
                        self.files[index].write(at, buffer.bytes()[range].to_vec());
                    }
                    return Err(if full { Errno::NOSPC } else { Errno::IO });
                }
                self.files[index].write(offset, buffer.bytes().to_vec());
                Ok(bytes)
            }
            Work::Sync { up_to } if failing => {
                // Kernels mark the pages of a failed sync clean: reads see them, and no later sync
                // brings them to the disk. What was not written by then never will be.
                self.lose_unsynced(stage, index, up_to);
                Err(Errno::IO)
            }
            Work::Sync { up_to } => {
                self.files[index].sync(up_to);
                Ok(0)
            }
        }
    }

    fn lose_power(&mut self, stage: &mut Stage, index: usize) {
        self.lose_unsynced(stage, index, u64::MAX);
        let file = &mut self.files[index];
        file.cached = file.durable.clone();
    }

    /// Of the changes up to a number some get to the disk, and no later sync knows of the others.
    fn lose_unsynced(&mut self, stage: &mut Stage, index: usize, up_to: u64) {
        for change in self.files[index].take_unsynced(up_to) {
            for piece in self.survivors(stage, index, change.what) {
                piece.apply(&mut self.files[index].durable);
            }
        }
    }

    /// Draws what is left of a change that is not durable.
    fn survivors(&mut self, stage: &mut Stage, index: usize, what: What) -> Vec<What> {
        let (offset, bytes) = what.range();
        let left = what.survivors(&mut self.rng);
        let kind = match left.fate {
            Fate::Kept => EventKind::WriteKept,
            Fate::Lost => EventKind::WriteLost,
            Fate::Torn => EventKind::WriteTorn,
        };
        let facts =
            [("file", index as u64), ("offset", offset), ("bytes", bytes), ("left", left.bytes)];
        stage.record(Place::Host(self.host), kind, &facts);
        left.pieces
    }

    /// Notes which changes of names survived.
    fn record_names(&self, stage: &mut Stage, drawn: &[(String, bool)]) {
        for (change, is_kept) in drawn {
            let kind = if *is_kept { EventKind::NameKept } else { EventKind::NameLost };
            stage.record_about(Place::Host(self.host), kind, change);
        }
    }

    /// Empties the files that no name, no handle and no operation leads to.
    fn forget_files(&mut self) {
        let mut kept: BTreeSet<usize> = self.names.files().collect();
        kept.extend(self.handles.values().map(|handle| handle.file));
        for (index, file) in self.files.iter_mut().enumerate() {
            if !kept.contains(&index) && !file.is_empty() {
                *file = File::default();
            }
        }
    }

    /// True if there is room for so many bytes more. What takes none always has it.
    fn has_room(&self, stage: &Stage, bytes: u64) -> bool {
        bytes == 0 || bytes <= self.available_bytes(stage)
    }

    fn available_bytes(&self, stage: &Stage) -> u64 {
        if stage.now() < self.full_until {
            return 0;
        }
        let mut files: BTreeSet<usize> = self.names.seen_files().collect();
        files.extend(self.handles.values().map(|handle| handle.file));
        let allocated = files.into_iter().map(|file| self.files[file].cached.allocated_bytes());
        self.config.capacity_bytes.saturating_sub(allocated.sum())
    }

    /// How many times as long everything takes.
    fn slowness(&self, stage: &Stage) -> u32 {
        if stage.now() < self.slow_until { self.slow_factor } else { 1 }
    }

    fn next_key(&mut self) -> u64 {
        self.operations_begun += 1;
        self.operations_begun
    }

    fn is_failing(&mut self, work: Work) -> bool {
        let op = match work {
            Work::Read { .. } => DiskOp::Read,
            Work::Write { .. } => DiskOp::Write,
            Work::Sync { .. } => DiskOp::Sync,
        };
        self.takes_failure(op)
    }

    /// True if an operation of a kind is to fail, which counts as one of those that are to.
    fn takes_failure(&mut self, op: DiskOp) -> bool {
        let Some(times) = self.failures.get_mut(&op).filter(|times| **times > 0) else {
            return false;
        };
        *times -= 1;
        true
    }

    fn handle(&mut self, at: ShardAt, file: FileId) -> &mut Handle {
        let handle = self.handles.get_mut(&(at, file)).filter(|handle| !handle.closing);
        handle.unwrap_or_else(|| panic!("shard {at} used {file:?}, which is void or was closed"))
    }
}

fn bytes_of(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; image.length() as usize];
    image.read(0, &mut bytes);
    bytes
}

impl Work {
    /// A sync that is about to be issued.
    pub const SYNC: Work = Work::Sync { up_to: 0 };

    fn offset(self) -> u64 {
        match self {
            Work::Read { offset } | Work::Write { offset } => offset,
            Work::Sync { .. } => 0,
        }
    }
}
