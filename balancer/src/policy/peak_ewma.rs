//! Of a few drawn at random, the one with the least decayed peak of latency × calls in flight.
//!
//! Finagle's rule: the average jumps to a latency that is longer, and decays towards one that is
//! shorter. It is decayed to the moment of the pick as if a latency of zero came in, without being
//! changed: one that is read often is not forgotten sooner.

use super::{Candidates, Policy, Sample, Verdict, Why};
use crate::config::believe;
use crate::endpoint::{Outcome, Signal, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// How fast the average decays, and what an endpoint is taken to need before it has answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PeakEwmaConfig {
    /// After so long, 1/e of a peak is left. Finagle: 10 s, for calls of milliseconds.
    pub decay: Duration,
    /// The latency of an endpoint of which nothing is known. Finagle's successors: 10 to 30 ms.
    pub default_latency: Duration,
}

impl Default for PeakEwmaConfig {
    fn default() -> Self {
        PeakEwmaConfig {
            decay: Duration::from_secs(10),
            default_latency: Duration::from_millis(30),
        }
    }
}

/// See the module page.
#[derive(Debug)]
pub struct PeakEwma {
    sample: Sample,
    config: PeakEwmaConfig,
    /// By slot: the average in nanoseconds, and of when it is.
    averages: Vec<(f64, Instant)>,
}

impl PeakEwma {
    /// Compares so many.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which `validate` tells beforehand.
    pub fn new(sample: Sample, config: PeakEwmaConfig) -> Self {
        believe("a peak EWMA policy", config.validate());
        PeakEwma { sample, config, averages: Vec::new() }
    }

    #[inline]
    fn decayed(&self, slot: Slot, now: Instant) -> f64 {
        let (average, at) = self.averages[slot as usize];
        average * (-now.since(at).as_secs_f64() / self.config.decay.as_secs_f64()).exp()
    }
}

impl Policy for PeakEwma {
    #[inline]
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        for &slot in candidates.sample(self.sample, rng).slots() {
            let signal = candidates.signal(slot);
            let load = (signal.in_flight + 1) as f32 / signal.weight;
            why.consider(slot, self.decayed(slot, now) as f32 * load);
        }
        why.cheapest(Verdict::Cheapest)
    }

    fn calls_before(&self, signal: &Signal, _now: Instant) -> Option<f32> {
        Some(signal.in_flight as f32)
    }

    #[inline]
    fn ended(&mut self, slot: Slot, _outcome: &Outcome, cost: Option<Duration>, now: Instant) {
        let Some(cost) = cost else { return };
        let cost = cost.as_nanos() as f64;
        let decayed = self.decayed(slot, now);
        let (average, at) = self.averages[slot as usize];
        let kept = if average > 0.0 { decayed / average } else { 0.0 };
        let average = if cost > average { cost } else { decayed + cost * (1.0 - kept) };
        self.averages[slot as usize] = (average, now.max(at));
    }

    fn joined(&mut self, slot: Slot, now: Instant) {
        let unknown = (self.config.default_latency.as_nanos() as f64, now);
        let slot = slot as usize;
        self.averages.resize(self.averages.len().max(slot + 1), unknown);
        self.averages[slot] = unknown;
    }
}
