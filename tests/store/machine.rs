//! A store on a simulated machine, and what it has said of itself.

use crate::history::EPOCH_MS;
use catena_engine::sim::{Crash, Engine, EngineConfig, Fault, HostId, World};
use catena_engine::time::{Duration, Instant};
use catena_kv::disk::checkpoint::CheckpointConfig;
use catena_kv::evict::Eviction;
use catena_kv::node::{self, NodeConfig};
use catena_kv::redis::server::Server;
use catena_kv::slot::Partitions;
use catena_kv::store::Durability;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

const PORT: u16 = 6379;

/// Partitions of every store here: enough for three shards to have several each.
pub const PARTITIONS: u16 = 8;

/// See the module page.
pub struct Machine {
    engine: Engine,
    durability: Durability,
    checkpoint_log: u64,
    pub shards: u16,
    said: Arc<Said>,
    server: Arc<Server>,
}

/// What a store has told, and is told, beside its clients.
#[derive(Debug, Default)]
struct Said {
    now_ms: AtomicU64,
    failures: Mutex<Vec<String>>,
    /// Shards that serve, in the start that is the last one.
    ready: AtomicU64,
}

impl Machine {
    pub fn start(
        world: &mut World,
        shards: u16,
        durability: Durability,
        checkpoint_log: u64,
    ) -> Self {
        let said = Arc::<Said>::default();
        let config = config(durability, &said, checkpoint_log);
        let server = config.server.clone();
        let engine = start(world, shards, config);
        Machine { engine, durability, checkpoint_log, shards, said, server }
    }

    pub fn host(&self) -> HostId {
        self.engine.host()
    }

    pub fn address(&self) -> SocketAddr {
        self.engine.stream_addresses().shared.expect("it listens")
    }

    /// The port of one shard.
    pub fn shard_address(&self, shard: usize) -> SocketAddr {
        self.engine.stream_addresses().shards[shard]
    }

    /// Lets time pass, on the store's clock, too.
    pub fn run_for(&self, world: &mut World, time: Duration) {
        self.said.now_ms.store(now_ms(world), Relaxed);
        world.run_for(time);
    }

    /// Why it cannot go on, as it has said.
    pub fn failures(&self) -> Vec<String> {
        self.said.failures.lock().expect("nobody panics with it").clone()
    }

    /// True if all shards of the last start serve.
    pub fn is_ready(&self) -> bool {
        self.said.ready.load(Relaxed) == u64::from(self.shards)
    }

    /// True if some shard of the last start serves.
    pub fn has_begun(&self) -> bool {
        self.said.ready.load(Relaxed) > 0
    }

    /// It is down, until it is started again.
    pub fn crash(&mut self, world: &mut World, how: Crash) {
        world.inject(Fault::Crash { host: self.host(), how, down_for: None });
        self.said.failures.lock().expect("nobody panics with it").clear();
        self.said.ready.store(0, Relaxed);
    }

    /// Ends in order: it owes nothing then, and its log is at rest.
    pub fn drain(&mut self, world: &mut World) {
        self.engine.drain();
        let host = self.host();
        let ends = world.run_until(Duration::from_secs(30), |world| !world.is_running(host));
        assert!(ends, "it does not end");
        self.said.ready.store(0, Relaxed);
    }

    /// Starts again with so many shards: if that is another number, in another machine with the same disk.
    pub fn restart(&mut self, world: &mut World, shards: u16) {
        if shards == self.shards {
            return world.inject(Fault::Restart { host: self.host() });
        }
        let before = self.host();
        let config = config(self.durability, &self.said, self.checkpoint_log);
        self.server = config.server.clone();
        self.engine = start(world, shards, config);
        self.shards = shards;
        world.move_disk(before, self.host());
    }

    /// The files of all starts that have one of this name, a shard's by a shard's.
    pub fn files(&self, world: &World, name: &str) -> Vec<PathBuf> {
        const STARTS: u64 = 200;
        let starts = (1..STARTS).flat_map(|start| (0..3).map(move |shard| (start, shard)));
        starts
            .map(|(start, shard)| format!("/data/gen-{start}/shard-{shard}/{name}").into())
            .filter(|path: &PathBuf| world.file(self.host(), path).is_some())
            .collect()
    }

    /// Checkpoints that were tried in vain.
    pub fn failed_checkpoints(&self) -> u64 {
        const NAME: &str = "catena_store_checkpoints_failed_total ";
        let mut text = String::new();
        self.server.write_prometheus(&mut text, EPOCH_MS).expect("a string takes it");
        let count = text.lines().find_map(|line| line.strip_prefix(NAME)?.parse().ok());
        count.unwrap_or_else(|| panic!("{text}"))
    }

    /// True if a checkpoint is being written.
    pub fn is_at_checkpoint(&self, world: &World) -> bool {
        (1..40).any(|number| !self.files(world, &format!("checkpoint-{number}.new")).is_empty())
    }
}

/// Unix milliseconds.
pub fn now_ms(world: &World) -> u64 {
    EPOCH_MS + world.now().since(Instant::ZERO).as_millis() as u64
}

/// A store that writes small segments and many checkpoints, so that a few seconds see all of it.
fn config(durability: Durability, said: &Arc<Said>, log_bytes_min: u64) -> NodeConfig {
    let (clock, failed, ready) = (said.clone(), said.clone(), said.clone());
    NodeConfig {
        directory: Some("/data".into()),
        durability,
        batch_interval: Duration::from_millis(5),
        segment_bytes: 64 << 10,
        checkpoints: CheckpointConfig { log_bytes_min, older_logs_max: 2 },
        partitions: Partitions::new(PARTITIONS),
        value_bytes_max: 1 << 20,
        memory_bytes_max: 1 << 30,
        eviction: Eviction::None,
        cluster: None,
        server: Arc::default(),
        clock: Arc::new(move || clock.now_ms.load(Relaxed)),
        on_failure: Arc::new(move |shard, reason| {
            let mut failures = failed.failures.lock().expect("nobody panics with it");
            failures.push(format!("{shard:?}: {reason}"));
        }),
        on_ready: Arc::new(move |_, _| {
            ready.ready.fetch_add(1, Relaxed);
        }),
    }
}

fn start(world: &mut World, shards: u16, config: NodeConfig) -> Engine {
    let service = move |local: &_, _: &_| node::router(local, &config);
    world.start_engine(EngineConfig {
        shards,
        stream_port: Some(PORT),
        service: Rc::new(service),
        ..EngineConfig::default()
    })
}
