use super::*;
use crate::balancer::{Balancer, BalancerConfig, Member};
use crate::endpoint::{Outcome, ServerLoad};
use crate::policy::by_name;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

fn page(metrics: &ProxyMetrics) -> String {
    let mut text = String::new();
    metrics.write_prometheus(&mut text).expect("a string takes it all");
    text
}

fn at(millis: u64) -> Instant {
    Instant::from_nanos((1 << 40) + millis * 1_000_000)
}

/// The page as a scraper sees it, to the letter: names, labels and units are a promise. `page.txt` is to be
/// changed by hand, with `docs/proxy.md`.
#[test]
fn the_page_is_as_it_was_promised() {
    let shared = SharedEvidence::new(2);
    let metrics = ProxyMetrics::new(2, shared.clone());
    let rng = &mut Rng::from_seed(1);
    let policy = by_name("rr").expect("there is such a policy");
    let mut balancer = Balancer::new(BalancerConfig::default(), policy, shared, 0, at(0));
    let names: [Arc<str>; 2] = ["10.0.0.1:7400".into(), "[::1]:7400".into()];
    let member = |name: &Arc<str>| Member { name: name.clone(), weight: 1 };
    balancer.set_members(&names.each_ref().map(member), at(0));
    let own = names.each_ref().map(|name| metrics.of(name, 0));
    own[0].publish_reachable(true);
    let load = ServerLoad {
        in_flight: 3,
        queue_delay: Duration::from_micros(7),
        service_time: Duration::from_micros(40),
    };
    let timeout = Duration::from_secs(1);
    for (end, outcome) in [
        (End::Lost, Outcome::Failed { timeout }),
        (End::DeadlinePassed, Outcome::TimedOut),
        (End::Dropped, Outcome::Answered(Some(load))),
    ] {
        let ticket = balancer.start(&[], at(1), rng).expect("there are two");
        own[ticket.slot() as usize].count(&end);
        balancer.tally(ticket.slot()).count_end(&end);
        balancer.end(ticket, &outcome, at(2), rng);
    }
    let _under_way = balancer.start(&[], at(3), rng).expect("there are two");
    balancer.tick(at(20), rng);
    let (page, promised) = (page(&metrics), include_str!("page.txt"));
    for (number, (line, promised)) in page.lines().zip(promised.lines()).enumerate() {
        assert_eq!(line, promised, "line {} of the page", number + 1);
    }
    assert_eq!(page, promised);
}

#[test]
fn shards_are_summed_and_nothing_is_lost_while_one_holds_the_server() {
    let metrics = ProxyMetrics::new(2, SharedEvidence::new(2));
    let name: Arc<str> = "10.0.0.1:7400".into();
    let (one, other) = (metrics.of(&name, 0), metrics.of(&name, 1));
    one.count(&End::Lost);
    other.count(&End::Lost);
    other.count(&End::Unreachable);
    one.publish_reachable(true);
    other.publish_reachable(true);
    let has = |line: &str| {
        let page = page(&metrics);
        assert!(page.lines().any(|written| written == line), "missing: {line}\n{page}");
    };
    let lost = r#"catena_proxy_attempts_total{endpoint="10.0.0.1:7400",end="lost"} 2"#;
    has(lost);
    has(r#"catena_proxy_attempts_total{endpoint="10.0.0.1:7400",end="unreachable"} 1"#);
    has(r#"catena_proxy_reachable{endpoint="10.0.0.1:7400"} 2"#);
    drop(other);
    has(lost);
    has(r#"catena_proxy_reachable{endpoint="10.0.0.1:7400"} 1"#);
    let other = metrics.of(&name, 1);
    has(lost);
    drop((one, other));
    assert!(!page(&metrics).contains("10.0.0.1"), "a server that has gone is forgotten");
}

/// The evidence of a server is 20 KiB and more a shard; who only looks needs none.
#[test]
fn looking_makes_no_records() {
    let evidence = SharedEvidence::new(1);
    let metrics = ProxyMetrics::new(1, evidence.clone());
    let _own = metrics.of(&"10.0.0.1:7400".into(), 0);
    let page = page(&metrics);
    assert!(page.contains(r#"catena_proxy_reachable{endpoint="10.0.0.1:7400"} 0"#), "{page}");
    assert!(!page.contains("catena_balancer_picks_total{"), "{page}");
    assert_eq!(evidence.records(), 0);
}
