//! Draining: what was accepted is answered, what comes late is told so.

use crate::lab::Lab;
use crate::peer::{Next, Peer, request};
use crate::service::{self, COUNT, Came, ECHO, HOLD, Probe, SLEEP, call, came, micros_of};
use catena_engine::wire::frame::{GoAwayReason, Route};
use catena_engine::wire::header::Kind;
use catena_engine::{CallError, Client, ClientConfig, Status};
use futures_util::future::join_all;
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

pub fn everything_accepted_is_answered<L: Lab>(lab: &mut L) {
    const CALLS: u64 = 200;
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        join_all((0..CALLS).map(|n| call(client.call(HOLD, n.to_le_bytes().to_vec())))).await
    });
    lab.wait_until("all of them run", |_| probe.running() == CALLS);
    lab.drain(server);
    lab.pause(Duration::from_millis(20));
    assert_eq!(probe.running(), CALLS, "none is cut short");
    assert!(!lab.has_ended(server), "it waits for them");
    probe.release();
    for (n, answer) in (0..CALLS).zip(lab.join(calls)) {
        assert_eq!(answer, Came::Ok(n.to_le_bytes().to_vec()));
    }
    lab.wait_for_end(server);
}

pub fn what_comes_late_is_refused_and_not_executed<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    peer.send(lab, &request(0, HOLD, LONG, b"in time"));
    lab.wait_until("it runs", |_| probe.running() == 1);
    lab.drain(server);
    let Next::Frame(go_away) = peer.next(lab) else { panic!("it says so first") };
    assert_eq!(go_away.header.kind, Kind::GoAway);
    assert_eq!(GoAwayReason(go_away.header.code), GoAwayReason::DRAINING);
    peer.send(lab, &request(1, COUNT, LONG, b"late"));
    assert_eq!(peer.response(lab).0.status, Status::DRAINING);
    probe.release();
    assert_eq!(peer.response(lab).1, b"in time");
    assert_eq!(probe.executed(), 1);
    drop(peer);
    lab.wait_for_end(server);
}

pub fn nobody_new_is_served<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    lab.drain(server);
    assert!(matches!(peer.next(lab), Next::Frame(frame) if frame.header.kind == Kind::GoAway));
    let late = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        call(client.call(COUNT, b"")).await
    });
    assert!(matches!(late, Came::Failed(CallError::Unreachable { .. })), "{late:?}");
    assert_eq!(probe.executed(), 0);
    drop(peer);
    lab.wait_for_end(server);
}

pub fn idle_clients_let_go_at_once<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| {
        // Far beyond any patience: only an end in order will do.
        config.drain_timeout = Duration::from_secs(3_600);
    }));
    let address = lab.address(server);
    let idle = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let first = call(client.call(COUNT, b"")).await;
        local.sleep(LONG * 100).await;
        drop(client);
        first
    });
    lab.wait_until("a client is connected", |_| probe.executed() == 1);
    lab.drain(server);
    lab.wait_for_end(server);
    drop(idle);
}

pub fn a_drain_ends_in_time_whatever_runs<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| {
        config.drain_timeout = Duration::from_millis(50);
    }));
    let address = lab.address(server);
    let call = lab.spawn(move |local| async move {
        call(Client::new(&local, address, ClientConfig::default()).call(HOLD, b"")).await
    });
    lab.wait_until("it runs", |_| probe.running() == 1);
    lab.drain(server);
    lab.wait_for_end(server);
    assert_eq!(lab.join(call), Came::Failed(CallError::ConnectionLost));
    assert_eq!(probe.running(), 0, "its handler is gone");
}

/// The connection is one shard's, the work another's: neither may end before the other.
pub fn work_that_was_handed_over_is_answered_too<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).shards(2));
    let address = lab.shard_address(server, 0);
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let calls = (0..20u8).map(|n| client.call(HOLD, vec![n]).route(Route(2)).into_future());
        join_all(calls).await.into_iter().map(came).collect::<Vec<_>>()
    });
    lab.wait_until("they run", |_| probe.running() == 20);
    lab.drain(server);
    lab.pause(Duration::from_millis(20));
    probe.release();
    for (n, answer) in (0..20u8).zip(lab.join(calls)) {
        assert_eq!(answer, Came::Ok(vec![n]));
    }
    lab.wait_for_end(server);
}

/// A client that was told go-away connects again, to whatever stands there next.
pub fn a_client_finds_the_next_server<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let (address, watched) = (lab.address(server), probe.clone());
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let before = call(client.call(HOLD, b"before")).await;
        // By now the server has gone, or is about to.
        let mut after = call(client.call(ECHO, b"after").timeout(LONG)).await;
        while after == Came::Status(Status::DRAINING) {
            after = call(client.call(ECHO, b"after").timeout(LONG)).await;
        }
        drop(watched);
        [before, after]
    });
    lab.wait_until("it runs", |_| probe.running() == 1);
    lab.drain(server);
    probe.release();
    lab.wait_for_end(server);
    lab.restart(server);
    assert_eq!(lab.join(calls), [Came::Ok(b"before".to_vec()), Came::Ok(b"after".to_vec())]);
}

/// Calls with time left see nothing of a server that is restarted on its port.
pub fn calls_go_on_while_the_server_is_restarted<L: Lab>(lab: &mut L) {
    const CALLERS: usize = 16;
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).shards(2));
    let (address, stop) = (lab.address(server), Arc::new(AtomicBool::new(false)));
    let (stopped, answered) = (stop.clone(), Arc::new(AtomicU64::new(0)));
    let counted = answered.clone();
    let calls = lab.spawn(move |local| async move {
        let clients = (0..CALLERS).map(|n| {
            let client = Client::new(&local, address, ClientConfig::default());
            let (stopped, counted) = (stopped.clone(), counted.clone());
            // Some at once, some after a while, some handed over.
            let route = Route(n as u32 % 3);
            async move {
                while !stopped.load(SeqCst) {
                    let work = micros_of(Duration::from_micros(100 * n as u64));
                    let calls = [ECHO, SLEEP, SLEEP, ECHO]
                        .map(|method| client.call(method, work.clone()).route(route).timeout(LONG));
                    for came in join_all(calls.map(call)).await {
                        assert_eq!(came, Came::Ok(work.clone()));
                        counted.fetch_add(1, SeqCst);
                    }
                }
            }
        });
        join_all(clients.collect::<Vec<_>>()).await;
    });
    for _ in 0..4 {
        let before = answered.load(SeqCst);
        lab.wait_until("calls are answered", |_| answered.load(SeqCst) > before + 200);
        lab.drain(server);
        lab.wait_for_end(server);
        lab.restart(server);
    }
    let before = answered.load(SeqCst);
    lab.wait_until("calls are answered again", |_| answered.load(SeqCst) > before + 200);
    stop.store(true, SeqCst);
    lab.join(calls);
}
