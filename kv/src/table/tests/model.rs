//! Random operations on several tables of one arena, against plain maps.

use super::*;
use crate::table::class::Class;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const TABLES: usize = 3;

/// Entries at which a case stops growing: enough for depth 3.
const ENTRIES_MAX: usize = 8_000;

#[derive(Clone, Debug)]
enum Op {
    /// Puts keys `first..first + count`.
    Put {
        table: usize,
        first: u32,
        count: u32,
        value_len: usize,
        expires_at: Option<u64>,
    },
    /// Removes every `step`-th of keys `first..first + count`.
    Remove {
        table: usize,
        first: u32,
        count: u32,
        step: usize,
    },
    SetExpiry {
        table: usize,
        first: u32,
        count: u32,
        expires_at: Option<u64>,
    },
    Touch {
        table: usize,
        key: u32,
        stamp: u16,
    },
    SetIndex {
        table: usize,
        key: u32,
        index: u64,
    },
    WalkStep {
        table: usize,
        count: usize,
    },
    Sweep {
        table: usize,
        now_ms: u64,
        budget: usize,
    },
    Sample {
        table: usize,
        random: u64,
        count: usize,
    },
    Clear {
        table: usize,
    },
    Bury {
        budget: usize,
    },
    Compact {
        moves: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let table = || 0..TABLES;
    let first = || 0..6_000_u32;
    let count = || prop_oneof![3 => 1..20_u32, 2 => 20..3_000_u32];
    let expires_at = || prop_oneof![2 => Just(None), 1 => (1..1_000_u64).prop_map(Some)];
    let value_len = prop_oneof![
        6 => 0..200_usize,
        2 => 200..1_500_usize,
        1 => 8_100..8_300_usize,
        1 => 8_000..100_000_usize,
    ];
    prop_oneof![
        6 => (table(), first(), count(), value_len, expires_at()).prop_map(
            |(table, first, count, value_len, expires_at)| {
                let count = if value_len > 1_500 { count.min(20) } else { count };
                Op::Put { table, first, count, value_len, expires_at }
            }
        ),
        5 => (table(), first(), count(), 1..4_usize)
            .prop_map(|(table, first, count, step)| Op::Remove { table, first, count, step }),
        3 => (table(), first(), count(), expires_at()).prop_map(
            |(table, first, count, expires_at)| Op::SetExpiry { table, first, count, expires_at }
        ),
        1 => (table(), first(), any::<u16>())
            .prop_map(|(table, key, stamp)| Op::Touch { table, key, stamp }),
        1 => (table(), first(), any::<u64>())
            .prop_map(|(table, key, index)| Op::SetIndex { table, key, index }),
        4 => (table(), 1..2_000_usize).prop_map(|(table, count)| Op::WalkStep { table, count }),
        2 => (table(), 0..1_100_u64, 1..5_000_usize)
            .prop_map(|(table, now_ms, budget)| Op::Sweep { table, now_ms, budget }),
        1 => (table(), any::<u64>(), 1..20_usize)
            .prop_map(|(table, random, count)| Op::Sample { table, random, count }),
        1 => table().prop_map(|table| Op::Clear { table }),
        2 => (1..5_000_usize).prop_map(|budget| Op::Bury { budget }),
        3 => (1..2_000_usize).prop_map(|moves| Op::Compact { moves }),
    ]
}

#[derive(Clone, PartialEq, Debug)]
struct Expected {
    value: Vec<u8>,
    index: u64,
    expires_at: Option<u64>,
    touched: u16,
}

/// A walk under way: where it stands, and what was there all the time and was not visited yet.
#[derive(Default)]
struct Walk {
    from: Option<u32>,
    unvisited: BTreeSet<Vec<u8>>,
}

struct Model {
    seed: HashSeed,
    arena: Arena,
    graveyard: Graveyard,
    tables: [Table; TABLES],
    expected: [BTreeMap<Vec<u8>, Expected>; TABLES],
    walks: [Walk; TABLES],
    index: u64,
}

/// Keys of all lengths, the longest beyond what fits into a run. The first byte says whose they
/// are.
fn key(table: usize, number: u32) -> Vec<u8> {
    let mut key = vec![table as u8];
    key.extend(number.to_le_bytes());
    let len = match number % 997 {
        0 => 20_000,
        1 => 8_190,
        _ => 5 + number as usize % 30,
    };
    key.resize(len.max(5), 0);
    key
}

impl Model {
    fn new() -> Self {
        Self {
            seed: HashSeed::new(SEED),
            arena: Arena::new(PAGES_MAX),
            graveyard: Graveyard::default(),
            tables: Default::default(),
            expected: Default::default(),
            walks: Default::default(),
            index: 0,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Put { table, first, count, value_len, expires_at } => {
                for number in first..first + count {
                    if self.entries() < ENTRIES_MAX {
                        self.put(table, number, value_len, expires_at);
                    }
                }
            }
            Op::Remove { table, first, count, step } => {
                for number in (first..first + count).step_by(step) {
                    self.remove(table, &key(table, number));
                }
            }
            Op::SetExpiry { table, first, count, expires_at } => {
                for number in first..first + count {
                    self.set_expiry(table, number, expires_at);
                }
            }
            Op::Touch { table, key: number, stamp } => {
                let (key, arena) = (key(table, number), &mut self.arena);
                let hash = KeyHash::of(&self.seed, &key);
                let expected = self.expected[table].get_mut(&key);
                let found = self.tables[table].touch(arena, hash, &key, stamp);
                assert_eq!(found, expected.map(|entry| entry.touched = stamp).is_some());
            }
            Op::SetIndex { table, key: number, index } => {
                let (key, arena) = (key(table, number), &mut self.arena);
                let hash = KeyHash::of(&self.seed, &key);
                let expected = self.expected[table].get_mut(&key);
                let found = self.tables[table].set_index(arena, hash, &key, index);
                assert_eq!(found, expected.map(|entry| entry.index = index).is_some());
            }
            Op::WalkStep { table, count } => self.walk_step(table, count),
            Op::Sweep { table, now_ms, budget } => self.sweep(table, now_ms, budget),
            Op::Sample { table, random, count } => self.sample(table, random, count),
            Op::Clear { table } => {
                self.tables[table].clear(&mut self.graveyard);
                self.expected[table].clear();
                self.walks[table].unvisited.clear();
            }
            Op::Bury { budget } => self.graveyard.bury(&mut self.arena, budget),
            Op::Compact { moves } => self.compact(moves),
        }
    }

    fn entries(&self) -> usize {
        self.expected.iter().map(BTreeMap::len).sum()
    }

    fn put(&mut self, table: usize, number: u32, value_len: usize, expires_at: Option<u64>) {
        self.index += 1;
        let expires_at = expires_at.map(|at| at + self.index % 100);
        let key = key(table, number);
        let value = vec![self.index as u8; value_len];
        let new = NewEntry {
            key: &key,
            value: if self.index.is_multiple_of(2) {
                NewValue::Copied(&value)
            } else {
                NewValue::Shared(value.clone().into())
            },
            index: self.index,
            expires_at,
            touched: 3,
        };
        let hash = KeyHash::of(&self.seed, &key);
        let replaced = self.tables[table].put(&mut self.arena, hash, new);
        let expected = Expected { value, index: self.index, expires_at, touched: 3 };
        let was_there = self.expected[table].insert(key, expected).is_some();
        assert_eq!(replaced == Ok(Replaced::Entry), was_there);
    }

    fn remove(&mut self, table: usize, key: &[u8]) {
        let hash = KeyHash::of(&self.seed, key);
        let removed = self.tables[table].remove(&mut self.arena, hash, key);
        assert_eq!(removed, self.expected[table].remove(key).is_some());
        self.walks[table].unvisited.remove(key);
    }

    fn set_expiry(&mut self, table: usize, number: u32, expires_at: Option<u64>) {
        self.index += 1;
        let (key, index) = (key(table, number), self.index);
        let hash = KeyHash::of(&self.seed, &key);
        let arena = &mut self.arena;
        let found = self.tables[table].set_expiry(arena, hash, &key, expires_at, index);
        let expected = self.expected[table].get_mut(&key).map(|entry| {
            (entry.expires_at, entry.index) = (expires_at, index);
        });
        assert_eq!(found, Ok(expected.is_some()));
    }

    fn walk_step(&mut self, table: usize, count: usize) {
        let walk = &mut self.walks[table];
        let from = walk.from.unwrap_or_else(|| {
            walk.unvisited = self.expected[table].keys().cloned().collect();
            0
        });
        let next = self.tables[table].walk(&self.arena, from, count, |entry| {
            assert!(self.expected[table].contains_key(entry.key()), "it shows what is not there");
            walk.unvisited.remove(entry.key());
        });
        assert!(next.is_none_or(|next| next > from), "it stands still");
        walk.from = next;
        assert!(next.is_some() || walk.unvisited.is_empty(), "it missed {:?}", walk.unvisited);
    }

    /// A step of the sweep, and the deletions that come of it.
    fn sweep(&mut self, table: usize, now_ms: u64, budget: usize) {
        let mut due = Vec::new();
        let swept = self.tables[table].sweep(&self.arena, now_ms, budget, |entry| {
            due.push(entry.key().to_vec());
        });
        assert!(swept.looked <= budget && swept.expired == due.len(), "{swept:?}");
        for key in due {
            let expires_at = self.expected[table][&key].expires_at;
            assert!(expires_at.is_some_and(|at| at <= now_ms), "{expires_at:?} at {now_ms}");
            self.remove(table, &key);
        }
    }

    /// The rest of a round, that round's successor, and nothing that has expired is left.
    fn sweep_a_round(&mut self, table: usize, now_ms: u64) {
        self.sweep(table, now_ms, usize::MAX);
        self.sweep(table, now_ms, usize::MAX);
        let is_due = |entry: &Expected| entry.expires_at.is_some_and(|at| at <= now_ms);
        assert!(!self.expected[table].values().any(is_due), "it overlooked some");
    }

    fn sample(&mut self, table: usize, random: u64, count: usize) {
        let mut seen = BTreeSet::new();
        self.tables[table].sample(&self.arena, random, count, |entry| {
            assert!(self.expected[table].contains_key(entry.key()), "it shows what is not there");
            assert!(seen.insert(entry.key().to_vec()), "it shows one twice");
        });
        assert!(seen.len() <= count);
    }

    fn compact(&mut self, moves: usize) {
        for _ in 0..moves {
            let Some(cell) = self.arena.next_to_move() else { return };
            let key = self.arena.key_at(cell);
            let (hash, table) = (KeyHash::of(&self.seed, key), key[0] as usize);
            self.tables[table].relocate(&mut self.arena, hash, cell);
        }
    }

    /// Everything that was put is there, nothing else is, and every counter is right.
    fn check(&self) {
        assert_eq!(self.arena.recount(), self.entries() + self.graveyard.len());
        self.graveyard.recount();
        let mut bytes = 0;
        for (table, expected) in self.tables.iter().zip(&self.expected) {
            table.index.recount(|cell| self.arena.entry(cell).expires_at());
            let expiring = expected.values().filter(|entry| entry.expires_at.is_some()).count();
            assert_eq!((table.len(), table.expiring()), (expected.len(), expiring));
            for (key, expected) in expected {
                let hash = KeyHash::of(&self.seed, key);
                let entry = table.get(&self.arena, hash, key).expect("it was put");
                let value = entry.value().bytes().to_vec();
                let (index, expires_at) = (entry.index(), entry.expires_at());
                let found = Expected { value, index, expires_at, touched: entry.touched() };
                assert_eq!(&found, expected);
                assert_eq!(entry.key(), key);
                bytes += bytes_of(key.len(), found.value.len(), expires_at.is_some());
            }
        }
        assert!(!self.graveyard.is_empty() || self.arena.bytes_used() == bytes);
        assert!(self.arena.bytes_used() >= bytes && self.arena.bytes_held() > bytes);
    }
}

/// What an entry takes, as the documentation says.
fn bytes_of(key: usize, value: usize, expires: bool) -> u64 {
    let header = 15 + if expires { 8 } else { 0 };
    let run = |bytes: usize| Class::of(bytes).bytes();
    let (longer, shorter) = (key.max(value), key.min(value));
    let bytes = if header + key + value <= 8_192 {
        run(header + key + value)
    } else if header + 4 + shorter <= 8_192 {
        run(header + 4 + shorter) + longer
    } else {
        run(header + 8) + key + value
    };
    bytes as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn several_tables_on_one_arena_behave_as_maps(ops in vec(op(), 1..80)) {
        let mut model = Model::new();
        for op in ops {
            model.apply(op);
            model.check();
        }
        while !model.graveyard.is_empty() {
            model.graveyard.bury(&mut model.arena, 1_000);
        }
        for table in 0..TABLES {
            model.sweep_a_round(table, 500);
            while model.walks[table].from.is_some() {
                model.walk_step(table, 100);
            }
            let keys: Vec<_> = model.expected[table].keys().cloned().collect();
            keys.iter().for_each(|key| model.remove(table, key));
        }
        model.check();
        assert_eq!(model.arena.bytes_used(), 0);
    }
}
