//! The command line.

use crate::balance::{self, Contender, Distribution};
use crate::method::Method;
use crate::schedule::Arrival;
use catena_cli::address::parse_address;
use catena_cli::log::LogArgs;
use catena_cli::units::{
    count_up_to, duration_up_to, parse_bytes, parse_count, parse_count_or_zero, parse_duration,
    parse_rate,
};
use catena_engine::limits::{GATHER_MAX, IN_FLIGHT_CEILING, SOCKETS_MAX};
use catena_engine::reactor::turn::PollMode;
use catena_engine::server::{Cores, DriverChoice};
use catena_engine::time::Duration;
use clap::{Args, Parser, Subcommand};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// The most slots of a shard: as many as requests that it has in flight unless told otherwise.
pub const SLOTS_MAX: u32 = 65_536;
/// The most runs of each policy.
const RUNS_MAX: u32 = 100;
/// The port of a server that was told none.
pub const PORT_DEFAULT: u16 = 7_400;

/// A load generator and its server, for Catena.
///
/// Start with `catena-bench quick`.
#[derive(Parser, Debug)]
#[command(name = "catena-bench", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done; whether a run's figures are worth something is in its notes, and in the JSON's is_valid
  1    failed
  2    wrong usage
  4    the server was gone for a part of the run: there is a report, and it is not valid
  130  interrupted by ^C or SIGTERM: there is a report of what was measured, and it is not valid";

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// A first look, in half a minute: starts servers, loads them, explains the figures.
    Quick(QuickArgs),
    /// Loads a server that runs already.
    Run(RunArgs),
    /// Runs a server to load: echo, sink, source, spin, sleep, work.
    Serve(ServeArgs),
    /// Compares the engine with bare echo servers, side by side: what does an RPC cost over a byte pipe?
    Floor(FloorArgs),
    /// Compares policies of balancing, simulated or live: who keeps its tail when servers slow down or fail?
    Balance(BalanceArgs),
    /// A bare echo server, for `floor`.
    #[command(hide = true)]
    Bare(BareArgs),
}

/// `serve`
#[derive(Args, Debug)]
#[command(after_help = "\
Methods, for whoever writes a client:

  echo    payload: anything            answers with the same
  sink    payload: anything            answers with nothing
  source  payload: u32 little-endian   answers with so many bytes, 16 MiB at most
  spin    payload: u32 little-endian   keeps its core busy for so many µs, a second at most
  sleep   payload: u32 little-endian   answers with nothing after so many µs; nobody else waits
  work    payload: anything            waits for a slot, holds it for a service time, answers with
                                       nothing: --slots and --service say how many, how long
  fault   payload: 4 × u32 little-endian, only with --faults: changes `work` from now on.
          thousandths of its time that work takes (1000: as ever); µs by which answers leave later;
          µs that work takes, whatever was drawn; µs after which calls fail with \"internal error\".
          0xffffffff in the last two: it does not

SIGTERM or ^C drains; once more ends at once.
Exit codes: 0 ended in order, 1 failed, or ended at once, 2 wrong usage.")]
pub struct ServeArgs {
    /// Port to listen on; 0 lets the system pick one.
    #[arg(long, short, default_value_t = PORT_DEFAULT)]
    pub port: u16,
    /// Address to listen on, or a name of this machine like localhost.
    #[arg(long, default_value = "127.0.0.1", value_parser = parse_host)]
    pub host: IpAddr,
    /// Cores to run on, one shard each: all, or a list like 0,2-3.
    #[arg(long, default_value = "all")]
    pub cores: Cores,
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
    /// Connections of each shard, at most.
    #[arg(long, value_name = "N", default_value = "65536", value_parser = count_up_to(SOCKETS_MAX))]
    pub max_connections: u32,
    /// Requests in flight on each connection, at most.
    #[arg(long, value_name = "N", default_value = "1024",
        value_parser = count_up_to(IN_FLIGHT_CEILING))]
    pub max_in_flight: u32,
    /// Requests in flight on each shard, at most; more are shed.
    #[arg(long, value_name = "N", default_value = "65536", value_parser = parse_count)]
    pub max_requests: u32,
    /// Requests are shed while they wait for longer than this [default: 5ms].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub queue_delay_target: Option<Duration>,
    /// How long `work` takes: const:T, exp:MEAN, normal:MEAN,DEVIATION, lognormal:MEDIAN,SIGMA,
    /// bimodal:T,OTHER,SHARE or uniform:LOW,HIGH. By a timer: it costs no CPU time.
    #[arg(long, value_name = "DISTRIBUTION", default_value = "exp:1ms")]
    pub service: Distribution,
    /// Calls of `work` that each shard works on at a time; the others wait.
    #[arg(long, value_name = "N", default_value = "4", value_parser = count_up_to(SLOTS_MAX))]
    pub slots: u32,
    /// Lets anybody who can connect make this server slow or faulty, with the method `fault`.
    #[arg(long)]
    pub faults: bool,
    /// Shows counters as text for Prometheus, on http://ADDR/metrics: a port of 127.0.0.1, or
    /// ADDRESS:PORT.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub metrics: Option<SocketAddr>,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
    /// Of the service times and of what else is drawn [default: from the clock].
    #[arg(long)]
    pub seed: Option<u64>,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}

/// `run`
#[derive(Args, Debug)]
#[command(after_help = "\
Without -R the loop is closed: every connection keeps -n requests in flight, and a server
that stalls is asked less. With -R it is open: requests come when the schedule says so,
whatever the server does, and response time counts from the intended instant, as a user's
would.

  catena-bench run catena://127.0.0.1:7400 -c 32 -n 16 -d 10s
  catena-bench run catena://127.0.0.1:7400 -c 32 -R 50k --method sleep:200

Exit codes: 0 measured, 1 failed, 2 wrong usage, 4 the server was gone for a part of the run,
130 interrupted; after the last two the report says so and is not valid.")]
pub struct RunArgs {
    /// catena://HOST:PORT
    pub target: TargetUrl,
    /// Connections.
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = parse_count)]
    pub connections: u32,
    /// Requests in flight on each connection, at most [default: 1, or 128 with -R].
    #[arg(short = 'n', long, value_name = "N", value_parser = count_up_to(IN_FLIGHT_CEILING))]
    pub depth: Option<u32>,
    /// Payload in bytes.
    #[arg(short, long, value_name = "BYTES", default_value = "32", value_parser = parse_bytes)]
    pub size: u32,
    /// How long to measure.
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = parse_length)]
    pub duration: Duration,
    /// Requests a second, like 1500, 200k, 0.5: an open loop.
    #[arg(short = 'R', long, value_name = "RATE", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// How an open loop's requests are spread: poisson (independent users), or const (a metronome).
    #[arg(long, default_value = "poisson", requires = "rate")]
    pub arrival: Arrival,
    /// echo, sink, source or source:BYTES, spin:MICROS, sleep:MICROS, or any other method's name.
    #[arg(long, short, default_value = "echo")]
    pub method: Method,
    /// Writes the report as JSON to a file, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Of the generator: auto (io_uring, or epoll where it is refused), uring, or epoll.
    #[arg(long, default_value = "auto")]
    pub driver: DriverChoice,
    /// Of the generator, when it has nothing to do: adaptive, always (spin), never (sleep).
    #[arg(long, default_value = "adaptive")]
    pub poll: PollMode,
    /// Threads of the generator [default: as many as --cores names, or 1].
    #[arg(short, long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<u32>,
    /// Cores of the generator, a list like 1,3 [default: the last ones that may be used].
    #[arg(long)]
    pub cores: Option<Cores>,
    /// Seed of the schedule.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Load that is not measured, first [default: a tenth of the duration, 1 s at most].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub warmup: Option<Duration>,
    /// How long to wait for each answer; told to the server as the deadline.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// Connections that are opened beside and do nothing.
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse_count_or_zero)]
    pub idle: u32,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Which cores two processes on this machine run on.
#[derive(Args, Clone, Copy, Debug)]
pub struct SeatArgs {
    /// Core of the server [default: the first that may be used].
    #[arg(long, value_name = "CORE")]
    pub server_core: Option<usize>,
    /// Core of the load generator [default: another one].
    #[arg(long, value_name = "CORE")]
    pub load_core: Option<usize>,
}

/// `floor`
#[derive(Args, Debug)]
pub struct FloorArgs {
    /// Writes the report as JSON to a file, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How often each row is measured; figures are medians.
    #[arg(long, value_name = "N", default_value = "5", value_parser = parse_count)]
    pub rounds: u32,
    /// How long each row is measured in each round.
    #[arg(long, value_name = "TIME", default_value = "1.5s", value_parser = parse_length)]
    pub secs: Duration,
    /// Load before that, not measured.
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Payload in bytes.
    #[arg(short, long, value_name = "BYTES", default_value = "32", value_parser = parse_bytes)]
    pub size: u32,
    /// Idle connections of the last rows; 0 leaves these rows out.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = parse_count_or_zero)]
    pub idle: u32,
    /// How the load generator waits while the servers' CPU time is taken: adaptive, always, never.
    #[arg(long, default_value = "never")]
    pub load_poll: PollMode,
    /// Of the load generator: auto, uring, or epoll.
    #[arg(long, default_value = "auto")]
    pub load_driver: DriverChoice,
    /// The cores.
    #[command(flatten)]
    pub seats: SeatArgs,
}

/// `balance`
#[derive(Args, Debug)]
#[command(after_help = format!("\
Policies: random, rr (round robin), wrr (weighted), ll (least loaded), ewma (peak EWMA), c3,
prequal, prequal-piggyback, hist (ours). ll:D, ewma:D and hist:D compare D at a time.
Around a policy: +health (ejection and return), +hedge (a second copy of a slow call), +retry
(after a failure, elsewhere), each within its budget; - takes away. hist has health unless it is
hist-health; the others have it only with +health, as what is published about them was measured
without.

Scenarios: {}.
A file has the same form; --show prints one to start from.

  catena-bench balance --sim --scenario slow-replicas --policy rr,ll,ewma,hist --svg out.svg
  catena-bench balance --sim --scenario gc-pauses --policy hist+hedge+retry
  catena-bench balance --scenario slow-core --show > mine.toml

Live, every policy has new servers: processes of this machine, on all cores but the last, which the
clients have. Their work is a timer, their faults are signals and calls.

  catena-bench balance --live --scenario pause-one --policy rr,hist --runs 3
  catena-bench balance --live --scenario pause-one --policy hist+retry+hedge --idempotent
  catena-bench balance --live --scenario rolling-restart --policy hist+retry --svg out.svg
  catena-bench balance --live --scenario slow-replicas --rate half --servers 6 --policy ll,hist

Exit codes: 0 done (whether the figures are worth something is in the notes, and in the JSON's
is_valid), 1 failed, 2 wrong usage, 4 a server was gone that was not told to, 130 interrupted: there
is a report of what was measured until then, or of the policies that were simulated to the end, if
there are any. Interrupted once more it ends at once, with 130 and without a report.", balance::built_in()))]
pub struct BalanceArgs {
    /// Simulates: discrete events, virtual time, the code that clients run.
    #[arg(long)]
    pub sim: bool,
    /// Measures: servers in processes of their own, real sockets, the clients that programs use.
    #[arg(long, conflicts_with = "sim")]
    pub live: bool,
    /// One that is built in, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    pub scenario: String,
    /// Policies, separated by commas.
    #[arg(long, value_name = "LIST", value_delimiter = ',', required_unless_present = "show")]
    pub policy: Vec<Contender>,
    /// Of everything that is drawn. One seed is one simulation, on every machine; live it is one schedule
    /// of calls and faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Calls a second all the time, in place of what the scenario says. Live also half: half of what the
    /// servers answer at most, which is measured first.
    #[arg(short = 'R', long, value_name = "RATE|half")]
    pub rate: Option<OfferedRate>,
    /// How long calls come, in place of what the scenario says.
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Servers, in place of what the scenario says.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub servers: Option<u32>,
    /// Live: calls may be made twice: they may be sent again when they may have been executed, and be
    /// hedged. Simulated calls may.
    // Said twice, for `requires` alone is quiet where what it requires conflicts with what is there.
    #[arg(long, requires = "live", conflicts_with = "sim")]
    pub idempotent: bool,
    /// Live: how often each policy runs; tables and drawing are of the median run. A simulation is the
    /// same each time; --seed makes another one.
    #[arg(long, value_name = "N", default_value = "1", requires = "live", conflicts_with = "sim",
        value_parser = count_up_to(RUNS_MAX))]
    pub runs: u32,
    /// Tables over time for each of several policies; for one alone they are shown anyway.
    #[arg(long)]
    pub over_time: bool,
    /// Writes the report as JSON to a file, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draws share and p99 over time into a file, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Prints the scenario, to start one's own from, and ends.
    #[arg(long, conflicts_with_all = ["rate", "duration", "servers", "idempotent", "runs", "json", "svg"])]
    pub show: bool,
}

/// How many calls come.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum OfferedRate {
    /// So many a second.
    PerSecond(f64),
    /// That share of what the servers answer at most.
    OfSaturation(f64),
}

impl FromStr for OfferedRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "half" => Ok(OfferedRate::OfSaturation(0.5)),
            text => parse_rate(text)
                .map(OfferedRate::PerSecond)
                .map_err(|error| format!("{error}, or half")),
        }
    }
}

/// `quick`
#[derive(Args, Debug)]
pub struct QuickArgs {
    /// How long each row is measured.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_length)]
    pub secs: Duration,
    /// The cores.
    #[command(flatten)]
    pub seats: SeatArgs,
}

/// `bare`
#[derive(Args, Debug)]
pub struct BareArgs {
    /// uring or epoll.
    #[arg(long)]
    pub driver: DriverChoice,
    /// always: spin. Otherwise sleep.
    #[arg(long, default_value = "never")]
    pub poll: PollMode,
    /// Core to run on.
    #[arg(long)]
    pub core: Option<usize>,
}

/// How long to measure: not 0.
fn parse_length(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a run of no length measures nothing".to_owned()),
        length => Ok(length),
    }
}

/// How long to wait for an answer: not 0.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a timeout of 0 waits for no answer at all".to_owned()),
        timeout => Ok(timeout),
    }
}

/// `catena://HOST:PORT`, resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetUrl {
    /// As it was given.
    pub text: String,
    /// The first address of the host.
    pub address: SocketAddr,
}

impl FromStr for TargetUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = format!("say catena://HOST:PORT, like catena://127.0.0.1:{PORT_DEFAULT}");
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("no scheme; {example}"));
        };
        if scheme != "catena" {
            return Err(format!("{scheme}:// is not spoken here; {example}"));
        }
        let place = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_place(place).map_err(|wrong| format!("{wrong}; {example}"))?;
        let mut addresses = (host, port)
            .to_socket_addrs()
            .map_err(|error| format!("{host:?} cannot be resolved: {error}; {example}"))?;
        let address = addresses.next().ok_or_else(|| format!("{host:?} has no address"))?;
        Ok(TargetUrl { text: text.to_owned(), address })
    }
}

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`.
fn split_place(place: &str) -> Result<(&str, u16), String> {
    if let Some(at) = place.find(['/', '?', '#']) {
        return Err(format!("{:?} after the port means nothing here; leave it out", &place[at..]));
    }
    let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return Err("a bracket is not closed".to_owned()),
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, rest))) => match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None => return Err(format!("{rest:?} after the bracket is no port")),
        },
        None if place.parse::<std::net::Ipv6Addr>().is_ok() => {
            return Err(format!("an IPv6 address belongs in brackets: [{place}]"));
        }
        None => match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err("there is no host".to_owned());
    }
    match port.map(|port| (port, port.parse::<u16>())) {
        None => Ok((host, PORT_DEFAULT)),
        Some(("", _)) => Err("there is no port after the colon".to_owned()),
        Some((_, Ok(port @ 1..))) => Ok((host, port)),
        Some((port, _)) => Err(format!("{port:?} is no port; ports are 1 to 65535")),
    }
}

/// An address of this machine: `127.0.0.1`, `::1` or `[::1]`, or a name that leads to one.
fn parse_host(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let example = "say an address of this machine, like 127.0.0.1, [::1] or 0.0.0.0 for all";
    let resolved = (bare, 0).to_socket_addrs().ok().and_then(|mut found| found.next());
    resolved.map(|address| address.ip()).ok_or_else(|| format!("{text:?} is no host; {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_cli::docs::disagreements;
    use clap::CommandFactory;

    fn run_args(line: &str) -> Result<RunArgs, clap::Error> {
        let words = ["catena-bench", "run"].into_iter().chain(line.split(' '));
        Cli::try_parse_from(words).map(|cli| match cli.verb {
            Verb::Run(args) => args,
            other => panic!("{other:?} is not run"),
        })
    }

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_docs_know_every_flag_of_balance_and_no_other() {
        let command = Cli::command();
        let balance = command.find_subcommand("balance").expect("it is a verb");
        let found = disagreements(balance, include_str!("../../docs/balancing-lab.md"));
        assert!(found.is_empty(), "docs/balancing-lab.md: {found:#?}");
    }

    #[test]
    fn a_run_is_read_as_the_help_says() {
        let args =
            run_args("catena://127.0.0.1:7 -c 1k -n 16 -s 4k -d 500ms -R 1.5k --arrival const")
                .expect("it is in the help");
        assert_eq!((args.connections, args.depth, args.size), (1_000, Some(16), 4_096));
        assert_eq!((args.duration, args.rate), (Duration::from_millis(500), Some(1_500.0)));
        assert_eq!((args.arrival, args.method), (Arrival::Const, Method::Echo));
        assert_eq!(args.target.address, "127.0.0.1:7".parse().expect("an address"));
        let args =
            run_args("catena://127.0.0.1 --method sleep:2ms -t 2 --cores 0,1").expect("fine");
        assert_eq!(args.target.address.port(), PORT_DEFAULT);
        assert_eq!((args.rate, args.method), (None, Method::Sleep(2_000)));
        assert_eq!(args.cores, Some(Cores::List(vec![0, 1])));
        let args = run_args("catena://[::1]:7/").expect("an address in brackets");
        assert_eq!(args.target.address, "[::1]:7".parse().expect("an address"));
    }

    #[test]
    fn a_server_listens_where_people_say() {
        let host = |text: &str| {
            let words = ["catena-bench", "serve", "--host", text];
            Cli::try_parse_from(words).map(|cli| match cli.verb {
                Verb::Serve(args) => args.host.to_string(),
                other => panic!("{other:?} is not serve"),
            })
        };
        for (text, address) in [("[::1]", "::1"), ("::1", "::1"), ("0.0.0.0", "0.0.0.0")] {
            assert_eq!(host(text).expect(text), address);
        }
        let wrong = host("[nonsense").expect_err("no host");
        assert!(wrong.to_string().contains("like 127.0.0.1"), "{wrong}");
        let words = ["catena-bench", "serve", "--max-connections", "4000000000"];
        let wrong = Cli::try_parse_from(words).expect_err("too many");
        assert!(wrong.to_string().contains("16,777,216 at most"), "{wrong}");
        assert_eq!(wrong.exit_code(), 2);
    }

    #[test]
    fn wrong_usage_is_code_2_and_says_what_is_right() {
        for (line, hint) in [
            ("127.0.0.1:7", "catena://HOST:PORT"),
            ("redis://127.0.0.1:7", "catena://HOST:PORT"),
            ("catena://127.0.0.1:7 -R none", "like 1500"),
            ("catena://127.0.0.1:7 -c 0", "positive"),
            ("catena://127.0.0.1:7 --arrival const", "--rate"),
            ("catena://127.0.0.1:7 --method spin", "spin:100"),
            ("catena://127.0.0.1:7 --poll maybe", "adaptive"),
            ("catena://127.0.0.1:99999", "\"99999\" is no port; ports are 1 to 65535"),
            ("catena://127.0.0.1:0", "no port"),
            ("catena://127.0.0.1:", "no port after the colon"),
            ("catena://127.0.0.1:7/db", "\"/db\" after the port means nothing"),
            ("catena:///db", "means nothing"),
            ("catena://:7", "no host"),
            ("catena://::1", "brackets: [::1]"),
            ("catena://[::1", "not closed"),
            ("catena://[::1]7", "no port"),
            ("catena://127.0.0.1:7 --timeout 0", "waits for no answer"),
            ("catena://127.0.0.1:7 -d 0", "measures nothing"),
            ("catena://127.0.0.1:7 -n 4000000000", "65,536 at most"),
        ] {
            let error = run_args(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(hint), "{line}: {error}");
        }
    }
}
