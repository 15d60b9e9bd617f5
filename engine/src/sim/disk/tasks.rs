//! The rare operations on a disk: names, room, locks.

use super::file::What;
use super::names::{Node, View};
use super::{Disk, Handle};
use crate::driver::{
    DirectoryEntry, FileId, FileLock, FileOpId, FileSystemSpace, FileTask, FileTaskDone, OpenFile,
};
use crate::sim::event_log::{EventKind, Place};
use crate::sim::fault::DiskOp;
use crate::sim::host::{Notice, ShardAt};
use crate::sim::stage::{Event, Stage};
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;

/// A task in flight.
#[derive(Debug)]
pub(super) struct Started {
    at: ShardAt,
    op: FileOpId,
    task: FileTask,
    /// What a sync of a directory covers; known when it is issued.
    up_to: u64,
}

const MIB: u64 = 1 << 20;

/// The room that there must be for a new name. It takes none, but on a full disk there is none to be had.
const NAME_BYTES: u64 = 1;

/// What a task comes to, before the shard is told.
enum Outcome {
    Open { file: usize, direct: bool },
    Other(FileTaskDone),
}

impl Disk {
    pub fn start_task(&mut self, stage: &mut Stage, at: ShardAt, task: FileTask, op: FileOpId) {
        let mut latency = self.config.task_latency.draw(&mut self.rng);
        if let FileTask::CreateZeroed { length, .. } = &task {
            let pieces = u32::try_from(length.div_ceil(MIB)).unwrap_or(u32::MAX);
            latency += self.config.write_latency.draw(&mut self.rng) * pieces;
        }
        let latency = latency * self.slowness(stage);
        let key = self.next_key();
        let up_to = self.names.changes_done();
        self.tasks.insert(key, Started { at, op, task, up_to });
        stage.after(latency, Event::DiskDone(self.host, key));
    }

    /// A task has ended, unless its process ended first.
    pub(super) fn on_task_done(&mut self, stage: &mut Stage, key: u64) {
        let Some(started) = self.tasks.remove(&key) else { return };
        let Started { at, op, task, up_to } = started;
        let result = self.carry_out_task(stage, &task, up_to);
        let kind = match &result {
            Ok(_) => kind_of(&task),
            Err(Errno::NOSPC) => EventKind::DiskWasFull,
            Err(_) => EventKind::FileFailed,
        };
        stage.record_about(Place::Shard(at), kind, &task.to_string());
        let result = match result {
            Ok(Outcome::Open { file, direct }) => {
                Ok(FileTaskDone::Opened(self.open_handle(at, file, direct)))
            }
            Ok(Outcome::Other(done)) => Ok(done),
            Err(error) => Err(task.explain(&error.into())),
        };
        self.forget_files();
        stage.notify(at, Notice::FileTask { op, result });
    }

    /// What a crash leaves of the tasks in flight: each was done just before it, or not. Zeros are there
    /// up to anywhere, and not synced.
    pub(super) fn crash_tasks(&mut self, stage: &mut Stage) {
        for Started { task, up_to, .. } in std::mem::take(&mut self.tasks).into_values() {
            match task {
                _ if self.rng.chance(0.5) => {}
                FileTask::CreateZeroed { path, length } => {
                    let length = self.rng.below(length + 1);
                    if let Ok(file) = self.create_file(stage, &path) {
                        self.files[file].complete(What::Extend { length });
                    }
                }
                task => drop(self.carry_out_task(stage, &task, up_to)),
            }
        }
    }

    /// Flips one of the bits that the files hold durably: the one of number `pick`, modulo their count.
    pub fn flip_any_bit(&mut self, stage: &mut Stage, pick: u64) {
        let mut files: Vec<usize> = self.names.seen_files().collect();
        files.sort_unstable();
        let bits = |disk: &Disk, file: usize| disk.files[file].durable.length() * 8;
        let sum: u64 = files.iter().map(|file| bits(self, *file)).sum();
        let Some(mut bit) = pick.checked_rem(sum) else { return };
        for file in files {
            match bit.checked_sub(bits(self, file)) {
                Some(rest) => bit = rest,
                None => return self.flip(stage, file, bit),
            }
        }
    }

    /// Flips a bit of one file.
    pub fn flip_bit(&mut self, stage: &mut Stage, path: &Path, bit: u64) {
        let file = self.names.find_file(path);
        let file = file.unwrap_or_else(|error| panic!("no bit of {}: {error}", path.display()));
        let bits = self.files[file].durable.length() * 8;
        assert!(bit < bits, "{} has {bits} durable bits, and not {bit}", path.display());
        self.flip(stage, file, bit);
    }

    fn flip(&mut self, stage: &mut Stage, file: usize, bit: u64) {
        let facts = [("file", file as u64), ("offset", bit / 8), ("bit", bit % 8)];
        stage.record(Place::Host(self.host), EventKind::BitFlipped, &facts);
        self.files[file].flip_bit(bit);
    }

    fn carry_out_task(
        &mut self,
        stage: &mut Stage,
        task: &FileTask,
        up_to: u64,
    ) -> Result<Outcome, Errno> {
        let op = match task {
            FileTask::SyncDirectory { .. } => DiskOp::SyncDirectory,
            _ => DiskOp::Task,
        };
        let is_failing = self.takes_failure(op);
        if let FileTask::SyncDirectory { path } = task {
            let synced = self.sync_directory(stage, path, up_to, is_failing);
            return synced.map(|()| Outcome::Other(FileTaskDone::Done));
        }
        if is_failing {
            return Err(Errno::IO);
        }
        let done = match task {
            FileTask::Open { path, options } => return self.open(stage, path, *options),
            FileTask::CreateDirectory { path } => self.create_directories(stage, path)?,
            FileTask::ListDirectory { path } => FileTaskDone::Entries(self.list(path)?),
            FileTask::Rename { from, to } => {
                self.names.rename(from, to)?;
                FileTaskDone::Done
            }
            FileTask::RemoveFile { path } => {
                self.names.remove_file(path)?;
                FileTaskDone::Done
            }
            FileTask::RemoveDirectory { path } => {
                self.names.remove_directory(path)?;
                FileTaskDone::Done
            }
            FileTask::SyncDirectory { .. } => unreachable!("it was done above"),
            FileTask::FileLength { path } => {
                let file = self.names.find_file(path)?;
                FileTaskDone::Length(self.files[file].cached.length())
            }
            FileTask::Preallocate { path, length } => {
                let file = self.names.find_file(path)?;
                self.extend(stage, file, *length)?;
                FileTaskDone::Done
            }
            FileTask::CreateZeroed { path, length } => self.create_zeroed(stage, path, *length)?,
            FileTask::FreeSpace { path } => self.space(stage, path)?,
            FileTask::Lock { path } => self.lock(stage, path)?,
        };
        Ok(Outcome::Other(done))
    }

    fn open(&mut self, stage: &Stage, path: &Path, options: OpenFile) -> Result<Outcome, Errno> {
        let file = match self.names.find_file(path) {
            Err(Errno::NOENT) if options.create => self.create_file(stage, path)?,
            found => found?,
        };
        Ok(Outcome::Open { file, direct: options.direct })
    }

    fn open_handle(&mut self, at: ShardAt, file: usize, direct: bool) -> FileId {
        self.handles_begun += 1;
        let id = FileId(self.handles_begun);
        self.handles.insert((at, id), Handle { file, direct, in_flight: 0, closing: false });
        id
    }

    fn create_file(&mut self, stage: &Stage, path: &Path) -> Result<usize, Errno> {
        self.check_room(stage, NAME_BYTES)?;
        let file = self.files.len();
        self.names.add_file(path, file)?;
        self.files.push(super::File::default());
        Ok(file)
    }

    fn create_directories(&mut self, stage: &Stage, path: &Path) -> Result<FileTaskDone, Errno> {
        if self.names.find(View::Seen, path) == Err(Errno::NOENT) {
            self.check_room(stage, NAME_BYTES)?;
        }
        self.names.add_directories(path)?;
        Ok(FileTaskDone::Done)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, Errno> {
        let directory = self.names.find_directory(path)?;
        let entry = |(name, node): (&std::ffi::OsStr, Node)| DirectoryEntry {
            name: name.to_owned(),
            kind: node.kind(),
            length: match node {
                Node::File(file) => self.files[file].cached.length(),
                Node::Directory(_) => 0,
            },
        };
        Ok(self.names.list(directory).map(entry).collect())
    }

    fn sync_directory(
        &mut self,
        stage: &mut Stage,
        path: &Path,
        up_to: u64,
        is_failing: bool,
    ) -> Result<(), Errno> {
        let directory = self.names.find_directory(path)?;
        if is_failing {
            let drawn = self.names.fail_sync(directory, up_to, &mut self.rng);
            self.record_names(stage, &drawn);
            return Err(Errno::IO);
        }
        self.names.sync(directory, up_to);
        Ok(())
    }

    fn extend(&mut self, stage: &Stage, file: usize, length: u64) -> Result<(), Errno> {
        let growth = self.files[file].cached.extension_bytes(length);
        self.check_room(stage, growth)?;
        self.files[file].complete(What::Extend { length });
        Ok(())
    }

    fn create_zeroed(
        &mut self,
        stage: &Stage,
        path: &Path,
        length: u64,
    ) -> Result<FileTaskDone, Errno> {
        let file = self.create_file(stage, path)?;
        if let Err(error) = self.extend(stage, file, length) {
            self.names.remove_file(path)?;
            return Err(error);
        }
        let all = self.files[file].changes_completed();
        self.files[file].sync(all);
        Ok(FileTaskDone::Done)
    }

    fn space(&self, stage: &Stage, path: &Path) -> Result<FileTaskDone, Errno> {
        self.names.find(View::Seen, path)?;
        Ok(FileTaskDone::Space(FileSystemSpace {
            total_bytes: self.config.capacity_bytes,
            available_bytes: self.available_bytes(stage),
        }))
    }

    fn check_room(&self, stage: &Stage, bytes: u64) -> Result<(), Errno> {
        if self.has_room(stage, bytes) { Ok(()) } else { Err(Errno::NOSPC) }
    }

    fn lock(&mut self, stage: &Stage, path: &Path) -> Result<FileTaskDone, Errno> {
        let file = match self.names.find_file(path) {
            Err(Errno::NOENT) => self.create_file(stage, path)?,
            found => found?,
        };
        if self.locks.get(&file).is_some_and(|held| held.strong_count() > 0) {
            return Err(Errno::BUSY);
        }
        let held = Arc::new(());
        self.locks.insert(file, Arc::downgrade(&held));
        Ok(FileTaskDone::Locked(FileLock::new(held)))
    }
}

fn kind_of(task: &FileTask) -> EventKind {
    match task {
        FileTask::Open { .. } => EventKind::FileOpened,
        FileTask::CreateDirectory { .. } => EventKind::DirectoryCreated,
        FileTask::ListDirectory { .. } => EventKind::DirectoryListed,
        FileTask::Rename { .. } => EventKind::Renamed,
        FileTask::RemoveFile { .. } | FileTask::RemoveDirectory { .. } => EventKind::Removed,
        FileTask::SyncDirectory { .. } => EventKind::DirectorySynced,
        FileTask::FileLength { .. } => EventKind::LengthTold,
        FileTask::Preallocate { .. } => EventKind::Preallocated,
        FileTask::CreateZeroed { .. } => EventKind::ZerosCreated,
        FileTask::FreeSpace { .. } => EventKind::SpaceTold,
        FileTask::Lock { .. } => EventKind::FileLocked,
    }
}
