//! All that one core owns of the store: its partitions, their memory, and the log that they share.

pub mod figures;
pub mod gate;
pub mod log;
pub mod replication;
pub mod snapshot;

use crate::command::error::Error;
use crate::disk::recover::WrongEntry;
use crate::effect::EffectRef;
use crate::evict::{self, Eviction, Leaving};
use crate::keyspace::Keyspace;
use crate::memory::Memory;
use crate::partition::Partition;
use crate::session::NoSessions;
use crate::slot::{Partition as PartitionId, Partitions, Slot, shard_of};
use crate::slot_counts::SlotCounts;
use crate::table::{Arena, HashSeed, KeyHash, PAGES_MAX, Table};
use catena_engine::rng::Rng;
use catena_engine::shard_index::ShardIndex;
use gate::Seen;
pub use log::Durability;
use log::Log;
use replication::Replication;
use std::ops::Range;

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

    /// True if whoever writes should wait: more gathers than one write to the disk should be long, or more
    /// was written than keys could be given up for. Not if the disk waits for room: then it is refused what
    /// does not fit.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.is_far_over || self.common.log.as_ref().is_some_and(Log::is_behind)
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
        Keyspace { partition, common: &mut self.common, now_ms, seen: Seen::default() }
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

    /// One of the keys, by chance; where nearly all have expired, one of those that have not.
    pub fn random_key(&self, random: u64, now_ms: u64) -> Option<&[u8]> {
        let mut rng = Rng::from_seed(random);
        let mut tries = (0..RANDOM_KEY_TRIES).map(|_| self.any_key(rng.next_u64(), now_ms));
        tries.find_map(|key| key).or_else(|| self.next_key(random, now_ms))
    }

    /// The first key from somewhere on that has not expired, unless there are too many that have.
    fn next_key(&self, random: u64, now_ms: u64) -> Option<&[u8]> {
        let (first, _) = self.place_by_chance(random)?;
        let (before, behind) = self.partitions.list.split_at(first);
        let mut left = RANDOM_KEY_LOOKS;
        for partition in behind.iter().chain(before) {
            let (mut from, mut key) = (Some(0), None);
            while let Some(at) = from.filter(|_| key.is_none() && left > 0) {
                from = partition.table().walk(self.arena(), at, left.min(1_000), |entry| {
                    left = left.saturating_sub(1);
                    key = key.or(Some(entry.key()).filter(|_| !entry.is_expired(now_ms)));
                });
            }
            if key.is_some() || left == 0 {
                return key;
            }
        }
        None
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
        if let Some(replication) = &self.replication
            && !replication.is_head(usize::from(partition.id().0 - self.first_partition))
        {
            return Err(Error::NOT_HEAD);
        }
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

/// Pages of entries that are kept for what was ordered and has not committed, and for what is recovered:
/// 2 GiB, which is more than two batches of the log with the largest values in them.
const PAGES_RESERVED: u32 = 1 << 15;

/// Keys that are looked at for one that has not expired. As in Redis.
const RANDOM_KEY_TRIES: usize = 100;

/// The same one behind the other, when none was found: a few milliseconds.
const RANDOM_KEY_LOOKS: usize = 100_000;

/// Memory that is kept for reading values in flight.
const SCRATCH_KEPT_BYTES: usize = 64 * 1_024;

#[cfg(test)]
mod tests;
