//! Deadlines: inherited, kept in the queue and while the work runs.

use crate::lab::{Lab, Spec};
use crate::peer::{Peer, request};
use crate::service::{
    self, BLOCK, COUNT, Came, ECHO, HOLD, NEST, Probe, TIME_LEFT, call, micros_of,
};
use catena_engine::service::OwnedRequest;
use catena_engine::wire::frame::{CallId, Priority, RequestHead, Route};
use catena_engine::{CallError, Client, ClientConfig, MethodId, Router, Status};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(40);

fn microseconds(came: &Came) -> u64 {
    let Came::Ok(payload) = came else { panic!("{came:?}") };
    u64::from_le_bytes(payload[..].try_into().expect("eight bytes"))
}

pub fn a_deadline_is_inherited_by_nested_calls<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let last = lab.start(service::spec(&probe));
    let first = lab.start(service::spec_before(&probe, Some(lab.address(last))));
    let address = lab.address(first);
    let (within, without) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let within = call(client.call(TIME_LEFT, b"").timeout(LONG)).await;
        (within, call(client.call(TIME_LEFT, b"")).await)
    });
    let left = microseconds(&within);
    assert!(left > 0 && left <= LONG.as_micros() as u64, "two hops away, {left} µs are left");
    assert_eq!(microseconds(&without), 0, "no deadline comes from nowhere");
}

/// Unless the handler says that what it asks for shall outlive its own request.
pub fn a_deadline_can_be_left_behind<L: Lab>(lab: &mut L) {
    const BOUND: MethodId = MethodId::of("bound");
    const FREE: MethodId = MethodId::of("free");
    let last = lab.start(service::spec(&Probe::new()));
    let next = lab.address(last);
    let first = lab.start(Spec::new(move |local, _| {
        let client = Client::new(local, next, ClientConfig::default());
        let bound = client.clone();
        Router::new()
            .method_async("bound", move |_: OwnedRequest| {
                let asked = bound.call(TIME_LEFT, b"");
                async move { Ok(asked.await?.payload) }
            })
            .method_async("free", move |_: OwnedRequest| {
                let asked = client.call(TIME_LEFT, b"").without_deadline();
                async move { Ok(asked.await?.payload) }
            })
    }));
    let address = lab.address(first);
    let (bound, free) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let bound = call(client.call(BOUND, b"").timeout(LONG)).await;
        (bound, call(client.call(FREE, b"").timeout(LONG)).await)
    });
    assert!(microseconds(&bound) > 0, "inherited");
    assert_eq!(microseconds(&free), 0, "left behind");
}

pub fn a_deadline_in_the_past_is_not_even_sent<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let late = call(client.call(COUNT, b"").deadline(local.now())).await;
        [late, call(client.call(ECHO, b"")).await]
    });
    assert_eq!(came, [Came::Failed(CallError::ExpiredUnsent), Came::Ok(vec![])]);
    assert_eq!(probe.executed(), 0);
}

/// What lies behind a slow request when its time is up is not begun.
pub fn what_expires_in_the_queue_is_not_executed<L: Lab>(lab: &mut L) {
    const WAITING: u32 = 20;
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    let mut bytes = request(0, BLOCK, LONG, &micros_of(SHORT * 3));
    for slot in 1..=WAITING {
        bytes.extend(request(slot, COUNT, SHORT, b""));
    }
    peer.send(lab, &bytes);
    assert_eq!(peer.response(lab).0.status, Status::OK);
    let statuses: Vec<Status> = (0..WAITING).map(|_| peer.response(lab).0.status).collect();
    let executed = statuses.iter().filter(|status| status.is_ok()).count();
    let expired = statuses.iter().filter(|status| **status == Status::EXPIRED_IN_QUEUE).count();
    assert_eq!(probe.executed(), executed as u64, "the status tells the truth");
    assert_eq!(executed + expired, statuses.len(), "{statuses:?}");
    // What is sent in one piece, and arrives so, waits together.
    assert!(!L::SENDS_IN_ONE_PIECE || executed == 0, "{executed} executed");
}

/// A shard that is busy finds requests in its mailbox whose time is up.
pub fn what_expires_in_a_mailbox_is_not_executed<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).shards(2));
    let (first, second) = (lab.shard_address(server, 0), lab.shard_address(server, 1));
    let mut blocker = Peer::greet(lab, second);
    let mut peer = Peer::greet(lab, first);
    let blocked_before = probe.blocked();
    blocker.send(lab, &request(0, BLOCK, LONG, &micros_of(SHORT * 25)));
    lab.wait_until("shard 1 is busy", |_| probe.blocked() > blocked_before);
    let head = RequestHead {
        call: CallId::new(0, 1),
        method: COUNT,
        priority: Priority::NORMAL,
        time_left_us: SHORT.as_micros() as u32,
        route: Route(2),
        repeat: false,
        hops: 0,
    };
    peer.send(lab, &crate::peer::frame(head.header(), b""));
    let (head, _) = peer.response(lab);
    assert_eq!(blocker.response(lab).0.status, Status::OK);
    // A look at shard 1 after it has worked off its mailbox.
    blocker.send(lab, &request(1, ECHO, LONG, b""));
    assert_eq!(blocker.response(lab).0.status, Status::OK);
    let executed = u64::from(head.status.is_ok());
    assert_eq!(probe.executed(), executed, "after {:?}", head.status);
}

pub fn when_time_is_up_the_handler_is_dropped<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    peer.send(lab, &request(0, HOLD, SHORT, b""));
    assert_eq!(peer.response(lab).0.status, Status::DEADLINE_PASSED);
    assert_eq!(probe.executed(), 1);
    lab.wait_until("the handler is gone", |_| probe.running() == 0);
    peer.send(lab, &request(0, ECHO, LONG, b"the slot is free"));
    assert_eq!(peer.response(lab).1, b"the slot is free");
}

pub fn when_time_is_up_nested_work_ends_too<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let last = lab.start(service::spec(&probe));
    let first = lab.start(service::spec_before(&probe, Some(lab.address(last))));
    let address = lab.address(first);
    let (came, after) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let came = call(client.call(NEST, b"").timeout(SHORT * 5)).await;
        (came, call(client.call(ECHO, b"")).await)
    });
    let expected = [Came::Failed(CallError::DeadlinePassed), Came::Status(Status::DEADLINE_PASSED)];
    assert!(expected.contains(&came), "{came:?}");
    assert_eq!(after, Came::Ok(vec![]));
    lab.wait_until("both handlers are gone", |_| probe.running() == 0);
}
