//! Starting and ending: shards on their threads, pinned to their cores, with listeners and a driver.

use crate::application::Addresses;
use crate::config::{ConfigError, ConnectionConfig};
use crate::dispatch::Router;
use crate::handle::Handle;
use crate::local::Local;
use crate::metrics::{MetricsSnapshot, ShardMetrics};
use crate::reactor::descriptors;
use crate::reactor::start::{self, ShardPlan, Started, Supervision};
use crate::reactor::turn::PollMode;
use crate::rpc::admission::AdmissionConfig;
use crate::shard::message::{Control, Inbox};
use crate::time::Duration;
use crate::watch::{ShardFailure, Watch};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Which driver the shards run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DriverChoice {
    /// io_uring, or epoll where io_uring is refused; says so.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

impl FromStr for DriverChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(DriverChoice::Auto),
            "uring" => Ok(DriverChoice::Uring),
            "epoll" => Ok(DriverChoice::Epoll),
            other => Err(format!("{other:?} is no driver; say auto, uring or epoll")),
        }
    }
}

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverChoice::Auto => "auto",
            DriverChoice::Uring => "uring",
            DriverChoice::Epoll => "epoll",
        })
    }
}

/// On which cores the shards run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cores {
    /// One shard on each core that this process may use.
    #[default]
    All,
    /// One shard on each of these cores.
    List(Vec<usize>),
    /// So many shards on the first cores that this process may use.
    Count(u16),
    /// So many shards, pinned to no core: for tests and small tools, not for latency.
    Unpinned(u16),
}

impl Cores {
    /// How many shards a server on these cores has: for what is made for all of them before they are.
    ///
    /// The cores that this process may use are those of its affinity mask. A quota of CPU time
    /// (cgroup `cpu.max`) does not lower their number, as it does that of
    /// [`std::thread::available_parallelism`].
    ///
    /// # Errors
    /// Those that a server would fail to start with for the sake of its cores.
    pub fn shard_count(&self) -> Result<u16, StartError> {
        let cores = start::cores_of_shards(self)?;
        Ok(u16::try_from(cores.len()).expect("SHARDS_MAX is far below"))
    }
}

impl FromStr for Cores {
    type Err = String;

    /// `all`, or a list as `taskset` takes it: `0`, `0,2`, `0-3,8`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Cores::All);
        }
        let number = |part: &str| {
            let wrong = |_| format!("{part:?} is no core number; say all, or a list like 0,2-3");
            part.trim().parse::<usize>().map_err(wrong)
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => cores.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last || last - first > 4_096 {
                        return Err(format!("{part:?} is no range of cores"));
                    }
                    cores.extend(first..=last);
                }
            }
        }
        Ok(Cores::List(cores))
    }
}

/// An engine being put together. See [`Server::builder`].
pub struct ServerBuilder {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) shard_ports: bool,
    pub(crate) streams: Option<StreamListen>,
    pub(crate) cores: Cores,
    pub(crate) driver: DriverChoice,
    pub(crate) poll: PollMode,
    pub(crate) gather: Duration,
    pub(crate) connection: ConnectionConfig,
    pub(crate) admission: AdmissionConfig,
    /// `None`: nobody has said it.
    pub(crate) connections_max: Option<u32>,
    pub(crate) seed: Option<u64>,
    pub(crate) service: Arc<dyn Fn(&Local) -> Router + Send + Sync>,
}

/// Where streams are listened for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamListen {
    pub(crate) address: SocketAddr,
    /// The port of the first shard's own, the others' behind it; `None`: the system picks them.
    pub(crate) ports_from: Option<u16>,
}

/// A running engine. Dropping it stops the shards at once; [`Server::drain`] ends in order.
///
/// When a shard fails (it panics outside of a handler, or its driver breaks), the engine drains by
/// itself and ends, for the reasons that [`crate::watch`] gives. Whoever waits is told: by
/// [`Server::join`] and [`Server::drain`] when all has ended, by a [`Watch`] at once.
#[derive(Debug)]
pub struct Server {
    /// Where requests arrive, and streams.
    requests: Addresses,
    streams: Addresses,
    description: Vec<String>,
    notes: Vec<String>,
    metrics: Vec<Arc<ShardMetrics>>,
    handle: Handle,
    watch: Watch,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// A server with the defaults: every core, io_uring or else epoll, adaptive polling.
    ///
    /// ```no_run
    /// use catena_engine::{Router, Server};
    ///
    /// let server = Server::builder()
    ///     .listen("127.0.0.1:7400".parse()?)
    ///     .service(|_shard| Router::new().method("echo", |request, reply| reply.ok(request.payload())))
    ///     .start()?;
    /// server.join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            listen: None,
            shard_ports: true,
            streams: None,
            cores: Cores::default(),
            driver: DriverChoice::default(),
            poll: PollMode::default(),
            gather: Duration::ZERO,
            connection: ConnectionConfig::default(),
            admission: AdmissionConfig::default(),
            connections_max: None,
            seed: None,
            service: Arc::new(|_| Router::new()),
        }
    }

    /// The address that all shards share; `None` if it listens on none.
    pub fn address(&self) -> Option<SocketAddr> {
        self.requests.shared
    }

    /// The address of each shard, for clients that choose; empty if there are none.
    pub fn shard_addresses(&self) -> &[SocketAddr] {
        &self.requests.shards
    }

    /// Where streams arrive, for an application.
    pub fn stream_addresses(&self) -> &Addresses {
        &self.streams
    }

    /// Connections that each of so many shards can have if so many are asked for (`None`: the default), as
    /// the limit on file descriptors is now.
    ///
    /// # Errors
    /// If it leaves too little to serve anybody.
    pub fn connections_of_each(asked: Option<u32>, shards: u16) -> Result<u32, StartError> {
        Ok(descriptors::share(asked, shards)?.0.connections)
    }

    /// One line for each shard: core, driver, kernel features in use.
    pub fn description(&self) -> &[String] {
        &self.description
    }

    /// What the starter should know: a driver that was stepped down from, a limit that was lowered.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What all shards counted until now. Gauges and the drivers' counts may be some turns old.
    pub fn metrics(&self) -> MetricsSnapshot {
        MetricsSnapshot::of(&self.metrics)
    }

    /// What each shard counts: what [`Server::metrics`] adds up, for whoever reads it while the server
    /// drains, or outlives it.
    pub fn shard_metrics(&self) -> Vec<Arc<ShardMetrics>> {
        self.metrics.clone()
    }

    /// A handle for any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// True until the first shard has ended, in order or not.
    pub fn is_running(&self) -> bool {
        self.watch.is_running()
    }

    /// Tells any thread when a shard fails, at once, while this server is in other hands.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Takes nothing new, finishes what runs (at most for the connections' drain timeout), ends.
    ///
    /// # Errors
    /// The first shard that ended before its time.
    pub fn drain(mut self) -> Result<(), ShardFailure> {
        self.handle.control_all(|| Control::Drain);
        self.wait()
    }

    /// Ends at once; connections are dropped.
    ///
    /// # Errors
    /// The first shard that ended before its time.
    pub fn stop(mut self) -> Result<(), ShardFailure> {
        self.handle.control_all(|| Control::Stop);
        self.wait()
    }

    /// Waits until the shards have ended by themselves.
    ///
    /// # Errors
    /// The first shard that ended before its time.
    pub fn join(mut self) -> Result<(), ShardFailure> {
        self.wait()
    }

    fn wait(&mut self) -> Result<(), ShardFailure> {
        for thread in self.threads.drain(..) {
            thread.join().expect("a shard's thread contains its shard's panic");
        }
        self.watch.failure().map_or(Ok(()), Err)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.handle.control_all(|| Control::Stop);
        // A failure was logged when it happened.
        drop(self.wait());
    }
}

impl ServerBuilder {
    /// Listens on `address`; port 0 lets the system pick one. Without this nothing is served, and
    /// the shards are there for clients.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Whether each shard also listens on a port of its own, told to clients in the hello, so that
    /// they can talk to the core that owns what they ask for. Default: yes.
    pub fn shard_ports(mut self, shard_ports: bool) -> Self {
        self.shard_ports = shard_ports;
        self
    }

    /// Listens for streams too, which the [`Application`](crate::Application) of each shard serves: on
    /// `address`, which all shards share, and on a port of each shard's own. Those begin at `ports_from`,
    /// or are picked by the system.
    pub fn listen_streams(mut self, address: SocketAddr, ports_from: Option<u16>) -> Self {
        self.streams = Some(StreamListen { address, ports_from });
        self
    }

    /// On which cores. Default: all that this process may use.
    pub fn cores(mut self, cores: Cores) -> Self {
        self.cores = cores;
        self
    }

    /// Which driver. Default: io_uring, or else epoll.
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.driver = driver;
        self
    }

    /// What a shard does when there is nothing to do. Default: adaptive.
    pub fn poll(mut self, poll: PollMode) -> Self {
        self.poll = poll;
        self
    }

    /// How long a shard that sleeps goes on sleeping after something has come, for more to come with it,
    /// as network cards coalesce their interrupts: less CPU time a request, at most so much more
    /// latency. A shard that has slept for longer wakes at once, so that a request that comes alone hardly
    /// ever waits. Up to [`GATHER_MAX`](crate::limits::GATHER_MAX), on io_uring since Linux 6.12;
    /// elsewhere without effect, which [`Server::notes`] says. Default: zero.
    pub fn gather(mut self, gather: Duration) -> Self {
        self.gather = gather;
        self
    }

    /// How connections behave.
    pub fn connection(mut self, connection: ConnectionConfig) -> Self {
        self.connection = connection;
        self
    }

    /// The limits of each shard.
    pub fn admission(mut self, admission: AdmissionConfig) -> Self {
        self.admission = admission;
        self
    }

    /// Connections of each shard, those that its clients make included. Default 65,536, or what the file
    /// descriptor limit allows: [`Server::notes`] says that it is less if this many were asked for, or if
    /// it is not even a thousand. Whoever connects beyond them is told to go away (OVERLOADED), a few at
    /// a time; the others wait in the kernel's backlog.
    pub fn connections_max(mut self, connections_max: u32) -> Self {
        self.connections_max = Some(connections_max);
        self
    }

    /// Seed of the shards' generators (back-off jitter, shedding). Default: from the clock.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// What is served: called once on each shard, to make that shard's own handlers.
    pub fn service(mut self, service: impl Fn(&Local) -> Router + Send + Sync + 'static) -> Self {
        self.service = Arc::new(service);
        self
    }

    /// Starts the shards and returns once all of them serve.
    ///
    /// An address that is taken is tried again for up to 250 ms
    /// ([`ADDRESS_PATIENCE`](crate::limits::ADDRESS_PATIENCE)): a server that was killed a moment ago
    /// still holds it until the kernel has taken its rings down.
    ///
    /// # Errors
    /// [`StartError`]: nothing is running then.
    pub fn start(self) -> Result<Server, StartError> {
        self.connection.validate().map_err(StartError::Config)?;
        let plans = ShardPlan::all(&self)?;
        let inboxes: Arc<[Arc<Inbox>]> = plans.iter().map(|plan| plan.inbox.clone()).collect();
        let handle = Handle::new(inboxes);
        let watch = Watch::new(handle.shard_count());
        let supervision = Supervision { handle: handle.clone(), watch: watch.clone() };
        let started = start::start(self, plans, &supervision)?;
        let Started { requests, streams, description, notes, metrics, threads } = started;
        Ok(Server { requests, streams, description, notes, metrics, handle, watch, threads })
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("listen", &self.listen)
            .field("cores", &self.cores)
            .field("driver", &self.driver)
            .field("poll", &self.poll)
            .finish_non_exhaustive()
    }
}

/// Why an engine did not start. Nothing is running after one of these.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A value of the configuration is out of bounds.
    Config(ConfigError),
    /// No core was asked for.
    NoCores,
    /// A core was asked for twice.
    CoreTwice(usize),
    /// A core was asked for that this process may not use.
    CoreNotAvailable {
        /// Which.
        core: usize,
        /// Those that it may use.
        available: Vec<usize>,
    },
    /// More shards were asked for than there are cores to pin them to.
    TooManyShards {
        /// Asked for.
        asked: u16,
        /// Cores that this process may use.
        available: usize,
    },
    /// The address cannot be listened on.
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why, as the kernel says it.
        error: io::Error,
    },
    /// The driver that was asked for cannot be had.
    Driver {
        /// Which.
        driver: DriverChoice,
        /// Why, and what to do.
        reason: String,
    },
    /// The process may not open enough files to serve anybody.
    TooFewDescriptors {
        /// Files that it may open.
        limit: u64,
        /// Files that it takes at least.
        needed: u64,
        /// Shards that share them.
        shards: u16,
    },
    /// Streams were to be listened for, and there is no application that serves them.
    NoApplication,
    /// A thread could not be started or pinned.
    Thread(io::Error),
    /// A shard ended while it was starting.
    ShardEnded,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(error) => error.fmt(f),
            StartError::NoCores => f.write_str("no core to run on; name at least one"),
            StartError::CoreTwice(core) => write!(f, "core {core} is named twice"),
            StartError::CoreNotAvailable { core, available } => write!(
                f,
                "core {core} cannot be used by this process; it may use {available:?} (see taskset)"
            ),
            StartError::TooManyShards { asked, available } => write!(
                f,
                "{asked} shards on {available} cores; ask for {available} at most: each has a core of its own"
            ),
            StartError::Listen { address, error } => match error.kind() {
                io::ErrorKind::AddrInUse => write!(
                    f,
                    "cannot listen on {address}: another process has that port, or one that was \
                     killed has not let go of it yet; stop it or choose another port"
                ),
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "cannot listen on {address}: not permitted; ports below 1024 need \
                     CAP_NET_BIND_SERVICE"
                ),
                io::ErrorKind::AddrNotAvailable => {
                    write!(f, "cannot listen on {address}: this machine has no such address")
                }
                _ => {
                    write!(f, "cannot listen on {address}: {error}{}", descriptors::advice(error))
                }
            },
            StartError::Driver { driver, reason } => write!(f, "driver {driver}: {reason}"),
            StartError::TooFewDescriptors { limit, needed, shards } => write!(
                f,
                "this process may open {limit} files, and {needed} are needed at least, {shards} \
                 shards being served by them; raise the limit (ulimit -n, LimitNOFILE=)"
            ),
            StartError::NoApplication => {
                f.write_str("streams are to be listened for, and no application serves them")
            }
            StartError::Thread(error) => write!(f, "cannot start or pin a thread: {error}"),
            StartError::ShardEnded => f.write_str("a shard ended while it was starting"),
        }
    }
}

impl std::error::Error for StartError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_read_like_those_of_taskset() {
        assert_eq!("all".parse(), Ok(Cores::All));
        assert_eq!("0,2-4".parse(), Ok(Cores::List(vec![0, 2, 3, 4])));
        for wrong in ["", "x", "3-1", "1-", "0-99999"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong:?}");
        }
    }
    #[test]
    fn there_are_as_many_shards_as_was_said_before_the_start() {
        let count_of = |cores: &Cores| cores.shard_count().map_err(|error| error.to_string());
        let core = start::cores_of_shards(&Cores::Count(1)).expect("there is a core")[0];
        let core = core.expect("it is pinned");
        for cores in [
            Cores::All,
            Cores::List(vec![core]),
            Cores::Count(1),
            Cores::Unpinned(3),
            Cores::List(Vec::new()),
            Cores::List(vec![core, core]),
            Cores::Count(4_000),
            Cores::Unpinned(u16::MAX),
        ] {
            let server = Server::builder().cores(cores.clone()).driver(DriverChoice::Epoll).start();
            let started = server.map(|server| server.handle().shard_count());
            let started = started.map_err(|error| error.to_string());
            assert_eq!(count_of(&cores), started, "{cores:?}");
        }
        let affinity = rustix::thread::sched_getaffinity(None).expect("it can be read");
        assert_eq!(count_of(&Cores::All), Ok(affinity.count() as u16), "whatever a quota says");
    }
}
