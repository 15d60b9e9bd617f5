//! How connections begin.

use crate::harness::{Client, Harness, Pair, Seen, Server};
use catena_engine::driver::Driver;
use std::net::SocketAddr;

pub fn a_system_chosen_port_is_reported<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let asked = pair.harness.address(Server);
    let (first, here) = pair.listen();
    let (second, there) = pair.listen();
    assert_ne!(first, second);
    for bound in [here, there] {
        assert_eq!((bound.ip(), asked.port()), (asked.ip(), 0));
        assert_ne!(bound.port(), 0);
    }
    assert_ne!(here, there, "port 0 asks for a port of its own");
}

pub fn both_sides_learn_of_a_connection<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    assert_eq!(pair.driver(Client).peer_address(link.client), Some(link.address));
    let peer: SocketAddr = pair.driver(Server).peer_address(link.server).expect("it is connected");
    assert_eq!(peer.ip(), pair.harness.address(Client).ip());
    pair.turns(10);
    assert_eq!((pair.seen(Server).len(), pair.seen(Client).len()), (1, 1), "each is told once");
}

pub fn bytes_that_come_with_the_connection_are_read<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let (listener, address) = pair.listen();
    let client = pair.driver(Client).connect(address).expect("there is room for a socket");
    // The client does not look, unless it has to be asked to hand over its connect.
    let mut attempts = 0;
    pair.repeat_until("the server has accepted", |pair| {
        attempts += 1;
        if attempts > 50 {
            pair.driver(Client).poll().expect("the driver works");
        }
        pair.harness.settle();
        pair.drain(Server);
        !pair.accepted(listener).is_empty()
    });
    let server = pair.accepted(listener)[0];
    pair.send_unseen(Server, server, b"welcome");
    pair.until("the welcome arrives", |pair| pair.received(Client, client) == b"welcome");
    assert!(
        matches!(
            pair.seen_of(Client, client)[..],
            [Seen::Connected(_, Ok(())), Seen::Received(..)]
        ),
        "{:?}",
        pair.seen(Client)
    );
}

pub fn a_refused_connection_voids_its_id<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let (listener, address) = pair.listen();
    pair.driver(Server).stop_listening(listener);
    pair.turns(10);
    let refused = pair.driver(Client).connect(address).expect("there is room for a socket");
    pair.until("the outcome is known", |pair| !pair.seen_of(Client, refused).is_empty());
    assert!(
        matches!(pair.seen_of(Client, refused)[..], [Seen::Connected(_, Err(error))]
            if error.kind() == std::io::ErrorKind::ConnectionRefused),
        "{:?}",
        pair.seen(Client)
    );
    assert_eq!(pair.driver(Client).peer_address(refused), None);
    pair.driver(Client).close(refused);
    let link = pair.link();
    assert_ne!(link.client, refused);
    assert_eq!(pair.seen_of(Client, refused).len(), 1, "a void id stays silent");
}

pub fn closing_before_the_outcome_leaves_only_closed<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let (_, address) = pair.listen();
    let client = pair.driver(Client).connect(address).expect("there is room for a socket");
    pair.close(Client, client);
    pair.turns(10);
    assert!(
        matches!(pair.seen_of(Client, client)[..], [Seen::Closed(_)]),
        "{:?}",
        pair.seen_of(Client, client)
    );
}

pub fn a_stopped_listener_refuses_and_spares_its_connections<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    pair.driver(Server).stop_listening(link.listener);
    pair.turns(10);
    let late = pair.driver(Client).connect(link.address).expect("there is room for a socket");
    pair.until("the outcome is known", |pair| !pair.seen_of(Client, late).is_empty());
    assert!(
        matches!(pair.seen_of(Client, late)[..], [Seen::Connected(_, Err(_))]),
        "{:?}",
        pair.seen_of(Client, late)
    );
    pair.send_all(Client, link.client, b"still here");
    pair.until("the bytes arrive", |pair| pair.received(Server, link.server) == b"still here");
    assert_eq!(pair.accepted(link.listener), [link.server]);
}
