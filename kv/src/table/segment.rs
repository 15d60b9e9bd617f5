//! A segment of the index: a small hash table of the hash words that share their top bits.

use super::arena::CellRef;
use super::hash::KeyHash;
use super::index::DEPTH_MAX;
use super::slots::Slots;

/// Lines at which a segment splits instead of growing: moving 1,568 slots takes some microseconds,
/// and what a segment has beside its lines is then a tenth of a byte a key.
const LINES_MAX: usize = 256;

/// What the index knows of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) hash: KeyHash,
    pub(super) cell: CellRef,
}

/// What a segment needs before it takes one more slot.
pub(super) enum Room {
    Enough,
    /// To be written anew with so many lines.
    Lines(usize),
    Split,
}

/// One cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Segment {
    slots: Slots,
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
        let (slots, never) = (Slots::default(), u64::MAX);
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
        self.slots.bytes()
    }

    pub(super) fn buckets(&self) -> usize {
        self.slots.places()
    }

    /// What stands in a bucket, below [`buckets`](Self::buckets).
    pub(super) fn bucket(&self, bucket: usize) -> Option<Slot> {
        self.slots.at(bucket)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter()
    }

    /// Has what a search for this hash reads first brought into the cache.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        self.slots.prefetch(hash);
    }

    #[inline]
    pub(super) fn find(
        &self,
        hash: KeyHash,
        is_it: impl FnMut(CellRef) -> bool,
    ) -> Option<CellRef> {
        self.slots.find(hash, is_it)
    }

    pub(super) fn set_cell(&mut self, hash: KeyHash, from: CellRef, to: CellRef) {
        self.slots.set_cell(hash, from, to);
    }

    pub(super) fn remove(&mut self, hash: KeyHash, cell: CellRef) {
        self.slots.remove(hash, cell);
    }

    /// Adds a slot; there is [`Room::Enough`].
    pub(super) fn insert(&mut self, slot: Slot) {
        self.slots.insert(slot);
    }

    pub(super) fn note_expiry(&mut self, at: u64) {
        self.earliest = self.earliest.min(at);
        self.earliest_seen = self.earliest_seen.min(at);
    }

    /// No entry expires before.
    pub(super) fn earliest(&self) -> u64 {
        self.earliest
    }

    /// Whether a sweep of it was begun and not ended.
    pub(super) fn is_half_swept(&self) -> bool {
        self.swept > 0
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
        for slot in (from..to).filter_map(|bucket| self.slots.at(bucket)) {
            self.earliest_seen = self.earliest_seen.min(visit(slot).unwrap_or(u64::MAX));
        }
        self.swept = to as u32;
        if to == end {
            (self.earliest, self.swept) = (self.earliest_seen, 0);
        }
        (to - from, to == end)
    }

    #[inline]
    pub(super) fn room(&self) -> Room {
        if !self.slots.is_full() {
            return Room::Enough;
        }
        let lines = self.slots.lines();
        if lines < LINES_MAX || self.depth() == DEPTH_MAX {
            Room::Lines((lines * 2).max(1))
        } else {
            Room::Split
        }
    }

    /// The lines that it should have instead, if it has far too many.
    pub(super) fn shrunk(&self) -> Option<usize> {
        let lines = self.slots.lines();
        match self.len() {
            0 => (lines > 0).then_some(0),
            len => (lines > 1 && len * 4 <= Slots::capacity_of(lines)).then_some(lines / 2),
        }
    }

    /// Moves all slots into a table of so many lines.
    pub(super) fn rebuild(&mut self, lines: usize) {
        self.slots = Slots::with(lines, self.slots.iter());
        self.swept = 0;
    }

    /// Keeps the lower half of its hash words; the result has the upper.
    pub(super) fn split(&mut self) -> Self {
        let bit = 1 << (31 - self.depth);
        let is_upper = |slot: &Slot| slot.hash.word() & bit != 0;
        let upper_len = self.slots.iter().filter(is_upper).count();
        let lower_len = self.len() - upper_len;
        let upper = self.slots.iter().filter(is_upper);
        let upper = Slots::with(Slots::lines_for(upper_len + 1), upper);
        let lower = self.slots.iter().filter(|slot| !is_upper(slot));
        self.slots = Slots::with(Slots::lines_for(lower_len + 1), lower);
        self.depth += 1;
        self.swept = 0;
        Self { slots: upper, first_word: self.first_word | bit, ..*self }
    }

    /// Takes in its buddy. The result is the number of slots that were moved.
    pub(super) fn merge(&mut self, buddy: Self) -> u64 {
        let moved = self.len() + buddy.len();
        let slots = self.slots.iter().chain(buddy.slots.iter());
        self.slots = Slots::with(Slots::lines_for(moved), slots);
        self.depth -= 1;
        self.first_word &= buddy.first_word;
        self.earliest = self.earliest.min(buddy.earliest);
        self.swept = 0;
        moved as u64
    }
}
