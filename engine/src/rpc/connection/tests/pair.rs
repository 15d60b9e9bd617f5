//! Two connections and the wire between them, in virtual time.
//!
//! Bytes arrive in order and, with a seed, cut at random places. The harness keeps the contract that
//! every owner of a connection keeps, and checks what every connection promises: `Closed` comes
//! once and last, a closed connection wants nothing more, and time that is handled moves on.

use crate::config::ConnectionConfig;
use crate::rng::Rng;
use crate::rpc::connection::{CallFailure, CallRequest, Connection, DropCause, Event, Role};
use crate::rpc::error::{CloseReason, StartError};
use crate::time::{Duration, Instant, earliest};
use crate::wire::deframer::Input;
use crate::wire::frame::{CallId, GoAwayReason, MethodId, PongHead, RequestHead, ResponseHead};
use crate::wire::framer::Payload;
use crate::wire::hello::ShardMap;
use crate::wire::status::Status;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Answered within the turn with the request's own payload.
pub const ECHO: MethodId = MethodId(1);
/// Deferred; [`Pair::answer`] answers it.
pub const LATER: MethodId = MethodId(2);
/// Answered within the turn, in place, with as many bytes as the payload says (u32).
pub const SOURCE: MethodId = MethodId(3);

/// An event without its loans.
#[derive(Clone, PartialEq, Debug)]
pub enum Seen {
    Opened,
    Request { head: RequestHead, metadata: Vec<u8>, payload: Vec<u8>, deadline: Option<Instant> },
    Response { token: u64, head: ResponseHead, payload: Vec<u8> },
    CallFailed { token: u64, failure: CallFailure },
    RequestRefused { status: Status },
    RequestDropped { token: u64, cause: DropCause },
    PeerLeaves { reason: GoAwayReason, text: String },
    Closed(CloseReason),
}

impl From<&Event<'_>> for Seen {
    fn from(event: &Event<'_>) -> Seen {
        match event {
            Event::Opened => Seen::Opened,
            Event::Request { head, body, deadline } => Seen::Request {
                head: *head,
                metadata: body.metadata().as_bytes().to_vec(),
                payload: body.payload().to_vec(),
                deadline: *deadline,
            },
            Event::Response { token, head, body } => {
                Seen::Response { token: *token, head: *head, payload: body.payload().to_vec() }
            }
            Event::CallFailed { token, failure } => {
                Seen::CallFailed { token: *token, failure: *failure }
            }
            Event::RequestRefused { status } => Seen::RequestRefused { status: *status },
            Event::RequestDropped { token, cause } => {
                Seen::RequestDropped { token: *token, cause: *cause }
            }
            Event::Pinged { .. } | Event::Ponged(_) => unreachable!("no news, and not noted"),
            Event::PeerLeaves { reason, text } => {
                Seen::PeerLeaves { reason: *reason, text: text.clone() }
            }
            Event::Closed(reason) => Seen::Closed(reason.clone()),
        }
    }
}

/// One end: a connection, and the bytes on their way to it.
pub struct Side {
    pub connection: Connection,
    pub seen: Vec<Seen>,
    /// Sent by the peer, not arrived yet.
    pub pipe: VecDeque<u8>,
    /// The peer sends nothing after what is in the pipe.
    pipe_ended: bool,
    /// This side has closed its socket: it hears nothing any more.
    pub is_closed: bool,
}

impl Side {
    fn new(role: Role, config: &ConnectionConfig, shards: &ShardMap, now: Instant) -> Side {
        Side {
            connection: Connection::new(role, Arc::new(config.clone()), shards, now),
            seen: Vec::new(),
            pipe: VecDeque::new(),
            pipe_ended: false,
            is_closed: false,
        }
    }

    /// The reason of the end, if it has come.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        match self.seen.last() {
            Some(Seen::Closed(reason)) => Some(reason),
            _ => None,
        }
    }

    fn note(&mut self, event: &Event<'_>) {
        assert!(self.close_reason().is_none(), "{event:?} after Closed");
        self.seen.push(event.into());
    }

    pub fn drain_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.note(&event);
        }
        let is_over = self.close_reason().is_some();
        assert_eq!(self.connection.is_closed(), is_over, "Closed is reported at once");
        if is_over {
            assert_eq!(
                self.connection.poll_timeout(),
                None,
                "a closed connection waits for nothing"
            );
            assert_eq!(self.connection.in_flight(), 0, "everything in flight ended before");
        }
    }
}

/// A client, a server, and what is between them.
pub struct Pair {
    pub now: Instant,
    pub client: Side,
    pub server: Side,
    /// Deferred requests by token: head and payload.
    pub deferred: BTreeMap<u64, (RequestHead, Vec<u8>)>,
    /// What the client was told.
    pub pongs: Vec<PongHead>,
    next_token: u64,
    /// Where to cut, if at all.
    cuts: Option<Rng>,
}

impl Pair {
    /// Both ends just made; nothing has been delivered.
    pub fn new(client: &ConnectionConfig, server: &ConnectionConfig) -> Pair {
        let now = Instant::from_nanos(1_000_000_000);
        let shards = ShardMap { here: 1, ports: vec![7001, 7002] };
        Pair {
            now,
            client: Side::new(Role::Client, client, &ShardMap::default(), now),
            server: Side::new(Role::Server, server, &shards, now),
            deferred: BTreeMap::new(),
            pongs: Vec::new(),
            next_token: 0,
            cuts: None,
        }
    }

    /// Both ends with default configuration, hellos exchanged.
    pub fn open() -> Pair {
        Pair::open_with(&ConnectionConfig::default(), &ConnectionConfig::default())
    }

    /// Both ends, hellos exchanged.
    pub fn open_with(client: &ConnectionConfig, server: &ConnectionConfig) -> Pair {
        let mut pair = Pair::new(client, server);
        pair.settle();
        assert_eq!(pair.client.seen, [Seen::Opened]);
        assert_eq!(pair.server.seen, [Seen::Opened]);
        pair.client.seen.clear();
        pair.server.seen.clear();
        pair
    }

    /// From now on bytes arrive in pieces that `seed` decides.
    pub fn cut(&mut self, seed: u64) {
        self.cuts = Some(Rng::from_seed(seed));
    }

    /// From now on bytes arrive as they were sent.
    pub fn do_not_cut(&mut self) {
        self.cuts = None;
    }

    pub fn side(&mut self, role: Role) -> &mut Side {
        match role {
            Role::Client => &mut self.client,
            Role::Server => &mut self.server,
        }
    }

    /// The token of the next call.
    pub fn upcoming_token(&self) -> u64 {
        self.next_token
    }

    /// Starts a call with a token of its own.
    pub fn start(&mut self, request: CallRequest<'_>) -> Result<(u64, CallId), StartError> {
        let token = self.next_token;
        let call = self.client.connection.start_call(request, token, self.now)?;
        self.next_token += 1;
        Ok((token, call))
    }

    /// Starts a plain call that must be possible.
    pub fn call(&mut self, method: MethodId, payload: &[u8]) -> (u64, CallId) {
        self.start(CallRequest::new(method, payload)).expect("the call can be started")
    }

    /// Starts a call with a timeout.
    pub fn call_within(&mut self, method: MethodId, timeout: Duration) -> (u64, CallId) {
        let deadline = Some(self.now + timeout);
        let request = CallRequest { deadline, ..CallRequest::new(method, b"") };
        self.start(request).expect("the call can be started")
    }

    pub fn cancel(&mut self, call: CallId) -> bool {
        self.client.connection.cancel(call)
    }

    /// Answers a deferred request. False: nobody waited for it.
    pub fn answer(&mut self, token: u64, payload: &[u8]) -> bool {
        let (head, _) = self.deferred.remove(&token).expect("a deferred request");
        let connection = &mut self.server.connection;
        connection.respond_deferred(ok(head.call), Payload::Copied(payload)).is_some()
    }

    /// Answers a deferred request with what it brought.
    pub fn answer_with_its_payload(&mut self, token: u64) -> bool {
        let payload = self.deferred[&token].1.clone();
        self.answer(token, &payload)
    }

    pub fn drain(&mut self, role: Role) {
        let now = self.now;
        self.side(role).connection.drain(now);
    }

    /// Everything that has been said arrives, until nobody has anything to say.
    pub fn settle(&mut self) {
        for _round in 0..1_000 {
            self.flush();
            if self.is_quiet() {
                return;
            }
            self.deliver(Role::Server, usize::MAX);
            self.deliver(Role::Client, usize::MAX);
        }
        panic!("two connections talk for ever");
    }

    fn is_quiet(&self) -> bool {
        [&self.client, &self.server]
            .iter()
            .all(|side| side.is_closed || (side.pipe.is_empty() && !side.pipe_ended))
    }

    /// Moves output into the pipes and events into the logs.
    pub fn flush(&mut self) {
        self.after(Role::Client);
        self.after(Role::Server);
    }

    /// Delivers up to `count` of the bytes on their way to `role`.
    pub fn deliver(&mut self, role: Role, count: usize) {
        let mut left = count.min(self.side(role).pipe.len());
        while left > 0 && !self.side(role).is_closed {
            let length = match &mut self.cuts {
                Some(rng) => 1 + rng.below(left.min(100) as u64) as usize,
                None => left,
            };
            let chunk: Vec<u8> = self.side(role).pipe.drain(..length).collect();
            self.receive(role, &chunk);
            left -= length;
        }
        let side = self.side(role);
        if side.pipe.is_empty() && std::mem::take(&mut side.pipe_ended) && !side.is_closed {
            side.connection.handle_end(Ok(()));
            self.after(role);
        }
    }

    /// Hands `chunk` to `role`, and does there what its requests ask for.
    pub fn receive(&mut self, role: Role, chunk: &[u8]) {
        let now = self.now;
        let mut input = Input::new(chunk);
        while let Some(event) = self.side(role).connection.handle_bytes(&mut input, now) {
            // What keeps a connection alive is no news.
            if !matches!(event, Event::Pinged { .. } | Event::Ponged(_)) {
                self.side(role).note(&event);
            }
            match event {
                Event::Pinged { echo } => {
                    let load = PongHead { echo, queue_delay_us: 5, service_us: 7, in_flight: 3 };
                    self.side(role).connection.pong(load);
                }
                Event::Ponged(head) => self.pongs.push(head),
                Event::Request { head, body, deadline } => {
                    self.serve(&head, body.payload(), deadline);
                    self.side(role).connection.recycle(body);
                }
                Event::Response { body, .. } => self.side(role).connection.recycle(body),
                Event::RequestDropped { token, .. } => {
                    self.deferred.remove(&token).expect("only what was deferred is dropped");
                }
                _ => {}
            }
        }
        if !self.side(role).connection.is_closed() {
            assert_eq!(input.left(), 0, "an open connection reads everything");
        }
        self.after(role);
    }

    fn serve(&mut self, head: &RequestHead, payload: &[u8], deadline: Option<Instant>) {
        let connection = &mut self.server.connection;
        match head.method {
            LATER => {
                let token = self.next_token;
                self.next_token += 1;
                connection.defer(head.call, deadline, token);
                self.deferred.insert(token, (*head, payload.to_vec()));
            }
            SOURCE => {
                let count = u32::from_le_bytes(payload.try_into().expect("SOURCE takes a u32"));
                connection.respond_with(|writer| {
                    writer.fill(7, count as usize);
                    ok(head.call)
                });
            }
            _ => {
                connection.respond(ok(head.call), Payload::Copied(payload));
            }
        }
    }

    /// What every owner does after an input or command.
    fn after(&mut self, role: Role) {
        let seen_before = self.side(role).seen.len();
        self.side(role).drain_events();
        let side = self.side(role);
        let dropped: Vec<u64> = side.seen[seen_before..]
            .iter()
            .filter_map(|seen| match seen {
                Seen::RequestDropped { token, .. } => Some(*token),
                _ => None,
            })
            .collect();
        let output = side.connection.poll_transmit().map(|output| output.to_vec());
        let is_over = side.close_reason().is_some();
        let has_just_closed = is_over && !std::mem::replace(&mut side.is_closed, is_over);
        let peer = match role {
            Role::Client => &mut self.server,
            Role::Server => &mut self.client,
        };
        peer.pipe.extend(output.into_iter().flatten());
        peer.pipe_ended |= has_just_closed;
        for token in dropped {
            self.deferred.remove(&token).expect("only what was deferred is dropped");
        }
    }

    /// The wire breaks: what is on its way is lost.
    pub fn break_wire(&mut self) {
        for role in [Role::Client, Role::Server] {
            let side = self.side(role);
            side.pipe.clear();
            side.pipe_ended = false;
            if !side.is_closed {
                side.connection.handle_end(Err(std::io::ErrorKind::ConnectionReset.into()));
                self.after(role);
            }
        }
        self.client.pipe.clear();
        self.server.pipe.clear();
    }

    /// The instant at which somebody wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        earliest(self.client.connection.poll_timeout(), self.server.connection.poll_timeout())
    }

    /// Time passes, with everything delivered as soon as it is said.
    pub fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.settle();
        for _step in 0..100_000 {
            match self.next_timeout() {
                Some(next) if next <= end => {
                    self.now = self.now.max(next);
                    self.handle_timeouts();
                    self.settle();
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("time stands still");
    }

    /// As [`Pair::advance`], but nothing that is said arrives.
    pub fn advance_in_silence(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _step in 0..100_000 {
            match self.next_timeout() {
                Some(next) if next <= end => {
                    self.now = self.now.max(next);
                    self.handle_timeouts();
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("time stands still");
    }

    /// Calls `handle_timeout` on both sides, now.
    pub fn handle_timeouts(&mut self) {
        for role in [Role::Client, Role::Server] {
            let now = self.now;
            let connection = &mut self.side(role).connection;
            connection.handle_timeout(now);
            self.after(role);
            let next = self.side(role).connection.poll_timeout();
            assert!(next.is_none_or(|next| next > now), "{role:?} is due again at once: {next:?}");
        }
    }
}

/// The head of a good answer.
pub fn ok(call: CallId) -> ResponseHead {
    ResponseHead { call, status: Status::OK, queue_delay_us: 3, service_us: 5, in_flight: 9 }
}
