//! Commands on keys, whatever their values: exist, expire, move.

use super::Done;
use super::error::Error;
use super::number;
use super::time::Unit;
use crate::effect::EffectRef;
use crate::keyspace::Keyspace;
use crate::resp::{Args, Reply};
use std::collections::HashSet;

/// `DEL key …`, `UNLINK key …`
pub fn del(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    if args.len() == 2 {
        let key = keys.key(args.at(1))?;
        let exists = keys.get(&key).is_some();
        if exists {
            keys.delete(&key)?;
        }
        reply.integer(i64::from(exists));
        return Ok(());
    }
    let mut effects: Vec<EffectRef<'_>> = Vec::with_capacity(args.len() - 1);
    // A key that is named twice is deleted once. There may be a million of them.
    let mut named = HashSet::with_capacity(args.len() - 1);
    for name in args.iter().skip(1) {
        let key = keys.key(name)?;
        if named.insert(key.bytes) && keys.get(&key).is_some() {
            effects.push(EffectRef::Delete { key: key.bytes });
        }
    }
    reply.integer(effects.len() as i64);
    if !effects.is_empty() {
        keys.write_all(&effects)?;
    }
    Ok(())
}

/// `EXISTS key …`: one that is named twice counts twice.
pub fn exists(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let mut count = 0;
    for name in args.iter().skip(1) {
        let key = keys.key(name)?;
        count += i64::from(keys.get(&key).is_some());
    }
    reply.integer(count);
    Ok(())
}

/// `TYPE key`
pub fn type_of(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    reply.simple(if keys.get(&key).is_some() { "string" } else { "none" });
    Ok(())
}

/// `RENAME key newkey`
pub fn rename(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    move_to(keys, args, true)?;
    reply.ok();
    Ok(())
}

/// `RENAMENX key newkey`
pub fn renamenx(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let is_moved = move_to(keys, args, false)?;
    reply.integer(i64::from(is_moved));
    Ok(())
}

fn move_to(keys: &mut Keyspace<'_>, args: &Args<'_>, replaces: bool) -> Result<bool, Error> {
    let (from, to) = (keys.key(args.at(1))?, keys.key(args.at(2))?);
    let found = keys.get(&from).ok_or(Error::NO_SUCH_KEY)?;
    let (value, expires_at) = (found.value.to_vec(), found.expires_at);
    if from.bytes == to.bytes {
        return Ok(replaces);
    }
    if !replaces && keys.get(&to).is_some() {
        return Ok(false);
    }
    keys.write_all(&[
        EffectRef::Delete { key: from.bytes },
        EffectRef::Put { key: to.bytes, value: &value, expires_at },
    ])?;
    Ok(true)
}

/// `COPY source destination [DB 0] [REPLACE]`
pub fn copy(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let mut replaces = false;
    let mut at = 3;
    while at < args.len() {
        let option = args.at(at);
        if option.eq_ignore_ascii_case(b"replace") {
            replaces = true;
        } else if option.eq_ignore_ascii_case(b"db") && at + 1 < args.len() {
            at += 1;
            if number::integer(args.at(at))? != 0 {
                return Err(Error::fixed("ERR DB index is out of range"));
            }
        } else {
            return Err(Error::SYNTAX);
        }
        at += 1;
    }
    let (from, to) = (keys.key(args.at(1))?, keys.key(args.at(2))?);
    if from.bytes == to.bytes {
        return Err(Error::fixed("ERR source and destination objects are the same"));
    }
    let Some(found) = keys.get(&from) else {
        reply.integer(0);
        return Ok(());
    };
    let (value, expires_at) = (found.value.to_vec(), found.expires_at);
    let may = replaces || keys.get(&to).is_none();
    if may {
        keys.put(&to, &value, expires_at)?;
    }
    reply.integer(i64::from(may));
    Ok(())
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub fn expire(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    expire_at(keys, args, reply, Unit::Seconds, "expire")
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub fn pexpire(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    expire_at(keys, args, reply, Unit::Millis, "pexpire")
}

/// `EXPIREAT key seconds [NX | XX | GT | LT]`
pub fn expireat(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    expire_at(keys, args, reply, Unit::AtSeconds, "expireat")
}

/// `PEXPIREAT key milliseconds [NX | XX | GT | LT]`
pub fn pexpireat(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    expire_at(keys, args, reply, Unit::AtMillis, "pexpireat")
}

/// When an expiry is set, by what there was before.
#[derive(Default)]
struct ExpireIf {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl ExpireIf {
    fn parse(args: &Args<'_>) -> Result<Self, Error> {
        let mut only_if = ExpireIf::default();
        for option in args.iter().skip(3) {
            match option.to_ascii_lowercase().as_slice() {
                b"nx" => only_if.nx = true,
                b"xx" => only_if.xx = true,
                b"gt" => only_if.gt = true,
                b"lt" => only_if.lt = true,
                _ => {
                    let option = String::from_utf8_lossy(option);
                    return Err(Error::of(format!("ERR Unsupported option {option}")));
                }
            }
        }
        if only_if.nx && (only_if.xx || only_if.gt || only_if.lt) {
            return Err(Error::fixed(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if only_if.gt && only_if.lt {
            return Err(Error::fixed("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(only_if)
    }

    /// A key without an expiry lives for ever, which is later than any instant.
    fn is_met(&self, current: Option<u64>, new: i64) -> bool {
        let current_is_later =
            |at: Option<u64>| at.is_none_or(|at| i64::try_from(at).is_ok_and(|at| at > new));
        let is_same = current.is_some_and(|at| i64::try_from(at).is_ok_and(|at| at == new));
        !(self.nx && current.is_some()
            || self.xx && current.is_none()
            || self.gt && (current_is_later(current) || is_same)
            || self.lt && (!current_is_later(current) || is_same))
    }
}

fn expire_at(
    keys: &mut Keyspace<'_>,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
    unit: Unit,
    name: &str,
) -> Done {
    let key = keys.key(args.at(1))?;
    let only_if = ExpireIf::parse(args)?;
    let value = number::integer(args.at(2))?;
    let now_ms = keys.now_ms();
    let at = unit.instant(value, now_ms).ok_or_else(|| Error::expire_time(name))?;
    let found = keys.get(&key).map(|found| found.expires_at);
    let is_set = found.is_some_and(|current| only_if.is_met(current, at));
    if is_set {
        match u64::try_from(at) {
            Ok(at) if at > now_ms => keys.expire(&key, Some(at))?,
            // It has expired already.
            _ => keys.delete(&key)?,
        }
    }
    reply.integer(i64::from(is_set));
    Ok(())
}

/// `PERSIST key`
pub fn persist(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let key = keys.key(args.at(1))?;
    let has_expiry = keys.get(&key).is_some_and(|found| found.expires_at.is_some());
    if has_expiry {
        keys.expire(&key, None)?;
    }
    reply.integer(i64::from(has_expiry));
    Ok(())
}

/// `TTL key`
pub fn ttl(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    tell_expiry(keys, args, reply, |at, now| in_seconds(at - now))
}

/// `PTTL key`
pub fn pttl(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    tell_expiry(keys, args, reply, |at, now| at - now)
}

/// `EXPIRETIME key`
pub fn expiretime(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    tell_expiry(keys, args, reply, |at, _| in_seconds(at))
}

/// `PEXPIRETIME key`
pub fn pexpiretime(keys: &mut Keyspace<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    tell_expiry(keys, args, reply, |at, _| at)
}

fn in_seconds(millis: i64) -> i64 {
    millis.saturating_add(500) / 1_000
}

/// -2: there is no such key; -1: it does not expire.
fn tell_expiry(
    keys: &mut Keyspace<'_>,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
    tell: fn(i64, i64) -> i64,
) -> Done {
    let key = keys.key(args.at(1))?;
    let now_ms = keys.now_ms() as i64;
    let answer = match keys.get(&key).map(|found| found.expires_at) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => tell(i64::try_from(at).unwrap_or(i64::MAX), now_ms),
    };
    reply.integer(answer);
    Ok(())
}
