use super::*;
use crate::evidence::Digest;
use catena_engine::rng::Rng;
use proptest::prelude::*;

const FAST: Duration = Duration::from_millis(1);

/// A world of endpoints whose health is watched, second by second.
struct Ward {
    health: Health,
    rng: Rng,
    now: Instant,
    count: Slot,
}

impl Ward {
    fn new(count: Slot, config: HealthConfig) -> Self {
        let now = Instant::from_nanos(1 << 40);
        let mut health = Health::new(config, now);
        (0..count).for_each(|slot| health.joined(slot, true, now));
        let mut ward = Ward { health, rng: Rng::from_seed(1), now, count };
        ward.review(&[]);
        ward
    }

    /// Medians as given, 1 ms for the others; p99 always three times that.
    fn review(&mut self, medians: &[(Slot, Duration)]) -> Vec<Change> {
        let digest = |slot| {
            let given = medians.iter().find(|(of, _)| *of == slot);
            let p50 = given.map_or(FAST, |(_, p50)| *p50);
            (slot, Digest { p50, p95: p50 * 2, p99: p50 * 3, p999: p50 * 4, count: 1_000 })
        };
        self.health.review((0..self.count).map(digest), self.now, &mut self.rng)
    }

    /// A call from its beginning to its end.
    fn end(&mut self, slot: Slot, failed: bool, latency: Duration, trial: bool) -> Option<Change> {
        self.now += latency;
        let observed = Observed { failed, latency, abandoned: false, trial };
        self.health.ended(slot, &observed, self.now, &mut self.rng)
    }

    fn fail(&mut self, slot: Slot, times: u32) -> Option<Change> {
        (0..times).find_map(|_| self.end(slot, true, FAST, false))
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn the_end_of_a_call_looks_at_one_cache_line_of_its_endpoints_health() {
    // The tag of the option, when one was heard last, how often one is due.
    let of_heartbeats = 3 * size_of::<u64>();
    assert!(std::mem::offset_of!(Member, heartbeats) + of_heartbeats <= 64);
    assert_eq!(size_of::<Option<Member>>(), 128);
}

#[test]
fn hedges_that_always_win_eject_and_an_answer_in_between_does_not() {
    let mut ward = Ward::new(3, HealthConfig::default());
    let give_up = |ward: &mut Ward, latency| {
        ward.now += latency;
        let observed = Observed { failed: false, latency, abandoned: true, trial: false };
        ward.health.ended(0, &observed, ward.now, &mut ward.rng)
    };
    // The peers' p95 is 2 ms, three times their p99 is 9.
    let (late, early) = (FAST * 4, FAST);
    for round in 0..10 {
        assert_eq!((0..4).find_map(|_| give_up(&mut ward, late)), None, "round {round}");
        assert_eq!(ward.end(0, false, FAST, false), None);
        assert_eq!((0..20).find_map(|_| give_up(&mut ward, early)), None, "round {round}");
    }
    let ejected = (0..5).find_map(|_| give_up(&mut ward, late));
    assert_eq!(ejected, Some(Change::Ejected(0, Cause::Slow)));
}

#[test]
fn a_trial_that_was_given_up_at_once_says_nothing_and_another_follows_soon() {
    let mut ward = Ward::new(3, HealthConfig::default());
    assert_eq!(ward.fail(0, 5), Some(Change::Ejected(0, Cause::FailuresInRow)));
    for _ in 0..10 {
        // No pause doubles: there is a trial each second.
        ward.wait(Duration::from_secs(1));
        assert_eq!(ward.health.begin_trial(ward.now), Some(0));
        let latency = Duration::ZERO;
        let observed = Observed { failed: false, latency, abandoned: true, trial: true };
        assert_eq!(ward.health.ended(0, &observed, ward.now, &mut ward.rng), None);
        assert_eq!(ward.health.eligible(), [1, 2], "it is still out");
    }
    ward.wait(Duration::from_secs(1));
    assert_eq!(ward.health.begin_trial(ward.now), Some(0));
    assert_eq!(ward.end(0, false, FAST, true), Some(Change::Returned(0)));
}

#[test]
fn switched_off_it_ejects_nobody_and_doubts_nothing() {
    let mut ward = Ward::new(3, HealthConfig { ejects: false, ..HealthConfig::default() });
    assert_eq!(ward.fail(0, 100), None);
    assert_eq!(ward.review(&[(1, FAST * 100)]), []);
    assert_eq!(ward.health.eligible(), [0, 1, 2]);
    assert!(!ward.health.is_panicking());
}

#[test]
fn failures_in_a_row_eject_and_a_good_answer_in_between_does_not() {
    let mut ward = Ward::new(3, HealthConfig::default());
    assert_eq!(ward.fail(0, 4), None);
    assert_eq!(ward.end(0, false, FAST, false), None);
    assert_eq!(ward.fail(0, 4), None);
    assert_eq!(ward.fail(0, 1), Some(Change::Ejected(0, Cause::FailuresInRow)));
    assert_eq!(ward.health.eligible(), [1, 2]);
}

#[test]
fn calls_far_beyond_the_peers_p99_eject() {
    let mut ward = Ward::new(3, HealthConfig::default());
    let slow = Duration::from_millis(10);
    assert!((0..4).all(|_| ward.end(1, false, slow, false).is_none()));
    // 3 × p99 is 9 ms.
    assert_eq!(ward.end(1, false, Duration::from_micros(8_900), false), None);
    assert!((0..4).all(|_| ward.end(1, false, slow, false).is_none()));
    assert_eq!(ward.end(1, false, slow, false), Some(Change::Ejected(1, Cause::Slow)));
}

/// One pause makes all calls slow that were under way: that is one sign, and not one for each of them.
#[test]
fn calls_that_are_slow_together_count_as_one() {
    let mut ward = Ward::new(3, HealthConfig::default());
    let slow = Duration::from_millis(10);
    let pause = |ward: &mut Ward| {
        ward.wait(slow);
        let observed = Observed { failed: false, latency: slow, abandoned: false, trial: false };
        (0..100).find_map(|_| ward.health.ended(1, &observed, ward.now, &mut ward.rng))
    };
    assert!((0..4).all(|_| pause(&mut ward).is_none()));
    assert_eq!(pause(&mut ward), Some(Change::Ejected(1, Cause::Slow)), "the fifth pause in a row");
}

#[test]
fn a_missing_connection_is_no_judgement_and_is_not_doubted() {
    let mut ward = Ward::new(4, HealthConfig::default());
    let reach = |ward: &mut Ward, slot, reach| ward.health.reached(slot, reach, ward.now);
    for slot in [1, 2, 3] {
        assert!(reach(&mut ward, slot, Reach::Unreachable));
        assert!(!reach(&mut ward, slot, Reach::Unreachable), "no news");
    }
    assert_eq!(ward.health.eligible(), [0]);
    assert!(!ward.health.is_panicking());
    assert_eq!(ward.health.standing(1), Some(Standing::Unconnected));
    // The only one there is never ejected.
    assert_eq!(ward.fail(0, 20), None);
    assert_eq!(ward.health.eligible(), [0]);
    // Who may yet be connected is better than who cannot be reached, if nobody is connected.
    reach(&mut ward, 0, Reach::Unreachable);
    assert_eq!(ward.health.eligible(), [0, 1, 2, 3]);
    reach(&mut ward, 2, Reach::NotYet);
    assert_eq!(ward.health.eligible(), [2]);
    for slot in [0, 1, 2, 3] {
        reach(&mut ward, slot, Reach::Connected);
    }
    assert_eq!(ward.health.eligible(), [0, 1, 2, 3]);
    assert_eq!(ward.health.standing(1), Some(Standing::Returning { answers: 0 }));
    assert_eq!(ward.health.standing(2), Some(Standing::Live), "a new connection, no new server");
}

#[test]
fn who_is_not_connected_is_not_tried() {
    let mut ward = Ward::new(3, HealthConfig::default());
    assert_eq!(ward.fail(1, 5), Some(Change::Ejected(1, Cause::FailuresInRow)));
    ward.health.reached(1, Reach::Unreachable, ward.now);
    ward.wait(Duration::from_secs(2));
    assert_eq!(ward.health.begin_trial(ward.now), None);
    ward.health.reached(1, Reach::Connected, ward.now);
    assert_eq!(ward.health.begin_trial(ward.now), Some(1));
}

#[test]
fn who_has_not_listened_blames_nobody_for_silence() {
    let heartbeat_interval = Some(Duration::from_millis(500));
    let mut ward = Ward::new(3, HealthConfig { heartbeat_interval, ..HealthConfig::default() });
    ward.wait(Duration::from_secs(5));
    ward.health.listens_again(ward.now);
    assert_eq!(ward.review(&[]), []);
    ward.wait(Duration::from_secs(5));
    assert!(!ward.review(&[]).is_empty());
}

#[test]
fn a_median_far_beyond_the_peers_ejects() {
    let mut ward = Ward::new(4, HealthConfig::default());
    let twice = [(2, FAST * 2)];
    assert_eq!(ward.review(&twice), [], "half as fast is given less, not ejected");
    let slow = [(2, FAST * 12), (3, FAST * 12)];
    let changes = ward.review(&slow);
    let expected = [Change::Ejected(2, Cause::Slow), Change::Ejected(3, Cause::Slow)];
    assert_eq!(changes, expected, "two of four are measured by the other two");
}

#[test]
fn a_share_of_failures_above_that_of_the_peers_ejects() {
    let mut ward = Ward::new(4, HealthConfig::default());
    for call in 0..400u32 {
        let slot = call % 4;
        // One in ten everywhere, one in two at 3.
        let failed = if slot == 3 { call % 8 == 3 } else { call % 40 < 4 };
        assert_eq!(ward.end(slot, failed, FAST, false), None);
    }
    ward.wait(Duration::from_secs(1));
    assert_eq!(ward.review(&[]), [Change::Ejected(3, Cause::FailureShare)]);
}

#[test]
fn silence_ejects_where_heartbeats_are_due() {
    let interval = Duration::from_millis(100);
    let config = HealthConfig { heartbeat_interval: Some(interval), ..HealthConfig::default() };
    let mut ward = Ward::new(3, config);
    for beat in 0..20 {
        ward.wait(interval);
        (0..3).filter(|slot| *slot != 1 || beat < 10).for_each(|slot| {
            ward.health.heard(slot, ward.now);
        });
        let changes = ward.review(&[]);
        if !changes.is_empty() {
            assert_eq!(changes, [Change::Ejected(1, Cause::Silent)]);
            assert!((11..15).contains(&beat), "at beat {beat}");
            return;
        }
    }
    panic!("nobody noticed");
}

#[test]
fn the_way_back_is_a_pause_a_trial_and_a_slow_start() {
    let mut ward = Ward::new(3, HealthConfig::default());
    ward.fail(0, 5);
    assert_eq!(ward.health.begin_trial(ward.now), None, "not at once");
    ward.wait(Duration::from_secs(1));
    assert_eq!(ward.health.begin_trial(ward.now), Some(0));
    assert_eq!(ward.health.begin_trial(ward.now), None, "one trial at a time");
    assert_eq!(ward.health.eligible(), [1, 2]);
    assert_eq!(ward.end(0, false, FAST, true), Some(Change::Returned(0)));
    assert_eq!(ward.health.eligible(), [0, 1, 2]);
    assert_eq!(ward.health.due_share(0), 0.1);
    (1..50).for_each(|_| assert_eq!(ward.end(0, false, FAST, false), None));
    assert_eq!(ward.health.due_share(0), 0.5);
    (50..100).for_each(|_| assert_eq!(ward.end(0, false, FAST, false), None));
    assert_eq!(ward.health.standing(0), Some(Standing::Live));
}

#[test]
fn each_failed_trial_doubles_the_pause() {
    let mut ward = Ward::new(3, HealthConfig::default());
    ward.fail(0, 5);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let mut pause = Duration::ZERO;
        while ward.health.begin_trial(ward.now).is_none() {
            ward.wait(Duration::from_millis(10));
            pause += Duration::from_millis(10);
        }
        pauses.push(pause);
        let change = ward.end(0, true, FAST, true);
        assert_eq!(change, Some(Change::Ejected(0, Cause::TrialFailed)));
    }
    for (times, pause) in pauses.iter().enumerate() {
        let most = Duration::from_secs((1u64 << times).min(30)) + Duration::from_millis(10);
        assert!(*pause >= most / 2 - Duration::from_millis(10) && *pause <= most, "{pauses:?}");
    }
}

#[test]
fn when_most_look_ill_calls_go_to_all() {
    let mut ward = Ward::new(4, HealthConfig::default());
    for slot in 0..2 {
        assert!(ward.fail(slot, 5).is_some());
    }
    assert!(ward.health.eligible() == [2, 3] && !ward.health.is_panicking());
    assert_eq!(ward.fail(2, 5), None, "not more than half are ejected");
    assert_eq!(ward.health.eligible(), [0, 1, 2, 3]);
    assert!(ward.health.is_panicking());
    ward.end(2, false, FAST, false);
    assert_eq!(ward.health.eligible(), [2, 3]);
    assert!(!ward.health.is_panicking());
}

#[test]
fn the_only_one_is_never_ejected() {
    let mut ward = Ward::new(1, HealthConfig::default());
    assert_eq!(ward.fail(0, 100), None);
    assert_eq!(ward.health.eligible(), [0]);
}

proptest! {
    #[test]
    fn ejections_stay_within_their_share_and_everybody_is_tried_again(
        count in 1u32..12,
        share in 0.0..1.0f64,
        steps in prop::collection::vec((any::<u32>(), 0u8..4, 0u64..2_000), 1..300),
    ) {
        let config = HealthConfig { ejected_share_max: share, ..HealthConfig::default() };
        let mut ward = Ward::new(count, config);
        let most = if count < 2 { 0 } else { ((f64::from(count) * share) as usize).max(1) };
        let out = |ward: &Ward| {
            let standings = (0..count).filter_map(|slot| ward.health.standing(slot));
            let is_out = |standing: &Standing| {
                matches!(standing, Standing::Ejected { .. } | Standing::Trial)
            };
            standings.filter(is_out).count()
        };
        let mut on_trial = Vec::new();
        for (slot, what, millis) in steps {
            ward.wait(Duration::from_millis(millis));
            let slot = slot % count;
            match what {
                0 => drop(ward.fail(slot, 5)),
                1 => drop(ward.end(slot, false, FAST, false)),
                2 => on_trial.extend(ward.health.begin_trial(ward.now)),
                _ => drop(on_trial.pop().map(|slot| ward.end(slot, millis % 2 == 0, FAST, true))),
            }
            prop_assert!(out(&ward) <= most, "{} of {count} are out, {most} may be", out(&ward));
            prop_assert!(!ward.health.eligible().is_empty());
        }
        // From here on everybody is well: within the longest pause all are back.
        for slot in on_trial {
            ward.end(slot, false, FAST, true);
        }
        for _ in 0..count {
            ward.wait(Duration::from_secs(30));
            while let Some(slot) = ward.health.begin_trial(ward.now) {
                ward.end(slot, false, FAST, true);
            }
        }
        prop_assert_eq!(out(&ward), 0);
    }
}
