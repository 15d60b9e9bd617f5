//! Memory has a limit, comes back, and is counted.

use super::*;

impl World {
    /// Compacts until there is nothing more to. The result is how many entries were moved.
    fn compact(&mut self) -> usize {
        let mut moved = 0;
        while let Some(cell) = self.arena.next_to_move() {
            let hash = KeyHash::of(&self.seed, self.arena.key_at(cell));
            self.table.relocate(&mut self.arena, hash, cell);
            moved += 1;
        }
        moved
    }
}

#[test]
fn a_full_arena_refuses_and_changes_nothing() {
    let mut world = World::new();
    world.arena = Arena::new(1);
    let put = |world: &mut World, number: u32, value: &[u8]| {
        let (key, value) = (&number.to_le_bytes(), NewValue::Copied(value));
        let entry = NewEntry { key, value, index: 1, expires_at: None, touched: 0 };
        world.table.put(&mut world.arena, KeyHash::of(&world.seed, key), entry)
    };
    // 15 + 4 + 40 bytes are a run of 64: a page has 1,024 of those.
    for number in 0..1_024 {
        assert_eq!(put(&mut world, number, &[1; 40]), Ok(Replaced::Nothing));
    }
    let full = ArenaFull { pages_max: 1 };
    assert_eq!(put(&mut world, 1_024, &[1; 40]), Err(full));
    assert_eq!(put(&mut world, 1_024, &[1; 10]), Err(full), "the only page is of another class");
    assert_eq!(put(&mut world, 7, &[2; 100]), Err(full));
    let hash = KeyHash::of(&world.seed, &7_u32.to_le_bytes());
    let (arena, key) = (&mut world.arena, 7_u32.to_le_bytes());
    assert_eq!(world.table.set_expiry(arena, hash, &key, Some(9), 2), Err(full));
    let entry = world.get(&7_u32.to_le_bytes()).expect("a refused write changes nothing");
    assert_eq!((entry.value().bytes(), entry.expires_at(), entry.index()), (&[1; 40][..], None, 1));
    assert_eq!(put(&mut world, 7, &[3; 44]), Ok(Replaced::Entry), "it fits where it was");
    assert!(world.remove(&8_u32.to_le_bytes()));
    assert_eq!(put(&mut world, 1_024, &[1; 40]), Ok(Replaced::Nothing));
    assert!(full.to_string().contains("all 1 pages (64 KiB)"), "{full}");
    world.arena.recount();
}

#[test]
fn what_an_entry_takes_does_not_tell_how_it_came_to_be() {
    let at = Some(9);
    // The sizes at which an expiry decides what lies apart, and how much.
    let value_edge = (8_150..8_200).map(|value| (16, value));
    let key_edge = (8_150..8_200).map(|key| (key, 16));
    let both_edge = (8_150..8_200).map(|shorter| (shorter, 9_000));
    for (key, value) in value_edge.chain(key_edge).chain(both_edge) {
        let (key, value) = (vec![1; key], vec![2; value]);
        for (before, after) in [(None, at), (at, None)] {
            let (mut put, mut set) = (World::new(), World::new());
            put.put(&key, &value, after);
            set.put(&key, &value, before);
            let (hash, arena) = (KeyHash::of(&set.seed, &key), &mut set.arena);
            assert_eq!(set.table.set_expiry(arena, hash, &key, after, 1), Ok(true));
            let (used, expected) = (set.arena.bytes_used(), put.arena.bytes_used());
            assert_eq!(used, expected, "{} and {} bytes, {after:?}", key.len(), value.len());
            let entry = set.get(&key).expect("it is there");
            assert_eq!((entry.value().bytes(), entry.expires_at()), (&value[..], after));
        }
    }
}

#[test]
fn a_workload_that_changes_the_sizes_of_values_does_not_keep_its_peak() {
    let mut world = World::new();
    let keys = 0..40_000_u32;
    let mut held = Vec::new();
    for round in 1..6_u32 {
        // Each round moves seven of eight entries to another size, so that pages of the old size
        // stay sparse.
        for number in keys.clone().filter(|number| !(number / 3 + round).is_multiple_of(8)) {
            world.put(&number.to_le_bytes(), &vec![1; 90 * round as usize % 1_000], None);
        }
        let before = world.arena.bytes_held();
        let moved = world.compact();
        let used = world.arena.bytes_used();
        held.push((before, world.arena.bytes_held(), used, moved));
        assert!(world.arena.bytes_held() * 2 < used * 3 + (2 << 20), "round {round}: {held:?}");
        world.arena.recount();
        world.table.index.recount(|_| None);
    }
    // Without compaction more than the half of the pages would have stayed for nothing.
    assert!(held.iter().any(|&(before, after, ..)| after * 4 < before * 3), "{held:?}");
    keys.for_each(|number| {
        let value = world.get(&number.to_le_bytes()).map(|entry| entry.value().bytes().len());
        assert!(value.is_some_and(|len| len > 0), "{number} has {value:?}");
    });
    assert_eq!(world.compact(), 0);
}

#[test]
fn a_sparse_table_gives_its_pages_back() {
    let mut world = World::new();
    for number in 0..100_000_u32 {
        world.put(&number.to_le_bytes(), &[1; 40], None);
    }
    let full = world.arena.bytes_held();
    for number in (0..100_000_u32).filter(|number| !number.is_multiple_of(10)) {
        assert!(world.remove(&number.to_le_bytes()));
    }
    assert!(
        world.arena.bytes_held() * 10 > full * 9,
        "every page still has a tenth of its entries"
    );
    assert!(world.compact() <= 10_000);
    assert!(world.arena.bytes_held() * 7 < full, "{} of {full}", world.arena.bytes_held());
    for number in (0..100_000_u32).step_by(10) {
        assert!(world.get(&number.to_le_bytes()).is_some());
    }
    world.arena.recount();
}

#[test]
fn a_cleared_table_is_freed_piece_by_piece() {
    let mut world = World::new();
    for number in 0..50_000_u32 {
        world.put(&number.to_le_bytes(), &[1; 40], Some(1));
    }
    let mut graveyard = Graveyard::default();
    world.table.clear(&mut graveyard);
    assert_eq!((world.table.len(), world.table.expiring(), graveyard.len()), (0, 0, 50_000));
    world.put(b"new", b"", None);
    assert!(world.get(&7_u32.to_le_bytes()).is_none());
    let mut steps = 0;
    while !graveyard.is_empty() {
        let before = graveyard.len();
        graveyard.bury(&mut world.arena, 1_000);
        assert!(before - graveyard.len() <= 1_000);
        // What waits is still in its pages, and compaction does not stumble over it.
        world.compact();
        graveyard.recount();
        assert_eq!(world.arena.recount(), graveyard.len() + 1);
        steps += 1;
    }
    assert!(steps >= 50, "{steps} steps");
    assert_eq!(graveyard.bytes_held(), 0);
    assert!(world.arena.bytes_held() < 256 << 10, "{} bytes left", world.arena.bytes_held());
    assert!(world.get(b"new").is_some());
}
