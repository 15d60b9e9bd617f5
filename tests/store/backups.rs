//! Backups that are taken while the store is written to, and what is made of them elsewhere.

use crate::client::Client;
use crate::history::Promise;
use crate::machine::{Machine, PARTITIONS};
use crate::scene::Scene;
use catena_engine::driver::{
    Completion, Driver, FileBuffer, FileOpId, FileTask, FileTaskDone, OpenFile,
};
use catena_engine::sim::{Crash, Fault, HostId, SimDriver, World, WorldConfig, each_seed};
use catena_engine::time::Duration;
use catena_kv::backup::{self, Backup, Frames, Made, Restored, ShardFile};
use catena_kv::log::manifest::Identity;
use catena_kv::log::{DirectoryId, segment};
use catena_kv::resp::Value;
use catena_kv::store::Durability;
use std::fs;
use std::path::{Path, PathBuf};

/// Takes a backup under load, makes a data directory of it, and serves that on another machine with another
/// number of shards.
fn run(world: &mut World) -> u64 {
    let mut scene = Scene::begin(world, 1 + (world.seed() % 3) as u16, Durability::Sync);
    let time = Duration::from_millis(50 + scene.rng.below(200));
    scene.write_for(world, time);
    // Each partition is as of one instant after this one.
    scene.settles_at_once = false;
    scene.histories.iter_mut().for_each(|history| history.settle(Promise::Acknowledged));
    let directory = unique_directory(world.seed());
    let (at, data) = (directory.join("backup"), directory.join("data"));
    backup::make_directory(&at).expect("it is new").keep();
    take(world, &mut scene, &at);
    scene.finish(world);
    let id = DirectoryId(u128::from(world.seed()).to_le_bytes());
    let restored = Restored { id, random: world.seed() };
    let keys = backup::restore(&at, &data, restored, |_, _| {}).expect("the backup is good");
    goes_on_in_epochs_of_its_own(&at, &data);
    let disk = copy_to_disk(world, &data);
    fs::remove_dir_all(&directory).expect("it was made here");
    serve(world, &mut scene, disk);
    keys
}

/// Whatever the store that was backed up names by its epochs from now on, nothing here has that name.
fn goes_on_in_epochs_of_its_own(backup: &Path, data: &Path) {
    let files = backup::open(backup).expect("it is complete").shard;
    let newest = files.iter().map(|file| file.epoch).max().expect("it has a file");
    let identity = fs::read(data.join("IDENTITY")).expect("it is complete");
    let identity = Identity::decode(&identity, "IDENTITY").expect("it is good");
    assert!(newest > 0 && identity.incarnation > u64::from(newest) + 1_000, "{newest}");
}

/// Every shard's keys, one shard after the other, while more is written.
fn take(world: &mut World, scene: &mut Scene, to: &Path) {
    let (mut files, mut hash_seed) = (Vec::new(), 0);
    for shard in 0..usize::from(scene.machine.shards) {
        let (facts, file, bytes) = take_shard(world, scene, shard);
        fs::write(to.join(segment::shard_name(shard as u32)), bytes).expect("there is room");
        hash_seed = fact(&facts, "hash_seed");
        files.push(file);
    }
    let hash_seed = format!("{hash_seed:016x}");
    let (version, partitions) = (backup::VERSION, PARTITIONS);
    let document = Backup { version, taken_ms: 0, partitions, hash_seed, shard: files };
    backup::complete(to, &document, Made::default()).expect("there is room");
}

fn take_shard(world: &mut World, scene: &mut Scene, shard: usize) -> (Value, ShardFile, Vec<u8>) {
    let mut client = Client::<bool>::on_port_of(world, Some(shard));
    let (mut frames, mut facts) = (Frames::default(), None);
    let (mut bytes, mut read) = (Vec::new(), 0);
    let mut has_begun = false;
    while !frames.is_finished() {
        scene.write(world);
        if client.is_open() && client.in_flight() == 0 {
            let is_first = !std::mem::replace(&mut has_begun, true);
            client.ask(is_first, &["CATENA.BACKUP", if is_first { "BEGIN" } else { "NEXT" }]);
        }
        for (is_first, answer) in client.step(world, &scene.machine) {
            if is_first {
                facts = Some(answer);
                continue;
            }
            bytes.extend_from_slice(answer.bytes().unwrap_or_else(|| panic!("{answer:?}")));
            let taken = frames.take(&bytes[read..], |_| Ok(()));
            read += taken.expect("the frames are good").expect("nothing is done with them");
        }
    }
    (facts.expect("it began"), frames.file(), bytes)
}

fn fact(facts: &Value, name: &str) -> u64 {
    let Value::Array(facts) = facts else { panic!("{facts:?}") };
    let mut pairs = facts.chunks_exact(2);
    let pair = pairs.find(|pair| pair[0].bytes() == Some(name.as_bytes()));
    let text = pair.and_then(|pair| pair[1].bytes()).expect("it is told");
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).expect("a number")
}

/// What is there must be what each partition had at some instant while the backup was taken.
fn serve(world: &mut World, scene: &mut Scene, disk: HostId) {
    let shards = 1 + scene.rng.below(3) as u16;
    scene.machine = Machine::start(world, shards, Durability::Sync, 8 << 10);
    world.move_disk(disk, scene.machine.host());
    for history in 0..scene.histories.len() {
        let (seen, _) = scene.read_one(world, history).expect("a restored directory is served");
        scene.histories[history].admits(&seen).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

/// A directory of this machine, as the disk of a simulated one that is off.
fn copy_to_disk(world: &mut World, from: &Path) -> HostId {
    let mut driver = world.bare_host(1).remove(0);
    let host = driver.at().host;
    copy_directory(&mut driver, from, Path::new("/data"));
    world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
    host
}

fn copy_directory(driver: &mut SimDriver, from: &Path, to: &Path) {
    task(driver, FileTask::CreateDirectory { path: to.to_owned() });
    let entries = fs::read_dir(from).expect("it was made");
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for entry in entries {
        let to = to.join(entry.file_name().expect("an entry has a name"));
        if entry.is_dir() {
            copy_directory(driver, &entry, &to);
            continue;
        }
        let options = OpenFile { create: true, direct: false };
        let FileTaskDone::Opened(file) = task(driver, FileTask::Open { path: to, options }) else {
            panic!("it was to be opened");
        };
        let content = fs::read(&entry).expect("it was written");
        driver.write(file, 0, FileBuffer::copy_of(&content), FileOpId(2));
        wait(driver, |completion| match completion {
            Completion::File { result, .. } => Some(result.expect("the disk works")),
            _ => None,
        });
        driver.close_file(file);
    }
}

fn task(driver: &mut SimDriver, task: FileTask) -> FileTaskDone {
    driver.file_task(task, FileOpId(1));
    wait(driver, |completion| match completion {
        Completion::FileTask { result, .. } => Some(result.expect("the disk works")),
        _ => None,
    })
}

fn wait<T>(driver: &mut SimDriver, mut take: impl FnMut(Completion) -> Option<T>) -> T {
    loop {
        if let Some(taken) = driver.next_completion().and_then(&mut take) {
            return taken;
        }
        driver.park(None).expect("something is in flight");
    }
}

/// Of this process and this seed alone.
fn unique_directory(seed: u64) -> PathBuf {
    let name = format!("catena-store-backups-{}-{seed}", std::process::id());
    let path = std::env::temp_dir().join(name);
    // Each sixteenth seed runs twice, one after the other.
    fs::create_dir(&path).expect("nobody else has it");
    path
}

#[test]
fn a_backup_under_load_is_each_partition_at_one_instant() {
    let mut keys = 0;
    each_seed("cargo test --test store", 1..21, &WorldConfig::default(), |world| {
        let taken = run(world);
        keys += taken;
        taken
    });
    assert!(keys > 0, "there was nothing to take");
}
