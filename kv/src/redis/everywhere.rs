//! Commands about all keys or all connections: each shard does its part, and the parts are put together.
//!
//! On a shard's own port, where a client takes the shard for a node of a cluster, its part is all there is.

use super::bundle::AskKey;
use super::debts::Share;
use super::here::client_kill::Meant;
use super::here::client_list::Wanted;
use crate::command::error::Error;
use crate::command::spec::Everywhere;
use crate::command::{glob, number};
use crate::resp::{Args, Reply};
use crate::slot::Partition;
use crate::store::Store;

/// Parts of an answer, until the last one has come.
#[derive(Debug)]
pub struct Gathering {
    /// What for.
    pub command: Everywhere,
    /// What to do with the whole.
    pub waiting: AskKey,
    missing: usize,
    sum: i64,
    text: Vec<u8>,
    /// That count, where that is much.
    shares: Vec<Share>,
}

/// The longest answer of `KEYS` in bytes that one shard gathers. Who wants more has millions of keys, and
/// should walk them with `SCAN`: this answer is held in memory until its last byte is sent.
pub const KEYS_BYTES_MAX: usize = 256 << 20;

/// How many keys a page of `SCAN` has unless it is told, as in Redis.
const SCAN_COUNT_DEFAULT: usize = 10;

/// The most keys of a page of `SCAN`: what takes about a millisecond.
const SCAN_COUNT_MAX: usize = 10_000;

/// What a shard's part of an answer comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// It is in the text, and may be told when these have committed: the place of a partition, and an
    /// index there.
    Known(Vec<(usize, u64)>),
    /// It takes a walk over all keys, for this pattern.
    Walk(Vec<u8>),
}

/// Does this shard's part, and appends it to `text` in the form that [`Gathering::add`] takes.
///
/// # Errors
/// If the arguments are wrong, or nothing can be logged any more.
pub fn part(
    command: Everywhere,
    args: &Args<'_>,
    store: &mut Store,
    (random, now_ms): (u64, u64),
    text: &mut Vec<u8>,
) -> Result<Part, Error> {
    match command {
        Everywhere::DbSize => begin_part(text, store.len() as u64),
        Everywhere::BgSave => {
            store.want_checkpoint()?;
            begin_part(text, 0);
        }
        Everywhere::FlushAll => {
            begin_part(text, 0);
            return Ok(Part::Known(store.clear()?));
        }
        Everywhere::Keys => return Ok(Part::Walk(args.at(1).to_vec())),
        Everywhere::RandomKey => {
            let key = store.random_key(random, now_ms);
            begin_part(text, key.map_or(0, |_| store.len() as u64));
            text.extend_from_slice(key.unwrap_or_default());
        }
        Everywhere::ClientKill | Everywhere::ClientKillOne | Everywhere::ClientList => {
            unreachable!("the store knows no connections")
        }
        Everywhere::Scan => unreachable!("a page is of one shard"),
    }
    Ok(Part::Known(Vec::new()))
}

/// What a part begins with, so that it is told from an error, which begins with `-`.
const PART: u8 = b'=';

/// Begins a part: how many there are on this shard. What they are follows.
pub fn begin_part(text: &mut Vec<u8>, count: u64) {
    text.push(PART);
    text.extend_from_slice(&count.to_le_bytes());
}

/// Sees that a command about all keys is well formed, before any shard is asked.
///
/// # Errors
/// If it is not.
pub fn check(command: Everywhere, args: &Args<'_>) -> Result<(), Error> {
    let is_fine = match command {
        Everywhere::FlushAll => {
            let is_mode = |arg: &[u8]| {
                arg.eq_ignore_ascii_case(b"sync") || arg.eq_ignore_ascii_case(b"async")
            };
            args.len() == 1 || args.len() == 2 && is_mode(args.at(1))
        }
        Everywhere::BgSave => {
            args.len() == 1 || args.len() == 2 && args.at(1).eq_ignore_ascii_case(b"schedule")
        }
        Everywhere::ClientKill | Everywhere::ClientKillOne => {
            return Meant::parse(args).map(drop);
        }
        Everywhere::ClientList => return Wanted::parse(args).map(drop),
        _ => true,
    };
    if is_fine { Ok(()) } else { Err(Error::SYNTAX) }
}

impl Gathering {
    /// Nothing yet, of so many parts.
    pub fn new(command: Everywhere, waiting: AskKey, parts: usize) -> Self {
        Gathering { command, waiting, missing: parts, sum: 0, text: Vec::new(), shares: Vec::new() }
    }

    /// Adds the part of a shard; true with the last one. `random` decides whose key is chosen.
    pub fn add(&mut self, part: &[u8], random: u64, share: Option<Share>) -> bool {
        self.missing -= 1;
        self.shares.extend(share);
        let part = part.strip_prefix(&[PART]).unwrap_or_default();
        let (count, rest) = part.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let count = u64::from_le_bytes(*count);
        self.sum += count as i64;
        match self.command {
            // Each key with the same chance: a part replaces what there is as often as it has keys.
            Everywhere::RandomKey if count > 0 && random % (self.sum as u64) < count => {
                self.text = rest.to_vec();
            }
            Everywhere::Keys | Everywhere::ClientList => self.text.extend_from_slice(rest),
            _ => {}
        }
        self.missing == 0
    }

    /// Bytes that have come and count.
    pub fn bytes(&self) -> usize {
        self.shares.iter().map(Share::bytes).sum()
    }

    /// Appends the whole answer.
    pub fn finish(&self, reply: &mut Reply<'_>) {
        match self.command {
            Everywhere::ClientKill | Everywhere::DbSize => reply.integer(self.sum),
            Everywhere::ClientKillOne if self.sum == 0 => reply.error("ERR No such client"),
            Everywhere::ClientKillOne => reply.ok(),
            Everywhere::BgSave => reply.simple("Background saving started"),
            Everywhere::ClientList => reply.verbatim(b"txt", &self.text),
            Everywhere::FlushAll => reply.ok(),
            Everywhere::Keys => {
                reply.array(self.sum as usize);
                reply.raw(&self.text);
            }
            Everywhere::RandomKey if self.sum > 0 => reply.bulk(&self.text),
            Everywhere::RandomKey | Everywhere::Scan => reply.null(),
        }
    }
}

/// A walk over a shard's keys for `KEYS`, a piece at a time.
#[derive(Debug)]
pub struct KeysWalk {
    pattern: Vec<u8>,
    place: usize,
    from: u32,
    count: u64,
    text: Vec<u8>,
}

impl KeysWalk {
    /// At its beginning.
    pub fn new(pattern: Vec<u8>) -> Self {
        let mut text = Vec::new();
        begin_part(&mut text, 0);
        KeysWalk { pattern, place: 0, from: 0, count: 0, text }
    }

    /// Looks at some more keys. `Some`: that was all, and here is the part.
    ///
    /// # Errors
    /// If the part is longer than any may be.
    pub fn step(&mut self, store: &Store, now_ms: u64) -> Option<Result<Vec<u8>, Error>> {
        const KEYS_A_STEP: usize = 512;
        let Some(partition) = store.partitions().get(self.place) else {
            let mut text = std::mem::take(&mut self.text);
            text[1..9].copy_from_slice(&self.count.to_le_bytes());
            return Some(Ok(text));
        };
        let (pattern, text, count) = (&self.pattern, &mut self.text, &mut self.count);
        let next = partition.table().walk(store.arena(), self.from, KEYS_A_STEP, |entry| {
            if !entry.is_expired(now_ms) && glob::matches(pattern, entry.key()) {
                *count += 1;
                Reply::new(text, Default::default()).bulk(entry.key());
            }
        });
        self.place += usize::from(next.is_none());
        self.from = next.unwrap_or(0);
        (self.text.len() > KEYS_BYTES_MAX).then(|| {
            Err(Error::fixed("ERR the answer of KEYS would be too long; walk the keys with SCAN"))
        })
    }
}

/// Where a scan goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// In this partition.
    pub partition: Partition,
    /// From this hash on.
    pub from: u32,
}

impl Cursor {
    /// Reads what a client gives back, and what `strtoul` takes besides, as Redis does: no digits at all are
    /// 0, and a sign may stand before some. Where no partition is, the scan is at its end.
    ///
    /// # Errors
    /// If that is no cursor.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (is_negative, digits) = match text {
            [] => (false, &b"0"[..]),
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] | digits => (false, digits),
        };
        let mut bytes = digits.iter();
        if digits.is_empty() || !bytes.all(u8::is_ascii_digit) {
            return Err(Error::CURSOR);
        }
        let digits = std::str::from_utf8(digits).map_err(|_| Error::CURSOR)?;
        let number: u64 = digits.parse().map_err(|_| Error::CURSOR)?;
        let number = if is_negative { number.wrapping_neg() } else { number };
        let partition = u16::try_from(number >> 32).unwrap_or(u16::MAX);
        Ok(Cursor { partition: Partition(partition), from: number as u32 })
    }

    fn number(self) -> u64 {
        u64::from(self.partition.0) << 32 | u64::from(self.from)
    }
}

/// What is asked of a page of `SCAN`.
#[derive(Debug)]
struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    is_of_strings: bool,
}

impl<'a> ScanOptions<'a> {
    fn parse(args: &Args<'a>) -> Result<Self, Error> {
        let mut options =
            ScanOptions { pattern: None, count: SCAN_COUNT_DEFAULT, is_of_strings: true };
        for at in (2..args.len()).step_by(2) {
            let (option, Some(value)) = (args.at(at), args.get(at + 1)) else {
                return Err(Error::SYNTAX);
            };
            if option.eq_ignore_ascii_case(b"match") {
                options.pattern = Some(value);
            } else if option.eq_ignore_ascii_case(b"count") {
                let count = number::integer(value)?;
                let count = usize::try_from(count).ok().filter(|count| *count > 0);
                options.count = count.ok_or(Error::SYNTAX)?.min(SCAN_COUNT_MAX);
            } else if option.eq_ignore_ascii_case(b"type") {
                options.is_of_strings = value.eq_ignore_ascii_case(b"string");
            } else {
                return Err(Error::SYNTAX);
            }
        }
        Ok(options)
    }
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`, a page of it. Ends with this shard's keys if
/// `ends_here`, otherwise leads on to the next shard's.
///
/// # Errors
/// If an argument is wrong.
pub fn scan(
    store: &Store,
    args: &Args<'_>,
    ends_here: bool,
    now_ms: u64,
    reply: &mut Reply<'_>,
) -> Result<(), Error> {
    let options = ScanOptions::parse(args)?;
    let mut cursor = Cursor::parse(args.at(1))?;
    let own = store.own_partitions();
    let mut keys: Vec<&[u8]> = Vec::new();
    let mut seen = 0;
    // A cursor from before a change of shards may be of no partition here: it begins with the first.
    let first = cursor.partition.0.max(own.start);
    (cursor.partition, cursor.from) =
        (Partition(first), if first == cursor.partition.0 { cursor.from } else { 0 });
    while seen < options.count && own.contains(&cursor.partition.0) {
        let table = store.partitions()[usize::from(cursor.partition.0 - own.start)].table();
        let next = table.walk(store.arena(), cursor.from, options.count - seen, |entry| {
            seen += 1;
            let matches = options.pattern.is_none_or(|pattern| glob::matches(pattern, entry.key()));
            if matches && options.is_of_strings && !entry.is_expired(now_ms) {
                keys.push(entry.key());
            }
        });
        let partition = cursor.partition.0 + u16::from(next.is_none());
        cursor = Cursor { partition: Partition(partition), from: next.unwrap_or(0) };
    }
    let last = if ends_here { own.end } else { store.config().partitions.count() };
    let next = if cursor.partition.0 >= last { 0 } else { cursor.number() };
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
    Ok(())
}
