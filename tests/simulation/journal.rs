//! A journal that acknowledges what it has synced, on disks and under crashes of every kind: what
//! was acknowledged is there after each start. And one that acknowledges too early, which must be
//! found out, or this whole file proves nothing.

use crate::COMMAND;
use catena_engine::driver::{Completion, Driver, FileBuffer, FileId, FileOpId, OpenFile};
use catena_engine::rng::Rng;
use catena_engine::sim::{
    Boot, Crash, DiskOp, EventKind, Fault, FaultMix, FaultWeights, HostId, Next, Process,
    SimDriver, World, WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;

const PATH: &str = "/data/journal";
const HEADER_BYTES: usize = 16;

/// What the test knows of a journal, beyond its crashes.
#[derive(Debug, Default)]
struct Ledger {
    acknowledged: Cell<u64>,
    starts: Cell<u64>,
    recoveries: Cell<u64>,
}

/// When a journal says that a record is safe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acknowledge {
    AfterSync,
    AfterWrite,
}

/// Record `number`: its length, its number, and bytes that follow from it.
fn record(number: u64) -> Vec<u8> {
    let mut rng = Rng::from_seed(number);
    let length = HEADER_BYTES + rng.below(3_000) as usize;
    let mut bytes = vec![0; length];
    bytes[..8].copy_from_slice(&(length as u64).to_le_bytes());
    bytes[8..HEADER_BYTES].copy_from_slice(&(number + 1).to_le_bytes());
    for word in bytes[HEADER_BYTES..].chunks_mut(8) {
        let drawn = rng.next_u64().to_le_bytes();
        word.copy_from_slice(&drawn[..word.len()]);
    }
    bytes
}

/// How many whole records a file begins with, and their length.
fn whole_records(file: &[u8]) -> (u64, u64) {
    let (mut count, mut length) = (0, 0);
    loop {
        let next = record(count);
        if file.get(length..length + next.len()) != Some(&next[..]) {
            return (count, length as u64);
        }
        count += 1;
        length += next.len();
    }
}

struct Journal {
    ledger: Rc<Ledger>,
    acknowledge: Acknowledge,
    file: FileId,
    rng: Rng,
    state: State,
    /// Records that are safe, and where the next begins.
    safe: u64,
    end: u64,
    ops: u64,
}

enum State {
    Opening,
    Reading,
    /// A batch is being written: operations in flight, and where it will end.
    Writing {
        in_flight: u32,
        records: u64,
        end: u64,
        failed: bool,
    },
    Syncing {
        records: u64,
        end: u64,
    },
}

impl Journal {
    fn boot(
        mut boot: Boot<'_>,
        ledger: &Rc<Ledger>,
        acknowledge: Acknowledge,
    ) -> Vec<Box<dyn Process>> {
        let options = OpenFile { create: true, direct: false };
        let file = boot.drivers[0].open(Path::new(PATH), options).expect("it is made if missing");
        let rng = boot.rng.fork();
        ledger.starts.update(|starts| starts + 1);
        let (ledger, state) = (ledger.clone(), State::Opening);
        vec![Box::new(Journal { ledger, acknowledge, file, rng, state, safe: 0, end: 0, ops: 0 })]
    }

    fn op(&mut self) -> FileOpId {
        self.ops += 1;
        FileOpId(self.ops)
    }

    fn read(&mut self, driver: &mut SimDriver) {
        let op = self.op();
        self.state = State::Reading;
        driver.read(self.file, 0, FileBuffer::zeroed(4 << 20), op);
    }

    /// Writes a batch of records, all at once and in no order.
    fn write(&mut self, driver: &mut SimDriver) {
        let (mut end, records) = (self.end, 1 + self.rng.below(8));
        for number in self.safe..self.safe + records {
            let bytes = record(number);
            let op = self.op();
            driver.write(self.file, end, FileBuffer::copy_of(&bytes), op);
            end += bytes.len() as u64;
        }
        self.state = State::Writing { in_flight: records as u32, records, end, failed: false };
    }

    fn sync(&mut self, driver: &mut SimDriver, records: u64, end: u64) {
        let op = self.op();
        driver.sync(self.file, op);
        self.state = State::Syncing { records, end };
        if self.acknowledge == Acknowledge::AfterWrite {
            self.ledger.acknowledged.set(self.safe + records);
        }
    }

    /// After a start: what was acknowledged must be there.
    fn recover(&mut self, driver: &mut SimDriver, file: &[u8]) {
        let (records, end) = whole_records(file);
        let acknowledged = self.ledger.acknowledged.get();
        assert!(records >= acknowledged, "{acknowledged} acknowledged, {records} left");
        self.ledger.recoveries.update(|recoveries| recoveries + 1);
        // What a read shows may be in the cache alone, and no sync be aware of it: a failed one
        // marked it clean. So all of it is written once more before anything is built upon it.
        let op = self.op();
        driver.write(self.file, 0, FileBuffer::copy_of(&file[..end as usize]), op);
        self.state = State::Writing { in_flight: 1, records, end, failed: false };
    }

    fn on_file(&mut self, driver: &mut SimDriver, buffer: &FileBuffer, result: io::Result<usize>) {
        match &mut self.state {
            State::Opening => unreachable!("nothing was asked for yet"),
            State::Reading => match result {
                Ok(bytes) => {
                    self.recover(driver, &buffer.bytes()[..bytes]);
                }
                Err(_) => self.read(driver),
            },
            State::Writing { in_flight, records, end, failed } => {
                *in_flight -= 1;
                *failed |= result.is_err();
                let (records, end, failed) = (*records, *end, *failed);
                if *in_flight == 0 {
                    // After a failure everything that was not promised is written again.
                    if failed { self.write(driver) } else { self.sync(driver, records, end) }
                }
            }
            State::Syncing { records, end } => {
                if result.is_ok() {
                    (self.safe, self.end) = (self.safe + *records, *end);
                    let acknowledged = &self.ledger.acknowledged;
                    acknowledged.set(acknowledged.get().max(self.safe));
                }
                self.write(driver);
            }
        }
    }
}

impl Process for Journal {
    fn turn(&mut self, driver: &mut SimDriver) -> Next {
        if matches!(self.state, State::Opening) {
            self.read(driver);
        }
        while let Some(completion) = driver.next_completion() {
            match completion {
                Completion::File { buffer, result, .. } => self.on_file(driver, &buffer, result),
                other => panic!("a journal has no use for {other:?}"),
            }
        }
        Next::default()
    }
}

fn faults() -> FaultMix {
    let weights = FaultWeights {
        kill: 3,
        power_loss: 3,
        pause: 1,
        slow_disk: 1,
        fail_read: 1,
        fail_write: 1,
        fail_sync: 2,
        fill_disk: 1,
        ..FaultWeights::NONE
    };
    let millis = catena_engine::sim::Span::millis;
    FaultMix { every: millis(1, 60), lasts: millis(1, 30), weights, ..FaultMix::default() }
}

/// Syncs take most of the time, so that crashes come before them.
fn slow_syncs() -> WorldConfig {
    let mut config = WorldConfig::default();
    config.disk.sync_latency = catena_engine::sim::Span::millis(1, 10);
    config
}

fn simulate(world: &mut World, acknowledge: Acknowledge) -> (u64, u64) {
    let ledger = Rc::new(Ledger::default());
    let its = ledger.clone();
    let host = world.start_host(1, move |boot| Journal::boot(boot, &its, acknowledge));
    let plan = world.draw_plan(Duration::from_millis(400), &faults());
    world.schedule(&plan);
    world.run_for(Duration::from_millis(400));
    world.heal_all();
    // The last word: the power fails, and the journal starts once more.
    let before = ledger.acknowledged.get();
    let more = |_: &World| ledger.acknowledged.get() > before;
    // An operation that began on a slow disk takes its ten seconds nevertheless.
    assert!(world.run_until(Duration::from_secs(30), more), "a healthy disk takes records");
    world.inject(Fault::Crash { host, how: Crash::PowerLoss, down_for: None });
    world.inject(Fault::Restart { host });
    let before = ledger.recoveries.get();
    let recovered = |_: &World| ledger.recoveries.get() > before;
    assert!(world.run_until(Duration::from_secs(30), recovered), "it starts again");
    (ledger.acknowledged.get(), ledger.starts.get())
}

#[test]
fn what_was_synced_survives_every_crash() {
    let coverage =
        each_seed(COMMAND, 0..200, &slow_syncs(), |world| simulate(world, Acknowledge::AfterSync));
    coverage.require(&[
        EventKind::HostKilled,
        EventKind::HostLostPower,
        EventKind::WriteKept,
        EventKind::WriteLost,
        EventKind::WriteTorn,
        EventKind::FileLost,
        EventKind::FileFailed,
        EventKind::DiskWasFull,
        EventKind::DiskSlowed,
    ]);
}

#[test]
fn a_promise_before_the_sync_is_found_out() {
    let caught = (0..50).any(|seed| {
        let mut world = World::new(seed, slow_syncs());
        let run = || simulate(&mut world, Acknowledge::AfterWrite);
        catch_unwind(AssertUnwindSafe(run)).is_err()
    });
    assert!(caught, "50 seeds believed a journal that promises what it has not synced");
}

/// A host with one driver and a file.
fn disk(seed: u64) -> (World, SimDriver, FileId) {
    let mut world = World::new(seed, WorldConfig::default());
    let mut driver = world.bare_host(1).remove(0);
    let options = OpenFile { create: true, direct: false };
    let file = driver.open(Path::new(PATH), options).expect("it is made if missing");
    (world, driver, file)
}

/// Waits for the next file operation to end.
fn outcome(driver: &mut SimDriver) -> (FileOpId, io::Result<usize>) {
    loop {
        if let Some(Completion::File { op, result, .. }) = driver.next_completion() {
            return (op, result);
        }
        driver.park(None).expect("an operation is in flight");
    }
}

const HOST: HostId = HostId(0);

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
fn a_file_that_was_never_synced_may_be_gone() {
    let mut left = [0; 3];
    for seed in 0..60 {
        let (mut world, mut driver, file) = disk(seed);
        driver.write(file, 0, FileBuffer::copy_of(&[1; 100]), FileOpId(1));
        outcome(&mut driver).1.expect("the disk works");
        world.inject(Fault::Crash { host: HOST, how: Crash::PowerLoss, down_for: None });
        match world.file(HOST, PATH).map(|file| file.len()) {
            None => left[0] += 1,
            Some(0) => left[1] += 1,
            Some(length) => left[2] += usize::from(length == 100),
        }
    }
    assert!(left.iter().all(|count| *count > 5) && left.iter().sum::<usize>() == 60, "{left:?}");
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
    let file = driver.open(Path::new(PATH), options).expect("it exists");
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
    let options = OpenFile { create: true, direct: false };
    let file = driver.open(Path::new(PATH), options).expect("it is made if missing");
    driver.write(file, 0, FileBuffer::zeroed(40_960), FileOpId(1));
    outcome(&mut driver).1.expect("it just fits");
    driver.write(file, 40_960, FileBuffer::zeroed(1), FileOpId(2));
    let error = outcome(&mut driver).1.expect_err("there is no room");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    driver.write(file, 0, FileBuffer::zeroed(40_960), FileOpId(3));
    outcome(&mut driver).1.expect("overwriting takes no room");
}
