use super::*;
use crate::checkpoint::read::{Reader, Taken};
use crate::checkpoint::write::{What, Writer};
use crate::effect::effects;
use crate::evict::Eviction;
use crate::log::{DirectoryId, LogIdentity};
use crate::slot::Partitions;
use crate::store::{Store, StoreConfig};
use catena_engine::rng::Rng;
use catena_engine::shard_index::ShardIndex;

const EPOCH: u32 = 3;

/// What a session is by definition: all entries that were ordered, looked through each time.
#[derive(Default)]
struct Oracle {
    entries: Vec<Entry>,
}

#[derive(Clone)]
enum Entry {
    Open,
    Close(SessionId),
    Request { of: Numbered, status: u16, result: Vec<u8> },
}

impl Entry {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let effect = match self {
            Entry::Open => EffectRef::OpenSession { lifetime_ms: 5_000 },
            Entry::Close(session) => EffectRef::CloseSession { session: *session },
            Entry::Request { of, status, result } => EffectRef::Request(RequestRef {
                session: of.session,
                number: of.number,
                first_unanswered: of.first_unanswered,
                status: *status,
                result,
            }),
        };
        effect.encode(&mut bytes);
        bytes
    }
}

fn id(index: u64) -> SessionId {
    SessionId { epoch: EPOCH, index }
}

impl Oracle {
    fn lookup(&self, request: &Numbered) -> Lookup<'_> {
        let (mut is_open, mut low) = (false, 0);
        let mut known = Vec::new();
        for (index, entry) in (1..).zip(&self.entries) {
            match entry {
                Entry::Open if id(index) == request.session => is_open = true,
                Entry::Close(session) if *session == request.session => is_open = false,
                Entry::Request { of, status, result } if of.session == request.session => {
                    low = low.max(of.first_unanswered);
                    known.push((index, of.number, *status, result));
                }
                _ => {}
            }
        }
        let low = low.max(request.first_unanswered);
        if !is_open {
            return Lookup::NoSession;
        } else if request.number < low {
            return Lookup::Forgotten;
        }
        let found = known.iter().find(|(_, number, ..)| *number == request.number);
        match found {
            Some(&(index, _, status, result)) => Lookup::Known { status, result, index },
            None if request.number - low >= WINDOW => Lookup::Full,
            None => Lookup::New,
        }
    }
}

/// Sessions, of which the first `committed` entries of an oracle have committed.
fn taken_in(entries: &[Entry], committed: usize) -> Sessions {
    let mut sessions = Sessions::default();
    for (index, entry) in (1..).zip(entries) {
        let bytes = entry.bytes();
        effects(&bytes).for_each(|effect| sessions.order(id(index), &effect.expect("an effect")));
    }
    for entry in &entries[..committed] {
        let bytes = entry.bytes();
        effects(&bytes).for_each(|effect| sessions.commit(&effect.expect("an effect")));
    }
    sessions
}

fn some_request(rng: &mut Rng, oracle: &Oracle) -> Numbered {
    let session = id(1 + rng.next_u64() % (oracle.entries.len() as u64 + 1).min(12));
    let far = if rng.next_u64().is_multiple_of(50) { WINDOW } else { 0 };
    let first_unanswered = (oracle.entries.len() as u64 / 16).saturating_sub(rng.next_u64() % 6);
    let number = first_unanswered + far + rng.next_u64() % 12;
    Numbered { session, number, first_unanswered }
}

#[test]
fn look_ups_are_those_of_the_definition_also_after_a_checkpoint_and_a_crash() {
    for seed in 1..200 {
        let mut rng = Rng::from_seed(seed);
        let mut oracle = Oracle::default();
        let mut sessions = Sessions::default();
        let mut committed = 0;
        for step in 0..400 {
            let request = some_request(&mut rng, &oracle);
            assert_eq!(sessions.lookup(&request), oracle.lookup(&request), "{seed}, step {step}");
            let entry = match rng.next_u64() % 40 {
                0 => Entry::Open,
                1 => Entry::Close(request.session),
                _ if oracle.lookup(&request) == Lookup::New => Entry::Request {
                    of: request,
                    status: step as u16,
                    result: vec![step as u8; (rng.next_u64() % 40) as usize],
                },
                _ => Entry::Open,
            };
            if !matches!(entry, Entry::Open) || step < 12 {
                let bytes = entry.bytes();
                let effect = EffectRef::decode(&mut &bytes[..]).expect("an effect");
                oracle.entries.push(entry);
                sessions.order(id(oracle.entries.len() as u64), &effect);
            }
            while committed < oracle.entries.len() && rng.next_u64().is_multiple_of(2) {
                let bytes = oracle.entries[committed].bytes();
                sessions.commit(&EffectRef::decode(&mut &bytes[..]).expect("an effect"));
                committed += 1;
            }
            if rng.next_u64().is_multiple_of(30) {
                sessions = crash(&sessions, &mut oracle, committed);
            }
        }
    }
}

/// What was not committed is lost; a checkpoint brings back what was.
fn crash(sessions: &Sessions, oracle: &mut Oracle, committed: usize) -> Sessions {
    let mut bytes = Vec::new();
    sessions.encode(committed as u64, &mut bytes, |_| {});
    oracle.entries.truncate(committed);
    let mut restored = Sessions::default();
    assert_eq!(restored.restore(&bytes), Ok(()));
    let replayed = taken_in(&oracle.entries, committed);
    assert_eq!(format!("{restored:?}"), format!("{replayed:?}"), "a checkpoint is what was logged");
    assert_eq!(restored.bytes(), restored.list.values().map(Session::bytes).sum::<u64>());
    restored
}

fn numbered(session: SessionId, number: u64) -> Numbered {
    Numbered { session, number, first_unanswered: 0 }
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut sessions = taken_in(&[Entry::Open], 1);
    let result = vec![7; 4_096];
    let mut index = 1;
    let mut order = |sessions: &mut Sessions, number: u64, first_unanswered: u64| {
        index += 1;
        let of = Numbered { session: id(1), number, first_unanswered };
        let bytes = Entry::Request { of, status: 0, result: result.clone() }.bytes();
        sessions.order(id(index), &EffectRef::decode(&mut &bytes[..]).expect("an effect"));
    };
    for number in 0..16 {
        assert_eq!(sessions.lookup(&numbered(id(1), number)), Lookup::New);
        order(&mut sessions, number, 0);
    }
    assert_eq!(sessions.lookup(&numbered(id(1), 16)), Lookup::Full, "64 KiB are remembered");
    let next = Numbered { session: id(1), number: 16, first_unanswered: 1 };
    assert_eq!(sessions.lookup(&next), Lookup::New, "it has room as soon as one is forgotten");
    let before = sessions.bytes();
    order(&mut sessions, 16, 15);
    sessions.commit(&EffectRef::Request(RequestRef {
        session: id(1),
        number: 16,
        first_unanswered: 15,
        status: 0,
        result: &[],
    }));
    assert!(sessions.bytes() < before / 4, "{} bytes of {before}", sessions.bytes());
}

#[test]
fn who_is_not_used_for_its_lifetime_is_told() {
    let mut sessions = taken_in(&[Entry::Open, Entry::Open], 2);
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    let unused = |sessions: &mut Sessions, at| sessions.unused(at).collect::<Vec<_>>();
    assert_eq!(unused(&mut sessions, at(100)), [], "nobody knows since when");
    assert!(sessions.keep(id(2), at(103)));
    assert_eq!(unused(&mut sessions, at(104)), []);
    assert_eq!(unused(&mut sessions, at(105)), [id(1)]);
    sessions.order(id(3), &EffectRef::CloseSession { session: id(1) });
    assert_eq!(unused(&mut sessions, at(106)), [], "its end was ordered");
    assert!(!sessions.keep(id(1), at(106)));
    assert_eq!(sessions.lookup(&numbered(id(1), 0)), Lookup::NoSession);
}

fn store(shard: u16, shards: u16) -> Store {
    Store::in_memory(StoreConfig {
        partitions: Partitions::new(4).expect("a power of two"),
        shard: ShardIndex(shard),
        shards,
        hash_seed: 7,
        epoch: EPOCH,
        value_bytes_max: 1 << 20,
        memory_bytes_max: 1 << 30,
        eviction: Eviction::None,
    })
}

fn lookup<'s>(store: &'s Store, partition: u16, request: &Numbered) -> Lookup<'s> {
    let place = usize::from(partition - store.own_partitions().start);
    store.partitions()[place].sessions().lookup(request)
}

#[test]
fn a_checkpoint_brings_them_onto_another_number_of_shards() {
    let mut one = store(0, 1);
    for partition in 0..4_u16 {
        let mut keyspace = one.keyspace(usize::from(partition), 1);
        let opens = EffectRef::OpenSession { lifetime_ms: 1_000 };
        let opened = keyspace.write_all(&[opens]).expect("no log");
        let session = SessionId { epoch: opened.epoch, index: opened.index };
        let result = [partition as u8; 30];
        let request =
            RequestRef { session, number: 5, first_unanswered: 2, status: 9, result: &result };
        keyspace.write_all(&[EffectRef::Request(request)]).expect("no log");
    }
    one.clear().expect("no log");
    assert_eq!(one.memory().sessions(), 4, "FLUSHALL deletes keys alone");
    let log = LogIdentity { directory: DirectoryId([1; 16]), incarnation: 1, shard: 0 };
    let (mut writer, mut frames) = (Writer::new(What::Checkpoint), Vec::new());
    while !writer.step(&mut one, (&log, 1), 10, &mut frames) {}
    for (shard, own) in [(0, 0..2), (1, 2..4)] {
        let mut half = store(shard, 2);
        let taken = Reader::new(log, 1).take(&frames, &mut half);
        assert!(matches!(taken, Ok(Taken::Finished { .. })), "{taken:?}");
        for partition in own {
            let [again, gone] =
                [5, 1].map(|number| numbered(SessionId { epoch: EPOCH, index: 1 }, number));
            let known = lookup(&half, partition, &again);
            let result = [partition as u8; 30];
            assert_eq!(known, Lookup::Known { status: 9, result: &result, index: 2 });
            assert_eq!(lookup(&half, partition, &gone), Lookup::Forgotten);
        }
        assert_eq!(half.memory().sessions(), 2);
        assert!(half.memory().bytes_used() > store(shard, 2).memory().bytes_used());
    }
}

#[test]
fn who_goes_on_is_not_stopped_by_those_who_stay_away() {
    let mut sessions = Sessions::default();
    let mut index = 0;
    let mut answer = |sessions: &mut Sessions, session, number, first_unanswered| {
        let asked = Numbered { session, number, first_unanswered };
        if sessions.lookup(&asked) != Lookup::New {
            return false;
        }
        index += 1;
        let (status, result) = (0, &[0; 20][..]);
        let request = RequestRef { session, number, first_unanswered, status, result };
        sessions.order(id(1_000_000 + index), &EffectRef::Request(request));
        true
    };
    let open = |sessions: &mut Sessions, index| {
        sessions.order(id(index), &EffectRef::OpenSession { lifetime_ms: 60_000 });
        id(index)
    };
    let one = open(&mut sessions, 1);
    assert!((0..4).all(|number| answer(&mut sessions, one, number, 0)));
    let other = open(&mut sessions, 2);
    let mut next = 3;
    while sessions.bytes() < PARTITION_BYTES_MAX {
        let away = open(&mut sessions, next);
        (0..100).for_each(|number| _ = answer(&mut sessions, away, number, 0));
        next += 1;
    }
    assert!(!answer(&mut sessions, one, 4, 0), "it would remember more");
    assert!(answer(&mut sessions, one, 4, 2), "0 and 1 are forgotten for it");
    assert!(!answer(&mut sessions, one, 5, 2), "and for no other");
    assert!(answer(&mut sessions, one, 5, 4));
    assert!(answer(&mut sessions, other, 0, 0), "it has nothing yet");
    assert!(!answer(&mut sessions, other, 1, 0));
    assert!(answer(&mut sessions, other, 1, 1));
}
