//! Calls, answers, deadlines and cancellations between two good peers.

use super::pair::{ECHO, LATER, Pair, SOURCE, Seen, ok};
use crate::config::ConnectionConfig;
use crate::limits::METADATA_BYTES_MAX;
use crate::rpc::connection::{CallFailure, CallRequest, DropCause, Role};
use crate::rpc::error::StartError;
use crate::time::Duration;
use crate::wire::frame::{CallId, Priority, RequestHead, ResponseHead, Route};
use crate::wire::framer::Payload;
use crate::wire::metadata::{MetadataBuf, TOKEN};
use crate::wire::status::Status;
use bytes::Bytes;

#[test]
fn everything_that_a_request_says_arrives() {
    let mut pair = Pair::open();
    let mut metadata = MetadataBuf::default();
    metadata.push(TOKEN, b"secret").expect("short");
    let request = CallRequest {
        priority: Priority::CRITICAL,
        route: Route(77),
        deadline: Some(pair.now + Duration::from_millis(250)),
        repeat: true,
        metadata: metadata.as_metadata().as_bytes(),
        ..CallRequest::new(ECHO, b"payload")
    };
    let (token, call) = pair.start(request).expect("open");
    pair.settle();
    let head = RequestHead {
        call,
        method: ECHO,
        priority: Priority::CRITICAL,
        time_left_us: 250_000,
        route: Route(77),
        repeat: true,
        hops: 0,
    };
    let request = Seen::Request {
        head,
        metadata: metadata.as_metadata().as_bytes().to_vec(),
        payload: b"payload".to_vec(),
        deadline: Some(pair.now + Duration::from_millis(250)),
    };
    assert_eq!(pair.server.seen, [request]);
    let response = Seen::Response { token, head: ok(call), payload: b"payload".to_vec() };
    assert_eq!(pair.client.seen, [response]);
    assert_eq!(pair.client.connection.in_flight() + pair.server.connection.in_flight(), 0);
}

#[test]
fn answers_may_come_in_any_order() {
    let mut pair = Pair::open();
    pair.cut(1);
    let (first, _) = pair.call(LATER, b"1");
    let (second, _) = pair.call(LATER, b"2");
    let (third, _) = pair.call(ECHO, b"3");
    pair.settle();
    let tokens: Vec<u64> = pair.deferred.keys().copied().collect();
    assert!(pair.answer(tokens[1], b"two"));
    assert!(pair.answer(tokens[0], b"one"));
    pair.settle();
    let answers: Vec<(u64, Vec<u8>)> = pair
        .client
        .seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Response { token, payload, .. } => Some((*token, payload.clone())),
            _ => None,
        })
        .collect();
    let expected = [(third, b"3".to_vec()), (second, b"two".to_vec()), (first, b"one".to_vec())];
    assert_eq!(answers, expected);
}

#[test]
fn the_window_is_full_when_it_is_full_and_a_slot_comes_back() {
    let server = ConnectionConfig { in_flight_max: 2, ..Default::default() };
    let mut pair = Pair::open_with(&ConnectionConfig::default(), &server);
    pair.call(LATER, b"");
    let (_, second) = pair.call(LATER, b"");
    let refused = pair.start(CallRequest::new(LATER, b"")).expect_err("two are in flight");
    assert_eq!(refused, StartError::WindowFull);
    pair.settle();
    let token = *pair.deferred.keys().next().expect("deferred");
    pair.answer(token, b"");
    pair.settle();
    pair.call(ECHO, b"");
    pair.cancel(second);
    pair.call(ECHO, b"after a cancel the slot is free at once, on both sides");
    pair.settle();
    assert!(pair.client.close_reason().is_none() && pair.server.close_reason().is_none());
    assert_eq!(pair.client.connection.in_flight(), 0);
}

#[test]
fn a_deadline_ends_the_call_here_and_the_work_there() {
    let mut pair = Pair::open();
    let (token, _) = pair.call_within(LATER, Duration::from_millis(10));
    pair.settle();
    pair.advance(Duration::from_millis(9));
    assert!(pair.client.seen.is_empty());
    pair.advance(Duration::from_millis(1));
    let failure = CallFailure::DeadlinePassed;
    assert_eq!(pair.client.seen, [Seen::CallFailed { token, failure }]);
    let dropped = pair.server.seen.last().expect("the request was dropped");
    assert!(matches!(dropped, Seen::RequestDropped { .. }), "{dropped:?}");
    assert!(pair.deferred.is_empty());
}

#[test]
fn a_deadline_that_passes_on_the_server_first_is_answered() {
    let mut pair = Pair::open();
    let (token, call) = pair.call_within(LATER, Duration::from_millis(10));
    pair.settle();
    pair.now += Duration::from_millis(10);
    let now = pair.now;
    pair.server.connection.handle_timeout(now);
    pair.settle();
    let Some(Seen::RequestDropped { cause, .. }) = pair.server.seen.last() else { panic!() };
    assert_eq!(*cause, DropCause::DeadlinePassed);
    let head = ResponseHead {
        call,
        status: Status::DEADLINE_PASSED,
        queue_delay_us: 0,
        service_us: 0,
        in_flight: ResponseHead::LOAD_UNKNOWN,
    };
    assert_eq!(pair.client.seen, [Seen::Response { token, head, payload: vec![] }]);
}

#[test]
fn an_answer_that_crosses_the_cancel_is_ignored_even_if_the_slot_is_in_use_again() {
    let mut pair = Pair::open();
    let (_, first) = pair.call(LATER, b"");
    pair.settle();
    pair.server.seen.clear();
    let token = *pair.deferred.keys().next().expect("deferred");
    assert!(pair.answer(token, b"late"));
    assert!(pair.cancel(first));
    assert!(!pair.cancel(first), "it is not in flight any more");
    let (second, again) = pair.call(ECHO, b"mine");
    assert_eq!(again.slot(), first.slot());
    assert_ne!(again, first);
    pair.settle();
    let response = Seen::Response { token: second, head: ok(again), payload: b"mine".to_vec() };
    assert_eq!(pair.client.seen, [response]);
    assert_eq!(pair.server.seen.len(), 1, "the late cancel found nobody: {:?}", pair.server.seen);
}

#[test]
fn a_cancel_drops_the_handler_and_its_answer_goes_nowhere() {
    let mut pair = Pair::open();
    let (_, call) = pair.call(LATER, b"");
    pair.settle();
    assert!(pair.cancel(call));
    pair.flush();
    pair.deliver(Role::Server, usize::MAX);
    let Some(Seen::RequestDropped { cause, .. }) = pair.server.seen.last() else { panic!() };
    assert_eq!(*cause, DropCause::Cancelled);
    let late = pair.server.connection.respond_deferred(ok(call), Payload::Copied(b"late"));
    assert_eq!(late, None, "nobody waits");
    pair.settle();
    assert!(pair.client.seen.is_empty());
}

#[test]
fn a_call_whose_deadline_has_passed_is_not_sent() {
    let mut pair = Pair::open();
    let request = CallRequest { deadline: Some(pair.now), ..CallRequest::new(ECHO, b"") };
    assert_eq!(pair.start(request).expect_err("late"), StartError::DeadlinePassed);
    assert_eq!(pair.client.connection.output_bytes(), 0);
}

#[test]
fn time_left_is_never_told_as_for_ever_nor_shorter_than_it_is() {
    let cases = [
        (Duration::from_nanos(1), 1),
        (Duration::from_micros(u64::from(u32::MAX)), u32::MAX),
        (Duration::from_micros(u64::from(u32::MAX) + 1), 0),
        (Duration::MAX, 0),
    ];
    for (timeout, expected) in cases {
        let mut pair = Pair::open();
        pair.call_within(LATER, timeout);
        pair.settle();
        let Some(Seen::Request { head, .. }) = pair.server.seen.first() else { panic!() };
        assert_eq!(head.time_left_us, expected, "{timeout:?}");
    }
}

#[test]
fn a_request_that_the_peer_would_refuse_is_refused_here() {
    let server = ConnectionConfig { frame_bytes_max: 4_096, ..Default::default() };
    let mut pair = Pair::open_with(&ConnectionConfig::default(), &server);
    let error = pair.start(CallRequest::new(ECHO, vec![0; 4_065])).expect_err("one byte too many");
    assert_eq!(error, StartError::TooLarge { frame_bytes: 4_097, max: 4_096 });
    pair.start(CallRequest::new(ECHO, vec![0; 4_064])).expect("exactly as long as allowed");
    pair.settle();
    assert_eq!(pair.client.seen.len(), 1);
}

#[test]
fn metadata_beyond_its_limit_is_refused_and_kills_nobody() {
    let mut pair = Pair::open();
    for length in [METADATA_BYTES_MAX + 1, 70_000] {
        let metadata = vec![0; length];
        let request = CallRequest { metadata: &metadata, ..CallRequest::new(ECHO, b"") };
        let error = pair.start(request).expect_err("too long");
        assert_eq!(error, StartError::MetadataTooLong { bytes: length });
    }
    assert_eq!(pair.client.connection.in_flight(), 0);
    let metadata = vec![0; METADATA_BYTES_MAX];
    let request = CallRequest { metadata: &metadata, ..CallRequest::new(ECHO, b"") };
    pair.start(request).expect("exactly as long as allowed");
    pair.settle();
    assert_eq!(pair.client.seen.len(), 1);
}

#[test]
fn an_answer_that_the_caller_cannot_take_becomes_a_status() {
    let client = ConnectionConfig { frame_bytes_max: 4_096, ..Default::default() };
    for payload_crc in [false, true] {
        let client = ConnectionConfig { payload_crc, ..client.clone() };
        let server = ConnectionConfig { payload_crc, ..Default::default() };
        let fits = if payload_crc { 4_060u32 } else { 4_064 };
        let mut pair = Pair::open_with(&client, &server);
        for (count, status) in [(fits, Status::OK), (fits + 1, Status::ANSWER_TOO_LARGE)] {
            pair.client.seen.clear();
            pair.call(SOURCE, &count.to_le_bytes());
            pair.settle();
            let Some(Seen::Response { head, payload, .. }) = pair.client.seen.last() else {
                panic!()
            };
            assert_eq!(head.status, status, "in place, {count} bytes");
            assert_eq!(payload.len(), if status.is_ok() { count as usize } else { 0 });

            let (_, call) = pair.call(LATER, b"");
            pair.settle();
            let payload = Payload::Shared(Bytes::from(vec![7; count as usize]));
            pair.deferred.clear();
            let told = pair.server.connection.respond_deferred(ok(call), payload);
            assert_eq!(told, Some(status), "its owner knows what the caller is told");
            pair.settle();
            let Some(Seen::Response { head, .. }) = pair.client.seen.last() else { panic!() };
            assert_eq!(head.status, status, "shared, {count} bytes");
        }
    }
}

#[test]
fn checksums_are_used_when_both_sides_want_them() {
    for (client, server) in [(false, false), (true, false), (false, true), (true, true)] {
        let client_config = ConnectionConfig { payload_crc: client, ..Default::default() };
        let server_config = ConnectionConfig { payload_crc: server, ..Default::default() };
        let mut pair = Pair::open_with(&client_config, &server_config);
        let payload = vec![9; 10_000];
        pair.call(ECHO, &payload);
        pair.flush();
        let trailer = if client && server { 4 } else { 0 };
        assert_eq!(pair.server.pipe.len(), 32 + 10_000 + trailer, "{client} {server}");
        pair.settle();
        let Some(Seen::Response { payload: echoed, .. }) = pair.client.seen.last() else {
            panic!()
        };
        assert_eq!(*echoed, payload);
    }
}

#[test]
fn an_answer_to_nobody_is_ignored() {
    let mut pair = Pair::open();
    for call in [CallId(0), CallId(u64::MAX), CallId::new(0, 1)] {
        pair.server.connection.respond(ok(call), Payload::Copied(b"?"));
    }
    pair.settle();
    assert!(pair.client.seen.is_empty());
    assert!(!pair.client.connection.is_closed());
}
