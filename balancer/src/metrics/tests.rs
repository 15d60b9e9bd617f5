use super::*;
use crate::balancer::{Balancer, BalancerConfig, Member};
use crate::policy::by_name;
use catena_engine::rng::Rng;
use catena_engine::time::Instant;
use std::collections::BTreeSet;

fn at(millis: u64) -> Instant {
    Instant::from_nanos((1 << 40) + millis * 1_000_000)
}

fn members(names: &[&str]) -> Vec<Member> {
    names.iter().map(|name| Member { name: (*name).into(), weight: 1 }).collect()
}

fn balancer(shared: &Arc<SharedEvidence>, core: usize, names: &[&str]) -> Balancer {
    let policy = by_name("rr").expect("there is such a policy");
    let mut balancer =
        Balancer::new(BalancerConfig::default(), policy, shared.clone(), core, at(0));
    balancer.set_members(&members(names), at(0));
    balancer
}

fn load(in_flight: u32) -> ServerLoad {
    let micros = Duration::from_micros;
    ServerLoad { in_flight, queue_delay: micros(7), service_time: micros(40) }
}

fn calls(balancer: &mut Balancer, outcomes: &[Outcome], rng: &mut Rng) {
    for outcome in outcomes {
        let ticket = balancer.start(&[], at(1), rng).expect("there is an endpoint");
        balancer.end(ticket, outcome, at(2), rng);
    }
}

#[test]
fn cores_are_summed_and_nothing_is_lost_by_leaving_and_coming_back() {
    let shared = SharedEvidence::new(2);
    let rng = &mut Rng::from_seed(1);
    let mut cores = [0, 1].map(|core| balancer(&shared, core, &["a:1"]));
    let timeout = Duration::from_secs(1);
    let outcomes =
        [Outcome::Answered(Some(load(3))), Outcome::Failed { timeout }, Outcome::TimedOut];
    calls(&mut cores[0], &outcomes, rng);
    calls(&mut cores[1], &[Outcome::Answered(Some(load(5))), Outcome::Abandoned], rng);
    let under_way = cores[1].start(&[], at(3), rng).expect("there is an endpoint");
    cores[1].tally(0).count_error(&CallError::ConnectionLost);
    cores[1].tally(0).hedges_refused += 2;
    assert_eq!(MetricsSnapshot::of(&shared).endpoint("a:1").map(|it| it.tally.picks), Some(0));
    for core in &mut cores {
        core.tick(at(20), rng);
    }
    let snapshot = MetricsSnapshot::of(&shared);
    let endpoint = snapshot.endpoint("a:1").expect("it is there");
    let expected = Tally {
        picks: 6,
        answers: 2,
        failures: 1,
        timeouts: 1,
        abandoned: 1,
        errors_connection_lost: 1,
        hedges_refused: 2,
        ..Tally::default()
    };
    assert_eq!((endpoint.tally, endpoint.tally.in_flight()), (expected, 1));
    assert_eq!(endpoint.standings, Standings { live: 2, ..Standings::default() });
    assert_eq!(endpoint.told, Some(load(5)), "the greatest that a core was told");
    assert!(endpoint.latency.count >= 4, "{:?}", endpoint.latency);

    cores[1].set_members(&members(&["b:1"]), at(30));
    cores[1].tick(at(40), rng);
    let standings = |name: &str| MetricsSnapshot::of(&shared).endpoint(name).map(|it| it.standings);
    let expected = Standings { live: 1, draining: 1, ..Standings::default() };
    assert_eq!(standings("a:1"), Some(expected), "its last call is under way");
    // Back before that: two slots of one name.
    cores[1].set_members(&members(&["a:1"]), at(42));
    cores[1].tick(at(45), rng);
    assert_eq!(standings("a:1").map(|it| (it.draining, it.slow_start)), Some((0, 1)));
    cores[1].end(under_way, &Outcome::Answered(None), at(50), rng);
    assert_eq!(standings("a:1").map(|it| (it.live, it.slow_start)), Some((1, 1)));
    cores[1].set_members(&members(&["b:1"]), at(55));
    assert_eq!(standings("a:1"), Some(Standings { live: 1, ..Standings::default() }));
    cores[1].set_members(&members(&["a:1", "b:1"]), at(60));
    cores[1].tick(at(80), rng);
    let snapshot = MetricsSnapshot::of(&shared);
    let endpoint = snapshot.endpoint("a:1").expect("it is there");
    assert_eq!((endpoint.tally.picks, endpoint.tally.in_flight()), (6, 0));
    assert_eq!((endpoint.standings.live, endpoint.standings.slow_start), (1, 1));
}

#[test]
fn ejections_are_counted_by_cause() {
    let shared = SharedEvidence::new(1);
    let rng = &mut Rng::from_seed(1);
    let mut balancer = balancer(&shared, 0, &["a:1", "b:1", "c:1"]);
    let mut trials = 0;
    for step in 0..200 {
        let ticket = balancer.start(&[], at(step * 20), rng).expect("there is an endpoint");
        let failed = Outcome::Failed { timeout: Duration::from_millis(10) };
        let outcome = if ticket.slot() == 1 { failed } else { Outcome::Answered(None) };
        trials += u64::from(ticket.is_trial());
        balancer.end(ticket, &outcome, at(step * 20 + 1), rng);
        balancer.tick(at(step * 20 + 2), rng);
    }
    let snapshot = MetricsSnapshot::of(&shared);
    let bad = snapshot.endpoints.iter().find(|endpoint| endpoint.tally.failures > 0);
    let Tally { ejections_failures_in_row, ejections_trial_failed, .. } = bad.expect("one").tally;
    assert_eq!((ejections_failures_in_row, ejections_trial_failed), (1, trials));
    assert!(trials > 0 && bad.expect("one").tally.trials == trials);
    assert_eq!(bad.expect("one").standings.ejected, 1);
}

#[test]
fn cores_share_no_cache_line() {
    assert_eq!((align_of::<CoreMetrics>() % 128, size_of::<CoreMetrics>() % 128), (0, 0));
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let shared = SharedEvidence::new(1);
    let rng = &mut Rng::from_seed(1);
    let mut balancer = balancer(&shared, 0, &["a:1", "odd\"\\\nname"]);
    calls(&mut balancer, &[Outcome::Answered(Some(load(3))), Outcome::TimedOut], rng);
    balancer.tick(at(20), rng);
    let mut text = String::new();
    MetricsSnapshot::of(&shared).write_prometheus(&mut text).expect("a string takes it all");
    for line in [
        "# TYPE catena_balancer_picks_total counter",
        r#"catena_balancer_picks_total{endpoint="a:1"} 1"#,
        r#"catena_balancer_picks_total{endpoint="odd\"\\\nname"} 1"#,
        r#"catena_balancer_ejections_total{endpoint="a:1",cause="slow"} 0"#,
        r#"catena_balancer_hedges_refused_total{endpoint="a:1"} 0"#,
        "# TYPE catena_balancer_standing gauge",
        r#"catena_balancer_standing{endpoint="a:1",standing="live"} 1"#,
        r#"catena_balancer_in_flight{endpoint="a:1"} 0"#,
        r#"catena_balancer_told_in_flight{endpoint="#,
    ] {
        assert!(text.lines().any(|written| written.starts_with(line)), "missing: {line}\n{text}");
    }
    // Each series once; each family with its help, its type, and its members together.
    let series: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').expect("a name and a value").0)
        .collect();
    assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
    let heads = |head: &str| text.lines().filter(|line| line.starts_with(head)).count();
    let mut families: Vec<&str> = series.iter().filter_map(|it| it.split('{').next()).collect();
    families.dedup();
    assert_eq!(families.len(), families.iter().collect::<BTreeSet<_>>().len(), "{families:?}");
    assert_eq!((heads("# HELP"), heads("# TYPE")), (families.len(), families.len()));
}
