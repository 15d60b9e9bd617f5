//! What a request that writes comes to: all of its operations in one entry, or nothing.

use super::wire::{
    Action, Condition, Expiry, Malformed, Operation, WriteHead, encode_version, status,
};
use crate::command::error::Error;
use crate::command::number::{self, Digits};
use crate::effect::{EffectRef, RequestRef};
use crate::keyspace::{Key, Keyspace};
use crate::partition::Version;
use crate::session::Known;
use catena_engine::wire::status::Status;
use std::collections::BTreeSet;

/// Why a request has no effect.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// An operation cannot be carried out; the status says why.
    Operation {
        /// Its place in the request.
        at: u32,
        /// Why.
        status: Status,
        /// What the key has.
        version: Version,
    },
    /// Key or value are too long, or nothing can be written: a text for people.
    Keys(Status, Error),
}

/// What an operation comes to.
struct Planned<'a> {
    effect: Option<EffectRef<'a>>,
    number: i64,
}

/// Carries out a request. The answer's payload is put into `out`, which is empty.
pub fn execute(
    keys: &mut Keyspace<'_>,
    head: WriteHead,
    is_repeat: bool,
    operations: &[Operation<'_>],
    out: &mut Vec<u8>,
) -> Status {
    if let Some(status) = answered_before(keys, head, operations.len(), out) {
        return status;
    }
    let status = match operations {
        [operation] => {
            let mut digits = Digits::of(0);
            match plan(keys, 0, operation, &mut digits) {
                Ok(planned) => finish(keys, head, is_repeat, &[planned], out),
                Err(refusal) => refuse(&refusal, out),
            }
        }
        _ => execute_batch(keys, head, is_repeat, operations, out),
    };
    if is_repeat && !status.is_ok() && is_decided(status) {
        return remember(keys, head, status, out);
    }
    status
}

/// The answer of a number that was asked before, or why it is not looked at.
fn answered_before(
    keys: &mut Keyspace<'_>,
    head: WriteHead,
    operations: usize,
    out: &mut Vec<u8>,
) -> Option<Status> {
    let session = head.session?;
    let sessions = keys.partition.sessions_mut();
    sessions.touch(session, keys.now_ms);
    let has_room = sessions.has_room(result_bytes(operations));
    let gate = match keys.partition.sessions().find(session, head.number) {
        Known::New if has_room => return None,
        Known::New | Known::TooFarAhead => return Some(status::WINDOW_FULL),
        Known::Answered { index, status, result } => {
            out.extend_from_slice(result);
            (index, Status(status))
        }
        // What ended the session, or said that the answer came, may not have committed.
        Known::Forgotten => (keys.partition.received(), status::FORGOTTEN),
        Known::NoSession => (keys.partition.received(), status::NO_SESSION),
    };
    keys.depends_on(gate.0);
    Some(gate.1)
}

fn execute_batch(
    keys: &mut Keyspace<'_>,
    head: WriteHead,
    is_repeat: bool,
    operations: &[Operation<'_>],
    out: &mut Vec<u8>,
) -> Status {
    let mut digits = vec![Digits::of(0); operations.len()];
    let mut planned = Vec::with_capacity(operations.len());
    for ((at, operation), digits) in (0..).zip(operations).zip(&mut digits) {
        match plan(keys, at, operation, digits) {
            Ok(one) => planned.push(one),
            Err(refusal) => return refuse(&refusal, out),
        }
    }
    finish(keys, head, is_repeat, &planned, out)
}

/// True if no key is named twice: an operation does not see what the one before it does.
pub fn check_distinct(operations: &[Operation<'_>]) -> Result<(), Malformed> {
    let mut seen = BTreeSet::new();
    let mut all = operations.iter();
    if operations.len() < 2 || all.all(|operation| seen.insert(operation.key)) {
        return Ok(());
    }
    Err(Malformed("a batch names a key twice"))
}

/// What an operation comes to, as things are now.
fn plan<'a>(
    keys: &mut Keyspace<'_>,
    at: u32,
    operation: &Operation<'a>,
    digits: &'a mut Digits,
) -> Result<Planned<'a>, Refusal> {
    let too_long = |error| Refusal::Keys(status::TOO_LONG, error);
    let key: Key<'a> = keys.key(operation.key).map_err(too_long)?;
    let now_ms = keys.now_ms();
    // A plain put needs to know nothing.
    let found = match (operation.condition, operation.action) {
        (
            Condition::None,
            Action::Put { expiry: Expiry::Never | Expiry::At(_) | Expiry::In(_), .. },
        ) => None,
        _ => keys.get(&key).map(|found| {
            let number = matches!(operation.action, Action::Incr { .. });
            let number = number.then(|| number::integer(found.value).ok()).flatten();
            (found.version, found.expires_at, number)
        }),
    };
    let version = found.map_or(Version::NONE, |(version, ..)| version);
    let refused = |status| Refusal::Operation { at, status, version };
    let holds = match operation.condition {
        Condition::None => true,
        Condition::Absent => found.is_none(),
        Condition::Present => found.is_some(),
        Condition::Version(wanted) => wanted == version,
    };
    if !holds {
        return Err(refused(status::CONDITION_FAILED));
    }
    let kept = found.and_then(|(_, expires_at, _)| expires_at);
    let instant = |expiry| match expiry {
        Expiry::Never => None,
        Expiry::Keep => kept,
        Expiry::At(at) => Some(at.max(1)),
        Expiry::In(after) => Some(now_ms.saturating_add(after).max(1)),
    };
    let key = operation.key;
    let was_there = i64::from(found.is_some());
    Ok(match operation.action {
        Action::Put { value, expiry } => {
            keys.check_length(value.len()).map_err(too_long)?;
            let expires_at = instant(expiry);
            Planned { effect: Some(EffectRef::Put { key, value, expires_at }), number: was_there }
        }
        Action::Delete => {
            let effect = found.map(|_| EffectRef::Delete { key });
            Planned { effect, number: was_there }
        }
        Action::Expire { expiry } => {
            let expires_at = instant(expiry);
            let effect = found.map(|_| EffectRef::Expire { key, expires_at });
            Planned { effect, number: was_there }
        }
        Action::Incr { by } => {
            let before = found.map_or(Some(0), |(.., number)| number);
            let sum = before.and_then(|before| before.checked_add(by));
            let sum = sum.ok_or_else(|| refused(status::NOT_A_NUMBER))?;
            *digits = Digits::of(sum);
            let value = digits.bytes();
            Planned { effect: Some(EffectRef::Put { key, value, expires_at: kept }), number: sum }
        }
    })
}

/// Orders what was planned, with the answer, if the request is of a session.
fn finish(
    keys: &mut Keyspace<'_>,
    head: WriteHead,
    is_repeat: bool,
    planned: &[Planned<'_>],
    out: &mut Vec<u8>,
) -> Status {
    let effects = planned.iter().filter_map(|planned| planned.effect);
    let changes = planned.iter().any(|planned| planned.effect.is_some());
    let version = if changes { keys.next_version() } else { Version::NONE };
    encode_version(version, out);
    planned.iter().for_each(|planned| out.extend_from_slice(&planned.number.to_le_bytes()));
    if !changes {
        // As a failure: who asks once needs no entry to believe it.
        return if is_repeat { remember(keys, head, Status::OK, out) } else { Status::OK };
    }
    let ordered = match (head.session, planned) {
        (None, [Planned { effect: Some(effect), .. }]) => keys.write_all(&[*effect]),
        (Some(_), [Planned { effect: Some(effect), .. }]) => {
            keys.write_all(&[*effect, request(head, Status::OK, out)])
        }
        (session, _) => {
            let answer = session.map(|_| request(head, Status::OK, out));
            keys.write_all(&effects.chain(answer).collect::<Vec<_>>())
        }
    };
    match ordered {
        Ok(ordered) => {
            debug_assert_eq!(ordered, version, "nothing comes between");
            Status::OK
        }
        Err(error) => refuse(&Refusal::Keys(status::NOT_WRITABLE, error), out),
    }
}

/// Orders an entry that changes no key, so that a number is answered the same for ever.
fn remember(keys: &mut Keyspace<'_>, head: WriteHead, status: Status, out: &mut Vec<u8>) -> Status {
    if head.session.is_none() {
        return status;
    }
    match keys.write_all(&[EffectRef::NoOp, request(head, status, out)]) {
        Ok(_) => status,
        Err(error) => refuse(&Refusal::Keys(status::NOT_WRITABLE, error), out),
    }
}

fn request(head: WriteHead, status: Status, result: &[u8]) -> EffectRef<'_> {
    EffectRef::Request(RequestRef {
        session: head.session.expect("asked for requests of a session alone"),
        number: head.number,
        first_unanswered: head.first_unanswered,
        status: status.0,
        result,
    })
}

/// True for what follows from the keys, and so is the answer for ever; anything else may be asked again.
fn is_decided(status: Status) -> bool {
    matches!(status, status::CONDITION_FAILED | status::NOT_A_NUMBER | status::TOO_LONG)
}

fn refuse(refusal: &Refusal, out: &mut Vec<u8>) -> Status {
    out.clear();
    match refusal {
        Refusal::Operation { at, status, version } => {
            out.extend_from_slice(&at.to_le_bytes());
            encode_version(*version, out);
            *status
        }
        Refusal::Keys(status, error) => {
            out.extend_from_slice(error.0.as_bytes());
            *status
        }
    }
}

/// The bytes of an answer to so many operations.
fn result_bytes(operations: usize) -> usize {
    super::wire::VERSION_BYTES + 8 * operations
}
