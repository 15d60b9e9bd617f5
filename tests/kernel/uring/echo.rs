//! An echo on a thread of its own, under every kind of load.

use super::{PATIENCE, driver, listen, output, pattern, run, stepped_down, without};
use catena_engine::driver::{Completion, Driver, SendState, SocketId};
use catena_engine::reactor::uring::{Features, UringConfig, UringDriver};
use catena_engine::time::Duration;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

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
