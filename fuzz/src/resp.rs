//! The Redis protocol's parser: cutting changes nothing, memory is bounded by what was sent, what is parsed
//! can be said again.

use catena_kv::resp::{Limits, Parsed, Parser, Protocol, ProtocolError, Reply};

/// The first byte says how the stream is cut (0: not at all), the second which limits hold; the stream
/// follows.
pub fn run(data: &[u8]) {
    let [cut, options, stream @ ..] = data else { return };
    let limits = limits(*options);
    let whole = outcome(stream, stream.len().max(1), limits);
    if *cut > 0 {
        let pieces = outcome(stream, usize::from(*cut), limits);
        assert_eq!(pieces, whole, "cut every {cut} bytes");
    }
    if let Some(error) = whole.error {
        let (mut text, mut out) = (Vec::new(), Vec::new());
        error.write(&mut text);
        Reply::new(&mut out, Protocol::Resp2).error(&text);
        let line = out.strip_prefix(b"-ERR ").and_then(|rest| rest.strip_suffix(b"\r\n"));
        assert!(line.is_some_and(|line| !line.contains(&b'\n') && !line.contains(&b'\r')));
    }
    for command in &whole.commands {
        let again = outcome(&encode(command), usize::MAX, Limits::default());
        assert_eq!(again.commands, [&command[..]], "what was parsed is said again");
    }
}

/// What one stream came to.
#[derive(Debug, PartialEq)]
struct Outcome {
    commands: Vec<Vec<Vec<u8>>>,
    error: Option<ProtocolError>,
    left: usize,
}

/// Small enough for a fuzzer to meet each of them, but for the last.
fn limits(options: u8) -> Limits {
    let small = |args_max, bulk_bytes_max, command_bytes_max, line_bytes_max| Limits {
        args_max,
        bulk_bytes_max,
        command_bytes_max,
        line_bytes_max,
        unauthenticated: options & 1 != 0,
    };
    match options >> 1 & 3 {
        0 => small(16, 64, 256, 32),
        1 => small(3, 1_000, 1_000, 100),
        2 => small(1 << 20, 1 << 20, 1 << 20, 1 << 10),
        _ => Limits { unauthenticated: options & 1 != 0, ..Limits::default() },
    }
}

fn outcome(stream: &[u8], piece: usize, limits: Limits) -> Outcome {
    let mut parser = Parser::new(limits);
    let mut outcome = Outcome { commands: Vec::new(), error: None, left: 0 };
    let (mut begin, mut end) = (0, 0);
    for chunk in stream.chunks(piece) {
        end += chunk.len();
        loop {
            // At another address each time, and without anything behind it.
            let unread = stream[begin..end].to_vec();
            match parser.next(&unread) {
                Ok(Parsed::Command { args, read }) => {
                    assert!(args.len() > 0 && read > 0, "a command has a name");
                    outcome.commands.push(args.iter().map(<[u8]>::to_vec).collect());
                    begin += read;
                }
                Ok(Parsed::Empty { read }) => {
                    assert!(read > 0, "an empty command is made of something");
                    begin += read;
                }
                Ok(Parsed::Incomplete { missing_at_least }) => {
                    assert!(missing_at_least > 0, "an incomplete command lacks something");
                    break;
                }
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
        // A word of an inline command is two bytes at least, its span eight; vectors double. What an idle
        // parser keeps comes on top.
        assert!(parser.memory_bytes() <= 16 * end + (8 << 10), "memory of what has arrived");
    }
    outcome.left = end - begin;
    outcome
}

fn encode(command: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut reply = Reply::new(&mut stream, Protocol::Resp2);
    reply.array(command.len());
    command.iter().for_each(|arg| reply.bulk(arg));
    stream
}
