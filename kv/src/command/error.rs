//! Why a command was refused, in the words of Redis: clients tell them apart by these.

use std::borrow::Cow;

/// The text of an error reply, its code first. Never contains CR or LF but where the reply writer takes
/// them out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error(pub Cow<'static, str>);

impl Error {
    /// The command's arguments are not as its syntax wants them.
    pub const SYNTAX: Error = Error::fixed("ERR syntax error");
    /// An argument, or the value of a key, is no 64-bit integer.
    pub const NOT_INTEGER: Error = Error::fixed("ERR value is not an integer or out of range");
    /// An argument, or the value of a key, is no number.
    pub const NOT_FLOAT: Error = Error::fixed("ERR value is not a valid float");
    /// Adding would leave the range of 64-bit integers.
    pub const OVERFLOW: Error = Error::fixed("ERR increment or decrement would overflow");
    /// Adding would leave the range of floating-point numbers.
    pub const NOT_FINITE: Error = Error::fixed("ERR increment would produce NaN or Infinity");
    /// `RENAME` and its like.
    pub const NO_SUCH_KEY: Error = Error::fixed("ERR no such key");
    /// A negative offset.
    pub const OFFSET: Error = Error::fixed("ERR offset is out of range");
    /// The value would be longer than any may be.
    pub const TOO_LONG: Error =
        Error::fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    /// An answer would be longer than any may be.
    pub const ANSWER_TOO_LONG: Error =
        Error::fixed("ERR the answer would be too long; ask for fewer keys at a time");
    /// A cursor that no scan has given.
    pub const CURSOR: Error = Error::fixed("ERR invalid cursor");
    /// The keys of one command are in several slots.
    pub const CROSS_SLOT: Error =
        Error::fixed("CROSSSLOT Keys in request don't hash to the same slot");
    /// Memory is used up, and nothing may be evicted.
    pub const OUT_OF_MEMORY: Error =
        Error::fixed("OOM command not allowed when used memory > 'maxmemory'.");
    /// Who has not authenticated may not do this.
    pub const NO_AUTH: Error = Error::fixed("NOAUTH Authentication required.");
    /// The password, or the user, is wrong.
    pub const WRONG_PASS: Error =
        Error::fixed("WRONGPASS invalid username-password pair or user is disabled.");
    /// A key is longer than keys may be.
    pub const KEY_TOO_LONG: Error = Error::fixed("ERR key is longer than 65535 bytes");
    /// The version of a conditional write is not written as versions are.
    pub const VERSION: Error =
        Error::fixed("ERR version is not of the form epoch-index, as GETV gives it");
    /// The log has failed: nothing is acknowledged any more.
    pub const STOPPED: Error = Error::fixed(
        "MISCONF writing the log has failed, so nothing is written any more; see the server's log",
    );

    /// A command behind `MULTI`.
    pub const NO_TRANSACTIONS: Error = Error::fixed(
        "ERR there are no transactions, and nothing of this one is carried out; send pipelines without \
         MULTI, or one command on several keys",
    );

    /// Another replica orders the writes of that key.
    pub const NOT_HEAD: Error =
        Error::fixed("TRYAGAIN another node orders the writes of that key; try again in a moment");

    /// There is no data directory.
    pub const NOTHING_KEPT: Error =
        Error::fixed("ERR this server keeps nothing on a disk; start it with --dir");

    /// The server has just started.
    pub const LOADING: Error = Error::fixed("LOADING Catena is loading the dataset in memory");
    /// More is written than the disk takes: the client should wait.
    pub const LOG_FULL: Error =
        Error::fixed("BUSY more is written than the disk takes; try again in a moment");

    /// An error whose text is known before.
    pub const fn fixed(text: &'static str) -> Self {
        Error(Cow::Borrowed(text))
    }

    /// An error about these arguments.
    pub fn of(text: impl Into<String>) -> Self {
        Error(Cow::Owned(text.into()))
    }

    /// A command of this name was given too few or too many arguments.
    pub fn arity(name: &str) -> Self {
        Error::of(format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// An expiry of this command is not in the future of mankind.
    pub fn expire_time(name: &str) -> Self {
        Error::of(format!("ERR invalid expire time in '{name}' command"))
    }

    /// A command has no such subcommand.
    pub fn subcommand(command: &str, subcommand: &[u8]) -> Self {
        let subcommand = clip(subcommand, 128);
        let command = command.to_ascii_uppercase();
        Error::of(format!("ERR unknown subcommand '{subcommand}'. Try {command} HELP."))
    }

    /// There is no such command.
    pub fn unknown<'a>(name: &[u8], args: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut text =
            format!("ERR unknown command '{}', with args beginning with: ", clip(name, 128));
        for arg in args {
            if text.len() >= 128 + 60 {
                break;
            }
            text.push_str(&format!("'{}' ", clip(arg, 128)));
        }
        Error::of(text)
    }
}

/// The first `bytes_max` bytes of what a client has sent, as text.
fn clip(bytes: &[u8], bytes_max: usize) -> Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(bytes_max)])
}
