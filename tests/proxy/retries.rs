//! What is passed on once more, and what is not.

use crate::scene::{Scene, client, each_world, told};
use catena_balancer::budget::BudgetConfig;
use catena_balancer::metrics::Tally;
use catena_balancer::proxy::ProxyConfig;
use catena_engine::config::ConnectionConfig;
use catena_engine::relay::RelayConfig;
use catena_engine::service::Failure;
use catena_engine::sim::Engine;
use catena_engine::time::Duration;
use catena_engine::{MethodId, Router, Status};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

const WORK: MethodId = MethodId::of("work");

/// A server that answers everything with `status`, and counts; how many of them said that they may have
/// been sent before.
fn server(scene: &mut Scene<'_>, status: Status) -> (Engine, Rc<Cell<u32>>, Rc<Cell<u32>>) {
    let (asked, repeats) = (Rc::<Cell<u32>>::default(), Rc::<Cell<u32>>::default());
    let (counted, repeated) = (asked.clone(), repeats.clone());
    let server = scene.server(move |_| {
        let (counted, repeated) = (counted.clone(), repeated.clone());
        Router::new().fallback(move |request, reply| {
            counted.set(counted.get() + 1);
            repeated.set(repeated.get() + u32::from(request.head().repeat));
            match status {
                Status::OK => reply.ok(request.payload()),
                status => reply.fail(status, "no"),
            }
        })
    });
    (server, asked, repeats)
}

fn call_often(scene: &mut Scene<'_>, proxy: &Engine, count: usize) -> Vec<Status> {
    let address = proxy.address().expect("it listens");
    scene.run(move |local| async move {
        let client = client(&local, address);
        let mut statuses = Vec::new();
        for size in (0..count).map(|round| [8, 2_000, 50_000][round % 3]) {
            let payload: Vec<u8> = (0..size).map(|at: usize| at as u8).collect();
            let (status, answer) =
                told(client.call(WORK, payload.clone()).await).expect("answered");
            assert!(status != Status::OK || answer == payload, "another payload than was sent");
            statuses.push(status);
        }
        statuses
    })
}

/// Refused before it began: another server gets it, the same bytes, marked as a repeat.
#[test]
fn what_one_server_sheds_another_gets() {
    for copy_bytes_max in [0, 1_024] {
        each_world(4, |scene| {
            let (shedding, shed, _) = server(scene, Status::SHED);
            let (serving, served, repeats) = server(scene, Status::OK);
            let relay = RelayConfig { copy_bytes_max, ..RelayConfig::default() };
            let config = ProxyConfig { relay, ..ProxyConfig::default() };
            let proxy = scene.proxy(&[&shedding, &serving], config);
            let statuses = call_often(scene, &proxy, 30);
            assert!(statuses.iter().all(|status| *status == Status::OK), "{statuses:?}");
            assert!(shed.get() > 0, "it was never asked, so nothing was seen");
            assert_eq!((served.get(), repeats.get()), (30, shed.get()));
        });
    }
}

#[test]
fn what_may_have_been_executed_is_never_sent_again() {
    for status in [Status::INTERNAL, Status::CANCELLED, Status::application(3)] {
        each_world(2, |scene| {
            let (one, by_one, _) = server(scene, status);
            let (other, by_other, _) = server(scene, status);
            let proxy = scene.proxy(&[&one, &other], ProxyConfig::default());
            let statuses = call_often(scene, &proxy, 20);
            assert!(statuses.iter().all(|told| *told == status), "{statuses:?}");
            assert_eq!(by_one.get() + by_other.get(), 20);
        });
    }
}

#[test]
fn retries_end_with_their_budget() {
    each_world(4, |scene| {
        let (one, by_one, _) = server(scene, Status::SHED);
        let (other, by_other, _) = server(scene, Status::SHED);
        let mut config = ProxyConfig::default();
        config.balancer.budget =
            BudgetConfig { share: 0.1, reserve_per_second: 0.0, ..BudgetConfig::default() };
        let proxy = scene.proxy(&[&one, &other], config);
        let statuses = call_often(scene, &proxy, 200);
        assert!(statuses.iter().all(|status| *status == Status::SHED), "{statuses:?}");
        let sent = by_one.get() + by_other.get();
        assert!((201..=220).contains(&sent), "{sent} sent for 200 that were asked for");
    });
}

/// A refusal that comes after the deadline is not tried elsewhere, so it costs no retry.
#[test]
fn who_waits_no_more_takes_nothing_out_of_the_budget() {
    each_world(4, |scene| {
        let asked = Rc::<Cell<u32>>::default();
        let servers = [(); 2].map(|()| {
            let counted = asked.clone();
            scene.server(move |_| {
                let counted = counted.clone();
                Router::new().method_async("work", move |request| {
                    counted.set(counted.get() + 1);
                    async move {
                        request.local.sleep(Duration::from_millis(50)).await;
                        Err::<&[u8], _>(Failure::new(Status::SHED, "no"))
                    }
                })
            })
        });
        let relay =
            RelayConfig { timeout: Some(Duration::from_millis(200)), ..RelayConfig::default() };
        let mut config = ProxyConfig { relay, ..ProxyConfig::default() };
        // One retry is in it, and the next one comes after a second.
        config.balancer.budget =
            BudgetConfig { share: 0.0, reserve_per_second: 1.0, ..BudgetConfig::default() };
        let (proxy, counted) = scene.proxy_counted(&servers.each_ref(), config);
        let address = proxy.address().expect("it listens");
        let call = move |local| async move {
            told(client(&local, address).call(WORK, &b"x"[..]).await).expect("answered").0
        };
        let late = scene.start(call);
        scene.world.run_for(Duration::from_millis(40));
        assert_eq!(asked.get(), 1);
        // The answer comes meanwhile, and is read after the deadline.
        let lasts = Duration::from_millis(300);
        scene.world.inject(catena_engine::sim::Fault::Pause { host: proxy.host(), lasts });
        assert_eq!(scene.wait(late), Status::SHED);
        scene.world.run_for(Duration::from_millis(50));
        let sums = |figure: fn(&Tally) -> u64| -> u64 {
            servers.iter().map(|server| figure(&counted.tally(server))).sum()
        };
        assert_eq!((sums(|it| it.retries), sums(|it| it.retries_refused)), (0, 0));
        assert_eq!(scene.run(call), Status::SHED);
        scene.world.run_for(Duration::from_millis(50));
        assert_eq!(asked.get(), 3, "the retry was taken by a call that had no use for it");
        assert_eq!((sums(|it| it.retries), sums(|it| it.retries_refused)), (1, 1));
    });
}

/// More at a time than a server's window takes: they wait their turn.
#[test]
fn a_full_window_is_waited_for_and_a_full_queue_sheds() {
    each_world(4, |scene| {
        let narrow = ConnectionConfig { in_flight_max: 2, ..ConnectionConfig::default() };
        let server = scene.server_with(narrow, |_| {
            Router::new().method_async("work", |request| async move {
                request.local.sleep(Duration::from_millis(5)).await;
                Ok(request.payload)
            })
        });
        let relay = RelayConfig { waiting_max: 20, ..RelayConfig::default() };
        let config = ProxyConfig { relay, ..ProxyConfig::default() };
        let proxy = scene.proxy(&[&server], config);
        let address = proxy.address().expect("it listens");
        for (calls, refused) in [(20usize, false), (200, true)] {
            let statuses = scene.run(move |local| async move {
                let client = client(&local, address);
                let calls: Vec<_> = (0..calls)
                    .map(|number| {
                        let call = client.call(WORK, vec![number as u8; 100]);
                        local.spawn(async move { told(call.await).expect("answered").0 })
                    })
                    .collect();
                let mut statuses = Vec::new();
                for call in calls {
                    statuses.push(call.await);
                }
                statuses
            });
            let ok = statuses.iter().filter(|status| **status == Status::OK).count();
            let shed = statuses.iter().filter(|status| **status == Status::SHED).count();
            assert_eq!(ok + shed, calls, "{statuses:?}");
            assert!(ok >= 20 && (shed > 0) == refused, "{ok} ok, {shed} shed of {calls}");
        }
    });
}

/// Large requests to a server that stands still: they wait, bounded, and all come through.
#[test]
fn a_full_output_is_waited_for() {
    each_world(4, |scene| {
        let server = scene
            .server(|_| Router::new().fallback(|request, reply| reply.ok(&request.payload()[..8])));
        let mut config = ProxyConfig::default();
        let connection =
            ConnectionConfig { output_bytes_max: 64 << 10, ..ConnectionConfig::default() };
        config.client.connection = Arc::new(connection);
        let proxy = scene.proxy(&[&server], config);
        let address = proxy.address().expect("it listens");
        let host = server.host();
        let lasts = Duration::from_secs(2);
        scene.world.inject(catena_engine::sim::Fault::Pause { host, lasts });
        let answered = scene.run(move |local| async move {
            let client = client(&local, address);
            let calls: Vec<_> = (0..64u64)
                .map(|number| {
                    let mut payload = vec![3; 60_000];
                    payload[..8].copy_from_slice(&number.to_le_bytes());
                    let call = client.call(WORK, payload);
                    local.spawn(async move {
                        let (status, answer) = told(call.await).expect("answered");
                        status == Status::OK && answer[..] == number.to_le_bytes()
                    })
                })
                .collect();
            let mut answered = 0;
            for call in calls {
                answered += usize::from(call.await);
            }
            answered
        });
        assert_eq!(answered, 64);
    });
}
