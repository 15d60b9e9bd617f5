//! Servers that stand still, servers that are not connected, and the queues before them.

use crate::scene::{Scene, client, each_world, told};
use catena_balancer::proxy::ProxyConfig;
use catena_engine::config::ConnectionConfig;
use catena_engine::relay::RelayConfig;
use catena_engine::sim::{Crash, Engine, Fault};
use catena_engine::time::Duration;
use catena_engine::{CallError, MethodId, Router, Status};
use std::cell::Cell;
use std::rc::Rc;

const HOLD: MethodId = MethodId::of("hold");
const WORK: MethodId = MethodId::of("work");

/// A server that counts what it answers.
fn worker(scene: &mut Scene<'_>) -> (Engine, Rc<Cell<u32>>) {
    let count = Rc::<Cell<u32>>::default();
    let answered = count.clone();
    let server = scene.server(move |_| {
        let answered = answered.clone();
        Router::new().method("work", move |_, reply| {
            answered.set(answered.get() + 1);
            reply.ok(&b"done"[..])
        })
    });
    (server, count)
}

#[test]
fn a_server_that_stands_still_is_left_out_though_nobody_called_it_and_comes_back() {
    each_world(4, |scene| {
        let ((a, of_a), (b, of_b)) = (worker(scene), worker(scene));
        let proxy = scene.proxy(&[&a, &b], ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        scene.world.inject(Fault::Pause { host: a.host(), lasts: Duration::from_secs(5) });
        // Three heartbeats of 500 ms, and what the last tick is old.
        scene.world.run_for(Duration::from_secs(2));
        let calls = move |count: u32| {
            move |local: catena_engine::Local| async move {
                let client = client(&local, address);
                for _ in 0..count {
                    let call = client.call(WORK, &b""[..]).timeout(Duration::from_millis(300));
                    assert_eq!(told(call.await).map(|it| it.0), Ok(Status::OK));
                    local.sleep(Duration::from_millis(10)).await;
                }
            }
        };
        scene.run(calls(100));
        assert_eq!((of_a.get(), of_b.get()), (0, 100));
        scene.world.run_for(Duration::from_secs(10));
        scene.run(calls(1_000));
        // How many depends on whose way is shorter: they are called one at a time.
        assert!(of_a.get() > 0, "it is called again");
    });
}

#[test]
fn who_waits_no_more_keeps_no_place_in_the_queue() {
    each_world(4, |scene| {
        let window = ConnectionConfig { in_flight_max: 4, ..ConnectionConfig::default() };
        let server = scene.server_with(window, |_| {
            Router::new().method_async("hold", |_| async {
                std::future::pending::<()>().await;
                Ok(&b""[..])
            })
        });
        let relay = RelayConfig { waiting_max: 10, ..RelayConfig::default() };
        let proxy = scene.proxy(&[&server], ProxyConfig { relay, ..ProxyConfig::default() });
        let address = proxy.address().expect("it listens");
        let ends = scene.run(move |local| async move {
            let client = client(&local, address);
            let stuck = || {
                let call = client.call(HOLD, &b""[..]);
                local.spawn(async move { drop(call.await) })
            };
            let _stuck: Vec<_> = (0..4).map(|_| stuck()).collect();
            local.sleep(Duration::from_millis(100)).await;
            let mut ends = Vec::new();
            for _ in 0..20 {
                let round: Vec<_> = (0..5)
                    .map(|_| {
                        let call = client.call(HOLD, &b""[..]).timeout(Duration::from_millis(20));
                        local.spawn(async move { call.await.map(|_| ()) })
                    })
                    .collect();
                for call in round {
                    ends.push(call.await);
                }
            }
            ends
        });
        assert_eq!(ends.len(), 100);
        for end in ends {
            assert!(matches!(end, Err(CallError::DeadlinePassed)), "{end:?}");
        }
    });
}

#[test]
fn of_three_servers_the_one_that_is_connected_gets_the_request() {
    each_world(4, |scene| {
        let (a, of_a) = worker(scene);
        let (b, c) = (worker(scene).0, worker(scene).0);
        // Connections to these are begun, and nothing comes of them for long.
        for silent in [&b, &c] {
            let host = silent.host();
            scene.world.inject(Fault::Pause { host, lasts: Duration::from_secs(30) });
        }
        let proxy = scene.proxy(&[&b, &c, &a], ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        scene.run(move |local| async move {
            let client = client(&local, address);
            for _ in 0..50 {
                let call = client.call(WORK, &b""[..]).timeout(Duration::from_millis(300));
                assert_eq!(told(call.await).map(|it| it.0), Ok(Status::OK));
            }
        });
        assert_eq!(of_a.get(), 50);
    });
}

/// However many servers are down, whatever the policy: who is connected gets the requests.
#[test]
fn of_many_servers_the_two_that_are_connected_get_the_requests() {
    for policy in ["hist", "ll", "rr", "random", "c3", "prequal-piggyback"] {
        each_world(1, |scene| {
            let (a, of_a) = worker(scene);
            let (b, of_b) = worker(scene);
            let dead: Vec<Engine> = (0..40).map(|_| worker(scene).0).collect();
            let all: Vec<&Engine> = dead.iter().chain([&a, &b]).collect();
            let proxy = scene.proxy_by(policy, &all, ProxyConfig::default());
            for server in &dead {
                let (host, how) = (server.host(), Crash::Kill);
                scene.world.inject(Fault::Crash { host, how, down_for: None });
            }
            let address = proxy.address().expect("it listens");
            scene.run(move |local| async move {
                let client = client(&local, address);
                for _ in 0..300 {
                    let call = client.call(WORK, &b""[..]).timeout(Duration::from_millis(300));
                    assert_eq!(told(call.await).map(|it| it.0), Ok(Status::OK));
                    local.sleep(Duration::from_millis(1)).await;
                }
            });
            assert_eq!(of_a.get() + of_b.get(), 300, "{policy}");
        });
    }
}

/// A request whose deadline passes while its answer's place becomes free leaves the queue once, and not
/// twice: or the queue would be shorter than nothing, and nobody could wait any more.
#[test]
fn who_is_late_when_its_turn_comes_leaves_the_queue_once() {
    each_world(4, |scene| {
        let narrow = ConnectionConfig { in_flight_max: 2, ..ConnectionConfig::default() };
        let server = scene.server_with(narrow, |_| {
            Router::new().method_async("work", |request| async move {
                let millis = u64::from(request.payload.first().copied().unwrap_or(0));
                request.local.sleep(Duration::from_millis(millis)).await;
                Ok(&b""[..])
            })
        });
        let timeout = Some(Duration::from_millis(300));
        let relay = RelayConfig { timeout, ..RelayConfig::default() };
        let proxy = scene.proxy(&[&server], ProxyConfig { relay, ..ProxyConfig::default() });
        let (address, host) = (proxy.address().expect("it listens"), proxy.host());
        let calls = scene.start(move |local| async move {
            let client = client(&local, address);
            let call = |millis: u8| {
                let call = client.call(WORK, vec![millis]);
                local.spawn(
                    async move { told(call.await).map_or(Status::DEADLINE_PASSED, |it| it.0) },
                )
            };
            // Two take all the window has until 250 ms, the third waits until its deadline.
            let mut calls: Vec<_> = [250, 250, 1].map(call).into();
            local.sleep(Duration::from_millis(200)).await;
            calls.extend([1; 8].map(call));
            local.sleep(Duration::from_secs(1)).await;
            // More than the window takes: they wait for it.
            calls.extend([1; 8].map(call));
            let mut statuses = Vec::new();
            for call in calls {
                statuses.push(call.await);
            }
            statuses
        });
        scene.world.run_for(Duration::from_millis(240));
        scene.world.inject(Fault::Pause { host, lasts: Duration::from_millis(80) });
        let mut statuses = scene.wait(calls);
        assert_ne!(statuses.remove(2), Status::OK, "its deadline passes meanwhile");
        assert!(statuses.iter().all(|status| *status == Status::OK), "{statuses:?}");
    });
}
