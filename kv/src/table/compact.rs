//! Emptying sparse pages, so that their memory comes back.
//!
//! After many changes of value sizes, a class may be left with many pages that hold few entries
//! each. A step of compaction moves one entry out of the sparsest page into another page of its
//! class; only pages below three quarters are emptied, and only where the others have room, so that
//! each round gives a page back.
//!
//! An entry does not say which table it belongs to; its key does. So the step is in two parts, with
//! the caller, who knows the tables, between them:
//!
//! ```text
//! while let Some(cell) = arena.next_to_move() {                 // and there is time left
//!     let key = arena.key_at(cell);
//!     let (hash, partition) = (KeyHash::of(&seed, key), partition_of(key));
//!     tables[partition].relocate(&mut arena, hash, cell);
//! }
//! ```

use super::Table;
use super::arena::{Arena, CellRef};
use super::hash::KeyHash;

impl Arena {
    /// The next entry that should be moved. `None` if no page is worth emptying, or if one could
    /// not be emptied because tables that were [cleared](Table::clear) still have entries there:
    /// let them be buried first. Looks at the runs of one page at most, 4,096 of them in the worst
    /// case.
    pub fn next_to_move(&mut self) -> Option<CellRef> {
        self.pages_mut().next_to_move()
    }

    /// The key of the entry at `cell`, which [`next_to_move`](Self::next_to_move) has just named.
    pub fn key_at(&self, cell: CellRef) -> &[u8] {
        self.entry(cell).key()
    }
}

impl Table {
    /// Moves the entry at `cell` elsewhere. Nothing happens if it is none of this table's, because
    /// it was cleared, or if there is no room.
    pub fn relocate(&mut self, arena: &mut Arena, hash: KeyHash, cell: CellRef) {
        if self.index.find(hash, |found| found == cell).is_none() {
            return;
        }
        if let Ok(new) = arena.relocate(cell) {
            self.moved(hash, cell, new);
        }
    }
}
