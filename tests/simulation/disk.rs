//! The rules of the simulated disk for bytes: what a crash leaves of them, and what goes wrong.

use catena_engine::driver::{
    Completion, Driver, FileBuffer, FileId, FileOpId, FileTask, FileTaskDone, OpenFile,
};
use catena_engine::sim::{Crash, DiskOp, Fault, HostId, SimDriver, World, WorldConfig};
use catena_engine::time::Duration;
use std::io;
use std::path::Path;

pub const HOST: HostId = HostId(0);
const PATH: &str = "/journal";

/// A host with one driver and a file whose name is durable.
fn disk(seed: u64) -> (World, SimDriver, FileId) {
    let (world, mut driver) = host(seed);
    let file = create(&mut driver, PATH);
    sync_directory(&mut driver, "/");
    (world, driver, file)
}

/// A host with one driver.
pub fn host(seed: u64) -> (World, SimDriver) {
    let mut world = World::new(seed, WorldConfig::default());
    let driver = world.bare_host(1).remove(0);
    (world, driver)
}

/// Waits for the next file operation to end.
pub fn outcome(driver: &mut SimDriver) -> (FileOpId, io::Result<usize>) {
    loop {
        if let Some(Completion::File { op, result, .. }) = driver.next_completion() {
            return (op, result);
        }
        driver.park(None).expect("an operation is in flight");
    }
}

/// Waits for a task.
pub fn task(driver: &mut SimDriver, task: FileTask) -> io::Result<FileTaskDone> {
    driver.file_task(task, FileOpId(u64::MAX));
    loop {
        match driver.next_completion() {
            Some(Completion::FileTask { op: FileOpId(u64::MAX), result }) => return result,
            Some(other) => panic!("nothing else is in flight, but there is {other:?}"),
            None => driver.park(None).expect("a task is in flight"),
        }
    }
}

pub fn open(driver: &mut SimDriver, path: &str, options: OpenFile) -> FileId {
    let path = Path::new(path).to_owned();
    match task(driver, FileTask::Open { path, options }).expect("the disk works") {
        FileTaskDone::Opened(file) => file,
        other => panic!("it was to be opened: {other:?}"),
    }
}

/// Opens a file, which is created if it is missing.
pub fn create(driver: &mut SimDriver, path: &str) -> FileId {
    open(driver, path, OpenFile { create: true, direct: false })
}

pub fn sync_directory(driver: &mut SimDriver, path: &str) {
    let sync = FileTask::SyncDirectory { path: path.into() };
    task(driver, sync).expect("the disk works");
}

/// Writes at the beginning of a file.
pub fn write(driver: &mut SimDriver, file: FileId, bytes: &[u8]) {
    driver.write(file, 0, FileBuffer::copy_of(bytes), FileOpId(1));
    outcome(driver).1.expect("the disk works");
}

pub fn sync(driver: &mut SimDriver, file: FileId) {
    driver.sync(file, FileOpId(1));
    outcome(driver).1.expect("the disk works");
}

pub fn crash(world: &mut World, how: Crash) {
    world.inject(Fault::Crash { host: HOST, how, down_for: None });
}

#[test]
fn a_sync_covers_what_had_completed_and_nothing_else() {
    for seed in 0..50 {
        let (world, mut driver, file) = disk(seed);
        driver.write(file, 0, FileBuffer::copy_of(&[1; 600]), FileOpId(1));
        outcome(&mut driver).1.expect("the disk works");
        assert_eq!(world.durable_file(HOST, PATH).expect("it exists").len(), 0);
        // In flight when the sync is issued; it may end before the sync does.
        driver.write(file, 600, FileBuffer::copy_of(&[2; 600]), FileOpId(2));
        driver.sync(file, FileOpId(3));
        outcome(&mut driver).1.expect("the disk works");
        outcome(&mut driver).1.expect("the disk works");
        assert!(world.file(HOST, PATH).expect("it exists") == [[1; 600], [2; 600]].concat());
        assert!(world.durable_file(HOST, PATH).expect("it exists") == [1; 600]);
        driver.sync(file, FileOpId(4));
        outcome(&mut driver).1.expect("the disk works");
        assert_eq!(world.durable_file(HOST, PATH).expect("it exists").len(), 1_200);
    }
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..60 {
        let (mut world, mut driver, file) = disk(seed);
        driver.write(file, 0, FileBuffer::copy_of(&[1; 100]), FileOpId(1));
        outcome(&mut driver).1.expect("the disk works");
        world.inject(Fault::FailDisk { host: HOST, op: DiskOp::Sync, times: 1 });
        driver.sync(file, FileOpId(2));
        let error = outcome(&mut driver).1.expect_err("it was to fail");
        assert_eq!(error.raw_os_error(), Some(5), "EIO");
        driver.sync(file, FileOpId(3));
        outcome(&mut driver).1.expect("this one works, and says nothing of the other");
        assert!(world.file(HOST, PATH).expect("it exists") == [1; 100], "reads see it");
        match world.durable_file(HOST, PATH).expect("it exists").len() {
            0 => lost += 1,
            length => kept += usize::from(length == 100),
        }
    }
    assert!(lost > 0 && kept > 0 && lost + kept == 60, "{lost} lost, {kept} kept");
}

#[test]
fn a_write_in_flight_at_a_crash_is_kept_lost_or_torn() {
    for how in [Crash::Kill, Crash::PowerLoss] {
        let mut left = [0; 3];
        for seed in 0..90 {
            let (mut world, mut driver, file) = disk(seed);
            driver.sync(file, FileOpId(1));
            outcome(&mut driver).1.expect("the disk works");
            driver.write(file, 0, FileBuffer::copy_of(&[1; 4_096]), FileOpId(2));
            world.inject(Fault::Crash { host: HOST, how, down_for: None });
            let file = world.file(HOST, PATH).expect("its name was synced");
            match file.iter().filter(|byte| **byte == 1).count() {
                0 => left[0] += 1,
                4_096 => left[1] += 1,
                some => left[2] += usize::from(some % 512 == 0),
            }
        }
        assert!(left.iter().all(|count| *count > 10), "{left:?}");
        assert_eq!(left.iter().sum::<usize>(), 90, "torn at sectors and nowhere else");
    }
}

#[test]
fn operations_overtake_each_other() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (_world, mut driver, file) = disk(seed);
        for op in 0..3 {
            driver.write(file, op * 10, FileBuffer::copy_of(&[1; 10]), FileOpId(op));
        }
        orders.insert([(); 3].map(|()| outcome(&mut driver).0.0));
    }
    assert_eq!(orders.len(), 6, "all orders of three come up");
}

#[test]
fn a_slow_disk_is_slow_for_its_while() {
    let (mut world, mut driver, file) = disk(2);
    let time_of = |world: &World, driver: &mut SimDriver| {
        let began_at = world.now();
        driver.write(file, 0, FileBuffer::copy_of(&[1; 10]), FileOpId(1));
        outcome(driver).1.expect("the disk works");
        world.now().since(began_at)
    };
    let (ordinary, slow) = (Duration::from_millis(1), Duration::from_millis(5));
    assert!(time_of(&world, &mut driver) < ordinary);
    let lasts = Duration::from_millis(1);
    world.inject(Fault::SlowDisk { host: HOST, factor: 1_000, lasts });
    assert!(time_of(&world, &mut driver) >= slow, "what began on a slow disk takes its time");
    assert!(time_of(&world, &mut driver) < ordinary, "and what comes later does not");
}

#[test]
fn what_is_open_for_direct_access_is_aligned() {
    let (_world, mut driver, _) = disk(1);
    let options = OpenFile { create: false, direct: true };
    let file = open(&mut driver, PATH, options);
    for (offset, length, fits) in [(0, 4_096, true), (512, 4_096, false), (4_096, 100, false)] {
        driver.write(file, offset, FileBuffer::zeroed(length), FileOpId(1));
        assert_eq!(outcome(&mut driver).1.is_ok(), fits, "{length} bytes at {offset}");
    }
}

#[test]
fn a_disk_has_an_end() {
    let mut config = WorldConfig::default();
    config.disk.capacity_bytes = 40_960;
    let mut world = World::new(1, config);
    let mut driver = world.bare_host(1).remove(0);
    let file = create(&mut driver, PATH);
    driver.write(file, 0, FileBuffer::zeroed(40_960), FileOpId(1));
    outcome(&mut driver).1.expect("it just fits");
    driver.write(file, 40_960, FileBuffer::zeroed(1), FileOpId(2));
    let error = outcome(&mut driver).1.expect_err("there is no room");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    driver.write(file, 0, FileBuffer::zeroed(40_960), FileOpId(3));
    outcome(&mut driver).1.expect("overwriting takes no room");
}

#[test]
fn a_disk_goes_from_a_machine_that_is_down_to_a_new_one() {
    let (mut world, mut driver, file) = disk(1);
    driver.write(file, 0, FileBuffer::copy_of(b"kept"), FileOpId(1));
    outcome(&mut driver).1.expect("the disk works");
    driver.sync(file, FileOpId(2));
    outcome(&mut driver).1.expect("the disk works");
    // One that is under way, and of which the new machine must hear nothing.
    driver.write(file, 0, FileBuffer::copy_of(b"lost"), FileOpId(1));
    world.inject(Fault::Crash { host: HOST, how: Crash::Kill, down_for: None });
    let mut driver = world.bare_host(1).remove(0);
    let host = driver.at().host;
    world.move_disk(HOST, host);
    assert_eq!(
        (world.file(HOST, PATH), world.file(host, PATH).map(|it| it.len())),
        (None, Some(4))
    );
    let file = open(&mut driver, PATH, OpenFile::default());
    driver.read(file, 0, FileBuffer::zeroed(4), FileOpId(3));
    let (op, read) = outcome(&mut driver);
    assert_eq!((op, read.expect("the disk works")), (FileOpId(3), 4));
    world.run_for(Duration::from_secs(1));
    assert!(driver.next_completion().is_none(), "it hears of what it asked for alone");
}
