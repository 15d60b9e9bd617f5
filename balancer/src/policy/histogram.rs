//! Ours: of a few (all of few), the one that should answer first, by its histogram.
//!
//! The cost of an endpoint is *how long a call takes there* × *how many are before it*:
//!
//! - How long: the median of its window, because a median is sure. Two things may overrule it, because
//!   they are quick: the average of the last few calls when it is beyond the window's p95, and the age of
//!   the unfinished calls when that is. So an endpoint that has stopped answering grows more expensive
//!   with every instant, before a single call to it has ended.
//! - How many: its calls in flight, or what it last told if that was more: others call it too.
//! - An endpoint of which nothing is known costs what the best known one would with as many calls.
//!
//! When two are within a tenth of each other, the better p99 decides. One call in a hundred goes to the
//! endpoint that has been silent for longest, if that is longer than a second: what was slow may have
//! recovered, and nobody would know.

use super::{COMPARE_ALL_MAX, Candidates, Policy, Sample, Verdict, Why};
use crate::config::believe;
use crate::endpoint::{Signal, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// Constants of the rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HistogramConfig {
    /// How many are compared when there are many. Default 3.
    pub choices: usize,
    /// Costs closer than this are equal, and the p99 decides. Default 0.1.
    pub close: f32,
    /// The share of calls that may go exploring. Default 0.01.
    pub explore_share: f64,
    /// Evidence older than this is worth a look. Default 1 s.
    pub explore_age: Duration,
    /// What a server told is believed for so long. Default 1 s, as Prequal's pool.
    pub report_age_max: Duration,
}

impl Default for HistogramConfig {
    fn default() -> Self {
        HistogramConfig {
            choices: 3,
            close: 0.1,
            explore_share: 0.01,
            explore_age: Duration::from_secs(1),
            report_age_max: Duration::from_secs(1),
        }
    }
}

/// See the module page.
#[derive(Debug)]
pub struct Histogram {
    config: HistogramConfig,
    sample: Sample,
}

impl Histogram {
    /// The rule with these constants.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which `validate` tells beforehand.
    pub fn new(config: HistogramConfig) -> Self {
        believe("a histogram policy", config.validate());
        Histogram { sample: Sample::all_of_few_or(config.choices), config }
    }

    /// How long a call takes there, in nanoseconds; 0: nobody knows.
    #[inline]
    fn estimate(&self, signal: &Signal, now: Instant) -> f32 {
        let mut estimate = signal.p50;
        // Without a window p95 is 0, and what little is known counts.
        if let Some(recent) = signal.recent(now)
            && recent > signal.p95
        {
            estimate = recent;
        }
        let age = signal.mean_age(now);
        if age > signal.p95 && estimate > 0.0 { estimate.max(age) } else { estimate }
    }

    #[inline]
    fn load(&self, signal: &Signal, now: Instant) -> f32 {
        (self.calls(signal, now) + 1) as f32 / signal.weight
    }

    #[inline]
    fn calls(&self, signal: &Signal, now: Instant) -> u32 {
        let told = signal.told_in_flight(now, self.config.report_age_max).unwrap_or(0);
        signal.in_flight.max(told)
    }

    /// The one that has been silent for longest, if it is worth a look.
    #[cold]
    fn to_explore(&self, candidates: &Candidates<'_>, now: Instant) -> Option<Slot> {
        let heard = |slot: &Slot| candidates.signal(*slot).heard_at;
        let oldest = candidates.slots().iter().copied().min_by_key(heard)?;
        let signal = candidates.signal(oldest);
        let is_old = now.since(signal.heard_at) > self.config.explore_age;
        (is_old && signal.in_flight == 0).then_some(oldest)
    }
}

impl Policy for Histogram {
    #[inline]
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        if rng.chance(self.config.explore_share)
            && let Some(slot) = self.to_explore(candidates, now)
        {
            why.verdict = Verdict::Explore;
            return slot;
        }
        let drawn = candidates.sample(self.sample, rng);
        let drawn = drawn.slots();
        let mut estimates = [0.0; COMPARE_ALL_MAX];
        let mut best_known = f32::INFINITY;
        for (estimate, &slot) in estimates.iter_mut().zip(drawn) {
            *estimate = self.estimate(candidates.signal(slot), now);
            best_known = if *estimate > 0.0 { best_known.min(*estimate) } else { best_known };
        }
        let unknown = if best_known.is_finite() { best_known } else { 1.0 };
        // Of equals the first one is chosen: so not always the same one is looked at first.
        let mut index = rng.below(drawn.len() as u64) as usize;
        for _ in 0..drawn.len() {
            index = if index == 0 { drawn.len() - 1 } else { index - 1 };
            let estimate = if estimates[index] > 0.0 { estimates[index] } else { unknown };
            why.consider(drawn[index], estimate * self.load(candidates.signal(drawn[index]), now));
        }
        self.cheapest_by_tail(candidates, why)
    }

    fn calls_before(&self, signal: &Signal, now: Instant) -> Option<u32> {
        Some(self.calls(signal, now))
    }
}

impl Histogram {
    /// Among those about as cheap as the cheapest, the one with the better tail.
    #[inline]
    fn cheapest_by_tail(&self, candidates: &Candidates<'_>, why: &mut Why) -> Slot {
        let cheapest = why.cheapest(Verdict::Cheapest);
        let least =
            why.considered().iter().fold(f32::INFINITY, |least, (_, cost)| least.min(*cost));
        let bound = least * (1.0 + self.config.close);
        let (mut chosen, mut tail) = (cheapest, candidates.signal(cheapest).p99);
        for &(slot, cost) in why.considered() {
            let p99 = candidates.signal(slot).p99;
            // A tail that is better by less is no better.
            if cost <= bound && p99 > 0.0 && p99 * 1.1 < tail {
                (chosen, tail) = (slot, p99);
            }
        }
        if chosen != cheapest {
            why.verdict = Verdict::Tail;
        }
        chosen
    }
}
