//! Streams: what a cut, a loss, a slow reader do to them, each on its own.

use crate::bare::{Bare, CLIENT, SERVER, Told, ended};
use catena_engine::driver::{Completion, Driver};
use catena_engine::sim::{EventKind, Fault, Loss, NetworkConfig, Span, WorldConfig};
use catena_engine::time::Duration;
use std::io::ErrorKind;

const SECOND: Duration = Duration::from_secs(1);

fn pair(seed: u64) -> Bare {
    Bare::new(seed, 2, WorldConfig::default())
}

fn partition(bare: &mut Bare, lasts: Duration) {
    let (a, b) = (bare.host(SERVER), bare.host(CLIENT));
    bare.world.inject(Fault::Partition { a, b, lasts });
}

#[test]
fn a_partition_holds_bytes_and_gives_them_back() {
    for seed in 0..20 {
        let mut bare = pair(seed);
        let link = bare.link();
        partition(&mut bare, 3 * SECOND);
        bare.send(CLIENT, link.client, b"held");
        bare.run_for(Duration::from_millis(2_900));
        assert_eq!(bare.received(SERVER), b"", "nothing gets through a partition");
        bare.run_for(SECOND);
        assert_eq!(bare.received(SERVER), b"held", "a sender finds out that the path works again");
        bare.send(SERVER, link.server, b"answer");
        bare.run_for(Duration::from_millis(10));
        assert_eq!(bare.received(CLIENT), b"answer");
    }
}

#[test]
fn a_partition_can_be_healed_early() {
    let mut bare = pair(1);
    let link = bare.link();
    partition(&mut bare, Duration::MAX);
    bare.send(CLIENT, link.client, b"held");
    bare.run_for(SECOND);
    let (a, b) = (bare.host(SERVER), bare.host(CLIENT));
    bare.world.inject(Fault::Heal { a, b });
    bare.run_for(SECOND);
    assert_eq!(bare.received(SERVER), b"held");
}

#[test]
fn a_partition_that_lasts_breaks_who_waits_and_not_who_does_not() {
    let mut bare = pair(2);
    let link = bare.link();
    let sent_at = bare.world.now();
    partition(&mut bare, 60 * SECOND);
    bare.send(CLIENT, link.client, b"into the void");
    let (end, at) = bare.until(CLIENT, 30 * SECOND, ended).expect("the sender gives up");
    assert_eq!(end, Err(ErrorKind::TimedOut));
    let waited = at.since(sent_at);
    assert!((10 * SECOND..11 * SECOND).contains(&waited), "{waited:?}");
    bare.run_for(60 * SECOND);
    assert_eq!(bare.ended(SERVER), None, "it was told nothing and waits for nothing");
    // Its next word meets a kernel that knows nothing of the connection.
    bare.send(SERVER, link.server, b"still there?");
    let (end, _) = bare.until(SERVER, SECOND, ended).expect("it is reset");
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_cut_of_one_way_delivers_and_yet_times_out() {
    let mut bare = pair(3);
    let link = bare.link();
    let (from, to) = (bare.host(SERVER), bare.host(CLIENT));
    bare.world.inject(Fault::Cut { from, to, lasts: 60 * SECOND });
    bare.send(CLIENT, link.client, b"heard");
    bare.run_for(SECOND);
    assert_eq!(bare.received(SERVER), b"heard", "this way works");
    bare.send(SERVER, link.server, b"unheard");
    let (end, _) = bare.until(CLIENT, 20 * SECOND, ended).expect("no acknowledgement came back");
    assert_eq!(end, Err(ErrorKind::TimedOut));
    assert_eq!(bare.received(CLIENT), b"");
}

#[test]
fn connecting_is_refused_or_times_out_or_finds_nobody() {
    let mut bare = pair(4);
    let link = bare.link();
    let outcome = |bare: &mut Bare, address| {
        bare.told[CLIENT].clear();
        bare.connect(address);
        let connected = |told: &Told| match told {
            Told::Connected(result) => Some(*result),
            _ => None,
        };
        bare.until(CLIENT, 30 * SECOND, connected).expect("there is an outcome").0
    };
    let (closed, nobody) = ("10.0.0.1:9".parse(), "10.0.0.77:9".parse());
    let (closed, nobody) = (closed.expect("an address"), nobody.expect("an address"));
    assert_eq!(outcome(&mut bare, closed), Err(ErrorKind::ConnectionRefused));
    assert_eq!(outcome(&mut bare, nobody), Err(ErrorKind::HostUnreachable));
    partition(&mut bare, 60 * SECOND);
    assert_eq!(outcome(&mut bare, link.address), Err(ErrorKind::TimedOut));
    // An attempt is repeated until somebody answers.
    bare.world.heal_all();
    partition(&mut bare, 2 * SECOND);
    assert_eq!(outcome(&mut bare, link.address), Ok(()));
    assert!(bare.world.count(EventKind::ConnectRetried) > 2);
}

#[test]
fn a_reader_that_does_not_read_holds_back_the_sender() {
    let network = NetworkConfig {
        send_buffer_bytes: (30_000, 30_000),
        receive_buffer_bytes: (20_000, 20_000),
        ..NetworkConfig::default()
    };
    for seed in 0..20 {
        let config = WorldConfig { network: network.clone(), ..WorldConfig::default() };
        let mut bare = Bare::new(seed, 2, config);
        let link = bare.link();
        bare.drivers[SERVER].pause_receive(link.server);
        let (fits, rest) = (vec![1; 49_999], vec![2; 10_000]);
        assert!(!bare.send(CLIENT, link.client, &fits), "more than the sender's buffer holds");
        let sent = |told: &Told| matches!(told, Told::Sent(Ok(()))).then_some(());
        bare.until(CLIENT, SECOND, sent).expect("both buffers together hold it");
        bare.told[CLIENT].clear();
        assert!(!bare.send(CLIENT, link.client, &rest));
        assert!(bare.until(CLIENT, SECOND, sent).is_none(), "one byte of it fits");
        assert_eq!(bare.received(SERVER), b"", "a paused socket is not read");
        bare.drivers[SERVER].resume_receive(link.server);
        bare.until(CLIENT, SECOND, sent).expect("now there is room");
        bare.run_for(SECOND);
        assert!(bare.received(SERVER) == [fits, rest].concat());
    }
}

#[test]
fn a_shard_that_is_not_run_closes_its_window_too() {
    let mut bare = pair(5);
    let link = bare.link();
    bare.send(CLIENT, link.client, &vec![3; 2_000_000]);
    // The server's driver is not called at all.
    bare.world.run_for(5 * SECOND);
    bare.look(CLIENT);
    assert!(!bare.told[CLIENT].iter().any(|told| matches!(told, Told::Sent(..))));
    bare.run_for(SECOND);
    while bare.received(SERVER).len() < 2_000_000 {
        bare.run_for(Duration::from_millis(1));
    }
}

#[test]
fn bytes_arrive_in_pieces_of_every_size() {
    let (mut whole, mut one) = (0, 0);
    for seed in 0..100 {
        let mut bare = pair(seed);
        let link = bare.link();
        bare.send(CLIENT, link.client, &[9; 4_000]);
        while bare.received(SERVER).len() < 4_000 {
            bare.run_for(Duration::from_micros(50));
        }
        for told in &bare.told[SERVER] {
            if let Told::Received(bytes) = told {
                whole += usize::from(bytes.len() == 4_000);
                one += usize::from(bytes.len() == 1);
            }
        }
    }
    assert!(whole > 5 && one > 5, "{whole} whole, {one} single bytes");
}

#[test]
fn a_lost_connection_is_reset_at_both_ends_or_at_none() {
    for seed in 0..10 {
        let mut bare = pair(seed);
        bare.link();
        bare.world.inject(Fault::LoseConnection { pick: seed, how: Loss::Reset });
        bare.run_for(SECOND);
        for index in [SERVER, CLIENT] {
            assert_eq!(bare.ended(index), Some(Err(ErrorKind::ConnectionReset)));
        }
        let mut bare = pair(seed);
        let link = bare.link();
        bare.world.inject(Fault::LoseConnection { pick: seed, how: Loss::Silence });
        bare.run_for(60 * SECOND);
        assert_eq!((bare.ended(SERVER), bare.ended(CLIENT)), (None, None), "nobody noticed");
        bare.send(CLIENT, link.client, b"hello?");
        let (end, _) = bare.until(CLIENT, 20 * SECOND, ended).expect("who asks finds out");
        assert_eq!(end, Err(ErrorKind::TimedOut));
        assert_eq!(bare.ended(SERVER), None, "who does not ask does not");
    }
}

#[test]
fn a_close_with_bytes_unread_is_a_reset_and_without_is_an_end() {
    let mut bare = pair(6);
    let link = bare.link();
    bare.send(CLIENT, link.client, b"unread");
    bare.world.run_for(Duration::from_millis(5));
    bare.drivers[SERVER].close(link.server);
    bare.run_for(Duration::from_millis(5));
    assert_eq!(bare.ended(CLIENT), Some(Err(ErrorKind::ConnectionReset)));

    let mut bare = pair(6);
    let link = bare.link();
    bare.send(CLIENT, link.client, b"read");
    bare.run_for(Duration::from_millis(5));
    bare.send(SERVER, link.server, b"last words");
    bare.drivers[SERVER].close(link.server);
    bare.run_for(Duration::from_millis(5));
    assert_eq!(bare.received(CLIENT), b"last words");
    assert_eq!(bare.ended(CLIENT), Some(Ok(())));
    // What is sent to who has closed is answered with a reset.
    bare.send(CLIENT, link.client, b"too late");
    bare.run_for(Duration::from_millis(5));
    bare.send(CLIENT, link.client, b"much too late");
    bare.run_for(Duration::from_millis(5));
    let failed = |told: &Told| matches!(told, Told::Sent(Err(_)));
    assert!(bare.told[CLIENT].iter().any(failed));
}

#[test]
fn a_reset_that_is_lost_is_not_repeated() {
    let mut bare = pair(11);
    let link = bare.link();
    bare.send(CLIENT, link.client, b"unread");
    bare.world.run_for(Duration::from_millis(5));
    let (from, to) = (bare.host(SERVER), bare.host(CLIENT));
    bare.world.inject(Fault::Cut { from, to, lasts: SECOND });
    bare.drivers[SERVER].close(link.server);
    bare.run_for(5 * SECOND);
    assert_eq!(bare.world.count(EventKind::ResetLost), 1);
    assert_eq!(bare.ended(CLIENT), None, "nobody told it");
    bare.send(CLIENT, link.client, b"still there?");
    bare.run_for(SECOND);
    assert_eq!(bare.ended(CLIENT), Some(Err(ErrorKind::ConnectionReset)));
}

#[test]
fn what_arrived_before_a_reset_may_be_read_or_not() {
    let mut read = 0;
    for seed in 0..40 {
        let mut bare = pair(seed);
        let link = bare.link();
        bare.send(CLIENT, link.client, b"before");
        bare.world.run_for(Duration::from_millis(5));
        bare.world.inject(Fault::LoseConnection { pick: 0, how: Loss::Reset });
        bare.run_for(SECOND);
        assert_eq!(bare.ended(SERVER), Some(Err(ErrorKind::ConnectionReset)));
        read += usize::from(bare.received(SERVER) == b"before");
    }
    assert!((5..35).contains(&read), "{read} of 40");
}

#[test]
fn a_slow_link_is_slow_in_its_direction_and_for_its_while() {
    let mut bare = pair(7);
    let link = bare.link();
    let (from, to) = (bare.host(CLIENT), bare.host(SERVER));
    let latency = Span::millis(80, 90);
    bare.world.inject(Fault::SlowLink { from, to, latency, lasts: SECOND });
    let received = |told: &Told| matches!(told, Told::Received(..)).then_some(());
    let latency_of = |bare: &mut Bare, from: usize, socket| {
        let sent_at = bare.world.now();
        bare.told[1 - from].clear();
        bare.send(from, socket, b"x");
        bare.until(1 - from, SECOND, received).expect("it arrives").1.since(sent_at)
    };
    let slow = latency_of(&mut bare, CLIENT, link.client);
    assert!((latency.low..latency.high + Duration::from_millis(1)).contains(&slow), "{slow:?}");
    bare.run_for(Duration::from_millis(100));
    assert!(latency_of(&mut bare, SERVER, link.server) < Duration::from_millis(2));
    bare.run_for(SECOND);
    assert!(latency_of(&mut bare, CLIENT, link.client) < Duration::from_millis(2));
}

#[test]
fn a_listener_without_descriptors_says_so_once_and_goes_on() {
    let mut bare = pair(8);
    let link = bare.link();
    let host = bare.host(SERVER);
    bare.told[SERVER].clear();
    bare.world.inject(Fault::FailAccepts { host, lasts: SECOND });
    for _ in 0..3 {
        bare.connect(link.address);
        for _ in 0..20 {
            bare.run_for(Duration::from_millis(10));
        }
    }
    assert!(matches!(bare.told[SERVER][..], [Told::AcceptFailed]), "{:?}", bare.told[SERVER]);
    for _ in 0..20 {
        bare.run_for(Duration::from_millis(50));
    }
    let accepted = |told: &&Told| matches!(told, Told::Accepted(_));
    assert_eq!(bare.told[SERVER].iter().filter(accepted).count(), 3);
}

#[test]
fn sockets_and_backlog_are_bounded() {
    let network = NetworkConfig { sockets_max: 3, backlog: 2, ..NetworkConfig::default() };
    let mut bare = Bare::new(9, 3, WorldConfig { network, ..WorldConfig::default() });
    let link = bare.link();
    // Two more at the client; there is no fourth.
    let second = bare.connect(link.address);
    bare.connect(link.address);
    assert!(bare.drivers[CLIENT].connect(link.address).is_err());
    // Three more from a third host; the server has room for two in all, and two wait.
    for _ in 0..3 {
        bare.drivers[2].connect(link.address).expect("there is room here");
    }
    bare.run_for(SECOND);
    bare.run_for(3 * SECOND);
    let accepted = |bare: &Bare| {
        bare.told[SERVER].iter().filter(|told| matches!(told, Told::Accepted(_))).count()
    };
    assert_eq!(accepted(&bare), 3);
    let failed = bare.told[SERVER].iter().any(|told| matches!(told, Told::AcceptFailed));
    assert!(!failed, "a full table is no failure");
    assert!(bare.world.count(EventKind::BacklogFull) > 0);
    // Whoever leaves makes room.
    bare.drivers[CLIENT].close(second);
    let told = bare.told[SERVER].iter().rev().find_map(|told| match told {
        Told::Accepted(socket) => Some(*socket),
        _ => None,
    });
    bare.drivers[SERVER].close(told.expect("some were accepted"));
    for _ in 0..30 {
        bare.run_for(Duration::from_millis(10));
    }
    assert_eq!(accepted(&bare), 4);
}

#[test]
fn buffers_that_come_home_end_the_wait_for_one() {
    let network = NetworkConfig {
        receive_buffers: 2,
        chunk_bytes_max: 100,
        fragmented_chance: 0.0,
        lend_copy_chance: 0.0,
        ..NetworkConfig::default()
    };
    let mut bare = Bare::new(10, 2, WorldConfig { network, ..WorldConfig::default() });
    let link = bare.link();
    bare.send(CLIENT, link.client, &[7; 450]);
    bare.world.run_for(SECOND);
    let driver = &mut bare.drivers[SERVER];
    let (mut held, mut lent, mut bytes) = (Vec::new(), Vec::new(), 0);
    while bytes < 450 {
        let deadline = driver.now() + SECOND;
        driver.park(Some(deadline)).expect("the driver works");
        assert!(driver.now() < deadline, "{bytes} bytes came, the others wait for a buffer");
        while let Some(completion) = driver.next_completion() {
            let Completion::Received { chunk, .. } = completion else { continue };
            bytes += chunk.len();
            lent.push(driver.lend(&chunk));
            held.push(chunk);
        }
        assert_eq!(driver.buffers_in_use(), held.len());
        // With both in use nothing comes, however long one waits.
        if held.len() == 2 && bytes < 450 {
            let deadline = driver.now() + SECOND;
            driver.park(Some(deadline)).expect("the driver works");
            assert!(driver.now() >= deadline && driver.next_completion().is_none());
            held.drain(..).for_each(|chunk| driver.give_back(chunk));
        }
    }
    held.drain(..).for_each(|chunk| driver.give_back(chunk));
    assert_eq!(lent.concat(), [7; 450]);
    let counters = driver.counters();
    assert!(counters.buffer_waits >= 2 && counters.lend_copies >= 4, "{counters:?}");
    // Whoever holds the others lets go in the end, and tells nobody.
    drop(lent);
    assert_eq!(driver.buffers_in_use(), 0);
}
