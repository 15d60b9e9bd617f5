//! Bodies that are received into their own memory, and what may happen meanwhile.

use crate::lab::Lab;
use crate::peer::{Next, Peer, frame, hello_of_server, request};
use crate::service::{self, Came, ECHO, HOLD, Probe, call, pattern};
use catena_engine::wire::frame::{CallId, ResponseHead};
use catena_engine::wire::header::Kind;
use catena_engine::{Client, ClientConfig, Status};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const BODY_BYTES: usize = 1 << 20;

/// Sends a part of what is to come, and lets the other side take it in.
fn send_some<L: Lab>(lab: &mut L, peer: &mut Peer<L>, bytes: &[u8]) {
    for part in bytes.chunks(bytes.len() / 4 + 1) {
        peer.send(lab, part);
        lab.pause(Duration::from_millis(2));
    }
}

/// A caller does not want its answer any more, half of which is there; the next call has its own.
pub fn a_call_can_be_given_up_while_its_answer_comes<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let timeout = Duration::from_millis(200);
        let given_up = call(client.call(ECHO, b"").timeout(timeout)).await;
        [given_up, call(client.call(ECHO, b"").timeout(LONG)).await]
    });
    let mut peer = Peer::new(lab.accept(&mut listener));
    peer.send(lab, &hello_of_server(100));
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let Next::Frame(heard) = peer.next(lab) else { panic!("the client stays") };
        if heard.header.kind != Kind::Request {
            continue;
        }
        let call = CallId(heard.header.call);
        let status = Status::OK;
        let head = ResponseHead { call, status, queue_delay_us: 1, service_us: 1, in_flight: 1 };
        let answer = frame(head.header(), &pattern(BODY_BYTES));
        if answers.is_empty() {
            send_some(lab, &mut peer, &answer[..BODY_BYTES / 2]);
        } else {
            let first: &Vec<u8> = &answers[0];
            send_some(lab, &mut peer, &first[BODY_BYTES / 2..]);
            send_some(lab, &mut peer, &answer);
        }
        answers.push(answer);
    }
    let [given_up, answered] = lab.join(calls);
    assert!(matches!(given_up, Came::Failed(_)), "{given_up:?}");
    assert!(answered == Came::Ok(pattern(BODY_BYTES)));
}

/// Answers pile up while a body is under way: the server stops reading in the middle of it, and goes
/// on once the peer has read.
pub fn a_body_under_way_waits_while_answers_are_not_read<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| {
        config.output_bytes_max = 64 << 10;
        config.frame_timeout = LONG;
    }));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    let held = (2 * L::socket_bytes_max() / BODY_BYTES + 2) as u32;
    for slot in 0..held {
        peer.send(lab, &request(slot, HOLD, LONG, &pattern(BODY_BYTES)));
    }
    lab.wait_until("all of them run", |_| probe.running() == u64::from(held));
    let last = request(held, ECHO, LONG, &pattern(2 * BODY_BYTES));
    let (some, rest) = last.split_at(BODY_BYTES);
    send_some(lab, &mut peer, some);
    probe.release();
    lab.wait_until("they are answered", |_| probe.running() == 0);
    lab.pause(Duration::from_millis(20));
    let executed = probe.executed();
    for _ in 0..held {
        assert!(peer.response(lab).1 == pattern(BODY_BYTES));
    }
    assert_eq!(probe.executed(), executed, "the last has not come yet");
    send_some(lab, &mut peer, rest);
    assert!(peer.response(lab).1 == pattern(2 * BODY_BYTES));
}

/// The server ends while a body is under way, which nobody waits for.
pub fn a_drain_does_not_wait_for_the_rest_of_a_body<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| {
        config.drain_timeout = Duration::from_millis(50);
    }));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    peer.send(lab, &request(0, HOLD, LONG, b""));
    lab.wait_until("it runs", |_| probe.running() == 1);
    let body = request(1, ECHO, LONG, &pattern(BODY_BYTES));
    send_some(lab, &mut peer, &body[..BODY_BYTES / 2]);
    lab.drain(server);
    peer.end(lab);
    lab.wait_until("the server has ended", |lab| lab.has_ended(server));
    assert_eq!(probe.running(), 0);
}
