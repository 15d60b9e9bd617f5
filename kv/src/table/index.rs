//! From a key's hash to where its entry lies: extendible hashing.
//!
//! ```text
//!   hash word   [ top bits | ............................ ]
//!                    |
//!   directory   [ 0 0 1 2 ]   the top `depth` bits choose a segment; one of less depth has many places
//!                  |   \
//!   segments    (0: 0…) (1: 10…) (2: 11…)      each a small hash table of (hash word, cell)
//! ```
//! A segment that is full splits in two by the next bit of the hash word, which lies in the index:
//! no key is read for that. So growth costs at most one split at a time, some microseconds, however
//! large the table is. Sparse neighbours merge, and the directory halves when no segment needs its
//! last bit.
//!
//! After Fagin, Nievergelt, Pippenger, Strong: "Extendible hashing: a fast access method for
//! dynamic files" (1979).

#[cfg(test)]
mod recount;

use super::arena::CellRef;
use super::chunked::Chunked;
use super::hash::KeyHash;
use super::segment::{Room, Segment, Slot};

/// The most bits of the hash word that choose a segment. With 2^18 segments, 250 to 470 million
/// keys, the directory has 1 MiB, which is what its last doubling writes; beyond that the segments
/// themselves grow.
pub(super) const DEPTH_MAX: u32 = 18;

/// Neighbours merge when they hold this many together: it fills three quarters of a table of 1,024
/// buckets, and is far from the 1,344 at which they would split again.
const MERGE_LEN_MAX: usize = 768;

/// Removals look for something to merge or shrink when a segment's length is a multiple of this:
/// rarely enough to cost nothing, often enough to miss little.
const TIDY_EVERY: usize = 32;

#[derive(Debug)]
pub(super) struct Index {
    /// By the top `depth` bits of the hash word: which segment.
    directory: Vec<u32>,
    segments: Chunked<Segment>,
    /// How many segments have each depth: when the last of the greatest goes, the directory halves.
    depths: [u32; DEPTH_MAX as usize + 1],
    depth: u32,
    len: usize,
    /// The bytes of the hash tables in all segments.
    tables_bytes: usize,
    work: Work,
}

/// What growing and shrinking has cost so far. The difference over one operation shows that each
/// costs little.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Work {
    /// Slots of the index that were moved, 8 bytes each.
    pub slots_moved: u64,
    /// Places of the directory that were written, 4 bytes each.
    pub places_written: u64,
}

impl Default for Index {
    fn default() -> Self {
        let mut segments = Chunked::default();
        segments.push(Segment::new(0, 0));
        let mut depths = [0; DEPTH_MAX as usize + 1];
        depths[0] = 1;
        let (directory, work) = (vec![0], Work::default());
        Self { directory, segments, depths, depth: 0, len: 0, tables_bytes: 0, work }
    }
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn work(&self) -> Work {
        self.work
    }

    /// The bytes held from the allocator, in O(1).
    pub(super) fn bytes_held(&self) -> usize {
        let directory = self.directory.capacity() * size_of::<u32>();
        directory + self.segments.bytes_held() + self.tables_bytes
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    pub(super) fn segment(&self, id: usize) -> &Segment {
        &self.segments[id]
    }

    pub(super) fn segment_mut(&mut self, id: usize) -> &mut Segment {
        &mut self.segments[id]
    }

    /// The segment of a hash word.
    #[inline]
    pub(super) fn segment_of(&self, hash: KeyHash) -> usize {
        // In 64 bits, since with depth 0 all 32 bits are shifted out.
        self.directory[((hash.word() as u64) >> (32 - self.depth)) as usize] as usize
    }

    /// Has what a search for this hash reads first brought into the cache.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        self.segments[self.segment_of(hash)].prefetch(hash);
    }

    /// The cell of the entry with this hash for which `is_it` holds.
    #[inline]
    pub(super) fn find(
        &self,
        hash: KeyHash,
        is_it: impl FnMut(CellRef) -> bool,
    ) -> Option<CellRef> {
        self.segments[self.segment_of(hash)].find(hash, is_it)
    }

    /// Adds an entry that is not there yet.
    pub(super) fn insert(&mut self, hash: KeyHash, cell: CellRef, expires_at: Option<u64>) {
        let mut id = self.segment_of(hash);
        loop {
            match self.segments[id].room() {
                Room::Enough => break,
                Room::Lines(lines) => self.rebuild(id, lines),
                Room::Split => {
                    self.split(id);
                    id = self.segment_of(hash);
                }
            }
        }
        self.segments[id].insert(Slot { hash, cell });
        self.note_expiry(hash, expires_at);
        self.len += 1;
    }

    /// Notes when an entry of this hash will expire.
    pub(super) fn note_expiry(&mut self, hash: KeyHash, expires_at: Option<u64>) {
        if let Some(at) = expires_at {
            let id = self.segment_of(hash);
            self.segments[id].note_expiry(at);
        }
    }

    /// Notes that an entry has moved.
    pub(super) fn set_cell(&mut self, hash: KeyHash, from: CellRef, to: CellRef) {
        let id = self.segment_of(hash);
        self.segments[id].set_cell(hash, from, to);
    }

    pub(super) fn remove(&mut self, hash: KeyHash, cell: CellRef) {
        let id = self.segment_of(hash);
        self.segments[id].remove(hash, cell);
        self.len -= 1;
        if self.segments[id].len().is_multiple_of(TIDY_EVERY) {
            self.tidy(hash);
        }
    }

    /// The last segment with its content, for a table that is taken apart.
    pub(super) fn pop_segment(&mut self) -> Option<Segment> {
        let segment = self.segments.pop()?;
        self.tables_bytes -= segment.table_bytes();
        self.len -= segment.len();
        Some(segment)
    }

    fn rebuild(&mut self, id: usize, lines: usize) {
        let segment = &mut self.segments[id];
        self.tables_bytes -= segment.table_bytes();
        self.work.slots_moved += segment.len() as u64;
        segment.rebuild(lines);
        self.tables_bytes += segment.table_bytes();
    }

    fn split(&mut self, id: usize) {
        if self.segments[id].depth() == self.depth {
            self.double_directory();
        }
        let segment = &mut self.segments[id];
        self.depths[segment.depth() as usize] -= 1;
        self.depths[segment.depth() as usize + 1] += 2;
        self.tables_bytes -= segment.table_bytes();
        self.work.slots_moved += segment.len() as u64;
        let upper = segment.split();
        self.tables_bytes += segment.table_bytes() + upper.table_bytes();
        self.segments.push(upper);
        self.enter(self.segments.len() - 1);
    }

    /// Merges and shrinks around a hash word, as long as there is something to.
    fn tidy(&mut self, hash: KeyHash) {
        loop {
            let id = self.segment_of(hash);
            let segment = &self.segments[id];
            if segment.len() <= MERGE_LEN_MAX && segment.depth() > 0 {
                let buddy = self.segment_of(segment.buddy());
                let (depth, len) = (segment.depth(), segment.len());
                let other = &self.segments[buddy];
                if other.depth() == depth && other.len() + len <= MERGE_LEN_MAX {
                    self.merge(id, buddy);
                    continue;
                }
            }
            if let Some(lines) = segment.shrunk() {
                self.rebuild(id, lines);
            }
            return;
        }
    }

    /// Puts two buddies into one segment, in the place of the first of them.
    fn merge(&mut self, id: usize, buddy: usize) {
        let depth = self.segments[id].depth() as usize;
        self.depths[depth] -= 2;
        self.depths[depth - 1] += 1;
        let (into, from) = (id.min(buddy), id.max(buddy));
        let from = self.take_segment(from);
        let into_segment = &mut self.segments[into];
        self.tables_bytes -= from.table_bytes() + into_segment.table_bytes();
        self.work.slots_moved += into_segment.merge(from);
        self.tables_bytes += self.segments[into].table_bytes();
        self.enter(into);
        if self.depths[self.depth as usize] == 0 {
            self.halve_directory();
        }
    }

    /// Takes a segment out; the last one gets its number.
    fn take_segment(&mut self, id: usize) -> Segment {
        let segment = self.segments.swap_remove(id);
        if id < self.segments.len() {
            self.enter(id);
        }
        segment
    }

    /// Writes a segment's number into its places of the directory.
    fn enter(&mut self, id: usize) {
        let segment = &self.segments[id];
        let first = (segment.first_word() as u64 >> (32 - self.depth)) as usize;
        let places = 1 << (self.depth - segment.depth());
        self.directory[first..first + places].fill(id as u32);
        self.work.places_written += places as u64;
    }

    fn double_directory(&mut self) {
        let mut doubled = Vec::with_capacity(self.directory.len() * 2);
        doubled.extend(self.directory.iter().flat_map(|&id| [id, id]));
        self.work.places_written += doubled.len() as u64;
        self.directory = doubled;
        self.depth += 1;
    }

    fn halve_directory(&mut self) {
        self.directory = self.directory.iter().step_by(2).copied().collect();
        self.work.places_written += self.directory.len() as u64;
        self.depth -= 1;
    }
}
