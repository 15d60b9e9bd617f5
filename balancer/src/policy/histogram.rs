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

use super::{Candidates, Policy, Sample, Verdict, Why};
use crate::endpoint::{Endpoint, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// Constants of the rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HistogramConfig {
    /// How many are compared when there are many. Default 3.
    pub choices: usize,
    /// Costs closer than this are equal, and the p99 decides. Default 0.1.
    pub close: f64,
    /// The share of calls that may go exploring. Default 0.01.
    pub explore_share: f64,
    /// Evidence older than this is worth a look. Default 1 s.
    pub explore_age: Duration,
    /// Calls in a window from which on it is believed. Default 8.
    pub evidence_min: u64,
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
            evidence_min: 8,
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
    /// If `choices` is 0 or above 8.
    pub fn new(config: HistogramConfig) -> Self {
        Histogram { sample: Sample::all_of_few_or(config.choices), config }
    }

    /// How long a call takes there, in nanoseconds; `None`: nobody knows.
    #[inline]
    fn estimate(&self, endpoint: &Endpoint, now: Instant) -> Option<f64> {
        let digest = &endpoint.digest;
        let nanos = |duration: Duration| duration.as_nanos() as u64 as f64;
        let age = endpoint.mean_age(now);
        if digest.count < self.config.evidence_min {
            let known = endpoint.recent(now).map(nanos);
            // Nothing has come back yet, but this long it takes at least.
            return known.map(|known| known.max(nanos(age)));
        }
        let mut estimate = digest.p50;
        if let Some(recent) = endpoint.recent(now)
            && recent > digest.p95
        {
            estimate = recent;
        }
        if age > digest.p95 {
            estimate = estimate.max(age);
        }
        Some(nanos(estimate))
    }

    #[inline]
    fn load(&self, endpoint: &Endpoint, now: Instant) -> f64 {
        let told = match endpoint.reported {
            Some((load, at)) if now.since(at) <= self.config.report_age_max => load.in_flight,
            _ => 0,
        };
        f64::from(endpoint.in_flight.max(told) + 1) / f64::from(endpoint.weight)
    }

    /// The one that has been silent for longest, if it is worth a look.
    #[cold]
    fn to_explore(&self, candidates: &Candidates<'_>, now: Instant) -> Option<Slot> {
        let heard = |slot: &Slot| candidates.endpoint(*slot).heard_at;
        let oldest = candidates.slots().iter().copied().min_by_key(heard)?;
        let endpoint = candidates.endpoint(oldest);
        let is_old = now.since(endpoint.heard_at) > self.config.explore_age;
        (is_old && endpoint.in_flight == 0).then_some(oldest)
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
        let mut best_known = f64::INFINITY;
        let mut estimates = [None; super::COMPARE_ALL_MAX];
        for (estimate, &slot) in estimates.iter_mut().zip(drawn.slots()) {
            *estimate = self.estimate(candidates.endpoint(slot), now);
            best_known = estimate.map_or(best_known, |known| best_known.min(known));
        }
        let unknown = if best_known.is_finite() { best_known } else { 1.0 };
        let first = rng.below(drawn.slots().len() as u64) as usize;
        let (before, after) = drawn.slots().split_at(first);
        let (estimates_before, estimates_after) = estimates.split_at(first);
        let turned = after.iter().zip(estimates_after).chain(before.iter().zip(estimates_before));
        for (&slot, estimate) in turned {
            let load = self.load(candidates.endpoint(slot), now);
            why.consider(slot, estimate.unwrap_or(unknown) * load);
        }
        let best = why.cheapest(Verdict::Cheapest);
        self.by_tail(candidates, best, why)
    }
}

impl Histogram {
    /// Among those about as cheap as the cheapest, the one with the better tail.
    #[inline]
    fn by_tail(&self, candidates: &Candidates<'_>, best: Slot, why: &mut Why) -> Slot {
        let cost_of_best = why.considered().iter().find(|(slot, _)| *slot == best);
        let bound = cost_of_best.expect("it was considered").1 * (1.0 + self.config.close);
        let mut chosen = best;
        let mut tail = candidates.endpoint(best).digest.p99;
        for &(slot, cost) in why.considered() {
            let digest = &candidates.endpoint(slot).digest;
            let is_known = digest.count >= self.config.evidence_min;
            // A tail that is better by less is no better.
            if cost <= bound && is_known && digest.p99.mul_f64(1.1) < tail {
                (chosen, tail) = (slot, digest.p99);
            }
        }
        if chosen != best {
            why.verdict = Verdict::Tail;
        }
        chosen
    }
}
