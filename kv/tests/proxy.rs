//! `catena proxy` from end to end: processes, signals, real sockets.
//!
//! No verdict hangs on how fast this machine is: only on counts that must add up, and on generous
//! patience for what must happen some time.

use catena_engine::shard_index::ShardIndex;
use catena_engine::{
    Answer, CallError, Client, ClientConfig, Cores, MethodId, Router, Server, Status,
};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_catena");
const ECHO: MethodId = MethodId::of("echo");
const PATIENCE: Duration = Duration::from_secs(60);
const CALLERS: u64 = 16;

/// A child process that ends with its test.
struct Process {
    child: Child,
    address: SocketAddr,
    lines: Vec<String>,
}

impl Process {
    /// Starts it and waits until it listens.
    fn start(command: &mut Command) -> Process {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program is built");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut lines = Vec::new();
        for line in out.lines().map_while(Result::ok) {
            lines.push(line);
            let address = lines.last().and_then(|line| line.split_once("listening on "));
            if let Some((_, address)) = address {
                let address = address.parse().expect("an address");
                return Process { child, address, lines };
            }
        }
        let status = child.wait();
        panic!("it ended before it listened: {status:?}, {lines:?}");
    }

    fn proxy(upstreams: &[SocketAddr], args: &[&str]) -> Process {
        let mut command = Command::new(PROGRAM);
        command.args(["proxy", "--listen", "0", "--shards", "1"]).args(args);
        for upstream in upstreams {
            command.args(["--upstream", &upstream.to_string()]);
        }
        Process::start(&mut command)
    }

    /// This very program as an echo server; see [`as_a_server`].
    fn server() -> Process {
        let program = std::env::current_exe().expect("it runs");
        let mut command = Command::new(program);
        command.args(["--exact", "as_a_server", "--nocapture"]).env(AS_A_SERVER, "1");
        Process::start(&mut command)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it has not been waited for");
    }

    fn wait(&mut self) -> ExitStatus {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is a child of ours") {
                return status;
            }
            assert!(Instant::now() < give_up, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without effect on one that has ended.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

const AS_A_SERVER: &str = "CATENA_TEST_AS_A_SERVER";

/// Where this program is started as a server, serves until it is killed.
#[test]
fn as_a_server() {
    if std::env::var_os(AS_A_SERVER).is_some() {
        let server = echo();
        println!("\nlistening on {}", server.address().expect("it listens"));
        server.join().expect("it is killed before");
    }
}

fn echo() -> Server {
    let builder = Server::builder().listen("127.0.0.1:0".parse().expect("an address"));
    let builder = builder.cores(Cores::Unpinned(1)).service(|_| {
        Router::new()
            .method("echo", |request, reply| reply.ok(request.payload()))
            .method_async("hold", |_| async { std::future::pending::<Result<&[u8; 0], _>>().await })
    });
    builder.start().expect("loopback can be listened on")
}

/// Callers on a shard of their own, until told to stop.
struct Load {
    shard: Server,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    stop: AtomicBool,
    ok: AtomicU64,
    lost: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    fn start(proxies: Vec<SocketAddr>) -> Load {
        let shard = Server::builder().cores(Cores::Unpinned(1)).start().expect("one thread");
        let told = Arc::<Told>::default();
        let counts = told.clone();
        let handle = shard.handle();
        let call = handle.run(ShardIndex(0), move |local| async move {
            let config = ClientConfig::default;
            let clients: Vec<_> =
                proxies.iter().map(|proxy| Client::new(&local, *proxy, config())).collect();
            for caller in 0..CALLERS {
                let (clients, counts) = (clients.clone(), counts.clone());
                local.spawn(calls(clients, counts, caller << 32)).detach();
            }
        });
        futures_executor::block_on(call).expect("the shard lives");
        Load { shard, told }
    }

    /// Waits for so many more answers.
    fn wait_for(&self, count: u64) {
        let until = self.told.ok.load(Ordering::Relaxed) + count;
        let give_up = Instant::now() + PATIENCE;
        while self.told.ok.load(Ordering::Relaxed) < until {
            assert!(Instant::now() < give_up, "no answers come: {:?}", self.counts());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.told.lost.load(Ordering::Relaxed), self.told.failed.load(Ordering::Relaxed))
    }

    /// Ends it. Answers lost with their server, and other failures.
    fn end(self) -> (u64, u64) {
        self.told.stop.store(true, Ordering::Relaxed);
        let (counts, told) = (self.counts(), self.told.clone());
        self.shard.stop().expect("no shard failed");
        drop(told);
        counts
    }
}

async fn calls(clients: Vec<Client>, told: Arc<Told>, mut number: u64) {
    let mut first = (number >> 32) as usize;
    while !told.stop.load(Ordering::Relaxed) {
        number += 1;
        let size = [8, 100, 3_000, 60_000][number as usize % 4];
        let mut payload = vec![0x5A; size];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let count = match call_any(&clients, &mut first, &payload).await {
            Ok(answer) if answer.payload == payload => &told.ok,
            Err(CallError::Status { status: Status::UPSTREAM_LOST, .. }) => &told.lost,
            _ => &told.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks one after the other until one takes the request, which then is the first to be asked.
async fn call_any(
    clients: &[Client],
    first: &mut usize,
    payload: &[u8],
) -> Result<Answer, CallError> {
    let mut result = Err(CallError::ExpiredUnsent);
    for _ in clients {
        result = clients[*first % clients.len()].call(ECHO, payload.to_vec()).await;
        if !result.as_ref().is_err_and(CallError::is_not_executed) {
            break;
        }
        *first += 1;
    }
    result
}

fn drivers() -> impl Iterator<Item = &'static str> {
    ["auto", "epoll"].into_iter()
}

#[test]
fn sigterm_under_load_fails_no_request() {
    for driver in drivers() {
        let servers = [echo(), echo()];
        let addresses = servers.each_ref().map(|server| server.address().expect("it listens"));
        let mut leaving = Process::proxy(&addresses, &["--driver", driver]);
        let staying = Process::proxy(&addresses, &["--driver", driver]);
        let load = Load::start(vec![leaving.address, staying.address]);
        load.wait_for(2_000);
        leaving.signal(Signal::TERM);
        let status = leaving.wait();
        assert!(status.success(), "{driver}: {status}");
        load.wait_for(2_000);
        assert_eq!(load.end(), (0, 0), "{driver}");
    }
}

#[test]
fn a_killed_server_costs_what_it_had_in_hand_and_nothing_else() {
    for driver in drivers() {
        let mut servers = [Process::server(), Process::server(), Process::server()];
        let addresses = servers.each_ref().map(|server| server.address);
        let proxy = Process::proxy(&addresses, &["--driver", driver]);
        let load = Load::start(vec![proxy.address]);
        load.wait_for(3_000);
        servers[1].signal(Signal::KILL);
        servers[1].wait();
        load.wait_for(3_000);
        let (lost, failed) = load.end();
        assert!(lost <= CALLERS, "{driver}: {lost} lost, more than there were in flight");
        assert_eq!(failed, 0, "{driver}");
    }
}

/// A caller with a request that is never answered, at `target`.
fn caller_that_waits(target: SocketAddr) -> (Server, Receiver<Result<Answer, CallError>>) {
    let caller = Server::builder().cores(Cores::Unpinned(1)).start().expect("one thread");
    let (told, ends) = channel();
    let handle = caller.handle();
    let begun = handle.run(ShardIndex(0), move |local| async move {
        let client = Client::new(&local, target, ClientConfig::default());
        client.call(ECHO, &b""[..]).await.expect("it is there");
        let held = client.call(MethodId::of("hold"), &b""[..]);
        local.spawn(async move { drop(told.send(held.await)) }).detach();
    });
    futures_executor::block_on(begun).expect("the shard lives");
    (caller, ends)
}

/// As the docs say of a drain that takes too long: the process ends in order, the caller is told.
#[test]
fn a_drain_that_is_cut_off_ends_with_0_and_its_callers_know() {
    let server = echo();
    let address = server.address().expect("it listens");
    let mut proxy = Process::proxy(&[address], &["--drain-timeout", "200ms"]);
    let (_caller, ends) = caller_that_waits(proxy.address);
    std::thread::sleep(Duration::from_millis(100));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    let end = ends.recv_timeout(PATIENCE).expect("the caller hears of it");
    let error = end.expect_err("nobody has answered it");
    assert!(matches!(error, CallError::ConnectionLost), "{error:?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = echo();
    let address = server.address().expect("it listens");
    let mut proxy = Process::proxy(&[address], &["--drain-timeout", "1h"]);
    let (_caller, _ends) = caller_that_waits(proxy.address);
    std::thread::sleep(Duration::from_millis(100));
    proxy.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    let status = proxy.child.try_wait().expect("it is a child of ours");
    assert!(status.is_none(), "it does not wait for what is under way: {status:?}");
    proxy.signal(Signal::INT);
    assert_eq!(proxy.wait().code(), Some(1));
}

#[test]
fn the_start_says_what_runs_and_the_page_what_happened() {
    let server = echo();
    let address = server.address().expect("it listens");
    let proxy = Process::proxy(&[address], &["--metrics", "0", "--policy", "ewma"]);
    let text = proxy.lines.join("\n");
    for said in ["policy ewma; 1 server from 127.0.0.1:", "metrics on http://", "shard 0"] {
        assert!(text.contains(said), "{said:?} in\n{text}");
    }
    let load = Load::start(vec![proxy.address]);
    load.wait_for(500);
    assert_eq!(load.end(), (0, 0));
    let place = text.split_once("metrics on http://").expect("said above").1;
    let place = place.lines().next().and_then(|place| place.strip_suffix("/metrics"));
    let mut page = TcpStream::connect(place.expect("a path")).expect("it listens there");
    write!(page, "GET /metrics HTTP/1.0\r\n\r\n").expect("it fits");
    let mut text = String::new();
    page.read_to_string(&mut text).expect("it is answered, and ends");
    let value = |series: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("{series} in\n{text}")).trim().parse().expect("a number")
    };
    assert!(value("catena_relayed_total") >= 500);
    let ok = format!("catena_proxy_attempts_total{{endpoint=\"{address}\",end=\"ok\"}}");
    assert!(value(&ok) >= 500);
    // The balancer's figures are a tick behind at most, and the load ended some ticks ago, or just now.
    let answered =
        format!("catena_balancer_ends_total{{endpoint=\"{address}\",outcome=\"answered\"}}");
    assert!(value(&answered) > 0);
    assert_eq!(value(&format!("catena_proxy_reachable{{endpoint=\"{address}\"}}")), 1);
}

#[test]
fn what_is_wrong_ends_in_one_line_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = taken.local_addr().expect("it is bound").to_string();
    for (args, code, named) in [
        (&["--upstream", "127.0.0.1:1", "--listen", &taken][..], 1, "--listen"),
        (&["--upstream", "host.invalid:1"], 1, "--upstream host.invalid:1"),
        (&["--upstream", "127.0.0.1:7", "--listen", "0.0.0.0:7"], 1, "this proxy itself"),
        (&["--upstream", "file:/nowhere/servers"], 1, "/nowhere/servers"),
        (&["--upstream", "127.0.0.1:1", "--cpus", "4095"], 1, "--cpus: core 4095"),
        (&["--upstream", "127.0.0.1:1", "--shards", "1024"], 1, "--shards: 1024 shards on"),
        (&["--upstream", "127.0.0.1:1", "--frame-max", "1"], 1, "frame_bytes_max"),
        (&[], 2, "--upstream"),
        (&["--upstream", "127.0.0.1:1=0"], 2, "weight"),
        (&["--upstream", "127.0.0.1:1", "--policy", "best"], 2, "--policy"),
        (&["--upstream", "127.0.0.1:1", "--attempts", "many"], 2, "--attempts"),
    ] {
        let command = &mut Command::new(PROGRAM);
        let output = command.arg("proxy").args(args).output().expect("the program is built");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(named), "{args:?}: {text}");
        if code == 1 {
            assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        }
    }
}
