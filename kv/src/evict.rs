//! Room for a write when memory is used up: keys that were not used for long are given up, if that is asked
//! for.
//!
//! Which, is decided among a few that are picked by chance, as Redis does: nothing has to be kept in order,
//! and a key that is used is hardly ever the one of a sample that was used least lately.

use crate::slot::Slot;
use crate::store::Store;
use crate::table::Entry;
use std::collections::VecDeque;
use std::str::FromStr;

/// What happens to a write when memory is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Eviction {
    /// It is refused.
    #[default]
    None,
    /// Keys that were not used for long are given up for it.
    Lru,
}

/// Keys that are compared for one that is given up. Redis takes 5 by default, and 10 to come near a true
/// order; a look costs less here.
const SAMPLE: usize = 10;

/// Keys that are given up for one write, at most, while memory keeps to its bound, or nearly.
const EVICTED_MAX: u64 = 16;

/// The same when a write was much larger than each of the keys that go for it: they take about a millisecond.
const EVICTED_MAX_FAR_OVER: u64 = 1_024;

/// Bytes over the bound for which one more key is given up.
const EXCESS_BYTES_PER_KEY: u64 = 1_024;

/// The part of the bound by which it may be passed before writes wait until keys were given up.
const SLACK: u64 = 16;

/// Milliseconds from one stamp to the next: with 16 bits they begin again after three days.
const STAMP_MS: u64 = 4_096;

/// The stamp of an instant: how late it is, coarsely.
pub fn stamp(now_ms: u64) -> u16 {
    (now_ms / STAMP_MS) as u16
}

/// Seconds since the instant of a stamp, about: those that are three days apart are the same.
pub fn seconds_since(stamped: u16, now_ms: u64) -> u64 {
    u64::from(stamp(now_ms).wrapping_sub(stamped)) * STAMP_MS / 1_000
}

impl Store {
    /// True if a write that needs memory may be carried out. `random` gives random bits.
    #[inline]
    pub fn make_room(&mut self, now_ms: u64, random: impl FnMut() -> u64) -> bool {
        self.has_memory() || self.evict(now_ms, random)
    }

    /// Gives up keys until there is room, or enough was given up. Where a deletion takes effect only when it
    /// is on the disk, the room comes a moment later.
    #[cold]
    fn evict(&mut self, now_ms: u64, mut random: impl FnMut() -> u64) -> bool {
        if self.config().eviction == Eviction::None {
            return false;
        }
        // It is the others who have too much, and give it up when they look.
        if self.has_less_than_its_share() {
            return true;
        }
        let most = self.excess_bytes() / EXCESS_BYTES_PER_KEY;
        let most = most.clamp(EVICTED_MAX, EVICTED_MAX_FAR_OVER);
        // While the disk waits for room a key that was given up would be neither there nor gone.
        if !self.may_give_up() {
            self.set_far_over(false);
            return true;
        }
        let (mut has_keys, mut given_up) = (false, 0);
        while given_up < most && !self.has_memory() {
            let least_recent = self.least_recent(now_ms, &mut random);
            let Some((key, bytes)) = least_recent else { break };
            has_keys = true;
            if !self.give_up(&key, bytes, now_ms) {
                break;
            }
            given_up += 1;
        }
        let is_far_over = self.excess_bytes() > self.config().memory_bytes_max / SLACK;
        // Writes do not wait for what is not to be had.
        self.set_far_over(is_far_over && given_up > 0);
        // What is on its way to the disk can be given up a moment later.
        let (logged, durable) = self.log_entries();
        has_keys || logged > durable || self.has_memory()
    }

    /// Gives up keys that no write has asked for: for the other shards, if this one has more than its share
    /// of what is too much, and for what was written before. True if there is much more to give up.
    pub fn keep_bound(&mut self, now_ms: u64, random: impl FnMut() -> u64) -> bool {
        if self.has_memory() || self.has_less_than_its_share() {
            self.set_far_over(false);
            return false;
        }
        self.evict(now_ms, random) && self.is_far_over()
    }

    fn has_less_than_its_share(&self) -> bool {
        self.bytes_used() < self.config().memory_bytes_max / u64::from(self.config().shards)
    }

    /// The key of a sample that was not used for longest, and what it takes, about.
    fn least_recent(
        &self,
        now_ms: u64,
        random: &mut impl FnMut() -> u64,
    ) -> Option<(Vec<u8>, u64)> {
        // Any partition will do, if its keys do not all lie in a few.
        const ANY: usize = 3;
        const BY_KEYS: usize = 5;
        let count = self.partitions().len().max(1) as u64;
        for tried in 0..ANY + BY_KEYS {
            let place = match tried < ANY {
                true => (random() % count) as usize,
                false => self.place_by_chance(random())?.0,
            };
            let oldest = self.oldest_of_sample(place, stamp(now_ms), random());
            if oldest.is_some() {
                return oldest;
            }
        }
        None
    }

    /// The oldest of some keys of a partition that nobody is changing.
    fn oldest_of_sample(&self, place: usize, now: u16, random: u64) -> Option<(Vec<u8>, u64)> {
        let partition = self.partitions().get(place)?;
        let mut oldest: Option<(u16, Entry<'_>)> = None;
        partition.table().sample(self.arena(), random, SAMPLE, |entry| {
            let age = now.wrapping_sub(entry.touched());
            let is_older = oldest.is_none_or(|(before, _)| age > before);
            if is_older && !partition.is_in_flight(self.memory().hash(entry.key()), entry.key()) {
                oldest = Some((age, entry));
            }
        });
        let (_, entry) = oldest?;
        let bytes = entry.key().len() + entry.value().bytes().len() + OVERHEAD_BYTES;
        Some((entry.key().to_vec(), bytes as u64))
    }

    /// False if it cannot go: what says so does not fit into the log.
    fn give_up(&mut self, key: &[u8], bytes: u64, now_ms: u64) -> bool {
        let Ok(place) = self.place_of(Slot::of(key)) else { return false };
        let mut keyspace = self.keyspace(place, now_ms);
        let given_up = keyspace.key(key).and_then(|key| keyspace.delete(&key));
        let ordered = keyspace.seen().index;
        let is_gone = given_up.is_ok();
        self.count_evicted(is_gone);
        if let Some(index) = ordered {
            self.leaving_mut().add(Left { place, index, bytes });
        }
        is_gone
    }
}

/// What a key takes beside itself and its value, about: its header, and its part of the index.
const OVERHEAD_BYTES: usize = 27;

/// Keys that were given up, and whose deletions have not committed: the room that they will leave counts
/// already, so that no more are given up than is needed.
#[derive(Debug, Default)]
pub struct Leaving {
    /// In the order in which they were given up.
    keys: VecDeque<Left>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    place: usize,
    /// Of the deletion.
    index: u64,
    bytes: u64,
}

impl Leaving {
    /// The room that they will leave.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets those whose deletions have committed; `committed`: the last index of a partition that has.
    pub fn forget(&mut self, committed: impl Fn(usize) -> u64) {
        while let Some(left) = self.keys.front()
            && committed(left.place) >= left.index
        {
            self.bytes -= left.bytes;
            self.keys.pop_front();
        }
    }

    fn add(&mut self, left: Left) {
        self.bytes += left.bytes;
        self.keys.push_back(left);
    }
}

impl FromStr for Eviction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Eviction::None),
            "lru" => Ok(Eviction::Lru),
            other => Err(format!("{other:?} is no eviction; say none or lru")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Partitions;
    use crate::store::StoreConfig;
    use catena_engine::rng::Rng;
    use catena_engine::shard_index::ShardIndex;

    fn store(eviction: Eviction) -> Store {
        store_of(1, eviction)
    }

    /// The first shard of so many.
    fn store_of(shards: u16, eviction: Eviction) -> Store {
        Store::in_memory(StoreConfig {
            partitions: Partitions::new(4).expect("a power of two"),
            shard: ShardIndex(0),
            shards,
            hash_seed: 7,
            epoch: 1,
            value_bytes_max: 1 << 20,
            memory_bytes_max: 1 << 20,
            eviction,
        })
    }

    fn put(store: &mut Store, key: &str, now_ms: u64) {
        put_bytes(store, key, 100, now_ms);
    }

    fn put_bytes(store: &mut Store, key: &str, length: usize, now_ms: u64) {
        let place = store.place_of(Slot::of(key.as_bytes())).expect("there is one shard");
        let mut keyspace = store.keyspace(place, now_ms);
        let key = keyspace.key(key.as_bytes()).expect("a short key");
        keyspace.put(&key, &vec![b'x'; length], None).expect("nothing is logged");
    }

    fn has(store: &mut Store, key: &str, now_ms: u64) -> bool {
        let place = store.place_of(Slot::of(key.as_bytes())).expect("there is one shard");
        let mut keyspace = store.keyspace(place, now_ms);
        let key = keyspace.key(key.as_bytes()).expect("a short key");
        keyspace.get(&key).is_some()
    }

    #[test]
    fn what_is_used_stays_and_memory_keeps_its_bound() {
        let mut store = store(Eviction::Lru);
        let mut rng = Rng::from_seed(1);
        let mut now_ms = 1 << 40;
        for number in 0..20_000 {
            now_ms += STAMP_MS / 8;
            assert!(store.make_room(now_ms, || rng.next_u64()));
            put(&mut store, &format!("key-{number}"), now_ms);
            if number % 10 == 0 {
                for hot in 0..100.min(number) {
                    has(&mut store, &format!("key-{hot}"), now_ms);
                }
            }
            assert!(store.bytes_used() < (1 << 20) + 64 * 1_024, "{}", store.bytes_used());
        }
        let hot = (0..100).filter(|hot| has(&mut store, &format!("key-{hot}"), now_ms)).count();
        assert!(hot > 90, "{hot} of the hundred that were used are left");
        assert!(store.counters().evicted > 5_000);
    }

    #[test]
    fn large_values_after_small_ones_keep_the_bound() {
        const VALUE: u64 = 200 << 10;
        let mut store = store(Eviction::Lru);
        let mut rng = Rng::from_seed(1);
        for number in 0..20_000 {
            assert!(store.make_room(0, || rng.next_u64()));
            put(&mut store, &format!("small-{number}"), 0);
        }
        let (mut waited, mut most) = (0, 0);
        for number in 0..100 {
            // As shards do: who writes waits, and upkeep goes on.
            while store.is_behind() {
                store.keep_bound(0, || rng.next_u64());
                waited += 1;
            }
            assert!(store.make_room(0, || rng.next_u64()), "{number}");
            put_bytes(&mut store, &format!("large-{number}"), VALUE as usize, 0);
            most = most.max(store.bytes_used());
        }
        let bound = store.config().memory_bytes_max;
        // The write that passes it by so much goes on, and the next one waits.
        assert!(most <= bound + bound / SLACK + 2 * (VALUE + 16 * 1_024), "{most}");
        assert!(waited > 0, "one write gives up less than it takes");
        while !store.has_memory() {
            store.keep_bound(0, || rng.next_u64());
        }
        assert!(!store.is_behind());
    }

    #[test]
    fn what_others_hold_counts_and_is_theirs_to_give_up() {
        let own = |store: &Store| {
            let keys = (0..).map(|number| format!("key-{number}"));
            keys.filter(|key| store.place_of(Slot::of(key.as_bytes())).is_ok())
                .take(9_000)
                .collect::<Vec<_>>()
        };
        let mut refuses = store_of(2, Eviction::None);
        refuses.note_bytes_elsewhere(2 << 20);
        assert!(!refuses.make_room(0, || 0), "one bound for all shards");
        let mut rng = Rng::from_seed(1);
        let mut evicts = store_of(2, Eviction::Lru);
        let keys = own(&evicts);
        evicts.note_bytes_elsewhere(2 << 20);
        let mut written = 0;
        while evicts.bytes_used() < 1 << 19 {
            assert!(evicts.make_room(0, || rng.next_u64()), "it has less than its share");
            put(&mut evicts, &keys[written], 0);
            written += 1;
        }
        assert_eq!(evicts.counters().evicted, 0);
        // It fills the other half as well while nobody else needs it, and gives that up when somebody does.
        evicts.note_bytes_elsewhere(0);
        while evicts.bytes_used() < (1 << 20) - 64 * 1_024 {
            assert!(evicts.make_room(0, || rng.next_u64()));
            put(&mut evicts, &keys[written], 0);
            written += 1;
        }
        assert_eq!(evicts.counters().evicted, 0);
        evicts.note_bytes_elsewhere(1 << 19);
        for _ in 0..1_000 {
            evicts.keep_bound(0, || rng.next_u64());
        }
        assert!(evicts.bytes_used() <= (1 << 19) + 1_024, "{}", evicts.bytes_used());
        assert!(evicts.counters().evicted > 1_000);
    }

    #[test]
    fn unless_it_is_asked_for_nothing_is_given_up() {
        let mut store = store(Eviction::None);
        let mut number = 0;
        while store.make_room(0, || 0) {
            put(&mut store, &format!("key-{number}"), 0);
            number += 1;
        }
        assert_eq!((store.len(), store.counters().evicted), (number, 0));
    }
}
