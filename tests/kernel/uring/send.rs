//! Sends that do not fit.

use super::{PATIENCE, driver, guest, listen, output, pattern, run};
use bytes::Bytes;
use catena_engine::driver::{Completion, Driver};
use catena_engine::limits;
use catena_engine::reactor::uring::{Features, UringConfig};
use catena_engine::time::Duration;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;

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
