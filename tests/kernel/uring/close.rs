//! How sockets and drivers end.

use super::{
    PATIENCE, driver, guest, hold, listen, output, pattern, run, stepped_down, unused_address,
    without,
};
use catena_engine::driver::{Completion, Driver};
use catena_engine::reactor::uring::{Features, UringConfig};
use catena_engine::time::Duration;
use std::io::{Read, Write};
use std::time::Instant;

#[test]
fn closing_with_a_send_in_flight_tells_both_ends_in_order() {
    for disable in [Features::NONE, Features::ALL] {
        let Some(mut driver) = driver(without(disable)) else { return };
        let (socket, peer) = guest(&mut driver);
        let length = 32 << 20;
        driver.send(socket, output(&vec![7; length]));
        for _ in 0..3 {
            driver.poll().expect("the driver works");
        }
        assert!(driver.next_completion().is_none(), "nobody reads, so it is in flight");
        driver.close(socket);
        let mut ends = Vec::new();
        run(&mut driver, "it is closed", |_, completion| {
            ends.push(match completion {
                Completion::Sent { output, result: Err(_), .. } if output.len() == length => "sent",
                Completion::Closed { .. } => "closed",
                other => panic!("nothing else is due, but there is {other:?}"),
            });
            ends.len() == 2
        });
        assert_eq!(ends, ["sent", "closed"]);
        assert_eq!(driver.sockets(), 0);
        drop(peer);
    }
}

#[test]
fn a_close_takes_back_what_was_not_looked_at() {
    let config =
        UringConfig { receive_buffers: 8, receive_buffer_bytes: 4_096, ..UringConfig::default() };
    let Some(mut driver) = driver(config) else { return };
    // Chunks: one is looked at, the others are not, and one of these is at hand already.
    let (socket, mut peer) = guest(&mut driver);
    peer.write_all(&pattern(6 * 4_096)).expect("the kernel buffers as much");
    let looked_at = hold(&mut driver, 1).remove(0);
    assert!(driver.poll().expect("the driver works"), "there is more");
    driver.close(socket);
    run(&mut driver, "it is closed", |_, completion| match completion {
        Completion::Closed { socket: id } => id == socket,
        other => panic!("after a close there is {other:?}"),
    });
    assert_eq!(driver.buffers().with_kernel, 7);
    driver.give_back(looked_at);
    assert_eq!(driver.buffers().with_kernel, 8);
    // An outcome of a connect, which has voided the id already.
    let refused = driver.connect(unused_address()).expect("there is room");
    let give_up_at = Instant::now() + PATIENCE;
    while !driver.poll().expect("the driver works") {
        assert!(Instant::now() < give_up_at, "loopback refuses at once");
    }
    driver.close(refused);
    let told = driver.next_completion();
    assert!(matches!(told, Some(Completion::Closed { socket }) if socket == refused), "{told:?}");
    assert!(driver.next_completion().is_none());
}

#[test]
fn a_driver_that_goes_leaves_no_descriptor_behind() {
    // In a process of its own: other tests open descriptors too.
    const CHILD: &str = "CATENA_URING_TEST_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let this = "uring::close::a_driver_that_goes_leaves_no_descriptor_behind";
        let output = std::process::Command::new(std::env::current_exe().expect("it is a file"))
            .args(["--exact", this, "--nocapture", "--test-threads", "1"])
            .env(CHILD, "1")
            .output()
            .expect("the test can start itself");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("1 passed"), "the child ran nothing:\n{said}");
        return;
    }
    let count = || std::fs::read_dir("/proc/self/fd").expect("it is Linux").count();
    let before = count();
    for disable in stepped_down() {
        let Some(mut driver) = driver(without(disable)) else { return };
        let (socket, mut peer) = guest(&mut driver);
        // In flight when it goes: a receive, a send, an accept, a connect, an unseen connection.
        driver.send(socket, output(&vec![1; 16 << 20]));
        let address = listen(&mut driver);
        driver.connect(address).expect("there is room");
        driver.poll().expect("the driver works");
        driver.poll().expect("the driver works");
        let began_at = Instant::now();
        drop(driver);
        assert!(began_at.elapsed() < Duration::from_secs(5), "it did not have to wait");
        peer.read_to_end(&mut Vec::new()).ok();
    }
    assert_eq!(count(), before);
}
