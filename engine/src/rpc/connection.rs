//! One peer, as a state machine without a socket or a clock. Server and client alike.
//!
//! ```text
//!              hello              go-away sent or received          nothing left, or time is up
//! Greeting ───────────► Open ─────────────────────────────► Leaving ───────────────► Closed
//!     │                                                        ▲                        ▲
//!     ├──────────────────── go-away sent ──────────────────────┘                        │
//!     └─────────── protocol error, silence, lost; from every state ─────────────────────┘
//! ```
//!
//! Its methods come in three sorts:
//! - **inputs** `handle_*`: bytes, the passing of time, the loss of the connection, what the owner
//!   does with the socket (a send is in flight, reading is paused);
//! - **commands**: start or cancel a call, answer or defer a request, drain, abort;
//! - **outputs** `poll_*`: what happened, what to send, when to be called again.
//!
//! The contract: after any input or command poll [`Connection::poll_event`] until `None`, send what
//! [`Connection::poll_transmit`] gives, and call [`Connection::handle_timeout`] at
//! [`Connection::poll_timeout`]. [`Connection::handle_bytes`] gives the events that lie in the bytes
//! themselves, one frame at a time, so that a request is handled where the kernel has put it.
//!
//! A peer that does not take its answers must not be read from: what it asks for is answered in
//! here or at once, frame for frame (a pong for a ping, a refusal for a request while leaving), so that
//! only the owner, who knows how much waits in the kernel too, can bound what accumulates. It stops
//! reading above `output_bytes_max` and says so with [`Connection::handle_receive_paused`].
//!
//! | file | what |
//! |---|---|
//! | this one | the state, inputs, commands, outputs |
//! | `event.rs` | [`Event`] and [`CallRequest`] |
//! | `frames.rs` | what each kind of frame does |
//! | `passing.rs` | frames that come from another connection and are passed on as they are |
//! | `timers.rs` | every limit of time |
//! | `ending.rs` | leaving and closing |

mod ending;
mod event;
mod frames;
mod passing;
mod timers;

pub use event::{CallFailure, CallRequest, DropCause, Event};
pub use passing::PassedCall;

use super::error::{CloseReason, Misbehaviour, StartError};
use super::in_flight::InFlight;
use crate::config::ConnectionConfig;
use crate::limits::{FRAME_BYTES_FLOOR, IN_FLIGHT_CEILING, METADATA_BYTES_MAX};
use crate::time::Instant;
use crate::wire::deframer::{Body, Deframer, Input};
use crate::wire::frame::{CallId, PongHead, RequestHead, ResponseHead, control};
use crate::wire::framer::{Framer, Payload, PayloadWriter};
use crate::wire::header::{HEADER_BYTES, Kind};
use crate::wire::hello::{Hello, ShardMap, VERSION_MAX, VERSION_MIN};
use crate::wire::output::{Mark, Output};
use crate::wire::spare::SpareBodies;
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

/// One peer. See the module page.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Arc<ConnectionConfig>,
    phase: Phase,
    /// The peer's hello is in.
    is_greeted: bool,
    deframer: Deframer,
    framer: Framer,
    output: Output,
    /// How often output was taken to be sent.
    transmits: u32,
    /// The stream has ended: what was not taken by then is never sent.
    has_lost_stream: bool,
    /// So much of the output are pongs.
    pong_bytes: usize,
    /// What the peer's hello said; before it, the least that any peer accepts.
    peer: Hello,
    /// Client: calls that wait for an answer.
    calls: InFlight<u64>,
    /// Server: requests that are answered later.
    deferred: InFlight<u64>,
    events: VecDeque<Event<'static>>,
    /// While leaving: the reason to end with when all is done. After the end: the reason, until it
    /// was polled.
    end_reason: Option<CloseReason>,
    opened_at: Instant,
    last_received_at: Instant,
    last_request_at: Instant,
    /// A deferred request has ended since the idle timeout was looked at.
    has_worked: bool,
    pinged_at: Option<Instant>,
    /// Since when an unfinished frame lies in the deframer.
    partial_since: Option<Instant>,
    /// The owner does not read from the peer.
    is_paused: bool,
    /// While a send is in flight: until when the peer must have taken it.
    taking_deadline: Option<Instant>,
    /// When the last send began.
    sending_since: Instant,
    /// A send had to wait for the peer, and no pong has come since: what is sent now, a ping too, goes
    /// behind all that the kernel holds.
    is_behind: bool,
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
            is_greeted: false,
            deframer: Deframer::new(FRAME_BYTES_FLOOR),
            framer: Framer::default(),
            output,
            transmits: 0,
            has_lost_stream: false,
            pong_bytes: 0,
            peer: Hello::LEAST,
            calls: InFlight::default(),
            deferred: InFlight::default(),
            events: VecDeque::new(),
            end_reason: None,
            opened_at: now,
            last_received_at: now,
            last_request_at: now,
            has_worked: false,
            pinged_at: None,
            partial_since: None,
            is_paused: false,
            taking_deadline: None,
            sending_since: now,
            is_behind: false,
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

    /// True when so much waits to be sent *because of what the peer sent* that nothing more should
    /// be read from it.
    ///
    /// What a client asks for itself does not count. A client that did not read for as long as its own
    /// requests wait, and a server that does not read for as long as its answers do, would wait for
    /// each other for ever.
    #[inline]
    pub fn is_output_full(&self) -> bool {
        let caused_by_peer = match self.role {
            Role::Server => self.output.len(),
            Role::Client => self.pong_bytes,
        };
        caused_by_peer > self.config.output_bytes_max
    }

    /// Client: false when so much waits to be sent that further calls should wait with their owner.
    #[inline]
    pub fn has_room_for_calls(&self) -> bool {
        self.output.len() <= self.config.output_bytes_max
    }

    /// How often output was taken to be sent until now. A call that is started now is in what is taken
    /// next; see [`Connection::is_never_sent`].
    pub fn transmits(&self) -> u32 {
        self.transmits
    }

    /// True when a call that was started at `transmits` is certainly never sent: the stream has ended,
    /// and nothing was taken in between.
    pub fn is_never_sent(&self, transmits: u32) -> bool {
        self.role == Role::Client && self.has_lost_stream && transmits == self.transmits
    }

    /// Memory in bytes of the frame under way and of what waits to be sent.
    #[inline]
    pub fn waiting_bytes(&self) -> usize {
        self.deframer.memory_bytes() + self.output.memory_bytes()
    }

    /// Memory in bytes that this connection holds beyond its own size.
    pub fn memory_bytes(&self) -> usize {
        self.deframer.memory_bytes()
            + self.output.memory_bytes()
            + self.calls.memory_bytes()
            + self.deferred.memory_bytes()
            + self.events.capacity() * size_of::<Event<'_>>()
            + self.peer.shards.ports.capacity() * size_of::<u16>()
    }
}

/// Inputs.
impl Connection {
    /// Takes in bytes and gives the next event that lies in them. Call until it gives `None`; all of
    /// `input` is read then, unless the connection has ended. A request must be answered or deferred
    /// before the next call.
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

    /// Memory to receive the rest of a large frame into; see [`Deframer::lend_partial`]. Give it
    /// back with [`Connection::put_back_memory`].
    #[inline]
    pub fn lend_memory(&mut self) -> Option<(Vec<u8>, usize)> {
        self.deframer.lend_partial()
    }

    /// Takes the memory of large frames from `spare`.
    pub fn use_spare(&mut self, spare: Arc<SpareBodies>) {
        self.deframer.use_spare(spare);
    }

    /// Takes lent memory back. [`Connection::handle_bytes`] reads on where it ends.
    pub fn put_back_memory(&mut self, memory: Vec<u8>) {
        self.deframer.put_back(memory);
    }

    /// Takes back the memory of a request's or response's body, once it is done with.
    #[inline]
    pub fn recycle(&mut self, body: Body<'_>) {
        self.deframer.recycle(body);
    }

    /// The peer ended its stream (`Ok`) or the connection broke (`Err`). Nothing more is sent: a peer
    /// ends its stream only when it wants no more answers.
    pub fn handle_end(&mut self, result: std::io::Result<()>) {
        if self.phase != Phase::Closed {
            self.has_lost_stream = true;
            if self.role == Role::Client {
                self.output.clear(0);
            }
            self.end_with_stream(match result {
                Ok(()) => CloseReason::PeerClosed,
                Err(error) => CloseReason::Lost(error.kind()),
            });
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
            Some(deadline) => time_left_us(deadline, now),
        };
        if request.metadata.len() > METADATA_BYTES_MAX {
            return Err(StartError::MetadataTooLong { bytes: request.metadata.len() });
        }
        let frame_bytes = self.framer.frame_bytes(request.metadata.len(), request.payload.len());
        if frame_bytes > self.peer.frame_bytes_max as usize {
            return Err(StartError::TooLarge { frame_bytes, max: self.peer.frame_bytes_max });
        }
        let window = self.peer.in_flight_max.min(IN_FLIGHT_CEILING);
        let call =
            self.calls.start(window, request.deadline, token).ok_or(StartError::WindowFull)?;
        let head = RequestHead {
            call,
            method: request.method,
            priority: request.priority,
            time_left_us,
            route: request.route,
            repeat: request.repeat,
            hops: 0,
        };
        self.framer.push(&mut self.output, head.header(), request.metadata, request.payload);
        Ok(call)
    }

    /// Gives up a call and tells the server. True if it was still in flight; no event will follow.
    pub fn cancel(&mut self, call: CallId) -> bool {
        let was_in_flight = self.calls.end_and_free(call).is_some();
        if was_in_flight && self.phase != Phase::Closed {
            self.push_control(Kind::Cancel, 0, call.0);
            self.end_if_done();
        }
        was_in_flight
    }

    /// Asks the server for a pong that repeats `echo`: a sign of life, and its load. False: the
    /// connection has no hello yet, or has ended.
    pub fn ping(&mut self, echo: u64) -> bool {
        let can_ask = self.is_greeted && self.phase != Phase::Closed;
        if can_ask {
            self.push_control(Kind::Ping, 0, echo);
        }
        can_ask
    }
}

/// Commands of a server.
impl Connection {
    /// Answers a request that was not deferred. Returns the status that the peer is told: that of
    /// `head`, unless the answer is longer than the peer accepts.
    #[inline]
    pub fn respond(&mut self, head: ResponseHead, payload: Payload<'_>) -> Status {
        if self.phase == Phase::Closed {
            return head.status;
        }
        if self.framer.frame_bytes(0, payload.len()) > self.peer.frame_bytes_max as usize {
            let head = ResponseHead { status: Status::ANSWER_TOO_LARGE, ..head };
            self.framer.push(&mut self.output, head.header(), &[], Payload::Copied(&[]));
            return head.status;
        }
        self.framer.push(&mut self.output, head.header(), &[], payload);
        head.status
    }

    /// Answers a request that was not deferred; `write` puts the payload where it is sent from and
    /// returns the header that goes before it. Returns as [`Connection::respond`] does.
    #[inline]
    pub fn respond_with(
        &mut self,
        write: impl FnOnce(&mut PayloadWriter<'_>) -> ResponseHead,
    ) -> Status {
        let frame_at = self.output.copied_mut().len();
        let (head, payload_bytes) = self.framer.push_with(&mut self.output, write);
        let is_too_large =
            self.framer.frame_bytes(0, payload_bytes) > self.peer.frame_bytes_max as usize;
        if is_too_large || self.phase == Phase::Closed {
            self.output.copied_mut().truncate(frame_at);
        }
        if is_too_large {
            let head = ResponseHead { status: Status::ANSWER_TOO_LARGE, ..head };
            return self.respond(head, Payload::Copied(&[]));
        }
        head.status
    }

    /// Where the output ends now; see [`Connection::roll_back_output`].
    #[inline]
    pub fn output_mark(&self) -> Mark {
        self.output.mark()
    }

    /// Forgets what a handler had answered, in whole or in part, before it panicked.
    pub fn roll_back_output(&mut self, mark: Mark) {
        self.output.roll_back(mark);
    }

    /// Puts a request off: it is answered later with [`Connection::respond_deferred`], or dropped
    /// with an event that carries `token`.
    ///
    /// # Panics
    /// If its slot has a deferred request already, which cannot be if requests are deferred before the
    /// next [`Connection::handle_bytes`].
    pub fn defer(&mut self, call: CallId, deadline: Option<Instant>, token: u64) {
        self.deferred.enter(call, deadline, token);
    }

    /// Answers a deferred request; returns as [`Connection::respond`] does. `None`: nobody waits for
    /// it any more, nothing was sent.
    pub fn respond_deferred(&mut self, head: ResponseHead, payload: Payload<'_>) -> Option<Status> {
        if self.phase == Phase::Closed {
            return None;
        }
        self.end_deferred(head.call)?;
        Some(self.respond(head, payload))
    }
}

/// Commands of both.
impl Connection {
    /// Answers a ping.
    pub fn pong(&mut self, head: PongHead) {
        if self.phase != Phase::Closed {
            self.framer.push(&mut self.output, head.header(), &[], Payload::Copied(&[]));
            self.pong_bytes += HEADER_BYTES;
        }
    }

    /// Leaves: tells the peer to start nothing new, refuses what still arrives (with a status that
    /// says *not executed*), finishes what runs, at most for the drain timeout.
    pub fn drain(&mut self, now: Instant) {
        match self.phase {
            Phase::Greeting | Phase::Open => self.leave(CloseReason::Drained, now),
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
        self.pong_bytes = 0;
        if self.output.is_empty() {
            return None;
        }
        self.transmits = self.transmits.wrapping_add(1);
        Some(std::mem::take(&mut self.output))
    }

    /// Lends memory for output, so that a busy connection allocates none and an idle one holds none.
    /// What it still holds of its last use is not sent again.
    #[inline]
    pub fn provide_output(&mut self, memory: &mut Option<Output>) {
        if self.lacks_output()
            && let Some(mut memory) = memory.take()
        {
            memory.clear(usize::MAX);
            self.output = memory;
        }
    }

    /// True if it would have to allocate to be written to.
    #[inline]
    pub fn lacks_output(&self) -> bool {
        self.output.capacity() == 0 && self.output.is_empty()
    }

    /// Takes unused memory for output back.
    #[inline]
    pub fn take_unused_output(&mut self) -> Option<Output> {
        let unused = self.output.is_empty() && self.output.capacity() > 0;
        unused.then(|| std::mem::take(&mut self.output))
    }
}

/// Small frames of our own.
impl Connection {
    fn push_control(&mut self, kind: Kind, code: u16, call: u64) {
        push_control(&self.framer, &mut self.output, kind, code, call);
    }

    fn answer_bare(&mut self, call: CallId, status: Status) {
        push_bare_answer(&self.framer, &mut self.output, call, status);
    }
}

fn push_control(framer: &Framer, output: &mut Output, kind: Kind, code: u16, call: u64) {
    framer.push(output, control(kind, code, call), &[], Payload::Copied(&[]));
}

/// An answer that is given in here, where the load of the shard is not known.
fn push_bare_answer(framer: &Framer, output: &mut Output, call: CallId, status: Status) {
    let in_flight = ResponseHead::LOAD_UNKNOWN;
    let head = ResponseHead { call, status, queue_delay_us: 0, service_us: 0, in_flight };
    framer.push(output, head.header(), &[], Payload::Copied(&[]));
}

/// Time left as the wire tells it: at least 1, for 0 means "for ever", and 0 if it is longer than the
/// field can say, for the server must not end the work before the caller would.
fn time_left_us(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.since(now).as_micros();
    u32::try_from(left.max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
