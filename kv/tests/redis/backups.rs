//! `catena backup` and `catena restore`, and what they leave behind when they fail: nothing.

use crate::server::{Catena, temporary_directory};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn a_backup_is_restored_and_served_with_as_many_shards_as_one_likes() {
    let scene = Scene::new("whole");
    scene.restore(&scene.data).expect("the backup is whole");
    let catena = Catena::start_with(2, &["--dir", text(&scene.data)]);
    assert_eq!(catena.connect().ask("DBSIZE"), format!(":{KEYS}"));
    assert_eq!(catena.connect().ask("GET key:7"), "$1 7");
    // What is there stays: neither a restore nor a backup goes over it.
    let told = scene.restore(&scene.data).expect_err("there is something");
    assert!(told.contains("has something in it"), "{told}");
    assert_eq!(catena.connect().ask("GET key:7"), "$1 7");
}

#[test]
fn a_backup_of_nobody_leaves_no_directory() {
    let directory = temporary_directory("nobody");
    let empty = directory.join("empty");
    fs::create_dir(&empty).expect("a temporary directory");
    // Nobody listens on port 1.
    let take = |to: &Path| run(&["backup", text(to), "--from", "127.0.0.1:1"]);
    let told = take(&directory.join("a/b/c")).expect_err("there is no server");
    assert!(told.contains("cannot reach 127.0.0.1:1"), "{told}");
    assert!(!directory.join("a").exists(), "what it has made");
    take(&empty).expect_err("there is no server");
    assert!(empty.exists(), "it was there before");
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn a_damaged_backup_leaves_nothing_and_the_next_one_can_be_restored_there() {
    let scene = Scene::new("damaged");
    let file = scene.backup.join("shard-1");
    let whole = fs::read(&file).expect("it is part of the backup");
    let appended = [&whole[..], b"x"].concat();
    let mut flipped = whole.clone();
    flipped[whole.len() - 1] ^= 1;
    let restores = [
        (&appended[..], "bytes follow behind its last frame"),
        (&flipped, "the checksum of a frame is not that of its bytes"),
        (&whole[..whole.len() - 1], "the file ends before its last frame"),
        (&[], "the file ends before its last frame"),
    ];
    for (content, said) in restores {
        fs::write(&file, content).expect("there is room");
        let told = scene.restore(&scene.data).expect_err(said);
        assert!(told.contains(said) && told.contains(text(&file)), "{told}");
        assert!(!scene.data.exists(), "{said}: what it has made is gone");
    }
    fs::create_dir(&scene.data).expect("it is gone");
    scene.restore(&scene.data).expect_err("the backup is damaged yet");
    assert_eq!(fs::read_dir(&scene.data).expect("it was there before").count(), 0);
    fs::write(&file, whole).expect("there is room");
    scene.restore(&scene.data).expect("the backup is whole, and the directory empty");
    let catena = Catena::start_with(1, &["--dir", text(&scene.data)]);
    assert_eq!(catena.connect().ask("DBSIZE"), format!(":{KEYS}"));
}

#[test]
fn what_is_no_backup_is_told_so() {
    let scene = Scene::new("none");
    fs::remove_file(scene.backup.join("BACKUP")).expect("it is part of the backup");
    for at in [&scene.backup, &scene.directory.join("nowhere")] {
        let told = run(&["restore", text(at), "--dir", text(&scene.data)]);
        let told = told.expect_err("it is no backup");
        assert!(told.contains(&format!("{} is no backup", at.display())), "{told}");
        assert!(!scene.data.exists());
    }
}

#[test]
fn a_restore_that_was_killed_is_told_as_such() {
    let scene = Scene::new("killed");
    scene.restore(&scene.data).expect("the backup is whole");
    // As it is until the last step.
    let (unfinished, finished) = (scene.data.join("RESTORING"), scene.data.join("IDENTITY"));
    fs::rename(&finished, &unfinished).expect("it is there");
    let ended = Catena::try_start(&["--shards", "1", "--dir", text(&scene.data)]).map(|_| ());
    let served = ended.expect_err("not all keys may be there").stderr;
    let restored = scene.restore(&scene.data).expect_err("there is something");
    for told in [served, restored] {
        assert!(told.contains("a restore left that was cut off"), "{told}");
        assert!(told.contains(&format!("remove {}", scene.data.display())), "{told}");
    }
    assert!(unfinished.exists(), "nothing was changed");
}

/// Keys of the store that is backed up.
const KEYS: usize = 200;

/// A store that was backed up.
struct Scene {
    directory: PathBuf,
    backup: PathBuf,
    /// Where nothing is yet.
    data: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let directory = temporary_directory(&format!("backup-{name}"));
        let catena = Catena::start(2);
        let mut peer = catena.connect();
        for key in 0..KEYS {
            assert_eq!(peer.ask(&format!("SET key:{key} {key}")), "+OK");
        }
        let (backup, data) = (directory.join("backup"), directory.join("data"));
        run(&["backup", text(&backup), "--from", &catena.address.to_string()]).expect("it serves");
        Scene { directory, backup, data }
    }

    fn restore(&self, to: &Path) -> Result<(), String> {
        run(&["restore", text(&self.backup), "--dir", text(to)])
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _left_to_the_system = fs::remove_dir_all(&self.directory);
    }
}

/// What `catena` says if it fails.
fn run(args: &[&str]) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_catena")).args(args).output();
    let output = output.expect("the program can be started");
    match output.status.code() {
        Some(0) => Ok(()),
        code => {
            assert_eq!(code, Some(1), "{output:?}");
            Err(String::from_utf8(output.stderr).expect("it says text"))
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}
