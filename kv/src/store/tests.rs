//! A store whose log gathers and is never written.

use super::*;
use crate::disk::journal::Bell;
use crate::log::batch::{Action, LogWriter, WriterConfig};
use crate::log::segment::Segment;
use crate::log::{DirectoryId, LogIdentity, LogStart};
use crate::slot::Partitions;
use crate::upkeep::{Step, Upkeep};

fn in_memory(partitions: u16, memory_bytes_max: u64) -> Store {
    Store::in_memory(StoreConfig {
        partitions: Partitions::new(partitions).expect("a power of two"),
        shard: ShardIndex(0),
        shards: 1,
        hash_seed: 7,
        epoch: 1,
        value_bytes_max: 2 << 20,
        memory_bytes_max,
        eviction: Eviction::Lru,
    })
}

fn begin_log(store: &mut Store, durability: Durability) {
    let (segment_bytes, batch_bytes_max) = (1 << 26, 1 << 26);
    let partitions = store.config().partitions.count();
    let config = WriterConfig { segment_bytes, batch_bytes_max, partitions };
    store.begin_log(LogWriter::new(config, LogStart::NEW), Bell::default(), durability);
}

fn store(durability: Durability) -> Store {
    let mut store = in_memory(4, 1 << 30);
    begin_log(&mut store, durability);
    store
}

/// The log has prepared, written and synced whatever it wanted to.
fn log_runs(store: &mut Store) {
    while let Some(action) = store.log_action() {
        match action {
            Action::Prepare { number, bytes } => {
                let log = LogIdentity { directory: DirectoryId([1; 16]), incarnation: 1, shard: 0 };
                store.log_prepared(Segment { log, number, bytes, seed: 1 });
            }
            Action::Write { buffer, .. } => {
                let bytes = buffer.bytes().len();
                store.log_written(buffer, Ok(bytes));
            }
            Action::Sync { .. } => store.log_synced(Ok(())),
        }
    }
}

fn put(store: &mut Store, key: &str, value: &[u8], expires_at: Option<u64>) {
    let place = store.place_of(Slot::of(key.as_bytes())).expect("there is one shard");
    let mut keyspace = store.keyspace(place, 1);
    let key = keyspace.key(key.as_bytes()).expect("a short key");
    keyspace.put(&key, value, expires_at).expect("the log takes it");
}

#[test]
fn a_checkpoint_waits_for_the_log_unless_that_waits_for_room() {
    for (durability, waits) in [(Durability::Sync, false), (Durability::Batch, true)] {
        let mut store = store(durability);
        put(&mut store, "key", b"value", None);
        let (appended, durable) = store.log_entries();
        assert_eq!((appended, durable), (1, 0));
        assert_eq!(store.log_has(appended), !waits, "{durability}");
        store.set_log_hindrance(Some("no space".to_owned()));
        assert!(store.log_has(appended), "it may be this checkpoint that makes room");
    }
}

#[test]
fn no_more_is_given_up_than_is_needed_while_deletions_are_on_their_way() {
    let mut store = in_memory(4, 4 << 20);
    let mut rng = Rng::from_seed(1);
    let mut number = 0;
    let mut next = || {
        number += 1;
        format!("key-{number}")
    };
    while store.has_memory() {
        put(&mut store, &next(), &[7; 100], None);
    }
    begin_log(&mut store, Durability::Sync);
    let keys = store.len();
    for _ in 0..1_000 {
        assert!(store.make_room(1, || rng.next_u64()));
        put(&mut store, &next(), &[7; 100], None);
    }
    assert!(
        store.counters().evicted < 10,
        "{} were given up for nothing",
        store.counters().evicted
    );
    for _ in 0..20 {
        log_runs(&mut store);
        for _ in 0..100 {
            assert!(store.make_room(1, || rng.next_u64()));
            put(&mut store, &next(), &[7; 100], None);
        }
    }
    log_runs(&mut store);
    assert!(store.bytes_used() < (4 << 20) + (1 << 18), "{} bytes", store.bytes_used());
    assert!(store.len() > keys * 9 / 10, "{} of {keys}", store.len());
    assert_eq!(store.leaving_mut().bytes(), 0);
}

#[test]
fn writes_do_not_wait_for_keys_that_cannot_be_given_up() {
    let mut store = in_memory(1, 1 << 20);
    for number in 0..10 {
        put(&mut store, &format!("key-{number}"), &vec![7; 1 << 18], None);
    }
    begin_log(&mut store, Durability::Sync);
    log_runs(&mut store);
    for number in 0..10 {
        put(&mut store, &format!("key-{number}"), &[7; 100], None);
    }
    let mut rng = Rng::from_seed(1);
    assert!(store.make_room(1, || rng.next_u64()), "all of them are being changed");
    assert!(store.excess_bytes() > 1 << 20 && !store.is_behind());
    assert_eq!(store.counters().evicted, 0);
}

#[test]
fn writes_do_not_wait_for_deletions_that_are_on_their_way() {
    let mut store = in_memory(1, 1 << 20);
    for number in 0..40 {
        put(&mut store, &format!("key-{number}"), &vec![7; 1 << 16], None);
    }
    begin_log(&mut store, Durability::Sync);
    log_runs(&mut store);
    let mut rng = Rng::from_seed(1);
    while !store.has_memory() {
        store.keep_bound(1, || rng.next_u64());
    }
    store.keep_bound(1, || rng.next_u64());
    assert!(store.bytes_used() > 2 << 20, "they are not on the disk");
    assert_eq!((store.excess_bytes(), store.is_behind()), (0, false));
}

#[test]
fn what_was_put_together_for_a_moment_is_given_back() {
    let mut store = store(Durability::Sync);
    for large in [false, true] {
        store.common.scratch = vec![0; SCRATCH_KEPT_BYTES + usize::from(large)];
        Upkeep::default().step(&mut store, 1, || 0);
        assert_eq!(store.common.scratch.capacity() == 0, large);
    }
}

#[test]
fn nothing_is_given_up_while_the_disk_waits_for_room() {
    let mut store = in_memory(1, 1 << 20);
    for number in 0..40 {
        put(&mut store, &format!("key-{number}"), &vec![7; 1 << 16], None);
    }
    begin_log(&mut store, Durability::Sync);
    let mut rng = Rng::from_seed(1);
    let mut keeps = |store: &mut Store| {
        store.keep_bound(1, || rng.next_u64());
        let may_write = store.make_room(1, || rng.next_u64());
        (may_write, store.counters().evicted, store.is_behind())
    };
    assert_eq!(keeps(&mut store), (true, 0, false), "there is no segment yet");
    log_runs(&mut store);
    store.set_log_hindrance(Some("no space".to_owned()));
    assert_eq!(keeps(&mut store), (true, 0, false));
    store.set_log_hindrance(None);
    assert!(keeps(&mut store).1 > 0);
}

#[test]
fn keys_of_one_partition_among_many_are_given_up() {
    let mut store = in_memory(256, 4 << 20);
    let mut rng = Rng::from_seed(1);
    for number in 0..60_000 {
        assert!(store.make_room(1, || rng.next_u64()), "{number} keys");
        put(&mut store, &format!("{{app}}{number}"), &[7; 100], None);
    }
}

#[test]
fn who_is_told_that_a_key_is_gone_waits_for_what_says_so() {
    let mut store = in_memory(1, 1 << 30);
    put(&mut store, "key", b"value", None);
    begin_log(&mut store, Durability::Sync);
    let mut keyspace = store.keyspace(0, 1);
    let key = keyspace.key(b"key").expect("a short key");
    keyspace.expire(&key, Some(2)).expect("the log takes it");
    let gate = keyspace.seen().index;
    assert!(gate.is_some());
    // Nothing more fits, so its end cannot be logged.
    store.set_log_hindrance(Some("no space".to_owned()));
    let mut keyspace = store.keyspace(0, 3);
    let key = keyspace.key(b"key").expect("a short key");
    assert!(keyspace.get(&key).is_none());
    assert_eq!(keyspace.seen().index, gate);
}

#[test]
fn upkeep_rests_while_nothing_can_be_ended() {
    let mut store = in_memory(1, 1 << 30);
    for number in 0..20_000 {
        put(&mut store, &format!("key-{number}"), b"", Some(2));
    }
    begin_log(&mut store, Durability::Sync);
    store.set_log_hindrance(Some("no space".to_owned()));
    let mut upkeep = Upkeep::default();
    let steps = (0..2_000).map(|_| upkeep.step(&mut store, 3, || 0));
    let more = steps.filter(|step| matches!(step, Step::More)).count();
    assert!(more < 500, "{more} of 2,000 steps ask for another at once");
    assert_eq!(store.counters().expired, 0);
}

#[test]
fn what_was_in_flight_leaves_little_memory_behind() {
    let mut store = store(Durability::Sync);
    for number in 0..40 {
        put(&mut store, &format!("key-{}", number % 4), &vec![7; 1 << 20], None);
        log_runs(&mut store);
    }
    let kept: usize = store.partitions().iter().map(Partition::in_flight_bytes).sum();
    assert!(kept <= 4 * 64 * 1_024, "{kept} bytes");
}
