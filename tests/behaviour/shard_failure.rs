//! A shard that fails: what waits for it is answered at once, the others drain, and it is said why.
//!
//! On threads alone: in the simulation a shard that panics is a test that has failed.

use crate::kernel::{self, Kernel};
use crate::lab::{Block, Lab};
use crate::service::{self, BLOCK, Came, HOLD, Probe, call, micros_of};
use catena_engine::handle::HandleError;
use catena_engine::shard_index::ShardIndex;
use catena_engine::{Client, ClientConfig, Cores, DriverChoice, Handle, Route, Server, Status};
use futures_util::future::join_all;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

const FAILING: ShardIndex = ShardIndex(1);
/// The route that names it.
const THERE: Route = Route(2);

fn on_each_driver(behaviour: impl Fn(&mut Kernel, Server, &Probe)) {
    for driver in [DriverChoice::Epoll, DriverChoice::Uring] {
        kernel::on(driver, |lab| {
            let probe = Probe::new();
            let service = service::spec(&probe).service;
            let server = Server::builder()
                .driver(driver)
                .cores(Cores::Unpinned(3))
                .listen((Ipv4Addr::LOCALHOST, 0).into())
                .connection(catena_engine::config::ConnectionConfig {
                    in_flight_max: 8_000,
                    ..Default::default()
                })
                .admission(catena_engine::rpc::admission::AdmissionConfig {
                    queue_delay_target: Duration::from_secs(60),
                    ..Default::default()
                })
                .service(move |local| service(local, &Block(Rc::new(thread::sleep))));
            behaviour(lab, server.start().expect("the driver is there"), &probe);
        });
    }
}

struct Panicking;

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        panic!("as it was asked to");
    }
}

/// Makes a shard fail: it calls a foreign waker, which panics.
fn kill(lab: &mut Kernel, handle: &Handle, shard: ShardIndex) {
    let killed = handle.run(shard, async |local| {
        let mut sleep = Box::pin(local.sleep(Duration::from_nanos(1)));
        let waker = Waker::from(Arc::new(Panicking));
        assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        std::future::pending::<()>().await;
    });
    assert_eq!(lab.wait(killed), Err(HandleError::Stopped));
}

#[test]
fn a_panic_in_a_vital_task_is_its_shards() {
    on_each_driver(|lab, server, _| {
        let handle = server.handle();
        let begun = handle.run(FAILING, async |local| {
            local.spawn(async { panic!("nobody awaits this one") }).detach();
            local.sleep(Duration::from_millis(1)).await;
            local.spawn_vital(async { panic!("nothing goes without this one") });
            local.sleep(Duration::from_millis(1)).await;
        });
        assert_eq!(lab.wait(begun), Err(HandleError::Stopped));
        let failure = server.watch().wait().expect_err("a shard has failed");
        assert_eq!(failure.to_string(), "shard 1 panicked: nothing goes without this one");
    });
}

#[test]
fn what_runs_on_a_shard_that_fails_is_answered_at_once() {
    on_each_driver(|lab, server, probe| {
        let address = server.shard_addresses()[0];
        let calls = lab.spawn(move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            join_all((0..20).map(|_| call(client.call(HOLD, b"").route(THERE)))).await
        });
        lab.wait_until("they run", |_| probe.running() == 20);
        assert!(server.is_running() && server.watch().failure().is_none());
        kill(lab, &server.handle(), FAILING);
        // None has a deadline.
        assert_eq!(lab.join(calls), vec![Came::Status(Status::INTERNAL); 20]);
        let failure = server.watch().wait().expect_err("a shard has failed");
        assert_eq!(failure.to_string(), "shard 1 panicked: as it was asked to");
        assert!(!server.is_running());
        let ended = server.join().expect_err("the others have drained");
        assert_eq!(ended.shard, FAILING);
    });
}

/// More than a mailbox takes is on its way to the shard when it fails.
#[test]
fn what_a_shard_that_fails_has_not_begun_is_not_executed() {
    const CALLS: usize = 2_000;
    on_each_driver(|lab, server, probe| {
        let address = server.shard_addresses()[0];
        let calls = lab.spawn(move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            let work = micros_of(Duration::from_millis(5));
            let calls = (0..CALLS).map(|_| client.call(BLOCK, work.clone()).route(THERE));
            join_all(calls.map(call)).await
        });
        lab.wait_until("it has begun with them", |_| probe.blocked() > 2);
        kill(lab, &server.handle(), FAILING);
        let came = lab.join(calls);
        let refused = came.iter().filter(|came| **came == Came::Status(Status::DRAINING)).count();
        assert!(refused >= CALLS / 2, "{refused} of {CALLS}");
        assert!(came.iter().all(|came| *came == Came::Ok(vec![])
            || *came == Came::Status(Status::DRAINING)
            || *came == Came::Status(Status::INTERNAL)));
        let executed = probe.blocked() as usize;
        assert!(executed + refused <= CALLS, "{executed} executed, {refused} said not to be");
        server.join().expect_err("a shard has failed");
    });
}

/// What the failed shard had handed over itself has nobody to wait for it.
#[test]
fn what_a_shard_that_fails_has_handed_over_is_dropped() {
    on_each_driver(|lab, server, probe| {
        let address = server.shard_addresses()[FAILING.index()];
        let calls = lab.spawn(move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            join_all((0..20).map(|_| call(client.call(HOLD, b"").route(Route(1))))).await
        });
        lab.wait_until("they run", |_| probe.running() == 20);
        kill(lab, &server.handle(), FAILING);
        lab.wait_until("they are gone", |_| probe.running() == 0);
        drop(calls);
        server.join().expect_err("a shard has failed");
    });
}
