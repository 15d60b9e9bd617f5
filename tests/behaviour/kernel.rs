//! The lab on threads and real sockets.

use crate::lab::{Block, Lab, Received, ServerId, Spec};
use catena_engine::metrics::MetricsSnapshot;
use catena_engine::reactor::uring::{UringConfig, UringDriver, UringError};
use catena_engine::{Cores, DriverChoice, Handle, Server};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{self, AddressFamily, SocketType};
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Bytes that a socket of the lab's own asks for to receive into.
const OWN_BUFFER: usize = 2 << 20;
/// How long one wait may take. Nothing here takes a second where it works.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Kernel {
    driver: DriverChoice,
    servers: Vec<Running>,
    client: Server,
    /// Ports on which nobody shall listen.
    reserved: Vec<OwnedFd>,
}

struct Running {
    spec: Spec,
    address: SocketAddr,
    shard_addresses: Vec<SocketAddr>,
    handle: Handle,
    state: State,
}

enum State {
    Serving(Box<Server>),
    Draining(JoinHandle<()>),
    Ended,
}

/// Tries a behaviour out on a driver, where this host has it.
pub fn on(driver: DriverChoice, behaviour: impl Fn(&mut Kernel)) {
    if let Some(why) = why_missing(driver) {
        return println!("skipped: {why}");
    }
    let client = Server::builder().driver(driver).cores(Cores::Unpinned(1)).start();
    let client = client.expect("a driver that is not refused starts");
    behaviour(&mut Kernel { driver, servers: Vec::new(), client, reserved: Vec::new() })
}

/// Why this host does not have the driver, if it does not: only io_uring can be missing, and only
/// because it is refused. Whatever else keeps a driver from starting is a failure.
pub fn why_missing(driver: DriverChoice) -> Option<String> {
    if driver != DriverChoice::Uring {
        return None;
    }
    // On a thread of its own: what is left of a ring interrupts the system calls of who had it.
    let tried = thread::spawn(|| UringDriver::new(&UringConfig::default()).map(drop));
    match tried.join().expect("a driver is made or refused, without a panic") {
        Err(error @ UringError::Refused { .. }) => Some(error.to_string()),
        Err(error) => panic!("io_uring is not refused, and yet: {error}"),
        Ok(()) => None,
    }
}

impl Kernel {
    /// What the shards of a server that serves have counted.
    pub fn metrics(&self, server: ServerId) -> MetricsSnapshot {
        match &self.servers[server.0].state {
            State::Serving(server) => server.metrics(),
            State::Draining(_) | State::Ended => panic!("it serves no more"),
        }
    }

    /// What the shard counted that runs the clients.
    pub fn metrics_of_client(&self) -> MetricsSnapshot {
        self.client.metrics()
    }
}

fn start(driver: DriverChoice, spec: Spec, address: SocketAddr) -> Server {
    let Spec { shards, connection, admission, connections_max, service } = spec;
    let block = |time| thread::sleep(time);
    let started = Server::builder()
        .driver(driver)
        .cores(Cores::Unpinned(shards))
        .listen(address)
        .connection(connection)
        .admission(admission)
        .connections_max(connections_max)
        .service(move |local| service(local, &Block(Rc::new(block))))
        .start();
    started.expect("the driver is there and the port is free")
}

impl Lab for Kernel {
    type Socket = Socket;
    type Listener = TcpListener;
    const SENDS_IN_ONE_PIECE: bool = true;
    const TIME_IS_SIMULATED: bool = false;
    const A_WHILE: Duration = Duration::from_secs(3);

    /// What the server's may grow to, which is the third value of net.ipv4.tcp_wmem (4 MiB unless
    /// somebody has raised it), and what the lab's own socket is held to, which the kernel doubles.
    fn socket_bytes_max() -> usize {
        let path = "/proc/sys/net/ipv4/tcp_wmem";
        let text = std::fs::read_to_string(path).expect("every Linux with TCP has it");
        let most = text.split_whitespace().nth(2).and_then(|most| most.parse::<usize>().ok());
        most.unwrap_or_else(|| panic!("{path} says {text:?}, not three numbers")) + 2 * OWN_BUFFER
    }

    fn start(&mut self, spec: Spec) -> ServerId {
        let server = start(self.driver, spec.clone(), (Ipv4Addr::LOCALHOST, 0).into());
        self.servers.push(Running {
            spec,
            address: server.address().expect("it listens"),
            shard_addresses: server.shard_addresses().to_vec(),
            handle: server.handle(),
            state: State::Serving(Box::new(server)),
        });
        ServerId(self.servers.len() - 1)
    }

    fn address(&self, server: ServerId) -> SocketAddr {
        self.servers[server.0].address
    }

    fn shard_address(&self, server: ServerId, shard: u16) -> SocketAddr {
        self.servers[server.0].shard_addresses[usize::from(shard)]
    }

    fn handle(&self, server: ServerId) -> Handle {
        self.servers[server.0].handle.clone()
    }

    fn drain(&mut self, server: ServerId) {
        let state = &mut self.servers[server.0].state;
        if let State::Serving(server) = std::mem::replace(state, State::Ended) {
            let draining = thread::spawn(move || server.drain().expect("the driver is whole"));
            *state = State::Draining(draining);
        }
    }

    fn has_ended(&mut self, server: ServerId) -> bool {
        match &self.servers[server.0].state {
            State::Serving(_) => false,
            State::Draining(thread) => thread.is_finished(),
            State::Ended => true,
        }
    }

    fn kill(&mut self, server: ServerId) {
        let state = &mut self.servers[server.0].state;
        if let State::Serving(server) = std::mem::replace(state, State::Ended) {
            server.stop().expect("the driver is whole");
        }
    }

    fn restart(&mut self, server: ServerId) {
        let running = &mut self.servers[server.0];
        let server = start(self.driver, running.spec.clone(), running.address);
        running.shard_addresses = server.shard_addresses().to_vec();
        running.handle = server.handle();
        running.state = State::Serving(Box::new(server));
    }

    fn client(&self) -> Handle {
        self.client.handle()
    }

    fn wait<T>(&mut self, work: impl Future<Output = T>) -> T {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut work = pin!(work);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Poll::Ready(value) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {PATIENCE:?} for something that did not happen");
            thread::park_timeout(left);
        }
    }

    fn pause(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn virtual_now(&self) -> Option<Duration> {
        None
    }

    fn nobody(&mut self) -> SocketAddr {
        // Bound and not listening: refused, and nobody else gets the port meanwhile.
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None);
        let socket = socket.expect("there are descriptors left");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        net::bind(&socket, &any).expect("loopback has ports");
        let bound = net::getsockname(&socket).expect("it is bound");
        self.reserved.push(socket);
        bound.try_into().expect("an address of the family that was asked for")
    }

    fn connect(&mut self, address: SocketAddr) -> Socket {
        let stream = TcpStream::connect(address).expect("somebody listens there");
        // A size that was asked for is not tuned, however far the system would go.
        set_socket_recv_buffer_size(&stream, OWN_BUFFER).expect("it is a socket");
        Socket::new(stream)
    }

    fn listen(&mut self) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        (listener, address)
    }

    fn accept(&mut self, listener: &mut TcpListener) -> Socket {
        Socket::new(listener.accept().expect("somebody connects").0)
    }

    fn try_accept(&mut self, listener: &mut TcpListener) -> Option<Socket> {
        listener.set_nonblocking(true).expect("it is a socket");
        let accepted = listener.accept();
        listener.set_nonblocking(false).expect("it is a socket");
        Some(Socket::new(accepted.ok()?.0))
    }

    fn send(&mut self, socket: &mut Socket, bytes: &[u8]) {
        socket.writer.send(bytes.to_vec()).expect("the writer lives as long as its socket");
    }

    fn receive(&mut self, socket: &mut Socket) -> Received {
        let mut bytes = vec![0; 64 << 10];
        // The kernel may interrupt a read that has a time-out, to tidy up a ring of this thread's.
        let read = loop {
            match socket.stream.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => Received::Ended,
            Ok(count) => {
                bytes.truncate(count);
                Received::Bytes(bytes)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("a socket waited in vain")
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.receive(socket),
            Err(_) => Received::Reset,
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A blocking socket whose writes wait on a thread of their own.
pub struct Socket {
    stream: TcpStream,
    writer: mpsc::Sender<Vec<u8>>,
}

impl Socket {
    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(false).expect("it is a socket");
        stream.set_nodelay(true).expect("it is a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let mut write_to = stream.try_clone().expect("there are descriptors left");
        let (writer, to_write) = mpsc::channel::<Vec<u8>>();
        thread::spawn(move || {
            while let Ok(bytes) = to_write.recv() {
                // A peer that is gone is noticed by who reads.
                if write_to.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        Socket { stream, writer }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The writer's clone would keep the connection open for as long as it waits.
        drop(self.stream.shutdown(std::net::Shutdown::Both));
    }
}
