//! A store whose log gathers and is never written.

use super::*;
use crate::log::LogStart;
use crate::log::batch::WriterConfig;
use crate::slot::Partitions;

fn store(durability: Durability) -> Store {
    let partitions = Partitions::new(4).expect("a power of two");
    let mut store = Store::in_memory(StoreConfig {
        partitions,
        shard: ShardIndex(0),
        shards: 1,
        hash_seed: 7,
        epoch: 1,
        value_bytes_max: 1 << 20,
        memory_bytes_max: 1 << 30,
        eviction: Eviction::None,
    });
    let (segment_bytes, batch_bytes_max) = (1 << 20, 1 << 20);
    let config = WriterConfig { segment_bytes, batch_bytes_max, partitions: partitions.count() };
    store.begin_log(LogWriter::new(config, LogStart::NEW), Bell::default(), durability);
    store
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
