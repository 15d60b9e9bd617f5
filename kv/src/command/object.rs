//! `OBJECT`: how the value of a key is kept, in Redis' words for it.

use super::Done;
use super::error::Error;
use super::number::integer;
use crate::keyspace::Keyspace;
use crate::resp::{Args, Reply};

/// The longest string that Redis keeps beside its header, in bytes.
const EMBEDDED_BYTES_MAX: usize = 44;

/// Which question of `OBJECT` this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum About {
    Encoding,
    Freq,
    IdleTime,
    RefCount,
}

impl About {
    fn of(word: &[u8]) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_slice() {
            b"encoding" => About::Encoding,
            b"freq" => About::Freq,
            b"idletime" => About::IdleTime,
            b"refcount" => About::RefCount,
            _ => return None,
        })
    }
}

/// Whether these are arguments of [`object`]: a question, and a key.
pub fn asks_of_a_key(args: &Args<'_>) -> bool {
    args.len() == 3 && About::of(args.at(1)).is_some()
}

/// `OBJECT ENCODING|FREQ|IDLETIME|REFCOUNT key`. To ask is not to use the key.
pub fn object(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let about = About::of(args.at(1)).expect("`spec::of` has looked");
    let key = keys.key(args.at(2))?;
    let idle_s = keys.idle_seconds(&key);
    let Some(found) = keys.look(&key) else {
        reply.null();
        return Ok(());
    };
    match about {
        About::Encoding => reply.bulk(encoding(found.value)),
        // A value is one key's alone.
        About::RefCount => reply.integer(1),
        About::IdleTime => reply.integer(idle_s.ok_or(NOT_LRU)?.cast_signed()),
        About::Freq => return Err(NOT_LFU),
    }
    Ok(())
}

/// As Redis has it for a value that was set whole. All are kept alike here, so that what Redis says of one
/// that was appended to or overwritten in part is not known.
fn encoding(value: &[u8]) -> &'static [u8] {
    match value.len() {
        _ if integer(value).is_ok() => b"int",
        ..=EMBEDDED_BYTES_MAX => b"embstr",
        _ => b"raw",
    }
}

/// In the manner of [`NOT_LFU`], for what Redis always tracks but under LFU.
const NOT_LRU: Error = Error::fixed(
    "ERR An LRU maxmemory policy is not selected, idle time not tracked. Start the server with --eviction \
     lru.",
);

/// Redis' words.
const NOT_LFU: Error = Error::fixed(
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
     switching between policies at runtime LRU and LFU data will take some time to adjust.",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_those_of_redis() {
        for (value, expected) in [
            ("", "embstr"),
            ("0", "int"),
            ("-0", "embstr"),
            ("01", "embstr"),
            ("9223372036854775807", "int"),
            ("-9223372036854775808", "int"),
            ("9223372036854775808", "embstr"),
            (&"x".repeat(44), "embstr"),
            (&"x".repeat(45), "raw"),
            (&"1".repeat(45), "raw"),
        ] {
            assert_eq!(encoding(value.as_bytes()), expected.as_bytes(), "{value}");
        }
    }
}
