//! One core's balancer: the way of a call from candidates to outcome.
//!
//! ```text
//! start ─► trial due? ─► policy picks ─► due its part? ─► Ticket ─► (the call) ─► end ─► record,
//!                             ▲                                                           policy,
//!                             └── digests, standings ◄── tick: merge, review, rotate ◄──  health
//! ```
//!
//! Pure: it makes no call, reads no clock and draws from the generator that it is handed. What makes the
//! calls (the client, the proxy, the tower layer, the simulator) tells it of their starts and ends, and
//! calls [`Balancer::tick`] when that asks for it.

mod members;
mod probes;
mod refresh;

pub use members::{Event, Member};

use crate::budget::{Budget, BudgetConfig};
use crate::config::believe;
use crate::endpoint::{Endpoint, Outcome, Signal, Slot};
use crate::evidence::SharedEvidence;
use crate::explain::{Candidate, Explanation, PickTable};
use crate::health::{Change, Health, HealthConfig, Observed, Standing};
use crate::histogram::{Counts, LATENCY_MAX};
use crate::metrics::Tally;
use crate::policy::{Candidates, Policy, Verdict, Why};
use catena_engine::client::Reach;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use refresh::Rotation;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a balancer behaves.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct BalancerConfig {
    /// Ejection and return.
    pub health: HealthConfig,
    /// Retries and hedges.
    pub budget: BudgetConfig,
    /// When a second copy of a call is sent.
    pub hedge: HedgeConfig,
    /// Count why endpoints are chosen, see [`Balancer::picks`]. Default: no.
    pub explain: bool,
}

/// When a second copy of a call is sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HedgeConfig {
    /// No sooner than this. Default 1 ms: twice what timers of a sleeping machine are late by.
    pub delay_min: Duration,
    /// Calls in the window of the endpoint that holds the call from which on its p95 is believed.
    pub evidence_min: u64,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        HedgeConfig { delay_min: Duration::from_millis(1), evidence_min: 30 }
    }
}

/// A call under way, as the balancer knows it. Hand it back with [`Balancer::end`].
#[derive(Debug)]
#[must_use = "a ticket that is not handed back is a call in flight for ever"]
pub struct Ticket {
    slot: Slot,
    started: Instant,
    is_trial: bool,
}

impl Ticket {
    /// Where the call goes.
    #[inline]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The ticket as a number, for who keeps calls in a place that knows nothing of tickets; together with
    /// [`Ticket::started`] it is all of it.
    #[inline]
    pub fn into_token(self) -> u64 {
        u64::from(self.slot) | u64::from(self.is_trial) << 32
    }

    /// The ticket again; of each token one.
    #[inline]
    pub fn from_token(token: u64, started: Instant) -> Self {
        Ticket { slot: token as Slot, started, is_trial: token >> 32 & 1 == 1 }
    }

    /// True if it is the one call that tries whether an ejected endpoint has recovered.
    pub fn is_trial(&self) -> bool {
        self.is_trial
    }
}

/// Calls look at all connections no more often than this.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// See the module page.
#[derive(Debug)]
pub struct Balancer {
    /// By slot; of a slot that is free whatever was there last.
    signals: Vec<Signal>,
    endpoints: Vec<Option<Endpoint>>,
    by_name: BTreeMap<Arc<str>, Slot>,
    rotations: Vec<Rotation>,
    tallies: Vec<Tally>,
    policy: Box<dyn Policy>,
    health: Health,
    budget: Budget,
    config: BalancerConfig,
    shared: Arc<SharedEvidence>,
    core: usize,
    why: Why,
    picks: Option<Box<PickTable>>,
    /// The eligible ones without those that a call must not go to; here for its memory.
    narrowed: Vec<Slot>,
    /// Whose load is to be asked for.
    wanted: Vec<Slot>,
    counts: Counts,
    /// The slot at which the next refresh goes on.
    refresh_next: usize,
    ticked_at: Instant,
    /// When all connections were looked at last.
    followed_at: Instant,
    events: Vec<Event>,
}

impl Balancer {
    /// A balancer without endpoints on core number `core` of those that share the evidence.
    ///
    /// # Panics
    /// If there is no such core, or a value of `config` is out of bounds, which `validate` tells
    /// beforehand.
    pub fn new(
        config: BalancerConfig,
        policy: Box<dyn Policy>,
        shared: Arc<SharedEvidence>,
        core: usize,
        now: Instant,
    ) -> Self {
        assert!(core < shared.cores(), "core {core} of {}", shared.cores());
        believe("a balancer", config.validate());
        Balancer {
            signals: Vec::new(),
            endpoints: Vec::new(),
            by_name: BTreeMap::new(),
            rotations: Vec::new(),
            tallies: Vec::new(),
            policy,
            health: Health::new(config.health, now),
            budget: Budget::new(config.budget, now),
            config,
            shared,
            core,
            why: Why::default(),
            picks: config.explain.then(Box::default),
            narrowed: Vec::new(),
            wanted: Vec::new(),
            counts: Counts::default(),
            refresh_next: 0,
            ticked_at: now,
            followed_at: now,
            events: Vec::new(),
        }
    }

    /// Where a call should go, other than to `avoid`. `None`: there is nowhere.
    #[inline]
    pub fn start(&mut self, avoid: &[Slot], now: Instant, rng: &mut Rng) -> Option<Ticket> {
        self.why.clear();
        let trial = match avoid {
            [] => self.health.begin_trial(now),
            avoid => self.health.begin_overdue_trial(avoid, now),
        };
        if let Some(slot) = trial {
            return Some(self.begin_trial(slot, now));
        }
        let mut slot = self.pick(avoid, None, now, rng)?;
        let due = self.health.due_share(slot);
        // Exploring has a budget of its own, and a returner of which little is known may live on it.
        if due < 1.0 && self.why.verdict != Verdict::Explore && !rng.chance(due) {
            let early = slot;
            // The second choice is among others: what the first one looked at is none of its business.
            let why = std::mem::take(&mut self.why);
            if let Some(other) = self.pick(avoid, Some(early), now, rng) {
                slot = other;
                self.why.verdict = Verdict::SlowStart;
                self.count_pick(slot, Some(early));
                return Some(self.begin(slot, false, now));
            }
            self.why = why;
        }
        self.count_pick(slot, None);
        Some(self.begin(slot, false, now))
    }

    /// As [`Balancer::start`], for whoever has connections: the call goes to an endpoint that is connected,
    /// if there is one, else to one that may yet be, and only if there is none of those either to one that
    /// cannot be reached. `reach` tells how it stands with the connection to an endpoint.
    #[inline]
    pub fn start_connected(
        &mut self,
        avoid: &[Slot],
        now: Instant,
        rng: &mut Rng,
        reach: impl Fn(Slot) -> Reach,
    ) -> Option<Ticket> {
        loop {
            let ticket = self.start(avoid, now, rng)?;
            let found = reach(ticket.slot);
            if found == Reach::Connected {
                return Some(ticket);
            }
            // While nobody is connected not every call looks at all of them.
            let is_news = self.health.reached(ticket.slot, found, now);
            let is_due = is_news || now.since(self.followed_at) >= LOOK_INTERVAL_MIN;
            let has_changed = is_due && self.follow_reach(&reach, now);
            if !is_news && !has_changed {
                return Some(ticket);
            }
            self.end(ticket, &Outcome::Abandoned, now, rng);
        }
    }

    /// Takes over how it stands with the connections; true if something has changed. To be called with
    /// each [`Balancer::tick`], so that an endpoint that is connected gets calls.
    #[cold]
    pub fn follow_reach(&mut self, reach: impl Fn(Slot) -> Reach, now: Instant) -> bool {
        let mut has_changed = false;
        self.followed_at = now;
        for (slot, endpoint) in self.endpoints.iter().enumerate() {
            let Some(endpoint) = endpoint else { continue };
            let slot = slot as Slot;
            if self.health.standing(slot).is_none() {
                continue;
            }
            let reach = reach(slot);
            has_changed |= self.health.reached(slot, reach, now);
            let is_connected = reach == Reach::Connected;
            match self.rotations[slot as usize].note_reach(is_connected, now) {
                Some(true) => self.events.push(Event::Back(endpoint.name.clone())),
                Some(false) => self.events.push(Event::Gone(endpoint.name.clone())),
                None => {}
            }
        }
        has_changed
    }

    /// A call has ended.
    #[inline]
    pub fn end(&mut self, ticket: Ticket, outcome: &Outcome, now: Instant, rng: &mut Rng) {
        let Ticket { slot, started, is_trial } = ticket;
        let latency = now.since(started);
        let signal = &mut self.signals[slot as usize];
        signal.end(started);
        let cost = cost_of(outcome, latency, signal, now);
        let endpoint = self.endpoints[slot as usize].as_mut().expect("it has a call in flight");
        if let Some(cost) = cost {
            endpoint.record(cost);
            signal.record(cost.as_nanos() as u64 as f32, now);
        }
        if let Outcome::Answered(load) = outcome {
            signal.heard_at = now;
            if let Some(load) = load {
                signal.told(load.others_in_flight(), now);
                endpoint.reported = Some(*load);
            }
            self.health.heard(slot, now);
        }
        let is_draining = endpoint.is_draining();
        match outcome {
            Outcome::Answered(_) => endpoint.answers += 1,
            _ => self.tallies[slot as usize].count_unanswered(outcome),
        }
        self.policy.ended(slot, outcome, cost, now);
        let observed = Observed {
            failed: outcome.is_failure(),
            latency,
            abandoned: *outcome == Outcome::Abandoned,
            trial: is_trial,
        };
        if let Some(change) = self.health.ended(slot, &observed, now, rng) {
            self.note(change);
        }
        if is_draining {
            self.leave_if_done(slot);
        }
    }

    /// Takes out what happened to the set of endpoints since it was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Why the last call went where it went.
    pub fn why(&self) -> &Why {
        &self.why
    }

    /// The same in words and numbers, for the call that was started last.
    pub fn explain(&self, ticket: &Ticket) -> Explanation {
        let candidate = |&(slot, cost): &(Slot, f32)| {
            let mut signal = self.signal(slot).clone();
            // It was not there yet when the choice was made.
            if slot == ticket.slot {
                signal.end(ticket.started);
            }
            Candidate {
                name: self.endpoint_of(slot).name.clone(),
                cost,
                calls_before: self.policy.calls_before(&signal, ticket.started),
                weight: signal.weight,
                p99: signal.p99,
            }
        };
        Explanation {
            chosen: self.endpoint_of(ticket.slot).name.clone(),
            verdict: self.why.verdict,
            candidates: self.why.compared().map(candidate).collect(),
        }
    }

    /// Why calls went where they went, all of them since the start; `None` unless
    /// [`BalancerConfig::explain`] says so.
    pub fn picks(&self) -> Option<&PickTable> {
        self.picks.as_deref()
    }

    /// What picks are made by.
    pub fn signal(&self, slot: Slot) -> &Signal {
        &self.signals[slot as usize]
    }

    /// The record of an endpoint.
    pub fn endpoint(&self, slot: Slot) -> Option<&Endpoint> {
        self.endpoints.get(slot as usize)?.as_ref()
    }

    /// Where an endpoint stands; `None` if it leaves or is gone.
    pub fn standing(&self, slot: Slot) -> Option<Standing> {
        self.health.standing(slot)
    }

    /// The median and the p99 of the other endpoints' calls, the typical one's; `None`: too little is known.
    pub fn peers(&self) -> Option<(Duration, Duration)> {
        self.health.peers()
    }

    /// All endpoints, those that leave included.
    pub fn endpoints(&self) -> impl Iterator<Item = (Slot, &Endpoint)> {
        let endpoints = self.endpoints.iter().enumerate();
        endpoints.filter_map(|(slot, endpoint)| Some((slot as Slot, endpoint.as_ref()?)))
    }

    /// What this core shares with others; [`crate::metrics::MetricsSnapshot::of`] reads it on any thread.
    pub fn evidence(&self) -> &Arc<SharedEvidence> {
        &self.shared
    }

    /// True while calls go to all because most look ill.
    pub fn is_panicking(&self) -> bool {
        self.health.is_panicking()
    }

    /// Where to count what is not seen from here: retries, hedges, what went wrong. See [`crate::metrics`].
    pub fn tally(&mut self, slot: Slot) -> &mut Tally {
        &mut self.tallies[slot as usize]
    }

    /// A first call begins: it pays into the budget of retries and hedges.
    #[inline]
    pub fn count_first_call(&mut self) {
        self.budget.first_call();
    }

    /// Takes a retry out of the budget; false: there is none left.
    pub fn take_retry(&mut self, now: Instant) -> bool {
        self.budget.take_retry(now)
    }

    /// Takes a hedge out of the budget; false: there is none left.
    pub fn take_hedge(&mut self, now: Instant) -> bool {
        self.budget.take_hedge(now)
    }

    /// True if the endpoint that holds a call was given up after it had got it: nothing is gained by
    /// waiting any longer.
    pub fn is_given_up(&self, ticket: &Ticket) -> bool {
        !ticket.is_trial && matches!(self.standing(ticket.slot), Some(Standing::Ejected { .. }))
    }

    /// True if a call may go to another than `avoid`.
    pub fn can_start(&mut self, avoid: &[Slot]) -> bool {
        self.health.eligible().iter().any(|slot| !avoid.contains(slot))
    }

    /// After how long a second copy of a call should be sent: when it has taken longer than 95 of 100
    /// calls to the endpoint that holds it. `None`: too little is known of that endpoint.
    pub fn hedge_delay(&self, ticket: &Ticket) -> Option<Duration> {
        let digest = self.endpoint(ticket.slot)?.digest;
        let HedgeConfig { delay_min, evidence_min } = self.config.hedge;
        (digest.count >= evidence_min).then(|| digest.p95.max(delay_min))
    }
}

/// For those whose endpoints are not always able to take a call: they avoid the ones that are not.
#[cfg(feature = "tower")]
impl Balancer {
    /// When the call is due that tries whether an ejected endpoint other than `avoid` has recovered.
    pub(crate) fn trial_at(&self, avoid: &[Slot]) -> Option<Instant> {
        self.health.trial_at(avoid)
    }

    /// The call that tries whether an ejected endpoint has recovered, if one is due. That it is one of
    /// `avoid` when its time has come is an answer too, and the next one is tried.
    pub(crate) fn start_trial(
        &mut self,
        avoid: &[Slot],
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Ticket> {
        while let Some(slot) = self.health.begin_trial(now) {
            if !avoid.contains(&slot) {
                return Some(self.begin_trial(slot, now));
            }
            let latency = Duration::ZERO;
            let observed = Observed { failed: true, latency, abandoned: false, trial: true };
            if let Some(change) = self.health.ended(slot, &observed, now, rng) {
                self.note(change);
            }
        }
        None
    }

    /// A call to any endpoint but `avoid`, wherever it stands.
    pub(crate) fn start_anywhere(&mut self, avoid: &[Slot], now: Instant) -> Option<Ticket> {
        let mut slots = 0..self.endpoints.len() as Slot;
        let slot =
            slots.find(|slot| self.health.standing(*slot).is_some() && !avoid.contains(slot))?;
        self.why.clear();
        self.count_pick(slot, None);
        Some(self.begin(slot, false, now))
    }
}

/// What is published says that this core is no more.
impl Drop for Balancer {
    fn drop(&mut self) {
        for endpoint in self.endpoints.iter().flatten() {
            endpoint.evidence.metrics(self.core).publish_gone();
        }
    }
}

impl Balancer {
    fn pick(
        &mut self,
        avoid: &[Slot],
        passed_over: Option<Slot>,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Slot> {
        let mut eligible = self.health.eligible();
        if !avoid.is_empty() || passed_over.is_some() {
            self.narrowed.clear();
            let may_be = |slot: &&Slot| !avoid.contains(slot) && passed_over != Some(**slot);
            self.narrowed.extend(eligible.iter().filter(may_be));
            if self.narrowed.is_empty() {
                // All that are connected were tried; some may yet be.
                self.health.second_best(&mut self.narrowed);
                self.narrowed.retain(|slot| may_be(&slot));
            }
            eligible = &self.narrowed;
        }
        match eligible {
            [] => None,
            _ => {
                let candidates = Candidates { signals: &self.signals, eligible };
                Some(self.policy.pick(&candidates, now, rng, &mut self.why))
            }
        }
    }

    #[inline]
    fn count_pick(&mut self, chosen: Slot, held_back: Option<Slot>) {
        if let Some(picks) = &mut self.picks {
            picks.count(chosen, &self.why, held_back);
        }
    }

    fn begin_trial(&mut self, slot: Slot, now: Instant) -> Ticket {
        self.why.clear();
        self.why.verdict = Verdict::Trial;
        self.count_pick(slot, None);
        self.tallies[slot as usize].trials += 1;
        self.begin(slot, true, now)
    }

    #[inline]
    fn begin(&mut self, slot: Slot, is_trial: bool, now: Instant) -> Ticket {
        self.signals[slot as usize].start(now);
        self.policy.started(slot, now);
        Ticket { slot, started: now, is_trial }
    }

    fn note(&mut self, change: Change) {
        if let Change::Ejected(slot, cause) = change {
            self.tallies[slot as usize].count_ejection(cause);
        }
        let name = self.endpoint_of(change.slot()).name.clone();
        self.events.push(Event::Health(change, name));
    }

    fn endpoint_of(&self, slot: Slot) -> &Endpoint {
        self.endpoints[slot as usize].as_ref().expect("a slot of an endpoint")
    }
}

/// What a call counts as: its latency, or more if it failed, so that failing fast attracts nobody.
#[inline]
fn cost_of(
    outcome: &Outcome,
    latency: Duration,
    signal: &Signal,
    now: Instant,
) -> Option<Duration> {
    let estimate = || Duration::from_nanos(signal.recent(now).unwrap_or(signal.p50) as u64);
    match outcome {
        Outcome::Answered(_) => Some(latency),
        Outcome::Failed { timeout } => {
            Some((*timeout).max(estimate() * 2).max(latency).min(LATENCY_MAX))
        }
        Outcome::TimedOut => Some(latency.max(estimate() * 2).min(LATENCY_MAX)),
        // It was at least as slow as this; worth knowing only if that is slow.
        Outcome::Abandoned => (latency.as_nanos() as u64 as f32 > signal.p50).then_some(latency),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::MEMBER_BYTES;
    use crate::policy::c3;

    #[test]
    fn an_endpoint_costs_no_more_than_24_kib_on_each_core() {
        let name: Arc<str> = "fd00:1234:5678:9abc:def0:1234:5678:9abc%eth0:65535".into();
        let evidence = SharedEvidence::new(1).of(&name);
        let record = size_of::<Signal>() + size_of::<Option<Endpoint>>() + size_of::<Rotation>();
        // A map has room for twice as many as are in it at most, and a byte for each place.
        let entry = 2 * (size_of::<(Arc<str>, Slot)>() + 1) + name.len() + 16;
        // Of all policies C3 keeps the most.
        let policy = c3::SERVER_BYTES;
        // Vectors that have just grown are half empty.
        let bytes = evidence.memory_bytes_per_core()
            + 2 * (record + MEMBER_BYTES + policy + 2 * size_of::<Slot>())
            + entry;
        println!("{bytes} bytes");
        assert!(bytes <= 24 * 1_024, "{bytes} bytes");
    }
}
