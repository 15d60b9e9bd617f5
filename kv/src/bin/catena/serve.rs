//! `catena serve`: starts the store, says so, ends it.

use crate::Failure;
use crate::check::Given;
use crate::cli::ServeArgs;
use crate::ends::{end_on_signal, end_with_a_shard};
use crate::facts::facts;
use crate::free_memory;
use catena_cli::admin::{self, Admin, Pages};
use catena_cli::notify;
use catena_engine::config::ConnectionConfig;
use catena_engine::metrics::{MetricsSnapshot, ShardMetrics};
use catena_engine::rpc::admission::AdmissionConfig;
use catena_engine::server::{Server, StartError};
use catena_engine::shard_index::ShardIndex;
use catena_kv::cluster::config_store::directory::InDirectory;
use catena_kv::cluster::member::ClusterMember;
use catena_kv::disk::checkpoint::CheckpointConfig;
use catena_kv::disk::recover::Recovered;
use catena_kv::node::{self, NodeConfig};
use catena_kv::redis::server::Server as RedisServer;
use catena_kv::replica::ReplicaConfig;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What happens to a store that runs.
enum Event {
    /// A shard serves, and has recovered this.
    Ready(Recovered),
    /// A shard cannot go on.
    Failed(ShardIndex, String),
    /// It is to end.
    End,
}

/// Serves until it is told to end.
///
/// # Errors
/// If it cannot start, or a shard fails.
pub fn run(args: &ServeArgs, given: &Given<'_>) -> Result<(), Failure> {
    let began_at = Instant::now();
    let (told, events) = channel();
    end_on_signal(ends(&told))?;
    args.log.install();
    let admin = args.admin.map(|address| Admin::listen(address, "--admin")).transpose()?;
    let cores = args.shards.cores();
    let shards =
        cores.shard_count().map_err(|error| format!("{}: {error}", args.shards.flag_of_cores()))?;
    let asked = given.has("--max-connections").then_some(args.max_connections);
    let connections = Server::connections_of_each(asked, shards)?;
    let redis = Arc::new(facts(args, shards, connections)?);
    let ready = Arc::<AtomicUsize>::default();
    let config = node_config(args, &redis, &told);
    let shard_ports = shard_ports(args, shards);
    let mut builder = Server::builder();
    // Nodes of a cluster speak to each other there.
    let of_peers = args.cluster.is_some().then(|| SocketAddr::new(args.listen.ip(), 0));
    if let Some(address) = args.rpc_listen.or(of_peers) {
        builder = builder.listen(address);
    }
    if let Some(asked) = asked {
        builder = builder.connections_max(asked);
    }
    let server = builder
        .listen_streams(args.listen, shard_ports)
        .cores(cores)
        .driver(args.shards.driver)
        .poll(args.shards.poll)
        .gather(args.shards.gather)
        .admission(AdmissionConfig {
            connection_bytes_max: redis.config.client_bytes_max,
            ..AdmissionConfig::default()
        })
        .connection(ConnectionConfig {
            drain_timeout: args.drain_timeout,
            ..ConnectionConfig::default()
        })
        .service(move |local| node::router(local, &config))
        .start()
        .map_err(|error| cannot_start(args, error))?;
    say(&server, args, admin.as_ref())?;
    free_memory::begin(&redis)?;
    if let Some(admin) = admin {
        admin.serve(pages(server.shard_metrics(), redis, ready.clone(), shards.into()))?;
    }
    end_with_a_shard(&server, ends(&told));
    notify::status("loading");
    match wait(&events, &ready, shards.into(), began_at) {
        Ok(()) => {
            notify::stopping();
            Ok(server.drain()?)
        }
        // Nothing is acknowledged any more, so there is nothing to drain.
        Err(failure) => {
            eprintln!("catena: {failure}");
            std::process::exit(1);
        }
    }
}

/// The first of the shards' own ports; `None`: the system picks them. Only those that were asked for have to
/// be free.
fn shard_ports(args: &ServeArgs, shards: u16) -> Option<u16> {
    if args.shard_ports.is_some() {
        return args.shard_ports.filter(|port| *port > 0);
    }
    let first = args.default_shard_port(shards)?;
    // This process' own other ports are not listened at yet.
    let is_meant = |port: u16| {
        let others = [args.rpc_listen, args.admin];
        others.into_iter().flatten().any(|other| other.port() == port)
    };
    let is_taken =
        |port: &u16| is_meant(*port) || !admin::is_free((args.listen.ip(), *port).into());
    match (first..=first + (shards - 1)).find(is_taken) {
        None => Some(first),
        Some(taken) => {
            eprintln!(
                "note: port {taken} is taken, so the system picks the shards' own ports, others at each \
                 start; --shard-ports gives them places that cluster clients may remember"
            );
            None
        }
    }
}

/// With the flag by which it listens there, if that is what cannot be.
fn cannot_start(args: &ServeArgs, error: StartError) -> Failure {
    let StartError::Listen { address, .. } = &error else { return error.into() };
    let flag = match *address {
        address if address == args.listen => "--listen",
        address if Some(address) == args.rpc_listen => "--rpc-listen",
        _ if args.shard_ports.is_some_and(|port| port > 0) => "--shard-ports",
        _ => "--listen",
    };
    format!("{flag}: {error}").into()
}

fn node_config(args: &ServeArgs, redis: &Arc<RedisServer>, told: &Sender<Event>) -> NodeConfig {
    let (failed, ready) = (told.clone(), told.clone());
    NodeConfig {
        directory: args.dir.clone(),
        durability: args.durability,
        batch_interval: args.batch_interval,
        segment_bytes: args.log_segment.into(),
        checkpoints: CheckpointConfig {
            log_bytes_min: args.checkpoint_log.into(),
            ..CheckpointConfig::default()
        },
        partitions: args.partitions,
        value_bytes_max: args.value_max as usize,
        memory_bytes_max: redis.config.memory_bytes_max,
        eviction: args.eviction,
        cluster: member(args),
        server: redis.clone(),
        clock: Arc::new(unix_ms),
        on_failure: Arc::new(move |shard, reason| {
            let _ending = failed.send(Event::Failed(shard, reason));
        }),
        on_ready: Arc::new(move |_, recovered| {
            let _ending = ready.send(Event::Ready(recovered));
        }),
    }
}

/// The cluster that it is a node of.
fn member(args: &ServeArgs) -> Option<ClusterMember> {
    Some(ClusterMember {
        name: args.node.clone()?,
        config_store: Arc::new(InDirectory::new(args.cluster.as_ref()?)),
        replica: ReplicaConfig::default(),
    })
}

/// Says where it listens.
fn say(server: &Server, args: &ServeArgs, admin: Option<&Admin>) -> Result<(), Failure> {
    // They are in the log, which stands in the same place.
    if !tracing::enabled!(tracing::Level::WARN) {
        server.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    server.description().iter().for_each(|line| tracing::info!("{line}"));
    let mut lines: Vec<String> = server.description().iter().map(|line| brief(line)).collect();
    match &args.dir {
        Some(dir) => {
            lines.push(format!("data in {}, durability {}", dir.display(), args.durability))
        }
        None => lines.push("no --dir: nothing outlives this process".to_owned()),
    }
    if args.password_file.is_none() && !args.listen.ip().is_loopback() {
        eprintln!(
            "note: whoever reaches {} may read and delete all keys; --password-file asks for a password",
            args.listen
        );
    }
    if let Some(admin) = admin {
        lines.push(format!("metrics on http://{}{}", admin.address(), admin::METRICS));
    }
    let addresses = server.stream_addresses();
    let own: Vec<String> = addresses.shards.iter().map(|own| own.port().to_string()).collect();
    lines.push(format!("ports of the shards, for cluster clients: {}", own.join(", ")));
    if let Some(address) = server.address() {
        lines.push(format!("listening on {address} (native protocol)"));
    }
    let address = addresses.shared.expect("it was told to listen");
    lines.push(format!("listening on {address} (Redis protocol)"));
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{}\n", lines.join("\n")).as_bytes())?;
    Ok(out.flush()?)
}

/// The core of a shard and its driver: what the kernel offers to that is for the log.
fn brief(description: &str) -> String {
    description.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ")
}

/// Waits for the end. An error is a reason not to drain.
fn wait(
    events: &Receiver<Event>,
    ready: &AtomicUsize,
    shards: usize,
    began_at: Instant,
) -> Result<(), String> {
    let mut all = Recovered::default();
    loop {
        match events.recv() {
            Ok(Event::Ready(recovered)) => {
                all.add(&recovered);
                if ready.fetch_add(1, Ordering::Relaxed) + 1 == shards {
                    let Recovered { entries, logs, torn, .. } = all;
                    let took = began_at.elapsed();
                    let line =
                        format!("serving after {took:.1?}: {entries} entries from {logs} logs");
                    notify::ready(&line);
                    // Who started it may have closed this after the first lines: no reason to end.
                    let _unheard = writeln!(std::io::stdout(), "{line}");
                    if torn > 0 {
                        eprintln!("note: {torn} logs ended within a write that nobody was told of");
                    }
                }
            }
            Ok(Event::Failed(shard, reason)) => return Err(format!("shard {}: {reason}", shard.0)),
            Ok(Event::End) | Err(_) => return Ok(()),
        }
    }
}

/// The pages of the admin port.
fn pages(
    shards: Vec<Arc<ShardMetrics>>,
    redis: Arc<RedisServer>,
    ready: Arc<AtomicUsize>,
    count: usize,
) -> Pages {
    let counted = redis.clone();
    let metrics = move || {
        let mut text = String::new();
        MetricsSnapshot::of(&shards)
            .write_prometheus(&mut text)
            .and_then(|()| counted.write_prometheus(&mut text, unix_ms()))
            .expect("writing to a string cannot fail");
        Ok(text)
    };
    let health = move || match ready.load(Ordering::Relaxed) {
        // Well enough to be sent to, for reads go on: what is wrong stands in the text.
        all if all == count => Ok(format!("{}\n", redis.health())),
        some => Err(format!("loading: {some} of {count} shards serve\n")),
    };
    Pages::default().and(admin::METRICS, metrics).and("/healthz", health)
}

/// A sender that only says that it is to end.
fn ends(told: &Sender<Event>) -> Sender<()> {
    let told = told.clone();
    let (end, ended) = channel();
    std::thread::spawn(move || {
        while ended.recv().is_ok() {
            let _ending = told.send(Event::End);
        }
    });
    end
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_offers_is_not_for_everybody() {
        let line = "shard 0 on core 0: io_uring on Linux 6.18: no-sqarray; 8 submissions, notes: x";
        assert_eq!(brief(line), "shard 0 on core 0: io_uring on Linux 6.18");
        assert_eq!(brief("shard 1 on core 1: epoll (edge)"), "shard 1 on core 1: epoll (edge)");
    }
}
