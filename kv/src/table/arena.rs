//! The memory of a shard's entries.
//!
//! Pages of 64 KiB are divided in cells of 16 bytes; an entry takes a run of cells of its size
//! class, and a page holds runs of one class. Free runs are chained within their page. New entries
//! go to the fullest page of their class that has room, so that sparse ones drain; a page that
//! becomes empty is given back, and what does not drain by itself is moved out by
//! compaction.

use super::class::{CELL_BYTES, Class};
use super::entry::{self, Entry, NewEntry, NewValue, Shape};
use super::pages::{PAGE_BYTES, PAGE_CELLS, Pages};
use super::slab::Slab;
use std::fmt;

pub use super::pages::PAGES_MAX;

/// Where an entry lies: the number of its first cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CellRef(u32);

impl CellRef {
    pub(super) fn new(page: u32, cell: usize) -> Self {
        debug_assert!(page < PAGES_MAX && cell < PAGE_CELLS, "page {page} cell {cell}");
        Self(page * PAGE_CELLS as u32 + cell as u32)
    }

    /// From [`CellRef::number`].
    #[inline]
    pub(super) const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Below 2^32 - 1.
    #[inline]
    pub(super) const fn number(self) -> u32 {
        self.0
    }

    #[inline]
    pub(super) const fn page(self) -> u32 {
        self.0 / PAGE_CELLS as u32
    }

    /// The cell within its page.
    #[inline]
    pub(super) const fn cell(self) -> usize {
        self.0 as usize % PAGE_CELLS
    }

    /// The first byte within its page.
    #[inline]
    pub(super) const fn starts(self) -> usize {
        self.cell() * CELL_BYTES
    }
}

/// A write found no memory: all pages that the arena may have are taken, and none has room for this
/// size. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaFull {
    /// The most pages of 64 KiB that this arena may have.
    pub pages_max: u32,
}

impl fmt::Display for ArenaFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = self.pages_max as usize * (PAGE_BYTES / 1_024);
        write!(
            f,
            "the memory of this shard is full: all {} pages ({kib} KiB) that it may have for entries \
             are taken; delete keys, or spread the partitions over more shards",
            self.pages_max
        )
    }
}

impl std::error::Error for ArenaFull {}

/// The memory of the entries of one shard, shared by its tables.
#[derive(Debug)]
pub struct Arena {
    pages: Pages,
    apart: Slab,
    /// The bytes of all runs that hold an entry.
    runs_bytes: u64,
}

impl Arena {
    /// An arena of at most so many pages of 64 KiB: [`PAGES_MAX`] if nothing else limits it. What
    /// lies apart, values above 8 KiB, is not part of that.
    pub fn new(pages_max: u32) -> Self {
        let pages = Pages::new(pages_max.min(PAGES_MAX));
        Self { pages, apart: Slab::default(), runs_bytes: 0 }
    }

    /// The bytes that entries occupy: their runs, rounded up to the size class, and the keys and
    /// values that lie apart.
    pub fn bytes_used(&self) -> u64 {
        self.runs_bytes + self.apart.bytes()
    }

    /// The bytes held from the allocator: all pages, the one kept in reserve too, the tables of
    /// pages and of what lies apart, and that itself. The allocator's own overhead is not known
    /// here.
    pub fn bytes_held(&self) -> u64 {
        self.pages.bytes_held() + self.apart.bytes() + self.apart.slots_bytes() as u64
    }

    /// The bytes of pages that no entry uses: what compaction works on.
    pub fn bytes_spare(&self) -> u64 {
        self.pages.count() as u64 * PAGE_BYTES as u64 - self.runs_bytes
    }

    /// Pages that it may have more.
    #[inline]
    pub fn pages_left(&self) -> u32 {
        self.pages.left()
    }

    pub(super) fn pages_mut(&mut self) -> &mut Pages {
        &mut self.pages
    }

    #[inline]
    pub(super) fn entry(&self, cell: CellRef) -> Entry<'_> {
        Entry::new(&self.pages.bytes(cell.page())[cell.starts()..], &self.apart)
    }

    /// Has the beginning of an entry brought into the cache.
    #[inline]
    pub fn prefetch(&self, cell: CellRef) {
        catena_engine::prefetch(&self.pages.bytes(cell.page())[cell.starts()]);
    }

    /// Stores a new entry.
    pub(super) fn insert(&mut self, entry: NewEntry<'_>) -> Result<CellRef, ArenaFull> {
        let shape = Shape::of(&entry);
        let cell = self.take(Class::of(shape.run_bytes))?;
        self.write(cell, entry, shape);
        Ok(cell)
    }

    /// Stores an entry in place of the one at `cell`; the result tells where. Without room nothing
    /// changes.
    pub(super) fn replace(
        &mut self,
        cell: CellRef,
        entry: NewEntry<'_>,
    ) -> Result<CellRef, ArenaFull> {
        let shape = Shape::of(&entry);
        if Class::of(shape.run_bytes) == self.pages.class(cell.page()) {
            self.free_apart(cell);
            self.write(cell, entry, shape);
            return Ok(cell);
        }
        let new = self.insert(entry)?;
        self.remove(cell);
        Ok(new)
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, cell: CellRef) {
        self.free_apart(cell);
        self.give_back(cell);
    }

    /// Sets or takes away an expiry; the result tells where the entry lies now. Without room
    /// nothing changes.
    pub(super) fn set_expiry(
        &mut self,
        cell: CellRef,
        expires_at: Option<u64>,
    ) -> Result<CellRef, ArenaFull> {
        let entry = self.entry(cell);
        let len = entry.len();
        let shape = Shape::with_expiry(entry, expires_at.is_some());
        if !shape.is_as_in(entry) {
            // At the edge of the largest run: key or value must go apart now, or lie apart no more.
            let (key, value) = (entry.key().to_vec(), entry.value().bytes().to_vec());
            let (index, touched) = (entry.index(), entry.touched());
            let value = NewValue::Copied(&value);
            return self.replace(cell, NewEntry { key: &key, value, index, expires_at, touched });
        }
        let len_after = shape.run_bytes;
        if Class::of(len_after) == self.pages.class(cell.page()) {
            entry::set_expiry(self.pages.run_mut(cell), len, expires_at);
            return Ok(cell);
        }
        let new = self.take(Class::of(len_after))?;
        if len_after < len {
            entry::set_expiry(self.pages.run_mut(cell), len, expires_at);
            self.pages.copy(cell, new, len_after);
        } else {
            self.pages.copy(cell, new, len);
            entry::set_expiry(self.pages.run_mut(new), len, expires_at);
        }
        self.give_back(cell);
        Ok(new)
    }

    pub(super) fn set_index(&mut self, cell: CellRef, index: u64) {
        entry::set_index(self.pages.run_mut(cell), index);
    }

    pub(super) fn set_touched(&mut self, cell: CellRef, stamp: u16) {
        entry::set_touched(self.pages.run_mut(cell), stamp);
    }

    /// Moves an entry into another run of its class; the result tells which.
    pub(super) fn relocate(&mut self, cell: CellRef) -> Result<CellRef, ArenaFull> {
        let len = self.entry(cell).len();
        let new = self.take(self.pages.class(cell.page()))?;
        self.pages.copy(cell, new, len);
        self.give_back(cell);
        Ok(new)
    }

    fn take(&mut self, class: Class) -> Result<CellRef, ArenaFull> {
        let cell = self.pages.take(class)?;
        self.runs_bytes += class.bytes() as u64;
        Ok(cell)
    }

    fn give_back(&mut self, cell: CellRef) {
        self.runs_bytes -= self.pages.class(cell.page()).bytes() as u64;
        self.pages.give_back(cell);
    }

    fn write(&mut self, cell: CellRef, entry: NewEntry<'_>, shape: Shape) {
        entry::write(self.pages.run_mut(cell), &mut self.apart, entry, shape);
    }

    /// Frees what of an entry lies apart.
    fn free_apart(&mut self, cell: CellRef) {
        for number in self.entry(cell).apart() {
            self.apart.remove(number);
        }
    }
}

#[cfg(test)]
impl Arena {
    /// Panics if the counters do not add up. The result is the number of entries.
    pub(super) fn recount(&self) -> usize {
        let (bytes, entries) = self.pages.recount();
        assert_eq!(self.runs_bytes, bytes);
        self.apart.recount();
        entries
    }
}
