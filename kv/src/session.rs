//! The sessions of one partition: which numbered requests were carried out, and with what result.
//!
//! A client that loses an answer sends its request again under the same number. The number is looked up
//! here before anything is done, so a request is carried out at most once however often it comes.
//!
//! ```text
//! numbers   0 ───────── forgotten ─────────►│ first unanswered          │ + WINDOW
//!           refused, never carried out      │ known, or new             │ refused: too far ahead
//! ```
//!
//! Sessions are part of the partition's state: entries alone open, change and close them, and they are in
//! checkpoints. What is *ordered* counts for look-ups at once; what is forgotten for it is forgotten when
//! the entry commits. When a session was last used is no state: whoever orders entries remembers it, counts
//! anew after a recovery, and orders the end of those that were not used for their lifetime.

use crate::effect::{EffectRef, RequestRef, SessionId};
use catena_engine::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};

/// Numbers from a session's first unanswered one on that may be in use: as many as one connection of the
/// engine has requests in flight by default.
pub const WINDOW: u64 = 1_024;

/// Sessions of one partition: a client has one in each partition that it writes to.
pub const SESSIONS_MAX: usize = 4_096;

/// Bytes of the results that one session remembers: results are 12 to 32 bytes, so a whole window fits.
pub const RESULT_BYTES_MAX: usize = 64 * 1_024;

/// Bytes that all sessions of one partition take. A checkpoint encodes them within one turn: at some GB/s
/// that is a few milliseconds when it is used up, and microseconds as a rule.
pub const PARTITION_BYTES_MAX: u64 = 16 << 20;

/// The shortest lifetime of a session, in milliseconds: a client has to be able to reconnect within it.
pub const LIFETIME_MS_MIN: u64 = 1_000;

/// The longest lifetime of a session, in milliseconds: a day. Who is away for longer begins anew.
pub const LIFETIME_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// A result up to so many bytes lies in the list itself, so that saving it allocates nothing.
const INLINE_BYTES: usize = 22;

/// See the module page.
#[derive(Debug, Default)]
pub struct Sessions {
    list: BTreeMap<SessionId, Session>,
    bytes: u64,
}

#[derive(Debug)]
struct Session {
    lifetime_ms: u64,
    /// The first number that counts, as far as entries have committed, and as far as they were ordered.
    low: u64,
    newest_low: u64,
    /// The entry that ends it, while that is in flight.
    closed_by: Option<u64>,
    /// By number.
    answered: VecDeque<Answered>,
    result_bytes: usize,
    /// When it was used last; `None`: not since it was recovered.
    used: Option<Instant>,
}

/// A number that was carried out.
#[derive(Debug)]
struct Answered {
    number: u64,
    /// The entry that did it.
    index: u64,
    status: u16,
    result: Saved,
}

#[derive(Debug)]
enum Saved {
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Boxed(Box<[u8]>),
}

/// A numbered request, as a client names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbered {
    /// Whose.
    pub session: SessionId,
    /// Its number; one below `first_unanswered` is forgotten.
    pub number: u64,
    /// The first number whose answer the client has not seen.
    pub first_unanswered: u64,
}

/// What is known of a numbered request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup<'a> {
    /// It was not carried out, and may be.
    New,
    /// It was: this is its result, to be given when `index` has committed.
    Known {
        /// The status it was answered with.
        status: u16,
        /// The answer.
        result: &'a [u8],
        /// The entry that did it.
        index: u64,
    },
    /// There is no such session: it never was, has ended, or is about to.
    NoSession,
    /// The client has said that it has this answer: nothing is known of it any more.
    Forgotten,
    /// Too far from the first unanswered number, or too many results are remembered: later.
    Full,
}

/// Bytes that are no sessions of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSessions;

impl Sessions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Memory that they take, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if one more may be opened.
    pub fn has_room(&self) -> bool {
        self.list.len() < SESSIONS_MAX && self.bytes < PARTITION_BYTES_MAX
    }

    /// What is known of a request, in the newest state.
    pub fn lookup(&self, request: &Numbered) -> Lookup<'_> {
        let Some(session) = self.list.get(&request.session) else { return Lookup::NoSession };
        if session.closed_by.is_some() {
            return Lookup::NoSession;
        }
        let low = session.newest_low.max(request.first_unanswered);
        if request.number < low {
            return Lookup::Forgotten;
        }
        match session.find(request.number) {
            Ok(at) => {
                let Answered { index, status, result, .. } = &session.answered[at];
                Lookup::Known { status: *status, result: result.bytes(), index: *index }
            }
            Err(_) if request.number - low >= WINDOW || session.is_full(low) => Lookup::Full,
            Err(_) if self.bytes >= PARTITION_BYTES_MAX && !session.makes_room(low) => Lookup::Full,
            Err(_) => Lookup::New,
        }
    }

    /// A session is used now. False: there is none, or it is about to end.
    pub fn keep(&mut self, id: SessionId, now: Instant) -> bool {
        let session = self.list.get_mut(&id).filter(|session| session.closed_by.is_none());
        session.map(|session| session.used = Some(now)).is_some()
    }

    /// Those that were not used for their lifetime, as far as it is known.
    pub fn unused(&mut self, now: Instant) -> impl Iterator<Item = SessionId> {
        self.list.iter_mut().filter_map(move |(id, session)| {
            let used = *session.used.get_or_insert(now);
            let is_over = now.since(used) >= Duration::from_millis(session.lifetime_ms);
            (is_over && session.closed_by.is_none()).then_some(*id)
        })
    }

    /// An effect of the entry `entry` was ordered.
    pub fn order(&mut self, entry: SessionId, effect: &EffectRef<'_>) {
        match *effect {
            EffectRef::OpenSession { lifetime_ms } => {
                self.insert(entry, Session::new(lifetime_ms));
            }
            EffectRef::CloseSession { session } => {
                if let Some(session) = self.list.get_mut(&session) {
                    session.closed_by.get_or_insert(entry.index);
                }
            }
            EffectRef::Request(request) => {
                if let Some(session) = self.list.get_mut(&request.session) {
                    self.bytes += session.answer(entry.index, &request);
                }
            }
            _ => {}
        }
    }

    /// An effect that was ordered has committed.
    pub fn commit(&mut self, effect: &EffectRef<'_>) {
        match *effect {
            EffectRef::CloseSession { session } => {
                if let Some(session) = self.list.remove(&session) {
                    self.bytes -= session.bytes();
                }
            }
            EffectRef::Request(request) => {
                if let Some(session) = self.list.get_mut(&request.session) {
                    self.bytes -= session.forget_before(request.first_unanswered);
                }
            }
            _ => {}
        }
    }

    /// What entries behind `index` have ordered is taken back: none of it has committed.
    pub fn cut(&mut self, index: u64) {
        self.list.retain(|id, _| id.index <= index);
        for session in self.list.values_mut() {
            session.closed_by.take_if(|closed_by| *closed_by > index);
            session.answered.retain(|answered| answered.index <= index);
            session.result_bytes =
                session.answered.iter().map(|answered| answered.result.boxed_bytes()).sum();
            // What was ordered beyond is said again by the next request.
            session.newest_low = session.low;
        }
        self.bytes = self.list.values().map(Session::bytes).sum();
    }

    /// No session is there.
    pub fn clear(&mut self) {
        *self = Sessions::default();
    }

    /// Appends those that there are as of the entry `committed`, as a checkpoint has them; `between` is
    /// called after each, and may take what was appended.
    pub fn encode(&self, committed: u64, out: &mut Vec<u8>, mut between: impl FnMut(&mut Vec<u8>)) {
        for (id, session) in self.list.iter().filter(|(id, _)| id.index <= committed) {
            session.encode(*id, committed, out);
            between(out);
        }
    }

    /// Takes in what [`Sessions::encode`] has appended.
    ///
    /// # Errors
    /// [`NoSessions`]; some may have been taken in.
    pub fn restore(&mut self, mut bytes: &[u8]) -> Result<(), NoSessions> {
        while !bytes.is_empty() {
            let id = SessionId::decode(&mut bytes).map_err(|_| NoSessions)?;
            let session = Session::decode(&mut bytes)?;
            self.insert(id, session);
        }
        Ok(())
    }

    fn insert(&mut self, id: SessionId, session: Session) {
        self.bytes += session.bytes();
        if let Some(before) = self.list.insert(id, session) {
            self.bytes -= before.bytes();
        }
    }
}

impl Session {
    fn new(lifetime_ms: u64) -> Self {
        Session {
            lifetime_ms,
            low: 0,
            newest_low: 0,
            closed_by: None,
            answered: VecDeque::new(),
            result_bytes: 0,
            used: None,
        }
    }

    fn bytes(&self) -> u64 {
        let list = self.answered.len() * size_of::<Answered>();
        (size_of::<(SessionId, Session)>() + list + self.result_bytes) as u64
    }

    /// The place of a number, or where it would be.
    fn find(&self, number: u64) -> Result<usize, usize> {
        // Nearly always it is a new one, behind all others.
        match self.answered.back() {
            Some(last) if last.number >= number => {
                self.answered.binary_search_by_key(&number, |answered| answered.number)
            }
            _ => Err(self.answered.len()),
        }
    }

    /// True if it remembers as much as it may, with `low` the first number that counts. What lies before
    /// that goes with the next commit, and there is a bound for it too: a client may say anything.
    fn is_full(&self, low: u64) -> bool {
        let is_long = self.answered.len() as u64 >= 2 * WINDOW;
        is_long
            || self.result_bytes >= RESULT_BYTES_MAX && {
                let counting = self.answered.iter().filter(|answered| answered.number >= low);
                let bytes: usize = counting.map(|answered| answered.result.boxed_bytes()).sum();
                bytes >= RESULT_BYTES_MAX || self.result_bytes >= 2 * RESULT_BYTES_MAX
            }
    }

    /// True if a request with `low` as its first unanswered number may be remembered although the partition
    /// remembers as much as it may: something is forgotten for it that no request before has given up, or
    /// nothing is remembered. Otherwise those that stay away could stop those that go on.
    fn makes_room(&self, low: u64) -> bool {
        let remembered = self.answered.iter().map(|answered| answered.number);
        let last_given_up = remembered.take_while(|number| *number < low).last();
        self.answered.is_empty() || last_given_up.is_some_and(|number| number >= self.newest_low)
    }

    /// Bytes that it takes more.
    fn answer(&mut self, index: u64, request: &RequestRef<'_>) -> u64 {
        self.newest_low = self.newest_low.max(request.first_unanswered);
        if request.number < self.newest_low {
            return 0;
        }
        let Err(at) = self.find(request.number) else { return 0 };
        let result = Saved::of(request.result);
        let bytes = result.boxed_bytes();
        let RequestRef { number, status, .. } = *request;
        self.answered.insert(at, Answered { number, index, status, result });
        self.result_bytes += bytes;
        (size_of::<Answered>() + bytes) as u64
    }

    /// Bytes that it takes less.
    fn forget_before(&mut self, first_unanswered: u64) -> u64 {
        let before = self.bytes();
        self.low = self.low.max(first_unanswered);
        while let Some(answered) = self.answered.front()
            && answered.number < self.low
        {
            self.result_bytes -= answered.result.boxed_bytes();
            self.answered.pop_front();
        }
        before - self.bytes()
    }

    fn encode(&self, id: SessionId, committed: u64, out: &mut Vec<u8>) {
        id.encode(out);
        out.extend_from_slice(&self.lifetime_ms.to_le_bytes());
        out.extend_from_slice(&self.low.to_le_bytes());
        let answered = || self.answered.iter().filter(|answered| answered.index <= committed);
        out.extend_from_slice(&(answered().count() as u32).to_le_bytes());
        for Answered { number, index, status, result } in answered() {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&status.to_le_bytes());
            out.extend_from_slice(&(result.bytes().len() as u32).to_le_bytes());
            out.extend_from_slice(result.bytes());
        }
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, NoSessions> {
        let mut session = Session::new(u64::from_le_bytes(take(bytes)?));
        session.low = u64::from_le_bytes(take(bytes)?);
        session.newest_low = session.low;
        for _ in 0..u32::from_le_bytes(take(bytes)?) {
            let number = u64::from_le_bytes(take(bytes)?);
            let index = u64::from_le_bytes(take(bytes)?);
            let status = u16::from_le_bytes(take(bytes)?);
            let length = u32::from_le_bytes(take(bytes)?) as usize;
            let (result, rest) = bytes.split_at_checked(length).ok_or(NoSessions)?;
            *bytes = rest;
            let is_next = session.answered.back().is_none_or(|last| last.number < number);
            if !is_next || number < session.low {
                return Err(NoSessions);
            }
            let result = Saved::of(result);
            session.result_bytes += result.boxed_bytes();
            session.answered.push_back(Answered { number, index, status, result });
        }
        Ok(session)
    }
}

impl Saved {
    fn of(result: &[u8]) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        match bytes.get_mut(..result.len()) {
            Some(place) => {
                place.copy_from_slice(result);
                Saved::Inline { length: result.len() as u8, bytes }
            }
            None => Saved::Boxed(result.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Saved::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Saved::Boxed(bytes) => bytes,
        }
    }

    /// Memory in bytes beside the list.
    fn boxed_bytes(&self) -> usize {
        match self {
            Saved::Inline { .. } => 0,
            Saved::Boxed(bytes) => bytes.len(),
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], NoSessions> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(NoSessions)?;
    *bytes = rest;
    Ok(*taken)
}

#[cfg(test)]
mod tests;
