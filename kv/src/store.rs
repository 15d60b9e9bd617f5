//! All that one core owns of the store: its partitions, their memory, and the log that they share.

pub mod figures;
pub mod replication;

use crate::command::error::Error;
use crate::disk::journal::Bell;
use crate::disk::recover::WrongEntry;
use crate::effect::EffectRef;
use crate::evict::{self, Eviction, Leaving};
use crate::keyspace::Keyspace;
use crate::log::LogStart;
use crate::log::batch::{Action, AppendError, LogWriter, Stopped};
use crate::log::segment::Segment;
use crate::memory::Memory;
use crate::partition::Partition;
use crate::session::NoSessions;
use crate::slot::{Partition as PartitionId, Partitions, Slot, shard_of};
use crate::slot_counts::SlotCounts;
use crate::table::{Arena, HashSeed, KeyHash, PAGES_MAX, Table};
use catena_engine::driver::FileBuffer;
use catena_engine::rng::Rng;
use catena_engine::shard_index::ShardIndex;
use figures::LogFigures;
use replication::Replication;
use std::fmt;
use std::io;
use std::ops::Range;
use std::str::FromStr;

/// What a store is told at its start.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// How many partitions there are on all shards.
    pub partitions: Partitions,
    /// Which shard this is, and of how many.
    pub shard: ShardIndex,
    /// How many shards there are.
    pub shards: u16,
    /// Keys are hashed with this.
    pub hash_seed: u64,
    /// The epoch in which entries are ordered.
    pub epoch: u32,
    /// The longest value in bytes.
    pub value_bytes_max: usize,
    /// Memory of the keys of all shards in bytes above which writes are refused, or keys given up.
    pub memory_bytes_max: u64,
    /// Which of both.
    pub eviction: Eviction,
}

/// See the module page.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    partitions: OwnPartitions,
    common: Common,
    /// What the keys of the other shards take, as of a moment ago.
    bytes_elsewhere: u64,
    /// Keys given up for memory that are on their way out.
    leaving: Leaving,
    /// The bound of memory is passed by more than a little, and keys are being given up.
    is_far_over: bool,
    /// The partition of a checkpoint that is being taken in is taken in.
    restoring: bool,
}

/// The partitions of one shard.
#[derive(Debug)]
pub struct OwnPartitions {
    all: Partitions,
    numbers: Range<u16>,
    list: Vec<Partition>,
}

/// What the partitions of a shard share.
#[derive(Debug)]
pub struct Common {
    pub(crate) memory: Memory,
    pub(crate) counters: Counters,
    pub(crate) value_bytes_max: usize,
    pub(crate) scratch: Vec<u8>,
    /// Reads leave a stamp, so that it is known which keys are used.
    pub(crate) notes_use: bool,
    commits_at_once: bool,
    /// The number of the first partition of this shard.
    first_partition: u16,
    log: Option<Log>,
    /// Chains commit what is ordered; `None`: this shard alone.
    replication: Option<Box<Replication>>,
}

/// The log as the store has it.
#[derive(Debug)]
struct Log {
    writer: LogWriter,
    bell: Bell,
    /// An entry on its way to it.
    entry: Vec<u8>,
    /// Why it cannot go on when its segment is full.
    hindrance: Option<String>,
    wants_checkpoint: bool,
    appended: u64,
    figures: LogFigures,
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

/// A key on its way into the cache.
#[derive(Clone, Copy, Debug)]
pub struct Prefetched {
    place: usize,
    hash: KeyHash,
}

/// An entry does not follow what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfOrder {
    /// The last entry that is there.
    pub last: u64,
}

/// What was counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Keys that were found expired.
    pub expired: u64,
    /// Keys that were given up for memory.
    pub evicted: u64,
}

impl Store {
    /// An empty one that keeps nothing beyond its process.
    pub fn in_memory(config: StoreConfig) -> Self {
        let own = config.partitions.of_shard(config.shard, config.shards);
        let partition = |id| Partition::new(PartitionId(id), config.epoch);
        let list: Vec<Partition> = own.clone().map(partition).collect();
        let mut memory = Memory::new(
            Arena::new(PAGES_MAX),
            HashSeed::new(config.hash_seed),
            SlotCounts::new(config.partitions, own.clone()),
        );
        list.iter().for_each(|partition| memory.adopt(partition.table()));
        Store {
            partitions: OwnPartitions { all: config.partitions, numbers: own.clone(), list },
            common: Common {
                memory,
                counters: Counters::default(),
                value_bytes_max: config.value_bytes_max,
                scratch: Vec::new(),
                notes_use: config.eviction == Eviction::Lru,
                commits_at_once: true,
                first_partition: own.start,
                log: None,
                replication: None,
            },
            config,
            bytes_elsewhere: 0,
            leaving: Leaving::default(),
            is_far_over: false,
            restoring: false,
        }
    }

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

    /// Takes in an entry that is on the disk. False: it is none of this shard's, or it is there already.
    ///
    /// # Errors
    /// If it does not follow the last one of its partition, or cannot be read.
    pub fn recover(
        &mut self,
        partition: u16,
        epoch: u32,
        index: u64,
        payload: &[u8],
    ) -> Result<bool, WrongEntry> {
        let Some(partition) = self.partitions.by_number(partition) else { return Ok(false) };
        let last = partition.received();
        if index <= last {
            return Ok(false);
        }
        if index > last + 1 {
            return Err(WrongEntry::OutOfOrder(OutOfOrder { last }));
        }
        partition.recover(&mut self.common.memory, epoch, index, payload)?;
        Ok(true)
    }

    /// A checkpoint of a partition begins. It is passed over if the partition is none of this shard's, or
    /// further already.
    pub fn restore_begins(&mut self, partition: u16, as_of: u64, epochs: Vec<(u64, u32)>) {
        let found = self.partitions.by_number(partition);
        let found = found.filter(|found| found.received() <= as_of);
        self.restoring = found.is_some();
        if let Some(found) = found {
            found.restore_begins(&mut self.common.memory, epochs);
        }
    }

    /// An entry of it.
    pub fn restore(&mut self, partition: u16, index: u64, effect: &EffectRef<'_>) {
        if let Some(found) = self.restored(partition) {
            let (partition, memory) = found;
            partition.restore(memory, index, effect);
        }
    }

    /// Sessions of it.
    ///
    /// # Errors
    /// If they are none.
    pub fn restore_sessions(&mut self, partition: u16, bytes: &[u8]) -> Result<(), NoSessions> {
        let Some((partition, memory)) = self.restored(partition) else { return Ok(()) };
        partition.restore_sessions(memory, bytes)
    }

    /// What has come of it does not count.
    pub fn restore_is_void(&mut self, partition: u16) {
        if let Some((partition, memory)) = self.restored(partition) {
            partition.restore_is_void(memory);
        }
    }

    /// It is complete.
    pub fn restore_ends(&mut self, partition: u16, as_of: u64) {
        if let Some((partition, _)) = self.restored(partition) {
            partition.restore_ends(as_of);
        }
    }

    fn restored(&mut self, partition: u16) -> Option<(&mut Partition, &mut Memory)> {
        if !self.restoring {
            return None;
        }
        Some((self.partitions.by_number(partition)?, &mut self.common.memory))
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

    /// True if whoever writes should wait: more gathers than one write to the disk should be long, or more
    /// was written than keys could be given up for. Not if the disk waits for room: then it is refused what
    /// does not fit.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.is_far_over || self.common.log.as_ref().is_some_and(Log::is_behind)
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

    /// Bytes that keys take.
    pub fn bytes_used(&self) -> u64 {
        self.common.memory.bytes_used()
    }

    /// Entries are ordered in this epoch from now on.
    pub fn begin_epoch(&mut self, epoch: u32) {
        for partition in &mut self.partitions.list {
            partition.begin_epoch(epoch);
        }
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

    /// What it was told at its start.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// The place of a slot's partition among this shard's, or the shard that has it.
    ///
    /// # Errors
    /// The other shard.
    #[inline]
    pub fn place_of(&self, slot: Slot) -> Result<usize, ShardIndex> {
        self.partitions
            .place_of(slot)
            .map_err(|elsewhere| shard_of(elsewhere, self.config.partitions, self.config.shards))
    }

    /// The keys of one partition, by its place, for a command.
    #[inline]
    pub fn keyspace(&mut self, place: usize, now_ms: u64) -> Keyspace<'_> {
        let partition = &mut self.partitions.list[place];
        self.common.memory.stamp = evict::stamp(now_ms);
        Keyspace { partition, common: &mut self.common, now_ms, gate: None }
    }

    /// Begins to bring a key into the cache. What is to be given to [`Store::prefetch_entry`] when the keys
    /// beside it have begun as well; `None`: it is another shard's.
    #[inline]
    pub fn prefetch(&self, key: &[u8]) -> Option<Prefetched> {
        let place = self.place_of(Slot::of(key)).ok()?;
        let hash = self.common.memory.hash(key);
        self.partitions.list[place].table().prefetch(hash);
        Some(Prefetched { place, hash })
    }

    /// Goes on with it.
    #[inline]
    pub fn prefetch_entry(&self, key: Prefetched) {
        let table = self.partitions.list[key.place].table();
        if let Some(cell) = table.locate(key.hash) {
            self.common.memory.arena.prefetch(cell);
        }
    }

    /// The last index that has committed in a partition, by its place.
    #[inline]
    pub fn committed(&self, place: usize) -> u64 {
        self.partitions.list[place].committed()
    }

    /// The partitions of this shard.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions.list
    }

    /// The partitions, and the memory that they share.
    pub fn parts(&mut self) -> (&mut OwnPartitions, &mut Memory) {
        (&mut self.partitions, &mut self.common.memory)
    }

    /// Gives back what a large value in flight has left in the memory for answers.
    pub(crate) fn free_scratch(&mut self) {
        if self.common.scratch.capacity() > SCRATCH_KEPT_BYTES {
            self.common.scratch = Vec::new();
        }
    }

    /// Which partitions these are, by their numbers.
    pub fn own_partitions(&self) -> Range<u16> {
        self.partitions.numbers.clone()
    }

    /// Where the keys of this shard lie.
    pub fn arena(&self) -> &Arena {
        &self.common.memory.arena
    }

    /// Deletes all keys. The entries that do it, by the places of their partitions.
    ///
    /// # Errors
    /// If nothing can be logged any more.
    pub fn clear(&mut self) -> Result<Vec<(usize, u64)>, Error> {
        let mut entries = Vec::new();
        for (place, partition) in self.partitions.list.iter_mut().enumerate() {
            if partition.has_keys() {
                entries.push((place, self.common.order(partition, &[EffectRef::Clear])?));
            }
        }
        Ok(entries)
    }

    /// One of the keys, by chance.
    pub fn random_key(&self, random: u64, now_ms: u64) -> Option<&[u8]> {
        let mut random = Rng::from_seed(random);
        (0..RANDOM_KEY_TRIES).find_map(|_| self.any_key(random.next_u64(), now_ms))
    }

    /// A key by chance, unless it has expired.
    fn any_key(&self, random: u64, now_ms: u64) -> Option<&[u8]> {
        let (_, table) = self.place_by_chance(random)?;
        let mut key = None;
        let bits = random.rotate_left(32) ^ random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        table.sample(self.arena(), bits, 1, |entry| {
            key = Some(entry.key()).filter(|_| !entry.is_expired(now_ms));
        });
        key
    }

    /// The place of a partition, each by as much of a chance as it has keys.
    pub(crate) fn place_by_chance(&self, random: u64) -> Option<(usize, &Table)> {
        let mut at = usize::try_from(random % (self.len() as u64).max(1)).ok()?;
        let tables = self.partitions.list.iter().map(Partition::table).enumerate();
        let mut tables = tables.skip_while(|(_, table)| {
            let is_before = at >= table.len();
            at -= if is_before { table.len() } else { 0 };
            is_before
        });
        tables.next()
    }

    /// Keys of all partitions, expired ones included that nobody has met.
    pub fn len(&self) -> usize {
        self.partitions.list.iter().map(|partition| partition.table().len()).sum()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.common.counters
    }

    /// True if a write that needs memory may be carried out.
    #[inline]
    pub fn has_memory(&self) -> bool {
        let used = self.common.memory.bytes_used().saturating_sub(self.leaving.bytes());
        self.has_pages() && used + self.bytes_elsewhere <= self.config.memory_bytes_max
    }

    /// Bytes above what there may be.
    pub(crate) fn excess_bytes(&self) -> u64 {
        let used = self.common.memory.bytes_used().saturating_sub(self.leaving.bytes());
        (used + self.bytes_elsewhere).saturating_sub(self.config.memory_bytes_max)
    }

    /// False while what says that a key is gone would have to wait for room on the disk.
    pub(crate) fn may_give_up(&self) -> bool {
        let log = self.common.log.as_ref();
        log.is_none_or(|log| log.hindrance.is_none() && log.writer.has_segment())
    }

    /// True if the bound of memory is passed by more than a little, and keys are being given up.
    pub(crate) fn is_far_over(&self) -> bool {
        self.is_far_over
    }

    pub(crate) fn set_far_over(&mut self, is_far_over: bool) {
        self.is_far_over = is_far_over;
    }

    /// True if the memory of entries has pages for more than may be in flight.
    #[inline]
    pub fn has_pages(&self) -> bool {
        self.common.memory.arena.pages_left() > PAGES_RESERVED
    }

    /// The same for what is recovered: somewhat more than may be written later.
    pub fn has_pages_to_recover(&self) -> bool {
        self.common.memory.arena.pages_left() > PAGES_RESERVED / 2
    }

    pub(crate) fn leaving_mut(&mut self) -> &mut Leaving {
        &mut self.leaving
    }

    /// Notes what the keys of the other shards take.
    pub fn note_bytes_elsewhere(&mut self, bytes: u64) {
        self.bytes_elsewhere = bytes;
    }

    /// What the keys of this shard take.
    pub fn memory(&self) -> &Memory {
        &self.common.memory
    }

    /// A key was given up for memory.
    pub(crate) fn count_evicted(&mut self, is_gone: bool) {
        self.common.counters.evicted += u64::from(is_gone);
    }

    /// Keys in a slot of this shard.
    pub fn keys_in_slot(&self, slot: Slot) -> u32 {
        self.common.memory.counts.of(slot)
    }
}

impl OwnPartitions {
    /// The place of a slot's partition among these.
    ///
    /// # Errors
    /// The partition, if it is none of these.
    #[inline]
    pub fn place_of(&self, slot: Slot) -> Result<usize, PartitionId> {
        let partition = PartitionId::of(slot, self.all);
        let is_own = self.numbers.contains(&partition.0);
        if is_own { Ok(usize::from(partition.0 - self.numbers.start)) } else { Err(partition) }
    }

    /// The one of a number, if it is among these.
    pub fn by_number(&mut self, number: u16) -> Option<&mut Partition> {
        let place = self.place_of_number(number)?;
        self.list.get_mut(place)
    }

    /// The place of a number, if it is among these.
    fn place_of_number(&self, number: u16) -> Option<usize> {
        self.numbers.contains(&number).then(|| usize::from(number - self.numbers.start))
    }

    /// The one at a place, if there is one.
    pub fn get(&mut self, place: usize) -> Option<&mut Partition> {
        self.list.get_mut(place)
    }

    /// The one at a place.
    #[inline]
    pub fn at(&mut self, place: usize) -> &mut Partition {
        &mut self.list[place]
    }
}

impl Common {
    /// Orders an entry. Returns its index.
    #[inline]
    pub(crate) fn order(
        &mut self,
        partition: &mut Partition,
        effects: &[EffectRef<'_>],
    ) -> Result<u64, Error> {
        if let Some(log) = &mut self.log {
            log.append_effects(partition, effects)?;
        }
        if self.commits_at_once {
            return Ok(partition.order_and_commit(&mut self.memory, effects));
        }
        if let Some(replication) = &mut self.replication {
            replication.touch(usize::from(partition.id().0 - self.first_partition));
        }
        Ok(partition.order(&mut self.memory, effects))
    }
}

impl Log {
    /// True if more gathers than one write should be long, and the disk does not wait for room.
    fn is_behind(&self) -> bool {
        self.writer.gathered_bytes() > GATHERED_BYTES_HELD && self.hindrance.is_none()
    }

    fn append_effects(
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
    fn append(
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

/// So many partitions commit at a time, what each needs brought into the cache first: as many as a core has
/// misses under way.
const COMMITS_PREFETCHED: usize = 16;

/// Pages of entries that are kept for what was ordered and has not committed, and for what is recovered:
/// 2 GiB, which is more than two batches of the log with the largest values in them.
const PAGES_RESERVED: u32 = 1 << 15;

/// Keys that are looked at for one that has not expired. As in Redis.
const RANDOM_KEY_TRIES: usize = 100;

/// Bytes that gather for one write above which clients that write are not read from: what a disk takes
/// in some tens of milliseconds.
const GATHERED_BYTES_HELD: usize = 8 << 20;

/// Memory that is kept for reading values in flight.
const SCRATCH_KEPT_BYTES: usize = 64 * 1_024;

/// Memory that is kept for the next entry.
const ENTRY_KEPT_BYTES: usize = 64 * 1_024;

#[cfg(test)]
mod tests;
