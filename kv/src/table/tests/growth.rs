//! Growing and shrinking costs little at a time, and walks see it not.

use super::*;
use crate::table::index::DEPTH_MAX;
use std::collections::BTreeSet;

const KEYS: u32 = 250_000;

/// Slots of a segment of 256 lines that is seven eighths full: the most that one step moves.
const SLOTS_MOVED_MAX: u64 = 1_568;

/// The work that `change` causes.
fn work_of(world: &mut World, change: impl FnOnce(&mut World)) -> Work {
    let before = world.table.work();
    change(world);
    let after = world.table.work();
    Work {
        slots_moved: after.slots_moved - before.slots_moved,
        places_written: after.places_written - before.places_written,
    }
}

fn full_world() -> World {
    let mut world = World::new();
    for number in 0..KEYS {
        world.put(&number.to_le_bytes(), b"", None);
    }
    world
}

#[test]
fn no_put_and_no_removal_moves_more_than_a_segment() {
    let mut world = World::new();
    let mut most = Work::default();
    let mut note = |work: Work| {
        most.slots_moved = most.slots_moved.max(work.slots_moved);
        most.places_written = most.places_written.max(work.places_written);
    };
    for number in 0..KEYS {
        note(work_of(&mut world, |world| {
            world.put(&number.to_le_bytes(), b"", None);
        }));
    }
    let held_full = world.table.bytes_held();
    for number in 0..KEYS {
        note(work_of(&mut world, |world| assert!(world.remove(&number.to_le_bytes()))));
    }
    assert_eq!(most.slots_moved, SLOTS_MOVED_MAX, "a segment splits when it is full, not later");
    // 250,000 keys are 256 segments or less: the directory's largest step, and the entering of a
    // segment.
    assert!(most.places_written <= 256 + 16, "{most:?}");
    assert!(held_full / KEYS as usize <= 21, "{held_full} bytes of index");
    assert!(world.table.bytes_held() < 1_024, "{} bytes left", world.table.bytes_held());
    world.table.index.recount(|_| None);
}

/// 660 and 1,300 slots, of which each is removed and comes again: that may make a segment neither grow nor
/// split.
#[test]
fn an_index_that_is_churned_stays_small() {
    for keys in [660, 1_300_u32] {
        let mut world = World::new();
        (0..keys).for_each(|number| _ = world.put(&number.to_le_bytes(), b"", None));
        let held = world.table.bytes_held();
        for number in keys..500_000 {
            assert!(world.remove(&(number - keys).to_le_bytes()));
            world.put(&number.to_le_bytes(), b"", None);
        }
        assert_eq!(world.table.bytes_held(), held, "with {keys} keys");
        world.table.index.recount(|_| None);
    }
}

/// Hash words that agree in all bits: no split separates them.
#[test]
fn equal_hash_words_end_the_splitting() {
    let mut world = World::new();
    let hash = KeyHash::from_word(0x8000_0001);
    let value = NewValue::Copied(b"");
    for number in 0..5_000_u32 {
        let key = &number.to_le_bytes();
        let entry = NewEntry { key, value: value.clone(), index: 1, expires_at: None, touched: 0 };
        assert_eq!(world.table.put(&mut world.arena, hash, entry), Ok(Replaced::Nothing));
    }
    assert!(world.table.index.segments() <= DEPTH_MAX as usize + 1);
    let found = |number: u32| world.table.get(&world.arena, hash, &number.to_le_bytes());
    assert!((0..5_000).all(|number| found(number).is_some()) && found(5_000).is_none());
    let mut met = 0;
    let next = world.table.walk(&world.arena, hash.word(), 10, |_| met += 1);
    assert!(next.is_some_and(|next| next > hash.word()));
    assert_eq!(met, 5_000, "what cannot be told apart comes together");
    let mut from = Some(0);
    while let Some(at) = from {
        from = world.table.walk(&world.arena, at, usize::MAX, |_| met += 1);
    }
    assert_eq!(met, 10_000);
    (0..5_000_u32).for_each(|number| {
        assert!(world.table.remove(&mut world.arena, hash, &number.to_le_bytes()))
    });
    assert!(world.table.bytes_held() < 1_024, "{} bytes left", world.table.bytes_held());
}

#[test]
fn a_walk_meets_each_entry_once_in_pages_of_the_asked_size() {
    let world = full_world();
    for count in [1, 10, 100, 1_000, 20_000] {
        let (mut met, mut steps, mut from) = (BTreeSet::new(), 0, Some(0));
        while let Some(at) = from {
            let before = met.len();
            from = world.table.walk(&world.arena, at, count, |entry| {
                assert!(met.insert(entry.key()), "met twice");
            });
            let visited = met.len() - before;
            assert!(visited <= count * 2 + 20, "{visited} when {count} were asked for");
            steps += 1;
            if count < 100 && steps == 1_000 {
                break;
            }
        }
        let about = met.len() / steps;
        assert!(count / 2 <= about && about <= count * 2, "{about} when {count} were asked for");
        assert!(from.is_some() || met.len() == KEYS as usize, "{} met", met.len());
    }
}

#[test]
fn a_walk_misses_nothing_while_the_table_grows_and_shrinks() {
    let mut world = World::new();
    let (stays, others) = (0..5_000_u32, 5_000..150_000_u32);
    stays.clone().for_each(|number| _ = world.put(&number.to_le_bytes(), b"", None));
    // Twice up and down during a walk, so that it sees segments of all depths before and behind it.
    let mut changes = others.clone();
    let (mut unmet, mut from, mut growing) = (stays.collect::<BTreeSet<_>>(), Some(0), true);
    while let Some(at) = from {
        from = world.table.walk(&world.arena, at, 40, |entry| {
            let number = u32::from_le_bytes(entry.key().try_into().expect("keys have 4 bytes"));
            unmet.remove(&number);
        });
        for _ in 0..2_500 {
            match changes.next() {
                Some(number) if growing => _ = world.put(&number.to_le_bytes(), b"", None),
                Some(number) => assert!(world.remove(&number.to_le_bytes())),
                None => {
                    growing = !growing;
                    changes = others.clone();
                }
            }
        }
    }
    assert!(unmet.is_empty(), "{} were missed", unmet.len());
}
