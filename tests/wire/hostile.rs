//! Bytes that no good peer would send. Each ends in an answer or in `Closed` with a reason; none in a
//! panic, in a stall, or in memory that the sender did not pay for.

use crate::golden;
use crate::peer::{NEVER, Peer, WINDOW};
use crate::reference::{self, PAYLOAD_CRC, RawFrame, request, reseal};
use catena_engine::config::ConnectionConfig;
use catena_engine::limits::{FRAME_BYTES_FLOOR, METADATA_BYTES_MAX};
use catena_engine::rpc::connection::Role;
use catena_engine::rpc::error::{CloseReason, Misbehaviour, TooSlow};
use catena_engine::time::Duration;
use catena_engine::wire::deframer::FrameError;
use catena_engine::wire::header::HeaderError;
use proptest::prelude::*;

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// Golden frames that a good peer of `role` may send after the hellos, in an order that is lawful.
fn lawful(role: Role) -> Vec<Vec<u8>> {
    let names: &[&str] = match role {
        Role::Server => &[
            "request",
            "request-empty",
            "ping",
            "request-deadline",
            "cancel",
            "request-metadata",
            "request-checksum",
            "pong",
            "request-metadata-checksum",
            "go-away-draining",
            "go-away-unknown",
        ],
        Role::Client => &[
            "response",
            "response-empty",
            "ping",
            "response-checksum",
            "response-shed",
            "pong",
            "response-application",
            "go-away-idle",
        ],
    };
    let golden = golden::all();
    names.iter().map(|name| golden[*name].clone()).collect()
}

fn protocol_error(error: FrameError) -> CloseReason {
    CloseReason::PeerMisbehaved(Misbehaviour::Frame(error))
}

#[test]
fn a_stream_may_break_off_after_any_byte() {
    for role in ROLES {
        let stream: Vec<u8> = lawful(role).concat();
        for cut in 0..=stream.len() {
            let mut peer = Peer::open(role);
            peer.feed(&stream[..cut]);
            assert!(
                !peer.events.iter().any(|event| event.contains("Misbehaved")),
                "{role:?} {cut}"
            );
            peer.end();
            assert!(peer.closed.is_some(), "{role:?} {cut}");

            let mut peer = Peer::open(role);
            peer.feed(&stream[..cut]);
            peer.wait_for_the_end();
        }
    }
}

#[test]
fn a_dribble_of_single_bytes_is_read_as_the_whole() {
    for role in ROLES {
        let stream: Vec<u8> = lawful(role).concat();
        let mut whole = Peer::open(role);
        whole.feed(&stream);
        let mut dribbled = Peer::open(role);
        for byte in &stream {
            dribbled.feed(&[*byte]);
        }
        assert_eq!(dribbled.events, whole.events);
        assert_eq!(dribbled.sent, whole.sent);
        assert!(whole.events.len() >= 3);
    }
}

#[test]
fn half_a_header_and_half_a_frame_end_in_time_however_they_dribble() {
    let whole = request(0, 1, &[0; 100]).encode();
    for bytes in [1, 31, 32, 33, 131] {
        let mut peer = Peer::open(Role::Server);
        peer.feed(&whole[..bytes]);
        let took = peer.wait_for_the_end();
        assert_eq!(took, ConnectionConfig::default().frame_timeout, "{bytes}");
        assert_eq!(peer.closed, Some(CloseReason::PeerTooSlow(TooSlow::Frame)));
    }
    let mut peer = Peer::open(Role::Server);
    for byte in &whole {
        if peer.closed.is_some() {
            break;
        }
        peer.feed(&[*byte]);
        peer.now += Duration::from_secs(1);
        peer.connection.handle_timeout(peer.now);
        peer.feed(&[]);
    }
    assert_eq!(peer.closed, Some(CloseReason::PeerTooSlow(TooSlow::Frame)));
}

#[test]
fn every_flipped_bit_of_a_header_is_seen() {
    for role in ROLES {
        for frame in lawful(role) {
            for bit in 0..32 * 8 {
                let mut bytes = frame.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let mut peer = Peer::open(role);
                peer.feed(&bytes);
                let expected = protocol_error(FrameError::Header(HeaderError::Checksum));
                assert_eq!(peer.closed, Some(expected));
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_checked_body_is_seen() {
    let frame = &golden::all()["request-metadata-checksum"];
    for bit in 32 * 8..frame.len() * 8 {
        let mut bytes = frame.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut peer = Peer::open(Role::Server);
        peer.feed(&bytes);
        assert_eq!(peer.closed, Some(protocol_error(FrameError::Trailer)));
    }
}

/// A number of three bits, each value of which is lawful.
const HOPS: u8 = 8 | 16 | 32;

#[test]
fn every_kind_with_every_flag_is_answered_or_refused() {
    for role in ROLES {
        for kind in 0..=u8::MAX {
            for flags in 0..=u8::MAX {
                let mut peer = Peer::open(role);
                peer.feed(&RawFrame { flags, ..RawFrame::of(kind) }.encode());
                let is_lawful = match (role, kind, flags) {
                    // A request with metadata must have a metadata block, which this one has not.
                    (Role::Server, 2, flags) => flags & !(2 | 4 | HOPS) == 0,
                    (Role::Client, 3, 0 | 2) => true,
                    (Role::Server, 4, 0) | (_, 5 | 6, 0) | (_, 7, 0 | 2) => true,
                    _ => false,
                };
                let is_refused = peer.closed.as_ref().is_some_and(CloseReason::is_peers_fault);
                assert_eq!(is_refused, !is_lawful, "{role:?}, kind {kind}, flags {flags:#b}");
            }
        }
    }
}

#[test]
fn lengths_that_lie_are_refused_or_waited_for_in_vain() {
    let limit = ConnectionConfig::default().frame_bytes_max;
    for role in ROLES {
        for frame in lawful(role) {
            let whole = frame.len() as u32;
            for claim in [0, 1, 31, 32, whole - 1, whole + 1, 4_097, limit, limit + 1, u32::MAX] {
                let mut bytes = frame.clone();
                bytes[..4].copy_from_slice(&claim.to_le_bytes());
                reseal(&mut bytes);
                let mut peer = Peer::open(role);
                peer.feed(&bytes);
                peer.wait_for_the_end();
            }
        }
    }
}

#[test]
fn a_frame_as_long_as_allowed_is_taken_and_one_byte_more_is_not() {
    let config = ConnectionConfig { frame_bytes_max: 10_000, ..Default::default() };
    for (payload_bytes, is_taken) in [(9_968, true), (9_969, false)] {
        let mut peer = Peer::new(Role::Server, config.clone());
        peer.feed(&reference::hello());
        peer.feed(&request(0, NEVER.0, &vec![1; payload_bytes]).encode());
        let error = FrameError::TooLong { frame_bytes: 10_001, max: 10_000 };
        let expected = if is_taken { None } else { Some(protocol_error(error)) };
        assert_eq!(peer.closed, expected);
    }
}

#[test]
fn before_the_hello_a_stranger_gets_one_page() {
    let mut frame = request(0, 1, &[0; 9_000]).encode();
    let mut peer = Peer::new(Role::Server, ConnectionConfig::default());
    peer.feed(&frame);
    let error = FrameError::TooLong { frame_bytes: 9_032, max: FRAME_BYTES_FLOOR };
    assert_eq!(peer.closed, Some(protocol_error(error)));

    frame.truncate(40);
    frame[..4].copy_from_slice(&FRAME_BYTES_FLOOR.to_le_bytes());
    reseal(&mut frame);
    let mut peer = Peer::new(Role::Server, ConnectionConfig::default());
    peer.feed(&frame);
    assert!(peer.connection.memory_bytes() <= FRAME_BYTES_FLOOR as usize);
    peer.wait_for_the_end();
}

#[test]
fn other_protocols_are_told_off_or_time_out() {
    for greeting in [
        &b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        for role in ROLES {
            let mut peer = Peer::new(role, ConnectionConfig::default());
            peer.feed(greeting);
            let took = peer.wait_for_the_end();
            assert!(took <= ConnectionConfig::default().hello_timeout);
            assert!(peer.closed.as_ref().is_some_and(CloseReason::is_peers_fault));
        }
    }
}

#[test]
fn a_whole_window_abandoned_costs_its_deadlines_and_no_more() {
    let mut peer = Peer::open(Role::Server);
    for slot in 0..WINDOW {
        let mut frame = request(slot, NEVER.0, b"");
        frame.words[1] = 1_000;
        peer.feed(&frame.encode());
    }
    peer.wait_for_the_end();
    let dropped = peer.events.iter().filter(|event| event.contains("RequestDropped"));
    assert_eq!(dropped.count(), WINDOW as usize);
}

/// One step of a hostile script.
#[derive(Clone, Debug)]
enum Step {
    /// A lawful frame, as it is.
    Lawful(prop::sample::Index),
    /// A lawful frame with bytes changed; resealed, so that the change is looked at.
    Changed {
        which: prop::sample::Index,
        changes: Vec<(prop::sample::Index, u8)>,
        sealed: bool,
    },
    /// A frame of random numbers.
    Made(RawFrame),
    /// Part of a lawful frame.
    Cut {
        which: prop::sample::Index,
        at: prop::sample::Index,
    },
    Noise(Vec<u8>),
    Wait {
        ms: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => index().prop_map(Step::Lawful),
        3 => (index(), prop::collection::vec((index(), any::<u8>()), 1..4), any::<bool>())
            .prop_map(|(which, changes, sealed)| Step::Changed { which, changes, sealed }),
        4 => made().prop_map(Step::Made),
        1 => (index(), index()).prop_map(|(which, at)| Step::Cut { which, at }),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Step::Noise),
        1 => any::<u16>().prop_map(|ms| Step::Wait { ms }),
    ]
}

fn made() -> impl Strategy<Value = RawFrame> {
    let call =
        (0..WINDOW + 1, 0u32..3).prop_map(|(slot, use_)| u64::from(use_) << 32 | u64::from(slot));
    let small_word = prop_oneof![3 => 0u32..4, 1 => any::<u32>()];
    (
        (1u8..12, 0u8..8, any::<u16>()),
        prop_oneof![3 => call, 1 => any::<u64>()],
        prop::array::uniform3(small_word),
        prop::collection::vec(any::<u8>(), 0..60),
    )
        .prop_map(|((kind, flags, code), call, words, body)| RawFrame {
            kind,
            flags,
            code,
            call,
            words,
            body,
        })
}

/// The bytes of a step; `Err` is a pause in milliseconds.
fn bytes_of(step: &Step, lawful: &[Vec<u8>]) -> Result<Vec<u8>, u16> {
    Ok(match step {
        Step::Lawful(which) => which.get(lawful).clone(),
        Step::Changed { which, changes, sealed } => {
            let mut bytes = which.get(lawful).clone();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if *sealed {
                reseal(&mut bytes);
            }
            bytes
        }
        Step::Made(frame) => frame.encode(),
        Step::Cut { which, at } => {
            let frame = which.get(lawful);
            frame[..at.index(frame.len())].to_vec()
        }
        Step::Noise(bytes) => bytes.clone(),
        Step::Wait { ms } => return Err(*ms),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sent_it_ends_with_a_reason(
        is_server: bool,
        is_greeted: bool,
        drains_at in prop::option::of(0usize..20),
        steps in prop::collection::vec(step(), 0..20),
        piece in 1usize..80,
        ends_stream: bool,
    ) {
        let role = if is_server { Role::Server } else { Role::Client };
        let lawful = lawful(role);
        let mut peer = match is_greeted {
            true => Peer::open(role),
            false => Peer::new(role, ConnectionConfig::default()),
        };
        for (nth, step) in steps.iter().enumerate() {
            if drains_at == Some(nth) {
                peer.connection.drain(peer.now);
            }
            match bytes_of(step, &lawful) {
                Ok(bytes) => bytes.chunks(piece).for_each(|chunk| peer.feed(chunk)),
                Err(ms) => {
                    peer.now += Duration::from_millis(ms.into());
                    peer.connection.handle_timeout(peer.now);
                    peer.feed(&[]);
                }
            }
        }
        if ends_stream {
            peer.end();
        }
        let took = peer.wait_for_the_end();
        prop_assert!(took <= Duration::from_secs(200), "a silent peer was borne for {took:?}");
        prop_assert!(peer.closed.is_some());
        let closings = peer.events.iter().filter(|event| event.starts_with("Closed")).count();
        prop_assert_eq!(closings, 1);
    }

    #[test]
    fn metadata_of_any_shape_is_read_or_refused(
        length: u16, body in prop::collection::vec(any::<u8>(), 0..200), checked: bool,
    ) {
        let mut frame = request(0, 1, &[&length.to_le_bytes()[..], &body].concat());
        frame.flags = reference::METADATA | if checked { PAYLOAD_CRC } else { 0 };
        let mut peer = Peer::open(Role::Server);
        peer.feed(&frame.encode());
        let fits = usize::from(length) <= body.len().min(METADATA_BYTES_MAX);
        let expected = if fits { None } else { Some(protocol_error(FrameError::Metadata)) };
        prop_assert_eq!(peer.closed.clone(), expected);
        prop_assert_eq!(peer.events.len(), 1);
    }
}
