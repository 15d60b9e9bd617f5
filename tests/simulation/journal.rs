//! A journal that acknowledges what it has synced, on disks and under crashes of every kind: what
//! was acknowledged is there after each start. And one that acknowledges too early, which must be
//! found out, or this whole file proves nothing.

use crate::COMMAND;
use catena_engine::driver::{
    Completion, Driver, FileBuffer, FileId, FileOpId, FileTask, FileTaskDone, OpenFile,
};
use catena_engine::rng::Rng;
use catena_engine::sim::{
    Boot, Crash, EventKind, Fault, FaultMix, FaultWeights, Next, Process, SimDriver, World,
    WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

const DIRECTORY: &str = "/data";
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
    /// After the sync of a file whose name was never synced.
    Nameless,
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
    /// `None` until it is open.
    file: Option<FileId>,
    rng: Rng,
    state: State,
    /// Records that are safe, and where the next begins.
    safe: u64,
    end: u64,
    ops: u64,
}

enum State {
    /// On the way to a file whose name is durable: so many of [`opening`]'s tasks are done.
    Opening(usize),
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

/// What makes a journal that survives. The sync of the file says nothing of its name.
fn opening() -> [FileTask; 4] {
    let options = OpenFile { create: true, direct: false };
    [
        FileTask::CreateDirectory { path: DIRECTORY.into() },
        FileTask::SyncDirectory { path: "/".into() },
        FileTask::Open { path: PATH.into(), options },
        FileTask::SyncDirectory { path: DIRECTORY.into() },
    ]
}

impl Journal {
    fn boot(
        mut boot: Boot<'_>,
        ledger: &Rc<Ledger>,
        acknowledge: Acknowledge,
    ) -> Vec<Box<dyn Process>> {
        let rng = boot.rng.fork();
        ledger.starts.update(|starts| starts + 1);
        let ledger = ledger.clone();
        let state = State::Opening(0);
        let mut journal =
            Journal { ledger, acknowledge, file: None, rng, state, safe: 0, end: 0, ops: 0 };
        journal.open(&mut boot.drivers[0], 0);
        vec![Box::new(journal)]
    }

    fn open(&mut self, driver: &mut SimDriver, done: usize) {
        self.state = State::Opening(done);
        match opening().get(done) {
            Some(FileTask::SyncDirectory { .. }) if self.acknowledge == Acknowledge::Nameless => {
                self.open(driver, done + 1);
            }
            Some(task) => driver.file_task(task.clone(), self.op()),
            None => self.read(driver),
        }
    }

    fn on_task(&mut self, driver: &mut SimDriver, result: io::Result<FileTaskDone>) {
        let State::Opening(done) = self.state else { unreachable!("it asks for nothing later") };
        match result {
            Ok(FileTaskDone::Opened(file)) => self.file = Some(file),
            Ok(_) => {}
            // A fault passes. (One that fails the sync of a directory would take another name.)
            Err(_) => return self.open(driver, done),
        }
        self.open(driver, done + 1);
    }

    fn file(&self) -> FileId {
        self.file.expect("it is opened before anything else")
    }

    fn op(&mut self) -> FileOpId {
        self.ops += 1;
        FileOpId(self.ops)
    }

    fn read(&mut self, driver: &mut SimDriver) {
        let op = self.op();
        self.state = State::Reading;
        driver.read(self.file(), 0, FileBuffer::zeroed(4 << 20), op);
    }

    /// Writes a batch of records, all at once and in no order.
    fn write(&mut self, driver: &mut SimDriver) {
        let (mut end, records) = (self.end, 1 + self.rng.below(8));
        for number in self.safe..self.safe + records {
            let bytes = record(number);
            let op = self.op();
            driver.write(self.file(), end, FileBuffer::copy_of(&bytes), op);
            end += bytes.len() as u64;
        }
        self.state = State::Writing { in_flight: records as u32, records, end, failed: false };
    }

    fn sync(&mut self, driver: &mut SimDriver, records: u64, end: u64) {
        let op = self.op();
        driver.sync(self.file(), op);
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
        driver.write(self.file(), 0, FileBuffer::copy_of(&file[..end as usize]), op);
        self.state = State::Writing { in_flight: 1, records, end, failed: false };
    }

    fn on_file(&mut self, driver: &mut SimDriver, buffer: &FileBuffer, result: io::Result<usize>) {
        match &mut self.state {
            State::Opening(_) => unreachable!("nothing was asked for yet"),
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
        while let Some(completion) = driver.next_completion() {
            match completion {
                Completion::File { buffer, result, .. } => self.on_file(driver, &buffer, result),
                Completion::FileTask { result, .. } => self.on_task(driver, result),
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
        fail_task: 1,
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
    config.disk.task_latency = config.disk.sync_latency;
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
        EventKind::NameLost,
        EventKind::NameKept,
        EventKind::FileFailed,
        EventKind::DiskWasFull,
        EventKind::DiskSlowed,
    ]);
}

#[test]
fn a_promise_before_the_sync_is_found_out() {
    for acknowledge in [Acknowledge::AfterWrite, Acknowledge::Nameless] {
        let caught = (0..50).any(|seed| {
            let mut world = World::new(seed, slow_syncs());
            let run = || simulate(&mut world, acknowledge);
            catch_unwind(AssertUnwindSafe(run)).is_err()
        });
        assert!(caught, "50 seeds believed a journal that promises what it has not synced");
    }
}
