//! What a shard does beside requests, a little at a time: it ends what has expired, gives up keys for which
//! there is no memory, frees what was cleared, and empties sparse pages.
//!
//! Each step is bounded by what it looks at, so that it takes some tens of microseconds, or some hundred
//! while memory is short by much; between two of them requests are served.

use crate::slot::Slot;
use crate::store::Store;

/// Where upkeep stands between two steps.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// The place of the partition that is swept.
    sweeping: usize,
    /// What was looked at and found in this round of sweeps.
    looked: usize,
    expired: usize,
    /// When the next round may begin, in Unix milliseconds.
    next_round_ms: u64,
}

/// Buckets and segments that a step of a sweep looks at: 256 entries that are not in the cache take some
/// 25 µs.
const SWEEP_LOOKS: usize = 256;

/// Entries of cleared tables that a step frees.
const BURIED: usize = 1_024;

/// Entries that a step moves out of sparse pages.
const MOVED: usize = 64;

/// From one round of sweeps to the next, in milliseconds, if it found little: what has expired is hidden
/// anyway, a round is about memory alone.
const ROUND_INTERVAL_MS: u64 = 1_000;

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is more to do, and it pays: soon.
    More,
    /// There is more of a round that finds little: it may take its time.
    Later,
    /// Nothing for now.
    Idle,
}

impl Upkeep {
    /// One step. `random` gives random bits.
    pub fn step(&mut self, store: &mut Store, now_ms: u64, random: impl FnMut() -> u64) -> Step {
        store.free_scratch();
        let frees = self.free(store) | store.keep_bound(now_ms, random);
        let sweep = self.sweep(store, now_ms);
        if frees { Step::More } else { sweep }
    }

    /// Frees what was cleared, then what lies sparsely. True if there is more.
    fn free(&self, store: &mut Store) -> bool {
        let (partitions, memory) = store.parts();
        if !memory.graveyard.is_empty() {
            memory.graveyard.bury(&mut memory.arena, BURIED);
            return true;
        }
        for _ in 0..MOVED {
            let Some(cell) = memory.arena.next_to_move() else { return false };
            let key = memory.arena.key_at(cell);
            let (slot, hash) = (Slot::of(key), memory.hash(key));
            let place = partitions.place_of(slot).expect("keys of this shard lie in its memory");
            partitions.at(place).table_mut().relocate(&mut memory.arena, hash, cell);
        }
        true
    }

    fn sweep(&mut self, store: &mut Store, now_ms: u64) -> Step {
        if self.sweeping == 0 && self.looked == 0 && now_ms < self.next_round_ms {
            return Step::Idle;
        }
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut left = SWEEP_LOOKS;
        while left > 0 && self.sweeping < store.partitions().len() {
            let (partitions, memory) = store.parts();
            let table = partitions.at(self.sweeping).table_mut();
            let swept = table.sweep(&memory.arena, now_ms, left, |entry| {
                keys.push(entry.key().to_vec());
            });
            // A partition without expiries costs a look too.
            let looked = swept.looked.max(1);
            self.looked += looked;
            left = left.saturating_sub(looked);
            self.sweeping += usize::from(swept.round_ended);
        }
        // Those whose end cannot be logged now, or is on its way, are no reason to go on.
        self.expired += keys.iter().filter(|key| store.expire(key, now_ms)).count();
        if self.sweeping < store.partitions().len() {
            let pays = self.expired * 8 >= self.looked;
            return if pays { Step::More } else { Step::Later };
        }
        let pays = self.expired * 4 >= self.looked;
        self.next_round_ms = if pays { now_ms } else { now_ms + ROUND_INTERVAL_MS };
        (self.sweeping, self.looked, self.expired) = (0, 0, 0);
        if pays { Step::More } else { Step::Idle }
    }
}

impl Store {
    /// Ends a key that has expired. False: it was not ended now.
    fn expire(&mut self, key: &[u8], now_ms: u64) -> bool {
        let Ok(place) = self.place_of(Slot::of(key)) else { return false };
        let mut keyspace = self.keyspace(place, now_ms);
        // It looks whether the newest state has expired, and ends it then.
        keyspace.key(key).is_ok_and(|key| keyspace.end_if_expired(&key))
    }
}
