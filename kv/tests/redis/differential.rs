//! The same random commands to Catena and to Redis: the replies are equal, byte for byte, but for what
//! [`ALLOWED`] says.

use crate::peer::{encoded, shown};
use crate::server::{Catena, RedisServer, temporary_directory};

/// Commands of one run, and how many are sent before their replies are read.
const COMMANDS: usize = 6_000;
const PIPELINE: usize = 60;

/// Keys that there are at most.
const KEYS: i64 = 12;

/// Another seed than those of the test, for whoever looks for more.
const SEED_VARIABLE: &str = "CATENA_TEST_SEED";

/// A difference that is no mistake.
struct Allowed {
    /// Why it is none.
    #[expect(dead_code, reason = "for people")]
    why: &'static str,
    /// The commands that it is about; none: all.
    commands: &'static [&'static str],
    is: fn(ours: &[u8], theirs: &[u8]) -> bool,
}

const ALLOWED: &[Allowed] = &[
    Allowed {
        why: "the two servers look at the clock one after the other; two minutes apart at most",
        commands: &["ttl", "pttl", "expiretime", "pexpiretime"],
        is: |ours, theirs| match (number(ours), number(theirs)) {
            (Some(ours), Some(theirs)) => {
                ours > 0 && theirs > 0 && ours.abs_diff(theirs) <= 120_000
            }
            _ => false,
        },
    },
    Allowed {
        why: "a key that has expired counts until somebody meets it: a client, or a sweep",
        commands: &["dbsize"],
        is: |ours, theirs| match (number(ours), number(theirs)) {
            (Some(ours), Some(theirs)) => ours <= KEYS && theirs <= KEYS,
            _ => false,
        },
    },
    Allowed {
        why: "how a value was made is not known here, and no two keys have one value in common",
        commands: &["object"],
        is: |ours, theirs| {
            const BEYOND: [(&str, &str); 4] = [
                ("$3\r\nint\r\n", "$3\r\nraw\r\n"),
                ("$3\r\nint\r\n", "$6\r\nembstr\r\n"),
                ("$6\r\nembstr\r\n", "$3\r\nraw\r\n"),
                (":1\r\n", ":2147483647\r\n"),
            ];
            BEYOND.iter().any(|(our, their)| ours == our.as_bytes() && theirs == their.as_bytes())
        },
    },
    Allowed {
        why: "the order of keys is that of hashes, with seeds of their own",
        commands: &["keys"],
        is: |ours, theirs| sorted_lines(ours) == sorted_lines(theirs),
    },
];

#[test]
fn random_commands_are_answered_as_redis_answers() {
    compare_all("in memory", 0, &[]);
}

/// Cursors and numbers as C reads them: random commands hardly ever have one.
#[test]
fn odd_numbers_are_taken_as_redis_takes_them() {
    let Some(redis) = RedisServer::start() else { return };
    // Of several shards a scan goes through each, though nothing is there.
    let catena = Catena::start(1);
    let (mut ours, mut theirs) = (catena.connect(), redis.connect());
    let cursors = [
        "0",
        "-0",
        "+0",
        "00",
        "",
        "-1",
        "+1",
        "-2",
        "18446744073709551615",
        "18446744073709551616",
        "-18446744073709551615",
        "-18446744073709551616",
        "99999999999999999999999",
        " 1",
        "1 ",
        "0x1",
        "-",
        "+",
        "+-1",
        "1a",
        "abc",
    ];
    let floats = ["0x10", "0X1.8p1", "-0x1p-3", "+0x.4", "0x", "0xg", "0x1p", "0x1p+2", " 0x1"];
    let scans = cursors.map(|cursor| vec!["SCAN", cursor]);
    let adds = floats.map(|float| vec!["INCRBYFLOAT", "number", float]);
    // Nothing is there when it is scanned: where a cursor leads is each server's own.
    for command in scans.into_iter().chain(adds) {
        let command: Vec<&[u8]> = command.into_iter().map(str::as_bytes).collect();
        ours.send(&encoded(&command));
        theirs.send(&encoded(&command));
        let (ours, theirs) = (shown(&ours.reply()), shown(&theirs.reply()));
        assert_eq!(
            ours,
            theirs,
            "{:?}",
            command.iter().map(|word| shown(word)).collect::<Vec<_>>()
        );
    }
}

/// Where each write is answered when it is on the disk, and reads wait for those before them.
#[test]
fn random_commands_are_answered_as_redis_answers_with_a_log() {
    let directory = temporary_directory("log");
    let path = directory.to_str().expect("plain letters");
    compare_all("with a log", 100, &["--dir", path, "--durability", "sync", "--log-segment", "1m"]);
    std::fs::remove_dir_all(&directory).expect("it is there");
}

/// On two shards, so that some clients' commands are handed over.
fn compare_all(name: &str, first_seed: u64, args: &[&str]) {
    let Some(redis) = RedisServer::start() else { return };
    let seeds: Vec<u64> = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (first_seed + 1..=first_seed + 4).collect(),
    };
    let catena = Catena::start_with(2, args);
    for seed in seeds {
        println!("{name}: {SEED_VARIABLE}={seed}");
        compare(seed, &catena, &redis);
    }
}

fn compare(seed: u64, catena: &Catena, redis: &RedisServer) {
    let (mut ours, mut theirs) = (catena.connect(), redis.connect());
    for peer in [&mut ours, &mut theirs] {
        assert_eq!(peer.ask("FLUSHALL"), "+OK");
    }
    if seed.is_multiple_of(2) {
        ours.ask("HELLO 3");
        theirs.ask("HELLO 3");
    }
    let mut random = Random(seed);
    let mut history: Vec<Vec<Vec<u8>>> = Vec::new();
    for _ in 0..COMMANDS / PIPELINE {
        let commands: Vec<Vec<Vec<u8>>> = (0..PIPELINE).map(|_| random.command()).collect();
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encoded(command)).collect();
        ours.send(&bytes);
        theirs.send(&bytes);
        for command in commands {
            let (our, their) = (ours.reply(), theirs.reply());
            let is_same = our == their || is_allowed(&command, &our, &their);
            history.push(command);
            if !is_same {
                panic!("seed {seed}: {}", told(&history, &our, &their));
            }
        }
    }
}

fn is_allowed(command: &[Vec<u8>], ours: &[u8], theirs: &[u8]) -> bool {
    let name = String::from_utf8_lossy(&command[0]).to_ascii_lowercase();
    ALLOWED.iter().any(|allowed| {
        let is_about = allowed.commands.is_empty() || allowed.commands.contains(&&*name);
        is_about && (allowed.is)(ours, theirs)
    })
}

/// What happened, with the last commands on the same keys.
fn told(history: &[Vec<Vec<u8>>], ours: &[u8], theirs: &[u8]) -> String {
    let line = |command: &Vec<Vec<u8>>| {
        let words: Vec<String> = command.iter().map(|word| shown(word)).collect();
        words.join(" ")
    };
    let last = history.last().expect("a command");
    let keys: Vec<&Vec<u8>> = last[1..].iter().filter(|word| is_key(word)).collect();
    // One about all keys depends on all of them.
    let on_keys = |command: &&Vec<Vec<u8>>| {
        keys.is_empty() || command.iter().any(|word| keys.contains(&word))
    };
    let before: Vec<String> = history.iter().filter(on_keys).map(line).collect();
    let before = &before[before.len().saturating_sub(40)..];
    format!(
        "{}\n  ours:   {}\n  theirs: {}\n  before, on its keys:\n    {}",
        line(last),
        shown(ours),
        shown(theirs),
        before.join("\n    ")
    )
}

fn is_key(word: &[u8]) -> bool {
    let is_tagged = word.strip_prefix(TAG).is_some_and(|rest| matches!(rest, [b'a'..=b'z']));
    is_tagged || matches!(word, [b's', b'1'..=b'4'])
}

fn number(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply).ok()?.strip_prefix(':')?.trim_end().parse().ok()
}

fn sorted_lines(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = reply.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

/// A generator of 64-bit numbers: SplitMix64, of Steele, Lea and Flood.
struct Random(u64);

/// Most keys are in one slot: some commands of several keys want that.
const TAG: &[u8] = b"{t}";

/// Each command: its name, and what its arguments are, by letters; see [`Random::argument`].
const COMMAND_SHAPES: &[&str] = &[
    "get k",
    "get k",
    "set k v",
    "set k v",
    "set k v o",
    "set k v o o",
    "set k v o d",
    "set k v o d o",
    "set k v o o o d",
    "setnx k v",
    "setex k d v",
    "psetex k d v",
    "getset k v",
    "getdel k",
    "getex k",
    "getex k o",
    "getex k o d",
    "mget k k k",
    "mset k v k v",
    "mset k v k",
    "msetnx k v k v",
    "strlen k",
    "append k v",
    "append k v",
    "getrange k i i",
    "substr k i i",
    "setrange k i v",
    "incr k",
    "decr k",
    "incrby k n",
    "decrby k n",
    "incrbyfloat g f",
    "incrbyfloat g f",
    "set g f",
    "getset g f",
    "incr g",
    "get g",
    "del g",
    "del k",
    "del k k",
    "unlink k k",
    "exists k k k",
    "type k",
    "get s",
    "set s v",
    "set s v o d",
    "append s v",
    "incr s",
    "expire s d",
    "mget s k s",
    "mget k s s s",
    "mset s v s v",
    "mset k v s v",
    "mset s v k",
    "del s s k",
    "unlink k s",
    "exists s k s",
    "touch s s k",
    "touch k k",
    "rename k k",
    "renamenx k k",
    "copy k k",
    "copy k k o",
    "expire k d",
    "expire k d e",
    "pexpire k d",
    "pexpire k d e",
    "expireat k a",
    "expireat k a c",
    "pexpireat k b",
    "pexpireat k b c",
    "ttl k",
    "pttl k",
    "expiretime k",
    "pexpiretime k",
    "persist k",
    "dbsize",
    "keys p",
    "keys *",
    "ping",
    "ping v",
    "echo v",
    "select n",
    "get",
    "set k",
    "get k k",
    "nonsense k",
    "getex k o o",
    "expire k e",
    "wait 0",
    "client x",
    "config x",
    "time x",
    "client setname v",
    "client getname",
    "client kill v",
    "client kill id n",
    "client kill user nobody",
    "client kill type normal skipme v",
    "client kill type nonsense id 1",
    "client kill addr v id n",
    "client kill laddr v",
    "client kill id",
    "client kill",
    "client list id -1 0",
    "client list id -1 abc",
    "object encoding k",
    "object encoding k",
    "object encoding g",
    "object refcount k",
    "object freq k",
    "object encoding",
    "object nonsense k",
    "object",
    "lastsave x",
    "flushdb x",
    "shutdown nonsense",
    "shutdown save nosave",
    "shutdown abort",
    "shutdown abort now",
    "set k f",
    "set k n",
    "get k",
    "strlen k",
    "set k v EXAT a",
    "set k v PXAT b",
];

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() % all.len() as u64) as usize]
    }

    fn command(&mut self) -> Vec<Vec<u8>> {
        if self.next().is_multiple_of(400) {
            return vec![self.pick(&[&b"FLUSHALL"[..], b"FLUSHDB"]).to_vec()];
        }
        let shape = self.pick(COMMAND_SHAPES);
        let mut words = shape.split(' ');
        let name = words.next().expect("a name");
        // The name in whatever case.
        let name =
            if self.next().is_multiple_of(2) { name.to_owned() } else { name.to_uppercase() };
        let arguments = words.map(|kind| self.argument(kind)).collect::<Vec<_>>();
        [vec![name.into_bytes()], arguments].concat()
    }

    /// By letter: key, key of another slot (s), value, option, number, duration, index, pattern; instant in
    /// seconds (a) or milliseconds (b); condition of an instant (c) or a duration (e), for which GT and LT
    /// would hang on the clock; key (g) of a number with a fraction (f), small enough that Redis, too, adds
    /// exactly. What is no letter stands for itself.
    fn argument(&mut self, kind: &str) -> Vec<u8> {
        match kind {
            "k" => [TAG, self.pick(&["a", "b", "c", "d", "e", "f"]).as_bytes()].concat(),
            "s" => self.pick(&["s1", "s2", "s3", "s4"]).as_bytes().to_vec(),
            "g" => [TAG, self.pick(&["x", "y"]).as_bytes()].concat(),
            "v" => self.value(),
            "o" => self.pick(OPTIONS).as_bytes().to_vec(),
            "n" => self.pick(NUMBERS).as_bytes().to_vec(),
            "d" => self.pick(DURATIONS).as_bytes().to_vec(),
            "i" => self.pick(INDEXES).as_bytes().to_vec(),
            "f" => self.float(),
            "e" => self.pick(&["NX", "XX", "nx", "nonsense"]).as_bytes().to_vec(),
            "c" => self.pick(&["NX", "XX", "GT", "LT", "gt", "nonsense"]).as_bytes().to_vec(),
            "a" => self.instant(1),
            "b" => self.instant(1_000),
            "p" => self.pick(&["*", "{t}?", "*[a-c]", "*[^a]", "{t}a", "\\{t}*", "", "x*"]).into(),
            other => other.as_bytes().to_vec(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.next() % 8 {
            0 => Vec::new(),
            1 => self.pick(NUMBERS).as_bytes().to_vec(),
            2 => self.float(),
            3 => (0..self.next() % 40).map(|_| self.next() as u8).collect(),
            4 => vec![b'x'; (self.next() % 20_000) as usize],
            _ => self.pick(&["a", "value", "hello", "with\r\nlines"]).as_bytes().to_vec(),
        }
    }

    /// No hexadecimal ones, which Redis takes and we refuse. With fractions that binary numbers have: Redis
    /// adds in extended precision, and then tells that
    /// 272.238 and 127.997 are 400.23499999999999999; we add decimal fractions exactly.
    fn float(&mut self) -> Vec<u8> {
        const ODD: &[&str] =
            &["nan", "inf", "-inf", "1e3", "25e-2", " 1", "1 ", "", "1.", ".5", "abc", "-0"];
        if self.next().is_multiple_of(4) {
            return self.pick(ODD).as_bytes().to_vec();
        }
        let whole = (self.next() % 2_000).cast_signed() - 1_000;
        let part = self.pick(&["0", "5", "25", "75", "125", "375", "0625"]);
        format!("{whole}.{part}").into_bytes()
    }

    /// Long ago, or so far apart that what is allowed to differ does not hide which it is.
    fn instant(&mut self, per_second: u64) -> Vec<u8> {
        let seconds =
            self.pick(&[0, 1, 1_000_000_000, 4_000_000_000, 4_100_000_000, 5_000_000_000]);
        (seconds * per_second).to_string().into_bytes()
    }
}

const OPTIONS: &[&str] = &[
    "NX", "XX", "GET", "KEEPTTL", "EX", "PX", "EXAT", "PXAT", "PERSIST", "REPLACE", "DB", "get",
    "nx", "keepttl", "persist", "nonsense", "",
];

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "10",
    "1000000",
    "2000000",
    "-1000000",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "9223372036854775",
    "922337203685477580",
    "01",
    "+1",
    " 1",
    "1 ",
    "1.5",
    "",
    "abc",
    "9999999999999999",
];

/// Past, or so far ahead in either unit that nothing ends during the test.
const DURATIONS: &[&str] = &[
    "0",
    "-1",
    "-1000000",
    "1000000",
    "2000000",
    "4000000",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "9223372036854775",
    "01",
    " 1",
    "",
    "abc",
];

const INDEXES: &[&str] = &[
    "0",
    "1",
    "2",
    "5",
    "10",
    "100",
    "-1",
    "-2",
    "-5",
    "-100",
    "30000",
    "9223372036854775807",
    "-9223372036854775808",
    "536870912",
    "x",
    "",
];
