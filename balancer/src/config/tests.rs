use super::*;
use crate::balancer::{Balancer, Member};
use crate::endpoint::Outcome;
use crate::evidence::SharedEvidence;
use crate::policy::c3::C3;
use crate::policy::hist::Hist;
use crate::policy::peak_ewma::PeakEwma;
use crate::policy::prequal::Prequal;
use crate::policy::{Policy, Sample};
use catena_engine::rng::Rng;
use catena_engine::time::Instant;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A value for whatever type a field has; within and without all bounds.
#[derive(Clone, Copy, Debug)]
struct Wild {
    real: f64,
    time: Duration,
    count: u64,
}

fn wild() -> impl Strategy<Value = Wild> {
    let real = prop_oneof![
        4 => 0.0..1.0,
        2 => 0.0..100.0,
        1 => any::<f64>(),
        1 => prop::sample::select(vec![-0.0, -1e-9, 1e300, f64::NAN, f64::INFINITY, 1.0, 1e6]),
    ];
    let time = prop_oneof![
        2 => (0u64..10_000).prop_map(Duration::from_millis),
        1 => (0u64..10_000).prop_map(Duration::from_micros),
        1 => any::<u64>().prop_map(Duration::from_nanos),
        1 => prop::sample::select(vec![Duration::ZERO, Duration::MAX, DAY, LATENCY_MAX]),
    ];
    let count = prop_oneof![3 => 0u64..20, 1 => any::<u64>(), 1 => Just(CALLS_MAX)];
    (real, time, count).prop_map(|(real, time, count)| Wild { real, time, count })
}

/// All that can be configured of a balancer and its policies.
#[derive(Clone, Copy, Default, Debug)]
struct All {
    balancer: BalancerConfig,
    histogram: HistConfig,
    ewma: PeakEwmaConfig,
    c3: C3Config,
    prequal: PrequalConfig,
}

type Change = fn(&mut All, Wild);

/// One for each field.
const CHANGES: [(&str, Change); 38] = [
    ("share", |all, wild| all.balancer.budget.share = wild.real),
    ("reserve_per_second", |all, wild| all.balancer.budget.reserve_per_second = wild.real),
    ("hedge_share", |all, wild| all.balancer.budget.hedge_share = wild.real),
    ("memory", |all, wild| all.balancer.budget.memory = wild.time),
    ("delay_min", |all, wild| all.balancer.hedge.delay_min = wild.time),
    ("hedge.evidence_min", |all, wild| all.balancer.hedge.evidence_min = wild.count),
    ("failures_in_row", |all, wild| all.balancer.health.failures_in_row = wild.count as u32),
    ("above_peers", |all, wild| all.balancer.health.failure_share_above_peers = wild.real),
    ("calls_min", |all, wild| all.balancer.health.failure_share_calls_min = wild.count as u32),
    ("review_interval", |all, wild| all.balancer.health.review_interval = wild.time),
    ("slow_in_row", |all, wild| all.balancer.health.slow_in_row = wild.count as u32),
    ("slow_factor", |all, wild| all.balancer.health.slow_factor = wild.real),
    ("slow_factor", |all, wild| all.balancer.health.slow_factor = wild.real * 1e6),
    ("health.evidence_min", |all, wild| all.balancer.health.evidence_min = wild.count),
    ("ejected_share_max", |all, wild| all.balancer.health.ejected_share_max = wild.real),
    ("pause_min", |all, wild| all.balancer.health.pause_min = wild.time),
    ("pause_max", |all, wild| all.balancer.health.pause_max = wild.time),
    ("slow_start_answers", |all, wild| all.balancer.health.slow_start_answers = wild.count as u32),
    ("slow_start_share_min", |all, wild| all.balancer.health.slow_start_share_min = wild.real),
    ("phi_max", |all, wild| all.balancer.health.phi_max = wild.real),
    ("heartbeat_interval", |all, wild| all.balancer.health.heartbeat_interval = Some(wild.time)),
    ("choices", |all, wild| all.histogram.choices = wild.count as usize),
    ("explore_share", |all, wild| all.histogram.explore_share = wild.real),
    ("explore_age", |all, wild| all.histogram.explore_age = wild.time),
    ("told_fade", |all, wild| all.histogram.told_fade = wild.time),
    ("decay", |all, wild| all.ewma.decay = wild.time),
    ("default_latency", |all, wild| all.ewma.default_latency = wild.time),
    ("clients", |all, wild| all.c3.clients = wild.count as u32),
    ("alpha", |all, wild| all.c3.alpha = wild.real),
    ("probes", |all, wild| all.prequal.probes = wild.real),
    ("removals", |all, wild| all.prequal.removals = wild.real),
    ("pool_max", |all, wild| all.prequal.pool_max = wild.count as usize),
    ("age_max", |all, wild| all.prequal.age_max = wild.time),
    ("hot_quantile", |all, wild| all.prequal.hot_quantile = wild.real),
    ("delta", |all, wild| all.prequal.delta = wild.real),
    ("ejects", |all, wild| all.balancer.health.ejects = wild.count % 2 == 0),
    ("piggyback", |all, wild| all.prequal.piggyback = wild.count % 2 == 0),
    ("probes", |all, wild| all.prequal.probes = wild.real * 100.0),
];

type Made = std::thread::Result<Box<dyn Policy>>;

impl All {
    /// The policies, each with whether its configuration is accepted.
    fn policies(self) -> [(Result<(), ConfigError>, Made); 4] {
        let All { histogram, ewma, c3, prequal, .. } = self;
        [
            (histogram.validate(), catch_unwind(move || Box::new(Hist::new(histogram)) as _)),
            (
                ewma.validate(),
                catch_unwind(move || Box::new(PeakEwma::new(Sample::of(2), ewma)) as _),
            ),
            (c3.validate(), catch_unwind(move || Box::new(C3::new(c3)) as _)),
            (prequal.validate(), catch_unwind(move || Box::new(Prequal::new(prequal)) as _)),
        ]
    }
}

fn name(n: u64) -> Member {
    Member { name: format!("10.0.0.{n}:1").into(), weight: 1 + (n as u32 % 3) }
}

/// Calls, failures, probes, pauses, comings and goings, as chance has it.
fn a_little_run(mut balancer: Balancer, seed: u64) {
    let rng = &mut Rng::from_seed(seed);
    let mut now = Instant::from_nanos(1 << 40);
    let mut tickets = Vec::new();
    for _ in 0..400 {
        let step =
            [50, 2_000, 500_000_000, 40_000_000_000][rng.below(4).min(rng.below(4)) as usize];
        now += Duration::from_micros(rng.below(step) / 10);
        match rng.below(12) {
            0 => {
                let members: Vec<Member> = (0..10).filter(|_| rng.chance(0.6)).map(name).collect();
                balancer.set_members(&members, now);
            }
            1 => drop(balancer.tick(now, rng)),
            2 => {
                let wanted = balancer.wanted_probes(now, rng).to_vec();
                let load = crate::endpoint::ServerLoad {
                    in_flight: rng.next_u64() as u32,
                    queue_delay: Duration::from_micros(rng.below(1 << 32)),
                    service_time: Duration::ZERO,
                };
                wanted.iter().for_each(|slot| balancer.probed(*slot, &load, now, rng));
            }
            3 => drop((balancer.take_retry(now), balancer.take_hedge(now))),
            4..8 => {
                balancer.count_first_call();
                tickets.extend(balancer.start(&[], now, rng));
                tickets.last().map(|ticket| balancer.hedge_delay(ticket));
            }
            _ if tickets.is_empty() => {}
            _ => {
                let ticket = tickets.swap_remove(rng.below(tickets.len() as u64) as usize);
                let timeout = Duration::from_nanos(rng.next_u64());
                let outcomes = [
                    Outcome::Answered(None),
                    Outcome::Failed { timeout },
                    Outcome::TimedOut,
                    Outcome::Abandoned,
                ];
                balancer.end(ticket, &outcomes[rng.below(4) as usize], now, rng);
            }
        }
        balancer.take_events();
    }
}

/// What validation accepts can be made, and runs; what it refuses cannot.
fn assert_honest(all: All, seed: u64) {
    let now = Instant::from_nanos(1 << 40);
    let config = all.balancer;
    for (checked, policy) in all.policies() {
        assert_eq!(checked.is_ok(), policy.is_ok(), "{checked:?}, {all:?}");
        let Ok(policy) = policy else { continue };
        let made = catch_unwind(AssertUnwindSafe(|| {
            Balancer::new(config, policy, SharedEvidence::new(1), 0, now)
        }));
        let checked = config.validate();
        assert_eq!(checked.is_ok(), made.is_ok(), "{checked:?}, {all:?}");
        if let Ok(balancer) = made {
            let run = catch_unwind(AssertUnwindSafe(|| a_little_run(balancer, seed)));
            assert!(run.is_ok(), "accepted, and panics with seed {seed}: {all:?}");
        }
    }
}

#[test]
fn every_field_is_honest_at_its_edges() {
    let reals = [-1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1.0 + 1e-9, 1.5, 3.0, 20.0, 101.0, 1e3, 1e7];
    let times = [0, 1, 1_000, 999_999, 1_000_000, 1 << 40, 86_400_000_000_000, 86_400_000_000_001];
    let counts = [0, 1, 2, 3, 8, 9, 1_000, CALLS_MAX, CALLS_MAX + 1, u64::MAX];
    for (index, (_, change)) in CHANGES.iter().enumerate() {
        for edge in 0..reals.len() {
            let mut all = All::default();
            let wild = Wild {
                real: reals[edge],
                time: Duration::from_nanos(times[edge % times.len()]),
                count: counts[edge % counts.len()],
            };
            change(&mut all, wild);
            assert_honest(all, (index * 100 + edge) as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn what_is_accepted_runs_and_what_is_not_cannot_be_made(
        changes in prop::collection::vec((0..CHANGES.len(), wild()), 2..5),
        seed: u64,
    ) {
        let mut all = All::default();
        changes.iter().for_each(|(change, wild)| CHANGES[*change].1(&mut all, *wild));
        assert_honest(all, seed);
    }

    #[test]
    fn samples_are_of_one_to_eight(count: u8) {
        let count = usize::from(count);
        let made = catch_unwind(|| Sample::of(count));
        prop_assert_eq!(Sample::checked(count).ok(), made.ok());
    }
}

#[test]
fn errors_name_the_field_with_its_value_and_bounds() {
    let mut config = BalancedConfig::default();
    config.validate().expect("the defaults serve");
    config.balancer.health.slow_factor = f64::NAN;
    let error = config.validate().expect_err("no number").to_string();
    let expected = "balancer.health.slow_factor is NaN; it must be between 1.0 and 1000000.0";
    assert_eq!(error, expected);
    let config = BalancedConfig { attempts_max: 0, ..BalancedConfig::default() };
    let error = config.validate().expect_err("nothing would be sent").to_string();
    assert_eq!(error, "attempts_max is 0; it must be between 1 and 10");
    let config = BalancedConfig { timeout: Duration::ZERO, ..BalancedConfig::default() };
    let error = config.validate().expect_err("no time").to_string();
    assert_eq!(error, "timeout is 0ns; it must be between 1ms and 86400s");
    let mut config = BalancedConfig::default();
    config.client.waiting_max = 0;
    let error = config.validate().expect_err("no room").to_string();
    assert!(error.starts_with("client.waiting_max is 0"), "{error}");
    config = BalancedConfig::default();
    std::sync::Arc::make_mut(&mut config.client.connection).in_flight_max = 0;
    let error = config.validate().expect_err("no room").to_string();
    assert!(error.starts_with("client.connection.in_flight_max is 0"), "{error}");
}

#[test]
fn every_field_has_bounds() {
    let worst = Wild { real: f64::NAN, time: Duration::MAX, count: u64::MAX };
    for (field, change) in
        CHANGES.iter().filter(|(field, _)| !["ejects", "piggyback"].contains(field))
    {
        let mut all = All::default();
        change(&mut all, worst);
        let checks = [
            all.balancer.validate(),
            all.histogram.validate(),
            all.ewma.validate(),
            all.c3.validate(),
            all.prequal.validate(),
        ];
        let error = checks.into_iter().find_map(Result::err).expect(field).to_string();
        assert!(error.contains(field), "{error} should name {field}");
    }
}

#[test]
fn the_nearest_of_what_is_known_is_found() {
    let known = ["hist", "prequal", "rr"];
    assert_eq!(nearest("his", known), Some("hist"));
    assert_eq!(nearest("perqual", known), Some("prequal"));
    assert_eq!(nearest("something else", known), None);
    assert_eq!([edits("", "abc"), edits("abc", "abc"), edits("kitten", "sitting")], [3, 0, 3]);
}
