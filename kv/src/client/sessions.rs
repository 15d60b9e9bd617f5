//! The client's side of sessions: one in each partition, and which of its numbers are unanswered.

use super::Error;
use crate::native::wire::SessionToken;
use async_lock::Mutex;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// By partition.
#[derive(Default)]
pub(super) struct Sessions(RefCell<BTreeMap<u16, Rc<Slot>>>);

/// The place of a session, which one at a time opens.
#[derive(Default)]
struct Slot(Mutex<Option<Rc<Session>>>);

struct Session {
    token: SessionToken,
    state: RefCell<State>,
}

struct State {
    next: u64,
    /// Numbers whose answers have not come.
    unanswered: BTreeSet<u64>,
    /// The store does not know it any more.
    has_ended: bool,
}

/// A number that is in use: answered, or given up, when this is dropped.
pub(super) struct Numbered {
    session: Rc<Session>,
    number: u64,
}

impl Sessions {
    /// The next number in a partition's session, which `open` opens if there is none.
    pub async fn number(
        &self,
        partition: u16,
        open: impl AsyncFnOnce() -> Result<Bytes, Error>,
    ) -> Result<Numbered, Error> {
        let slot = self.0.borrow_mut().entry(partition).or_default().clone();
        let mut held = slot.0.lock().await;
        let known = held.as_ref().filter(|session| !session.state.borrow().has_ended);
        if let Some(session) = known {
            return Ok(session.next());
        }
        let answer = open().await?;
        let token = SessionToken::decode(&mut &answer[..])?;
        let state = State { next: 1, unanswered: BTreeSet::new(), has_ended: false };
        let session = Rc::new(Session { token, state: RefCell::new(state) });
        *held = Some(session.clone());
        Ok(session.next())
    }
}

impl Session {
    fn next(self: &Rc<Self>) -> Numbered {
        let mut state = self.state.borrow_mut();
        let number = state.next;
        state.next += 1;
        state.unanswered.insert(number);
        Numbered { session: self.clone(), number }
    }
}

impl Numbered {
    pub fn session(&self) -> SessionToken {
        self.session.token
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// The first number whose answer has not come.
    pub fn first_unanswered(&self) -> u64 {
        let state = self.session.state.borrow();
        state.unanswered.first().copied().unwrap_or(self.number)
    }

    /// The store does not know the session: the next number is another one's.
    pub fn forget_session(&self) {
        self.session.state.borrow_mut().has_ended = true;
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.session.state.borrow_mut().unanswered.remove(&self.number);
    }
}
