//! An open hash table of a segment's slots: one cache line is read to find nearly every one of them.
//!
//! ```text
//! line   [ hash hash … 7 of them │ passed │ cell cell … 7 of them │ zero ]   64 bytes
//! ```
//!
//! A slot is in the line that its hash word chooses, or, if that is full, in the next that is not. Each line
//! counts the slots that have passed it so: a search goes on only behind a line that was passed, and
//! ends there as soon as these are gone again, or once it has been round. Nothing is left of what was
//! removed.

use super::arena::CellRef;
use super::hash::KeyHash;
use super::segment::Slot;

/// Slots of a line: what fits beside the count.
const LINE_SLOTS: usize = 7;

/// What stands in a slot that is free. No entry begins there: see [`super::arena::PAGES_MAX`].
const FREE: u32 = u32::MAX;

/// See the module page.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line {
    hashes: [u32; LINE_SLOTS],
    /// Slots of this line and of those before it that are behind it.
    passed: u32,
    cells: [u32; LINE_SLOTS],
    zero: u32,
}

const _: () = assert!(size_of::<Line>() == 64);

const EMPTY: Line = Line { hashes: [0; LINE_SLOTS], passed: 0, cells: [FREE; LINE_SLOTS], zero: 0 };

/// See the module page.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// None, or a power of two.
    lines: Box<[Line]>,
    len: u32,
}

impl Slots {
    /// A table of so many lines, none or a power of two, with these slots.
    pub(super) fn with(lines: usize, slots: impl Iterator<Item = Slot>) -> Self {
        debug_assert!(lines == 0 || lines.is_power_of_two(), "{lines} lines");
        let mut table = Slots { lines: vec![EMPTY; lines].into_boxed_slice(), len: 0 };
        slots.for_each(|slot| table.insert(slot));
        table
    }

    /// How many slots a table of so many lines takes: seven eighths of those there are, so that few have to
    /// look for another line.
    pub(super) const fn capacity_of(lines: usize) -> usize {
        lines * LINE_SLOTS * 7 / 8
    }

    /// The fewest lines that take so many slots.
    pub(super) fn lines_for(slots: usize) -> usize {
        let mut lines = usize::from(slots > 0);
        while Slots::capacity_of(lines) < slots {
            lines *= 2;
        }
        lines
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() >= Slots::capacity_of(self.lines.len())
    }

    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Its memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// Places for slots, free ones included.
    pub(super) fn places(&self) -> usize {
        self.lines.len() * LINE_SLOTS
    }

    /// What stands at a place.
    pub(super) fn at(&self, place: usize) -> Option<Slot> {
        let line = self.lines.get(place / LINE_SLOTS)?;
        line.at(place % LINE_SLOTS)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> {
        self.lines.iter().flat_map(|line| (0..LINE_SLOTS).filter_map(|at| line.at(at)))
    }

    /// Has the line brought into the cache that the slots of a hash are in, most likely.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        if let Some(line) = self.lines.get(self.home(hash)) {
            catena_engine::prefetch(line);
        }
    }

    /// The cell of the slot with this hash for which `is_it` holds.
    #[inline]
    pub(super) fn find(
        &self,
        hash: KeyHash,
        is_it: impl FnMut(CellRef) -> bool,
    ) -> Option<CellRef> {
        let (line, at) = self.place_of(hash, is_it)?;
        Some(CellRef::from_number(self.lines[line].cells[at]))
    }

    /// Gives the slot of `from` the cell `to`.
    pub(super) fn set_cell(&mut self, hash: KeyHash, from: CellRef, to: CellRef) {
        let (line, at) =
            self.place_of(hash, |cell| cell == from).expect("an entry that moves is in the index");
        self.lines[line].cells[at] = to.number();
    }

    pub(super) fn remove(&mut self, hash: KeyHash, cell: CellRef) {
        let found = self.place_of(hash, |other| other == cell);
        let (found, at) = found.expect("an entry that goes is in the index");
        self.lines[found].cells[at] = FREE;
        self.len -= 1;
        let mut line = self.home(hash);
        while line != found {
            self.lines[line].passed -= 1;
            line = self.next(line);
        }
    }

    /// Adds a slot; there is a free place.
    pub(super) fn insert(&mut self, slot: Slot) {
        debug_assert!(slot.cell.number() != FREE, "no entry begins at the last cell of all");
        let mut line = self.home(slot.hash);
        loop {
            let here = &mut self.lines[line];
            if let Some(at) = here.cells.iter().position(|cell| *cell == FREE) {
                (here.hashes[at], here.cells[at]) = (slot.hash.word(), slot.cell.number());
                self.len += 1;
                return;
            }
            here.passed += 1;
            line = self.next(line);
        }
    }

    /// The line of a slot, and its place there.
    #[inline]
    fn place_of(
        &self,
        hash: KeyHash,
        mut is_it: impl FnMut(CellRef) -> bool,
    ) -> Option<(usize, usize)> {
        if self.lines.is_empty() {
            return None;
        }
        let home = self.home(hash);
        let mut line = home;
        loop {
            let here = &self.lines[line];
            let mut matching = here.matching(hash.word());
            while matching != 0 {
                let at = matching.trailing_zeros() as usize;
                if here.cells[at] != FREE && is_it(CellRef::from_number(here.cells[at])) {
                    return Some((line, at));
                }
                matching &= matching - 1;
            }
            if here.passed == 0 {
                return None;
            }
            line = self.next(line);
            // Every line may have been passed, each by another slot.
            if line == home {
                return None;
            }
        }
    }

    /// The line that a hash word chooses: by its low bits, for all words of a segment share the top ones.
    #[inline]
    fn home(&self, hash: KeyHash) -> usize {
        hash.word() as usize & self.lines.len().wrapping_sub(1)
    }

    #[inline]
    fn next(&self, line: usize) -> usize {
        (line + 1) & (self.lines.len() - 1)
    }
}

impl Line {
    /// One bit for each place whose hash word is this one. Without a branch: the compiler makes one
    /// comparison of it.
    #[inline]
    fn matching(&self, word: u32) -> u32 {
        let mut bits = 0;
        for (at, hash) in self.hashes.iter().enumerate() {
            bits |= u32::from(*hash == word) << at;
        }
        bits
    }

    fn at(&self, at: usize) -> Option<Slot> {
        let cell = self.cells[at];
        let hash = KeyHash::from_word(self.hashes[at]);
        (cell != FREE).then(|| Slot { hash, cell: CellRef::from_number(cell) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Operation {
        Insert { word: u32 },
        Remove { place: usize },
        Move { place: usize },
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            // Few words, so that lines overflow into each other, and round the end.
            4 => (0..40u32).prop_map(|word| Operation::Insert { word: word / 3 * 8 + 7 - word % 3 }),
            2 => any::<usize>().prop_map(|place| Operation::Remove { place }),
            1 => any::<usize>().prop_map(|place| Operation::Move { place }),
        ]
    }

    /// What each line should count, from where the slots are.
    fn check(slots: &Slots, model: &[(u32, u32)]) {
        let mut passed = vec![0; slots.lines()];
        let mut found = Vec::new();
        for place in 0..slots.places() {
            let Some(slot) = slots.at(place) else { continue };
            found.push((slot.hash.word(), slot.cell.number()));
            let mut line = slots.home(slot.hash);
            while line != place / LINE_SLOTS {
                passed[line] += 1;
                line = slots.next(line);
            }
        }
        let counted: Vec<u32> = slots.lines.iter().map(|line| line.passed).collect();
        assert_eq!(counted, passed);
        let mut expected = model.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!((found, slots.len()), (expected, model.len()));
    }

    proptest! {
        #[test]
        fn does_what_a_list_does(
            lines in prop_oneof![Just(2), Just(8)],
            operations in prop::collection::vec(operation(), 0..200),
        ) {
            let mut slots = Slots::with(lines, std::iter::empty());
            let mut model: Vec<(u32, u32)> = Vec::new();
            let mut cells = 0;
            for operation in operations {
                match operation {
                    Operation::Insert { word } if slots.len() < slots.places() => {
                        cells += 1;
                        let (hash, cell) = (KeyHash::from_word(word), CellRef::from_number(cells));
                        slots.insert(Slot { hash, cell });
                        model.push((word, cells));
                    }
                    Operation::Remove { place } if !model.is_empty() => {
                        let (word, cell) = model.swap_remove(place % model.len());
                        slots.remove(KeyHash::from_word(word), CellRef::from_number(cell));
                    }
                    Operation::Move { place } if !model.is_empty() => {
                        cells += 1;
                        let place = place % model.len();
                        let (word, from) = model[place];
                        model[place].1 = cells;
                        let (from, to) = (CellRef::from_number(from), CellRef::from_number(cells));
                        slots.set_cell(KeyHash::from_word(word), from, to);
                    }
                    _ => {}
                }
                check(&slots, &model);
                for (word, cell) in &model {
                    let cell = CellRef::from_number(*cell);
                    let found = slots.find(KeyHash::from_word(*word), |other| other == cell);
                    prop_assert_eq!(found, Some(cell));
                }
                for line in 0..slots.lines() as u32 {
                    prop_assert_eq!(slots.find(KeyHash::from_word(1 << 20 | line), |_| true), None);
                }
            }
        }
    }

    #[test]
    fn a_search_ends_where_every_line_was_passed() {
        let mut slots = Slots::with(2, std::iter::empty());
        let mut cells = 0;
        let mut insert = |slots: &mut Slots, word| {
            cells += 1;
            let cell = CellRef::from_number(cells);
            slots.insert(Slot { hash: KeyHash::from_word(word), cell });
            cell
        };
        // An eighth of the even words goes to the second line, an eighth of the odd ones to the first.
        let first = insert(&mut slots, 2);
        (0..7).for_each(|_| _ = insert(&mut slots, 0));
        slots.remove(KeyHash::from_word(2), first);
        (0..7).for_each(|_| _ = insert(&mut slots, 1));
        assert!(slots.lines.iter().all(|line| line.passed > 0), "{slots:?}");
        for word in [0, 1, 4, 5] {
            assert!(slots.find(KeyHash::from_word(word), |_| false).is_none());
        }
    }

    #[test]
    fn there_are_lines_enough() {
        for slots in 0..2_000 {
            let lines = Slots::lines_for(slots);
            assert!(Slots::capacity_of(lines) >= slots && (lines == 0 || lines.is_power_of_two()));
        }
        assert_eq!(Slots::capacity_of(1), 6);
    }
}
