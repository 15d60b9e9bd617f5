//! The sockets of all shards: what a driver asks of the network. The handshake is in
//! [`super::handshake`], what happens on the way in [`super::traffic`].

use super::config::NetworkConfig;
use super::event_log::{EventKind, Hash, Place};
use super::fault::{Crash, Loss};
use super::handshake::Listener;
use super::host::{HostId, Notice, ShardAt, TO_THE_END};
use super::link::Links;
use super::stage::{Event, Stage};
use super::stream::{Connection, ConnectionId, Kernel, Pipe, Sending, Side, random_size};
use crate::driver::{Output, SendState, SocketId};
use crate::rng::Rng;
use bytes::Bytes;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// All that is connected, or about to be.
#[derive(Debug)]
pub(super) struct Network {
    pub config: NetworkConfig,
    pub links: Links,
    pub(super) rng: Rng,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) connections_begun: u64,
    pub(super) listeners: Vec<Listener>,
    pub(super) tables: BTreeMap<ShardAt, SocketTable>,
    pub(super) ports_given: BTreeMap<HostId, u16>,
}

/// What a read of a socket finds.
#[derive(Debug)]
pub(super) enum Read {
    Bytes(Bytes),
    /// There are bytes, but no buffer to put them in.
    NoBuffer,
    /// Nothing will arrive any more; said once.
    Ended(Result<(), Errno>),
    Nothing,
}

impl Network {
    pub fn new(config: NetworkConfig, rng: Rng) -> Self {
        Network {
            config,
            links: Links::default(),
            rng,
            connections: BTreeMap::new(),
            connections_begun: 0,
            listeners: Vec::new(),
            tables: BTreeMap::new(),
            ports_given: BTreeMap::new(),
        }
    }

    pub fn peer_address(&self, at: ShardAt, socket: SocketId) -> Option<SocketAddr> {
        let (id, side) = self.known_socket(at, socket)?;
        let connection = self.connections.get(&id)?;
        Some(connection.ends[side.other().index()].address)
    }

    pub fn send(
        &mut self,
        stage: &mut Stage,
        at: ShardAt,
        socket: SocketId,
        output: Output,
    ) -> SendState {
        let (id, side) = self.known_socket(at, socket).expect("a send names an open socket");
        if output.is_empty() {
            return SendState::Done(output);
        }
        let facts = [
            ("socket", u64::from(socket.slot)),
            ("bytes", output.len() as u64),
            ("digest", digest(&output)),
        ];
        let tenant = self.table(at).tenant_mut(socket).expect("the socket was found open above");
        assert!(!tenant.sends_ended, "nothing is sent on {socket:?} after the end of its sends");
        let before = std::mem::replace(&mut tenant.send_in_flight, true);
        assert!(!before, "at most one send may be in flight on {socket:?}");
        let connection = self.connection(id);
        let end = &mut connection.ends[side.index()];
        assert!(end.kernel != Kernel::Opening, "{socket:?} is not connected yet");
        if end.kernel == Kernel::Gone {
            stage.record_at(at, EventKind::SendLater, &facts);
            let result = Err(Errno::PIPE);
            stage.notify(at, Notice::Sent { socket, output, result });
            return SendState::InFlight;
        }
        let mut sending = Sending { output, taken: 0 };
        let all_taken = connection.pipes[side.index()].fill(&mut sending);
        let state = if !all_taken {
            stage.record_at(at, EventKind::SendBlocked, &facts);
            connection.ends[side.index()].sending = Some(sending);
            SendState::InFlight
        } else if self.rng.chance(self.config.send_later_chance) {
            stage.record_at(at, EventKind::SendLater, &facts);
            let Sending { output, .. } = sending;
            stage.notify(at, Notice::Sent { socket, output, result: Ok(()) });
            SendState::InFlight
        } else {
            stage.record_at(at, EventKind::SendDone, &facts);
            self.on_sent_reported(at, socket);
            SendState::Done(sending.output)
        };
        self.transmit(stage, id, side);
        state
    }

    /// Ends the sending side: what was sent still arrives, and then the end of the stream.
    pub fn shutdown_send(&mut self, stage: &mut Stage, at: ShardAt, socket: SocketId) {
        let (id, side) = self.known_socket(at, socket).expect("only an open socket ends its sends");
        stage.record_at(at, EventKind::SendEnded, &[("socket", u64::from(socket.slot))]);
        let tenant = self.table(at).tenant_mut(socket).expect("the socket was found open above");
        assert!(!tenant.send_in_flight, "a send is not cut off by ending in order");
        tenant.sends_ended = true;
        let connection = self.connection(id);
        if connection.ends[side.index()].kernel == Kernel::Open {
            connection.pipes[side.index()].end_stream();
            self.transmit(stage, id, side);
        }
    }

    pub fn pause_receive(&mut self, stage: &mut Stage, at: ShardAt, socket: SocketId) {
        let Some((id, side)) = self.known_socket(at, socket) else { return };
        stage.record_at(at, EventKind::ReceivePaused, &[("socket", u64::from(socket.slot))]);
        self.connection(id).ends[side.index()].paused = true;
    }

    pub fn resume_receive(&mut self, stage: &mut Stage, at: ShardAt, socket: SocketId) {
        let Some((id, side)) = self.known_socket(at, socket) else { return };
        stage.record_at(at, EventKind::ReceiveResumed, &[("socket", u64::from(socket.slot))]);
        self.connection(id).ends[side.index()].paused = false;
        stage.notify(at, Notice::Readable { socket, until: TO_THE_END });
    }

    /// True if a socket is open, not paused, and its end was not told yet.
    pub fn receives(&mut self, at: ShardAt, socket: SocketId) -> bool {
        let Some((id, side)) = self.known_socket(at, socket) else { return false };
        let end = &self.connection(id).ends[side.index()];
        !end.paused && !end.receive_ended && end.kernel != Kernel::Opening
    }

    /// Reads at most `bytes_max` of what arrived before position `until` of the stream.
    pub fn read(
        &mut self,
        stage: &mut Stage,
        at: ShardAt,
        socket: SocketId,
        until: u64,
        buffer_bytes: Option<usize>,
    ) -> Read {
        let Some((id, side)) = self.known_socket(at, socket) else { return Read::Nothing };
        let Some(connection) = self.connections.get_mut(&id) else { return Read::Nothing };
        let end = &mut connection.ends[side.index()];
        let pipe = &mut connection.pipes[side.other().index()];
        if end.receive_ended || end.kernel == Kernel::Opening {
            return Read::Nothing;
        }
        if !pipe.arrived.is_empty() {
            let due =
                usize::try_from(until.saturating_sub(pipe.read_bytes())).unwrap_or(usize::MAX);
            if end.paused || due == 0 {
                return Read::Nothing;
            }
            let Some(buffer_bytes) = buffer_bytes else { return Read::NoBuffer };
            let most = pipe.arrived.len().min(due).min(buffer_bytes);
            // Bytes that arrived together are read together, or not.
            let split = connection.fragmented && self.rng.chance(0.5);
            let bytes = if split { random_size(most, &mut self.rng) } else { most };
            let bytes = pipe.arrived.split_to(bytes).freeze();
            self.acknowledge(stage, id, side.other());
            return Read::Bytes(bytes);
        }
        let result = match end.broken {
            Some(broken) if !end.paused || broken.heard_while_paused => Err(broken.errno),
            None if pipe.end_arrived && !end.paused => Ok(()),
            _ => return Read::Nothing,
        };
        end.receive_ended = true;
        Read::Ended(result)
    }

    pub fn close(&mut self, stage: &mut Stage, at: ShardAt, socket: SocketId) {
        let Some((id, side)) = self.known_socket(at, socket) else { return };
        stage.record_at(at, EventKind::Closing, &[("socket", u64::from(socket.slot))]);
        let end = &mut self.connection(id).ends[side.index()];
        end.owner = None;
        let cut_short = end.sending.take().map(|sending| sending.output);
        if cut_short.is_some() {
            stage.record_at(at, EventKind::SendCutShort, &[("socket", u64::from(socket.slot))]);
        }
        let reset = cut_short.is_some() && self.rng.chance(0.5);
        self.abandon(stage, id, side, reset);
        let tenant = self.table(at).tenant_mut(socket).expect("the socket was found open above");
        tenant.closing = true;
        tenant.cut_short = cut_short;
        let delay = self.config.close_latency.draw(&mut self.rng);
        let incarnation = stage.host(at.host).incarnation;
        stage.after(delay, Event::CloseDone(at, incarnation, socket));
    }

    /// A close has ended: the send that was cut short comes back, then the socket is no more.
    pub fn on_close_done(
        &mut self,
        stage: &mut Stage,
        at: ShardAt,
        incarnation: u32,
        socket: SocketId,
    ) {
        if !stage.is_alive(at.host, incarnation) {
            return;
        }
        let tenant = self.table(at).tenant_mut(socket).expect("a closing socket keeps its slot");
        if let Some(output) = tenant.cut_short.take() {
            stage.notify(at, Notice::Sent { socket, output, result: Err(Errno::CANCELED) });
        }
        stage.notify(at, Notice::Closed { socket });
    }

    /// A send is no longer in flight as far as its caller knows.
    pub fn on_sent_reported(&mut self, at: ShardAt, socket: SocketId) {
        if let Some(tenant) = self.table(at).tenant_mut(socket) {
            tenant.send_in_flight = false;
        }
    }

    /// Frees a socket's slot; the caller reports its last completion.
    pub fn free_socket(&mut self, at: ShardAt, socket: SocketId) {
        let tenant = self.table(at).remove(socket);
        if let Some(connection) = self.connections.get_mut(&tenant.connection) {
            let owner = &mut connection.ends[tenant.side.index()].owner;
            owner.take_if(|owner| *owner == (at, socket));
            self.forget_if_over(tenant.connection);
        }
    }

    /// False once the socket is being closed, or void: what is left to report of it is dropped.
    pub fn is_reported(&self, at: ShardAt, socket: SocketId) -> bool {
        let tenant = self.tables.get(&at).and_then(|table| table.tenant(socket));
        tenant.is_some_and(|tenant| !tenant.closing)
    }

    /// The process of a host ends. Its kernel, if it lives on, closes what was open.
    pub fn crash(&mut self, stage: &mut Stage, host: HostId, how: Crash) {
        self.tables.retain(|at, _| at.host != host);
        self.listeners.retain(|listener| listener.shard.host != host);
        for (id, side) in self.ends_where(|end_host| end_host == host) {
            // The other end may have been on this host too, and the connection over with it.
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let end = &mut connection.ends[side.index()];
            let waited_for_accept = end.owner.take().is_none();
            end.sending = None;
            match how {
                Crash::Kill => {
                    let never_accepted = waited_for_accept && end.kernel == Kernel::Open;
                    self.abandon(stage, id, side, never_accepted);
                }
                Crash::PowerLoss => {
                    connection.forget(side);
                    // What is on the wire arrives; what was to be sent once more is not.
                    let pipe = &mut connection.pipes[side.index()];
                    if pipe.stalled_at.is_some() {
                        pipe.drop_flight();
                    }
                }
            }
            self.forget_if_over(id);
        }
    }

    /// A third party does something to one of the connections that are open, chosen by `pick`.
    pub fn lose(&mut self, stage: &mut Stage, pick: u64, loss: Loss) {
        let between_hosts = |(_, connection): &(&ConnectionId, &Connection)| {
            let [client, server] = &connection.ends;
            let open = client.kernel == Kernel::Open && server.kernel == Kernel::Open;
            open && client.host != server.host
        };
        let open: Vec<ConnectionId> =
            self.connections.iter().filter(between_hosts).map(|(id, _)| *id).collect();
        if open.is_empty() {
            return;
        }
        let id = open[(pick % open.len() as u64) as usize];
        let kind = match loss {
            Loss::Reset => EventKind::ConnectionLost,
            Loss::Silence => EventKind::ConnectionSilenced,
        };
        stage.record(Place::World, kind, &[("connection", id.0)]);
        match loss {
            Loss::Silence => self.connection(id).silenced = true,
            Loss::Reset => {
                for side in Side::BOTH {
                    self.break_end(stage, id, side, Errno::CONNRESET);
                }
            }
        }
    }

    /// A pipe for a new connection, with buffers of drawn sizes.
    pub(super) fn new_pipe(&mut self) -> Pipe {
        let mut draw = |(low, high): (usize, usize)| {
            assert!(0 < low && low <= high, "buffers have room for a byte and a sane range");
            low + self.rng.below((high - low) as u64 + 1) as usize
        };
        Pipe::new(draw(self.config.send_buffer_bytes), draw(self.config.receive_buffer_bytes))
    }

    pub(super) fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        self.connections.get_mut(&id).expect("an end that is not over has a connection")
    }

    pub(super) fn table(&mut self, at: ShardAt) -> &mut SocketTable {
        self.tables.entry(at).or_default()
    }

    /// All ends on hosts that `chosen` says, in the order in which their connections began.
    fn ends_where(&self, chosen: impl Fn(HostId) -> bool) -> Vec<(ConnectionId, Side)> {
        let ends = self.connections.iter().flat_map(|(id, connection)| {
            Side::BOTH.map(|side| (*id, side, connection.ends[side.index()].host))
        });
        ends.filter(|(_, _, host)| chosen(*host)).map(|(id, side, _)| (id, side)).collect()
    }

    /// A socket that is neither void nor being closed.
    fn known_socket(&self, at: ShardAt, socket: SocketId) -> Option<(ConnectionId, Side)> {
        let tenant = self.tables.get(&at)?.tenant(socket)?;
        (!tenant.closing).then_some((tenant.connection, tenant.side))
    }
}

fn digest(output: &Output) -> u64 {
    let mut hash = Hash::new();
    for slice in output.slices(0, usize::MAX) {
        hash.fold_bytes(&slice);
    }
    hash.0
}

/// The sockets of one shard.
#[derive(Debug, Default)]
pub(super) struct SocketTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    pub(super) listeners_begun: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    tenant: Option<Tenant>,
}

/// What a socket stands for.
#[derive(Debug)]
pub(super) struct Tenant {
    pub connection: ConnectionId,
    pub side: Side,
    pub closing: bool,
    /// Until its end is reported.
    pub send_in_flight: bool,
    /// Its caller has nothing more to send.
    pub sends_ended: bool,
    /// The output of a send that a close cut short, until it is reported.
    pub cut_short: Option<Output>,
}

impl SocketTable {
    /// A socket for one side of a connection. `None`: all slots are taken.
    pub fn insert(
        &mut self,
        connection: ConnectionId,
        side: Side,
        sockets_max: u32,
    ) -> Option<SocketId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < sockets_max as usize => {
                self.slots.push(Slot { generation: 0, tenant: None });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let place = &mut self.slots[slot as usize];
        place.generation += 1;
        place.tenant = Some(Tenant {
            connection,
            side,
            closing: false,
            send_in_flight: false,
            sends_ended: false,
            cut_short: None,
        });
        Some(SocketId { slot, generation: place.generation })
    }

    pub fn has_room(&self, sockets_max: u32) -> bool {
        !self.free.is_empty() || self.slots.len() < sockets_max as usize
    }

    fn remove(&mut self, socket: SocketId) -> Tenant {
        let place = &mut self.slots[socket.slot as usize];
        assert_eq!(place.generation, socket.generation, "a socket is freed once");
        self.free.push(socket.slot);
        place.tenant.take().expect("a socket is freed once")
    }

    fn tenant(&self, socket: SocketId) -> Option<&Tenant> {
        let place = self.slots.get(socket.slot as usize)?;
        place.tenant.as_ref().filter(|_| place.generation == socket.generation)
    }

    fn tenant_mut(&mut self, socket: SocketId) -> Option<&mut Tenant> {
        let place = self.slots.get_mut(socket.slot as usize)?;
        place.tenant.as_mut().filter(|_| place.generation == socket.generation)
    }
}
