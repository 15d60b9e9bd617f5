//! What was written to a partition, and what may be found there after a crash.
//!
//! All operations on a partition are in one order, and each is atomic. So whatever happens, what is found is
//! the state after some of them from the first on: after all that were acknowledged, where that means that
//! they are durable, and perhaps after some more.

use catena_engine::rng::Rng;
use catena_engine::time::Instant;
use std::collections::VecDeque;

/// Keys of a partition: a counter, some plain ones, and at last one that may expire.
pub const KEYS: usize = 6;
const COUNTER: usize = 0;
const EXPIRING: usize = KEYS - 1;

/// Unix milliseconds at the beginning of each world.
pub const EPOCH_MS: u64 = 1 << 40;

/// What the keys of a partition hold.
pub type State = [Option<Entry>; KEYS];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub value: Vec<u8>,
    pub expires_at: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    Set { key: usize, value: Vec<u8>, expires_at: Option<u64> },
    SetAll { keys: Vec<usize>, value: Vec<u8> },
    Append { key: usize, value: Vec<u8> },
    Rename { from: usize, to: usize },
    Delete { keys: Vec<usize> },
    Increment,
}

/// When an operation was acknowledged; `None`: it was not.
type Acknowledged = Option<Instant>;

/// One partition.
pub struct History {
    /// What its keys are called is this and their number.
    pub tag: String,
    /// What is there for certain.
    settled: State,
    /// What was asked since, in order.
    open: VecDeque<(Op, Acknowledged)>,
    /// What the counter has after all that was acknowledged.
    counter: i64,
    pub versions: [Versions; KEYS],
}

/// What is known of the version of a key.
#[derive(Clone, Copy, Default)]
pub struct Versions {
    /// The one seen last.
    pub highest: (u32, u64),
    /// The highest that anybody was told, also of a write that a crash has taken back: no other write has it.
    pub ever: (u32, u64),
    /// It was written since, or that is unknown.
    pub is_stale: bool,
}

/// What was read of a partition at one instant.
#[derive(Debug)]
pub struct Seen {
    pub values: Vec<Option<Vec<u8>>>,
    /// Unix milliseconds before and after.
    pub between: (u64, u64),
}

/// What survives a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// All that was acknowledged.
    Acknowledged,
    /// All that was acknowledged until then.
    Until(Instant),
}

impl History {
    pub fn new(tag: String) -> Self {
        History {
            tag,
            settled: State::default(),
            open: VecDeque::new(),
            counter: 0,
            versions: Default::default(),
        }
    }

    pub fn key(&self, number: usize) -> String {
        format!("{{{}}}{number}", self.tag)
    }

    /// An operation is under way.
    pub fn ask(&mut self, op: Op) {
        for key in op.keys() {
            self.versions[key].is_stale = true;
        }
        self.open.push_back((op, None));
    }

    /// The oldest one under way is acknowledged. What an `INCR` has to have answered.
    pub fn acknowledge(&mut self, now: Instant) -> Option<i64> {
        let next = self.open.iter().position(|(_, acknowledged)| acknowledged.is_none());
        let next = next.expect("what is acknowledged was asked");
        self.open[next].1 = Some(now);
        let is_increment = self.open[next].0 == Op::Increment;
        self.counter += i64::from(is_increment);
        is_increment.then_some(self.counter)
    }

    /// The oldest one under way was refused: it has done nothing.
    pub fn refuse(&mut self) {
        let next = self.open.iter().position(|(_, acknowledged)| acknowledged.is_none());
        self.open.remove(next.expect("what is refused was asked"));
    }

    /// Everything that was acknowledged until `instant` is there for certain.
    pub fn settle(&mut self, promise: Promise) {
        while let Some((op, Some(at))) = self.open.front() {
            if matches!(promise, Promise::Until(instant) if *at > instant) {
                break;
            }
            op.apply(&mut self.settled);
            self.open.pop_front();
        }
    }

    /// What is read must be a state that there may be. From then on it is the one that there is, for
    /// nothing is under way any more.
    pub fn check(&mut self, seen: &Seen) -> Result<(), String> {
        let mut state = self.settled.clone();
        let mut open = self.open.iter();
        while !matches(&state, seen) {
            let Some((op, _)) = open.next() else {
                return Err(self.describe(seen));
            };
            op.apply(&mut state);
        }
        self.counter = number(&state[COUNTER]);
        (self.settled, self.open) = (state, VecDeque::new());
        Ok(())
    }

    /// As [`History::check`], while more is under way: it stays so.
    pub fn admits(&self, seen: &Seen) -> Result<(), String> {
        let may_be = (0..=self.open.len()).any(|count| matches(&self.after(count), seen));
        if may_be { Ok(()) } else { Err(self.describe(seen)) }
    }

    fn after(&self, count: usize) -> State {
        let mut state = self.settled.clone();
        self.open.iter().take(count).for_each(|(op, _)| op.apply(&mut state));
        state
    }

    fn describe(&self, seen: &Seen) -> String {
        let brief = |value: &Option<Vec<u8>>| match value {
            None => "nothing".to_owned(),
            Some(value) => {
                let text = String::from_utf8_lossy(&value[..value.len().min(24)]).into_owned();
                format!("{text:?}… of {} bytes", value.len())
            }
        };
        let mut text = format!("in {{{}}}, between {:?}:\n", self.tag, seen.between);
        for (key, value) in seen.values.iter().enumerate() {
            let may_be: Vec<String> = (0..=self.open.len())
                .map(|count| self.after(count)[key].clone())
                .map(|entry| {
                    let expires_at = entry.as_ref().and_then(|entry| entry.expires_at);
                    format!("{} {expires_at:?}", brief(&entry.map(|entry| entry.value)))
                })
                .collect();
            text += &format!("  key {key} has {}, may have {may_be:?}\n", brief(value));
        }
        text
    }
}

impl Op {
    /// One by chance. `number` is in the value, and in no other.
    pub fn draw(rng: &mut Rng, number: u64, now_ms: u64) -> Op {
        let plain = |rng: &mut Rng| 1 + rng.below(KEYS as u64 - 2) as usize;
        let padding = match rng.below(400) {
            0 => 100_000,
            1..10 => 9_000,
            _ => number % 300,
        };
        let value = format!("{number}-{}", "x".repeat(padding as usize)).into_bytes();
        match rng.below(12) {
            0..3 => Op::Set { key: plain(rng), value, expires_at: None },
            3 => Op::SetAll { keys: vec![1, 2, EXPIRING], value },
            4..6 => Op::Append { key: plain(rng), value },
            6 => Op::Delete { keys: vec![plain(rng)] },
            7 => Op::Delete { keys: vec![3, 4, EXPIRING] },
            8 => Op::Set {
                key: EXPIRING,
                value,
                expires_at: rng.chance(0.8).then(|| now_ms + 1 + rng.below(400)),
            },
            // Of a key that is there: the one before sees to that.
            9 => Op::Rename { from: 1, to: 2 + rng.below(3) as usize },
            _ => Op::Increment,
        }
    }

    pub fn command(&self, key: impl Fn(usize) -> String) -> Vec<Vec<u8>> {
        let mut words: Vec<Vec<u8>> = Vec::new();
        let mut say = |word: &[u8]| words.push(word.to_vec());
        match self {
            Op::Set { key: number, value, expires_at } => {
                say(b"SET");
                say(key(*number).as_bytes());
                say(value);
                if let Some(at) = expires_at {
                    say(b"PXAT");
                    say(at.to_string().as_bytes());
                }
            }
            Op::SetAll { keys, value } => {
                say(b"MSET");
                for number in keys {
                    say(key(*number).as_bytes());
                    say(value);
                }
            }
            Op::Append { key: number, value } => {
                say(b"APPEND");
                say(key(*number).as_bytes());
                say(value);
            }
            Op::Rename { from, to } => {
                say(b"RENAME");
                say(key(*from).as_bytes());
                say(key(*to).as_bytes());
            }
            Op::Delete { keys } => {
                say(b"DEL");
                keys.iter().for_each(|number| say(key(*number).as_bytes()));
            }
            Op::Increment => {
                say(b"INCR");
                say(key(COUNTER).as_bytes());
            }
        }
        words
    }

    fn keys(&self) -> Vec<usize> {
        match self {
            Op::Set { key, .. } | Op::Append { key, .. } => vec![*key],
            Op::SetAll { keys, .. } | Op::Delete { keys } => keys.clone(),
            Op::Rename { from, to } => vec![*from, *to],
            Op::Increment => vec![COUNTER],
        }
    }

    fn apply(&self, state: &mut State) {
        match self {
            Op::Set { key, value, expires_at } => {
                state[*key] = Some(Entry { value: value.clone(), expires_at: *expires_at });
            }
            Op::SetAll { keys, value } => {
                for key in keys {
                    state[*key] = Some(Entry { value: value.clone(), expires_at: None });
                }
            }
            Op::Append { key, value } => {
                let empty = || Entry { value: Vec::new(), expires_at: None };
                state[*key].get_or_insert_with(empty).value.extend_from_slice(value);
            }
            Op::Rename { from, to } => {
                if let Some(entry) = state[*from].take() {
                    state[*to] = Some(entry);
                }
            }
            Op::Delete { keys } => keys.iter().for_each(|key| state[*key] = None),
            Op::Increment => {
                let value = (number(&state[COUNTER]) + 1).to_string().into_bytes();
                state[COUNTER] = Some(Entry { value, expires_at: None });
            }
        }
    }
}

fn number(entry: &Option<Entry>) -> i64 {
    let Some(entry) = entry else { return 0 };
    std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok()).expect("a counter")
}

fn matches(state: &State, seen: &Seen) -> bool {
    let (before, after) = seen.between;
    state.iter().zip(&seen.values).all(|(entry, value)| match (entry, value) {
        (None, None) => true,
        (Some(entry), Some(value)) => {
            entry.value == *value && entry.expires_at.is_none_or(|at| at > before)
        }
        (Some(entry), None) => entry.expires_at.is_some_and(|at| at <= after),
        (None, Some(_)) => false,
    })
}
