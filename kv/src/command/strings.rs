//! Commands on the value of a key.

use super::Done;
use super::error::Error;
use super::number::{self, Digits};
use super::time::{self, Expiry};
use crate::effect::EffectRef;
use crate::keyspace::{Key, Keyspace};
use crate::limits::VALUE_BYTES_MAX;
use crate::partition::Version;
use crate::resp::{Args, Reply};

/// `GET key`
pub fn get(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    match keys.get(&key) {
        Some(found) => reply.bulk(found.value),
        None => reply.null(),
    }
    Ok(())
}

/// `GETV key`: the value and its version.
pub fn getv(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    match keys.get(&key) {
        Some(found) => {
            reply.array(2);
            reply.bulk(found.value);
            reply.bulk(found.version.to_string().as_bytes());
        }
        None => reply.null(),
    }
    Ok(())
}

/// `CAS key version value`: sets the value if the version is the one given, `0-0` meaning that there is
/// no such key. Answers the new version, or null.
pub fn cas(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let wanted = Version::parse(args.at(2)).ok_or(Error::VERSION)?;
    let found = keys.get(&key).map(|found| (found.version, found.expires_at));
    let (version, expires_at) = found.unwrap_or((Version::NONE, None));
    if version != wanted {
        reply.null();
        return Ok(());
    }
    let version = keys.put(&key, args.at(3), expires_at)?;
    reply.bulk(version.to_string().as_bytes());
    Ok(())
}

/// `DELIFEQ key value`: deletes the key if that is its value. Answers whether it was.
pub fn delifeq(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let is_it = keys.get(&key).is_some_and(|found| found.value == args.at(2));
    if is_it {
        keys.delete(&key)?;
    }
    reply.integer(is_it.into());
    Ok(())
}

/// What stands behind `SET key value`.
#[derive(Default)]
struct SetOptions {
    only_if: Option<Existence>,
    expiry: Option<Expiry>,
    keeps_ttl: bool,
    wants_old: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Existence {
    Missing,
    Present,
}

impl SetOptions {
    fn parse(args: &Args<'_>) -> Result<Self, Error> {
        let mut options = SetOptions::default();
        let mut at = 3;
        while at < args.len() {
            let option = args.at(at);
            // Once more is no mistake, as long as it does not contradict: the last one counts.
            let (only_if, expiry) = (options.only_if, options.expiry.as_ref());
            if option.eq_ignore_ascii_case(b"nx") && only_if != Some(Existence::Present) {
                options.only_if = Some(Existence::Missing);
            } else if option.eq_ignore_ascii_case(b"xx") && only_if != Some(Existence::Missing) {
                options.only_if = Some(Existence::Present);
            } else if option.eq_ignore_ascii_case(b"get") {
                options.wants_old = true;
            } else if option.eq_ignore_ascii_case(b"keepttl") && expiry.is_none() {
                options.keeps_ttl = true;
            } else if let Some(unit) = time::Unit::of_option(option)
                && !options.keeps_ttl
                && expiry.is_none_or(|expiry| expiry.unit == unit)
                && at + 1 < args.len()
            {
                at += 1;
                options.expiry = Some(Expiry { unit, text: at });
            } else {
                return Err(Error::SYNTAX);
            }
            at += 1;
        }
        Ok(options)
    }
}

/// `SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub fn set(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    if args.len() == 3 {
        keys.put(&key, args.at(2), None)?;
        reply.ok();
        return Ok(());
    }
    let options = SetOptions::parse(args)?;
    let expires_at = match &options.expiry {
        Some(expiry) => Some(expiry.instant(args, keys.now_ms(), "set")?),
        None => None,
    };
    let needs_old = options.only_if.is_some() || options.keeps_ttl || options.wants_old;
    let mut kept = None;
    let mut exists = false;
    if needs_old {
        let found = keys.get(&key);
        if let (Some(found), true) = (&found, options.keeps_ttl) {
            kept = found.expires_at;
        }
        exists = found.is_some();
        if options.wants_old {
            reply.bulk_or_null(found.map(|found| found.value));
        }
    }
    let is_met = options.only_if.is_none_or(|only_if| (only_if == Existence::Present) == exists);
    match (is_met, options.wants_old) {
        (true, _) => {
            keys.put(&key, args.at(2), expires_at.or(kept))?;
            if !options.wants_old {
                reply.ok();
            }
        }
        (false, true) => {}
        (false, false) => reply.null(),
    }
    Ok(())
}

/// `SETNX key value`
pub fn setnx(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let exists = keys.get(&key).is_some();
    if !exists {
        keys.put(&key, args.at(2), None)?;
    }
    reply.integer(i64::from(!exists));
    Ok(())
}

/// `SETEX key seconds value`
pub fn setex(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    set_for(keys, args, reply, time::Unit::Seconds, "setex")
}

/// `PSETEX key milliseconds value`
pub fn psetex(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    set_for(keys, args, reply, time::Unit::Millis, "psetex")
}

fn set_for(
    keys: &mut Keyspace<'_>,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
    unit: time::Unit,
    name: &str,
) -> Done {
    let key = keys.key(args.at(1))?;
    let expires_at = Expiry { unit, text: 2 }.instant(args, keys.now_ms(), name)?;
    keys.put(&key, args.at(3), Some(expires_at))?;
    reply.ok();
    Ok(())
}

/// `GETSET key value`
pub fn getset(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    reply.bulk_or_null(keys.get(&key).map(|found| found.value));
    keys.put(&key, args.at(2), None)?;
    Ok(())
}

/// `GETDEL key`
pub fn getdel(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let found = keys.get(&key);
    let exists = found.is_some();
    reply.bulk_or_null(found.map(|found| found.value));
    if exists {
        keys.delete(&key)?;
    }
    Ok(())
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub fn getex(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let mut expiry: Option<Expiry> = None;
    let mut persists = false;
    let mut at = 2;
    while at < args.len() {
        let unit = time::Unit::of_option(args.at(at)).filter(|_| at + 1 < args.len() && !persists);
        match unit {
            Some(unit) if expiry.as_ref().is_none_or(|expiry| expiry.unit == unit) => {
                expiry = Some(Expiry { unit, text: at + 1 });
                at += 2;
            }
            None if args.at(at).eq_ignore_ascii_case(b"persist") && expiry.is_none() => {
                persists = true;
                at += 1;
            }
            _ => return Err(Error::SYNTAX),
        }
    }
    let Some(found) = keys.get(&key) else {
        reply.null();
        return Ok(());
    };
    let had_expiry = found.expires_at.is_some();
    reply.bulk(found.value);
    match expiry {
        Some(expiry) => {
            let at = expiry.instant(args, keys.now_ms(), "getex")?;
            keys.expire(&key, Some(at))
        }
        None if persists && had_expiry => keys.expire(&key, None),
        None => Ok(()),
    }
}

/// `MGET key …`
pub fn mget(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    reply.array(args.len() - 1);
    let mut bytes = 0;
    for name in args.iter().skip(1) {
        let key = keys.key(name)?;
        let value = keys.get(&key).map(|found| found.value);
        bytes += value.map_or(0, <[u8]>::len);
        reply.bulk_or_null(value);
        keys.check_answer(bytes)?;
    }
    Ok(())
}

/// `MSET key value …`
pub fn mset(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    put_all(keys, args, "mset")?;
    reply.ok();
    Ok(())
}

/// `MSETNX key value …`
pub fn msetnx(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(Error::arity("msetnx"));
    }
    for name in args.iter().skip(1).step_by(2) {
        let key = keys.key(name)?;
        if keys.get(&key).is_some() {
            reply.integer(0);
            return Ok(());
        }
    }
    put_all(keys, args, "msetnx")?;
    reply.integer(1);
    Ok(())
}

/// All pairs as one entry: all of them, or none.
fn put_all(keys: &mut Keyspace<'_>, args: &Args<'_>, name: &str) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(Error::arity(name));
    }
    let mut effects = Vec::with_capacity(args.len() / 2);
    for at in (1..args.len()).step_by(2) {
        let key = keys.key(args.at(at))?;
        keys.check_length(args.at(at + 1).len())?;
        effects.push(EffectRef::Put { key: key.bytes, value: args.at(at + 1), expires_at: None });
    }
    keys.write_all(&effects)?;
    Ok(())
}

/// `STRLEN key`
pub fn strlen(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    reply.integer(keys.get(&key).map_or(0, |found| found.value.len() as i64));
    Ok(())
}

/// `APPEND key value`
pub fn append(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let more = args.at(2);
    let length = match keys.get(&key).map(|found| found.value.len()) {
        None => {
            keys.put(&key, more, None)?;
            more.len()
        }
        Some(length) => {
            splice(keys, &key, length, length, more)?;
            length + more.len()
        }
    };
    reply.integer(length as i64);
    Ok(())
}

/// `SETRANGE key offset value`
pub fn setrange(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let offset = number::integer(args.at(2))?;
    let offset = usize::try_from(offset).map_err(|_| Error::OFFSET)?;
    let bytes = args.at(3);
    let found = keys.get(&key).map(|found| found.value.len());
    let length = found.unwrap_or(0);
    if bytes.is_empty() {
        reply.integer(length as i64);
        return Ok(());
    }
    if offset.checked_add(bytes.len()).is_none_or(|end| end > VALUE_BYTES_MAX) {
        return Err(Error::TOO_LONG);
    }
    // Before there is memory for it.
    keys.check_length(offset + bytes.len())?;
    match found {
        Some(_) => splice(keys, &key, length, offset, bytes)?,
        None => {
            let mut value = vec![0; offset];
            value.extend_from_slice(bytes);
            keys.put(&key, &value, None)?;
        }
    }
    reply.integer(length.max(offset + bytes.len()) as i64);
    Ok(())
}

/// Values up to this many bytes are logged whole when a part of them changes: a small record that stands
/// for itself is worth more than the bytes.
const REWRITE_BYTES_MAX: usize = 1_024;

/// Puts `bytes` at `offset` of a value that is there, which grows if need be.
fn splice(
    keys: &mut Keyspace<'_>,
    key: &Key<'_>,
    length: usize,
    offset: usize,
    bytes: &[u8],
) -> Done {
    let end = offset + bytes.len();
    keys.check_length(length.max(end))?;
    if length.max(end) > REWRITE_BYTES_MAX {
        return keys.splice(key, offset, bytes);
    }
    let found = keys.get(key).expect("it was there a moment ago");
    let (mut value, expires_at) = (found.value.to_vec(), found.expires_at);
    value.resize(length.max(end), 0);
    value[offset..end].copy_from_slice(bytes);
    keys.put(key, &value, expires_at)?;
    Ok(())
}

/// `GETRANGE key start end`, and `SUBSTR`, its old name.
pub fn getrange(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let (start, end) = (number::integer(args.at(2))?, number::integer(args.at(3))?);
    let found = keys.get(&key);
    let value = found.as_ref().map_or(&b""[..], |found| found.value);
    reply.bulk(part(value, start, end));
    Ok(())
}

/// The bytes from `start` to `end`, both included; negative ones count from the end.
fn part(value: &[u8], start: i64, end: i64) -> &[u8] {
    let length = value.len() as i64;
    if start < 0 && end < 0 && start > end {
        return b"";
    }
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
    let (start, end) = (place(start), place(end).min(length - 1));
    if start > end || length == 0 {
        return b"";
    }
    &value[start as usize..=end as usize]
}

/// `INCR key`
pub fn incr(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    add(keys, args, reply, 1)
}

/// `DECR key`
pub fn decr(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    add(keys, args, reply, -1)
}

/// `INCRBY key increment`
pub fn incrby(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    add(keys, args, reply, number::integer(args.at(2))?)
}

/// `DECRBY key decrement`
pub fn decrby(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let by = number::integer(args.at(2))?;
    let by = by.checked_neg().ok_or(Error::fixed("ERR decrement would overflow"))?;
    add(keys, args, reply, by)
}

fn add(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>, by: i64) -> Done {
    let key = keys.key(args.at(1))?;
    let (value, expires_at) = match keys.get(&key) {
        Some(found) => (number::integer(found.value)?, found.expires_at),
        None => (0, None),
    };
    let sum = value.checked_add(by).ok_or(Error::OVERFLOW)?;
    keys.put(&key, Digits::of(sum).bytes(), expires_at)?;
    reply.integer(sum);
    Ok(())
}

/// `INCRBYFLOAT key increment`
pub fn incrbyfloat(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let (sum, expires_at) = match keys.get(&key) {
        Some(found) => (number::add_floats(found.value, args.at(2))?, found.expires_at),
        None => (number::add_floats(b"0", args.at(2))?, None),
    };
    keys.put(&key, sum.as_bytes(), expires_at)?;
    reply.bulk(sum.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_values() {
        for (start, end, expected) in [
            (0, -1, "hello"),
            (0, 0, "h"),
            (1, 3, "ell"),
            (-3, -1, "llo"),
            (-100, 100, "hello"),
            (3, 1, ""),
            (-1, -3, ""),
            (5, 10, ""),
            (0, -100, "h"),
        ] {
            let got = part(b"hello", start, end);
            assert_eq!(got, expected.as_bytes(), "{start}..={end}");
        }
        assert_eq!(part(b"", 0, -1), b"");
    }
}
