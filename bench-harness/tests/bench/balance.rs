//! `balance --live`: servers are processes of this machine, and nothing is left of them. Counts must add
//! up; how fast anything was says nothing.

use super::{PROGRAM, Server, bench, number};
use catena_engine::client::{Client, ClientConfig};
use catena_engine::shard_index::ShardIndex;
use catena_engine::{Cores, MethodId, Router, Status};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Three servers of 2 x 500 calls a second; the second one is killed, and comes back.
const KILLED: &str = "\
about = 'One of three is killed.'
duration = '2s'
warmup = '200ms'
interval = '250ms'
timeout = '1s'
rate = 600
[[servers]]
count = 3
model = 'queue'
workers = 2
time = 'exp:2ms'
[[faults]]
servers = [1]
from = '600ms'
until = '1200ms'
down = true
";

/// A scenario in a file that ends with its test.
struct Scenario(PathBuf);

impl Scenario {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("catena-bench-{name}-{}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).expect("it can be written");
        Scenario(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("it is ASCII")
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

/// The processes that a process of ours has started and not waited for, whichever thread did.
fn children(pid: u32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    let lists: Vec<String> = lists.map_while(Result::ok).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).flat_map(str::parse).collect()
}

/// The letter of a process's state: T if it is stopped; none if it is gone, or only waited for.
fn state(pid: i32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = text.rsplit(") ").next()?.chars().next()?;
    (state != 'Z').then_some(state)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < give_up, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(scenario: &Scenario, args: &[&str]) -> Child {
    Command::new(PROGRAM)
        .args(["balance", "--live", "--scenario", scenario.path(), "--json", "-"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built")
}

/// Every call ends once, in one way; each attempt is some server's.
fn assert_adds_up(policy: &Value) {
    let count = |name: &str| number(policy, name);
    let calls = count("/calls");
    assert!(calls > 0.0);
    let answered = (count("/success") * calls).round();
    assert_eq!(answered + count("/failed") + count("/timed_out"), calls, "{policy:#}");
    let sum = |array: &str, field: &str| -> f64 {
        let all = policy[array].as_array().expect("an array");
        all.iter().map(|one| number(one, field)).sum()
    };
    assert_eq!(sum("over_time", "/calls"), calls);
    assert!((sum("servers", "/share") - 1.0).abs() < 1e-9, "{policy:#}");
    for interval in policy["over_time"].as_array().expect("an array") {
        let lines = interval["lines"].as_array().expect("an array");
        let shares: f64 = lines.iter().map(|line| number(line, "/share")).sum();
        assert!(shares == 0.0 || (shares - 1.0).abs() < 1e-9, "{interval:#}");
    }
    // An attempt is counted by its own beginning, a call by the instant at which it was meant to begin:
    // those about the end of the warm-up may be on different sides.
    let attempts = sum("servers", "/attempts") - count("/retries") - count("/hedges");
    assert!((attempts - calls).abs() <= 0.1 * calls, "{attempts} first attempts of {calls} calls");
}

#[test]
fn calls_and_attempts_add_up_while_a_server_is_killed_and_nothing_is_left() {
    let scenario = Scenario::new("killed", KILLED);
    let svg = Scenario::new("drawing", "");
    let policies = ["--policy", "rr,hist+retry", "--svg", svg.path()];
    let run = start(&scenario, &policies);
    let pid = run.id();
    wait_until("servers are started", || children(pid).len() == 3);
    let servers = children(pid);
    let output = run.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{words}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("the report alone");
    assert!(servers.iter().all(|&server| state(server).is_none()), "{servers:?} are left");

    for name in ["rr", "hist+retry"] {
        let policies = report["policies"].as_array().expect("an array");
        let policy = policies.iter().find(|policy| policy["policy"] == name).expect("it ran");
        assert_adds_up(policy);
        let runs = report["runs"].as_array().expect("an array");
        let run = runs.iter().find(|run| run["policy"] == name).expect("it ran");
        assert_eq!((&run["unfinished"], &run["shed"]), (&0.into(), &0.into()));
        assert_eq!(run["calls"], policy["calls"]);
        let errors = run["errors"].as_object().expect("an object").values();
        let errors: f64 = errors.map(|count| count.as_f64().expect("a count")).sum();
        assert_eq!(errors, number(run, "/failed") + number(run, "/timed_out"), "{run:#}");
        let absences = run["absences"].as_array().expect("an array");
        assert_eq!(absences.len(), 1);
        assert_eq!((&absences[0]["server"], &absences[0]["what"]), (&1.into(), &"killed".into()));
        let (from, until) =
            (number(&absences[0], "/from_secs"), number(&absences[0], "/until_secs"));
        assert!(from >= 0.6 && until >= 1.2, "no sooner than planned: {from} to {until}");
    }
    // The same seed is the same schedule for all policies.
    let calls: Vec<&Value> =
        report["runs"].as_array().expect("an array").iter().map(|run| &run["calls"]).collect();
    assert_eq!(calls[0], calls[1]);
    assert!(words.contains("Servers that were not there"), "{words}");
    assert!(fs::read_to_string(Path::new(svg.path())).expect("it is drawn").contains("</svg>"));
}

/// A server that is stopped cannot end by itself: it is ended with the others, also when whoever stopped
/// it is killed.
#[test]
fn a_stopped_server_ends_with_an_interrupted_run_and_with_a_killed_one() {
    let text = KILLED.replace("down = true", "pause = true").replace("until = '1200ms'\n", "");
    let scenario = Scenario::new("stopped", &text.replace("duration = '2s'", "duration = '60s'"));
    for signal in [Signal::INT, Signal::KILL] {
        let run = start(&scenario, &["--policy", "rr"]);
        let pid = run.id();
        let is_stopped = |server: &i32| state(*server) == Some('T');
        wait_until("one is stopped", || children(pid).iter().any(is_stopped));
        let servers = children(pid);
        assert_eq!(servers.len(), 3);
        kill_process(Pid::from_child(&run), signal).expect("it runs");
        let output = run.wait_with_output().expect("it ends");
        wait_until("all end", || servers.iter().all(|server| state(*server).is_none()));
        if signal == Signal::INT {
            assert_eq!(output.status.code(), Some(130));
            let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
            assert_eq!(report["is_valid"], false);
            assert!(number(&report, "/runs/0/stopped_after_secs") < 60.0);
        }
    }
}

/// A server that ends though no fault says so is missed.
#[test]
fn a_server_that_is_lost_is_told() {
    let text = KILLED.replace("from = '600ms'\nuntil = '1200ms'\ndown = true", "add = '1ms'");
    let scenario = Scenario::new("lost", &text);
    let run = start(&scenario, &["--policy", "hist+retry"]);
    let pid = run.id();
    wait_until("servers are started", || children(pid).len() == 3);
    // The first one: it listens, or the next one would not have been started.
    let victim = Pid::from_raw(children(pid)[0]).expect("a process id");
    kill_process(victim, Signal::KILL).expect("it runs");
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert!(report["notes"].to_string().contains("ended by itself"), "{report:#}");
}

/// What a server answers to a call of `fault`.
fn fault(server: &Server) -> Result<(), Status> {
    let address: SocketAddr = server.url["catena://".len()..].parse().expect("an address");
    let home = catena_engine::Server::builder()
        .cores(Cores::Unpinned(1))
        .service(|_| Router::new())
        .start()
        .expect("a thread");
    let words = [1_000u32, 0, u32::MAX, 0].map(u32::to_le_bytes).concat();
    let handle = home.handle();
    let answer = handle.run(ShardIndex(0), move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let call = |method: &str, payload: Vec<u8>| client.call(MethodId::of(method), payload);
        let set = call("fault", words).await.map(drop);
        // From now on work fails, if that was set.
        let works = call("work", Vec::new()).await.map(drop);
        (set, works)
    });
    let (set, works) = futures_executor::block_on(answer).expect("it runs");
    let status = |error: &catena_engine::CallError| match error {
        catena_engine::CallError::Status { status, .. } => *status,
        other => panic!("{other}"),
    };
    match &set {
        Ok(()) => assert_eq!(works.as_ref().map_err(status), Err(Status::INTERNAL)),
        Err(_) => assert!(works.is_ok(), "{works:?}"),
    }
    home.stop().expect("no shard has failed");
    set.map_err(|error| status(&error))
}

#[test]
fn faults_are_taken_only_where_that_was_said() {
    assert_eq!(fault(&Server::start(&["--cores", "0"])), Err(Status::DENIED));
    assert_eq!(fault(&Server::start(&["--cores", "0", "--faults"])), Ok(()));
}

#[test]
fn what_is_wrong_with_a_live_run_is_named_before_it() {
    let broken = Scenario::new("broken", &KILLED.replace("servers = [1]", "servers = [3]"));
    let cases: [(&[&str], i32, &str); 13] = [
        (&["--live", "--scenario", broken.path()], 1, "faults[0].servers: there is no 3"),
        (&["--live", "--scenario", "supermarket"], 1, "servers: 1000"),
        (&["--live", "--scenario", "rate-flips"], 1, "replicas"),
        (&["--live", "--scenario", "pause-one", "--servers", "1"], 1, "--servers: faults[0]"),
        (&["--sim", "--scenario", "rolling-restart", "-R", "1k"], 1, "faults[0].drain"),
        (&["--sim", "--scenario", "pause-one"], 1, "of_saturation"),
        (&["--live", "--sim", "--scenario", "pause-one"], 2, "cannot be used with"),
        (&["--sim", "--scenario", "slow-core", "--runs", "3"], 2, "--runs <N>"),
        (&["--sim", "--scenario", "slow-core", "--idempotent"], 2, "--idempotent"),
        (&["--sim", "--scenario", "slow-core", "--json", "-", "--svg", "-"], 2, "both say -"),
        (&["--show", "--scenario", "slow-core", "--servers", "2"], 2, "--servers <N>"),
        (&["--sim", "--scenario", "/dev/zero"], 1, "longer than 1 MiB"),
        (&["--scenario", "pause-one"], 2, "say --sim or --live"),
    ];
    for (args, code, named) in cases {
        let output = bench(&[&["balance", "--policy", "rr"], args].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(named), "{args:?}: {text}");
    }
    let hedging = ["balance", "--live", "--scenario", "pause-one", "--policy", "hist+hedge"];
    let output = bench(&hedging);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--idempotent"), "{text}");
}

#[test]
fn servers_are_counted_as_the_command_line_says_also_in_a_simulation() {
    let scenario = Scenario::new("counted", KILLED);
    let args = ["balance", "--sim", "--scenario", scenario.path(), "--policy", "rr"];
    for (count, more) in [(3, &[][..]), (5, &["--servers", "5"])] {
        let output = bench(&[&args, more, &["--json", "-"]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let servers = report["policies"][0]["servers"].as_array().expect("an array");
        assert_eq!(servers.len(), count, "{more:?}");
    }
    let output = bench(&[&args[..], &["--servers", "1"]].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("--servers: faults[0].servers: there is no 1"), "{text}");
}

#[test]
fn a_drawing_goes_to_standard_output_if_that_is_said() {
    let scenario = Scenario::new("drawn", KILLED);
    let json = Scenario::new("drawn-json", "");
    let args = ["balance", "--sim", "--scenario", scenario.path(), "--policy", "rr", "--svg", "-"];
    let output = bench(&[&args[..], &["--json", json.path()]].concat());
    let (drawn, text) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(0), "{text}");
    let drawn = String::from_utf8(drawn).expect("text");
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
    assert!(text.contains("Simulated"), "people read it on standard error: {text}");
    let report = fs::read_to_string(json.path()).expect("it is there");
    assert!(serde_json::from_str::<Value>(&report).is_ok(), "{report}");
    assert!(!Path::new("-").exists());
}

/// Policies that are simulated to the end are told, the others are named.
#[test]
fn an_interrupted_simulation_tells_what_is_done() {
    let endless = KILLED.replace("duration = '2s'", "duration = '24h'");
    let endless = endless.replace("interval = '250ms'\n", "").replace("rate = 600", "rate = 900");
    let scenario = Scenario::new("endless", &endless);
    let run = Command::new(PROGRAM)
        .args([
            "balance",
            "--sim",
            "--scenario",
            scenario.path(),
            "--policy",
            "hist",
            "--json",
            "-",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built");
    // Its signals are caught once there is a thread for them, and nothing is simulated before.
    let tasks = format!("/proc/{}/task", run.id());
    wait_until("it listens for signals", || {
        let tasks = fs::read_dir(&tasks).into_iter().flatten().flatten();
        let mut names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.any(|name| name.trim() == "signals")
    });
    kill_process(Pid::from_child(&run), Signal::INT).expect("it runs");
    let output = run.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("before any policy was simulated to the end"), "{text}");
    assert!(output.stdout.is_empty());
}
