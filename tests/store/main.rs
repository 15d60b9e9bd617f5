//! The store on simulated machines: what was acknowledged outlives kills and power failures.

mod client;

use catena_engine::sim::{
    Crash, Engine, EngineConfig, EventKind, Fault, World, WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use catena_kv::disk::checkpoint::CheckpointConfig;
use catena_kv::evict::Eviction;
use catena_kv::node::{self, NodeConfig};
use catena_kv::slot::Partitions;
use catena_kv::store::Durability;
use client::{Client, History};
use std::sync::{Arc, Mutex};

const PORT: u16 = 6379;

/// A store that writes small segments and many checkpoints, so that a few seconds see all of it.
fn config(failures: &Arc<Mutex<Vec<String>>>) -> NodeConfig {
    let failures = failures.clone();
    NodeConfig {
        directory: Some("/data".into()),
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
        on_failure: Arc::new(move |shard, reason| {
            failures.lock().expect("nobody panics with it").push(format!("{shard:?}: {reason}"));
        }),
        on_ready: Arc::new(|_, _| {}),
    }
}

fn start(world: &mut World, shards: u16, config: NodeConfig) -> Engine {
    let service = move |local: &_, _: &_| node::router(local, &config);
    world.start_engine(EngineConfig {
        shards,
        stream_port: Some(PORT),
        service: std::rc::Rc::new(service),
        ..EngineConfig::default()
    })
}

/// Writes, crashes, reads; so many times. How much was acknowledged.
fn run(world: &mut World) -> u64 {
    let seed = world.seed();
    let shards = 1 + (seed % 3) as u16;
    let failures = Arc::<Mutex<Vec<String>>>::default();
    let engine = start(world, shards, config(&failures));
    let address = engine.stream_addresses().shared.expect("it listens");
    let mut history = History::default();
    let mut client = Client::new(world, seed);
    for round in 0..6u64 {
        let crashes = world.now() + Duration::from_millis(300 + seed * 37 % 400);
        while world.now() < crashes {
            client.write_on(world, address, &mut history);
        }
        let how = if (seed + round).is_multiple_of(3) { Crash::Kill } else { Crash::PowerLoss };
        let down_for = Some(Duration::from_millis(50));
        world.inject(Fault::Crash { host: engine.host(), how, down_for });
        client.forget();
        world.run_for(Duration::from_millis(60));
        let read = client.read_all(world, address, &history);
        let failed = failures.lock().expect("nobody panics with it").clone();
        assert!(failed.is_empty(), "round {round}: {failed:?}");
        let read = read.unwrap_or_else(|| panic!("round {round}: it does not serve"));
        history.check(&read).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
    }
    assert!(history.acknowledged() > 100, "{} writes", history.acknowledged());
    history.acknowledged()
}

#[test]
fn what_was_acknowledged_outlives_crashes() {
    let command = "cargo test --test store";
    let coverage = each_seed(command, 1..31, &WorldConfig::default(), run);
    coverage.require(&[EventKind::NameLost, EventKind::WriteTorn, EventKind::WriteLost]);
}
