//! Disks that fail, fill up, or are slow.

use crate::client::Client;
use crate::scene::{Scene, Unread};
use catena_engine::sim::{
    Crash, DiskOp, EventKind, Fault, SEED_VARIABLE, World, WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use catena_kv::resp::Value;
use catena_kv::store::Durability;

const COMMAND: &str = "cargo test --test store";

fn begin(world: &mut World) -> Scene {
    let mut scene = Scene::begin(world, 1 + (world.seed() % 3) as u16, Durability::Sync);
    scene.write_for(world, Duration::from_millis(100));
    scene
}

/// It has ended, however, and starts again on a disk that is in order: all is there.
fn ends_and_starts(world: &mut World, scene: &mut Scene) {
    world.heal_all();
    let how = if scene.rng.chance(0.5) { Crash::Kill } else { Crash::PowerLoss };
    let now = world.now();
    scene.crash(world, how, now);
    scene.machine.run_for(world, Duration::from_millis(5));
    let shards = scene.machine.shards;
    scene.machine.restart(world, shards);
    scene.read(world).unwrap_or_else(|error| panic!("seed {}: {error:?}", world.seed()));
}

/// Some operations fail. Whether the store has said that it cannot go on.
fn fail(world: &mut World) -> bool {
    let mut scene = begin(world);
    let ops = [DiskOp::Write, DiskOp::Sync, DiskOp::Task, DiskOp::SyncDirectory];
    let op = ops[scene.rng.below(ops.len() as u64) as usize];
    let (host, times) = (scene.machine.host(), 1 + scene.rng.below(3) as u32);
    world.inject(Fault::FailDisk { host, op, times });
    // Long enough for a segment that cannot be made ready to be tried again, each second; or so short that no
    // checkpoint makes good what a log has lost.
    let is_long = scene.rng.chance(0.5);
    let until = world.now() + Duration::from_millis(if is_long { 6_000 } else { 8 });
    let before = scene.acknowledged;
    while world.now() < until && scene.machine.failures().is_empty() {
        scene.write(world);
    }
    let failures = scene.machine.failures();
    let has_failed = !failures.is_empty();
    if has_failed {
        // What it had acknowledged before may be on its way.
        scene.write_for(world, Duration::from_millis(2));
        let acknowledged = scene.acknowledged;
        scene.write_for(world, Duration::from_millis(100));
        let goes_on = scene.acknowledged > acknowledged;
        assert!(!goes_on || scene.machine.shards > 1, "acknowledged after {failures:?}");
        assert!(
            failures[0].contains("log-") && failures[0].contains("start again"),
            "{failures:?}"
        );
    } else if is_long {
        let goes_on = scene.acknowledged > before + 100;
        assert!(goes_on, "it says nothing, and acknowledges nothing, after {op:?}");
    }
    ends_and_starts(world, &mut scene);
    refuse_to_start(world, &mut scene);
    has_failed
}

/// What fails while it starts, is told; and nothing is lost by it.
fn refuse_to_start(world: &mut World, scene: &mut Scene) {
    scene.write_for(world, Duration::from_millis(50));
    let now = world.now();
    scene.crash(world, Crash::PowerLoss, now);
    scene.machine.run_for(world, Duration::from_millis(5));
    let ops = [DiskOp::Read, DiskOp::Write, DiskOp::Sync, DiskOp::Task, DiskOp::SyncDirectory];
    let op = ops[scene.rng.below(ops.len() as u64) as usize];
    let shards = scene.machine.shards;
    scene.machine.restart(world, shards);
    let time = Duration::from_micros(scene.rng.below(15_000));
    scene.machine.run_for(world, time);
    world.inject(Fault::FailDisk { host: scene.machine.host(), op, times: 1 });
    scene.machine.run_for(world, Duration::from_millis(50));
    let failures = scene.machine.failures();
    // The directory above it has its name, which has to be durable.
    let paths = ["/data", "log-", "the directory /:"];
    let names_path = |failure: &String| paths.iter().any(|path| failure.contains(path));
    assert!(failures.iter().all(names_path), "{failures:?}");
    ends_and_starts(world, scene);
}

#[test]
fn a_disk_that_fails_is_told_and_costs_nothing() {
    let mut told = 0;
    let coverage = each_seed(COMMAND, 1..31, &WorldConfig::default(), |world| {
        let has_failed = fail(world);
        told += u64::from(has_failed);
        has_failed
    });
    coverage.require(&[EventKind::FileFailed]);
    assert!(told > 3 || std::env::var_os(SEED_VARIABLE).is_some(), "{told} of the logs failed");
}

/// The disk is full for a while.
fn fill(world: &mut World) {
    let mut scene = begin(world);
    scene.writes_to -= 1;
    let quiet = scene.writes_to;
    scene.write_for(world, Duration::from_millis(20));
    let lasts = Duration::from_millis(1_500 + scene.rng.below(2_000));
    let ends_at = world.now() + lasts;
    world.inject(Fault::FillDisk { host: scene.machine.host(), lasts });
    let mut reader = Client::<()>::new(world);
    let mut reads: u64 = 0;
    let refused = scene.refused;
    let mut last_progress = (scene.acknowledged, world.now());
    while world.now() < ends_at {
        scene.write(world);
        if scene.acknowledged > last_progress.0 {
            last_progress = (scene.acknowledged, world.now());
        }
        if reader.is_open() && reader.in_flight() == 0 {
            reader.ask((), &["GET".to_owned(), scene.histories[quiet].key(0)]);
        }
        for ((), answer) in reader.step(world, &scene.machine) {
            assert!(matches!(answer, Value::Bulk(_)), "a read: {answer:?}");
            reads += 1;
        }
    }
    // Not all need room: a key that is not there is deleted without.
    let is_stuck = last_progress.1 + Duration::from_millis(100) < ends_at;
    assert!(is_stuck || scene.refused > refused + 10, "there was room all the time");
    assert!(u128::from(reads) > lasts.as_millis() / 10, "{reads} reads in {lasts:?}");
    assert!(scene.machine.failures().is_empty(), "{:?}", scene.machine.failures());
    if scene.rng.chance(0.3) {
        // It ends before it has found out that there is room.
        return ends_and_starts(world, &mut scene);
    }
    let before = scene.acknowledged;
    scene.write_for(world, Duration::from_millis(1_500));
    assert!(scene.acknowledged > before + 100, "it goes on when there is room");
    ends_and_starts(world, &mut scene);
}

/// Long before one is due otherwise: what it makes superfluous may be the room.
#[test]
fn a_disk_that_is_full_has_checkpoints_tried() {
    each_seed(COMMAND, 1..11, &WorldConfig::default(), |world| {
        let mut scene = Scene::begin_with(world, 1, Durability::Sync, 1 << 30);
        scene.write_for(world, Duration::from_millis(100));
        assert_eq!(scene.machine.failed_checkpoints(), 0);
        let lasts = Duration::from_secs(3);
        world.inject(Fault::FillDisk { host: scene.machine.host(), lasts });
        let until = world.now() + lasts;
        while world.now() < until {
            scene.write(world);
        }
        assert!(scene.machine.failed_checkpoints() > 0, "none was tried");
    });
}

#[test]
fn a_disk_that_is_full_stops_writes_and_no_reads() {
    let coverage = each_seed(COMMAND, 1..11, &WorldConfig::default(), fill);
    coverage.require(&[EventKind::DiskWasFull]);
}

/// Writes that wait are held in memory up to a bound; what is beyond is refused, with a reason.
fn refuse_when_full(world: &mut World) {
    let mut scene = begin(world);
    let lasts = Duration::from_secs(3);
    world.inject(Fault::FillDisk { host: scene.machine.host(), lasts });
    let ends_at = world.now() + lasts;
    let mut writer = Client::<()>::new(world);
    // All that the other one may have under way may have been taken in before the lack was noticed.
    let mut late = Client::<()>::new(world);
    let is_late_from = world.now() + Duration::from_millis(1_500);
    let value = vec![b'x'; 8_000];
    let mut refused: u64 = 0;
    while world.now() < ends_at {
        while writer.is_open() && writer.in_flight() < 400 {
            writer.ask((), &[&b"SET"[..], b"large", &value]);
        }
        if late.is_open() && late.in_flight() == 0 && world.now() > is_late_from {
            late.ask((), &[&b"SET"[..], b"large", &value]);
        }
        let answers = writer.step(world, &scene.machine);
        for ((), answer) in answers.into_iter().chain(late.step(world, &scene.machine)) {
            match answer {
                Value::Error(text) if text.starts_with("MISCONF") && text.contains("/data/") => {
                    refused += 1;
                }
                answer => assert_eq!(answer, Value::Simple("OK".to_owned())),
            }
        }
    }
    // They wait behind those that wait for room.
    let until = ends_at + Duration::from_secs(3);
    while writer.in_flight() > 0 && world.now() < until {
        for ((), answer) in writer.step(world, &scene.machine) {
            refused += u64::from(matches!(answer, Value::Error(_)));
        }
    }
    assert_eq!(writer.in_flight(), 0, "all are answered when there is room");
    assert!(refused > 0, "more was taken in than may wait");
    ends_and_starts(world, &mut scene);
}

#[test]
fn a_disk_that_is_full_has_writes_refused_beyond_a_bound() {
    each_seed(COMMAND, 1..6, &WorldConfig::default(), refuse_when_full);
}

/// A start for which there is no room.
fn start_when_full(world: &mut World) {
    let mut scene = begin(world);
    let now = world.now();
    scene.crash(world, Crash::PowerLoss, now);
    world.inject(Fault::FillDisk { host: scene.machine.host(), lasts: Duration::from_millis(200) });
    let shards = scene.machine.shards;
    scene.machine.restart(world, shards);
    match scene.read(world) {
        Err(Unread::Failed(reasons)) => assert!(reasons[0].contains("/data/"), "{reasons:?}"),
        other => panic!("it started on a full disk: {other:?}"),
    }
    scene.machine.run_for(world, Duration::from_millis(200));
    ends_and_starts(world, &mut scene);
}

#[test]
fn a_start_on_a_full_disk_is_refused_and_costs_nothing() {
    each_seed(COMMAND, 1..11, &WorldConfig::default(), start_when_full);
}

/// The disk is slow for a while.
fn slow(world: &mut World) {
    let mut scene = begin(world);
    let factor = 10 + scene.rng.below(200) as u32;
    let (host, lasts) = (scene.machine.host(), Duration::from_secs(2));
    world.inject(Fault::SlowDisk { host, factor, lasts });
    let time = Duration::from_millis(500 + scene.rng.below(2_000));
    scene.write_for(world, time);
    assert!(scene.machine.failures().is_empty(), "{:?}", scene.machine.failures());
    ends_and_starts(world, &mut scene);
    let before = scene.acknowledged;
    scene.write_for(world, Duration::from_millis(2_500));
    assert!(scene.acknowledged > before + 100, "it goes on as fast as before");
}

#[test]
fn a_slow_disk_is_waited_for() {
    each_seed(COMMAND, 1..11, &WorldConfig::default(), slow);
}
