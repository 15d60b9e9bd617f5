//! Go-away, drain, abort, and the end of the wire.

use super::pair::{ECHO, LATER, Pair, Seen, ok};
use crate::config::ConnectionConfig;
use crate::limits::GO_AWAY_TEXT_BYTES_MAX;
use crate::rpc::connection::{CallFailure, CallRequest, DropCause, Role};
use crate::rpc::error::{CloseReason, StartError, TooSlow};
use crate::time::Duration;
use crate::wire::deframer::{Deframer, Input};
use crate::wire::frame::{GoAwayReason, control};
use crate::wire::framer::{Framer, Payload};
use crate::wire::header::Kind;
use crate::wire::output::Output;
use crate::wire::status::Status;

const DRAINED: Seen = Seen::Closed(CloseReason::Drained);
const PEER_DRAINED: Seen = Seen::Closed(CloseReason::PeerLeft(GoAwayReason::DRAINING));

fn peer_leaves(text: &str) -> Seen {
    Seen::PeerLeaves { reason: GoAwayReason::DRAINING, text: text.to_owned() }
}

#[test]
fn a_client_without_calls_leaves_at_once() {
    let mut pair = Pair::open();
    pair.drain(Role::Client);
    pair.settle();
    assert_eq!(pair.client.seen, [DRAINED]);
    assert_eq!(pair.server.seen, [peer_leaves("draining"), PEER_DRAINED]);
}

#[test]
fn a_client_with_calls_leaves_after_the_last_answer() {
    let mut pair = Pair::open();
    let (token, call) = pair.call(LATER, b"");
    let (_, given_up) = pair.call(LATER, b"");
    pair.settle();
    pair.drain(Role::Client);
    let refused = pair.start(CallRequest::new(ECHO, b"")).expect_err("leaving");
    assert_eq!(refused, StartError::Leaving);
    pair.settle();
    assert!(!pair.client.connection.is_closed());
    let deferred = *pair.deferred.keys().next().expect("two are deferred");
    pair.answer(deferred, b"done");
    pair.settle();
    let response = Seen::Response { token, head: ok(call), payload: b"done".to_vec() };
    assert_eq!(pair.client.seen, [response]);
    pair.cancel(given_up);
    pair.settle();
    assert_eq!(pair.client.seen.last(), Some(&DRAINED));
    assert_eq!(pair.server.seen.last(), Some(&PEER_DRAINED));
}

#[test]
fn a_server_that_drains_answers_what_it_took_and_refuses_the_rest_in_words() {
    let mut pair = Pair::open();
    let (taken, taken_call) = pair.call(LATER, b"");
    pair.settle();
    let (late, late_call) = pair.call(LATER, b"on its way while the server begins to drain");
    pair.flush();
    pair.drain(Role::Server);
    pair.settle();
    assert_eq!(pair.client.seen[0], peer_leaves("draining"));
    let Seen::Response { token, head, .. } = &pair.client.seen[1] else { panic!() };
    assert_eq!((*token, head.call, head.status), (late, late_call, Status::DRAINING));
    assert!(head.status.is_not_executed());
    assert_eq!(pair.client.seen.len(), 2);
    assert_eq!(pair.deferred.len(), 1, "the late one was not handed out");

    let deferred = *pair.deferred.keys().next().expect("one is deferred");
    pair.answer(deferred, b"done");
    pair.settle();
    let response = Seen::Response { token: taken, head: ok(taken_call), payload: b"done".to_vec() };
    assert_eq!(pair.client.seen[2..], [response, PEER_DRAINED]);
    assert_eq!(pair.server.seen.last(), Some(&DRAINED));
}

#[test]
fn a_go_away_is_said_once() {
    for role in [Role::Client, Role::Server] {
        let mut pair = Pair::open();
        pair.drain(role);
        pair.drain(role);
        pair.flush();
        let peer = match role {
            Role::Client => &pair.server,
            Role::Server => &pair.client,
        };
        let sent: Vec<u8> = peer.pipe.iter().copied().collect();
        assert_eq!(kinds(&sent), [Kind::GoAway], "{role:?}");
        pair.settle();
        assert_eq!(pair.side(role).seen, [DRAINED]);
    }
}

#[test]
fn both_may_drain_at_the_same_time() {
    let mut pair = Pair::open();
    pair.call(LATER, b"");
    pair.settle();
    pair.drain(Role::Client);
    pair.drain(Role::Server);
    pair.settle();
    let deferred = *pair.deferred.keys().next().expect("one is deferred");
    pair.answer(deferred, b"");
    pair.settle();
    assert_eq!(pair.client.seen.last(), Some(&DRAINED));
    assert_eq!(pair.server.seen.last(), Some(&DRAINED));
}

#[test]
fn a_server_may_drain_before_it_knows_its_client() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    pair.drain(Role::Server);
    pair.settle();
    assert_eq!(pair.client.seen, [Seen::Opened, peer_leaves("draining"), PEER_DRAINED]);
    assert_eq!(pair.server.seen, [DRAINED]);
}

#[test]
fn a_request_that_meets_a_server_which_drained_before_the_hello_is_refused_in_words() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    pair.flush();
    pair.deliver(Role::Client, usize::MAX);
    let (late, _) = pair.call(ECHO, b"");
    pair.drain(Role::Server);
    pair.settle();
    let Seen::Response { token, head, .. } = &pair.client.seen[2] else { panic!() };
    assert_eq!((*token, head.status), (late, Status::DRAINING));
    let refused = Seen::RequestRefused { status: Status::DRAINING };
    assert_eq!(pair.server.seen, [refused, DRAINED], "its owner can count it");
}

#[test]
fn a_client_may_drain_before_it_knows_its_server() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    pair.drain(Role::Client);
    pair.settle();
    assert_eq!(pair.client.seen, [DRAINED]);
    assert_eq!(pair.server.seen, [Seen::Opened, peer_leaves("draining"), PEER_DRAINED]);
}

#[test]
fn a_drain_ends_in_time_whatever_still_runs() {
    for role in [Role::Client, Role::Server] {
        let config =
            ConnectionConfig { drain_timeout: Duration::from_secs(5), ..Default::default() };
        let patient = ConnectionConfig::default();
        let mut pair = match role {
            Role::Client => Pair::open_with(&config, &patient),
            Role::Server => Pair::open_with(&patient, &config),
        };
        let (token, _) = pair.call(LATER, b"");
        pair.settle();
        pair.server.seen.clear();
        let deferred = *pair.deferred.keys().next().expect("one is deferred");
        pair.drain(role);
        pair.advance(Duration::from_millis(4_999));
        assert!(!pair.side(role).connection.is_closed());
        pair.advance(Duration::from_millis(1));
        let failed = Seen::CallFailed { token, failure: CallFailure::ConnectionEnded };
        let dropped = Seen::RequestDropped { token: deferred, cause: DropCause::ConnectionEnded };
        let over = Seen::Closed(CloseReason::Aborted);
        let goodbyes = [peer_leaves("draining"), peer_leaves("ended here with work still running")];
        let (ours, theirs, lost_here, lost_there) = match role {
            Role::Client => (&pair.client.seen, &pair.server.seen, failed, dropped),
            Role::Server => (&pair.server.seen, &pair.client.seen, dropped, failed),
        };
        assert_eq!(*ours, [lost_here, over], "{role:?}");
        let [first, second] = goodbyes;
        assert_eq!(*theirs, [first, second, lost_there, PEER_DRAINED], "{role:?}");
    }
}

#[test]
fn a_server_waits_for_a_client_that_has_said_goodbye_only_so_long() {
    let config = ConnectionConfig { drain_timeout: Duration::from_secs(5), ..Default::default() };
    let mut pair = Pair::open_with(&ConnectionConfig::default(), &config);
    pair.receive(Role::Server, &go_away(GoAwayReason::DRAINING, b"bye"));
    pair.advance(Duration::from_millis(4_999));
    assert!(!pair.server.connection.is_closed(), "the client is to close first");
    pair.advance(Duration::from_millis(1));
    assert_eq!(pair.server.seen, [peer_leaves("bye"), PEER_DRAINED]);
}

#[test]
fn the_reason_that_a_peer_gives_outlives_the_end_of_its_stream() {
    for is_broken in [false, true] {
        let mut pair = Pair::open();
        let (token, _) = pair.call(LATER, b"");
        pair.settle();
        pair.receive(Role::Client, &go_away(GoAwayReason::DRAINING, b""));
        pair.receive(Role::Client, &go_away(GoAwayReason::PROTOCOL_ERROR, b"you"));
        match is_broken {
            true => pair.break_wire(),
            false => {
                pair.client.connection.handle_end(Ok(()));
                pair.flush();
            }
        }
        let failed = Seen::CallFailed { token, failure: CallFailure::ConnectionEnded };
        let closed = Seen::Closed(CloseReason::PeerLeft(GoAwayReason::PROTOCOL_ERROR));
        assert_eq!(pair.client.seen[2..], [failed, closed]);
    }
}

#[test]
fn reasons_of_later_versions_mean_that_it_ends() {
    let mut pair = Pair::open();
    pair.call(LATER, b"");
    pair.settle();
    pair.receive(Role::Client, &go_away(GoAwayReason(777), b"because"));
    let reason = GoAwayReason(777);
    assert_eq!(format!("{reason:?}"), "ends (reason 777)");
    assert_eq!(pair.client.seen, [Seen::PeerLeaves { reason, text: "because".to_owned() }]);
    let refused = pair.start(CallRequest::new(ECHO, b"")).expect_err("leaving");
    assert_eq!(refused, StartError::Leaving);
    assert!(!pair.client.connection.is_closed(), "the call in flight may still be answered");
}

#[test]
fn the_text_of_a_go_away_is_cut_and_need_not_be_text() {
    let mut pair = Pair::open();
    let mut text = vec![b'x'; GO_AWAY_TEXT_BYTES_MAX + 1];
    text[0] = 0xFF;
    pair.receive(Role::Client, &go_away(GoAwayReason::DRAINING, &text));
    let Seen::PeerLeaves { text, .. } = &pair.client.seen[0] else { panic!() };
    assert_eq!(text.chars().count(), GO_AWAY_TEXT_BYTES_MAX);
    assert!(text.starts_with('\u{FFFD}') && text.ends_with('x'));
}

#[test]
fn the_end_of_the_stream_ends_everything_in_order() {
    let mut pair = Pair::open();
    let (first, _) = pair.call(LATER, b"");
    let (second, _) = pair.call(LATER, b"");
    pair.settle();
    pair.server.seen.clear();
    let deferred: Vec<u64> = pair.deferred.keys().copied().collect();
    pair.break_wire();
    let lost = Seen::Closed(CloseReason::Lost(std::io::ErrorKind::ConnectionReset));
    assert_eq!(pair.client.seen.len(), 3);
    for token in [first, second] {
        let failed = Seen::CallFailed { token, failure: CallFailure::ConnectionEnded };
        assert!(pair.client.seen[..2].contains(&failed));
    }
    assert_eq!(pair.client.seen[2], lost);
    assert_eq!(pair.server.seen.len(), 3);
    for token in deferred {
        let dropped = Seen::RequestDropped { token, cause: DropCause::ConnectionEnded };
        assert!(pair.server.seen[..2].contains(&dropped));
    }
    assert_eq!(pair.server.seen[2], lost);
}

#[test]
fn a_peer_that_just_closes_is_reported_so() {
    for role in [Role::Client, Role::Server] {
        let mut pair = Pair::open();
        pair.side(role).connection.handle_end(Ok(()));
        pair.settle();
        assert_eq!(pair.side(role).seen, [Seen::Closed(CloseReason::PeerClosed)]);
    }
}

#[test]
fn a_client_that_closes_on_a_draining_server_before_its_answer_is_not_drained() {
    let mut pair = Pair::open();
    pair.call(LATER, b"");
    pair.settle();
    pair.drain(Role::Server);
    pair.flush();
    pair.server.connection.handle_end(Ok(()));
    pair.flush();
    assert_eq!(pair.server.close_reason(), Some(&CloseReason::PeerClosed));
}

#[test]
fn each_reason_that_concerns_the_peer_is_told_to_it() {
    for (reason, told) in [
        (CloseReason::Drained, GoAwayReason::DRAINING),
        (CloseReason::Aborted, GoAwayReason::DRAINING),
        (CloseReason::Idle, GoAwayReason::IDLE),
        (CloseReason::Overloaded, GoAwayReason::OVERLOADED),
        (CloseReason::PeerTooSlow(TooSlow::Reading), GoAwayReason::TOO_SLOW),
    ] {
        let mut pair = Pair::open();
        pair.server.connection.abort(reason.clone());
        pair.settle();
        assert_eq!(pair.server.seen, [Seen::Closed(reason.clone())]);
        let text = reason.to_string();
        let left = Seen::Closed(CloseReason::PeerLeft(told));
        assert_eq!(pair.client.seen, [Seen::PeerLeaves { reason: told, text }, left]);
    }
}

#[test]
fn after_the_end_commands_say_and_send_nothing() {
    let mut pair = Pair::open();
    let (token, call) = pair.call_within(LATER, Duration::from_secs(1));
    let (_, cancelled) = pair.call(LATER, b"");
    pair.settle();
    pair.server.seen.clear();
    let now = pair.now + Duration::from_secs(5);
    let deferred: Vec<u64> = pair.deferred.keys().copied().collect();

    let client = &mut pair.client.connection;
    client.abort(CloseReason::Lost(std::io::ErrorKind::TimedOut));
    assert!(client.cancel(cancelled), "it ends here, and no event follows");
    client.handle_timeout(now);
    client.drain(now);
    client.handle_end(Ok(()));
    client.abort(CloseReason::Aborted);
    assert_eq!(client.start_call(CallRequest::new(ECHO, b""), 9, now), Err(StartError::NotOpen));
    assert_eq!(client.output_bytes(), 0);
    pair.client.drain_events();
    let failed = Seen::CallFailed { token, failure: CallFailure::ConnectionEnded };
    let lost = Seen::Closed(CloseReason::Lost(std::io::ErrorKind::TimedOut));
    assert_eq!(pair.client.seen, [failed, lost]);

    let server = &mut pair.server.connection;
    server.abort(CloseReason::Lost(std::io::ErrorKind::TimedOut));
    let told = server.respond_deferred(ok(call), Payload::Copied(b""));
    assert_eq!(told, None, "nobody waits");
    server.respond(ok(call), Payload::Copied(b""));
    server.respond_with(|writer| {
        writer.extend(b"in place");
        ok(call)
    });
    server.handle_timeout(now);
    assert_eq!(server.output_bytes(), 0);
    pair.server.drain_events();
    assert_eq!(pair.server.seen.len(), 3);
    for token in deferred {
        let dropped = Seen::RequestDropped { token, cause: DropCause::ConnectionEnded };
        assert!(pair.server.seen.contains(&dropped));
    }
}

fn go_away(reason: GoAwayReason, text: &[u8]) -> Vec<u8> {
    let mut output = Output::default();
    let header = control(Kind::GoAway, reason.0, 0);
    Framer::default().push(&mut output, header, &[], Payload::Copied(text));
    output.to_vec()
}

fn kinds(bytes: &[u8]) -> Vec<Kind> {
    let mut deframer = Deframer::new(1 << 20);
    let mut input = Input::new(bytes);
    std::iter::from_fn(|| deframer.next(&mut input).expect("good frames"))
        .map(|frame| frame.header.kind)
        .collect()
}
