//! Hello, versions, and what may come before it.

use super::pair::{ECHO, Pair, Seen};
use crate::config::ConnectionConfig;
use crate::limits::{FRAME_BYTES_FLOOR, IN_FLIGHT_CEILING};
use crate::rpc::connection::{CallRequest, Connection, Role};
use crate::rpc::error::{CloseReason, Misbehaviour, StartError, TooSlow};
use crate::time::{Duration, Instant};
use crate::wire::deframer::{FrameError, Input};
use crate::wire::frame::{GoAwayReason, control};
use crate::wire::framer::{Framer, Payload};
use crate::wire::header::{HEADER_BYTES, Header, HeaderError, Kind};
use crate::wire::hello::{HelloError, MAGIC, ShardMap, VERSION_MAX};
use crate::wire::output::Output;
use std::sync::Arc;

#[test]
fn both_sides_learn_what_the_other_accepts() {
    let client = ConnectionConfig { frame_bytes_max: 8_192, ..Default::default() };
    let server = ConnectionConfig {
        in_flight_max: 7,
        idle_timeout: Some(Duration::from_secs(60)),
        ..Default::default()
    };
    let pair = Pair::open_with(&client, &server);
    let heard_by_client = pair.client.connection.peer();
    assert_eq!(heard_by_client.in_flight_max, 7);
    assert_eq!(heard_by_client.idle_timeout_ms, 60_000);
    assert_eq!(heard_by_client.shards, ShardMap { here: 1, ports: vec![7001, 7002] });
    let heard_by_server = pair.server.connection.peer();
    assert_eq!(heard_by_server.frame_bytes_max, 8_192);
    assert_eq!(heard_by_server.in_flight_max, 0, "a client serves nothing");
}

#[test]
fn before_the_hello_nothing_is_known_and_nothing_starts() {
    let config = ConnectionConfig { payload_crc: true, ..Default::default() };
    let mut pair = Pair::new(&config, &config);
    for role in [Role::Client, Role::Server] {
        let peer = pair.side(role).connection.peer();
        assert_eq!((peer.frame_bytes_max, peer.in_flight_max), (FRAME_BYTES_FLOOR, 0), "{role:?}");
        assert_eq!(peer.shards, ShardMap::default(), "our own shards are not the peer's");
        assert!(!peer.payload_crc && peer.idle_timeout_ms == 0);
    }
    let refused = pair.start(CallRequest::new(ECHO, b"")).expect_err("not open");
    assert_eq!(refused, StartError::NotOpen);
}

#[test]
fn a_window_beyond_reason_is_used_within_reason_only() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    pair.receive(Role::Client, &hello(VERSION_MAX, 1, MAGIC, &[2, 0, 4, 0, 255, 255, 255, 255]));
    for _ in 0..IN_FLIGHT_CEILING {
        pair.call(ECHO, b"");
    }
    let refused = pair.start(CallRequest::new(ECHO, b"")).expect_err("reason has a limit");
    assert_eq!(refused, StartError::WindowFull);
}

#[test]
fn a_server_starts_no_calls_whatever_window_a_client_tells() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    pair.receive(Role::Server, &hello(VERSION_MAX, 1, MAGIC, &[2, 0, 4, 0, 8, 0, 0, 0]));
    assert!(pair.server.connection.is_open());
    let refused = pair.server.connection.start_call(CallRequest::new(ECHO, b""), 0, pair.now);
    assert_eq!(refused, Err(StartError::WindowFull));
}

#[test]
fn ranges_of_versions_that_do_not_meet_end_it_with_both_ranges() {
    for role in [Role::Client, Role::Server] {
        let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
        pair.receive(role, &hello(VERSION_MAX + 3, VERSION_MAX + 1, MAGIC, &[]));
        let expected = HelloError::Version {
            ours: (1, VERSION_MAX),
            theirs: (VERSION_MAX + 1, VERSION_MAX + 3),
        };
        assert_eq!(
            pair.side(role).seen,
            [Seen::Closed(CloseReason::PeerIncompatible(expected))],
            "{role:?}"
        );
        assert_says_go_away(&mut pair, role, GoAwayReason::VERSION_MISMATCH);
    }
}

#[test]
fn a_newer_peer_that_still_speaks_our_version_is_welcome() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    pair.receive(Role::Server, &hello(VERSION_MAX + 3, VERSION_MAX, MAGIC, &[]));
    assert_eq!(pair.server.seen, [Seen::Opened]);
}

#[test]
fn a_foreign_magic_number_and_a_damaged_hello_are_refused() {
    let cases: [(u64, &[u8], HelloError); 4] = [
        (MAGIC ^ 1, &[], HelloError::Magic),
        (MAGIC, &[1, 0, 4, 0, 9], HelloError::Records),
        (MAGIC, &[2, 0, 1, 0, 9], HelloError::Value(2)),
        (MAGIC, &[1, 0, 4, 0, 16, 0, 0, 0], HelloError::Value(1)),
    ];
    for (magic, body, error) in cases {
        let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
        pair.receive(Role::Server, &hello(1, 1, magic, body));
        let reason = CloseReason::PeerIncompatible(error);
        assert_eq!(pair.server.close_reason(), Some(&reason));
        assert!(reason.is_peers_fault());
        assert_says_go_away(&mut pair, Role::Server, GoAwayReason::PROTOCOL_ERROR);
    }
}

#[test]
fn somebody_who_speaks_http_is_told_off() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    pair.receive(Role::Server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let error = FrameError::Header(HeaderError::Checksum);
    let reason = CloseReason::PeerMisbehaved(Misbehaviour::Frame(error));
    assert_eq!(pair.server.close_reason(), Some(&reason));
    assert!(reason.to_string().contains("does not speak Catena"), "{reason}");
}

#[test]
fn nothing_but_hello_and_go_away_may_come_first() {
    for kind in [Kind::Request, Kind::Cancel, Kind::Ping, Kind::Pong, Kind::StreamItem] {
        let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
        pair.receive(Role::Server, &encode(control(kind, 0, 1), b""));
        let reason = CloseReason::PeerMisbehaved(Misbehaviour::Unexpected(kind));
        assert_eq!(pair.server.seen, [Seen::Closed(reason)]);
    }
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    let header = control(Kind::GoAway, GoAwayReason::OVERLOADED.0, 0);
    pair.receive(Role::Client, &encode(header, b"too many"));
    let (reason, text) = (GoAwayReason::OVERLOADED, "too many".to_owned());
    let closed = CloseReason::PeerLeft(reason);
    assert_eq!(pair.client.seen, [Seen::PeerLeaves { reason, text }, Seen::Closed(closed)]);
}

#[test]
fn a_second_hello_is_a_mistake() {
    let mut pair = Pair::open();
    pair.receive(Role::Server, &hello(1, 1, MAGIC, &[]));
    let reason = CloseReason::PeerMisbehaved(Misbehaviour::Unexpected(Kind::Hello));
    assert_eq!(pair.server.close_reason(), Some(&reason));
}

#[test]
fn before_the_hello_a_long_frame_is_not_even_collected() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    let long = Header { frame_bytes: FRAME_BYTES_FLOOR + 1, ..control(Kind::Request, 0, 0) };
    pair.receive(Role::Server, &long.encode());
    let error = FrameError::TooLong { frame_bytes: FRAME_BYTES_FLOOR + 1, max: FRAME_BYTES_FLOOR };
    let reason = CloseReason::PeerMisbehaved(Misbehaviour::Frame(error));
    assert_eq!(pair.server.close_reason(), Some(&reason));
}

#[test]
fn a_peer_without_a_hello_is_given_up_in_time() {
    let config = ConnectionConfig { hello_timeout: Duration::from_secs(3), ..Default::default() };
    let mut pair = Pair::new(&config, &config);
    pair.advance_in_silence(Duration::from_millis(2_999));
    assert!(!pair.server.connection.is_closed());
    pair.advance_in_silence(Duration::from_millis(1));
    let reason = CloseReason::PeerTooSlow(TooSlow::Hello);
    assert_eq!(pair.server.seen, [Seen::Closed(reason.clone())]);
    assert_eq!(pair.client.seen, [Seen::Closed(reason)]);
    assert_says_go_away(&mut pair, Role::Server, GoAwayReason::TOO_SLOW);
}

#[test]
fn the_largest_shard_map_fits_into_the_smallest_frame() {
    let ports = vec![u16::MAX; crate::limits::SHARDS_MAX];
    let shards = ShardMap { here: 1_023, ports };
    let config = Arc::new(ConnectionConfig::default());
    let mut server = Connection::new(Role::Server, config.clone(), &shards, Instant::ZERO);
    let hello = server.poll_transmit().expect("a hello").to_vec();
    assert!(hello.len() <= FRAME_BYTES_FLOOR as usize);
    let mut client = Connection::new(Role::Client, config, &ShardMap::default(), Instant::ZERO);
    assert!(client.handle_bytes(&mut Input::new(&hello), Instant::ZERO).is_some());
    assert_eq!(client.peer().shards, shards);
}

/// What `role` has sent last is a go-away with this reason.
#[track_caller]
fn assert_says_go_away(pair: &mut Pair, role: Role, expected: GoAwayReason) {
    pair.flush();
    let peer = match role {
        Role::Client => &pair.server,
        Role::Server => &pair.client,
    };
    let sent: Vec<u8> = peer.pipe.iter().copied().collect();
    let hello_bytes = u32::from_le_bytes([sent[0], sent[1], sent[2], sent[3]]) as usize;
    let header: &[u8; HEADER_BYTES] =
        sent[hello_bytes..].first_chunk().expect("a frame after the hello");
    let header = Header::decode(header).expect("a good header");
    assert_eq!((header.kind, GoAwayReason(header.code)), (Kind::GoAway, expected));
}

fn hello(version_max: u16, version_min: u16, magic: u64, body: &[u8]) -> Vec<u8> {
    let header = control(Kind::Hello, version_max, magic);
    encode(Header { first: version_min.into(), ..header }, body)
}

fn encode(header: Header, body: &[u8]) -> Vec<u8> {
    let mut output = Output::default();
    Framer::default().push(&mut output, header, &[], Payload::Copied(body));
    output.to_vec()
}
