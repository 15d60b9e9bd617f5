//! Bits that flip while the store is down.

use crate::scene::{Scene, Unread};
use catena_engine::sim::{Crash, SEED_VARIABLE, World, WorldConfig, each_seed};
use catena_engine::time::Duration;
use catena_kv::store::Durability;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How long before a crash a write has a later one behind it in its log, for certain: the last batch of a log
/// that was not brought to rest cannot be told from one that was cut off, which the format's page says.
const BEHIND: Duration = Duration::from_millis(200);

/// What came of a flipped bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Refused,
    Harmless,
}

/// Which kind of file was hit, and what came of it.
fn run(world: &mut World) -> (&'static str, Outcome) {
    let mut scene = Scene::begin(world, 1 + (world.seed() % 3) as u16, Durability::Sync);
    scene.settles_at_once = false;
    let time = Duration::from_millis(300 + scene.rng.below(500));
    scene.write_for(world, time);
    let rests = scene.rng.below(3);
    match rests {
        0 => scene.drain(world),
        // The log has come to rest, long enough before.
        1 => {
            assert!(scene.finish(world), "it does not answer");
            scene.machine.run_for(world, 2 * BEHIND);
        }
        _ => {}
    }
    let until = world.now() - BEHIND;
    scene.crash(world, Crash::PowerLoss, until);
    scene.machine.run_for(world, Duration::from_millis(5));
    let (kind, path) = pick(world, &mut scene, rests < 2);
    let bytes = world.durable_file(scene.machine.host(), &path).expect("it was picked");
    let bit = match kind {
        // Where the last batches are.
        "log" if rests < 2 || scene.rng.chance(0.5) => {
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1);
            8 * end - 1 - scene.rng.below(8 * end.min(9_000))
        }
        _ => scene.rng.below(8 * bytes.len() as u64),
    };
    world.flip_bit(scene.machine.host(), &path, bit);
    let shards = scene.machine.shards;
    scene.machine.restart(world, shards);
    match scene.read(world) {
        Ok(()) => return (kind, Outcome::Harmless),
        Err(Unread::Failed(reasons)) => {
            reasons.iter().for_each(|reason| check_reason(reason, kind, &path));
        }
        Err(Unread::Mute) => panic!("bit {bit} of {}: it says nothing", path.display()),
    }
    // Nothing was changed: with the bit put right everything is there.
    let until = world.now() - BEHIND;
    scene.crash(world, Crash::PowerLoss, until);
    world.flip_bit(scene.machine.host(), &path, bit);
    scene.machine.restart(world, shards);
    scene.read(world).unwrap_or_else(|error| panic!("after {kind} was put right: {error:?}"));
    (kind, Outcome::Refused)
}

/// It has to say which file, where in it, and what to do.
fn check_reason(reason: &str, kind: &str, path: &Path) {
    let path = path.strip_prefix("/data").expect("all is there");
    let names_file = reason.contains(path.to_str().expect("a plain path"));
    let names_place = kind == "MANIFEST" || kind == "IDENTITY" || reason.contains("offset");
    let advises = ["restore", "put it back", "Keep", "start the version"];
    let advises = advises.iter().any(|advice| reason.contains(advice));
    assert!(names_file && names_place && advises, "{}: {reason}", path.display());
}

/// A file of some kind, of those that there are: of logs that have come to rest, the end must be safe.
fn pick(world: &World, scene: &mut Scene, rests: bool) -> (&'static str, PathBuf) {
    let mut files: BTreeMap<&'static str, Vec<PathBuf>> = BTreeMap::new();
    files.insert("IDENTITY", vec!["/data/IDENTITY".into()]);
    files.insert("MANIFEST", scene.machine.files(world, "MANIFEST"));
    for number in 1..60 {
        let of = |name: &str| scene.machine.files(world, &format!("{name}-{number}"));
        files.entry("checkpoint").or_default().extend(of("checkpoint"));
        files.entry("log").or_default().extend(of("log"));
    }
    let host = scene.machine.host();
    for paths in files.values_mut() {
        let has_bits =
            |path: &PathBuf| world.durable_file(host, path).is_some_and(|it| !it.is_empty());
        paths.retain(has_bits);
    }
    // Logs are most of what there is, and have the most that can go wrong.
    let kinds = ["log", "log", "log", "checkpoint", "MANIFEST", "IDENTITY"];
    let kinds: Vec<_> = kinds.into_iter().filter(|kind| !files[kind].is_empty()).collect();
    let mut kind = kinds[scene.rng.below(kinds.len() as u64) as usize];
    if rests && !files["log"].is_empty() && scene.rng.chance(0.5) {
        kind = "log";
    }
    let paths = &files[kind];
    if kind == "log" && (rests || scene.rng.chance(0.5)) {
        return (kind, newest_log(world, scene, paths));
    }
    (kind, paths[scene.rng.below(paths.len() as u64) as usize].clone())
}

/// The log of one shard of the last start, where something was written to it last.
fn newest_log(world: &World, scene: &mut Scene, paths: &[PathBuf]) -> PathBuf {
    let host = scene.machine.host();
    let shard = scene.rng.below(scene.machine.shards.into());
    let is_of = |path: &&PathBuf| path.to_string_lossy().contains(&format!("shard-{shard}/"));
    let is_written = |path: &&PathBuf| {
        let bytes = world.durable_file(host, path).expect("it is there");
        bytes[8_192..].iter().any(|byte| *byte != 0)
    };
    // There is one start here, and they are in the order of their numbers.
    let written = paths.iter().filter(is_of).rfind(is_written);
    written.unwrap_or(&paths[0]).clone()
}

#[test]
fn a_bit_that_flips_is_told_or_harmless() {
    let mut outcomes: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    each_seed("cargo test --test store", 1..81, &WorldConfig::default(), |world| {
        let (kind, outcome) = run(world);
        let (refused, harmless) = outcomes.entry(kind).or_default();
        *refused += u64::from(outcome == Outcome::Refused);
        *harmless += u64::from(outcome == Outcome::Harmless);
        outcome
    });
    println!("refused, harmless: {outcomes:?}");
    if std::env::var_os(SEED_VARIABLE).is_none() {
        let is_refused = |kind| outcomes.get(kind).is_some_and(|(refused, _)| *refused > 0);
        assert!(["log", "checkpoint", "MANIFEST", "IDENTITY"].into_iter().all(is_refused));
    }
}
