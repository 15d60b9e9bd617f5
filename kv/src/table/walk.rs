//! Going through a table in hash order, and picking entries at random.

use super::Table;
use super::arena::Arena;
use super::entry::Entry;
use super::hash::KeyHash;
use super::segment::Segment;

/// The most looks at a segment that one step of a walk takes: at some microseconds a look, a step
/// through a table that was nearly emptied ends in time.
const LOOKS_MAX: usize = 16;

impl Table {
    /// One step of a walk over all entries: visits about `count` of those whose hash word is `from`
    /// or more, and says where to go on; `None` is the end. A walk begins at 0.
    ///
    /// Every entry that is there from the beginning of a walk to its end is visited at least once,
    /// whatever is put, removed, split, merged or moved in between: a step takes all entries of a
    /// range of hash words, and the next begins behind. (An entry that goes and comes again may be
    /// missed or met twice.) Nothing is kept between steps. A step may visit none and not be the
    /// last; it looks at segments 16 times at most, so that it visits some 28,000 entries however
    /// many are asked for. Within it the order is arbitrary.
    pub fn walk<'a>(
        &self,
        arena: &'a Arena,
        from: u32,
        count: usize,
        mut visit: impl FnMut(Entry<'a>),
    ) -> Option<u32> {
        let mut from = from;
        let mut visited = 0;
        for _ in 0..LOOKS_MAX {
            let segment = self.index.segment(self.index.segment_of(KeyHash::from_word(from)));
            let to = end_of_step(segment, from, count - visited);
            for slot in segment.iter().filter(|slot| (from..=to).contains(&slot.hash.word())) {
                visited += 1;
                visit(arena.entry(slot.cell));
            }
            from = to.checked_add(1)?;
            // Nearly enough is enough: another look for the last few would cost as much as this
            // one.
            if visited >= count - count / 4 {
                break;
            }
        }
        Some(from)
    }

    /// Visits about `count` entries from a random place on, for an eviction that compares their
    /// [stamps](Entry::touched). Neighbours in the index have nothing in common but bits of their
    /// hash, so they are as good a sample as any. Visits fewer only in a sparse table.
    pub fn sample<'a>(
        &self,
        arena: &'a Arena,
        random: u64,
        count: usize,
        mut visit: impl FnMut(Entry<'a>),
    ) {
        let (word, mut start) = ((random >> 32) as u32, random as u32 as usize);
        let mut id = self.index.segment_of(KeyHash::from_word(word));
        let mut left = count;
        for _ in 0..LOOKS_MAX.min(self.index.segments()) {
            let segment = self.index.segment(id);
            let buckets = segment.buckets();
            let from_start = (0..buckets).map(|bucket| (start + bucket) % buckets);
            let slots = from_start.filter_map(|bucket| segment.bucket(bucket));
            for slot in slots.take(left) {
                left -= 1;
                visit(arena.entry(slot.cell));
            }
            if left == 0 {
                return;
            }
            id = (id + 1) % self.index.segments();
            start = 0;
        }
    }
}

/// The last hash word of a step of about `count` entries. Hash words are uniform, so that a share
/// of the segment's words has that share of its entries: no sorting, and nothing to remember.
fn end_of_step(segment: &Segment, from: u32, count: usize) -> u32 {
    let last = segment.last_word();
    let words = (last - segment.first_word()) as u64 + 1;
    let step = words.saturating_mul(count as u64) / (segment.len() as u64).max(1);
    let to = from as u64 + step.clamp(1, words) - 1;
    to.min(last as u64) as u32
}
