//! A store, the map that it is compared with, and what has to be true between any two steps.

use crate::oracle::{Item, Oracle, VALUE_BYTES_MAX, hundred_quadrillionths};
use crate::steps::{BEGINNING_MS, Step, text_of};
use catena_engine::driver::FileBuffer;
use catena_engine::shard_index::ShardIndex;
use catena_kv::checkpoint::read::{Reader, Taken};
use catena_kv::checkpoint::write::{What, Writer};
use catena_kv::command::spec::{self, Run};
use catena_kv::disk::journal::Bell;
use catena_kv::evict::Eviction;
use catena_kv::log::batch::{Action, LogWriter, WriterConfig};
use catena_kv::log::segment::Segment;
use catena_kv::log::{DirectoryId, LogIdentity, LogStart};
use catena_kv::redis::everywhere::scan;
use catena_kv::resp::{Args, Parsed, Parser, Protocol, Reply, Value};
use catena_kv::slot::{Partitions, Slot};
use catena_kv::store::{Durability, Store, StoreConfig};
use catena_kv::upkeep::{Step as UpkeepStep, Upkeep};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const PARTITIONS: u16 = 4;

/// Memory of a store that is short of it, in bytes.
const SCARCE_BYTES: u64 = 60_000;

const LOG: LogIdentity = LogIdentity { directory: DirectoryId([7; 16]), incarnation: 1, shard: 0 };

/// How a store is run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Writes are in flight until their batch is durable.
    pub is_logged: bool,
    pub is_short_of_memory: bool,
}

type Items = BTreeMap<Vec<u8>, Item>;

/// See the module page.
pub struct Subject {
    config: Config,
    store: Store,
    now: i64,
    newest: Oracle,
    /// What has committed, and what has not, by partition.
    committed: Vec<Items>,
    in_flight: Vec<VecDeque<(u64, Change)>>,
    /// The last entry that has changed a key, or ended all keys of its partition.
    written: BTreeMap<Vec<u8>, u64>,
    cleared: Vec<u64>,
    /// Keys that upkeep may have ended, each with the last entry by which it may have.
    swept: BTreeMap<Vec<u8>, u64>,
    /// The log waits for one of these to end.
    log: Option<Waiting>,
    upkeep: Upkeep,
    scan: Option<ScanState>,
    checkpoint: Option<CheckpointState>,
}

enum Change {
    Key(Vec<u8>, Option<Item>),
    Clear,
}

enum Waiting {
    Write(FileBuffer),
    Sync,
}

/// A scan under way.
struct ScanState {
    cursor: Vec<u8>,
    /// What has been there since it began.
    must: BTreeSet<Vec<u8>>,
    seen: BTreeSet<Vec<u8>>,
}

/// A checkpoint under way.
struct CheckpointState {
    writer: Writer,
    bytes: Vec<u8>,
    /// What partitions held, by their numbers and their last committed index, when it went on.
    held: BTreeMap<(u16, u64), Items>,
}

impl Subject {
    pub fn new(config: Config) -> Self {
        let mut store = new_store(config);
        if config.is_logged {
            let sizes = WriterConfig {
                segment_bytes: 64 << 10,
                batch_bytes_max: 1 << 20,
                partitions: PARTITIONS,
            };
            let writer = LogWriter::new(sizes, LogStart::NEW);
            store.begin_log(writer, Bell::default(), Durability::Sync);
        }
        Subject {
            config,
            store,
            now: BEGINNING_MS,
            newest: Oracle::default(),
            committed: vec![Items::new(); PARTITIONS.into()],
            in_flight: (0..PARTITIONS).map(|_| VecDeque::new()).collect(),
            written: BTreeMap::new(),
            cleared: vec![0; PARTITIONS.into()],
            swept: BTreeMap::new(),
            log: None,
            upkeep: Upkeep::default(),
            scan: None,
            checkpoint: None,
        }
    }

    pub fn take(&mut self, number: usize, step: Step) {
        match step {
            Step::Command(args) => self.command(&args),
            Step::Cas { key, is_current, value } => {
                let index = self.newest.version(&key, self.now);
                let version = match (index, is_current) {
                    (None, true) => "0-0".to_owned(),
                    (Some(index), true) => format!("1-{index}"),
                    (index, false) => format!("1-{}", index.unwrap_or(0) + 1),
                };
                self.command(&["CAS".into(), key, version.into_bytes(), value]);
            }
            Step::FlushAll => self.flush_all(),
            Step::Wait(millis) => self.now += millis,
            Step::Log(actions) => (0..actions).for_each(|_| self.step_log()),
            Step::Upkeep => self.step_upkeep(),
            Step::Scan { count } => self.step_scan(count),
            Step::Checkpoint { entries } => self.step_checkpoint(entries),
        }
        self.note_commits();
        // It costs more than a step.
        if number.is_multiple_of(8) {
            self.check();
        }
    }

    /// What is under way comes to its end, and everything is compared once more.
    pub fn finish(mut self) {
        for _ in 0..10_000 {
            self.step_log();
        }
        self.note_commits();
        self.check();
        assert!(
            self.in_flight.iter().all(VecDeque::is_empty),
            "the log gets on, and nothing is durable"
        );
        while self.scan.is_some() {
            self.step_scan(10);
        }
        self.step_checkpoint(100);
        while self.checkpoint.is_some() {
            self.step_checkpoint(100);
        }
        self.flush_all();
        (0..100).for_each(|_| self.step_log());
        self.note_commits();
        while self.upkeep.step(&mut self.store, self.now as u64, || 0) != UpkeepStep::Idle {
            self.now += 1;
        }
        assert_eq!(self.store.arena().bytes_used(), 0, "nothing is there that takes memory");
        self.check();
    }

    fn command(&mut self, args: &[Vec<u8>]) {
        if args[0] == b"INCRBYFLOAT" && !self.can_be_added(&args[1]) {
            return;
        }
        let bytes = encode(args);
        let mut parser = Parser::default();
        let Ok(Parsed::Command { args: parsed, .. }) = parser.next(&bytes) else {
            panic!("a whole command is a command: {args:?}");
        };
        let spec = spec::of(&parsed).expect("it is one of the commands");
        let Run::Keyed(run) = spec.run else { panic!("{} is not about keys", spec.name) };
        if spec.flags.needs_memory {
            let is_used_up =
                self.config.is_short_of_memory && self.store.bytes_used() > SCARCE_BYTES;
            assert_eq!(self.store.make_room(self.now as u64, || 0), !is_used_up);
            if is_used_up {
                return;
            }
        }
        let place = self.store.place_of(Slot::of(&args[1])).expect("there is one shard");
        assert_eq!(place, partition_of(&args[1]), "of {:?}", args[1]);
        let before = self.store.partitions()[place].received();
        let (answer, gate) = self.run(run, &parsed, place);
        let (received, committed) = self.indexes(place);
        let keys: Vec<&Vec<u8>> = spec.keys.among(args.len()).map(|at| &args[at]).collect();
        let items: Vec<_> = keys.iter().map(|key| self.newest.items.get(*key).cloned()).collect();
        let expected = self.newest.run(args, self.now, received);
        assert_eq!(answer, expected, "to {}", text_of(args));
        let has_written = received > before;
        let indexes = (received, committed);
        self.check_gate((&keys, spec.flags.writes, has_written), gate, indexes, place);
        for (key, before) in keys.into_iter().zip(items) {
            self.note_write(key, before, received);
        }
    }

    /// Notes what has become of a key that had `before`.
    fn note_write(&mut self, key: &[u8], before: Option<Item>, received: u64) {
        let after = self.newest.items.get(key).cloned();
        if before == after {
            return;
        }
        if before.is_some_and(|item| !item.is_alive(self.now)) {
            // It was ended by an entry before the last one, perhaps.
            self.swept.insert(key.to_vec(), received);
        }
        self.written.insert(key.to_vec(), received);
        let change = Change::Key(key.to_vec(), after);
        self.in_flight[partition_of(key)].push_back((received, change));
    }

    /// Carries a command out as a connection does.
    fn run(&mut self, run: spec::RunKeyed, args: &Args<'_>, place: usize) -> (Value, Option<u64>) {
        let mut keyspace = self.store.keyspace(place, self.now as u64);
        let mut text = Vec::new();
        if let Err(error) = run(&mut keyspace, args, &mut Reply::new(&mut text, Protocol::Resp2)) {
            text.clear();
            Reply::new(&mut text, Protocol::Resp2).error(&*error.0);
        }
        let gate = keyspace.seen().index;
        let mut rest = &text[..];
        let answer = Value::read(&mut rest).expect("an answer");
        assert!(rest.is_empty(), "more than one answer: {text:?}");
        (answer, gate)
    }

    /// An answer waits for what it has written and for what it has seen, and for nothing else.
    fn check_gate(
        &self,
        (keys, writes, has_written): (&[&Vec<u8>], bool, bool),
        gate: Option<u64>,
        (received, committed): (u64, u64),
        place: usize,
    ) {
        if keys.iter().any(|key| self.swept.get(*key).is_some_and(|index| *index > committed)) {
            return;
        }
        let last = |key: &Vec<u8>| {
            let written = self.written.get(key).copied().unwrap_or(0);
            written.max(self.cleared[place])
        };
        let seen = keys.iter().map(|key| last(key)).max().unwrap_or(0);
        if has_written && received > committed {
            assert_eq!(gate, Some(received), "an answer waits for its own write");
        } else if seen <= committed {
            assert_eq!(
                gate, None,
                "{committed} has committed, and nothing it has seen is in flight"
            );
        } else if !writes {
            assert_eq!(gate, Some(seen), "an answer waits for what it has seen");
        }
    }

    fn flush_all(&mut self) {
        let entries = self.store.clear().expect("the log works");
        for (place, index) in entries {
            self.cleared[place] = index;
            self.in_flight[place].push_back((index, Change::Clear));
        }
        self.newest.items.clear();
    }

    /// It ends keys that have expired, and nobody is told which.
    fn step_upkeep(&mut self) {
        self.upkeep.step(&mut self.store, self.now as u64, || 0);
        for (key, _) in self.newest.items.iter().filter(|(_, item)| !item.is_alive(self.now)) {
            let (received, _) = self.indexes(partition_of(key));
            self.swept.insert(key.clone(), received);
        }
    }

    /// One action of the log, or the end of one.
    fn step_log(&mut self) {
        match self.log.take() {
            Some(Waiting::Write(buffer)) => {
                let bytes = buffer.bytes().len();
                self.store.log_written(buffer, Ok(bytes));
            }
            Some(Waiting::Sync) => self.store.log_synced(Ok(())),
            None => match self.store.log_action() {
                None => {}
                Some(Action::Prepare { number, bytes }) => {
                    let bytes = bytes.next_multiple_of(4_096);
                    self.store.log_prepared(Segment { log: LOG, number, bytes, seed: 1 });
                }
                Some(Action::Write { buffer, .. }) => self.log = Some(Waiting::Write(buffer)),
                Some(Action::Sync { .. }) => self.log = Some(Waiting::Sync),
            },
        }
    }

    fn indexes(&self, place: usize) -> (u64, u64) {
        let partition = &self.store.partitions()[place];
        (partition.received(), partition.committed())
    }

    /// What has committed is the map's.
    fn note_commits(&mut self) {
        for place in 0..usize::from(PARTITIONS) {
            let (_, committed) = self.indexes(place);
            let (items, in_flight) = (&mut self.committed[place], &mut self.in_flight[place]);
            while in_flight.front().is_some_and(|(index, _)| *index <= committed) {
                match in_flight.pop_front().expect("it was looked at").1 {
                    Change::Key(key, Some(item)) => drop(items.insert(key, item)),
                    Change::Key(key, None) => drop(items.remove(&key)),
                    Change::Clear => items.clear(),
                }
            }
        }
        if let Some(scan) = &mut self.scan {
            let (now, committed) = (self.now, &self.committed);
            let is_there = |key: &Vec<u8>| {
                committed[partition_of(key)].get(key).is_some_and(|item| item.is_alive(now))
            };
            scan.must.retain(is_there);
        }
    }

    /// The table has what has committed, its counts are right, and so is its memory.
    fn check(&self) {
        let (mut keys, mut expiring, mut index_bytes, mut entry_bytes) = (0, 0, 0, 0);
        let mut slots: BTreeMap<Slot, u32> = BTreeMap::new();
        for (place, partition) in self.store.partitions().iter().enumerate() {
            let table = partition.table();
            let mut found = Items::new();
            let mut from = Some(0);
            while let Some(at) = from {
                from = table.walk(self.store.arena(), at, 100, |entry| {
                    let value = entry.value().bytes().to_vec();
                    let expires_at = entry.expires_at().map(|at| at as i64);
                    entry_bytes += 15 + entry.key().len() as u64 + value.len() as u64;
                    expiring += u64::from(expires_at.is_some());
                    *slots.entry(Slot::of(entry.key())).or_default() += 1;
                    let item = Item { value, expires_at, index: entry.index() };
                    assert!(
                        found.insert(entry.key().to_vec(), item).is_none(),
                        "a key is there once"
                    );
                });
            }
            keys += found.len() as u64;
            assert_eq!(found.len(), table.len());
            index_bytes += table.bytes_held() as u64;
            assert_same(&alive(&found, self.now), &alive(&self.committed[place], self.now));
        }
        let memory = self.store.memory();
        assert_eq!((memory.keys(), memory.expiring()), (keys, expiring), "keys, and expiring ones");
        let used = self.store.arena().bytes_used() + index_bytes;
        assert_eq!(memory.bytes_used(), used + memory.graveyard.bytes_held() as u64);
        let most = entry_bytes + entry_bytes / 4 + 32 * keys;
        let is_between = (entry_bytes..=most).contains(&self.store.arena().bytes_used());
        assert!(
            is_between || !memory.graveyard.is_empty(),
            "{entry_bytes} bytes of entries take {used}"
        );
        for (slot, count) in slots {
            assert_eq!(self.store.keys_in_slot(slot), count, "{slot:?}");
        }
        if self.config.is_short_of_memory && !self.config.is_logged {
            let most = SCARCE_BYTES + 4 * VALUE_BYTES_MAX as u64 + 8_192;
            assert!(memory.bytes_used() <= most, "{} bytes are in use", memory.bytes_used());
        }
    }

    fn step_scan(&mut self, count: u64) {
        let mut state = self.scan.take().unwrap_or_else(|| {
            let alive = self.committed.iter().flat_map(|items| alive(items, self.now));
            let must = alive.map(|(key, _)| key.clone()).collect();
            ScanState { cursor: b"0".to_vec(), must, seen: BTreeSet::new() }
        });
        let args = ["SCAN".into(), state.cursor.clone(), "COUNT".into(), count.to_string().into()];
        let bytes = encode(&args);
        let mut parser = Parser::default();
        let Ok(Parsed::Command { args, .. }) = parser.next(&bytes) else { panic!("a command") };
        let mut text = Vec::new();
        let reply = &mut Reply::new(&mut text, Protocol::Resp2);
        scan(&self.store, &args, true, self.now as u64, reply).expect("the cursor is a scan's");
        let Ok(Value::Array(page)) = Value::read(&mut &text[..]) else {
            panic!("a page: {text:?}")
        };
        let [Value::Bulk(cursor), Value::Array(keys)] = &page[..] else {
            panic!("a page: {page:?}")
        };
        for key in keys {
            let key = key.bytes().expect("a key").to_vec();
            let item = self.committed[partition_of(&key)].get(&key);
            assert!(item.is_some_and(|item| item.is_alive(self.now)), "{key:?} is not there");
            state.seen.insert(key);
        }
        if cursor == b"0" {
            let missed: Vec<_> = state.must.difference(&state.seen).collect();
            assert!(missed.is_empty(), "there all the time, and not seen: {missed:?}");
        } else {
            state.cursor.clone_from(cursor);
            self.scan = Some(state);
        }
    }

    fn step_checkpoint(&mut self, entries: usize) {
        let mut state = self.checkpoint.take().unwrap_or_else(|| CheckpointState {
            writer: Writer::new(What::Checkpoint),
            bytes: Vec::new(),
            held: BTreeMap::new(),
        });
        for place in 0..PARTITIONS {
            let (_, committed) = self.indexes(place.into());
            let items = &self.committed[usize::from(place)];
            state.held.entry((place, committed)).or_insert_with(|| items.clone());
        }
        if state.writer.step(&mut self.store, (&LOG, 1), entries, &mut state.bytes) {
            self.check_checkpoint(&state);
        } else {
            self.checkpoint = Some(state);
        }
    }

    /// What comes of it is what each partition had at one instant.
    fn check_checkpoint(&self, state: &CheckpointState) {
        let mut restored = new_store(self.config);
        let taken = Reader::new(LOG, 1).take(&state.bytes, &mut restored);
        assert_eq!(taken, Ok(Taken::Finished { crc: state.writer.crc() }));
        for place in 0..PARTITIONS {
            let partition = &restored.partitions()[usize::from(place)];
            let mut found = Items::new();
            partition.table().walk(restored.arena(), 0, usize::MAX / 8, |entry| {
                let value = entry.value().bytes().to_vec();
                let expires_at = entry.expires_at().map(|at| at as i64);
                found
                    .insert(entry.key().to_vec(), Item { value, expires_at, index: entry.index() });
            });
            let held = state.held.get(&(place, partition.committed()));
            let held = held.expect("a walk begins with what has committed");
            assert_same(&alive(&found, self.now), &alive(held, self.now));
        }
    }

    /// True if the oracle can, in 128 bits and 17 places.
    fn can_be_added(&self, key: &[u8]) -> bool {
        let Some(item) = self.newest.items.get(key) else { return true };
        let is_number = hundred_quadrillionths(&item.value).is_some();
        item.value.len() <= 16 && is_number
            || item.value.first().is_none_or(u8::is_ascii_alphabetic)
    }
}

fn new_store(config: Config) -> Store {
    Store::in_memory(StoreConfig {
        partitions: Partitions::new(PARTITIONS).expect("a power of two"),
        shard: ShardIndex(0),
        shards: 1,
        hash_seed: 7,
        epoch: 1,
        value_bytes_max: VALUE_BYTES_MAX,
        memory_bytes_max: if config.is_short_of_memory { SCARCE_BYTES } else { u64::MAX },
        eviction: Eviction::None,
    })
}

fn alive(items: &Items, now: i64) -> BTreeMap<&Vec<u8>, &Item> {
    items.iter().filter(|(_, item)| item.is_alive(now)).collect()
}

/// Tells the first difference, which may be of long values.
fn assert_same(found: &BTreeMap<&Vec<u8>, &Item>, expected: &BTreeMap<&Vec<u8>, &Item>) {
    for key in found.keys().chain(expected.keys()) {
        let (found, expected) = (found.get(*key), expected.get(*key));
        assert!(found == expected, "{key:?} is {}, not {}", brief(found), brief(expected));
    }
}

fn brief(item: Option<&&Item>) -> String {
    item.map_or("nothing".to_owned(), |item| {
        let Item { value, expires_at, index } = item;
        let front = String::from_utf8_lossy(&value[..value.len().min(40)]);
        format!("{front:?} of {} bytes, expires {expires_at:?}, entry {index}", value.len())
    })
}

fn encode(args: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Redis Cluster's specification, bit by bit: CRC16 of the first hash tag that is not empty, or of the key.
fn partition_of(key: &[u8]) -> usize {
    let open = key.iter().position(|byte| *byte == b'{');
    let tag = open.and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then_some(&rest[..close])
    });
    let mut crc: u16 = 0;
    for byte in tag.unwrap_or(key) {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    usize::from(crc % 16_384 / (16_384 / PARTITIONS))
}
