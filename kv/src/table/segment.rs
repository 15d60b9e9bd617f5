//! A segment of the index: a small hash table of the hash words that share their top bits.

use super::arena::CellRef;
use super::hash::KeyHash;
use super::index::DEPTH_MAX;
use hashbrown::HashTable;

/// Buckets at which a segment splits instead of growing: rehashing 1,792 slots takes some
/// microseconds, and what a segment has beside its buckets is then a tenth of a byte a key.
const BUCKETS_MAX: usize = 2_048;

/// A full table whose slots are used to less than this share, in quarters, is full of traces of
/// removed ones: it is written anew in its size. So at least a quarter of its slots is free after,
/// which pays for it.
const REBUILD_BELOW_QUARTERS: usize = 3;

/// What the index knows of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) hash: KeyHash,
    pub(super) cell: CellRef,
}

/// What a segment needs before it takes one more slot.
pub(super) enum Room {
    Enough,
    /// To be written anew with so many buckets.
    Buckets(usize),
    Split,
}

/// One cache line.
#[derive(Debug)]
pub(super) struct Segment {
    slots: HashTable<Slot>,
    /// The top bits that its hash words share, at their place in the word.
    first_word: u32,
    /// How many bits those are.
    depth: u8,
    /// No entry expires before, as far as is known without reading them.
    earliest: u64,
    /// What that becomes when the sweep that is under way has seen all buckets: the earliest of
    /// those it has seen, and of what came since it began.
    earliest_seen: u64,
    /// The next bucket of that sweep; it begins again whenever slots move.
    swept: u32,
}

const _: () = assert!(size_of::<Segment>() == 64);

impl Segment {
    pub(super) fn new(first_word: u32, depth: u8) -> Self {
        let (slots, never) = (HashTable::new(), u64::MAX);
        Self { slots, first_word, depth, earliest: never, earliest_seen: never, swept: 0 }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth as u32
    }

    /// The smallest hash word that belongs here.
    pub(super) fn first_word(&self) -> u32 {
        self.first_word
    }

    /// The largest.
    pub(super) fn last_word(&self) -> u32 {
        self.first_word | (u32::MAX as u64 >> self.depth) as u32
    }

    /// A hash word of the segment that shares all bits but the last.
    pub(super) fn buddy(&self) -> KeyHash {
        debug_assert!(self.depth > 0, "all there is has no buddy");
        KeyHash::from_word(self.first_word ^ (1 << (32 - self.depth)))
    }

    /// The bytes of its table.
    pub(super) fn table_bytes(&self) -> usize {
        self.slots.allocation_size()
    }

    pub(super) fn buckets(&self) -> usize {
        if self.table_bytes() == 0 { 0 } else { self.slots.num_buckets() }
    }

    /// What stands in a bucket, below [`buckets`](Self::buckets).
    pub(super) fn bucket(&self, bucket: usize) -> Option<Slot> {
        self.slots.get_bucket(bucket).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().copied()
    }

    #[inline]
    pub(super) fn find(
        &self,
        hash: KeyHash,
        mut is_it: impl FnMut(CellRef) -> bool,
    ) -> Option<CellRef> {
        let slot = self.slots.find(hash.spread(), |slot| slot.hash == hash && is_it(slot.cell))?;
        Some(slot.cell)
    }

    pub(super) fn set_cell(&mut self, hash: KeyHash, from: CellRef, to: CellRef) {
        let slot = self.slots.find_mut(hash.spread(), |slot| slot.cell == from);
        slot.expect("an entry that moves is in the index").cell = to;
    }

    pub(super) fn remove(&mut self, hash: KeyHash, cell: CellRef) {
        let slot = self.slots.find_entry(hash.spread(), |slot| slot.cell == cell);
        slot.expect("an entry that goes is in the index").remove();
    }

    /// Adds a slot; there is [`Room::Enough`].
    pub(super) fn insert(&mut self, slot: Slot) {
        self.slots.insert_unique(slot.hash.spread(), slot, |slot| slot.hash.spread());
    }

    pub(super) fn note_expiry(&mut self, at: u64) {
        self.earliest = self.earliest.min(at);
        self.earliest_seen = self.earliest_seen.min(at);
    }

    /// No entry expires before.
    pub(super) fn earliest(&self) -> u64 {
        self.earliest
    }

    /// Goes on with a sweep by at most so many buckets: `visit` is given each slot and says when
    /// its entry expires. The result is how many buckets were looked at, and whether those were the
    /// last.
    pub(super) fn sweep(
        &mut self,
        buckets: usize,
        mut visit: impl FnMut(Slot) -> Option<u64>,
    ) -> (usize, bool) {
        if self.swept == 0 {
            self.earliest_seen = u64::MAX;
        }
        let (from, end) = (self.swept as usize, self.buckets());
        let to = end.min(from.saturating_add(buckets));
        for slot in (from..to).filter_map(|bucket| self.slots.get_bucket(bucket)) {
            self.earliest_seen = self.earliest_seen.min(visit(*slot).unwrap_or(u64::MAX));
        }
        self.swept = to as u32;
        if to == end {
            (self.earliest, self.swept) = (self.earliest_seen, 0);
        }
        (to - from, to == end)
    }

    #[inline]
    pub(super) fn room(&self) -> Room {
        if self.slots.len() < self.slots.capacity() { Room::Enough } else { self.room_of_full() }
    }

    #[cold]
    fn room_of_full(&self) -> Room {
        let buckets = self.buckets();
        if self.len() * 4 < capacity_of(buckets) * REBUILD_BELOW_QUARTERS {
            Room::Buckets(buckets)
        } else if buckets < BUCKETS_MAX || self.depth() == DEPTH_MAX {
            Room::Buckets((buckets * 2).max(BUCKETS_MIN))
        } else {
            Room::Split
        }
    }

    /// The buckets that it should have instead, if it has far too many.
    pub(super) fn shrunk(&self) -> Option<usize> {
        let buckets = self.buckets();
        match self.len() {
            0 => (buckets > 0).then_some(0),
            len => {
                (buckets > BUCKETS_MIN && len * 4 <= capacity_of(buckets)).then_some(buckets / 2)
            }
        }
    }

    /// Moves all slots into a table of so many buckets.
    pub(super) fn rebuild(&mut self, buckets: usize) {
        self.slots = table_of(capacity_of(buckets), self.slots.iter().copied());
        self.swept = 0;
    }

    /// Keeps the lower half of its hash words; the result has the upper.
    pub(super) fn split(&mut self) -> Self {
        let bit = 1 << (31 - self.depth);
        let is_upper = |slot: &Slot| slot.hash.word() & bit != 0;
        let upper_len = self.slots.iter().filter(|slot| is_upper(slot)).count();
        let lower_len = self.len() - upper_len;
        let slots = || self.slots.iter().copied();
        let upper = table_of(upper_len + 1, slots().filter(is_upper));
        self.slots = table_of(lower_len + 1, slots().filter(|slot| !is_upper(slot)));
        self.depth += 1;
        self.swept = 0;
        Self { slots: upper, first_word: self.first_word | bit, ..*self }
    }

    /// Takes in its buddy. The result is the number of slots that were moved.
    pub(super) fn merge(&mut self, buddy: Self) -> u64 {
        let moved = self.len() + buddy.len();
        let slots = self.slots.iter().chain(&buddy.slots).copied();
        self.slots = table_of(moved, slots);
        self.depth -= 1;
        self.first_word &= buddy.first_word;
        self.earliest = self.earliest.min(buddy.earliest);
        self.swept = 0;
        moved as u64
    }
}

/// The fewest buckets that a table has, if any: what `hashbrown` allocates at least.
const BUCKETS_MIN: usize = 4;

/// How many slots a table of so many buckets takes: seven eighths, of very small ones all but one.
fn capacity_of(buckets: usize) -> usize {
    if buckets < 8 { buckets.saturating_sub(1) } else { buckets / 8 * 7 }
}

fn table_of(capacity: usize, slots: impl Iterator<Item = Slot>) -> HashTable<Slot> {
    let mut table = HashTable::with_capacity(capacity);
    for slot in slots {
        table.insert_unique(slot.hash.spread(), slot, |slot| slot.hash.spread());
    }
    table
}
