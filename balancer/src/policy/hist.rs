//! Ours: of a few (all of few), the one that should answer first.
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
//! - Who has not answered yet is hoped to be twice as fast as usual. What else is not known is taken to be
//!   as usual, and so is, in the end, what was known: what an endpoint told fades into what endpoints
//!   usually tell, a recent latency into the median.
//!
//! **Of more than eight** endpoints two are drawn, and the four that answered last are compared with them:
//! of those the load is known best, and an endpoint that answers is one that works. No load is asked for.
//!
//! One call in a hundred goes to an endpoint of which nothing new is known for longer than a second: what
//! was slow may have recovered, and nobody would know.

use super::{COMPARE_ALL_MAX, Candidates, Policy, Sample, Verdict, Why};
use crate::config::believe;
use crate::endpoint::{Outcome, Signal, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// Constants of the rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HistConfig {
    /// How many are drawn where there are more than eight, to be compared with up to four that answered
    /// last: eight in all at most. Default 2.
    pub choices: usize,
    /// The share of calls that may go exploring. Default 0.01.
    pub explore_share: f64,
    /// Evidence older than this is worth a look. Default 1 s.
    pub explore_age: Duration,
    /// In so long, what an endpoint told has faded into what is usually told. Default 1 s.
    pub told_fade: Duration,
}

impl Default for HistConfig {
    fn default() -> Self {
        HistConfig {
            choices: 2,
            explore_share: 0.01,
            explore_age: Duration::from_secs(1),
            told_fade: Duration::from_secs(1),
        }
    }
}

/// How many of those that answered last are compared. With six the simulated load ramp's p99 is 4 %
/// lower, for two more cache lines a pick.
const ANSWERED: usize = 4;

/// An endpoint that has not answered yet is taken to be faster than usual by this: without hope a newcomer
/// would get nothing while no more than one call is under way at a time. For what is usual is a mean, which
/// is longer than the median of any other.
const HOPE: f32 = 0.5;

/// See the module page.
#[derive(Debug)]
pub struct Hist {
    config: HistConfig,
    sample: Sample,
    /// 1 / [`HistConfig::told_fade`], in nanoseconds.
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
    /// The weight of the next one that tells a load.
    told_weight: f32,
}

/// The weight of an answer among those that say what is usual; the first few weigh more.
const USUAL_WEIGHT: f32 = 0.01;
/// The crowd is no larger, however little of ours is under way.
const CROWD_MAX: f32 = 1e5;

impl Usual {
    const UNKNOWN: Usual =
        Usual { latency: 0.0, told: 0.0, own: 0.0, crowd: 1.0, weight: 1.0, told_weight: 1.0 };

    #[inline]
    fn answered(&mut self, latency: f32) {
        self.latency += (latency - self.latency) * self.weight;
        self.weight = (self.weight * 0.9).max(USUAL_WEIGHT);
    }

    #[inline]
    fn told(&mut self, told: f32, own: f32) {
        self.told += (told - self.told) * self.told_weight;
        self.own += (own - self.own) * self.told_weight;
        self.crowd = (self.told / self.own.max(f32::MIN_POSITIVE)).clamp(1.0, CROWD_MAX);
        self.told_weight = (self.told_weight * 0.9).max(USUAL_WEIGHT);
    }
}

impl Hist {
    /// The rule with these constants.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which `validate` tells beforehand.
    pub fn new(config: HistConfig) -> Self {
        believe("a histogram policy", config.validate());
        Hist {
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
    pub(crate) fn cost(&self, signal: &Signal, now: Instant) -> f32 {
        let median = match signal.p50 {
            0.0 if signal.is_unheard() => self.usual.latency * HOPE,
            0.0 => self.usual.latency,
            p50 => p50,
        };
        // Before the first answer all take equally long, whatever that is.
        let latency = signal.overruled(median, now).max(1.0);
        let load = 1.0 + self.calls_found(signal, now);
        // max(latency, sum of ages / calls) × load / weight with one division, the slowest of all here.
        let calls = signal.in_flight.max(1) as f32;
        (latency * calls).max(signal.age_sum(now)) * load / (calls * signal.weight)
    }

    /// How many calls a new one would find there.
    #[inline]
    fn calls_found(&self, signal: &Signal, now: Instant) -> f32 {
        let told = signal.told_fading(self.usual.told, now, self.told_fade);
        told + signal.in_flight as f32 * self.usual.crowd
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

    /// Of some, the one of which nothing new is known for longest, if it is worth a look. A failure is news:
    /// or the one that fails would be explored for ever, and no other.
    #[cold]
    fn to_explore(&self, candidates: &Candidates<'_>, now: Instant, rng: &mut Rng) -> Option<Slot> {
        let drawn = candidates.sample(Sample::of(COMPARE_ALL_MAX), rng);
        let known_at = |slot: &Slot| candidates.signal(*slot).recent_at;
        let oldest = drawn.slots().iter().copied().min_by_key(known_at)?;
        let signal = candidates.signal(oldest);
        let is_old = now.since(signal.recent_at) > self.config.explore_age;
        (is_old && signal.in_flight == 0).then_some(oldest)
    }
}

impl Policy for Hist {
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

    fn calls_before(&self, signal: &Signal, now: Instant) -> Option<f32> {
        Some(self.calls_found(signal, now))
    }

    #[inline]
    fn ended(&mut self, slot: Slot, outcome: &Outcome, cost: Option<Duration>, _now: Instant) {
        self.in_flight -= 1;
        let (Outcome::Answered(load), Some(cost)) = (outcome, cost) else { return };
        self.usual.answered(nanos(cost));
        // Who tells nothing does not tell that nothing is in flight.
        if let Some(load) = load {
            let own = self.in_flight as f32 * self.per_endpoint;
            self.usual.told(load.others_in_flight() as f32, own);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Balancer, BalancerConfig, Member};
    use crate::endpoint::ServerLoad;
    use crate::evidence::SharedEvidence;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + micros * 1_000)
    }

    fn balancer(endpoints: usize) -> Balancer {
        let policy = Box::new(Hist::new(HistConfig::default()));
        let shared = SharedEvidence::new(1);
        let mut balancer = Balancer::new(BalancerConfig::default(), policy, shared, 0, at(0));
        let member = |n: usize| Member { name: format!("10.0.0.1:{n}").into(), weight: 1 };
        balancer.set_members(&(0..endpoints).map(member).collect::<Vec<_>>(), at(0));
        balancer
    }

    fn answer(others: u32) -> Outcome {
        let micros = Duration::from_micros;
        Outcome::Answered(Some(ServerLoad {
            in_flight: others + 1,
            queue_delay: micros(0),
            service_time: micros(100),
        }))
    }

    #[test]
    fn the_crowd_is_measured() {
        let mut usual = Usual::UNKNOWN;
        for _ in 0..500 {
            usual.told(10.0, 0.1);
        }
        assert!((usual.crowd - 100.0).abs() < 1.0, "{usual:?}");
        for _ in 0..2_000 {
            usual.told(0.0, 0.1);
        }
        assert_eq!(usual.crowd, 1.0, "a call of ours stands for itself at least");
    }

    #[test]
    fn who_has_not_answered_grows_more_expensive() {
        let (mut balancer, mut rng) = (balancer(2), Rng::from_seed(1));
        let stuck = balancer.start(&[], at(0), &mut rng).expect("there are endpoints");
        for n in 0..1_000 {
            let began = at(100 + n * 200);
            let ticket = balancer.start(&[], began, &mut rng).expect("there are endpoints");
            assert_ne!(ticket.slot(), stuck.slot(), "call {n}");
            balancer.end(ticket, &answer(0), at(200 + n * 200), &mut rng);
        }
        balancer.end(stuck, &answer(0), at(300_000), &mut rng);
    }

    #[test]
    fn a_newcomer_is_called_at_once_though_all_others_are_idle() {
        let (mut balancer, mut rng) = (balancer(3), Rng::from_seed(1));
        let member = |n: usize| Member { name: format!("10.0.0.1:{n}").into(), weight: 1 };
        let mut to_newcomer = 0;
        for n in 0..2_000 {
            if n == 1_000 {
                balancer.set_members(&(0..4).map(member).collect::<Vec<_>>(), at(n * 100));
            }
            let began = at(n * 100);
            let ticket = balancer.start(&[], began, &mut rng).expect("there are endpoints");
            to_newcomer += u32::from(ticket.slot() == 3);
            // One call in ten takes ten times as long: a mean far above the median.
            let took = if n % 10 == 5 { 90 } else { 9 };
            balancer.end(ticket, &answer(0), at(n * 100 + took), &mut rng);
            balancer.tick(at(n * 100 + 95), &mut rng);
        }
        // Its part is 250; it comes slowly.
        assert!(to_newcomer > 50, "{to_newcomer} of 1,000 within 100 ms");
    }

    #[test]
    fn of_many_those_that_told_of_little_load_are_preferred() {
        let (mut balancer, mut rng) = (balancer(100), Rng::from_seed(1));
        let mut calls_to_idle = 0;
        for n in 0..20_000 {
            let began = at(n * 20);
            let ticket = balancer.start(&[], began, &mut rng).expect("there are endpoints");
            let is_idle = ticket.slot() < 20;
            calls_to_idle += u32::from(is_idle);
            let others = if is_idle { 1 } else { 30 };
            balancer.end(ticket, &answer(others), at(n * 20 + 10), &mut rng);
        }
        // Two drawn blindly meet one of them in 36 of 100 cases.
        assert!(calls_to_idle > 16_000, "{calls_to_idle} of 20,000");
    }

    #[test]
    fn who_was_forbidden_is_not_picked_though_it_answered_last() {
        let (mut balancer, mut rng) = (balancer(30), Rng::from_seed(1));
        let mut last = None;
        for n in 0..2_000 {
            let avoid: Vec<Slot> = last.into_iter().collect();
            let ticket = balancer.start(&avoid, at(n * 20), &mut rng).expect("there are others");
            assert!(!avoid.contains(&ticket.slot()));
            last = Some(ticket.slot());
            balancer.end(ticket, &answer(0), at(n * 20 + 10), &mut rng);
        }
    }
}
