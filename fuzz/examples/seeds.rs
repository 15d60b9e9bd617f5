//! Writes the seeds of all corpora, most from the golden frames: `cargo run --example seeds`, in `fuzz/`.

use catena_kv::effect::{EffectRef, RequestRef, SessionId};
use std::collections::BTreeMap;
use std::path::Path;

const GOLDEN: &str = include_str!("../../tests/wire/golden.txt");
const GOLDEN_OF_STORE: &str = include_str!("../../kv/src/native/wire/golden.txt");

/// Names of the store's golden layouts, by the number that the fuzz target knows them by.
const LAYOUTS: [&str; 7] = [
    "write request",
    "get answer",
    "scan request",
    "scan answer",
    "session open request",
    "session close request",
    "info answer",
];

const SERVER: u8 = 1;
const GREETED: u8 = 2;
const SCRIPT: u8 = 4;
const CALLS: u8 = 16;

const SMALL: u8 = 0;
const ALL_OF_REDIS: u8 = 6;

/// Streams of the Redis protocol: what clients send, and what each error is about.
const COMMANDS: [(&str, &[u8]); 9] = [
    ("get", b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000001\r\n"),
    (
        "pipeline",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$12\r\na\r\nb*1\r\n$1\r\nc\r\n*1\r\n$4\r\nPING\r\n",
    ),
    ("many", b"*11\r\n$4\r\nMGET\r\n$0\r\n\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n"),
    ("empty", b"\r\n\n*0\r\n*-1\r\n   \r\n*1\r\n$4\r\nQUIT\r\n"),
    ("inline", b"SET key 'it\\'s' \"\\x41\\n \\\"q\\\"\"\r\nPING\n"),
    ("unbalanced", b"SET key \"value\r\n"),
    ("huge-bulk", b"*1\r\n$4294967296\r\n"),
    ("huge-array", b"*1000000\r\n$100\r\n"),
    ("no-bulk", b"*1\r\n:1\r\n"),
];

fn main() -> std::io::Result<()> {
    let golden = golden();
    let of = |names: &[&str]| names.iter().flat_map(|name| golden[*name].clone()).collect();
    let at_server: Vec<u8> = of(&[
        "request",
        "request-empty",
        "ping",
        "request-deadline",
        "cancel",
        "request-metadata",
        "request-checksum",
        "pong",
        "go-away-draining",
    ]);
    let at_client: Vec<u8> =
        of(&["response", "response-empty", "ping", "response-checksum", "pong", "go-away-idle"]);

    for (name, frame) in &golden {
        write("deframer", name, &[&[0, 0], &frame[..]])?;
        let modes = match frame[4] {
            1 => vec![SERVER, 0],
            2 | 4 => vec![SERVER | GREETED],
            3 => vec![GREETED | CALLS],
            _ => vec![SERVER | GREETED, GREETED | CALLS],
        };
        for mode in modes {
            let side = if mode & SERVER != 0 { "server" } else { "client" };
            write("connection", &format!("{side}-{name}"), &[&[mode, 0, 0], &frame[..]])?;
        }
    }
    write("deframer", "stream", &[&[0, 0], &at_server[..]])?;
    write("deframer", "stream-in-pieces", &[&[7, 1], &at_client[..]])?;
    let hello = &golden["hello-client"][..];
    write("connection", "server-stream", &[&[SERVER, 0, 0], hello, &at_server])?;
    write("connection", "server-stream-slow", &[&[SERVER, 9, 30], hello, &at_server])?;
    write("connection", "client-stream", &[&[GREETED | CALLS, 13, 1], &at_client])?;
    for seed in 1..=4u64 {
        write("connection", &format!("script-{seed}"), &[&[SCRIPT], &noise(seed)])?;
    }
    for (name, stream) in COMMANDS {
        write("resp", name, &[&[0, ALL_OF_REDIS], stream])?;
        write("resp", &format!("{name}-in-pieces"), &[&[3, SMALL], stream])?;
    }
    for (number, line) in (0..).zip(GOLDEN_OF_STORE.lines()) {
        let Some((name, digits)) = line.split_once(": ") else { continue };
        let Some(layout) = LAYOUTS.iter().position(|layout| *layout == name) else { continue };
        let bytes: Vec<u8> = (0..digits.len() / 2)
            .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hexadecimal"))
            .collect();
        write("layouts", &format!("line-{number}"), &[&[layout as u8], &bytes])?;
    }
    write("layouts", "effects", &[&[7], &effects()])
}

/// One of each kind.
fn effects() -> Vec<u8> {
    let session = SessionId { epoch: 7, index: 9 };
    let (number, first_unanswered) = (5, 3);
    let request = RequestRef { session, number, first_unanswered, status: 0, result: b"ok" };
    let mut bytes = Vec::new();
    for effect in [
        EffectRef::Put { key: b"a", value: b"value", expires_at: None },
        EffectRef::Put { key: b"a", value: b"value", expires_at: Some(1) },
        EffectRef::Delete { key: b"a" },
        EffectRef::Expire { key: b"a", expires_at: None },
        EffectRef::Splice { key: b"a", offset: 3, bytes: b"xy" },
        EffectRef::Clear,
        EffectRef::NoOp,
        EffectRef::OpenSession { lifetime_ms: 60_000 },
        EffectRef::CloseSession { session },
        EffectRef::Request(request),
    ] {
        effect.encode(&mut bytes);
    }
    bytes
}

fn golden() -> BTreeMap<String, Vec<u8>> {
    let mut frames = BTreeMap::new();
    let mut name = String::new();
    for line in GOLDEN.lines().filter(|line| !line.starts_with(['#', 'w'])) {
        let line = line.split(';').next().expect("split gives at least one part").trim();
        match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(new_name) => name = new_name.to_owned(),
            None => {
                let frame: &mut Vec<u8> = frames.entry(name.clone()).or_default();
                let byte = |pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits");
                frame.extend(line.split_whitespace().map(byte));
            }
        }
    }
    frames.remove("");
    frames
}

/// Bytes that mean some script; the fuzzer makes better ones of them.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..400).map(|_| next()).collect()
}

fn write(target: &str, name: &str, parts: &[&[u8]]) -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(name), parts.concat())
}
