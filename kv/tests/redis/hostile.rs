//! Bytes that nobody should send, and peers that do not read: an error or patience, bounded memory, and
//! nobody else notices.

use crate::peer::{encoded, shown};
use crate::server::{Catena, PATIENCE};
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

#[test]
fn what_breaks_the_protocol_is_told_and_ends_the_connection() {
    let catena = Catena::start(1);
    let deep = "*1\r\n".repeat(1_000_000);
    let long_line = "a".repeat(70_000);
    for (bytes, expected) in [
        ("*1\r\n$4294967296\r\n", "-ERR Protocol error: invalid bulk length"),
        ("*2\r\n$3\r\nGET\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length"),
        ("*1\r\n$x\r\n", "-ERR Protocol error: invalid bulk length"),
        (&*deep, "-ERR Protocol error: expected '$', got '*'"),
        ("*99999999999\r\n", "-ERR Protocol error: invalid multibulk length"),
        ("*x\r\n", "-ERR Protocol error: invalid multibulk length"),
        ("*1\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'"),
        ("SET a \"b\r\n", "-ERR Protocol error: unbalanced quotes in request"),
        (&*long_line, "-ERR Protocol error: too big inline request"),
    ] {
        let mut peer = catena.connect();
        let mut socket = catena.socket();
        // What the server does not read any more may be refused.
        let _refused = socket.write_all(bytes.as_bytes());
        let mut broken = crate::peer::Peer::new(socket);
        let reply = broken.reply();
        assert_eq!(shown(&reply), expected, "{}", &bytes[..bytes.len().min(40)]);
        assert!(broken.is_closed());
        assert_eq!(peer.ask("PING"), "+PONG", "others go on");
    }
    assert!(catena.resident_bytes() < 200 << 20, "{} bytes", catena.resident_bytes());
}

#[test]
fn an_announced_length_reserves_nothing() {
    let catena = Catena::start(1);
    let before = catena.resident_bytes();
    let announced: Vec<_> = (0..200)
        .map(|_| {
            let mut peer = catena.connect();
            peer.send(b"*1000000\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\nthe first bytes");
            peer
        })
        .collect();
    assert_eq!(catena.connect().ask("PING"), "+PONG");
    let grown = catena.resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes for {} lengths", announced.len());
}

#[test]
fn strangers_may_say_little() {
    let password = crate::server::temporary_directory("password").join("password");
    std::fs::write(&password, "secret\n").expect("a file");
    let path = password.to_str().expect("plain letters");
    let catena = Catena::start_with(1, &["--password-file", path]);
    for (bytes, expected) in [
        ("*11\r\n", "-ERR Protocol error: unauthenticated multibulk length"),
        ("*2\r\n$16385\r\n", "-ERR Protocol error: unauthenticated bulk length"),
    ] {
        let mut peer = catena.connect();
        peer.send(bytes.as_bytes());
        assert_eq!(shown(&peer.reply()), expected);
        assert!(peer.is_closed());
    }
    let mut peer = catena.connect();
    assert_eq!(peer.ask("AUTH wrong"), WRONG);
    assert_eq!(peer.ask("GET a"), "-NOAUTH Authentication required.");
    assert_eq!(peer.ask("AUTH secret"), "+OK");
    let value = "v".repeat(100_000);
    assert_eq!(peer.ask(&format!("SET a {value}")), "+OK", "it may say more now");
    assert_eq!(peer.ask("RESET"), "+RESET");
    assert_eq!(peer.ask("GET a"), "-NOAUTH Authentication required.");
    peer.send(b"*11\r\n");
    assert_eq!(shown(&peer.reply()), "-ERR Protocol error: unauthenticated multibulk length");
    std::fs::remove_dir_all(password.parent().expect("its directory")).expect("it is there");
}

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

/// Asks for far more than it ever reads. The server stops reading from it, keeps a bounded part of what it
/// owes, and serves the others.
#[test]
fn a_peer_that_never_reads_holds_up_nobody() {
    let catena = Catena::start(1);
    let mut other = catena.connect();
    let value = "v".repeat(1 << 20);
    assert_eq!(other.ask(&format!("SET big {value}")), "+OK");
    let before = catena.resident_bytes();
    let mut deaf = catena.socket();
    deaf.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    // Requests for 64 GiB, or as many as the server takes.
    let requests = encoded(&["GET", "big"]).repeat(1_024);
    let mut taken = 0;
    for _ in 0..64 {
        match deaf.write(&requests) {
            Ok(count) => taken += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => panic!("the connection ended: {error}"),
        }
        assert_eq!(other.ask("GET nothing"), "$-1");
    }
    assert!(taken > 0);
    let grown = catena.resident_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes for one that does not read");
    // Gone, it leaves nothing behind that holds the others up.
    drop(deaf);
    let give_up = Instant::now() + PATIENCE;
    while !other.ask("INFO clients").contains("connected_clients:1 ") {
        assert!(Instant::now() < give_up, "it is never forgotten");
        std::thread::sleep(Duration::from_millis(5));
    }
}
