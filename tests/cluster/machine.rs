//! A node of a cluster on a simulated machine.

use catena_engine::sim::{Engine, EngineConfig, HostId, World};
use catena_engine::time::{Duration, Instant};
use catena_kv::cluster::config_store::InMemory;
use catena_kv::cluster::member::ClusterMember;
use catena_kv::disk::checkpoint::CheckpointConfig;
use catena_kv::evict::Eviction;
use catena_kv::node::{self, NodeConfig};
use catena_kv::replica::ReplicaConfig;
use catena_kv::store::Durability;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

const REDIS_PORT: u16 = 6379;
const PEER_PORT: u16 = 7379;

/// Unix time at the world's beginning, in milliseconds.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// See the module page.
pub struct Machine {
    engine: Engine,
    now_ms: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    /// Starts a node of this name.
    pub fn start(world: &mut World, name: &str, shards: u16, config_store: &InMemory) -> Self {
        let now_ms = Arc::new(AtomicU64::new(EPOCH_MS));
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let config = config(name, config_store, &now_ms, &failures);
        let service = move |local: &_, _: &_| node::router(local, &config());
        let engine = world.start_engine(EngineConfig {
            shards,
            port: Some(PEER_PORT),
            stream_port: Some(REDIS_PORT),
            service: Rc::new(service),
            ..EngineConfig::default()
        });
        Machine { engine, now_ms, failures }
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

    /// Lets time pass, on the node's clock, too.
    pub fn run_for(&self, world: &mut World, time: Duration) {
        let now_ms = EPOCH_MS + world.now().since(Instant::ZERO).as_millis() as u64;
        self.now_ms.store(now_ms, Relaxed);
        world.run_for(time);
    }

    /// Why it cannot go on, as it has said.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("nobody panics with it").clone()
    }
}

/// Makes a configuration for each shard and start: a server's facts are those of one start.
fn config(
    name: &str,
    config_store: &InMemory,
    now_ms: &Arc<AtomicU64>,
    failures: &Arc<Mutex<Vec<String>>>,
) -> impl Fn() -> NodeConfig + use<> {
    let (clock, failures) = (now_ms.clone(), failures.clone());
    let config = NodeConfig {
        directory: None,
        durability: Durability::Memory,
        batch_interval: Duration::ZERO,
        segment_bytes: 1 << 20,
        checkpoints: CheckpointConfig { log_bytes_min: 1 << 20, older_logs_max: 2 },
        partitions: None,
        value_bytes_max: 1 << 20,
        memory_bytes_max: 1 << 30,
        eviction: Eviction::None,
        cluster: Some(ClusterMember {
            name: name.to_owned(),
            config_store: Arc::new(config_store.clone()),
            replica: ReplicaConfig::default(),
        }),
        server: Arc::default(),
        clock: Arc::new(move || clock.load(Relaxed)),
        on_failure: Arc::new(move |shard, reason| {
            let mut failures = failures.lock().expect("nobody panics with it");
            failures.push(format!("{shard:?}: {reason}"));
        }),
        on_ready: Arc::new(|_, _| {}),
    };
    move || config.clone()
}
