//! What every command on keys has to do, on a plain map. Nothing here is shared with the store but the type
//! of an answer, and everything is written as plainly as can be.

use catena_kv::resp::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The longest value of the stores here, in bytes.
pub const VALUE_BYTES_MAX: usize = 40_000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub value: Vec<u8>,
    /// Unix milliseconds.
    pub expires_at: Option<i64>,
    /// The index of the entry that wrote it.
    pub index: u64,
}

/// The newest state of all keys.
#[derive(Clone, Default, Debug)]
pub struct Oracle {
    pub items: BTreeMap<Vec<u8>, Item>,
}

/// A command at an instant.
struct Call<'a> {
    items: &'a mut BTreeMap<Vec<u8>, Item>,
    args: &'a [Vec<u8>],
    now: i64,
    /// The index of the entry that it writes, if it writes one.
    index: u64,
}

type Answer = Result<Value, String>;

const OK: &str = "OK";
const NOT_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_FLOAT: &str = "ERR value is not a valid float";
const OVERFLOW: &str = "ERR increment or decrement would overflow";
const SYNTAX: &str = "ERR syntax error";
const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

impl Oracle {
    /// Does a command, and answers it. `index`: of the last entry of its partition after it.
    pub fn run(&mut self, args: &[Vec<u8>], now: i64, index: u64) -> Value {
        let mut call = Call { items: &mut self.items, args, now, index };
        call.run().unwrap_or_else(Value::Error)
    }

    pub fn version(&self, key: &[u8], now: i64) -> Option<u64> {
        self.items.get(key).filter(|item| item.is_alive(now)).map(|item| item.index)
    }
}

impl Item {
    pub fn is_alive(&self, now: i64) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

impl Call<'_> {
    fn run(&mut self) -> Answer {
        let name = String::from_utf8(self.args[0].clone()).expect("a name");
        match name.as_str() {
            "GET" => Ok(bulk(self.value(1))),
            "STRLEN" => Ok(count(self.value(1).map_or(0, |value| value.len()))),
            "EXISTS" | "TOUCH" => {
                let there = (1..self.args.len()).filter(|at| self.value(*at).is_some()).count();
                Ok(count(there))
            }
            "TYPE" => Ok(simple(if self.value(1).is_some() { "string" } else { "none" })),
            "MGET" => {
                Ok(Value::Array((1..self.args.len()).map(|at| bulk(self.value(at))).collect()))
            }
            "GETV" => Ok(match self.item(1) {
                None => Value::Null,
                Some(item) => Value::Array(vec![
                    Value::Bulk(item.value),
                    Value::Bulk(format!("1-{}", item.index).into_bytes()),
                ]),
            }),
            "GETRANGE" | "SUBSTR" => self.range(),
            "SET" => self.set(),
            "CAS" => self.cas(),
            "SETNX" => {
                let is_new = self.value(1).is_none();
                if is_new {
                    self.put(1, self.args[2].clone(), None)?;
                }
                Ok(yes(is_new))
            }
            "SETEX" => self.set_for(1_000, "setex"),
            "PSETEX" => self.set_for(1, "psetex"),
            "GETSET" => {
                let old = self.value(1);
                self.put(1, self.args[2].clone(), None)?;
                Ok(bulk(old))
            }
            "GETDEL" => {
                let old = self.value(1);
                self.items.remove(&self.args[1]);
                Ok(bulk(old))
            }
            "GETEX" => self.get_and_expire(),
            "MSET" => {
                self.put_all()?;
                Ok(simple(OK))
            }
            "MSETNX" => {
                if (1..self.args.len()).step_by(2).any(|at| self.value(at).is_some()) {
                    return Ok(yes(false));
                }
                self.put_all()?;
                Ok(yes(true))
            }
            "APPEND" => {
                let mut value = self.value(1).unwrap_or_default();
                value.extend_from_slice(&self.args[2]);
                self.replace(1, value.clone())?;
                Ok(count(value.len()))
            }
            "SETRANGE" => self.set_range(),
            "INCR" => self.add(1),
            "DECR" => self.add(-1),
            "INCRBY" => self.add(integer(&self.args[2])?),
            "DECRBY" => match integer(&self.args[2])? {
                i64::MIN => Err("ERR decrement would overflow".to_owned()),
                by => self.add(-by),
            },
            "INCRBYFLOAT" => {
                let old = self.value(1).unwrap_or(b"0".to_vec());
                let sum = hundred_quadrillionths(&old).ok_or(NOT_FLOAT)?
                    + hundred_quadrillionths(&self.args[2]).ok_or(NOT_FLOAT)?;
                let text = decimal(sum).into_bytes();
                self.replace(1, text.clone())?;
                Ok(Value::Bulk(text))
            }
            "DEL" | "UNLINK" => {
                let names: BTreeSet<usize> =
                    (1..self.args.len()).filter(|at| self.value(*at).is_some()).collect();
                let gone = names.iter().filter(|at| self.items.remove(&self.args[**at]).is_some());
                Ok(count(gone.count()))
            }
            "RENAME" => self.rename(true).map(|_| simple(OK)),
            "RENAMENX" => self.rename(false).map(yes),
            "COPY" => {
                let Some(item) = self.item(1) else { return Ok(yes(false)) };
                let may = self.args.len() > 3 || self.value(2).is_none();
                if may {
                    self.put(2, item.value, item.expires_at)?;
                }
                Ok(yes(may))
            }
            "EXPIRE" => self.expire(1_000, self.now, "expire"),
            "PEXPIRE" => self.expire(1, self.now, "pexpire"),
            "EXPIREAT" => self.expire(1_000, 0, "expireat"),
            "PEXPIREAT" => self.expire(1, 0, "pexpireat"),
            "PERSIST" => {
                let has_expiry = self.item(1).is_some_and(|item| item.expires_at.is_some());
                if has_expiry {
                    self.set_expiry(1, None);
                }
                Ok(yes(has_expiry))
            }
            "TTL" => Ok(self.tell(|at, now| (at - now + 500) / 1_000)),
            "PTTL" => Ok(self.tell(|at, now| at - now)),
            "EXPIRETIME" => Ok(self.tell(|at, _| (at + 500) / 1_000)),
            "PEXPIRETIME" => Ok(self.tell(|at, _| at)),
            other => panic!("no oracle for {other}"),
        }
    }

    /// What the key has that this argument names. One that has expired is gone.
    fn item(&mut self, at: usize) -> Option<Item> {
        let key = &self.args[at];
        if self.items.get(key).is_some_and(|item| !item.is_alive(self.now)) {
            self.items.remove(key);
        }
        self.items.get(key).cloned()
    }

    fn value(&mut self, at: usize) -> Option<Vec<u8>> {
        self.item(at).map(|item| item.value)
    }

    fn put(&mut self, at: usize, value: Vec<u8>, expires_at: Option<i64>) -> Result<(), String> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(TOO_LONG.to_owned());
        }
        self.items.insert(self.args[at].clone(), Item { value, expires_at, index: self.index });
        Ok(())
    }

    /// Puts a value, and leaves the expiry.
    fn replace(&mut self, at: usize, value: Vec<u8>) -> Result<(), String> {
        let expires_at = self.item(at).and_then(|item| item.expires_at);
        self.put(at, value, expires_at)
    }

    fn put_all(&mut self) -> Result<(), String> {
        let pairs = (1..self.args.len()).step_by(2);
        if pairs.clone().any(|at| self.args[at + 1].len() > VALUE_BYTES_MAX) {
            return Err(TOO_LONG.to_owned());
        }
        for at in pairs {
            self.put(at, self.args[at + 1].clone(), None)?;
        }
        Ok(())
    }

    fn set_expiry(&mut self, at: usize, expires_at: Option<i64>) {
        let index = self.index;
        let item = self.items.get_mut(&self.args[at]).expect("it was looked at");
        (item.expires_at, item.index) = (expires_at, index);
    }

    fn set(&mut self) -> Answer {
        let options: Vec<String> =
            self.args[3..].iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect();
        let has = |option: &str| options.iter().any(|it| it == option);
        if has("NX") && has("XX") {
            return Err(SYNTAX.to_owned());
        }
        let mut expires_at = None;
        for (at, option) in options.iter().enumerate() {
            if let Some((unit, since)) = self.unit(option) {
                expires_at = Some(instant(options[at + 1].as_bytes(), unit, since, "set")?);
            }
        }
        let looks = ["NX", "XX", "KEEPTTL", "GET"].into_iter().any(has);
        let old = if looks { self.item(1) } else { None };
        if has("KEEPTTL") {
            expires_at = old.as_ref().and_then(|item| item.expires_at);
        }
        let may = !(has("NX") && old.is_some() || has("XX") && old.is_none());
        if may {
            self.put(1, self.args[2].clone(), expires_at)?;
        }
        Ok(match (has("GET"), may) {
            (true, _) => bulk(old.map(|item| item.value)),
            (false, true) => simple(OK),
            (false, false) => Value::Null,
        })
    }

    /// How many milliseconds one of an option's unit is, and since when it counts.
    fn unit(&self, option: &str) -> Option<(i64, i64)> {
        match option {
            "EX" => Some((1_000, self.now)),
            "PX" => Some((1, self.now)),
            "EXAT" => Some((1_000, 0)),
            "PXAT" => Some((1, 0)),
            _ => None,
        }
    }

    fn cas(&mut self) -> Answer {
        let version = match self.item(1) {
            None => "0-0".to_owned(),
            Some(item) => format!("1-{}", item.index),
        };
        if version.as_bytes() != self.args[2] {
            return Ok(Value::Null);
        }
        self.replace(1, self.args[3].clone())?;
        Ok(Value::Bulk(format!("1-{}", self.index).into_bytes()))
    }

    fn set_for(&mut self, unit: i64, name: &str) -> Answer {
        let expires_at = instant(&self.args[2], unit, self.now, name)?;
        self.put(1, self.args[3].clone(), Some(expires_at))?;
        Ok(simple(OK))
    }

    fn get_and_expire(&mut self) -> Answer {
        let Some(item) = self.item(1) else { return Ok(Value::Null) };
        let option = self.args.get(2).map(|it| String::from_utf8_lossy(it).into_owned());
        match option.as_deref() {
            None => {}
            Some("PERSIST") if item.expires_at.is_none() => {}
            Some("PERSIST") => self.set_expiry(1, None),
            Some(option) => {
                let (unit, since) = self.unit(option).expect("an option");
                let expires_at = instant(&self.args[3], unit, since, "getex")?;
                self.set_expiry(1, Some(expires_at));
            }
        }
        Ok(Value::Bulk(item.value))
    }

    fn range(&mut self) -> Answer {
        let (start, end) = (integer(&self.args[2])?, integer(&self.args[3])?);
        let value = self.value(1).unwrap_or_default();
        let length = value.len() as i64;
        let place = |at: i64| if at < 0 { length + at } else { at };
        let (start, end) = (place(start).max(0), place(end).max(0));
        // Redis takes an end before the beginning for the beginning, unless the range is empty anyway.
        let both_negative = integer(&self.args[2])? < 0 && integer(&self.args[3])? < 0;
        if both_negative && integer(&self.args[2])? > integer(&self.args[3])? {
            return Ok(Value::Bulk(Vec::new()));
        }
        let inside = |at: &(usize, &u8)| (start..=end).contains(&(at.0 as i64));
        Ok(Value::Bulk(value.iter().enumerate().filter(inside).map(|(_, byte)| *byte).collect()))
    }

    fn set_range(&mut self) -> Answer {
        let offset = integer(&self.args[2])?;
        let Ok(offset) = usize::try_from(offset) else {
            return Err("ERR offset is out of range".to_owned());
        };
        let mut value = self.value(1).unwrap_or_default();
        let bytes = self.args[3].clone();
        if bytes.is_empty() {
            return Ok(count(value.len()));
        }
        if offset + bytes.len() > VALUE_BYTES_MAX {
            return Err(TOO_LONG.to_owned());
        }
        while value.len() < offset + bytes.len() {
            value.push(0);
        }
        value[offset..offset + bytes.len()].copy_from_slice(&bytes);
        self.replace(1, value.clone())?;
        Ok(count(value.len()))
    }

    fn add(&mut self, by: i64) -> Answer {
        let old = match self.value(1) {
            None => 0,
            Some(value) => integer(&value)?,
        };
        let sum = old.checked_add(by).ok_or(OVERFLOW)?;
        self.replace(1, sum.to_string().into_bytes())?;
        Ok(Value::Integer(sum))
    }

    fn rename(&mut self, replaces: bool) -> Result<bool, String> {
        let item = self.item(1).ok_or("ERR no such key")?;
        if self.args[1] == self.args[2] {
            return Ok(replaces);
        }
        if !replaces && self.value(2).is_some() {
            return Ok(false);
        }
        self.items.remove(&self.args[1]);
        self.put(2, item.value, item.expires_at)?;
        Ok(true)
    }

    fn expire(&mut self, unit: i64, since: i64, name: &str) -> Answer {
        let value = integer(&self.args[2])?;
        let at = value.checked_mul(unit).and_then(|at| at.checked_add(since));
        let at = at.ok_or(format!("ERR invalid expire time in '{name}' command"))?;
        let Some(item) = self.item(1) else { return Ok(yes(false)) };
        // Whoever does not expire does so in the end.
        let before = item.expires_at.unwrap_or(i64::MAX);
        let may = match self.args.get(3).map(Vec::as_slice) {
            Some(b"NX") => item.expires_at.is_none(),
            Some(b"XX") => item.expires_at.is_some(),
            Some(b"GT") => at > before,
            Some(b"LT") => at < before,
            _ => true,
        };
        if may && at <= self.now {
            self.items.remove(&self.args[1]);
        } else if may {
            self.set_expiry(1, Some(at));
        }
        Ok(yes(may))
    }

    fn tell(&mut self, tell: fn(i64, i64) -> i64) -> Value {
        let now = self.now;
        Value::Integer(match self.item(1).map(|item| item.expires_at) {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) => tell(at, now),
        })
    }
}

fn simple(text: &str) -> Value {
    Value::Simple(text.to_owned())
}

fn bulk(value: Option<Vec<u8>>) -> Value {
    value.map_or(Value::Null, Value::Bulk)
}

fn yes(is_so: bool) -> Value {
    Value::Integer(i64::from(is_so))
}

fn count(count: usize) -> Value {
    Value::Integer(count as i64)
}

/// Only what it would be written as is an integer.
fn integer(text: &[u8]) -> Result<i64, String> {
    let text = String::from_utf8_lossy(text);
    let number: i64 = text.parse().map_err(|_| NOT_INTEGER)?;
    if number.to_string() == text { Ok(number) } else { Err(NOT_INTEGER.to_owned()) }
}

/// An instant that a key expires at.
fn instant(text: &[u8], unit: i64, since: i64, name: &str) -> Result<i64, String> {
    let number = integer(text)?;
    let at = number.checked_mul(unit).and_then(|at| at.checked_add(since));
    let at = at.filter(|_| number > 0);
    at.ok_or(format!("ERR invalid expire time in '{name}' command"))
}

/// A decimal fraction as so many 10^-17. `None`: it is none, or has more places.
pub fn hundred_quadrillionths(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction:0<17}");
    let is_number = !whole.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { Some(sign * digits.parse::<i128>().ok()?) } else { None }
}

fn decimal(number: i128) -> String {
    let digits = format!("{:0>18}", number.unsigned_abs());
    let (whole, fraction) = digits.split_at(digits.len() - 17);
    let fraction = fraction.trim_end_matches('0');
    let sign = if number < 0 { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}
