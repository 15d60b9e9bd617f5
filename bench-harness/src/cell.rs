//! One row, measured once: a fresh server on one core, a load on another.

use crate::Failure;
use crate::child::Child;
use crate::cli::SeatArgs;
use crate::host;
use crate::interrupt::Interrupt;
use crate::load::{self, Measured, Pace, Plan, Target, Tick};
use crate::protocol::{catena, echo};
use crate::report::{Latency, rps};
use catena_engine::reactor::turn::PollMode;
use catena_engine::server::DriverChoice;
use catena_engine::time::Duration;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// A server to be measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Contender {
    /// The engine on io_uring.
    EngineUring,
    /// The engine on epoll.
    EngineEpoll,
    /// Echo on io_uring, nothing else.
    BareUring,
    /// Echo on epoll, nothing else.
    BareEpoll,
}

impl Contender {
    /// All of them, as they take turns.
    pub const ALL: [Contender; 4] = [
        Contender::EngineUring,
        Contender::BareUring,
        Contender::EngineEpoll,
        Contender::BareEpoll,
    ];

    /// What it runs on.
    pub fn driver(self) -> DriverChoice {
        match self {
            Contender::EngineUring | Contender::BareUring => DriverChoice::Uring,
            Contender::EngineEpoll | Contender::BareEpoll => DriverChoice::Epoll,
        }
    }

    /// True for the engine, false for a bare echo.
    pub fn is_engine(self) -> bool {
        matches!(self, Contender::EngineUring | Contender::EngineEpoll)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Contender::EngineUring => "engine-uring",
            Contender::EngineEpoll => "engine-epoll",
            Contender::BareUring => "bare-uring",
            Contender::BareEpoll => "bare-epoll",
        })
    }
}

/// Connections and requests in flight on each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shape {
    /// Connections.
    pub conns: u32,
    /// In flight on each.
    pub depth: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.conns, self.depth)
    }
}

/// Where the two processes run.
#[derive(Clone, Debug)]
pub struct Seats {
    /// The server's core.
    pub server: usize,
    /// The load generator's core.
    pub load: usize,
    /// What a reader should know about the two.
    pub note: Option<String>,
}

impl Seats {
    /// As told, or the first core for the server and for the load another one, on another physical
    /// core if there is any.
    ///
    /// # Errors
    /// If a core that was told cannot be used.
    pub fn choose(args: SeatArgs) -> Result<Seats, Failure> {
        let available = host::available_cores();
        for core in [args.server_core, args.load_core].into_iter().flatten() {
            if !available.contains(&core) {
                let message = format!("core {core} cannot be used; this process has {available:?}");
                return Err(message.into());
            }
        }
        let first = *available.first().ok_or("this process may use no core at all")?;
        let server = args.server_core.unwrap_or(first);
        let others = || available.iter().copied().filter(|core| *core != server);
        let apart = others().find(|core| !host::are_siblings(server, *core));
        let load = args.load_core.or(apart).or(others().next()).unwrap_or(server);
        let note = if server == load {
            Some(format!(
                "Server and load share core {server}: they take turns, and the figures say little."
            ))
        } else if host::are_siblings(server, load) {
            Some(format!(
                "Cores {server} and {load} are two threads of one physical core: each slows the \
                 other down."
            ))
        } else {
            None
        };
        Ok(Seats { server, load, note })
    }

    /// True if both can be busy at the same time.
    pub fn are_apart(&self) -> bool {
        self.server != self.load
    }
}

/// What all rows of a report have in common.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Where.
    pub seats: Seats,
    /// Before each measurement.
    pub warmup: Duration,
    /// Each measurement.
    pub duration: Duration,
    /// Payload of a request.
    pub payload_bytes: u32,
    /// Of the generator.
    pub driver: DriverChoice,
    /// Ends the measurements before their time.
    pub interrupt: Interrupt,
}

/// One row's figures.
#[derive(Clone, Copy, PartialEq, Serialize, Debug)]
pub struct Cell {
    /// Answers a second.
    pub rps: f64,
    /// Half of the round trips were quicker, in µs.
    pub p50_us: f64,
    /// 99 of 100 round trips were quicker, in µs.
    pub p99_us: f64,
    /// CPU time of the server's process, in µs a request.
    pub server_cpu_us_per_request: f64,
    /// Share of the time that the generator was busy.
    pub client_busy_share: f64,
    /// Share of the time in which the generator or the server was ready to run and another process had
    /// its CPU; of the two, the higher one.
    pub waited_share: f64,
    /// Requests that did not end well.
    pub errors: u64,
}

impl Cell {
    /// Of a measurement in which the server's process was watched.
    ///
    /// # Errors
    /// If the kernel did not say what the server spent, or nothing was answered.
    pub fn of(measured: &Measured) -> Result<Cell, Failure> {
        let Measured { recording, workers, server, .. } = measured;
        let server = server.ok_or(
            "the kernel does not tell the CPU time of processes (/proc/PID/task/*/schedstat); its \
             CONFIG_SCHED_INFO is missing",
        )?;
        if measured.interrupted_after.is_some() {
            return Err("interrupted".into());
        }
        let Latency { p50: Some(p50_us), p99: Some(p99_us), .. } =
            Latency::of(recording.response())
        else {
            return Err("a server answered no request".into());
        };
        let (Some(rps), 1..) = (rps(recording), recording.ok) else {
            return Err("a server answered no request".into());
        };
        Ok(Cell {
            rps,
            p50_us,
            p99_us,
            server_cpu_us_per_request: server.cpu_us_per_request(),
            waited_share: workers.iter().map(|worker| worker.waited_share).fold(
                server.spent.waited.as_secs_f64() / recording.window().length().as_secs_f64(),
                f64::max,
            ),
            client_busy_share: workers.iter().map(|worker| worker.busy_share).fold(0.0, f64::max),
            errors: recording.error_count() + recording.unfinished,
        })
    }
}

impl Bench {
    /// Starts `contender` on the server's core.
    ///
    /// # Errors
    /// In its own words.
    pub fn start(&self, contender: Contender, poll: PollMode) -> Result<Child, Failure> {
        let core = self.seats.server.to_string();
        let (driver, poll) = (contender.driver().to_string(), poll.to_string());
        let args: &[&str] = match contender.is_engine() {
            true => &[
                "serve",
                "--port",
                "0",
                "--cores",
                &core,
                "--driver",
                &driver,
                "--poll",
                &poll,
                "--until-stdin-ends",
            ],
            false => &["bare", "--core", &core, "--driver", &driver, "--poll", &poll],
        };
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Child::start(&args).map_err(|failure| format!("{contender}: {failure}").into())
    }

    /// The plan to load `contender`, which runs as `server`.
    pub fn plan(
        &self,
        contender: Contender,
        server: &Child,
        shape: Shape,
        pace: Pace,
        poll: PollMode,
    ) -> Plan {
        let timeout = Duration::from_secs(10);
        let target = match contender.is_engine() {
            true => Target::Catena(Arc::new(catena::Request {
                method: crate::method::Method::Echo.id(),
                payload: crate::method::Method::Echo.payload(self.payload_bytes),
                timeout,
                connection: Arc::default(),
            })),
            false => Target::Echo(Arc::new(echo::Request::with_payload(self.payload_bytes))),
        };
        Plan {
            address: server.address(),
            target,
            connections: shape.conns,
            depth: shape.depth,
            pace,
            warmup: self.warmup,
            duration: self.duration,
            timeout,
            seed: 1,
            driver: self.driver,
            poll,
            cores: vec![Some(self.seats.load)],
            server_pid: Some(server.pid()),
            interrupt: self.interrupt.clone(),
        }
    }

    /// One row in a closed loop, on a fresh server.
    ///
    /// # Errors
    /// Whatever went wrong, with the row's name.
    pub fn measure(
        &self,
        contender: Contender,
        polls: Polls,
        shape: Shape,
        on_tick: &mut dyn FnMut(Tick),
    ) -> Result<Cell, Failure> {
        let server = self.start(contender, polls.server)?;
        let plan = self.plan(contender, &server, shape, Pace::Closed, polls.load);
        let named =
            |failure: Failure| -> Failure { format!("{contender} at {shape}: {failure}").into() };
        let measured = load::run(&plan, on_tick).map_err(|error| named(error.into()))?;
        Cell::of(&measured).map_err(named)
    }
}

/// How both sides wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Polls {
    /// The server.
    pub server: PollMode,
    /// The generator.
    pub load: PollMode,
}

impl Polls {
    /// Both spin.
    pub const SPIN: Polls = Polls { server: PollMode::Always, load: PollMode::Always };
}
