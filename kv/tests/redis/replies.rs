//! What commands about the connection and the server answer, in both protocols.

use crate::peer::{Peer, encoded, shown};
use crate::server::{ARGS, Catena, PATIENCE};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Instant;

/// Each command, and its reply to RESP2 and to RESP3, where the two differ.
const REPLIES: &[(&str, &str, &str)] = &[
    ("PING", "+PONG", ""),
    ("PING hello", "$5 hello", ""),
    ("ECHO hello", "$5 hello", ""),
    ("PING a b", "-ERR wrong number of arguments for 'ping' command", ""),
    ("SELECT 0", "+OK", ""),
    ("SELECT 1", "-ERR DB index is out of range", ""),
    ("READONLY", "+OK", ""),
    ("READWRITE", "+OK", ""),
    ("WAIT 1 0", ":0", ""),
    ("WAIT 1 -1", "-ERR timeout is negative", ""),
    ("CLIENT GETNAME", "$-1", "_"),
    ("CLIENT SETNAME worker-1", "+OK", ""),
    ("CLIENT GETNAME", "$8 worker-1", ""),
    ("CLIENT SETINFO lib-name mine", "+OK", ""),
    ("CLIENT REPLY ON", "+OK", ""),
    ("CLIENT NO-EVICT ON", "+OK", ""),
    ("CLIENT NO-TOUCH OFF", "+OK", ""),
    ("CLIENT NONSENSE", "-ERR unknown subcommand 'NONSENSE'. Try CLIENT HELP.", ""),
    ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command", ""),
    ("CONFIG GET appendonly", "*2 $10 appendonly $2 no", "%1 $10 appendonly $2 no"),
    ("CONFIG GET nothing", "*0", "%0"),
    (
        "CONFIG SET port 1",
        "-ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config: it \
         is given when the server starts",
        "",
    ),
    ("CONFIG SET slowlog-max-len 100", "+OK", ""),
    (
        "CONFIG GET slowlog-max-len",
        "*2 $15 slowlog-max-len $3 100",
        "%1 $15 slowlog-max-len $3 100",
    ),
    ("CONFIG RESETSTAT", "+OK", ""),
    ("COMMAND GETKEYS MSET a 1 b 2", "*2 $1 a $1 b", ""),
    ("COMMAND GETKEYS PING x", "-ERR The command has no key arguments", ""),
    ("COMMAND INFO nothing", "*1 $-1", "*1 _"),
    ("COMMAND DOCS echo", ECHO_2, ECHO_3),
    ("COMMAND INFO get", GET_2, GET_3),
    ("COMMAND DOCS flushdb", FLUSHDB_2, FLUSHDB_3),
    ("COMMAND INFO lastsave", LASTSAVE_2, LASTSAVE_3),
    ("COMMAND LIST FILTERBY PATTERN shut*", "*1 $8 shutdown", ""),
    ("COMMAND LIST FILTERBY PATTERN mse*", "*2 $4 mset $6 msetnx", ""),
    ("CLUSTER KEYSLOT {user1000}.following", ":3443", ""),
    ("CLUSTER COUNTKEYSINSLOT 16384", "-ERR Invalid slot", ""),
    ("SLOWLOG RESET", "+OK", ""),
    ("SLOWLOG LEN", ":0", ""),
    ("SLOWLOG GET -1", "*0", ""),
    ("MEMORY USAGE nothing", "$-1", "_"),
    ("SET k v", "+OK", ""),
    ("MEMORY USAGE k", ":44", ""),
    ("RESET x", "-ERR wrong number of arguments for 'reset' command", ""),
    ("DEL k", ":1", ""),
    ("CLIENT SETNAME ", "+OK", ""),
];

const ECHO_2: &str = "*2 $4 echo *4 $7 summary $21 Answers its argument. $5 group $10 connection";
const ECHO_3: &str = "%1 $4 echo %2 $7 summary $21 Answers its argument. $5 group $10 connection";
const FLUSHDB_2: &str = "*2 $7 flushdb *4 $7 summary $17 Deletes all keys. $5 group $6 server";
const FLUSHDB_3: &str = "%1 $7 flushdb %2 $7 summary $17 Deletes all keys. $5 group $6 server";
const LASTSAVE_2: &str =
    "*1 *10 $8 lastsave :1 *1 +admin :0 :0 :0 *3 +@admin +@dangerous +@slow *0 *0 *0";
const LASTSAVE_3: &str =
    "*1 *10 $8 lastsave :1 ~1 +admin :0 :0 :0 ~3 +@admin +@dangerous +@slow *0 *0 *0";
const GET_2: &str = "*1 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@read +@string +@fast *0 *1 *6 $5 \
    flags *2 +RO +access $12 begin_search *4 $4 type $5 index $4 spec *2 $5 index :1 $9 find_keys *4 $4 \
    type $5 range $4 spec *6 $7 lastkey :0 $7 keystep :1 $5 limit :0 *0";
const GET_3: &str = "*1 *10 $3 get :2 ~2 +readonly +fast :1 :1 :1 ~3 +@read +@string +@fast *0 *1 %3 $5 \
    flags ~2 +RO +access $12 begin_search %2 $4 type $5 index $4 spec %1 $5 index :1 $9 find_keys %2 $4 \
    type $5 range $4 spec %3 $7 lastkey :0 $7 keystep :1 $5 limit :0 *0";

#[test]
fn commands_answer_in_both_protocols() {
    let catena = Catena::start(1);
    let mut peer = catena.connect();
    for (command, resp2, _) in REPLIES {
        assert_eq!(peer.ask(command), *resp2, "{command}");
    }
    let hello = peer.ask("HELLO 3");
    assert!(
        hello.starts_with("%7 $6 server $5 redis $7 version $6 7.0.15 $5 proto :3 $2 id :"),
        "{hello}"
    );
    for (command, resp2, resp3) in REPLIES {
        let expected = if resp3.is_empty() { resp2 } else { resp3 };
        assert_eq!(peer.ask(command), *expected, "{command}");
    }
    assert!(peer.ask("HELLO 2").starts_with("*14 $6 server "));
    assert!(peer.ask("HELLO 3 SETNAME me").starts_with("%7 "));
    assert_eq!(peer.ask("CLIENT GETNAME"), "$2 me");
    assert_eq!(peer.ask("RESET"), "+RESET");
    assert_eq!(peer.ask("CLIENT GETNAME"), "$-1", "RESP2 again, and nobody");
    assert_eq!(peer.ask("HELLO 4"), "-NOPROTO unsupported protocol version");
    assert_eq!(peer.ask("QUIT"), "+OK");
    assert!(peer.is_closed());
}

#[test]
fn pipelines_and_inline_commands_are_answered_in_order() {
    let catena = Catena::start(2);
    let mut peer = catena.connect();
    let mut bytes = Vec::new();
    for n in 0..5_000 {
        let (key, value) = (format!("key:{n}"), format!("value:{n}"));
        match n % 4 {
            0 => bytes.extend_from_slice(format!("SET {key} {value}\r\nGET {key}\n").as_bytes()),
            1 => {
                bytes.extend(encoded(&["SET", &key, &value]));
                bytes.extend_from_slice(format!("\r\nget '{key}'\r\n").as_bytes());
            }
            _ => {
                bytes.extend(encoded(&["SET", &key, &value]));
                bytes.extend(encoded(&["GET", &key]));
            }
        }
        bytes.extend_from_slice(format!("ECHO \"\\x{:02x}\"\r\n", n % 256).as_bytes());
    }
    // In pieces that end anywhere.
    let mut sent = 0;
    for (n, size) in (1..).map(|n| (n, 1 + n * 7_919 % 3_000)) {
        let piece = &bytes[sent..bytes.len().min(sent + size)];
        peer.send(piece);
        sent += piece.len();
        if sent == bytes.len() {
            break;
        }
        assert!(n < bytes.len());
    }
    for n in 0..5_000_usize {
        let value = format!("value:{n}");
        assert_eq!(peer.reply(), b"+OK\r\n");
        assert_eq!(peer.reply(), format!("${}\r\n{value}\r\n", value.len()).into_bytes(), "{n}");
        let mut echo = b"$1\r\n".to_vec();
        echo.extend_from_slice(&[(n % 256) as u8, b'\r', b'\n']);
        assert_eq!(peer.reply(), echo, "{n}");
    }
}

/// Its answers come from two shards, and the last word waits for them.
#[test]
fn who_quits_hears_everything_before() {
    let catena = Catena::start(2);
    for _ in 0..20 {
        let mut peer = catena.connect();
        let mut bytes = Vec::new();
        for n in 0..50 {
            bytes.extend(encoded(&["SET", &format!("key:{n}"), "value"]));
        }
        bytes.extend(encoded(&["DBSIZE"]));
        bytes.extend(encoded(&["FLUSHALL"]));
        bytes.extend(encoded(&["DBSIZE"]));
        bytes.extend(encoded(&["QUIT"]));
        bytes.extend(encoded(&["SET", "never", "seen"]));
        peer.send(&bytes);
        for _ in 0..50 {
            assert_eq!(peer.reply(), b"+OK\r\n");
        }
        assert_eq!(shown(&peer.reply()), ":50");
        assert_eq!(shown(&peer.reply()), "+OK");
        assert_eq!(shown(&peer.reply()), ":0", "not one of those that were before");
        assert_eq!(shown(&peer.reply()), "+OK");
        assert_eq!(peer.try_reply(), None);
    }
    assert_eq!(catena.connect().ask("DBSIZE"), ":0", "what is behind QUIT is not read");
}

#[test]
fn each_shard_is_a_node_with_its_slots() {
    let catena = Catena::start(2);
    let mut peer = catena.connect();
    let lines = peer.ask("CLUSTER NODES").replace("\\n", "\n");
    let nodes: Vec<Vec<&str>> = lines
        .lines()
        .map(|line| line.split(' ').collect())
        .filter(|n: &Vec<_>| n.len() > 5)
        .collect();
    assert_eq!(nodes.len(), 2, "{lines}");
    let slots: Vec<&str> = nodes.iter().map(|node| *node.last().expect("it has slots")).collect();
    assert_eq!(slots, ["0-8191", "8192-16383"]);
    for (shard, node) in nodes.iter().enumerate() {
        let id = node[node.len() - 9];
        assert_eq!(id.len(), 40, "{lines}");
        let (address, _) = node[node.len() - 8].split_once('@').expect("a bus port");
        let socket = std::net::TcpStream::connect(address).expect("the node is there");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut node = Peer::new(socket);
        assert_eq!(node.ask("CLUSTER MYID"), format!("$40 {id}"));
        assert!(node.ask("HELLO 3").contains("$4 mode $7 cluster "));
        let (own, other) = if shard == 0 { ("b", "a") } else { ("a", "b") };
        assert_eq!(node.ask(&format!("SET {own} 1")), "+OK");
        assert!(node.ask(&format!("GET {other}")).starts_with("-MOVED "));
        let slot = node.ask(&format!("CLUSTER KEYSLOT {own}"));
        assert_eq!(node.ask(&format!("CLUSTER COUNTKEYSINSLOT {}", &slot[1..])), ":1");
    }
    let slots = peer.ask("CLUSTER SLOTS");
    assert!(slots.starts_with("*2 *3 :0 :8191 *4 $9 127.0.0.1 :"), "{slots}");
    let shards = peer.ask("CLUSTER SHARDS");
    assert!(
        shards.starts_with("*2 *4 $5 slots *2 :0 :8191 $5 nodes *1 *14 $2 id $40 "),
        "{shards}"
    );
    assert!(peer.ask("CLUSTER INFO").contains("cluster_state:ok cluster_slots_assigned:16384 "));
    assert!(peer.ask("INFO cluster").contains("cluster_enabled:1"));
}

/// The figures are of all shards, whichever is asked, once their turns have ended.
#[test]
fn info_is_about_the_whole_server() {
    let catena = Catena::start(2);
    assert_eq!(catena.connect().ask("CONFIG RESETSTAT"), "+OK");
    let mut peers: Vec<Peer> = (0..8).map(|_| catena.connect()).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.ask(&format!("SET key:{n} value")), "+OK");
        assert_eq!(peer.ask(&format!("SET expiring:{n} value EX 1000")), "+OK");
        assert_eq!(peer.ask(&format!("GET key:{n}")), "$5 value");
        assert_eq!(peer.ask(&format!("GET nothing:{n}")), "$-1");
        assert!(peer.ask("NONSENSE").starts_with("-ERR unknown command"));
    }
    let wanted = [
        "connected_clients:8 ",
        "keyspace_hits:8 ",
        "keyspace_misses:8 ",
        "total_error_replies:8 ",
        "total_connections_received:8 ",
        "db0:keys=16,expires=8,avg_ttl=0",
    ];
    let give_up = Instant::now() + PATIENCE;
    for peer in &mut peers {
        loop {
            let info = peer.ask("INFO");
            if wanted.iter().all(|line| info.contains(line)) {
                break;
            }
            assert!(Instant::now() < give_up, "{info}");
        }
    }
    let info = peers[0].ask("INFO memory keyspace");
    assert!(info.contains("# Memory used_memory:") && info.contains("# Keyspace db0:"), "{info}");
    assert!(!info.contains("# Server"), "{info}");
    assert_eq!(peers[0].ask("CONFIG RESETSTAT"), "+OK");
    assert!(!peers[0].ask("INFO stats").contains("keyspace_hits:8 "));
    assert!(peers[0].ask("INFO keyspace").contains("keys=16"), "what is there stays");
}

/// Parts of an answer go from shard to shard with their counts in front, one byte of which may look like the
/// beginning of an error.
#[test]
fn all_keys_are_counted_and_told_whatever_their_number() {
    let catena = Catena::start(1);
    let mut peer = catena.connect();
    for count in 1..=300 {
        assert_eq!(peer.ask(&format!("SET key-{count} value")), "+OK");
        assert_eq!(peer.ask("DBSIZE"), format!(":{count}"));
        assert!(peer.ask("RANDOMKEY").contains(" key-"), "{count}");
        assert_eq!(peer.ask("KEYS *").matches("key-").count(), count);
    }
}

#[test]
fn clients_of_all_shards_are_listed_with_their_names() {
    let catena = Catena::start(2);
    let mut peers: Vec<Peer> = (0..8).map(|_| catena.connect()).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.ask(&format!("CLIENT SETNAME worker-{n}")), "+OK");
    }
    for peer in &mut peers {
        let list = peer.ask("CLIENT LIST");
        assert!((0..8).all(|n| list.contains(&format!(" name=worker-{n} "))), "{list}");
        assert_eq!(list.matches("id=").count(), 8, "{list}");
    }
    assert_eq!(peers[0].ask("CLIENT LIST TYPE wrong"), "-ERR Unknown client type 'wrong'");
    assert_eq!(peers[0].ask("CLIENT LIST TYPE replica"), "$0");
    assert_eq!(peers[0].ask("CLIENT LIST ID -1 0"), "$0");
    let id = peers[1].ask("CLIENT ID");
    let one = peers[0].ask(&format!("CLIENT LIST ID {}", &id[1..]));
    assert!(one.contains(" name=worker-1 ") && !one.contains(" name=worker-2 "), "{one}");
    assert!(peers[2].ask("CLIENT INFO").contains(" name=worker-2 "));
    drop(peers.remove(1));
    let give_up = Instant::now() + PATIENCE;
    while peers[0].ask("CLIENT LIST").contains(" name=worker-1 ") {
        assert!(Instant::now() < give_up, "it is never forgotten");
    }
}

/// What takes long is entered, on whichever shard, and told by any.
#[test]
fn slow_commands_are_entered() {
    let catena = Catena::start(2);
    let mut peers: Vec<Peer> = (0..4).map(|_| catena.connect()).collect();
    assert_eq!(peers[0].ask("CONFIG SET slowlog-log-slower-than 0"), "+OK");
    assert_eq!(peers[0].ask("SLOWLOG RESET"), "+OK");
    for peer in &mut peers {
        let keys: Vec<String> = (0..40).map(|n| format!("{{tag}}{n}")).collect();
        assert_eq!(peer.ask(&format!("EXISTS {}", keys.join(" "))), ":0");
        assert_eq!(peer.ask(&format!("SET {{tag}} {}", "v".repeat(5_000))), "+OK");
        assert_eq!(peer.ask("GET quick"), "$-1");
        assert_eq!(peer.ask("DEL {tag}"), ":1");
    }
    peers[0].send(&encoded(&["SLOWLOG", "GET", "-1"]));
    let log = shown(&peers[0].reply());
    let count = |words: &str| log.matches(words).count();
    assert_eq!(count("*32 $6 EXISTS "), 4, "{log}");
    assert_eq!(count("... (10 more arguments)"), 4, "{log}");
    assert_eq!(count("*3 $3 SET "), 4, "{log}");
    assert_eq!(count("v... (4872 more bytes)"), 4, "{log}");
    assert_eq!(count("quick"), 0, "a GET is not timed: {log}");
}

/// As systemd does with `Type=notify`.
#[test]
fn a_service_manager_hears_when_it_serves_and_when_it_ends() {
    let name = format!("catena-manager-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("short"))
        .expect("a name of its own");
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let hear = || {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).expect("it tells");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    command.args(ARGS).args(["--shards", "1"]).env("NOTIFY_SOCKET", format!("@{name}"));
    let catena = Catena::run(command).expect("it serves");
    let mut heard = vec![hear()];
    while !heard.last().is_some_and(|message| message.starts_with("READY=1\n")) {
        heard.push(hear());
    }
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert_eq!(catena.terminate().code, Some(0));
    assert_eq!(hear(), "STOPPING=1\nSTATUS=draining");
}

/// Plain clients know one server, and nothing of slots.
#[test]
fn keys_of_several_slots_are_for_the_port_that_all_share() {
    for shards in [1, 2] {
        let catena = Catena::start(shards);
        // Each connection may be on either shard.
        for _ in 0..4 {
            let mut peer = catena.connect();
            assert_eq!(peer.ask("FLUSHALL"), "+OK");
            assert_eq!(peer.ask("MSET a 1 b 22 c 333 d  a 5"), "+OK");
            assert_eq!(peer.ask("MGET d a no b c a"), "*6 $0  $1 5 $-1 $2 22 $3 333 $1 5");
            assert_eq!(peer.ask("EXISTS a a b no"), ":3");
            assert_eq!(peer.ask("TOUCH c no d"), ":2");
            assert_eq!(peer.ask("UNLINK b no"), ":1");
            assert_eq!(peer.ask("DEL a a c"), ":2");
            assert_eq!(peer.ask("DBSIZE"), ":1");
            assert_eq!(peer.ask("MSET a 1 b"), "-ERR wrong number of arguments for 'mset' command");
            assert_eq!(
                peer.ask("MSETNX a 1 b 2"),
                "-CROSSSLOT Keys in request don't hash to the same slot"
            );
            assert_eq!(
                peer.ask(&format!("DEL a {} b", "k".repeat(70_000))),
                "-ERR key is longer than 65535 bytes"
            );
            // In their order, whoever carries them out.
            let lines = [
                "MSET a 1 b 1 c 1",
                "SET a 2",
                "SET b 2",
                "MGET a b c",
                "DEL a b c",
                "SET c 3",
                "MGET c b",
            ];
            let asked = lines.map(|line| encoded(&line.split(' ').collect::<Vec<_>>()));
            peer.send(&asked.concat());
            let replies = lines.map(|_| shown(&peer.reply()));
            let values = "*3 $1 2 $1 2 $1 1";
            assert_eq!(replies, ["+OK", "+OK", "+OK", values, ":3", "+OK", "*2 $1 3 $-1"]);
            peer.ask("HELLO 3");
            assert_eq!(peer.ask("MGET c b"), "*2 $1 3 _");
        }
    }
}

/// For cluster clients each shard is a node.
#[test]
fn keys_of_several_slots_are_refused_on_a_port_of_a_shard() {
    let catena = Catena::start(1);
    let slots = catena.connect().ask("CLUSTER SLOTS");
    let port = slots
        .split(' ')
        .find_map(|word| word.strip_prefix(':')?.parse().ok().filter(|port: &u16| *port > 16_383));
    let own = port.expect("ports that the system picks are above all slots");
    let mut peer = Peer::new(std::net::TcpStream::connect(("127.0.0.1", own)).expect("it listens"));
    for command in ["MGET a b", "DEL a b", "MSET a 1 b 2"] {
        assert!(peer.ask(command).starts_with("-CROSSSLOT"), "{command}");
    }
}

#[test]
fn nothing_of_a_transaction_is_carried_out() {
    let catena = Catena::start(2);
    let mut peer = catena.connect();
    let refused = "-ERR there are no transactions, and nothing of this one is carried out; ";
    for (command, expected) in [
        ("EXEC", "-ERR EXEC without MULTI"),
        ("DISCARD", "-ERR DISCARD without MULTI"),
        ("MULTI", "+OK"),
        ("EXEC", "*0"),
        ("multi", "+OK"),
        ("SET key 1", refused),
        ("MULTI", "-ERR MULTI calls can not be nested"),
        ("FLUSHALL", refused),
        ("DBSIZE", refused),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
        ("EXISTS key", ":0"),
        ("MULTI", "+OK"),
        ("NOSUCH", "-ERR unknown command 'NOSUCH'"),
        ("EXEC", "-EXECABORT"),
        ("MULTI", "+OK"),
        ("INCR key", refused),
        ("DISCARD", "+OK"),
        ("MULTI", "+OK"),
        ("RESET", "+RESET"),
        ("INCR key", ":1"),
    ] {
        let said = peer.ask(command);
        assert!(said.starts_with(expected), "{command}: {said}");
    }
}

#[test]
fn who_wants_no_answers_is_told_that_it_cannot_be() {
    let catena = Catena::start(1);
    let mut peer = catena.connect();
    assert_eq!(peer.ask("CLIENT REPLY ON"), "+OK");
    assert!(peer.ask("CLIENT REPLY OFF").starts_with("-ERR every command is answered"));
    assert!(peer.is_closed());
}

#[test]
fn a_name_with_zeros_behind_it_is_another_name() {
    let catena = Catena::start(1);
    let mut peer = catena.connect();
    assert_eq!(peer.ask("SET key 1"), "+OK");
    for name in ["flushall\0", "get\0", "\0"] {
        assert!(peer.ask(name).starts_with("-ERR unknown command"), "{name:?}");
    }
    assert_eq!(peer.ask("EXISTS key"), ":1");
}

#[test]
fn arguments_that_are_too_long_are_seen_before_anything_is_written() {
    let catena = Catena::start_with(2, &["--value-max", "64k"]);
    let mut peer = catena.connect();
    let (key, value) = ("k".repeat(65_536), "v".repeat(65_537));
    assert_eq!(peer.ask("SET d 1"), "+OK");
    for command in [
        format!("MSET a 1 b 2 {key} 3 c 4"),
        format!("MSET a 1 b {value} c 4"),
        format!("DEL d {key}"),
    ] {
        assert!(peer.ask(&command).starts_with("-ERR"), "{}", &command[..16]);
    }
    assert_eq!(peer.ask("EXISTS a b c d"), ":1");
}

#[test]
fn a_random_key_is_one_that_has_not_expired() {
    for shards in [1, 2] {
        let catena = Catena::start(shards);
        let mut peer = catena.connect();
        for number in 0..2_000 {
            assert_eq!(peer.ask(&format!("SET key-{number} value PX 1")), "+OK");
        }
        assert_eq!(peer.ask("SET live value"), "+OK");
        std::thread::sleep(std::time::Duration::from_millis(5));
        for _ in 0..50 {
            assert_eq!(peer.ask("RANDOMKEY"), "$4 live");
        }
        assert_eq!(peer.ask("DEL live"), ":1");
        assert_eq!(peer.ask("RANDOMKEY"), "$-1");
    }
}

/// Cluster clients ask for these to know where to send them.
#[test]
fn subcommands_tell_where_their_keys_are() {
    let catena = Catena::start(1);
    let mut peer = catena.connect();
    for (command, expected) in [
        ("COMMAND GETKEYS OBJECT ENCODING a", "*1 $1 a"),
        ("COMMAND GETKEYS memory usage a SAMPLES 5", "*1 $1 a"),
        ("COMMAND GETKEYS CONFIG GET a", "-ERR The command has no key arguments"),
    ] {
        assert_eq!(peer.ask(command), expected, "{command}");
    }
    let described = peer.ask("COMMAND INFO object|encoding");
    assert!(described.starts_with("*1 *10 $15 object|encoding :3 "), "{described}");
    assert!(peer.ask("COMMAND INFO object").contains("*10 $15 object|encoding :3 "));
}

#[test]
fn a_lock_is_given_up_by_who_holds_it() {
    let catena = Catena::start(1);
    let mut peer = catena.connect();
    for (command, expected) in [
        ("SET lock mine NX PX 100000", "+OK"),
        ("DELIFEQ lock yours", ":0"),
        ("EXISTS lock", ":1"),
        ("DELIFEQ lock mine", ":1"),
        ("EXISTS lock", ":0"),
        ("DELIFEQ lock mine", ":0"),
    ] {
        assert_eq!(peer.ask(command), expected, "{command}");
    }
}
