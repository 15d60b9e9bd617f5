//! The native protocol of the store on simulated machines: a numbered request is carried out at most once,
//! whatever is lost on the way.

mod counters;
mod mixes;
mod protocol;

use catena_engine::Local;
use catena_engine::shard_index::ShardIndex;
use catena_engine::sim::{Engine, EngineConfig, World};
use catena_engine::time::Duration;
use catena_kv::disk::checkpoint::CheckpointConfig;
use catena_kv::evict::Eviction;
use catena_kv::node::{self, NodeConfig};
use catena_kv::redis::server::{Server, ServerConfig};
use catena_kv::slot::Partitions;
use catena_kv::store::Durability;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

const COMMAND: &str = "cargo test --test native";
const PORT: u16 = 7_380;
const LONG: Duration = Duration::from_secs(1_000);

/// A store that writes small segments and many checkpoints, so that a few seconds see all of it.
fn config(password: Option<&str>) -> NodeConfig {
    let server = ServerConfig { password: password.map(str::to_owned), ..ServerConfig::default() };
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
        cluster: None,
        server: Arc::new(Server::new(server)),
        clock: Arc::new(|| 1 << 40),
        on_failure: Arc::new(|shard, reason| panic!("{shard:?} cannot go on: {reason}")),
        on_ready: Arc::new(|_, _| {}),
    }
}

fn start(world: &mut World, shards: u16, password: Option<&str>) -> Engine {
    start_with(world, shards, config(password))
}

fn start_with(world: &mut World, shards: u16, config: NodeConfig) -> Engine {
    let service = move |local: &Local, _: &_| node::router(local, &config);
    world.start_engine(EngineConfig {
        shards,
        port: Some(PORT),
        service: Rc::new(service),
        ..EngineConfig::default()
    })
}

/// Runs a client to its end, on an engine of its own.
fn run<T, F>(world: &mut World, on: &Engine, make: impl FnOnce(Local) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let handle = on.handle();
    let mut work = pin!(handle.run(ShardIndex(0), make));
    let mut outcome = None;
    world.run_until(LONG, |_| {
        if let Poll::Ready(ended) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            outcome = Some(ended);
        }
        outcome.is_some()
    });
    outcome.expect("it ends").expect("the shard lives on")
}
