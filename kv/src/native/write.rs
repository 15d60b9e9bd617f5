//! `kv.write`: conditions, counters and expiries are resolved against the newest state, then all changes are
//! ordered as one entry, together with the result if the request has a number.

use super::status;
use super::wire::{Action, Change, Condition, Malformed, Write, push_version};
use crate::command::error::Error;
use crate::command::number::{Digits, integer};
use crate::effect::{EffectRef, RequestRef};
use crate::keyspace::Keyspace;
use crate::partition::Version;
use crate::session::{Lookup, Numbered};
use crate::slot::{Partition, Slot};
use crate::store::Store;
use crate::store::gate::{Elsewhere, Seen};
use catena_engine::Status;
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Instant;

/// What is known of a request beside its payload.
pub struct Asked<'a> {
    /// It may have been sent before.
    pub is_repeat: bool,
    /// Unix time in milliseconds.
    pub now_ms: u64,
    /// When it is, on the clock that does not leap.
    pub now: Instant,
    /// Random bits.
    pub random: &'a dyn Fn() -> u64,
}

/// What a request came to; its payload is where the caller wanted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// How it is answered.
    pub status: Status,
    /// The place of the partition, and what the answer depends on there.
    pub seen: Option<(usize, Seen)>,
}

impl Done {
    /// Nothing to wait for.
    pub fn now(status: Status) -> Self {
        Done { status, seen: None }
    }

    /// The keys are not for this node.
    pub fn elsewhere(answer: &mut Vec<u8>, Elsewhere(head): Elsewhere) -> Self {
        answer.clear();
        answer.extend(head.iter().flat_map(|node| node.0.to_le_bytes()));
        Done::now(status::WRONG_NODE)
    }
}

/// A change whose outcome is known.
#[derive(Clone, Copy)]
struct Resolved {
    /// The key is as before.
    is_idle: bool,
    expires_at: Option<u64>,
    /// Of a counter.
    value: i64,
}

/// Carries a write out, or not. `answer` is empty, and gets the payload.
pub fn write(
    store: &mut Store,
    write: &Write<'_>,
    asked: &Asked<'_>,
    answer: &mut Vec<u8>,
) -> Done {
    let place = match place_of(store, write) {
        Ok(place) => place,
        Err(Refused::Malformed(Malformed(text))) => return refuse(answer, Status::MALFORMED, text),
        Err(Refused::Elsewhere(shard)) => return wrong_shard(answer, shard),
    };
    if let Err(elsewhere) = store.admit(place, true) {
        return Done::elsewhere(answer, elsewhere);
    }
    if let Some(numbered) = &write.numbered
        && let Some(done) = known(store, place, numbered, asked, answer)
    {
        return done;
    }
    let grows = |change: Change<'_>| matches!(change.action, Action::Put { .. } | Action::Add(_));
    if write.changes().any(grows) {
        if store.is_behind() {
            let text = "the disk is behind, or keys are being given up for memory: later";
            return refuse(answer, Status::SHED, text);
        }
        if !store.make_room(asked.now_ms, asked.random) {
            return Done::now(status::OUT_OF_MEMORY);
        }
    }
    let mut keyspace = store.keyspace(place, asked.now_ms);
    match carry_out(&mut keyspace, write, asked, answer) {
        Ok(status) => Done { status, seen: Some((place, keyspace.seen())) },
        Err(error) => {
            answer.clear();
            refused(answer, &error)
        }
    }
}

/// What has refused before anything was ordered.
pub fn refused(answer: &mut Vec<u8>, error: &Error) -> Done {
    let status = match error {
        error if *error == Error::STOPPED => Status::UNAVAILABLE,
        error if *error == Error::KEY_TOO_LONG || *error == Error::TOO_LONG => Status::MALFORMED,
        // More is written than the disk takes, or it is full: later.
        _ => Status::SHED,
    };
    refuse(answer, status, &error.0)
}

/// A refusal in words.
pub fn refuse(answer: &mut Vec<u8>, status: Status, text: &str) -> Done {
    answer.extend_from_slice(text.as_bytes());
    Done::now(status)
}

/// The keys are another shard's.
pub fn wrong_shard(answer: &mut Vec<u8>, shard: ShardIndex) -> Done {
    answer.extend_from_slice(&(u32::from(shard.0) + 1).to_le_bytes());
    Done::now(Status::WRONG_SHARD)
}

enum Refused {
    Malformed(Malformed),
    Elsewhere(ShardIndex),
}

/// The place of the one partition that all keys are in.
fn place_of(store: &Store, write: &Write<'_>) -> Result<usize, Refused> {
    let mut keys = write.changes().map(|change| change.key);
    let slot = Slot::of(keys.next().expect("a write has a change"));
    if write.len() > 1 {
        let partitions = store.config().partitions;
        let partition = Partition::of(slot, partitions);
        if keys.any(|key| Partition::of(Slot::of(key), partitions) != partition) {
            return Err(Refused::Malformed(Malformed("the keys are of several partitions")));
        }
        let keys = || write.changes().map(|change| change.key);
        if keys().enumerate().any(|(at, key)| keys().take(at).any(|before| before == key)) {
            return Err(Refused::Malformed(Malformed("a key is changed twice")));
        }
    }
    store.place_of(slot).map_err(Refused::Elsewhere)
}

/// The answer to a number that is not to be carried out, if it is not.
fn known(
    store: &mut Store,
    place: usize,
    numbered: &Numbered,
    asked: &Asked<'_>,
    answer: &mut Vec<u8>,
) -> Option<Done> {
    let partition = store.parts().0.at(place);
    partition.sessions_mut().keep(numbered.session, asked.now);
    let (committed, received) = (partition.committed(), partition.received());
    let after = |index: u64| (index > committed).then_some(index);
    let refusal = match partition.sessions().lookup(numbered) {
        Lookup::New => return None,
        Lookup::Known { status, result, index } => {
            answer.extend_from_slice(result);
            // The result of a number is a fact: no read, whoever tells it.
            let seen = Seen { index: after(index), has_ordered: true, ..Seen::default() };
            return Some(Done { status: Status(status), seen: Some((place, seen)) });
        }
        Lookup::NoSession => status::NO_SESSION,
        Lookup::Forgotten => status::FORGOTTEN,
        Lookup::Full => status::WINDOW_FULL,
    };
    // It may be what is in flight that says so.
    let seen = Seen { index: after(received), ..Seen::default() };
    Some(Done { status: refusal, seen: Some((place, seen)) })
}

fn carry_out(
    keyspace: &mut Keyspace<'_>,
    write: &Write<'_>,
    asked: &Asked<'_>,
    answer: &mut Vec<u8>,
) -> Result<Status, Error> {
    // A write of one change, as nearly all are, needs no memory.
    let (mut one, mut many) = ([IDLE; 1], Vec::new());
    let resolved = if write.len() == 1 {
        &mut one[..]
    } else {
        many.resize(write.len(), IDLE);
        &mut many[..]
    };
    for (at, (change, resolved)) in write.changes().zip(&mut *resolved).enumerate() {
        match resolve(keyspace, &change)? {
            Ok(found) => *resolved = found,
            Err(failure) => {
                failure.encode(at, answer);
                return log_failure(keyspace, write, asked, failure.status(), answer);
            }
        }
    }
    let is_idle = resolved.iter().all(|resolved| resolved.is_idle);
    let version = if is_idle { Version::NONE } else { keyspace.next_version() };
    push_version(answer, version);
    resolved.iter().for_each(|resolved| answer.extend_from_slice(&resolved.value.to_le_bytes()));
    if is_idle {
        return log_failure(keyspace, write, asked, Status::OK, answer);
    }
    order(keyspace, write, resolved, answer)?;
    Ok(Status::OK)
}

const IDLE: Resolved = Resolved { is_idle: true, expires_at: None, value: 0 };

/// Orders the changes, and the result if it is numbered.
fn order(
    keyspace: &mut Keyspace<'_>,
    write: &Write<'_>,
    resolved: &[Resolved],
    answer: &[u8],
) -> Result<(), Error> {
    let (mut one, mut many) = ([EffectRef::NoOp; 2], Vec::new());
    let (mut digit, mut digits) = (None, Vec::new());
    let effects = if resolved.len() == 1 {
        digit = Some([Digits::of(resolved[0].value)]);
        &mut one[..]
    } else {
        digits.extend(resolved.iter().map(|resolved| Digits::of(resolved.value)));
        many.resize(resolved.len() + 1, EffectRef::NoOp);
        &mut many[..]
    };
    let digits = digit.as_ref().map_or(&digits[..], |digit| &digit[..]);
    let mut count = 0;
    for ((change, resolved), digits) in write.changes().zip(resolved).zip(digits) {
        if resolved.is_idle {
            continue;
        }
        let (key, expires_at) = (change.key, resolved.expires_at);
        effects[count] = match change.action {
            Action::Put { value, .. } => EffectRef::Put { key, value, expires_at },
            Action::Add(_) => EffectRef::Put { key, value: digits.bytes(), expires_at },
            Action::Delete => EffectRef::Delete { key },
            Action::Expire(_) => EffectRef::Expire { key, expires_at },
            Action::Check => EffectRef::NoOp,
        };
        count += 1;
    }
    if let Some(numbered) = &write.numbered {
        effects[count] = result_of(numbered, Status::OK, answer);
        count += 1;
    }
    keyspace.write_all(&effects[..count]).map(drop)
}

/// An answer that needs no entry: of a repetition it is logged all the same, for the next one may find
/// another state, and has to get the same answer. Of a first copy it is a read.
fn log_failure(
    keyspace: &mut Keyspace<'_>,
    write: &Write<'_>,
    asked: &Asked<'_>,
    status: Status,
    answer: &[u8],
) -> Result<Status, Error> {
    if let Some(numbered) = write.numbered.as_ref().filter(|_| asked.is_repeat) {
        keyspace.write_all(&[EffectRef::NoOp, result_of(numbered, status, answer)])?;
    }
    Ok(status)
}

fn result_of<'a>(numbered: &Numbered, status: Status, result: &'a [u8]) -> EffectRef<'a> {
    EffectRef::Request(RequestRef {
        session: numbered.session,
        number: numbered.number,
        first_unanswered: numbered.first_unanswered,
        status: status.0,
        result,
    })
}

/// Why a change cannot be made.
#[derive(Clone, Copy)]
enum Failure {
    Condition(Version),
    NotInteger,
    Overflow,
}

impl Failure {
    fn status(self) -> Status {
        match self {
            Failure::Condition(_) => status::CONDITION_FAILED,
            Failure::NotInteger => status::NOT_INTEGER,
            Failure::Overflow => status::OVERFLOW,
        }
    }

    fn encode(self, at: usize, answer: &mut Vec<u8>) {
        answer.clear();
        answer.extend_from_slice(&(at as u16).to_le_bytes());
        if let Failure::Condition(version) = self {
            push_version(answer, version);
        }
    }
}

fn resolve(
    keyspace: &mut Keyspace<'_>,
    change: &Change<'_>,
) -> Result<Result<Resolved, Failure>, Error> {
    let key = keyspace.key(change.key)?;
    let now_ms = keyspace.now_ms();
    if let Action::Put { value, expiry } = change.action {
        keyspace.check_length(value.len())?;
        if change.condition == Condition::None && expiry != super::wire::Expiry::Keep {
            let expires_at = expiry.instant(now_ms, None);
            return Ok(Ok(Resolved { is_idle: false, expires_at, value: 1 }));
        }
    }
    let found = keyspace.get(&key);
    let version = found.map_or(Version::NONE, |found| found.version);
    if !change.condition.holds(version) {
        return Ok(Err(Failure::Condition(version)));
    }
    let before = found.and_then(|found| found.expires_at);
    let changed = |expires_at, value| Resolved { is_idle: false, expires_at, value };
    Ok(Ok(match change.action {
        Action::Put { expiry, .. } => changed(expiry.instant(now_ms, before), 1),
        Action::Delete | Action::Expire(_) if found.is_none() => IDLE,
        Action::Delete => changed(None, 1),
        Action::Expire(expiry) => changed(expiry.instant(now_ms, before), 1),
        Action::Check => Resolved { value: 1, ..IDLE },
        Action::Add(by) => {
            let Ok(value) = found.map_or(Ok(0), |found| integer(found.value)) else {
                return Ok(Err(Failure::NotInteger));
            };
            match value.checked_add(by) {
                Some(sum) => changed(before, sum),
                None => return Ok(Err(Failure::Overflow)),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::journal::Bell;
    use crate::effect::SessionId;
    use crate::evict::Eviction;
    use crate::log::LogStart;
    use crate::log::batch::{LogWriter, WriterConfig};
    use crate::native::wire::Expiry;
    use crate::slot::Partitions;
    use crate::store::{Durability, StoreConfig};

    const SESSION: SessionId = SessionId { epoch: 1, index: 1 };

    /// A store whose log is never written: what was ordered stays in flight. It has a session.
    fn store(durability: Durability) -> Store {
        let partitions = Partitions::new(1).expect("a power of two");
        let mut store = Store::in_memory(StoreConfig {
            partitions,
            shard: ShardIndex(0),
            shards: 1,
            hash_seed: 7,
            epoch: 1,
            value_bytes_max: 1 << 20,
            memory_bytes_max: 1 << 20,
            eviction: Eviction::None,
        });
        let config = WriterConfig {
            segment_bytes: 1 << 20,
            batch_bytes_max: 1 << 20,
            partitions: partitions.count(),
        };
        store.begin_log(LogWriter::new(config, LogStart::NEW), Bell::default(), durability);
        let opens = EffectRef::OpenSession { lifetime_ms: 1_000 };
        store.keyspace(0, 1).write_all(&[opens]).expect("the log takes it");
        store
    }

    fn ask(
        store: &mut Store,
        number: u64,
        condition: Condition,
        is_repeat: bool,
    ) -> (Done, Vec<u8>) {
        let action = Action::Put { value: b"value", expiry: Expiry::Never };
        let change = Change { condition, key: b"key", action };
        let numbered = Numbered { session: SESSION, number, first_unanswered: 0 };
        let mut payload = Vec::new();
        Write::encode(Some(numbered), &[change], &mut payload);
        let request = Write::decode(&payload).expect("it was encoded");
        let asked = Asked { is_repeat, now_ms: 1, now: Instant::ZERO, random: &|| 0 };
        let mut answer = Vec::new();
        (write(store, &request, &asked, &mut answer), answer)
    }

    /// It waits for an entry, of its own or not.
    fn done(status: Status, index: u64, has_ordered: bool) -> Done {
        let seen = Seen { index: Some(index), has_ordered, wants_head: false };
        Done { status, seen: Some((0, seen)) }
    }

    #[test]
    fn an_answer_waits_for_the_entry_that_it_tells_of() {
        let mut store = store(Durability::Sync);
        let (first, answer) = ask(&mut store, 0, Condition::None, false);
        assert_eq!(first, done(Status::OK, 2, true));
        let again = ask(&mut store, 0, Condition::None, true);
        assert_eq!(again, (first, answer), "it has met the entry of the first copy in flight");
        let (failed, _) = ask(&mut store, 1, Condition::Absent, false);
        let seen = done(status::CONDITION_FAILED, 2, false);
        assert_eq!(failed, seen, "a failure tells of the key that it has seen");
        let (kept, _) = ask(&mut store, 1, Condition::Absent, true);
        let logged = done(status::CONDITION_FAILED, 3, true);
        assert_eq!(kept, logged, "to a repetition it is an entry of its own");
        let closes = EffectRef::CloseSession { session: SESSION };
        store.keyspace(0, 1).write_all(&[closes]).expect("the log takes it");
        let (refused, _) = ask(&mut store, 2, Condition::None, false);
        let waits = done(status::NO_SESSION, 4, false);
        assert_eq!(refused, waits, "the end of the session is in flight");
    }

    #[test]
    fn nothing_waits_where_writes_commit_at_once() {
        let mut store = store(Durability::Batch);
        for is_repeat in [false, true] {
            let (done, answer) = ask(&mut store, 0, Condition::None, is_repeat);
            let Done { status: Status::OK, seen: Some((place, seen)) } = done else {
                panic!("{done:?}")
            };
            assert_eq!(store.gate(place, seen, || Instant::ZERO), Ok(None));
            assert_eq!(answer[..12], [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], "version 1-2");
        }
    }
}
