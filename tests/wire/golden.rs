//! Every kind of frame and every option, byte by byte, both ways.

use crate::reference;
use bytes::Bytes;
use catena_engine::config::ConnectionConfig;
use catena_engine::rpc::connection::{CallRequest, Connection, Event, Role};
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::deframer::{Deframer, Input};
use catena_engine::wire::frame::{
    CallId, GoAwayReason, MethodId, PongHead, Priority, RequestHead, ResponseHead, Route, control,
};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::header::{Flags, HEADER_BYTES, Header, Kind};
use catena_engine::wire::hello::{Hello, ShardMap};
use catena_engine::wire::metadata::{IDEMPOTENCY, Idempotency, MetadataBuf, TOKEN, TRACE_CONTEXT};
use catena_engine::wire::output::Output;
use catena_engine::wire::records;
use catena_engine::wire::status::Status;
use std::collections::BTreeMap;
use std::sync::Arc;

const GOLDEN: &str = include_str!("golden.txt");
const PROTOCOL: &str = include_str!("../../docs/protocol.md");

/// The frames of a text by name: `[name]`, an optional `what:` line, lines of hexadecimal digits.
pub fn parse(text: &str) -> BTreeMap<String, Vec<u8>> {
    let mut frames = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        let line = line.split([';', '#']).next().expect("split gives at least one part").trim();
        if let Some(new_name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name = new_name.to_owned();
            let before = frames.insert(name.clone(), Vec::new());
            assert!(before.is_none(), "{name} stands there twice");
        } else if !line.starts_with("what:") {
            for pair in line.split_whitespace() {
                let byte = u8::from_str_radix(pair, 16).unwrap_or_else(|_| {
                    panic!("{name}: {pair:?} is no byte in hexadecimal digits");
                });
                frames.get_mut(&name).expect("bytes follow a name").push(byte);
            }
        }
    }
    frames
}

/// All golden frames, for tests that need good bytes.
pub fn all() -> BTreeMap<String, Vec<u8>> {
    parse(GOLDEN)
}

/// What is encoded to a golden frame, and decoded from it.
struct Meaning {
    name: &'static str,
    header: Header,
    metadata: Vec<u8>,
    payload: Vec<u8>,
    payload_crc: bool,
}

fn plain(name: &'static str, header: Header, payload: &[u8]) -> Meaning {
    let payload = payload.to_vec();
    Meaning { name, header, metadata: Vec::new(), payload, payload_crc: false }
}

const ECHO: MethodId = MethodId::of("echo");

fn request_head(slot: u32, generation: u32) -> RequestHead {
    RequestHead {
        call: CallId::new(slot, generation),
        method: ECHO,
        priority: Priority::NORMAL,
        time_left_us: 0,
        route: Route::ANY,
        repeat: false,
        hops: 0,
    }
}

fn response_head(generation: u32, status: Status, load: [u32; 3]) -> ResponseHead {
    let [queue_delay_us, service_us, in_flight] = load;
    let call = CallId::new(0, generation);
    ResponseHead { call, status, queue_delay_us, service_us, in_flight }
}

const UNKNOWN_LOAD: [u32; 3] = [0, 0, ResponseHead::LOAD_UNKNOWN];

fn server_config() -> ConnectionConfig {
    ConnectionConfig {
        payload_crc: true,
        idle_timeout: Some(Duration::from_secs(60)),
        ..Default::default()
    }
}

fn hellos() -> Vec<Meaning> {
    let minimal = Hello {
        version_max: 1,
        version_min: 1,
        frame_bytes_max: 0x0101_0000,
        in_flight_max: 0,
        payload_crc: false,
        idle_timeout_ms: 0,
        shards: ShardMap::default(),
    };
    let server = Hello {
        in_flight_max: 1_024,
        payload_crc: true,
        idle_timeout_ms: 60_000,
        shards: ShardMap { here: 1, ports: vec![7001, 7002] },
        ..minimal.clone()
    };
    let mut later = Vec::new();
    records::push(&mut later, 2, &8u32.to_le_bytes());
    records::push(&mut later, 777, b"later");
    let later_header = Header { code: 3, ..minimal.header() };
    vec![
        plain("hello-minimal", minimal.header(), b""),
        plain("hello-client", minimal.header(), &minimal.encode_body()),
        plain("hello-server", server.header(), &server.encode_body()),
        plain("hello-later", later_header, &later),
    ]
}

fn requests() -> Vec<Meaning> {
    let trace: Vec<u8> = (0..24).chain([1]).collect();
    let mut all = MetadataBuf::default();
    all.push(TRACE_CONTEXT, &trace).expect("short");
    all.push(TOKEN, b"secret").expect("short");
    all.push_idempotency(Idempotency { session: 9, number: 1 }).expect("short");
    let mut token = MetadataBuf::default();
    token.push(TOKEN, b"secret").expect("short");
    let urgent = RequestHead {
        priority: Priority::CRITICAL,
        time_left_us: 250_000,
        route: Route(42),
        repeat: true,
        ..request_head(2, 7)
    };
    let passed_on = RequestHead { hops: 3, repeat: true, ..request_head(0, 4) };
    let background = RequestHead { priority: Priority::BACKGROUND, ..request_head(0, 3) };
    vec![
        plain("request", request_head(0, 1).header(), b"hello"),
        plain("request-empty", request_head(1, 1).header(), b""),
        plain("request-deadline", urgent.header(), b"x"),
        plain("request-hops", passed_on.header(), b"x"),
        Meaning {
            metadata: all.as_metadata().as_bytes().to_vec(),
            ..plain("request-metadata", request_head(3, 1).header(), b"hello")
        },
        Meaning {
            payload_crc: true,
            ..plain("request-checksum", request_head(0, 2).header(), b"hello")
        },
        Meaning {
            payload_crc: true,
            metadata: token.as_metadata().as_bytes().to_vec(),
            ..plain("request-metadata-checksum", background.header(), b"hello")
        },
    ]
}

fn responses() -> Vec<Meaning> {
    let ok = |generation, load| response_head(generation, Status::OK, load).header();
    let head = |generation, status, load| response_head(generation, status, load).header();
    let empty = ResponseHead { call: CallId::new(1, 1), ..response_head(1, Status::OK, [1, 2, 1]) };
    let (wrong_shard, application) = (Status::WRONG_SHARD, Status::application(7));
    vec![
        plain("response", ok(1, [12, 345, 6]), b"hello"),
        plain("response-empty", empty.header(), b""),
        Meaning { payload_crc: true, ..plain("response-checksum", ok(2, [12, 345, 6]), b"hello") },
        plain("response-shed", head(4, Status::SHED, [7_000, 0, 900]), b""),
        plain("response-draining", head(5, Status::DRAINING, UNKNOWN_LOAD), b""),
        plain("response-wrong-shard", head(6, wrong_shard, [1, 0, 1]), &[3, 0, 0, 0]),
        plain("response-deadline-passed", head(7, Status::DEADLINE_PASSED, UNKNOWN_LOAD), b""),
        plain("response-application", head(8, application, [3, 4, 5]), b"no such key"),
    ]
}

fn controls() -> Vec<Meaning> {
    let go_away = |reason: GoAwayReason| control(Kind::GoAway, reason.0, 0);
    let first = CallId::new(0, 1).0;
    let echo = 0x0102_0304_0506_0708;
    let load = PongHead { echo, queue_delay_us: 12, service_us: 345, in_flight: 6 };
    let mistake = b"the peer broke the protocol: call slot 9 is beyond the window of 8 calls";
    vec![
        plain("cancel", control(Kind::Cancel, 0, CallId::new(2, 7).0), b""),
        plain("ping", control(Kind::Ping, 0, 0x0102_0304_0506_0708), b""),
        plain("pong", PongHead::without_load(0x0102_0304_0506_0708).header(), b""),
        plain("pong-load", load.header(), b""),
        plain("go-away-draining", go_away(GoAwayReason::DRAINING), b"draining"),
        plain("go-away-protocol-error", go_away(GoAwayReason::PROTOCOL_ERROR), mistake),
        plain("go-away-version-mismatch", go_away(GoAwayReason::VERSION_MISMATCH), b""),
        plain("go-away-idle", go_away(GoAwayReason::IDLE), b""),
        plain("go-away-overloaded", go_away(GoAwayReason::OVERLOADED), b""),
        plain("go-away-too-slow", go_away(GoAwayReason::TOO_SLOW), b""),
        plain("go-away-unknown", go_away(GoAwayReason(777)), b""),
        Meaning {
            payload_crc: true,
            ..plain("go-away-checksum", go_away(GoAwayReason::DRAINING), b"draining")
        },
        plain("stream-item", control(Kind::StreamItem, 0, first), b""),
        plain("stream-end", control(Kind::StreamEnd, 0, first), b""),
        plain("credit", control(Kind::Credit, 0, first), b""),
    ]
}

fn meanings() -> Vec<Meaning> {
    [hellos(), requests(), responses(), controls()].into_iter().flatten().collect()
}

#[test]
fn every_meaning_is_encoded_to_its_golden_bytes() {
    let golden = all();
    for meaning in meanings() {
        for is_shared in [false, true] {
            let payload = match is_shared {
                false => Payload::Copied(&meaning.payload),
                true => Payload::Shared(Bytes::copy_from_slice(&meaning.payload)),
            };
            let mut output = Output::default();
            let framer = Framer::new(meaning.payload_crc);
            framer.push(&mut output, meaning.header, &meaning.metadata, payload);
            assert_eq!(hex(&output.to_vec()), hex(&golden[meaning.name]), "{}", meaning.name);
        }
    }
}

#[test]
fn every_golden_frame_is_decoded_to_its_meaning() {
    let mut golden = all();
    for meaning in meanings() {
        let bytes = golden.remove(meaning.name).expect("every meaning has its bytes");
        let mut deframer = Deframer::new(1 << 20);
        let mut input = Input::new(&bytes);
        let frame = deframer.next(&mut input).expect("good bytes").expect("a whole frame");
        assert_eq!(input.left(), 0, "{}", meaning.name);
        let mut flags = meaning.header.flags;
        if !meaning.metadata.is_empty() {
            flags = flags.with(Flags::METADATA);
        }
        if meaning.payload_crc {
            flags = flags.with(Flags::PAYLOAD_CRC);
        }
        let header = Header { frame_bytes: bytes.len() as u32, flags, ..meaning.header };
        assert_eq!(frame.header, header, "{}", meaning.name);
        assert_eq!(frame.body.metadata().as_bytes(), meaning.metadata, "{}", meaning.name);
        assert_eq!(frame.body.payload(), meaning.payload, "{}", meaning.name);
        match header.kind {
            Kind::Request => {
                let again = RequestHead::from_header(&header).header();
                assert_eq!(Header { frame_bytes: header.frame_bytes, flags, ..again }, header);
                assert_eq!(again.flags.has(Flags::REPEAT), flags.has(Flags::REPEAT));
            }
            Kind::Response => {
                let again = ResponseHead::from_header(&header).header();
                assert_eq!(Header { frame_bytes: header.frame_bytes, flags, ..again }, header);
            }
            Kind::Hello => {
                Hello::decode(&header, frame.body.payload()).expect("a good hello");
            }
            _ => {}
        }
    }
    assert!(golden.is_empty(), "nobody knows what these mean: {:?}", golden.keys());
}

#[test]
fn every_kind_has_a_golden_frame() {
    let mut kinds: Vec<u8> = all().values().map(|bytes| bytes[4]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, (1..=10).collect::<Vec<u8>>());
}

#[test]
fn the_reference_writes_the_same_bytes() {
    let golden = all();
    assert_eq!(reference::hello(), golden["hello-minimal"]);
    for (name, bytes) in &golden {
        let mut resealed = bytes.clone();
        reference::reseal(&mut resealed);
        assert_eq!(hex(&resealed), hex(bytes), "{name}");
    }
    let request = reference::request(0, ECHO.0, b"hello");
    assert_eq!(hex(&request.encode()), hex(&golden["request"]));
    let flagged = reference::RawFrame {
        flags: reference::PAYLOAD_CRC,
        call: 2 << 32,
        ..reference::request(0, ECHO.0, b"hello")
    };
    assert_eq!(hex(&flagged.encode()), hex(&golden["request-checksum"]));
}

/// The conversation that `docs/protocol.md` walks through, between two real connections.
#[test]
fn a_first_call_is_these_bytes() {
    let golden = all();
    let now = Instant::from_nanos(1);
    let shards = ShardMap { here: 1, ports: vec![7001, 7002] };
    let config = Arc::new(ConnectionConfig::default());
    let mut client = Connection::new(Role::Client, config, &ShardMap::default(), now);
    let mut server = Connection::new(Role::Server, Arc::new(server_config()), &shards, now);
    let client_hello = said(&mut client);
    let server_hello = said(&mut server);
    assert_eq!(hex(&client_hello), hex(&golden["hello-client"]));
    assert_eq!(hex(&server_hello), hex(&golden["hello-server"]));
    assert!(matches!(heard(&mut server, &client_hello), Some(Event::Opened)));
    assert!(matches!(heard(&mut client, &server_hello), Some(Event::Opened)));

    client.start_call(CallRequest::new(ECHO, b"hello"), 0, now).expect("open");
    let request = said(&mut client);
    assert_eq!(hex(&request), hex(&golden["request"]));
    let Some(Event::Request { head, body, .. }) = heard(&mut server, &request) else {
        panic!("a request arrives as one")
    };
    let answer = response_head(1, Status::OK, [12, 345, 6]);
    assert_eq!(answer.call, head.call);
    server.respond(answer, Payload::Copied(body.payload()));
    let response = said(&mut server);
    assert_eq!(hex(&response), hex(&golden["response"]));
    let Some(Event::Response { head, body, .. }) = heard(&mut client, &response) else {
        panic!("a response arrives as one")
    };
    assert_eq!((head, body.payload()), (answer, &b"hello"[..]));

    server.drain(now);
    let goodbye = said(&mut server);
    assert_eq!(hex(&goodbye), hex(&golden["go-away-draining"]));
    assert!(matches!(heard(&mut client, &goodbye), Some(Event::PeerLeaves { .. })));
    assert!(client.is_closed() && !server.is_closed(), "the client closes first");
}

fn said(connection: &mut Connection) -> Vec<u8> {
    connection.poll_transmit().expect("something to say").to_vec()
}

fn heard<'a>(connection: &mut Connection, bytes: &'a [u8]) -> Option<Event<'a>> {
    connection.handle_bytes(&mut Input::new(bytes), Instant::from_nanos(1))
}

/// Whatever the protocol document shows as an example is a golden frame.
#[test]
fn the_document_shows_the_golden_bytes() {
    let golden = all();
    let mut shown = Vec::new();
    for block in PROTOCOL.split("```").skip(1).step_by(2) {
        let Some(block) = block.strip_prefix("text\n[") else { continue };
        for (name, bytes) in parse(&format!("[{block}")) {
            let expected = golden.get(&name).unwrap_or_else(|| panic!("no golden frame {name}"));
            assert_eq!(hex(&bytes), hex(expected), "{name}");
            shown.push(name);
        }
    }
    for name in ["hello-client", "hello-server", "request", "response", "request-metadata-checksum"]
    {
        assert!(shown.iter().any(|shown| shown == name), "the document shows {name}");
    }
}

#[test]
fn a_header_is_as_long_as_the_document_says() {
    assert_eq!(HEADER_BYTES, 32);
    assert_eq!((TRACE_CONTEXT, TOKEN, IDEMPOTENCY), (1, 2, 3));
    assert_eq!(ECHO, MethodId(0xD49D_D484), "FNV-1a of \"echo\"");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}
