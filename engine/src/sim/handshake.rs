//! How connections begin: listening, connecting, accepting.
//!
//! ```text
//! client                       server's kernel                 server
//! connect ──── Syn ──────────► listener? room in the backlog?
//! Connected ◄─ SynAck ───────┘ (no listener: reset, refused)
//!     └─────── Opened ───────► backlog ──────────────────────► Accepted
//! ```

use super::event_log::{EventKind, Place};
use super::host::{HostId, Notice, ShardAt};
use super::network::Network;
use super::stage::{Event, Stage};
use super::stream::{Connection, ConnectionId, End, Flying, Kernel, Segment, Side};
use crate::driver::{ListenerId, SocketId};
use crate::time::{Duration, Instant};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A listening socket. Several of one host may share a port, as with `SO_REUSEPORT`.
#[derive(Debug)]
pub(super) struct Listener {
    pub shard: ShardAt,
    id: ListenerId,
    address: SocketAddr,
    backlog: VecDeque<ConnectionId>,
    /// Until then there are no file descriptors to accept with.
    refuses_until: Instant,
    /// It failed to accept, and said so.
    failing: bool,
    retry_planned: bool,
}

/// The first port that the system gives, as on Linux (`ip_local_port_range`).
const PORT_FIRST: u16 = 32_768;
const PORTS: u16 = 28_232;

/// A listener that could not accept tries again after so long.
const ACCEPT_RETRY: Duration = Duration::from_millis(5);

/// What an accept finds.
#[derive(Debug)]
pub(super) enum Accept {
    Socket(SocketId),
    Failed(Errno),
    Nothing,
}

impl Network {
    pub fn listen(
        &mut self,
        stage: &mut Stage,
        at: ShardAt,
        mut address: SocketAddr,
    ) -> Result<(ListenerId, SocketAddr), Errno> {
        let ip = address.ip();
        if !ip.is_unspecified() && !ip.is_loopback() && ip != at.host.ip() {
            return Err(Errno::ADDRNOTAVAIL);
        }
        if address.port() == 0 {
            address.set_port(self.free_port(at.host).ok_or(Errno::ADDRINUSE)?);
        }
        let table = self.table(at);
        table.listeners_begun += 1;
        let id = ListenerId(table.listeners_begun);
        stage.record_at(at, EventKind::Listening, &[("port", u64::from(address.port()))]);
        let (backlog, refuses_until) = (VecDeque::new(), Instant::ZERO);
        let listener = Listener {
            shard: at,
            id,
            address,
            backlog,
            refuses_until,
            failing: false,
            retry_planned: false,
        };
        self.listeners.push(listener);
        Ok((id, address))
    }

    pub fn stop_listening(&mut self, stage: &mut Stage, at: ShardAt, id: ListenerId) {
        let index = self.listener_index(at, id).expect("a listener is stopped once");
        let listener = self.listeners.remove(index);
        let port = u64::from(listener.address.port());
        stage.record_at(at, EventKind::ListeningStopped, &[("port", port)]);
        for connection in listener.backlog {
            self.abandon(stage, connection, Side::Server, true);
        }
    }

    pub fn connect(
        &mut self,
        stage: &mut Stage,
        at: ShardAt,
        address: SocketAddr,
    ) -> Result<SocketId, Errno> {
        let id = ConnectionId(self.connections_begun);
        let local = address.ip().is_loopback() || address.ip().is_unspecified();
        let ip = if local { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { at.host.ip() };
        let port = self.free_port(at.host).ok_or(Errno::ADDRNOTAVAIL)?;
        let sockets_max = self.config.sockets_max;
        let socket = self.table(at).insert(id, Side::Client, sockets_max).ok_or(Errno::MFILE)?;
        self.connections_begun += 1;
        let mut client = End::new(at.host, SocketAddr::new(ip, port));
        client.owner = Some((at, socket));
        let target = if local { at.host } else { HostId::of_ip(address.ip()).unwrap_or(at.host) };
        let connection = Connection {
            ends: [client, End::new(target, address)],
            pipes: [self.new_pipe(), self.new_pipe()],
            fragmented: self.rng.chance(self.config.fragmented_chance),
            silenced: false,
            began_at: stage.now(),
            attempts: 0,
            listener: None,
        };
        self.connections.insert(id, connection);
        let facts = [("socket", u64::from(socket.slot)), ("connection", id.0)];
        stage.record_at(at, EventKind::Connecting, &facts);
        let latency = self.links.latency(at.host, target, stage.now(), &self.config, &mut self.rng);
        stage.after(latency, Event::Syn(id));
        Ok(socket)
    }

    /// A connection attempt reaches the server's host.
    pub fn on_syn(&mut self, stage: &mut Stage, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.ends[Side::Client.index()].kernel != Kernel::Opening {
            return self.forget_if_over(id);
        }
        let address = connection.ends[Side::Server.index()].address;
        let known = address.ip().is_loopback()
            || address.ip().is_unspecified()
            || HostId::of_ip(address.ip()).is_some_and(|host| host.index() < stage.hosts.len());
        if !known {
            return self.break_end(stage, id, Side::Client, Errno::HOSTUNREACH);
        }
        if !self.links_allow(stage, id, Side::Client) {
            return self.retry_connect(stage, id);
        }
        let host = connection.ends[Side::Server.index()].host;
        let candidates: Vec<usize> = (0..self.listeners.len())
            .filter(|index| self.listeners[*index].accepts(host, address))
            .collect();
        if candidates.is_empty() {
            self.connection(id).ends[Side::Server.index()].kernel = Kernel::Gone;
            return self.send_reset(stage, id, Side::Server);
        }
        let chosen = candidates[self.rng.below(candidates.len() as u64) as usize];
        let listener = &self.listeners[chosen];
        if listener.backlog.len() >= self.config.backlog {
            stage.record_at(listener.shard, EventKind::BacklogFull, &[("connection", id.0)]);
            return self.retry_connect(stage, id);
        }
        let chosen = Some((listener.shard, listener.id));
        let connection = self.connection(id);
        connection.listener = chosen;
        connection.ends[Side::Server.index()].kernel = Kernel::Opening;
        let [server, client] = connection.hosts(Side::Server);
        let latency = self.links.latency(server, client, stage.now(), &self.config, &mut self.rng);
        stage.after(latency, Event::SynAck(id));
    }

    /// The answer to a connection attempt reaches the client's host.
    pub fn on_syn_ack(&mut self, stage: &mut Stage, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let client = &mut connection.ends[Side::Client.index()];
        if client.kernel != Kernel::Opening {
            // The client gave up meanwhile, and its kernel resets what it does not know.
            connection.ends[Side::Server.index()].kernel = Kernel::Gone;
            return self.forget_if_over(id);
        }
        if !self.links_allow(stage, id, Side::Server) {
            return self.retry_connect(stage, id);
        }
        let client = &mut self.connection(id).ends[Side::Client.index()];
        client.kernel = Kernel::Open;
        let (at, socket) = client.owner.expect("an attempt without owner is Gone, not Opening");
        stage.notify(at, Notice::Connected { socket, result: Ok(()) });
        self.put_on_wire(stage, id, Side::Client, Some(Segment::Opened));
    }

    /// An attempt went unanswered: the client's kernel repeats it, at growing intervals.
    pub(super) fn retry_connect(&mut self, stage: &mut Stage, id: ConnectionId) {
        let (retry, timeout) = (self.config.connect_retry, self.config.connect_timeout);
        let connection = self.connection(id);
        let client = connection.ends[Side::Client.index()].host;
        if stage.now().since(connection.began_at) >= timeout {
            return self.break_end(stage, id, Side::Client, Errno::TIMEDOUT);
        }
        stage.record(Place::Host(client), EventKind::ConnectRetried, &[("connection", id.0)]);
        let next = stage.now() + retry * (1 << connection.attempts.min(10));
        connection.attempts += 1;
        stage.at(next.min(connection.began_at + timeout), Event::Syn(id));
    }

    /// The last step of the handshake reaches the server's kernel.
    pub(super) fn on_opened(&mut self, stage: &mut Stage, id: ConnectionId) {
        let connection = &self.connections[&id];
        let chosen = connection.listener.expect("the attempt was answered by a listener");
        let server = connection.ends[Side::Server.index()].kernel;
        let listener = self.listener_index(chosen.0, chosen.1);
        let (Kernel::Opening, Some(listener)) = (server, listener) else {
            self.connection(id).ends[Side::Server.index()].kernel = Kernel::Gone;
            return self.send_reset(stage, id, Side::Server);
        };
        let listener = &mut self.listeners[listener];
        if listener.backlog.len() >= self.config.backlog {
            stage.record_at(chosen.0, EventKind::BacklogFull, &[("connection", id.0)]);
            let again = stage.now() + self.config.connect_retry;
            let pipe = &mut self.connection(id).pipes[Side::Client.index()];
            pipe.flight.push_front(Flying { arrives_at: again, segment: Segment::Opened });
            return pipe.delay_flight(again);
        }
        listener.backlog.push_back(id);
        self.connection(id).ends[Side::Server.index()].kernel = Kernel::Open;
        stage.notify(chosen.0, Notice::Acceptable { listener: chosen.1 });
    }

    /// Takes the next connection of a listener's backlog.
    pub fn accept(&mut self, stage: &mut Stage, at: ShardAt, id: ListenerId) -> Accept {
        let Some(index) = self.listener_index(at, id) else { return Accept::Nothing };
        let sockets_max = self.config.sockets_max;
        let has_room = self.table(at).has_room(sockets_max);
        let listener = &mut self.listeners[index];
        if listener.backlog.is_empty() {
            return Accept::Nothing;
        }
        let refuses = stage.now() < listener.refuses_until;
        if refuses || !has_room {
            // Who waits for nothing but a free slot waits in the backlog, unreported.
            let known = !refuses || std::mem::replace(&mut listener.failing, true);
            if !std::mem::replace(&mut listener.retry_planned, true) {
                let incarnation = stage.host(at.host).incarnation;
                stage.after(ACCEPT_RETRY, Event::AcceptAgain(at, incarnation, id));
            }
            return if known { Accept::Nothing } else { Accept::Failed(Errno::MFILE) };
        }
        listener.failing = false;
        let connection = listener.backlog.pop_front().expect("it is not empty");
        let socket = self.table(at).insert(connection, Side::Server, sockets_max);
        let socket = socket.expect("there is room for a socket");
        self.connection(connection).ends[Side::Server.index()].owner = Some((at, socket));
        Accept::Socket(socket)
    }

    /// A listener that could not accept tries again, for as long as it takes. It said so once.
    pub fn on_accept_again(
        &mut self,
        stage: &mut Stage,
        at: ShardAt,
        incarnation: u32,
        id: ListenerId,
    ) {
        if stage.is_alive(at.host, incarnation)
            && let Some(index) = self.listener_index(at, id)
        {
            self.listeners[index].retry_planned = false;
            stage.notify(at, Notice::Acceptable { listener: id });
        }
    }

    /// The listeners of a host cannot accept until an instant.
    pub fn fail_accepts(&mut self, host: HostId, until: Instant) {
        for listener in self.listeners.iter_mut().filter(|listener| listener.shard.host == host) {
            listener.refuses_until = until;
        }
    }

    /// All listeners can accept again.
    pub fn heal_accepts(&mut self) {
        self.listeners.iter_mut().for_each(|listener| listener.refuses_until = Instant::ZERO);
    }

    /// True if the kernel of a server has a connection that its process does not know yet.
    pub(super) fn waits_for_accept(&self, id: ConnectionId) -> bool {
        self.listeners.iter().any(|listener| listener.backlog.contains(&id))
    }

    fn listener_index(&self, at: ShardAt, id: ListenerId) -> Option<usize> {
        self.listeners.iter().position(|listener| listener.shard == at && listener.id == id)
    }

    /// A port of the host that nobody has. `None`: there is none left.
    fn free_port(&mut self, host: HostId) -> Option<u16> {
        for _ in 0..PORTS {
            let given = self.ports_given.entry(host).or_default();
            let port = PORT_FIRST + *given;
            *given = (*given + 1) % PORTS;
            let listened = |listener: &Listener| {
                listener.shard.host == host && listener.address.port() == port
            };
            let connected = |connection: &Connection| {
                connection.ends.iter().any(|end| end.host == host && end.address.port() == port)
            };
            if !self.listeners.iter().any(listened) && !self.connections.values().any(connected) {
                return Some(port);
            }
        }
        None
    }
}

impl Listener {
    /// True if a connection to `address` of `host` may end here.
    fn accepts(&self, host: HostId, address: SocketAddr) -> bool {
        let ip = self.address.ip();
        let any = ip.is_unspecified() || address.ip().is_unspecified();
        self.shard.host == host
            && self.address.port() == address.port()
            && (any || ip == address.ip())
    }
}
