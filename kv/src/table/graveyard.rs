//! Where the content of cleared tables waits to be freed.

use super::arena::Arena;
use super::index::Index;
use super::segment::Segment;

/// The content of cleared tables. Freeing millions of entries at once would be a pause, so it is
/// done a bounded piece at a time. One for each [`Arena`].
#[derive(Debug, Default)]
pub struct Graveyard {
    indexes: Vec<Index>,
    /// The segment that is being taken apart, and its next bucket.
    open: Option<(Segment, usize)>,
    len: usize,
    /// The bytes of what the indexes and the open segment hold.
    bytes_held: usize,
}

impl Graveyard {
    /// Entries that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to free.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty() && self.open.is_none()
    }

    /// The bytes of index memory that wait. The entries' own are still counted by the [`Arena`].
    pub fn bytes_held(&self) -> usize {
        self.bytes_held + self.indexes.capacity() * size_of::<Index>()
    }

    /// Frees what waits in up to `budget` buckets of the index.
    pub fn bury(&mut self, arena: &mut Arena, budget: usize) {
        let mut left = budget;
        while left > 0 {
            left -= 1;
            let Some((segment, bucket)) = self.open.as_mut() else {
                if !self.open_next() {
                    return;
                }
                continue;
            };
            if *bucket == segment.buckets() {
                self.bytes_held -= segment.table_bytes();
                self.open = None;
                continue;
            }
            if let Some(slot) = segment.bucket(*bucket) {
                arena.remove(slot.cell);
                self.len -= 1;
            }
            *bucket += 1;
        }
    }

    pub(super) fn receive(&mut self, index: Index) {
        self.len += index.len();
        self.bytes_held += index.bytes_held();
        self.indexes.push(index);
    }

    /// Opens the next segment; without one the result is false.
    fn open_next(&mut self) -> bool {
        while let Some(index) = self.indexes.last_mut() {
            let held = index.bytes_held();
            match index.pop_segment() {
                Some(segment) => {
                    self.bytes_held -= held - index.bytes_held() - segment.table_bytes();
                    self.open = Some((segment, 0));
                    return true;
                }
                None => {
                    self.bytes_held -= held;
                    self.indexes.pop();
                    if self.indexes.is_empty() {
                        self.indexes = Vec::new();
                    }
                }
            }
        }
        false
    }
}

#[cfg(test)]
impl Graveyard {
    /// Panics if the counters do not add up.
    pub(super) fn recount(&self) {
        let open = self.open.as_ref();
        let in_open = open.map_or(0, |(segment, from)| {
            (*from..segment.buckets()).filter(|&bucket| segment.bucket(bucket).is_some()).count()
        });
        let waiting: usize = self.indexes.iter().map(Index::len).sum();
        assert_eq!(self.len, waiting + in_open);
        let bytes: usize = self.indexes.iter().map(Index::bytes_held).sum();
        assert_eq!(self.bytes_held, bytes + open.map_or(0, |(segment, _)| segment.table_bytes()));
    }
}
