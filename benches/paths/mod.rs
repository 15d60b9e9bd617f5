//! The hot paths, each as a value that can be run again and again: for criterion, which reports
//! time, and for callgrind, which counts instructions.

mod memory_driver;

use catena_engine::Router;
use catena_engine::driver::Driver;
use catena_engine::mailbox::mesh;
use catena_engine::rpc::in_flight::InFlight;
use catena_engine::shard::{Shard, ShardConfig};
use catena_engine::time::Instant;
use catena_engine::wire::deframer::{Deframer, Input};
use catena_engine::wire::frame::{CallId, MethodId};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::header::{Flags, Header, Kind};
use catena_engine::wire::hello::{Hello, ShardMap, VERSION_MAX, VERSION_MIN};
use catena_engine::wire::output::Output;
use memory_driver::MemoryDriver;
use std::hint::black_box;
use std::sync::Arc;

/// Payload of every frame, as in the floor measurements.
const PAYLOAD: [u8; 32] = [7; 32];

/// One hot path: its name, how many operations one run is, and the run.
pub struct Path {
    /// Name on the command line and in reports.
    pub name: &'static str,
    /// Operations of one run.
    pub operations: u64,
    /// Does them once.
    pub run: Box<dyn FnMut()>,
}

/// All of them.
pub fn all() -> Vec<Path> {
    vec![
        header_encode(),
        header_decode(),
        deframe(),
        frame(),
        dispatch(),
        in_flight(),
        turn("turn_1x1", 1, 1),
        turn("turn_32x1", 32, 1),
        turn("turn_32x16", 32, 16),
    ]
}

fn header(call: u64) -> Header {
    Header {
        frame_bytes: 64,
        kind: Kind::Request,
        flags: Flags::NONE,
        code: 0x8000,
        call,
        first: MethodId::of("echo").0,
        second: 1_000_000,
        third: 0,
    }
}

fn header_encode() -> Path {
    let header = header(7);
    let run = move || {
        black_box(black_box(&header).encode());
    };
    Path { name: "header_encode", operations: 1, run: Box::new(run) }
}

fn header_decode() -> Path {
    let bytes = header(7).encode();
    let run = move || {
        let _ = black_box(Header::decode(black_box(&bytes)));
    };
    Path { name: "header_decode", operations: 1, run: Box::new(run) }
}

/// Sixteen requests of 64 bytes, as one receive brings them.
fn deframe() -> Path {
    let chunk = requests(16);
    let mut deframer = Deframer::new(1 << 20);
    let run = move || {
        let mut input = Input::new(black_box(&chunk));
        while let Some(frame) = deframer.next(&mut input).expect("our own frames") {
            black_box(frame.body.payload());
        }
    };
    Path { name: "deframe", operations: 16, run: Box::new(run) }
}

/// Sixteen answers of 64 bytes into one output.
fn frame() -> Path {
    let framer = Framer::default();
    let mut output = Output::with_capacity(4_096);
    let run = move || {
        for call in 0..16 {
            framer.push(&mut output, header(call), &[], Payload::Copied(black_box(&PAYLOAD)));
        }
        black_box(output.len());
        output.clear(1 << 20);
    };
    Path { name: "frame", operations: 16, run: Box::new(run) }
}

/// Method id to handler, among the twenty methods of a middling service.
fn dispatch() -> Path {
    const NAMES: [&str; 20] = [
        "get", "set", "del", "incr", "scan", "cas", "ttl", "expire", "append", "strlen", "echo",
        "ping", "info", "auth", "watch", "lock", "unlock", "push", "pop", "len",
    ];
    let mut router = NAMES
        .iter()
        .fold(Router::new(), |router, name| router.method(name, |_, reply| reply.ok(b"")));
    let id = MethodId::of("echo");
    let run = move || {
        black_box(router.find(black_box(id)).is_some());
    };
    Path { name: "dispatch", operations: 1, run: Box::new(run) }
}

/// A call starts and ends, with fifteen others in flight.
fn in_flight() -> Path {
    let mut calls = InFlight::default();
    for token in 0..15u64 {
        calls.start(1_024, Some(Instant::from_nanos(1_000)), token);
    }
    let run = move || {
        let call = calls.start(1_024, Some(Instant::from_nanos(2_000)), 99).expect("room");
        black_box(calls.end_and_free(black_box(call)));
    };
    Path { name: "in_flight", operations: 1, run: Box::new(run) }
}

/// One whole turn of a shard: a receive with `depth` requests on each of `connections`, every one
/// dispatched to an inline echo and answered, one send a connection. The driver is memory; what is
/// left is all that the engine itself adds to the kernel's work.
fn turn(name: &'static str, connections: u32, depth: u32) -> Path {
    let mut driver = MemoryDriver::new(connections);
    let config = ShardConfig::default();
    let mailboxes = mesh(1, 64).pop().expect("one shard");
    let echo = |_: &_| Router::new().method("echo", |request, reply| reply.ok(request.payload()));
    let mut shard = Shard::new(config, &driver, mailboxes, Arc::default(), echo);
    driver.accept_all();
    driver.receive_all(&hello());
    shard.turn(&mut driver);
    let chunk = requests(depth);
    let answers = 64 * depth as usize * connections as usize;
    let run = move || {
        driver.receive_all(&chunk);
        driver.sent_bytes = 0;
        driver.poll().expect("memory does not fail");
        shard.turn(&mut driver);
        assert_eq!(driver.sent_bytes, answers, "every request is answered");
    };
    Path { name, operations: u64::from(connections * depth), run: Box::new(run) }
}

fn requests(count: u32) -> Vec<u8> {
    let mut output = Output::default();
    for slot in 0..count {
        let call = CallId::new(slot, 1).0;
        Framer::default().push(&mut output, header(call), &[], Payload::Copied(&PAYLOAD));
    }
    output.to_vec()
}

fn hello() -> Vec<u8> {
    let hello = Hello {
        version_max: VERSION_MAX,
        version_min: VERSION_MIN,
        frame_bytes_max: 1 << 24,
        in_flight_max: 0,
        payload_crc: false,
        idle_timeout_ms: 0,
        shards: ShardMap::default(),
    };
    let mut output = Output::default();
    let body = hello.encode_body();
    Framer::default().push(&mut output, hello.header(), &[], Payload::Copied(&body));
    output.to_vec()
}
