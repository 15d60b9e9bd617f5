//! What the table says of its memory is what the allocator knows.

use catena_kv::table::{Arena, Graveyard, HashSeed, KeyHash, NewEntry, NewValue, PAGES_MAX, Table};

/// One arena, its tables and what was cleared from them.
struct Store {
    arena: Arena,
    tables: [Table; 2],
    graveyard: Graveyard,
}

impl Store {
    fn bytes_held(&self) -> i64 {
        let tables: usize = self.tables.iter().map(Table::bytes_held).sum();
        self.arena.bytes_held() as i64 + (tables + self.graveyard.bytes_held()) as i64
    }
}

/// Runs `step` and checks that the bytes it allocated and did not free are those by which the
/// figure grew.
fn check(store: &mut Store, name: &str, step: impl FnOnce(&mut Store)) {
    let before = store.bytes_held();
    let allocated = allocation_counter::measure(|| step(store));
    assert_eq!(store.bytes_held() - before, allocated.bytes_current, "{name}");
}

#[test]
fn every_byte_from_the_allocator_is_counted() {
    let seed = HashSeed::new(3);
    let mut store = None;
    let allocated = allocation_counter::measure(|| {
        let (tables, graveyard) = Default::default();
        store = Some(Store { arena: Arena::new(PAGES_MAX), tables, graveyard });
    });
    let mut store = store.expect("it was just made");
    assert_eq!(store.bytes_held(), allocated.bytes_current);
    for (table, len, expires_at) in [(0, 32, None), (1, 500, Some(9)), (0, 2_000, None)] {
        check(&mut store, "put", |store| {
            for number in 0..20_000_u32 {
                let len = if number.is_multiple_of(100) { 20_000 } else { len };
                let (key, value) = (&number.to_le_bytes(), vec![0; len]);
                let value = NewValue::Copied(&value);
                let entry = NewEntry { key, value, index: 1, expires_at, touched: 0 };
                let put = store.tables[table].put(&mut store.arena, KeyHash::of(&seed, key), entry);
                put.expect("the arena is large");
            }
        });
    }
    check(&mut store, "remove", |store| {
        for number in (0..20_000_u32).filter(|number| !number.is_multiple_of(11)) {
            let key = &number.to_le_bytes();
            assert!(store.tables[0].remove(&mut store.arena, KeyHash::of(&seed, key), key));
        }
    });
    check(&mut store, "compact", |store| {
        while let Some(cell) = store.arena.next_to_move() {
            let hash = KeyHash::of(&seed, store.arena.key_at(cell));
            for table in &mut store.tables {
                table.relocate(&mut store.arena, hash, cell);
            }
        }
    });
    check(&mut store, "clear", |store| store.tables[1].clear(&mut store.graveyard));
    for _ in 0..10 {
        check(&mut store, "bury", |store| store.graveyard.bury(&mut store.arena, 5_000));
    }
    assert!(store.graveyard.is_empty());
    check(&mut store, "remove the rest", |store| {
        for key in (0..20_000_u32).map(u32::to_le_bytes) {
            store.tables[0].remove(&mut store.arena, KeyHash::of(&seed, &key), &key);
        }
    });
    assert_eq!(store.arena.bytes_used(), 0);
    // The page in reserve, the tables of pages and of what lay apart.
    assert!(store.bytes_held() < 256 << 10, "{} bytes are left", store.bytes_held());
}
