//! `catena serve`: starts the store, says so, ends it.

use crate::Failure;
use crate::cli::ServeArgs;
use crate::signals::end_on_signal;
use catena_engine::server::{Cores, Server};
use catena_engine::{Local, Router};
use catena_kv::redis::Redis;
use catena_kv::slot::Partitions;
use catena_kv::store::{Store, StoreConfig};
use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{SystemTime, UNIX_EPOCH};

/// Serves until it is told to end.
///
/// # Errors
/// If it cannot start, or a shard fails.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let (end, ended) = channel();
    end_on_signal(end)?;
    let cores = match args.shards {
        Some(count) => Cores::Count(u16::try_from(count).expect("the command line bounds it")),
        None => args.cpus.clone(),
    };
    args.log.install();
    let server = Server::builder()
        .listen_streams(args.listen, None)
        .cores(cores)
        .driver(args.driver)
        .poll(args.poll)
        .service(service)
        .start()?;
    let mut lines = server.description().to_vec();
    let address = server.stream_addresses().shared.expect("it was told to listen");
    lines.push(format!("listening on {address} (Redis protocol)"));
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{}\n", lines.join("\n")).as_bytes()).and_then(|()| out.flush())?;
    drop(out);
    let _told = ended.recv();
    Ok(server.drain()?)
}

fn service(local: &Local) -> Router {
    let config = StoreConfig {
        partitions: Partitions::default(),
        shard: local.shard(),
        shards: local.shard_count(),
        hash_seed: 1,
        epoch: 1,
        value_bytes_max: 512 << 20,
        memory_bytes_max: u64::MAX,
    };
    let store = Rc::new(RefCell::new(Store::in_memory(config)));
    Router::new().application(Redis::new(local, Arc::default(), store, unix_ms))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
