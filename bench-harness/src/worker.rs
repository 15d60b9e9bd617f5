//! One thread of the generator: its lanes on a driver, one turn after the other.
//!
//! The same seam as the engine's shards run on, driven directly: no futures, no handlers, nothing
//! allocated once the lanes are warm. What a request costs here is what it costs the kernel, the
//! protocol, and a record in two histograms.

use crate::host::Spent;
use crate::interrupt::Interrupt;
use crate::lanes::{Demand, Lanes, Peer};
use crate::protocol::{Ending, Protocol};
use crate::recording::{Recording, Window};
use catena_engine::driver::{Completion, Driver, SendState, SocketId};
use catena_engine::reactor::turn::PollMode;
use catena_engine::time::{Duration, Instant, earliest};
use catena_engine::timers::{TimerId, Timers};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Connections that one worker opens at a time: well below any backlog.
const CONNECTING_MAX: u32 = 128;

/// The pause before a lost connection is made again.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// Completions that one turn handles before it sends what it has, as the engine's.
const TURN_COMPLETIONS_MAX: u32 = 256;

/// The longest sleep: how late the word to stop is heard.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// Adaptive polling spins so long before it sleeps, and wakes so long before a request's turn.
const SPIN_MAX: Duration = Duration::from_micros(50);
const WAKE_EARLY: Duration = Duration::from_micros(100);

/// The instants of a run, the same for all workers.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// Requests start; the warm-up begins.
    pub begin: Instant,
    /// What counts.
    pub window: Window,
    /// What is still in flight then is left unfinished.
    pub give_up: Instant,
}

/// What a worker has seen and spent.
#[derive(Clone, Debug)]
pub struct Worked {
    /// Of the requests.
    pub recording: Recording,
    /// By this thread within the window.
    pub spent: Spent,
    /// How long it looked, in vain, whether something had come.
    pub spun: Duration,
    /// Of whom it talked to.
    pub peer: Peer,
}

impl Worked {
    /// CPU time without the looking in vain. While it looked, another process may have had the CPU
    /// for a while: that time was not the looking's.
    pub fn busy(&self) -> Duration {
        self.spent.cpu.saturating_sub(self.spun.saturating_sub(self.spent.waited))
    }
}

/// Why a worker cannot go on.
#[derive(Debug)]
pub enum WorkerError {
    /// A connection was refused, or failed otherwise.
    Connect(io::Error),
    /// A connection was made and ended before requests could start.
    Greeting {
        /// How it ended.
        ending: Ending,
        /// Connections that were open by then.
        open: u32,
    },
    /// The server's window is 0: it takes no requests.
    NoWindow,
    /// Not all connections were open in time.
    Slow {
        /// How many were.
        open: u32,
        /// Of how many.
        wanted: u32,
    },
    /// The requests can never be sent, for this reason.
    Impossible(String),
    /// The driver broke.
    Driver(io::Error),
    /// There was no run, because of another worker.
    Cancelled,
    /// Somebody wanted it to end before it began.
    Interrupted,
}

/// One thread's share of the load.
#[derive(Debug)]
pub struct Worker<D, P: Protocol> {
    driver: D,
    lanes: Lanes<P>,
    target: SocketAddr,
    poll: PollMode,
    interrupt: Interrupt,
    links: Vec<Link>,
    /// Lane of each socket, by the socket's slot.
    by_slot: Vec<u32>,
    /// Lanes to be connected.
    wanting: Vec<u32>,
    connecting: u32,
    refused: Option<io::Error>,
    timers: Timers<u32>,
    /// Time spent looking in vain.
    spun: Duration,
}

/// The socket of a lane.
#[derive(Debug, Default)]
struct Link {
    socket: Option<SocketId>,
    /// Opening: from the connect to the first word of the protocol.
    is_connecting: bool,
    is_sending: bool,
    timer: Option<(TimerId, Instant)>,
}

impl<D: Driver, P: Protocol> Worker<D, P> {
    /// A worker whose lanes are not connected yet.
    pub fn new(
        driver: D,
        lanes: Lanes<P>,
        target: SocketAddr,
        poll: PollMode,
        interrupt: Interrupt,
    ) -> Self {
        let count = lanes.count();
        Worker {
            driver,
            target,
            poll,
            interrupt,
            links: (0..count).map(|_| Link::default()).collect(),
            by_slot: Vec::new(),
            wanting: (0..count).rev().collect(),
            connecting: 0,
            refused: None,
            timers: Timers::with_capacity(count as usize),
            spun: Duration::ZERO,
            lanes,
        }
    }

    /// Opens every lane.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub fn connect(&mut self, patience: Duration) -> Result<(), WorkerError> {
        let give_up = self.driver.now() + patience;
        loop {
            self.turn().map_err(WorkerError::Driver)?;
            if self.lanes.is_refused() {
                return Err(WorkerError::NoWindow);
            }
            if self.lanes.open() == self.lanes.count() {
                return Ok(());
            }
            if self.interrupt.is_set() {
                return Err(WorkerError::Interrupted);
            }
            if let Some(error) = self.refused.take() {
                return Err(WorkerError::Connect(error));
            }
            if let Some(ending) = self.lanes.peer().first_loss.clone() {
                return Err(WorkerError::Greeting { ending, open: self.lanes.open() });
            }
            if self.driver.now() >= give_up {
                let (open, wanted) = (self.lanes.open(), self.lanes.count());
                return Err(WorkerError::Slow { open, wanted });
            }
            self.rest(give_up).map_err(WorkerError::Driver)?;
        }
    }

    /// Keeps the connections alive until `stop` is set.
    ///
    /// # Errors
    /// If the driver breaks.
    pub fn hold(&mut self, stop: &AtomicBool) -> Result<(), WorkerError> {
        while !stop.load(Ordering::Relaxed) {
            self.turn().map_err(WorkerError::Driver)?;
            self.rest(Instant::FAR_FUTURE).map_err(WorkerError::Driver)?;
        }
        Ok(())
    }

    /// Makes load by `demand` for the length of `timeline`. `answered` is kept up to date for others
    /// to read.
    ///
    /// # Errors
    /// If the requests cannot be sent, or the driver breaks.
    pub fn run(
        &mut self,
        timeline: Timeline,
        demand: Demand,
        answered: &AtomicU64,
    ) -> Result<Worked, WorkerError> {
        let Timeline { begin, window, give_up } = timeline;
        self.go_on(begin, answered)?;
        self.lanes.begin(demand, Recording::new(window), self.driver.now());
        self.go_on(window.from, answered)?;
        let (spent, spun) = (Spent::of_this_thread(), self.spun);
        self.go_on(window.until, answered)?;
        let (spent, spun) = (Spent::of_this_thread().since(spent), self.spun - spun);
        let stopped_at = self.driver.now();
        self.lanes.stop(stopped_at);
        // As long as it would have been waited at the planned end.
        let give_up = give_up.min(stopped_at + give_up.since(window.until));
        while self.lanes.in_flight() > 0 && self.driver.now() < give_up {
            self.rest(give_up).map_err(WorkerError::Driver)?;
            self.turn().map_err(WorkerError::Driver)?;
        }
        let recording = self.lanes.give_up(self.driver.now());
        Ok(Worked { recording, spent, spun, peer: self.lanes.peer().clone() })
    }

    /// One turn after the other until `until`, or until somebody wants it to end.
    fn go_on(&mut self, until: Instant, answered: &AtomicU64) -> Result<(), WorkerError> {
        loop {
            let is_busy = self.turn().map_err(WorkerError::Driver)?;
            answered.store(self.lanes.answered(), Ordering::Relaxed);
            if let Some(reason) = self.lanes.impossible() {
                return Err(WorkerError::Impossible(reason.to_owned()));
            }
            if self.driver.now() >= until || self.interrupt.is_set() {
                return Ok(());
            }
            let rested = if is_busy { self.driver.poll().map(drop) } else { self.rest(until) };
            rested.map_err(WorkerError::Driver)?;
        }
    }
}

/// One turn.
impl<D: Driver, P: Protocol> Worker<D, P> {
    /// Everything that has happened, and everything that is due. True: there may be more at once.
    fn turn(&mut self) -> io::Result<bool> {
        self.lanes.put_off_due(self.driver.now());
        let is_busy = self.handle_completions();
        let now = self.driver.now();
        self.expire_timers(now);
        self.connect_some();
        self.lanes.start_due(now);
        self.flush(now);
        Ok(is_busy)
    }

    fn handle_completions(&mut self) -> bool {
        for _ in 0..TURN_COMPLETIONS_MAX {
            let Some(completion) = self.driver.next_completion() else { return false };
            match completion {
                Completion::Received { socket, chunk } => {
                    let now = self.driver.now();
                    if let Some(lane) = self.lane_of(socket) {
                        self.lanes.received(lane, self.driver.bytes(&chunk), now);
                    }
                    self.driver.give_back(chunk);
                    self.flush(now);
                }
                Completion::Sent { socket, output, result } => {
                    self.lanes.keep(output);
                    if let Some(lane) = self.lane_of(socket) {
                        self.links[lane as usize].is_sending = false;
                        if let Err(error) = result {
                            self.lanes.ended(lane, Err(error), self.driver.now());
                        }
                        self.lanes.mark_dirty(lane);
                    }
                }
                Completion::Connected { socket, result } => self.on_connected(socket, result),
                Completion::ReceiveEnded { socket, result } => {
                    if let Some(lane) = self.lane_of(socket) {
                        self.lanes.ended(lane, result, self.driver.now());
                        self.lanes.mark_dirty(lane);
                    }
                }
                Completion::Closed { .. }
                | Completion::Filled { .. }
                | Completion::Accepted { .. }
                | Completion::AcceptFailed { .. }
                | Completion::File { .. }
                | Completion::FileTask { .. } => {}
            }
        }
        true
    }

    fn on_connected(&mut self, socket: SocketId, result: io::Result<()>) {
        let Some(lane) = self.lane_of(socket) else { return };
        match result {
            Ok(()) => self.lanes.connected(lane, self.driver.now()),
            Err(error) => self.on_refused(lane, error),
        }
    }

    fn on_refused(&mut self, lane: u32, error: io::Error) {
        tracing::debug!(%error, lane, target = %self.target, "no connection");
        self.refused = Some(error);
        let link = &mut self.links[lane as usize];
        link.socket = None;
        self.connecting -= u32::from(std::mem::take(&mut link.is_connecting));
        self.set_timer(lane, Some(self.driver.now() + RECONNECT_AFTER));
    }

    fn connect_some(&mut self) {
        while self.connecting < CONNECTING_MAX
            && let Some(lane) = self.wanting.pop()
        {
            let link = &mut self.links[lane as usize];
            (link.is_connecting, link.is_sending) = (true, false);
            self.connecting += 1;
            match self.driver.connect(self.target) {
                Ok(socket) => {
                    link.socket = Some(socket);
                    let slot = socket.slot as usize;
                    if self.by_slot.len() <= slot {
                        self.by_slot.resize(slot + 1, u32::MAX);
                    }
                    self.by_slot[slot] = lane;
                }
                Err(error) => self.on_refused(lane, error),
            }
        }
    }

    fn expire_timers(&mut self, now: Instant) {
        while let Some(lane) = self.timers.pop_due(now) {
            let link = &mut self.links[lane as usize];
            link.timer = None;
            match link.socket {
                Some(_) => self.lanes.timeout(lane, now),
                None => self.wanting.push(lane),
            }
        }
    }

    /// Sends what is to be sent, and closes what is over.
    #[inline]
    fn flush(&mut self, now: Instant) {
        while let Some(lane) = self.lanes.next_dirty() {
            let link = &mut self.links[lane as usize];
            let Some(socket) = link.socket else { continue };
            if link.is_connecting && self.lanes.is_open(lane) {
                link.is_connecting = false;
                self.connecting -= 1;
            }
            if !link.is_sending
                && let Some(output) = self.lanes.poll_transmit(lane)
            {
                match self.driver.send(socket, output) {
                    SendState::Done(output) => self.lanes.keep(output),
                    SendState::InFlight => link.is_sending = true,
                }
            }
            if self.lanes.is_over(lane) {
                self.driver.close(socket);
                self.connecting -= u32::from(std::mem::take(&mut link.is_connecting));
                link.socket = None;
                self.set_timer(lane, Some(now + RECONNECT_AFTER));
            } else {
                let at = self.lanes.poll_timeout(lane);
                self.set_timer(lane, at);
            }
        }
    }

    fn lane_of(&self, socket: SocketId) -> Option<u32> {
        let lane = *self.by_slot.get(socket.slot as usize)?;
        (self.links.get(lane as usize)?.socket == Some(socket)).then_some(lane)
    }

    /// Sets the lane's timer no later than `at`. One that is set too early stays: one look too many
    /// costs less than moving it at every request.
    #[inline]
    fn set_timer(&mut self, lane: u32, at: Option<Instant>) {
        let link = &mut self.links[lane as usize];
        match (at, link.timer) {
            (None, _) => {}
            (Some(at), Some((_, set_for))) if set_for <= at => {}
            (Some(at), Some((timer, _))) => {
                self.timers.reschedule(timer, at);
                link.timer = Some((timer, at));
            }
            (Some(at), None) => link.timer = Some((self.timers.insert(at, lane), at)),
        }
    }
}

/// Between turns.
impl<D: Driver, P: Protocol> Worker<D, P> {
    /// Waits until something happens or is due, at the latest until `until`.
    #[inline]
    fn rest(&mut self, until: Instant) -> io::Result<()> {
        let due = earliest(self.lanes.next_due(), self.timers.next());
        let until = due.map_or(until, |due| due.min(until));
        match self.poll {
            PollMode::Always => self.spin(until).map(drop),
            PollMode::Never => self.sleep(until),
            PollMode::Adaptive => {
                let spin_until = self.driver.now() + SPIN_MAX;
                if self.spin(spin_until.min(until))? {
                    return Ok(());
                }
                if until > spin_until + WAKE_EARLY {
                    return self.sleep(until - WAKE_EARLY);
                }
                self.spin(until).map(drop)
            }
        }
    }

    /// Looks until something has come, or until `until`. True: something has come.
    fn spin(&mut self, until: Instant) -> io::Result<bool> {
        // Hands over what the turn has asked for.
        if self.driver.poll()? {
            return Ok(true);
        }
        let began_at = self.driver.now();
        loop {
            for _ in 0..8 {
                if self.driver.is_ready() {
                    self.spun += self.driver.now().since(began_at);
                    self.driver.poll()?;
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            let now = self.driver.now();
            if now >= until {
                self.spun += now.since(began_at);
                return Ok(false);
            }
        }
    }

    fn sleep(&mut self, until: Instant) -> io::Result<()> {
        let wake_at = until.min(self.driver.now() + SLEEP_MAX);
        self.driver.park(Some(wake_at))
    }
}
