//! The table as its users see it.

mod expiry;
mod growth;
mod memory;
mod model;

use super::*;

const SEED: u64 = 7;

struct World {
    seed: HashSeed,
    arena: Arena,
    table: Table,
}

impl World {
    fn new() -> Self {
        Self { seed: HashSeed::new(SEED), arena: Arena::new(PAGES_MAX), table: Table::default() }
    }

    fn put(&mut self, key: &[u8], value: &[u8], expires_at: Option<u64>) -> Replaced {
        let value = NewValue::Copied(value);
        let entry = NewEntry { key, value, index: 1, expires_at, touched: 0 };
        let hash = KeyHash::of(&self.seed, key);
        self.table.put(&mut self.arena, hash, entry).expect("the arena is large")
    }

    fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        self.table.get(&self.arena, KeyHash::of(&self.seed, key), key)
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        self.table.remove(&mut self.arena, KeyHash::of(&self.seed, key), key)
    }
}

#[test]
fn a_key_of_16_and_a_value_of_32_bytes_take_one_run_of_64() {
    let mut world = World::new();
    world.put(&[1; 16], &[2; 32], None);
    assert_eq!(world.arena.bytes_used(), 64);
    world.put(&[1; 16], &[2; 33], None);
    assert_eq!(world.arena.bytes_used(), 64);
    world.put(&[1; 16], &[2; 34], None);
    assert_eq!(world.arena.bytes_used(), 80);
    assert!(world.remove(&[1; 16]));
    assert_eq!(world.arena.bytes_used(), 0);
}

#[test]
fn what_was_put_is_found_until_it_is_removed() {
    let mut world = World::new();
    for number in 0..20_000_u32 {
        assert_eq!(world.put(&number.to_le_bytes(), b"value", None), Replaced::Nothing);
    }
    for number in 0..20_000_u32 {
        let entry = world.get(&number.to_le_bytes()).expect("it was put");
        assert_eq!(
            (entry.key(), entry.value().bytes()),
            (&number.to_le_bytes()[..], &b"value"[..])
        );
        assert!(world.remove(&number.to_le_bytes()));
        assert!(world.get(&number.to_le_bytes()).is_none());
    }
    assert!(world.table.is_empty());
}
