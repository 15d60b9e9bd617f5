//! A store, somebody who writes to it, and the checks of what it says.

use crate::client::Client;
use crate::history::{History, KEYS, Op, Promise, Seen};
use crate::machine::{Machine, PARTITIONS, now_ms};
use catena_engine::rng::Rng;
use catena_engine::sim::{Crash, World};
use catena_engine::time::{Duration, Instant};
use catena_kv::partition::Version;
use catena_kv::resp::Value;
use catena_kv::slot::{Partition, Partitions, Slot};
use catena_kv::store::Durability;

const IN_FLIGHT: usize = 16;

/// How long it may take until a store serves, or goes on.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module page.
pub struct Scene {
    pub machine: Machine,
    pub rng: Rng,
    pub histories: Vec<History>,
    pub acknowledged: u64,
    /// Commands that were refused, for whatever reason.
    pub refused: u64,
    /// What is acknowledged is there for certain.
    pub settles_at_once: bool,
    client: Client<Asked>,
    written: u64,
    /// Only the first so many partitions are written to.
    pub writes_to: usize,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Write { history: usize },
    Values { at_ms: u64 },
    Version { key: usize },
    Cas { is_current: bool },
}

/// Why nothing could be read.
#[derive(Debug)]
pub enum Unread {
    /// The store has said that it cannot go on.
    Failed(Vec<String>),
    /// It has said nothing, and does not serve.
    Mute,
}

impl Scene {
    pub fn begin(world: &mut World, shards: u16, durability: Durability) -> Self {
        // Mostly a start that finds a log takes a checkpoint at once; else it lives with former ones for a
        // while.
        let checkpoint_log = if world.seed() % 4 == 3 { 512 << 10 } else { 8 << 10 };
        Self::begin_with(world, shards, durability, checkpoint_log)
    }

    /// With a checkpoint for so many bytes of log.
    pub fn begin_with(
        world: &mut World,
        shards: u16,
        durability: Durability,
        checkpoint_log: u64,
    ) -> Self {
        let machine = Machine::start(world, shards, durability, checkpoint_log);
        Scene {
            machine,
            rng: Rng::from_seed(world.seed()),
            histories: tags().into_iter().map(History::new).collect(),
            acknowledged: 0,
            refused: 0,
            settles_at_once: durability == Durability::Sync,
            client: Client::new(world),
            written: 0,
            writes_to: usize::from(PARTITIONS),
        }
    }

    /// Writes as much as may be under way, for so long.
    pub fn write_for(&mut self, world: &mut World, time: Duration) {
        let until = world.now() + time;
        while world.now() < until {
            self.write(world);
        }
    }

    /// Writes, and lets a moment pass.
    pub fn write(&mut self, world: &mut World) {
        while self.client.is_open() && self.client.in_flight() < IN_FLIGHT {
            self.written += 1;
            let op = Op::draw(&mut self.rng, self.written, now_ms(world));
            let history = self.rng.below(self.writes_to as u64) as usize;
            let words = op.command(|key| self.histories[history].key(key));
            self.histories[history].ask(op);
            self.client.ask(Asked::Write { history }, &words);
        }
        self.take_answers(world);
    }

    /// Lets a moment pass, and takes the answers to what was written.
    fn take_answers(&mut self, world: &mut World) {
        for (asked, answer) in self.client.step(world, &self.machine) {
            let Asked::Write { history } = asked else { continue };
            let history = &mut self.histories[history];
            if let Value::Error(_) = answer {
                history.refuse();
                self.refused += 1;
                continue;
            }
            self.acknowledged += 1;
            if let Some(number) = history.acknowledge(world.now()) {
                assert_eq!(answer, Value::Integer(number), "of a counter in {{{}}}", history.tag);
            }
            if self.settles_at_once {
                history.settle(Promise::Acknowledged);
            }
        }
    }

    /// Writes no more until everything is answered. False: that does not happen.
    pub fn finish(&mut self, world: &mut World) -> bool {
        let until = world.now() + PATIENCE;
        while self.client.in_flight() > 0 && world.now() < until {
            self.take_answers(world);
        }
        self.client.in_flight() == 0
    }

    /// It is down. What was acknowledged until then is promised, by a store that is not in sync mode.
    pub fn crash(&mut self, world: &mut World, how: Crash, promised_until: Instant) {
        self.machine.crash(world, how);
        self.client.forget();
        let promise = Promise::Until(promised_until);
        self.histories.iter_mut().for_each(|history| history.settle(promise));
    }

    /// It is asked to end, and does.
    pub fn drain(&mut self, world: &mut World) {
        assert!(self.finish(world), "it does not answer");
        self.client.forget();
        self.machine.drain(world);
        self.histories.iter_mut().for_each(|history| history.settle(Promise::Acknowledged));
    }

    /// Reads everything, as soon as the store serves, and checks it.
    pub fn read(&mut self, world: &mut World) -> Result<(), Unread> {
        for history in 0..self.histories.len() {
            let (seen, versions) = self.read_one(world, history)?;
            let wrong = |wrong: String| panic!("seed {}: {wrong}", world.seed());
            self.histories[history].check(&seen).unwrap_or_else(wrong);
            for (key, version) in versions.into_iter().enumerate() {
                self.check_version(history, key, version);
            }
        }
        self.compare_and_set(world)
    }

    /// What is read of one partition.
    pub fn read_one(
        &mut self,
        world: &mut World,
        history: usize,
    ) -> Result<(Seen, Vec<Option<Version>>), Unread> {
        let until = world.now() + PATIENCE;
        'again: loop {
            self.client.forget();
            let mut seen: Option<Seen> = None;
            let mut versions = vec![None; KEYS];
            let mut missing = None;
            while missing != Some(0) {
                let failures = self.machine.failures();
                if !failures.is_empty() {
                    return Err(Unread::Failed(failures));
                }
                if world.now() > until {
                    return Err(Unread::Mute);
                }
                if self.client.is_open() && missing.is_none() {
                    missing = Some(self.ask_all(history, now_ms(world)));
                }
                for (asked, answer) in self.client.step(world, &self.machine) {
                    missing = missing.map(|missing| missing - 1);
                    match (asked, answer) {
                        // It has not recovered yet.
                        (_, Value::Error(_)) => {
                            self.machine.run_for(world, Duration::from_millis(1));
                            continue 'again;
                        }
                        (Asked::Values { at_ms }, Value::Array(values)) => {
                            let values = values.iter().map(|it| it.bytes().map(<[u8]>::to_vec));
                            let between = (at_ms, now_ms(world));
                            seen = Some(Seen { values: values.collect(), between });
                        }
                        (Asked::Version { key }, Value::Array(found)) => {
                            let text = found[1].bytes().expect("a version");
                            versions[key] = Some(Version::parse(text).expect("a version"));
                        }
                        _ => {}
                    }
                }
                if missing.is_some() && self.client.in_flight() == 0 && missing != Some(0) {
                    // The connection was lost.
                    continue 'again;
                }
            }
            return Ok((seen.expect("everything was answered"), versions));
        }
    }

    fn ask_all(&mut self, history: usize, at_ms: u64) -> usize {
        let keys = &self.histories[history];
        let mut words = vec!["MGET".to_owned()];
        words.extend((0..KEYS).map(|key| keys.key(key)));
        self.client.ask(Asked::Values { at_ms }, &words);
        for key in 0..KEYS {
            let words = ["GETV".to_owned(), keys.key(key)];
            self.client.ask(Asked::Version { key }, &words);
        }
        1 + KEYS
    }

    fn check_version(&mut self, history: usize, key: usize, found: Option<Version>) {
        let name = self.histories[history].key(key);
        let known = &mut self.histories[history].versions[key];
        let Some(Version { epoch, index }) = found else { return };
        let (found, highest) = ((epoch, index), known.highest);
        if known.is_stale {
            assert!(found >= highest, "{name}: version {found:?} after {highest:?}");
        } else {
            assert_eq!(found, highest, "{name}: nobody has written it");
        }
        (known.highest, known.is_stale) = (found, false);
        known.ever = known.ever.max(found);
    }

    /// A version that is current lets a write pass, once.
    fn compare_and_set(&mut self, world: &mut World) -> Result<(), Unread> {
        const KEY: usize = 1;
        let history = self.rng.below(self.histories.len() as u64) as usize;
        let (seen, versions) = self.read_one(world, history)?;
        let version = versions[KEY].unwrap_or(Version::NONE).to_string();
        let is_there = seen.values[KEY].is_some();
        assert_eq!(is_there, versions[KEY].is_some(), "a value has a version");
        let words = ["CAS".to_owned(), self.histories[history].key(KEY), version, "cas".to_owned()];
        for is_current in [true, false] {
            self.client.ask(Asked::Cas { is_current }, &words);
        }
        let op = Op::Set { key: KEY, value: b"cas".to_vec(), expires_at: None };
        self.histories[history].ask(op);
        let until = world.now() + PATIENCE;
        while self.client.in_flight() > 0 {
            assert!(world.now() < until, "seed {}: it does not answer", world.seed());
            for (asked, answer) in self.client.step(world, &self.machine) {
                match asked {
                    Asked::Cas { is_current: true } => {
                        let text = answer.bytes().expect("the version is the current one");
                        let Version { epoch, index } = Version::parse(text).expect("a version");
                        let known = &mut self.histories[history].versions[KEY];
                        assert!((epoch, index) > known.ever, "{epoch}-{index}: {:?}", known.ever);
                        known.ever = (epoch, index);
                        self.histories[history].acknowledge(world.now());
                    }
                    _ => assert_eq!(answer, Value::Null, "the version is an old one"),
                }
            }
        }
        if self.settles_at_once {
            self.histories[history].settle(Promise::Acknowledged);
        }
        Ok(())
    }
}

/// Hash tags, one for each partition.
fn tags() -> Vec<String> {
    let partitions = Partitions::new(PARTITIONS).expect("a power of two");
    let tag_of = |wanted: u16| {
        let mut tags = (0..).map(|number| format!("tag-{number}"));
        let is_it =
            |tag: &String| Partition::of(Slot::of(tag.as_bytes()), partitions) == Partition(wanted);
        tags.find(is_it).expect("there are many tags")
    };
    (0..PARTITIONS).map(tag_of).collect()
}
