//! Directories that are full, read-only, somebody else's or damaged; and the orderly end.

use crate::peer::{Peer, encoded, shown};
use crate::server::{Catena, PATIENCE, program, temporary_directory};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

const SMALL_FILES: [&str; 4] = ["--log-segment", "4m", "--checkpoint-log", "4m"];

/// Values that were acknowledged.
type Acknowledged = BTreeMap<String, String>;

#[test]
fn a_full_disk_refuses_writes_until_there_is_room_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let mut args = vec!["--shards", "1", "--dir", disk.path()];
    args.extend(SMALL_FILES);
    let catena = disk.serve(&args).expect("there is room");
    let mut peer = catena.connect();
    let mut acknowledged = Acknowledged::new();
    fill_keys(&mut peer, &mut acknowledged, 500).expect("there is room");
    disk.fill();
    // Some of what was prepared ahead is left. A checkpoint falls due, and cannot be written either.
    let refused = (0..1_000).find_map(|_| fill_keys(&mut peer, &mut acknowledged, 500).err());
    let refused = refused.expect("nothing more fits");
    assert!(refused.starts_with("-MISCONF"), "{refused}");
    assert!(refused.contains("No space left on device"), "{refused}");
    check(&mut peer, &acknowledged);
    disk.free();
    let give_up = Instant::now() + PATIENCE;
    while fill_keys(&mut peer, &mut acknowledged, 1).is_err() {
        assert!(Instant::now() < give_up, "there is room again");
    }
    fill_keys(&mut peer, &mut acknowledged, 500).expect("there is room again");
    disk.fill();
    while fill_keys(&mut peer, &mut acknowledged, 500).is_ok() {}
    catena.kill();
    disk.free();
    let catena = disk.serve(&args).expect("nothing is torn");
    check(&mut catena.connect(), &acknowledged);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_named() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let mut args = vec!["--shards", "1", "--dir", disk.path()];
    args.extend(SMALL_FILES);
    let mut acknowledged = Acknowledged::new();
    let catena = disk.serve(&args).expect("there is room");
    fill_keys(&mut catena.connect(), &mut acknowledged, 500).expect("there is room");
    catena.kill();
    disk.fill();
    match disk.serve(&args) {
        Ok(catena) => check(&mut catena.connect(), &acknowledged),
        Err(ended) => {
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            assert!(ended.stderr.contains("No space left on device"), "{}", ended.stderr);
            assert!(ended.stderr.contains(disk.path()), "{}", ended.stderr);
        }
    }
    disk.free();
    let catena = disk.serve(&args).expect("nothing is torn");
    check(&mut catena.connect(), &acknowledged);
}

#[test]
fn a_read_only_directory_is_refused() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let catena = disk.serve(&["--shards", "1", "--dir", disk.path()]);
    catena.expect("there is room").kill();
    disk.run("mount -o remount,ro \"$0\"");
    let ended = disk.serve(&["--shards", "1", "--dir", disk.path()]).map(|_| ());
    let ended = ended.expect_err("it cannot write there");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("Read-only file system"), "{}", ended.stderr);
    assert!(ended.stderr.contains(disk.path()), "{}", ended.stderr);
}

#[test]
fn a_directory_that_is_no_directory_of_a_store_is_refused() {
    let directory = temporary_directory("foreign");
    let file = directory.join("file");
    fs::write(&file, "something").expect("a temporary file");
    let foreign = directory.join("photos");
    fs::create_dir_all(&foreign).expect("a temporary directory");
    fs::write(foreign.join("holiday.jpg"), "dear to somebody").expect("a temporary file");
    for (path, word) in [(&file, "file"), (&foreign, "holiday.jpg")] {
        let stderr = refused(&["--shards", "1", "--dir", path.to_str().expect("a plain name")]);
        assert!(stderr.contains(path.to_str().expect("a plain name")), "{stderr}");
        assert!(stderr.contains(word), "{stderr}");
    }
    assert_eq!(fs::read_dir(&foreign).expect("it is there").count(), 1, "nothing was added");
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn a_directory_is_one_process_and_keeps_its_partitions() {
    let directory = temporary_directory("own");
    let dir = directory.to_str().expect("a plain name");
    let args = ["--shards", "1", "--dir", dir];
    let catena = Catena::try_start(&args).expect("it serves");
    let stderr = refused(&args);
    assert!(stderr.contains(dir) && stderr.contains("another process"), "{stderr}");
    assert_eq!(catena.connect().ask("SET k v"), "+OK", "the first one is not harmed");
    assert_eq!(catena.terminate().code, Some(0));
    let stderr = refused(&[&args[..], &["--partitions", "64"]].concat());
    assert!(stderr.contains("64") && stderr.contains("256"), "{stderr}");
    let catena = Catena::try_start(&args).expect("it serves");
    assert_eq!(catena.connect().ask("GET k"), "$1 v");
    drop(catena);
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn damage_in_the_middle_of_a_log_is_refused_by_file_and_offset() {
    let (directory, acknowledged, log) = killed_store("damage");
    let dir = directory.to_str().expect("a plain name");
    // The header takes two blocks; each write alone was a batch, so that there are many behind this one.
    let (file, offset) =
        (File::options().read(true).write(true).open(&log).expect("it is there"), 12_388);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is there");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("it can be written");
    let stderr = refused(&["--shards", "1", "--dir", dir]);
    assert!(stderr.contains(log.to_str().expect("a plain name")), "{stderr}");
    assert!(stderr.contains("offset 12320"), "the record's, behind the batch's first: {stderr}");
    assert!(stderr.contains("restore"), "it says what to do: {stderr}");
    file.write_all_at(&byte, offset).expect("it can be written");
    let catena = Catena::try_start(&["--shards", "1", "--dir", dir]).expect("it is whole again");
    check(&mut catena.connect(), &acknowledged);
    drop(catena);
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn a_last_write_that_was_cut_off_is_left_out_and_said() {
    let (directory, mut acknowledged, log) = killed_store("torn");
    let file = OpenOptions::new().read(true).write(true).open(&log).expect("it is there");
    // As if the power had failed within the last write, which so was not acknowledged.
    let last = last_block(&file);
    file.write_all_at(&[0; 1_024], last + 64).expect("it can be written");
    let dir = directory.to_str().expect("a plain name");
    let catena = Catena::try_start(&["--shards", "1", "--dir", dir]).expect("it serves");
    let (key, _) = acknowledged.pop_last().expect("there were some");
    assert_eq!(catena.connect().ask(&format!("GET {key}")), "$-1");
    check(&mut catena.connect(), &acknowledged);
    assert!(catena.stderr().contains("ended within a write"), "{}", catena.stderr());
    drop(catena);
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

/// A copy that left something out, or a hand that slipped: what was acknowledged is not just not there.
#[test]
fn the_loss_of_a_directory_of_the_last_start_is_refused() {
    let directory = temporary_directory("lost");
    let dir = directory.to_str().expect("a plain name");
    let args = ["--shards", "1", "--dir", dir];
    let mut acknowledged = Acknowledged::new();
    for _ in 0..2 {
        let catena = Catena::try_start(&args).expect("it serves");
        fill_keys(&mut catena.connect(), &mut acknowledged, 50).expect("there is room");
        assert_eq!(catena.terminate().code, Some(0));
        let of_start = newest_start(&directory);
        let missing = of_start.join("shard-0/MANIFEST").display().to_string();
        for lost in [of_start.join("shard-0"), of_start] {
            let aside = directory.with_extension("aside");
            fs::rename(&lost, &aside).expect("it is there");
            let stderr = refused(&args);
            assert!(stderr.contains(&missing), "{stderr}");
            assert!(stderr.contains("restore a backup"), "it says what to do: {stderr}");
            fs::rename(&aside, &lost).expect("nothing was put in its place");
        }
    }
    let catena = Catena::try_start(&args).expect("it is whole again");
    check(&mut catena.connect(), &acknowledged);
    drop(catena);
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

/// The directory of the last start that came to serve; those before it are older.
fn newest_start(directory: &Path) -> PathBuf {
    let entries = fs::read_dir(directory).expect("it is there").flatten();
    let starts = entries.filter(|entry| entry.path().is_dir());
    let number = |path: &PathBuf| -> u64 {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        name.strip_prefix("gen-").and_then(|number| number.parse().ok()).expect("gen-<n>")
    };
    starts.map(|entry| entry.path()).max_by_key(number).expect("something was served")
}

/// Each start makes segments ready that hardly anything is in.
#[test]
fn many_starts_do_not_fill_the_disk() {
    let directory = temporary_directory("starts");
    let dir = directory.to_str().expect("a plain name");
    let args = ["--shards", "1", "--dir", dir, "--log-segment", "1m", "--checkpoint-log", "2m"];
    let mut acknowledged = Acknowledged::new();
    let mut most = 0;
    for start in 0..12 {
        let catena = Catena::try_start(&args).expect("it serves");
        let mut peer = catena.connect();
        fill_keys(&mut peer, &mut acknowledged, 1).expect("there is room");
        if start >= 6 {
            // The first ones come and go as fast as they can.
            let give_up = Instant::now() + PATIENCE;
            while fs::read_dir(&directory).expect("it is there").count() > 6 {
                assert!(Instant::now() < give_up, "former starts are removed");
                thread::sleep(std::time::Duration::from_millis(10));
            }
            most = most.max(bytes_in(&directory));
        }
        catena.kill();
    }
    // Two segments of this start, what may be kept of former ones, and the next segments of those.
    assert!(most <= 8 << 20, "{most} bytes for {} keys", acknowledged.len());
    let catena = Catena::try_start(&args).expect("it serves");
    check(&mut catena.connect(), &acknowledged);
    drop(catena);
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

fn bytes_in(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("it is there").flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(it) if it.is_dir() => bytes_in(&entry.path()),
        // It may be removed at this moment.
        it => it.map_or(0, |it| it.len()),
    });
    bytes.sum()
}

#[test]
fn an_orderly_end_under_load_loses_nothing() {
    let directory = temporary_directory("drain");
    let dir = directory.to_str().expect("a plain name");
    for durability in ["sync", "batch"] {
        let args = ["--shards", "1", "--dir", dir, "--durability", durability];
        let catena = Catena::try_start(&args).expect("it serves");
        let mut acknowledged = Acknowledged::new();
        let mut peer = catena.connect();
        let (ended, acknowledged) = thread::scope(|scope| {
            let load = scope.spawn(move || {
                while fill_keys(&mut peer, &mut acknowledged, 50).is_ok() {}
                acknowledged
            });
            // Under load once something is there.
            let mut other = catena.connect();
            while other.ask("DBSIZE") == ":0" {}
            (catena.terminate(), load.join().expect("replies are as they should be"))
        });
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(!acknowledged.is_empty());
        let catena = Catena::try_start(&args).expect("it serves");
        check(&mut catena.connect(), &acknowledged);
        assert_eq!(catena.connect().ask("FLUSHALL"), "+OK");
        assert_eq!(catena.terminate().code, Some(0));
    }
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

/// 400 MiB are under way, of which the log gathers 64 MiB at most for one write.
#[test]
fn a_pipeline_that_outruns_the_disk_is_slowed_and_not_refused() {
    outrun("sync", 1);
}

#[test]
fn it_is_slowed_as_well_where_nobody_waits_for_the_disk() {
    outrun("batch", 1);
}

/// Half of the connections are not on the core that has the key.
#[test]
fn it_is_slowed_as_well_where_another_core_passes_it_on() {
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        println!("skipped: there is one CPU");
        return;
    }
    outrun("sync", 2);
    outrun("batch", 2);
}

fn outrun(durability: &str, shards: u16) {
    const CONNECTIONS: usize = 50;
    const WRITES: usize = 512;
    let directory = temporary_directory(&format!("outrun-{durability}-{shards}"));
    let dir = directory.to_str().expect("a plain name");
    let (shards, value_max) = (shards.to_string(), ["--value-max", "512m"]);
    let args = ["--shards", &shards, "--dir", dir, "--durability", durability];
    let args = [&args[..], &value_max].concat();
    let catena = Catena::try_start(&args).expect("it serves");
    thread::scope(|scope| {
        // Larger than all that may gather: it has its turn, too.
        let mut peer = catena.connect();
        scope.spawn(move || {
            assert_eq!(peer.ask(&format!("SET large {}", "x".repeat(70 << 20))), "+OK");
        });
        for _ in 0..CONNECTIONS {
            let socket = catena.socket();
            let mut sends = socket.try_clone().expect("a second handle");
            let mut peer = Peer::new(socket);
            scope.spawn(move || {
                let set = encoded(&["SET", "key", &"x".repeat(16_384)]);
                for _ in 0..WRITES {
                    sends.write_all(&set).expect("the server takes what is sent, in time");
                }
            });
            scope.spawn(move || {
                for _ in 0..WRITES {
                    assert_eq!(shown(&peer.reply()), "+OK");
                }
            });
        }
    });
    drop(catena);
    fs::remove_dir_all(directory).expect("nobody uses it any more");
}

#[test]
fn a_checkpoint_that_is_asked_for_is_taken() {
    let directory = temporary_directory("bgsave");
    let dir = directory.to_str().expect("a plain name");
    let catena = Catena::try_start(&["--shards", "1", "--dir", dir]).expect("it serves");
    let (mut peer, mut acknowledged) = (catena.connect(), Acknowledged::new());
    fill_keys(&mut peer, &mut acknowledged, 100).expect("there is room");
    assert_eq!(peer.ask("BGSAVE"), "+Background saving started");
    let (checkpoint, give_up) =
        (directory.join("gen-1/shard-0/checkpoint-1"), Instant::now() + PATIENCE);
    while !checkpoint.exists() {
        assert!(Instant::now() < give_up, "it is taken soon");
        thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(catena);
    let catena = Catena::try_start(&["--shards", "1", "--dir", dir]).expect("it serves");
    check(&mut catena.connect(), &acknowledged);
    drop(catena);
    fs::remove_dir_all(directory).expect("nobody uses it any more");
    let keeps_nothing = Catena::start(1);
    let said = keeps_nothing.connect().ask("BGSAVE");
    assert!(said.starts_with("-ERR this server keeps nothing"), "{said}");
}

/// Starts a server that must not serve; what it says.
fn refused(args: &[&str]) -> String {
    let ended = Catena::try_start(args).map(|_| ()).expect_err("it is to refuse this");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    ended.stderr
}

/// The directory of a store that was killed, what is in it, and its log.
fn killed_store(name: &str) -> (PathBuf, Acknowledged, PathBuf) {
    let directory = temporary_directory(name);
    let dir = directory.to_str().expect("a plain name");
    let catena = Catena::try_start(&["--shards", "1", "--dir", dir]).expect("it serves");
    let (mut peer, mut acknowledged) = (catena.connect(), Acknowledged::new());
    for _ in 0..20 {
        fill_keys(&mut peer, &mut acknowledged, 1).expect("there is room");
    }
    catena.kill();
    let log = directory.join("gen-1/shard-0/log-1");
    (directory, acknowledged, log)
}

/// Sets so many more keys in one go. An error is the first one told; what was acknowledged before it counts.
fn fill_keys(peer: &mut Peer, acknowledged: &mut Acknowledged, keys: usize) -> Result<(), String> {
    let first = acknowledged.len();
    let pairs: Vec<(String, String)> = (first..first + keys)
        .map(|number| (format!("key:{number:08}"), format!("{number:x}").repeat(20)))
        .collect();
    let request: Vec<u8> =
        pairs.iter().flat_map(|(key, value)| encoded(&["SET", key, value])).collect();
    peer.try_send(&request).ok_or("the server is gone")?;
    let mut refused = Ok(());
    for (key, value) in pairs {
        let reply = shown(&peer.try_reply().ok_or("the server is gone")?);
        match reply.as_str() {
            "+OK" => drop(acknowledged.insert(key, value)),
            _ if refused.is_ok() => refused = Err(reply),
            _ => {}
        }
    }
    refused
}

/// What was acknowledged is there.
fn check(peer: &mut Peer, acknowledged: &Acknowledged) {
    for (key, value) in acknowledged {
        peer.send(&encoded(&["GET", key]));
        let reply = shown(&peer.reply());
        assert_eq!(reply, format!("${} {value}", value.len()), "{key}");
    }
}

/// Where the last block of a log begins that holds anything.
fn last_block(log: &File) -> u64 {
    const BLOCK: usize = 4_096;
    let bytes = log.metadata().expect("it is there").len();
    let mut block = [0; BLOCK];
    let mut last = 0;
    for offset in (0..bytes).step_by(BLOCK) {
        log.read_exact_at(&mut block, offset).expect("it is there");
        if block.iter().any(|byte| *byte != 0) {
            last = offset;
        }
    }
    last
}

/// A small file system of its own, which a process of its own keeps mounted; nobody else sees it.
pub struct SmallDisk {
    keeper: Child,
    mounted_on: PathBuf,
}

impl SmallDisk {
    /// Of so many MiB. `None`, and a line about it, where that is not allowed.
    pub fn mount(mebibytes: u32) -> Option<Self> {
        let (unshare, _) = (program("unshare")?, program("nsenter")?);
        let mounted_on = temporary_directory("small");
        let script = format!(
            "mount -t tmpfs -o size={mebibytes}m small \"$0\" && echo mounted && exec sleep 600"
        );
        let mut command = Command::new(unshare);
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(&mounted_on);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = command.spawn().expect("the program can be started");
        let mut line = String::new();
        let out = keeper.stdout.take().expect("it is piped");
        let _end_of_file_is_no_line = BufReader::new(out).read_line(&mut line);
        let disk = SmallDisk { keeper, mounted_on };
        if line.trim_end() != "mounted" {
            println!("skipped: no file system may be mounted in a namespace here");
            return None;
        }
        Some(disk)
    }

    pub fn path(&self) -> &str {
        self.mounted_on.to_str().expect("a plain name")
    }

    /// A command that sees it.
    fn enter(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target"]);
        command.arg(self.keeper.id().to_string()).arg(program.as_ref());
        command
    }

    pub fn serve(&self, args: &[&str]) -> Result<Catena, crate::server::Ended> {
        let mut command = self.enter(env!("CARGO_BIN_EXE_catena"));
        command.args(crate::server::ARGS).args(args);
        Catena::run(command)
    }

    fn run(&self, script: &str) {
        let status = self.enter("sh").args(["-c", script]).arg(&self.mounted_on).status();
        assert!(status.expect("a shell").success(), "{script}");
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file takes no room");
        while file.write_all(&[7; 4_096]).is_ok() {}
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    /// A file there, by the way that leads into the keeper's namespace.
    fn filler(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(self.mounted_on.strip_prefix("/").expect("an absolute path")).join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Without effect on one that has ended.
        let _ended = self.keeper.kill();
        let _status = self.keeper.wait();
        let _left_to_the_system = fs::remove_dir_all(&self.mounted_on);
    }
}
