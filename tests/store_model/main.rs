//! The whole store of a shard against a plain map: random commands on keys, while time goes on, the log is
//! late or never gets on, keys expire, scans and checkpoints go through it, and memory is used up.
//!
//! [`oracle`] says what each command has to do, [`steps`] what is done, [`subject`] does it to both.

mod oracle;
mod steps;
mod subject;

use proptest::collection::vec;
use proptest::prelude::*;
use steps::Step;
use subject::{Config, Subject};

fn run(config: Config, steps: Vec<Step>) {
    let mut subject = Subject::new(config);
    for (number, step) in steps.into_iter().enumerate() {
        subject.take(number, step);
    }
    subject.finish();
}

/// So many, or `CATENA_SEED_COUNT`. A failure is shrunk and printed; no file of them lies beside the test.
fn cases(count: u32) -> ProptestConfig {
    let asked = std::env::var("CATENA_SEED_COUNT").ok().and_then(|text| text.parse().ok());
    let cases = ProptestConfig::with_cases(asked.unwrap_or(count));
    ProptestConfig { failure_persistence: None, max_shrink_iters: 4_000, ..cases }
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn a_store_that_commits_at_once_does_what_a_map_does(
        steps in vec(any::<u64>().prop_map(Step::from_bits), 1..1_200),
        is_short_of_memory in any::<bool>(),
    ) {
        run(Config { is_logged: false, is_short_of_memory }, steps);
    }

    #[test]
    fn a_store_that_waits_for_its_log_does_what_a_map_does(
        steps in vec(any::<u64>().prop_map(Step::from_bits), 1..1_200),
        is_short_of_memory in any::<bool>(),
    ) {
        run(Config { is_logged: true, is_short_of_memory }, steps);
    }
}

#[test]
fn a_key_that_was_seen_to_be_gone_stays_gone_when_the_clock_goes_back() {
    let mut subject = Subject::new(Config { is_logged: false, is_short_of_memory: false });
    let command = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
    subject.take(0, Step::Command(command(&["SET", "key", "value", "PX", "10"])));
    subject.take(1, Step::Wait(10));
    subject.take(2, Step::Command(command(&["EXISTS", "key"])));
    subject.take(3, Step::Wait(-10));
    subject.take(4, Step::Command(command(&["EXISTS", "key"])));
    subject.finish();
}
