use super::*;
use proptest::prelude::*;

/// What one stream came to.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// Each command; an empty one is nothing.
    commands: Vec<Vec<Vec<u8>>>,
    error: Option<ProtocolError>,
    /// Bytes that belong to no whole command.
    left: usize,
}

/// Feeds `stream` in pieces, each at a new address, as a connection whose buffer moves would.
fn parse(parser: &mut Parser, stream: &[u8], pieces: &[usize]) -> Outcome {
    let mut outcome = Outcome { commands: Vec::new(), error: None, left: 0 };
    let (mut begin, mut end) = (0, 0);
    for piece in pieces.iter().copied().chain([stream.len()]) {
        end = (end + piece).min(stream.len());
        loop {
            let unread = stream[begin..end].to_vec();
            match parser.next(&unread) {
                Ok(Parsed::Command { args, read }) => {
                    outcome.commands.push(args.iter().map(<[u8]>::to_vec).collect());
                    begin += read;
                }
                Ok(Parsed::Empty { read }) => begin += read,
                Ok(Parsed::Incomplete { missing_at_least }) => {
                    assert!(missing_at_least > 0, "something is missing");
                    break;
                }
                Err(error) => return Outcome { error: Some(error), ..outcome },
            }
        }
    }
    outcome.left = end - begin;
    outcome
}

fn encode(command: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = format!("*{}\r\n", command.len()).into_bytes();
    for arg in command {
        stream.extend(format!("${}\r\n", arg.len()).bytes());
        stream.extend(arg);
        stream.extend(b"\r\n");
    }
    stream
}

fn tight() -> Limits {
    Limits {
        args_max: 20,
        bulk_bytes_max: 100_000,
        command_bytes_max: 150_000,
        line_bytes_max: 64,
        unauthenticated: false,
    }
}

/// Checks `stream` whole and byte for byte.
#[track_caller]
fn check(limits: Limits, stream: &[u8], commands: &[&[&str]], error: Option<ProtocolError>) {
    let bytewise = vec![1; stream.len()];
    for pieces in [&[][..], &bytewise] {
        let outcome = parse(&mut Parser::new(limits), stream, pieces);
        let expected: Vec<Vec<Vec<u8>>> = commands
            .iter()
            .map(|args| args.iter().map(|arg| arg.as_bytes().to_vec()).collect())
            .collect();
        assert_eq!(outcome.commands, expected, "{}", stream.escape_ascii());
        assert_eq!(outcome.error, error, "{}", stream.escape_ascii());
    }
}

#[test]
fn commands_and_what_is_between_them() {
    let good =
        |stream: &str, commands: &[&[&str]]| check(tight(), stream.as_bytes(), commands, None);
    good("*1\r\n$4\r\nPING\r\n", &[&["PING"]]);
    good("*2\r\n$3\r\nGET\r\n$0\r\n\r\n", &[&["GET", ""]]);
    good("*1\r\n$4\r\n\r\n\r\n\r\n", &[&["\r\n\r\n"]]);
    good("*2\r\n$1\r\n*\r\n$11\r\n*1\r\n$1\r\nx\r\n\r\n", &[&["*", "*1\r\n$1\r\nx\r\n"]]);
    good("*0\r\n*-1\r\n*-99\r\n\r\n\n  \r\n*1\r\n$1\r\na\r\n", &[&["a"]]);
    good("PING\r\n*1\r\n$1\r\na\r\nPING\n", &[&["PING"], &["a"], &["PING"]]);
    let args: Vec<String> = (0..12).map(|number| "x".repeat(number * 9)).collect();
    let command: Vec<Vec<u8>> = args.iter().map(|arg| arg.clone().into_bytes()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    check(tight(), &encode(&command), &[&args], None);
}

#[test]
fn inline_commands_with_quotes() {
    let good = |stream: &str, args: &[&str]| {
        check(tight(), format!("{stream}\r\n").as_bytes(), &[args], None)
    };
    good("  SET  key\tvalue ", &["SET", "key", "value"]);
    good(r#"SET "a b" 'c d'"#, &["SET", "a b", "c d"]);
    good(r#"SET a"b c"d"#.trim_end_matches('d'), &["SET", "ab c"]);
    good(r#""\x41\x7a\n\r\t\b\a\q\"\\" '\'\n'"#, &["Az\n\r\t\x08\x07q\"\\", "'\\n"]);
    good(r#""" '' x"#, &["", "", "x"]);
    good(r#""\x4" "\xg1""#, &["x4", "xg1"]);
    good("a\x0bb\x0c \x0bc", &["a\x0bb\x0c", "c"]);
    good("a\rb", &["a", "b"]);
    for unbalanced in
        [r#"a "b"#, "a 'b", r#"a "b"c"#, "'a'b", r#""a\""#, "'a\\'", r#"""a"#, "\"a\\"]
    {
        let line = format!("{unbalanced}\r\n");
        check(tight(), line.as_bytes(), &[], Some(ProtocolError::UnbalancedQuotes));
    }
}

#[test]
fn lengths_that_are_none() {
    let bad = |stream: &str, error| check(tight(), stream.as_bytes(), &[], Some(error));
    for count in [
        "",
        "x",
        "+1",
        "01",
        "-0",
        "1x",
        " 1",
        "1 ",
        "21",
        "1000000",
        "2147483648",
        "--1",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "99999999999999999999999999999999",
        "1\n",
    ] {
        bad(&format!("*{count}\r\n"), ProtocolError::InvalidMultibulkLength);
    }
    bad("*1\rx\r\n", ProtocolError::InvalidMultibulkLength);
    for length in [
        "",
        "x",
        "+1",
        "01",
        "-1",
        "-0",
        "1x",
        "100001",
        "4294967296",
        "18446744073709551615",
        "-9223372036854775808",
    ] {
        bad(&format!("*1\r\n${length}\r\n"), ProtocolError::InvalidBulkLength);
    }
    bad("*1\r\n$3\rx\r\n", ProtocolError::InvalidBulkLength);
    bad("*1\r\n$3\r\nabcd\r\n", ProtocolError::InvalidBulkLength);
    bad("*1\r\n$3\r\nab\r\n\n", ProtocolError::InvalidBulkLength);
    bad("*1\r\n:", ProtocolError::ExpectedBulk { got: b':' });
    bad("*2\r\n$1\r\na\r\n\r\n", ProtocolError::ExpectedBulk { got: b'\r' });
    bad("*2\r\n$1\r\na\r\n*1", ProtocolError::ExpectedBulk { got: b'*' });
    // The least number is a number, and stands for no arguments.
    check(tight(), b"*-9223372036854775808\r\n", &[], None);
}

#[test]
fn limits_hold_as_soon_as_they_can_be_seen() {
    let long = "1".repeat(64);
    let bad = |stream: String, error| check(tight(), stream.as_bytes(), &[], Some(error));
    bad(format!("*{long}"), ProtocolError::TooBigMultibulkCount);
    bad(format!("*1\r\n${long}"), ProtocolError::TooBigBulkCount);
    bad(format!("{long}1"), ProtocolError::TooBigInline);
    bad(format!("{long}1\n"), ProtocolError::TooBigInline);
    bad("a ".repeat(21) + "\n", ProtocolError::TooBigInline);
    check(tight(), format!("{long}\n").as_bytes(), &[&[&long]], None);
    // Two arguments that are allowed each, and not together.
    let first = encode(&[vec![b'x'; 100_000]]);
    let stream = [b"*2", &first[2..], b"$60000\r\n"].concat();
    let outcome = parse(&mut Parser::new(tight()), &stream, &[]);
    assert_eq!(outcome.error, Some(ProtocolError::TooBigCommand));
}

#[test]
fn less_is_allowed_before_authentication_and_all_after() {
    let before = Limits { unauthenticated: true, ..Limits::default() };
    let bad = |stream: &str, error| check(before, stream.as_bytes(), &[], Some(error));
    bad("*11\r\n", ProtocolError::UnauthenticatedMultibulkLength);
    bad("*1000000\r\n", ProtocolError::UnauthenticatedMultibulkLength);
    bad("*2147483647\r\n", ProtocolError::UnauthenticatedMultibulkLength);
    bad("*2147483648\r\n", ProtocolError::InvalidMultibulkLength);
    bad("*1\r\n$16385\r\n", ProtocolError::UnauthenticatedBulkLength);
    bad("*1\r\n$4294967296\r\n", ProtocolError::InvalidBulkLength);
    check(before, b"*10\r\n$16384\r\n", &[], None);

    let mut parser = Parser::new(before);
    assert_eq!(parse(&mut parser, b"AUTH x\r\n", &[]).commands.len(), 1);
    parser.set_limits(Limits { unauthenticated: false, ..before });
    let many = encode(&vec![b"x".to_vec(); 1_000]);
    assert_eq!(parse(&mut parser, &many, &[]).commands[0].len(), 1_000);
}

#[test]
fn what_is_announced_takes_no_memory() {
    let mut parser = Parser::default();
    let stream = b"*1048576\r\n$536870912\r\nabc";
    let Ok(Parsed::Incomplete { missing_at_least }) = parser.next(stream) else {
        panic!("the command is not whole");
    };
    assert_eq!(missing_at_least, 536_870_912 + 2 - 3);
    assert_eq!(parser.memory_bytes(), 0);
}

#[test]
fn what_a_large_command_took_is_given_back() {
    let mut parser = Parser::default();
    let _ = parse(&mut parser, &encode(&vec![b"x".to_vec(); 50_000]), &[]);
    assert!(parser.memory_bytes() >= 50_000 * size_of::<Span>());
    let _ = parse(&mut parser, &encode(&[b"PING".to_vec()]), &[]);
    assert!(parser.memory_bytes() <= ARGS_KEPT * size_of::<Span>());
    let inline = [&[b'x'; 60_000][..], b"\nPING\n"].concat();
    let _ = parse(&mut parser, &inline, &[]);
    assert!(parser.memory_bytes() <= ARGS_KEPT * size_of::<Span>() + INLINE_BYTES_KEPT);
}

#[test]
fn a_command_of_many_pieces_is_read_once() {
    let command = vec![vec![b'x'; 1_000]; 300];
    let stream = encode(&command);
    for piece in [1, 2, 3, 7, 100, 4096] {
        let mut parser = Parser::default();
        let outcome = parse(&mut parser, &stream, &vec![piece; stream.len() / piece]);
        assert_eq!(outcome.commands, [&command[..]]);
        assert_eq!(parser.looked_at, stream.len() - 300 * 1_000, "all but the arguments, once");
    }
    let inline = [&[b'x'; 60_000][..], b"\n"].concat();
    let mut parser = Parser::default();
    assert_eq!(parse(&mut parser, &inline, &vec![1; inline.len()]).commands.len(), 1);
    assert_eq!(parser.looked_at, inline.len());
}

#[test]
fn args_are_found_by_number() {
    let mut parser = Parser::default();
    let Ok(Parsed::Command { args, read: 9 }) = parser.next(b"GET a bc\nrest") else {
        panic!("a whole command");
    };
    assert_eq!(
        (args.len(), args.name(), args.get(2), args.get(3)),
        (3, &b"GET"[..], Some(&b"bc"[..]), None)
    );
    assert_eq!(&args[1], b"a");
    assert_eq!(args.iter().next_back(), Some(&b"bc"[..]));
    assert_eq!(format!("{args:?}"), r#"["GET", "a", "bc"]"#);
}

#[test]
fn errors_are_worded_as_redis_words_them() {
    let worded = |error: ProtocolError| {
        let mut text = Vec::new();
        error.write(&mut text);
        text
    };
    assert_eq!(
        worded(ProtocolError::UnbalancedQuotes),
        b"ERR Protocol error: unbalanced quotes in request"
    );
    let got = ProtocolError::ExpectedBulk { got: 0xFF };
    assert_eq!(worded(got), b"ERR Protocol error: expected '$', got '\xFF'");
    assert_eq!(got.to_string(), r"Protocol error: expected '$', got '\xff'");
}

/// Arguments of lengths on every path: none, one digit, two, more.
fn commands() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let byte = prop_oneof![any::<u8>(), proptest::sample::select(&b"\r\n$*"[..])];
    let arg = prop_oneof![
        8 => proptest::collection::vec(byte.clone(), 0..20),
        1 => proptest::collection::vec(byte, 90..130),
    ];
    let command = proptest::collection::vec(arg, 1..14);
    proptest::collection::vec(command, 1..5)
}

/// Bytes with much of what the parser looks for.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let piece = proptest::sample::select(
        &[
            "*",
            "$",
            "\r\n",
            "\r",
            "\n",
            "1",
            "2",
            "0",
            "-",
            "99",
            "\"",
            "'",
            "\\x4",
            " ",
            "a",
            "*2\r\n$1\r\na\r\n",
        ][..],
    );
    let piece = prop_oneof![
        4 => piece.prop_map(|text| text.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn commands_cut_anywhere_are_themselves(
        commands in commands(),
        pieces in proptest::collection::vec(0_usize..40, 0..40),
    ) {
        let stream: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        let mut parser = Parser::default();
        let outcome = parse(&mut parser, &stream, &pieces);
        let args: usize = commands.iter().flatten().map(Vec::len).sum();
        prop_assert_eq!(outcome, Outcome { commands, error: None, left: 0 });
        prop_assert_eq!(parser.looked_at, stream.len() - args);
    }

    #[test]
    fn garbage_cut_anywhere_is_the_same(
        stream in garbage(),
        pieces in proptest::collection::vec(0_usize..9, 0..40),
    ) {
        let whole = parse(&mut Parser::new(tight()), &stream, &[]);
        let mut parser = Parser::new(tight());
        let cut = parse(&mut parser, &stream, &pieces);
        prop_assert_eq!(cut, whole);
        prop_assert!(parser.looked_at <= stream.len());
    }
}
