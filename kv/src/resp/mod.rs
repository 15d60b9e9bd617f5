//! The Redis protocol: bytes of a connection → commands, and answers → bytes. Pure; knows no command.
//!
//! | file | what |
//! |---|---|
//! | [`parse`] | unread bytes → one command as slices of them, resumable |
//! | [`inline`] | a command typed by hand: a line of words, with quotes |
//! | [`reply`] | answers in RESP2 and RESP3 |
//! | [`value`] | answers as a client reads them |
//! | [`limits`] | how much one command may be |
//! | [`error`] | what is wrong with the bytes, in Redis' words |
//!
//! Source of the formats: the [protocol's specification]; of what is accepted and how it is refused: Redis
//! 7.0, compared on the wire.
//!
//! [protocol's specification]: https://redis.io/docs/latest/develop/reference/protocol-spec/

pub mod error;
pub mod inline;
pub mod limits;
pub mod parse;
pub mod reply;
pub mod value;

pub use error::ProtocolError;
pub use limits::Limits;
pub use parse::{Args, Parsed, Parser};
pub use reply::{Protocol, Reply};
pub use value::Value;
