//! The connections of a shard by socket: their bytes, their timers, their ends.

use super::peer::{Owner, Peer, Stage};
use super::serve::Serving;
use super::spare::SpareOutputs;
use crate::client::ClientKey;
use crate::config::ConnectionConfig;
use crate::driver::{Chunk, Driver, SendState, SocketId};
use crate::limits::{ACCEPT_WARNING_INTERVAL, BACKLOG_READ_MAX};
use crate::local::{DeferredKey, Local, Origin};
use crate::metrics::ShardMetrics;
use crate::rpc::connection::{Connection, Role};
use crate::rpc::error::CloseReason;
use crate::time::Instant;
use crate::wire::frame::{CallId, ResponseHead};
use crate::wire::framer::{PassedBody, Payload};
use crate::wire::hello::ShardMap;
use crate::wire::output::Output;
use crate::wire::spare::SpareBodies;
use crate::wire::status::Status;
use bytes::Bytes;
use std::cell::OnceCell;
use std::collections::VecDeque;
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
    /// Connections with more to read than was their part of a turn, each at most once.
    behind: VecDeque<SocketId>,
    /// Memory of all connections, in bytes.
    memory: usize,
    memory_max: usize,
    spare: SpareOutputs,
    spare_bodies: Arc<SpareBodies>,
    config: Arc<ConnectionConfig>,
    pub(crate) shard_map: ShardMap,
}

impl Peers {
    pub(crate) fn new(
        config: Arc<ConnectionConfig>,
        connections_max: u32,
        memory_max: usize,
    ) -> Self {
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
            behind: VecDeque::new(),
            memory: 0,
            memory_max,
            spare: SpareOutputs::default(),
            spare_bodies: Arc::default(),
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

    /// True if there is something to do that nobody outside will tell of.
    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.behind.is_empty()
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

    /// A peer, ready to be written to: it has memory for that.
    #[inline]
    pub(super) fn get_with_output(&mut self, socket: SocketId) -> Option<&mut Peer> {
        let peer = self.slots.get_mut(socket.slot as usize)?.as_deref_mut()?;
        if peer.socket != socket {
            return None;
        }
        if peer.connection.lacks_output() {
            let mut spare = Some(self.spare.take());
            peer.connection.provide_output(&mut spare);
            self.spare.extend(spare);
        }
        Some(peer)
    }

    /// Takes a peer out, to be read from while the others are at hand; [`Peers::put_back`] follows.
    #[inline]
    fn take_out(&mut self, socket: SocketId) -> Option<Box<Peer>> {
        let slot = self.slots.get_mut(socket.slot as usize)?;
        slot.take_if(|peer| peer.socket == socket)
    }

    #[inline]
    fn take_out_open(&mut self, socket: SocketId) -> Option<Box<Peer>> {
        let slot = self.slots.get_mut(socket.slot as usize)?;
        slot.take_if(|peer| peer.socket == socket && peer.stage == Stage::Open)
    }

    #[inline]
    fn put_back(&mut self, peer: Box<Peer>) -> &mut Peer {
        let slot = peer.socket.slot as usize;
        self.slots[slot].insert(peer)
    }

    /// True if one more is surplus, `others` counted that are not among these.
    pub(crate) fn is_full_with(&self, others: usize) -> bool {
        self.count - self.surplus + others >= self.connections_max
    }

    /// A peer has called. If it is one too many it is told so, and that is all.
    pub(crate) fn accept(&mut self, socket: SocketId, now: Instant, others: usize) {
        let config = self.config.clone();
        let mut connection = Connection::new(Role::Server, config, &self.shard_map, now);
        let is_surplus = self.is_full_with(others);
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
        mut connection: Connection,
        owner: Owner,
        stage: Stage,
    ) -> &mut Peer {
        connection.use_spare(self.spare_bodies.clone());
        let slot = socket.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        assert!(self.slots[slot].is_none(), "a driver reuses a slot only after it was closed");
        self.slots[slot] = Some(Box::new(Peer::new(socket, connection, owner, stage)));
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
        if let Some(mut peer) = self.take_out_open(socket) {
            let mut spare = Some(self.spare.take());
            peer.connection.provide_output(&mut spare);
            let whole = OnceCell::new();
            let lend = || whole.get_or_init(|| driver.lend(&chunk)).clone();
            peer.read(driver.bytes(&chunk), &lend, &|| driver.now(), serving, self);
            peer.offer_memory(driver);
            self.put_back(peer);
            self.mark_dirty(socket);
            self.spare.extend(spare);
        }
        driver.give_back(chunk);
    }

    /// More of a large frame has arrived, where it belongs.
    pub(crate) fn filled<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        memory: Vec<u8>,
        serving: &mut Serving,
    ) {
        if let Some(mut peer) = self.take_out_open(socket) {
            let mut spare = Some(self.spare.take());
            peer.connection.provide_output(&mut spare);
            peer.connection.put_back_memory(memory);
            peer.read(&[], &Bytes::new, &|| driver.now(), serving, self);
            peer.offer_memory(driver);
            self.put_back(peer);
            self.mark_dirty(socket);
            self.spare.extend(spare);
        }
    }

    pub(crate) fn receive_ended<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        result: io::Result<()>,
        serving: &mut Serving,
    ) {
        let Some(mut peer) = self.take_out(socket) else { return };
        peer.stage = Stage::Open;
        if matches!(peer.owner, Owner::Client(_)) {
            // Answers that came before the end are answers.
            peer.read_to_the_end(&|| driver.now(), serving, self);
        }
        let peer = self.put_back(peer);
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
        peer.sending_bytes = 0;
        peer.connection.handle_send_ended(serving.local.now());
        if let Err(error) = result {
            peer.connection.handle_end(Err(error));
            peer.take_events(serving);
        }
        self.mark_dirty(socket);
        self.catch_up(driver, socket, serving);
    }

    /// How many have more to read than was their part of a turn.
    pub(crate) fn behind(&self) -> usize {
        self.behind.len()
    }

    /// Gives the one that has been behind for longest its part of this turn.
    pub(crate) fn read_one_behind<D: Driver>(&mut self, driver: &mut D, serving: &mut Serving) {
        let Some(socket) = self.behind.pop_front() else { return };
        let Some(peer) = self.get_mut(socket) else { return };
        peer.is_behind = false;
        self.catch_up(driver, socket, serving);
    }

    /// Goes on reading what was put aside, once the peer has read enough of its answers.
    #[inline]
    fn catch_up<D: Driver>(&mut self, driver: &mut D, socket: SocketId, serving: &mut Serving) {
        let Some(peer) = self.get_mut(socket) else { return };
        let has_work = !peer.backlog.is_empty() || peer.is_paused;
        if has_work && !peer.is_overfull() {
            let mut spare = Some(self.spare.take());
            self.read_on(driver, socket, &mut spare, serving);
            self.spare.extend(spare);
        }
    }

    fn read_on<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        spare: &mut Option<Output>,
        serving: &mut Serving,
    ) {
        let Some(mut peer) = self.take_out(socket) else { return };
        peer.connection.provide_output(spare);
        peer.read_backlog(&|| driver.now(), serving, self);
        let peer = self.put_back(peer);
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
        serving.count_service_time(took_us);
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

    /// Passes an answer on to the peer that waits for it. Returns as [`Connection::pass_answer`] does.
    #[inline]
    pub(super) fn pass_answer(
        &mut self,
        socket: SocketId,
        head: ResponseHead,
        body: PassedBody<'_>,
    ) -> Option<Status> {
        let status = self.get_with_output(socket)?.connection.pass_answer(head, body);
        self.mark_dirty(socket);
        status
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
        let has_room_again = peer.holds_calls;
        peer.wants_pump |= has_room_again;
        match driver.send(socket, output) {
            SendState::Done(output) => self.spare.keep(output),
            SendState::InFlight => {
                peer.is_sending = true;
                peer.sending_bytes = bytes;
                peer.connection.handle_send_started(bytes, local.now());
            }
        }
        if has_room_again {
            self.mark_dirty(socket);
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
        if !peer.is_paused && (peer.is_overfull() || peer.backlog.bytes() > BACKLOG_READ_MAX) {
            peer.is_paused = true;
            driver.pause_receive(socket);
            peer.connection.handle_receive_paused();
        }
        if peer.stage == Stage::Open {
            peer.set_timer(peer.connection.poll_timeout(), local);
        }
        let held = peer.held_bytes();
        let held_before = std::mem::replace(&mut peer.accounted, held);
        if !peer.is_behind && peer.has_more_to_read() {
            peer.is_behind = true;
            self.behind.push_back(socket);
        }
        if held != held_before {
            self.memory = self.memory + held - held_before;
            if self.memory > self.memory_max {
                self.give_up_the_largest();
            }
        }
    }

    /// All connections together hold more memory than they may: the one that holds most is told so and
    /// ended. A few peers that do not read their answers, or do not finish their requests, would take the
    /// memory of all.
    #[cold]
    fn give_up_the_largest(&mut self) {
        // One that was given up a moment ago and has not been settled since is not given up again.
        let is_open = |peer: &&Peer| peer.stage == Stage::Open && !peer.connection.is_closed();
        let open = self.slots.iter().flatten().map(Box::as_ref).filter(is_open);
        let held: usize = open.clone().map(|peer| peer.accounted).sum();
        // What those hold that are ending already comes back without further ado.
        if held <= self.memory_max {
            return;
        }
        let largest = open.max_by_key(|peer| peer.accounted).map(|peer| peer.socket);
        if let Some(peer) = largest.and_then(|socket| self.get_mut(socket)) {
            tracing::warn!(
                bytes = peer.accounted,
                all_bytes = held,
                "connections hold too much memory; the one that holds most is ended"
            );
            peer.connection.abort(CloseReason::Overloaded);
            let socket = peer.socket;
            self.mark_dirty(socket);
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
        self.memory -= peer.accounted;
        self.served -= usize::from(peer.owner == Owner::Server);
        self.surplus -= usize::from(peer.is_surplus);
        let calm = self.connections_max - self.connections_max.div_ceil(8);
        self.is_crowded &= self.count - self.surplus > calm;
        peer.set_timer(None, local);
    }
}
