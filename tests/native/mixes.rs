//! Writes of several kinds under faults: pairs of counters that count together, and lists to which everybody
//! appends by compare-and-set. Each part of a list is there once if its append was answered, and a pair is
//! equal at all times.

use crate::{COMMAND, run, start};
use catena_engine::rng::Rng;
use catena_engine::sim::{
    Crash, EngineConfig, EventKind, Fault, Loss, World, WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use catena_kv::client::{Action, Change, Client, Condition, Config, Error, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

const WRITERS: u64 = 4;
const LISTS: u64 = 3;
const PAIRS: u64 = 6;

#[derive(Default)]
struct History {
    lists: BTreeMap<u64, List>,
    is_over: bool,
    under_way: u64,
    answered: u64,
    /// Whatever cannot be an answer.
    wrong: Vec<String>,
}

/// Parts whose appends were answered, and those of which nobody knows.
#[derive(Default)]
struct List {
    answered: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<History>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().expect("nobody panics with it")
    }
}

async fn write(client: Client, number: u64, seed: u64, history: Shared) {
    let mut rng = Rng::from_seed(seed);
    let mut parts = 0;
    while !history.lock().is_over {
        history.lock().under_way += 1;
        let done = if rng.chance(0.5) {
            parts += 1;
            append(&client, rng.below(LISTS), &format!("{number}-{parts}"), &history).await
        } else {
            count_both(&client, rng.below(PAIRS)).await
        };
        let mut history = history.lock();
        history.under_way -= 1;
        match done {
            Ok(()) => history.answered += 1,
            Err(Error::MaybeCommitted(_) | Error::NotExecuted(_)) => {}
            Err(other) => history.wrong.push(other.to_string()),
        }
    }
}

fn pair(number: u64) -> [String; 2] {
    ["a", "b"].map(|side| format!("{{pair-{number}}}{side}"))
}

async fn count_both(client: &Client, number: u64) -> Result<(), Error> {
    let keys = pair(number);
    let changes = keys.each_ref().map(|key| Change {
        condition: Condition::None,
        key: key.as_bytes(),
        action: Action::Add(1),
    });
    let written = client.write(&changes).await?;
    assert_eq!(written.values[0], written.values[1], "both were counted together, always");
    Ok(())
}

/// Appends a part to a list until it is known to be there, or it is not known.
async fn append(client: &Client, list: u64, part: &str, history: &Shared) -> Result<(), Error> {
    let key = format!("list-{list}");
    loop {
        let found = client.get(key.as_bytes()).await?;
        let (mut text, version) = match found {
            Some(value) => (value.bytes.to_vec(), value.version),
            None => (Vec::new(), Version::NONE),
        };
        text.extend_from_slice(part.as_bytes());
        text.push(b' ');
        let put = client.put_if_version(key.as_bytes(), &text, version).await;
        let mut history = history.lock();
        let known = history.lists.entry(list).or_default();
        match put {
            Ok(_) => {
                known.answered.insert(part.to_owned());
                return Ok(());
            }
            Err(Error::ConditionFailed { .. }) => {}
            Err(error) => {
                if matches!(error, Error::MaybeCommitted(_)) {
                    known.unknown.insert(part.to_owned());
                }
                return Err(error);
            }
        }
    }
}

fn mix_under_faults(world: &mut World) -> u64 {
    let seed = world.seed();
    let server = start(world, 1 + (seed % 3) as u16, None);
    let address = server.address().expect("it listens");
    let engine = world.start_engine(EngineConfig::default());
    let history = Shared::default();
    let told = history.clone();
    run(world, &engine, move |local| async move {
        for writer in 0..WRITERS {
            let config = Config { timeout: Duration::from_secs(3), ..Config::default() };
            let client = Client::new(&local, address, config);
            let writing = write(client, writer, seed ^ writer << 32, told.clone());
            local.spawn(writing).detach();
        }
    });
    let mut rng = Rng::from_seed(seed ^ 0x5E55);
    for _ in 0..8 {
        world.run_for(Duration::from_millis(100 + rng.below(300)));
        match rng.below(4) {
            0 => world.inject(Fault::LoseConnection { pick: rng.next_u64(), how: Loss::Reset }),
            1 => world.inject(Fault::Partition {
                a: server.host(),
                b: engine.host(),
                lasts: Duration::from_millis(rng.below(400)),
            }),
            kind => {
                let how = if kind == 2 { Crash::Kill } else { Crash::PowerLoss };
                let down_for = Some(Duration::from_millis(10 + rng.below(100)));
                world.inject(Fault::Crash { host: server.host(), how, down_for });
            }
        }
    }
    world.heal_all();
    world.run_for(Duration::from_secs(1));
    history.lock().is_over = true;
    let is_quiet = world.run_until(Duration::from_secs(60), |_| history.lock().under_way == 0);
    assert!(is_quiet, "every call ends");
    let (pairs, lists) = read(world, &engine, address);
    let history = history.lock();
    assert!(history.wrong.is_empty(), "{:?}", history.wrong);
    assert!(pairs.iter().all(|[a, b]| a == b), "pairs are equal: {pairs:?}");
    for (list, List { answered, unknown }) in &history.lists {
        let mut parts = BTreeSet::new();
        for part in lists[*list as usize].split_ascii_whitespace() {
            assert!(parts.insert(part.to_owned()), "list {list} has {part} twice");
        }
        let missing: Vec<_> = answered.difference(&parts).collect();
        assert!(missing.is_empty(), "list {list} lacks {missing:?}, which were answered");
        let is_known = |part: &&String| !answered.contains(*part) && !unknown.contains(*part);
        let made_up: Vec<_> = parts.iter().filter(is_known).collect();
        assert!(made_up.is_empty(), "list {list} has {made_up:?}, which failed for certain");
    }
    assert!(history.answered > 100, "{} were answered", history.answered);
    history.answered
}

/// All pairs and lists.
fn read(
    world: &mut World,
    engine: &catena_engine::sim::Engine,
    address: SocketAddr,
) -> (Vec<[String; 2]>, Vec<String>) {
    run(world, engine, move |local| async move {
        let client = Client::new(&local, address, Config::default());
        let get = async |key: String| {
            let found = client.get(key.as_bytes()).await.expect("it serves");
            found.map_or_else(String::new, |it| String::from_utf8_lossy(&it.bytes).into_owned())
        };
        let (mut pairs, mut lists) = (Vec::new(), Vec::new());
        for number in 0..PAIRS {
            let [a, b] = pair(number);
            pairs.push([get(a).await, get(b).await]);
        }
        for list in 0..LISTS {
            lists.push(get(format!("list-{list}")).await);
        }
        (pairs, lists)
    })
}

#[test]
fn pairs_stay_equal_and_lists_have_each_part_once() {
    let coverage = each_seed(COMMAND, 1..25, &WorldConfig::default(), mix_under_faults);
    coverage.require(&[EventKind::WriteLost]);
}
