//! One peer, as a state machine without a socket or a clock. Server and client alike.
//!
//! ```text
//!              hello              go-away sent or received          nothing left, or time is up
//! Greeting ───────────► Open ─────────────────────────────► Leaving ───────────────► Closed
//!     └─────────── protocol error, silence, lost ──────────────────────────────────────┘
//! ```
//!
//! Its methods come in three sorts:
//! - **inputs** `handle_*`: bytes, the passing of time, the loss of the connection;
//! - **commands**: start or cancel a call, answer or defer a request, drain, abort;
//! - **outputs** `poll_*`: what happened, what to send, when to be called again.
//!
//! The contract: after any input or command poll [`Connection::poll_event`] until `None`, send what
//! [`Connection::poll_transmit`] gives, and call [`Connection::handle_timeout`] at
//! [`Connection::poll_timeout`]. [`Connection::handle_bytes`] gives the events that lie in the bytes
//! themselves, one frame at a time, so that a request is handled where the kernel has put it.

use super::error::{CloseReason, Misbehaviour, StartError, TooSlow};
use super::in_flight::InFlight;
use crate::config::ConnectionConfig;
use crate::limits::GO_AWAY_TEXT_BYTES_MAX;
use crate::time::{Duration, Instant, earliest};
use crate::wire::deframer::{Body, Deframer, Frame, Input};
use crate::wire::frame::{
    CallId, GoAwayReason, MethodId, Priority, RequestHead, ResponseHead, Route, control,
};
use crate::wire::framer::{Framer, Payload, PayloadWriter};
use crate::wire::header::{HEADER_BYTES, Header, Kind};
use crate::wire::hello::{Hello, ShardMap, VERSION_MAX, VERSION_MIN};
use crate::wire::output::Output;
use crate::wire::status::Status;
use std::collections::VecDeque;
use std::sync::Arc;

/// Which end this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Starts calls.
    Client,
    /// Answers requests.
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Our hello is out, the peer's is not in.
    Greeting,
    Open,
    /// One side said go-away: what is in flight ends, nothing begins.
    Leaving,
    Closed,
}

/// A call to start.
#[derive(Clone, Debug)]
pub struct CallRequest<'a> {
    /// Which handler.
    pub method: MethodId,
    /// How important.
    pub priority: Priority,
    /// Which shard or partition.
    pub route: Route,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// True if the request may have been sent before.
    pub repeat: bool,
    /// Metadata records; empty for none.
    pub metadata: &'a [u8],
    /// The payload.
    pub payload: Payload<'a>,
}

impl<'a> CallRequest<'a> {
    /// A call of `method` with nothing but a payload.
    pub fn new(method: MethodId, payload: impl Into<Payload<'a>>) -> Self {
        CallRequest {
            method,
            priority: Priority::NORMAL,
            route: Route::ANY,
            deadline: None,
            repeat: false,
            metadata: &[],
            payload: payload.into(),
        }
    }
}

/// What happened on a connection. `token` is what the owner gave when it started or deferred.
#[derive(Debug)]
pub enum Event<'a> {
    /// The peer's hello is in; calls may start.
    Opened,
    /// Server: a request to answer or to defer, now.
    Request {
        /// Its header.
        head: RequestHead,
        /// Its metadata and payload.
        body: Body<'a>,
        /// When its caller stops waiting, on this side's clock.
        deadline: Option<Instant>,
    },
    /// Client: the answer to a call.
    Response {
        /// Given to [`Connection::start_call`].
        token: u64,
        /// Status and the server's load.
        head: ResponseHead,
        /// The answer.
        body: Body<'a>,
    },
    /// Client: a call ended without an answer.
    CallFailed {
        /// Given to [`Connection::start_call`].
        token: u64,
        /// Why.
        failure: CallFailure,
    },
    /// Server: nobody waits for this deferred request any more; drop its handler.
    RequestDropped {
        /// Given to [`Connection::defer`].
        token: u64,
        /// Why.
        cause: DropCause,
    },
    /// The peer said go-away; text for the log.
    PeerLeaves {
        /// Why.
        reason: GoAwayReason,
        /// In the peer's words.
        text: String,
    },
    /// Over. Send what is left to send, then close the socket. The last event.
    Closed(CloseReason),
}

/// Why a call has no answer. In each case the server may have executed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallFailure {
    /// Its deadline passed here; the server was told to stop.
    DeadlinePassed,
    /// The connection ended.
    ConnectionEnded,
}

/// Why nobody waits for a request any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropCause {
    /// The caller cancelled.
    Cancelled,
    /// The deadline passed; the caller was answered so.
    DeadlinePassed,
    /// The connection ended.
    ConnectionEnded,
}

/// One peer. See the module page.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Arc<ConnectionConfig>,
    phase: Phase,
    deframer: Deframer,
    framer: Framer,
    output: Output,
    /// What the peer's hello said; before it, the least that any peer accepts.
    peer: Hello,
    /// Client: calls that wait for an answer.
    calls: InFlight<u64>,
    /// Server: requests that are answered later.
    deferred: InFlight<u64>,
    events: VecDeque<Event<'static>>,
    close_reason: Option<CloseReason>,
    opened_at: Instant,
    last_received_at: Instant,
    last_request_at: Instant,
    pinged_at: Option<Instant>,
    /// Since when an unfinished frame lies in the deframer.
    partial_since: Option<Instant>,
    /// When leaving ends, whatever still runs.
    leave_deadline: Option<Instant>,
}

/// Construction and what can be asked at any time.
impl Connection {
    /// A connection that has just been made; its hello is ready to be sent.
    pub fn new(
        role: Role,
        config: Arc<ConnectionConfig>,
        shards: &ShardMap,
        now: Instant,
    ) -> Connection {
        let hello = Connection::hello(role, &config, shards);
        let mut output = Output::default();
        let body = hello.encode_body();
        Framer::default().push(&mut output, hello.header(), &[], Payload::Copied(&body));
        Connection {
            role,
            phase: Phase::Greeting,
            deframer: Deframer::new(config.frame_bytes_max),
            framer: Framer::default(),
            output,
            peer: Hello {
                frame_bytes_max: crate::limits::FRAME_BYTES_FLOOR,
                in_flight_max: 0,
                ..hello
            },
            calls: InFlight::default(),
            deferred: InFlight::default(),
            events: VecDeque::new(),
            close_reason: None,
            opened_at: now,
            last_received_at: now,
            last_request_at: now,
            pinged_at: None,
            partial_since: None,
            leave_deadline: None,
            config,
        }
    }

    fn hello(role: Role, config: &ConnectionConfig, shards: &ShardMap) -> Hello {
        Hello {
            version_max: VERSION_MAX,
            version_min: VERSION_MIN,
            frame_bytes_max: config.frame_bytes_max,
            in_flight_max: if role == Role::Server { config.in_flight_max } else { 0 },
            payload_crc: config.payload_crc,
            idle_timeout_ms: config
                .idle_timeout
                .map_or(0, |timeout| timeout.as_millis().try_into().unwrap_or(u32::MAX)),
            shards: shards.clone(),
        }
    }

    /// True when calls can be started, as far as the state goes.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// True when the last event has happened or is waiting to be polled.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// What the peer said in its hello; before that, the least that any peer accepts.
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// Calls in flight (client) and requests deferred (server).
    pub fn in_flight(&self) -> u32 {
        self.calls.len() + self.deferred.len()
    }

    /// Bytes waiting to be sent.
    pub fn output_bytes(&self) -> usize {
        self.output.len()
    }

    /// Memory in bytes that this connection holds beyond its own size.
    pub fn memory_bytes(&self) -> usize {
        self.deframer.memory_bytes()
            + self.output.capacity()
            + self.calls.memory_bytes()
            + self.deferred.memory_bytes()
            + self.events.capacity() * size_of::<Event<'_>>()
    }
}

/// Inputs.
impl Connection {
    /// Takes in bytes and gives the next event that lies in them. Call until it gives `None`; all of
    /// `input` is read then.
    #[inline]
    pub fn handle_bytes<'a>(&mut self, input: &mut Input<'a>, now: Instant) -> Option<Event<'a>> {
        self.last_received_at = now;
        self.pinged_at = None;
        while self.phase != Phase::Closed {
            match self.deframer.next(input) {
                Ok(Some(frame)) => {
                    self.partial_since = None;
                    if let Some(event) = self.handle_frame(frame, now) {
                        return Some(event);
                    }
                }
                Ok(None) => {
                    if self.partial_since.is_none() && self.deframer.under_way().is_some() {
                        self.partial_since = Some(now);
                    }
                    return None;
                }
                Err(error) => self.misbehaved(Misbehaviour::Frame(error)),
            }
        }
        None
    }

    /// Takes back the memory of a request's or response's body, once it is done with.
    #[inline]
    pub fn recycle(&mut self, body: Body<'_>) {
        self.deframer.recycle(body);
    }

    /// The peer ended its stream (`Ok`) or the connection broke (`Err`).
    pub fn handle_end(&mut self, result: std::io::Result<()>) {
        let reason = match result {
            Ok(()) if self.leave_deadline.is_some() && self.in_flight() == 0 => {
                CloseReason::Drained
            }
            Ok(()) => CloseReason::PeerClosed,
            Err(error) => CloseReason::Lost(error.kind()),
        };
        self.close(reason);
    }

    /// Does what is due at `now`. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(call) = self.calls.expired(now) {
            let token = self.calls.end_and_free(call).expect("an expired call is in flight");
            self.push_control(Kind::Cancel, 0, call.0);
            let failure = CallFailure::DeadlinePassed;
            self.events.push_back(Event::CallFailed { token, failure });
        }
        while let Some(call) = self.deferred.expired(now) {
            let token = self.deferred.end(call).expect("an expired request is deferred");
            self.answer_bare(call, Status::DEADLINE_PASSED);
            let cause = DropCause::DeadlinePassed;
            self.events.push_back(Event::RequestDropped { token, cause });
        }
        self.leave_if_done();
        if let Some(reason) = self.overdue(now) {
            return self.close(reason);
        }
        let is_silent = self.phase == Phase::Open || self.phase == Phase::Leaving;
        if is_silent && self.pinged_at.is_none() && now >= self.ping_at() {
            self.pinged_at = Some(now);
            self.push_control(Kind::Ping, 0, now.as_nanos());
        }
    }
}

/// Commands of a client.
impl Connection {
    /// Starts a call; its answer or failure will carry `token`.
    ///
    /// # Errors
    /// Why nothing was sent.
    pub fn start_call(
        &mut self,
        request: CallRequest<'_>,
        token: u64,
        now: Instant,
    ) -> Result<CallId, StartError> {
        match self.phase {
            Phase::Open => {}
            Phase::Leaving => return Err(StartError::Leaving),
            Phase::Greeting | Phase::Closed => return Err(StartError::NotOpen),
        }
        let time_left_us = match request.deadline {
            None => 0,
            Some(deadline) if deadline <= now => return Err(StartError::DeadlinePassed),
            // At least 1: 0 would mean "for ever".
            Some(deadline) => deadline.micros_since(now).max(1),
        };
        let frame_bytes = self.framer.frame_bytes(request.metadata.len(), request.payload.len());
        if frame_bytes > self.peer.frame_bytes_max as usize {
            return Err(StartError::TooLarge { frame_bytes, max: self.peer.frame_bytes_max });
        }
        let window = self.peer.in_flight_max;
        let call =
            self.calls.start(window, request.deadline, token).ok_or(StartError::WindowFull)?;
        let head = RequestHead {
            call,
            method: request.method,
            priority: request.priority,
            time_left_us,
            route: request.route,
            repeat: request.repeat,
        };
        self.framer.push(&mut self.output, head.header(), request.metadata, request.payload);
        Ok(call)
    }

    /// Gives up a call and tells the server. True if it was still in flight; no event will follow.
    pub fn cancel(&mut self, call: CallId) -> bool {
        let was_in_flight = self.calls.end_and_free(call).is_some();
        if was_in_flight {
            self.push_control(Kind::Cancel, 0, call.0);
            self.leave_if_done();
        }
        was_in_flight
    }
}

/// Commands of a server.
impl Connection {
    /// Answers a request that was not deferred.
    #[inline]
    pub fn respond(&mut self, head: ResponseHead, payload: Payload<'_>) {
        if self.framer.frame_bytes(0, payload.len()) > self.peer.frame_bytes_max as usize {
            let head = ResponseHead { status: Status::ANSWER_TOO_LARGE, ..head };
            return self.framer.push(&mut self.output, head.header(), &[], Payload::Copied(&[]));
        }
        self.framer.push(&mut self.output, head.header(), &[], payload);
    }

    /// Answers a request that was not deferred; `write` puts the payload where it is sent from and
    /// returns the header that goes before it.
    #[inline]
    pub fn respond_with(&mut self, write: impl FnOnce(&mut PayloadWriter<'_>) -> ResponseHead) {
        let frame_at = self.output.copied_mut().len();
        let (head, payload_bytes) = self.framer.push_with(&mut self.output, write);
        if self.framer.frame_bytes(0, payload_bytes) > self.peer.frame_bytes_max as usize {
            self.output.copied_mut().truncate(frame_at);
            let head = ResponseHead { status: Status::ANSWER_TOO_LARGE, ..head };
            self.framer.push(&mut self.output, head.header(), &[], Payload::Copied(&[]));
        }
    }

    /// Puts a request off: it is answered later with [`Connection::respond_deferred`], or dropped
    /// with an event that carries `token`.
    pub fn defer(&mut self, call: CallId, deadline: Option<Instant>, token: u64) {
        self.deferred.enter(call, deadline, token);
    }

    /// Answers a deferred request. False: nobody waits for it any more, nothing was sent.
    pub fn respond_deferred(&mut self, head: ResponseHead, payload: Payload<'_>) -> bool {
        if self.deferred.end(head.call).is_none() {
            return false;
        }
        self.respond(head, payload);
        self.leave_if_done();
        true
    }

    /// Leaves: tells the peer to start nothing new, refuses what still arrives (with a status that
    /// says *not executed*), finishes what runs, at most for the drain timeout.
    pub fn drain(&mut self, now: Instant) {
        match self.phase {
            Phase::Greeting | Phase::Open => {
                self.push_go_away(GoAwayReason::DRAINING, "draining");
                self.phase = Phase::Leaving;
                self.leave_deadline = Some(now + self.config.drain_timeout);
                self.leave_if_done();
            }
            Phase::Leaving if self.leave_deadline.is_none() => {
                self.leave_deadline = Some(now + self.config.drain_timeout);
            }
            Phase::Leaving | Phase::Closed => {}
        }
    }

    /// Ends at once, whatever still runs; the peer is told `reason`.
    pub fn abort(&mut self, reason: CloseReason) {
        self.close(reason);
    }
}

/// Outputs.
impl Connection {
    /// What happened other than in bytes.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event<'static>> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.phase != Phase::Closed {
            return None;
        }
        self.poll_closing_event()
    }

    /// What to send, if anything. Its memory comes from [`Connection::provide_output`].
    #[inline]
    pub fn poll_transmit(&mut self) -> Option<Output> {
        (!self.output.is_empty()).then(|| std::mem::take(&mut self.output))
    }

    /// Lends memory for output, so that a busy connection allocates none and an idle one holds none.
    #[inline]
    pub fn provide_output(&mut self, memory: &mut Option<Output>) {
        if self.output.capacity() == 0
            && self.output.is_empty()
            && let Some(memory) = memory.take()
        {
            self.output = memory;
        }
    }

    /// Takes unused memory for output back.
    #[inline]
    pub fn take_unused_output(&mut self) -> Option<Output> {
        let unused = self.output.is_empty() && self.output.capacity() > 0;
        unused.then(|| std::mem::take(&mut self.output))
    }

    /// When [`Connection::handle_timeout`] wants to be called; later calls of this may give an
    /// earlier instant.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut next = match self.phase {
            Phase::Closed => return None,
            Phase::Greeting => Some(self.opened_at + self.config.hello_timeout),
            Phase::Open | Phase::Leaving => Some(match self.pinged_at {
                Some(pinged_at) => pinged_at + self.config.keepalive_timeout,
                None => self.ping_at(),
            }),
        };
        next = earliest(next, self.partial_deadline());
        next = earliest(next, self.leave_deadline);
        next = earliest(next, self.idle_at());
        next = earliest(next, self.calls.earliest_deadline());
        earliest(next, self.deferred.earliest_deadline())
    }
}

/// Frames, one kind a method.
impl Connection {
    #[inline]
    fn handle_frame<'a>(&mut self, frame: Frame<'a>, now: Instant) -> Option<Event<'a>> {
        let kind = frame.header.kind;
        if self.phase == Phase::Greeting && !matches!(kind, Kind::Hello | Kind::GoAway) {
            self.misbehaved(Misbehaviour::Unexpected(kind));
            return None;
        }
        match (kind, self.role) {
            (Kind::Request, Role::Server) => self.on_request(frame, now),
            (Kind::Response, Role::Client) => self.on_response(frame),
            (Kind::Cancel, Role::Server) => self.on_cancel(CallId(frame.header.call)),
            (Kind::Hello, _) if self.phase == Phase::Greeting => self.on_hello(&frame),
            (Kind::Ping, _) => {
                self.push_control(Kind::Pong, 0, frame.header.call);
                self.deframer.recycle(frame.body);
                None
            }
            (Kind::Pong, _) => None,
            (Kind::GoAway, _) => self.on_go_away(&frame),
            _ => {
                self.misbehaved(Misbehaviour::Unexpected(kind));
                None
            }
        }
    }

    #[inline]
    fn on_request<'a>(&mut self, frame: Frame<'a>, now: Instant) -> Option<Event<'a>> {
        let head = RequestHead::from_header(&frame.header);
        let slot = head.call.slot();
        if slot >= self.config.in_flight_max {
            let window = self.config.in_flight_max;
            self.misbehaved(Misbehaviour::BeyondWindow { slot, window });
            return None;
        }
        if self.deferred.is_busy(slot) {
            self.misbehaved(Misbehaviour::SlotBusy(slot));
            return None;
        }
        self.last_request_at = now;
        if self.phase == Phase::Leaving {
            self.answer_bare(head.call, Status::DRAINING);
            self.deframer.recycle(frame.body);
            return None;
        }
        let deadline = head.time_left().map(|left| now + left);
        Some(Event::Request { head, body: frame.body, deadline })
    }

    #[inline]
    fn on_response<'a>(&mut self, frame: Frame<'a>) -> Option<Event<'a>> {
        let head = ResponseHead::from_header(&frame.header);
        let Some(token) = self.calls.end_and_free(head.call) else {
            // Cancelled or expired here while the answer was on its way.
            self.deframer.recycle(frame.body);
            return None;
        };
        self.leave_if_done();
        Some(Event::Response { token, head, body: frame.body })
    }

    fn on_cancel(&mut self, call: CallId) -> Option<Event<'static>> {
        // An unknown id is normal: the answer and the cancel crossed.
        let token = self.deferred.end(call)?;
        self.leave_if_done();
        Some(Event::RequestDropped { token, cause: DropCause::Cancelled })
    }

    fn on_hello(&mut self, frame: &Frame<'_>) -> Option<Event<'static>> {
        let ours = Connection::hello(self.role, &self.config, &ShardMap::default());
        let agreed = Hello::decode(&frame.header, frame.body.payload())
            .and_then(|peer| ours.agree(&peer).map(|_version| peer));
        match agreed {
            Ok(peer) => {
                self.framer = Framer::new(ours.payload_crc && peer.payload_crc);
                self.peer = peer;
                self.phase = Phase::Open;
                Some(Event::Opened)
            }
            Err(error) => {
                self.close(CloseReason::PeerIncompatible(error));
                None
            }
        }
    }

    fn on_go_away(&mut self, frame: &Frame<'_>) -> Option<Event<'static>> {
        let reason = GoAwayReason(frame.header.code);
        let text = frame.body.payload();
        let text = &text[..text.len().min(GO_AWAY_TEXT_BYTES_MAX)];
        let text = String::from_utf8_lossy(text).into_owned();
        if self.phase == Phase::Greeting {
            self.close(CloseReason::PeerLeft(reason));
            return Some(Event::PeerLeaves { reason, text });
        }
        self.phase = Phase::Leaving;
        self.peer_reason(reason);
        self.leave_if_done();
        Some(Event::PeerLeaves { reason, text })
    }
}

/// Ends.
impl Connection {
    fn misbehaved(&mut self, what: Misbehaviour) {
        self.close(CloseReason::PeerMisbehaved(what));
    }

    fn close(&mut self, reason: CloseReason) {
        if self.phase == Phase::Closed {
            return;
        }
        if let Some(go_away) = reason.go_away() {
            self.push_go_away(go_away, &reason.to_string());
        }
        self.phase = Phase::Closed;
        self.close_reason = Some(reason);
    }

    fn peer_reason(&mut self, reason: GoAwayReason) {
        if self.close_reason.is_none() {
            self.close_reason = Some(CloseReason::PeerLeft(reason));
        }
    }

    /// A client that leaves ends when its last call has; a server waits for its client to end, so
    /// that a request under way is refused in so many words rather than met by a closed door.
    fn leave_if_done(&mut self) {
        if self.phase == Phase::Leaving && self.role == Role::Client && self.calls.is_empty() {
            let reason = self.close_reason.take().unwrap_or(CloseReason::Drained);
            self.close(reason);
        }
    }

    /// After the end: everything in flight, one by one, then the reason.
    fn poll_closing_event(&mut self) -> Option<Event<'static>> {
        if let Some(call) = self.calls.any() {
            let token = self.calls.end(call).expect("any() names a call in flight");
            let failure = CallFailure::ConnectionEnded;
            return Some(Event::CallFailed { token, failure });
        }
        if let Some(call) = self.deferred.any() {
            let token = self.deferred.end(call).expect("any() names a call in flight");
            let cause = DropCause::ConnectionEnded;
            return Some(Event::RequestDropped { token, cause });
        }
        self.close_reason.take().map(Event::Closed)
    }

    /// The first limit of time that has been passed.
    fn overdue(&self, now: Instant) -> Option<CloseReason> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if self.phase == Phase::Greeting && now >= self.opened_at + self.config.hello_timeout {
            return Some(CloseReason::PeerTooSlow(TooSlow::Hello));
        }
        if passed(self.partial_deadline()) {
            return Some(CloseReason::PeerTooSlow(TooSlow::Frame));
        }
        if passed(self.pinged_at.map(|pinged_at| pinged_at + self.config.keepalive_timeout)) {
            return Some(CloseReason::PeerTooSlow(TooSlow::Pong));
        }
        if passed(self.leave_deadline) {
            let done = self.in_flight() == 0;
            return Some(if done { CloseReason::Drained } else { CloseReason::Aborted });
        }
        passed(self.idle_at()).then_some(CloseReason::Idle)
    }

    fn ping_at(&self) -> Instant {
        self.last_received_at + self.config.keepalive_interval
    }

    /// A frame has the frame timeout for its first MiB and as much again for each further one.
    fn partial_deadline(&self) -> Option<Instant> {
        let since = self.partial_since?;
        let (_, frame_bytes) = self.deframer.under_way()?;
        let steps = 1 + (frame_bytes.unwrap_or(HEADER_BYTES as u32) >> 20);
        Some(since + self.config.frame_timeout * steps)
    }

    fn idle_at(&self) -> Option<Instant> {
        let timeout: Duration = self.config.idle_timeout?;
        let is_idle =
            self.role == Role::Server && self.deferred.is_empty() && self.phase == Phase::Open;
        is_idle.then(|| self.last_request_at + timeout)
    }
}

/// Small frames of our own.
impl Connection {
    fn push_control(&mut self, kind: Kind, code: u16, call: u64) {
        let header: Header = control(kind, code, call);
        self.framer.push(&mut self.output, header, &[], Payload::Copied(&[]));
    }

    fn push_go_away(&mut self, reason: GoAwayReason, text: &str) {
        let header = control(Kind::GoAway, reason.0, 0);
        let text = &text.as_bytes()[..text.len().min(GO_AWAY_TEXT_BYTES_MAX)];
        self.framer.push(&mut self.output, header, &[], Payload::Copied(text));
    }

    fn answer_bare(&mut self, call: CallId, status: Status) {
        let in_flight = self.deferred.len();
        let head = ResponseHead { call, status, queue_delay_us: 0, service_us: 0, in_flight };
        self.framer.push(&mut self.output, head.header(), &[], Payload::Copied(&[]));
    }
}

#[cfg(test)]
mod tests;
