//! What a command costs before it is known what it means, and an answer after: parse, reply, slot.

use catena_kv::resp::{Limits, Parsed, Parser, Protocol, Reply};
use catena_kv::slot::Slot;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000001\r\n";
const SET: &[u8] =
    b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$32\r\n0123456789abcdef0123456789abcdef\r\n";

/// Commands of one receive, as a client sends them with `-P 16`.
const DEPTH: usize = 16;

/// Parses all of `stream`, and looks at each command's name and last argument as a caller would.
fn parse_all(parser: &mut Parser, stream: &[u8]) -> usize {
    let (mut read, mut seen) = (0, 0);
    loop {
        match parser.next(&stream[read..]) {
            Ok(Parsed::Command { args, read: bytes }) => {
                seen += args.name().len() + args[args.len() - 1].len();
                read += bytes;
            }
            Ok(Parsed::Empty { read: bytes }) => read += bytes,
            Ok(Parsed::Incomplete { .. }) => return seen,
            Err(error) => panic!("the stream is good: {error}"),
        }
    }
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp/parse");
    let thousand = [b"*2\r\n$4\r\nECHO\r\n$1000\r\n", &[b'x'; 1000][..], b"\r\n"].concat();
    for (name, command, depth) in [
        ("get", GET, 1),
        ("set", SET, 1),
        ("get_pipeline", GET, DEPTH),
        ("set_pipeline", SET, DEPTH),
        ("echo_1000_pipeline", &thousand, DEPTH),
        ("inline_ping", b"PING\r\n", 1),
    ] {
        let stream = command.repeat(depth);
        let mut parser = Parser::new(Limits::default());
        group.throughput(Throughput::Elements(depth as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| parse_all(&mut parser, black_box(&stream)));
        });
    }
    group.finish();
}

/// Answers of one turn: the output is written from its start again once a pipeline's answers are in it.
fn reply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp/reply");
    group.throughput(Throughput::Elements(DEPTH as u64));
    let mut case = |name: &str, answer: &dyn Fn(&mut Reply<'_>)| {
        let mut out = Vec::with_capacity(4096);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                let mut reply = Reply::new(black_box(&mut out), Protocol::Resp2);
                for _ in 0..DEPTH {
                    answer(&mut reply);
                }
            });
        });
    };
    let value = [b'x'; 32];
    case("ok", &|reply| reply.ok());
    case("bulk_32", &|reply| reply.bulk(black_box(&value)));
    case("null", &|reply| reply.null());
    case("integer_small", &|reply| reply.integer(black_box(1)));
    case("integer_large", &|reply| reply.integer(black_box(1_234_567_890_123)));
    case("double", &|reply| reply.double(black_box(1.234_5)));
    group.finish();
}

fn slot(criterion: &mut Criterion) {
    for (name, key) in
        [("slot/of_16", "key:000000000001"), ("slot/of_tagged", "user:{1000000001}:following")]
    {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| Slot::of(black_box(key.as_bytes())));
        });
    }
}

criterion_group!(benches, parse, reply, slot);
criterion_main!(benches);
