//! Counts again what [`Pages`] keeps count of, from the runs themselves.

use super::*;

impl Pages {
    /// Panics if anything does not add up. The result is the bytes of all runs that hold an entry,
    /// and how many those are.
    pub(in crate::table) fn recount(&self) -> (u64, usize) {
        let (mut bytes, mut entries, mut with_memory) = (0, 0, 0);
        let mut free = vec![0; CLASSES];
        let mut listed = 0;
        for page in 0..self.states.len() as u32 {
            let state = self.states[page as usize];
            assert_eq!(self.memory[page as usize].is_none(), state.place == Place::Vacant);
            if state.place == Place::Vacant {
                continue;
            }
            let held = self.recount_page(page);
            bytes += (held * state.class.bytes()) as u64;
            entries += held;
            with_memory += 1;
            if let Place::Band(band) = state.place {
                assert_eq!(band as usize, held * BANDS / state.runs as usize, "page {page}");
                free[state.class.number()] += self.free_runs(page);
                listed += 1;
            }
            assert!(state.place != Place::Full || held == state.runs as usize, "page {page}");
            let aside = self.emptying.is_some_and(|emptying| emptying.page == page);
            assert_eq!(aside, state.place == Place::Aside, "page {page}");
        }
        assert_eq!(self.count, with_memory + u32::from(self.reserve.is_some()));
        assert!(self.classes.iter().map(|class| class.free).eq(free), "free runs of a class");
        assert_eq!(self.recount_lists(), listed, "pages in lists");
        (bytes, entries)
    }

    /// The runs of a page that hold an entry.
    fn recount_page(&self, page: u32) -> usize {
        let state = self.states[page as usize];
        let starts = |run: usize| run * state.class.bytes();
        let is_held = |run: &usize| entry::is_held(&self.bytes(page)[starts(*run)..]);
        let held = (0..state.opened as usize).filter(is_held).count();
        assert_eq!(held, state.held as usize, "page {page}");
        assert!(held > 0, "page {page} is empty and was not given back");
        let (mut chained, mut free) = (0, state.free);
        while free != NO_RUN {
            chained += 1;
            free = entry::next_free(&self.bytes(page)[free as usize * CELL_BYTES..]);
        }
        assert_eq!(chained + held, state.opened as usize, "page {page}: runs are lost");
        held
    }

    /// The pages in the lists of all classes.
    fn recount_lists(&self) -> usize {
        let mut listed = 0;
        for (number, class) in self.classes.iter().enumerate() {
            for (band, &first) in class.bands.iter().enumerate() {
                assert_eq!(class.occupied & 1 << band != 0, first != NONE, "class {number}");
                let (mut page, mut previous) = (first, NONE);
                while page != NONE {
                    let state = self.states[page as usize];
                    assert_eq!(state.class.number(), number, "page {page}");
                    assert_eq!(state.place, Place::Band(band as u8), "page {page}");
                    assert_eq!(state.previous, previous, "page {page}");
                    listed += 1;
                    (previous, page) = (page, state.next);
                }
            }
        }
        listed
    }
}
