//! What peers see of a crash, and what is left when a host starts again.

use crate::bare::{Bare, CLIENT, SERVER, Told, ended};
use catena_engine::driver::Driver;
use catena_engine::sim::{Crash, EventKind, Fault, Next, SimDriver, World, WorldConfig};
use catena_engine::time::Duration;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);

fn crashed(how: Crash) -> (Bare, crate::bare::Link) {
    let mut bare = Bare::new(1, 2, WorldConfig::default());
    let link = bare.link();
    let host = bare.host(SERVER);
    bare.world.inject(Fault::Crash { host, how, down_for: None });
    (bare, link)
}

#[test]
fn the_kernel_of_a_killed_process_says_goodbye() {
    let (mut bare, link) = crashed(Crash::Kill);
    assert!(bare.drivers[SERVER].poll().is_err(), "a driver dies with its process");
    bare.run_for(SECOND);
    assert_eq!(bare.ended(CLIENT), Some(Ok(())));
    bare.told[CLIENT].clear();
    bare.connect(link.address);
    bare.run_for(SECOND);
    let refused = Err(ErrorKind::ConnectionRefused);
    assert!(matches!(bare.told[CLIENT][..], [Told::Connected(result)] if result == refused));
}

#[test]
fn a_machine_without_power_says_nothing() {
    let (mut bare, link) = crashed(Crash::PowerLoss);
    bare.run_for(30 * SECOND);
    assert_eq!(bare.ended(CLIENT), None, "nobody told it, and it asked nothing");
    bare.send(CLIENT, link.client, b"are you there?");
    let (end, _) = bare.until(CLIENT, 20 * SECOND, ended).expect("it gives up");
    assert_eq!(end, Err(ErrorKind::TimedOut));
}

#[test]
fn what_a_dead_machine_had_still_to_repeat_is_lost() {
    for partition_first in [true, false] {
        let mut bare = Bare::new(2, 2, WorldConfig::default());
        let link = bare.link();
        let (from, to) = (bare.host(SERVER), bare.host(CLIENT));
        let cut = Fault::Cut { from, to, lasts: 2 * SECOND };
        let off = Fault::Crash { host: from, how: Crash::PowerLoss, down_for: None };
        bare.send(SERVER, link.server, b"last words");
        if partition_first {
            // Lost on the way; its kernel means to repeat it, and then is no more.
            bare.world.inject(cut);
            bare.run_for(SECOND);
            bare.world.inject(off);
        } else {
            // Its kernel is no more when it is lost on the way.
            bare.world.inject(off);
            bare.world.inject(cut);
        }
        bare.run_for(5 * SECOND);
        assert_eq!(bare.received(CLIENT), b"");
    }
    // What is on the wire when the power goes does arrive.
    let mut bare = Bare::new(2, 2, WorldConfig::default());
    let link = bare.link();
    let host = bare.host(SERVER);
    bare.send(SERVER, link.server, b"last words");
    bare.world.inject(Fault::Crash { host, how: Crash::PowerLoss, down_for: None });
    bare.run_for(SECOND);
    assert_eq!(bare.received(CLIENT), b"last words");
}

#[test]
fn healing_takes_back_what_was_scheduled_and_nothing_later() {
    let mut bare = Bare::new(4, 2, WorldConfig::default());
    let a_kill = |host, after| {
        let down_for = Some(SECOND);
        vec![(after, Fault::Crash { host, how: Crash::Kill, down_for })]
    };
    bare.world.schedule(&a_kill(bare.host(SERVER), SECOND));
    bare.world.heal_all();
    bare.world.run_for(2 * SECOND);
    assert!(bare.world.is_running(bare.host(SERVER)));
    bare.world.schedule(&a_kill(bare.host(CLIENT), SECOND));
    bare.world.run_for(2 * SECOND);
    assert!(!bare.world.is_running(bare.host(CLIENT)));
}

#[test]
fn a_machine_that_has_started_again_knows_no_connections() {
    let (mut bare, link) = crashed(Crash::PowerLoss);
    bare.send(CLIENT, link.client, b"are you there?");
    bare.run_for(3 * SECOND);
    assert_eq!(bare.ended(CLIENT), None);
    let host = bare.host(SERVER);
    bare.drivers[SERVER] = bare.world.restart_bare_host(host).remove(0);
    let (end, _) = bare.until(CLIENT, 2 * SECOND, ended).expect("its kernel answers");
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    assert_eq!(bare.world.count(EventKind::ResetSent), 1);
}

#[test]
fn what_was_under_way_for_a_dead_process_reaches_nobody() {
    let mut bare = Bare::new(5, 2, WorldConfig::default());
    let link = bare.link();
    let host = bare.host(SERVER);
    // A close, a send, an accept, all of them unfinished when the process ends.
    bare.drivers[SERVER].connect(link.address).expect("there is room for a socket");
    bare.send(SERVER, link.server, &vec![1; 1 << 20]);
    bare.drivers[SERVER].close(link.server);
    bare.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
    bare.run_for(SECOND);
    bare.drivers[SERVER] = bare.world.restart_bare_host(host).remove(0);
    bare.told[SERVER].clear();
    bare.run_for(20 * SECOND);
    assert!(bare.told[SERVER].is_empty(), "{:?}", bare.told[SERVER]);
}

#[test]
fn a_process_starts_again_with_its_files_and_nothing_else() {
    for how in [Crash::Kill, Crash::PowerLoss] {
        let mut world = World::new(3, WorldConfig::default());
        let boots = Rc::new(RefCell::new(Vec::new()));
        let its = boots.clone();
        let host = world.start_process(move |boot| {
            its.borrow_mut().push((boot.incarnation, boot.drivers[0].now()));
            let mut turns = 0;
            move |driver: &mut SimDriver| {
                turns += 1;
                let until = Some(driver.now() + SECOND);
                Next { until: until.filter(|_| turns < 100), ..Next::default() }
            }
        });
        world.run_for(10 * SECOND);
        world.inject(Fault::Crash { host, how, down_for: Some(2 * SECOND) });
        assert!(!world.is_running(host));
        world.run_for(SECOND);
        assert!(!world.is_running(host));
        // It is down: a second crash finds nothing, and a pause leaves nothing behind.
        world.inject(Fault::Crash { host, how, down_for: Some(Duration::from_millis(1)) });
        world.inject(Fault::Pause { host, lasts: SECOND });
        world.run_for(3 * SECOND);
        assert!(world.is_running(host));
        let boots = boots.borrow();
        assert_eq!(boots.iter().map(|(incarnation, _)| *incarnation).collect::<Vec<_>>(), [1, 2]);
        let shown = boots[1].1.since(boots[0].1);
        let went_on = shown.abs_diff(12 * SECOND) < Duration::from_millis(10);
        assert_eq!(went_on, how == Crash::Kill, "a clock starts anew with its machine: {shown:?}");
    }
}
