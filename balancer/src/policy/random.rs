//! Anyone, each as likely as any other.

use super::{Candidates, Policy, Why};
use crate::endpoint::Slot;
use catena_engine::rng::Rng;
use catena_engine::time::Instant;

/// See the module page.
#[derive(Debug, Default)]
pub struct Random;

impl Policy for Random {
    #[inline]
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        _now: Instant,
        rng: &mut Rng,
        _why: &mut Why,
    ) -> Slot {
        let slots = candidates.slots();
        slots[rng.below(slots.len() as u64) as usize]
    }
}
