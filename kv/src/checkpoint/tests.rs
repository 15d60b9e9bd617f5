//! What is written can be read again, whatever is in it.

use super::format::{self, Decoded, Kind};
use super::read::{Reader, Taken};
use super::write::{What, Writer};
use crate::evict::Eviction;
use crate::log::{DirectoryId, LogIdentity};
use crate::slot::Partitions;
use crate::store::{Store, StoreConfig};
use catena_engine::shard_index::ShardIndex;

const LOG: LogIdentity = LogIdentity { directory: DirectoryId([1; 16]), incarnation: 1, shard: 0 };

fn store() -> Store {
    Store::in_memory(StoreConfig {
        partitions: Partitions::new(1).expect("a power of two"),
        shard: ShardIndex(0),
        shards: 1,
        hash_seed: 7,
        epoch: 1,
        value_bytes_max: 1 << 20,
        memory_bytes_max: 1 << 30,
        eviction: Eviction::None,
    })
}

fn put(store: &mut Store, key: u32, value: &[u8]) {
    let (mut keyspace, key) = (store.keyspace(0, 1), key.to_le_bytes());
    let key = keyspace.key(&key).expect("a short key");
    keyspace.put(&key, value, None).expect("no log");
}

/// The lengths of the payloads of all frames of entries.
fn frames_of_entries(mut file: &[u8]) -> Vec<usize> {
    let (mut lengths, mut crc) = (Vec::new(), 0);
    while !file.is_empty() {
        let Ok(Decoded::Frame(frame)) = format::decode(file, crc) else { panic!("no frame") };
        crc = frame.crc;
        file = &file[frame.bytes()..];
        if frame.kind == Kind::Entries {
            lengths.push(frame.payload.len());
        }
    }
    lengths
}

fn read_again(file: &[u8]) -> Store {
    let mut again = store();
    let taken = Reader::new(LOG, 1).take(file, &mut again);
    assert!(matches!(taken, Ok(Taken::Finished { .. })), "{taken:?}");
    again
}

#[test]
fn a_large_value_has_a_frame_of_its_own() {
    let mut store = store();
    let value = vec![7; 1 << 20];
    (0..50).for_each(|key| put(&mut store, key, &value));
    let (mut writer, mut file) = (Writer::new(What::Checkpoint), Vec::new());
    loop {
        let before = file.len();
        let is_done = writer.step(&mut store, (&LOG, 1), 64, &mut file);
        assert!(file.len() - before < value.len() + 1_000, "a step is of one value at most");
        if is_done {
            break;
        }
    }
    let lengths = frames_of_entries(&file);
    assert_eq!((lengths.len(), lengths.iter().max()), (50, Some(&(8 + 7 + 4 + value.len()))));
    assert_eq!(read_again(&file).len(), 50);
}

#[test]
fn what_is_saved_while_nothing_is_written_is_cut_into_frames() {
    const KEYS: u32 = 20_000;
    let mut store = store();
    (0..KEYS).for_each(|key| put(&mut store, key, b"before"));
    let (mut writer, mut file) = (Writer::new(What::Checkpoint), Vec::new());
    // The walk has begun, and the disk stands still.
    (0..2).for_each(|_| _ = writer.step(&mut store, (&LOG, 1), 1, &mut file));
    (0..KEYS).for_each(|key| put(&mut store, key, &[7; 20_000][..usize::from(key as u8)]));
    while !writer.step(&mut store, (&LOG, 1), 64, &mut file) {}
    let lengths = frames_of_entries(&file);
    assert!(lengths.len() > 5 && lengths.iter().all(|length| *length < 70_000), "{lengths:?}");
    let mut again = read_again(&file);
    assert_eq!(again.len(), KEYS as usize);
    let (mut keyspace, key) = (again.keyspace(0, 1), 9_u32.to_le_bytes());
    let key = keyspace.key(&key).expect("a short key");
    assert_eq!(keyspace.get(&key).expect("it is there").value, b"before");
}
