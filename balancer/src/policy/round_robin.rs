//! One after the other.

use super::{Candidates, Policy, Verdict, Why};
use crate::endpoint::Slot;
use catena_engine::rng::Rng;
use catena_engine::time::Instant;

/// The next one in the order of the table, whatever its weight.
#[derive(Debug, Default)]
pub struct RoundRobin {
    last: Option<Slot>,
}

impl Policy for RoundRobin {
    #[inline]
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        _now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        why.verdict = Verdict::Turn;
        let slots = candidates.slots();
        let next = match self.last {
            // Not all clients begin with the same one.
            None => rng.below(slots.len() as u64) as usize,
            // The slots ascend, and some may have come or gone since the last turn.
            Some(last) => slots.partition_point(|&slot| slot <= last) % slots.len(),
        };
        *self.last.insert(slots[next])
    }
}

/// By weight, and smoothly: of weights 5, 1, 1 not five in a row but A A B A C A A.
///
/// The rule is nginx's: at each turn everybody gains its weight, the richest is chosen and pays what all
/// have gained together. A turn looks at all candidates.
#[derive(Debug, Default)]
pub struct WeightedRoundRobin {
    /// By slot.
    credit: Vec<i64>,
}

impl Policy for WeightedRoundRobin {
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        _now: Instant,
        _rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        why.verdict = Verdict::Turn;
        let mut total = 0;
        let mut richest = candidates.slots()[0];
        for &slot in candidates.slots() {
            let weight = candidates.signal(slot).weight as i64;
            total += weight;
            self.credit[slot as usize] += weight;
            if self.credit[slot as usize] > self.credit[richest as usize] {
                richest = slot;
            }
        }
        self.credit[richest as usize] -= total;
        richest
    }

    fn joined(&mut self, slot: Slot, _now: Instant) {
        let slot = slot as usize;
        self.credit.resize(self.credit.len().max(slot + 1), 0);
        self.credit[slot] = 0;
    }
}
