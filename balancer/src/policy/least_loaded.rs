//! Of a few drawn at random, the one with the fewest calls in flight for its weight.
//!
//! "The power of two choices": Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*,
//! 1996. With one choice the longest of n queues is about ln n / ln ln n, with two ln ln n / ln 2.

use super::{Candidates, Policy, Sample, Verdict, Why};
use crate::endpoint::Slot;
use catena_engine::rng::Rng;
use catena_engine::time::Instant;

/// See the module page.
#[derive(Debug)]
pub struct LeastLoaded {
    sample: Sample,
}

impl LeastLoaded {
    /// Compares so many.
    pub fn new(sample: Sample) -> Self {
        LeastLoaded { sample }
    }
}

impl Policy for LeastLoaded {
    #[inline]
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        _now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        for &slot in candidates.sample(self.sample, rng).slots() {
            let signal = candidates.signal(slot);
            why.consider(slot, signal.in_flight as f32 / signal.weight);
        }
        why.cheapest(Verdict::LeastLoaded)
    }
}
