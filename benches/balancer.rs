//! What a pick, an outcome and a tick cost, for each policy and for 3, 100 and 1,000 endpoints.

use catena_balancer::balancer::{Balancer, BalancerConfig, Member};
use catena_balancer::endpoint::{Outcome, ServerLoad};
use catena_balancer::evidence::SharedEvidence;
use catena_balancer::policy::by_name;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

struct Bed {
    balancer: Balancer,
    rng: Rng,
    now: Instant,
}

impl Bed {
    /// A balancer that knows its endpoints well. `+explain` after its policy: that counts why.
    fn new(policy: &str, endpoints: usize) -> Self {
        let explain = policy.ends_with("+explain");
        let policy = policy.trim_end_matches("+explain");
        let now = Instant::from_nanos(1 << 40);
        let policy = by_name(policy).expect("there is such a policy");
        let shared = SharedEvidence::new(1);
        let config = BalancerConfig { explain, ..BalancerConfig::default() };
        let mut balancer = Balancer::new(config, policy, shared, 0, now);
        let member = |n: usize| Member { name: format!("10.0.0.1:{n}").into(), weight: 1 };
        balancer.set_members(&(0..endpoints).map(member).collect::<Vec<_>>(), now);
        let mut bed = Bed { balancer, rng: Rng::from_seed(1), now };
        for call in 0..endpoints * 200 {
            bed.call();
            if call % 64 == 0 {
                bed.balancer.tick(bed.now, &mut bed.rng);
            }
        }
        bed
    }

    fn call(&mut self) {
        let Bed { balancer, rng, now } = self;
        let ticket = balancer.start(&[], *now, rng).expect("there are endpoints");
        let ended = *now + Duration::from_nanos(50_000 + rng.below(50_000));
        *now += Duration::from_nanos(100);
        balancer.end(ticket, &outcome(), ended, rng);
    }
}

fn outcome() -> Outcome {
    let micros = Duration::from_micros;
    let load = ServerLoad { in_flight: 3, queue_delay: micros(5), service_time: micros(40) };
    Outcome::Answered(Some(load))
}

fn picks(criterion: &mut Criterion) {
    for endpoints in [3, 100, 1_000] {
        let mut group = criterion.benchmark_group(format!("start a call, {endpoints} endpoints"));
        for policy in ["random", "rr", "ll", "ewma", "c3", "prequal", "hist", "hist+explain"] {
            let mut bed = Bed::new(policy, endpoints);
            group.bench_function(policy, |bencher| {
                bencher.iter_custom(|iterations| {
                    let mut spent = std::time::Duration::ZERO;
                    let mut tickets = Vec::with_capacity(64);
                    let mut left = iterations;
                    while left > 0 {
                        let batch = left.min(64);
                        left -= batch;
                        let began = std::time::Instant::now();
                        for _ in 0..batch {
                            tickets.push(black_box(bed.balancer.start(&[], bed.now, &mut bed.rng)));
                        }
                        spent += began.elapsed();
                        for ticket in tickets.drain(..).flatten() {
                            let ended = bed.now + Duration::from_micros(70);
                            bed.balancer.end(ticket, &outcome(), ended, &mut bed.rng);
                        }
                        bed.now += Duration::from_micros(10);
                    }
                    spent
                });
            });
        }
        group.finish();
    }
}

fn outcomes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("end a call");
    for (policy, endpoints) in [("hist", 3), ("hist", 100), ("hist", 1_000), ("ewma", 100)] {
        let mut bed = Bed::new(policy, endpoints);
        group.bench_function(format!("{policy}, {endpoints} endpoints"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = std::time::Duration::ZERO;
                let mut tickets = Vec::with_capacity(64);
                let mut left = iterations;
                while left > 0 {
                    let batch = left.min(64);
                    left -= batch;
                    for _ in 0..batch {
                        tickets.extend(bed.balancer.start(&[], bed.now, &mut bed.rng));
                    }
                    bed.now += Duration::from_micros(10);
                    let ended = bed.now + Duration::from_nanos(50_000 + bed.rng.below(50_000));
                    let began = std::time::Instant::now();
                    for ticket in tickets.drain(..) {
                        bed.balancer.end(black_box(ticket), &outcome(), ended, &mut bed.rng);
                    }
                    spent += began.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

/// A tick after 20 ms in which so many calls were made: a round of all endpoints takes several ticks.
fn ticks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tick");
    for (endpoints, calls) in [(3, 2_000), (100, 2_000), (1_000, 0), (1_000, 2_000)] {
        let mut bed = Bed::new("hist", endpoints);
        group.bench_function(format!("{endpoints} endpoints, {calls} calls"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..iterations {
                    (0..calls).for_each(|_| bed.call());
                    bed.now += Duration::from_millis(20);
                    let began = std::time::Instant::now();
                    black_box(bed.balancer.tick(bed.now, &mut bed.rng));
                    spent += began.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, picks, outcomes, ticks);
criterion_main!(benches);
