//! Flags that cannot be meant, and what a start says.

use crate::server::{ARGS, Catena, Ended, PATIENCE, temporary_directory};
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;

/// Cluster clients remember a node by its port.
#[test]
fn the_ports_of_shards_are_the_same_at_each_start_where_they_are_free() {
    // Some port with room above it; whoever takes it meanwhile makes the test try another one.
    let started = (0..50).find_map(|_| {
        let probe = TcpListener::bind("127.0.0.1:0").expect("there are ports");
        let port = probe.local_addr().expect("it is bound").port();
        drop(probe);
        let listen = (port % 20_000 + 20_000).to_string();
        Catena::try_start(&["--listen", &listen, "--shards", "1"])
            .ok()
            .filter(|catena| catena.stderr().is_empty())
    });
    let catena = started.expect("one of so many is free");
    let own = catena.address.port() + 10_000;
    let slots = catena.connect().ask("CLUSTER SLOTS");
    assert!(slots.contains(&format!(":{own}")), "{slots}");
    // Another server has its place: the system picks, and it is said.
    let (listen, held) = (catena.address.port().to_string(), own);
    catena.kill();
    let give_up = Instant::now() + PATIENCE;
    let holder = loop {
        // The kernel takes down what a killed process had a moment later.
        match TcpListener::bind(("127.0.0.1", held)) {
            Ok(holder) => break holder,
            Err(error) => assert!(Instant::now() < give_up, "{error}"),
        }
    };
    let catena = Catena::try_start(&["--listen", &listen, "--shards", "1"]).expect("it serves");
    let said = catena.stderr();
    assert!(
        said.contains(&format!("port {held} is taken")) && said.contains("--shard-ports"),
        "{said}"
    );
    assert!(!catena.connect().ask("CLUSTER SLOTS").contains(&format!(":{held}")));
    drop((holder, catena));
    // This one's own ports come first, too.
    for flag in ["--rpc-listen", "--admin"] {
        let line = ["--listen", &listen, "--shards", "1", flag, &held.to_string()];
        let catena = Catena::try_start(&line).expect("it serves");
        let said = catena.stderr();
        assert!(said.contains(&format!("port {held} is taken")), "{said}");
    }
}

#[test]
fn what_cannot_be_meant_is_wrong_usage_on_the_line_and_in_a_file() {
    let directory = temporary_directory("flags");
    let file = directory.join("catena.toml");
    let config = format!("--config={}", file.display());
    for (line, content, said) in [
        (&["--memory-max", "100", "--shards", "1"][..], "", "say 1 MiB at least"),
        (&["--shards", "1"], "memory-max = 100", "say 1 MiB at least"),
        (&["--durability", "batch"], "", "--durability without --dir"),
        (&[], "durability = \"batch\"", "--durability without --dir"),
        (&[], "batch-interval = 20", "say 20ms or 20s"),
        (&[], "announce = \"\"", "is no host"),
        (&["--admin", "7379", "--listen", "7379"], "", "port 7379 is that of --listen"),
        (&["--listen", "7379"], "shard-ports = 7379", "port 7379 is that of --listen"),
    ] {
        fs::write(&file, content).expect("a file can be written");
        let ended = refused(&[line, &[&config]].concat());
        assert_eq!(ended.code, Some(2), "{line:?} {content}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{line:?} {content}: {}", ended.stderr);
    }
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn the_least_memory_that_is_taken_is_enough_to_keep_something() {
    let catena = Catena::start_with(1, &["--memory-max", "1m"]);
    assert_eq!(catena.connect().ask("SET key value"), "+OK");
}

#[test]
fn a_port_that_is_taken_is_told_with_its_flag() {
    let holds = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    let port = holds.local_addr().expect("it is bound").port();
    let (text, address) = (port.to_string(), format!("127.0.0.1:{port}"));
    for flag in ["--listen", "--rpc-listen", "--shard-ports", "--admin"] {
        let ended = refused(&["--shards", "1", flag, &text]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let said = format!("catena: {flag}: cannot listen on {address}: another process has that");
        assert!(ended.stderr.starts_with(&said), "{}", ended.stderr);
    }
}

#[test]
fn fewer_connections_are_told_once_and_to_who_asked_or_has_few() {
    let start = |files: u32, args: &[&str]| {
        let mut command = Command::new("sh");
        let script = "ulimit -S -n \"$1\"; shift; exec \"$@\"";
        command.args(["-c", script, "sh", &files.to_string(), env!("CARGO_BIN_EXE_catena")]);
        command.args(ARGS).args(["--shards", "1"]).args(args);
        Catena::run(command).expect("it serves")
    };
    for (files, args, connections, lines) in [
        (3_000, &[][..], 2_899, 0),
        (3_000, &["--max-connections", "4000"], 2_899, 1),
        (3_000, &["--max-connections", "4000", "--log", "warn"], 2_899, 1),
        (3_000, &["--max-connections", "100"], 100, 0),
        (600, &[], 499, 1),
    ] {
        let catena = start(files, args);
        let asked = catena.connect().ask("CONFIG GET maxclients");
        assert!(asked.ends_with(&format!(" {connections}")), "{files} {args:?}: {asked}");
        let info = catena.connect().ask("INFO clients");
        assert!(info.contains(&format!("maxclients:{connections} ")), "{info}");
        let told = catena.stderr();
        assert_eq!(told.matches("connections instead of").count(), lines, "{args:?}: {told}");
    }
}

fn refused(args: &[&str]) -> Ended {
    Catena::try_start(args).map(|_| ()).expect_err("it is to refuse this")
}
