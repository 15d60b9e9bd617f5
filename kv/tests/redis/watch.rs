//! What operators see of a store, and of what is wrong with it.

use crate::disasters::SmallDisk;
use crate::peer::{Peer, encoded};
use crate::server::{Catena, PATIENCE, temporary_directory};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[test]
fn a_full_disk_is_seen_while_it_is_full() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let small = ["--shards", "2", "--log-segment", "4m", "--admin", "127.0.0.1:0"];
    let catena =
        disk.serve(&[&small[..], &["--dir", disk.path()]].concat()).expect("there is room");
    let mut peers: Vec<Peer> = (0..4).map(|_| catena.connect()).collect();
    assert_eq!(catena.page("/healthz"), ("HTTP/1.0 200 OK".to_owned(), "serving\n".to_owned()));
    let is_well = |catena: &Catena| {
        let info = catena.connect().ask("INFO persistence");
        (figure(catena, "logs_hindered"), figure(catena, "logs_refusing")) == (0, 0)
            && info.ends_with(" aof_last_write_status:ok")
    };
    assert!(is_well(&catena));
    // Whoever waited until it serves was told that it loads.
    assert_eq!(peers[0].ask("CONFIG RESETSTAT"), "+OK");
    disk.fill();
    let value = "v".repeat(100_000);
    let mut refused = 0;
    // On both shards: each connection's keys are anywhere.
    for round in 0..200 {
        for (n, peer) in peers.iter_mut().enumerate() {
            let reply = peer.ask(&format!("SET key:{round}:{n} {value}"));
            refused += u64::from(reply.starts_with("-MISCONF"));
            assert!(reply == "+OK" || reply.starts_with("-MISCONF"), "{reply}");
        }
    }
    assert!(refused > 100, "{refused}");
    until(|| figure(&catena, "errors_misconf_total") == refused);
    until(|| figure(&catena, "logs_refusing") == 2 && figure(&catena, "logs_hindered") == 2);
    let info = peers[0].ask("INFO");
    assert!(info.contains(" aof_last_write_status:err "), "{info}");
    assert!(info.contains(&format!(" total_error_replies:{refused} ")), "{refused}: {info}");
    let (status, health) = catena.page("/healthz");
    assert_eq!(status, "HTTP/1.0 200 OK", "reads go on");
    assert!(health.starts_with("serving, writes are refused: shard 0: cannot create "), "{health}");
    assert!(health.contains("No space left on device"), "{health}");
    disk.free();
    until(|| is_well(&catena));
    assert_eq!(catena.page("/healthz").1, "serving\n");
    assert_eq!(peers[0].ask("SET key value"), "+OK");
}

/// Whether it is this shard that says so or another, and whatever the client has waited for before.
#[test]
fn each_error_that_is_answered_is_counted() {
    let directory = temporary_directory("errors");
    let dir = directory.to_str().expect("a plain name");
    let catena = Catena::start_with(2, &["--dir", dir, "--admin", "127.0.0.1:0"]);
    let mut peers: Vec<Peer> = (0..8).map(|_| catena.connect()).collect();
    // Whoever waited until it serves was told that it loads.
    let before = figure(&catena, "errors_total");
    assert_eq!(peers[0].ask("CONFIG RESETSTAT"), "+OK");
    for (n, peer) in peers.iter_mut().enumerate() {
        // A pipeline: what follows a write waits behind it.
        let (key, others) = (format!("key:{n}"), ["SET", "a", "1", "nonsense"]);
        let request = [
            encoded(&["SET", &key, "no number"]),
            encoded(&["INCR", &key]),
            encoded(&others),
            encoded(&["KEYS", "*"]),
            encoded(&["INCR", "key:0"]),
            encoded(&["MSETNX", "a", "1", "b", "2"]),
            encoded(&["CLIENT", "LIST", "TYPE", "nonsense"]),
            encoded(&["SCAN", "nonsense"]),
            encoded(&["GET"]),
            encoded(&["CONFIG", "nonsense"]),
        ];
        peer.send(&request.concat());
        let errors = (0..request.len()).filter(|_| peer.reply().starts_with(b"-")).count();
        assert_eq!(errors, 8);
        peer.send(b"*no number\r\n");
        assert!(peer.reply().starts_with(b"-ERR Protocol error"));
    }
    until(|| figure(&catena, "errors_total") == before + 8 * 9);
    let info = catena.connect().ask("INFO stats");
    assert!(info.contains(" total_error_replies:72"), "{info}");
    drop(catena);
    std::fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn what_the_log_and_its_checkpoints_do_is_seen() {
    let directory = temporary_directory("seen");
    let dir = directory.to_str().expect("a plain name");
    let before_s = now_s();
    let catena = Catena::start_with(
        2,
        &["--dir", dir, "--admin", "127.0.0.1:0", "--memory-max", "64m", "--log-segment", "4m"],
    );
    let mut peer = catena.connect();
    let info = peer.ask("INFO persistence");
    let began_s = field(&info, "rdb_last_save_time");
    assert!((before_s..=now_s()).contains(&began_s), "as in Redis, before the first one: {info}");
    for n in 0..20 {
        assert_eq!(peer.ask(&format!("SET key:{n} value")), "+OK");
    }
    until(|| figure(&catena, "log_syncs_total") >= 20);
    assert!(figure(&catena, "log_bytes_total") >= 20 * 4_096);
    assert!(seconds(&catena, "log_sync_seconds_total") > 0.0);
    assert_eq!(seconds(&catena, "log_lag_seconds_total"), 0.0);
    assert_eq!(figure(&catena, "bytes_max"), 64 << 20);
    assert!(figure(&catena, "bytes_resident") > figure(&catena, "bytes_used"));
    assert_eq!(figure(&catena, "checkpoints_total"), 0);
    // It fits into no segment that there is: it gathers until there is a larger one.
    peer.send(&encoded(&["SET", "large", &"x".repeat(20 << 20)]));
    assert_eq!(peer.reply(), b"+OK\r\n");
    until(|| {
        seconds(&catena, "log_lag_seconds_total") > 0.0 && figure(&catena, "shards_behind") == 0
    });
    // So that the instant of the checkpoint is another second.
    until(|| now_s() > began_s);
    let asked_s = now_s();
    assert_eq!(peer.ask("BGSAVE"), "+Background saving started");
    until(|| figure(&catena, "checkpoints_total") == 2);
    assert_eq!(figure(&catena, "checkpoints_failed_total"), 0);
    let info = peer.ask("INFO persistence");
    assert!((asked_s..=now_s()).contains(&field(&info, "rdb_last_save_time")), "{info}");
    assert!(info.contains(" rdb_bgsave_in_progress:0 "), "{info}");
    assert!(info.contains(" rdb_last_bgsave_status:ok "), "{info}");
    assert!(seconds(&catena, "checkpoint_age_seconds") <= (now_s() - asked_s + 1) as f64);
    drop(catena);
    std::fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn a_checkpoint_that_cannot_be_taken_is_seen() {
    let directory = temporary_directory("unseen");
    let dir = directory.to_str().expect("a plain name");
    let catena = Catena::start_with(1, &["--dir", dir, "--admin", "127.0.0.1:0"]);
    let mut peer = catena.connect();
    assert_eq!(peer.ask("SET key value"), "+OK");
    // Where its file would be there is a directory, which is no file that could be removed.
    let obstacle = directory.join("gen-1/shard-0/checkpoint-1.new");
    std::fs::create_dir_all(obstacle.join("within")).expect("a place for it");
    assert_eq!(peer.ask("BGSAVE"), "+Background saving started");
    until(|| figure(&catena, "checkpoints_failed_total") == 1);
    assert_eq!(figure(&catena, "checkpoints_failing"), 1);
    assert!(peer.ask("INFO persistence").contains(" rdb_last_bgsave_status:err "));
    drop(catena);
    std::fs::remove_dir_all(directory).expect("nobody uses it any more");
}

/// What must become true some time: figures are of turns that have ended.
fn until(is_so: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "it never is");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A figure of the store on its page.
fn figure(catena: &Catena, name: &str) -> u64 {
    seconds(catena, name) as u64
}

fn seconds(catena: &Catena, name: &str) -> f64 {
    let (_, text) = catena.page("/metrics");
    let start = format!("catena_store_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
}

/// A number in `INFO`.
fn field(info: &str, name: &str) -> u64 {
    let value = info.split(' ').find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {info}"))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs()
}
