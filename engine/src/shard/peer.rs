//! One connection of a shard: its bytes, its events, its timer.
//!
//! What a peer sends is read where it lies. What it sends beyond its part of a turn, or while it does
//! not read its answers, is put aside, with the instant at which it arrived: deadlines and queue delays
//! count from there.

use super::backlog::Backlog;
use super::calls::{self, WasSent};
use super::peers::Peers;
use super::probes;
use super::relays::{self, is_relayed};
use super::serve::Serving;
use crate::client::ClientKey;
use crate::driver::{Driver, SocketId};
use crate::limits::{LINGER, PEER_TURN_BYTES_MAX, PEER_TURN_FRAMES_MAX, PEER_TURN_TIME_MAX};
use crate::local::{Command, Local, TimerKey};
use crate::rpc::connection::{Connection, Event};
use crate::rpc::error::CloseReason;
use crate::time::Instant;
use crate::timers::TimerId;
use crate::wire::deframer::Input;
use crate::wire::status::Status;
use bytes::Bytes;

/// One connection and its socket.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(super) socket: SocketId,
    pub(crate) connection: Connection,
    pub(super) owner: Owner,
    pub(super) stage: Stage,
    /// One too many: it is told so, and that is all.
    pub(super) is_surplus: bool,
    pub(super) is_dirty: bool,
    pub(super) is_sending: bool,
    /// The peer was told that nothing more will be sent.
    has_ended_sends: bool,
    pub(super) is_paused: bool,
    /// It ended with a word of ours that the peer should have a chance to read.
    pub(super) wants_linger: bool,
    /// It has answered a call.
    pub(super) has_answered: bool,
    /// A call has ended or the hello has come: calls that wait may have room now.
    pub(super) wants_pump: bool,
    /// Calls wait until what was started before them is on its way.
    pub(crate) holds_calls: bool,
    /// What was received and is not read yet: the peer does not read its answers, or it has sent more
    /// than its part of a turn.
    pub(super) backlog: Backlog,
    /// It stands in the queue of those with more to read.
    pub(super) is_behind: bool,
    /// It does not read its answers, and nothing is read from it.
    is_held: bool,
    /// When it was last read from again after that: what waited until then waited for its own peer.
    readable_since: Instant,
    part: Part,
    /// Memory as the shard's account has it, in bytes.
    pub(super) accounted: usize,
    /// Bytes of the send in flight.
    pub(super) sending_bytes: usize,
    pub(super) timer: Option<(TimerId, Instant)>,
}

/// What is left of a peer's part of a turn.
#[derive(Clone, Copy, Debug)]
struct Part {
    turn: u64,
    /// When the peer's first frame of this turn was begun.
    began_at: Instant,
    frames: u32,
    bytes: u32,
}

impl Part {
    fn of(turn: u64, began_at: Instant) -> Self {
        Part { turn, began_at, frames: PEER_TURN_FRAMES_MAX, bytes: PEER_TURN_BYTES_MAX }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// It called us.
    Server,
    /// A client of ours called it.
    Client(ClientKey),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The socket is not connected yet.
    Connecting,
    Open,
    /// The end has come; the peer has a moment to read the last bytes, or the close would destroy them.
    Lingering,
}

/// Bytes and events of one peer.
impl Peer {
    pub(super) fn new(
        socket: SocketId,
        connection: Connection,
        owner: Owner,
        stage: Stage,
    ) -> Self {
        Peer {
            socket,
            connection,
            owner,
            stage,
            is_surplus: false,
            is_dirty: true,
            is_sending: false,
            has_ended_sends: false,
            is_paused: false,
            wants_linger: false,
            has_answered: false,
            wants_pump: false,
            holds_calls: false,
            backlog: Backlog::default(),
            is_behind: false,
            is_held: false,
            readable_since: Instant::ZERO,
            part: Part::of(0, Instant::ZERO),
            accounted: 0,
            sending_bytes: 0,
            timer: None,
        }
    }

    #[inline]
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        lend: &dyn Fn() -> Bytes,
        clock: &dyn Fn() -> Instant,
        serving: &mut Serving,
        others: &mut Peers,
    ) {
        // All of it was in hand when the turn began: time that a request waits for those before it is
        // time of its deadline.
        let arrived = serving.turn_at();
        let read = match self.backlog.is_empty() {
            true => self.read_frames(bytes, lend, clock, arrived, serving, others),
            false => 0,
        };
        // After the end nobody reads the rest.
        if read < bytes.len() && !self.connection.is_closed() {
            self.backlog.push(&bytes[read..], arrived);
        }
        self.take_events(serving);
    }

    /// Reads frames for as long as the peer reads its answers and has not had its part of this turn.
    /// Returns how many bytes were read.
    #[inline]
    fn read_frames(
        &mut self,
        bytes: &[u8],
        lend: &dyn Fn() -> Bytes,
        clock: &dyn Fn() -> Instant,
        arrived: Instant,
        serving: &mut Serving,
        others: &mut Peers,
    ) -> usize {
        let mut input = Input::new(bytes);
        let mut now = clock();
        if self.part.turn != serving.turn() {
            self.part = Part::of(serving.turn(), now);
        }
        if self.is_held {
            self.is_held = self.is_overfull();
            self.readable_since = serving.turn_at();
        }
        while !self.is_overfull()
            && !self.has_had_its_part(now)
            && let Some(event) = self.connection.handle_bytes(&mut input, arrived)
        {
            self.part.frames -= 1;
            match event {
                Event::Request { head, body, deadline } => {
                    let queued = arrived.max(self.readable_since);
                    let arrival = (&head, &body, deadline, queued);
                    let connection = &mut self.connection;
                    now = if serving.passes_on(head.method) {
                        let from = (connection, self.socket);
                        relays::forward(serving, others, from, arrival, lend, clock, now)
                    } else {
                        serving.serve_peer(connection, self.socket, arrival, lend, clock, now)
                    };
                    self.connection.recycle(body);
                }
                Event::Response { token, head, body } if is_relayed(token) => {
                    now = clock();
                    serving.local.state().now.set(now);
                    relays::answered(serving, others, token, (&head, &body), lend);
                    self.connection.recycle(body);
                    self.has_answered = true;
                    self.wants_pump = true;
                }
                Event::Response { token, head, body } => {
                    let is_refused = head.status == Status::DRAINING && !self.connection.is_open();
                    if !is_refused || !calls::retry(&serving.local, token, WasSent::Yes) {
                        calls::answered(&serving.local, token, head, body.to_payload_bytes(lend));
                    }
                    self.connection.recycle(body);
                    self.has_answered = true;
                    self.wants_pump = true;
                }
                Event::Pinged { echo } => {
                    let queued = arrived.max(self.readable_since);
                    serving.answer_ping(&mut self.connection, echo, queued, now);
                }
                Event::Ponged(head) => {
                    if let Owner::Client(client) = self.owner {
                        probes::answered(&serving.local, client, head);
                        self.has_answered = true;
                    }
                }
                other => self.on_event(other, serving),
            }
        }
        self.is_held |= self.is_overfull();
        let read = bytes.len() - input.left();
        self.part.bytes = self.part.bytes.saturating_sub(read as u32);
        read
    }

    /// A peer that sends much may not make all others wait.
    #[inline]
    fn has_had_its_part(&self, now: Instant) -> bool {
        let Part { began_at, frames, bytes, .. } = self.part;
        frames == 0 || bytes == 0 || now.since(began_at) > PEER_TURN_TIME_MAX
    }

    /// Has the rest of a large frame received into its own memory.
    #[inline]
    pub(super) fn offer_memory<D: Driver>(&mut self, driver: &mut D) {
        if self.backlog.is_empty()
            && let Some((memory, rest)) = self.connection.lend_memory()
            && let Err(memory) = driver.receive_into(self.socket, memory, rest)
        {
            self.connection.put_back_memory(memory);
        }
    }

    /// Reads what was put aside, as far as the peer may.
    pub(super) fn read_backlog(
        &mut self,
        clock: &dyn Fn() -> Instant,
        serving: &mut Serving,
        others: &mut Peers,
    ) {
        // A frame that was received into its own memory may be whole, and wait as well.
        self.read_frames(&[], &Bytes::new, clock, serving.turn_at(), serving, others);
        while !self.connection.is_closed()
            && let Some((piece, arrived)) = self.backlog.pop()
        {
            let lend = || piece.clone();
            let read = self.read_frames(&piece, &lend, clock, arrived, serving, others);
            let is_read = read == piece.len();
            self.backlog.put_back(piece, arrived, read);
            if !is_read {
                break;
            }
        }
        self.take_events(serving);
    }

    /// Reads all that was put aside: nothing else will ever come.
    pub(super) fn read_to_the_end(
        &mut self,
        clock: &dyn Fn() -> Instant,
        serving: &mut Serving,
        others: &mut Peers,
    ) {
        while !self.backlog.is_empty() && !self.connection.is_closed() && !self.is_overfull() {
            self.part = Part::of(serving.turn(), clock());
            self.read_backlog(clock, serving, others);
        }
    }

    /// True if there is more to read at once.
    pub(super) fn has_more_to_read(&self) -> bool {
        !self.backlog.is_empty() && !self.is_overfull() && !self.connection.is_closed()
    }

    /// Events other than those in bytes, and what follows from them.
    pub(super) fn take_events(&mut self, serving: &mut Serving) {
        while let Some(event) = self.connection.poll_event() {
            self.on_event(event, serving);
        }
        if std::mem::take(&mut self.wants_pump)
            && let Owner::Client(client) = self.owner
        {
            calls::pump(&serving.local, client, self.socket, self);
            if let Some(relays) = &mut serving.relays {
                relays.pump(&serving.local, client, self);
            }
        }
    }

    fn on_event(&mut self, event: Event<'_>, serving: &mut Serving) {
        let client = match self.owner {
            Owner::Server => None,
            Owner::Client(client) => Some(client),
        };
        match event {
            Event::Opened => {
                if let Some(client) = client {
                    calls::opened(&serving.local, client, self.socket);
                    self.wants_pump = true;
                }
            }
            Event::RequestRefused { status } => serving.count_refused(status),
            Event::RequestDropped { token, cause } => {
                serving.drop_deferred(token, cause);
            }
            Event::CallFailed { token, failure } if is_relayed(token) => {
                if let Some(relays) = &mut serving.relays {
                    let end = relays.call_failed(token, failure, &self.connection);
                    serving.local.push(Command::RelayEnded { token, end });
                }
                self.wants_pump = true;
            }
            Event::CallFailed { token, failure } => {
                calls::failed(&serving.local, token, failure, &self.connection);
                self.wants_pump = true;
            }
            Event::PeerLeaves { reason, text } => {
                tracing::debug!(?reason, text, "a peer says go-away");
                if let Some(client) = client {
                    calls::leaving(&serving.local, client, self.socket, self.has_answered);
                }
            }
            Event::Closed(reason) => {
                self.wants_linger = reason.is_told();
                if self.owner == Owner::Server {
                    serving.metrics.closed.increment();
                }
                if matches!(reason, CloseReason::PeerMisbehaved(_)) {
                    serving.metrics.protocol_errors.increment();
                }
                log_close(&reason, self.owner, serving);
                if let Some(client) = client {
                    let has_answered = self.has_answered;
                    calls::lost(&serving.local, client, self.socket, &reason, has_answered);
                }
            }
            Event::Request { .. }
            | Event::Response { .. }
            | Event::Pinged { .. }
            | Event::Ponged(_) => {
                unreachable!("these lie in bytes and are taken where bytes are read")
            }
        }
    }

    /// So many answers wait for this peer that nothing more is read from it.
    #[inline]
    pub(super) fn is_overfull(&self) -> bool {
        self.connection.is_output_full()
    }

    /// Lets the peer read what was sent last, then the end, and discards what it still sends: a close
    /// with unread input would destroy the last bytes. Its own end, or the timer, ends this.
    pub(super) fn linger<D: Driver>(&mut self, driver: &mut D, local: &Local) {
        if self.stage == Stage::Open {
            self.stage = Stage::Lingering;
            self.backlog = Backlog::default();
            self.set_timer(None, local);
            self.set_timer(Some(local.now() + LINGER), local);
            if std::mem::take(&mut self.is_paused) {
                driver.resume_receive(self.socket);
            }
        }
        if !self.is_sending && !std::mem::replace(&mut self.has_ended_sends, true) {
            driver.shutdown_send(self.socket);
        }
    }

    /// Memory of what has not arrived in full, is not read, or is not taken by the peer, in bytes.
    #[inline]
    pub(super) fn held_bytes(&self) -> usize {
        self.connection.waiting_bytes() + self.backlog.bytes() + self.sending_bytes
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.connection.memory_bytes() + self.backlog.bytes() + self.sending_bytes
    }

    /// Sets the timer no later than `at`. One that is set too early stays: moving it at every
    /// sign of life would cost more than one look too many.
    #[inline]
    pub(super) fn set_timer(&mut self, at: Option<Instant>, local: &Local) {
        match (at, self.timer) {
            (Some(at), Some((_, set_for))) if set_for <= at => {}
            (Some(at), Some((timer, _))) => {
                local.state().timers.borrow_mut().reschedule(timer, at);
                self.timer = Some((timer, at));
            }
            (Some(at), None) => {
                let key = TimerKey::Peer(self.socket);
                let timer = local.state().timers.borrow_mut().insert(at, key);
                self.timer = Some((timer, at));
            }
            (None, Some((timer, _))) => {
                local.state().timers.borrow_mut().cancel(timer);
                self.timer = None;
            }
            (None, None) => {}
        }
    }
}

fn log_close(reason: &CloseReason, owner: Owner, serving: &mut Serving) {
    if reason.is_peers_fault() && serving.may_complain() {
        tracing::warn!(%reason, ?owner, "connection ended by the peer's fault");
    } else {
        tracing::debug!(%reason, ?owner, "connection ended");
    }
}
