//! Receive buffers in other hands.

use super::{PATIENCE, driver, guest, hold, pattern};
use bytes::Bytes;
use catena_engine::driver::Driver;
use catena_engine::reactor::uring::UringConfig;
use catena_engine::time::Duration;
use std::io::Write;
use std::thread;

#[test]
fn a_buffer_that_another_thread_drops_wakes_a_driver_that_waits_for_one() {
    let config =
        UringConfig { receive_buffers: 4, receive_buffer_bytes: 4_096, ..UringConfig::default() };
    let Some(mut driver) = driver(config) else { return };
    let (_socket, mut peer) = guest(&mut driver);
    let all = pattern(5 * 4_096);
    peer.write_all(&all).expect("the kernel buffers as much");
    // All buffers are held, and the fifth has to wait.
    let held = hold(&mut driver, 4);
    for _ in 0..5 {
        driver.poll().expect("the driver works");
    }
    assert!(driver.next_completion().is_none());
    assert_eq!((driver.buffers().with_kernel, driver.counters().buffer_waits), (0, 1));
    let mut bytes: Vec<Bytes> = held.iter().map(|chunk| driver.lend(chunk)).collect();
    assert_eq!(driver.counters().lend_copies, 1, "the last quarter is copied");
    assert_eq!(bytes.concat(), all[..4 * 4_096]);
    // The copy's buffer goes back at once and takes the rest; then nothing is left again.
    held.into_iter().for_each(|chunk| driver.give_back(chunk));
    let rest = hold(&mut driver, 1);
    assert_eq!(driver.bytes(&rest[0]), &all[4 * 4_096..]);
    peer.write_all(b"more").expect("the kernel buffers as much");
    for _ in 0..5 {
        driver.poll().expect("the driver works");
    }
    assert!(driver.next_completion().is_none() && !driver.is_ready());
    let lent = bytes.remove(0);
    let dropper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        drop(lent);
    });
    let deadline = driver.now() + PATIENCE;
    driver.park(Some(deadline)).expect("the driver works");
    assert!(driver.now() < deadline, "it slept through the return of the buffer");
    let more = hold(&mut driver, 1);
    assert_eq!(driver.bytes(&more[0]), b"more");
    dropper.join().expect("dropping does not panic");
    drop(bytes);
    rest.into_iter().chain(more).for_each(|chunk| driver.give_back(chunk));
    driver.poll().expect("the driver works");
    assert_eq!((driver.buffers().with_kernel, driver.buffers().lent), (4, 0));
}

#[test]
fn lent_bytes_outlive_the_driver() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let (_socket, mut peer) = guest(&mut driver);
    peer.write_all(b"keep me").expect("the kernel buffers as much");
    let chunk = hold(&mut driver, 1).remove(0);
    let lent = driver.lend(&chunk);
    assert_eq!(driver.counters().lend_copies, 0);
    driver.give_back(chunk);
    assert_eq!(driver.buffers().lent, 1);
    drop(driver);
    let reader = thread::spawn(move || lent.to_vec());
    assert_eq!(reader.join().expect("reading does not panic"), b"keep me");
}
