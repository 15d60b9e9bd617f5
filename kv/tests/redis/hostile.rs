//! Bytes that nobody should send, and peers that do not read: an error or patience, bounded memory, and
//! nobody else notices.

use crate::peer::{encoded, shown};
use crate::server::{Catena, PATIENCE};
use std::io::{ErrorKind, Read, Write};
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
            peer.send(b"*1000000\r\n$3\r\nSET\r\n$1\r\na\r\n$67108864\r\nthe first bytes");
            peer
        })
        .collect();
    assert_eq!(catena.connect().ask("PING"), "+PONG");
    let grown = catena.resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes for {} lengths", announced.len());
}

/// Four clients at a time may be in the middle of the longest values there are, and hear of them again.
#[test]
fn the_longest_values_come_and_go() {
    const LENGTH: usize = 64 << 20;
    let catena = Catena::start(1);
    let value = vec![b'x'; LENGTH];
    let command = |words: &[&str]| encoded(words);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (catena, value) = (&catena, &value);
            scope.spawn(move || {
                let key = format!("key-{client}");
                let mut peer = catena.connect();
                peer.send(format!("*3\r\n$3\r\nSET\r\n$5\r\n{key}\r\n${LENGTH}\r\n").as_bytes());
                peer.send(value);
                peer.send(b"\r\n");
                assert_eq!(shown(&peer.reply()), "+OK");
                peer.send(&command(&["GET", &key]));
                assert!(peer.reply().len() > LENGTH);
            });
        }
    });
    // One more byte is refused, also if it is made here, and so is an answer of many such values.
    let mut peer = catena.connect();
    assert_eq!(
        peer.ask(&format!("SETRANGE key-0 {LENGTH} x")),
        "-ERR string exceeds maximum allowed size (proto-max-bulk-len)"
    );
    let many = ["MGET"].into_iter().chain(["key-0"; 400]);
    peer.send(&command(&many.collect::<Vec<_>>()));
    assert_eq!(
        shown(&peer.reply()),
        "-ERR the answer would be too long; ask for fewer keys at a time"
    );
    assert_eq!(peer.ask("PING"), "+PONG");
}

/// Small answers first, so that many are awaited at a time; then as many large ones, which nobody reads. Half
/// of these clients are not on the core that has the key.
#[test]
fn large_answers_of_other_cores_are_not_made_all_at_once() {
    const PIPELINE: usize = 256;
    let catena = Catena::start_with(cores(2), &["--value-max", "8m", "--client-memory", "64m"]);
    let large = encoded(&[b"SET", &b"large"[..], &vec![b'x'; 8 << 20]]);
    let mut peer = catena.connect();
    peer.send(&large);
    assert_eq!(shown(&peer.reply()), "+OK");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut peer = catena.connect();
            for _ in 0..4 {
                peer.send(&encoded(&["STRLEN", "large"]).repeat(PIPELINE));
                (0..PIPELINE).for_each(|_| assert_eq!(shown(&peer.reply()), ":8388608"));
            }
            peer.send(&encoded(&["GET", "large"]).repeat(PIPELINE));
            peer
        })
        .collect();
    // Each of these comes behind what the others have asked for by then.
    for _ in 0..100 {
        assert_eq!(peer.ask("STRLEN large"), ":8388608");
        std::thread::sleep(Duration::from_millis(2));
    }
    let most = catena.most_resident_bytes() >> 20;
    assert!(most < 600, "{most} MiB for {} clients", clients.len());
}

/// All of them ask at the same time, and nobody reads: keys of one slot, and keys of all shards.
#[test]
fn large_answers_to_many_clients_are_not_made_all_at_once() {
    const VALUES: usize = 30;
    let args = ["--value-max", "1m", "--client-memory", "32m"];
    for tag in ["{one}", ""] {
        let catena = Catena::start_with(cores(2), &args);
        let keys: Vec<String> = (0..VALUES).map(|number| format!("{tag}key-{number}")).collect();
        let mut peer = catena.connect();
        for key in &keys {
            peer.send(&encoded(&[b"SET", key.as_bytes(), &vec![b'x'; 1 << 20]]));
            assert_eq!(shown(&peer.reply()), "+OK");
        }
        let all = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect::<Vec<_>>();
        let clients: Vec<_> = (0..60)
            .map(|_| {
                let mut peer = catena.connect();
                peer.send(&encoded(&all));
                peer
            })
            .collect();
        // These come behind what was asked for by then.
        for key in &keys {
            assert_eq!(peer.ask(&format!("STRLEN {key}")), ":1048576");
        }
        let most = catena.most_resident_bytes() >> 20;
        assert!(most < 700, "{most} MiB for {} clients, {tag:?}", clients.len());
    }
}

/// Each shard has large parts for clients of the other, which wait for the other's parts.
#[test]
fn large_answers_of_all_shards_do_not_wait_for_each_other() {
    const VALUES: usize = 40;
    let catena = Catena::start_with(cores(2), &["--value-max", "1m"]);
    let keys: Vec<String> = (0..VALUES).map(|number| format!("key-{number}")).collect();
    let mut peer = catena.connect();
    for key in &keys {
        peer.send(&encoded(&[b"SET", key.as_bytes(), &vec![b'x'; 1 << 20]]));
        assert_eq!(shown(&peer.reply()), "+OK");
    }
    let all = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut peer = catena.connect();
                for _ in 0..3 {
                    peer.send(&encoded(&all));
                    assert!(peer.reply().len() > VALUES << 20);
                }
            });
        }
    });
    // The bound of an answer is one for all parts of it.
    peer.send(&encoded(&[&all[..], &all[1..]].concat()));
    assert_eq!(
        shown(&peer.reply()),
        "-ERR the answer would be too long; ask for fewer keys at a time"
    );
}

/// Whoever carries it out for another core.
#[test]
fn what_a_large_answer_took_is_given_back() {
    const LENGTH: usize = 64 << 20;
    let catena = Catena::start(cores(2));
    let mut peer = catena.connect();
    peer.send(&encoded(&[b"SET", &b"large"[..], &vec![b'x'; LENGTH]]));
    assert_eq!(shown(&peer.reply()), "+OK");
    for _ in 0..8 {
        // On one core or the other.
        let mut peer = catena.connect();
        peer.send(&encoded(&["GET", "large"]));
        assert!(peer.reply().len() > LENGTH);
    }
    assert_eq!(peer.ask("DEL large"), ":1");
    shrinks_to(&catena, 60);
}

/// It is longer than what may gather for the disk, and is written all the same.
#[test]
fn a_long_command_for_all_shards_waits_for_the_disk_and_is_not_cut_short() {
    let directory = crate::server::temporary_directory("long-command");
    let dir = directory.to_str().expect("a plain name");
    let args = ["--dir", dir, "--value-max", "2m", "--memory-max", "1g"];
    let catena = Catena::start_with(cores(2), &args);
    let value = vec![b'x'; 1 << 20];
    let keys: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
    let mut command = vec![&b"MSET"[..]];
    command.extend(keys.iter().flat_map(|key| [key.as_bytes(), &value]));
    let mut peer = catena.connect();
    peer.send(&encoded(&command));
    assert_eq!(shown(&peer.reply()), "+OK");
    assert_eq!(peer.ask("DBSIZE"), ":200");
    drop(catena);
    std::fs::remove_dir_all(directory).expect("nobody uses it any more");
}

/// So many, where there are as many.
fn cores(wanted: u16) -> u16 {
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.min(u16::try_from(there).unwrap_or(wanted))
}

/// Small values go for large ones, and memory keeps its bound meanwhile. Large ones go, and leave no holes
/// that nothing else fits into.
#[test]
fn memory_keeps_its_bound_and_is_given_back() {
    const BOUND: u64 = 200 << 20;
    let catena = Catena::start_with(1, &["--memory-max", "200m", "--eviction", "lru"]);
    let mut peer = catena.connect();
    let mut most = 0;
    for (round, (length, count)) in [(100, 1_000_000), (3 << 20, 200)].into_iter().enumerate() {
        let value = vec![b'x'; length];
        let batch = (count / 200).min(1_000);
        for first in (0..count).step_by(batch) {
            let keys = (first..first + batch).map(|number| format!("key-{round}-{number}"));
            let puts = keys.map(|key| encoded(&[&b"SET"[..], key.as_bytes(), &value]));
            peer.send(&puts.collect::<Vec<_>>().concat());
            (0..batch).for_each(|_| assert_eq!(shown(&peer.reply()), "+OK"));
            most = most.max(used_bytes(&mut peer));
        }
    }
    assert!(most > BOUND, "{most}");
    // The write that passes it by so much goes on, and the next one waits.
    assert!(most <= BOUND + BOUND / 16 + (8 << 20), "{most}");
    // Keys of all lengths between, so that blocks of all lengths come and go.
    for number in 0..2_000 {
        let value = vec![b'x'; 50_000 + number * 7_919 % 1_000_000];
        peer.send(&encoded(&[&b"SET"[..], format!("mixed-{number}").as_bytes(), &value]));
        assert_eq!(shown(&peer.reply()), "+OK");
    }
    assert_eq!(peer.ask("FLUSHALL"), "+OK");
    shrinks_to(&catena, 64);
}

fn used_bytes(peer: &mut crate::peer::Peer) -> u64 {
    let info = peer.ask("INFO memory");
    let line = info.split_whitespace().find_map(|line| line.strip_prefix("used_memory_dataset:"));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or_else(|| panic!("{info}"))
}

fn shrinks_to(catena: &Catena, mib: u64) {
    let give_up = Instant::now() + PATIENCE;
    while catena.resident_bytes() > mib << 20 {
        let left = catena.resident_bytes() >> 20;
        assert!(Instant::now() < give_up, "{left} MiB, and not {mib}");
        std::thread::sleep(Duration::from_millis(10));
    }
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

/// A web page can have a browser send anything, but for its first lines.
#[test]
fn what_comes_behind_a_request_of_http_is_not_carried_out() {
    let catena = Catena::start(1);
    let mut peer = catena.connect();
    assert_eq!(peer.ask("SET key value"), "+OK");
    for first in ["POST / HTTP/1.1", "GET / HTTP/1.1\r\nHost: here"] {
        let mut socket = catena.socket();
        let request = format!("{first}\r\nX: y\r\n\r\nFLUSHALL\r\n");
        socket.write_all(request.as_bytes()).expect("it listens");
        let mut said = String::new();
        // It may have ended before it has read all.
        let _ended = socket.read_to_string(&mut said);
        assert!(!said.contains("+OK"), "{said}");
        assert_eq!(peer.ask("DBSIZE"), ":1", "{first}");
    }
}

/// Many clients do so with a pipeline, and Redis takes it.
#[test]
fn who_writes_all_before_it_reads_is_answered() {
    const COUNT: usize = 400_000;
    for driver in ["auto", "epoll"] {
        let catena = Catena::start_with(1, &["--driver", driver]);
        let mut peer = catena.connect();
        let value = "v".repeat(200);
        assert_eq!(peer.ask(&format!("SET key {value}")), "+OK");
        let mut socket = catena.socket();
        let asked = encoded(&["GET", "key"]).repeat(COUNT);
        socket.write_all(&asked).expect("all of it is taken");
        let answer = format!("${}\r\n{value}\r\n", value.len());
        let mut said = vec![0; COUNT * answer.len()];
        socket.read_exact(&mut said).expect("all of it is answered");
        assert!(said.chunks(answer.len()).all(|said| said == answer.as_bytes()));
    }
}

/// All keys are a long answer, and here everybody asks for them and nobody reads.
#[test]
fn answers_of_keys_are_bounded_by_the_memory_for_clients() {
    const MEMORY: &str = "32m";
    let catena = Catena::start_with(2, &["--client-memory", MEMORY, "--value-max", "1m"]);
    let mut peer = catena.connect();
    let name = "n".repeat(100);
    for hundred in 0..1_000 {
        let set = |number| encoded(&["SET", &format!("{name}-{hundred}-{number}"), "v"]);
        let sets: Vec<Vec<u8>> = (0..100).map(set).collect();
        peer.send(&sets.concat());
        (0..100).for_each(|_| assert_eq!(shown(&peer.reply()), "+OK"));
    }
    let before = catena.resident_bytes();
    let mut mute: Vec<_> = (0..40).map(|_| catena.socket()).collect();
    for socket in &mut mute {
        let _ended = socket.write_all(&encoded(&["KEYS", "*"]));
    }
    let mut most = 0;
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert_eq!(peer.ask("PING"), "+PONG");
        most = most.max(catena.resident_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Two shards' clients, what is on its way between them, and what is being gathered.
    assert!(most < before + (300 << 20), "{} MiB more", (most - before) >> 20);
    assert_eq!(peer.ask("DBSIZE"), ":100000");
}
