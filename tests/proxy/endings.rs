//! Cancels, deadlines, drains, deaths: nobody waits in vain, and nothing runs for nobody.

use crate::scene::{Scene, client, each_world, told};
use catena_balancer::proxy::ProxyConfig;
use catena_engine::relay::RelayConfig;
use catena_engine::rpc::admission::AdmissionConfig;
use catena_engine::shard::Shard;
use catena_engine::shard_index::ShardIndex;
use catena_engine::sim::{Crash, Engine, EngineConfig, Fault, World};
use catena_engine::time::Duration;
use catena_engine::{Answer, CallError, Client, MethodId, Router, Status};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

const HOLD: MethodId = MethodId::of("hold");
const WORK: MethodId = MethodId::of("work");

/// Counts what runs.
struct Running(Rc<Cell<u32>>);

impl Running {
    fn begin(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Running(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A server whose requests run until somebody ends them.
fn holder(scene: &mut Scene<'_>) -> (Engine, Rc<Cell<u32>>) {
    let count = Rc::<Cell<u32>>::default();
    let running = count.clone();
    let server = scene.server(move |_| {
        let running = running.clone();
        Router::new().method_async("hold", move |_| {
            let running = Running::begin(&running);
            async move {
                std::future::pending::<()>().await;
                drop(running);
                Ok(&b""[..])
            }
        })
    });
    (server, count)
}

#[test]
fn a_cancelled_call_is_cancelled_at_the_server() {
    each_world(6, |scene| {
        let (server, running) = holder(scene);
        let proxy = scene.proxy(&[&server], ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        let calls = scene.start(move |local| async move {
            let client = client(&local, address);
            let calls: Vec<_> = (0..5)
                .map(|_| {
                    let call = client.call(HOLD, &b""[..]);
                    local.spawn(async move { drop(call.await) })
                })
                .collect();
            local.sleep(Duration::from_millis(500)).await;
            drop(calls);
            local.sleep(Duration::from_millis(500)).await;
        });
        scene.world.run_for(Duration::from_millis(400));
        assert_eq!(running.get(), 5);
        scene.wait(calls);
        assert_eq!(running.get(), 0, "they run for nobody");
    });
}

#[test]
fn a_caller_that_dies_takes_its_requests_along() {
    each_world(6, |scene| {
        let (server, running) = holder(scene);
        let proxy = scene.proxy(&[&server], ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        let _calls = scene.start(move |local| async move {
            let client = client(&local, address);
            drop(client.call(HOLD, &b""[..]).await);
        });
        scene.world.run_for(Duration::from_millis(200));
        assert_eq!(running.get(), 1);
        let host = scene.caller_host();
        scene.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
        scene.world.run_for(Duration::from_millis(500));
        assert_eq!(running.get(), 0);
    });
}

#[test]
fn a_deadline_ends_the_work_on_both_sides() {
    each_world(6, |scene| {
        let (server, running) = holder(scene);
        let mut config = ProxyConfig::default();
        let timeout = Some(Duration::from_millis(300));
        config.relay = RelayConfig { timeout, ..RelayConfig::default() };
        let proxy = scene.proxy(&[&server], config);
        let address = proxy.address().expect("it listens");
        let ends = scene.run(move |local| async move {
            let client = client(&local, address);
            let began = local.now();
            let own = client.call(HOLD, &b""[..]).timeout(Duration::from_millis(100)).await;
            let took = local.now().since(began);
            assert!(took < Duration::from_millis(250), "{took:?}");
            let given = client.call(HOLD, &b""[..]).await;
            (told(own), told(given))
        });
        assert_eq!(ends, (Err("DeadlinePassed".to_owned()), Err("DeadlinePassed".to_owned())));
        scene.world.run_for(Duration::from_millis(100));
        assert_eq!(running.get(), 0);
    });
}

/// What became of calls that may run once only, each under a number of its own.
#[derive(Default)]
struct Ledger {
    executed: BTreeMap<u64, u32>,
    ok: u64,
    failed: Vec<(u64, String, bool)>,
}

type Book = Arc<Mutex<Ledger>>;

fn worker(scene: &mut Scene<'_>, book: &Book) -> Engine {
    let book = book.clone();
    scene.server(move |_| {
        let book = book.clone();
        Router::new().method_async("work", move |request| {
            let number = u64::from_le_bytes(request.payload[..8].try_into().expect("a number"));
            *book.lock().expect("one thread").executed.entry(number).or_default() += 1;
            async move {
                let work = Duration::from_micros(300 + request.local.random() % 1_000);
                request.local.sleep(work).await;
                Ok(request.payload)
            }
        })
    })
}

/// Eight callers for so long, each through whichever of `proxies` takes its request.
fn load(
    scene: &mut Scene<'_>,
    proxies: &[&Engine],
    book: &Book,
    lasts: Duration,
) -> impl Future<Output = ()> + use<> {
    let addresses: Vec<_> =
        proxies.iter().map(|proxy| proxy.address().expect("it listens")).collect();
    let book = book.clone();
    scene.start(move |local| async move {
        let clients: Vec<_> = addresses.iter().map(|address| client(&local, *address)).collect();
        let until = local.now() + lasts;
        let callers: Vec<_> = (0..8u64)
            .map(|caller| {
                let (clients, book, local) = (clients.clone(), book.clone(), local.clone());
                local.clone().spawn(async move {
                    let mut number = caller << 32;
                    while local.now() < until {
                        number += 1;
                        let result = call_any(&clients, number).await;
                        book.lock().expect("one thread").enter(number, result);
                        local.sleep(Duration::from_micros(local.random() % 1_000)).await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await;
        }
    })
}

/// Asks one after the other until one takes the request.
async fn call_any(clients: &[Client], number: u64) -> Result<Answer, CallError> {
    let first = number as usize;
    let mut result = Err(CallError::ExpiredUnsent);
    for turn in first..first + clients.len() {
        let client = &clients[turn % clients.len()];
        result = client.call(WORK, number.to_le_bytes().to_vec()).await;
        if !result.as_ref().is_err_and(CallError::is_not_executed) {
            break;
        }
    }
    result
}

impl Ledger {
    fn enter(&mut self, number: u64, result: Result<Answer, CallError>) {
        match result {
            Ok(_) => self.ok += 1,
            Err(error) => self.failed.push((number, error.to_string(), error.is_not_executed())),
        }
    }
}

/// Nothing ran twice, and what was told to be "not executed" was not.
fn audit(book: &Book) {
    let book = book.lock().expect("one thread");
    assert!(book.ok > 500, "{} answers", book.ok);
    let twice = book.executed.iter().find(|(_, count)| **count > 1);
    assert!(twice.is_none(), "executed twice: {twice:?}");
    for (number, error, is_safe) in &book.failed {
        assert!(!is_safe || !book.executed.contains_key(number), "{error}, and yet executed");
    }
}

#[test]
fn a_rolling_restart_of_the_servers_goes_unnoticed() {
    each_world(6, |scene| {
        let book = Book::default();
        let servers: Vec<_> = (0..3).map(|_| worker(scene, &book)).collect();
        let proxy = scene.proxy(&servers.iter().collect::<Vec<_>>(), ProxyConfig::default());
        let load = load(scene, &[&proxy], &book, Duration::from_secs(20));
        for server in &servers {
            scene.world.run_for(Duration::from_secs(2));
            server.drain();
            scene.world.run_for(Duration::from_secs(2));
            scene.world.inject(Fault::Restart { host: server.host() });
        }
        scene.wait(load);
        audit(&book);
        assert_eq!(book.lock().expect("one thread").failed, []);
    });
}

#[test]
fn a_killed_server_costs_what_it_had_in_hand_and_nothing_else() {
    each_world(8, |scene| {
        let book = Book::default();
        let servers: Vec<_> = (0..3).map(|_| worker(scene, &book)).collect();
        let proxy = scene.proxy(&servers.iter().collect::<Vec<_>>(), ProxyConfig::default());
        let load = load(scene, &[&proxy], &book, Duration::from_secs(10));
        scene.world.run_for(Duration::from_secs(3));
        let host = servers[1].host();
        scene.world.inject(Fault::Crash {
            host,
            how: Crash::Kill,
            down_for: Some(Duration::from_secs(2)),
        });
        scene.wait(load);
        audit(&book);
        let book = book.lock().expect("one thread");
        assert!(book.failed.len() <= 8, "one for each caller at most: {:?}", book.failed);
        let lost = book.failed.iter().all(|(_, error, _)| error.contains("upstream lost"));
        assert!(lost, "{:?}", book.failed);
    });
}

#[test]
fn a_server_that_stands_still_holds_nobody_up_for_long() {
    each_world(6, |scene| {
        let book = Book::default();
        let servers: Vec<_> = (0..3).map(|_| worker(scene, &book)).collect();
        let proxy = scene.proxy(&servers.iter().collect::<Vec<_>>(), ProxyConfig::default());
        let load = load(scene, &[&proxy], &book, Duration::from_secs(10));
        scene.world.run_for(Duration::from_secs(3));
        let before = book.lock().expect("one thread").ok;
        let host = servers[1].host();
        scene.world.inject(Fault::Pause { host, lasts: Duration::from_secs(3) });
        scene.world.run_for(Duration::from_secs(3));
        let meanwhile = book.lock().expect("one thread").ok - before;
        assert!(meanwhile > 500, "{meanwhile} answers while one of three stood still");
        scene.wait(load);
        audit(&book);
        assert_eq!(book.lock().expect("one thread").failed, []);
    });
}

#[test]
fn a_proxy_that_drains_loses_nothing() {
    each_world(8, |scene| {
        let book = Book::default();
        let servers: Vec<_> = (0..2).map(|_| worker(scene, &book)).collect();
        let servers: Vec<_> = servers.iter().collect();
        let one = scene.proxy(&servers, ProxyConfig::default());
        let other = scene.proxy(&servers, ProxyConfig::default());
        let load = load(scene, &[&one, &other], &book, Duration::from_secs(6));
        scene.world.run_for(Duration::from_secs(3));
        one.drain();
        let ended = |world: &_| !World::is_running(world, one.host());
        assert!(scene.world.run_until(Duration::from_secs(20), ended), "it does not end");
        scene.wait(load);
        audit(&book);
        assert_eq!(book.lock().expect("one thread").failed, []);
    });
}

/// A caller that asks for much and reads nothing: the proxy holds so much for it and no more, and the
/// others do not notice.
#[test]
fn a_caller_that_does_not_read_costs_a_bounded_memory() {
    const HELD_MAX: usize = 2 << 20;
    each_world(3, |scene| {
        let answer = bytes::Bytes::from(vec![9; 200_000]);
        let server = scene.server(move |_| {
            let answer = answer.clone();
            Router::new()
                .method("large", move |_, reply| reply.ok(answer.clone()))
                .fallback(|_, reply| reply.ok(b"small"))
        });
        let admission =
            AdmissionConfig { connection_bytes_max: HELD_MAX, ..AdmissionConfig::default() };
        let engine = EngineConfig { admission, ..EngineConfig::default() };
        let proxy = scene.proxy_on(engine, &[&server], ProxyConfig::default());
        scene.world.run_for(Duration::from_millis(50));
        let address = proxy.address().expect("it listens");
        let greedy = scene.world.start_engine(EngineConfig::default());
        let _asking = scene.start_on(&greedy, move |local| async move {
            let client = client(&local, address);
            for _ in 0..500 {
                let call = client.call(MethodId::of("large"), &b""[..]);
                local.spawn(async move { drop(call.await) }).detach();
            }
        });
        // Its requests have left, and no answer is there yet.
        let asked = |_: &World| proxy.inspect(ShardIndex(0), Shard::in_flight).unwrap_or(0) > 0;
        assert!(scene.world.run_until(Duration::from_secs(1), asked), "nothing is asked for");
        let host = greedy.host();
        scene.world.inject(Fault::Pause { host, lasts: Duration::from_secs(5) });
        let mut most = 0;
        let until = scene.world.now() + Duration::from_millis(100);
        while scene.world.now() < until && scene.world.step() {
            let held = proxy.inspect(ShardIndex(0), Shard::connection_memory_bytes);
            most = most.max(held.expect("it runs"));
        }
        let answer = scene.run(move |local| async move {
            told(client(&local, address).call(WORK, &b""[..]).await)
        });
        assert_eq!(answer.expect("answered"), (Status::OK, (&b"small"[..]).into()));
        assert!(most < 3 * HELD_MAX, "{most} bytes held");
        assert!(most > HELD_MAX / 4, "nothing was held, so nothing was seen: {most} bytes");
    });
}

#[test]
fn without_a_server_requests_fail_at_once_until_there_is_one() {
    each_world(8, |scene| {
        let servers: Vec<_> = (0..2)
            .map(|_| scene.server(|_| Router::new().fallback(|_, reply| reply.ok(b"here"))))
            .collect();
        let proxy = scene.proxy(&servers.iter().collect::<Vec<_>>(), ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        for server in &servers {
            let host = server.host();
            scene.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
        }
        scene.world.run_for(Duration::from_secs(1));
        for _ in 0..20 {
            let (answer, took) = scene.run(move |local| async move {
                let began = local.now();
                let answer = told(client(&local, address).call(WORK, &b""[..]).await);
                (answer, local.now().since(began))
            });
            assert_eq!(answer.expect("answered").0, Status::UNAVAILABLE);
            assert!(took < Duration::from_millis(50), "{took:?}");
            scene.world.run_for(Duration::from_millis(50));
        }
        scene.world.inject(Fault::Restart { host: servers[0].host() });
        // The longest pause between two attempts to connect, and some.
        scene.world.run_for(Duration::from_secs(4));
        for _ in 0..20 {
            let answer = scene.run(move |local| async move {
                told(client(&local, address).call(WORK, &b""[..]).await)
            });
            assert_eq!(answer.expect("answered"), (Status::OK, (&b"here"[..]).into()));
        }
    });
}
