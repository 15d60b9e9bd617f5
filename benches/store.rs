//! The store's in-memory parts. Now: the table of a partition, with keys of 16 and values of 32
//! bytes.
//!
//! Before the timed part it prints what the table takes a key, and the longest put while a table
//! grows to ten million keys (`STORE_KEYS` changes the number).

use catena_engine::rng::Rng;
use catena_kv::table::{Arena, HashSeed, KeyHash, NewEntry, NewValue, PAGES_MAX, Table};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::time::{Duration, Instant};

const VALUE: [u8; 32] = [7; 32];

struct Store {
    seed: HashSeed,
    arena: Arena,
    table: Table,
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"user:00000000000";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

impl Store {
    fn new() -> Self {
        let (arena, table) = (Arena::new(PAGES_MAX), Table::default());
        Self { seed: HashSeed::new(1), arena, table }
    }

    fn with_keys(keys: u64) -> Self {
        let mut store = Self::new();
        (0..keys).for_each(|number| store.put(&key(number)));
        store
    }

    fn put(&mut self, key: &[u8]) {
        let value = NewValue::Copied(&VALUE);
        let entry = NewEntry { key, value, index: 1, expires_at: None, touched: 0 };
        let hash = KeyHash::of(&self.seed, key);
        self.table.put(&mut self.arena, hash, entry).expect("the arena has room");
    }

    fn get(&self, key: &[u8]) -> Option<usize> {
        let entry = self.table.get_live(&self.arena, KeyHash::of(&self.seed, key), key, 1)?;
        Some(black_box(entry.value().bytes()).len())
    }
}

fn table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store/table");
    for keys in [10_000, 1_000_000] {
        let mut store = Store::with_keys(keys);
        let mut rng = Rng::from_seed(2);
        group.bench_function(BenchmarkId::new("hit", keys), |bencher| {
            bencher.iter(|| store.get(&key(rng.below(keys))));
        });
        group.bench_function(BenchmarkId::new("miss", keys), |bencher| {
            bencher.iter(|| store.get(&key(keys + rng.below(keys))));
        });
        group.bench_function(BenchmarkId::new("overwrite", keys), |bencher| {
            bencher.iter(|| store.put(&key(rng.below(keys))));
        });
    }
    group.bench_function("insert", |bencher| {
        bencher.iter_custom(|count| {
            // A new table each million, so that it is always the growth to a million that is timed.
            let mut taken = Duration::ZERO;
            let mut left = count;
            while left > 0 {
                let mut store = Store::new();
                let started = Instant::now();
                (0..left.min(1_000_000)).for_each(|number| store.put(&key(number)));
                taken += started.elapsed();
                left -= left.min(1_000_000);
            }
            taken
        });
    });
    // What two cache misses cost here when nothing overlaps: a line of 16 MiB, one of 64 MiB that it
    // names; and what was read chooses the next.
    let index: Vec<u64> = (0..2 << 20).collect();
    let entries: Vec<u64> = (0..8 << 20).collect();
    let mut rng = Rng::from_seed(3);
    group.bench_function("two_bare_reads", |bencher| {
        let mut read = 0;
        bencher.iter(|| {
            let line = index[((rng.next_u64() ^ read << 43) >> 43) as usize];
            read = entries[(line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 41) as usize];
        });
    });
    group.bench_function("hash", |bencher| {
        let seed = HashSeed::new(1);
        let mut rng = Rng::from_seed(2);
        bencher.iter(|| KeyHash::of(&seed, &key(rng.below(1_000_000))));
    });
    group.finish();
}

/// Growth: the longest put, and what a key takes.
fn growth(_: &mut Criterion) {
    let most = std::env::var("STORE_KEYS").ok().and_then(|keys| keys.parse().ok());
    let most: u64 = most.unwrap_or(10_000_000);
    let mut store = Store::new();
    // Of the longest puts: CPU time, and the slots that they moved.
    let mut longest = [(0, 0); 5];
    let (mut slots, mut places) = (0, 0);
    for number in 0..most {
        let before = store.table.work();
        let started = thread_cpu_ns();
        store.put(&key(number));
        let taken = thread_cpu_ns() - started;
        let after = store.table.work();
        let moved = after.slots_moved - before.slots_moved;
        if taken > longest[0].0 {
            longest[0] = (taken, moved);
            longest.sort();
        }
        slots = slots.max(moved);
        places = places.max(after.places_written - before.places_written);
        let keys = number + 1;
        if keys.is_power_of_two() && keys > most / 32 || keys == most || keys == 1_000_000 {
            let bytes = store.arena.bytes_held() as f64 + store.table.bytes_held() as f64;
            println!("{keys} keys: {:.1} bytes a key", bytes / keys as f64);
        }
    }
    for (ns, moved) in longest {
        println!("among the longest puts: {} µs of CPU, {moved} slots moved", ns / 1_000);
    }
    println!("the most that one put moved: {slots} slots, {places} places of the directory");
}

/// CPU time of this thread: page faults count, other programs on the same core do not.
fn thread_cpu_ns() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

criterion_group!(benches, growth, table);
criterion_main!(benches);
