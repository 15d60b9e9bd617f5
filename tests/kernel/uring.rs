//! The io_uring driver: every operation, with every feature of the kernel and without.

mod close;
mod echo;
mod lend;
mod send;
mod sleep;

use catena_engine::driver::{
    Chunk, Completion, Driver, FileBuffer, FileId, FileOpId, FileTask, FileTaskDone, OpenFile,
    Output, SocketId,
};
use catena_engine::reactor::uring::{Features, UringConfig, UringDriver, UringError};
use catena_engine::time::Duration;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

/// Only a failing test ever waits that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A driver, or `None` and a word about it where io_uring is refused.
fn driver(config: UringConfig) -> Option<UringDriver> {
    match UringDriver::new(&config) {
        Ok(driver) => Some(driver),
        Err(error @ UringError::Refused { .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{config:?}: {error}"),
    }
}

/// The sets of features to do without: none, each alone, all.
fn stepped_down() -> impl Iterator<Item = Features> {
    [Features::NONE, Features::ALL].into_iter().chain(Features::ALL.iter())
}

fn without(disable: Features) -> UringConfig {
    UringConfig { disable, ..UringConfig::default() }
}

fn listen(driver: &mut UringDriver) -> SocketAddr {
    driver.listen((Ipv4Addr::LOCALHOST, 0).into()).expect("loopback listens").1
}

fn output(bytes: &[u8]) -> Output {
    let mut output = Output::default();
    output.copied_mut().extend_from_slice(bytes);
    output
}

/// Bytes in which every place can be told from its neighbours.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Turns of one driver until `done` says so; it sees every completion.
fn run(
    driver: &mut UringDriver,
    what: &str,
    mut done: impl FnMut(&mut UringDriver, Completion) -> bool,
) {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        while let Some(completion) = driver.next_completion() {
            if done(driver, completion) {
                return;
            }
        }
        assert!(Instant::now() < give_up_at, "waited in vain until {what}: {driver:?}");
        let until = driver.now() + Duration::from_millis(100);
        driver.park(Some(until)).expect("the driver works");
    }
}

/// A plain socket that the driver has accepted.
fn guest(driver: &mut UringDriver) -> (SocketId, TcpStream) {
    let address = listen(driver);
    let peer = TcpStream::connect(address).expect("the driver listens");
    let mut accepted = None;
    run(driver, "the guest is accepted", |_, completion| match completion {
        Completion::Accepted { socket, .. } => accepted.replace(socket).is_none(),
        other => panic!("nothing else is due, but there is {other:?}"),
    });
    (accepted.expect("it was accepted"), peer)
}

#[test]
fn a_refused_connection_is_told_as_such() {
    let Some(mut driver) = driver(UringConfig::default()) else { return };
    let socket = driver.connect(unused_address()).expect("there is room");
    run(&mut driver, "the outcome is known", |_, completion| match completion {
        Completion::Connected { socket: id, result } => {
            assert_eq!(id, socket);
            let error = result.expect_err("nobody listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            true
        }
        other => panic!("nothing else is due, but there is {other:?}"),
    });
    assert_eq!(driver.sockets(), 0);
}

/// An address that nobody listens on: it was free a moment ago.
fn unused_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound")
}

/// Lets the driver run until it has received `count` chunks, and keeps them.
fn hold(driver: &mut UringDriver, count: usize) -> Vec<Chunk> {
    let mut held = Vec::new();
    run(driver, "the chunks have come", |_, completion| {
        match completion {
            Completion::Received { chunk, .. } => held.push(chunk),
            other => panic!("nothing else is due, but there is {other:?}"),
        }
        held.len() == count
    });
    held
}

fn open(driver: &mut UringDriver, path: &Path, options: OpenFile) -> FileId {
    driver.file_task(FileTask::Open { path: path.to_owned(), options }, FileOpId(0));
    let mut opened = None;
    run(driver, "the file is open", |_, completion| match completion {
        Completion::FileTask { result: Ok(FileTaskDone::Opened(file)), .. } => {
            opened.replace(file).is_none()
        }
        other => panic!("nothing else is due, but there is {other:?}"),
    });
    opened.expect("the wait is over")
}

#[test]
fn files_are_written_synced_and_read() {
    for disable in [Features::NONE, Features::ALL] {
        let Some(mut driver) = driver(without(disable)) else { return };
        let name = format!("uring-{}-{disable:?}", std::process::id()).replace(' ', "-");
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        for direct in [false, true] {
            let options = OpenFile { create: true, direct };
            let file = open(&mut driver, &path, options);
            let all = pattern(1 << 20);
            let finish = |driver: &mut UringDriver, id: u64| {
                let mut outcome = None;
                run(driver, "the operation ends", |_, completion| match completion {
                    Completion::File { op, buffer, result } => {
                        assert_eq!(op, FileOpId(id));
                        outcome.replace((buffer, result.expect("the disk works"))).is_none()
                    }
                    other => panic!("nothing else is due, but there is {other:?}"),
                });
                outcome.expect("it ended")
            };
            driver.write(file, 0, FileBuffer::copy_of(&all), FileOpId(1));
            assert_eq!(finish(&mut driver, 1).1, all.len());
            driver.sync(file, FileOpId(2));
            assert_eq!(finish(&mut driver, 2).1, 0);
            driver.read(file, 4_096, FileBuffer::zeroed(all.len()), FileOpId(3));
            let (buffer, count) = finish(&mut driver, 3);
            assert_eq!(count, all.len() - 4_096, "short at the end of the file");
            assert!(buffer.bytes()[..count] == all[4_096..]);
            driver.close_file(file);
        }
        std::fs::remove_file(path).expect("it is there");
    }
}

#[test]
fn what_is_in_use_is_described() {
    let Some(driver) = driver(without(Features::RING_MESSAGE)) else { return };
    let text = driver.describe();
    assert!(text.starts_with("io_uring on Linux "), "{text}");
    assert!(text.contains("; without") && text.contains("ring-message"), "{text}");
    assert!(driver.parker().ring().is_none(), "nobody is to send it a message");
}
