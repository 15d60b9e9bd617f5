//! What a connection holds, what it gives back, and what a hostile peer can make it hold.

use super::pair::{ECHO, LATER, Pair, SOURCE};
use crate::config::ConnectionConfig;
use crate::limits::{PARTIAL_KEEP_BYTES, PARTIAL_STEP_BYTES};
use crate::rpc::connection::{CallRequest, Connection, Event, Role};
use crate::time::Duration;
use crate::wire::deframer::Input;
use crate::wire::frame::{CallId, GoAwayReason, PongHead, control};
use crate::wire::framer::{Framer, Payload};
use crate::wire::header::{Header, Kind};
use crate::wire::output::Output;

#[test]
fn output_memory_is_lent_and_taken_back() {
    let mut pair = Pair::open();
    let connection = &mut pair.client.connection;
    let mut memory = Some(Output::with_capacity(4_096));
    connection.provide_output(&mut memory);
    assert!(memory.is_none(), "taken");
    memory = Some(Output::with_capacity(64));
    connection.provide_output(&mut memory);
    assert!(memory.is_some(), "it has some already");
    assert_eq!(connection.take_unused_output().expect("unused").capacity(), 4_096);
    assert!(connection.take_unused_output().is_none());

    connection.provide_output(&mut memory);
    connection.start_call(CallRequest::new(ECHO, b""), 0, pair.now).expect("open");
    assert!(connection.take_unused_output().is_none(), "there is something to send");
    let output = connection.poll_transmit().expect("a request");
    assert_eq!((output.len(), output.capacity()), (32, 64));
    assert!(connection.poll_transmit().is_none());
    memory = Some(output);
    connection.provide_output(&mut memory);
    assert!(connection.poll_transmit().is_none(), "what was sent is not sent again");
    assert_eq!(connection.take_unused_output().expect("unused").capacity(), 64);
}

#[test]
fn a_connection_without_traffic_holds_nothing() {
    let mut pair = Pair::open();
    for side in [&pair.client, &pair.server] {
        assert_eq!(side.connection.memory_bytes(), ports_bytes(&side.connection));
    }
    let calls: Vec<CallId> = (0..500).map(|_| pair.call(LATER, b"").1).collect();
    pair.cut(3);
    pair.settle();
    for call in calls {
        pair.cancel(call);
    }
    pair.call(SOURCE, &100_000u32.to_le_bytes());
    pair.settle();
    pair.do_not_cut();
    assert!(pair.client.connection.memory_bytes() > 1_000, "tables stay warm between bursts");
    pair.advance(ConnectionConfig::default().keepalive_interval * 2);
    for side in [&pair.client, &pair.server] {
        assert_eq!(side.connection.memory_bytes(), ports_bytes(&side.connection));
    }
}

fn ports_bytes(connection: &Connection) -> usize {
    connection.peer().shards.ports.capacity() * size_of::<u16>()
}

#[test]
fn ids_stay_unique_when_the_tables_were_given_back() {
    let mut pair = Pair::open();
    let (_, before) = pair.call(LATER, b"");
    pair.cancel(before);
    pair.settle();
    pair.advance(ConnectionConfig::default().keepalive_interval * 2);
    assert_eq!(pair.client.connection.memory_bytes(), ports_bytes(&pair.client.connection));
    let (_, after) = pair.call(ECHO, b"");
    assert_ne!(before, after, "an answer that is late by a minute must not find it");
}

#[test]
fn a_server_keeps_no_shard_map_of_a_client() {
    let mut pair = Pair::new(&ConnectionConfig::default(), &ConnectionConfig::default());
    let mut body = vec![5, 0, 0xE8, 0x03];
    body.resize(4 + 1_000, 1);
    let header = control(Kind::Hello, 1, crate::wire::hello::MAGIC);
    pair.receive(Role::Server, &encode(Header { first: 1, ..header }, &body));
    assert!(pair.server.connection.is_open());
    assert_eq!(pair.server.connection.memory_bytes(), 0);
}

#[test]
fn what_is_answered_inside_the_connection_is_no_longer_than_what_was_asked() {
    let pings = encode(control(Kind::Ping, 0, 1), b"").repeat(1_000);
    let requests: Vec<u8> = (0..1_000)
        .flat_map(|slot| encode(control(Kind::Request, 0, CallId::new(slot, 1).0), b""))
        .collect();
    for flood in [pings, requests] {
        let mut pair = Pair::open();
        pair.drain(Role::Server);
        pair.flush();
        let before = pair.client.pipe.len();
        let connection = &mut pair.server.connection;
        let mut input = Input::new(&flood);
        while let Some(event) = connection.handle_bytes(&mut input, pair.now) {
            match event {
                Event::Pinged { echo } => connection.pong(PongHead::without_load(echo)),
                event => assert!(matches!(event, Event::RequestRefused { .. }), "{event:?}"),
            }
        }
        assert_eq!(connection.output_bytes(), flood.len(), "frame for frame, 32 bytes each");
        assert_eq!(pair.client.pipe.len(), before);
    }
}

#[test]
fn a_client_reads_on_whatever_it_has_to_send_but_for_pongs() {
    let small = ConnectionConfig { output_bytes_max: 1_000, ..ConnectionConfig::default() };
    let mut pair = Pair::new(&small, &ConnectionConfig::default());
    pair.settle();
    let connection = &mut pair.client.connection;
    let request = CallRequest::new(ECHO, vec![0; 100_000]);
    connection.start_call(request, 0, pair.now).expect("open");
    assert!(!connection.is_output_full(), "or it would wait for a server that waits for it");

    let pings = encode(control(Kind::Ping, 0, 1), b"").repeat(100);
    let mut input = Input::new(&pings);
    assert!(connection.handle_bytes(&mut input, pair.now).is_none());
    assert!(connection.is_output_full(), "a server could fill its memory with pings");
    assert!(connection.poll_transmit().is_some());
    assert!(!connection.is_output_full());
}

#[test]
fn frames_of_every_kind_give_their_memory_back() {
    let mut pair = Pair::open();
    let go_away = encode(control(Kind::GoAway, GoAwayReason::DRAINING.0, 0), b"bye");
    let frames = [
        encode(control(Kind::Ping, 0, 1), b""),
        encode(control(Kind::Pong, 0, 1), b""),
        encode(control(Kind::Cancel, 0, 1), b""),
        encode(control(Kind::Request, 0, 0), b"served, and recycled by the owner"),
        go_away.clone(),
        encode(control(Kind::Request, 0, 0), b"refused, for the client has said goodbye"),
        go_away,
    ];
    // The longest first, so that the memory kept is enough for the others.
    pair.receive(Role::Server, &encode(control(Kind::Request, 0, 0), &[0; 64])[..40]);
    pair.receive(Role::Server, &encode(control(Kind::Request, 0, 0), &[0; 64])[40..]);
    let kept = pair.server.connection.memory_bytes();
    assert!((96..=PARTIAL_KEEP_BYTES).contains(&kept), "{kept}");
    for frame in frames {
        pair.receive(Role::Server, &frame[..31]);
        assert_eq!(pair.server.connection.memory_bytes(), kept, "nothing was allocated anew");
        pair.receive(Role::Server, &frame[31..]);
        assert_eq!(pair.server.connection.memory_bytes(), kept);
    }
    assert_eq!(pair.server.close_reason(), None);

    let late = encode(control(Kind::Response, 0, 77), b"to nobody");
    pair.receive(Role::Client, &late[..33]);
    pair.receive(Role::Client, &late[33..]);
    assert!(pair.client.connection.memory_bytes() >= late.len());
}

#[test]
fn a_frame_that_never_ends_costs_one_step_and_its_memory_goes_with_the_connection() {
    let mut pair = Pair::open();
    let header = Header { frame_bytes: 16 << 20, ..control(Kind::Request, 0, 0) };
    pair.receive(Role::Server, &header.encode());
    assert!(pair.server.connection.memory_bytes() <= PARTIAL_STEP_BYTES);
    pair.receive(Role::Server, &vec![0; 1 << 20]);
    assert!(pair.server.connection.memory_bytes() >= 1 << 20);
    pair.advance(Duration::from_secs(1_000));
    assert!(pair.server.close_reason().is_some());
    assert!(pair.server.connection.memory_bytes() < 1_000, "not held until the socket is closed");
}

#[test]
fn a_thousand_deadlines_leave_no_queue_behind() {
    let mut pair = Pair::open();
    for _ in 0..1_000 {
        pair.call_within(LATER, Duration::from_millis(5));
    }
    pair.settle();
    pair.advance(Duration::from_millis(5));
    assert_eq!(pair.client.seen.len(), 1_000);
    pair.advance(ConnectionConfig::default().keepalive_interval * 2);
    assert_eq!(pair.client.connection.memory_bytes(), ports_bytes(&pair.client.connection));
}

fn encode(header: Header, body: &[u8]) -> Vec<u8> {
    let mut output = Output::default();
    Framer::default().push(&mut output, header, &[], Payload::Copied(body));
    output.to_vec()
}
