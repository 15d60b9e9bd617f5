//! Finding what has expired.

use super::Table;
use super::arena::Arena;
use super::entry::Entry;

/// What one step of a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Swept {
    /// Buckets looked at, and segments that were not opened.
    pub looked: usize,
    /// Entries found that have expired.
    pub expired: usize,
    /// Whether the step came to the end of a round: the next one begins another.
    pub round_ended: bool,
}

impl Table {
    /// One step of an endless sweep: goes round robin over the segments, opens those in which
    /// something may have expired at `now_ms`, and visits the entries that have. Looks at `budget`
    /// buckets or segments at most, and ends with the round.
    ///
    /// What is put or expires behind the step, in a segment that it is in the middle of, is found
    /// in the next round. It removes nothing: the caller makes deletions of what it visits, which
    /// take effect when they are committed. What is not removed until then is visited again in the
    /// next round.
    ///
    /// Opening a segment reads each entry in it, to find a few if expiries are spread out. What has
    /// expired is hidden anyway, so this is about memory alone: do not begin a round soon after one
    /// that found little.
    pub fn sweep<'a>(
        &mut self,
        arena: &'a Arena,
        now_ms: u64,
        budget: usize,
        mut visit: impl FnMut(Entry<'a>),
    ) -> Swept {
        let mut swept = Swept::default();
        while swept.looked < budget {
            if self.sweep_at >= self.index.segments() || self.expiring == 0 {
                self.sweep_at = 0;
                return Swept { round_ended: true, ..swept };
            }
            let segment = self.index.segment_mut(self.sweep_at);
            let mut looked = 1;
            // Begun is ended, also if the clock went back since.
            if segment.earliest() <= now_ms || segment.is_half_swept() {
                let (buckets, completed) = segment.sweep(budget - swept.looked, |slot| {
                    let entry = arena.entry(slot.cell);
                    if entry.is_expired(now_ms) {
                        swept.expired += 1;
                        visit(entry);
                    }
                    entry.expires_at()
                });
                looked = buckets.max(1);
                if !completed {
                    swept.looked += looked;
                    return swept;
                }
            }
            swept.looked += looked;
            self.sweep_at += 1;
        }
        swept
    }
}
