//! The harness of drivers that run on the kernel, and checks against peers that are plain sockets.

use crate::harness::{Harness, Pair, Server, Side, output_of, pattern};
use catena_engine::driver::{Driver, SendState, SocketId};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How to make a driver of one kind.
pub trait Make: 'static {
    type D: Driver;
    /// The module that holds the checks of this driver.
    const SUITE: &'static str;

    fn make() -> Self::D;
}

/// Two drivers on the loopback interface.
pub struct Kernel<M: Make> {
    drivers: [M::D; 2],
    directory: PathBuf,
    kind: PhantomData<M>,
}

impl<M: Make> Harness for Kernel<M> {
    type D = M::D;

    fn new() -> Self {
        raise_descriptor_limit();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // In the build's own directory: a temporary one may be memory, which has no direct I/O.
        let name = format!("driver-{}-{number}", std::process::id());
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir(&directory).expect("the build's directory is writable");
        Kernel { drivers: [M::make(), M::make()], directory, kind: PhantomData }
    }

    fn drivers(&mut self) -> [&mut M::D; 2] {
        self.drivers.each_mut()
    }

    fn address(&self, _side: Side) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    fn settle(&mut self) {
        std::thread::sleep(Duration::from_micros(100));
    }
}

impl<M: Make> Drop for Kernel<M> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The checks run side by side and two hundred sockets each: take what the system allows.
fn raise_descriptor_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).expect("anybody may use up the limit");
    });
}

/// A driver on the server's side and a plain socket connected to it.
pub struct Guest<M: Make> {
    pub pair: Pair<Kernel<M>>,
    pub socket: SocketId,
    pub peer: TcpStream,
}

impl<M: Make> Guest<M> {
    pub fn new() -> Self {
        let mut pair = Pair::<Kernel<M>>::new();
        let (listener, address) = pair.listen();
        let peer = TcpStream::connect(address).expect("the driver listens");
        pair.until("the guest is accepted", |pair| !pair.accepted(listener).is_empty());
        let socket = pair.accepted(listener)[0];
        Guest { pair, socket, peer }
    }

    pub fn reset(&mut self) {
        let at_once = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&self.peer, at_once).expect("it is a socket");
        let (spare, _) = std::os::unix::net::UnixStream::pair().expect("descriptors are left");
        let spare: std::os::fd::OwnedFd = spare.into();
        self.peer = TcpStream::from(spare);
    }

    pub fn wait_for_end(&mut self) -> Result<(), ErrorKind> {
        let socket = self.socket;
        self.pair.until("the end is told", |pair| pair.end_of(Server, socket).is_some());
        self.pair.end_of(Server, socket).expect("the wait is over")
    }
}

pub fn a_reset_is_told_from_an_orderly_end<M: Make>() {
    let mut guest = Guest::<M>::new();
    guest.reset();
    assert_eq!(guest.wait_for_end(), Err(ErrorKind::ConnectionReset));
    guest.pair.close(Server, guest.socket);
}

pub fn a_reset_under_a_send_is_told<M: Make>() {
    let mut guest = Guest::<M>::new();
    let socket = guest.socket;
    let bytes = pattern(16 << 20, 7);
    let state = guest.pair.driver(Server).send(socket, output_of(&bytes));
    assert!(matches!(state, SendState::InFlight), "nobody reads, so it cannot be done");
    guest.pair.turns(5);
    guest.reset();
    let mut outcome = None;
    guest.pair.until("the send ends", |pair| {
        outcome = pair.take_sent(Server, socket);
        outcome.is_some()
    });
    let (output, result) = outcome.expect("the wait is over");
    assert_eq!(output.len(), bytes.len(), "the output comes back as it went");
    result.expect_err("the peer is gone");
    assert_eq!(guest.wait_for_end(), Err(ErrorKind::ConnectionReset));
    // Who did not look in between learns of it from the next send.
    let state = guest.pair.driver(Server).send(socket, output_of(b"to nobody"));
    assert!(matches!(state, SendState::InFlight), "it cannot be in the kernel's hands");
    guest.pair.until("the send ends", |pair| {
        pair.take_sent(Server, socket).is_some_and(|(_, result)| result.is_err())
    });
    guest.pair.close(Server, socket);
}

pub fn a_reset_that_a_send_met_is_still_told_to_the_reader<M: Make>() {
    let mut guest = Guest::<M>::new();
    let socket = guest.socket;
    // The reader sleeps, so the send is the first to meet the error, and the kernel tells it once.
    guest.pair.driver(Server).pause_receive(socket);
    guest.pair.driver(Server).send(socket, output_of(&pattern(16 << 20, 7)));
    guest.pair.turns(5);
    guest.reset();
    guest.pair.until("the send ends", |pair| {
        pair.take_sent(Server, socket).is_some_and(|(_, result)| result.is_err())
    });
    guest.pair.driver(Server).resume_receive(socket);
    assert_eq!(guest.wait_for_end(), Err(ErrorKind::ConnectionReset));
}

pub fn a_half_closed_peer_can_still_be_answered<M: Make>() {
    let mut guest = Guest::<M>::new();
    guest.peer.write_all(b"question").expect("the connection is sound");
    guest.peer.shutdown(Shutdown::Write).expect("the connection is sound");
    assert_eq!(guest.wait_for_end(), Ok(()));
    assert_eq!(guest.pair.received(Server, guest.socket), b"question");
    guest.pair.send_all(Server, guest.socket, b"answer");
    guest.pair.close(Server, guest.socket);
    let mut answer = Vec::new();
    guest.peer.read_to_end(&mut answer).expect("the end is orderly");
    assert_eq!(answer, b"answer");
}

pub fn bytes_and_end_that_arrive_together_are_both_told<M: Make>() {
    for length in [1, 99, 100, 101, 4_096, 100_000] {
        let mut guest = Guest::<M>::new();
        let bytes = pattern(length, 8);
        // All before the driver looks: whatever it is told, it is told once.
        guest.peer.write_all(&bytes).expect("the kernel buffers as much");
        guest.peer.shutdown(Shutdown::Write).expect("the connection is sound");
        assert_eq!(guest.wait_for_end(), Ok(()));
        assert!(guest.pair.received(Server, guest.socket) == bytes);
    }
}

pub fn a_paused_socket_keeps_its_end_for_later<M: Make>() {
    let mut guest = Guest::<M>::new();
    let socket = guest.socket;
    guest.pair.driver(Server).pause_receive(socket);
    guest.pair.turns(5);
    guest.peer.write_all(b"read me").expect("the kernel buffers as much");
    guest.peer.shutdown(Shutdown::Write).expect("the connection is sound");
    guest.pair.turns(50);
    assert_eq!(guest.pair.received_bytes(Server, socket), 0, "a paused socket is not read");
    guest.pair.driver(Server).resume_receive(socket);
    assert_eq!(guest.wait_for_end(), Ok(()));
    assert_eq!(guest.pair.received(Server, socket), b"read me");
}

pub fn addresses_in_use_are_refused_by_name<M: Make>() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = taken.local_addr().expect("it is bound");
    let refused = M::make().listen(address).expect_err("somebody else has it");
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
}
