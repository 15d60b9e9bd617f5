//! The table of commands.

use super::error::Error;
use super::{Done, keys, object, strings, usage};
use crate::keyspace::Keyspace;
use crate::resp::{Args, Reply};
use std::sync::LazyLock;

/// Carries out a command on the keys of one slot.
pub type RunKeyed = fn(&mut Keyspace<'_>, &Args<'_>, &mut Reply<'_>) -> Done;

/// Who carries a command out, and where.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// The shard that has its keys, all of which are in one slot.
    Keyed(RunKeyed),
    /// The shard that has the connection: it is about the connection, or the server.
    Here(Here),
    /// Every shard, for it is about all keys, or all connections.
    Everywhere(Everywhere),
    /// The shard that has the connection: it is about all of that shard's keys.
    Backup,
}

impl Run {
    /// Whether it has to wait until the keys are there.
    #[inline]
    pub fn needs_keys(&self) -> bool {
        use Everywhere::{ClientKill, ClientKillOne, ClientList};
        !matches!(self, Run::Here(_) | Run::Everywhere(ClientKill | ClientKillOne | ClientList))
    }
}

/// Commands about a connection, or the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the command of its name")]
pub enum Here {
    Auth,
    Client,
    Cluster,
    Command,
    Config,
    Echo,
    Hello,
    Info,
    LastSave,
    Memory,
    Object,
    Ping,
    Quit,
    ReadOnly,
    ReadWrite,
    Reset,
    Select,
    Shutdown,
    Slowlog,
    Time,
    Wait,
}

/// Commands about all keys, or all connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the command of its name")]
pub enum Everywhere {
    BgSave,
    ClientKill,
    /// By its address alone: an answer of its own.
    ClientKillOne,
    ClientList,
    DbSize,
    FlushAll,
    Keys,
    RandomKey,
    Scan,
}

/// Where the keys stand among a command's arguments, as `COMMAND INFO` tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyPlaces {
    /// The first one; 0: there are none.
    pub first: i8,
    /// The last one; negative: counted from the end.
    pub last: i8,
    /// From one to the next.
    pub step: i8,
}

impl KeyPlaces {
    const NONE: KeyPlaces = KeyPlaces { first: 0, last: 0, step: 0 };
    const ONE: KeyPlaces = KeyPlaces { first: 1, last: 1, step: 1 };
    const TWO: KeyPlaces = KeyPlaces { first: 1, last: 2, step: 1 };
    const ALL: KeyPlaces = KeyPlaces { first: 1, last: -1, step: 1 };
    const PAIRS: KeyPlaces = KeyPlaces { first: 1, last: -1, step: 2 };

    /// Their places among `count` arguments, the command's name included.
    pub fn among(self, count: usize) -> impl Iterator<Item = usize> {
        let last = match usize::try_from(self.last) {
            Ok(last) => last,
            Err(_) => count - usize::from(self.last.unsigned_abs()),
        };
        let (first, step) = (self.first.max(0) as usize, self.step.max(1) as usize);
        let has_keys = first > 0;
        (first..=last).step_by(step).filter(move |place| has_keys && *place < count)
    }
}

/// What a command does, for those who route and admit it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// It may change keys.
    pub writes: bool,
    /// It may need memory: refused when there is none.
    pub needs_memory: bool,
    /// Allowed before AUTH.
    pub without_auth: bool,
    /// It may take long: its time is measured by itself.
    pub slow: bool,
    /// For operators.
    pub admin: bool,
}

/// One command.
#[derive(Debug)]
pub struct Spec {
    /// In lower case, as Redis tells it.
    pub name: &'static str,
    /// The number of arguments, the name included; negative: at least so many.
    pub arity: i8,
    /// What it does.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: KeyPlaces,
    /// Who carries it out.
    pub run: Run,
    /// In one line, for `COMMAND DOCS`.
    pub summary: &'static str,
}

impl Spec {
    /// # Errors
    /// If there are too few or too many arguments.
    pub fn check_arity(&self, count: usize) -> Result<(), Error> {
        let wanted = usize::from(self.arity.unsigned_abs());
        let fits = if self.arity < 0 { count >= wanted } else { count == wanted };
        if fits { Ok(()) } else { Err(Error::arity(self.name)) }
    }
}

/// The command of this name, in whatever case.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    static BY_NAME: LazyLock<Box<Names>> = LazyLock::new(Names::of_all);
    BY_NAME.find(name_word(name)?)
}

/// The command that these arguments ask for. `MEMORY USAGE` is one of its own: it is about a key, and runs
/// where that is. So are most of `OBJECT`. And `CLIENT LIST` and `KILL`: each shard knows its own
/// connections.
#[inline]
pub fn of(args: &Args<'_>) -> Option<&'static Spec> {
    static OBJECT: Spec = object("object", "Tells how the value of a key is kept.");
    static CLIENT_LIST: Spec =
        everywhere("client|list", -2, ADMIN, Everywhere::ClientList, "Tells the connections.");
    static CLIENT_KILL: Spec =
        everywhere("client|kill", -3, ADMIN, Everywhere::ClientKill, "Ends connections.");
    static CLIENT_KILL_ONE: Spec =
        everywhere("client|kill", 3, ADMIN, Everywhere::ClientKillOne, "Ends a connection.");
    let spec = find(args.name())?;
    let Run::Here(command) = spec.run else { return Some(spec) };
    let is_about = |word: &[u8]| args.get(1).is_some_and(|arg| arg.eq_ignore_ascii_case(word));
    match command {
        Here::Memory if args.len() > 2 && is_about(b"usage") => Some(MEMORY_USAGE_SPEC),
        Here::Object if object::asks_of_a_key(args) => Some(&OBJECT),
        Here::Client if is_about(b"list") => Some(&CLIENT_LIST),
        Here::Client if is_about(b"kill") && args.len() == 3 => Some(&CLIENT_KILL_ONE),
        Here::Client if is_about(b"kill") => Some(&CLIENT_KILL),
        _ => Some(spec),
    }
}

/// Subcommands that are about a key, for clients that ask where that is.
static OF_KEYS: [Spec; 5] = [
    MEMORY_USAGE,
    object("object|encoding", "Tells how the value of a key is kept."),
    object("object|freq", "Tells how often a key is used."),
    object("object|idletime", "Tells for how many seconds a key was not used."),
    object("object|refcount", "Tells how many refer to the value of a key."),
];

static MEMORY_USAGE_SPEC: &Spec = &OF_KEYS[0];

const MEMORY_USAGE: Spec = Spec {
    name: "memory|usage",
    arity: -3,
    flags: READ,
    keys: KeyPlaces { first: 2, last: 2, step: 1 },
    run: Run::Keyed(usage::memory_usage),
    summary: "Tells what a key takes.",
};

const fn object(name: &'static str, summary: &'static str) -> Spec {
    Spec { name, arity: 3, run: Run::Keyed(object::object), summary, ..MEMORY_USAGE }
}

/// The subcommands of a command that are about a key.
pub fn subcommands(of: &Spec) -> impl Iterator<Item = &'static Spec> {
    let is_of = |sub: &&Spec| sub.name.split_once('|').is_some_and(|(name, _)| name == of.name);
    OF_KEYS.iter().filter(is_of)
}

/// The subcommand of this name, `command|subcommand`, if it is about a key.
pub fn find_subcommand(name: &[u8]) -> Option<&'static Spec> {
    OF_KEYS.iter().find(|sub| sub.name.as_bytes().eq_ignore_ascii_case(name))
}

/// The longest name of a command, in bytes: it fits into one word.
const NAME_BYTES_MAX: usize = 16;

/// A name in lower case as one number. `None`: none has it.
#[inline]
fn name_word(name: &[u8]) -> Option<u128> {
    // Zeros stand behind the shorter ones.
    if name.contains(&0) {
        return None;
    }
    let mut lower = [0; NAME_BYTES_MAX];
    lower.get_mut(..name.len())?.copy_from_slice(name);
    lower.make_ascii_lowercase();
    Some(u128::from_le_bytes(lower))
}

/// Commands by the number of their name, each where its hash says, or behind.
struct Names([Option<(u128, &'static Spec)>; Names::PLACES]);

impl Names {
    /// Four times as many as there are commands: most stand where they are looked for first.
    const PLACES: usize = 256;

    fn of_all() -> Box<Self> {
        let mut names = Box::new(Names([None; Names::PLACES]));
        for spec in &ALL {
            let word = name_word(spec.name.as_bytes()).expect("names are short");
            let mut place = Names::place(word);
            while names.0[place].is_some() {
                place = (place + 1) % Names::PLACES;
            }
            names.0[place] = Some((word, spec));
        }
        names
    }

    #[inline]
    fn find(&self, word: u128) -> Option<&'static Spec> {
        let mut place = Names::place(word);
        loop {
            match self.0[place] {
                Some((other, spec)) if other == word => return Some(spec),
                Some(_) => place = (place + 1) % Names::PLACES,
                None => return None,
            }
        }
    }

    #[inline]
    fn place(word: u128) -> usize {
        let folded = word as u64 ^ (word >> 64) as u64;
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
    }
}

/// Every command.
pub fn all() -> impl ExactSizeIterator<Item = &'static Spec> {
    ALL.iter()
}

const READ: Flags =
    Flags { writes: false, needs_memory: false, without_auth: false, slow: false, admin: false };
const READ_MANY: Flags = Flags { slow: true, ..READ };
const WRITE: Flags = Flags { writes: true, ..READ };
const WRITE_MANY: Flags = Flags { slow: true, ..WRITE };
const GROW: Flags = Flags { needs_memory: true, ..WRITE };
const GROW_MANY: Flags = Flags { slow: true, ..GROW };
const OPEN: Flags = Flags { without_auth: true, ..READ };
const ADMIN: Flags = Flags { admin: true, slow: true, ..READ };

const fn keyed(
    name: &'static str,
    arity: i8,
    flags: Flags,
    keys: KeyPlaces,
    run: RunKeyed,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, flags, keys, run: Run::Keyed(run), summary }
}

const fn here(
    name: &'static str,
    arity: i8,
    flags: Flags,
    run: Here,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, flags, keys: KeyPlaces::NONE, run: Run::Here(run), summary }
}

const fn everywhere(
    name: &'static str,
    arity: i8,
    flags: Flags,
    run: Everywhere,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, flags, keys: KeyPlaces::NONE, run: Run::Everywhere(run), summary }
}

const ONE: KeyPlaces = KeyPlaces::ONE;
const TWO: KeyPlaces = KeyPlaces::TWO;
const MANY: KeyPlaces = KeyPlaces::ALL;
const PAIRS: KeyPlaces = KeyPlaces::PAIRS;

static ALL: [Spec; 70] = [
    keyed("append", 3, GROW, ONE, strings::append, "Appends to the value of a key."),
    keyed("cas", 4, GROW, ONE, strings::cas, "Sets a key if its version is the one given."),
    keyed("copy", -3, GROW, TWO, keys::copy, "Copies the value of a key to another one."),
    keyed("decr", 2, GROW, ONE, strings::decr, "Subtracts one from a number."),
    keyed("decrby", 3, GROW, ONE, strings::decrby, "Subtracts from a number."),
    keyed("del", -2, WRITE_MANY, MANY, keys::del, "Deletes keys."),
    keyed("delifeq", 3, WRITE, ONE, strings::delifeq, "Deletes a key if it has that value."),
    keyed("exists", -2, READ_MANY, MANY, keys::exists, "Counts the keys that exist."),
    keyed("expire", -3, WRITE, ONE, keys::expire, "Sets in how many seconds a key expires."),
    keyed("expireat", -3, WRITE, ONE, keys::expireat, "Sets the Unix time when a key expires."),
    keyed("expiretime", 2, READ, ONE, keys::expiretime, "Tells the Unix time when a key expires."),
    keyed("get", 2, READ, ONE, strings::get, "Tells the value of a key."),
    keyed("getdel", 2, WRITE, ONE, strings::getdel, "Tells the value of a key and deletes it."),
    keyed("getex", -2, WRITE, ONE, strings::getex, "Tells a value and sets when it expires."),
    keyed("getrange", 4, READ, ONE, strings::getrange, "Tells a part of a value."),
    keyed("getset", 3, GROW, ONE, strings::getset, "Tells a value and sets a new one."),
    keyed("getv", 2, READ, ONE, strings::getv, "Tells the value of a key and its version."),
    keyed("incr", 2, GROW, ONE, strings::incr, "Adds one to a number."),
    keyed("incrby", 3, GROW, ONE, strings::incrby, "Adds to a number."),
    keyed("incrbyfloat", 3, GROW, ONE, strings::incrbyfloat, "Adds to a floating-point number."),
    keyed("mget", -2, READ_MANY, MANY, strings::mget, "Tells the values of keys of one slot."),
    keyed("mset", -3, GROW_MANY, PAIRS, strings::mset, "Sets keys of one slot, all or none."),
    keyed("msetnx", -3, GROW_MANY, PAIRS, strings::msetnx, "Sets keys if none of them exists."),
    keyed("persist", 2, WRITE, ONE, keys::persist, "Takes the expiry of a key away."),
    keyed("pexpire", -3, WRITE, ONE, keys::pexpire, "Sets in how many ms a key expires."),
    keyed("pexpireat", -3, WRITE, ONE, keys::pexpireat, "Sets the Unix ms when a key expires."),
    keyed("pexpiretime", 2, READ, ONE, keys::pexpiretime, "Tells the Unix ms when a key expires."),
    keyed("psetex", 4, GROW, ONE, strings::psetex, "Sets a key that expires, in milliseconds."),
    keyed("pttl", 2, READ, ONE, keys::pttl, "Tells in how many ms a key expires."),
    keyed("rename", 3, GROW, TWO, keys::rename, "Gives a key another name."),
    keyed("renamenx", 3, GROW, TWO, keys::renamenx, "Gives a key a name that is not taken."),
    keyed("set", -3, GROW, ONE, strings::set, "Sets the value of a key."),
    keyed("setex", 4, GROW, ONE, strings::setex, "Sets a key that expires, in seconds."),
    keyed("setnx", 3, GROW, ONE, strings::setnx, "Sets a key if it does not exist."),
    keyed("setrange", 4, GROW, ONE, strings::setrange, "Overwrites a part of a value."),
    keyed("strlen", 2, READ, ONE, strings::strlen, "Tells the length of a value."),
    keyed("substr", 4, READ, ONE, strings::getrange, "Tells a part of a value."),
    keyed("touch", -2, READ_MANY, MANY, keys::exists, "Counts the keys that exist, as used now."),
    keyed("ttl", 2, READ, ONE, keys::ttl, "Tells in how many seconds a key expires."),
    keyed("type", 2, READ, ONE, keys::type_of, "Tells the type of a value."),
    keyed("unlink", -2, WRITE_MANY, MANY, keys::del, "Deletes keys."),
    here("auth", -2, OPEN, Here::Auth, "Authenticates the connection."),
    Spec {
        name: "catena.backup",
        arity: 2,
        flags: ADMIN,
        keys: KeyPlaces::NONE,
        run: Run::Backup,
        summary: "Gives all keys of a shard, to be kept elsewhere.",
    },
    here("client", -2, READ, Here::Client, "Tells about connections."),
    here("cluster", -2, READ, Here::Cluster, "Tells which node has which slots."),
    here("command", -1, READ, Here::Command, "Tells about commands."),
    here("config", -2, ADMIN, Here::Config, "Tells how the server is set up."),
    here("echo", 2, READ, Here::Echo, "Answers its argument."),
    here("hello", -1, OPEN, Here::Hello, "Chooses the protocol, and authenticates."),
    here("info", -1, READ, Here::Info, "Tells about the server."),
    here("lastsave", 1, ADMIN, Here::LastSave, "Tells when the last checkpoint was taken."),
    here("memory", -2, READ, Here::Memory, "Tells about memory."),
    here("object", -2, READ, Here::Object, "Tells how the value of a key is kept."),
    here("ping", -1, READ, Here::Ping, "Answers."),
    here("quit", -1, OPEN, Here::Quit, "Ends the connection."),
    here("readonly", 1, READ, Here::ReadOnly, "Allows reads at replicas."),
    here("readwrite", 1, READ, Here::ReadWrite, "Takes READONLY back."),
    here("reset", 1, OPEN, Here::Reset, "Makes the connection as it was at first."),
    here("select", 2, READ, Here::Select, "Chooses the database, of which there is one."),
    here("shutdown", -1, ADMIN, Here::Shutdown, "Ends the server, in order."),
    here("slowlog", -2, ADMIN, Here::Slowlog, "Tells which commands took long."),
    here("time", 1, READ, Here::Time, "Tells the server's time."),
    here("wait", 3, READ, Here::Wait, "Waits until writes are at replicas."),
    everywhere("bgsave", -1, ADMIN, Everywhere::BgSave, "Takes a checkpoint soon."),
    everywhere("dbsize", 1, READ, Everywhere::DbSize, "Counts the keys."),
    everywhere("flushall", -1, WRITE_MANY, Everywhere::FlushAll, "Deletes all keys."),
    everywhere("flushdb", -1, WRITE_MANY, Everywhere::FlushAll, "Deletes all keys."),
    everywhere("keys", 2, READ_MANY, Everywhere::Keys, "Tells the keys that match a pattern."),
    everywhere("randomkey", 1, READ, Everywhere::RandomKey, "Tells a key, by chance."),
    everywhere("scan", -2, READ_MANY, Everywhere::Scan, "Tells the keys, a part at a time."),
];
