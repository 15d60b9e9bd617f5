//! Peers that break the protocol: each ends with a go-away that says why, and with `Closed`.

use super::pair::{LATER, Pair, Seen};
use crate::config::ConnectionConfig;
use crate::limits::{FRAME_BYTES_FLOOR, METADATA_BYTES_MAX};
use crate::rpc::connection::Role;
use crate::rpc::error::{CloseReason, Misbehaviour};
use crate::wire::deframer::FrameError;
use crate::wire::frame::{CallId, GoAwayReason, Priority, RequestHead, Route, control};
use crate::wire::framer::{Framer, Payload};
use crate::wire::header::{Flags, HEADER_BYTES, Header, HeaderError, Kind};
use crate::wire::output::Output;

/// `bytes` make `role` close for `what`, and its peer hears of it.
#[track_caller]
fn assert_refused(role: Role, bytes: &[u8], what: Misbehaviour) {
    let server = ConnectionConfig { in_flight_max: 8, ..Default::default() };
    let mut pair = Pair::open_with(&ConnectionConfig::default(), &server);
    refused_by(&mut pair, role, bytes, what);
}

#[track_caller]
fn refused_by(pair: &mut Pair, role: Role, bytes: &[u8], what: Misbehaviour) {
    let reason = CloseReason::PeerMisbehaved(what);
    pair.receive(role, bytes);
    assert_eq!(pair.side(role).close_reason(), Some(&reason));
    assert!(reason.is_peers_fault());
    pair.settle();
    let peer = match role {
        Role::Client => &pair.server,
        Role::Server => &pair.client,
    };
    let goodbye =
        Seen::PeerLeaves { reason: GoAwayReason::PROTOCOL_ERROR, text: reason.to_string() };
    assert!(peer.seen.contains(&goodbye), "{:?}", peer.seen);
    let left = CloseReason::PeerLeft(GoAwayReason::PROTOCOL_ERROR);
    assert_eq!(peer.close_reason(), Some(&left));
}

#[test]
fn kinds_that_the_role_is_not_sent() {
    for (role, kind) in [
        (Role::Client, Kind::Request),
        (Role::Client, Kind::Cancel),
        (Role::Client, Kind::Hello),
        (Role::Client, Kind::StreamItem),
        (Role::Server, Kind::Response),
        (Role::Server, Kind::Hello),
        (Role::Server, Kind::StreamItem),
        (Role::Server, Kind::StreamEnd),
        (Role::Server, Kind::Credit),
    ] {
        assert_refused(role, &encode(control(kind, 0, 0), b""), Misbehaviour::Unexpected(kind));
    }
}

#[test]
fn slots_beyond_the_window() {
    for slot in [8, 9, u32::MAX] {
        let bytes = request(CallId::new(slot, 1));
        assert_refused(Role::Server, &bytes, Misbehaviour::BeyondWindow { slot, window: 8 });
    }
}

#[test]
fn a_slot_in_use_whichever_its_generation() {
    for generation in [1, 2] {
        let mut pair = Pair::open();
        let (_, call) = pair.call(LATER, b"");
        pair.settle();
        let bytes = request(CallId::new(call.slot(), generation));
        refused_by(&mut pair, Role::Server, &bytes, Misbehaviour::SlotBusy(call.slot()));
    }
}

#[test]
fn headers_that_are_none() {
    let good = encode(control(Kind::Ping, 0, 7), b"");
    let mut damaged = good.clone();
    damaged[10] ^= 1;
    let mut unknown_kind = good.clone();
    unknown_kind[4] = 11;
    reseal(&mut unknown_kind);
    let mut unknown_flag = good;
    unknown_flag[5] = 0x80;
    reseal(&mut unknown_flag);
    let undefined = HeaderError::UndefinedFlags { kind: Kind::Ping, bits: 0x80 };
    for (bytes, error) in [
        (damaged, HeaderError::Checksum),
        (unknown_kind, HeaderError::UnknownKind(11)),
        (unknown_flag, undefined),
    ] {
        for role in [Role::Client, Role::Server] {
            assert_refused(role, &bytes, Misbehaviour::Frame(FrameError::Header(error)));
        }
    }
}

#[test]
fn flags_where_they_have_no_meaning() {
    for (kind, flags) in [
        (Kind::Ping, Flags::PAYLOAD_CRC),
        (Kind::Pong, Flags::METADATA),
        (Kind::Cancel, Flags::REPEAT),
        (Kind::GoAway, Flags::METADATA),
        (Kind::GoAway, Flags::REPEAT),
    ] {
        let header = Header { frame_bytes: 32, flags, ..control(kind, 0, 0) };
        let error = HeaderError::UndefinedFlags { kind, bits: flags.bits() };
        let what = Misbehaviour::Frame(FrameError::Header(error));
        assert_refused(Role::Server, &header.encode(), what);
    }
    let header = Header { frame_bytes: 32, flags: Flags::REPEAT, ..control(Kind::Response, 0, 0) };
    let error = HeaderError::UndefinedFlags { kind: Kind::Response, bits: 4 };
    let what = Misbehaviour::Frame(FrameError::Header(error));
    assert_refused(Role::Client, &header.encode(), what);
}

#[test]
fn lengths_that_lie() {
    let limit = ConnectionConfig::default().frame_bytes_max;
    for (kind, frame_bytes, error) in [
        (Kind::Request, 0, FrameError::TooShort { frame_bytes: 0 }),
        (Kind::Request, 31, FrameError::TooShort { frame_bytes: 31 }),
        (Kind::Request, limit + 1, FrameError::TooLong { frame_bytes: limit + 1, max: limit }),
        (Kind::Request, u32::MAX, FrameError::TooLong { frame_bytes: u32::MAX, max: limit }),
        (Kind::Ping, 33, FrameError::TooLong { frame_bytes: 33, max: 32 }),
        (Kind::Pong, 64, FrameError::TooLong { frame_bytes: 64, max: 32 }),
        (Kind::Cancel, 33, FrameError::TooLong { frame_bytes: 33, max: 32 }),
        (
            Kind::GoAway,
            FRAME_BYTES_FLOOR + 1,
            FrameError::TooLong { frame_bytes: FRAME_BYTES_FLOOR + 1, max: FRAME_BYTES_FLOOR },
        ),
    ] {
        let header = Header { frame_bytes, ..control(kind, 0, 0) };
        assert_refused(Role::Server, &header.encode(), Misbehaviour::Frame(error));
    }
}

#[test]
fn metadata_that_overruns_its_frame_or_its_limit() {
    let header = Header { flags: Flags::METADATA, ..control(Kind::Request, 0, 0) };
    let too_long = (METADATA_BYTES_MAX + 1) as u16;
    let mut long_block = too_long.to_le_bytes().to_vec();
    long_block.resize(2 + METADATA_BYTES_MAX + 1, 0);
    for body in [&b""[..], &[1], &[5, 0, 1, 2, 3, 4], &long_block] {
        let what = Misbehaviour::Frame(FrameError::Metadata);
        assert_refused(Role::Server, &encode(header, body), what);
    }
}

#[test]
fn a_damaged_body_is_refused_whether_or_not_a_checksum_was_agreed() {
    for payload_crc in [false, true] {
        let config = ConnectionConfig { payload_crc, ..Default::default() };
        let mut bytes = flagged(CallId::new(0, 1), b"payload");
        let mut pair = Pair::open_with(&config, &config);
        pair.receive(Role::Server, &bytes);
        assert_eq!(pair.server.close_reason(), None, "a good checksum is welcome at any time");
        let Seen::Request { payload, .. } = &pair.server.seen[0] else { panic!() };
        assert_eq!(payload, b"payload");

        bytes[HEADER_BYTES] ^= 1;
        let mut pair = Pair::open_with(&config, &config);
        let what = Misbehaviour::Frame(FrameError::Trailer);
        refused_by(&mut pair, Role::Server, &bytes, what);
        let what = Misbehaviour::Frame(FrameError::Trailer);
        let cut = Header { flags: Flags::PAYLOAD_CRC, ..control(Kind::Request, 0, 0) };
        refused_by(
            &mut Pair::open_with(&config, &config),
            Role::Server,
            &encode(cut, b"abc"),
            what,
        );
    }
}

#[test]
fn a_body_without_its_agreed_checksum_is_read_as_it_says() {
    let config = ConnectionConfig { payload_crc: true, ..Default::default() };
    let mut pair = Pair::open_with(&config, &config);
    pair.receive(Role::Server, &request(CallId::new(0, 1)));
    assert_eq!(pair.server.close_reason(), None);
}

#[test]
fn what_came_before_the_mistake_is_served() {
    let mut pair = Pair::open();
    let mut bytes = request(CallId::new(0, 1));
    bytes.extend(encode(control(Kind::Credit, 0, 0), b""));
    bytes.extend(request(CallId::new(1, 1)));
    pair.receive(Role::Server, &bytes);
    let requests = pair.server.seen.iter().filter(|seen| matches!(seen, Seen::Request { .. }));
    assert_eq!(requests.count(), 1, "and what came after it is not");
}

fn request(call: CallId) -> Vec<u8> {
    encode(request_header(call), b"")
}

fn request_header(call: CallId) -> Header {
    let (method, priority, route) = (LATER, Priority::NORMAL, Route::ANY);
    RequestHead { call, method, priority, time_left_us: 0, route, repeat: false, hops: 0 }.header()
}

/// A request with a checksum, agreed or not.
fn flagged(call: CallId, payload: &[u8]) -> Vec<u8> {
    let mut output = Output::default();
    Framer::new(true).push(&mut output, request_header(call), &[], Payload::Copied(payload));
    output.to_vec()
}

fn encode(header: Header, body: &[u8]) -> Vec<u8> {
    let mut output = Output::default();
    Framer::default().push(&mut output, header, &[], Payload::Copied(body));
    output.to_vec()
}

/// Makes the checksum of a changed header right again.
fn reseal(frame: &mut [u8]) {
    let crc = crc32c::crc32c(&frame[..28]);
    frame[28..32].copy_from_slice(&crc.to_le_bytes());
}
