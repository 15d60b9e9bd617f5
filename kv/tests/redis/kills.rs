//! The real process is killed under load, again and again; each time what was acknowledged must be there.
//!
//! Every connection has keys of its own and sends pipelines of writes to them. Of each key it knows the state
//! that was acknowledged last, and those that the writes behind it would lead to: after a kill one of
//! these is found. What is found is known from then on.

use crate::peer::{Peer, encoded, shown};
use crate::server::{Catena, temporary_directory};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::thread;
use std::time::Duration;

const KILLS: u64 = 50;
const CONNECTIONS: u64 = 4;
const KEYS: u64 = 60;
const PIPELINE: u64 = 16;

/// What a key holds: a value, and whether it will expire (in hours: not while this runs).
type State = Option<(String, bool)>;

/// A key's possible states: the one acknowledged last, then one for each write since.
type Possible = VecDeque<State>;

#[test]
fn what_was_acknowledged_is_there_after_every_kill() {
    let directory = temporary_directory("kills");
    let data = directory.join("data");
    let data = data.to_str().expect("a plain name");
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut owners: Vec<Owner> = (0..CONNECTIONS).map(Owner::new).collect();
    let cores = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    for kill in 0..KILLS {
        // Onto other numbers of shards, by the one driver and the other, with many checkpoints.
        let shards = 1 + kill % cores.min(3);
        let driver = if kill % 4 == 3 { "epoll" } else { "auto" };
        let args = [
            "--dir",
            data,
            "--driver",
            driver,
            "--log-segment",
            "256k",
            "--checkpoint-log",
            "128k",
        ];
        let catena = Catena::start_with(shards as u16, &args);
        for owner in &mut owners {
            owner
                .check(&mut catena.connect())
                .unwrap_or_else(|wrong| panic!("kill {kill}: {wrong}"));
        }
        let load = Duration::from_millis(20 + random.below(80));
        thread::scope(|scope| {
            for owner in &mut owners {
                let (mut peer, mut random) = (catena.connect(), Random(random.next()));
                scope.spawn(move || while owner.write(&mut peer, &mut random).is_some() {});
            }
            thread::sleep(load);
            catena.kill();
        });
    }
    let acknowledged: u64 = owners.iter().map(|owner| owner.acknowledged).sum();
    println!("{KILLS} kills, {acknowledged} writes acknowledged");
    assert!(acknowledged > KILLS * CONNECTIONS, "it was under load: {acknowledged}");
    std::fs::remove_dir_all(directory).expect("nobody uses it any more");
}

/// A connection's keys.
struct Owner {
    keys: Range<u64>,
    possible: BTreeMap<u64, Possible>,
    acknowledged: u64,
    /// Makes every value another one.
    written: u64,
}

impl Owner {
    fn new(number: u64) -> Self {
        let keys = number * KEYS..(number + 1) * KEYS;
        let possible = keys.clone().map(|key| (key, Possible::from([None]))).collect();
        Owner { keys, possible, acknowledged: 0, written: 0 }
    }

    /// Each key is in a state that it may be in, and known to be in it from now on.
    fn check(&mut self, peer: &mut Peer) -> Result<(), String> {
        let commands = |key: u64| [["GET".to_owned(), name(key)], ["PTTL".to_owned(), name(key)]];
        let request: Vec<u8> =
            self.keys.clone().flat_map(commands).flat_map(|words| encoded(&words)).collect();
        peer.send(&request);
        for (key, possible) in &mut self.possible {
            let (value, left) = (shown(&peer.reply()), shown(&peer.reply()));
            let value = value.split_once(' ').map(|(_, value)| value.to_owned());
            let found = value.map(|value| (value, left != ":-1"));
            if !possible.contains(&found) {
                return Err(format!("key {key} is {found:?}, and may be one of {possible:?}"));
            }
            *possible = Possible::from([found]);
        }
        Ok(())
    }

    /// Writes a pipeline and takes its replies; `None`: the server is gone.
    fn write(&mut self, peer: &mut Peer, random: &mut Random) -> Option<()> {
        let mut request = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..1 + random.below(PIPELINE) {
            let key = self.keys.start + random.below(KEYS);
            let (words, reply) = self.command(key, random);
            request.extend(encoded(&words));
            sent.push((key, words, reply));
        }
        peer.try_send(&request)?;
        for (key, words, reply) in sent {
            assert_eq!(shown(&peer.try_reply()?), reply, "{words:?}");
            let possible = self.possible.get_mut(&key).expect("it is one of these keys");
            possible.pop_front();
            self.acknowledged += 1;
        }
        Some(())
    }

    /// A write to a key, and what it is answered; its outcome is possible from now on.
    fn command(&mut self, key: u64, random: &mut Random) -> (Vec<String>, String) {
        self.written += 1;
        let (name, text) = (name(key), self.written.to_string());
        let possible = self.possible.get_mut(&key).expect("it is one of these keys");
        let newest = possible.back().cloned().expect("there is always one");
        let is_there = newest.is_some();
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let (words, reply, state): (Vec<String>, String, State) = match (random.below(6), newest) {
            (0, _) => (words(&["DEL", &name]), format!(":{}", u8::from(is_there)), None),
            (1, Some((value, expires))) => {
                let value = value.parse::<i64>().map_or(0, |value| value % 1_000_000);
                let put = words(&["SET", &name, &value.to_string(), "KEEPTTL"]);
                (put, "+OK".to_owned(), Some((value.to_string(), expires)))
            }
            (2, Some((value, expires))) if value.len() < 200 => {
                let value = value + &text;
                let reply = format!(":{}", value.len());
                (words(&["APPEND", &name, &text]), reply, Some((value, expires)))
            }
            (3, Some((value, expires))) if value.len() < 15 && !value.starts_with('0') => {
                let sum = value.parse::<i64>().expect("values are numbers") + 7;
                let reply = format!(":{sum}");
                (words(&["INCRBY", &name, "7"]), reply, Some((sum.to_string(), expires)))
            }
            (4, Some((value, _))) => {
                (words(&["EXPIRE", &name, "99999"]), ":1".to_owned(), Some((value, true)))
            }
            _ => (words(&["SET", &name, &text]), "+OK".to_owned(), Some((text, false))),
        };
        possible.push_back(state);
        (words, reply)
    }
}

fn name(key: u64) -> String {
    format!("key:{key}")
}

/// SplitMix64, by Steele, Lea and Flood (2014): which writes there are hangs on nothing else.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
