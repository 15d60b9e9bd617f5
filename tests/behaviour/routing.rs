//! Several shards: each is reached directly, and through any other.

use crate::lab::Lab;
use crate::peer::{Next, Peer, hello_of_client, request};
use crate::service::{self, BLOCK, COUNT, Came, ECHO, HOLD, KEEP, Probe, RELEASE, WHERE};
use crate::service::{call, came, micros_of, pattern};
use catena_engine::rpc::admission::AdmissionConfig;
use catena_engine::wire::hello::Hello;
use catena_engine::{CallError, Client, ClientConfig, Route, Status};
use futures_util::future::{Either, FutureExt, join_all, select};
use std::future::IntoFuture;
use std::pin::pin;
use std::time::Duration;

fn shard(number: u16) -> Came {
    Came::Ok(number.to_le_bytes().to_vec())
}

pub fn a_request_finds_the_shard_it_is_for<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).shards(3));
    for arrives_at in 0..3 {
        let address = lab.shard_address(server, arrives_at);
        let came = lab.run(move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            join_all((0..=4).map(|route| call(client.call(WHERE, b"").route(Route(route))))).await
        });
        let nowhere = Came::Status(Status::WRONG_SHARD);
        assert_eq!(came, [shard(arrives_at), shard(0), shard(1), shard(2), nowhere]);
    }
}

pub fn shards_say_where_they_are<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).shards(3));
    let ports: Vec<u16> = (0..3).map(|shard| lab.shard_address(server, shard).port()).collect();
    for here in 0..3 {
        let address = lab.shard_address(server, here);
        let mut peer = Peer::new(lab.connect(address));
        peer.send(lab, &hello_of_client());
        let Next::Frame(hello) = peer.next(lab) else { panic!("a server says hello first") };
        let hello = Hello::decode(&hello.header, &hello.payload).expect("a hello");
        assert_eq!((hello.shards.here, &hello.shards.ports), (here, &ports));
    }
}

pub fn large_bodies_are_handed_over<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).shards(2));
    let address = lab.shard_address(server, 0);
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let sizes = [0, 1, 1_000, 5_000, 50_000, 3_000_000];
        let calls = sizes.map(|size| call(client.call(ECHO, pattern(size)).route(Route(2))));
        join_all(calls).await.into_iter().zip(sizes).collect::<Vec<_>>()
    });
    for (came, size) in came {
        assert!(came == Came::Ok(pattern(size)), "{size} bytes");
    }
}

/// More requests at once than a mailbox has room for, none of which is answered before all are there.
pub fn more_than_fits_into_a_mailbox_gets_through<L: Lab>(lab: &mut L) {
    const CALLS: usize = 4_000;
    let server = lab.start(service::spec(&Probe::new()).shards(2).connection(|config| {
        config.in_flight_max = 2 * CALLS as u32;
    }));
    let address = lab.shard_address(server, 0);
    let (released, came) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let kept = (0..CALLS).map(|_| client.call(KEEP, b"").route(Route(2)).into_future());
        let kept: Vec<_> = kept.collect();
        // Behind all of them, in every queue on the way.
        let released = call(client.call(RELEASE, b"now").route(Route(2))).await;
        (released, join_all(kept).await.into_iter().map(came).collect::<Vec<_>>())
    });
    assert_eq!(released, Came::Ok((CALLS as u32).to_le_bytes().to_vec()));
    assert!(came.iter().all(|came| *came == Came::Ok(b"now".to_vec())));
}

pub fn what_was_handed_over_is_cancelled_there<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).shards(2));
    let (address, watched) = (lab.shard_address(server, 0), probe.clone());
    lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let call = client.call(HOLD, b"").route(Route(2)).into_future();
        while watched.running() == 0 {
            local.sleep(Duration::from_millis(1)).await;
        }
        drop(call);
        while watched.running() > 0 {
            local.sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(probe.executed(), 1);
}

pub fn what_was_handed_over_ends_at_its_deadline<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).shards(2));
    let address = lab.shard_address(server, 0);
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let call = client.call(HOLD, b"").route(Route(2)).timeout(Duration::from_millis(100));
        came(call.await)
    });
    let expected = [Came::Failed(CallError::DeadlinePassed), Came::Status(Status::DEADLINE_PASSED)];
    assert!(expected.contains(&came), "{came:?}");
    lab.wait_until("its handler is gone", |_| probe.running() == 0);
}

/// Shard 1 is busy and its mailbox overfull; what is for shard 2 passes by.
pub fn a_busy_shard_holds_up_no_other<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).shards(3).connection(|config| {
        config.in_flight_max = 8_000;
    }));
    let mut busy = Peer::greet(lab, lab.shard_address(server, 1));
    let work = micros_of(L::A_WHILE);
    busy.send(lab, &request(0, BLOCK, Duration::ZERO, &work));
    lab.wait_until("shard 1 is busy", |_| probe.blocked() > 0);
    let address = lab.shard_address(server, 0);
    let (waiting, passing_by, first) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let waiting = (0..2_000).map(|_| client.call(COUNT, b"").route(Route(2)).into_future());
        let waiting = join_all(waiting.collect::<Vec<_>>()).map(|answers| (answers, 1));
        let passing_by = (0..100).map(|_| client.call(WHERE, b"").route(Route(3)).into_future());
        let passing_by = join_all(passing_by.collect::<Vec<_>>()).map(|answers| (answers, 2));
        match select(pin!(waiting), pin!(passing_by)).await {
            Either::Left(((waiting, first), passing_by)) => (waiting, passing_by.await.0, first),
            Either::Right(((passing_by, first), waiting)) => (waiting.await.0, passing_by, first),
        }
    });
    assert_eq!(first, 2, "they did not wait for shard 1");
    assert!(waiting.into_iter().all(|answer| answer.is_ok()));
    assert!(passing_by.into_iter().all(|answer| came(answer) == shard(2)));
}

/// Requests that are handed over do not keep a shard from those that come to itself.
pub fn what_is_handed_over_takes_turns_with_what_comes_directly<L: Lab>(lab: &mut L) {
    const HANDED_OVER: u64 = 200;
    let probe = Probe::new();
    // Nothing is shed for the time that it waits.
    let patient =
        |config: &mut AdmissionConfig| config.queue_delay_target = Duration::from_secs(60);
    let server = lab.start(service::spec(&probe).shards(2).admission(patient));
    let address = lab.shard_address(server, 0);
    let mut direct = Peer::greet(lab, lab.shard_address(server, 1));
    // While shard 1 is busy with the first, the others gather in its mailbox.
    direct.send(lab, &request(0, BLOCK, Duration::ZERO, &micros_of(L::A_WHILE / 10)));
    lab.wait_until("shard 1 is busy", |_| probe.blocked() == 1);
    let handed_over = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let work = micros_of(L::A_WHILE / 200);
        let calls = (0..HANDED_OVER).map(|_| client.call(BLOCK, work.clone()).route(Route(2)));
        join_all(calls.map(call)).await
    });
    lab.wait_until("shard 1 works on them", |_| probe.blocked() > 1);
    direct.send(lab, &request(1, ECHO, Duration::ZERO, b"me too"));
    while direct.response(lab).1 != b"me too" {}
    let blocked = probe.blocked();
    assert!(blocked < HANDED_OVER / 2, "it waited for {blocked} of {HANDED_OVER}");
    assert!(lab.join(handed_over).into_iter().all(|came| came == Came::Ok(Vec::new())));
}
