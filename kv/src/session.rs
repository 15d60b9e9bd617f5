//! The sessions of a partition: who repeats a request of one gets the first answer.
//!
//! A session is part of a partition's state and changes by entries alone: it is opened by one, whose (epoch,
//! index) is its id, every request of it carries its answer in the entry of its effects, and one ends
//! it. An id that is not known is refused, and never made up: what a session that has ended was asked is
//! so never executed a second time. After Lee et al., "Implementing Linearizability at Large Scale and
//! Low Latency" (2015).
//!
//! ```text
//! numbers   … 4 5 6 │ 7 8 9 10 … │
//!         forgotten │  window    │ too far ahead
//!                   └─ the first one whose answer the client has not seen, as its last request said
//! ```
//!
//! What is ordered counts at once. Each answer knows the entry that it is of, and may be given when that
//! has committed.

use crate::effect::{EffectRef, RequestRef, SessionId};
use std::collections::BTreeMap;

/// Sessions of a partition. A client has one session in each partition that it writes to.
pub const SESSIONS_MAX: usize = 1_024;

/// Requests of a session that a client may have in flight: their numbers are that close to each other. As many
/// as a connection has in flight by default.
pub const WINDOW: u64 = 1_024;

/// Bytes of answers that the sessions of a partition remember together. A checkpoint takes them in one
/// piece, and so much is copied in well under a millisecond.
pub const ANSWERS_BYTES_MAX: u64 = 1 << 20;

/// The longest lifetime of a session that is not used: a day, in milliseconds.
pub const LIFETIME_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// What an answer costs beside its bytes: its place in the tree.
const ANSWER_BYTES: u64 = 48;

/// See the module page.
#[derive(Debug, Default)]
pub struct Sessions {
    list: BTreeMap<SessionId, Session>,
    bytes: u64,
}

#[derive(Debug)]
struct Session {
    lifetime_ms: u64,
    /// The first number that may still be asked for.
    first: u64,
    answers: BTreeMap<u64, Answer>,
    /// When it was used last, in Unix milliseconds. Known to whoever orders, and no part of the state: 0 after
    /// a recovery, when its lifetime begins again.
    used_at_ms: u64,
}

#[derive(Debug)]
struct Answer {
    /// The entry that it is of.
    index: u64,
    status: u16,
    result: Box<[u8]>,
}

/// What is known of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known<'a> {
    /// It was not asked for before.
    New,
    /// It was ordered as this entry, and answered so.
    Answered {
        /// The entry.
        index: u64,
        /// The status of the answer.
        status: u16,
        /// The answer.
        result: &'a [u8],
    },
    /// The client has said that it has the answer.
    Forgotten,
    /// It is [`WINDOW`] or more beyond the first that was not answered.
    TooFarAhead,
    /// There is no such session: it has ended, or never was.
    NoSession,
}

impl Sessions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Memory of the answers that are remembered, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if no other may be opened.
    pub fn is_full(&self) -> bool {
        self.list.len() >= SESSIONS_MAX
    }

    /// True if an answer of so many bytes may be remembered.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.bytes + ANSWER_BYTES + bytes as u64 <= ANSWERS_BYTES_MAX
    }

    /// What is known of a number.
    pub fn find(&self, id: SessionId, number: u64) -> Known<'_> {
        let Some(session) = self.list.get(&id) else { return Known::NoSession };
        if number < session.first {
            return Known::Forgotten;
        }
        match session.answers.get(&number) {
            Some(Answer { index, status, result }) => {
                Known::Answered { index: *index, status: *status, result }
            }
            None if number - session.first >= WINDOW => Known::TooFarAhead,
            None => Known::New,
        }
    }

    /// Notes that a session is in use.
    pub fn touch(&mut self, id: SessionId, now_ms: u64) {
        if let Some(session) = self.list.get_mut(&id) {
            session.used_at_ms = now_ms;
        }
    }

    /// Does what an effect says, of the entry (`epoch`, `index`).
    #[inline]
    pub fn apply(&mut self, (epoch, index): (u32, u64), effect: &EffectRef<'_>) {
        match *effect {
            EffectRef::OpenSession { lifetime_ms } => {
                self.open(SessionId { epoch, index }, lifetime_ms);
            }
            EffectRef::CloseSession { session } => self.close(session),
            EffectRef::Request(request) => self.remember(index, &request),
            _ => {}
        }
    }

    /// A session that was not used for as long as it lives; it is still there until an entry ends it.
    pub fn next_to_end(&mut self, now_ms: u64) -> Option<SessionId> {
        let mut found = None;
        for (id, session) in &mut self.list {
            if session.used_at_ms == 0 {
                session.used_at_ms = now_ms;
            }
            let is_over = now_ms.saturating_sub(session.used_at_ms) >= session.lifetime_ms;
            found = found.or(is_over.then_some(*id));
        }
        found
    }

    /// Appends all of them, as a checkpoint has them.
    ///
    /// Of each: epoch u32, index u64, lifetime u64, first number u64, count of answers u32; of each answer:
    /// number u64, index u64, status u16, length u32, bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (id, session) in &self.list {
            out.extend_from_slice(&id.epoch.to_le_bytes());
            for word in [id.index, session.lifetime_ms, session.first] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&(session.answers.len() as u32).to_le_bytes());
            for (number, answer) in &session.answers {
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&answer.index.to_le_bytes());
                out.extend_from_slice(&answer.status.to_le_bytes());
                out.extend_from_slice(&(answer.result.len() as u32).to_le_bytes());
                out.extend_from_slice(&answer.result);
            }
        }
    }

    /// Takes in what [`Sessions::encode`] has written. `None`: the bytes are something else.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut sessions = Sessions::default();
        let from = &mut bytes;
        while !from.is_empty() {
            let id = SessionId {
                epoch: u32::from_le_bytes(take(from)?),
                index: u64::from_le_bytes(take(from)?),
            };
            sessions.open(id, u64::from_le_bytes(take(from)?));
            let first = u64::from_le_bytes(take(from)?);
            for _ in 0..u32::from_le_bytes(take(from)?) {
                let number = u64::from_le_bytes(take(from)?);
                let index = u64::from_le_bytes(take(from)?);
                let status = u16::from_le_bytes(take(from)?);
                let length = u32::from_le_bytes(take(from)?) as usize;
                let (result, rest) = from.split_at_checked(length)?;
                *from = rest;
                let request =
                    RequestRef { session: id, number, first_unanswered: first, status, result };
                sessions.remember(index, &request);
            }
            sessions.list.get_mut(&id)?.first = first;
        }
        Some(sessions)
    }

    fn open(&mut self, id: SessionId, lifetime_ms: u64) {
        let session = Session { lifetime_ms, first: 0, answers: BTreeMap::new(), used_at_ms: 0 };
        self.list.entry(id).or_insert(session);
    }

    fn close(&mut self, id: SessionId) {
        if let Some(session) = self.list.remove(&id) {
            self.bytes -= session.answers.values().map(Answer::bytes).sum::<u64>();
        }
    }

    fn remember(&mut self, index: u64, request: &RequestRef<'_>) {
        let Some(session) = self.list.get_mut(&request.session) else { return };
        if request.first_unanswered > session.first {
            session.first = request.first_unanswered;
            let kept = session.answers.split_off(&session.first);
            let forgotten = std::mem::replace(&mut session.answers, kept);
            self.bytes -= forgotten.values().map(Answer::bytes).sum::<u64>();
        }
        if request.number < session.first {
            return;
        }
        let answer = Answer { index, status: request.status, result: request.result.into() };
        self.bytes += answer.bytes();
        if let Some(before) = session.answers.insert(request.number, answer) {
            self.bytes -= before.bytes();
        }
    }
}

impl Answer {
    fn bytes(&self) -> u64 {
        ANSWER_BYTES + self.result.len() as u64
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: SessionId = SessionId { epoch: 2, index: 7 };

    fn request(number: u64, first_unanswered: u64, result: &[u8]) -> EffectRef<'_> {
        let request = RequestRef { session: ID, number, first_unanswered, status: 9, result };
        EffectRef::Request(request)
    }

    fn with_one() -> Sessions {
        let mut sessions = Sessions::default();
        sessions.apply((2, 7), &EffectRef::OpenSession { lifetime_ms: 1_000 });
        sessions
    }

    #[test]
    fn a_number_is_new_answered_forgotten_or_too_far_ahead() {
        let mut sessions = with_one();
        assert_eq!(sessions.find(ID, 3), Known::New);
        sessions.apply((2, 8), &request(3, 2, b"first"));
        let answered = Known::Answered { index: 8, status: 9, result: b"first" };
        assert_eq!(sessions.find(ID, 3), answered);
        assert_eq!(sessions.find(ID, 1), Known::Forgotten);
        assert_eq!(sessions.find(ID, 2), Known::New);
        assert_eq!(sessions.find(ID, 2 + WINDOW), Known::TooFarAhead);
        assert_eq!(sessions.find(ID, 1 + WINDOW), Known::New);
        let other = SessionId { epoch: 2, index: 8 };
        assert_eq!(sessions.find(other, 3), Known::NoSession);
        // One that is late says less than what is known.
        sessions.apply((2, 9), &request(2, 1, b"late"));
        assert_eq!(sessions.find(ID, 1), Known::Forgotten);
        sessions.apply((2, 10), &EffectRef::CloseSession { session: ID });
        assert_eq!(sessions.find(ID, 3), Known::NoSession);
        assert_eq!(sessions.bytes(), 0);
        sessions.apply((2, 11), &request(4, 1, b"after its end"));
        assert!(sessions.is_empty(), "none is made up");
    }

    #[test]
    fn one_that_is_not_used_is_next_to_end_after_its_lifetime() {
        let mut sessions = with_one();
        assert_eq!(sessions.next_to_end(50_000), None, "its lifetime begins when it is first seen");
        assert_eq!(sessions.next_to_end(50_999), None);
        sessions.touch(ID, 50_999);
        assert_eq!(sessions.next_to_end(51_998), None);
        assert_eq!(sessions.next_to_end(51_999), Some(ID));
        assert_eq!(sessions.len(), 1, "it ends by an entry");
    }

    proptest! {
        #[test]
        fn does_what_a_list_of_answers_does(
            steps in prop::collection::vec((0..6u8, 0..20u64, 0..20u64, 0..9usize), 0..80)
        ) {
            let mut sessions = with_one();
            let mut model: BTreeMap<u64, (u64, Vec<u8>)> = BTreeMap::new();
            let mut first = 0;
            for (index, (kind, number, unanswered, length)) in (8..).zip(steps) {
                let result = vec![kind; length];
                if sessions.find(ID, number) == Known::New {
                    sessions.apply((2, index), &request(number, unanswered, &result));
                    first = first.max(unanswered);
                    model.insert(number, (index, result));
                    model.retain(|number, _| *number >= first);
                }
                if kind == 0 {
                    let mut bytes = Vec::new();
                    sessions.encode(&mut bytes);
                    sessions = Sessions::decode(&bytes).expect("what was encoded");
                }
                let bytes: usize = model.values().map(|(_, result)| 48 + result.len()).sum();
                prop_assert_eq!(sessions.bytes(), bytes as u64);
                for number in 0..20 {
                    let known = match model.get(&number) {
                        _ if number < first => Known::Forgotten,
                        Some((index, result)) => Known::Answered { index: *index, status: 9, result },
                        None => Known::New,
                    };
                    prop_assert_eq!(sessions.find(ID, number), known);
                }
            }
        }

        #[test]
        fn other_bytes_are_no_sessions_or_none_that_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let _none_or_some = Sessions::decode(&bytes);
        }
    }
}
