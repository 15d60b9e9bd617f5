//! Hot or cold: Prequal's rule over a pool of recent probes.
//!
//! Wydrowski, Kleinberg, Rumble, Archer, *Load is not what you should balance: Introducing Prequal*, NSDI
//! 2024. A server whose requests in flight exceed a quantile of those lately seen is *hot*. If any server
//! in the pool is cold, the cold one with the shortest latency is chosen; else the one with the fewest in
//! flight. Each call asks for some probes of random servers; their answers serve later calls.
//!
//! Every answer carries its server's load in this protocol, so each is a probe for nothing; how many
//! probes are asked for besides is a matter of configuration. Of each server the latest probe is kept.

use super::{Candidates, Policy, Verdict, Why};
use crate::config::believe;
use crate::endpoint::{Outcome, ServerLoad, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use std::collections::VecDeque;

/// Constants of the rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PrequalConfig {
    /// Probes for each call. The paper's testbed: 3. With 0, and answers as probes, only servers that
    /// have been silent for longer than `age_max` are probed.
    pub probes: f64,
    /// Probes that are forgotten for each call, by turns the oldest and the worst. The paper: 1.
    pub removals: f64,
    /// The most probes in the pool. The paper: 16.
    pub pool_max: usize,
    /// How long a probe is kept. The paper: 1 s.
    pub age_max: Duration,
    /// Above this quantile of requests in flight a server is hot. The paper: 2^−0.25.
    pub hot_quantile: f64,
    /// The paper's δ: how fast a pool may shrink between probes.
    pub delta: f64,
    /// Answers are probes too.
    pub piggyback: bool,
}

impl Default for PrequalConfig {
    fn default() -> Self {
        PrequalConfig {
            probes: 3.0,
            removals: 1.0,
            pool_max: 16,
            age_max: Duration::from_secs(1),
            hot_quantile: 0.84,
            delta: 1.0,
            piggyback: false,
        }
    }
}

impl PrequalConfig {
    /// Answers are the probes; others are made only of servers that give none.
    pub fn piggybacked() -> Self {
        PrequalConfig { probes: 0.0, piggyback: true, ..PrequalConfig::default() }
    }
}

/// Values of requests in flight of which the quantile is taken.
const SEEN_MAX: usize = 64;

/// See the module page.
#[derive(Debug)]
pub struct Prequal {
    config: PrequalConfig,
    /// Oldest first.
    pool: VecDeque<Entry>,
    /// Requests in flight as lately seen, a ring.
    seen: Vec<u32>,
    seen_next: usize,
    hot_above: u32,
    probes_due: f64,
    removals_due: f64,
    removes_worst: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: Slot,
    in_flight: u32,
    latency: Duration,
    at: Instant,
    uses_left: u32,
}

impl Prequal {
    /// The rule with these constants.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which `validate` tells beforehand.
    pub fn new(config: PrequalConfig) -> Self {
        believe("a Prequal policy", config.validate());
        Prequal {
            config,
            pool: VecDeque::new(),
            seen: Vec::new(),
            seen_next: 0,
            hot_above: 0,
            probes_due: 0.0,
            removals_due: 0.0,
            removes_worst: false,
        }
    }

    fn add(&mut self, slot: Slot, load: &ServerLoad, now: Instant, uses: u32) {
        self.pool.retain(|entry| entry.slot != slot);
        if self.pool.len() >= self.config.pool_max {
            self.pool.pop_front();
        }
        let latency = load.queue_delay + load.service_time;
        self.pool.push_back(Entry {
            slot,
            in_flight: load.in_flight,
            latency,
            at: now,
            uses_left: uses,
        });
        self.see(load.in_flight);
    }

    fn see(&mut self, in_flight: u32) {
        if self.seen.len() < SEEN_MAX {
            self.seen.push(in_flight);
        } else {
            self.seen[self.seen_next] = in_flight;
        }
        self.seen_next = (self.seen_next + 1) % SEEN_MAX;
        let mut sorted = [0; SEEN_MAX];
        let sorted = &mut sorted[..self.seen.len()];
        sorted.copy_from_slice(&self.seen);
        let rank = (self.config.hot_quantile * (sorted.len() - 1) as f64).round() as usize;
        self.hot_above = *sorted.select_nth_unstable(rank).1;
    }

    /// How often a probe may be used: b_reuse of the paper, rounded at random.
    fn uses(&self, servers: usize, rng: &mut Rng) -> u32 {
        let config = &self.config;
        let share = config.pool_max as f64 / servers.max(1) as f64;
        let gained = (1.0 - share) * config.probes.max(1.0) - config.removals;
        let uses =
            if gained > 0.0 { ((1.0 + config.delta) / gained).max(1.0) } else { f64::INFINITY };
        if uses > 1e6 { u32::MAX } else { (uses + rng.unit()) as u32 }
    }

    fn is_hot(&self, entry: &Entry) -> bool {
        entry.in_flight > self.hot_above
    }

    /// Hot and cold in one figure, for whoever wants to know why.
    fn cost(&self, entry: &Entry) -> f32 {
        match self.is_hot(entry) {
            true => 1e18 * (1.0 + entry.in_flight as f32),
            false => entry.latency.as_secs_f32(),
        }
    }

    /// Hot and cold in one order: worse is greater.
    fn badness(&self, entry: &Entry) -> (bool, u64, u32) {
        match self.is_hot(entry) {
            true => (true, u64::from(entry.in_flight), 0),
            // Of equally fast ones, that with the fewest in flight.
            false => (false, entry.latency.as_nanos() as u64, 0),
        }
    }

    fn remove_some(&mut self) {
        self.removals_due += self.config.removals;
        while self.removals_due >= 1.0 {
            self.removals_due -= 1.0;
            self.removes_worst = !self.removes_worst;
            if self.pool.len() <= 2 {
                continue;
            }
            let worst = (0..self.pool.len()).max_by_key(|&index| self.badness(&self.pool[index]));
            let index = if self.removes_worst { worst.unwrap_or(0) } else { 0 };
            self.pool.remove(index);
        }
    }
}

impl Policy for Prequal {
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        let slots = candidates.slots();
        let age_max = self.config.age_max;
        self.pool.retain(|entry| now.since(entry.at) <= age_max);
        self.probes_due += self.config.probes;
        // A probe of a server to which this call must not go is of use to another call.
        let is_candidate = |entry: &Entry| slots.binary_search(&entry.slot).is_ok();
        let usable = self.pool.iter().filter(|entry| is_candidate(entry)).count();
        if usable < 2.min(slots.len()) {
            return slots[rng.below(slots.len() as u64) as usize];
        }
        for entry in self.pool.iter().filter(|entry| is_candidate(entry)) {
            why.consider(entry.slot, self.cost(entry));
        }
        let indices = (0..self.pool.len()).filter(|&index| is_candidate(&self.pool[index]));
        let best = indices.min_by_key(|&index| self.badness(&self.pool[index]));
        let best = best.expect("the pool holds two at least");
        let entry = &self.pool[best];
        let verdict = if self.is_hot(entry) { Verdict::AllHot } else { Verdict::Cold };
        let slot = why.choose(entry.slot, self.cost(entry), verdict);
        let entry = &mut self.pool[best];
        entry.in_flight += 1;
        entry.uses_left = entry.uses_left.saturating_sub(1);
        if entry.uses_left == 0 {
            self.pool.remove(best);
        }
        self.remove_some();
        slot
    }

    fn ended(&mut self, slot: Slot, outcome: &Outcome, _cost: Option<Duration>, now: Instant) {
        if let Outcome::Answered(Some(load)) = outcome
            && self.config.piggyback
        {
            let load = ServerLoad { in_flight: load.others_in_flight(), ..*load };
            self.add(slot, &load, now, u32::MAX);
        }
        // A server that fails fast has few in flight and its old latencies. What was known of it is
        // forgotten, until a probe says the same again: the paper's aversion to errors goes further, by
        // means that it does not tell.
        if outcome.is_failure() {
            self.pool.retain(|entry| entry.slot != slot);
        }
    }

    fn probes(
        &mut self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        wanted: &mut Vec<Slot>,
    ) {
        let slots = candidates.slots();
        if self.config.piggyback && self.config.probes == 0.0 {
            // Whoever is called tells its load; of the others, one a call, and only if it is silent.
            let slot = slots[rng.below(slots.len() as u64) as usize];
            let signal = candidates.signal(slot);
            let told = signal.told_in_flight(now, self.config.age_max).is_some();
            let known = self.pool.iter().any(|entry| entry.slot == slot);
            if !told && !known && signal.in_flight == 0 {
                wanted.push(slot);
            }
            return;
        }
        let all = wanted.len() + slots.len();
        while self.probes_due >= 1.0 && wanted.len() < all {
            let slot = slots[rng.below(slots.len() as u64) as usize];
            if !wanted.contains(&slot) {
                self.probes_due -= 1.0;
                wanted.push(slot);
            }
        }
        self.probes_due %= 1.0;
    }

    fn probed(
        &mut self,
        slot: Slot,
        load: &ServerLoad,
        servers: usize,
        now: Instant,
        rng: &mut Rng,
    ) {
        let uses = self.uses(servers, rng);
        self.add(slot, load, now, uses);
    }

    fn joined(&mut self, slot: Slot, _now: Instant) {
        self.pool.retain(|entry| entry.slot != slot);
    }
}
