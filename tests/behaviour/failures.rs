//! What breaks: peers that die in the middle of a frame, servers that go and come back.

use crate::lab::Lab;
use crate::peer::{Next, Peer, frame, hello_of_server, request};
use crate::service::{self, Came, ECHO, HOLD, Probe, call, pattern};
use catena_engine::limits::CALL_RETRIES_MAX;
use catena_engine::wire::frame::{CallId, ResponseHead, control};
use catena_engine::wire::header::{Flags, HEADER_BYTES, Kind};
use catena_engine::{CallError, Client, ClientConfig, Status};
use futures_util::future::join_all;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

pub fn a_client_that_dies_mid_frame_harms_nobody<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let whole = request(1, ECHO, LONG, &pattern(1_000_000));
    let mut other = Peer::greet(lab, address);
    for cut in [1, 31, 32, 33, 5_000, 400_000, whole.len() - 1] {
        let mut peer = Peer::greet(lab, address);
        peer.send(lab, &request(0, HOLD, LONG, b""));
        lab.wait_until("it runs", |_| probe.running() == 1);
        let (first, second) = whole[..cut].split_at(cut / 2);
        peer.send(lab, first);
        lab.pause(Duration::from_millis(1));
        peer.send(lab, second);
        drop(peer);
        lab.wait_until("its work is gone", |_| probe.running() == 0);
        other.send(lab, &request(0, ECHO, LONG, b"on"));
        assert_eq!(other.response(lab).1, b"on");
    }
}

/// Accepts a client of the engine's and says hello.
fn accept<L: Lab>(lab: &mut L, listener: &mut L::Listener) -> Peer<L> {
    let mut peer = Peer::new(lab.accept(listener));
    peer.send(lab, &hello_of_server(100));
    assert!(matches!(peer.next(lab), Next::Frame(hello) if hello.header.kind == Kind::Hello));
    peer
}

fn response(call: CallId, payload: &[u8]) -> Vec<u8> {
    let status = Status::OK;
    let head = ResponseHead { call, status, queue_delay_us: 1, service_us: 1, in_flight: 1 };
    frame(head.header(), payload)
}

/// Waits for a request and gives its id.
fn next_call<L: Lab>(lab: &mut L, peer: &mut Peer<L>) -> CallId {
    let Next::Frame(request) = peer.next(lab) else { panic!("a request was to come") };
    assert_eq!(request.header.kind, Kind::Request);
    CallId(request.header.call)
}

pub fn a_server_that_dies_mid_answer_is_tried_again<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    for cut in [0, 1, 31, 32, 33, 5_000] {
        let calls = lab.spawn(move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            let first = call(client.call(ECHO, b"")).await;
            [first, call(client.call(ECHO, b"")).await]
        });
        let mut dying = accept(lab, &mut listener);
        let id = next_call(lab, &mut dying);
        dying.send(lab, &response(id, &pattern(10_000))[..cut]);
        lab.pause(Duration::from_millis(5));
        drop(dying);
        let mut living = accept(lab, &mut listener);
        let id = next_call(lab, &mut living);
        living.send(lab, &response(id, b"whole"));
        let came = lab.join(calls);
        assert_eq!(came, [Came::Failed(CallError::ConnectionLost), Came::Ok(b"whole".to_vec())]);
    }
}

/// Sixteen large calls are under way when the server goes; each ends once, in one way or the other.
pub fn a_server_killed_under_load_fails_what_was_in_flight<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let body = bytes::Bytes::from(pattern(4 << 20));
        let calls = (0..16).map(async |_| {
            let mut answered = 0;
            loop {
                match client.call(ECHO, body.clone()).await {
                    Ok(answer) => {
                        assert!(answer.payload == body);
                        answered += 1;
                    }
                    Err(error) => return (answered, error),
                }
            }
        });
        let ended = join_all(calls).await;
        // And then it is there again.
        (ended, call(client.call(ECHO, b"again").timeout(LONG * 10)).await)
    });
    lab.pause(Duration::from_millis(30));
    lab.kill(server);
    lab.pause(Duration::from_millis(100));
    lab.restart(server);
    let (ended, again) = lab.join(calls);
    for (_, error) in ended {
        let lost = matches!(error, CallError::ConnectionLost | CallError::Unreachable { .. });
        assert!(lost, "{error:?}");
    }
    assert_eq!(again, Came::Ok(b"again".to_vec()));
}

pub fn nobody_there_is_told_at_once_or_at_the_deadline<L: Lab>(lab: &mut L) {
    let address = lab.nobody();
    let (at_once, waited, waited_for) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let at_once = call(client.call(ECHO, b"")).await;
        let began_at = local.now();
        let waited = call(client.call(ECHO, b"").timeout(Duration::from_millis(150))).await;
        (at_once, waited, local.now().since(began_at))
    });
    let kind = ErrorKind::ConnectionRefused;
    assert_eq!(at_once, Came::Failed(CallError::Unreachable { address, kind }));
    assert_eq!(waited, Came::Failed(CallError::ExpiredUnsent));
    assert!(at_once.is_not_executed() && waited.is_not_executed());
    assert!(waited_for >= Duration::from_millis(150), "{waited_for:?}");
}

/// For who has other servers to turn to: neither an attempt that fails nor the pause after it is waited
/// out, whatever time there is.
pub fn who_is_not_to_wait_for_a_connection_is_told_at_once<L: Lab>(lab: &mut L) {
    let address = lab.nobody();
    let (together, in_the_pause) = lab.run(move |local| async move {
        let pause = LONG * 4;
        let config = ClientConfig { backoff_min: pause, backoff_max: pause, ..unwaiting() };
        let client = Client::new(&local, address, config);
        let three = (0..3).map(|_| call(client.call(ECHO, b"").timeout(LONG)));
        (join_all(three).await, call(client.call(ECHO, b"").timeout(LONG)).await)
    });
    let kind = ErrorKind::ConnectionRefused;
    let refused = Came::Failed(CallError::Unreachable { address, kind });
    assert_eq!(together, [refused.clone(), refused.clone(), refused.clone()]);
    assert_eq!(in_the_pause, refused);
    assert!(refused.is_not_executed());
}

pub fn who_does_not_wait_for_a_server_finds_it_when_it_is_back<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    lab.kill(server);
    let answered = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, unwaiting());
        let mut refusals = 0;
        loop {
            match call(client.call(ECHO, b"back").timeout(LONG)).await {
                Came::Failed(CallError::Unreachable { .. }) => refusals += 1,
                other => return (refusals, other),
            }
            local.sleep(Duration::from_millis(1)).await;
        }
    });
    lab.pause(Duration::from_millis(100));
    lab.restart(server);
    let (refusals, came) = lab.join(answered);
    assert!(refusals > 0, "nobody was there");
    assert_eq!(came, Came::Ok(b"back".to_vec()));
}

fn unwaiting() -> ClientConfig {
    ClientConfig { waits_for_connection: false, ..ClientConfig::default() }
}

pub fn a_call_with_a_deadline_waits_for_the_server_to_come_back<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    lab.kill(server);
    let waiting = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        join_all((0..10u8).map(|n| call(client.call(ECHO, vec![n]).timeout(LONG)))).await
    });
    lab.pause(Duration::from_millis(100));
    lab.restart(server);
    for (n, came) in (0..10u8).zip(lab.join(waiting)) {
        assert_eq!(came, Came::Ok(vec![n]));
    }
}

/// A server that goes and comes again is found each time, by the same client.
pub fn a_client_outlives_its_servers<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let answered = Arc::new(AtomicU64::new(0));
    let (counted, goes_on) = (answered.clone(), Arc::new(AtomicBool::new(true)));
    let going_on = goes_on.clone();
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        while going_on.load(SeqCst) {
            match call(client.call(ECHO, b"").timeout(LONG)).await {
                Came::Ok(_) => drop(counted.fetch_add(1, SeqCst)),
                Came::Failed(CallError::ConnectionLost) => {}
                other => panic!("neither answered nor lost: {other:?}"),
            }
            local.sleep(Duration::from_millis(1)).await;
        }
    });
    for _ in 0..3 {
        let before = answered.load(SeqCst);
        lab.wait_until("the server is found", |_| answered.load(SeqCst) > before + 5);
        lab.kill(server);
        lab.pause(Duration::from_millis(50));
        lab.restart(server);
    }
    goes_on.store(false, SeqCst);
    lab.join(calls);
}

/// What a leaving server says to a request that was on its way.
fn refusal(call: CallId) -> Vec<u8> {
    let status = Status::DRAINING;
    let head = ResponseHead { call, status, queue_delay_us: 0, service_us: 0, in_flight: 1 };
    [frame(control(Kind::GoAway, 0, 0), b"leaving"), frame(head.header(), b"")].concat()
}

/// Whether it has a deadline or not: it was not executed, and the next server takes it.
pub fn a_call_that_a_leaving_server_refuses_is_made_again<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    for timeout in [None, Some(LONG)] {
        let calls = lab.spawn(move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            let plain = client.call(ECHO, b"again");
            call(timeout.map_or(plain, |timeout| client.call(ECHO, b"again").timeout(timeout)))
                .await
        });
        let mut leaving = accept(lab, &mut listener);
        let id = next_call(lab, &mut leaving);
        leaving.send(lab, &refusal(id));
        let mut staying = accept(lab, &mut listener);
        let Next::Frame(request) = staying.next(lab) else { panic!("it was to come again") };
        assert_eq!((request.header.kind, &request.payload[..]), (Kind::Request, &b"again"[..]));
        assert!(request.header.flags.has(Flags::REPEAT), "it says that it was sent before");
        staying.send(lab, &response(CallId(request.header.call), b"taken"));
        assert_eq!(lab.join(calls), Came::Ok(b"taken".to_vec()));
    }
}

/// A server that refuses without leaving means it.
pub fn a_call_that_is_refused_by_a_server_that_stays_is_not_made_again<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        call(Client::new(&local, address, ClientConfig::default()).call(ECHO, b"")).await
    });
    let mut peer = accept(lab, &mut listener);
    let id = next_call(lab, &mut peer);
    let refusal = refusal(id);
    // Without the go-away before it.
    peer.send(lab, &refusal[refusal.len() - HEADER_BYTES..]);
    assert_eq!(lab.join(calls), Came::Status(Status::DRAINING));
}

pub fn a_call_is_made_again_only_so_often<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        call(client.call(ECHO, b"").timeout(LONG)).await
    });
    let mut left = Vec::new();
    for _ in 0..=CALL_RETRIES_MAX {
        let mut leaving = accept(lab, &mut listener);
        let id = next_call(lab, &mut leaving);
        leaving.send(lab, &refusal(id));
        left.push(leaving);
    }
    assert_eq!(lab.join(calls), Came::Status(Status::DRAINING));
}

/// A server that is about to go may take a connection and never look at it.
pub fn a_connection_that_ends_unused_is_tried_again<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        call(client.call(ECHO, b"no deadline")).await
    });
    drop(lab.accept(&mut listener));
    let mut silent = Peer::<L>::new(lab.accept(&mut listener));
    silent.send(lab, &frame(control(Kind::GoAway, 0, 0), b"leaving"));
    let mut staying = accept(lab, &mut listener);
    let id = next_call(lab, &mut staying);
    staying.send(lab, &response(id, b"taken"));
    assert_eq!(lab.join(calls), Came::Ok(b"taken".to_vec()));
}

/// A server that takes connections and leaves before it has answered anything is no better than one
/// that refuses them: attempts come at growing intervals, and calls without a deadline fail.
pub fn a_server_that_always_leaves_is_not_stormed<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    let mut calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let hasty = call(client.call(ECHO, b"")).await;
        let patient = call(client.call(ECHO, b"").timeout(Duration::from_secs(1))).await;
        [hasty, patient]
    });
    let leaving = [hello_of_server(100), frame(control(Kind::GoAway, 0, 0), b"leaving")].concat();
    let mut left = Vec::new();
    lab.wait_until("both calls have ended", |lab| {
        while let Some(socket) = lab.try_accept(&mut listener) {
            let mut peer = Peer::new(socket);
            peer.send(lab, &leaving);
            left.push(peer);
        }
        calls.is_over()
    });
    // A call may have been on its way when the server said that it leaves.
    for came in lab.join(calls) {
        assert!(matches!(came, Came::Failed(_)), "{came:?}");
    }
    assert!(left.len() <= 20, "{} connections within a second", left.len());
}
