//! Commands for operators: what ends connections and the server, and what is asked of keys.

use crate::peer::{Peer, encoded};
use crate::server::{Catena, PATIENCE, temporary_directory};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn connections_of_all_shards_are_ended_by_what_is_said_of_them() {
    let catena = Catena::start(2);
    let mut peers: Vec<Peer> = (0..8).map(|_| catena.connect()).collect();
    let ids: Vec<String> = peers.iter_mut().map(|peer| peer.ask("CLIENT ID")[1..].into()).collect();
    let mut operator = catena.connect();
    // Each of them, whichever shard has it.
    for id in &ids[..4] {
        assert_eq!(operator.ask(&format!("CLIENT KILL ID {id}")), ":1");
        assert_eq!(operator.ask(&format!("CLIENT KILL ID {id}")), ":0", "it has ended");
    }
    assert!(peers[..4].iter_mut().all(Peer::is_closed));
    assert!(peers[4..].iter_mut().all(|peer| peer.ask("PING") == "+PONG"));
    let info = peers[4].ask("CLIENT INFO");
    let address = info.split(' ').find_map(|word| word.strip_prefix("addr=")).expect("an address");
    assert_eq!(
        operator.ask(&format!("CLIENT KILL ADDR {address} ID {}", ids[5])),
        ":0",
        "not both"
    );
    assert_eq!(operator.ask(&format!("CLIENT KILL {address}")), "+OK");
    assert_eq!(operator.ask(&format!("CLIENT KILL {address}")), "-ERR No such client");
    assert!(peers[4].is_closed());
    assert_eq!(operator.ask("CLIENT KILL TYPE pubsub"), ":0");
    assert_eq!(operator.ask(&format!("CLIENT KILL LADDR {}", catena.address)), ":3");
    assert!(peers[5..].iter_mut().all(Peer::is_closed));
    assert_eq!(operator.ask("PING"), "+PONG", "who asks is spared");
    assert_eq!(operator.ask("CLIENT KILL USER default SKIPME no"), ":1", "unless it says so");
    assert!(operator.is_closed());
}

#[test]
fn who_asks_may_end_itself_by_its_address_and_is_answered() {
    let catena = Catena::start(2);
    for _ in 0..4 {
        let mut peer = catena.connect();
        let info = peer.ask("CLIENT INFO");
        let address = info.split(' ').find_map(|word| word.strip_prefix("addr=")).expect("one");
        let kill = encoded(&["CLIENT", "KILL", address]);
        peer.send(&[encoded(&["GET", "key"]), kill, encoded(&["PING"])].concat());
        assert_eq!(peer.reply(), b"$-1\r\n");
        assert_eq!(peer.reply(), b"+OK\r\n");
        assert_eq!(peer.try_reply(), None, "what it has sent behind that is not carried out");
    }
}

/// It would have to read what it is owed before it ended by itself.
#[test]
fn who_does_not_read_is_ended_all_the_same() {
    let catena = Catena::start(2);
    let mut operator = catena.connect();
    assert_eq!(operator.ask(&format!("SET large {}", "x".repeat(1 << 20))), "+OK");
    for _ in 0..4 {
        let mut socket = catena.socket();
        socket.write_all(&encoded(&["CLIENT", "SETNAME", "deaf"])).expect("it listens");
        let mut answer = [0; 5];
        socket.read_exact(&mut answer).expect("it answers");
        // Far more than the kernel keeps for it.
        socket.write_all(&encoded(&["GET", "large"]).repeat(32)).expect("it listens");
        let list = operator.ask("CLIENT LIST");
        let deaf = list.split("id=").find(|line| line.contains("name=deaf ")).expect("it is there");
        let id = deaf.split(' ').next().expect("a number");
        assert_eq!(operator.ask(&format!("CLIENT KILL ID {id}")), ":1");
        let give_up = Instant::now() + PATIENCE;
        while operator.ask("CLIENT LIST").contains("name=deaf ") {
            assert!(Instant::now() < give_up, "it stays");
        }
    }
}

#[test]
fn the_server_ends_in_order_when_it_is_told_to() {
    let directory = temporary_directory("shutdown");
    let dir = directory.to_str().expect("a plain name");
    for command in ["SHUTDOWN", "SHUTDOWN NOSAVE NOW FORCE"] {
        let args = ["--shards", "2", "--dir", dir, "--durability", "batch"];
        let catena = Catena::try_start(&args).expect("it serves");
        let (mut peer, mut other) = (catena.connect(), catena.connect());
        assert_eq!(peer.ask("SHUTDOWN ABORT"), "-ERR No shutdown in progress.");
        assert_eq!(peer.ask("SHUTDOWN SAVE NOSAVE"), "-ERR syntax error");
        assert_eq!(peer.ask(&format!("SET key:{} value", command.len())), "+OK");
        other.ask("PING");
        assert_eq!(peer.try_ask(command), None, "the end of the connection is the answer");
        assert!(other.is_closed());
        let ended = catena.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("draining"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("ended at once"), "{}", ended.stderr);
    }
    let catena = Catena::try_start(&["--shards", "2", "--dir", dir]).expect("it serves");
    assert_eq!(catena.connect().ask("DBSIZE"), ":2");
    drop(catena);
    std::fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn idle_times_are_told_where_they_are_noted() {
    let catena = Catena::start(1);
    let mut peer = catena.connect();
    assert_eq!(peer.ask("SET key value"), "+OK");
    assert_eq!(peer.ask("OBJECT IDLETIME nothing"), "$-1");
    let refused = peer.ask("OBJECT IDLETIME key");
    assert!(refused.starts_with("-ERR An LRU maxmemory policy is not selected"), "{refused}");
    let catena = Catena::start_with(1, &["--eviction", "lru"]);
    let mut peer = catena.connect();
    assert_eq!(peer.ask("SET key value"), "+OK");
    let idle = |peer: &mut Peer| -> u64 {
        peer.ask("OBJECT IDLETIME key")[1..].parse().expect("a number")
    };
    // It grows by the steps in which it is noted.
    let give_up = Instant::now() + PATIENCE;
    while idle(&mut peer) == 0 {
        assert!(Instant::now() < give_up, "it stays new");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(idle(&mut peer) > 0, "to ask is not to use it");
    assert_eq!(peer.ask("GET key"), "$5 value");
    assert!(idle(&mut peer) <= 4);
    assert!(
        peer.ask("OBJECT FREQ key").starts_with("-ERR An LFU maxmemory policy is not selected")
    );
}

#[test]
fn the_last_save_is_told_and_databases_are_flushed() {
    let catena = Catena::start(2);
    let mut peer = catena.connect();
    let info = peer.ask("INFO persistence");
    let (_, saved) = info.split_once("rdb_last_save_time:").expect("it is told");
    let saved = saved.split(' ').next().expect("a number");
    assert_eq!(peer.ask("LASTSAVE"), format!(":{saved}"));
    for mode in ["", " ASYNC", " sync"] {
        for n in 0..10 {
            assert_eq!(peer.ask(&format!("SET key:{n} value")), "+OK");
        }
        assert_eq!(peer.ask(&format!("FLUSHDB{mode}")), "+OK");
        assert_eq!(peer.ask("DBSIZE"), ":0");
    }
    assert_eq!(peer.ask("FLUSHDB now"), "-ERR syntax error");
}
