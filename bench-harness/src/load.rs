//! One run: workers on their cores, a common timeline, and what all of them have seen.

use crate::host::{self, AnyDriver, Spent};
use crate::interrupt::Interrupt;
use crate::lanes::{Demand, Lanes, Peer};
use crate::protocol::catena::Catena;
use crate::protocol::echo::Echo;
use crate::protocol::{Ending, EndingKind, Outcome, Protocol, catena, echo};
use crate::recording::{Recording, Window};
use crate::schedule::{Arrival, Pacer, Schedule, Share, WAITING_MAX};
use crate::worker::{Timeline, Worked, Worker, WorkerError};
use catena_engine::driver::Driver;
use catena_engine::reactor::turn::PollMode;
use catena_engine::rng::Rng;
use catena_engine::server::DriverChoice;
use catena_engine::time::{Duration, Instant};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// How long the connections may take to open.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long requests in flight at the end are waited for, if their timeout is not shorter.
const FINISH_PATIENCE: Duration = Duration::from_secs(2);
/// From the moment at which all connections are open to the first request.
const BEGIN_AFTER: Duration = Duration::from_millis(2);
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
/// Descriptors for everything but the generator's own sockets.
const DESCRIPTORS_RESERVED: u64 = 128;

/// What to talk to, and in which language.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Catena server.
    Catena(Arc<catena::Request>),
    /// A bare echo server.
    Echo(Arc<echo::Request>),
}

impl Target {
    /// The name of a status number, for reports.
    pub fn status_name(&self, code: u16) -> String {
        match self {
            Target::Catena(_) => Catena::status_name(code),
            Target::Echo(_) => Echo::status_name(code),
        }
    }

    /// The name of an error, for reports.
    pub fn outcome_name(&self, outcome: Outcome) -> String {
        match outcome {
            Outcome::Ok => "ok".to_owned(),
            Outcome::NotExecuted(code) | Outcome::MayHaveExecuted(code) => self.status_name(code),
            Outcome::TimedOut => "timed out".to_owned(),
            Outcome::ConnectionLost => "connection lost".to_owned(),
        }
    }
}

/// What makes requests start.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// Each that ends is followed by the next.
    Closed,
    /// The clock, whatever the server does.
    Open {
        /// Requests a second.
        rate: f64,
        /// How they are spread.
        arrival: Arrival,
    },
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub address: SocketAddr,
    /// In which language, and what.
    pub target: Target,
    /// Connections of all workers.
    pub connections: u32,
    /// Requests in flight on each, at most.
    pub depth: u32,
    /// What makes requests start.
    pub pace: Pace,
    /// Not counted.
    pub warmup: Duration,
    /// Counted.
    pub duration: Duration,
    /// How long a request is waited for.
    pub timeout: Duration,
    /// Of the schedule.
    pub seed: u64,
    /// Of the workers.
    pub driver: DriverChoice,
    /// Of the workers.
    pub poll: PollMode,
    /// The core of each worker; `None`: wherever the kernel puts it.
    pub cores: Vec<Option<usize>>,
    /// The process whose CPU time is to be taken, if it runs on this machine.
    pub server_pid: Option<u32>,
    /// Ends the run before its time.
    pub interrupt: Interrupt,
}

impl Plan {
    /// Requests in flight on each connection, at most: what was asked for, as far as the server's
    /// window allows it.
    pub fn depth_within(&self, window: u32) -> u32 {
        self.depth.min(window)
    }
}

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of all workers together.
    pub recording: Recording,
    /// Of each worker.
    pub workers: Vec<WorkerReport>,
    /// Of the server's process.
    pub server: Option<ServerSpent>,
    /// Of whom they talked to.
    pub peer: Peer,
    /// If the run was interrupted: how much of the window had passed.
    pub interrupted_after: Option<Duration>,
}

/// One worker of a run.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// Where it ran.
    pub core: Option<usize>,
    /// On what.
    pub driver: &'static str,
    /// Share of the window that it spent on its CPU.
    pub cpu_share: f64,
    /// The same without the time in which it only looked whether something had come.
    pub busy_share: f64,
    /// Share of the window in which it was ready to run and another process had its CPU.
    pub waited_share: f64,
}

/// What the server's process spent while so many requests were answered.
#[derive(Clone, Copy, Debug)]
pub struct ServerSpent {
    /// By all its threads.
    pub spent: Spent,
    /// Requests answered with "ok" in the same span.
    pub answered: u64,
}

impl ServerSpent {
    /// Microseconds a request.
    pub fn cpu_us_per_request(&self) -> f64 {
        self.spent.cpu.as_secs_f64() * 1e6 / self.answered.max(1) as f64
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Since the first request.
    pub elapsed: Duration,
    /// Warm-up and window together.
    pub total: Duration,
    /// Requests answered so far.
    pub answered: u64,
}

/// Makes the run. `on_tick` hears every now and then how far it is.
///
/// # Errors
/// Why there was no run.
pub fn run(plan: &Plan, on_tick: &mut dyn FnMut(Tick)) -> Result<Measured, LoadError> {
    let crew = Crew::start(plan)?;
    let begin = host::now() + BEGIN_AFTER;
    let from = begin + plan.warmup;
    let until = from + plan.duration;
    let give_up = until + plan.timeout.min(FINISH_PATIENCE);
    let timeline = Timeline { begin, window: Window { from, until }, give_up };
    crew.go(timeline);

    let total = until.since(begin);
    let mut wait = |wake_at: Instant| {
        loop {
            let now = host::now();
            if now >= wake_at || crew.is_over() || plan.interrupt.is_set() {
                return;
            }
            std::thread::sleep(wake_at.since(now).min(TICK));
            let elapsed = host::now().since(begin).min(total);
            on_tick(Tick { elapsed, total, answered: crew.answered() });
        }
    };
    let spent = || plan.server_pid.map(|pid| (Spent::of_process(pid), crew.answered()));
    wait(from);
    let before = spent();
    wait(until);
    let after = spent();
    let server = match (before, after) {
        (Some((Ok(before), answered_before)), Some((Ok(after), answered_after))) => {
            let answered = answered_after - answered_before;
            Some(ServerSpent { spent: after.since(before), answered })
        }
        _ => None,
    };
    crew.finish(plan, server)
}

/// The workers of a run, with their connections open.
struct Crew {
    seats: Vec<Seat>,
}

/// What the starter keeps of one worker.
struct Seat {
    core: Option<usize>,
    driver: &'static str,
    answered: Arc<AtomicU64>,
    go: Sender<Timeline>,
    thread: JoinHandle<Result<Worked, WorkerError>>,
}

/// What one worker's thread needs.
struct Shift {
    plan: Plan,
    worker: u32,
    connections: u32,
    rng: Rng,
    answered: Arc<AtomicU64>,
    ready: Sender<Result<&'static str, LoadError>>,
    go: Receiver<Timeline>,
}

impl Crew {
    fn start(plan: &Plan) -> Result<Crew, LoadError> {
        check_descriptors(plan.connections.into())?;
        let workers = plan.cores.len() as u32;
        let mut rng = Rng::from_seed(plan.seed);
        let mut starting = Vec::new();
        for (worker, core) in (0..).zip(&plan.cores) {
            let connections =
                plan.connections / workers + u32::from(worker < plan.connections % workers);
            let (ready, readiness) = channel();
            let (go, going) = channel();
            let answered = Arc::new(AtomicU64::new(0));
            let shift = Shift {
                plan: plan.clone(),
                worker,
                connections,
                rng: rng.fork(),
                answered: answered.clone(),
                ready,
                go: going,
            };
            let thread = std::thread::Builder::new()
                .name(format!("load-{worker}"))
                .spawn(move || shift.work())
                .map_err(LoadError::Thread)?;
            starting.push((Seat { core: *core, driver: "", answered, go, thread }, readiness));
        }
        // An error drops the senders of "go", which ends the workers that are ready.
        let mut seats = Vec::new();
        for (mut seat, readiness) in starting {
            seat.driver = readiness.recv().map_err(|_| LoadError::WorkerEnded)??;
            seats.push(seat);
        }
        Ok(Crew { seats })
    }

    fn go(&self, timeline: Timeline) {
        for seat in &self.seats {
            // A worker that is gone is found when it is joined.
            let _gone = seat.go.send(timeline);
        }
    }

    fn answered(&self) -> u64 {
        self.seats.iter().map(|seat| seat.answered.load(Ordering::Relaxed)).sum()
    }

    fn is_over(&self) -> bool {
        self.seats.iter().any(|seat| seat.thread.is_finished())
    }

    fn finish(self, plan: &Plan, server: Option<ServerSpent>) -> Result<Measured, LoadError> {
        let mut together: Option<(Recording, Peer)> = None;
        let mut workers = Vec::new();
        for seat in self.seats {
            let ended = seat.thread.join().map_err(|_| LoadError::WorkerEnded)?;
            let worked = ended.map_err(|error| LoadError::worker(plan, error))?;
            let length = worked.recording.window().length().as_secs_f64();
            // Of nothing measured there is no share.
            let share = |time: Duration| {
                if length > 0.0 { time.as_secs_f64() / length } else { 0.0 }
            };
            workers.push(WorkerReport {
                core: seat.core,
                driver: seat.driver,
                cpu_share: share(worked.spent.cpu),
                busy_share: share(worked.busy()),
                waited_share: share(worked.spent.waited),
            });
            match &mut together {
                None => together = Some((worked.recording, worked.peer)),
                Some((recording, peer)) => {
                    recording.add(&worked.recording);
                    peer.add(worked.peer);
                }
            }
        }
        let (recording, peer) = together.ok_or(LoadError::WorkerEnded)?;
        // A wish that came when all was measured changed nothing.
        let length = recording.window().length();
        let interrupted_after = (length < plan.duration).then_some(length);
        Ok(Measured { recording, workers, server, peer, interrupted_after })
    }
}

impl Shift {
    fn work(self) -> Result<Worked, WorkerError> {
        let core = self.plan.cores[self.worker as usize];
        if let Some(Err(error)) = core.map(host::pin) {
            let core = core.unwrap_or_default();
            return self.refuse(LoadError::Pin { core, error });
        }
        host::wake_on_time();
        let driver = match AnyDriver::open(self.plan.driver, self.connections + 16) {
            Ok(driver) => driver,
            Err(reason) => return self.refuse(LoadError::Driver(reason)),
        };
        let name = driver.name();
        match driver {
            AnyDriver::Uring(driver) => self.work_on(*driver, name),
            AnyDriver::Epoll(driver) => self.work_on(*driver, name),
        }
    }

    fn work_on(self, driver: impl Driver, name: &'static str) -> Result<Worked, WorkerError> {
        match self.plan.target.clone() {
            Target::Catena(request) => self.work_for::<Catena>(driver, name, request),
            Target::Echo(request) => self.work_for::<Echo>(driver, name, request),
        }
    }

    fn work_for<P: Protocol>(
        self,
        driver: impl Driver,
        name: &'static str,
        request: Arc<P::Request>,
    ) -> Result<Worked, WorkerError> {
        let Plan { address, depth, poll, .. } = self.plan;
        // Nothing is in flight before the run begins: this recording stays empty.
        let now = driver.now();
        let before = Recording::new(Window { from: now, until: now });
        let lanes = Lanes::<P>::new(self.connections, depth, request, before);
        let interrupt = self.plan.interrupt.clone();
        let mut worker = Worker::new(driver, lanes, address, poll, interrupt);
        if let Err(error) = worker.connect(CONNECT_PATIENCE) {
            let error = LoadError::worker(&self.plan, error);
            return self.refuse(error);
        }
        // The starter may have given up already because of another worker.
        let _gone = self.ready.send(Ok(name));
        let timeline = self.go.recv().map_err(|_| WorkerError::Cancelled)?;
        let demand = self.demand(timeline);
        worker.run(timeline, demand, &self.answered)
    }

    fn demand(self: &Shift, timeline: Timeline) -> Demand {
        match self.plan.pace {
            Pace::Closed => Demand::Closed,
            Pace::Open { rate, arrival } => {
                let workers = self.plan.cores.len() as u32;
                let share = Share { rate, worker: self.worker, workers };
                let (from, until) = (timeline.begin, timeline.window.until);
                let schedule = Schedule::new(arrival, share, self.rng.clone(), from, until);
                Demand::Open(Pacer::new(schedule, WAITING_MAX))
            }
        }
    }

    fn refuse(self, error: LoadError) -> Result<Worked, WorkerError> {
        let _gone = self.ready.send(Err(error));
        Err(WorkerError::Cancelled)
    }
}

/// Whether this process may open so many files and sockets, with some to spare.
///
/// # Errors
/// If it may not.
pub fn check_descriptors(sockets: u64) -> Result<(), LoadError> {
    let wanted = sockets + DESCRIPTORS_RESERVED;
    let limit = host::open_files_max();
    if wanted <= limit { Ok(()) } else { Err(LoadError::Descriptors { wanted, limit }) }
}

/// Why there was no run.
#[derive(Debug)]
pub enum LoadError {
    /// No connection, and why.
    Connect {
        /// To where.
        address: SocketAddr,
        /// As the kernel says it.
        error: io::Error,
    },
    /// A connection was made and ended before requests could start.
    Greeting {
        /// To where.
        address: SocketAddr,
        /// How it ended.
        ending: Ending,
        /// Connections that were open by then.
        open: u32,
    },
    /// The server's hello tells a window of 0.
    NoWindow {
        /// Which server's.
        address: SocketAddr,
    },
    /// Somebody wanted the run to end before it began.
    Interrupted,
    /// Not all connections were open in time.
    Slow {
        /// To where.
        address: SocketAddr,
        /// How many were.
        open: u32,
        /// Of how many.
        wanted: u32,
    },
    /// The requests can never be sent.
    Impossible(String),
    /// The driver cannot be had, or broke.
    Driver(String),
    /// More files than this process may open.
    Descriptors {
        /// So many would be needed.
        wanted: u64,
        /// So many there are.
        limit: u64,
    },
    /// A worker could not be bound to its core.
    Pin {
        /// Which.
        core: usize,
        /// As the kernel says it.
        error: io::Error,
    },
    /// A thread could not be started.
    Thread(io::Error),
    /// A worker ended before its time.
    WorkerEnded,
}

impl LoadError {
    /// A worker's reason, with where it went.
    pub fn worker(plan: &Plan, error: WorkerError) -> Self {
        let address = plan.address;
        match error {
            WorkerError::Connect(error) => LoadError::Connect { address, error },
            WorkerError::Greeting { ending, open } => LoadError::Greeting { address, ending, open },
            WorkerError::NoWindow => LoadError::NoWindow { address },
            WorkerError::Interrupted => LoadError::Interrupted,
            WorkerError::Slow { open, wanted } => LoadError::Slow { address, open, wanted },
            WorkerError::Impossible(reason) => LoadError::Impossible(reason),
            WorkerError::Driver(error) => LoadError::Driver(error.to_string()),
            WorkerError::Cancelled => LoadError::WorkerEnded,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Connect { address, error } => match error.kind() {
                io::ErrorKind::ConnectionRefused => write!(
                    f,
                    "nothing listens on {address}; start a server there, for example with \
                     `catena-bench serve {}--port {}`",
                    host_option(address.ip()),
                    address.port()
                ),
                _ => write!(f, "cannot connect to {address}: {error}"),
            },
            LoadError::Greeting { address, ending, open } => {
                write!(f, "{address} took the connection and ended it: {}", ending.reason)?;
                match ending.kind {
                    EndingKind::Told => {}
                    EndingKind::Silent => f.write_str(
                        ". Either it has no room for more connections (see its --max-connections \
                         and ulimit -n), or it is no Catena server of this version",
                    )?,
                    EndingKind::Wrong => {
                        f.write_str("; is it a Catena server, and of this version?")?;
                    }
                }
                match open {
                    0 => Ok(()),
                    open => write!(f, " (connections open by then: {open})"),
                }
            }
            LoadError::NoWindow { address } => write!(
                f,
                "{address} takes no requests: the window in its hello, requests in flight on a \
                 connection, is 0"
            ),
            LoadError::Interrupted => f.write_str("interrupted before the first request"),
            LoadError::Slow { address, open, wanted } => write!(
                f,
                "only {open} of {wanted} connections to {address} were open after {} s; is the \
                 server overloaded, or out of file descriptors?",
                CONNECT_PATIENCE.as_secs()
            ),
            LoadError::Impossible(reason) => write!(f, "the request cannot be sent: {reason}"),
            LoadError::Driver(reason) => write!(f, "the load generator's driver: {reason}"),
            LoadError::Descriptors { wanted, limit } => write!(
                f,
                "{wanted} files and sockets would be open, and this process may open {limit}; ask \
                 for fewer connections or raise the limit (ulimit -n)"
            ),
            LoadError::Pin { core, error } => {
                write!(
                    f,
                    "cannot run on core {core}: {error}; see taskset for those that it may use"
                )
            }
            LoadError::Thread(error) => write!(f, "cannot start a thread: {error}"),
            LoadError::WorkerEnded => f.write_str("a worker of the load generator ended early"),
        }
    }
}

/// What `serve` must be told to listen on `address`.
fn host_option(address: IpAddr) -> String {
    match address {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => String::new(),
        other => format!("--host {other} "),
    }
}

impl std::error::Error for LoadError {}
