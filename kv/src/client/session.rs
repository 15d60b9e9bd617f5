//! A session of one partition, as its client has it: which numbers are under way.

use crate::effect::SessionId;
use crate::session::{Numbered, WINDOW};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// See the module page.
#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
    numbers: RefCell<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    next: u64,
    /// Those whose end is not known.
    unanswered: BTreeSet<u64>,
    /// Numbers from the first unanswered one on that may be in use.
    window: u64,
    /// Who waits for room.
    waiting: Vec<Waker>,
}

/// A number that is under way. When it is dropped its answer is known, or nobody wants it any more.
#[derive(Debug)]
pub(super) struct Ticket {
    session: Rc<Session>,
    number: u64,
}

impl Session {
    /// One that was just opened.
    pub fn new(id: SessionId, window: u64) -> Self {
        let window = window.clamp(1, WINDOW);
        let (unanswered, waiting) = (BTreeSet::new(), Vec::new());
        Session { id, numbers: RefCell::new(Numbers { next: 0, unanswered, window, waiting }) }
    }

    /// Its name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The next number, as soon as there is room for it.
    pub fn poll_begin(self: &Rc<Self>, context: &Context<'_>) -> Poll<Ticket> {
        let mut numbers = self.numbers.borrow_mut();
        let number = numbers.next;
        if number - numbers.first_unanswered() >= numbers.window {
            numbers.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        numbers.next += 1;
        numbers.unanswered.insert(number);
        Poll::Ready(Ticket { session: self.clone(), number })
    }
}

impl Numbers {
    fn first_unanswered(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.next)
    }
}

impl Ticket {
    /// As the store is told it now.
    pub fn numbered(&self) -> Numbered {
        let first_unanswered = self.session.numbers.borrow().first_unanswered();
        Numbered { session: self.session.id, number: self.number, first_unanswered }
    }

    /// Of which session it is.
    pub fn session(&self) -> &Rc<Session> {
        &self.session
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut numbers = self.session.numbers.borrow_mut();
        numbers.unanswered.remove(&self.number);
        let waiting = std::mem::take(&mut numbers.waiting);
        drop(numbers);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(session: &Rc<Session>) -> Option<Ticket> {
        match session.poll_begin(&Context::from_waker(Waker::noop())) {
            Poll::Ready(ticket) => Some(ticket),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_oldest_unanswered_number_holds_the_window() {
        let session = Rc::new(Session::new(SessionId { epoch: 1, index: 2 }, 3));
        let [first, second, third] = [(); 3].map(|()| begin(&session).expect("there is room"));
        assert!(begin(&session).is_none());
        drop(second);
        assert!(begin(&session).is_none(), "the first one is not answered");
        assert_eq!(third.numbered().first_unanswered, 0);
        drop(first);
        assert_eq!(third.numbered().first_unanswered, 2);
        let [fourth, fifth] = [(); 2].map(|()| begin(&session).expect("there is room"));
        assert_eq!((fourth.numbered().number, fifth.numbered().number), (3, 4));
        assert!(begin(&session).is_none());
    }
}
