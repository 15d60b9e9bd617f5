//! Ours: of eight at most, the one that should answer first.
//!
//! The cost of an endpoint is **how long a call takes there × how many calls it would find there**.
//!
//! - *How long*: the median of its window, because a median is sure. Two things may overrule it, because
//!   they are quick: the average of the last few calls when that is beyond the window's p95, and the age of
//!   the unfinished calls. So an endpoint that has stopped answering grows more expensive with every
//!   instant, before a single call to it has ended.
//! - *How many*: itself, what the endpoint told with its last answer, and for each call of our own under
//!   way there as many as we are one of: the **crowd**. Whoever makes a tenth of all calls and has one
//!   under way somewhere should expect ten. The crowd is measured: what endpoints tell ÷ what we have
//!   under way at one, both on average. (C3 has the number of clients in its place, and must be told it.)
//! - What is not known is taken to be as usual, and so is, in the end, what was known: what an endpoint
//!   told fades into what endpoints usually tell, a recent latency into the median.
//!
//! **Of more than eight** endpoints two are drawn, and the six that answered last are compared with them:
//! of those the load is known best, and an endpoint that answers is one that works. No load is asked for.
//!
//! One call in a hundred goes to an endpoint that has been silent for longer than a second: what was slow
//! may have recovered, and nobody would know.

use super::{COMPARE_ALL_MAX, Candidates, Policy, Sample, Verdict, Why};
use crate::endpoint::{Outcome, ServerLoad, Signal, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// Constants of the rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HistogramConfig {
    /// How many of the eight that are compared are drawn where there are more; the others are those
    /// that answered last, up to six. Default 2.
    pub choices: usize,
    /// The share of calls that may go exploring. Default 0.01.
    pub explore_share: f64,
    /// Evidence older than this is worth a look. Default 1 s.
    pub explore_age: Duration,
    /// In so long, what an endpoint told has faded into what is usually told. Default 1 s.
    pub told_fade: Duration,
}

impl Default for HistogramConfig {
    fn default() -> Self {
        HistogramConfig {
            choices: 2,
            explore_share: 0.01,
            explore_age: Duration::from_secs(1),
            told_fade: Duration::from_secs(1),
        }
    }
}

/// How many of those that answered last are kept: as many as are compared beside two drawn ones.
const ANSWERED: usize = COMPARE_ALL_MAX - 2;

/// See the module page.
#[derive(Debug)]
pub struct Histogram {
    config: HistogramConfig,
    sample: Sample,
    /// 1 / [`HistogramConfig::told_fade`], in nanoseconds.
    told_fade: f32,
    usual: Usual,
    /// Calls of ours that have not ended.
    in_flight: u32,
    /// 1 / the number of endpoints, as of the last pick.
    per_endpoint: f32,
    /// Those that answered last, each once; a ring.
    answered: [Slot; ANSWERED],
    answered_next: usize,
}

/// How endpoints are on average.
#[derive(Clone, Copy, Debug)]
struct Usual {
    /// Of answers, in nanoseconds; 0 before the first one.
    latency: f32,
    /// Calls that an answer leaves behind at its endpoint.
    told: f32,
    /// Calls of ours under way at an endpoint.
    own: f32,
    /// How many calls one of ours stands for: told / own, at least 1.
    crowd: f32,
    /// The weight of the next answer.
    weight: f32,
}

/// The weight of an answer among those that say what is usual; the first few weigh more.
const USUAL_WEIGHT: f32 = 0.01;
/// The crowd is no larger, however little of ours is under way.
const CROWD_MAX: f32 = 1e5;

impl Usual {
    const UNKNOWN: Usual = Usual { latency: 0.0, told: 0.0, own: 0.0, crowd: 1.0, weight: 1.0 };

    #[inline]
    fn answered(&mut self, latency: f32, told: f32, own: f32) {
        self.latency += (latency - self.latency) * self.weight;
        self.told += (told - self.told) * self.weight;
        self.own += (own - self.own) * self.weight;
        self.crowd = (self.told / self.own.max(f32::MIN_POSITIVE)).clamp(1.0, CROWD_MAX);
        self.weight = (self.weight * 0.9).max(USUAL_WEIGHT);
    }
}

impl Histogram {
    /// The rule with these constants.
    ///
    /// # Panics
    /// If `choices` is 0 or above 8.
    pub fn new(config: HistogramConfig) -> Self {
        Histogram {
            sample: Sample::of(config.choices),
            told_fade: 1.0 / config.told_fade.as_nanos().max(1) as f32,
            usual: Usual::UNKNOWN,
            in_flight: 0,
            per_endpoint: 1.0,
            answered: [Slot::MAX; ANSWERED],
            answered_next: 0,
            config,
        }
    }

    /// How long a call takes there × how many it would find there.
    #[inline]
    fn cost(&self, signal: &Signal, now: Instant) -> f32 {
        let median = if signal.p50 > 0.0 { signal.p50 } else { self.usual.latency };
        let latency = signal.overruled(median, now).max(signal.mean_age(now));
        let told = signal.told_fading(self.usual.told, now, self.told_fade);
        let load = 1.0 + told + signal.in_flight as f32 * self.usual.crowd;
        // Before the first answer all take equally long, whatever that is.
        latency.max(1.0) * load / signal.weight
    }

    /// The cheapest of all, of equals a random one.
    #[inline]
    fn consider_all(
        &self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) {
        let slots = candidates.slots();
        // Of equals the first one is chosen: so not always the same one is looked at first.
        let (before, after) = slots.split_at(rng.below(slots.len() as u64) as usize);
        for &slot in after.iter().chain(before) {
            why.consider(slot, self.cost(candidates.signal(slot), now));
        }
    }

    /// The cheapest of some that are drawn and those that answered last.
    #[inline]
    fn consider_some(
        &self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) {
        for &slot in candidates.sample(self.sample, rng).slots() {
            why.consider(slot, self.cost(candidates.signal(slot), now));
        }
        let room = COMPARE_ALL_MAX - self.config.choices;
        for &slot in self.answered.iter().take(room) {
            if candidates.contains(slot) {
                why.consider(slot, self.cost(candidates.signal(slot), now));
            }
        }
    }

    /// Of some, the one that has been silent for longest, if it is worth a look.
    #[cold]
    fn to_explore(&self, candidates: &Candidates<'_>, now: Instant, rng: &mut Rng) -> Option<Slot> {
        let drawn = candidates.sample(Sample::of(COMPARE_ALL_MAX), rng);
        let heard = |slot: &Slot| candidates.signal(*slot).heard_at;
        let oldest = drawn.slots().iter().copied().min_by_key(heard)?;
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
        self.per_endpoint = 1.0 / candidates.endpoints() as f32;
        if rng.chance(self.config.explore_share)
            && let Some(slot) = self.to_explore(candidates, now, rng)
        {
            why.verdict = Verdict::Explore;
            return slot;
        }
        if candidates.slots().len() <= COMPARE_ALL_MAX {
            self.consider_all(candidates, now, rng, why);
        } else {
            self.consider_some(candidates, now, rng, why);
        }
        why.cheapest(Verdict::Cheapest)
    }

    #[inline]
    fn started(&mut self, _slot: Slot, _now: Instant) {
        self.in_flight += 1;
    }

    #[inline]
    fn ended(&mut self, slot: Slot, outcome: &Outcome, cost: Option<Duration>, _now: Instant) {
        self.in_flight -= 1;
        let (Outcome::Answered(load), Some(cost)) = (outcome, cost) else { return };
        let told = load.as_ref().map_or(0, ServerLoad::others_in_flight);
        let own = self.in_flight as f32 * self.per_endpoint;
        self.usual.answered(nanos(cost), told as f32, own);
        if !self.answered.contains(&slot) {
            self.answered[self.answered_next] = slot;
            self.answered_next = (self.answered_next + 1) % ANSWERED;
        }
    }
}

/// A latency is bounded by [`crate::histogram::LATENCY_MAX`], or by a call's deadline.
#[inline]
fn nanos(duration: Duration) -> f32 {
    duration.as_nanos() as u64 as i64 as f32
}
