//! Echo servers and their clients under every fault there is: what comes back is what was sent, in
//! order, nothing missing and nothing twice, for as long as a connection lives.

use crate::COMMAND;
use crate::audit::Audit;
use catena_engine::driver::{Completion, Driver, Output, SendState, SocketId};
use catena_engine::rng::Rng;
use catena_engine::sim::{
    Boot, EventKind, FaultMix, Next, Process, SimDriver, World, WorldConfig, each_seed,
};
use catena_engine::time::{Duration, Instant};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

const PORT: u16 = 7_000;
const SERVERS: u32 = 2;
const CLIENTS: u32 = 3;
const SHARDS: u32 = 2;

/// What the test and all processes of a world share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Bytes that came back, for each shard of each client host.
    pub echoed: [Cell<u64>; (CLIENTS * SHARDS) as usize],
    /// Clients let go of their connections and make no new ones.
    pub stop: Cell<bool>,
    /// Closes that wait for their report, in all living processes.
    pub closing: Cell<usize>,
    /// Sockets of clients that are neither closed nor void.
    pub open: Cell<usize>,
}

/// Byte number `position` of a stream.
fn byte_of(salt: u64, position: u64) -> u8 {
    let word = (position ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (word >> 56) as u8
}

/// Sends back what it gets.
pub struct Server {
    shared: Rc<Shared>,
    audit: Audit,
    peers: BTreeMap<SocketId, Peer>,
}

#[derive(Default)]
struct Peer {
    output: Output,
    sending: bool,
    paused: bool,
    ended: bool,
}

/// A peer that leaves more than this unread is not read from.
const OUTPUT_BYTES_MAX: usize = 100_000;

impl Server {
    pub fn boot(boot: Boot<'_>, shared: &Rc<Shared>) -> Vec<Box<dyn Process>> {
        let address = SocketAddr::new(boot.host.ip(), PORT);
        let processes = boot.drivers.iter_mut().map(|driver| {
            driver.listen(address).expect("nobody else has the port");
            let (shared, audit, peers) = (shared.clone(), Audit::default(), BTreeMap::new());
            Box::new(Server { shared, audit, peers }) as Box<dyn Process>
        });
        processes.collect()
    }

    fn close(&mut self, driver: &mut SimDriver, socket: SocketId) {
        if self.peers.remove(&socket).is_some() {
            self.audit.closing(socket);
            self.shared.closing.update(|closing| closing + 1);
            driver.close(socket);
        }
    }

    /// Sends what there is to send, reads as far as there is room, closes what is done.
    fn attend(&mut self, driver: &mut SimDriver, socket: SocketId) {
        let Some(peer) = self.peers.get_mut(&socket) else { return };
        if !peer.sending && !peer.output.is_empty() {
            let state = driver.send(socket, std::mem::take(&mut peer.output));
            self.audit.sending(socket, &state);
            peer.sending = matches!(state, SendState::InFlight);
        }
        let full = peer.output.len() > OUTPUT_BYTES_MAX;
        if full && !peer.paused {
            driver.pause_receive(socket);
        } else if !full && peer.paused {
            driver.resume_receive(socket);
        }
        peer.paused = full;
        if peer.ended && !peer.sending && peer.output.is_empty() {
            self.close(driver, socket);
        }
    }
}

impl Process for Server {
    fn turn(&mut self, driver: &mut SimDriver) -> Next {
        while let Some(completion) = driver.next_completion() {
            self.audit.see(&completion);
            let socket = match completion {
                Completion::Accepted { socket, .. } => {
                    self.peers.insert(socket, Peer::default());
                    socket
                }
                Completion::Received { socket, chunk } => {
                    let output = &mut self.peers.get_mut(&socket).expect("it is open").output;
                    if chunk.len() % 2 == 0 {
                        output.share(driver.lend(&chunk));
                    } else {
                        output.copied_mut().extend_from_slice(driver.bytes(&chunk));
                    }
                    driver.give_back(chunk);
                    socket
                }
                Completion::ReceiveEnded { socket, result } => {
                    if result.is_err() {
                        self.close(driver, socket);
                    } else if let Some(peer) = self.peers.get_mut(&socket) {
                        peer.ended = true;
                    }
                    socket
                }
                Completion::Sent { socket, result, .. } => {
                    if let Some(peer) = self.peers.get_mut(&socket) {
                        peer.sending = false;
                    }
                    if result.is_err() {
                        self.close(driver, socket);
                    }
                    socket
                }
                Completion::Closed { .. } => {
                    self.shared.closing.update(|closing| closing - 1);
                    continue;
                }
                Completion::AcceptFailed { .. } => continue,
                other => panic!("a server has no use for {other:?}"),
            };
            self.attend(driver, socket);
        }
        Next::default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.update(|closing| closing - self.audit.closing_count());
    }
}

/// Sends a stream, and checks that it comes back.
pub struct Client {
    shared: Rc<Shared>,
    /// Where it counts what came back.
    number: usize,
    servers: Vec<SocketAddr>,
    rng: Rng,
    audit: Audit,
    open_known: usize,
    stream: Option<Stream>,
    next_at: Instant,
}

struct Stream {
    socket: SocketId,
    salt: u64,
    connected: bool,
    sending: bool,
    sent: u64,
    received: u64,
    /// So many bytes, then another connection.
    bytes: u64,
}

impl Client {
    pub fn boot(
        mut boot: Boot<'_>,
        shared: &Rc<Shared>,
        number: usize,
        servers: &[SocketAddr],
    ) -> Vec<Box<dyn Process>> {
        let processes = boot.drivers.iter_mut().enumerate().map(|(shard, driver)| {
            let client = Client {
                shared: shared.clone(),
                number: number * SHARDS as usize + shard,
                servers: servers.to_vec(),
                rng: boot.rng.fork(),
                audit: Audit::default(),
                open_known: 0,
                stream: None,
                next_at: driver.now(),
            };
            Box::new(client) as Box<dyn Process>
        });
        processes.collect()
    }

    fn think(&mut self, now: Instant) {
        let span = if self.rng.chance(0.2) { 100 } else { 10 };
        self.next_at = now + Duration::from_micros(self.rng.below(span * 1_000));
    }

    fn see(&mut self, driver: &mut SimDriver, completion: Completion) {
        match completion {
            Completion::Connected { socket, result } => {
                let stream = self.stream.as_mut().filter(|stream| stream.socket == socket);
                stream.expect("it was not closed").connected = true;
                if result.is_err() {
                    self.stream = None;
                    self.think(driver.now());
                }
            }
            Completion::Received { socket, chunk } => {
                let stream = self.stream.as_mut().filter(|stream| stream.socket == socket);
                let stream = stream.expect("it was not closed");
                for byte in driver.bytes(&chunk) {
                    assert_eq!(*byte, byte_of(stream.salt, stream.received), "an echo is exact");
                    stream.received += 1;
                }
                assert!(stream.received <= stream.sent, "nothing comes back before it went out");
                let echoed = &self.shared.echoed[self.number];
                echoed.update(|echoed| echoed + chunk.len() as u64);
                driver.give_back(chunk);
            }
            Completion::ReceiveEnded { socket, .. } => {
                let current = self.stream.as_ref().is_some_and(|stream| stream.socket == socket);
                assert!(current, "it was not closed");
                self.close(driver);
            }
            Completion::Sent { socket, result, .. } => {
                let stream = self.stream.as_mut().filter(|stream| stream.socket == socket);
                if let Some(stream) = stream {
                    stream.sending = false;
                    if result.is_err() {
                        self.close(driver);
                    }
                }
            }
            Completion::Closed { .. } => self.shared.closing.update(|closing| closing - 1),
            other => panic!("a client has no use for {other:?}"),
        }
    }

    fn close(&mut self, driver: &mut SimDriver) {
        if let Some(stream) = self.stream.take() {
            self.audit.closing(stream.socket);
            self.shared.closing.update(|closing| closing + 1);
            driver.close(stream.socket);
            self.think(driver.now());
        }
    }

    fn act(&mut self, driver: &mut SimDriver) {
        let now = driver.now();
        let Some(stream) = &mut self.stream else {
            if !self.shared.stop.get() {
                let server = self.servers[self.rng.below(self.servers.len() as u64) as usize];
                let socket = driver.connect(server).expect("there is room for a socket");
                self.audit.connecting(socket);
                self.stream = Some(Stream {
                    socket,
                    salt: self.rng.next_u64(),
                    connected: false,
                    sending: false,
                    sent: 0,
                    received: 0,
                    bytes: 1 + self.rng.below(200_000),
                });
            }
            return;
        };
        let done = stream.received == stream.bytes || self.shared.stop.get();
        if done || self.rng.chance(0.01) {
            return self.close(driver);
        }
        let left = stream.bytes - stream.sent;
        if stream.connected && !stream.sending && left > 0 {
            let magnitude = self.rng.below(17);
            let bytes = left.min(1 + self.rng.below(1 << magnitude));
            let mut output = Output::with_capacity(bytes as usize);
            let positions = stream.sent..stream.sent + bytes;
            output.copied_mut().extend(positions.map(|position| byte_of(stream.salt, position)));
            stream.sent += bytes;
            let state = driver.send(stream.socket, output);
            self.audit.sending(stream.socket, &state);
            stream.sending = matches!(state, SendState::InFlight);
        }
        self.think(now);
    }

    fn tell_open(&mut self) {
        let open = self.audit.open_count();
        self.shared.open.update(|sum| sum + open - self.open_known);
        self.open_known = open;
    }
}

impl Process for Client {
    fn turn(&mut self, driver: &mut SimDriver) -> Next {
        while let Some(completion) = driver.next_completion() {
            self.audit.see(&completion);
            self.see(driver, completion);
        }
        if driver.now() >= self.next_at {
            self.act(driver);
        }
        self.tell_open();
        let idle = self.stream.is_none() && self.shared.stop.get();
        Next { until: (!idle).then_some(self.next_at), ..Next::default() }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.closing.update(|closing| closing - self.audit.closing_count());
        self.shared.open.update(|open| open - self.open_known);
    }
}

/// A world of echo servers and clients.
pub fn populate(world: &mut World) -> Rc<Shared> {
    let shared = Rc::new(Shared::default());
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        let its = shared.clone();
        let host = world.start_host(SHARDS, move |boot| Server::boot(boot, &its));
        servers.push(SocketAddr::new(host.ip(), PORT));
    }
    for number in 0..CLIENTS as usize {
        let (its, servers) = (shared.clone(), servers.clone());
        world.start_host(SHARDS, move |boot| Client::boot(boot, &its, number, &servers));
    }
    shared
}

/// Faults for a while, then none: everything must go on, and end in order.
fn simulate(world: &mut World) -> u64 {
    let shared = populate(world);
    let faults = FaultMix { hosts_down_max: 2, ..FaultMix::default() };
    let plan = world.draw_plan(Duration::from_secs(4), &faults);
    world.schedule(&plan);
    world.run_for(Duration::from_secs(4));
    world.heal_all();
    world.note("healed");
    let before = shared.echoed.each_ref().map(Cell::get);
    let progress = |_: &World| {
        before.iter().zip(&shared.echoed).all(|(before, echoed)| echoed.get() > *before)
    };
    assert!(world.run_until(Duration::from_secs(30), progress), "a client made no progress");
    shared.stop.set(true);
    world.note("stop");
    let over = |_: &World| shared.open.get() == 0 && shared.closing.get() == 0;
    assert!(world.run_until(Duration::from_secs(30), over), "a close was not answered");
    shared.echoed.iter().map(Cell::get).sum()
}

#[test]
fn an_echo_is_exact_whatever_goes_wrong() {
    let mut config = WorldConfig::default();
    config.network.receive_buffers = 12;
    let coverage = each_seed(COMMAND, 0..200, &config, simulate);
    coverage.require(&[
        EventKind::HostKilled,
        EventKind::HostLostPower,
        EventKind::HostPaused,
        EventKind::Connected,
        EventKind::ConnectFailed,
        EventKind::ConnectRetried,
        EventKind::AcceptFailed,
        EventKind::SendDone,
        EventKind::SendLater,
        EventKind::SendBlocked,
        EventKind::SendCutShort,
        EventKind::PathStalled,
        EventKind::PathResumed,
        EventKind::ResetSent,
        EventKind::ConnectionBroken,
        EventKind::BufferWait,
        EventKind::LentShared,
        EventKind::LentCopied,
        EventKind::ReceivePaused,
        EventKind::ReceiveResumed,
        EventKind::LinkCut,
        EventKind::LinkSlowed,
        EventKind::ConnectionLost,
        EventKind::ConnectionSilenced,
        EventKind::ClockSkewed,
    ]);
}
