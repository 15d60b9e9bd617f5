//! Running one simulation for many seeds, and a single one again.

use super::config::WorldConfig;
use super::event_log::EventKind;
use super::world::World;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Set to a number: run this seed alone, and keep much more of its log.
pub const SEED_VARIABLE: &str = "CATENA_SEED";

/// Set to a number: run so many seeds instead of those that the test names.
pub const SEED_COUNT_VARIABLE: &str = "CATENA_SEED_COUNT";

/// Every seed that is a multiple of it runs twice, and must be the same run both times.
const RUN_TWICE_EVERY: u64 = 16;

/// Records kept where one seed is replayed.
const RECORDS_OF_A_REPLAY: usize = 1 << 20;

/// How often each kind of event happened, over all seeds of a run.
#[derive(Debug)]
pub struct Coverage {
    counts: Vec<u64>,
    seeds: u64,
    /// One seed alone proves nothing about what seeds cover.
    replay: bool,
}

impl Coverage {
    /// How often a kind of thing happened.
    pub fn count(&self, kind: EventKind) -> u64 {
        self.counts[kind as usize]
    }

    /// Makes sure that the seeds together have met all of `kinds`; a simulation that never does
    /// what it is for proves nothing.
    ///
    /// # Panics
    /// If one of them never happened, unless a single seed was replayed.
    pub fn require(&self, kinds: &[EventKind]) {
        let missing: Vec<&str> =
            kinds.iter().filter(|kind| self.count(**kind) == 0).map(|kind| kind.name()).collect();
        let seeds = self.seeds;
        assert!(self.replay || missing.is_empty(), "in {seeds} seeds there never was {missing:?}");
    }
}

/// Runs a simulation for each of `seeds`, in a world of its own.
///
/// A failing seed prints the end of its event log and the command that replays it; `command` is how
/// the test's binary is run, such as `cargo test --test simulation`. What `run` returns for two runs
/// of one seed is compared along with the log: return what the run came to, or `()`.
///
/// # Panics
/// As `run` does; and if two runs of a seed differ.
pub fn each_seed<T: PartialEq + std::fmt::Debug>(
    command: &str,
    seeds: Range<u64>,
    config: &WorldConfig,
    run: impl FnMut(&mut World) -> T,
) -> Coverage {
    let (seeds, replay) = chosen_seeds(seeds);
    run_seeds(command, seeds, replay, config, run)
}

fn run_seeds<T: PartialEq + std::fmt::Debug>(
    command: &str,
    seeds: Range<u64>,
    replay: bool,
    config: &WorldConfig,
    mut run: impl FnMut(&mut World) -> T,
) -> Coverage {
    let mut config = config.clone();
    if replay {
        config.log.records_kept = RECORDS_OF_A_REPLAY;
    }
    let counts = vec![0; EventKind::ALL.len()];
    let mut coverage = Coverage { counts, seeds: seeds.end - seeds.start, replay };
    for seed in seeds {
        let mut world = World::new(seed, config.clone());
        let outcome = run_one(command, &mut world, &mut run);
        for (sum, kind) in coverage.counts.iter_mut().zip(EventKind::ALL) {
            *sum += world.count(*kind);
        }
        if replay || seed % RUN_TWICE_EVERY == 0 {
            let mut again = World::new(seed, config.clone());
            let outcome_again = run_one(command, &mut again, &mut run);
            let (was, is) = ((outcome, world.log_hash()), (outcome_again, again.log_hash()));
            assert_eq!(was, is, "seed {seed} ran differently: something reads a clock, or a hash");
        }
    }
    coverage
}

fn chosen_seeds(seeds: Range<u64>) -> (Range<u64>, bool) {
    match (number_from(SEED_VARIABLE), number_from(SEED_COUNT_VARIABLE)) {
        (Some(seed), _) => (seed..seed + 1, true),
        (None, Some(count)) => (seeds.start..seeds.start + count, false),
        (None, None) => (seeds, false),
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{variable} is not a number: {text:?} ({error})")))
}

fn run_one<T>(command: &str, world: &mut World, run: &mut impl FnMut(&mut World) -> T) -> T {
    // The world is looked at after a panic, but only at its log, which is whole between records.
    let outcome = catch_unwind(AssertUnwindSafe(|| run(world)));
    outcome.unwrap_or_else(|panic| {
        let test = std::thread::current();
        let test = test.name().filter(|name| *name != "main").unwrap_or_default();
        let seed = world.seed();
        eprintln!("{}", world.log_text());
        eprintln!("the event log above is that of seed {seed}; to replay it:");
        eprintln!("    {SEED_VARIABLE}={seed} {command} {test} -- --exact --nocapture");
        resume_unwind(panic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_differs_is_found_out() {
        let mut runs = 0;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            run_seeds("cargo test", 0..3, false, &WorldConfig::default(), |_| {
                runs += 1;
                runs
            })
        }));
        assert!(caught.is_err(), "the second run of seed 0 came to another number");
        assert_eq!(runs, 2);
    }

    #[test]
    fn what_never_happened_is_missed() {
        let config = WorldConfig::default();
        let coverage = run_seeds("cargo test", 0..3, false, &config, |world| world.note("here"));
        coverage.require(&[EventKind::Note]);
        assert_eq!(coverage.count(EventKind::Note), 3);
        let missed = catch_unwind(|| coverage.require(&[EventKind::WriteTorn]));
        assert!(missed.is_err());
    }
}
