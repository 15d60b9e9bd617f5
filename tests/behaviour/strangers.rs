//! Peers that do not speak the protocol, or speak it wrongly. Each is told why, where it could
//! understand, and loses its connection; nobody else notices.

use crate::lab::Lab;
use crate::peer::{Next, Peer, control_frame, frame, hello, hello_bytes, hello_of_client, request};
use crate::service::{self, Came, ECHO, HOLD, Probe, call};
use catena_engine::limits::LINGER;
use catena_engine::wire::frame::{CallId, GoAwayReason, ResponseHead, control};
use catena_engine::wire::header::{Header, Kind};
use catena_engine::{CallError, Client, ClientConfig, Status};
use std::io::ErrorKind;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

/// Says `bytes`, after a hello or instead of it, and hears why that was the end of it. Beside it an
/// honest peer has a request in work, and is answered afterwards.
fn told<L: Lab>(lab: &mut L, greeted: bool, bytes: &[u8]) -> (GoAwayReason, String) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let mut honest = Peer::greet(lab, address);
    honest.send(lab, &request(0, HOLD, LONG, b"untouched"));
    lab.wait_until("it runs", |_| probe.running() == 1);
    let mut stranger = match greeted {
        true => Peer::greet(lab, address),
        false => Peer::new(lab.connect(address)),
    };
    stranger.send(lab, bytes);
    let told = stranger.go_away(lab);
    probe.release();
    assert_eq!(honest.response(lab).1, b"untouched");
    told
}

fn assert_is_protocol_error<L: Lab>(lab: &mut L, greeted: bool, bytes: &[u8]) {
    let (reason, text) = told(lab, greeted, bytes);
    assert_eq!(reason, GoAwayReason::PROTOCOL_ERROR, "{text}");
    assert!(text.len() > 10, "it says what was wrong: {text:?}");
}

pub fn a_browser_is_sent_away<L: Lab>(lab: &mut L) {
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
    assert_is_protocol_error(lab, false, http);
}

pub fn noise_is_sent_away<L: Lab>(lab: &mut L) {
    let noise = service::pattern(500);
    assert_is_protocol_error(lab, false, &noise);
    assert_is_protocol_error(lab, true, &noise);
}

pub fn another_version_is_told_so<L: Lab>(lab: &mut L) {
    let mut later = hello(0);
    (later.version_min, later.version_max) = (200, 300);
    let (reason, text) = told(lab, false, &hello_bytes(&later));
    assert_eq!(reason, GoAwayReason::VERSION_MISMATCH, "{text}");
}

pub fn a_request_before_the_hello_is_a_mistake<L: Lab>(lab: &mut L) {
    assert_is_protocol_error(lab, false, &request(0, ECHO, LONG, b""));
}

pub fn a_second_hello_is_a_mistake<L: Lab>(lab: &mut L) {
    assert_is_protocol_error(lab, true, &hello_of_client());
}

pub fn a_damaged_header_is_a_mistake<L: Lab>(lab: &mut L) {
    let mut damaged = request(0, ECHO, LONG, b"intact");
    damaged[20] ^= 0x10;
    assert_is_protocol_error(lab, true, &damaged);
}

pub fn a_frame_that_is_too_long_is_a_mistake<L: Lab>(lab: &mut L) {
    let header = Header { frame_bytes: u32::MAX, ..control(Kind::Request, 0, 0) };
    assert_is_protocol_error(lab, true, &header.encode());
}

pub fn frames_that_a_server_is_not_sent_are_mistakes<L: Lab>(lab: &mut L) {
    let call = CallId::new(0, 1);
    let status = Status::OK;
    let head = ResponseHead { call, status, queue_delay_us: 0, service_us: 0, in_flight: 0 };
    assert_is_protocol_error(lab, true, &frame(head.header(), b""));
    assert_is_protocol_error(lab, true, &control_frame(Kind::Credit, 0));
}

pub fn a_call_beyond_the_window_is_a_mistake<L: Lab>(lab: &mut L) {
    assert_is_protocol_error(lab, true, &request(1_024, ECHO, LONG, b""));
}

pub fn two_calls_in_one_slot_are_a_mistake<L: Lab>(lab: &mut L) {
    let twice = [request(5, HOLD, LONG, b""), request(5, HOLD, LONG, b"")].concat();
    assert_is_protocol_error(lab, true, &twice);
}

/// What came before the mistake was served all the same.
pub fn what_was_right_is_served_first<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    let bytes = [request(0, ECHO, LONG, b"right"), service::pattern(100)].concat();
    peer.send(lab, &bytes);
    assert_eq!(peer.response(lab).1, b"right");
    assert_eq!(peer.go_away(lab).0, GoAwayReason::PROTOCOL_ERROR);
}

/// The end comes right behind the go-away, while the engine still reads and discards.
pub fn who_is_sent_away_hears_the_end_at_once<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let mut stranger = Peer::greet(lab, address);
    let began_at = lab.virtual_now();
    stranger.send(lab, &service::pattern(500));
    let reason = loop {
        match stranger.next(lab) {
            Next::Frame(heard) if heard.header.kind == Kind::GoAway => break heard.header.code,
            Next::Frame(_) => {}
            ended => panic!("waited for a go-away: {ended:?}"),
        }
    };
    assert_eq!(GoAwayReason(reason), GoAwayReason::PROTOCOL_ERROR);
    assert_eq!(stranger.next(lab), Next::Ended, "in order");
    let (Some(began_at), Some(ended_at)) = (began_at, lab.virtual_now()) else { return };
    assert!(ended_at - began_at < LINGER / 2, "it was let wait: {:?}", ended_at - began_at);
}

/// What a client's first call comes to when the server says `bytes` instead of a hello.
fn call_of_client<L: Lab>(lab: &mut L, bytes: &[u8]) -> (Came, Peer<L>, std::net::SocketAddr) {
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        call(Client::new(&local, address, ClientConfig::default()).call(ECHO, b"")).await
    });
    let mut stranger = Peer::<L>::new(lab.accept(&mut listener));
    stranger.send(lab, bytes);
    (lab.join(calls), stranger, address)
}

pub fn a_client_leaves_a_server_that_is_none<L: Lab>(lab: &mut L) {
    let mut old = hello(10);
    (old.version_min, old.version_max) = (300, 301);
    let (came, _, address) = call_of_client(lab, &hello_bytes(&old));
    let kind = ErrorKind::InvalidData;
    assert_eq!(came, Came::Failed(CallError::Unreachable { address, kind }), "another version");
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    let (came, _, _) = call_of_client(lab, http);
    assert!(matches!(came, Came::Failed(CallError::Unreachable { .. })), "{came:?}");
    assert!(came.is_not_executed(), "{came:?}");
}

pub fn a_client_leaves_a_server_that_asks_it<L: Lab>(lab: &mut L) {
    let asking = [hello_bytes(&hello(10)), request(0, ECHO, LONG, b"")].concat();
    let (came, mut stranger, _) = call_of_client(lab, &asking);
    assert!(matches!(came, Came::Failed(_)), "{came:?}");
    assert_eq!(stranger.go_away(lab).0, GoAwayReason::PROTOCOL_ERROR);
}

pub fn a_client_passes_over_answers_to_nothing<L: Lab>(lab: &mut L) {
    let answer = |call, payload: &[u8]| {
        let status = Status::OK;
        let head = ResponseHead { call, status, queue_delay_us: 0, service_us: 0, in_flight: 0 };
        frame(head.header(), payload)
    };
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        call(Client::new(&local, address, ClientConfig::default()).call(ECHO, b"")).await
    });
    let mut server = Peer::<L>::new(lab.accept(&mut listener));
    server.send(lab, &hello_bytes(&hello(10)));
    let asked = loop {
        let Next::Frame(frame) = server.next(lab) else { panic!("a request was to come") };
        if frame.header.kind == Kind::Request {
            break CallId(frame.header.call);
        }
    };
    for wrong in [CallId::new(asked.slot(), asked.generation() + 1), CallId::new(9, 1)] {
        server.send(lab, &answer(wrong, b"to nobody"));
    }
    server.send(lab, &answer(asked, b"right"));
    assert_eq!(lab.join(calls), Came::Ok(b"right".to_vec()));
}
