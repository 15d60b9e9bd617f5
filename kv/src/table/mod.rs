//! The keys of one partition, in memory.
//!
//! ```text
//!   key -- KeyHash --> Index: directory -> segment -> (hash word, cell)      one per table
//!                                                            |
//!                                      Arena: page -> run of cells: Entry    one per shard
//! ```
//! | file | idea |
//! |---|---|
//! | `hash` | the hash of a key, and the order of a walk |
//! | `index`, `segment`, `slots` | from a hash to a cell: extendible hashing, which grows without a pause |
//! | `arena`, `pages`, `class`, `slab` | the memory of entries: pages of runs, and large values apart |
//! | `entry` | how an entry lies in its run |
//! | `walk`, `sweep` | going through all entries: in hash order, for expired ones, by sample |
//! | `compact`, `graveyard` | memory comes back: sparse pages, tables that were cleared |
//! | `chunked` | a vector that grows without a pause |
//!
//! A table holds committed state only. It knows no clock: instants are arguments in milliseconds of
//! unix time, and an entry that has expired stays, and is shown, until it is removed: by the effect
//! of a deletion, so that all replicas remove it at the same index.

mod arena;
mod chunked;
mod class;
mod compact;
mod entry;
mod graveyard;
mod hash;
mod index;
mod pages;
mod segment;
mod slab;
mod slots;
mod sweep;
mod walk;

#[cfg(test)]
mod tests;

pub use arena::{Arena, ArenaFull, CellRef, PAGES_MAX};
pub use entry::{Entry, KEY_BYTES_MAX, NewEntry, NewValue, Value};
pub use graveyard::Graveyard;
pub use hash::{HashSeed, KeyHash};
pub use index::Work;
pub use sweep::Swept;

use index::Index;

/// The entries of one partition. Their bytes lie in the shard's [`Arena`], which is an argument:
/// always the same one. A table that shall go is [cleared](Self::clear) first, since its cells
/// would stay taken.
#[derive(Debug, Default)]
pub struct Table {
    index: Index,
    /// How many entries have an expiry.
    expiring: usize,
    /// The segment where the sweep stands.
    sweep_at: usize,
}

/// What a put found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replaced {
    /// Nothing: the key is new.
    Nothing,
    /// An entry, expired or not, that is overwritten now.
    Entry,
}

impl Table {
    /// Entries, those that have expired and were not removed yet included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that have an expiry.
    pub fn expiring(&self) -> usize {
        self.expiring
    }

    /// The bytes of its index, held from the allocator. The entries are the [`Arena`]'s.
    pub fn bytes_held(&self) -> usize {
        self.index.bytes_held()
    }

    /// What growing and shrinking has cost so far.
    pub fn work(&self) -> Work {
        self.index.work()
    }

    /// The entry of a key, whether it has expired or not: what applying effects needs.
    #[inline]
    pub fn get<'a>(&self, arena: &'a Arena, hash: KeyHash, key: &[u8]) -> Option<Entry<'a>> {
        self.find(arena, hash, key).map(|cell| arena.entry(cell))
    }

    /// Has what a search for this hash reads first brought into the cache: for who has several keys to look
    /// up, and wants the memory of all under way before it waits for any. [`Table::locate`] comes next.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        self.index.prefetch(hash);
    }

    /// Where an entry of this hash lies, most likely that of the key. See [`Arena::prefetch`].
    #[inline]
    pub fn locate(&self, hash: KeyHash) -> Option<CellRef> {
        self.index.find(hash, |_| true)
    }

    /// The entry of a key unless it has expired at `now_ms`: what commands see.
    #[inline]
    pub fn get_live<'a>(
        &self,
        arena: &'a Arena,
        hash: KeyHash,
        key: &[u8],
        now_ms: u64,
    ) -> Option<Entry<'a>> {
        self.get(arena, hash, key).filter(|entry| !entry.is_expired(now_ms))
    }

    /// Stores an entry. Where the size class stays the same it is written over the old one.
    ///
    /// # Errors
    /// There is no room; the old entry, if any, is still there.
    ///
    /// # Panics
    /// The key is longer than [`KEY_BYTES_MAX`]: commands are checked before they become effects.
    pub fn put(
        &mut self,
        arena: &mut Arena,
        hash: KeyHash,
        entry: NewEntry<'_>,
    ) -> Result<Replaced, ArenaFull> {
        assert!(entry.key.len() <= KEY_BYTES_MAX, "a key of {} bytes", entry.key.len());
        let expires_at = entry.expires_at;
        let Some(cell) = self.find(arena, hash, entry.key) else {
            let cell = arena.insert(entry)?;
            self.index.insert(hash, cell, expires_at);
            self.expiring += usize::from(expires_at.is_some());
            return Ok(Replaced::Nothing);
        };
        let expired = arena.entry(cell).expires_at();
        let new = arena.replace(cell, entry)?;
        self.moved(hash, cell, new);
        self.expiry_changed(hash, expired, expires_at);
        Ok(Replaced::Entry)
    }

    /// Sets or takes away the expiry of a key, as the write of this index. The result tells whether
    /// the key is there.
    ///
    /// # Errors
    /// The entry has to move for it and there is no room; it is as it was.
    pub fn set_expiry(
        &mut self,
        arena: &mut Arena,
        hash: KeyHash,
        key: &[u8],
        expires_at: Option<u64>,
        index: u64,
    ) -> Result<bool, ArenaFull> {
        let Some(cell) = self.find(arena, hash, key) else { return Ok(false) };
        let expired = arena.entry(cell).expires_at();
        let new = arena.set_expiry(cell, expires_at)?;
        arena.set_index(new, index);
        self.moved(hash, cell, new);
        self.expiry_changed(hash, expired, expires_at);
        Ok(true)
    }

    /// Sets the index of a key's last write. The result tells whether the key is there.
    pub fn set_index(&self, arena: &mut Arena, hash: KeyHash, key: &[u8], index: u64) -> bool {
        let cell = self.find(arena, hash, key);
        cell.inspect(|&cell| arena.set_index(cell, index)).is_some()
    }

    /// Sets the stamp of a key's last access. The result tells whether the key is there.
    pub fn touch(&self, arena: &mut Arena, hash: KeyHash, key: &[u8], stamp: u16) -> bool {
        let cell = self.find(arena, hash, key);
        cell.inspect(|&cell| arena.set_touched(cell, stamp)).is_some()
    }

    /// Takes a key out. The result tells whether it was there.
    pub fn remove(&mut self, arena: &mut Arena, hash: KeyHash, key: &[u8]) -> bool {
        let Some(cell) = self.find(arena, hash, key) else { return false };
        self.expiring -= usize::from(arena.entry(cell).expires_at().is_some());
        self.index.remove(hash, cell);
        arena.remove(cell);
        true
    }

    /// Takes all keys out, in O(1): the [`Graveyard`] frees them piece by piece.
    pub fn clear(&mut self, graveyard: &mut Graveyard) {
        graveyard.receive(std::mem::take(self).index);
    }

    #[inline]
    fn find(&self, arena: &Arena, hash: KeyHash, key: &[u8]) -> Option<CellRef> {
        self.index.find(hash, |cell| arena.entry(cell).key() == key)
    }

    fn moved(&mut self, hash: KeyHash, from: CellRef, to: CellRef) {
        if from != to {
            self.index.set_cell(hash, from, to);
        }
    }

    fn expiry_changed(&mut self, hash: KeyHash, from: Option<u64>, to: Option<u64>) {
        self.expiring -= usize::from(from.is_some());
        self.expiring += usize::from(to.is_some());
        self.index.note_expiry(hash, to);
    }
}
