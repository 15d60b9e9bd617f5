//! The command line.

use crate::upstream::Upstream;
use catena_balancer::policy::{self, Policy};
use catena_cli::address::parse_address;
use catena_cli::log::LogArgs;
use catena_cli::units::{bytes_up_to, count_up_to, duration_up_to, parse_duration, parse_memory};
use catena_engine::limits::{
    COPY_BYTES_MAX, FRAME_BYTES_CEILING, GATHER_MAX, IN_FLIGHT_CEILING, SOCKETS_MAX,
};
use catena_engine::reactor::turn::PollMode;
use catena_engine::server::{Cores, DriverChoice};
use catena_engine::time::Duration;
use catena_kv::chain::MEMBERS_MAX;
use catena_kv::cluster::view::NODES_MAX;
use catena_kv::evict::Eviction;
use catena_kv::limits::VALUE_BYTES_MAX;
use catena_kv::slot::Partitions;
use catena_kv::store::Durability;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Catena: fast RPC services, and what stands around them.
#[derive(Parser, Debug)]
#[command(name = "catena", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Takes requests and passes each on to one of many servers: the one that will answer soonest.
    Proxy(Box<ProxyArgs>),
    /// Keeps keys in memory on every core, and speaks the Redis protocol.
    Serve(Box<ServeArgs>),
    /// Takes a backup of a store that serves: all keys, each partition as it is at one instant.
    Backup(BackupArgs),
    /// Makes a data directory from a backup, for `catena serve --dir`.
    Restore(RestoreArgs),
    /// Makes a cluster, or tells how one is.
    Cluster(ClusterArgs),
}

/// `cluster`
#[derive(Args, Debug)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: ClusterVerb,
}

/// What can be done with a cluster.
#[derive(Subcommand, Debug)]
pub enum ClusterVerb {
    /// Makes a cluster without nodes, for `catena serve --cluster`.
    Init(InitArgs),
    /// Tells its nodes, and the chains of its partitions.
    Status(StatusArgs),
}

/// `cluster init`
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Where the view of the cluster is kept: directory:PATH, which all nodes see.
    #[arg(value_name = "STORE", value_parser = parse_config_store)]
    pub store: PathBuf,
    /// Keys are divided among the nodes when so many have come.
    #[arg(long, value_name = "N", default_value = "3", value_parser = count_up_to(NODES_MAX as u32))]
    pub nodes: u32,
    /// How many nodes have each key.
    #[arg(long, value_name = "N", default_value = "3", value_parser = count_up_to(MEMBERS_MAX as u32))]
    pub replicas: u32,
    /// How many partitions there are, a power of two: their number is fixed then.
    #[arg(long, value_name = "N", default_value = "64", value_parser = parse_partitions)]
    pub partitions: Partitions,
}

/// `cluster status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Where the view of the cluster is kept: directory:PATH.
    #[arg(value_name = "STORE", value_parser = parse_config_store)]
    pub store: PathBuf,
}

/// `backup`
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Where to: a directory that is new or empty.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Any address of the server's, for the Redis protocol.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7379")]
    pub from: String,
    /// A file whose first line is the password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// `restore`
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup's directory.
    #[arg(value_name = "DIR")]
    pub backup: PathBuf,
    /// The data directory to be made: one that is new or empty.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// The shards of whatever serves.
#[derive(Args, Debug)]
pub struct ShardArgs {
    /// CPUs to run on, one shard each: all, or a list like 0,2-3 [default: all but the last, which is for
    /// the kernel, and whatever else runs; no more than a container may use].
    #[arg(long, visible_alias = "cores", value_name = "LIST", conflicts_with = "shards")]
    pub cpus: Option<Cores>,
    /// So many shards, each on a CPU of its own, the first that may be used.
    #[arg(long, value_name = "N", value_parser = count_up_to(1_024))]
    pub shards: Option<u32>,
    /// auto (io_uring, or epoll where it is refused), uring, or epoll.
    #[arg(long, default_value = "auto")]
    pub driver: DriverChoice,
    /// When there is nothing to do: adaptive (spin a little, then sleep), always (spin), never (sleep).
    #[arg(long, default_value = "adaptive")]
    pub poll: PollMode,
    /// How long a shard that sleeps goes on sleeping after something has come, for more to come with it: less
    /// CPU time a request, so much more latency at most. Up to 1ms, on io_uring since Linux 6.12.
    #[arg(long, value_name = "TIME", default_value = "0",
        value_parser = duration_up_to(GATHER_MAX))]
    pub gather: Duration,
}

impl ShardArgs {
    /// Where they run.
    pub fn cores(&self) -> Cores {
        match (self.shards, &self.cpus) {
            (Some(count), _) => {
                Cores::Count(u16::try_from(count).expect("the command line bounds it"))
            }
            (None, Some(cpus)) => cpus.clone(),
            (None, None) => all_but_one(),
        }
    }

    /// The flag that says where they run.
    pub fn flag_of_cores(&self) -> &'static str {
        if self.shards.is_some() { "--shards" } else { "--cpus" }
    }
}

/// A shard that shares its CPU with its clients, or with the kernel's workers, makes all others wait for it.
/// Where there is a quota of CPU time (cgroup `cpu.max`), more shards than it pays for would all be stopped
/// for the rest of each period.
fn all_but_one() -> Cores {
    let paid_for = std::thread::available_parallelism()
        .map_or(u16::MAX, |count| u16::try_from(count.get()).unwrap_or(u16::MAX));
    match Cores::All.shard_count() {
        Ok(count @ 2..) => Cores::Count((count - 1).min(paid_for)),
        _ => Cores::All,
    }
}

/// `serve`. A flag may come twice, from the file and from the line: the last one counts.
#[derive(Args, Debug)]
#[command(args_override_self = true, after_help = UNITS)]
pub struct ServeArgs {
    /// Address for the Redis protocol: a port of 127.0.0.1, or ADDRESS:PORT. Port 0 lets the system pick.
    #[arg(long, short, value_name = "ADDR", default_value = "7379", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Address for the native protocol, which knows versions, conditions and sessions: a port of
    /// 127.0.0.1, or ADDRESS:PORT. Each shard then has a port of its own for it, too [default: it is
    /// not served].
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub rpc_listen: Option<SocketAddr>,
    /// The cluster that this is a node of, by where its view is kept: directory:PATH. Nodes keep keys in
    /// memory, and replicate them among each other.
    #[arg(long, value_name = "STORE", requires = "node", conflicts_with_all = ["dir", "partitions"],
        value_parser = parse_config_store)]
    pub cluster: Option<PathBuf>,
    /// The name of this node in its cluster; no other one has it.
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub node: Option<String>,
    /// Directory for log and checkpoints; without it nothing outlives the process.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// When a write is acknowledged: sync (when it is safely on the disk), batch (at once; on the disk
    /// within --batch-interval), memory (at once; on the disk when
    /// that has time).
    #[arg(long, value_name = "MODE", default_value = "sync")]
    pub durability: Durability,
    /// How long writes gather before they go to the disk, with --durability batch.
    #[arg(long, value_name = "TIME", default_value = "20ms",
        value_parser = duration_up_to(BATCH_INTERVAL_MAX))]
    pub batch_interval: Duration,
    /// The length of a segment of the log.
    #[arg(long, value_name = "BYTES", default_value = "64m", value_parser = parse_segment)]
    pub log_segment: u32,
    /// A checkpoint is taken when so much was logged since the last one, or half of what the keys take if
    /// that is more.
    #[arg(long, value_name = "BYTES", default_value = "256m", value_parser = bytes_up_to(1 << 31))]
    pub checkpoint_log: u32,
    /// A TOML file with these settings, under the names of these flags; the flags win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The first of the ports that each shard has of its own, the others' behind it; 0: the system picks
    /// others at each start [default: 10,000 above --listen].
    #[arg(long, value_name = "PORT", value_parser = parse_ports)]
    pub shard_ports: Option<u16>,
    /// Memory for keys and values; beyond it writes are refused [default: three quarters of the host's, or of
    /// what a container has, as far as --client-memory leaves them].
    #[arg(long, value_name = "BYTES", value_parser = parse_memory)]
    pub memory_max: Option<u64>,
    /// When that is used up: none (writes are refused), or lru (keys that were not used for long are given
    /// up for them).
    #[arg(long, value_name = "POLICY", default_value = "none")]
    pub eviction: Eviction,
    /// The longest value, up to 512m.
    #[arg(long, value_name = "BYTES", default_value = "64m", value_parser = parse_value_max)]
    pub value_max: u32,
    /// Memory of each shard for commands that have not come whole and answers that are not read; beyond it
    /// the client that holds most is cut off [default: eight times --value-max, 256m at
    /// least; all shards together an eighth of the memory there is, but twice --value-max each].
    #[arg(long, value_name = "BYTES", value_parser = parse_memory)]
    pub client_memory: Option<u64>,
    /// How many partitions a new data directory has, a power of two: their number is fixed then.
    #[arg(long, value_name = "N", value_parser = parse_partitions)]
    pub partitions: Option<Partitions>,
    /// Connections of each shard, at most, as far as the limit on open files allows.
    #[arg(long, value_name = "N", default_value = "65536", value_parser = count_up_to(SOCKETS_MAX))]
    pub max_connections: u32,
    /// How long what is owed may take to be answered after SIGTERM.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
    /// Shows counters as text for Prometheus on http://ADDR/metrics, and whether all is well on /healthz: a
    /// port of 127.0.0.1, or ADDRESS:PORT.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub admin: Option<SocketAddr>,
    /// The shards.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// The first line of this file is what clients have to say with AUTH before they may do anything.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// The host that cluster clients are told to connect to, if it is not the one of --listen.
    #[arg(long, value_name = "HOST", value_parser = parse_host)]
    pub announce: Option<String>,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How far the shards' own ports are above that of `--listen`, unless told.
const SHARD_PORTS_ABOVE: u16 = 10_000;

impl ServeArgs {
    /// The first of the shards' own ports where none was asked for: the same at each start, for cluster
    /// clients remember them. `None`: there is no room above the one of `--listen`, or that is picked, too.
    pub fn default_shard_port(&self, shards: u16) -> Option<u16> {
        let first = self.listen.port().checked_add(SHARD_PORTS_ABOVE)?;
        let has_room = first.checked_add(shards - 1).is_some() && self.listen.port() > 0;
        has_room.then_some(first)
    }

    /// What the clients of each of so many shards may make it keep, in bytes: four in the middle of the
    /// longest values, and as many more that read them, where there is memory for that.
    pub fn client_memory(&self, shards: u16, there: u64) -> u64 {
        let most = (8 * u64::from(self.value_max)).max(256 << 20);
        let share = there / 8 / u64::from(shards);
        self.client_memory.unwrap_or_else(|| share.clamp(self.client_memory_min(), most))
    }

    /// The least that it may be: what is read is kept with some room to grow, beside what has to be answered
    /// to others.
    pub fn client_memory_min(&self) -> u64 {
        (2 * u64::from(self.value_max)).max(1 << 20)
    }

    /// What keys and values may take, in bytes: three quarters of what is there, as far as clients leave
    /// them beside an eighth for everything else; a quarter at least.
    pub fn memory_max(&self, shards: u16, there: u64) -> u64 {
        self.memory_max.unwrap_or_else(|| {
            let clients = self.client_memory(shards, there) * u64::from(shards);
            let left = (there / 8 * 7).saturating_sub(clients);
            left.clamp(there / 4, there / 4 * 3)
        })
    }
}

/// `proxy`
#[derive(Args, Debug)]
#[command(after_help = "\
Where the servers are (--upstream, any number of times; they are balanced over together):

  10.0.0.1:7400, db.example:7400   this one; a name is resolved once, at start
  dns:db.example:7400              all addresses of the name, looked up every 5 s
  file:/etc/catena/servers         one HOST:PORT a line, and its weight if that is not 1; read
                                   again when it changes. # begins a comment

A weight may follow with '=': 10.0.0.2:7400=3 gets three times the part of one without.

  catena proxy --upstream 10.0.0.1:7400 --upstream 10.0.0.2:7400
  catena proxy --listen 0.0.0.0:7400 --upstream dns:db.example:7400 --metrics 9100
  catena proxy --upstream file:servers.txt --policy ewma --cpus 0-3 --timeout 2s

SIGTERM or ^C: takes no new connection, tells callers to go away, finishes what is under way (for
--drain-timeout at most), ends. Once more ends at once.
Exit codes: 0 ended in order (also if --drain-timeout cut off what was under way), 1 failed, or ended
at once, 2 wrong usage.")]
pub struct ProxyArgs {
    /// Address to listen on: a port of 127.0.0.1, or ADDRESS:PORT. Port 0 lets the system pick one.
    #[arg(long, short, value_name = "ADDR", default_value = "7400", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// A server to pass requests on to: HOST:PORT, dns:NAME:PORT or file:PATH. At least one.
    #[arg(long, short, value_name = "SPEC", required = true)]
    pub upstream: Vec<Upstream>,
    /// How a server is chosen for a request.
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "hist",
        value_parser = parse_policy,
        help = "How a server is chosen for a request: random, rr, wrr, ll[:D], ewma[:D], c3, prequal, \
                prequal-piggyback or hist[:D]; D: so many are compared at a time"
    )]
    pub policy: String,
    /// The shards.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// The deadline of requests that come without one; 0: they wait for as long as their server lives.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_duration)]
    pub timeout: Duration,
    /// How often a request is sent at most: again only if it was certainly not executed, within the
    /// budget of retries (a fifth of the requests, and 10 a second).
    #[arg(long, value_name = "N", default_value = "3", value_parser = count_up_to(8))]
    pub attempts: u32,
    /// Bodies up to so many bytes are copied on their way through, longer ones are not; 0: none is.
    #[arg(long, value_name = "BYTES", default_value = "1024",
        value_parser = bytes_up_to(COPY_BYTES_MAX as u32))]
    pub copy_max: u32,
    /// The longest frame that is taken, of callers and of servers.
    #[arg(long, value_name = "BYTES", default_value = "16448k",
        value_parser = bytes_up_to(FRAME_BYTES_CEILING))]
    pub frame_max: u32,
    /// Connections of each shard, at most.
    #[arg(long, value_name = "N", default_value = "65536", value_parser = count_up_to(SOCKETS_MAX))]
    pub max_connections: u32,
    /// Requests in flight on each caller's connection, at most.
    #[arg(long, value_name = "N", default_value = "1024",
        value_parser = count_up_to(IN_FLIGHT_CEILING))]
    pub max_in_flight: u32,
    /// Requests in flight on each shard, at most; more are shed.
    #[arg(long, value_name = "N", default_value = "65536", value_parser = count_up_to(16 << 20))]
    pub max_requests: u32,
    /// Ask callers and servers for checksums over bodies; used where they ask too.
    #[arg(long)]
    pub payload_crc: bool,
    /// How long what is under way may take to end after SIGTERM.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
    /// Shows counters as text for Prometheus, on http://ADDR/metrics: a port of 127.0.0.1, or
    /// ADDRESS:PORT.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub metrics: Option<SocketAddr>,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What all flags have in common.
const UNITS: &str = "\
TIME is a number with its unit: 50us, 20ms, 10s, 2m, 1h; or 0. BYTES is a number of bytes, or of
units of 1,024: 64k, 64mb, 64MiB, 8g. ADDR is a port of 127.0.0.1, or ADDRESS:PORT.
Exit codes: 0 ended in order, 1 failed, 2 wrong usage.";

/// The longest `--batch-interval`: an orderly end waits for it.
const BATCH_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// The least `--log-segment`, in bytes: its headers take 8 KiB.
const SEGMENT_BYTES_MIN: u32 = 64 << 10;

fn parse_segment(text: &str) -> Result<u32, String> {
    match bytes_up_to(1 << 30)(text)? {
        bytes if bytes < SEGMENT_BYTES_MIN => Err(format!("{text} is too short; 64k at least")),
        bytes => Ok(bytes),
    }
}

/// Up to what any configuration may allow.
fn parse_value_max(text: &str) -> Result<u32, String> {
    match bytes_up_to(VALUE_BYTES_MAX as u32)(text)? {
        0 => Err("no value would fit; say 1 at least, like 64m".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A name or an address that clients can connect to.
fn parse_host(text: &str) -> Result<String, String> {
    match text.contains(|c: char| c.is_whitespace() || c.is_control()) || text.is_empty() {
        true => Err(format!(
            "{text:?} is no host; say a name or an address, or leave it out for the address of --listen"
        )),
        false => Ok(text.to_owned()),
    }
}

/// The path of a config store in a directory, the only kind that there is.
fn parse_config_store(text: &str) -> Result<PathBuf, String> {
    match text.split_once(':') {
        Some(("directory", path)) if !path.is_empty() => Ok(path.into()),
        _ => Err("say directory:PATH".to_owned()),
    }
}

fn parse_ports(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text:?} is no port"))
}

fn parse_partitions(text: &str) -> Result<Partitions, String> {
    let count = text.parse().ok().and_then(Partitions::new);
    count.ok_or_else(|| format!("{text:?} is no power of two up to 1024"))
}

/// A policy is made on each shard; here it is only seen to be one.
fn parse_policy(text: &str) -> Result<String, String> {
    let made: Box<dyn Policy> = policy::by_name(text).map_err(|unknown| unknown.to_string())?;
    drop(made);
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_cli::docs::disagreements;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<ProxyArgs, String> {
        let words = ["catena", "proxy"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Verb::Proxy(args) = cli.verb else { panic!("it is the proxy's line") };
        Ok(*args)
    }

    #[test]
    fn the_least_that_is_needed_is_an_upstream() {
        let args = parse("--upstream 127.0.0.1:1").expect("that is enough");
        assert_eq!(args.listen.to_string(), "127.0.0.1:7400");
        assert_eq!(args.policy, "hist");
        assert_eq!(
            args.frame_max,
            catena_engine::config::ConnectionConfig::default().frame_bytes_max
        );
        assert_eq!(
            args.copy_max as usize,
            catena_engine::relay::RelayConfig::default().copy_bytes_max
        );
    }

    #[test]
    fn keys_and_clients_fit_into_what_is_there() {
        const MIB: u64 = 1 << 20;
        let default = |line: &str| {
            let words = ["catena", "serve"].into_iter().chain(line.split_whitespace());
            let Verb::Serve(args) = Cli::try_parse_from(words).expect(line).verb else {
                panic!("it is the line of serve")
            };
            move |shards, mib: u64| {
                let there = mib * MIB;
                let memory = (args.memory_max(shards, there), args.client_memory(shards, there));
                (memory.0 / MIB, memory.1 / MIB)
            }
        };
        let usual = default("");
        assert_eq!(usual(3, 64 << 10), (48 << 10, 512), "plenty");
        assert_eq!(usual(3, 4_096), (3_072, 170));
        assert_eq!(usual(1, 512), (320, 128), "two of the longest values");
        assert_eq!(usual(8, 1_024), (256, 128), "more shards than there is memory for");
        assert_eq!(default("--value-max 1m")(8, 1_024), (768, 16));
        assert_eq!(default("--client-memory 1g")(2, 4_096), (1_536, 1_024));
        assert_eq!(default("--memory-max 100m")(1, 512), (100, 128));
    }

    #[test]
    fn the_docs_know_every_flag_and_no_other() {
        let command = Cli::command();
        for (verb, docs) in [
            ("proxy", include_str!("../../../../docs/proxy.md")),
            ("serve", include_str!("../../../../docs/store.md")),
        ] {
            let verb = command.find_subcommand(verb).expect("it is a verb");
            let found = disagreements(verb, docs);
            assert!(found.is_empty(), "{}: {found:#?}", verb.get_name());
        }
    }

    #[test]
    fn the_help_and_the_docs_name_every_policy() {
        let none = policy::by_name("best").expect_err("there is none").to_string();
        let (_, known) = none.split_once("known are ").expect("it says what there is");
        let mut command = Cli::command();
        let proxy = command.find_subcommand_mut("proxy").expect("it is a verb");
        let help = proxy.render_long_help().to_string();
        let help: Vec<&str> = help.split([' ', ',', ';', '\n']).collect();
        for name in known.split(", ") {
            assert!(help.contains(&name), "{name} in {help:?}");
            let docs = include_str!("../../../../docs/proxy.md");
            assert!(docs.contains(&format!("`{name}`")), "{name} in docs/proxy.md");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, named) in [
            ("", "--upstream"),
            ("--upstream 127.0.0.1", "--upstream"),
            ("--upstream 127.0.0.1:1=0", "weight"),
            ("--upstream 127.0.0.1:1=x", "weight"),
            ("--upstream file:", "file"),
            ("--upstream dns:name", "PORT"),
            ("--upstream 127.0.0.1:1 --policy best", "--policy"),
            ("--upstream 127.0.0.1:1 --listen here", "--listen"),
            ("--upstream 127.0.0.1:1 --copy-max 1m", "--copy-max"),
            ("--upstream 127.0.0.1:1 --attempts 0", "--attempts"),
            ("--upstream 127.0.0.1:1 --attempts many", "--attempts"),
            ("--upstream 127.0.0.1:1 --shards 0", "--shards"),
            ("--upstream 127.0.0.1:1 --cpus x", "--cpus"),
            ("--upstream 127.0.0.1:1 --driver fast", "--driver"),
            ("--upstream 127.0.0.1:1 --timeout soon", "--timeout"),
            ("--upstream 127.0.0.1:1 --cpus 0 --shards 1", "--shards"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn a_value_that_no_store_can_be_started_with_is_refused_with_what_would_be_right() {
        for (flag, value, hint) in [
            ("--value-max", "0", "say 1 at least"),
            ("--value-max", "4g", "4g is too much; 512 MiB at most"),
            ("--memory-max", "lots", "64k, 64mb, 64MiB or 8g"),
            ("--batch-interval", "20", "say 20ms or 20s"),
            ("--batch-interval", "1h", "1s at most"),
            ("--drain-timeout", "10", "say 10ms or 10s"),
            ("--announce", "", "is no host"),
            ("--announce", "a b", "is no host"),
            ("--announce", "a\u{7}", "is no host"),
        ] {
            let words = ["catena", "serve", flag, value];
            let error = Cli::try_parse_from(words).expect_err(value).to_string();
            assert!(error.contains(flag) && error.contains(hint), "{value}: {error}");
        }
        for (flag, value) in
            [("--announce", "db.example"), ("--announce", "::1"), ("--value-max", "1")]
        {
            Cli::try_parse_from(["catena", "serve", flag, value]).expect(value);
        }
    }
}
