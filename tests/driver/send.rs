//! Outputs of every size and shape.

use crate::harness::{Client, Harness, Pair, Server, output_of, pattern};
use bytes::Bytes;
use catena_engine::driver::{Driver, Output, SendState};

/// 8 MiB in 600 pieces, copied and shared by turns: more than one send's slices, and more than the
/// kernel's buffers on both sides hold. And the same in one piece.
fn big_output() -> (Output, Vec<u8>) {
    const PIECES: usize = 600;
    let all = pattern(8 << 20, 99);
    let mut output = Output::default();
    for (index, piece) in all.chunks(all.len().div_ceil(PIECES)).enumerate() {
        if index % 2 == 0 {
            output.copied_mut().extend_from_slice(piece);
        } else {
            output.share(Bytes::copy_from_slice(piece));
        }
    }
    (output, all)
}

pub fn a_big_output_arrives_whole_at_a_slow_reader<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    let (output, all) = big_output();
    pair.driver(Server).pause_receive(link.server);
    let state = pair.driver(Client).send(link.client, output);
    assert!(matches!(state, SendState::InFlight), "nobody reads, so it cannot be done");
    pair.turns(20);
    let mut arrived = pair.received_bytes(Server, link.server);
    // Ten sips, then all of it.
    for _ in 0..10 {
        pair.driver(Server).resume_receive(link.server);
        pair.until("a little arrives", |pair| pair.received_bytes(Server, link.server) > arrived);
        pair.driver(Server).pause_receive(link.server);
        pair.turns(20);
        arrived = pair.received_bytes(Server, link.server);
        pair.turns(20);
        assert_eq!(pair.received_bytes(Server, link.server), arrived, "paused again");
    }
    assert!(arrived < all.len());
    pair.driver(Server).resume_receive(link.server);
    pair.until("all of it arrives", |pair| pair.received_bytes(Server, link.server) == all.len());
    assert!(pair.received(Server, link.server) == all, "in order, nothing missing, nothing twice");
    let mut outcome = None;
    pair.until("the send ends", |pair| {
        outcome = pair.take_sent(Client, link.client);
        outcome.is_some()
    });
    let (output, result) = outcome.expect("the wait is over");
    result.expect("every byte is in the kernel's hands");
    assert_eq!(output.len(), all.len(), "the output comes back as it went");
    // The way is free for the next.
    pair.send_all(Client, link.client, b"next");
    pair.until("the next arrives", |pair| {
        pair.received_bytes(Server, link.server) == all.len() + 4
    });
}

pub fn an_empty_output_is_done_at_once<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    let state = pair.driver(Client).send(link.client, Output::default());
    assert!(matches!(state, SendState::Done(_)), "there is nothing to wait for");
    pair.send_all(Client, link.client, b"something");
    pair.until("it arrives", |pair| pair.received(Server, link.server) == b"something");
}

pub fn both_sides_can_send_more_than_fits_at_once<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let link = pair.link();
    let (there, back) = (pattern(3 << 20, 1), pattern(5 << 20, 2));
    pair.driver(Client).send(link.client, output_of(&there));
    pair.driver(Server).send(link.server, output_of(&back));
    pair.until("both arrive", |pair| {
        pair.received_bytes(Server, link.server) == there.len()
            && pair.received_bytes(Client, link.client) == back.len()
    });
    assert!(pair.received(Server, link.server) == there);
    assert!(pair.received(Client, link.client) == back);
}
