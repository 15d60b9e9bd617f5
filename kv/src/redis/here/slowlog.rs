//! `SLOWLOG`: which commands took long.
//!
//! A look at the clock costs as much as a GET. So time is taken only of commands that may take long by
//! their nature, or whose arguments are long.

use super::Place;
use super::subcommand::{Sub, choose, sub};
use crate::command::Done;
use crate::command::error::Error;
use crate::command::number::integer;
use crate::resp::{Args, Reply};
use catena_engine::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of arguments above which the time of a command is taken, whatever it is: copying and hashing
/// so many costs more than the looks at the clock.
pub const TIMED_BYTES_MIN: usize = 4 << 10;

/// Arguments of a command that are kept. Source: Redis.
const ARGS_KEPT_MAX: usize = 32;

/// Bytes of an argument that are kept. Source: Redis.
const ARG_BYTES_KEPT_MAX: usize = 128;

/// Entries that `SLOWLOG GET` tells unless it is told how many. Source: Redis.
const TOLD_DEFAULT: usize = 10;

/// The slow log of a server.
#[derive(Debug)]
pub struct SlowLog {
    threshold_us: AtomicI64,
    entries_max: AtomicUsize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    last_id: i64,
    /// The newest first.
    list: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: i64,
    unix_s: i64,
    micros: i64,
    args: Vec<Vec<u8>>,
    address: String,
    name: Vec<u8>,
}

/// A command that was timed.
#[derive(Clone, Copy, Debug)]
pub struct Timed<'a> {
    /// The command.
    pub args: &'a Args<'a>,
    /// How long it took.
    pub took: Duration,
    /// When it had ended, in Unix milliseconds.
    pub now_ms: u64,
    /// Who asked for it.
    pub address: Option<SocketAddr>,
    /// What that client calls itself.
    pub name: &'a [u8],
}

impl Default for SlowLog {
    /// The last 128 commands that took over 10 ms. Source: Redis.
    fn default() -> Self {
        SlowLog {
            threshold_us: AtomicI64::new(10_000),
            entries_max: AtomicUsize::new(128),
            entries: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// Microseconds from which on a command is entered; negative: none is.
    pub fn threshold_us(&self) -> i64 {
        self.threshold_us.load(Ordering::Relaxed)
    }

    /// Sets [`SlowLog::threshold_us`].
    pub fn set_threshold_us(&self, micros: i64) {
        self.threshold_us.store(micros, Ordering::Relaxed);
    }

    /// How many entries are kept.
    pub fn entries_max(&self) -> usize {
        self.entries_max.load(Ordering::Relaxed)
    }

    /// Sets [`SlowLog::entries_max`].
    pub fn set_entries_max(&self, count: usize) {
        self.entries_max.store(count, Ordering::Relaxed);
        self.lock().list.truncate(count);
    }

    /// Enters a command if it took long.
    pub fn note(&self, timed: &Timed<'_>) {
        let micros = i64::try_from(timed.took.as_micros()).unwrap_or(i64::MAX);
        let threshold = self.threshold_us();
        if threshold < 0 || micros < threshold {
            return;
        }
        let mut entries = self.lock();
        let id = entries.last_id;
        entries.last_id += 1;
        entries.list.push_front(Entry {
            id,
            unix_s: (timed.now_ms / 1_000).cast_signed(),
            micros,
            args: kept(timed.args),
            address: timed.address.map_or_else(String::new, |address| address.to_string()),
            name: timed.name.to_vec(),
        });
        entries.list.truncate(self.entries_max());
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of a command as the log keeps.
fn kept(args: &Args<'_>) -> Vec<Vec<u8>> {
    let whole = if args.len() > ARGS_KEPT_MAX { ARGS_KEPT_MAX - 1 } else { args.len() };
    let clipped = |arg: &[u8]| match arg.len().checked_sub(ARG_BYTES_KEPT_MAX) {
        None | Some(0) => arg.to_vec(),
        Some(more) => {
            let mut text = arg[..ARG_BYTES_KEPT_MAX].to_vec();
            text.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
            text
        }
    };
    let mut kept: Vec<Vec<u8>> = args.iter().take(whole).map(clipped).collect();
    if whole < args.len() {
        kept.push(format!("... ({} more arguments)", args.len() - whole).into_bytes());
    }
    kept
}

#[derive(Clone, Copy)]
enum Verb {
    Get,
    Len,
    Reset,
}

const SUBS: &[Sub<Verb>] = &[
    sub(
        "get",
        -2,
        Verb::Get,
        "GET [<count>]",
        "Tells the newest entries: 10, or <count>; -1: all.",
    ),
    sub("len", 2, Verb::Len, "LEN", "Tells how many entries there are."),
    sub("reset", 2, Verb::Reset, "RESET", "Forgets them."),
];

pub(super) fn run(place: &Place<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let log = &place.server.slow_log;
    match choose("slowlog", SUBS, args, reply)? {
        None => {}
        Some(Verb::Get) => get(log, args, reply)?,
        Some(Verb::Len) => reply.integer(log.lock().list.len() as i64),
        Some(Verb::Reset) => {
            log.lock().list.clear();
            reply.ok();
        }
    }
    Ok(())
}

fn get(log: &SlowLog, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let count = match args.get(2) {
        None => TOLD_DEFAULT,
        Some(_) if args.len() > 3 => {
            return Err(Error::fixed(
                "ERR unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG HELP.",
            ));
        }
        Some(text) => match integer(text) {
            Ok(-1) => usize::MAX,
            Ok(count) if count >= 0 => usize::try_from(count).unwrap_or(usize::MAX),
            _ => return Err(Error::fixed("ERR count should be greater than or equal to -1")),
        },
    };
    let entries = log.lock();
    let count = count.min(entries.list.len());
    reply.array(count);
    for entry in entries.list.iter().take(count) {
        reply.array(6);
        reply.integer(entry.id);
        reply.integer(entry.unix_s);
        reply.integer(entry.micros);
        reply.array(entry.args.len());
        entry.args.iter().for_each(|arg| reply.bulk(arg));
        reply.bulk(entry.address.as_bytes());
        reply.bulk(&entry.name);
    }
    Ok(())
}
