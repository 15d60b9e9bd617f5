//! `catena serve`: starts the store, says so, ends it.

use crate::Failure;
use crate::cli::ServeArgs;
use crate::facts::facts;
use crate::signals::end_on_signal;
use catena_engine::server::{Cores, Server};
use catena_kv::disk::checkpoint::CheckpointConfig;
use catena_kv::node::{self, NodeConfig};
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{SystemTime, UNIX_EPOCH};

/// Serves until it is told to end.
///
/// # Errors
/// If it cannot start, or a shard fails.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let (end, ended) = channel();
    end_on_signal(end.clone())?;
    let cores = match args.shards {
        Some(count) => Cores::Count(u16::try_from(count).expect("the command line bounds it")),
        None => args.cpus.clone(),
    };
    args.log.install();
    let (failed, failure) = channel();
    let (ready, all_ready) = channel();
    let failed_end = end.clone();
    let config = NodeConfig {
        directory: args.dir.clone(),
        durability: args.durability,
        batch_interval: args.batch_interval,
        segment_bytes: args.log_segment.into(),
        checkpoints: CheckpointConfig {
            log_bytes_min: args.checkpoint_log.into(),
            ..CheckpointConfig::default()
        },
        partitions: None,
        value_bytes_max: 512 << 20,
        memory_bytes_max: u64::MAX,
        server: Arc::new(facts(args)?),
        clock: Arc::new(unix_ms),
        on_failure: Arc::new(move |shard, reason| {
            let _gone = failed.send((shard, reason)).and_then(|()| Ok(failed_end.send(())));
        }),
        on_ready: Arc::new(move |shard, recovered| {
            let _gone = ready.send((shard, recovered));
        }),
    };
    let server = Server::builder()
        .listen_streams(args.listen, None)
        .cores(cores)
        .driver(args.driver)
        .poll(args.poll)
        .service(move |local| node::router(local, &config))
        .start()?;
    let mut lines = server.description().to_vec();
    let address = server.stream_addresses().shared.expect("it was told to listen");
    lines.push(format!("listening on {address} (Redis protocol)"));
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{}\n", lines.join("\n")).as_bytes()).and_then(|()| out.flush())?;
    drop(out);
    let _told = ended.recv();
    if let Ok((shard, reason)) = failure.try_recv() {
        // Nothing is acknowledged any more, so there is nothing to drain.
        return Err(format!("shard {}: {reason}", shard.0).into());
    }
    drop(all_ready);
    Ok(server.drain()?)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
