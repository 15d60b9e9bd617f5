//! What is done to a store, drawn from 64 bits.

use crate::oracle::VALUE_BYTES_MAX;
use catena_engine::rng::Rng;
use std::fmt;

/// Unix milliseconds at the beginning.
pub const BEGINNING_MS: i64 = 1 << 40;

#[derive(Clone)]
pub enum Step {
    Command(Vec<Vec<u8>>),
    /// `CAS key version value`, with the key's version if that is asked for.
    Cas {
        key: Vec<u8>,
        is_current: bool,
        value: Vec<u8>,
    },
    FlushAll,
    /// Time goes on.
    Wait(i64),
    /// The log gets on by so many actions.
    Log(usize),
    Upkeep,
    /// The next page of a scan; a new scan, if there is none.
    Scan {
        count: u64,
    },
    /// The next piece of a checkpoint; a new one, if there is none.
    Checkpoint {
        entries: usize,
    },
}

/// Four keys of each of these are in one slot.
const TAGS: [&str; 5] = ["a", "user:1", "tag", "x}y", ""];

impl Step {
    pub fn from_bits(bits: u64) -> Self {
        let rng = &mut Rng::from_seed(bits);
        match rng.below(100) {
            0..12 => Step::Log(1 + rng.below(8) as usize),
            12..16 => Step::Wait(rng.below(1_500) as i64),
            16..20 => Step::Upkeep,
            20..26 => Step::Scan { count: 1 + rng.below(6) },
            26..32 => Step::Checkpoint { entries: 1 + rng.below(4) as usize },
            32..35 => Step::Cas { key: key(rng), is_current: rng.chance(0.7), value: value(rng) },
            35 if rng.chance(0.3) => Step::FlushAll,
            36..42 => Step::Command(long_command(rng)),
            _ => Step::Command(command(rng)),
        }
    }
}

fn command(rng: &mut Rng) -> Vec<Vec<u8>> {
    const NAMES: [&str; 38] = [
        "APPEND",
        "COPY",
        "DECR",
        "DECRBY",
        "DEL",
        "EXISTS",
        "EXPIRE",
        "EXPIREAT",
        "EXPIRETIME",
        "GET",
        "GETDEL",
        "GETEX",
        "GETRANGE",
        "GETSET",
        "GETV",
        "INCR",
        "INCRBY",
        "INCRBYFLOAT",
        "MGET",
        "MSET",
        "MSETNX",
        "PERSIST",
        "PEXPIRE",
        "PEXPIREAT",
        "PEXPIRETIME",
        "PSETEX",
        "PTTL",
        "RENAME",
        "RENAMENX",
        "SET",
        "SETEX",
        "SETNX",
        "SETRANGE",
        "STRLEN",
        "SUBSTR",
        "TOUCH",
        "TTL",
        "TYPE",
    ];
    let name = match rng.below(10) {
        0..2 => "SET",
        2 => "GET",
        3 => ["UNLINK", "DEL", "SETRANGE", "APPEND"][rng.below(4) as usize],
        _ => NAMES[rng.below(NAMES.len() as u64) as usize],
    };
    let mut args: Vec<Vec<u8>> = vec![name.into()];
    match name {
        "MGET" | "DEL" | "UNLINK" | "EXISTS" | "TOUCH" => args.extend(neighbours(rng)),
        "MSET" | "MSETNX" => {
            for key in neighbours(rng) {
                args.extend([key, value(rng)]);
            }
        }
        "RENAME" | "RENAMENX" | "COPY" => {
            let tag = TAGS[rng.below(4) as usize];
            let (from, to) = (rng.below(4), rng.below(4));
            let to = if name == "COPY" && from == to { (to + 1) % 4 } else { to };
            args.extend([tagged(tag, from), tagged(tag, to)]);
            if name == "COPY" && rng.chance(0.5) {
                args.push("REPLACE".into());
            }
        }
        _ => {
            args.push(key(rng));
            arguments(name, &mut args, rng);
        }
    }
    args
}

/// On one key whose value is long, so that only what changes of it is logged: often several times in a row.
fn long_command(rng: &mut Rng) -> Vec<Vec<u8>> {
    let letter = b'a' + rng.below(26) as u8;
    let letters = |count: u64| vec![letter; count as usize];
    let key = b"long".to_vec();
    match rng.below(8) {
        0 => vec!["SET".into(), key, letters(1_500)],
        1 => vec!["APPEND".into(), key, letters(rng.below(20))],
        2 => vec!["PEXPIRE".into(), key, duration(rng, false)],
        3 => vec!["GETV".into(), key],
        _ => {
            let place = rng.below(60).to_string().into_bytes();
            vec!["SETRANGE".into(), key, place, letters(1 + rng.below(20))]
        }
    }
}

/// What stands behind a command's one key.
fn arguments(name: &str, args: &mut Vec<Vec<u8>>, rng: &mut Rng) {
    match name {
        "SET" => {
            args.push(value(rng));
            set_options(args, rng);
        }
        "SETNX" | "GETSET" | "APPEND" => args.push(value(rng)),
        "SETEX" | "PSETEX" => args.extend([duration(rng, name == "SETEX"), value(rng)]),
        "GETEX" => match rng.below(6) {
            0 => {}
            1 => args.push("PERSIST".into()),
            _ => expiry(args, rng),
        },
        "GETRANGE" | "SUBSTR" => args.extend([place(rng), place(rng)]),
        "SETRANGE" => args.extend([place(rng), value(rng)]),
        "INCRBY" | "DECRBY" => args.push(number(rng)),
        "INCRBYFLOAT" => args.push(fraction(rng)),
        "EXPIRE" | "PEXPIRE" => args.push(duration(rng, name == "EXPIRE")),
        "EXPIREAT" | "PEXPIREAT" => args.push(instant(rng, name == "EXPIREAT")),
        _ => {}
    }
    if name.contains("EXPIRE") && !name.contains("TIME") && rng.chance(0.5) {
        args.push(["NX", "XX", "GT", "LT"][rng.below(4) as usize].into());
    }
}

fn set_options(args: &mut Vec<Vec<u8>>, rng: &mut Rng) {
    if rng.chance(0.5) {
        return;
    }
    match rng.below(8) {
        0 => args.extend(["NX".into(), "XX".into()]),
        1..3 => args.push("NX".into()),
        3..5 => args.push("XX".into()),
        _ => {}
    }
    if rng.chance(0.3) {
        args.push("GET".into());
    }
    match rng.below(4) {
        0 => args.push("KEEPTTL".into()),
        1..3 => expiry(args, rng),
        _ => {}
    }
}

fn expiry(args: &mut Vec<Vec<u8>>, rng: &mut Rng) {
    let (option, in_seconds) =
        [("EX", true), ("PX", false), ("EXAT", true), ("PXAT", false)][rng.below(4) as usize];
    let is_instant = option.ends_with("AT");
    let time = if is_instant { instant(rng, in_seconds) } else { duration(rng, in_seconds) };
    args.extend([option.into(), time]);
}

fn tagged(tag: &str, number: u64) -> Vec<u8> {
    format!("{number}{{{tag}}}").into_bytes()
}

fn key(rng: &mut Rng) -> Vec<u8> {
    let odd: [&[u8]; 6] = [b"", b"plain", b"\x00\r\n\xff", b"{", b"}{", &[b'k'; 600]];
    match rng.below(8) {
        0 => odd[rng.below(6) as usize].to_vec(),
        _ => tagged(TAGS[rng.below(5) as usize], rng.below(4)),
    }
}

/// Keys of one slot, perhaps one of them twice.
fn neighbours(rng: &mut Rng) -> Vec<Vec<u8>> {
    // Nothing between braces is no tag: such keys are each in a slot of their own.
    let tag = TAGS[rng.below(4) as usize];
    (0..1 + rng.below(4)).map(|_| tagged(tag, rng.below(4))).collect()
}

/// Numbers, and values from none to more bytes than there may be.
fn value(rng: &mut Rng) -> Vec<u8> {
    let length = match rng.below(40) {
        0..8 => return number(rng),
        8..12 => return fraction(rng),
        12..14 => 0,
        14..30 => rng.below(60),
        30..34 => rng.below(600),
        34..36 => 900 + rng.below(300),
        36..38 => 8_000 + rng.below(400),
        38 => 15_000 + rng.below(10_000),
        _ => VALUE_BYTES_MAX as u64 - 2 + rng.below(5),
    };
    let letter = b'A' + rng.below(26) as u8;
    vec![letter; length as usize]
}

fn number(rng: &mut Rng) -> Vec<u8> {
    let number = match rng.below(8) {
        0 => i64::MAX - rng.below(3) as i64,
        1 => i64::MIN + rng.below(3) as i64,
        2 => return b"007".to_vec(),
        _ => rng.below(200) as i64 - 100,
    };
    number.to_string().into_bytes()
}

fn fraction(rng: &mut Rng) -> Vec<u8> {
    let sign = if rng.chance(0.3) { "-" } else { "" };
    let fraction = rng.below(1_000);
    format!("{sign}{}.{fraction:03}", rng.below(50)).into_bytes()
}

fn place(rng: &mut Rng) -> Vec<u8> {
    let place = match rng.below(10) {
        0 => rng.below(VALUE_BYTES_MAX as u64 + 100) as i64,
        1 => 1_000 + rng.below(50) as i64,
        _ => rng.below(40) as i64 - 8,
    };
    place.to_string().into_bytes()
}

/// From what is not allowed to some seconds.
fn duration(rng: &mut Rng, in_seconds: bool) -> Vec<u8> {
    let duration = match (rng.below(12), in_seconds) {
        (0, _) => -(rng.below(3) as i64),
        (1, _) => i64::MAX,
        (_, true) => 1 + rng.below(4) as i64,
        (_, false) => 1 + rng.below(4_000) as i64,
    };
    duration.to_string().into_bytes()
}

/// Around the time that a run takes.
fn instant(rng: &mut Rng, in_seconds: bool) -> Vec<u8> {
    let instant = BEGINNING_MS - 1_000 + rng.below(40_000) as i64;
    (if in_seconds { instant / 1_000 } else { instant }).to_string().into_bytes()
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Command(args) => f.write_str(&text_of(args)),
            Step::Cas { key, is_current: true, value } => {
                f.write_str(&text_of(&["CAS".into(), key.clone(), "its own".into(), value.clone()]))
            }
            Step::Cas { key, is_current: false, value } => {
                f.write_str(&text_of(&["CAS".into(), key.clone(), "another".into(), value.clone()]))
            }
            Step::FlushAll => f.write_str("FLUSHALL"),
            Step::Wait(millis) => write!(f, "wait {millis} ms"),
            Step::Log(actions) => write!(f, "log {actions}"),
            Step::Upkeep => f.write_str("upkeep"),
            Step::Scan { count } => write!(f, "scan {count}"),
            Step::Checkpoint { entries } => write!(f, "checkpoint {entries}"),
        }
    }
}

/// A command, its long arguments cut.
pub fn text_of(args: &[Vec<u8>]) -> String {
    const LONG: usize = 24;
    let word = |arg: &Vec<u8>| match arg.len() {
        ..LONG => String::from_utf8_lossy(arg).escape_debug().to_string(),
        bytes => format!("{}…({bytes} bytes)", String::from_utf8_lossy(&arg[..4]).escape_debug()),
    };
    args.iter().map(word).collect::<Vec<_>>().join(" ")
}
