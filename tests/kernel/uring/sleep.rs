//! Sleeping, waking, and doing without the kernel.

use super::{PATIENCE, driver, guest, without};
use catena_engine::driver::{Driver, Parker};
use catena_engine::limits::GATHER_MAX;
use catena_engine::reactor::uring::{Features, UringConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

#[test]
fn polling_without_work_makes_no_system_call() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let (_socket, _peer) = guest(&mut driver);
    driver.poll().expect("the driver works");
    let entered = driver.counters().enters;
    for _ in 0..100 {
        assert!(!driver.is_ready());
        assert!(!driver.poll().expect("the driver works"));
    }
    assert_eq!(driver.counters().enters, entered);
}

#[test]
fn a_driver_is_woken_through_its_ring() {
    let ways = [Features::NONE, Features::RING_MESSAGE, Features::ALL].map(without);
    let gathering = UringConfig { gather: GATHER_MAX, ..without(Features::NONE) };
    for config in ways.into_iter().chain([gathering]) {
        if driver(config).is_none() {
            return;
        }
        const ROUNDS: u32 = 200;
        // Two shards that pass a number to and fro, each asleep while it is the other's turn.
        let number = Arc::new(AtomicU32::new(0));
        let (tell, told) = mpsc::channel::<Arc<Parker>>();
        let (tell_other, told_other) = mpsc::channel::<Arc<Parker>>();
        let shard = |me: u32, tell: mpsc::Sender<_>, told: mpsc::Receiver<Arc<Parker>>| {
            let number = number.clone();
            thread::spawn(move || {
                let mut driver = driver(config).expect("it was there a moment ago");
                tell.send(driver.parker()).expect("the other listens");
                let other = told.recv().expect("the other is there");
                let deadline = driver.now() + PATIENCE;
                loop {
                    let now = number.load(Ordering::Relaxed);
                    if now >= ROUNDS {
                        break;
                    }
                    if now % 2 == me {
                        number.store(now + 1, Ordering::Relaxed);
                        driver.unpark(&other);
                        driver.poll().expect("the driver works");
                        continue;
                    }
                    driver.parker().announce();
                    if number.load(Ordering::Relaxed) == now {
                        driver.park(Some(deadline)).expect("the driver works");
                        assert!(driver.now() < deadline, "a wake was lost");
                    } else {
                        driver.parker().withdraw();
                    }
                    let told = driver.next_completion();
                    assert!(told.is_none(), "nothing is due, but there is {told:?}");
                }
            })
        };
        let shards = [shard(0, tell, told_other), shard(1, tell_other, told)];
        for shard in shards {
            shard.join().expect("both go on to the end");
        }
    }
}

#[test]
fn a_ring_that_cannot_be_reached_is_woken_otherwise() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let woken = Arc::new(AtomicBool::new(false));
    let its = woken.clone();
    let wake = Box::new(move || its.store(true, Ordering::Relaxed));
    // A descriptor that is no ring.
    let no_ring = std::fs::File::open("/dev/null").expect("it is there").into();
    let other = Arc::new(Parker::new(Some(no_ring), wake));
    for _ in 0..2 {
        other.announce();
        driver.unpark(&other);
        for _ in 0..3 {
            driver.poll().expect("the driver works");
            assert!(driver.next_completion().is_none());
        }
        assert!(woken.swap(false, Ordering::Relaxed), "the claimed wake was lost");
    }
}
