//! Clusters of real processes: killed nodes lose nothing that was acknowledged, and come back.

use crate::peer::Peer;
use crate::server::{Catena, PATIENCE, temporary_directory};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Three nodes, by place; `None`: one that was killed.
struct Cluster {
    directory: PathBuf,
    nodes: Vec<Option<Catena>>,
}

impl Cluster {
    fn start() -> Self {
        let directory = temporary_directory("cluster");
        assert!(cluster(&directory, "init").status.success());
        let start = |place| {
            let directory = &directory;
            move || Some(start_node(directory, place))
        };
        // None serves before all have come.
        let nodes = thread::scope(|scope| {
            let starting: Vec<_> = (0..3).map(|place| scope.spawn(start(place))).collect();
            starting.into_iter().map(|node| node.join().expect("it starts")).collect()
        });
        Cluster { directory, nodes }
    }

    fn kill(&mut self, place: usize) {
        self.nodes[place].take().expect("it runs").kill();
    }

    fn restart(&mut self, place: usize) {
        self.nodes[place] = Some(start_node(&self.directory, place));
    }

    /// Has a write acknowledged by whoever orders it.
    fn set(&self, key: &str, value: &str) {
        let words = format!("SET {key} {value}");
        let until = Instant::now() + PATIENCE;
        for node in self.nodes.iter().flatten().cycle() {
            assert!(Instant::now() < until, "{words}: {}", self.status());
            let said = node.connect().try_ask(&words).unwrap_or_default();
            let said = match said.split(' ').collect::<Vec<_>>()[..] {
                ["-MOVED", _, address] => ask_at(address, &words).unwrap_or_default(),
                _ => said,
            };
            if said == "+OK" {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What a node says that a key holds.
    fn get(&self, place: usize, key: &str) -> String {
        let words = format!("GET {key}");
        let until = Instant::now() + PATIENCE;
        let node = self.nodes[place].as_ref().expect("it runs");
        loop {
            // One that comes back says who has the keys, or ends the connection, until it has them.
            match node.connect().try_ask(&words) {
                Some(said) if said.starts_with('$') => return said,
                said => assert!(Instant::now() < until, "{said:?}: {}", self.status()),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn status(&self) -> String {
        String::from_utf8_lossy(&cluster(&self.directory, "status").stdout).into_owned()
    }

    /// Waits until each chain has three members that serve.
    fn is_whole(&self) {
        let until = Instant::now() + PATIENCE;
        let is_whole = |status: &str| {
            let chains = status.lines().filter(|line| line.starts_with("partition "));
            let counts = chains.map(|line| {
                let members = line.split_once(": ").map_or("", |(_, members)| members);
                if members.contains('(') { 0 } else { members.split(' ').count() }
            });
            counts.clone().count() == 64 && counts.into_iter().all(|count| count == 3)
        };
        while !is_whole(&self.status()) {
            assert!(Instant::now() < until, "{}", self.status());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        let _left_behind = std::fs::remove_dir_all(&self.directory);
    }
}

fn start_node(directory: &std::path::Path, place: usize) -> Catena {
    let store = format!("directory:{}", directory.display());
    Catena::start_with(1, &["--cluster", &store, "--node", &format!("node-{place}")])
}

fn cluster(directory: &std::path::Path, verb: &str) -> std::process::Output {
    let store = format!("directory:{}", directory.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    command.args(["cluster", verb, &store]).output().expect("it runs")
}

fn ask_at(address: &str, words: &str) -> Option<String> {
    let socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    Peer::new(socket).try_ask(words)
}

#[test]
fn whoever_is_killed_what_was_acknowledged_is_there() {
    let mut cluster = Cluster::start();
    let key = |number: u32| format!("key-{number}");
    for number in 0..50 {
        cluster.set(&key(number), "0");
    }
    for (round, killed) in (1..).zip([0, 1, 2]) {
        cluster.kill(killed);
        for number in 0..25 {
            cluster.set(&key(number), &round.to_string());
        }
        for place in (0..3).filter(|place| *place != killed) {
            for number in 0..50 {
                let expected = if number < 25 { format!("$1 {round}") } else { "$1 0".to_owned() };
                assert_eq!(cluster.get(place, &key(number)), expected);
            }
        }
        cluster.restart(killed);
        cluster.is_whole();
        assert_eq!(cluster.get(killed, &key(0)), format!("$1 {round}"));
        assert_eq!(cluster.get(killed, &key(49)), "$1 0");
    }
    // Two at once: the one that is left has everything.
    cluster.kill(0);
    cluster.kill(1);
    cluster.set("last", "value");
    assert_eq!(cluster.get(2, &key(0)), "$1 3");
    assert_eq!(cluster.get(2, "last"), "$5 value");
}

#[test]
fn a_second_node_of_a_name_ends_the_first() {
    let mut cluster = Cluster::start();
    let usurper = start_node(&cluster.directory, 0);
    let ended = cluster.nodes[0].take().expect("it runs").wait();
    assert!(ended.stderr.contains("another process has joined the cluster as \"node-0\""));
    drop(usurper);
}

#[test]
fn a_cluster_is_made_once() {
    let directory = temporary_directory("cluster-twice");
    assert!(cluster(&directory, "init").status.success());
    let again = cluster(&directory, "init");
    assert!(!again.status.success());
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("there is a cluster in") && said.contains("already"), "{said}");
    let status = cluster(&directory, "status");
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("0 of 3 nodes have come"), "{said}");
    std::fs::remove_dir_all(&directory).expect("it is there");
}
