//! `MULTI`, `EXEC` and `DISCARD`: there are no transactions, and nothing of one is carried out.
//!
//! What Redis does with a transaction of which a command was wrong is done with all of them: each command
//! behind `MULTI` is refused, and `EXEC` says so. The connection stays, for many clients send on a new one
//! what was not answered on the old one, and would send it without `MULTI` then.

use super::client::ClientState;
use crate::command::error::Error;
use crate::resp::Reply;

/// A transaction that a client has begun.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Transaction {
    /// Some command of it was refused.
    has_refused: bool,
}

/// A command that begins or ends one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bracket {
    Multi,
    Exec,
    Discard,
}

impl Bracket {
    /// The one of a name.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
        match () {
            () if is(b"multi") => Some(Bracket::Multi),
            () if is(b"exec") => Some(Bracket::Exec),
            () if is(b"discard") => Some(Bracket::Discard),
            () => None,
        }
    }

    /// Answers it.
    ///
    /// # Errors
    /// As Redis does.
    pub(super) fn run(self, client: &mut ClientState, reply: &mut Reply<'_>) -> Result<(), Error> {
        match (self, client.transaction.take()) {
            (Bracket::Multi, None) => {
                client.transaction = Some(Transaction::default());
                reply.ok();
            }
            (Bracket::Multi, before) => {
                client.transaction = before;
                return Err(Error::fixed("ERR MULTI calls can not be nested"));
            }
            (Bracket::Exec, None) => return Err(Error::fixed("ERR EXEC without MULTI")),
            (Bracket::Discard, None) => return Err(Error::fixed("ERR DISCARD without MULTI")),
            (Bracket::Exec, Some(Transaction { has_refused: true })) => {
                let text = "EXECABORT Transaction discarded because of previous errors.";
                return Err(Error::fixed(text));
            }
            (Bracket::Exec, Some(_)) => reply.array(0),
            (Bracket::Discard, Some(_)) => reply.ok(),
        }
        Ok(())
    }
}

impl Transaction {
    /// A command of it comes.
    pub(super) fn refuse(&mut self) {
        self.has_refused = true;
    }
}
