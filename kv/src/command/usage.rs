//! `MEMORY USAGE`: what a key takes.

use super::Done;
use super::error::Error;
use super::number::integer;
use crate::keyspace::Keyspace;
use crate::resp::{Args, Reply};

/// Bytes of an entry beside its key and its value, without and with an expiry.
const HEADER_BYTES: usize = 15;
const EXPIRY_BYTES: usize = 8;

/// Entries take a multiple of this.
const CELL_BYTES: usize = 16;

/// Bytes in the index: a pair of 32-bit words and a tag, in a table that is three quarters full.
const INDEX_BYTES: usize = 12;

/// `MEMORY USAGE key [SAMPLES count]`: bytes of its entry, rounded up to what it lies in, and its part of the
/// index. Exact for entries up to 512 bytes, within an eighth beyond. All of a value is looked at, whatever
/// `SAMPLES` says.
pub fn memory_usage(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    match args.len() {
        3 => {}
        5 if args.at(3).eq_ignore_ascii_case(b"samples") => {
            if integer(args.at(4))? < 0 {
                return Err(Error::SYNTAX);
            }
        }
        _ => return Err(Error::SYNTAX),
    }
    let key = keys.key(args.at(2))?;
    let Some(found) = keys.look(&key) else {
        reply.null();
        return Ok(());
    };
    let expiry = if found.expires_at.is_some() { EXPIRY_BYTES } else { 0 };
    let bytes = HEADER_BYTES + expiry + key.bytes.len() + found.value.len();
    reply.integer((bytes.next_multiple_of(CELL_BYTES) + INDEX_BYTES) as i64);
    Ok(())
}
