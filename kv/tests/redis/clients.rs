//! Clients that people use: redis-cli, redis-benchmark, redis-py.

use crate::server::{Catena, program};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a command has written, if it succeeded.
fn output(command: &mut Command, input: &str) -> String {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be started");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads its input");
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out.into_owned()
}

fn to(program: &Path, catena: &Catena) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &catena.address.port().to_string()]);
    command
}

#[test]
fn redis_cli() {
    let Some(cli) = program("redis-cli") else { return };
    let catena = Catena::start(2);
    for (arguments, expected) in [
        ("SET greeting hello", "OK"),
        ("GET greeting", "hello"),
        ("-3 GET nothing", ""),
        ("INCRBY counter 5", "5"),
        ("TTL greeting", "-1"),
        ("SELECT 1", "ERR DB index is out of range"),
        ("-n 0 DBSIZE", "2"),
        ("CLIENT GETNAME", ""),
        (
            "DEBUG OBJECT greeting",
            "ERR unknown command 'DEBUG', with args beginning with: 'OBJECT' 'greeting'",
        ),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let answer = output(to(&cli, &catena).args(&arguments), "");
        assert_eq!(answer.trim(), expected, "{arguments:?}");
    }
    assert!(
        output(to(&cli, &catena).args(["--no-raw", "HELLO", "3"]), "")
            .contains("\"proto\" => (integer) 3")
    );
    let mut keys: Vec<String> =
        output(to(&cli, &catena).arg("--scan"), "").lines().map(str::to_owned).collect();
    keys.sort();
    assert_eq!(keys, ["counter", "greeting"]);
    // A protocol file, as people load data with.
    let load: String = (0..10_000).map(|n| format!("SET load:{n} {n}\r\n")).collect();
    let loaded = output(to(&cli, &catena).arg("--pipe"), &load);
    assert!(loaded.contains("errors: 0, replies: 10000"), "{loaded}");
    assert_eq!(output(to(&cli, &catena).arg("DBSIZE"), "").trim(), "10002");
    let big = output(to(&cli, &catena).arg("--bigkeys"), "");
    assert!(big.contains("Sampled 10002 keys in the keyspace!"), "{big}");
    // Follows MOVED from a shard's own port.
    let nodes = output(to(&cli, &catena).args(["CLUSTER", "NODES"]), "");
    for node in nodes.lines().filter_map(|line| line.split(' ').nth(1)?.split_once('@')) {
        let (host, port) = node.0.rsplit_once(':').expect("a port");
        for n in 0..8 {
            let key = format!("load:{n}");
            let mut command = Command::new(&cli);
            command.args(["-c", "-h", host, "-p", port, "GET", &key]);
            assert_eq!(output(&mut command, "").trim(), n.to_string());
        }
    }
}

#[test]
fn redis_benchmark() {
    let Some(benchmark) = program("redis-benchmark") else { return };
    let catena = Catena::start(2);
    const TESTS: &str = "ping_inline,ping_mbulk,set,get,incr,mset";
    for arguments in [
        vec!["-n", "2000", "-c", "8"],
        vec!["-n", "20000", "-c", "8", "-P", "16"],
        vec!["-n", "2000", "-c", "4", "-3"],
        vec!["-n", "2000", "-c", "4", "-d", "20000"],
    ] {
        let mut command = to(&benchmark, &catena);
        let report = output(command.args(&arguments).args(["-q", "-t", TESTS]), "");
        let report = report.replace('\r', "\n");
        let results = report.lines().filter(|line| line.contains("requests per second")).count();
        assert_eq!(results, 6, "{arguments:?}\n{report}");
        assert!(!report.to_lowercase().contains("error"), "{arguments:?}\n{report}");
    }
    // Keys of all slots, over the nodes that it is told of.
    let mut command = to(&benchmark, &catena);
    command.args(["--cluster", "-n", "4000", "-c", "4", "-r", "1000", "-q", "-t", "set,get"]);
    let report = output(&mut command, "").replace('\r', "\n");
    assert_eq!(report.matches("requests per second").count(), 2, "{report}");
    assert!(report.contains("2 master nodes"), "{report}");
}

/// Runs a script with the module, if there is one.
fn python(catena: &Catena, script: &str) {
    let python = Path::new("/usr/bin/python3");
    let has_module = |module: &str| {
        let mut command = Command::new(python);
        let command = command.args(["-c", &format!("import {module}")]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !python.is_file() || !has_module("redis") {
        return println!("skipped: {} has no module redis", python.display());
    }
    let mut command = Command::new(python);
    command.args(["-c", script]).arg(catena.address.port().to_string());
    print!("{}", output(&mut command, ""));
}

#[test]
fn redis_py_single() {
    python(&Catena::start(2), include_str!("single.py"));
}

#[test]
fn redis_py_cluster() {
    python(&Catena::start(2), include_str!("cluster.py"));
}
