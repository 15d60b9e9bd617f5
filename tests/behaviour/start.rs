//! Starting: all shards serve or none does, and what is in the way is said in words that help.

use crate::kernel::{Kernel, why_missing};
use crate::lab::Lab;
use crate::peer::Peer;
use crate::service::{ECHO, call};
use catena_engine::config::ConnectionConfig;
use catena_engine::rpc::admission::AdmissionConfig;
use catena_engine::server::StartError;
use catena_engine::shard_index::ShardIndex;
use catena_engine::{Client, ClientConfig, Cores, DriverChoice, Router, Server, ServerBuilder};
use rustix::process::{Resource, Rlimit, geteuid, setrlimit};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

/// The drivers that this host has: epoll always, io_uring unless it is refused.
fn drivers() -> impl Iterator<Item = DriverChoice> {
    [DriverChoice::Epoll, DriverChoice::Uring].into_iter().filter(|driver| {
        let missing = why_missing(*driver);
        missing.iter().for_each(|why| println!("skipped: {why}"));
        missing.is_none()
    })
}

fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn builder(driver: DriverChoice) -> ServerBuilder {
    let echo = || Router::new().method("echo", |request, reply| reply.ok(request.payload()));
    Server::builder().driver(driver).cores(Cores::Unpinned(2)).service(move |_| echo())
}

/// Why a builder does not start, in words.
fn refusal(builder: ServerBuilder) -> String {
    builder.start().map(drop).expect_err("it cannot start").to_string()
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind(anywhere()).expect("loopback has ports");
    let address = taken.local_addr().expect("it is bound");
    for driver in drivers() {
        let text = refusal(builder(driver).listen(address));
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains("another process has that port"), "{text}");
    }
}

#[test]
fn a_second_server_on_one_port_is_refused() {
    for driver in drivers() {
        let first = builder(driver).listen(anywhere()).start().expect("there is such a driver");
        let address = first.address().expect("it listens");
        let text = refusal(builder(driver).listen(address));
        assert!(text.contains("another process has that port"), "{text}");
        first.stop().expect("the driver is whole");
        builder(driver).listen(address).start().expect("the port is free again");
    }
}

/// However close their starts are. The loser of each round waits until it believes it.
#[test]
fn two_servers_never_share_a_port() {
    for round in 0..20 {
        let free = TcpListener::bind(anywhere()).expect("loopback has ports");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let together = Barrier::new(2);
        let start = || {
            together.wait();
            builder(DriverChoice::Epoll).listen(address).start()
        };
        let started = std::thread::scope(|scope| {
            let [one, other] = [scope.spawn(start), scope.spawn(start)];
            [one, other].map(|start| start.join().expect("a start does not panic"))
        });
        let count = started.iter().filter(|started| started.is_ok()).count();
        assert!(count <= 1, "round {round}: {count} servers on {address}");
    }
}

#[test]
fn an_address_of_another_machine_is_named() {
    let elsewhere = "192.0.2.1:7000".parse().expect("an address");
    let text = refusal(builder(DriverChoice::Epoll).listen(elsewhere));
    assert!(text.contains("this machine has no such address"), "{text}");
}

#[test]
fn cores_that_cannot_be_had_are_named() {
    let refused = |cores| refusal(builder(DriverChoice::Auto).cores(cores));
    let text = refused(Cores::List(vec![4_000]));
    assert!(text.contains("core 4000 cannot be used") && text.contains("may use ["), "{text}");
    let text = refused(Cores::Count(4_000));
    assert!(text.contains("4000 shards on") && text.contains("core of its own"), "{text}");
    assert!(refused(Cores::List(vec![])).contains("name at least one"));
    assert!(refused(Cores::Unpinned(0)).contains("name at least one"));
    // Which cores there are depends on the machine; the first one is asked for.
    let server = builder(DriverChoice::Auto).cores(Cores::Count(1)).start();
    let server = server.expect("there is one core at least");
    let core = server.description()[0].split(&[' ', ':'][..]).nth(4).map(str::to_owned);
    let core: usize = core.and_then(|core| core.parse().ok()).expect("shard 0 on core n: …");
    assert!(refused(Cores::List(vec![core, core])).contains("is named twice"));
}

#[test]
fn a_value_out_of_bounds_is_named() {
    let config = ConnectionConfig { in_flight_max: 0, ..ConnectionConfig::default() };
    let text = refusal(builder(DriverChoice::Epoll).connection(config));
    assert_eq!(text, "in_flight_max is 0; it must be between 1 and 65536");
    let refused = |admission| refusal(builder(DriverChoice::Epoll).admission(admission));
    let none = AdmissionConfig { in_flight_max: 0, ..AdmissionConfig::default() };
    assert!(refused(none).contains("admission.in_flight_max is 0"));
    let never = AdmissionConfig { interval: Duration::ZERO, ..AdmissionConfig::default() };
    assert!(refused(never).contains("admission.interval (µs) is 0"));
}

/// A mistake is said, and not stepped down from: epoll could have served it, and nobody would know.
#[test]
fn what_no_driver_can_have_is_an_error_on_each() {
    for driver in drivers().chain([DriverChoice::Auto]) {
        for connections_max in [0, (1 << 24) + 1] {
            let text = refusal(builder(driver).connections_max(connections_max));
            assert!(text.contains("connections_max"), "{driver}: {text}");
        }
        let text = refusal(builder(driver).cores(Cores::Unpinned(1_025)));
        assert!(text.contains("number of shards is 1025") && text.contains("1024"), "{text}");
    }
}

/// One shard cannot start; when the starter is told so, the others have let go of their port.
#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    for driver in drivers() {
        let server = builder(driver).listen(anywhere()).start().expect("there is such a driver");
        let address = server.address().expect("it listens");
        drop(server);
        for _ in 0..20 {
            let fails = builder(driver).listen(address).service(|local| {
                assert_eq!(local.shard(), ShardIndex(0), "as it was asked to");
                Router::new()
            });
            assert!(matches!(fails.start(), Err(StartError::ShardEnded)));
            let server = builder(driver).listen(address).start();
            drop(server.expect("nobody has the port any more"));
        }
    }
}

/// Set to what a test is to be in a process of its own.
const CHILD: &str = "CATENA_TEST_CHILD";

/// A server in a process of its own: the same test, told to be the child. It serves until its standard
/// input ends.
struct ServerProcess {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl ServerProcess {
    fn start(test: &str, role: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("tests are files"));
        command.args(["--exact", "--nocapture", test]).env(CHILD, role);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().expect("the test can be run again");
        let stdout = child.stdout.take().expect("it is piped");
        ServerProcess { child, lines: BufReader::new(stdout) }
    }

    /// What the child has to say under `name`.
    fn told(&mut self, name: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let count = self.lines.read_line(&mut line).expect("the child writes text");
            assert!(count > 0, "the child ended without saying {name:?}, but:\n{said}");
            // The test harness may have begun the line.
            if let Some((_, value)) = line.trim_end().split_once(&format!("{name}: ")) {
                return value.to_owned();
            }
            said.push_str(&line);
            // It says no more before it is told to end.
            assert!(!line.contains("address: "), "the child did not say {name:?}, but:\n{said}");
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Be the child: start, say how that went, serve until standard input ends.
fn be_child(builder: ServerBuilder) {
    be_child_at(anywhere(), builder);
}

fn be_child_at(address: SocketAddr, builder: ServerBuilder) {
    match builder.listen(address).start() {
        Ok(server) => {
            println!("started: {}", server.description().join("; "));
            println!("notes: {}", server.notes().join("; "));
            println!("address: {}", server.address().expect("it listens"));
            drop(std::io::stdin().read_to_end(&mut Vec::new()));
        }
        Err(error) => println!("refused: {error}"),
    }
}

/// A supervisor starts a killed server again at once. Its rings, which accept and receive, may outlive
/// it for a moment.
#[test]
fn a_killed_server_can_be_started_again_at_once() {
    const TEST: &str = "start::a_killed_server_can_be_started_again_at_once";
    if let Ok(role) = std::env::var(CHILD) {
        let (driver, address) = role.split_once(' ').expect("a driver and an address");
        let address = address.parse().expect("an address");
        return be_child_at(address, builder(driver.parse().expect("a driver")));
    }
    for driver in drivers() {
        let mut address = anywhere();
        for _ in 0..6 {
            let role = format!("{driver} {address}");
            let mut server = ServerProcess::start(TEST, &role, |_| {});
            address = server.told("address").parse().expect("an address");
            let _client = TcpStream::connect(address).expect("it serves");
            server.child.kill().expect("it is our own");
            server.child.wait().expect("it has ended");
        }
    }
}

fn lower_limit(resource: Resource, to: u64) {
    let limit = Rlimit { current: Some(to), maximum: Some(to) };
    setrlimit(resource, limit).expect("a limit may be lowered");
}

/// With descriptors for some forty connections the server says so, takes as many, sends others away or
/// lets them wait, and goes on as soon as some have left.
#[test]
fn few_descriptors_are_said_and_lived_with() {
    const TEST: &str = "start::few_descriptors_are_said_and_lived_with";
    if let Ok(role) = std::env::var(CHILD) {
        lower_limit(Resource::Nofile, 120);
        return be_child(builder(role.parse().expect("a driver")).cores(Cores::Unpinned(1)));
    }
    for driver in drivers() {
        let mut server = ServerProcess::start(TEST, &driver.to_string(), |_| {});
        server.told("started");
        let notes = server.told("notes");
        assert!(
            notes.contains("39 connections instead of") && notes.contains("ulimit -n"),
            "{notes}"
        );
        let address: SocketAddr = server.told("address").parse().expect("an address");
        crate::kernel::on(driver, |lab| {
            let mut served: Vec<Peer<Kernel>> = Vec::new();
            for _ in 0..30 {
                served.push(Peer::greet(lab, address));
            }
            let waiting: Vec<_> = (0..150).map(|_| lab.connect(address)).collect();
            lab.pause(Duration::from_millis(100));
            served.clear();
            drop(waiting);
            for _ in 0..30 {
                served.push(Peer::greet_at_last(lab, address));
            }
            let answer = lab.run(move |local| async move {
                let client = Client::new(&local, address, ClientConfig::default());
                call(client.call(ECHO, b"on")).await
            });
            assert_eq!(answer, crate::service::Came::Ok(b"on".to_vec()));
        });
    }
}

/// The limit is the process's, so its shards share it.
#[test]
fn few_descriptors_are_shared_among_shards() {
    const TEST: &str = "start::few_descriptors_are_shared_among_shards";
    if let Ok(role) = std::env::var(CHILD) {
        lower_limit(Resource::Nofile, 244);
        return be_child(builder(role.parse().expect("a driver")).cores(Cores::Unpinned(4)));
    }
    for driver in drivers() {
        let mut server = ServerProcess::start(TEST, &driver.to_string(), |_| {});
        server.told("started");
        let notes = server.told("notes");
        assert!(notes.contains("30 connections instead of 65536 on each shard"), "{notes}");
        assert!(notes.contains("244 files (ulimit -n), which 4 shards share"), "{notes}");
        assert_eq!(notes.matches("connections instead of").count(), 1, "said once: {notes}");
    }
}

/// Too few to begin with, or to be of use: refused, and told what to do.
#[test]
fn no_descriptors_at_all_are_refused_in_words() {
    const TEST: &str = "start::no_descriptors_at_all_are_refused_in_words";
    if let Ok(role) = std::env::var(CHILD) {
        let (driver, files) = role.split_once(' ').expect("a driver and a number");
        lower_limit(Resource::Nofile, files.parse().expect("a number"));
        return be_child(builder(driver.parse().expect("a driver")).cores(Cores::Unpinned(1)));
    }
    for driver in drivers() {
        // One beside the standard streams; and as many as would serve one client.
        for files in [4, 64] {
            let mut server = ServerProcess::start(TEST, &format!("{driver} {files}"), |_| {});
            let refused = server.told("refused");
            assert!(
                refused.contains("ulimit -n") && refused.contains("85 are needed"),
                "{refused}"
            );
        }
    }
}

/// Without leave to lock memory io_uring may be had or not, as the kernel likes. If not, the choice
/// falls on epoll with a line that says why; or on nothing, where io_uring was asked for.
#[test]
fn no_locked_memory_is_stepped_down_from() {
    const TEST: &str = "start::no_locked_memory_is_stepped_down_from";
    if let Ok(role) = std::env::var(CHILD) {
        lower_limit(Resource::Memlock, 0);
        return be_child(builder(role.parse().expect("a driver")).cores(Cores::Unpinned(1)));
    }
    if let Some(why) = why_missing(DriverChoice::Uring) {
        return println!("skipped, there is no io_uring to step down from: {why}");
    }
    // The limit does not bind who may lock as much as he likes.
    let nobody = |command: &mut Command| {
        if geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
    };
    let mut auto = ServerProcess::start(TEST, "auto", nobody);
    let (started, notes) = (auto.told("started"), auto.told("notes"));
    let is_on_uring = started.contains("io_uring");
    assert!(is_on_uring || notes.contains("ulimit -l"), "{started}\n{notes}");
    let mut forced = ServerProcess::start(TEST, "uring", nobody);
    match is_on_uring {
        true => assert!(forced.told("started").contains("io_uring")),
        false => assert!(forced.told("refused").contains("ulimit -l")),
    }
    let mut epoll = ServerProcess::start(TEST, "epoll", nobody);
    assert!(epoll.told("started").contains("epoll"));
}
