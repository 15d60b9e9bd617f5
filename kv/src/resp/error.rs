//! What is wrong with a peer's bytes, in Redis' words.

use std::fmt;

/// Bytes that are no command, or a larger one than is allowed. The peer's fault: tell it, then close, for
/// where its next command begins is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number of arguments is no number, or above [`Limits::args_max`](super::Limits::args_max).
    InvalidMultibulkLength,
    /// More arguments than a peer may send before it has authenticated.
    UnauthenticatedMultibulkLength,
    /// The line with the number of arguments does not end.
    TooBigMultibulkCount,
    /// The length of an argument is no number, or above
    /// [`Limits::bulk_bytes_max`](super::Limits::bulk_bytes_max), or no line end stands behind so many bytes.
    InvalidBulkLength,
    /// A longer argument than a peer may send before it has authenticated.
    UnauthenticatedBulkLength,
    /// The line with the length of an argument does not end.
    TooBigBulkCount,
    /// An argument begins otherwise than with `$`.
    ExpectedBulk {
        /// The byte that stands there.
        got: u8,
    },
    /// The command exceeds [`Limits::command_bytes_max`](super::Limits::command_bytes_max). Redis closes
    /// without a word where its query buffer is full, so the wording is ours.
    TooBigCommand,
    /// The line of an inline command does not end, or has too many words.
    TooBigInline,
    /// A quote is not closed, or something stands right behind its end.
    UnbalancedQuotes,
}

impl ProtocolError {
    /// Appends the text of the answer, error code included: `ERR Protocol error: …`. Bytes and not a
    /// string, for the peer's own byte may be in it; [`Reply::error`](super::Reply::error) keeps that to
    /// one line.
    pub fn write(self, text: &mut Vec<u8>) {
        text.extend_from_slice(b"ERR Protocol error: ");
        text.extend_from_slice(self.reason().as_bytes());
        if let Self::ExpectedBulk { got } = self {
            text.extend_from_slice(&[got, b'\'']);
        }
    }

    /// The text up to the peer's byte, where there is one.
    fn reason(self) -> &'static str {
        match self {
            Self::InvalidMultibulkLength => "invalid multibulk length",
            Self::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            Self::TooBigMultibulkCount => "too big mbulk count string",
            Self::InvalidBulkLength => "invalid bulk length",
            Self::UnauthenticatedBulkLength => "unauthenticated bulk length",
            Self::TooBigBulkCount => "too big bulk count string",
            Self::ExpectedBulk { .. } => "expected '$', got '",
            Self::TooBigCommand => "too big multibulk request",
            Self::TooBigInline => "too big inline request",
            Self::UnbalancedQuotes => "unbalanced quotes in request",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Protocol error: {}", self.reason())?;
        match self {
            Self::ExpectedBulk { got } => write!(formatter, "{}'", got.escape_ascii()),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ProtocolError {}
