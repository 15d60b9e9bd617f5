//! A seed is a run, bit for bit.

use crate::echo;
use catena_engine::sim::{EventKind, FaultMix, World, WorldConfig};
use catena_engine::time::Duration;
use std::collections::BTreeSet;

fn hash_of(seed: u64, note: &str) -> u64 {
    let mut world = World::new(seed, WorldConfig::default());
    let _shared = echo::populate(&mut world);
    let plan = world.draw_plan(Duration::from_secs(1), &FaultMix::default());
    world.schedule(&plan);
    world.run_for(Duration::from_secs(1));
    world.note(note);
    assert!(world.count(EventKind::Turn) > 100);
    world.log_hash()
}

#[test]
fn a_seed_replays_and_seeds_differ() {
    let hashes: BTreeSet<u64> = (0..40).map(|seed| hash_of(seed, "")).collect();
    assert_eq!(hashes.len(), 40, "no two seeds are the same run");
    for seed in 0..40 {
        assert!(hashes.contains(&hash_of(seed, "")), "seed {seed} is the same run every time");
    }
    assert_ne!(hash_of(0, ""), hash_of(0, "and something else"));
}

#[test]
fn the_parts_of_a_world_draw_on_their_own() {
    // Another disk draws differently, and shifts nothing of the network.
    let mut slow_disk = WorldConfig::default();
    slow_disk.disk.write_latency = slow_disk.disk.sync_latency;
    let run = |config: WorldConfig| {
        let mut world = World::new(5, config);
        let _shared = echo::populate(&mut world);
        world.run_for(Duration::from_secs(1));
        world.log_hash()
    };
    assert_eq!(run(WorldConfig::default()), run(slow_disk), "no file was used");
    let mut slow_network = WorldConfig::default();
    slow_network.network.latency.high *= 2;
    assert_ne!(run(WorldConfig::default()), run(slow_network));
}
