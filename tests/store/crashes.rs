//! Crashes at any moment.

use crate::scene::{Scene, Unread};
use catena_engine::sim::{Crash, EventKind, SEED_VARIABLE, World, WorldConfig, each_seed};
use catena_engine::time::{Duration, Instant};
use catena_kv::store::Durability;

/// How far back a crash may take what was acknowledged before it was on the disk: it gathers for 5 ms, and
/// waits for the batch before.
const LATE: Duration = Duration::from_millis(300);

/// What the seeds have met, all together.
#[derive(Default)]
struct Met {
    at_checkpoint: u64,
    at_recovery: u64,
    other_shards: u64,
}

/// Writes, crashes, reads; so many times.
fn run(world: &mut World, durability: Durability, met: &mut Met) -> u64 {
    let mut scene = Scene::begin(world, 1 + (world.seed() % 3) as u16, durability);
    for _ in 0..6 {
        // Now and then before anything is on the disk.
        let is_short = scene.rng.chance(0.2);
        let time = if is_short { scene.rng.below(4) } else { 50 + scene.rng.below(500) };
        let time = Duration::from_millis(time);
        scene.write_for(world, time);
        if scene.rng.chance(0.5) {
            until_something(world, &mut scene, Scene::write);
        }
        met.at_checkpoint += u64::from(scene.machine.is_at_checkpoint(world));
        let until = match durability {
            Durability::Sync => world.now(),
            Durability::Batch | Durability::Memory => world.now() - LATE,
        };
        restart(world, &mut scene, until);
        for _ in 0..scene.rng.below(7) {
            // Sooner or later than it serves.
            if scene.rng.chance(0.5) {
                let time = Duration::from_micros(scene.rng.below(30_000));
                scene.machine.run_for(world, time);
            } else {
                let wait = |scene: &mut Scene, world: &mut World| {
                    scene.machine.run_for(world, Duration::from_micros(100));
                };
                (0..=scene.rng.below(4)).for_each(|_| until_something(world, &mut scene, wait));
            }
            met.at_recovery += u64::from(!scene.machine.is_ready());
            met.other_shards += restart(world, &mut scene, until);
        }
        match scene.read(world) {
            Ok(()) => {}
            Err(Unread::Failed(reasons)) => panic!("seed {}: {reasons:?}", world.seed()),
            Err(Unread::Mute) => panic!("seed {}: it does not serve", world.seed()),
        }
    }
    assert!(scene.acknowledged > 100, "{} writes", scene.acknowledged);
    scene.acknowledged
}

/// Lets time pass until the disk has done something after which a crash is a test.
fn until_something(
    world: &mut World,
    scene: &mut Scene,
    mut pass: impl FnMut(&mut Scene, &mut World),
) {
    const DONE: [EventKind; 6] = [
        EventKind::Renamed,
        EventKind::Renamed,
        EventKind::Removed,
        EventKind::DirectoryCreated,
        EventKind::DirectorySynced,
        EventKind::Synced,
    ];
    let kind = DONE[scene.rng.below(DONE.len() as u64) as usize];
    let before = world.count(kind);
    let until = world.now() + Duration::from_millis(50);
    while world.count(kind) == before && world.now() < until {
        pass(scene, world);
    }
}

/// Crashes it and starts it again. One, if that is with another number of shards.
fn restart(world: &mut World, scene: &mut Scene, promised_until: Instant) -> u64 {
    let how = if scene.rng.chance(0.4) { Crash::Kill } else { Crash::PowerLoss };
    scene.crash(world, how, promised_until);
    scene.machine.run_for(world, Duration::from_millis(5));
    let before = scene.machine.shards;
    let shards = match scene.rng.below(3) {
        0 => 1 + scene.rng.below(3) as u16,
        _ => before,
    };
    scene.machine.restart(world, shards);
    u64::from(shards != before)
}

/// Each seed, and what they have met together.
fn each(durability: Durability, seeds: u64) {
    let command = "cargo test --test store";
    let mut met = Met::default();
    let coverage = each_seed(command, 1..1 + seeds, &WorldConfig::default(), |world| {
        run(world, durability, &mut met)
    });
    coverage.require(&[EventKind::NameLost, EventKind::WriteTorn, EventKind::WriteLost]);
    let Met { at_checkpoint, at_recovery, other_shards } = met;
    println!(
        "{at_checkpoint} at checkpoints, {at_recovery} at recoveries, {other_shards} with other shards"
    );
    if std::env::var_os(SEED_VARIABLE).is_none() {
        assert!(at_checkpoint > 2 && at_recovery > 10 && other_shards > 5, "too few of a kind");
    }
}

/// Nothing is acknowledged before it is durable that this start has served: else the loss of its directory
/// would go unnoticed, and what it has acknowledged with it.
#[test]
fn a_start_that_serves_is_known_to_have_done_so() {
    each_seed("cargo test --test store", 1..21, &WorldConfig::default(), |world| {
        let mut scene = Scene::begin(world, 1 + (world.seed() % 3) as u16, Durability::Sync);
        for start in 1..5 {
            let begins = world.run_until(Duration::from_secs(10), |_| scene.machine.has_begun());
            assert!(begins, "{:?}", scene.machine.failures());
            let identity = world.durable_file(scene.machine.host(), "/data/IDENTITY");
            let identity = String::from_utf8(identity.unwrap_or_default()).expect("it is text");
            let served = identity.split_once("[served]").map_or("", |(_, served)| served);
            assert!(served.contains(&format!("incarnation = {start}\n")), "{identity}");
            restart(world, &mut scene, Instant::ZERO);
        }
    });
}

#[test]
fn what_was_acknowledged_outlives_crashes() {
    each(Durability::Sync, 24);
}

#[test]
fn what_a_batch_loses_is_the_end_of_it() {
    each(Durability::Batch, 10);
}

#[test]
fn what_is_found_of_a_store_in_memory_has_no_holes() {
    each(Durability::Memory, 5);
}
