//! What is this driver's own. What it shares with the others is checked in `tests/driver`.

use super::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

fn driver(config: EpollConfig) -> (EpollDriver, ListenerId, SocketAddr) {
    let mut driver = EpollDriver::new(&config).expect("epoll is there");
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    let (listener, address) = driver.listen(loopback).expect("loopback listens");
    (driver, listener, address)
}

/// The next completion, which must come: a lost one fails by the deadline, not for ever.
fn next(driver: &mut EpollDriver) -> Completion {
    let deadline = driver.now() + Duration::from_secs(30);
    loop {
        if let Some(completion) = driver.next_completion() {
            return completion;
        }
        driver.park(Some(deadline)).expect("epoll works");
        assert!(driver.now() < deadline, "nothing came: {driver:?}");
    }
}

fn guest(driver: &mut EpollDriver, address: SocketAddr) -> (TcpStream, SocketId) {
    let peer = TcpStream::connect(address).expect("the driver listens");
    match next(driver) {
        Completion::Accepted { socket, .. } => (peer, socket),
        other => panic!("a connection is due, but there is {other:?}"),
    }
}

fn echo(driver: &mut EpollDriver) -> usize {
    let mut echoed = 0;
    while let Some(completion) = driver.next_completion() {
        let Completion::Received { socket, chunk } = completion else {
            panic!("only bytes are due, but there is {completion:?}");
        };
        let mut output = Output::with_capacity(chunk.len());
        output.copied_mut().extend_from_slice(driver.bytes(&chunk));
        echoed += chunk.len();
        driver.give_back(chunk);
        assert!(matches!(driver.send(socket, output), SendState::Done(_)));
    }
    echoed
}

#[test]
fn a_turn_with_one_ready_socket_enters_the_kernel_three_times() {
    let (mut driver, _, address) = driver(EpollConfig::default());
    let (mut peer, _) = guest(&mut driver, address);
    assert!(driver.next_completion().is_none());
    for _ in 0..10 {
        peer.write_all(b"question").expect("the connection is sound");
        let before = driver.counters();
        driver.park(None).expect("epoll works");
        assert!(driver.poll().expect("epoll works"), "what the park has brought");
        assert_eq!(echo(&mut driver), 8);
        let after = driver.counters();
        assert_eq!(after.enters - before.enters, 1, "the poll after a park is free");
        assert_eq!((after.receives - before.receives, after.sends - before.sends), (1, 1));
        peer.read_exact(&mut [0; 8]).expect("the answer comes");
    }
}

#[test]
fn a_flood_does_not_make_a_round_longer() {
    let small = EpollConfig { receive_chunk_bytes: 1_000, ..EpollConfig::default() };
    let (mut driver, _, address) = driver(small);
    let (mut flood, flooded) = guest(&mut driver, address);
    let (mut quiet, other) = guest(&mut driver, address);
    assert!(driver.next_completion().is_none());
    flood.write_all(&[1; 100_000]).expect("the kernel buffers as much");
    // The flood is due in every round, and takes one buffer of it.
    let (mut rounds, mut of_flood, mut pings) = (0, 0, 0);
    while of_flood < 100_000 {
        quiet.write_all(b"ping").expect("the connection is sound");
        assert!(driver.poll().expect("epoll works"));
        let mut this_round = Vec::new();
        while let Some(completion) = driver.next_completion() {
            let Completion::Received { socket, chunk } = completion else { continue };
            this_round.push((socket, chunk.len()));
            driver.give_back(chunk);
        }
        let from = |id| this_round.iter().filter(move |(socket, _)| *socket == id);
        assert!(from(flooded).count() <= 1 && from(other).count() <= 1, "{this_round:?}");
        pings += from(other).count();
        of_flood += from(flooded).map(|(_, length)| length).sum::<usize>();
        rounds += 1;
    }
    assert!(rounds >= 100);
    assert!(pings > 0, "nothing came through beside the flood");
}

#[test]
fn a_full_table_lets_others_wait_and_is_emptied_by_a_close() {
    let (mut driver, _, address) = driver(EpollConfig { sockets_max: 2, ..EpollConfig::default() });
    let (_first, socket) = guest(&mut driver, address);
    let (_second, _) = guest(&mut driver, address);
    let _third = TcpStream::connect(address).expect("the backlog takes it");
    let refused = driver.connect(address).expect_err("there is no slot");
    assert!(refused.to_string().contains("sockets_max"), "{refused}");
    driver.park(Some(driver.now() + Duration::from_millis(50))).expect("epoll works");
    assert!(driver.next_completion().is_none(), "that is no failure");
    driver.close(socket);
    assert!(matches!(next(&mut driver), Completion::Closed { .. }));
    assert!(matches!(next(&mut driver), Completion::Accepted { .. }));
}
