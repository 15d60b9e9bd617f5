use super::*;

fn life(node: u16, incarnation: u64) -> Life {
    Life { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

fn one_of_each_kind() -> Vec<Message> {
    let serving = |life| Member { life, role: Role::Serving };
    let syncing = Member { life: life(9, 1), role: Role::Syncing };
    let members = vec![serving(life(3, 1)), serving(life(1, 70_000)), syncing];
    let chain = Chain::new(7, members).expect("it is one");
    let (asked_at, length) = (Instant::from_nanos(u64::MAX - 5), Duration::from_millis(300));
    let epochs = vec![(0, 1), (17, 4), (1 << 40, u32::MAX)];
    let entries = Entries { link: 1, first: 2, count: 3, upstream_durable: u64::MAX, committed: 5 };
    let position = Position { received: 9, committed: 8, epochs: epochs.clone(), is_void: true };
    vec![
        Message::Heartbeat {
            ask: Ask { asked_at, length },
            chain: chain.clone(),
            accused: vec![life(3, 1), life(9, 1)],
        },
        Message::Granted(Some(Grant { to: life(1, 2), asked_at, length })),
        Message::Granted(None),
        Message::Stale(chain),
        Message::Open { link: 4 },
        Message::Opened { link: 4, position },
        Message::Begin { link: 4, start: Start::Behind(77) },
        Message::Begin { link: 4, start: Start::Snapshot { as_of: 78, epochs } },
        Message::Piece { link: 4, number: 7, is_last: false },
        Message::Piece { link: 5, number: 0, is_last: true },
        Message::Durable { link: 4, index: 6 },
        Message::Join { heard: vec![life(2, 2)] },
        Message::Heard,
        Message::Entries(entries),
        Message::Committed { link: 3, committed: 2 },
        Message::Closed { link: 3 },
        Message::Query { number: 11 },
        Message::Told { number: 11, committed: 12 },
    ]
}

fn envelope(message: Message) -> Envelope {
    Envelope { from: life(u16::MAX, u64::MAX), to: life(2, 3), epoch: 0xdead_beef, message }
}

#[test]
fn what_is_said_is_what_is_heard() {
    let mut bytes = Vec::new();
    let messages = one_of_each_kind();
    for (partition, message) in (0..).zip(&messages) {
        encode(partition, &envelope(message.clone()), &mut bytes, |beside| {
            beside.extend_from_slice(&[7; 3][..usize::from(partition % 4)]);
        });
    }
    let mut rest = &bytes[..];
    for (partition, message) in (0..).zip(messages) {
        let received = decode(&mut rest).expect("it was written here");
        let beside = &[7; 3][..usize::from(partition % 4)];
        assert_eq!(received, Received { partition, envelope: envelope(message), beside });
    }
    assert!(rest.is_empty());
}

#[test]
fn what_is_cut_short_is_refused() {
    for message in one_of_each_kind() {
        let mut bytes = Vec::new();
        encode(1, &envelope(message.clone()), &mut bytes, |_| {});
        for length in 0..bytes.len() {
            assert!(decode(&mut &bytes[..length]).is_err(), "{message:?} in {length} bytes");
        }
        // Its own length says that it ends before its fields do.
        for less in 1..bytes.len() - 4 {
            let mut short = bytes[..bytes.len() - less].to_vec();
            let length = short.len() as u32 - 4;
            short[..4].copy_from_slice(&length.to_le_bytes());
            assert!(decode(&mut &short[..]).is_err(), "{message:?} without {less} bytes");
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let mut bytes = Vec::new();
    encode(1, &envelope(Message::Heard), &mut bytes, |_| {});
    let kind = bytes.len() - 1;
    for unknown in [0, 18, 255] {
        bytes[kind] = unknown;
        assert!(decode(&mut &bytes[..]).is_err(), "kind {unknown}");
    }
    // A chain of nobody.
    let mut nobody = Vec::new();
    encode(1, &envelope(Message::Heard), &mut nobody, |beside| beside.extend([1, 0, 0, 0, 0]));
    nobody[kind] = 4;
    assert_eq!(decode(&mut &nobody[..]), Err(Malformed("members that are no chain")));
}

#[test]
fn entries_go_beside_messages() {
    let mut bytes = Vec::new();
    let entries = [(1, &b""[..]), (u32::MAX, b"effects")];
    let entries = entries.map(|(epoch, payload)| EntryRef { epoch, payload });
    for EntryRef { epoch, payload } in entries {
        push_entry(&mut bytes, epoch, |out| out.extend_from_slice(payload));
    }
    let mut rest = &bytes[..];
    assert_eq!(entries.map(|_| take_entry(&mut rest).expect("it is there")), entries);
    assert!(rest.is_empty());
    assert!(take_entry(&mut &bytes[..bytes.len() - 1][8..]).is_err());
}
