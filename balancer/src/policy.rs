//! How one endpoint is chosen among those that a call may go to.
//!
//! A policy is pure: time and randomness are arguments, what it knows comes from the endpoints' records
//! and from the starts and ends of calls that it is told of. The same code runs in clients, in the
//! proxy, and in the simulator.
//!
//! | policy | chooses | after |
//! |---|---|---|
//! | [`random`] | anyone | |
//! | [`round_robin`] | the next one; by weight, smoothly | nginx |
//! | [`least_loaded`] | of d, the one with the fewest calls in flight | Mitzenmacher 1996 |
//! | [`peak_ewma`] | of d, the one with the least decayed peak latency × calls in flight | Finagle |
//! | [`c3`] | the one with the least expected wait, by what servers tell | Suresh 2015 |
//! | [`prequal`] | the fastest cold one of a pool of probes | Wydrowski 2024 |
//! | [`hist`] | of a few, the one that should answer first, by its histogram | ours |

pub mod c3;
pub mod hist;
pub mod least_loaded;
mod name;
pub mod peak_ewma;
pub mod prequal;
pub mod random;
pub mod round_robin;

pub use name::{UnknownPolicy, by_name};

use crate::config::{self, ConfigError};
use crate::endpoint::{Outcome, ServerLoad, Signal, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use std::fmt;

/// The most candidates that are compared one by one when all are; see anchors on the floor of d = 2.
pub const COMPARE_ALL_MAX: usize = 8;

/// Chooses endpoints.
pub trait Policy: fmt::Debug + Send {
    /// The one to call, out of `candidates`, which are never none. What it looked at goes into `why`.
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot;

    /// A call to `slot` begins.
    fn started(&mut self, _slot: Slot, _now: Instant) {}

    /// A call to `slot` has ended. `cost` is what it counts as: its latency, or more if it failed;
    /// `None` if nothing can be said.
    fn ended(&mut self, _slot: Slot, _outcome: &Outcome, _cost: Option<Duration>, _now: Instant) {}

    /// Asked after a pick: adds to `wanted` whose load should be asked for. The answers serve later calls.
    fn probes(
        &mut self,
        _candidates: &Candidates<'_>,
        _now: Instant,
        _rng: &mut Rng,
        _wanted: &mut Vec<Slot>,
    ) {
    }

    /// A probe of `slot`, one of `servers`, has been answered.
    fn probed(
        &mut self,
        _slot: Slot,
        _load: &ServerLoad,
        _servers: usize,
        _now: Instant,
        _rng: &mut Rng,
    ) {
    }

    /// If a cost is nanoseconds of latency × (calls before + 1) / weight: the calls that were taken to be
    /// before a new one. Asked to explain, not to choose.
    fn calls_before(&self, _signal: &Signal, _now: Instant) -> Option<f32> {
        None
    }

    /// `slot` stands for a new endpoint from now on: forget the former.
    fn joined(&mut self, _slot: Slot, _now: Instant) {}
}

/// The endpoints that a call may go to.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    pub(crate) signals: &'a [Signal],
    pub(crate) eligible: &'a [Slot],
}

impl<'a> Candidates<'a> {
    /// Their slots; at least one.
    #[inline]
    pub fn slots(&self) -> &'a [Slot] {
        self.eligible
    }

    /// What is known of one of them.
    #[inline]
    pub fn signal(&self, slot: Slot) -> &'a Signal {
        &self.signals[slot as usize]
    }

    /// True if this is one of them.
    #[inline]
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        if self.eligible.get(slot as usize) == Some(&slot) {
            return true;
        }
        // Slots ascend, so with as many gaps before it at most it is no further to the left than that.
        let gaps = self.signals.len() - self.eligible.len();
        let last = (slot as usize).min(self.eligible.len() - 1);
        let first = (slot as usize).saturating_sub(gaps).min(last);
        self.eligible[first..=last].binary_search(&slot).is_ok()
    }

    /// How many endpoints there are, whether or not this call may go to them.
    #[inline]
    pub(crate) fn endpoints(&self) -> u32 {
        self.signals.len() as u32
    }

    /// `count` different ones drawn at random, or all if there are no more than that or no more than
    /// [`COMPARE_ALL_MAX`] and `count` is [`Sample::ALL_WHEN_FEW`]'s.
    #[inline]
    pub(crate) fn sample(&self, sample: Sample, rng: &mut Rng) -> Drawn {
        let all = self.eligible;
        if all.len() <= sample.all_up_to.max(sample.count) {
            return Drawn::of(all);
        }
        let mut drawn = Drawn::of(&[]);
        for _ in 0..sample.count {
            // Floyd's way: each further draw is from one more, and a repetition stands for the last.
            let bound = all.len() - sample.count + drawn.count + 1;
            let slot = all[rng.below(bound as u64) as usize];
            let is_new = !drawn.slots().contains(&slot);
            drawn.push(if is_new { slot } else { all[bound - 1] });
        }
        drawn
    }
}

/// How many candidates are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// So many, drawn at random; at most [`COMPARE_ALL_MAX`].
    count: usize,
    /// All, if there are no more than this.
    all_up_to: usize,
}

impl Sample {
    /// `count` of them, however few there are.
    ///
    /// # Panics
    /// If `count` is 0 or above [`COMPARE_ALL_MAX`].
    pub fn of(count: usize) -> Self {
        assert!((1..=COMPARE_ALL_MAX).contains(&count), "between 1 and 8 are compared");
        Sample { count, all_up_to: 0 }
    }

    /// As [`Sample::of`], for a count that comes from outside.
    ///
    /// # Errors
    /// If `count` is 0 or above [`COMPARE_ALL_MAX`].
    pub fn checked(count: usize) -> Result<Self, ConfigError> {
        config::between("choices", count, 1, COMPARE_ALL_MAX).map(|()| Sample::of(count))
    }

    /// `count` of many, and all of few.
    ///
    /// # Panics
    /// As [`Sample::of`].
    pub fn all_of_few_or(count: usize) -> Self {
        Sample { all_up_to: COMPARE_ALL_MAX, ..Sample::of(count) }
    }
}

/// What was drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn {
    slots: [Slot; COMPARE_ALL_MAX],
    count: usize,
}

impl Drawn {
    fn of(slots: &[Slot]) -> Self {
        let mut drawn = Drawn { slots: [0; COMPARE_ALL_MAX], count: slots.len() };
        drawn.slots[..slots.len()].copy_from_slice(slots);
        drawn
    }

    fn push(&mut self, slot: Slot) {
        self.slots[self.count] = slot;
        self.count += 1;
    }

    #[inline]
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots[..self.count]
    }
}

/// Why an endpoint was chosen: who was compared, what each would have cost, what decided.
#[derive(Clone, Debug, Default)]
pub struct Why {
    considered: [(Slot, f32); COMPARE_ALL_MAX],
    count: usize,
    /// What decided.
    pub verdict: Verdict,
}

impl Why {
    /// Who was compared, with the cost of each in the policy's own measure: less is better. Of more than
    /// [`COMPARE_ALL_MAX`] these are some, the chosen one among them.
    pub fn considered(&self) -> &[(Slot, f32)] {
        &self.considered[..self.count]
    }

    /// The same, each endpoint once: a policy may come upon one in two ways.
    pub(crate) fn compared(&self) -> impl Iterator<Item = &(Slot, f32)> {
        let all = self.considered();
        let is_first = |index: usize| all[..index].iter().all(|other| other.0 != all[index].0);
        all.iter().enumerate().filter_map(move |(index, one)| is_first(index).then_some(one))
    }

    /// Begins anew.
    #[inline]
    pub fn clear(&mut self) {
        self.count = 0;
        self.verdict = Verdict::Chance;
    }

    /// Notes a candidate; of more than [`COMPARE_ALL_MAX`] the first ones are kept, so that who may
    /// consider more is to say whom it chose, by [`Why::choose`].
    #[inline]
    pub fn consider(&mut self, slot: Slot, cost: f32) {
        if let Some(place) = self.considered.get_mut(self.count) {
            *place = (slot, cost);
            self.count += 1;
        }
    }

    /// Notes who was chosen out of those considered, in the place of another if there were so many that
    /// it was not kept.
    #[inline]
    pub fn choose(&mut self, slot: Slot, cost: f32, verdict: Verdict) -> Slot {
        self.verdict = verdict;
        let is_kept = self.considered().iter().any(|considered| considered.0 == slot);
        if let Some(last) = self.considered[..self.count].last_mut()
            && !is_kept
        {
            *last = (slot, cost);
        }
        slot
    }

    /// The cheapest of those considered; of equals the first, which chance has put there.
    #[inline]
    pub fn cheapest(&mut self, verdict: Verdict) -> Slot {
        self.verdict = verdict;
        let mut best = self.considered[0];
        for &(slot, cost) in self.considered.get(1..self.count).unwrap_or_default() {
            let is_better = cost < best.1;
            best.0 = if is_better { slot } else { best.0 };
            best.1 = if is_better { cost } else { best.1 };
        }
        best.0
    }
}

/// What decided a pick.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Verdict {
    /// Chance alone.
    #[default]
    Chance,
    /// It was its turn.
    Turn,
    /// The fewest calls in flight.
    LeastLoaded,
    /// The lowest cost.
    Cheapest,
    /// The shortest latency among those that are not hot.
    Cold,
    /// All are hot: the one with the fewest calls in flight.
    AllHot,
    /// Costs were close: the better tail.
    Tail,
    /// The one of which least is known, out of the budget for exploring.
    Explore,
    /// One call to see whether an ejected endpoint has recovered.
    Trial,
    /// A newcomer that is not yet due as much as it would get was passed over.
    SlowStart,
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_engine::rng::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_sample_is_of_different_ones(count in 1usize..=8, all in 1u32..40, seed: u64) {
            let eligible: Vec<Slot> = (0..all).map(|slot| slot * 3).collect();
            let candidates = Candidates { signals: &[], eligible: &eligible };
            let drawn = candidates.sample(Sample::of(count), &mut Rng::from_seed(seed));
            let different: BTreeSet<Slot> = drawn.slots().iter().copied().collect();
            prop_assert_eq!(different.len(), count.min(all as usize));
            prop_assert!(different.iter().all(|slot| eligible.contains(slot)));
            let few = candidates.sample(Sample::all_of_few_or(count), &mut Rng::from_seed(seed));
            let expected = if all <= 8 { all as usize } else { count };
            prop_assert_eq!(few.slots().len(), expected);
        }
    }

    proptest! {
        #[test]
        fn whoever_is_eligible_is_found(eligible in prop::collection::btree_set(0u32..60, 1..60)) {
            let signals = vec![Signal::new(1, Instant::ZERO); 60];
            let slots: Vec<Slot> = eligible.iter().copied().collect();
            let candidates = Candidates { signals: &signals, eligible: &slots };
            for slot in (0..60).chain([Slot::MAX]) {
                prop_assert_eq!(candidates.contains(slot), eligible.contains(&slot));
            }
        }
    }

    #[test]
    fn every_pair_is_drawn_equally_often() {
        let eligible = [0, 1, 2, 3, 4];
        let candidates = Candidates { signals: &[], eligible: &eligible };
        let mut rng = Rng::from_seed(1);
        let mut counts = [[0u32; 5]; 5];
        for _ in 0..100_000 {
            let drawn = candidates.sample(Sample::of(2), &mut rng);
            let (a, b) = (drawn.slots()[0], drawn.slots()[1]);
            counts[a.min(b) as usize][a.max(b) as usize] += 1;
        }
        for (a, row) in counts.iter().enumerate() {
            for (b, &count) in row.iter().enumerate().skip(a + 1) {
                // Expected 10,000, standard deviation 95.
                assert!((9_500..10_500).contains(&count), "{a} and {b}: {count}");
            }
        }
    }
}
