//! All that one core owns, and one turn over it.
//!
//! A shard knows the [`Driver`] seam and not the kernel, so the simulator runs the very same code.
//! The way of a request through a turn:
//!
//! ```text
//! driver ─ Received ─► Connection::handle_bytes ─ Request ─► serve: admit, route, dispatch ─► handler
//!                                                                                               │
//! driver ◄─ one send a connection ◄─ flush ◄─ connection's output ◄──────── answer now ─────────┤
//!                                       ▲                                                       │
//!                                       └── command Answer ◄── a future, run by this shard ◄────┘ later
//! ```
//!
//! | file | what |
//! |---|---|
//! | `peers` | the connections by socket: what the driver reports of them and the shard asks of them |
//! | `peer` | one connection: its bytes, its events, its timer |
//! | `serve` | a request: admit, route, dispatch, answer |
//! | `relays` | a request that is passed on to another server, and its answer |
//! | `streams`, `hosted` | connections of other protocols, and the application that speaks them |
//! | `calls` | the client side: connect, start calls, match answers, back off |
//! | `complaints` | how many log lines there are about peers at fault |
//! | [`message`] | what comes from other shards and other threads |

#![forbid(unsafe_code)]

pub(crate) mod backlog;
mod calls;
mod complaints;
mod hosted;
pub mod message;
pub(crate) mod peer;
pub(crate) mod peers;
mod probes;
mod relays;
pub(crate) mod serve;
pub(crate) mod spare;
mod streams;

use crate::application::Addresses;
use crate::config::ConnectionConfig;
use crate::dispatch::Router;
use crate::driver::{Completion, Driver, ListenerId, Parker, SocketId};
use crate::limits::{
    SOCKETS_MAX_DEFAULT, TURN_COMPLETIONS_MAX, TURN_TIME_MAX, TURNS_BETWEEN_MEASUREMENTS,
};
use crate::local::{Command, FileOpDone, Local, TimerKey};
use crate::mailbox::Mailboxes;
use crate::metrics::ShardMetrics;
use crate::rng::Rng;
use crate::rpc::admission::{Admission, AdmissionConfig};
use crate::shard_index::ShardIndex;
use crate::time::{Duration, Instant};
use crate::wire::framer::Payload;
use crate::wire::hello::ShardMap;
use crate::wire::status::Status;
use hosted::Hosted;
use message::{Control, Inbox, ShardMessage};
use peers::Peers;
use serve::Serving;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How a shard is set up.
#[derive(Debug)]
pub struct ShardConfig {
    /// Which one it is.
    pub index: ShardIndex,
    /// How many there are.
    pub count: u16,
    /// How the connections that it serves behave.
    pub connection: Arc<ConnectionConfig>,
    /// Its limits.
    pub admission: AdmissionConfig,
    /// Connections at a time, of both roles. Whoever calls beyond them is told to go away, so the
    /// driver should have [`crate::limits::GOODBYES_MAX`] sockets more.
    pub connections_max: u32,
    /// Seed of its generator.
    pub seed: u64,
}

impl Default for ShardConfig {
    /// A shard that is alone, with the defaults of everything and seed 1.
    fn default() -> Self {
        ShardConfig {
            index: ShardIndex(0),
            count: 1,
            connection: Arc::default(),
            admission: AdmissionConfig::default(),
            connections_max: SOCKETS_MAX_DEFAULT,
            seed: 1,
        }
    }
}

/// What to do after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// There is more to do at once: look for input, do not sleep.
    pub busy: bool,
    /// Sleep no longer than this; `None`: until something happens.
    pub until: Option<Instant>,
    /// Work on files is under way.
    pub awaits_files: bool,
    /// Drained, or told to stop: this was the last turn.
    pub stopped: bool,
}

/// One core's share of the world. See the module page.
#[derive(Debug)]
pub struct Shard {
    local: Local,
    peers: Peers,
    serving: Serving,
    /// The application and its streams, if there is one.
    hosted: Option<Box<Hosted>>,
    mailboxes: Mailboxes<ShardMessage>,
    inbox: Arc<Inbox>,
    /// The beds of all shards, by index; empty until all have started.
    parkers: Vec<Arc<Parker>>,
    listeners: Vec<ListenerId>,
    drain_timeout: Duration,
    phase: Phase,
    /// Which shards hand nothing over any more, by index; this one's own word is its phase.
    are_done: Vec<bool>,
    /// When the previous turn began, if it was followed by this one without a sleep.
    previous_turn_at: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// Its connections end.
    Draining,
    /// They have ended, and the other shards know. Theirs may still have work here.
    Done,
    Stopped,
}

/// Whether a turn has taken in all completions there were.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Completions {
    Done,
    /// There are, or may be, more.
    Left,
}

impl Shard {
    /// A shard without listeners. `router` is given the shard it will run on.
    pub fn new<D: Driver>(
        config: ShardConfig,
        driver: &D,
        mailboxes: Mailboxes<ShardMessage>,
        inbox: Arc<Inbox>,
        router: impl FnOnce(&Local) -> Router,
    ) -> Shard {
        let mut rng = Rng::from_seed(config.seed);
        let local = Local::new(config.index, config.count, rng.fork(), driver.now());
        local.set_parker(driver.parker());
        inbox.set_parker(driver.parker());
        let mut router = router(&local);
        let memory_max = config.admission.connection_bytes_max;
        let hosted = router.take_application().map(|application| {
            Box::new(Hosted::new(application, memory_max, config.connection.output_bytes_max))
        });
        Shard {
            hosted,
            drain_timeout: config.connection.drain_timeout,
            peers: Peers::new(config.connection, config.connections_max, memory_max),
            serving: Serving::new(local.clone(), router, Admission::new(config.admission), rng),
            mailboxes,
            inbox,
            parkers: Vec::new(),
            listeners: Vec::new(),
            phase: Phase::Running,
            are_done: (0..config.count).map(|shard| shard == config.index.0).collect(),
            previous_turn_at: None,
            local,
        }
    }

    /// What runs on this shard sees it so.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Listens on `address` too. Returns the bound address.
    ///
    /// # Errors
    /// As `bind` and `listen` report them.
    pub fn listen<D: Driver>(
        &mut self,
        driver: &mut D,
        address: SocketAddr,
    ) -> std::io::Result<SocketAddr> {
        let (listener, bound) = driver.listen(address)?;
        self.add_listener(listener);
        Ok(bound)
    }

    /// Serves those who come to `listener`, which the driver has already.
    pub(crate) fn add_listener(&mut self, listener: ListenerId) {
        self.listeners.push(listener);
    }

    /// Gives those who come to `listener` to the application. `is_own_port`: no other shard listens there.
    ///
    /// # Panics
    /// If there is no application, which the starter sees to.
    pub(crate) fn add_stream_listener(&mut self, listener: ListenerId, is_own_port: bool) {
        let hosted = self.hosted.as_mut().expect("streams are listened for by an application");
        hosted.add_listener(listener, is_own_port);
    }

    /// True if it runs an application.
    pub(crate) fn has_application(&self) -> bool {
        self.hosted.is_some()
    }

    /// Tells the application where streams arrive.
    pub(crate) fn set_stream_addresses(&mut self, addresses: Addresses) {
        if let Some(hosted) = &mut self.hosted {
            hosted.started(addresses);
        }
    }

    /// Says how the shards are reached: by peers, who are told `map`, and by this shard, which wakes
    /// the others through their parkers.
    pub fn set_peers(&mut self, map: ShardMap, parkers: Vec<Arc<Parker>>) {
        self.local.state().shard_ports.replace(map.ports.clone());
        self.peers.shard_map = map;
        self.parkers = parkers;
    }

    /// What this shard counts; to be read from any thread.
    pub fn metrics(&self) -> Arc<ShardMetrics> {
        self.serving.metrics.clone()
    }

    /// Connections, of both roles.
    pub fn connections(&self) -> usize {
        self.peers.len() + self.streams()
    }

    /// Requests accepted and not answered.
    pub fn in_flight(&self) -> u32 {
        self.serving.admission.in_flight()
    }

    /// Memory in bytes that the connections hold.
    pub fn connection_memory_bytes(&self) -> usize {
        let of_streams = self.hosted.as_ref().map_or(0, |hosted| hosted.streams().memory_bytes());
        self.peers.memory_bytes() + of_streams
    }

    /// True if something waits that came neither through the driver nor by the clock. Look once
    /// more, after announcing sleep and before it.
    pub fn has_mail(&mut self) -> bool {
        !self.mailboxes.is_empty()
            || !self.inbox.is_empty()
            || !self.local.state().runnables.is_empty()
    }

    /// One turn: everything that has happened, until nothing is left to do or it is time to send
    /// what there is.
    pub fn turn<D: Driver>(&mut self, driver: &mut D) -> Next {
        let turn_at = driver.now();
        self.local.state().now.set(turn_at);
        self.serving.begin_turn(turn_at, self.previous_turn_at);

        let behind = self.peers.behind();
        if let Some(hosted) = &mut self.hosted {
            hosted.begin_turn();
            hosted.read_those_behind(driver);
        }
        let completions = self.handle_completions(driver, turn_at);
        self.read_those_behind(driver, behind);
        self.handle_messages(driver);
        self.expire_timers(driver);
        let more_futures = self.local.run_futures();
        if let Some(hosted) = &mut self.hosted {
            hosted.end_turn();
        }
        self.do_commands(driver);
        self.peers.flush(driver, &mut self.serving);
        if let Some(hosted) = &mut self.hosted {
            hosted.flush(driver, &self.serving.metrics, &self.local);
        }
        self.end_connections();
        self.pass_on_messages(driver);
        self.end_drain();

        let busy = completions == Completions::Left
            || more_futures
            || !self.local.state().commands.borrow().is_empty()
            || self.peers.has_work()
            || self.hosted.as_ref().is_some_and(|hosted| hosted.has_work())
            // A full mailbox tells nobody when there is room again.
            || self.serving.has_messages_to_pass_on()
            || self.has_mail();
        self.measure_turn(driver, turn_at, busy);
        self.previous_turn_at = busy.then_some(turn_at);
        Next {
            busy,
            until: self.next_timer(),
            awaits_files: self.local.awaits_files(),
            stopped: self.phase == Phase::Stopped,
        }
    }

    /// Handles what has completed, up to a number and a time. Past these the answers that are ready
    /// go out first.
    fn handle_completions<D: Driver>(&mut self, driver: &mut D, turn_at: Instant) -> Completions {
        for _ in 0..TURN_COMPLETIONS_MAX {
            let took_too_long = self.local.now().since(turn_at) > TURN_TIME_MAX;
            if took_too_long {
                return Completions::Left;
            }
            let Some(completion) = driver.next_completion() else {
                return Completions::Done;
            };
            match completion {
                Completion::Received { socket, chunk } => match self.hosted_at(socket) {
                    None => self.peers.receive(driver, socket, chunk, &mut self.serving),
                    Some(hosted) => {
                        let bytes = chunk.len() as u64;
                        hosted.receive(driver, socket, chunk);
                        self.serving.metrics.bytes_in.add(bytes);
                    }
                },
                Completion::Filled { socket, memory } => {
                    self.peers.filled(driver, socket, memory, &mut self.serving);
                }
                Completion::Sent { socket, output, result } => match self.hosted_at(socket) {
                    None => self.peers.sent(driver, socket, output, result, &mut self.serving),
                    Some(hosted) => hosted.sent(socket, output, &result),
                },
                Completion::Accepted { socket, listener } => {
                    self.accept(driver, listener, socket);
                }
                Completion::AcceptFailed { error, .. } => {
                    self.peers.accept_failed(&error, self.local.now());
                }
                Completion::Connected { socket, result } => {
                    self.peers.connected(driver, socket, result, &mut self.serving);
                }
                Completion::ReceiveEnded { socket, result } => match self.hosted_at(socket) {
                    None => self.peers.receive_ended(driver, socket, result, &mut self.serving),
                    Some(hosted) => hosted.receive_ended(socket, &result),
                },
                Completion::Closed { .. } => {}
                Completion::File { op, buffer, result } => {
                    self.local.complete_file_op(op, FileOpDone::Bytes(buffer, result));
                }
                Completion::FileTask { op, result } => {
                    self.local.complete_file_op(op, FileOpDone::Task(result));
                }
            }
        }
        Completions::Left
    }

    /// The application, if `socket` is one of its streams.
    #[inline]
    fn hosted_at(&mut self, socket: SocketId) -> Option<&mut Hosted> {
        self.hosted.as_deref_mut().filter(|hosted| hosted.has(socket))
    }

    fn accept<D: Driver>(&mut self, driver: &mut D, listener: ListenerId, socket: SocketId) {
        self.serving.metrics.accepted.increment();
        let streams = self.streams();
        if let Some(hosted) = &mut self.hosted
            && hosted.accept(driver, listener, socket, self.peers.is_full_with(streams))
        {
            return;
        }
        self.peers.accept(socket, self.local.now(), streams);
        if self.phase != Phase::Running {
            self.peers.drain_one(socket, self.local.now());
        }
    }

    fn streams(&self) -> usize {
        self.hosted.as_ref().map_or(0, |hosted| hosted.streams().len())
    }

    /// Gives the `count` connections that were behind when the turn began their part of it, for so long
    /// and no longer; the rest is first in the next one.
    fn read_those_behind<D: Driver>(&mut self, driver: &mut D, count: usize) {
        if count == 0 {
            return;
        }
        let began_at = driver.now();
        for _ in 0..count {
            self.peers.read_one_behind(driver, &mut self.serving);
            if driver.now().since(began_at) > TURN_TIME_MAX {
                return;
            }
        }
    }

    /// Messages from other shards and other threads. Those of shards are handled up to a number and a
    /// time of their own, so that neither they nor what comes through the driver waits for ever.
    fn handle_messages<D: Driver>(&mut self, driver: &mut D) {
        let mut began_at = None;
        for _ in 0..TURN_COMPLETIONS_MAX {
            let takes_too_long = |began_at| self.local.now().since(began_at) > TURN_TIME_MAX;
            if began_at.is_some_and(takes_too_long) {
                break;
            }
            let Some(message) = self.mailboxes.poll() else { break };
            let now = driver.now();
            self.local.state().now.set(now);
            began_at.get_or_insert(now);
            match message {
                ShardMessage::Request(request) => self.serving.serve_handed_over(request, driver),
                ShardMessage::Response { key, head, payload } => {
                    self.peers.respond_handed_over(key, head, payload, &mut self.serving);
                }
                message @ ShardMessage::Application { .. } => {
                    if let Some(hosted) = &mut self.hosted {
                        hosted.message(message);
                    }
                }
                ShardMessage::Drop { from, key } => self.serving.drop_handed_over(from, key),
                ShardMessage::Done { from } => self.are_done[from.index()] = true,
            }
        }
        for _ in 0..TURN_COMPLETIONS_MAX {
            let Some(control) = self.inbox.pop() else { break };
            match control {
                Control::Run(code) => run_contained(code, &self.local),
                Control::Drain => self.drain(driver),
                Control::Stop => self.phase = Phase::Stopped,
                Control::Lost(shard) => self.lose(shard, driver),
            }
        }
    }

    fn expire_timers<D: Driver>(&mut self, driver: &mut D) {
        // The latest stamp of this turn: a timer that is due since then comes in the next one.
        let now = self.local.now();
        loop {
            let due = self.local.state().timers.borrow_mut().pop_due(now);
            match due {
                None => return,
                Some(TimerKey::Peer(socket)) => {
                    self.peers.timeout(driver, socket, now, &mut self.serving);
                }
                Some(TimerKey::Stream(socket)) => {
                    if let Some(hosted) = &mut self.hosted {
                        hosted.timeout(socket);
                    }
                }
                Some(TimerKey::Sleep(key)) => self.local.wake_sleeper(key),
                Some(TimerKey::Call(key)) => calls::expire_waiting(&self.local, key),
                Some(TimerKey::Client(key)) => {
                    calls::backoff_ended(&mut self.peers, driver, &self.local, key);
                }
                Some(TimerKey::Probe(key)) => probes::expire(&self.local, key),
                Some(TimerKey::Complaints) => self.serving.tell_complaints(),
            }
        }
    }

    /// What handlers and futures have asked for.
    fn do_commands<D: Driver>(&mut self, driver: &mut D) {
        // Only what is there now: a command may lead to another, which then is for the next turn.
        let count = self.local.state().commands.borrow().len();
        for _ in 0..count {
            let Some(command) = self.local.state().commands.borrow_mut().pop_front() else { break };
            match command {
                Command::Answer { key, status, payload } => {
                    self.peers.answer(key, status, payload, &mut self.serving);
                }
                Command::StartCall(key) => {
                    calls::start(&mut self.peers, driver, &self.local, key);
                }
                Command::CancelCall { socket, call } => self.peers.cancel_call(socket, call),
                Command::Connect(key) => {
                    calls::connect(&mut self.peers, driver, &self.local, key);
                }
                Command::Probe(key) => {
                    probes::start(&mut self.peers, driver, &self.local, key);
                }
                Command::Send { to, message } => {
                    let from = self.local.shard();
                    let message = ShardMessage::Application { from, message };
                    self.serving.tell(to, message);
                }
                Command::CloseClient(key) => calls::close(&mut self.peers, &self.local, key),
                Command::RelayEnded { token, end } => {
                    relays::ended(&mut self.serving, &mut self.peers, token, end);
                }
                Command::FileTask { op, task } => {
                    if self.local.awaits_file_op(op) {
                        driver.file_task(task, op.into());
                    }
                }
                Command::CloseFile(file) => driver.close_file(file),
                Command::Read { op, file, offset, buffer } => {
                    driver.read(file, offset, buffer, op.into());
                }
                Command::Write { op, file, offset, buffer } => {
                    driver.write(file, offset, buffer, op.into());
                }
                Command::Sync { op, file } => driver.sync(file, op.into()),
            }
        }
    }

    /// Hands over what is for other shards and wakes those that sleep.
    fn pass_on_messages<D: Driver>(&mut self, driver: &mut D) {
        self.serving.pass_on(&mut self.mailboxes);
        for shard in self.mailboxes.peers_to_wake() {
            driver.unpark(&self.parkers[shard.index()]);
        }
    }

    /// Every so many turns: how long this one took, and the figures that are not counted one by one;
    /// these also before a sleep, which may be a long one.
    fn measure_turn<D: Driver>(&mut self, driver: &D, turn_at: Instant, busy: bool) {
        let metrics = &self.serving.metrics;
        metrics.turns.increment();
        let is_time = metrics.turns.value().is_multiple_of(TURNS_BETWEEN_MEASUREMENTS);
        if is_time {
            metrics.turn_us.record(driver.now().micros_since(turn_at));
        }
        if is_time || !busy {
            metrics.in_flight.set(u64::from(self.serving.admission.in_flight()));
            metrics.connections.set(self.connections() as u64);
            metrics.publish_driver(driver.counters());
        }
    }

    fn drain<D: Driver>(&mut self, driver: &mut D) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining;
            for listener in self.listeners.drain(..) {
                driver.stop_listening(listener);
            }
            self.peers.drain_all(self.local.now());
            if let Some(hosted) = &mut self.hosted {
                hosted.drain(driver, self.drain_timeout, self.local.now());
            }
        }
    }

    /// The last connection of a shard that drains takes the last of its requests along, those that
    /// it had handed over included.
    fn end_connections(&mut self) {
        let now = self.local.now();
        if self.phase == Phase::Draining
            && self.peers.served() == 0
            && self.hosted.as_mut().is_none_or(|hosted| hosted.has_ended_streams(now))
        {
            self.phase = Phase::Done;
            let from = self.local.shard();
            self.serving.tell_others(|| ShardMessage::Done { from });
        }
    }

    /// Another shard has ended before its time, and this one drains: see [`crate::watch`]. Whatever
    /// waits for the lost shard is answered, and what it had handed over is dropped with its callers.
    fn lose<D: Driver>(&mut self, lost: ShardIndex, driver: &mut D) {
        // What it could still answer, it has; nobody waits for anything else that it has sent.
        while let Some(message) = self.mailboxes.poll_from(lost) {
            if let ShardMessage::Response { key, head, payload } = message {
                self.peers.respond_handed_over(key, head, payload, &mut self.serving);
            }
        }
        let text = Payload::Copied(LOST.as_bytes());
        for key in self.serving.lose(lost) {
            self.peers.answer(key, Status::DRAINING, text.clone(), &mut self.serving);
        }
        for key in self.local.handed_over_to(lost) {
            self.peers.answer(key, Status::INTERNAL, text.clone(), &mut self.serving);
        }
        self.are_done[lost.index()] = true;
        self.drain(driver);
    }

    /// A shard ends when no other can have a request for it any more, and its answers are out.
    fn end_drain(&mut self) {
        if self.phase == Phase::Done
            && self.are_done.iter().all(|is_done| *is_done)
            && self.peers.served() == 0
            && !self.serving.has_messages_to_pass_on()
            && self.hosted.as_mut().is_none_or(|hosted| hosted.is_finished())
        {
            self.phase = Phase::Stopped;
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let timer = self.local.state().timers.borrow().next();
        let of_drain = self.hosted.as_ref().and_then(|hosted| hosted.next_timeout());
        timer.into_iter().chain(of_drain).min()
    }
}

impl Drop for Shard {
    /// Nothing runs on after its shard: whoever waits for a result is told that there is none. What
    /// other shards have handed over and this one has not looked at goes back unexecuted, as far as
    /// there is room.
    fn drop(&mut self) {
        self.inbox.close();
        self.local.end();
        self.serving.tell_complaints();
        while let Some(message) = self.mailboxes.poll() {
            if let ShardMessage::Request(request) = message {
                self.serving.refuse_handed_over(&request);
            }
        }
        self.serving.pass_on(&mut self.mailboxes);
        for shard in self.mailboxes.peers_to_wake() {
            self.parkers.get(shard.index()).inspect(|parker| parker.unpark());
        }
    }
}

/// What callers are told whose request was for a shard that is lost.
const LOST: &str = "the shard that it is for has failed";

/// Runs what came from another thread. A panic there is not the shard's.
fn run_contained(code: Box<dyn FnOnce(&Local) + Send>, local: &Local) {
    if catch_unwind(AssertUnwindSafe(|| code(local))).is_err() {
        tracing::error!("a closure from another thread panicked on this shard");
    }
}

#[cfg(test)]
mod tests;
