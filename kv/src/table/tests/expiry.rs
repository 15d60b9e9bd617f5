//! Expired entries: hidden from commands, found by the sweep.

use super::*;
use std::collections::BTreeSet;

/// The keys that a whole round finds, in steps of `budget`.
fn round(world: &mut World, now_ms: u64, budget: usize) -> (BTreeSet<Vec<u8>>, usize) {
    let (mut found, mut looked) = (BTreeSet::new(), 0);
    loop {
        let swept = world.table.sweep(&world.arena, now_ms, budget, |entry| {
            assert!(found.insert(entry.key().to_vec()), "found twice in a round");
        });
        assert!(swept.looked <= budget);
        looked += swept.looked;
        if swept.round_ended {
            return (found, looked);
        }
    }
}

#[test]
fn an_entry_is_live_before_its_instant_and_not_from_it_on() {
    let mut world = World::new();
    world.put(b"key", b"value", Some(1_000));
    let hash = KeyHash::of(&world.seed, b"key");
    let live = |now_ms| world.table.get_live(&world.arena, hash, b"key", now_ms).is_some();
    assert!(live(999) && !live(1_000) && !live(u64::MAX));
    assert!(world.get(b"key").is_some(), "effects still see it");
}

#[test]
fn setting_an_expiry_keeps_key_and_value_at_every_length() {
    let mut world = World::new();
    for len in (0..600).chain(8_100..8_300) {
        let value: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        world.put(b"key", &value, None);
        let hash = KeyHash::of(&world.seed, b"key");
        for expires_at in [Some(5), Some(6), None, None, Some(7), None] {
            let arena = &mut world.arena;
            let set = world.table.set_expiry(arena, hash, b"key", expires_at, len);
            assert_eq!(set, Ok(true));
            let entry = world.get(b"key").expect("it was put");
            assert_eq!((entry.expires_at(), entry.index()), (expires_at, len));
            assert_eq!(entry.value().bytes(), value);
            assert_eq!(world.table.expiring(), usize::from(expires_at.is_some()));
        }
        world.arena.recount();
    }
}

#[test]
fn a_round_finds_all_that_has_expired_and_opens_only_what_is_due() {
    let mut world = World::new();
    for number in 0..20_000_u32 {
        // Every second one expires, after 1 to 10,000 ms.
        let expires_at = number.is_multiple_of(2).then_some(number as u64 / 2 + 1);
        world.put(&number.to_le_bytes(), b"", expires_at);
    }
    let segments = world.table.index.segments();
    assert_eq!(round(&mut world, 0, 100), (BTreeSet::new(), segments), "nothing is due");
    for (now_ms, budget) in [(1, 300), (4_000, 1), (4_000, 100_000), (9_999, 1_777)] {
        let (found, _) = round(&mut world, now_ms, budget);
        let due: BTreeSet<_> =
            (0..now_ms as u32).map(|at| (at * 2).to_le_bytes().to_vec()).collect();
        assert_eq!(found, due, "at {now_ms}");
    }
    // Once the found ones are removed and a round has seen that, segments are not opened again.
    for key in round(&mut world, 9_999, 512).0 {
        assert!(world.remove(&key));
    }
    assert_eq!(world.table.expiring(), 1);
    let _ = round(&mut world, 9_999, 512);
    let segments = world.table.index.segments();
    assert_eq!(round(&mut world, 9_999, 512), (BTreeSet::new(), segments));
    assert_eq!(round(&mut world, 10_000, 512).0.len(), 1);
}

#[test]
fn a_sweep_that_is_overtaken_by_changes_overlooks_nothing() {
    let mut world = World::new();
    let mut random = 1_u64;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % limit
    };
    let mut next = 0_u32;
    for step in 0..1_500_u64 {
        // Grows past several splits, then shrinks to nothing: segments move while they are swept.
        let puts = if step < 500 { 20 } else { 2 };
        for _ in 0..puts {
            world.put(&next.to_le_bytes(), b"", Some(step + 100 + below(2_000)));
            next += 1;
        }
        for _ in 0..if step < 500 { 1 } else { 15 } {
            world.remove(&(below(next as u64) as u32).to_le_bytes());
        }
        let mut due = BTreeSet::new();
        world.table.sweep(&world.arena, step, 40 + below(400) as usize, |entry| {
            due.insert(entry.key().to_vec());
        });
        due.iter().for_each(|key| assert!(world.remove(key)));
        world.table.index.recount(|cell| world.arena.entry(cell).expires_at());
    }
    for _ in 0..2 {
        round(&mut world, 4_000, 100).0.iter().for_each(|key| assert!(world.remove(key)));
    }
    assert!(world.table.is_empty(), "{} were overlooked", world.table.len());
}

#[test]
fn what_comes_behind_a_sweep_counts_for_the_next() {
    for newcomer in 100..150_u32 {
        let mut world = World::new();
        (0..100_u32).for_each(|number| _ = world.put(&number.to_le_bytes(), b"", Some(1_000)));
        assert!(!world.table.sweep(&world.arena, 2_000, 64, |_| {}).round_ended);
        world.put(&newcomer.to_le_bytes(), b"", Some(500));
        let _ = round(&mut world, 2_000, 64);
        world.table.index.recount(|cell| world.arena.entry(cell).expires_at());
    }
}

#[test]
fn a_sweep_whose_clock_goes_back_overlooks_nothing() {
    let mut world = World::new();
    (0..2_500_u32).for_each(|number| _ = world.put(&number.to_le_bytes(), b"", Some(74)));
    assert_eq!(world.table.index.segments(), 2);
    let mut found = 0;
    while found == 0 {
        found = world.table.sweep(&world.arena, 74, 1, |_| {}).expired;
    }
    let _ = round(&mut world, 0, 1_000);
    assert_eq!(round(&mut world, 74, 1_000).0.len(), 2_500);
}

#[test]
fn merged_segments_know_the_earlier_expiry_of_both() {
    let mut halves = [0, 0];
    for expiring in 0..20_u32 {
        let mut world = World::new();
        (0..2_500_u32).for_each(|number| _ = world.put(&number.to_le_bytes(), b"", None));
        assert_eq!(world.table.index.segments(), 2);
        world.put(&expiring.to_le_bytes(), b"", Some(10));
        halves[world.table.index.segment_of(KeyHash::of(&world.seed, &expiring.to_le_bytes()))] +=
            1;
        (100..2_500_u32).for_each(|number| assert!(world.remove(&number.to_le_bytes())));
        assert_eq!(world.table.index.segments(), 1);
        assert_eq!(round(&mut world, 10, 1_000).0.len(), 1);
    }
    assert!(halves[0] > 0 && halves[1] > 0, "{halves:?}");
}

#[test]
fn a_sample_is_of_the_asked_size_and_reaches_every_entry() {
    let mut world = World::new();
    world.table.sample(&world.arena, 0, 5, |_| panic!("the table is empty"));
    for number in 0..3_000_u32 {
        world.put(&number.to_le_bytes(), b"", None);
    }
    let (mut random, mut met) = (1_u64, BTreeSet::new());
    for _ in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut count = 0;
        world.table.sample(&world.arena, random, 5, |entry| {
            count += 1;
            met.insert(entry.key());
        });
        assert_eq!(count, 5);
    }
    assert_eq!(met.len(), 3_000);
}
