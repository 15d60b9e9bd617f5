//! What is said when a server, or whoever measures, comes to an end before the run does.

use super::{PROGRAM, Server, bench, number};
use catena_engine::config::ConnectionConfig;
use catena_engine::rpc::connection::{Connection, Role};
use catena_engine::rpc::error::CloseReason;
use catena_engine::time::Instant as EngineInstant;
use catena_engine::wire::hello::ShardMap;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sends a signal to a child of ours.
fn signal(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).expect("it runs");
}

/// A `run` of a length that only a test that fails waits for.
fn long_run(args: &[&str]) -> Child {
    Command::new(PROGRAM)
        .args(["run", "-d", "60s", "--warmup", "0", "--json", "-"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built")
}

fn report(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// The next line on standard error, at every call, notes about this machine left out.
fn lines(process: &mut Child) -> impl FnMut() -> String + use<> {
    let mut lines = BufReader::new(process.stderr.take().expect("it is piped")).lines();
    let mut next = move || lines.next().expect("a line").expect("it is text");
    move || loop {
        let line = next();
        if !line.starts_with("note: ") {
            return line;
        }
    }
}

/// Says a server's hello, and waits for the visitor to leave.
fn say_hello(stream: &mut TcpStream, config: ConnectionConfig) {
    let shards = ShardMap::default();
    let mut server = Connection::new(Role::Server, Arc::new(config), &shards, EngineInstant::ZERO);
    let hello = server.poll_transmit().expect("a hello").to_vec();
    stream.write_all(&hello).expect("it fits");
    let _left = stream.read_to_end(&mut Vec::new());
}

/// What a peer that is told to `speak` says to its only visitor.
fn stranger(speak: impl FnOnce(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let url = format!("catena://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        speak(&mut stream);
    });
    url
}

#[test]
fn a_server_that_dies_is_missed_and_not_called_slow() {
    for pace in [&["-n", "2"][..], &["-R", "200"]] {
        let mut server = Server::start(&[]);
        let load = ["run", &server.url, "-c", "4", "-d", "3s", "--warmup", "0", "--json", "-"];
        let run = Command::new(PROGRAM)
            .args([&load[..], pace].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is built");
        server.wait_for_requests(100);
        server.process.kill().expect("it runs");
        let output = run.wait_with_output().expect("it ends");
        let report = report(&output);
        assert_eq!(output.status.code(), Some(4), "{report:#}");
        assert_eq!((&report["is_valid"], &report["connections_gone"]), (&false.into(), &4.into()));
        assert_eq!(number(&report, "/no_connection_secs/1"), 3.0);
        let notes = report["notes"].to_string();
        assert!(notes.contains("to the end; 4 of 4 never came back"), "{notes}");
        assert!(!notes.contains("kept up"), "{notes}");
    }
}

#[test]
fn an_interrupted_run_tells_what_was_measured() {
    let server = Server::start(&[]);
    for wish in [Signal::INT, Signal::TERM] {
        let before = server.requests();
        let run = long_run(&[&server.url, "-c", "2"]);
        server.wait_for_requests(before + 100);
        signal(&run, wish);
        let output = run.wait_with_output().expect("it ends");
        let report = report(&output);
        assert_eq!(output.status.code(), Some(130), "{report:#}");
        assert_eq!(report["is_valid"], false);
        assert!(number(&report, "/ok") > 0.0 && number(&report, "/rps") > 0.0, "{report:#}");
        assert!(number(&report, "/interrupted_after_secs") < 60.0);
        let notes = report["notes"].to_string();
        assert!(notes.contains("interrupted after") && notes.contains("of 60.0 s"), "{notes}");
    }
}

#[test]
fn a_second_signal_ends_at_once_and_says_what_that_costs() {
    let mut server = Server::start(&[]);
    let mut run = long_run(&[&server.url, "-n", "3", "--method", "sleep:60s", "--timeout", "2m"]);
    server.wait_for_requests(3);

    let mut said = lines(&mut server.process);
    signal(&server.process, Signal::TERM);
    assert!(said().contains("draining"));
    signal(&server.process, Signal::TERM);
    let words = "ended at once: 1 connection dropped, and 3 requests in flight at most";
    assert_eq!(said(), words);
    assert_eq!(server.wait().code(), Some(1));
    signal(&run, Signal::INT);
    run.wait().expect("it ends");

    let server = Server::start(&[]);
    let mut run = long_run(&[&server.url, "--method", "sleep:60s", "--timeout", "2m"]);
    server.wait_for_requests(1);
    let mut said = lines(&mut run);
    signal(&run, Signal::INT);
    assert!(said().contains("once more ends at once"));
    signal(&run, Signal::INT);
    assert_eq!(run.wait().expect("it ends").code(), Some(130));
}

#[test]
fn quick_and_floor_end_when_they_are_told_to() {
    for args in [
        &["quick", "--secs", "20s"][..],
        &["floor", "--secs", "20s", "--rounds", "1", "--json", "-"],
    ] {
        let bench = Command::new(PROGRAM)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is built");
        let children = format!("/proc/{0}/task/{0}/children", bench.id());
        let give_up = Instant::now() + Duration::from_secs(60);
        // It listens for signals before it starts its first server.
        while std::fs::read_to_string(&children).is_ok_and(|children| children.is_empty()) {
            assert!(Instant::now() < give_up, "no server is started");
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(&bench, Signal::INT);
        let output = bench.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{args:?}: {text}");
        assert!(text.contains("interrupted after 0 of"), "{args:?}: {text}");
    }
}

#[test]
fn a_peer_that_takes_no_requests_is_told_from_one_that_is_none() {
    let no_window = |stream: &mut TcpStream| {
        let config = ConnectionConfig { in_flight_max: 0, ..ConnectionConfig::default() };
        say_hello(stream, config);
    };
    let overloaded = |stream: &mut TcpStream| {
        let (config, shards) = (Arc::default(), ShardMap::default());
        let mut server = Connection::new(Role::Server, config, &shards, EngineInstant::ZERO);
        server.abort(CloseReason::Overloaded);
        let bytes = server.poll_transmit().expect("a go-away").to_vec();
        stream.write_all(&bytes).expect("it fits");
    };
    let peers: [(String, &[&str]); 3] = [
        (stranger(no_window), &["takes no requests", "window in its hello"]),
        (stranger(overloaded), &["it said go-away: overloaded", "a limit on connections"]),
        (stranger(|_| ()), &["no room for more connections", "no Catena server of this version"]),
    ];
    for (url, words) in peers {
        let output = bench(&["run", &url]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(words.iter().all(|words| text.contains(words)), "{words:?} in {text}");
        assert!(!text.contains("is it a Catena server"), "{text}");
    }
}

#[test]
fn the_servers_window_bounds_the_depth() {
    let server = Server::start(&["--max-in-flight", "8"]);
    let report = server.run(&["-n", "5000", "-d", "100ms"]);
    assert_eq!((&report["depth"], &report["depth_asked"]), (&8.into(), &5_000.into()));
    let notes = report["notes"].to_string();
    assert!(notes.contains("the server's window is 8, so depth is 8"), "{notes}");
}

#[test]
fn what_a_server_says_with_a_status_is_shown() {
    let server = Server::start(&[]);
    let output = bench(&["run", &server.url, "-d", "300ms", "-m", "source:99999999"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("(\"source gives 16 MiB at most\")"), "{text}");
    // Nothing was answered with ok, so there is no latency: that is not a latency of 0.
    assert!(!text.contains("0.00"), "{text}");
}

#[test]
fn a_report_that_cannot_be_written_is_known_before_the_run() {
    let server = Server::start(&[]);
    let output = bench(&["run", &server.url, "-d", "1h", "--json", "/nowhere/report.json"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write to /nowhere/report.json"), "{text}");

    let full = std::fs::File::options().write(true).open("/dev/full").expect("it is there");
    let run = Command::new(PROGRAM).args(["run", &server.url, "-d", "50ms"]).stdout(full).output();
    let text = String::from_utf8_lossy(&run.expect("it ends").stderr).into_owned();
    assert!(text.contains("cannot write to standard output"), "{text}");
}

#[test]
fn the_log_tells_of_connections_if_it_is_asked_to() {
    let mut server = Server::start(&["--log", "debug"]);
    server.run(&["-d", "50ms"]);
    let mut said = lines(&mut server.process);
    let line = said();
    assert!(line.contains("DEBUG") && line.contains("connection ended"), "{line}");
}
