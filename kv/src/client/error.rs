//! How a call to the store may end without the answer that was asked for.

use crate::native::status;
use crate::partition::Version;
use catena_engine::{CallError, Status};
use std::fmt;

/// Why there is no answer, and what that says about the store.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A condition does not hold; nothing was changed.
    ConditionFailed {
        /// Which of the changes.
        change: u16,
        /// The key's version; [`Version::NONE`]: it is not there.
        version: Version,
    },
    /// The value to be added to is no 64-bit integer; nothing was changed.
    NotInteger {
        /// Which of the changes.
        change: u16,
    },
    /// The sum would not fit into 64 bits; nothing was changed.
    Overflow {
        /// Which of the changes.
        change: u16,
    },
    /// The store refuses it, and would again; nothing was changed.
    Refused(CallError),
    /// The deadline passed before it was carried out; nothing was changed. With the last reason to wait.
    NotExecuted(Option<CallError>),
    /// It may have been carried out, once; it cannot be known any more. With what made it uncertain.
    MaybeCommitted(CallError),
    /// The keys of one write are in several partitions; nothing was sent.
    SeveralPartitions,
    /// A write has no changes, or more than [`CHANGES_MAX`](crate::native::wire::CHANGES_MAX), or a key that
    /// is too long; nothing was sent.
    TooLarge,
    /// The answer cannot be read: the server speaks another protocol. A write may have been carried out.
    Foreign,
}

impl Error {
    /// True if nothing was changed, for certain.
    pub fn is_not_executed(&self) -> bool {
        !matches!(self, Error::MaybeCommitted(_) | Error::Foreign)
    }
}

/// The text of a failure, with the store's own name for its status.
pub(super) fn describe(error: &CallError) -> String {
    match error {
        CallError::Status { status, payload } => {
            let name = status::name(*status).unwrap_or("unknown status");
            match std::str::from_utf8(payload) {
                Ok(text) if !text.is_empty() && *status != Status::WRONG_SHARD => {
                    format!("{name}: {text}")
                }
                _ => name.to_owned(),
            }
        }
        other => other.to_string(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::ConditionFailed { version, .. } if *version == Version::NONE => {
                f.write_str("the condition does not hold: there is no such key")
            }
            Error::ConditionFailed { version, .. } => {
                write!(f, "the condition does not hold: the key has version {version}")
            }
            Error::NotInteger { .. } => f.write_str("the value is no 64-bit integer"),
            Error::Overflow { .. } => f.write_str("the sum would not fit into 64 bits"),
            Error::Refused(error) => write!(f, "refused: {}", describe(error)),
            Error::NotExecuted(None) => f.write_str("not carried out before its deadline"),
            Error::NotExecuted(Some(error)) => {
                write!(f, "not carried out before its deadline: {}", describe(error))
            }
            Error::MaybeCommitted(error) => {
                write!(f, "it may have been carried out: {}", describe(error))
            }
            Error::SeveralPartitions => f.write_str(
                "the keys of one write are in several partitions; give them a common {tag}",
            ),
            Error::TooLarge => {
                f.write_str("a write has 1 to 128 changes, and keys have at most 65,535 bytes")
            }
            Error::Foreign => f.write_str("the server's answer is none of this protocol"),
        }
    }
}

impl std::error::Error for Error {}
