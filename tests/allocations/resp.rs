//! Commands and answers of the store's protocol in steady state: whole, in pieces and typed by hand.

use allocation_counter::measure;
use catena_kv::resp::{Limits, Parsed, Parser, Protocol, Reply};

const STREAM: &[u8] = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n\
    GET \"key\"\r\n\
    *2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";

/// Answers each command of the stream, which comes in pieces, with its own arguments.
fn serve(parser: &mut Parser, out: &mut Vec<u8>, piece: usize) -> usize {
    let (mut begin, mut commands) = (0, 0);
    for end in (piece..STREAM.len() + piece).step_by(piece) {
        let received = &STREAM[..end.min(STREAM.len())];
        loop {
            match parser.next(&received[begin..]) {
                Ok(Parsed::Command { args, read }) => {
                    out.clear();
                    let mut reply = Reply::new(out, Protocol::Resp3);
                    reply.array(args.len() + 2);
                    args.iter().for_each(|arg| reply.bulk(arg));
                    reply.integer(-1_234_567_890);
                    reply.double(0.1);
                    begin += read;
                    commands += 1;
                }
                Ok(Parsed::Empty { read }) => begin += read,
                Ok(Parsed::Incomplete { .. }) => break,
                Err(error) => panic!("the stream is good: {error}"),
            }
        }
    }
    commands
}

#[test]
fn commands_and_answers_allocate_nothing() {
    let (mut parser, mut out) = (Parser::new(Limits::default()), Vec::new());
    for piece in [STREAM.len(), 1, 7] {
        assert_eq!(serve(&mut parser, &mut out, piece), 3);
        let counted = measure(|| {
            for _ in 0..1_000 {
                serve(&mut parser, &mut out, piece);
            }
        });
        assert_eq!(counted.count_total, 0, "in pieces of {piece}");
    }
}
