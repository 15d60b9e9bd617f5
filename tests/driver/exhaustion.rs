//! Accepting when file descriptors run out, in a process of its own: the limit is the process's.

use crate::harness::{Harness, Pair, Seen, Server};
use crate::kernel::{Kernel, Make};
use catena_engine::driver::Driver;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs::File;
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
