//! `catena proxy`: starts it, says so, ends it.

use crate::Failure;
use crate::check::Given;
use crate::cli::ProxyArgs;
use crate::ends::{end_on_signal, end_with_a_shard};
use crate::upstream;
use catena_balancer::discovery::Endpoints;
use catena_balancer::policy;
use catena_balancer::proxy::{ProxyConfig, ProxyMetrics, Shared, router};
use catena_cli::admin::{self, Admin, Pages};
use catena_cli::notify;
use catena_engine::client::ClientConfig;
use catena_engine::config::ConnectionConfig;
use catena_engine::metrics::{MetricsSnapshot, ShardMetrics};
use catena_engine::relay::RelayConfig;
use catena_engine::rpc::admission::AdmissionConfig;
use catena_engine::server::{Cores, Server, StartError};
use catena_engine::time::Duration;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Passes requests on until it is told to end.
pub fn run(args: &ProxyArgs, given: &Given<'_>) -> Result<(), Failure> {
    let (end, ended) = channel();
    end_on_signal(end.clone())?;
    let endpoints = upstream::find(&args.upstream)?;
    refuse_itself(args.listen, &endpoints)?;
    let admin = args.metrics.map(|at| Admin::listen(at, "--metrics")).transpose()?;
    let cores = args.shards.cores();
    let shards =
        cores.shard_count().map_err(|error| format!("{}: {error}", args.shards.flag_of_cores()))?;
    let shared = Shared::new(endpoints.clone(), shards.into());
    let server = start(args, given, cores, shared.clone())?;
    args.log.install();
    for note in server.notes() {
        eprintln!("note: {note}");
    }
    let mut lines = server.description().to_vec();
    if let Some(admin) = admin {
        lines.push(format!("metrics on http://{}{}", admin.address(), admin::METRICS));
        let (shards, proxy) = (server.shard_metrics(), shared.metrics);
        admin.serve(Pages::default().and(admin::METRICS, move || Ok(page_of(&shards, &proxy))))?;
    }
    lines.push(format!("policy {}; {}", args.policy, servers(args, endpoints.list().len())));
    lines.push(format!("listening on {}", server.address().expect("it was told to listen")));
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{}\n", lines.join("\n")).as_bytes()).and_then(|()| out.flush())?;
    drop(out);
    end_with_a_shard(&server, end);
    // The senders live as long as their threads, which end with the process.
    notify::ready("serving");
    let _told = ended.recv();
    notify::stopping();
    Ok(server.drain()?)
}

fn start(
    args: &ProxyArgs,
    given: &Given<'_>,
    cores: Cores,
    shared: Shared,
) -> Result<Server, Failure> {
    let connection = ConnectionConfig {
        frame_bytes_max: args.frame_max,
        in_flight_max: args.max_in_flight,
        payload_crc: args.payload_crc,
        drain_timeout: args.drain_timeout,
        ..ConnectionConfig::default()
    };
    let relay = RelayConfig {
        copy_bytes_max: args.copy_max as usize,
        timeout: (args.timeout > Duration::ZERO).then_some(args.timeout),
        ..RelayConfig::default()
    };
    let config = ProxyConfig {
        client: ClientConfig {
            connection: Arc::new(connection.clone()),
            ..ClientConfig::default()
        },
        relay,
        attempts_max: args.attempts as usize,
        ..ProxyConfig::default()
    };
    let admission =
        AdmissionConfig { in_flight_max: args.max_requests, ..AdmissionConfig::default() };
    let policy = args.policy.clone();
    let mut builder = Server::builder().listen(args.listen);
    if given.has("--max-connections") {
        builder = builder.connections_max(args.max_connections);
    }
    let server = builder
        // A caller cannot know which shard is for what, and need not: all of them reach all servers.
        .shard_ports(false)
        .cores(cores)
        .driver(args.shards.driver)
        .poll(args.shards.poll)
        .gather(args.shards.gather)
        .connection(connection)
        .admission(admission)
        .service(move |shard| {
            let policy = policy::by_name(&policy).expect("the command line has been read");
            router(shard, config.clone(), policy, shared.clone())
        })
        .start();
    server.map_err(|error| match error {
        StartError::Listen { .. } => format!("--listen: {error}").into(),
        other => other.into(),
    })
}

/// A proxy that passes requests on to itself passes each around until it has made too many hops.
fn refuse_itself(listen: SocketAddr, endpoints: &Endpoints) -> Result<(), Failure> {
    let is_here = |ip: IpAddr| {
        ip == listen.ip()
            || (listen.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified()))
    };
    let list = endpoints.list();
    let own = list.iter().find(|it| it.address.port() == listen.port() && is_here(it.address.ip()));
    own.map_or(Ok(()), |own| {
        let address = own.address;
        Err(format!(
            "--upstream {address}: that is --listen {listen}, this proxy itself; \
             name the servers behind it"
        )
        .into())
    })
}

fn servers(args: &ProxyArgs, count: usize) -> String {
    let named: Vec<String> = args.upstream.iter().map(ToString::to_string).collect();
    let word = if count == 1 { "server" } else { "servers" };
    format!("{count} {word} from {}", named.join(", "))
}

fn page_of(shards: &[Arc<ShardMetrics>], proxy: &ProxyMetrics) -> String {
    let mut text = String::new();
    MetricsSnapshot::of(shards)
        .write_prometheus(&mut text)
        .and_then(|()| proxy.write_prometheus(&mut text))
        .expect("writing to a string cannot fail");
    text
}
