//! What a proxy counts of its servers is what happened there, to the last one.

use crate::scene::{Counted, Scene, client, each_world, told};
use catena_balancer::budget::BudgetConfig;
use catena_balancer::metrics::Tally;
use catena_balancer::proxy::ProxyConfig;
use catena_engine::relay::RelayConfig;
use catena_engine::sim::{Crash, Engine, Fault};
use catena_engine::time::Duration;
use catena_engine::{MethodId, Router, Status};
use std::cell::Cell;
use std::rc::Rc;

const WORK: MethodId = MethodId::of("work");
const HOLD: MethodId = MethodId::of("hold");

/// A server that counts, and answers with the status whose number the request is; `hold` it never answers.
fn server(scene: &mut Scene<'_>, refuses: bool) -> (Engine, Rc<Cell<u64>>) {
    let asked = Rc::<Cell<u64>>::default();
    let counted = asked.clone();
    let server = scene.server(move |_| {
        let counted = counted.clone();
        Router::new()
            .method("work", move |request, reply| {
                counted.set(counted.get() + 1);
                let number = request.payload().try_into().expect("two bytes");
                match Status(u16::from_le_bytes(number)) {
                    _ if refuses => reply.fail(Status::SHED, "no"),
                    Status::OK => reply.ok(b""),
                    status => reply.fail(status, "no"),
                }
            })
            .method_async("hold", |_| async {
                std::future::pending::<()>().await;
                Ok(&b""[..])
            })
    });
    (server, asked)
}

/// One call for each of `statuses`, one after the other; then the proxy publishes what it counted.
fn call(scene: &mut Scene<'_>, proxy: &Engine, statuses: Vec<Status>) -> Vec<Status> {
    let address = proxy.address().expect("it listens");
    let ends = scene.run(move |local| async move {
        let client = client(&local, address);
        let mut ends = Vec::new();
        for status in statuses {
            let payload = status.0.to_le_bytes().to_vec();
            ends.push(told(client.call(WORK, payload).await).expect("answered").0);
        }
        ends
    });
    scene.world.run_for(Duration::from_millis(100));
    ends
}

/// So many calls of `hold`, given up after `lasts`, or never.
fn hold(scene: &mut Scene<'_>, proxy: &Engine, count: usize, lasts: Option<Duration>) {
    let address = proxy.address().expect("it listens");
    scene.run(move |local| async move {
        let client = client(&local, address);
        let calls: Vec<_> = (0..count)
            .map(|_| {
                let call = client.call(HOLD, &b""[..]);
                local.spawn(async move { drop(call.await) })
            })
            .collect();
        match lasts {
            Some(lasts) => local.sleep(lasts).await,
            None => {
                for call in calls {
                    call.await;
                }
            }
        }
    });
    scene.world.run_for(Duration::from_millis(100));
}

/// With so many retries in the budget. Nobody is ejected, so that nothing is counted but calls.
fn with_retries(reserve_per_second: f64) -> ProxyConfig {
    let mut config = ProxyConfig::default();
    config.balancer.budget =
        BudgetConfig { share: 0.0, reserve_per_second, ..BudgetConfig::default() };
    config.balancer.health.ejects = false;
    config
}

/// Everything that is not said here is 0.
#[track_caller]
fn assert_counted(counted: &Counted, server: &Engine, expected: Tally) {
    assert_eq!(counted.tally(server), expected);
}

#[test]
fn retries_are_counted_where_they_go() {
    each_world(4, |scene| {
        let ((shedding, shed), (serving, served)) = (server(scene, true), server(scene, false));
        let (proxy, counted) = scene.proxy_counted(&[&shedding, &serving], with_retries(100.0));
        let ends = call(scene, &proxy, vec![Status::OK; 30]);
        assert_eq!(ends, [Status::OK; 30]);
        let (shed, served) = (shed.get(), served.get());
        assert!(shed > 0 && served == 30, "{shed} shed, {served} served");
        assert_counted(
            &counted,
            &shedding,
            Tally { picks: shed, failures: shed, errors_shed: shed, ..Tally::default() },
        );
        assert_counted(
            &counted,
            &serving,
            Tally { picks: 30, answers: 30, retries: shed, ..Tally::default() },
        );
        assert_eq!(counted.attempts(&shedding, "not_executed"), shed);
        assert_eq!(counted.attempts(&serving, "ok"), 30);
    });
}

#[test]
fn retries_that_the_budget_refuses_are_counted_where_the_call_failed() {
    each_world(4, |scene| {
        let (one, other) = (server(scene, true), server(scene, true));
        let (proxy, counted) = scene.proxy_counted(&[&one.0, &other.0], with_retries(0.0));
        let ends = call(scene, &proxy, vec![Status::OK; 30]);
        assert_eq!(ends, [Status::SHED; 30]);
        assert_eq!(one.1.get() + other.1.get(), 30);
        for (server, shed) in [one, other] {
            let count = shed.get();
            let expected = Tally {
                picks: count,
                failures: count,
                errors_shed: count,
                retries_refused: count,
                ..Tally::default()
            };
            assert_counted(&counted, &server, expected);
        }
    });
}

/// Where no retry was wanted, none was refused.
#[test]
fn the_last_attempt_of_a_request_is_no_refused_retry() {
    each_world(4, |scene| {
        let (one, other) = (server(scene, true), server(scene, true));
        let config = ProxyConfig { attempts_max: 2, ..with_retries(100.0) };
        let (proxy, counted) = scene.proxy_counted(&[&one.0, &other.0], config);
        call(scene, &proxy, vec![Status::OK; 30]);
        assert_eq!((one.1.get(), other.1.get()), (30, 30));
        let of_both = [counted.tally(&one.0), counted.tally(&other.0)];
        assert_eq!(of_both.iter().map(|it| it.retries).sum::<u64>(), 30);
        for Tally { picks, failures, retries_refused, .. } in of_both {
            assert_eq!((picks, failures, retries_refused), (30, 30, 0));
        }
    });
}

#[test]
fn what_went_wrong_is_counted_by_kind() {
    each_world(4, |scene| {
        let (server, _) = server(scene, false);
        let timeout = Some(Duration::from_secs(1));
        let relay = RelayConfig { timeout, ..RelayConfig::default() };
        let config = ProxyConfig { attempts_max: 1, relay, ..ProxyConfig::default() };
        let (proxy, counted) = scene.proxy_counted(&[&server], config);
        // As many of each kind as nothing else is counted.
        let kinds = [
            (Status::OK, 1),
            (Status::application(3), 2),
            (Status::SHED, 3),
            (Status::DRAINING, 4),
            (Status::EXPIRED_IN_QUEUE, 5),
            (Status::INTERNAL, 6),
            (Status::TOO_MANY_HOPS, 7),
        ];
        let statuses = kinds.iter().flat_map(|(status, count)| vec![*status; *count]).collect();
        call(scene, &proxy, statuses);
        // Given up by the proxy, by the caller, by the server's end.
        hold(scene, &proxy, 8, None);
        hold(scene, &proxy, 9, Some(Duration::from_millis(500)));
        let host = server.host();
        let lost = scene.start({
            let address = proxy.address().expect("it listens");
            move |local| async move {
                let client = client(&local, address);
                let calls: Vec<_> = (0..10)
                    .map(|_| {
                        let call = client.call(HOLD, &b""[..]);
                        local.spawn(async move { told(call.await) })
                    })
                    .collect();
                for call in calls {
                    let status = call.await.expect("answered").0;
                    assert_eq!(status, Status::UPSTREAM_LOST);
                }
            }
        });
        scene.world.run_for(Duration::from_millis(500));
        scene.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
        scene.wait(lost);
        scene.world.run_for(Duration::from_millis(100));
        let expected = Tally {
            picks: 28 + 8 + 9 + 10,
            answers: 1 + 2,
            failures: 3 + 4 + 5 + 6 + 10,
            timeouts: 8,
            // Those that went in a circle say nothing of the server.
            abandoned: 9 + 7,
            errors_shed: 3,
            errors_draining: 4,
            errors_expired_in_queue: 5,
            errors_internal: 6,
            errors_other: 7,
            errors_deadline: 8,
            errors_connection_lost: 10,
            ..Tally::default()
        };
        assert_counted(&counted, &server, expected);
        let attempts = |end| counted.attempts(&server, end);
        assert_eq!([attempts("ok"), attempts("application")], [1, 2]);
        assert_eq!([attempts("not_executed"), attempts("may_have_executed")], [19, 6]);
        assert_eq!(
            [attempts("deadline_passed"), attempts("dropped"), attempts("lost")],
            [8, 9, 10]
        );
    });
}
