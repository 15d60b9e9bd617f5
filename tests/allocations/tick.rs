//! What a balancer does by the clock allocates nothing while its endpoints stay as they are: rounds that
//! refresh all of them, reviews of their medians and of their shares of failures.

use catena_balancer::balancer::{Balancer, BalancerConfig, Member};
use catena_balancer::endpoint::Outcome;
use catena_balancer::evidence::SharedEvidence;
use catena_balancer::policy::by_name;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// More than a tick refreshes at once.
const ENDPOINTS: usize = 300;
const CALLS_PER_TICK: usize = 1_000;
/// Reviews of failures are a second apart.
const TICKS: usize = 200;

#[test]
fn a_tick_allocates_nothing() {
    let (mut now, mut rng) = (Instant::from_nanos(1 << 40), Rng::from_seed(1));
    let policy = by_name("hist").expect("there is ours");
    let shared = SharedEvidence::new(1);
    let mut balancer = Balancer::new(BalancerConfig::default(), policy, shared, 0, now);
    let member = |n: usize| Member { name: format!("10.0.0.1:{n}").into(), weight: 1 };
    balancer.set_members(&(0..ENDPOINTS).map(member).collect::<Vec<_>>(), now);
    let mut run = |ticks: usize| {
        let mut allocations = 0;
        for _ in 0..ticks {
            for _ in 0..CALLS_PER_TICK {
                let ticket = balancer.start(&[], now, &mut rng).expect("there are endpoints");
                let ended = now + Duration::from_nanos(50_000 + rng.below(50_000));
                balancer.end(ticket, &Outcome::Answered(None), ended, &mut rng);
            }
            now += Duration::from_millis(20);
            let counted = allocation_counter::measure(|| {
                let _ = balancer.tick(now, &mut rng);
            });
            allocations += counted.count_total;
        }
        allocations
    };
    run(TICKS);
    assert_eq!(run(TICKS), 0, "allocations in {TICKS} ticks");
}
