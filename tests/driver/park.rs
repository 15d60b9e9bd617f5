//! Sleeping and waking.

use crate::file_tasks::open;
use crate::harness::{Client, Harness, Pair, Server};
use crate::kernel::{Guest, Kernel, Make};
use catena_engine::driver::{Completion, Driver, FileBuffer, FileOpId, FileTask, OpenFile};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Far beyond any check; a park that lasts until then has lost its wake.
const FAR: Duration = Duration::from_secs(30);

pub fn a_park_lasts_until_its_deadline<M: Make>() {
    let mut driver = M::make();
    let nanos = [0, 1, 1_000, 50_000, 999_999, 1_000_000, 1_000_001, 2_700_000, 12_345_678];
    for sleep in nanos.map(Duration::from_nanos) {
        let deadline = driver.now() + sleep;
        driver.parker().announce();
        driver.park(Some(deadline)).expect("the driver works");
        assert!(driver.now() >= deadline, "a park of {sleep:?} ended early");
        assert!(!driver.parker().claim(), "awake: a park ends with its withdrawal");
    }
    // What has passed already is no reason to sleep.
    driver.park(Some(driver.now() - FAR)).expect("the driver works");
    assert!(driver.next_completion().is_none());
}

pub fn a_park_with_work_queued_is_short<M: Make>() {
    let mut pair = Pair::<Kernel<M>>::new();
    let link = pair.link();
    let driver = pair.driver(Client);
    driver.close(link.client);
    let deadline = driver.now() + FAR;
    driver.park(Some(deadline)).expect("the driver works");
    assert!(driver.now() < deadline, "it slept on its own report");
    pair.until("the close is reported", |pair| pair.is_closed(Client, link.client));
}

pub fn bytes_end_a_park<M: Make>() {
    let mut guest = Guest::<M>::new();
    let socket = guest.socket;
    guest.pair.turns(3);
    let mut peer = guest.peer.try_clone().expect("descriptors are left");
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        peer.write_all(b"wake up").expect("the connection is sound");
    });
    let driver = guest.pair.driver(Server);
    let deadline = driver.now() + FAR;
    driver.park(Some(deadline)).expect("the driver works");
    assert!(driver.now() < deadline, "it slept through the bytes");
    writer.join().expect("the writer is done");
    guest.pair.until("they arrive", |pair| pair.received(Server, socket) == b"wake up");
}

pub fn an_unpark_from_another_thread_ends_a_park<M: Make>() {
    let mut driver = M::make();
    for _ in 0..50 {
        let (parker, work) = (driver.parker(), Arc::new(AtomicBool::new(false)));
        let its = work.clone();
        let waker = std::thread::spawn(move || {
            its.store(true, Ordering::Relaxed);
            parker.unpark();
        });
        let deadline = driver.now() + FAR;
        while !work.load(Ordering::Relaxed) {
            // As a reactor sleeps: announce, look once more, park.
            driver.parker().announce();
            if work.load(Ordering::Relaxed) {
                driver.parker().withdraw();
                break;
            }
            driver.park(Some(deadline)).expect("the driver works");
            assert!(driver.now() < deadline, "the wake was lost");
        }
        waker.join().expect("the waker is done");
    }
}

pub fn an_unpark_before_the_sleep_is_not_lost<M: Make>() {
    let mut driver = M::make();
    let deadline = driver.now() + FAR;
    // The wake comes after the last look at the queues, and the driver looks at the kernel even
    // after that: whatever took note of the wake, the park must not last.
    driver.parker().announce();
    driver.parker().unpark();
    driver.is_ready();
    driver.poll().expect("the driver works");
    assert!(driver.next_completion().is_none());
    driver.park(Some(deadline)).expect("the driver works");
    assert!(driver.now() < deadline, "the wake was lost");
    // And one wake ends one park.
    let deadline = driver.now() + Duration::from_millis(2);
    driver.park(Some(deadline)).expect("the driver works");
    assert!(driver.now() >= deadline, "a wake that was answered came again");
}

pub fn a_file_operation_ends_a_park<M: Make>() {
    let mut pair = Pair::<Kernel<M>>::new();
    let path = pair.harness.directory().join("file");
    let options = OpenFile { create: true, direct: false };
    let file = open(&mut pair, &path, options).expect("the directory is writable");
    let driver = pair.driver(Server);
    let deadline = driver.now() + FAR;
    for op in 0..20 {
        driver.write(file, op * 10, FileBuffer::copy_of(b"0123456789"), FileOpId(op));
        let mut done = false;
        while !done {
            driver.park(Some(deadline)).expect("the driver works");
            assert!(driver.now() < deadline, "it slept through the operation");
            driver.poll().expect("the driver works");
            while let Some(completion) = driver.next_completion() {
                done |= matches!(completion, Completion::File { .. });
            }
        }
    }
}

pub fn a_file_task_ends_a_park<M: Make>() {
    let mut pair = Pair::<Kernel<M>>::new();
    let path = pair.harness.directory();
    let driver = pair.driver(Server);
    let deadline = driver.now() + FAR;
    for op in 0..200 {
        driver.file_task(FileTask::FreeSpace { path: path.clone() }, FileOpId(op));
        let mut done = false;
        while !done {
            // With a look in between, and without: the helper is done before the one or after it.
            if op % 2 == 0 || !driver.is_ready() {
                // A reactor announces its sleep; who calls a driver by hand may not.
                if op % 4 < 2 {
                    driver.parker().announce();
                }
                driver.park(Some(deadline)).expect("the driver works");
            }
            assert!(driver.now() < deadline, "it slept through the task");
            if op % 3 > 0 {
                driver.poll().expect("the driver works");
            }
            while let Some(completion) = driver.next_completion() {
                done |= matches!(completion, Completion::FileTask { .. });
            }
        }
    }
}
