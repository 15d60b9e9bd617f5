//! The native service on simulated machines: clients that repeat what was not answered, a store that
//! crashes, connections that break. Every write takes effect once at most, and what was answered stays.
//!
//! Three checks see a write that was executed twice, lost, or answered with what is not so:
//! - a counter is at least what was answered, and at most that and what may have been executed;
//! - no two increments of a counter were answered with the same sum;
//! - a key to which everybody appends, by compare-and-swap, has each part that was answered, once.

use catena_engine::rng::Rng;
use catena_engine::sim::{
    Crash, Engine, EngineConfig, EventKind, Fault, Loss, World, WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use catena_engine::{Local, Router};
use catena_kv::client::{Client, ClientConfig, Error};
use catena_kv::disk::checkpoint::CheckpointConfig;
use catena_kv::evict::Eviction;
use catena_kv::native::wire::{Action, Condition, Expiry, Operation, Scan};
use catena_kv::node::{self, NodeConfig};
use catena_kv::partition::Version;
use catena_kv::slot::Partitions;
use catena_kv::store::Durability;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

const PORT: u16 = 7400;
const COUNTERS: u64 = 12;
const CLIENTS: u64 = 4;
const LISTS: u64 = 3;

/// What the clients have been told.
#[derive(Default)]
struct Ledger {
    /// The sums that increments of each counter were answered with, and how many are unknown.
    counters: RefCell<BTreeMap<u64, Counter>>,
    /// The parts of each list whose append was answered, and those of which nobody knows.
    lists: RefCell<BTreeMap<u64, List>>,
    /// Calls that are under way.
    under_way: Cell<u64>,
    /// Nothing new is begun.
    is_over: Cell<bool>,
    answered: Cell<u64>,
}

#[derive(Default)]
struct Counter {
    sums: BTreeSet<i64>,
    unknown: u64,
}

#[derive(Default)]
struct List {
    answered: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

/// A store that writes small segments and many checkpoints.
fn config(directory: bool) -> NodeConfig {
    NodeConfig {
        directory: directory.then(|| "/data".into()),
        durability: Durability::Sync,
        batch_interval: Duration::from_millis(5),
        segment_bytes: 64 << 10,
        checkpoints: CheckpointConfig { log_bytes_min: 8 << 10, older_logs_max: 2 },
        partitions: Partitions::new(8),
        value_bytes_max: 1 << 20,
        memory_bytes_max: 1 << 30,
        eviction: Eviction::None,
        server: Arc::default(),
        clock: Arc::new(|| 1 << 40),
        on_failure: Arc::new(|shard, reason| panic!("shard {}: {reason}", shard.0)),
        on_ready: Arc::new(|_, _| {}),
    }
}

fn start(world: &mut World, shards: u16, config: NodeConfig) -> Engine {
    world.start_engine(EngineConfig {
        shards,
        port: Some(PORT),
        stream_port: Some(6379),
        service: Rc::new(move |local: &_, _: &_| node::router(local, &config)),
        ..EngineConfig::default()
    })
}

/// A host whose clients write until the ledger says that it is over.
fn start_clients(world: &mut World, address: SocketAddr, ledger: &Rc<Ledger>, seed: u64) -> Engine {
    let ledger = ledger.clone();
    let service = move |local: &Local, _: &_| {
        for number in 0..CLIENTS {
            let rng = Rng::from_seed(seed * CLIENTS + number);
            let writer = Writer { local: local.clone(), number, rng, ledger: ledger.clone() };
            local.spawn(writer.run(address)).detach();
        }
        Router::new()
    };
    world.start_engine(EngineConfig {
        shards: 1,
        port: None,
        service: Rc::new(service),
        ..EngineConfig::default()
    })
}

struct Writer {
    local: Local,
    number: u64,
    rng: Rng,
    ledger: Rc<Ledger>,
}

impl Writer {
    async fn run(mut self, address: SocketAddr) {
        let config = ClientConfig { timeout: Duration::from_secs(2), ..ClientConfig::default() };
        let client = Client::new(&self.local, address, config);
        let mut parts = 0;
        while !self.ledger.is_over.get() {
            self.ledger.under_way.update(|calls| calls + 1);
            match self.rng.below(4) {
                0 => {
                    parts += 1;
                    let (list, part) = (self.rng.below(LISTS), format!("{}-{parts}", self.number));
                    self.append(&client, list, part).await;
                }
                1 => self.count_two(&client).await,
                _ => self.count(&client).await,
            }
            self.ledger.under_way.update(|calls| calls - 1);
        }
    }

    async fn count(&mut self, client: &Client) {
        let counter = self.rng.below(COUNTERS);
        let outcome = client.incr(counter_name(counter).as_bytes(), 1).await;
        self.note(counter, outcome);
    }

    /// Two counters of one partition: both count, or neither.
    async fn count_two(&mut self, client: &Client) {
        let pair = COUNTERS + 2 * self.rng.below(COUNTERS / 2);
        let names = [counter_name(pair), counter_name(pair + 1)];
        let operations = names.each_ref().map(|name| Operation {
            key: name.as_bytes(),
            condition: Condition::None,
            action: Action::Incr { by: 1 },
        });
        match client.batch(&operations).await {
            Ok((_, numbers)) => {
                assert_eq!(numbers[0], numbers[1], "both were counted together, always");
                self.note(pair, Ok(numbers[0]));
                self.note(pair + 1, Ok(numbers[1]));
            }
            Err(error) => {
                self.note(pair, Err(error.clone()));
                self.note(pair + 1, Err(error));
            }
        }
    }

    fn note(&self, counter: u64, outcome: Result<i64, Error>) {
        let mut counters = self.ledger.counters.borrow_mut();
        let known = counters.entry(counter).or_default();
        match outcome {
            Ok(sum) => {
                assert!(known.sums.insert(sum), "two increments were answered with {sum}");
                self.ledger.answered.update(|answered| answered + 1);
            }
            Err(Error::MaybeCommitted(why)) => {
                assert!(!why.contains("session"), "sessions outlive crashes: {why}");
                known.unknown += 1;
            }
            Err(Error::NotExecuted(_)) => {}
            Err(other) => panic!("an increment ends otherwise: {other}"),
        }
    }

    /// Appends a part to a list, by compare-and-swap, until it is known to be there or it is not known.
    async fn append(&self, client: &Client, list: u64, part: String) {
        let name = format!("list:{list}");
        let note = |is_known: bool| {
            let mut lists = self.ledger.lists.borrow_mut();
            let List { answered, unknown } = lists.entry(list).or_default();
            (if is_known { answered } else { unknown }).insert(part.clone());
        };
        for _ in 0..20 {
            let Ok(found) = client.get(name.as_bytes()).await else { return };
            let (mut text, version) = match found {
                Some(value) => {
                    (String::from_utf8(value.bytes.to_vec()).expect("text"), value.version)
                }
                None => (String::new(), Version::NONE),
            };
            text.push_str(&part);
            text.push(' ');
            match client.cas(name.as_bytes(), version, text.as_bytes()).await {
                Ok(_) => return note(true),
                Err(Error::ConditionFailed { .. } | Error::NotExecuted(_)) => {}
                Err(Error::MaybeCommitted(_)) => return note(false),
                Err(other) => panic!("a compare-and-swap ends otherwise: {other}"),
            }
        }
    }
}

/// Single ones first, then pairs that share a slot.
fn counter_name(counter: u64) -> String {
    if counter < COUNTERS {
        format!("c:{counter}")
    } else {
        format!("{{p{}}}:{counter}", counter / 2)
    }
}

/// Clients write while the store crashes and connections break; then all is compared.
fn run(world: &mut World) -> u64 {
    let seed = world.seed();
    let engine = start(world, 1 + (seed % 3) as u16, config(true));
    let address = engine.address().expect("it listens");
    let ledger = Rc::<Ledger>::default();
    let clients = start_clients(world, address, &ledger, seed);
    let mut rng = Rng::from_seed(seed ^ 0x5E55_1045);
    for _ in 0..8 {
        world.run_for(Duration::from_millis(100 + rng.below(300)));
        match rng.below(4) {
            0 => world.inject(Fault::LoseConnection { pick: rng.next_u64(), how: Loss::Reset }),
            1 => world.inject(Fault::Partition {
                a: engine.host(),
                b: clients.host(),
                lasts: Duration::from_millis(rng.below(400)),
            }),
            kind => {
                let how = if kind == 2 { Crash::Kill } else { Crash::PowerLoss };
                let down_for = Some(Duration::from_millis(10 + rng.below(100)));
                world.inject(Fault::Crash { host: engine.host(), how, down_for });
            }
        }
    }
    world.heal_all();
    world.run_for(Duration::from_secs(1));
    ledger.is_over.set(true);
    let is_quiet = world.run_until(Duration::from_secs(60), |_| ledger.under_way.get() == 0);
    assert!(is_quiet, "every call ends");
    let answered = ledger.answered.get();
    assert!(answered > 100, "{answered} increments were answered");
    compare(world, address, &ledger);
    answered
}

/// What the store has is what the clients were told.
fn compare(world: &mut World, address: SocketAddr, ledger: &Rc<Ledger>) {
    let found = Rc::new(RefCell::new(None));
    let its = found.clone();
    let service = move |local: &Local, _: &_| {
        let (local, found) = (local.clone(), its.clone());
        let reading = local.clone();
        let read = async move {
            let client = Client::new(&reading, address, ClientConfig::default());
            let mut all = BTreeMap::new();
            for partition in 0..client.partitions().await.expect("it serves") {
                let mut cursor = 0;
                loop {
                    let scan = Scan { partition, with_values: true, entries: 5, cursor };
                    let page = client.scan(scan, |entry| {
                        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                        all.insert(text(entry.key), text(entry.value));
                    });
                    cursor = page.await.expect("it serves");
                    if cursor == 0 {
                        break;
                    }
                }
            }
            *found.borrow_mut() = Some(all);
        };
        local.spawn(read).detach();
        Router::new()
    };
    let config = EngineConfig {
        shards: 1,
        port: None,
        service: Rc::new(service),
        ..EngineConfig::default()
    };
    world.start_engine(config);
    assert!(world.run_until(Duration::from_secs(20), |_| found.borrow().is_some()), "it is read");
    let all = found.take().expect("it was read");
    for (counter, Counter { sums, unknown }) in &*ledger.counters.borrow() {
        let value = all.get(&counter_name(*counter)).map_or(0, |text| text.parse().expect("a sum"));
        let known = sums.len() as u64;
        assert!(
            (known..=known + unknown).contains(&value),
            "counter {counter} is {value}; {known} were answered, {unknown} are unknown"
        );
    }
    for (list, List { answered, unknown }) in &*ledger.lists.borrow() {
        let text = all.get(&format!("list:{list}")).cloned().unwrap_or_default();
        let mut parts = BTreeSet::new();
        for part in text.split_ascii_whitespace() {
            assert!(parts.insert(part.to_owned()), "list {list} has {part} twice");
        }
        let missing: Vec<_> = answered.difference(&parts).collect();
        assert!(missing.is_empty(), "list {list} lacks {missing:?}, which were answered");
        let made_up: Vec<_> = parts
            .iter()
            .filter(|part| !answered.contains(*part) && !unknown.contains(*part))
            .collect();
        assert!(made_up.is_empty(), "list {list} has {made_up:?}, which nobody was told of");
    }
}

#[test]
fn every_write_takes_effect_once_whatever_breaks() {
    let command = "cargo test --test native";
    let coverage = each_seed(command, 1..25, &WorldConfig::default(), run);
    coverage.require(&[EventKind::WriteLost]);
}

/// A store that keeps nothing is another one after each start: its sessions are unknown, and nothing that
/// was asked in them is executed in one that happens to have the same number.
#[test]
fn a_store_that_has_forgotten_executes_nothing_twice() {
    let command = "cargo test --test native";
    let _ = each_seed(command, 1..9, &WorldConfig::default(), |world: &mut World| {
        let engine = start(world, 2, config(false));
        let address = engine.address().expect("it listens");
        let asked = Rc::new(RefCell::new(Vec::new()));
        let its = asked.clone();
        let service = move |local: &Local, _: &_| {
            let (own, asked) = (local.clone(), its.clone());
            let ask = async move {
                let client = Client::new(&own, address, ClientConfig::default());
                for _ in 0..40 {
                    let put = client.put_if(b"k", b"v", Condition::None, Expiry::In(60_000)).await;
                    asked.borrow_mut().push(put);
                    own.sleep(Duration::from_millis(20)).await;
                }
            };
            local.spawn(ask).detach();
            Router::new()
        };
        let config = EngineConfig {
            shards: 1,
            port: None,
            service: Rc::new(service),
            ..EngineConfig::default()
        };
        world.start_engine(config);
        world.run_for(Duration::from_millis(300));
        let down_for = Some(Duration::from_millis(20));
        world.inject(Fault::Crash { host: engine.host(), how: Crash::Kill, down_for });
        let is_done = world.run_until(Duration::from_secs(30), |_| asked.borrow().len() == 40);
        assert!(is_done, "every call ends");
        let asked = asked.borrow();
        let good = asked.iter().filter(|put| put.is_ok()).count();
        assert!(good >= 38, "a client goes on with another session: {asked:?}");
    });
}
