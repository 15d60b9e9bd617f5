//! The log as the store has it: what is ordered goes to its writer, and what its writer says is durable
//! commits.

use super::figures::LogFigures;
use super::{Common, Store};
use crate::command::error::Error;
use crate::disk::journal::Bell;
use crate::effect::EffectRef;
use crate::log::LogStart;
use crate::log::batch::{Action, AppendError, LogWriter, Stopped};
use crate::log::segment::Segment;
use crate::partition::Partition;
use crate::slot::Partition as PartitionId;
use catena_engine::driver::FileBuffer;
use std::fmt;
use std::io;
use std::str::FromStr;

/// See the module page.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) writer: LogWriter,
    pub(super) bell: Bell,
    /// An entry on its way to it.
    pub(super) entry: Vec<u8>,
    /// Why it cannot go on when its segment is full.
    pub(super) hindrance: Option<String>,
    pub(super) wants_checkpoint: bool,
    pub(super) appended: u64,
    pub(super) figures: LogFigures,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// When it is safely on the disk: no crash and no loss of power takes it back.
    #[default]
    Sync,
    /// When it is in memory; it is on the disk soon after. A crash takes back what was written since.
    Batch,
    /// When it is in memory, which is all that there is: nothing outlives the process.
    Memory,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Sync => "sync",
            Durability::Batch => "batch",
            Durability::Memory => "memory",
        })
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sync" => Ok(Durability::Sync),
            "batch" => Ok(Durability::Batch),
            "memory" => Ok(Durability::Memory),
            other => Err(format!("{other:?} is no durability; say sync, batch or memory")),
        }
    }
}

/// So many partitions commit at a time, what each needs brought into the cache first: as many as a core has
/// misses under way.
const COMMITS_PREFETCHED: usize = 16;

/// Bytes that gather for one write above which clients that write are not read from: what a disk takes
/// in some tens of milliseconds.
const GATHERED_BYTES_HELD: usize = 8 << 20;

/// Memory that is kept for the next entry.
const ENTRY_KEPT_BYTES: usize = 64 * 1_024;

impl Store {
    /// Writes a log from now on, which `bell` tells that there is something to write.
    pub fn begin_log(&mut self, writer: LogWriter, bell: Bell, durability: Durability) {
        self.common.commits_at_once =
            durability != Durability::Sync && self.common.replication.is_none();
        self.common.log = Some(Log {
            writer,
            bell,
            entry: Vec::new(),
            hindrance: None,
            wants_checkpoint: false,
            appended: 0,
            figures: LogFigures::default(),
        });
    }

    /// Where the log begins of which nothing is in a checkpoint that begins now.
    pub fn log_start(&self) -> LogStart {
        let log = self.common.log.as_ref();
        log.and_then(|log| log.writer.starts().last()).unwrap_or(LogStart::NEW)
    }

    /// A checkpoint is to be taken soon, whatever was logged.
    ///
    /// # Errors
    /// If nothing is kept on a disk.
    pub fn want_checkpoint(&mut self) -> Result<(), Error> {
        let Some(log) = &mut self.common.log else { return Err(Error::NOTHING_KEPT) };
        log.wants_checkpoint = true;
        Ok(())
    }

    /// True if one was wanted since this was asked last.
    pub fn takes_wanted_checkpoint(&mut self) -> bool {
        self.common.log.as_mut().is_some_and(|log| std::mem::take(&mut log.wants_checkpoint))
    }

    /// The log before `segment` is needed no more.
    pub fn forget_log_before(&mut self, segment: u64) {
        if let Some(log) = &mut self.common.log {
            log.writer.forget_before(segment);
        }
    }

    /// Entries that were appended to the log, and of these, which are durable.
    pub fn log_entries(&self) -> (u64, u64) {
        let log = self.common.log.as_ref();
        log.map_or((0, 0), |log| (log.appended, log.writer.durable_entries()))
    }

    /// Whether a checkpoint of what the first `appended` entries have made may take the place of the log
    /// before it: they are durable, or were not seen before they were. A log that waits for room may be
    /// behind, for the room that it waits for may be what that checkpoint makes superfluous.
    pub fn log_has(&self, appended: u64) -> bool {
        self.common.log.as_ref().is_none_or(|log| {
            !self.common.commits_at_once
                || log.writer.durable_entries() >= appended
                || log.hindrance.is_some()
        })
    }

    /// Whether the log has no segment to go on in.
    pub fn is_log_hindered(&self) -> bool {
        self.common.log.as_ref().is_some_and(|log| log.hindrance.is_some())
    }

    /// Bytes of log that were written: whole blocks.
    pub fn logged_bytes(&self) -> u64 {
        self.common.log.as_ref().map_or(0, |log| log.writer.written_bytes())
    }

    /// What the log wants done.
    pub fn log_action(&mut self) -> Option<Action> {
        self.common.log.as_mut()?.writer.poll()
    }

    /// A write that the log wanted has ended.
    pub fn log_written(&mut self, buffer: FileBuffer, result: io::Result<usize>) {
        if let Some(log) = &mut self.common.log {
            log.writer.written(buffer, result);
        }
    }

    /// A sync that the log wanted has ended: what became durable by it has committed.
    pub fn log_synced(&mut self, result: io::Result<()>) {
        let Common { log, memory, commits_at_once, replication, .. } = &mut self.common;
        let Some(log) = log else { return };
        let durable = log.writer.synced(result);
        if *commits_at_once {
            return;
        }
        if let Some(replication) = replication {
            let first = self.partitions.numbers.start;
            let news = durable.iter().map(|(number, index)| (usize::from(number - first), *index));
            return replication.durable.extend(news);
        }
        const LOGGED_HERE: &str = "it was logged here";
        for group in durable.chunks(COMMITS_PREFETCHED) {
            let mut hashes = [None; COMMITS_PREFETCHED];
            for ((number, _), hash) in group.iter().zip(&mut hashes) {
                let partition = self.partitions.by_number(*number).expect(LOGGED_HERE);
                *hash = partition.prefetch_oldest(memory);
            }
            for ((number, _), hash) in group.iter().zip(&hashes) {
                let partition = self.partitions.by_number(*number).expect(LOGGED_HERE);
                if let Some(cell) = hash.and_then(|hash| partition.table().locate(hash)) {
                    memory.arena.prefetch(cell);
                }
            }
            for (number, index) in group {
                let partition = self.partitions.by_number(*number).expect(LOGGED_HERE);
                partition.commit(memory, *index);
            }
        }
        let list = &self.partitions.list;
        self.leaving.forget(|place| list[place].committed());
    }

    /// A segment that the log wanted is ready.
    pub fn log_prepared(&mut self, segment: Segment) {
        if let Some(log) = &mut self.common.log {
            log.writer.prepared(segment);
        }
    }

    /// Why the log cannot go on when its segment is full, if it cannot.
    pub fn set_log_hindrance(&mut self, hindrance: Option<String>) {
        if let Some(log) = &mut self.common.log {
            log.writer.confine(hindrance.is_some());
            log.figures.is_refusing &= hindrance.is_some();
            log.hindrance = hindrance;
        }
    }

    /// Why the log has stopped for good, if it has.
    pub fn log_failure(&self) -> Option<&Stopped> {
        self.common.log.as_ref()?.writer.stopped()
    }

    /// Lets the log come to rest, before an orderly end: what proves its last batch is written, too, so that
    /// damage of it can be told from a write that was cut off.
    pub fn settle(&mut self) {
        if let Some(log) = &mut self.common.log {
            log.writer.settle();
            log.bell.ring();
        }
    }

    /// True if everything that was ordered is durable, as far as it will be: a log that cannot go on is not
    /// waited for.
    pub fn is_settled(&self) -> bool {
        self.common.log.as_ref().is_none_or(|log| {
            let writer = &log.writer;
            writer.is_idle() || writer.stopped().is_some() || log.hindrance.is_some()
        })
    }
}

impl Log {
    /// True if more gathers than one write should be long, and the disk does not wait for room.
    pub(super) fn is_behind(&self) -> bool {
        self.writer.gathered_bytes() > GATHERED_BYTES_HELD && self.hindrance.is_none()
    }

    pub(super) fn append_effects(
        &mut self,
        partition: &Partition,
        effects: &[EffectRef<'_>],
    ) -> Result<(), Error> {
        let mut entry = std::mem::take(&mut self.entry);
        entry.clear();
        entry.shrink_to(ENTRY_KEPT_BYTES);
        for effect in effects {
            effect.encode(&mut entry);
        }
        let index = partition.received() + 1;
        let appended = self.append(partition.id(), partition.epoch(), index, &entry);
        self.entry = entry;
        appended
    }

    #[inline]
    pub(super) fn append(
        &mut self,
        partition: PartitionId,
        epoch: u32,
        index: u64,
        payload: &[u8],
    ) -> Result<(), Error> {
        match self.writer.append(partition.0, epoch, index, payload) {
            Ok(()) => {
                self.appended += 1;
                self.bell.ring();
                Ok(())
            }
            Err(AppendError::Stopped) => Err(Error::STOPPED),
            Err(AppendError::Full) => Err(Error::LOG_FULL),
            Err(AppendError::NoSegment) => {
                self.figures.is_refusing = true;
                let why = self.hindrance.as_deref().unwrap_or("its disk is full");
                Err(Error::of(format!("MISCONF the log cannot go on: {why}")))
            }
        }
    }
}
