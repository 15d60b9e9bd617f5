//! The binary from end to end: servers as child processes, real sockets, reports as JSON.
//!
//! No verdict hangs on how fast this machine is: only on what the methods guarantee (a sleep is not
//! shorter than asked) and on counts that must add up.

mod balance;
mod endings;

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_catena-bench");

/// A `serve` that ends with its test.
struct Server {
    process: Child,
    url: String,
    /// Where its counters are.
    metrics: String,
}

impl Server {
    fn start(args: &[&str]) -> Server {
        let mut process = Command::new(PROGRAM)
            .args(["serve", "--port", "0", "--until-stdin-ends", "--metrics", "0"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is built");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut lines = lines.map_while(Result::ok);
        let mut after = |what: &str| {
            let found = lines.find_map(|line| line.strip_prefix(what).map(str::to_owned));
            found.unwrap_or_else(|| panic!("it does not say {what}"))
        };
        let metrics = after("metrics on http://");
        let url = format!("catena://{}", after("listening on "));
        Server { process, url, metrics }
    }

    /// Requests that have arrived, from its page for Prometheus.
    fn requests(&self) -> u64 {
        let (address, path) = self.metrics.split_at(self.metrics.find('/').expect("a path"));
        let mut page = TcpStream::connect(address).expect("it listens there");
        write!(page, "GET {path} HTTP/1.0\r\n\r\n").expect("it fits");
        let mut text = String::new();
        page.read_to_string(&mut text).expect("it is answered, and ends");
        let line = text.lines().find_map(|line| line.strip_prefix("catena_requests_total "));
        line.unwrap_or_else(|| panic!("{text}")).parse().expect("a number")
    }

    fn wait_for_requests(&self, count: u64) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while self.requests() < count {
            assert!(Instant::now() < give_up, "nothing comes");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Loads this server, and gives the report.
    fn run(&self, args: &[&str]) -> Value {
        let output = bench(&[&["run", &self.url, "--json", "-"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("the report alone is on standard output")
    }

    fn wait(&mut self) -> ExitStatus {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.process.try_wait().expect("it is a child of ours") {
                return status;
            }
            assert!(Instant::now() < give_up, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.wait();
    }
}

fn bench(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().expect("the program is built")
}

fn number(report: &Value, path: &str) -> f64 {
    let value = report.pointer(path).unwrap_or_else(|| panic!("{path} in {report:#}"));
    value.as_f64().unwrap_or_else(|| panic!("{path} is {value}, not a number"))
}

#[test]
fn a_closed_loop_and_an_open_loop_are_answered_on_either_driver() {
    for driver in ["auto", "epoll"] {
        let server = Server::start(&["--driver", driver]);
        let load = ["-c", "4", "-s", "64", "-d", "300ms", "--driver", driver];
        let closed = server.run(&[&load[..], &["-n", "8"]].concat());
        assert!(number(&closed, "/requests") > 0.0);
        assert_eq!(closed["errors"], Value::Object(Default::default()));
        assert_eq!((&closed["loop"], &closed["late_sends"]), (&"closed".into(), &0.into()));
        assert_eq!(closed["latency_us"]["response"], closed["latency_us"]["service"]);
        assert!(number(&closed, "/latency_us/service/p50") > 0.0);
        assert!(number(&closed, "/rps") > 0.0 && number(&closed, "/client_cpu_share") > 0.0);

        let open = server.run(&[&load[..], &["-R", "2k", "--arrival", "const"]].concat());
        let count = |name: &str| number(&open, &format!("/{name}"));
        let intended = count("requests") + count("unfinished") + count("unsent");
        assert_eq!(intended + count("shed_by_generator"), 600.0, "2,000 /s for 300 ms, all told");
        assert!(count("requests") > 0.0);
        let max = |time: &str| number(&open, &format!("/latency_us/{time}/max"));
        assert!(max("response") >= max("service"), "{open:#}");
    }
}

#[test]
fn a_server_that_is_slower_than_its_load_shows_in_the_response_time() {
    let server = Server::start(&[]);
    // 50 a second is the most that one place in flight can do; 200 a second are meant to be sent.
    let one_place = ["-c", "1", "-n", "1", "--method", "sleep:20ms"];
    let load = ["-R", "200", "--arrival", "const", "-d", "1s", "--warmup", "0"];
    let report = server.run(&[&one_place[..], &load].concat());
    assert!(number(&report, "/latency_us/service/p50") >= 20_000.0);
    assert!(number(&report, "/requests") <= 51.0);
    assert!(number(&report, "/unsent") >= 140.0);
    assert!(number(&report, "/latency_us/response/p99") >= 600_000.0, "{report:#}");
    let notes = report["notes"].to_string();
    assert!(notes.contains("Of 200 requests/s offered"), "{notes}");
}

#[test]
fn every_method_does_what_it_says() {
    let server = Server::start(&[]);
    for method in ["echo", "sink", "source:1000", "spin:200", "sleep:200"] {
        let report = server.run(&["-c", "2", "-d", "100ms", "--method", method]);
        assert!(number(&report, "/ok") > 0.0, "{method}");
        assert_eq!(report["method"], method);
        let at_least = if method.contains("200") { 200.0 } else { 0.0 };
        assert!(number(&report, "/latency_us/service/p50") >= at_least, "{method}");
    }
}

#[test]
fn refusals_are_counted_by_status_and_idle_connections_are_kept() {
    let server = Server::start(&["--max-requests", "2"]);
    // Two may sleep at a time; the others are shed, which says that they were not executed.
    let load = ["-c", "2", "-n", "8", "-d", "300ms", "--method", "sleep:5ms", "--idle", "20"];
    let report = server.run(&load);
    assert!(number(&report, "/errors/shed") > 0.0, "{report:#}");
    assert_eq!(report["errors"]["shed"], report["error_classes"]["not_executed"]);
    assert!(number(&report, "/ok") > 0.0);

    let output = bench(&["run", &server.url, "-d", "300ms", "--method", "nobody.knows"]);
    assert_eq!(output.status.code(), Some(1), "nothing was answered with ok");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("unknown method"), "{text}");
}

#[test]
fn mistakes_have_clear_words_and_codes() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let url = format!("catena://{}", closed.expect("loopback has free ports"));
    let stranger = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let strange = format!("catena://{}", stranger.local_addr().expect("it is bound"));
    let talk = std::thread::spawn(move || {
        let (mut socket, _) = stranger.accept().expect("somebody comes");
        std::io::Write::write_all(&mut socket, &[b'x'; 64]).expect("it fits");
        // Until the other side gives up.
        let _ended = socket.read_to_end(&mut Vec::new());
    });
    for (args, code, words) in [
        (vec!["run", &url], 1, "serve --port"),
        (vec!["run", &strange], 1, "is it a Catena server"),
        (vec!["run", "http://127.0.0.1"], 2, "catena://HOST:PORT"),
        (vec!["run", &url, "-t", "2", "--cores", "0"], 2, "different numbers"),
        (vec!["run", &url, "-t", "1", "-d", "0"], 2, "measures nothing"),
        (vec!["run", &url, "--cores", "0,0", "-c", "2"], 2, "core 0 is named twice"),
        (vec!["run", &url, "--cores", "0,0", "-c", "2"], 2, "Usage: catena-bench run"),
        (vec!["serve", "--cores", "4000"], 1, "core 4000"),
        (vec!["nonsense"], 2, "unrecognized"),
    ] {
        let output = bench(&args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
    }
    talk.join().expect("the stranger is calm");
    assert!(bench(&["--version"]).status.success());
}

#[test]
fn a_server_drains_when_it_is_told_to_end() {
    let mut server = Server::start(&[]);
    let pid = rustix::process::Pid::from_child(&server.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert!(server.wait().success(), "ended by a signal, in order");

    let mut server = Server::start(&[]);
    drop(server.process.stdin.take());
    assert!(server.wait().success(), "ended because whoever started it is gone");
}

#[test]
fn floor_measures_all_rows_and_ratios() {
    let short = ["--rounds", "1", "--secs", "100ms", "--warmup", "10ms", "--idle", "50"];
    let output = bench(&[&["floor", "--json", "-"], &short[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let rows = report["rows"].as_array().expect("rows");
    let has_uring = report["manifest"]["host"]["io_uring_refused"].is_null();
    assert_eq!(rows.len(), if has_uring { 12 } else { 6 });
    for row in rows {
        for figure in ["rps", "p50_us", "p99_us", "server_cpu_us_per_request"] {
            assert!(row[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure} in {row}");
        }
        assert_eq!(row["errors"], 0);
    }
    for shape in ["1x1", "32x1", "32x16"] {
        assert!(number(&report, &format!("/ratio_cpu/{shape}")) > 0.0);
        assert!(number(&report, &format!("/ratio_rps/{shape}")) > 0.0);
    }
    assert_eq!(report["idle"]["connections"], 50);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("engine / best bare echo"), "people see the table too: {text}");
}

#[test]
fn quick_prints_a_table_and_explains_it() {
    let output = bench(&["quick", "--secs", "100ms"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    for words in ["requests/s", "epoll", "32 connections x 16", "by the clock", "How to read it"] {
        assert!(text.contains(words), "{words} in {text}");
    }
}
