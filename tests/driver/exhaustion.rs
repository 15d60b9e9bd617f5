//! Accepting when file descriptors run out, in a process of its own: the limit is the process's.

use crate::harness::{Harness, Pair, Seen, Server};
use crate::kernel::{Kernel, Make};
use catena_engine::driver::{Completion, Driver};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

/// Set in the process that runs out of descriptors.
const CHILD: &str = "CATENA_DRIVER_TEST_CHILD";

pub fn accepting_goes_on_after_file_descriptors_ran_out<M: Make>() {
    if std::env::var_os(CHILD).is_some() {
        return run_out_of_descriptors::<M>();
    }
    let this = "accepting_goes_on_after_file_descriptors_ran_out";
    let output = Command::new(std::env::current_exe().expect("this test is a file"))
        .args(["--exact", &format!("{}::{this}", M::SUITE), "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .expect("the test can start itself");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "the child ran nothing:\n{said}");
}

/// A driver whose few sockets are all in use: whoever comes waits, hears nothing, and is accepted when
/// another has left.
pub fn who_finds_no_socket_waits<M: Make>() {
    const GUESTS: usize = 10;
    let mut driver = M::make();
    let (_, address) = driver.listen(([127, 0, 0, 1], 0).into()).expect("loopback listens");
    // All before the driver looks: it may accept ahead of what it has room for.
    let mut guests: VecDeque<TcpStream> =
        (0..GUESTS).map(|_| TcpStream::connect(address).expect("the backlog takes them")).collect();
    let mut accepted = VecDeque::new();
    for left in (1..=GUESTS).rev() {
        let give_up_at = driver.now() + Duration::from_secs(30);
        while accepted.len() < left.min(FEW_SOCKETS as usize) {
            driver.park(Some(give_up_at)).expect("the driver works");
            while let Some(completion) = driver.next_completion() {
                match completion {
                    Completion::Accepted { socket, .. } => accepted.push_back(socket),
                    Completion::AcceptFailed { error, .. } => panic!("nothing has failed: {error}"),
                    _ => {}
                }
            }
            assert!(driver.now() < give_up_at, "{left} guests, and {} accepted", accepted.len());
        }
        assert!(accepted.len() <= FEW_SOCKETS as usize);
        for guest in &mut guests {
            guest.set_nonblocking(true).expect("it is a socket");
            let met = guest.read(&mut [0]).expect_err("nobody was met by an end");
            assert_eq!(met.kind(), ErrorKind::WouldBlock);
        }
        // Whoever it is that has been served: their orders are the same.
        driver.close(accepted.pop_front().expect("one is there"));
        guests.pop_front();
    }
}

/// What [`who_finds_no_socket_waits`] asks for.
pub const FEW_SOCKETS: u32 = 3;

fn run_out_of_descriptors<M: Make>() {
    const GUESTS: usize = 4;
    let mut pair = Pair::<Kernel<M>>::new();
    let link = pair.link();
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(100);
    setrlimit(Resource::Nofile, limit).expect("anybody may lower the limit");
    // Only now: an accept that is in flight in an io_uring keeps to the limit that it began with.
    let (listener, address) = pair.listen();
    // They wait in the backlog, and whatever is left is used up.
    let guests: Vec<_> =
        (0..GUESTS).map(|_| TcpStream::connect(address).expect("the backlog takes them")).collect();
    let fillers: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!fillers.is_empty());

    let failures = |pair: &Pair<Kernel<M>>| {
        pair.seen(Server).iter().filter(|seen| matches!(seen, Seen::AcceptFailed(_))).count()
    };
    pair.until("the failure is reported", |pair| failures(pair) > 0);
    let reason = pair.seen(Server).iter().find_map(|seen| match seen {
        Seen::AcceptFailed(error) => error.raw_os_error(),
        _ => None,
    });
    assert_eq!(reason, Some(Errno::MFILE.raw_os_error()));
    // Asleep, not spinning: a driver that tries again 50 times a second enters the kernel some 20
    // times in this while, one that spins a hundred thousand times.
    let driver = pair.driver(Server);
    let (entered, until) = (driver.counters().enters, driver.now() + Duration::from_millis(200));
    while driver.now() < until {
        driver.park(Some(until)).expect("the driver works");
        driver.poll().expect("the driver works");
        assert!(driver.next_completion().is_none(), "an episode is reported once");
    }
    assert!(driver.counters().enters - entered < 1_000, "{:?}", driver.counters());
    assert_eq!(pair.accepted(listener).len(), 0);

    // A connection that ends makes room for one; what ends elsewhere, for the others.
    pair.close(Server, link.server);
    pair.until("one is accepted", |pair| pair.accepted(listener).len() == 1);
    drop(fillers);
    let driver = pair.driver(Server);
    let deadline = driver.now() + Duration::from_secs(30);
    driver.park(Some(deadline)).expect("the driver works");
    assert!(driver.now() < deadline, "it slept and did not try again");
    pair.until("all are accepted", |pair| pair.accepted(listener).len() == GUESTS);
    drop(guests);
    assert!(failures(&pair) <= 2, "one episode, and one more after the single success");
    assert!(pair.harness.directory().exists());
}
