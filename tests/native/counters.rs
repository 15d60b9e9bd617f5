//! Counters under faults: each ends between what was acknowledged, and that and what is uncertain.

use crate::{COMMAND, run, start};
use catena_engine::config::ConnectionConfig;
use catena_engine::rng::Rng;
use catena_engine::sim::{
    Crash, EngineConfig, EventKind, Fault, Loss, World, WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use catena_engine::{ClientConfig, Local};
use catena_kv::client::{Client, Config, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

const KEYS: u64 = 12;
const CALLERS: u64 = 6;

#[derive(Default)]
struct History {
    counters: BTreeMap<u64, Counter>,
    is_over: bool,
    under_way: u64,
    /// Whatever cannot be an answer.
    wrong: Vec<String>,
}

#[derive(Default)]
struct Counter {
    acknowledged: BTreeSet<i64>,
    maybe: i64,
    not_executed: i64,
}

type Shared = Arc<Mutex<History>>;

fn key(number: u64) -> Vec<u8> {
    format!("counter-{number}").into_bytes()
}

/// A client that finds a connection dead within a fraction of a second.
fn client(local: &Local, address: SocketAddr, timeout_ms: u64) -> Client {
    let connection = ConnectionConfig {
        keepalive_interval: Duration::from_millis(40),
        keepalive_timeout: Duration::from_millis(40),
        ..ConnectionConfig::default()
    };
    let connection = ClientConfig { connection: Arc::new(connection), ..ClientConfig::default() };
    let timeout = Duration::from_millis(timeout_ms);
    // So small a window is full at times.
    Client::new(local, address, Config { connection, timeout, window: 2, ..Config::default() })
}

/// Adds until it is over.
async fn add(client: Client, seed: u64, history: Shared) {
    let mut rng = Rng::from_seed(seed);
    while !lock(&history).is_over {
        let number = rng.next_u64() % KEYS;
        lock(&history).under_way += 1;
        let added = client.add(&key(number), 1).await;
        let mut history = lock(&history);
        history.under_way -= 1;
        let counter = history.counters.entry(number).or_default();
        match added {
            Ok(value) => {
                if !counter.acknowledged.insert(value) {
                    history.wrong.push(format!("counter {number} was {value} twice"));
                }
            }
            Err(Error::MaybeCommitted(_)) => counter.maybe += 1,
            Err(Error::NotExecuted(_)) => counter.not_executed += 1,
            Err(other) => history.wrong.push(other.to_string()),
        }
    }
}

fn lock(history: &Shared) -> std::sync::MutexGuard<'_, History> {
    history.lock().expect("nobody panics with it")
}

/// How much was acknowledged, uncertain, and not carried out.
fn count_under_faults(world: &mut World) -> (usize, i64, i64) {
    let seed = world.seed();
    let server = start(world, 1 + (seed % 3) as u16, None);
    let address = server.address().expect("it listens");
    let engine = world.start_engine(EngineConfig::default());
    let history = Shared::default();
    let told = history.clone();
    run(world, &engine, move |local| async move {
        // One client gives up before a server is back, the other one has time.
        let clients = [150, 20_000].map(|timeout_ms| client(&local, address, timeout_ms));
        for caller in 0..CALLERS {
            let client = clients[(caller % 2) as usize].clone();
            local.spawn(add(client, seed ^ caller << 32, told.clone())).detach();
        }
    });
    let mut rng = Rng::from_seed(seed);
    for _ in 0..5 {
        for _ in 0..6 {
            world.run_for(Duration::from_millis(20 + rng.next_u64() % 40));
            let how = if rng.next_u64().is_multiple_of(3) { Loss::Silence } else { Loss::Reset };
            world.inject(Fault::LoseConnection { pick: rng.next_u64(), how });
        }
        let how = if rng.next_u64().is_multiple_of(2) { Crash::Kill } else { Crash::PowerLoss };
        let down_for = Duration::from_millis(20 + rng.next_u64() % 300);
        world.inject(Fault::Crash { host: server.host(), how, down_for: Some(down_for) });
        world.run_for(down_for + Duration::from_millis(100));
    }
    lock(&history).is_over = true;
    world.run_until(Duration::from_secs(60), |_| lock(&history).under_way == 0);
    check(world, &engine, address, &history)
}

fn check(
    world: &mut World,
    engine: &catena_engine::sim::Engine,
    address: SocketAddr,
    history: &Shared,
) -> (usize, i64, i64) {
    let values = run(world, engine, move |local| async move {
        let client = client(&local, address, 20_000);
        let mut values = BTreeMap::new();
        for number in 0..KEYS {
            let found = client.get(&key(number)).await.expect("it serves");
            let digits = found.map_or("0".into(), |found| {
                String::from_utf8(found.bytes.to_vec()).expect("digits")
            });
            values.insert(number, digits.parse::<i64>().expect("a counter"));
        }
        values
    });
    let history = lock(history);
    assert_eq!((history.under_way, &history.wrong[..]), (0, &[][..]));
    let mut sums = (0, 0, 0);
    for (number, counter) in &history.counters {
        let (value, Counter { acknowledged, maybe, not_executed }) = (values[number], counter);
        let least = acknowledged.len() as i64;
        assert!(
            (least..=least + maybe).contains(&value),
            "counter {number} is {value}; {least} were acknowledged, {maybe} uncertain"
        );
        assert!(acknowledged.last().is_none_or(|last| *last <= value), "counter {number}");
        sums = (sums.0 + acknowledged.len(), sums.1 + maybe, sums.2 + not_executed);
    }
    sums
}

#[test]
fn a_numbered_request_is_carried_out_at_most_once() {
    let mut all = (0, 0, 0);
    let coverage = each_seed(COMMAND, 1..31, &WorldConfig::default(), |world| {
        let (acknowledged, maybe, not_executed) = count_under_faults(world);
        assert!(acknowledged > 20, "{acknowledged} were acknowledged");
        all = (all.0 + acknowledged, all.1 + maybe, all.2 + not_executed);
        (acknowledged, maybe, not_executed)
    });
    coverage.require(&[EventKind::WriteLost]);
    println!("{} acknowledged, {} uncertain, {} not carried out", all.0, all.1, all.2);
}
