//! `catena serve`: starts the store, says so, ends it.

use crate::Failure;
use crate::cli::ServeArgs;
use crate::process::process_facts;
use crate::signals::end_on_signal;
use catena_engine::server::{Cores, Server};
use catena_engine::{Local, Router};
use catena_kv::redis::Redis;
use catena_kv::redis::server::{NODE_ID_DIGITS, Server as Facts, ServerConfig};
use catena_kv::slot::Partitions;
use catena_kv::store::{Store, StoreConfig};
use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::Path;
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
        .service({
            let facts = Arc::new(facts(args)?);
            move |local| service(local, &facts)
        })
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

/// What the shards' clients may ask about the server.
fn facts(args: &ServeArgs) -> Result<Facts, Failure> {
    let password = match &args.password_file {
        None => None,
        Some(path) => Some(password_in(path)?),
    };
    Ok(Facts::new(ServerConfig {
        password,
        node_id: random_id(),
        announce: args.announce.clone(),
        process: process_facts,
        ..ServerConfig::default()
    }))
}

fn password_in(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the password in {}: {error}", path.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("{}: its first line, the password, is empty", path.display()).into()),
    }
}

/// Digits that no other server has, from the numbers that the standard library draws for its hash maps.
fn random_id() -> String {
    let word = || RandomState::new().build_hasher().finish();
    let mut id = format!("{:016x}{:016x}{:016x}", word(), word(), word());
    id.truncate(NODE_ID_DIGITS);
    id
}

fn service(local: &Local, facts: &Arc<Facts>) -> Router {
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
    Router::new().application(Redis::new(local, facts.clone(), store, unix_ms))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
