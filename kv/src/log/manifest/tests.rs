use super::*;
use proptest::prelude::*;

fn identity() -> Identity {
    Identity {
        directory: DirectoryId([0xAB; 16]),
        partitions: 256,
        hash_seed: u64::MAX,
        incarnation: 7,
        served: Some(Served { incarnation: 6, shards: 2 }),
    }
}

fn manifest() -> Manifest {
    let end = LogEnd { segment: 4, offset: 8_192, crc: u32::MAX };
    Manifest {
        directory: DirectoryId([0xAB; 16]),
        incarnation: 7,
        shard: 1,
        shards: 2,
        start: LogStart { segment: 3, prev_crc: 5, prev_batch: u32::MAX },
        last_segment: 6,
        checkpoint: Some(Checkpoint { number: 2, crc: 9 }),
        older: vec![
            OlderLog { incarnation: 6, shard: 0, end },
            OlderLog { incarnation: 6, shard: 1, end },
        ],
    }
}

/// A document with another line in place of one, and the checksum that it then has.
fn changed(content: &str, line: &str, other: &str) -> String {
    let (body, _) = content.rsplit_once(CHECKSUM).unwrap();
    assert!(body.contains(line), "{body}");
    let body = body.replacen(line, other, 1);
    format!("{body}{CHECKSUM}{:08x}\n", crc32c::crc32c(body.as_bytes()))
}

#[test]
fn documents_are_read_as_they_were_written() {
    assert_eq!(Identity::decode(identity().encode().as_bytes(), "IDENTITY"), Ok(identity()));
    assert_eq!(Manifest::decode(manifest().encode().as_bytes(), "MANIFEST"), Ok(manifest()));
    let unserved = Identity { served: None, ..identity() };
    assert_eq!(Identity::decode(unserved.encode().as_bytes(), "IDENTITY"), Ok(unserved));
    let bare = Manifest { checkpoint: None, older: vec![], last_segment: 2, ..manifest() };
    assert_eq!(Manifest::decode(bare.encode().as_bytes(), "MANIFEST"), Ok(bare));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let content = manifest().encode().into_bytes();
    for bit in 0..content.len() * 8 {
        let mut content = content.clone();
        content[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&content, "MANIFEST").is_err(), "bit {bit}");
    }
}

#[test]
fn what_is_cut_short_is_noticed() {
    let content = manifest().encode().into_bytes();
    for length in 0..content.len() {
        assert!(Manifest::decode(&content[..length], "MANIFEST").is_err(), "{length} bytes");
    }
}

#[test]
fn errors_name_file_and_field() {
    for (line, other, said) in [
        ("incarnation = 7", "incarnation = 0", "incarnation has to be 1 or more"),
        ("shard = 1", "shard = 2", "shard has to be less than shards"),
        ("first_segment = 3", "first_segment = 0", "log.first_segment has to be 1 or more"),
        (
            "last_segment = 6",
            "last_segment = 1",
            "log.last_segment has to be log.first_segment - 1",
        ),
        ("incarnation = 6", "incarnation = 7", "older.incarnation has to be of a start before"),
        ("offset = 8192", "offset = 4096", "older.offset has to be behind"),
        ("shard = 0", "shard = 1", "older.shard has to be once"),
        ("abababab", "ABABABAB", "directory has to be 32 hexadecimal digits"),
        ("version = 1", "version = 2", "it is of version 2, and this program reads 1"),
        ("shards = 2", "shards = 2\nsherds = 3", "unknown field `sherds`"),
    ] {
        let content = changed(&manifest().encode(), line, other);
        let error = Manifest::decode(content.as_bytes(), "gen-7/shard-1/MANIFEST").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("gen-7/shard-1/MANIFEST cannot be used: "), "{text}");
        assert!(text.contains(said), "{text}");
    }
    for (line, other, said) in [
        ("partitions = 256", "partitions = 255", "partitions has to be a power of two"),
        ("partitions = 256", "partitions = 2048", "partitions has to be a power of two"),
        ("ffffffffffffffff", "fff", "hash_seed has to be 16 hexadecimal digits"),
    ] {
        let content = changed(&identity().encode(), line, other);
        let text = Identity::decode(content.as_bytes(), "IDENTITY").unwrap_err().to_string();
        assert!(text.contains(said), "{text}");
    }
}

proptest! {
    #[test]
    fn garbage_is_read_without_a_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::decode(&content, "MANIFEST").is_err());
        prop_assert!(Identity::decode(&content, "IDENTITY").is_err());
    }
}
