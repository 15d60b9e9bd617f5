//! Flow control: windows that hold, readers that do not read.

use crate::lab::Lab;
use crate::peer::{Next, Peer, frame, hello_of_server, request};
use crate::service::{self, Came, ECHO, HOLD, Probe, SOURCE, call, pattern};
use catena_engine::wire::frame::{CallId, ResponseHead};
use catena_engine::wire::header::Kind;
use catena_engine::{CallError, Client, ClientConfig, Status};
use futures_util::future::join_all;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// What does not fit into the window waits at the client.
pub fn the_window_is_never_exceeded<L: Lab>(lab: &mut L) {
    const WINDOW: u32 = 8;
    const CALLS: u64 = 100;
    let probe = Probe::new();
    let spec = service::spec(&probe).connection(|config| config.in_flight_max = WINDOW);
    let server = lab.start(spec);
    let address = lab.address(server);
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        join_all((0..CALLS).map(|n| call(client.call(HOLD, n.to_le_bytes().to_vec())))).await
    });
    lab.wait_until("the window is full", |_| probe.running() == u64::from(WINDOW));
    lab.pause(Duration::from_millis(20));
    assert_eq!(probe.executed(), u64::from(WINDOW), "the rest waits");
    probe.release();
    for (n, answer) in (0..CALLS).zip(lab.join(calls)) {
        assert_eq!(answer, Came::Ok(n.to_le_bytes().to_vec()));
    }
    assert_eq!(probe.running_max.load(SeqCst), u64::from(WINDOW));
}

pub fn a_client_lets_only_so_many_calls_wait<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let spec = service::spec(&probe).connection(|config| config.in_flight_max = 1);
    let server = lab.start(spec);
    let (address, watched) = (lab.address(server), probe.clone());
    let came = lab.run(move |local| async move {
        let config = ClientConfig { waiting_max: 2, ..ClientConfig::default() };
        let client = Client::new(&local, address, config);
        let release = async {
            while watched.running() == 0 {
                local.sleep(Duration::from_millis(1)).await;
            }
            local.sleep(Duration::from_millis(5)).await;
            watched.release();
        };
        let first = async {
            while watched.running() == 0 {
                local.sleep(Duration::from_millis(1)).await;
            }
            let calls = (0..4).map(|_| call(client.call(HOLD, b"")));
            join_all(calls).await
        };
        let (zeroth, rest, ()) =
            futures_util::future::join3(call(client.call(HOLD, b"")), first, release).await;
        [vec![zeroth], rest].concat()
    });
    let (ok, too_many) = (Came::Ok(vec![]), Came::Failed(CallError::TooManyWaiting));
    assert_eq!(came.iter().filter(|came| **came == too_many).count(), 2, "{came:?}");
    assert_eq!(came.iter().filter(|came| **came == ok).count(), 3, "{came:?}");
}

const ANSWER_BYTES: usize = 16 << 10;

/// So many answers are several times what fits into all buffers on the way.
fn answers<L: Lab>() -> usize {
    6 * L::socket_bytes_max() / ANSWER_BYTES
}

fn sources<L: Lab>() -> Vec<u8> {
    let payload = (ANSWER_BYTES as u32).to_le_bytes();
    let source = |n| request(n as u32 % 1_000, SOURCE, Duration::ZERO, &payload);
    (0..answers::<L>()).flat_map(source).collect()
}

/// A peer that asks for much and reads nothing is read from no more, while others are served as
/// ever; and it has its answers once it reads.
pub fn a_slow_reader_slows_down_nobody_else<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| {
        config.output_bytes_max = 64 << 10;
        config.frame_timeout = LONG * 60;
    }));
    let address = lab.address(server);
    let mut slow = Peer::greet(lab, address);
    slow.send(lab, &sources::<L>());
    lab.wait_until("it is being served", |_| probe.executed() > 0);
    let others = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        for n in 0..200u32 {
            let came = call(client.call(ECHO, n.to_le_bytes().to_vec())).await;
            assert_eq!(came, Came::Ok(n.to_le_bytes().to_vec()));
            local.sleep(Duration::from_micros(100)).await;
        }
        true
    });
    assert!(others);
    let (all, executed) = (answers::<L>(), probe.executed() as usize);
    assert!(executed < all / 2, "{executed} of {all} answers for who does not read");
    for _ in 0..all {
        let (head, payload) = slow.response(lab);
        assert_eq!((head.status, payload.len()), (Status::OK, ANSWER_BYTES));
    }
    assert_eq!(probe.executed() as usize, all);
}

pub fn a_reader_that_never_reads_is_given_up<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| {
        config.output_bytes_max = 64 << 10;
        config.frame_timeout = Duration::from_millis(100);
    }));
    let address = lab.address(server);
    let mut slow = Peer::greet(lab, address);
    slow.send(lab, &request(1_000, HOLD, LONG, b""));
    slow.send(lab, &sources::<L>());
    lab.wait_until("it is being served", |_| probe.running() == 1 && probe.executed() > 1);
    lab.wait_until("its work is dropped with it", |_| probe.running() == 0);
    slow.end(lab);
}

/// A peer that is not read from is silent because of us: it must not be taken for dead.
pub fn a_reader_that_pauses_is_not_taken_for_dead<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).connection(|config| {
        config.output_bytes_max = 64 << 10;
        config.frame_timeout = LONG;
        config.keepalive_interval = Duration::from_millis(500);
        config.keepalive_timeout = Duration::from_millis(1_000);
    }));
    let address = lab.address(server);
    let mut slow = Peer::greet(lab, address);
    slow.send(lab, &sources::<L>());
    lab.pause(Duration::from_secs(3));
    let expected = pattern(ANSWER_BYTES);
    for n in 0..answers::<L>() {
        assert!(slow.response(lab).1 == expected, "answer {n}");
    }
}

/// An answer that is longer than all buffers on the way is taken as slowly as its caller likes.
pub fn a_large_answer_may_take_its_time<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).connection(|config| {
        config.frame_bytes_max = 64 << 20;
        config.frame_timeout = LONG;
        config.keepalive_interval = Duration::from_millis(300);
        config.keepalive_timeout = Duration::from_millis(300);
    }));
    let address = lab.address(server);
    let mut slow = Peer::greet(lab, address);
    let large = 3 * L::socket_bytes_max();
    slow.send(lab, &request(0, SOURCE, Duration::ZERO, &(large as u32).to_le_bytes()));
    lab.pause(Duration::from_secs(3));
    assert!(slow.response(lab).1 == pattern(large));
}

/// What a server does not take piles up in no connection: it waits with its caller, as what does not
/// fit into the window does, and is sent when there is room.
pub fn requests_that_cannot_be_sent_wait_with_their_caller<L: Lab>(lab: &mut L) {
    const WAITING_MAX: usize = 5;
    let body = 2 * L::socket_bytes_max();
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        let config = ClientConfig { waiting_max: WAITING_MAX, ..ClientConfig::default() };
        let client = Client::new(&local, address, config);
        // The first makes the connection.
        assert_eq!(call(client.call(ECHO, b"")).await, Came::Ok(Vec::new()));
        let body = bytes::Bytes::from(pattern(body));
        join_all((0..20).map(|_| call(client.call(ECHO, body.clone())))).await
    });
    let mut server = Peer::<L>::new(lab.accept(&mut listener));
    server.send(lab, &hello_of_server(1_000));
    let mut answered = 0;
    // The first of all, the one that found room, and those that were let wait.
    while answered < 1 + 1 + WAITING_MAX {
        let Next::Frame(heard) = server.next(lab) else { panic!("a request was to come") };
        if heard.header.kind == Kind::Request {
            let (call, status) = (CallId(heard.header.call), Status::OK);
            let head =
                ResponseHead { call, status, queue_delay_us: 1, service_us: 1, in_flight: 1 };
            server.send(lab, &frame(head.header(), b""));
            answered += 1;
        }
    }
    let came = lab.join(calls);
    let count = |of: &Came| came.iter().filter(|came| *came == of).count();
    let too_many = count(&Came::Failed(CallError::TooManyWaiting));
    assert_eq!(
        (count(&Came::Ok(Vec::new())), too_many),
        (1 + WAITING_MAX, 20 - 1 - WAITING_MAX),
        "{came:?}"
    );
}
