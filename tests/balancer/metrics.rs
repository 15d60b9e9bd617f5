//! What is counted of calls adds up, whatever became of them.

use super::{Behaviour, CALLERS, SERVERS, Scene, each_world};
use catena_balancer::metrics::{EndpointMetrics, MetricsSnapshot};
use catena_engine::sim::{Crash, Fault};
use catena_engine::time::Duration;

impl Scene<'_> {
    pub fn metrics(&self) -> MetricsSnapshot {
        let client = self.seen.client.borrow();
        let balancer = client.as_ref().expect("it has started").balancer();
        MetricsSnapshot::of(balancer.evidence())
    }
}

fn sum(metrics: &MetricsSnapshot, figure: impl Fn(&EndpointMetrics) -> u64) -> u64 {
    metrics.endpoints.iter().map(figure).sum()
}

#[test]
fn calls_errors_retries_hedges_and_ejections_add_up() {
    each_world(3, |world| {
        let mut behaviour = Behaviour::default();
        behaviour.config.balancer.explain = true;
        let scene = Scene::set(world, behaviour);
        let crashed = scene.servers[2].address().expect("it listens").to_string();
        let host = scene.servers[2].host();
        scene.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
        scene.world.run_for(Duration::from_secs(1));
        let slow = scene.servers[1].host();
        scene.world.inject(Fault::Pause { host: slow, lasts: Duration::from_millis(200) });
        scene.world.run_for(Duration::from_secs(2));
        let metrics = scene.metrics();
        assert_eq!(metrics.endpoints.len(), SERVERS);

        // Every call was sent once, and once more for each retry and hedge; the last tick is 20 ms old.
        let sent = sum(&metrics, |it| it.tally.picks - it.tally.retries - it.tally.hedges);
        let answered = scene.seen.answered.get();
        let recent = 20 * CALLERS as u64;
        assert!(
            sent <= answered + CALLERS as u64 && sent + recent >= answered,
            "{sent} {answered}"
        );
        assert!(sum(&metrics, |it| it.tally.in_flight()) <= CALLERS as u64 * 2);

        let bad = metrics.endpoint(&crashed).expect("it is known still").tally;
        assert!(bad.errors_connection_lost + bad.errors_unreachable > 0, "{bad:?}");
        assert!(bad.failures > 0 && bad.retries_refused == 0, "{bad:?}");
        // No judgement: it cannot be reached.
        assert_eq!(bad.ejections_failures_in_row + bad.ejections_silent, 0, "{bad:?}");
        assert!(sum(&metrics, |it| it.tally.retries) >= bad.errors_connection_lost);
        let (hedges, won) =
            (sum(&metrics, |it| it.tally.hedges), sum(&metrics, |it| it.tally.hedges_won));
        assert!(hedges > 0 && won > 0 && won <= hedges, "{won} of {hedges}");
        // Servers of the engine tell their load, and the crashed one is not in use.
        assert!(metrics.endpoints.iter().all(|it| it.told.is_some()));
        let standings = metrics.endpoint(&crashed).expect("it is known still").standings;
        assert_eq!((standings.live, standings.unconnected), (0, 1), "{standings:?}");

        let mut text = String::new();
        metrics.write_prometheus(&mut text).expect("a string takes it all");
        let series =
            format!("catena_balancer_standing{{endpoint=\"{crashed}\",standing=\"live\"}} 0");
        assert!(text.lines().any(|line| line == series), "{text}");

        let client = scene.seen.client.borrow().clone().expect("it has started");
        let picks = client.balancer().picks().expect("it explains").clone();
        let picked: u64 = picks.rows().iter().map(|row| row.picks()).sum();
        let published = sum(&metrics, |it| it.tally.picks);
        assert!(picked >= published && picked <= published + recent, "{picked} {published}");
        drop(client);
        scene.end();
    });
}
