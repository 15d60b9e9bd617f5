//! Size classes: how many cells the run of an entry has.

/// Bytes of a cell, the unit in which pages are divided.
pub(super) const CELL_BYTES: usize = 16;

/// Bytes of the largest class. What does not fit lies apart, in memory of its own; 8 KiB is an
/// eighth of a page, so that at most a tenth of a page is lost behind its last run.
pub(super) const RUN_BYTES_MAX: usize = 8 * 1_024;

/// How many classes there are: 32 in steps of one cell, then 8 for each doubling up to 512 cells.
pub(super) const CLASSES: usize = LINEAR + STEPS * 4;

/// Classes in steps of one cell: up to 512 bytes an entry wastes less than 16.
const LINEAR: usize = 32;

/// Classes a doubling beyond: an entry wastes less than an eighth.
const STEPS: usize = 8;

const _: () = assert!(Class(CLASSES as u8 - 1).bytes() == RUN_BYTES_MAX);

/// A size class. All runs of a page are of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Class(u8);

impl Class {
    /// The smallest class for so many bytes, 1 ..= [`RUN_BYTES_MAX`].
    pub(super) fn of(bytes: usize) -> Self {
        debug_assert!((1..=RUN_BYTES_MAX).contains(&bytes), "{bytes} bytes fit no class");
        let cells = bytes.div_ceil(CELL_BYTES);
        if cells <= LINEAR {
            return Self(cells as u8 - 1);
        }
        let doublings = (cells - 1).ilog2() - LINEAR.ilog2();
        let steps = cells.div_ceil((LINEAR / STEPS) << doublings) - STEPS - 1;
        Self((LINEAR + STEPS * doublings as usize + steps) as u8)
    }

    /// Cells of a run.
    #[inline]
    pub(super) const fn cells(self) -> usize {
        let class = self.0 as usize;
        if class < LINEAR {
            return class + 1;
        }
        let (doublings, steps) = ((class - LINEAR) / STEPS, (class - LINEAR) % STEPS);
        ((STEPS + steps + 1) * (LINEAR / STEPS)) << doublings
    }

    /// Bytes of a run.
    #[inline]
    pub(super) const fn bytes(self) -> usize {
        self.cells() * CELL_BYTES
    }

    /// Its number, below [`CLASSES`].
    #[inline]
    pub(super) const fn number(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        let sizes: Vec<usize> = (0..CLASSES as u8).map(|class| Class(class).bytes()).collect();
        assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
        for bytes in 1..=RUN_BYTES_MAX {
            let smallest = sizes.iter().position(|&size| size >= bytes);
            assert_eq!(Some(Class::of(bytes).number()), smallest, "{bytes} bytes");
        }
    }

    #[test]
    fn the_waste_is_below_a_cell_or_an_eighth() {
        for bytes in 1..=RUN_BYTES_MAX {
            let wasted = Class::of(bytes).bytes() - bytes;
            assert!(
                wasted < CELL_BYTES || wasted * 8 < bytes + 8 * CELL_BYTES,
                "{bytes}: {wasted}"
            );
        }
    }
}
