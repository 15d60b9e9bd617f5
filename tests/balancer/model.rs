//! The balancer against what must hold whatever happens: random starts, ends, ticks, probes and changes
//! of membership.

use catena_balancer::balancer::{Balancer, BalancerConfig, Member, Ticket};
use catena_balancer::endpoint::{Outcome, ServerLoad, Slot};
use catena_balancer::evidence::SharedEvidence;
use catena_balancer::health::{HealthConfig, Standing};
use catena_balancer::policy::by_name;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const POLICIES: [&str; 9] =
    ["random", "rr", "wrr", "ll", "ewma", "c3", "prequal", "prequal-piggyback", "hist"];
const NAMES: usize = 8;

#[derive(Clone, Debug)]
enum Step {
    /// A first attempt.
    Call,
    /// Another attempt of a call that is under way somewhere, if the budget has one.
    Retry(usize),
    Hedge(usize),
    /// As many retries and hedges as the budget grants, and more.
    Storm(usize),
    End(usize, u8),
    Tick,
    Wait(u32),
    /// A bit for each name.
    Members(u8),
    Probed(usize),
    Heard(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::Call),
        3 => any::<usize>().prop_map(Step::Retry),
        2 => any::<usize>().prop_map(Step::Hedge),
        1 => any::<usize>().prop_map(Step::Storm),
        14 => (any::<usize>(), any::<u8>()).prop_map(|(nth, how)| Step::End(nth, how)),
        3 => Just(Step::Tick),
        3 => (0u32..400_000).prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Members),
        1 => any::<usize>().prop_map(Step::Probed),
        1 => any::<usize>().prop_map(Step::Heard),
    ]
}

struct Model {
    balancer: Balancer,
    rng: Rng,
    now: Instant,
    config: BalancerConfig,
    members: BTreeSet<usize>,
    under_way: Vec<(Ticket, Arc<str>)>,
    first_calls: f64,
    retries: f64,
    hedges: f64,
    /// The policy calls everybody now and then.
    explores: bool,
    /// Where each call went.
    trace: Vec<Slot>,
}

impl Model {
    fn new(policy: &str, seed: u64, heartbeats: bool) -> Self {
        let heartbeat_interval = heartbeats.then(|| Duration::from_millis(100));
        let health = HealthConfig { heartbeat_interval, ..HealthConfig::default() };
        let config = BalancerConfig { health, ..BalancerConfig::default() };
        let now = Instant::from_nanos(1);
        let explores = ["random", "rr", "hist"].contains(&policy);
        let policy = by_name(policy).expect("there is such a policy");
        let mut model = Model {
            balancer: Balancer::new(config, policy, SharedEvidence::new(1), 0, now),
            rng: Rng::from_seed(seed),
            now,
            config,
            members: BTreeSet::new(),
            under_way: Vec::new(),
            first_calls: 0.0,
            retries: 0.0,
            hedges: 0.0,
            explores,
            trace: Vec::new(),
        };
        model.set_members(0b1111);
        model
    }

    fn set_members(&mut self, bits: u8) {
        self.members = (0..NAMES).filter(|name| bits & (1 << name) != 0).collect();
        let member = |name: &usize| Member { name: name_of(*name), weight: 1 + *name as u32 % 3 };
        let members: Vec<Member> = self.members.iter().map(member).collect();
        self.balancer.set_members(&members, self.now);
    }

    fn slots(&self) -> Vec<Slot> {
        self.balancer.endpoints().map(|(slot, _)| slot).collect()
    }

    fn start(&mut self, avoid: &[Slot]) {
        let Some(ticket) = self.balancer.start(avoid, self.now, &mut self.rng) else {
            assert!(self.members.is_empty() || !avoid.is_empty(), "there is somewhere to go");
            return;
        };
        let slot = ticket.slot();
        assert!(!avoid.contains(&slot), "{slot} was to be avoided: {avoid:?}");
        let name = self.balancer.endpoint(slot).expect("an endpoint").name.clone();
        let is_member = self.members.iter().any(|member| name_of(*member) == name);
        assert!(is_member, "{name} has left");
        self.trace.push(slot);
        self.under_way.push((ticket, name));
        self.balancer.wanted_probes(self.now, &mut self.rng);
    }

    fn end(&mut self, nth: usize, how: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let (ticket, _) = self.under_way.swap_remove(nth % self.under_way.len());
        // Some endpoints fail more than others.
        let outcome = match u32::from(how) + ticket.slot() * 40 {
            0..150 => Outcome::Answered(Some(load(u32::from(how)))),
            150..180 => Outcome::Answered(None),
            180..200 => Outcome::Abandoned,
            200..230 => Outcome::TimedOut,
            _ => Outcome::Failed { timeout: Duration::from_secs(1) },
        };
        self.balancer.end(ticket, &outcome, self.now, &mut self.rng);
    }

    fn take(&mut self, step: &Step) {
        let slots = self.slots();
        match *step {
            Step::Call => {
                self.first_calls += 1.0;
                self.balancer.count_first_call();
                self.start(&[]);
            }
            Step::Retry(nth) | Step::Hedge(nth) if !self.under_way.is_empty() => {
                let is_retry = matches!(step, Step::Retry(_));
                let is_granted = match is_retry {
                    true => self.balancer.take_retry(self.now),
                    false => self.balancer.take_hedge(self.now),
                };
                if is_granted {
                    let count = if is_retry { &mut self.retries } else { &mut self.hedges };
                    *count += 1.0;
                    let tried = self.under_way[nth % self.under_way.len()].0.slot();
                    self.start(&[tried]);
                }
            }
            Step::Storm(nth) => (0..40).for_each(|_| {
                self.take(&Step::Hedge(nth));
                self.take(&Step::Retry(nth));
            }),
            Step::End(nth, how) => self.end(nth, how),
            Step::Tick => {
                self.balancer.tick(self.now, &mut self.rng);
                self.balancer.wanted_heartbeats(self.now);
            }
            Step::Wait(micros) => self.now += Duration::from_micros(u64::from(micros)),
            Step::Members(bits) => self.set_members(bits),
            Step::Probed(nth) if !slots.is_empty() => {
                let slot = slots[nth % slots.len()];
                self.balancer.probed(slot, &load(nth as u32 % 9), self.now, &mut self.rng);
            }
            Step::Heard(nth) if !slots.is_empty() => {
                self.balancer.heard(slots[nth % slots.len()], self.now);
            }
            _ => {}
        }
    }

    fn out(&self) -> usize {
        let standings = self.slots().into_iter().filter_map(|slot| self.balancer.standing(slot));
        standings.filter(|it| matches!(it, Standing::Ejected { .. } | Standing::Trial)).count()
    }

    /// Takes a step and checks what must hold after it.
    fn step(&mut self, step: &Step) {
        let out_before = self.out();
        self.take(step);
        let mut in_flight = BTreeMap::<Slot, u32>::new();
        for (ticket, name) in &self.under_way {
            *in_flight.entry(ticket.slot()).or_default() += 1;
            let there = self.balancer.endpoint(ticket.slot()).map(|endpoint| &endpoint.name);
            assert_eq!(there, Some(name), "its slot was given away while it was under way");
        }
        for slot in self.slots() {
            let counted = self.balancer.signal(slot).in_flight;
            assert_eq!(counted, in_flight.get(&slot).copied().unwrap_or(0), "in flight at {slot}");
        }
        let share = self.config.health.ejected_share_max;
        let room = ((self.members.len() as f64 * share) as usize).max(1);
        let out = self.out();
        assert!(out <= out_before || out <= room, "{out} of {} are out", self.members.len());
        let budget = self.config.budget;
        let seconds = self.now.as_nanos() as f64 / 1e9;
        // What a second brings is there from the start.
        let reserve = budget.reserve_per_second * (1.0 + seconds);
        let extra = self.retries + self.hedges;
        let granted = format!("{} retries, {} hedges", self.retries, self.hedges);
        assert!(extra <= budget.share * self.first_calls + reserve + 1e-6, "{granted}");
        assert!(self.hedges <= budget.hedge_share * self.first_calls + 1e-6, "{granted}");
    }

    /// Everybody is well from now on: each endpoint that is out gets a call again, also when all calls
    /// are to avoid somebody. `are_retries`: none is a first attempt.
    fn everybody_is_tried(&mut self, are_retries: bool) {
        while !self.under_way.is_empty() {
            self.end(0, 0);
        }
        let all: BTreeSet<Slot> = self
            .slots()
            .into_iter()
            .filter(|slot| self.balancer.standing(*slot).is_some())
            .collect();
        if all.len() < 2 {
            return;
        }
        let is_out = |slot: &Slot| {
            matches!(
                self.balancer.standing(*slot),
                Some(Standing::Ejected { .. } | Standing::Trial)
            )
        };
        // Some policies never call again whom they think slow. That is theirs; nobody stays ejected.
        let mut left = all.clone();
        left.retain(|slot| self.explores || is_out(slot));
        for round in 0..4_000 {
            let avoid = *all.iter().nth(round % all.len()).expect("below their count");
            self.trace.clear();
            self.start(if are_retries { std::slice::from_ref(&avoid) } else { &[] });
            self.now += Duration::from_millis(1);
            self.trace.iter().for_each(|slot| {
                left.remove(slot);
            });
            self.end(0, 0);
            for slot in &all {
                self.balancer.heard(*slot, self.now);
            }
            self.now += Duration::from_millis(20);
            self.balancer.tick(self.now, &mut self.rng);
            if left.is_empty() {
                return;
            }
        }
        let standings: Vec<_> = left.iter().map(|slot| self.balancer.standing(*slot)).collect();
        panic!("never tried again: {left:?}, {standings:?}");
    }
}

fn name_of(name: usize) -> Arc<str> {
    format!("server-{name}").into()
}

fn load(in_flight: u32) -> ServerLoad {
    let service_time = Duration::from_micros(100 + u64::from(in_flight));
    ServerLoad { in_flight, queue_delay: Duration::from_micros(10), service_time }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_must_hold_holds_whatever_happens(
        policy in prop::sample::select(POLICIES.to_vec()),
        seed: u64,
        heartbeats: bool,
        are_retries: bool,
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let mut model = Model::new(policy, seed, heartbeats);
        steps.iter().for_each(|step| model.step(step));
        model.everybody_is_tried(are_retries);
    }

    #[test]
    fn picks_are_the_same_for_a_seed(
        policy in prop::sample::select(POLICIES.to_vec()),
        seed: u64,
        heartbeats: bool,
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let trace = || {
            let mut model = Model::new(policy, seed, heartbeats);
            steps.iter().for_each(|step| model.take(step));
            model.trace
        };
        prop_assert_eq!(trace(), trace());
    }
}
