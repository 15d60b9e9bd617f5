//! Receiving into memory of the caller's.

use crate::harness::{Client, Harness, Link, Pair, Seen, Server, output_of, pattern};
use crate::kernel::{Guest, Make};
use catena_engine::driver::{Completion, Driver, SendState, SocketId};
use std::io::{ErrorKind, Write};

/// Memory that holds three bytes already and has room for more than may be used of it.
fn memory() -> Vec<u8> {
    let mut memory = Vec::with_capacity(20_000);
    memory.extend_from_slice(b"had");
    memory
}

/// Has the driver take memory up: sends a byte again and again, and offers when it has come.
fn offer<H: Harness>(pair: &mut Pair<H>, link: &Link, bytes_max: usize) {
    let mut taken_up = false;
    pair.repeat_until("the offer is taken up", |pair| {
        pair.send_unseen(Client, link.client, b"!");
        let mut has_come = false;
        pair.repeat_until("the byte comes", |pair| {
            pair.harness.settle();
            taken_up =
                offer_after_chunk(pair.driver(Server), link.server, bytes_max, &mut has_come);
            has_come
        });
        taken_up
    });
}

/// One turn, in which nothing but chunks is due. True if memory was taken up after one.
fn offer_after_chunk<D: Driver>(
    driver: &mut D,
    socket: SocketId,
    bytes_max: usize,
    has_come: &mut bool,
) -> bool {
    driver.poll().expect("the driver works");
    let mut taken_up = false;
    while let Some(completion) = driver.next_completion() {
        let Completion::Received { chunk, .. } = completion else {
            panic!("nothing else is due, but there is {completion:?}");
        };
        driver.give_back(chunk);
        *has_come = true;
        taken_up = driver.receive_into(socket, memory(), bytes_max).is_ok();
    }
    taken_up
}

/// Memory that came back, oldest first.
fn filled<H: Harness>(pair: &Pair<H>, socket: SocketId) -> Vec<Vec<u8>> {
    let seen = pair.seen_of(Server, socket).into_iter();
    seen.filter_map(|seen| match seen {
        Seen::Filled(_, memory) => Some(memory.clone()),
        _ => None,
    })
    .collect()
}

pub fn bytes_go_where_they_are_wanted<H: Harness>() {
    const BYTES_MAX: usize = 7_000;
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    let sent = pattern(4_000_000, 3);
    let state = pair.driver(Client).send(link.client, output_of(&sent));
    let mut is_sending = matches!(state, SendState::InFlight);
    let (mut arrived, mut offered, mut in_memory) = (Vec::new(), false, 0);
    pair.repeat_until("every byte arrives, in order", |pair| {
        pair.harness.settle();
        pair.drain(Client);
        is_sending = is_sending && pair.take_sent(Client, link.client).is_none();
        let driver = pair.driver(Server);
        driver.poll().expect("the driver works");
        while let Some(completion) = driver.next_completion() {
            match completion {
                Completion::Received { chunk, .. } => {
                    assert!(!offered, "what comes next was wanted elsewhere");
                    arrived.extend_from_slice(driver.bytes(&chunk));
                    driver.give_back(chunk);
                }
                Completion::Filled { memory, .. } => {
                    assert!(std::mem::take(&mut offered), "it was offered once");
                    assert_eq!(&memory[..3], b"had");
                    assert!(memory.len() <= 3 + BYTES_MAX && memory.capacity() == 20_000);
                    arrived.extend_from_slice(&memory[3..]);
                    in_memory += memory.len() - 3;
                }
                other => panic!("nothing else is due, but there is {other:?}"),
            }
            if !offered && arrived.len() < sent.len() {
                offered = driver.receive_into(link.server, memory(), BYTES_MAX).is_ok();
            }
        }
        arrived.len() == sent.len()
    });
    assert!(arrived == sent && !is_sending);
    assert!(in_memory > 0, "offers are taken up");
    let counters = pair.driver(Server).counters();
    assert_eq!(counters.received_bytes, sent.len() as u64);
    // And then as ever.
    pair.send_all(Client, link.client, b"small");
    pair.until("it arrives", |pair| pair.received(Server, link.server) == b"small");
}

pub fn a_pause_brings_memory_back<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    offer(&mut pair, &link, 100);
    let again = pair.driver(Server).receive_into(link.server, memory(), 100);
    assert_eq!(again, Err(memory()), "one at a time");
    pair.driver(Server).pause_receive(link.server);
    pair.until("the memory is back", |pair| !filled(pair, link.server).is_empty());
    assert_eq!(filled(&pair, link.server), [b"had"]);
    let declined = pair.driver(Server).receive_into(link.server, memory(), 100);
    assert_eq!(declined, Err(memory()), "it is paused");
    pair.send_all(Client, link.client, b"unread");
    pair.turns(20);
    assert_eq!(pair.received_bytes(Server, link.server), 0);
    pair.driver(Server).resume_receive(link.server);
    pair.until("the bytes arrive", |pair| pair.received(Server, link.server) == b"unread");
    // One that was paused and resumed at once comes back too, or goes on.
    offer(&mut pair, &link, 100);
    pair.driver(Server).pause_receive(link.server);
    pair.driver(Server).resume_receive(link.server);
    pair.send_all(Client, link.client, b"more");
    pair.until("the bytes arrive somewhere", |pair| {
        pair.received(Server, link.server) == b"unreadmore"
            || filled(pair, link.server).last().is_some_and(|last| last == b"hadmore")
    });
}

pub fn an_end_brings_memory_back_first<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    offer(&mut pair, &link, 100);
    pair.close(Client, link.client);
    pair.until("the end arrives", |pair| pair.end_of(Server, link.server).is_some());
    pair.turns(10);
    let seen = pair.seen_of(Server, link.server);
    let [Seen::Accepted(..), Seen::Filled(_, memory), Seen::ReceiveEnded(_, Ok(()))] = seen[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(memory, b"had");
    let declined = pair.driver(Server).receive_into(link.server, super::memory::memory(), 100);
    assert!(declined.is_err(), "nothing will arrive any more");
}

pub fn a_close_keeps_memory_that_is_received_into<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    let Link { server, client, .. } = link;
    offer(&mut pair, &link, 100);
    pair.close(Server, server);
    pair.until("the peer hears of it", |pair| pair.end_of(Client, client).is_some());
    pair.turns(10);
    let seen = pair.seen_of(Server, server);
    assert!(matches!(seen[..], [Seen::Accepted(..), Seen::Closed(_)]), "{seen:?}");
    let declined = pair.driver(Server).receive_into(server, memory(), 100);
    assert!(declined.is_err(), "nobody is there");
}

pub fn a_reset_brings_memory_back_first<M: Make>() {
    let mut guest = Guest::<M>::new();
    let socket = guest.socket;
    let mut has_come = false;
    guest.pair.repeat_until("the offer is taken up", |pair| {
        let _ = guest.peer.write(b"!").expect("the connection is sound");
        pair.harness.settle();
        offer_after_chunk(pair.driver(Server), socket, 100, &mut has_come)
    });
    guest.reset();
    assert_eq!(guest.wait_for_end(), Err(ErrorKind::ConnectionReset));
    let back = filled(&guest.pair, socket);
    assert!(back.len() == 1 && back[0].starts_with(b"had"), "{back:?}");
}

/// One peer sends as fast as it can, and 31 have a word to say each. What the driver takes from the
/// greedy one in the meantime is all buffers once, where a receive goes on by itself, and then as
/// much as from each of the others.
pub fn a_greedy_peer_starves_nobody<M: Make>() {
    const OTHERS: usize = 31;
    /// Twice the 32 buffers of 16 KiB of the suite whose receives go on by themselves.
    const GREED_BYTES_MAX: usize = 1 << 20;
    let mut guest = Guest::<M>::new();
    let greedy = guest.socket;
    let (listener, address) = guest.pair.listen();
    let mut others: Vec<_> = (0..OTHERS)
        .map(|_| std::net::TcpStream::connect(address).expect("the driver listens"))
        .collect();
    guest.pair.until("all are accepted", |pair| pair.accepted(listener).len() == OTHERS);
    guest.peer.set_nonblocking(true).expect("it is a socket");
    let flood = pattern(1 << 20, 1);
    let (peer, driver) = (&mut guest.peer, guest.pair.driver(Server));
    let mut pour = || while peer.write(&flood).is_ok_and(|written| written > 0) {};
    for round in 1..=10 {
        pour();
        others.iter_mut().for_each(|other| other.write_all(b"a word").expect("there is room"));
        let (mut heard, mut greedy_bytes) = (0, 0);
        let give_up_at = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while heard < OTHERS * 6 {
            assert!(std::time::Instant::now() < give_up_at, "{heard} bytes heard in round {round}");
            driver.poll().expect("the driver works");
            while let Some(completion) = driver.next_completion() {
                let Completion::Received { socket, chunk } = completion else {
                    panic!("nothing else is due, but there is {completion:?}");
                };
                match socket == greedy {
                    true => greedy_bytes += chunk.len(),
                    false => heard += chunk.len(),
                }
                driver.give_back(chunk);
            }
            pour();
        }
        assert!(greedy_bytes <= GREED_BYTES_MAX, "round {round}: {greedy_bytes} bytes");
    }
}
