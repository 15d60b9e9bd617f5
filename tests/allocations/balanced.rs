//! What a balanced call allocates beyond the engine's own client, in steady state: nothing, where the
//! future that makes it is not put into a box.
//!
//! One shard calls itself, on the test's own thread; its serving side allocates nothing, as the other
//! tests here show.

use catena_balancer::client::{Balanced, BalancedConfig};
use catena_balancer::discovery::{Endpoints, Resolved};
use catena_balancer::evidence::SharedEvidence;
use catena_balancer::policy::by_name;
use catena_engine::driver::Driver;
use catena_engine::mailbox::mesh;
use catena_engine::reactor::epoll::{EpollConfig, EpollDriver};
use catena_engine::shard::{Shard, ShardConfig};
use catena_engine::time::Duration;
use catena_engine::wire::frame::MethodId;
use catena_engine::{Client, ClientConfig, Local, Router};
use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

const ECHO: MethodId = MethodId::of("echo");
const WARM_UP: u64 = 2_000;
const COUNTED: u64 = 2_000;
const WINDOWS: u64 = 5;
/// Of all calls of a window together: refreshing the view of the endpoints is not paid by the call.
const BESIDE: u64 = COUNTED / 10;

#[test]
fn a_balanced_call_allocates_no_more_than_a_plain_one() {
    let plain = count(|local, address| {
        let client = Client::new(&local, address, ClientConfig::default());
        move || {
            let call = client.call(ECHO, &b"payload"[..]);
            async move { drop(call.await.expect("it is there")) }
        }
    });
    let sent = count(|local, address| {
        let client = balanced(&local, address);
        move || {
            let call = client.call(ECHO, &b"payload"[..]);
            async move { drop(call.send().await.expect("it is there")) }
        }
    });
    let idempotent = count(|local, address| {
        let client = balanced(&local, address);
        move || {
            let call = client.call(ECHO, &b"payload"[..]).idempotent();
            async move { drop(call.send().await.expect("it is there")) }
        }
    });
    let awaited = count(|local, address| {
        let client = balanced(&local, address);
        move || {
            let call = client.call(ECHO, &b"payload"[..]);
            async move { drop(call.await.expect("it is there")) }
        }
    });
    println!(
        "{COUNTED} calls: plain {plain}, sent {sent}, idempotent {idempotent}, awaited {awaited}"
    );
    assert!(sent <= plain + BESIDE, "{sent} allocations in {COUNTED} calls, plainly {plain}");
    assert!(idempotent <= plain + BESIDE, "{idempotent} in {COUNTED} calls, plainly {plain}");
    assert!(awaited <= plain + COUNTED + BESIDE, "{awaited}: one box each, plainly {plain}");
    assert!(awaited >= plain + COUNTED, "the counter can count: {awaited}, plainly {plain}");
}

fn balanced(local: &Local, address: SocketAddr) -> Balanced {
    let policy = by_name("hist").expect("there is such a policy");
    let endpoints = Endpoints::fixed([Resolved::from(address)]).expect("there is one");
    Balanced::new(local, BalancedConfig::default(), policy, endpoints, SharedEvidence::new(1))
}

/// Allocations of [`COUNTED`] calls, one after the other: the fewest of a few windows after a warm-up.
fn count<C, F>(make: impl FnOnce(Local, SocketAddr) -> C) -> u64
where
    C: Fn() -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let mut driver = EpollDriver::new(&EpollConfig::default()).expect("epoll is there");
    let mailboxes = mesh(1, 64).pop().expect("one shard");
    let (own, kept) = (Rc::new(OnceCell::new()), Rc::new(Cell::new(0)));
    let its = own.clone();
    let router = move |local: &Local| {
        its.set(local.clone()).expect("made once");
        Router::new().method("echo", |request, reply| reply.ok(request.payload()))
    };
    let mut shard = Shard::new(ShardConfig::default(), &driver, mailboxes, Arc::default(), router);
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let address = shard.listen(&mut driver, any_port).expect("loopback can be listened on");
    let local = own.get().expect("the router was made").clone();
    let (call, done) = (make(local.clone(), address), kept.clone());
    let calls = async move {
        loop {
            call().await;
            done.set(done.get() + 1);
        }
    };
    local.spawn(calls).detach();
    let mut run = |until: u64| {
        while kept.get() < until {
            let next = shard.turn(&mut driver);
            if next.busy {
                driver.poll().expect("the driver works");
            } else {
                let soon = driver.now() + Duration::from_millis(100);
                let until = next.until.map_or(soon, |until| until.min(soon));
                driver.park(Some(until)).expect("it parks");
            }
        }
    };
    run(WARM_UP);
    let windows = (1..=WINDOWS).map(|window| {
        let until = WARM_UP + window * COUNTED;
        allocation_counter::measure(|| run(until)).count_total
    });
    windows.min().expect("there are windows")
}
