//! The disk of one host: files that survive crashes, as far as they were synced.
//!
//! ```text
//! write ─► in flight ─► completed: seen by reads ─► sync ─► durable
//! ```
//!
//! A sync makes durable exactly what had completed when it was issued. When the power fails, each
//! write that is not durable is kept, lost or torn on its own, so later writes may survive earlier
//! ones. When only the process is killed, the page cache lives on, and just the writes in flight
//! are uncertain.

use super::config::DiskConfig;
use super::event_log::{EventKind, Hash, Place};
use super::fault::{Crash, DiskOp};
use super::host::{HostId, Notice, ShardAt};
use super::image::{Fate, Image, draw_fate};
use super::stage::{Event, Stage};
use crate::driver::{FileBuffer, FileId, FileOpId, OpenFile};
use crate::limits::DIRECT_IO_ALIGN_BYTES;
use crate::rng::Rng;
use crate::time::Instant;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// See the module page.
#[derive(Debug)]
pub(super) struct Disk {
    host: HostId,
    config: DiskConfig,
    rng: Rng,
    files: Vec<File>,
    handles: BTreeMap<(ShardAt, FileId), Handle>,
    handles_begun: u32,
    operations: BTreeMap<u64, Operation>,
    operations_begun: u64,
    slow_until: Instant,
    slow_factor: u32,
    full_until: Instant,
    failures: BTreeMap<DiskOp, u32>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    exists: bool,
    /// Its name survives a power failure.
    name_durable: bool,
    /// What reads see.
    cached: Image,
    durable: Image,
    /// Completed and not durable, in the order of completion.
    unsynced: Vec<Write>,
    writes_completed: u64,
}

#[derive(Debug)]
struct Write {
    offset: u64,
    bytes: Vec<u8>,
    /// Its number among the completed writes of the file.
    number: u64,
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
            handles: BTreeMap::new(),
            handles_begun: 0,
            operations: BTreeMap::new(),
            operations_begun: 0,
            slow_until: Instant::ZERO,
            slow_factor: 1,
            full_until: Instant::ZERO,
            failures: BTreeMap::new(),
        }
    }

    pub fn open(
        &mut self,
        stage: &mut Stage,
        at: ShardAt,
        path: &Path,
        options: OpenFile,
    ) -> Result<FileId, Errno> {
        let latency = self.config.open_latency.draw(&mut self.rng);
        stage.burn(latency);
        let file = match self.files.iter().position(|file| file.exists && file.path == path) {
            Some(file) => file,
            None if options.create => {
                self.files.push(File::new(path));
                self.files.len() - 1
            }
            None => return Err(Errno::NOENT),
        };
        self.handles_begun += 1;
        let id = FileId(self.handles_begun);
        let handle = Handle { file, direct: options.direct, in_flight: 0, closing: false };
        self.handles.insert((at, id), handle);
        stage.record_at(at, EventKind::FileOpened, &[("file", file as u64)]);
        Ok(id)
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
        let handle = self.open_handle(at, file);
        handle.in_flight += 1;
        let Handle { file: index, direct, .. } = *handle;
        let latency = match &mut work {
            Work::Read { .. } => self.config.read_latency,
            Work::Write { .. } => self.config.write_latency,
            Work::Sync { up_to } => {
                *up_to = self.files[index].writes_completed;
                self.config.sync_latency
            }
        };
        let slow = stage.now() < self.slow_until;
        let latency = latency.draw(&mut self.rng) * if slow { self.slow_factor } else { 1 };
        let key = self.operations_begun;
        self.operations_begun += 1;
        let operation = Operation { at, handle: file, file: index, direct, op, work, buffer };
        self.operations.insert(key, operation);
        stage.after(latency, Event::DiskDone(self.host, key));
    }

    pub fn close_file(&mut self, at: ShardAt, file: FileId) {
        let handle = self.open_handle(at, file);
        handle.closing = true;
        if handle.in_flight == 0 {
            self.handles.remove(&(at, file));
        }
    }

    /// A file operation has ended, unless its process ended first.
    pub fn on_done(&mut self, stage: &mut Stage, key: u64) {
        let Some(mut operation) = self.operations.remove(&key) else { return };
        let id = (operation.at, operation.handle);
        let handle = self.handles.get_mut(&id).expect("a handle outlives its operations");
        handle.in_flight -= 1;
        if handle.closing && handle.in_flight == 0 {
            self.handles.remove(&id);
        }
        let result = self.carry_out(stage, &mut operation);
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
        for operation in std::mem::take(&mut self.operations).into_values() {
            let Work::Write { offset } = operation.work else { continue };
            let (index, bytes) = (operation.file, operation.buffer.bytes());
            match how {
                // The page cache lives on: just how far this write got is uncertain.
                Crash::Kill => {
                    for (offset, bytes) in self.survivors(stage, index, offset, bytes) {
                        self.files[index].complete(offset, bytes);
                    }
                }
                // It is no worse off than the writes that had completed.
                Crash::PowerLoss => self.files[index].complete(offset, bytes.to_vec()),
            }
        }
        if how == Crash::PowerLoss {
            (0..self.files.len()).for_each(|index| self.lose_power(stage, index));
        }
    }

    /// All operations of a kind fail, so many times.
    pub fn fail(&mut self, op: DiskOp, times: u32) {
        *self.failures.entry(op).or_default() += times;
    }

    /// Everything takes `factor` times as long until an instant.
    pub fn slow(&mut self, factor: u32, until: Instant) {
        (self.slow_factor, self.slow_until) = (factor, until);
    }

    /// Writes find no room until an instant.
    pub fn fill(&mut self, until: Instant) {
        self.full_until = until;
    }

    /// The disk is in order again.
    pub fn heal(&mut self) {
        (self.slow_until, self.full_until) = (Instant::ZERO, Instant::ZERO);
        self.failures.clear();
    }

    /// What a file holds: what reads see, and what a power failure would leave at least.
    pub fn contents(&self, path: &Path) -> Option<[Vec<u8>; 2]> {
        let file = self.files.iter().find(|file| file.exists && file.path == path)?;
        Some([&file.cached, &file.durable].map(|image| {
            let mut bytes = vec![0; image.length() as usize];
            image.read(0, &mut bytes);
            bytes
        }))
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
                let full = stage.now() < self.full_until || !self.has_room(index, offset, bytes);
                if full || failing {
                    // Some of it may be there nevertheless.
                    let (_, kept) = draw_fate(offset, bytes, &mut self.rng);
                    for range in kept {
                        let at = offset + range.start as u64;
                        self.files[index].complete(at, buffer.bytes()[range].to_vec());
                    }
                    return Err(if full { Errno::NOSPC } else { Errno::IO });
                }
                self.files[index].complete(offset, buffer.bytes().to_vec());
                Ok(bytes)
            }
            Work::Sync { up_to } if failing => {
                // Kernels mark the pages of a failed sync clean: reads see them, and no later sync
                // brings them to the disk. What was not written by then never will be.
                for write in self.files[index].take_unsynced(up_to) {
                    for (offset, bytes) in self.survivors(stage, index, write.offset, &write.bytes)
                    {
                        self.files[index].durable.write(offset, &bytes);
                    }
                }
                Err(Errno::IO)
            }
            Work::Sync { up_to } => {
                self.files[index].sync(up_to);
                Ok(0)
            }
        }
    }

    fn lose_power(&mut self, stage: &mut Stage, index: usize) {
        for write in self.files[index].take_unsynced(u64::MAX) {
            for (offset, bytes) in self.survivors(stage, index, write.offset, &write.bytes) {
                self.files[index].durable.write(offset, &bytes);
            }
        }
        let file = &mut self.files[index];
        file.cached = file.durable.clone();
        if file.exists && !file.name_durable && self.rng.chance(0.5) {
            (file.exists, file.cached, file.durable) = (false, Image::default(), Image::default());
            let facts = [("file", index as u64)];
            stage.record(Place::Host(self.host), EventKind::FileLost, &facts);
        }
        // What a restarted machine finds is on the disk, or it would not be found.
        self.files[index].name_durable = true;
    }

    /// Draws what is left of a write that is not durable.
    fn survivors(
        &mut self,
        stage: &mut Stage,
        index: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Vec<(u64, Vec<u8>)> {
        let (fate, kept) = draw_fate(offset, bytes.len(), &mut self.rng);
        let kind = match fate {
            Fate::Kept => EventKind::WriteKept,
            Fate::Lost => EventKind::WriteLost,
            Fate::Torn => EventKind::WriteTorn,
        };
        let left: usize = kept.iter().map(|range| range.len()).sum();
        let facts = [
            ("file", index as u64),
            ("offset", offset),
            ("bytes", bytes.len() as u64),
            ("left", left as u64),
        ];
        stage.record(Place::Host(self.host), kind, &facts);
        let pieces = kept.into_iter();
        pieces.map(|range| (offset + range.start as u64, bytes[range].to_vec())).collect()
    }

    fn has_room(&self, index: usize, offset: u64, bytes: usize) -> bool {
        let allocated: u64 = self.files.iter().map(|file| file.cached.allocated_bytes()).sum();
        let growth = self.files[index].cached.growth_bytes(offset, bytes);
        allocated + growth <= self.config.capacity_bytes
    }

    fn is_failing(&mut self, work: Work) -> bool {
        let op = match work {
            Work::Read { .. } => DiskOp::Read,
            Work::Write { .. } => DiskOp::Write,
            Work::Sync { .. } => DiskOp::Sync,
        };
        let Some(times) = self.failures.get_mut(&op).filter(|times| **times > 0) else {
            return false;
        };
        *times -= 1;
        true
    }

    fn open_handle(&mut self, at: ShardAt, file: FileId) -> &mut Handle {
        let handle = self.handles.get_mut(&(at, file)).filter(|handle| !handle.closing);
        handle.unwrap_or_else(|| panic!("shard {at} used {file:?}, which is void or was closed"))
    }
}

impl File {
    fn new(path: &Path) -> Self {
        File {
            path: path.to_path_buf(),
            exists: true,
            name_durable: false,
            cached: Image::default(),
            durable: Image::default(),
            unsynced: Vec::new(),
            writes_completed: 0,
        }
    }

    /// A write has completed: reads see it from now on.
    fn complete(&mut self, offset: u64, bytes: Vec<u8>) {
        self.cached.write(offset, &bytes);
        self.writes_completed += 1;
        self.unsynced.push(Write { offset, bytes, number: self.writes_completed });
    }

    /// Makes durable the writes up to a number.
    fn sync(&mut self, up_to: u64) {
        for write in self.take_unsynced(up_to) {
            self.durable.write(write.offset, &write.bytes);
        }
        self.name_durable = true;
    }

    fn take_unsynced(&mut self, up_to: u64) -> Vec<Write> {
        let covered = self.unsynced.partition_point(|write| write.number <= up_to);
        self.unsynced.drain(..covered).collect()
    }
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
