//! How sockets end.

use crate::harness::{Client, Harness, Pair, Seen, Server, output_of, pattern};
use catena_engine::driver::{Driver, SendState};
use std::collections::HashSet;

pub fn a_send_in_flight_ends_before_its_socket<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    pair.driver(Server).pause_receive(link.server);
    let bytes = pattern(16 << 20, 5);
    let state = pair.driver(Client).send(link.client, output_of(&bytes));
    assert!(matches!(state, SendState::InFlight), "nobody reads, so it cannot be done");
    pair.turns(5);
    pair.close(Client, link.client);
    pair.turns(20);
    let seen = pair.seen_of(Client, link.client);
    match seen[..] {
        [Seen::Connected(..), Seen::Sent(_, output, Err(_)), Seen::Closed(_)] => {
            assert_eq!(output.len(), bytes.len(), "the output comes back as it went");
        }
        _ => panic!("Sent, then Closed, and nothing else: {seen:?}"),
    }
}

pub fn a_socket_that_was_never_used_closes<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    pair.close(Server, link.server);
    pair.until("the other side is told", |pair| pair.end_of(Client, link.client).is_some());
    assert_eq!(pair.end_of(Client, link.client), Some(Ok(())));
    assert_eq!(pair.driver(Server).peer_address(link.server), None);
}

pub fn closed_comes_once<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    for _ in 0..3 {
        pair.driver(Client).close(link.client);
    }
    pair.turns(10);
    pair.driver(Client).close(link.client);
    pair.turns(10);
    let seen = pair.seen_of(Client, link.client);
    assert!(matches!(seen[..], [Seen::Connected(..), Seen::Closed(_)]), "{seen:?}");
}

pub fn a_side_that_has_ended_its_sends_still_receives<H: Harness>() {
    // What was sent may still be on its way, be read already, or never have been anything.
    for (sent, is_read) in [(pattern(300_000, 11), false), (pattern(100, 12), true), (vec![], true)]
    {
        let mut pair = Pair::<H>::new();
        let link = pair.link();
        pair.send_all(Server, link.server, &sent);
        if is_read {
            pair.until("it arrives", |pair| pair.received_bytes(Client, link.client) == sent.len());
        }
        pair.driver(Server).shutdown_send(link.server);
        pair.until("the end arrives", |pair| pair.end_of(Client, link.client).is_some());
        assert_eq!(pair.end_of(Client, link.client), Some(Ok(())));
        assert!(pair.received(Client, link.client) == sent, "the end comes behind the bytes");
        // The other direction is whole.
        let back = pattern(300_000, 13);
        pair.send_all(Client, link.client, &back);
        pair.until("it arrives", |pair| pair.received_bytes(Server, link.server) == back.len());
        assert_eq!(pair.end_of(Server, link.server), None);
        pair.driver(Client).close(link.client);
        pair.until("the end arrives", |pair| pair.end_of(Server, link.server).is_some());
        assert_eq!(pair.end_of(Server, link.server), Some(Ok(())));
        assert!(pair.received(Server, link.server) == back);
        pair.close(Server, link.server);
        pair.until("both are closed", |pair| pair.is_closed(Client, link.client));
    }
}

pub fn ids_are_never_used_again<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let (listener, address) = pair.listen();
    let mut ids = HashSet::new();
    let mut slots = HashSet::new();
    for _ in 0..50 {
        let link = pair.link_through(listener, address);
        assert!(
            ids.insert((0, link.server)) && ids.insert((1, link.client)),
            "{link:?} is not new"
        );
        slots.insert((0, link.server.slot));
        slots.insert((1, link.client.slot));
        pair.close(Client, link.client);
        pair.close(Server, link.server);
    }
    assert!(slots.len() < 50, "slots are dense, so they are used again");
}

pub fn nothing_is_reported_of_a_closed_socket<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let (listener, address) = pair.listen();
    let former = pair.link_through(listener, address);
    // Bytes and an end that the server has not seen when it closes.
    pair.send_all(Client, former.client, &pattern(5_000, 6));
    pair.driver(Client).close(former.client);
    pair.driver(Server).close(former.server);
    let at_close = pair.seen_of(Server, former.server).len();
    // The slot's next tenant hears its own bytes alone.
    pair.until("the close is reported", |pair| pair.is_closed(Server, former.server));
    let next = pair.link_through(listener, address);
    pair.send_all(Client, next.client, b"mine");
    pair.until("its bytes arrive", |pair| pair.received_bytes(Server, next.server) >= 4);
    pair.turns(10);
    assert_eq!(pair.received(Server, next.server), b"mine");
    assert_eq!(pair.end_of(Server, next.server), None);
    let since = &pair.seen_of(Server, former.server)[at_close..];
    assert!(matches!(since, [Seen::Closed(_)]), "{since:?}");
}
