use super::*;
use catena_engine::MethodId;
use proptest::prelude::*;

const VERSION: Version = Version { epoch: 7, index: 0x0102_0304_0506_0708 };
const SESSION: SessionId = SessionId { epoch: 7, index: 9 };
const NUMBERED: Numbered = Numbered { session: SESSION, number: 5, first_unanswered: 3 };

fn changes() -> Vec<Change<'static>> {
    let put = |value, expiry| Action::Put { value, expiry };
    let change = |condition, key, action| Change { condition, key, action };
    vec![
        change(Condition::None, b"a", put(b"value", Expiry::Never)),
        change(Condition::Absent, b"b", put(b"", Expiry::Keep)),
        change(Condition::Version(VERSION), b"c", put(b"v", Expiry::In(250))),
        change(Condition::Present, b"d", Action::Delete),
        change(Condition::None, b"", Action::Expire(Expiry::At(1 << 40))),
        change(Condition::None, b"n", Action::Add(-2)),
        change(Condition::Version(VERSION), b"o", Action::Check),
    ]
}

fn info() -> Info {
    let shard = |port, first, end| ShardInfo { port, first, end };
    Info { partitions: 256, epoch: 7, shards: vec![shard(7001, 0, 128), shard(0, 128, 256)] }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

/// Every layout, by what it is.
fn examples() -> Vec<(String, Vec<u8>)> {
    let got = Got { version: VERSION, expires_at: Some(300), value: b"value" };
    let scanned = Scanned { version: VERSION, expires_at: None, key: b"key" };
    let mut all = vec![
        ("info answer", written(|out| info().encode(out))),
        ("get answer", [&got.head()[..], got.value].concat()),
        (
            "scan request",
            written(|out| ScanRequest { partition: 3, from: 1 << 31, count: 10 }.encode(out)),
        ),
        (
            "scan answer",
            written(|out| {
                out.extend_from_slice(&[0, 0, 0, 0, 0x90]);
                scanned.encode(out);
            }),
        ),
        ("session open request", written(|out| encode_open(3, 60_000, out))),
        ("session close request", written(|out| encode_session(3, SESSION, out))),
        ("write request", written(|out| Write::encode(Some(NUMBERED), &changes(), out))),
    ];
    for change in &changes() {
        let bytes = written(|out| Write::encode(None, std::slice::from_ref(change), out));
        all.push(("write request", bytes));
    }
    let mut all: Vec<_> = all.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    for method in METHODS {
        all.push((method.to_owned(), MethodId::of(method).0.to_le_bytes().to_vec()));
    }
    all
}

/// Whatever has once been written by a client is read by every later version.
#[test]
fn layouts_are_those_of_the_file() {
    let text: String = examples()
        .iter()
        .map(|(name, bytes)| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{name}: {hex}\n")
        })
        .collect();
    assert_eq!(text, include_str!("golden.txt"), "layouts are for ever");
}

#[test]
fn what_is_written_is_read() {
    for numbered in [None, Some(NUMBERED)] {
        let bytes = written(|out| Write::encode(numbered, &changes(), out));
        let write = Write::decode(&bytes).expect("it was encoded");
        assert_eq!(write.numbered, numbered);
        assert_eq!(write.changes().collect::<Vec<_>>(), changes());
        for length in 0..bytes.len() {
            assert!(Write::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Write::decode(&longer).is_err());
    }
    assert_eq!(Info::decode(&written(|out| info().encode(out))), Ok(info()));
    let request = ScanRequest { partition: 3, from: 9, count: 10 };
    assert_eq!(ScanRequest::decode(&written(|out| request.encode(out))), Ok(request));
    assert_eq!(decode_open(&written(|out| encode_open(3, 60, out))), Ok((3, 60)));
    assert_eq!(decode_session(&written(|out| encode_session(3, SESSION, out))), Ok((3, SESSION)));
    let got = Got { version: VERSION, expires_at: None, value: b"v" };
    assert_eq!(Got::decode(&[&got.head()[..], b"v"].concat()), Ok(got));
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let of = |numbered: Numbered| {
        let bytes = written(|out| Write::encode(Some(numbered), &changes()[..1], out));
        Write::decode(&bytes).map(drop)
    };
    assert!(
        of(Numbered { number: 2, ..NUMBERED }).is_ok(),
        "what it means is for the session to say"
    );
    let none = SessionId { epoch: 0, index: 0 };
    assert!(of(Numbered { session: none, ..NUMBERED }).is_err(), "a number without a session");
}

proptest! {
    #[test]
    fn garbage_is_read_without_a_panic(bytes in prop::collection::vec(0..6_u8, 0..120)) {
        let _any = (Info::decode(&bytes), Scanned::page(&bytes), Got::decode(&bytes));
        if let Ok(write) = Write::decode(&bytes) {
            prop_assert_eq!(write.changes().count(), write.len());
        }
    }
}
