//! The io_uring driver: every operation, with every feature of the kernel and without.

use bytes::Bytes;
use catena_engine::driver::{
    Chunk, Completion, Driver, FileBuffer, FileOpId, OpenFile, Output, Parker, SendState, SocketId,
};
use catena_engine::limits;
use catena_engine::reactor::uring::{Features, UringConfig, UringDriver, UringError};
use catena_engine::time::Duration;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// Only a failing test ever waits that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A driver, or `None` and a word about it where io_uring is refused.
fn driver(config: UringConfig) -> Option<UringDriver> {
    match UringDriver::new(&config) {
        Ok(driver) => Some(driver),
        Err(error @ UringError::Refused { .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{config:?}: {error}"),
    }
}

/// The sets of features to do without: none, each alone, all.
fn stepped_down() -> impl Iterator<Item = Features> {
    [Features::NONE, Features::ALL].into_iter().chain(Features::ALL.iter())
}

fn without(disable: Features) -> UringConfig {
    UringConfig { disable, ..UringConfig::default() }
}

fn listen(driver: &mut UringDriver) -> SocketAddr {
    driver.listen((Ipv4Addr::LOCALHOST, 0).into()).expect("loopback listens").1
}

fn output(bytes: &[u8]) -> Output {
    let mut output = Output::default();
    output.copied_mut().extend_from_slice(bytes);
    output
}

/// Bytes in which every place can be told from its neighbours.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Turns of one driver until `done` says so; it sees every completion.
fn run(
    driver: &mut UringDriver,
    what: &str,
    mut done: impl FnMut(&mut UringDriver, Completion) -> bool,
) {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        while let Some(completion) = driver.next_completion() {
            if done(driver, completion) {
                return;
            }
        }
        assert!(Instant::now() < give_up_at, "waited in vain until {what}: {driver:?}");
        let until = driver.now() + Duration::from_millis(100);
        driver.park(Some(until)).expect("the driver works");
    }
}

/// A plain socket that the driver has accepted.
fn guest(driver: &mut UringDriver) -> (SocketId, TcpStream) {
    let address = listen(driver);
    let peer = TcpStream::connect(address).expect("the driver listens");
    let mut accepted = None;
    run(driver, "the guest is accepted", |_, completion| match completion {
        Completion::Accepted { socket, .. } => accepted.replace(socket).is_none(),
        other => panic!("nothing else is due, but there is {other:?}"),
    });
    (accepted.expect("it was accepted"), peer)
}

/// Echoes everything on a driver of its own, until every connection that came has gone.
struct Echo {
    driver: UringDriver,
    /// What is to be sent once the send in flight has ended.
    peers: HashMap<SocketId, (Vec<u8>, bool)>,
    closed: usize,
}

impl Echo {
    fn new(driver: UringDriver) -> Self {
        Echo { driver, peers: HashMap::new(), closed: 0 }
    }

    fn run(&mut self, connections: usize) {
        let give_up_at = Instant::now() + PATIENCE;
        while self.closed < connections {
            assert!(Instant::now() < give_up_at, "waited in vain: {:?}", self.driver);
            let until = self.driver.now() + Duration::from_millis(100);
            self.driver.park(Some(until)).expect("the driver works");
            while let Some(completion) = self.driver.next_completion() {
                self.on(completion);
            }
            for (socket, (bytes, sending)) in &mut self.peers {
                if !*sending && !bytes.is_empty() {
                    let state = self.driver.send(*socket, output(&std::mem::take(bytes)));
                    *sending = matches!(state, SendState::InFlight);
                }
            }
        }
    }

    fn on(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { socket, .. } => {
                assert!(self.peers.insert(socket, (Vec::new(), false)).is_none());
            }
            Completion::Received { socket, chunk } => {
                let (bytes, _) = self.peers.get_mut(&socket).expect("it was accepted");
                bytes.extend_from_slice(self.driver.bytes(&chunk));
                self.driver.give_back(chunk);
            }
            Completion::Sent { socket, result, .. } => {
                result.expect("peers read their echo");
                self.peers.get_mut(&socket).expect("it was accepted").1 = false;
            }
            Completion::ReceiveEnded { socket, result } => {
                result.expect("peers end in order");
                self.driver.close(socket);
            }
            Completion::Closed { socket } => {
                self.peers.remove(&socket).expect("it was accepted");
                self.closed += 1;
            }
            other => panic!("nothing else is due, but there is {other:?}"),
        }
    }

    /// Every buffer is where it belongs and every slot is free.
    fn is_clean(&self) {
        let buffers = self.driver.buffers();
        assert_eq!((buffers.with_kernel, buffers.lent), (buffers.all, 0), "{buffers:?}");
        assert_eq!(self.driver.sockets(), 0);
    }
}

/// Starts an echo for so many connections on a thread of its own.
fn start_echo(
    config: UringConfig,
    connections: usize,
) -> Option<(SocketAddr, thread::JoinHandle<UringDriverFacts>)> {
    // Made twice if it can be had: the one that serves must be made on its own thread.
    drop(driver(config)?);
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut echo = Echo::new(driver(config).expect("it was there a moment ago"));
        tell.send(listen(&mut echo.driver)).expect("the test listens");
        echo.run(connections);
        echo.is_clean();
        UringDriverFacts {
            features: echo.driver.features(),
            buffer_waits: echo.driver.counters().buffer_waits,
        }
    });
    Some((told.recv().expect("loopback listens"), thread))
}

struct UringDriverFacts {
    features: Features,
    buffer_waits: u64,
}

#[test]
fn two_drivers_talk_with_and_without_every_feature() {
    for disable in stepped_down() {
        let Some((address, server)) = start_echo(without(disable), 8) else { return };
        let mut driver = driver(without(disable)).expect("it was there a moment ago");
        let message = pattern(100_000);
        let sockets: Vec<SocketId> =
            (0..8).map(|_| driver.connect(address).expect("there is room")).collect();
        let mut echoed: HashMap<SocketId, Vec<u8>> = HashMap::new();
        let mut closed = 0;
        run(&mut driver, "all is echoed", |driver, completion| {
            match completion {
                Completion::Connected { socket, result } => {
                    result.expect("the server listens");
                    driver.send(socket, output(&message));
                }
                Completion::Received { socket, chunk } => {
                    let bytes = echoed.entry(socket).or_default();
                    bytes.extend_from_slice(driver.bytes(&chunk));
                    driver.give_back(chunk);
                    if bytes.len() == message.len() {
                        driver.close(socket);
                    }
                }
                Completion::Sent { output, result, .. } => {
                    result.expect("the server reads");
                    assert_eq!(output.len(), message.len());
                }
                Completion::Closed { .. } => closed += 1,
                other => panic!("nothing else is due, but there is {other:?}"),
            }
            closed == sockets.len()
        });
        assert!(sockets.iter().all(|socket| echoed[socket] == message), "without {disable}");
        let facts = server.join().expect("the server is content");
        let overlap = disable.iter().find(|one| facts.features.contains(*one));
        assert_eq!(overlap, None, "what is disabled is not used");
    }
}

#[test]
fn a_dribble_of_single_bytes_arrives_in_order() {
    for disable in [Features::NONE, Features::ALL] {
        let Some((address, server)) = start_echo(without(disable), 1) else { return };
        let mut peer = TcpStream::connect(address).expect("the driver listens");
        peer.set_nodelay(true).expect("it is a socket");
        let bytes = pattern(1_000);
        for (at, byte) in bytes.iter().enumerate() {
            peer.write_all(&[*byte]).expect("the server reads");
            let mut echo = [0];
            peer.read_exact(&mut echo).expect("the server answers");
            assert_eq!(echo[0], *byte, "byte {at}");
        }
        drop(peer);
        server.join().expect("the server is content");
    }
}

#[test]
fn a_burst_of_connections_is_accepted_and_served() {
    const BURST: usize = 300;
    for disable in [Features::NONE, Features::MULTISHOT_ACCEPT] {
        let Some((address, server)) = start_echo(without(disable), BURST) else { return };
        let mut peers: Vec<TcpStream> = (0..BURST)
            .map(|_| TcpStream::connect(address).expect("the backlog takes them"))
            .collect();
        for (index, peer) in peers.iter_mut().enumerate() {
            peer.write_all(&(index as u32).to_le_bytes()).expect("the server reads");
        }
        for (index, peer) in peers.iter_mut().enumerate() {
            let mut echo = [0; 4];
            peer.read_exact(&mut echo).expect("the server answers");
            assert_eq!(u32::from_le_bytes(echo), index as u32);
        }
        drop(peers);
        server.join().expect("the server is content");
    }
}

#[test]
fn few_buffers_for_many_connections_make_progress_and_none_is_lost() {
    const PEERS: usize = 64;
    let config =
        UringConfig { receive_buffers: 8, receive_buffer_bytes: 4_096, ..UringConfig::default() };
    for disable in [Features::NONE, Features::MULTISHOT_RECEIVE] {
        let Some((address, server)) = start_echo(UringConfig { disable, ..config }, PEERS) else {
            return;
        };
        let message = pattern(200_000);
        thread::scope(|scope| {
            for _ in 0..PEERS {
                scope.spawn(|| {
                    let mut peer = TcpStream::connect(address).expect("the driver listens");
                    let mut reader = peer.try_clone().expect("descriptors are left");
                    scope.spawn(move || peer.write_all(&pattern(200_000)).expect("it reads"));
                    let mut echo = vec![0; message.len()];
                    reader.read_exact(&mut echo).expect("the server answers");
                    assert!(echo == message);
                    reader.shutdown(std::net::Shutdown::Both).expect("it is connected");
                });
            }
        });
        let facts = server.join().expect("the server is content");
        assert!(facts.buffer_waits > 0, "the test is about running out");
    }
}

#[test]
fn eager_sends_that_do_not_fit_go_on_where_they_stopped() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    if !driver.features().contains(Features::EAGER_SEND) {
        println!("skipped: this kernel has no eager sends");
        return;
    }
    let (socket, mut peer) = guest(&mut driver);
    // The largest that are eager, to a peer that does not read, until one does not fit.
    let all = pattern(512 * limits::EAGER_SEND_BYTES_MAX);
    let mut messages = all.chunks(limits::EAGER_SEND_BYTES_MAX - 0x0fff);
    let mut sent = 0;
    let mut reader = None;
    let mut next = messages.next();
    while let Some(message) = next.take() {
        // All copied, or half of it shared, by turns: both kinds of send.
        let shared = if sent % 2 == 0 { message.len() } else { message.len() / 2 };
        let mut bytes = output(&message[..shared]);
        bytes.share(Bytes::copy_from_slice(&message[shared..]));
        driver.send(socket, bytes);
        driver.poll().expect("the driver works");
        driver.poll().expect("the driver works");
        let mut told = driver.next_completion();
        if told.is_none() {
            // It is stuck: now somebody reads, slowly.
            let mut its = peer.try_clone().expect("descriptors are left");
            reader.get_or_insert_with(|| {
                thread::spawn(move || {
                    let (mut all, mut piece) = (Vec::new(), vec![0; 10_007]);
                    while let Ok(count @ 1..) = its.read(&mut piece) {
                        all.extend_from_slice(&piece[..count]);
                    }
                    all
                })
            });
            run(&mut driver, "it is sent", |_, completion| told.replace(completion).is_none());
        }
        let Some(Completion::Sent { output, result, .. }) = told else {
            panic!("nothing else is due, but there is {told:?}");
        };
        result.expect("the peer reads");
        sent += output.len();
        next = messages.next();
    }
    assert_eq!(sent, all.len());
    driver.close(socket);
    run(&mut driver, "it is closed", |_, completion| {
        matches!(completion, Completion::Closed { .. })
    });
    let arrived = reader.expect("16 MiB do not fit into a socket").join().expect("reading is safe");
    assert!(arrived == all, "in order, nothing missing, nothing twice");
    assert_eq!(peer.read(&mut [0]).expect("the end is orderly"), 0);
}

#[test]
fn the_end_of_an_eager_send_is_told_late_but_is_told() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let (socket, mut peer) = guest(&mut driver);
    if !driver.features().contains(Features::EAGER_SEND) {
        println!("skipped: this kernel has no eager sends");
        return;
    }
    driver.send(socket, output(b"an answer"));
    let (began_at, entered) = (driver.now(), driver.counters().enters);
    driver.park(Some(began_at + PATIENCE)).expect("the driver works");
    // Sending and sleeping were one system call, and only the bound on lateness has ended it.
    assert_eq!(driver.counters().enters, entered + 1);
    let slept = driver.now().since(began_at);
    assert!(slept >= Duration::from_millis(limits::EAGER_SEND_TOLD_LATE_MS_MAX), "{slept:?}");
    assert!(slept < PATIENCE, "nothing else would ever have told it");
    let told = driver.next_completion();
    assert!(matches!(told, Some(Completion::Sent { result: Ok(()), .. })), "{told:?}");
    peer.read_exact(&mut [0; 9]).expect("it was sent");
}

#[test]
fn polling_without_work_makes_no_system_call() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let (_socket, _peer) = guest(&mut driver);
    driver.poll().expect("the driver works");
    let entered = driver.counters().enters;
    for _ in 0..100 {
        assert!(!driver.is_ready());
        assert!(!driver.poll().expect("the driver works"));
    }
    assert_eq!(driver.counters().enters, entered);
}

#[test]
fn closing_with_a_send_in_flight_tells_both_ends_in_order() {
    for disable in [Features::NONE, Features::ALL] {
        let Some(mut driver) = driver(without(disable)) else { return };
        let (socket, peer) = guest(&mut driver);
        let length = 32 << 20;
        driver.send(socket, output(&vec![7; length]));
        for _ in 0..3 {
            driver.poll().expect("the driver works");
        }
        assert!(driver.next_completion().is_none(), "nobody reads, so it is in flight");
        driver.close(socket);
        let mut ends = Vec::new();
        run(&mut driver, "it is closed", |_, completion| {
            ends.push(match completion {
                Completion::Sent { output, result: Err(_), .. } if output.len() == length => "sent",
                Completion::Closed { .. } => "closed",
                other => panic!("nothing else is due, but there is {other:?}"),
            });
            ends.len() == 2
        });
        assert_eq!(ends, ["sent", "closed"]);
        assert_eq!(driver.sockets(), 0);
        drop(peer);
    }
}

#[test]
fn a_refused_connection_is_told_as_such() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let socket = driver.connect(unused_address()).expect("there is room");
    run(&mut driver, "the outcome is known", |_, completion| match completion {
        Completion::Connected { socket: id, result } => {
            assert_eq!(id, socket);
            let error = result.expect_err("nobody listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            true
        }
        other => panic!("nothing else is due, but there is {other:?}"),
    });
    assert_eq!(driver.sockets(), 0);
}

#[test]
fn a_close_takes_back_what_was_not_looked_at() {
    let config =
        UringConfig { receive_buffers: 8, receive_buffer_bytes: 4_096, ..UringConfig::default() };
    let Some(mut driver) = driver(config) else { return };
    // Chunks: one is looked at, the others are not, and one of these is at hand already.
    let (socket, mut peer) = guest(&mut driver);
    peer.write_all(&pattern(6 * 4_096)).expect("the kernel buffers as much");
    let looked_at = hold(&mut driver, 1).remove(0);
    assert!(driver.poll().expect("the driver works"), "there is more");
    driver.close(socket);
    run(&mut driver, "it is closed", |_, completion| match completion {
        Completion::Closed { socket: id } => id == socket,
        other => panic!("after a close there is {other:?}"),
    });
    assert_eq!(driver.buffers().with_kernel, 7);
    driver.give_back(looked_at);
    assert_eq!(driver.buffers().with_kernel, 8);
    // An outcome of a connect, which has voided the id already.
    let refused = driver.connect(unused_address()).expect("there is room");
    let give_up_at = Instant::now() + PATIENCE;
    while !driver.poll().expect("the driver works") {
        assert!(Instant::now() < give_up_at, "loopback refuses at once");
    }
    driver.close(refused);
    let told = driver.next_completion();
    assert!(matches!(told, Some(Completion::Closed { socket }) if socket == refused), "{told:?}");
    assert!(driver.next_completion().is_none());
}

#[test]
fn an_eager_send_that_finds_a_full_socket_waits() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let address = listen(&mut driver);
    // A peer with little room of its own, so that the socket is full soon.
    let peer = socket_with_little_room();
    rustix::net::connect(&peer, &address).expect("the driver listens");
    let mut peer = TcpStream::from(peer);
    let mut accepted = None;
    run(&mut driver, "the guest is accepted", |_, completion| match completion {
        Completion::Accepted { socket, .. } => accepted.replace(socket).is_none(),
        other => panic!("nothing else is due, but there is {other:?}"),
    });
    let socket = accepted.expect("it was accepted");
    // Single bytes at last: when the socket is full, it is so between two sends.
    let nearly_full = room_of_a_socket().saturating_sub(256 * 1_024);
    let mut sent = 0;
    loop {
        let bytes = if sent < nearly_full { 8 * 1_024 } else { 1 };
        let message: Vec<u8> = (sent..sent + bytes).map(|at| at as u8).collect();
        driver.send(socket, output(&message));
        sent += bytes;
        driver.poll().expect("the driver works");
        match driver.next_completion() {
            Some(Completion::Sent { result, .. }) => result.expect("the peer is there"),
            None => break,
            other => panic!("nothing else is due, but there is {other:?}"),
        }
    }
    let reader = thread::spawn(move || {
        let mut all = vec![0; sent];
        peer.read_exact(&mut all).expect("all is sent in the end");
        all
    });
    run(&mut driver, "the last is sent", |_, completion| match completion {
        Completion::Sent { result, .. } => result.is_ok(),
        other => panic!("nothing else is due, but there is {other:?}"),
    });
    let arrived = reader.join().expect("reading does not panic");
    assert!(arrived.iter().enumerate().all(|(at, byte)| at as u8 == *byte), "in order, once");
}

fn socket_with_little_room() -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketType, socket, sockopt};
    let peer = socket(AddressFamily::INET, SocketType::STREAM, None).expect("descriptors are left");
    sockopt::set_socket_recv_buffer_size(&peer, 4_096).expect("it is a socket");
    peer
}

/// How many bytes go into a socket whose peer has little room and does not read.
fn room_of_a_socket() -> usize {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let peer = socket_with_little_room();
    let address = listener.local_addr().expect("it is bound");
    rustix::net::connect(&peer, &address).expect("the listener has a backlog");
    let (mut socket, _) = listener.accept().expect("it is connected");
    socket.set_nonblocking(true).expect("it is a socket");
    std::iter::from_fn(|| socket.write(&[0; 8 * 1_024]).ok()).sum()
}

/// An address that nobody listens on: it was free a moment ago.
fn unused_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound")
}

/// Lets the driver run until it has received `count` chunks, and keeps them.
fn hold(driver: &mut UringDriver, count: usize) -> Vec<Chunk> {
    let mut held = Vec::new();
    run(driver, "the chunks have come", |_, completion| {
        match completion {
            Completion::Received { chunk, .. } => held.push(chunk),
            other => panic!("nothing else is due, but there is {other:?}"),
        }
        held.len() == count
    });
    held
}

#[test]
fn a_buffer_that_another_thread_drops_wakes_a_driver_that_waits_for_one() {
    let config =
        UringConfig { receive_buffers: 4, receive_buffer_bytes: 4_096, ..UringConfig::default() };
    let Some(mut driver) = driver(config) else { return };
    let (_socket, mut peer) = guest(&mut driver);
    let all = pattern(5 * 4_096);
    peer.write_all(&all).expect("the kernel buffers as much");
    // All buffers are held, and the fifth has to wait.
    let held = hold(&mut driver, 4);
    for _ in 0..5 {
        driver.poll().expect("the driver works");
    }
    assert!(driver.next_completion().is_none());
    assert_eq!((driver.buffers().with_kernel, driver.counters().buffer_waits), (0, 1));
    let mut bytes: Vec<Bytes> = held.iter().map(|chunk| driver.lend(chunk)).collect();
    assert_eq!(driver.counters().lend_copies, 1, "the last quarter is copied");
    assert_eq!(bytes.concat(), all[..4 * 4_096]);
    // The copy's buffer goes back at once and takes the rest; then nothing is left again.
    held.into_iter().for_each(|chunk| driver.give_back(chunk));
    let rest = hold(&mut driver, 1);
    assert_eq!(driver.bytes(&rest[0]), &all[4 * 4_096..]);
    peer.write_all(b"more").expect("the kernel buffers as much");
    for _ in 0..5 {
        driver.poll().expect("the driver works");
    }
    assert!(driver.next_completion().is_none() && !driver.is_ready());
    let lent = bytes.remove(0);
    let dropper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        drop(lent);
    });
    let deadline = driver.now() + PATIENCE;
    driver.park(Some(deadline)).expect("the driver works");
    assert!(driver.now() < deadline, "it slept through the return of the buffer");
    let more = hold(&mut driver, 1);
    assert_eq!(driver.bytes(&more[0]), b"more");
    dropper.join().expect("dropping does not panic");
    drop(bytes);
    rest.into_iter().chain(more).for_each(|chunk| driver.give_back(chunk));
    driver.poll().expect("the driver works");
    assert_eq!((driver.buffers().with_kernel, driver.buffers().lent), (4, 0));
}

#[test]
fn lent_bytes_outlive_the_driver() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let (_socket, mut peer) = guest(&mut driver);
    peer.write_all(b"keep me").expect("the kernel buffers as much");
    let chunk = hold(&mut driver, 1).remove(0);
    let lent = driver.lend(&chunk);
    assert_eq!(driver.counters().lend_copies, 0);
    driver.give_back(chunk);
    assert_eq!(driver.buffers().lent, 1);
    drop(driver);
    let reader = thread::spawn(move || lent.to_vec());
    assert_eq!(reader.join().expect("reading does not panic"), b"keep me");
}

#[test]
fn files_are_written_synced_and_read() {
    for disable in [Features::NONE, Features::ALL] {
        let Some(mut driver) = driver(without(disable)) else { return };
        let name = format!("uring-{}-{disable:?}", std::process::id()).replace(' ', "-");
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        for direct in [false, true] {
            let options = OpenFile { create: true, direct };
            let file = driver.open(&path, options).expect("the directory is writable");
            let all = pattern(1 << 20);
            let finish = |driver: &mut UringDriver, id: u64| {
                let mut outcome = None;
                run(driver, "the operation ends", |_, completion| match completion {
                    Completion::File { op, buffer, result } => {
                        assert_eq!(op, FileOpId(id));
                        outcome.replace((buffer, result.expect("the disk works"))).is_none()
                    }
                    other => panic!("nothing else is due, but there is {other:?}"),
                });
                outcome.expect("it ended")
            };
            driver.write(file, 0, FileBuffer::copy_of(&all), FileOpId(1));
            assert_eq!(finish(&mut driver, 1).1, all.len());
            driver.sync(file, FileOpId(2));
            assert_eq!(finish(&mut driver, 2).1, 0);
            driver.read(file, 4_096, FileBuffer::zeroed(all.len()), FileOpId(3));
            let (buffer, count) = finish(&mut driver, 3);
            assert_eq!(count, all.len() - 4_096, "short at the end of the file");
            assert!(buffer.bytes()[..count] == all[4_096..]);
            driver.close_file(file);
        }
        std::fs::remove_file(path).expect("it is there");
    }
}

#[test]
fn a_driver_is_woken_through_its_ring() {
    for disable in [Features::NONE, Features::RING_MESSAGE, Features::ALL] {
        if driver(without(disable)).is_none() {
            return;
        }
        const ROUNDS: u32 = 200;
        // Two shards that pass a number to and fro, each asleep while it is the other's turn.
        let number = Arc::new(AtomicU32::new(0));
        let (tell, told) = mpsc::channel::<Arc<Parker>>();
        let (tell_other, told_other) = mpsc::channel::<Arc<Parker>>();
        let shard = |me: u32, tell: mpsc::Sender<_>, told: mpsc::Receiver<Arc<Parker>>| {
            let number = number.clone();
            thread::spawn(move || {
                let mut driver = driver(without(disable)).expect("it was there a moment ago");
                tell.send(driver.parker()).expect("the other listens");
                let other = told.recv().expect("the other is there");
                let deadline = driver.now() + PATIENCE;
                loop {
                    let now = number.load(Ordering::Relaxed);
                    if now >= ROUNDS {
                        break;
                    }
                    if now % 2 == me {
                        number.store(now + 1, Ordering::Relaxed);
                        driver.unpark(&other);
                        driver.poll().expect("the driver works");
                        continue;
                    }
                    driver.parker().announce();
                    if number.load(Ordering::Relaxed) == now {
                        driver.park(Some(deadline)).expect("the driver works");
                        assert!(driver.now() < deadline, "a wake was lost");
                    } else {
                        driver.parker().withdraw();
                    }
                    let told = driver.next_completion();
                    assert!(told.is_none(), "nothing is due, but there is {told:?}");
                }
            })
        };
        let shards = [shard(0, tell, told_other), shard(1, tell_other, told)];
        for shard in shards {
            shard.join().expect("both go on to the end");
        }
    }
}

#[test]
fn a_ring_that_cannot_be_reached_is_woken_otherwise() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let woken = Arc::new(AtomicBool::new(false));
    let its = woken.clone();
    let wake = Box::new(move || its.store(true, Ordering::Relaxed));
    // The number of a descriptor that is no ring: standard input.
    let other = Arc::new(Parker::new(Some(0), wake));
    for _ in 0..2 {
        other.announce();
        driver.unpark(&other);
        for _ in 0..3 {
            driver.poll().expect("the driver works");
            assert!(driver.next_completion().is_none());
        }
        assert!(woken.swap(false, Ordering::Relaxed), "the claimed wake was lost");
    }
}

#[test]
fn a_driver_that_goes_leaves_no_descriptor_behind() {
    // In a process of its own: other tests open descriptors too.
    const CHILD: &str = "CATENA_URING_TEST_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let this = "uring::a_driver_that_goes_leaves_no_descriptor_behind";
        let output = std::process::Command::new(std::env::current_exe().expect("it is a file"))
            .args(["--exact", this, "--nocapture", "--test-threads", "1"])
            .env(CHILD, "1")
            .output()
            .expect("the test can start itself");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("1 passed"), "the child ran nothing:\n{said}");
        return;
    }
    let count = || std::fs::read_dir("/proc/self/fd").expect("it is Linux").count();
    let before = count();
    for disable in stepped_down() {
        let Some(mut driver) = driver(without(disable)) else { return };
        let (socket, mut peer) = guest(&mut driver);
        // In flight when it goes: a receive, a send, an accept, a connect, an unseen connection.
        driver.send(socket, output(&vec![1; 16 << 20]));
        let address = listen(&mut driver);
        driver.connect(address).expect("there is room");
        driver.poll().expect("the driver works");
        driver.poll().expect("the driver works");
        let began_at = Instant::now();
        drop(driver);
        assert!(began_at.elapsed() < Duration::from_secs(5), "it did not have to wait");
        peer.read_to_end(&mut Vec::new()).ok();
    }
    assert_eq!(count(), before);
}

#[test]
fn what_is_in_use_is_described() {
    let Some(driver) = driver(without(Features::RING_MESSAGE)) else { return };
    let text = driver.describe();
    assert!(text.starts_with("io_uring on Linux "), "{text}");
    assert!(text.contains("without ring-message") || text.contains(" ring-message;"), "{text}");
    assert!(driver.parker().ring().is_none(), "nobody is to send it a message");
}
