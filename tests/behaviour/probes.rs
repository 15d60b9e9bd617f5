//! A server is asked for its load, which is no call.

use crate::lab::Lab;
use crate::peer::{Next, Peer, control_frame, frame, hello_of_server};
use crate::service::{self, ECHO, HOLD, Probe, SLEEP, call, micros_of};
use catena_engine::wire::frame::PongHead;
use catena_engine::wire::header::Kind;
use catena_engine::{CallError, Client, ClientConfig};
use futures_util::future::{join, join_all};
use std::io::ErrorKind;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

pub fn a_pong_tells_the_load_of_the_shard<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let (idle, worked) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let idle = client.probe(LONG).await.expect("it is there");
        // More than once the memory of the average: it has forgotten what was before.
        for _ in 0..40 {
            call(client.call(SLEEP, micros_of(Duration::from_millis(2)))).await;
        }
        (idle, client.probe(LONG).await.expect("it is there"))
    });
    assert_eq!((idle.service_us, idle.in_flight), (0, 1), "nothing but the ping itself");
    assert!(worked.service_us >= 1_800, "{worked:?}");
    let holding = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let held = join_all((0..3).map(|_| call(client.call(HOLD, b""))));
        join(held, client.probe(LONG)).await.1
    });
    lab.wait_until("they run", |_| probe.running() == 3);
    let busy = lab.run(move |local| async move {
        Client::new(&local, address, ClientConfig::default()).probe(LONG).await
    });
    assert_eq!(busy.expect("it is there").in_flight, 4, "three that run, and the ping");
    probe.release();
    lab.join(holding).expect("it is there");
}

pub fn a_probe_waits_for_nobody_who_is_not_there<L: Lab>(lab: &mut L) {
    let address = lab.nobody();
    let came = lab.run(move |local| async move {
        let pause = LONG * 4;
        let config =
            ClientConfig { backoff_min: pause, backoff_max: pause, ..ClientConfig::default() };
        let client = Client::new(&local, address, config);
        [client.probe(LONG).await, client.probe(LONG).await]
    });
    let kind = ErrorKind::ConnectionRefused;
    let refused = Err(CallError::Unreachable { address, kind });
    assert_eq!(came, [refused.clone(), refused], "the attempt, and the pause after it");
}

pub fn one_probe_is_under_way_at_a_time<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let (first, second, third) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let first = client.probe(LONG);
        let second = client.probe(LONG).await;
        let first = first.await;
        // One that is given up makes room.
        drop(client.probe(LONG));
        (first, second, client.probe(LONG).await)
    });
    assert_eq!(second, Err(CallError::TooManyWaiting));
    assert!(first.expect("it is there").tells_load());
    assert!(third.expect("it is there").tells_load());
}

/// Connected, and silent; then it answers, as servers did that told no load; then it is gone.
pub fn a_probe_ends_at_its_time_with_a_pong_or_with_the_connection<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    let probes = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        // The connection is good: what is lost is made anew.
        let before = call(client.call(ECHO, b"")).await;
        let timed_out = client.probe(Duration::from_millis(20)).await;
        let answered = client.probe(LONG).await;
        let lost = client.probe(LONG).await;
        (before, timed_out, answered, lost)
    });
    let mut peer = Peer::<L>::new(lab.accept(&mut listener));
    peer.send(lab, &hello_of_server(100));
    let heard = |lab: &mut L, peer: &mut Peer<L>, kind: Kind| loop {
        let Next::Frame(frame) = peer.next(lab) else { panic!("a {kind:?} was to come") };
        if frame.header.kind == kind {
            return frame.header.call;
        }
    };
    let id = heard(lab, &mut peer, Kind::Request);
    peer.send(lab, &frame(catena_engine::wire::frame::control(Kind::Response, 0, id), b""));
    let first = heard(lab, &mut peer, Kind::Ping);
    let second = heard(lab, &mut peer, Kind::Ping);
    assert_ne!(first, second, "a late pong must not answer the next ping");
    peer.send(lab, &control_frame(Kind::Pong, first));
    peer.send(lab, &control_frame(Kind::Pong, second));
    heard(lab, &mut peer, Kind::Ping);
    drop(peer);
    let (before, timed_out, answered, lost) = lab.join(probes);
    assert_eq!(before, service::Came::Ok(Vec::new()));
    assert_eq!(timed_out, Err(CallError::DeadlinePassed));
    assert_eq!(answered, Ok(PongHead::without_load(second)));
    assert_eq!(lost, Err(CallError::ConnectionLost));
}
