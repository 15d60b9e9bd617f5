//! Frames in pieces, lies about lengths, memory that is lent.

use super::*;
use crate::wire::frame::control;
use crate::wire::framer::{Framer, Payload};
use crate::wire::header::Kind;
use crate::wire::output::Output;
use proptest::prelude::*;

/// A frame to send: call id, metadata, payload, and whether the payload is shared.
type Sent = (u64, Vec<u8>, Vec<u8>, bool);

fn encode(framer: Framer, frames: &[Sent]) -> Vec<u8> {
    let mut out = Output::default();
    for (call, metadata, payload, shared) in frames {
        let header = control(Kind::Request, 0, *call);
        let payload = match shared {
            true => Payload::Shared(Bytes::copy_from_slice(payload)),
            false => Payload::Copied(payload),
        };
        framer.push(&mut out, header, metadata, payload);
    }
    out.to_vec()
}

fn decode(bytes: &[u8], cuts: &[usize], max: u32) -> Result<Vec<Sent>, FrameError> {
    let mut deframer = Deframer::new(max);
    let mut frames = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        let end = cut.clamp(at, bytes.len());
        let chunk = Bytes::copy_from_slice(&bytes[at..end]);
        let mut input = Input::new(&chunk);
        while let Some(frame) = deframer.next(&mut input)? {
            let metadata = frame.body.metadata().as_bytes().to_vec();
            let payload = frame.body.payload().to_vec();
            assert_eq!(frame.body.to_payload_bytes(|| chunk.clone()), payload);
            frames.push((frame.header.call, metadata, payload, false));
        }
        assert_eq!(input.left(), 0, "None means that the input is read");
        at = end;
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(
        frames in prop::collection::vec(
            (any::<u64>(), prop::collection::vec(any::<u8>(), 0..40),
             prop::collection::vec(any::<u8>(), 0..6_000), any::<bool>()), 1..8),
        cuts in prop::collection::vec(0usize..20_000, 0..30),
        payload_crc: bool,
    ) {
        let bytes = encode(Framer::new(payload_crc), &frames);
        let mut cuts = cuts;
        cuts.sort_unstable();
        let got = decode(&bytes, &cuts, 1 << 20).expect("what we encode is a stream of frames");
        let sent: Vec<Sent> =
            frames.into_iter().map(|(call, meta, payload, _)| (call, meta, payload, false)).collect();
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
        cuts in prop::collection::vec(0usize..500, 0..10),
    ) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let _ = decode(&bytes, &cuts, 4_096);
    }

    #[test]
    fn a_damaged_body_is_seen_where_checksums_are_used(
        payload in prop::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index,
    ) {
        let mut bytes = encode(Framer::new(true), &[(1, vec![], payload, false)]);
        let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
        bytes[at] ^= 0x10;
        prop_assert_eq!(decode(&bytes, &[], 4_096), Err(FrameError::Trailer));
    }
}

#[test]
fn one_byte_at_a_time_is_as_good_as_all_at_once() {
    let frames = [(7, vec![1, 2, 3], vec![9; 100], false), (8, vec![], vec![], false)];
    let bytes = encode(Framer::default(), &frames);
    let cuts: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(decode(&bytes, &cuts, 4_096), Ok(frames.to_vec()));
}

#[test]
fn lengths_are_believed_within_limits_only() {
    for (frame_bytes, expected) in [
        (31, FrameError::TooShort { frame_bytes: 31 }),
        (0, FrameError::TooShort { frame_bytes: 0 }),
        (4_097, FrameError::TooLong { frame_bytes: 4_097, max: 4_096 }),
        (u32::MAX, FrameError::TooLong { frame_bytes: u32::MAX, max: 4_096 }),
    ] {
        let header = Header { frame_bytes, ..control(Kind::Request, 0, 1) };
        assert_eq!(decode(&header.encode(), &[], 4_096), Err(expected));
    }
}

#[test]
fn a_long_frame_that_never_comes_costs_one_step_of_memory() {
    let header = Header { frame_bytes: 16 << 20, ..control(Kind::Request, 0, 1) };
    let mut deframer = Deframer::new(32 << 20);
    assert!(deframer.next(&mut Input::new(&header.encode())).expect("lawful").is_none());
    assert!(deframer.memory_bytes() <= PARTIAL_STEP_BYTES);
    assert_eq!(deframer.under_way(), Some((HEADER_BYTES, Some(16 << 20))));
}

/// The header of a request that is followed by so many bytes, and the deframer that has read it.
fn under_way(deframer: &mut Deframer, frame_bytes: u32) {
    let header = Header { frame_bytes, ..control(Kind::Request, 0, 1) };
    assert!(deframer.next(&mut Input::new(&header.encode())).expect("lawful").is_none());
}

#[test]
fn a_frame_as_long_as_one_before_has_its_memory_at_once() {
    let mut deframer = Deframer::new(32 << 20);
    under_way(&mut deframer, 4 << 20);
    let body = vec![0; (4 << 20) - HEADER_BYTES];
    let mut capacities = Vec::new();
    for piece in body.chunks(16 << 10) {
        let _ = deframer.next(&mut Input::new(piece)).expect("lawful");
        capacities.push(deframer.memory_bytes());
    }
    let grown = capacities.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(grown > 3, "a stranger's length is believed bit by bit: {capacities:?}");
    under_way(&mut deframer, 4 << 20);
    assert_eq!(deframer.memory_bytes(), 4 << 20);
    deframer.release_memory();
    under_way(&mut deframer, 16 << 20);
    assert_eq!(deframer.memory_bytes(), 4 << 20, "no more than has come before");
}

#[test]
fn the_rest_of_a_large_frame_can_be_received_where_it_belongs() {
    let spare = Arc::new(SpareBodies::default());
    let frame_bytes = RECEIVE_INTO_FRAME_BYTES_MIN;
    let mut deframer = Deframer::new(32 << 20);
    deframer.use_spare(spare.clone());
    assert!(deframer.lend_partial().is_none(), "nothing is under way");
    under_way(&mut deframer, frame_bytes as u32 - 1);
    assert!(deframer.lend_partial().is_none(), "not worth it");
    deframer.release_memory();

    under_way(&mut deframer, frame_bytes as u32);
    let mut arrived = HEADER_BYTES;
    while let Some((mut memory, left)) = deframer.lend_partial() {
        assert_eq!((memory.len(), left), (arrived, frame_bytes - arrived));
        assert!(memory.capacity() > memory.len(), "room for some of it");
        assert!(deframer.lend_partial().is_none(), "there is one memory");
        assert_eq!(deframer.under_way(), Some((arrived, Some(frame_bytes as u32))));
        assert_eq!(deframer.memory_bytes(), memory.capacity());
        let room = memory.capacity() - memory.len();
        memory.resize(arrived + room.min(left).min(50_000), 9);
        arrived = memory.len();
        deframer.put_back(memory);
    }
    assert!(frame_bytes - arrived < RECEIVE_INTO_BYTES_MIN);
    let rest = vec![9; frame_bytes - arrived];
    let frame = deframer.next(&mut Input::new(&rest)).expect("lawful").expect("whole");
    assert_eq!(frame.body.payload(), vec![9; frame_bytes - HEADER_BYTES]);
    drop(frame);
    assert!(spare.bytes() >= frame_bytes, "its memory is kept for the next");
}

#[test]
fn memory_that_comes_back_too_late_is_let_go() {
    let mut deframer = Deframer::new(32 << 20);
    under_way(&mut deframer, 1 << 20);
    let (memory, _) = deframer.lend_partial().expect("a large frame is under way");
    deframer.release_memory();
    deframer.put_back(memory);
    assert_eq!((deframer.memory_bytes(), deframer.under_way()), (0, None));
}

#[test]
fn metadata_that_overruns_its_frame_is_refused() {
    let mut bytes = encode(Framer::default(), &[(1, vec![5; 10], vec![], false)]);
    bytes[HEADER_BYTES..HEADER_BYTES + 2].copy_from_slice(&11u16.to_le_bytes());
    assert_eq!(decode(&bytes, &[], 4_096), Err(FrameError::Metadata));
}

#[test]
fn small_collected_frames_reuse_their_memory() {
    let bytes = encode(Framer::default(), &[(1, vec![], vec![3; 50], false)]);
    let mut deframer = Deframer::new(4_096);
    let mut memory = std::ptr::null();
    for round in 0..3 {
        assert!(deframer.next(&mut Input::new(&bytes[..40])).expect("good").is_none());
        let mut input = Input::new(&bytes[40..]);
        let frame = deframer.next(&mut input).expect("good").expect("whole");
        if round > 0 {
            assert_eq!(frame.body.payload().as_ptr(), memory);
        }
        memory = frame.body.payload().as_ptr();
        deframer.recycle(frame.body);
    }
}
