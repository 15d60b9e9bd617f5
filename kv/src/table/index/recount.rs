//! Counts again what [`Index`] keeps count of, from its segments.

use super::*;

impl Index {
    /// Panics if anything does not add up. `expires_at` is the truth about an entry.
    pub(in crate::table) fn recount(&self, expires_at: impl Fn(CellRef) -> Option<u64>) {
        assert_eq!(self.directory.len(), 1 << self.depth);
        let (mut len, mut bytes, mut places) = (0, 0, 0);
        let mut depths = [0; DEPTH_MAX as usize + 1];
        for id in 0..self.segments.len() {
            let segment = &self.segments[id];
            let words = segment.first_word()..=segment.last_word();
            for place in (0..self.directory.len()).filter(|&at| self.directory[at] as usize == id) {
                let first_word = ((place as u64) << (32 - self.depth)) as u32;
                assert!(words.contains(&first_word), "place {place} names segment {id}");
                places += 1;
            }
            for slot in segment.iter() {
                assert!(words.contains(&slot.hash.word()), "a slot in the wrong segment {id}");
                let at = expires_at(slot.cell).unwrap_or(u64::MAX);
                assert!(segment.earliest() <= at, "an entry of segment {id} expires before");
            }
            depths[segment.depth() as usize] += 1;
            len += segment.len();
            bytes += segment.table_bytes();
        }
        assert_eq!(places, self.directory.len());
        assert_eq!((len, bytes, depths), (self.len, self.tables_bytes, self.depths));
        assert!(self.depth == 0 || depths[self.depth as usize] > 0, "the directory is too large");
    }
}
