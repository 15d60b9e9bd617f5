//! The lab in one thread, from one seed: virtual time, simulated sockets, unchanged engine code.

use crate::lab::{Block, Lab, Received, ServerId, Spec};
use catena_engine::Handle;
use catena_engine::driver::{Completion, Driver, ListenerId, Output, SendState, SocketId};
use catena_engine::sim::{
    Crash, Engine, EngineConfig, Fault, SimDriver, World, WorldConfig, each_seed,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How much virtual time one wait may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Where servers listen, each on a host of its own.
const PORT: u16 = 7_000;

/// Tries a behaviour out in several worlds.
pub fn each_world(behaviour: impl Fn(&mut Simulated<'_>)) {
    each_seed("cargo test --test behaviour", 0..8, &WorldConfig::default(), |world| {
        let client = world.start_engine(EngineConfig::default());
        behaviour(&mut Simulated { world, servers: Vec::new(), client, hosts: Vec::new() });
    });
}

pub struct Simulated<'w> {
    world: &'w mut World,
    servers: Vec<Engine>,
    client: Engine,
    /// Hosts of plain sockets.
    hosts: Vec<Weak<RefCell<BareHost>>>,
}

/// A bare host with the sockets that were made on it, one or those of one listener.
type Host = Rc<RefCell<BareHost>>;

struct BareHost {
    driver: SimDriver,
    accepted: VecDeque<SocketId>,
    sockets: BTreeMap<SocketId, SocketState>,
}

#[derive(Default)]
struct SocketState {
    connected: bool,
    sending: bool,
    to_send: VecDeque<Vec<u8>>,
    received: VecDeque<Received>,
}

pub struct Socket {
    host: Host,
    id: SocketId,
}

pub struct Listener {
    host: Host,
    _id: ListenerId,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let host = &mut *self.host.borrow_mut();
        host.sockets.remove(&self.id);
        host.driver.close(self.id);
    }
}

impl Lab for Simulated<'_> {
    type Socket = Socket;
    type Listener = Listener;
    const SENDS_IN_ONE_PIECE: bool = false;
    const TIME_IS_SIMULATED: bool = true;
    const A_WHILE: Duration = Duration::from_millis(200);

    fn socket_bytes_max() -> usize {
        512 << 10
    }

    fn start(&mut self, spec: Spec) -> ServerId {
        let Spec { shards, connection, admission, connections_max, service } = spec;
        self.servers.push(self.world.start_engine(EngineConfig {
            shards,
            port: Some(PORT),
            stream_port: None,
            connection,
            admission,
            connections_max,
            service: Rc::new(move |local, hook| {
                let hook = hook.clone();
                service(local, &Block(Rc::new(move |time| hook.burn(time))))
            }),
        }));
        ServerId(self.servers.len() - 1)
    }

    fn address(&self, server: ServerId) -> SocketAddr {
        self.servers[server.0].address().expect("servers listen")
    }

    fn shard_address(&self, server: ServerId, shard: u16) -> SocketAddr {
        self.servers[server.0].shard_addresses()[usize::from(shard)]
    }

    fn handle(&self, server: ServerId) -> Handle {
        self.servers[server.0].handle()
    }

    fn drain(&mut self, server: ServerId) {
        self.servers[server.0].drain();
    }

    fn has_ended(&mut self, server: ServerId) -> bool {
        !self.world.is_running(self.servers[server.0].host())
    }

    fn kill(&mut self, server: ServerId) {
        let host = self.servers[server.0].host();
        self.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
    }

    fn restart(&mut self, server: ServerId) {
        let host = self.servers[server.0].host();
        self.world.inject(Fault::Restart { host });
    }

    fn client(&self) -> Handle {
        self.client.handle()
    }

    fn wait<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let until = self.world.now() + PATIENCE;
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(outcome) = work.as_mut().poll(&mut context) {
                return outcome;
            }
            let goes_on = self.world.step() && self.world.now() < until;
            assert!(goes_on, "waited for something that never happens");
            self.send_on();
        }
    }

    fn pause(&mut self, time: Duration) {
        self.world.run_for(time);
        self.send_on();
    }

    fn virtual_now(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.world.now().as_nanos()))
    }

    fn nobody(&mut self) -> SocketAddr {
        SocketAddr::new(self.client.host().ip(), 1)
    }

    fn connect(&mut self, address: SocketAddr) -> Socket {
        let host = self.bare_host();
        let id = host.borrow_mut().driver.connect(address).expect("a host has sockets");
        host.borrow_mut().sockets.insert(id, SocketState::default());
        host.borrow_mut().until(|host| host.sockets[&id].connected);
        Socket { host, id }
    }

    fn listen(&mut self) -> (Listener, SocketAddr) {
        let host = self.bare_host();
        let ip = host.borrow().driver.at().host.ip();
        let listening = host.borrow_mut().driver.listen(SocketAddr::new(ip, PORT));
        let (id, address) = listening.expect("the host is the lab's own");
        (Listener { host, _id: id }, address)
    }

    fn accept(&mut self, listener: &mut Listener) -> Socket {
        let host = listener.host.clone();
        host.borrow_mut().until(|host| !host.accepted.is_empty());
        let id = host.borrow_mut().accepted.pop_front().expect("waited for it");
        Socket { host, id }
    }

    fn try_accept(&mut self, listener: &mut Listener) -> Option<Socket> {
        let host = listener.host.clone();
        host.borrow_mut().look();
        let id = host.borrow_mut().accepted.pop_front()?;
        Some(Socket { host, id })
    }

    fn send(&mut self, socket: &mut Socket, bytes: &[u8]) {
        let host = &mut *socket.host.borrow_mut();
        let state = host.sockets.get_mut(&socket.id).expect("the socket is open");
        state.to_send.push_back(bytes.to_vec());
        host.send_next(socket.id);
    }

    fn receive(&mut self, socket: &mut Socket) -> Received {
        let host = &mut *socket.host.borrow_mut();
        host.read(socket.id);
        let received = &mut host.sockets.get_mut(&socket.id).expect("the socket is open").received;
        received.pop_front().expect("waited for it")
    }
}

impl Simulated<'_> {
    fn bare_host(&mut self) -> Host {
        let driver = self.world.bare_host(1).remove(0);
        let (accepted, sockets) = (VecDeque::new(), BTreeMap::new());
        let host = Rc::new(RefCell::new(BareHost { driver, accepted, sockets }));
        self.hosts.push(Rc::downgrade(&host));
        host
    }

    /// Where a send has ended and more is to be sent, sends it.
    fn send_on(&mut self) {
        self.hosts.retain(|host| host.strong_count() > 0);
        for host in self.hosts.iter().filter_map(Weak::upgrade) {
            let host = &mut *host.borrow_mut();
            if host.sockets.values().any(|socket| !socket.to_send.is_empty()) {
                host.look();
            }
        }
    }
}

impl BareHost {
    /// Lets the world go on until something is so.
    fn until(&mut self, is_so: impl Fn(&BareHost) -> bool) {
        let until = self.driver.now() + PATIENCE;
        loop {
            self.take_completions();
            if is_so(self) {
                return;
            }
            assert!(self.driver.now() < until, "a socket waited in vain");
            self.driver.park(Some(until)).expect("a bare host does not crash");
        }
    }

    /// Takes note of what has happened.
    fn look(&mut self) {
        self.driver.poll().expect("a bare host does not crash");
        self.take_completions();
    }

    fn take_completions(&mut self) {
        while let Some(completion) = self.driver.next_completion() {
            self.note(completion);
        }
    }

    /// Reads until there is something. A socket that is not read from is paused.
    fn read(&mut self, socket: SocketId) {
        if self.sockets[&socket].received.is_empty() {
            self.driver.resume_receive(socket);
            self.until(|host| !host.sockets[&socket].received.is_empty());
            self.driver.pause_receive(socket);
        }
    }

    fn note(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { socket, .. } => {
                self.driver.pause_receive(socket);
                let state = SocketState { connected: true, ..SocketState::default() };
                self.sockets.insert(socket, state);
                self.accepted.push_back(socket);
            }
            Completion::Connected { socket, result } => {
                result.expect("somebody listens there");
                self.driver.pause_receive(socket);
                self.sockets.get_mut(&socket).expect("it was made here").connected = true;
            }
            Completion::Received { socket, chunk } => {
                let bytes = self.driver.bytes(&chunk).to_vec();
                self.driver.give_back(chunk);
                let state = self.sockets.get_mut(&socket).expect("nothing comes after a close");
                state.received.push_back(Received::Bytes(bytes));
            }
            Completion::Filled { .. } => unreachable!("no memory was offered"),
            Completion::ReceiveEnded { socket, result } => {
                let state = self.sockets.get_mut(&socket).expect("nothing comes after a close");
                let end = if result.is_ok() { Received::Ended } else { Received::Reset };
                state.received.push_back(end);
            }
            Completion::Sent { socket, .. } => {
                if let Some(state) = self.sockets.get_mut(&socket) {
                    state.sending = false;
                    self.send_next(socket);
                }
            }
            Completion::AcceptFailed { .. }
            | Completion::Closed { .. }
            | Completion::File { .. }
            | Completion::FileTask { .. } => {}
        }
    }

    fn send_next(&mut self, socket: SocketId) {
        let state = self.sockets.get_mut(&socket).expect("the socket is open");
        while !state.sending
            && let Some(bytes) = state.to_send.pop_front()
        {
            let mut output = Output::default();
            output.share(bytes.into());
            state.sending = matches!(self.driver.send(socket, output), SendState::InFlight);
        }
    }
}
