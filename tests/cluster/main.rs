//! Clusters of simulated machines: what was acknowledged is there, whoever fails.
//!
//! [`machine`] is a node, [`scene`] a cluster of them and somebody who writes and reads.

#[path = "../store/client.rs"]
mod client;
mod machine;
mod scene;

use catena_engine::sim::{Crash, Fault, World, WorldConfig};
use catena_engine::time::Duration;
use scene::Scene;

/// How many lives a test looks at: `CATENA_SEED_COUNT`, or a few.
fn worlds() -> impl Iterator<Item = World> {
    let count = std::env::var("CATENA_SEED_COUNT").ok().and_then(|text| text.parse().ok());
    let only = std::env::var("CATENA_SEED").ok().and_then(|text| text.parse().ok());
    let seeds = only.map_or(0..count.unwrap_or(5), |seed: u64| seed..seed + 1);
    seeds.map(|seed| World::new(seed, WorldConfig::default()))
}

#[test]
fn three_nodes_have_what_one_was_told() {
    for mut world in worlds() {
        let world = &mut world;
        let mut scene = Scene::begin(world, 3, 3);
        scene.wait_for_chains(world, 3);
        for number in 0..50 {
            scene.set(world, number, "value");
        }
        assert!(scene.longest_wait() < Duration::from_millis(20), "{:?}", scene.longest_wait());
        for node in 0..3 {
            for number in 0..50 {
                assert_eq!(scene.get_at(world, node, number).as_deref(), Some("value"));
            }
        }
    }
}

#[test]
fn who_is_not_the_head_says_who_is() {
    for mut world in worlds() {
        let world = &mut world;
        let mut scene = Scene::begin(world, 3, 3);
        scene.wait_for_chains(world, 3);
        for number in 0..20 {
            let head = scene.head_of(&scene::key(number)).expect("there are chains");
            for node in 0..3 {
                let moved = scene.moved(world, node, number);
                let expected = (node != head).then(|| scene.nodes[head].address().ip());
                assert_eq!(moved.map(|address| address.ip()), expected, "node {node} of {head}");
            }
        }
    }
}

/// Killed, or without power: whether its kernel still says so or not.
#[test]
fn two_of_three_may_go() {
    for mut world in worlds() {
        let world = &mut world;
        let mut scene = Scene::begin(world, 3, 3);
        scene.wait_for_chains(world, 3);
        let how = if world.seed().is_multiple_of(2) { Crash::Kill } else { Crash::PowerLoss };
        let first = (world.seed() % 3) as usize;
        let mut value = 0;
        for dead in [None, Some(first), Some((first + 1) % 3)] {
            if let Some(dead) = dead {
                let host = scene.nodes[dead].host();
                world.inject(Fault::Crash { host, how, down_for: None });
            }
            for number in 0..100 {
                value += 1;
                scene.set(world, number, &value.to_string());
            }
            // The others are asked until the one that is left has to have the last word.
            let alive = (first + 2) % 3;
            for number in 0..100 {
                let expected = value - 99 + number;
                let found = scene.get_at(world, alive, number);
                assert_eq!(found, Some(expected.to_string()), "seed {}", world.seed());
            }
        }
        let longest = scene.longest_wait();
        assert!(longest < Duration::from_secs(3), "seed {}: {longest:?}", world.seed());
    }
}

#[test]
fn who_comes_back_is_a_member_again() {
    for mut world in worlds() {
        let world = &mut world;
        let mut scene = Scene::begin(world, 3, 3);
        scene.wait_for_chains(world, 3);
        for number in 0..200 {
            scene.set(world, number, "old");
        }
        for node in 0..3 {
            let host = scene.nodes[node].host();
            let down_for = Some(Duration::from_millis(800));
            world.inject(Fault::Crash { host, how: Crash::Kill, down_for });
            for number in 0..100 {
                scene.set(world, number, &format!("while {node} is away"));
            }
            scene.wait_for_chains(world, 3);
            for number in 0..200 {
                let expected =
                    if number < 100 { format!("while {node} is away") } else { "old".to_owned() };
                let found = scene.get_at(world, node, number);
                assert_eq!(found, Some(expected), "seed {}", world.seed());
            }
        }
    }
}

#[test]
fn who_is_cut_off_comes_back_with_what_the_others_have() {
    for mut world in worlds() {
        let world = &mut world;
        let mut scene = Scene::begin(world, 3, 3);
        scene.wait_for_chains(world, 3);
        for number in 0..50 {
            scene.set(world, number, "old");
        }
        let away = (world.seed() % 3) as usize;
        let host = scene.nodes[away].host();
        for other in (0..3).filter(|other| *other != away) {
            let (a, b) = (host, scene.nodes[other].host());
            world.inject(Fault::Partition { a, b, lasts: Duration::from_secs(2) });
        }
        for number in 0..50 {
            scene.set(world, number, "new");
        }
        world.run_for(Duration::from_secs(2));
        scene.wait_for_chains(world, 3);
        for number in 0..50 {
            let found = scene.get_at(world, away, number);
            assert_eq!(found.as_deref(), Some("new"), "seed {}", world.seed());
        }
    }
}
