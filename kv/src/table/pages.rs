//! The pages of an arena: which class each has, which of their runs are free, where the next entry
//! goes.

#[cfg(test)]
mod recount;

use super::arena::{ArenaFull, CellRef};
use super::chunked::Chunked;
use super::class::{CELL_BYTES, CLASSES, Class};
use super::entry;

/// Bytes of a page: small enough to come and go in microseconds, large enough that what is known of
/// a page (28 bytes) and of its allocation is below a thousandth.
pub(super) const PAGE_BYTES: usize = 64 * 1_024;

/// Cells of a page.
pub(super) const PAGE_CELLS: usize = PAGE_BYTES / CELL_BYTES;

/// The most pages of an arena: as many as the 32 bits of a cell's number reach, 64 GiB, less one, so that
/// the last number of all is no cell's.
pub const PAGES_MAX: u32 = (1_u64 << 32 >> PAGE_CELLS.ilog2()) as u32 - 1;

/// Pages with room are kept apart by how full they are, in eighths.
pub(super) const BANDS: usize = 8;

/// Pages in so many of the lower bands are worth emptying: below three quarters. Beyond, more than
/// three bytes would have to move for each that comes back.
const EMPTIED_BANDS: usize = 6;

/// The end of a list of pages.
const NONE: u32 = u32::MAX;

/// The end of a page's list of free runs.
const NO_RUN: u16 = u16::MAX;

/// Aligned to cache lines, so that an entry of 64 bytes touches one.
#[derive(Debug)]
#[repr(align(64))]
struct Page([u8; PAGE_BYTES]);

/// What is known of a page outside of it.
#[derive(Clone, Copy, Debug)]
struct PageState {
    class: Class,
    /// The list that it stands in.
    place: Place,
    /// Runs that it has.
    runs: u16,
    /// Runs that hold an entry.
    held: u16,
    /// Runs that ever held one: those behind are free and in no list.
    opened: u16,
    /// The first cell of the first free run in the page's list.
    free: u16,
    next: u32,
    previous: u32,
}

const _: () = assert!(size_of::<PageState>() + size_of::<Option<Box<Page>>>() == 28);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// With room, among the pages of its class that are as full.
    Band(u8),
    /// Without room: in no list.
    Full,
    /// Being emptied: in no list, so that nothing new comes in.
    Aside,
    /// Without memory: in the list of vacant numbers.
    Vacant,
}

#[derive(Debug)]
pub(super) struct Pages {
    memory: Chunked<Option<Box<Page>>>,
    states: Chunked<PageState>,
    classes: Vec<ClassState>,
    /// The first page number without memory.
    vacant: u32,
    /// One empty page, so that an entry that comes and goes does not take a page with it each time.
    reserve: Option<Box<Page>>,
    /// Pages with memory, the reserve included.
    count: u32,
    count_max: u32,
    emptying: Option<Emptying>,
}

/// The page whose entries are moved out, and how far that is.
#[derive(Clone, Copy, Debug)]
struct Emptying {
    page: u32,
    /// The next run to look at.
    run: u16,
}

/// The pages of one class that have room.
#[derive(Clone, Debug)]
struct ClassState {
    /// The first page of each band.
    bands: [u32; BANDS],
    /// A bit for each band that has a page.
    occupied: u8,
    /// Free runs in these pages.
    free: u64,
}

impl Pages {
    pub(super) fn new(count_max: u32) -> Self {
        let class = ClassState { bands: [NONE; BANDS], occupied: 0, free: 0 };
        Self {
            memory: Chunked::default(),
            states: Chunked::default(),
            classes: vec![class; CLASSES],
            vacant: NONE,
            reserve: None,
            count: 0,
            count_max,
            emptying: None,
        }
    }

    /// Pages held from the allocator.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Pages that may be taken more.
    #[inline]
    pub(super) fn left(&self) -> u32 {
        self.count_max - self.count
    }

    pub(super) fn bytes_held(&self) -> u64 {
        let tables = self.memory.bytes_held() + self.states.bytes_held();
        let classes = self.classes.capacity() * size_of::<ClassState>();
        self.count as u64 * PAGE_BYTES as u64 + (tables + classes) as u64
    }

    /// The bytes of a page.
    #[inline]
    pub(super) fn bytes(&self, page: u32) -> &[u8; PAGE_BYTES] {
        &self.memory[page as usize].as_ref().expect("who names a cell has an entry in its page").0
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self, page: u32) -> &mut [u8; PAGE_BYTES] {
        let memory = self.memory[page as usize].as_mut();
        &mut memory.expect("who names a cell has an entry in its page").0
    }

    pub(super) fn class(&self, page: u32) -> Class {
        self.states[page as usize].class
    }

    /// The run at `cell`.
    pub(super) fn run_mut(&mut self, cell: CellRef) -> &mut [u8] {
        let bytes = self.class(cell.page()).bytes();
        &mut self.bytes_mut(cell.page())[cell.starts()..][..bytes]
    }

    /// Copies the first `len` bytes of one run over those of another.
    pub(super) fn copy(&mut self, from: CellRef, to: CellRef, len: usize) {
        let (source, target) = (from.starts()..from.starts() + len, to.starts());
        if from.page() == to.page() {
            self.bytes_mut(to.page()).copy_within(source, target);
            return;
        }
        // Out of its place for the moment, so that both pages can be named: 8 bytes move.
        let page = self.memory[from.page() as usize].take();
        let bytes = &page.as_ref().expect("who names a cell has an entry in its page").0;
        self.bytes_mut(to.page())[target..][..len].copy_from_slice(&bytes[source]);
        self.memory[from.page() as usize] = page;
    }

    /// A free run of this class, in the fullest page that has one.
    pub(super) fn take(&mut self, class: Class) -> Result<CellRef, ArenaFull> {
        let of_class = &self.classes[class.number()];
        let page = match of_class.occupied.checked_ilog2() {
            Some(fullest) => of_class.bands[fullest as usize],
            None => self.open(class)?,
        };
        self.classes[class.number()].free -= 1;
        let state = &mut self.states[page as usize];
        state.held += 1;
        let cell = if state.free == NO_RUN {
            state.opened += 1;
            (state.opened as usize - 1) * class.cells()
        } else {
            let cell = state.free as usize;
            let next = entry::next_free(&self.bytes(page)[cell * CELL_BYTES..]);
            self.states[page as usize].free = next;
            cell
        };
        self.file(page);
        Ok(CellRef::new(page, cell))
    }

    /// Gives a run back, and with the last one of a page that too.
    pub(super) fn give_back(&mut self, cell: CellRef) {
        let page = cell.page();
        let free = self.states[page as usize].free;
        entry::set_free(self.run_mut(cell), free);
        let state = &mut self.states[page as usize];
        state.free = cell.cell() as u16;
        state.held -= 1;
        let (class, held, aside) = (state.class, state.held, state.place == Place::Aside);
        if !aside {
            self.classes[class.number()].free += 1;
        }
        match (held, aside) {
            (0, _) => self.close(page),
            (_, true) => {}
            (_, false) => self.file(page),
        }
    }

    /// The next run that holds an entry in a page that is worth emptying; none if there is no such
    /// page, or if one has been gone through in vain. Looks at the runs of one page at most.
    pub(super) fn next_to_move(&mut self) -> Option<CellRef> {
        let Emptying { page, run: first } = match self.emptying {
            Some(emptying) => emptying,
            None => Emptying { page: self.set_sparsest_aside()?, run: 0 },
        };
        let state = &self.states[page as usize];
        let (class, opened) = (state.class, state.opened);
        for run in first..opened {
            let cell = CellRef::new(page, run as usize * class.cells());
            if entry::is_held(&self.bytes(page)[cell.starts()..]) {
                self.emptying = Some(Emptying { page, run: run + 1 });
                return Some(cell);
            }
        }
        // What is left belongs to tables that were cleared: it goes when they are buried.
        self.emptying = None;
        self.states[page as usize].place = Place::Full;
        self.classes[class.number()].free += self.free_runs(page);
        self.file(page);
        None
    }

    /// Takes the sparsest page out of the lists whose entries find room in other pages of their
    /// class.
    fn set_sparsest_aside(&mut self) -> Option<u32> {
        let (class, page) = (0..EMPTIED_BANDS)
            .flat_map(|band| self.classes.iter().enumerate().map(move |class| (band, class)))
            .map(|(band, (number, class))| (number, class.bands[band]))
            .find(|&(number, page)| {
                let room = |page| self.classes[number].free - self.free_runs(page);
                page != NONE && room(page) >= self.states[page as usize].held as u64
            })?;
        self.classes[class].free -= self.free_runs(page);
        self.unlink(page);
        self.states[page as usize].place = Place::Aside;
        Some(page)
    }

    fn free_runs(&self, page: u32) -> u64 {
        let state = &self.states[page as usize];
        (state.runs - state.held) as u64
    }

    /// Gives a class one more page.
    fn open(&mut self, class: Class) -> Result<u32, ArenaFull> {
        let memory = match self.reserve.take() {
            Some(page) => page,
            None if self.count == self.count_max => {
                return Err(ArenaFull { pages_max: self.count_max });
            }
            None => {
                self.count += 1;
                Box::new(Page([0; PAGE_BYTES]))
            }
        };
        let runs = (PAGE_CELLS / class.cells()) as u16;
        let (place, free) = (Place::Full, NO_RUN);
        let state =
            PageState { class, place, runs, held: 0, opened: 0, free, next: NONE, previous: NONE };
        let page = self.vacant;
        let page = if page == NONE {
            self.memory.push(Some(memory));
            self.states.push(state);
            self.states.len() as u32 - 1
        } else {
            self.vacant = self.states[page as usize].next;
            self.memory[page as usize] = Some(memory);
            self.states[page as usize] = state;
            page
        };
        self.classes[class.number()].free += runs as u64;
        self.file(page);
        Ok(page)
    }

    /// Gives the memory of an empty page back.
    fn close(&mut self, page: u32) {
        if self.states[page as usize].place == Place::Aside {
            self.emptying = None;
        } else {
            let class = self.states[page as usize].class;
            self.classes[class.number()].free -= self.free_runs(page);
            self.unlink(page);
        }
        let memory = self.memory[page as usize].take();
        if self.reserve.is_none() {
            self.reserve = memory;
        } else {
            self.count -= 1;
        }
        let state = &mut self.states[page as usize];
        state.place = Place::Vacant;
        state.next = std::mem::replace(&mut self.vacant, page);
    }

    /// Puts a page into the list where it belongs now.
    fn file(&mut self, page: u32) {
        let PageState { class, place, runs, held, .. } = self.states[page as usize];
        let band = held as usize * BANDS / runs as usize;
        let now = if held == runs { Place::Full } else { Place::Band(band as u8) };
        if now == place {
            return;
        }
        self.unlink(page);
        self.states[page as usize].place = now;
        if now == Place::Full {
            return;
        }
        let of_class = &mut self.classes[class.number()];
        of_class.occupied |= 1 << band;
        let next = std::mem::replace(&mut of_class.bands[band], page);
        let state = &mut self.states[page as usize];
        (state.previous, state.next) = (NONE, next);
        if next != NONE {
            self.states[next as usize].previous = page;
        }
    }

    /// Takes a page out of its list, if it stands in one.
    fn unlink(&mut self, page: u32) {
        let PageState { class, place, next, previous, .. } = self.states[page as usize];
        let Place::Band(band) = place else { return };
        if next != NONE {
            self.states[next as usize].previous = previous;
        }
        if previous != NONE {
            self.states[previous as usize].next = next;
            return;
        }
        let of_class = &mut self.classes[class.number()];
        of_class.bands[band as usize] = next;
        if next == NONE {
            of_class.occupied &= !(1 << band);
        }
    }
}
