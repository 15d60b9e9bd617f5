//! Bytes that arrive, and the end of them.

use crate::harness::{Client, Harness, Pair, Seen, Server, pattern};
use bytes::Bytes;
use catena_engine::driver::{Chunk, Completion, Driver, SocketId};

pub fn bytes_go_both_ways<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for round in 1..=20 {
        let (question, answer) = (pattern(round * 37, 1), pattern(round * 11, 2));
        asked.extend_from_slice(&question);
        answered.extend_from_slice(&answer);
        pair.send_all(Client, link.client, &question);
        pair.until("the question arrives", |pair| {
            pair.received_bytes(Server, link.server) == asked.len()
        });
        pair.send_all(Server, link.server, &answer);
        pair.until("the answer arrives", |pair| {
            pair.received_bytes(Client, link.client) == answered.len()
        });
    }
    assert_eq!(pair.received(Server, link.server), asked);
    assert_eq!(pair.received(Client, link.client), answered);
    let counters = pair.driver(Server).counters();
    assert_eq!(counters.received_bytes, asked.len() as u64);
    assert_eq!(counters.sent_bytes, answered.len() as u64);
    assert!(counters.receives >= 20 && counters.sends >= 20 && counters.completions >= 20);
}

pub fn an_orderly_end_comes_after_the_bytes<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    pair.send_all(Client, link.client, b"last words");
    pair.until("they arrive", |pair| pair.received_bytes(Server, link.server) == 10);
    pair.close(Client, link.client);
    pair.until("the end arrives", |pair| pair.end_of(Server, link.server).is_some());
    pair.turns(10);
    let seen = pair.seen_of(Server, link.server);
    assert!(matches!(seen.last(), Some(Seen::ReceiveEnded(_, Ok(())))), "{seen:?}");
    let ends = seen.iter().filter(|seen| matches!(seen, Seen::ReceiveEnded(..))).count();
    assert_eq!(ends, 1, "an end is told once");
}

pub fn an_ended_socket_can_still_be_closed_once<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    pair.close(Client, link.client);
    pair.until("the end arrives", |pair| pair.end_of(Server, link.server).is_some());
    pair.close(Server, link.server);
    pair.turns(10);
    let seen = pair.seen_of(Server, link.server);
    assert!(
        matches!(seen[..], [Seen::Accepted(..), Seen::ReceiveEnded(_, Ok(())), Seen::Closed(_)]),
        "{seen:?}"
    );
}

pub fn lent_bytes_outlive_their_chunk<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    let mut kept: Vec<Bytes> = Vec::new();
    for round in 0..50u64 {
        pair.send_unseen(Client, link.client, &pattern(90, round));
        let whole = 90 * (round as usize + 1);
        pair.repeat_until("the bytes have come", |pair| {
            for (_, chunk) in take_chunks(pair) {
                let driver = pair.driver(Server);
                let lent = driver.lend(&chunk);
                assert_eq!(lent, driver.bytes(&chunk));
                driver.give_back(chunk);
                kept.push(lent);
            }
            kept.iter().map(Bytes::len).sum::<usize>() == whole
        });
    }
    pair.close(Server, link.server);
    let expected: Vec<u8> = (0..50).flat_map(|round| pattern(90, round)).collect();
    assert_eq!(kept.concat(), expected, "later receives went elsewhere");
    // In another thread, and after the driver: who holds a payload owes the driver nothing.
    drop(pair);
    let sum = std::thread::spawn(move || kept.iter().map(Bytes::len).sum::<usize>());
    assert_eq!(sum.join().expect("adding does not panic"), 50 * 90);
}

pub fn several_chunks_can_be_held<H: Harness>() {
    const SOCKETS: usize = 6;
    let mut pair = Pair::<H>::new();
    let (listener, address) = pair.listen();
    let links = [(); SOCKETS].map(|()| pair.link_through(listener, address));
    for (salt, link) in links.iter().enumerate() {
        pair.send_unseen(Client, link.client, &pattern(64, salt as u64));
    }
    // As many as the driver has buffers for, whatever that is; but more than one.
    let mut held = Vec::new();
    pair.repeat_until("several chunks have come", |pair| {
        held.extend(take_chunks(pair));
        held.len() >= 2
    });
    for _ in 0..20 {
        held.extend(take_chunks(&mut pair));
    }
    let mut arrived = vec![Vec::new(); SOCKETS];
    let index_of = |socket| links.iter().position(|link| link.server == socket);
    for (socket, chunk) in held {
        let index = index_of(socket).expect("only these sockets were sent to");
        arrived[index].extend_from_slice(pair.driver(Server).bytes(&chunk));
        pair.driver(Server).give_back(chunk);
    }
    // What waited for a buffer comes now.
    pair.repeat_until("all bytes have come", |pair| {
        for (socket, chunk) in take_chunks(pair) {
            let index = index_of(socket).expect("only these sockets were sent to");
            arrived[index].extend_from_slice(pair.driver(Server).bytes(&chunk));
            pair.driver(Server).give_back(chunk);
        }
        arrived.iter().all(|bytes| bytes.len() == 64)
    });
    for (salt, bytes) in arrived.iter().enumerate() {
        assert_eq!(*bytes, pattern(64, salt as u64));
    }
}

/// One turn of the server in which nothing but chunks is due; the caller gives them back.
fn take_chunks<H: Harness>(pair: &mut Pair<H>) -> Vec<(SocketId, Chunk)> {
    let mut chunks = Vec::new();
    let driver = pair.driver(Server);
    driver.poll().expect("the driver works");
    while let Some(completion) = driver.next_completion() {
        match completion {
            Completion::Received { socket, chunk } => chunks.push((socket, chunk)),
            other => panic!("nothing else is due, but there is {other:?}"),
        }
    }
    if chunks.is_empty() {
        pair.harness.settle();
    }
    chunks
}

pub fn pausing_stops_the_bytes<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    pair.driver(Server).pause_receive(link.server);
    pair.turns(5);
    pair.send_all(Client, link.client, b"unread");
    pair.turns(50);
    assert_eq!(pair.received_bytes(Server, link.server), 0, "a paused socket is not read");
    pair.driver(Server).resume_receive(link.server);
    pair.until("the bytes arrive", |pair| pair.received(Server, link.server) == b"unread");
    // Pausing twice, resuming twice, resuming what runs: none of it does harm.
    for _ in 0..2 {
        pair.driver(Server).pause_receive(link.server);
    }
    for _ in 0..2 {
        pair.driver(Server).resume_receive(link.server);
    }
    pair.send_all(Client, link.client, b", read");
    pair.until("more arrives", |pair| pair.received(Server, link.server) == b"unread, read");
}

pub fn two_hundred_sockets_do_not_mix<H: Harness>() {
    const SOCKETS: usize = 200;
    let mut pair = Pair::<H>::new();
    let (listener, address) = pair.listen();
    let clients: Vec<SocketId> = (0..SOCKETS)
        .map(|_| pair.driver(Client).connect(address).expect("there is room for a socket"))
        .collect();
    pair.until("all are connected", |pair| {
        pair.accepted(listener).len() == SOCKETS && clients.iter().all(|&id| pair.is_connected(id))
    });
    let servers = pair.accepted(listener);
    // Lengths from one byte to several cramped buffers, all sockets in every round.
    for round in 0..4 {
        for (index, &client) in clients.iter().enumerate() {
            let message = pattern(1 + (index * 7 + round * 13) % 400, index as u64);
            pair.send_all(Client, client, &message);
        }
    }
    let expected = |index: usize| -> Vec<u8> {
        (0..4).flat_map(|round| pattern(1 + (index * 7 + round * 13) % 400, index as u64)).collect()
    };
    let total: usize = (0..SOCKETS).map(|index| expected(index).len()).sum();
    pair.until("every byte arrives", |pair| {
        servers.iter().map(|&id| pair.received_bytes(Server, id)).sum::<usize>() == total
    });
    let mut arrived: Vec<_> = servers.iter().map(|&id| pair.received(Server, id)).collect();
    let mut sent: Vec<_> = (0..SOCKETS).map(expected).collect();
    arrived.sort();
    sent.sort();
    assert!(arrived == sent, "each stream is one client's, whole and in order");
}
