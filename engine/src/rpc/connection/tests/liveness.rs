//! Silence, slowness and idleness; and that time which is handled moves on.

use super::pair::{ECHO, LATER, Pair, Seen};
use crate::config::ConnectionConfig;
use crate::rpc::connection::Role;
use crate::rpc::error::{CloseReason, TooSlow};
use crate::time::Duration;
use crate::wire::deframer::{Deframer, Input};
use crate::wire::frame::{GoAwayReason, PongHead, control};
use crate::wire::header::{Header, Kind};
use crate::wire::status::Status;

const SECOND: Duration = Duration::from_secs(1);

fn quick() -> ConnectionConfig {
    ConnectionConfig {
        keepalive_interval: 10 * SECOND,
        keepalive_timeout: 4 * SECOND,
        frame_timeout: 3 * SECOND,
        ..Default::default()
    }
}

fn closed(reason: CloseReason) -> Seen {
    Seen::Closed(reason)
}

#[test]
fn a_quiet_peer_is_pinged_and_its_pong_is_enough() {
    let mut pair = Pair::open_with(&quick(), &quick());
    pair.advance(9 * SECOND);
    assert_eq!(pair.client.connection.output_bytes(), 0);
    pair.now += SECOND;
    pair.handle_timeouts();
    let to_server: Vec<u8> = pair.server.pipe.iter().copied().collect();
    let mut deframer = Deframer::new(4_096);
    let ping = deframer.next(&mut Input::new(&to_server)).expect("good").expect("whole");
    assert_eq!(ping.header.kind, Kind::Ping);
    pair.advance(300 * SECOND);
    assert!(pair.client.seen.is_empty() && pair.server.seen.is_empty());
}

#[test]
fn a_pong_says_what_the_ping_said() {
    let mut pair = Pair::open();
    pair.receive(Role::Server, &frame(Kind::Ping, 0x0102_0304_0506_0708));
    let sent: Vec<u8> = pair.client.pipe.iter().copied().collect();
    let mut deframer = Deframer::new(4_096);
    let pong = deframer.next(&mut Input::new(&sent)).expect("good").expect("whole");
    assert_eq!((pong.header.kind, pong.header.call), (Kind::Pong, 0x0102_0304_0506_0708));
    pair.receive(Role::Server, &frame(Kind::Pong, 99));
    assert_eq!(pair.server.close_reason(), None, "a pong that nobody asked for is ignored");
}

#[test]
fn who_asks_is_told_the_load() {
    let mut pair = Pair::open();
    assert!(pair.client.connection.ping(7), "it is open");
    pair.settle();
    let head = PongHead { echo: 7, queue_delay_us: 5, service_us: 7, in_flight: 3 };
    assert_eq!(pair.pongs, [head]);
    pair.drain(Role::Client);
    assert!(!pair.client.connection.ping(8), "nobody is asked over a connection that has ended");
}

#[test]
fn a_client_tells_no_load() {
    let mut pair = Pair::open();
    pair.receive(Role::Client, &frame(Kind::Ping, 9));
    let sent: Vec<u8> = pair.server.pipe.iter().copied().collect();
    let mut deframer = Deframer::new(4_096);
    let pong = deframer.next(&mut Input::new(&sent)).expect("good").expect("whole");
    assert_eq!(PongHead::from_header(&pong.header), PongHead::without_load(9));
}

#[test]
fn a_silent_peer_is_given_up() {
    let mut pair = Pair::open_with(&quick(), &quick());
    pair.advance_in_silence(13 * SECOND);
    assert!(pair.client.seen.is_empty() && pair.server.seen.is_empty());
    pair.advance_in_silence(SECOND);
    let reason = CloseReason::PeerTooSlow(TooSlow::Pong);
    assert!(reason.is_peers_fault());
    assert_eq!(pair.client.seen, [closed(reason.clone())]);
    assert_eq!(pair.server.seen, [closed(reason)]);
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let mut pair = Pair::open_with(&quick(), &quick());
    let ping = frame(Kind::Ping, 1);
    for byte in ping.iter().cycle().take(320) {
        pair.advance_in_silence(SECOND / 16);
        pair.client.pipe.clear();
        pair.receive(Role::Server, &[*byte]);
        pair.receive(Role::Client, &frame(Kind::Pong, 0));
    }
    assert_eq!(pair.server.close_reason(), None, "20 s, and no silence of 10 s");
}

#[test]
fn half_a_header_for_ever_ends() {
    for bytes in [1, 31] {
        let mut pair = Pair::open_with(&quick(), &quick());
        pair.receive(Role::Server, &frame(Kind::Ping, 1)[..bytes]);
        pair.advance_in_silence(3 * SECOND - Duration::from_nanos(1));
        assert!(pair.server.seen.is_empty());
        pair.advance_in_silence(Duration::from_nanos(1));
        let reason = CloseReason::PeerTooSlow(TooSlow::Frame);
        assert_eq!(pair.server.seen, [closed(reason)]);
    }
}

#[test]
fn half_a_frame_for_ever_ends_however_it_dribbles() {
    let mut pair = Pair::open_with(&quick(), &quick());
    let header = Header { frame_bytes: 3 << 20, ..control(Kind::Request, 0, 0) };
    pair.receive(Role::Server, &header.encode());
    // Three whole MiB, so four times the frame timeout: 12 s.
    for _ in 0..11 {
        pair.advance(SECOND);
        pair.receive(Role::Server, b"x");
        assert!(pair.server.seen.is_empty());
    }
    pair.advance(SECOND);
    assert_eq!(pair.server.seen, [closed(CloseReason::PeerTooSlow(TooSlow::Frame))]);
    let left = CloseReason::PeerLeft(GoAwayReason::TOO_SLOW);
    assert_eq!(pair.client.close_reason(), Some(&left));
}

#[test]
fn each_frame_has_its_own_time() {
    let mut pair = Pair::open_with(&quick(), &quick());
    let ping = frame(Kind::Ping, 1);
    let mut tail_and_head = ping[1..].to_vec();
    tail_and_head.push(ping[0]);
    pair.receive(Role::Server, &ping[..1]);
    for _ in 0..10 {
        pair.advance_in_silence(2 * SECOND);
        pair.client.pipe.clear();
        pair.receive(Role::Server, &tail_and_head);
        pair.receive(Role::Client, &frame(Kind::Pong, 0));
    }
    assert_eq!(pair.server.close_reason(), None, "20 s, but never 3 s for one frame");
}

#[test]
fn an_idle_connection_is_left_as_one_leaves_not_slammed() {
    let server = ConnectionConfig { idle_timeout: Some(60 * SECOND), ..quick() };
    let mut pair = Pair::open_with(&quick(), &server);
    pair.advance(59 * SECOND);
    assert!(pair.server.seen.is_empty(), "pings are not requests, but it is not time yet");
    // A request that is on its way at that moment is refused in words, not lost.
    pair.call(ECHO, b"");
    pair.flush();
    pair.now += SECOND;
    pair.handle_timeouts();
    pair.settle();
    let refused = Seen::RequestRefused { status: Status::DRAINING };
    assert_eq!(pair.server.seen, [refused, closed(CloseReason::Idle)]);
    let Seen::PeerLeaves { reason, .. } = &pair.client.seen[0] else { panic!() };
    assert_eq!(*reason, GoAwayReason::IDLE);
    let Seen::Response { head, .. } = &pair.client.seen[1] else { panic!() };
    assert!(head.status.is_not_executed());
    assert_eq!(pair.client.seen[2], closed(CloseReason::PeerLeft(GoAwayReason::IDLE)));
}

#[test]
fn requests_and_work_keep_a_connection_from_being_idle() {
    let server = ConnectionConfig { idle_timeout: Some(60 * SECOND), ..quick() };
    let mut pair = Pair::open_with(&quick(), &server);
    pair.advance(59 * SECOND);
    pair.call(LATER, b"takes longer than the idle timeout");
    pair.advance(90 * SECOND);
    let token = *pair.deferred.keys().next().expect("deferred");
    pair.answer(token, b"");
    pair.advance(59 * SECOND);
    assert_eq!(pair.server.close_reason(), None, "idle only since the answer");
    pair.advance(62 * SECOND);
    assert_eq!(pair.server.close_reason(), Some(&CloseReason::Idle));
}

#[test]
fn a_client_is_never_idle_by_itself() {
    let client = ConnectionConfig { idle_timeout: Some(SECOND), ..quick() };
    let mut pair = Pair::open_with(&client, &quick());
    pair.advance(100 * SECOND);
    assert!(pair.client.seen.is_empty() && pair.server.seen.is_empty());
}

#[test]
fn requests_answered_at_once_keep_a_connection_from_being_idle() {
    let server = ConnectionConfig { idle_timeout: Some(60 * SECOND), ..quick() };
    let mut pair = Pair::open_with(&quick(), &server);
    for _ in 0..5 {
        pair.advance(40 * SECOND);
        pair.call(ECHO, b"");
        pair.settle();
    }
    assert_eq!(pair.server.close_reason(), None);
    pair.advance(60 * SECOND);
    assert_eq!(pair.server.close_reason(), Some(&CloseReason::Idle));
}

/// A server that is in the middle of everything when it stops reading.
fn paused() -> Pair {
    let server = ConnectionConfig { frame_timeout: 100 * SECOND, ..quick() };
    let mut pair = Pair::open_with(&quick(), &server);
    pair.receive(Role::Server, &frame(Kind::Ping, 1)[..9]);
    pair.advance_in_silence(10 * SECOND);
    assert!(!pair.client.pipe.is_empty(), "the server has pinged, and waits for the pong");
    pair.server.connection.handle_receive_paused();
    pair
}

#[test]
fn a_peer_that_is_not_read_from_is_not_blamed_for_its_silence() {
    let mut pair = paused();
    pair.advance_in_silence(99 * SECOND);
    assert!(pair.server.seen.is_empty(), "no pong, half a frame: {:?}", pair.server.seen);
    pair.server.connection.handle_receive_resumed(pair.now);
    let next = pair.server.connection.poll_timeout().expect("it lives");
    assert_eq!(next, pair.now + 10 * SECOND, "as if it had just been heard, and not pinged yet");
    pair.advance_in_silence(14 * SECOND);
    assert_eq!(pair.server.seen, [closed(CloseReason::PeerTooSlow(TooSlow::Pong))]);
}

#[test]
fn half_a_frame_has_its_time_anew_after_a_pause() {
    let mut pair = paused();
    pair.advance_in_silence(99 * SECOND);
    pair.server.connection.handle_receive_resumed(pair.now);
    let resumed_at = pair.now;
    let mut rest = frame(Kind::Ping, 1)[9..].to_vec();
    for _ in 0..12 {
        pair.advance_in_silence(8 * SECOND);
        pair.receive(Role::Server, &[rest.remove(0)]);
    }
    assert!(pair.server.seen.is_empty() && pair.now == resumed_at + 96 * SECOND);
    pair.advance_in_silence(4 * SECOND);
    assert_eq!(pair.server.seen, [closed(CloseReason::PeerTooSlow(TooSlow::Frame))]);
}

#[test]
fn a_connection_that_is_not_read_from_is_not_idle() {
    let server = ConnectionConfig { idle_timeout: Some(6 * SECOND), ..quick() };
    let mut pair = Pair::open_with(&quick(), &server);
    pair.advance(5 * SECOND);
    pair.server.connection.handle_receive_paused();
    pair.advance_in_silence(2 * SECOND);
    pair.server.connection.handle_receive_resumed(pair.now);
    pair.advance(5 * SECOND);
    assert!(pair.server.seen.is_empty());
    pair.advance(SECOND);
    assert_eq!(pair.server.seen, [closed(CloseReason::Idle)]);
}

#[test]
fn a_peer_that_does_not_take_what_it_is_sent_is_given_up_in_time() {
    let mut pair = Pair::open_with(&ConnectionConfig::default(), &quick());
    pair.server.connection.handle_send_started(9 << 20, pair.now);
    pair.advance_in_silence(20 * SECOND);
    // It has taken that. Of the next send two whole MiB are left: three times the frame timeout.
    pair.server.connection.handle_send_ended(pair.now);
    pair.server.connection.handle_send_started(2 << 20, pair.now);
    pair.advance_in_silence(9 * SECOND - Duration::from_nanos(1));
    assert!(pair.server.seen.is_empty());
    pair.advance_in_silence(Duration::from_nanos(1));
    let reason = CloseReason::PeerTooSlow(TooSlow::Reading);
    assert_eq!(pair.server.seen, [closed(reason)]);
}

#[test]
fn no_pong_is_asked_for_behind_a_long_send() {
    let server = ConnectionConfig { frame_timeout: 100 * SECOND, ..quick() };
    let mut pair = Pair::open_with(&quick(), &server);
    pair.server.connection.handle_send_started(1_000, pair.now);
    pair.advance_in_silence(50 * SECOND);
    assert!(pair.server.seen.is_empty() && pair.client.pipe.is_empty());
    pair.server.connection.handle_send_ended(pair.now);
    pair.advance_in_silence(10 * SECOND - Duration::from_nanos(1));
    assert!(pair.client.pipe.is_empty(), "the peer has just taken something");
    pair.advance_in_silence(Duration::from_nanos(1));
    assert_eq!(pair.client.pipe.len(), 32, "now it is pinged");
    // The ping itself is taken late: its time begins then. It goes behind four MiB, which have five
    // times the frame timeout.
    pair.server.connection.handle_send_started(32, pair.now);
    pair.advance_in_silence(30 * SECOND);
    pair.server.connection.handle_send_ended(pair.now);
    pair.advance_in_silence(500 * SECOND - Duration::from_nanos(1));
    assert!(pair.server.seen.is_empty());
    pair.advance_in_silence(Duration::from_nanos(1));
    assert_eq!(pair.server.seen, [closed(CloseReason::PeerTooSlow(TooSlow::Pong))]);
}

/// A pong says that everything before the ping was read: after it a peer is as quick as any.
#[test]
fn a_slow_reader_has_more_time_for_its_pong_until_it_has_caught_up() {
    let mut pair = Pair::open_with(&quick(), &quick());
    pair.server.connection.handle_send_started(1 << 20, pair.now);
    pair.advance_in_silence(2 * SECOND);
    pair.server.connection.handle_send_ended(pair.now);
    pair.advance_in_silence(10 * SECOND + 14 * SECOND);
    assert!(pair.server.seen.is_empty(), "slow, not dead: {:?}", pair.server.seen);
    pair.client.pipe.clear();
    pair.receive(Role::Server, &frame(Kind::Pong, 0));
    pair.advance_in_silence(10 * SECOND + 4 * SECOND);
    assert_eq!(pair.server.seen, [closed(CloseReason::PeerTooSlow(TooSlow::Pong))]);
}

/// Who goes on sending into the kernel's memory learns nothing of the peer by that.
#[test]
fn what_the_kernel_takes_at_once_keeps_no_dead_peer_alive() {
    let mut pair = Pair::open_with(&quick(), &quick());
    for _ in 0..14 {
        assert_eq!(pair.client.close_reason(), None);
        pair.client.connection.handle_send_started(100, pair.now);
        pair.advance_in_silence(Duration::from_millis(5));
        pair.client.connection.handle_send_ended(pair.now);
        pair.advance_in_silence(SECOND - Duration::from_millis(5));
    }
    let reason = CloseReason::PeerTooSlow(TooSlow::Pong);
    assert_eq!(pair.client.close_reason(), Some(&reason));
}

#[test]
fn half_a_frame_has_its_time_while_a_send_is_in_flight() {
    let mut pair = Pair::open_with(&quick(), &quick());
    pair.server.connection.handle_send_started(9 << 20, pair.now);
    pair.receive(Role::Server, &frame(Kind::Ping, 1)[..9]);
    pair.advance_in_silence(3 * SECOND);
    assert_eq!(pair.server.seen, [closed(CloseReason::PeerTooSlow(TooSlow::Frame))]);
}

#[test]
fn calling_too_early_or_for_nothing_is_harmless() {
    let mut pair = Pair::open_with(&quick(), &quick());
    pair.call_within(LATER, 5 * SECOND);
    pair.settle();
    pair.server.seen.clear();
    let due = pair.next_timeout().expect("a deadline");
    for _ in 0..10 {
        pair.handle_timeouts();
    }
    assert!(pair.client.seen.is_empty() && pair.server.seen.is_empty());
    assert_eq!(pair.next_timeout(), Some(due));
}

fn frame(kind: Kind, call: u64) -> [u8; 32] {
    Header { frame_bytes: 32, ..control(kind, 0, call) }.encode()
}
