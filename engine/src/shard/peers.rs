//! The connections of a shard by socket: their bytes, their timers, their ends.

use super::calls;
use super::serve::Serving;
use crate::client::ClientKey;
use crate::config::ConnectionConfig;
use crate::driver::{Chunk, Driver, SendState, SocketId};
use crate::limits::{
    ACCEPT_WARNING_INTERVAL, LINGER, OUTPUT_KEEP_BYTES_MAX, OUTPUT_START_BYTES,
    OUTPUTS_KEPT_BYTES_MAX,
};
use crate::local::{DeferredKey, Local, Origin, TimerKey};
use crate::metrics::ShardMetrics;
use crate::rpc::connection::{Connection, Event, Role};
use crate::rpc::error::CloseReason;
use crate::time::Instant;
use crate::timers::TimerId;
use crate::wire::deframer::Input;
use crate::wire::frame::{CallId, ResponseHead};
use crate::wire::framer::Payload;
use crate::wire::hello::ShardMap;
use crate::wire::output::Output;
use crate::wire::status::Status;
use bytes::Bytes;
use std::cell::OnceCell;
use std::io;
use std::sync::Arc;

/// The connections of one shard.
#[derive(Debug)]
pub(crate) struct Peers {
    /// By slot of the socket. A box each, so that growing moves pointers and not connections.
    slots: Vec<Option<Box<Peer>>>,
    count: usize,
    served: usize,
    /// How many, both roles together, before one more is surplus.
    connections_max: usize,
    /// Connections that are surplus, and have a moment to read so.
    surplus: usize,
    /// The log says already that there are too many.
    is_crowded: bool,
    /// When the log last said that nobody can be accepted.
    accept_warned_at: Option<Instant>,
    /// Slots whose connection may have output, a new timeout or an end; each at most once.
    dirty: Vec<SocketId>,
    /// The other of two lists that take turns at being `dirty`.
    flushing: Vec<SocketId>,
    spare: SpareOutputs,
    config: Arc<ConnectionConfig>,
    pub(crate) shard_map: ShardMap,
}

/// One connection and its socket.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: SocketId,
    pub(crate) connection: Connection,
    owner: Owner,
    stage: Stage,
    is_surplus: bool,
    is_dirty: bool,
    is_sending: bool,
    /// The peer was told that nothing more will be sent.
    has_ended_sends: bool,
    is_paused: bool,
    /// It ended with a word of ours that the peer should have a chance to read.
    wants_linger: bool,
    /// It has answered a call.
    has_answered: bool,
    /// A call has ended or the hello has come: calls that wait may have room now.
    wants_pump: bool,
    /// What was received and is not read, because the peer does not read its answers.
    backlog: Vec<u8>,
    timer: Option<(TimerId, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// It called us.
    Server,
    /// A client of ours called it.
    Client(ClientKey),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The socket is not connected yet.
    Connecting,
    Open,
    /// The end has come; the peer has a moment to read the last bytes, or the close would destroy them.
    Lingering,
}

impl Peers {
    pub(crate) fn new(config: Arc<ConnectionConfig>, connections_max: u32) -> Self {
        Peers {
            slots: Vec::new(),
            count: 0,
            served: 0,
            connections_max: connections_max as usize,
            surplus: 0,
            is_crowded: false,
            accept_warned_at: None,
            dirty: Vec::new(),
            flushing: Vec::new(),
            spare: SpareOutputs::default(),
            config,
            shard_map: ShardMap::default(),
        }
    }

    /// Connections of both roles.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Connections that called us.
    pub(crate) fn served(&self) -> usize {
        self.served
    }

    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let peers = self.slots.iter().flatten();
        let each = peers.map(|peer| size_of::<Peer>() + peer.memory_bytes()).sum::<usize>();
        each + self.slots.capacity() * size_of::<Option<Box<Peer>>>()
    }

    pub(crate) fn get_mut(&mut self, socket: SocketId) -> Option<&mut Peer> {
        let peer = self.slots.get_mut(socket.slot as usize)?.as_deref_mut()?;
        (peer.socket == socket).then_some(peer)
    }

    /// A peer has called. If it is one too many it is told so, and that is all.
    pub(crate) fn accept(&mut self, socket: SocketId, now: Instant) {
        let config = self.config.clone();
        let mut connection = Connection::new(Role::Server, config, &self.shard_map, now);
        let is_surplus = self.count - self.surplus >= self.connections_max;
        if is_surplus {
            connection.refuse(CloseReason::Overloaded);
            self.note_crowd();
        }
        let peer = self.insert(socket, connection, Owner::Server, Stage::Open);
        peer.is_surplus = is_surplus;
        self.surplus += usize::from(is_surplus);
        self.served += 1;
    }

    /// Says once that there are too many. It is news again when an eighth of them has gone.
    fn note_crowd(&mut self) {
        if !std::mem::replace(&mut self.is_crowded, true) {
            let max = self.connections_max;
            tracing::warn!(max, "all connections of a shard are in use; others are sent away");
        }
    }

    /// The driver cannot accept for now, most likely for want of file descriptors, and tries again by
    /// itself. Whoever calls waits in the backlog.
    pub(crate) fn accept_failed(&mut self, error: &io::Error, now: Instant) {
        let is_said = |at| now.since(at) < ACCEPT_WARNING_INTERVAL;
        if !self.accept_warned_at.is_some_and(is_said) {
            self.accept_warned_at = Some(now);
            tracing::warn!(%error, "cannot accept connections for now; they wait (ulimit -n)");
        }
    }

    /// A client of ours calls a peer; its socket is not connected yet.
    pub(crate) fn insert_connecting(
        &mut self,
        socket: SocketId,
        client: ClientKey,
        config: Arc<ConnectionConfig>,
        now: Instant,
    ) {
        let connection = Connection::new(Role::Client, config, &ShardMap::default(), now);
        self.insert(socket, connection, Owner::Client(client), Stage::Connecting);
    }

    fn insert(
        &mut self,
        socket: SocketId,
        connection: Connection,
        owner: Owner,
        stage: Stage,
    ) -> &mut Peer {
        let slot = socket.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        assert!(self.slots[slot].is_none(), "a driver reuses a slot only after it was closed");
        self.slots[slot] = Some(Box::new(Peer {
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
            backlog: Vec::new(),
            timer: None,
        }));
        self.count += 1;
        self.dirty.push(socket);
        self.slots[slot].as_deref_mut().expect("it was put there a moment ago")
    }

    pub(crate) fn mark_dirty(&mut self, socket: SocketId) {
        if let Some(peer) = self.get_mut(socket)
            && !std::mem::replace(&mut peer.is_dirty, true)
        {
            self.dirty.push(socket);
        }
    }
}

/// What the driver reports.
impl Peers {
    #[inline]
    pub(crate) fn receive<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        chunk: Chunk,
        serving: &mut Serving,
    ) {
        serving.metrics.bytes_in.add(chunk.len() as u64);
        let mut spare = Some(self.spare.take());
        if let Some(peer) = self.get_mut(socket)
            && peer.stage == Stage::Open
        {
            peer.connection.provide_output(&mut spare);
            let whole = OnceCell::new();
            let lend = || whole.get_or_init(|| driver.lend(&chunk)).clone();
            peer.read(driver.bytes(&chunk), &lend, &|| driver.now(), serving);
            self.mark_dirty(socket);
        }
        self.spare.extend(spare);
        driver.give_back(chunk);
    }

    pub(crate) fn receive_ended(
        &mut self,
        socket: SocketId,
        result: io::Result<()>,
        serving: &mut Serving,
    ) {
        let Some(peer) = self.get_mut(socket) else { return };
        peer.stage = Stage::Open;
        peer.connection.handle_end(result);
        peer.take_events(serving);
        // It has read all that it will ever read.
        peer.wants_linger = false;
        self.mark_dirty(socket);
    }

    pub(crate) fn sent<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        output: Output,
        result: io::Result<()>,
        serving: &mut Serving,
    ) {
        self.spare.keep(output);
        let Some(peer) = self.get_mut(socket) else { return };
        peer.is_sending = false;
        peer.connection.handle_send_ended(serving.local.now());
        if let Err(error) = result {
            peer.connection.handle_end(Err(error));
            peer.take_events(serving);
        }
        self.mark_dirty(socket);
        self.catch_up(driver, socket, serving);
    }

    /// Once the peer has read enough of its answers, goes on reading what it asked.
    fn catch_up<D: Driver>(&mut self, driver: &mut D, socket: SocketId, serving: &mut Serving) {
        let Some(peer) = self.get_mut(socket) else { return };
        if peer.is_overfull() || (peer.backlog.is_empty() && !peer.is_paused) {
            return;
        }
        peer.read_backlog(&|| driver.now(), serving);
        if peer.is_paused && peer.backlog.is_empty() && !peer.is_overfull() {
            peer.is_paused = false;
            driver.resume_receive(socket);
            peer.connection.handle_receive_resumed(driver.now());
        }
        self.mark_dirty(socket);
    }

    pub(crate) fn connected<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        result: io::Result<()>,
        serving: &mut Serving,
    ) {
        let Some(peer) = self.get_mut(socket) else {
            // Given up while it was connecting.
            if result.is_ok() {
                driver.close(socket);
            }
            return;
        };
        match result {
            Ok(()) => peer.stage = Stage::Open,
            Err(error) => {
                peer.connection.handle_end(Err(error));
                peer.take_events(serving);
                self.remove(socket, &serving.local);
                return;
            }
        }
        self.mark_dirty(socket);
    }

    /// A connection's timer has fired; it may have been set for an instant that has moved.
    pub(crate) fn timeout<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        now: Instant,
        serving: &mut Serving,
    ) {
        let Some(peer) = self.get_mut(socket) else { return };
        peer.timer = None;
        if peer.stage == Stage::Lingering {
            self.close(driver, socket, &serving.local);
            return;
        }
        peer.connection.handle_timeout(now);
        peer.take_events(serving);
        self.mark_dirty(socket);
    }
}

/// What the shard asks for.
impl Peers {
    /// Answers a deferred request.
    pub(crate) fn answer(
        &mut self,
        key: DeferredKey,
        status: Status,
        payload: Payload<'static>,
        serving: &mut Serving,
    ) {
        // Nobody waits any more: cancelled, expired, or the connection is gone.
        let Some(mut deferred) = serving.end_deferred(key) else { return };
        deferred.release_task();
        let took_us = serving.local.now().micros_since(deferred.started);
        serving.metrics.service_time_us.record(took_us);
        let in_flight = serving.admission.in_flight() + 1;
        let head = deferred.answer_head(status, in_flight, serving.local.now());
        match deferred.origin {
            Origin::Peer { socket, .. } => self.respond(socket, head, payload, &serving.metrics),
            Origin::Shard { shard, key } => {
                let payload = match payload {
                    Payload::Copied(bytes) => Bytes::from_static(bytes),
                    Payload::Shared(bytes) => bytes,
                };
                serving.answer_shard(shard, key, head, payload);
            }
        }
    }

    /// Passes on the answer of another shard to a request that was handed over.
    pub(crate) fn respond_handed_over(
        &mut self,
        token: u64,
        head: ResponseHead,
        payload: Bytes,
        serving: &mut Serving,
    ) {
        let Some(deferred) = serving.end_deferred(DeferredKey::from_token(token)) else { return };
        if let Origin::Peer { socket, call } = deferred.origin {
            let (head, payload) = (ResponseHead { call, ..head }, Payload::Shared(payload));
            self.respond(socket, head, payload, &serving.metrics);
        }
    }

    fn respond(
        &mut self,
        socket: SocketId,
        head: ResponseHead,
        payload: Payload<'static>,
        metrics: &ShardMetrics,
    ) {
        let mut spare = Some(self.spare.take());
        if let Some(peer) = self.get_mut(socket) {
            peer.connection.provide_output(&mut spare);
            if let Some(status) = peer.connection.respond_deferred(head, payload) {
                metrics.count_response(status.class());
            }
            self.mark_dirty(socket);
        }
        self.spare.extend(spare);
    }

    pub(crate) fn cancel_call(&mut self, socket: SocketId, call: CallId) {
        if let Some(peer) = self.get_mut(socket) {
            peer.connection.cancel(call);
            peer.wants_pump = true;
            self.mark_dirty(socket);
        }
    }

    pub(crate) fn drain_one(&mut self, socket: SocketId, now: Instant) {
        if let Some(peer) = self.get_mut(socket) {
            peer.connection.drain(now);
            self.mark_dirty(socket);
        }
    }

    pub(crate) fn abort(&mut self, socket: SocketId) {
        if let Some(peer) = self.get_mut(socket) {
            peer.connection.abort(CloseReason::Aborted);
            self.mark_dirty(socket);
        }
    }

    /// Every connection that called us leaves; those that we made end with their last call.
    pub(crate) fn drain_all(&mut self, now: Instant) {
        let served = self.slots.iter().flatten().filter(|peer| peer.owner == Owner::Server);
        for socket in served.map(|peer| peer.socket).collect::<Vec<_>>() {
            self.drain_one(socket, now);
        }
    }

    /// One send for each connection that has output; ends what has ended; sets timers.
    pub(crate) fn flush<D: Driver>(&mut self, driver: &mut D, serving: &mut Serving) {
        std::mem::swap(&mut self.dirty, &mut self.flushing);
        for index in 0..self.flushing.len() {
            let socket = self.flushing[index];
            let Some(peer) = self.get_mut(socket) else { continue };
            peer.is_dirty = false;
            peer.take_events(serving);
            if peer.stage != Stage::Connecting && !peer.is_sending {
                self.send(driver, socket, &serving.metrics, &serving.local);
                self.catch_up(driver, socket, serving);
            }
            self.settle(driver, socket, &serving.local);
        }
        self.flushing.clear();
    }

    fn send<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        metrics: &ShardMetrics,
        local: &Local,
    ) {
        let Some(peer) = self.get_mut(socket) else { return };
        let Some(output) = peer.connection.poll_transmit() else {
            let unused = peer.connection.take_unused_output();
            self.spare.extend(unused);
            return;
        };
        let bytes = output.len();
        metrics.bytes_out.add(bytes as u64);
        match driver.send(socket, output) {
            SendState::Done(output) => self.spare.keep(output),
            SendState::InFlight => {
                peer.is_sending = true;
                peer.connection.handle_send_started(bytes, local.now());
            }
        }
    }

    /// After its output is on the way: pause, end, or set the timer.
    fn settle<D: Driver>(&mut self, driver: &mut D, socket: SocketId, local: &Local) {
        let Some(peer) = self.get_mut(socket) else { return };
        if peer.stage == Stage::Connecting {
            if peer.connection.is_closed() {
                self.close(driver, socket, local);
            } else {
                peer.set_timer(peer.connection.poll_timeout(), local);
            }
            return;
        }
        if peer.connection.is_closed() {
            if peer.wants_linger || peer.is_sending {
                peer.linger(driver, local);
            } else {
                self.close(driver, socket, local);
            }
            return;
        }
        if !peer.is_paused && (peer.is_overfull() || !peer.backlog.is_empty()) {
            peer.is_paused = true;
            driver.pause_receive(socket);
            peer.connection.handle_receive_paused();
        }
        if peer.stage == Stage::Open {
            peer.set_timer(peer.connection.poll_timeout(), local);
        }
    }

    fn close<D: Driver>(&mut self, driver: &mut D, socket: SocketId, local: &Local) {
        let Some(peer) = self.get_mut(socket) else { return };
        // A driver may hand a send over only after the turn that asked for it; a close overtakes it.
        let may_cut_off = peer.stage == Stage::Lingering;
        assert!(!peer.is_sending || may_cut_off, "only a linger that is over cuts a send off");
        driver.close(socket);
        self.remove(socket, local);
    }

    fn remove(&mut self, socket: SocketId, local: &Local) {
        let Some(mut peer) = self.slots[socket.slot as usize].take() else { return };
        self.count -= 1;
        self.served -= usize::from(peer.owner == Owner::Server);
        self.surplus -= usize::from(peer.is_surplus);
        let calm = self.connections_max - self.connections_max.div_ceil(8);
        self.is_crowded &= self.count - self.surplus > calm;
        peer.set_timer(None, local);
    }
}

/// Bytes and events of one peer.
impl Peer {
    #[inline]
    fn read(
        &mut self,
        bytes: &[u8],
        lend: &dyn Fn() -> Bytes,
        clock: &dyn Fn() -> Instant,
        serving: &mut Serving,
    ) {
        if !self.backlog.is_empty() {
            return self.backlog.extend_from_slice(bytes);
        }
        let mut input = Input::new(bytes);
        // All of it was in hand when the turn began: time that a request waits for those before it is
        // time of its deadline.
        let arrived = serving.turn_at();
        let mut now = clock();
        while !self.is_overfull()
            && let Some(event) = self.connection.handle_bytes(&mut input, arrived)
        {
            match event {
                Event::Request { head, body, deadline } => {
                    let arrival = (&head, &body, deadline);
                    let connection = &mut self.connection;
                    now = serving.serve_peer(connection, self.socket, arrival, lend, clock, now);
                    self.connection.recycle(body);
                }
                Event::Response { token, head, body } => {
                    calls::answered(&serving.local, token, head, body.to_payload_bytes(lend));
                    self.connection.recycle(body);
                    self.has_answered = true;
                    self.wants_pump = true;
                }
                other => self.on_event(other, serving),
            }
        }
        // After the end nobody reads the rest.
        if !self.connection.is_closed() {
            self.backlog.extend_from_slice(input.rest());
        }
        self.take_events(serving);
    }

    /// Reads what was put aside while the peer did not read its answers.
    fn read_backlog(&mut self, clock: &dyn Fn() -> Instant, serving: &mut Serving) {
        let backlog = std::mem::take(&mut self.backlog);
        let bytes = Bytes::from(backlog);
        self.read(&bytes, &|| bytes.clone(), clock, serving);
    }

    /// Events other than those in bytes, and what follows from them.
    fn take_events(&mut self, serving: &mut Serving) {
        while let Some(event) = self.connection.poll_event() {
            self.on_event(event, serving);
        }
        if std::mem::take(&mut self.wants_pump)
            && let Owner::Client(client) = self.owner
        {
            calls::pump(&serving.local, client, self.socket, &mut self.connection);
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
                serving.drop_deferred(DeferredKey::from_token(token), cause);
            }
            Event::CallFailed { token, failure } => {
                calls::failed(&serving.local, token, failure);
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
                log_close(&reason, self.owner);
                if let Some(client) = client {
                    let has_answered = self.has_answered;
                    calls::lost(&serving.local, client, self.socket, &reason, has_answered);
                }
            }
            Event::Request { .. } | Event::Response { .. } => {
                unreachable!("these lie in bytes and are taken where bytes are read")
            }
        }
    }

    /// So many answers wait for this peer that nothing more is read from it.
    #[inline]
    fn is_overfull(&self) -> bool {
        self.connection.is_output_full()
    }

    /// Lets the peer read what was sent last, then the end, and discards what it still sends: a close
    /// with unread input would destroy the last bytes. Its own end, or the timer, ends this.
    fn linger<D: Driver>(&mut self, driver: &mut D, local: &Local) {
        if self.stage == Stage::Open {
            self.stage = Stage::Lingering;
            self.backlog = Default::default();
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

    fn memory_bytes(&self) -> usize {
        self.connection.memory_bytes() + self.backlog.capacity()
    }

    /// Sets the timer no later than `at`. One that is set too early stays: moving it at every
    /// sign of life would cost more than one look too many.
    #[inline]
    fn set_timer(&mut self, at: Option<Instant>, local: &Local) {
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

fn log_close(reason: &CloseReason, owner: Owner) {
    if reason.is_peers_fault() {
        tracing::warn!(%reason, ?owner, "connection ended by the peer's fault");
    } else {
        tracing::debug!(%reason, ?owner, "connection ended");
    }
}

/// Memory for output that nobody uses at the moment. Taken for the length of a turn, or of a send;
/// so there is as much of it as sends are in flight, not as there are connections.
#[derive(Debug, Default)]
struct SpareOutputs {
    outputs: Vec<Output>,
    bytes: usize,
}

impl SpareOutputs {
    #[inline]
    fn take(&mut self) -> Output {
        match self.outputs.pop() {
            Some(output) => {
                self.bytes -= output.capacity();
                output
            }
            None => Output::with_capacity(OUTPUT_START_BYTES),
        }
    }

    #[inline]
    fn keep(&mut self, mut output: Output) {
        output.clear(OUTPUT_KEEP_BYTES_MAX);
        let bytes = output.capacity();
        if bytes > 0 && self.bytes + bytes <= OUTPUTS_KEPT_BYTES_MAX {
            self.bytes += bytes;
            self.outputs.push(output);
        }
    }

    fn extend(&mut self, unused: Option<Output>) {
        if let Some(output) = unused {
            self.keep(output);
        }
    }
}
