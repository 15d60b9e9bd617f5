//! The layouts of the native service: what requests and answers are made of, for server and client alike.
//!
//! Everything is little-endian and parsed where it lies. `docs/kv-protocol.md` describes the same for
//! people, and tests hold both to golden bytes.

use crate::effect::SessionId;
use crate::partition::Version;
use catena_engine::wire::status::Status;
use std::fmt;

/// The methods, by their names.
pub mod method {
    use catena_engine::wire::frame::MethodId;

    /// The value of a key: the payload is the key.
    pub const GET: MethodId = MethodId::of("kv.get");
    /// One operation of any kind that writes. `kv.put`, `kv.delete`, `kv.cas`, `kv.incr` and `kv.expire` are
    /// the same, for one kind each.
    pub const PUT: MethodId = MethodId::of("kv.put");
    /// See [`PUT`].
    pub const DELETE: MethodId = MethodId::of("kv.delete");
    /// A put if the version is the one given.
    pub const CAS: MethodId = MethodId::of("kv.cas");
    /// See [`PUT`].
    pub const INCR: MethodId = MethodId::of("kv.incr");
    /// See [`PUT`].
    pub const EXPIRE: MethodId = MethodId::of("kv.expire");
    /// Several operations on keys of one partition: all happen, or none.
    pub const BATCH: MethodId = MethodId::of("kv.batch");
    /// Keys of a partition, a page at a time.
    pub const SCAN: MethodId = MethodId::of("kv.scan");
    /// Opens a session in a partition.
    pub const OPEN: MethodId = MethodId::of("kv.session.open");
    /// Ends one.
    pub const CLOSE: MethodId = MethodId::of("kv.session.close");
    /// What the store is, and which shard has what.
    pub const INFO: MethodId = MethodId::of("kv.info");
}

/// Statuses of the store's own. The request was looked at and has changed nothing, unless it says
/// otherwise.
pub mod status {
    use super::Status;

    /// There is no such key.
    pub const NOT_FOUND: Status = Status::application(1);
    /// A condition does not hold. Payload: which operation u32, then the version that the key has.
    pub const CONDITION_FAILED: Status = Status::application(2);
    /// The value is no number, or would leave the range of 64 bits. Payload as of [`CONDITION_FAILED`].
    pub const NOT_A_NUMBER: Status = Status::application(3);
    /// There is no such session. What was asked in one that has ended may have been executed in its time.
    pub const NO_SESSION: Status = Status::application(4);
    /// The client has said before that it has the answer to this number.
    pub const FORGOTTEN: Status = Status::application(5);
    /// The number is too far ahead of the first that was not answered, or the answers that are remembered
    /// take all the room there is: wait for answers first.
    pub const WINDOW_FULL: Status = Status::application(6);
    /// The partition has as many sessions as it may have.
    pub const TOO_MANY_SESSIONS: Status = Status::application(7);
    /// There is no memory for what is written.
    pub const OUT_OF_MEMORY: Status = Status::application(8);
    /// Nothing can be written: the text says why.
    pub const NOT_WRITABLE: Status = Status::application(9);
    /// The store does not have its keys yet.
    pub const LOADING: Status = Status::application(10);
    /// The keys of a batch are of more than one partition.
    pub const CROSS_PARTITION: Status = Status::application(11);
    /// A key or a value is too long.
    pub const TOO_LONG: Status = Status::application(12);
}

/// Operations of a batch, at most: what one entry may hold up others by.
pub const OPERATIONS_MAX: usize = 1_024;

/// Entries of a page of a scan, at most.
pub const SCAN_ENTRIES_MAX: u32 = 1_000;

/// The bytes of a version: epoch u32, index u64.
pub const VERSION_BYTES: usize = 12;

/// What each request that writes begins with.
///
/// `epoch u32 │ index u64 │ number u64 │ first unanswered u64`; all zero: it is of no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteHead {
    /// The session; `None`: a repetition would be executed again.
    pub session: Option<SessionId>,
    /// The number of the request in it.
    pub number: u64,
    /// The first number whose answer the client has not seen.
    pub first_unanswered: u64,
}

/// The bytes of a [`WriteHead`].
pub const WRITE_HEAD_BYTES: usize = 28;

/// When an operation is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Condition {
    /// Always.
    #[default]
    None,
    /// If there is no such key.
    Absent,
    /// If there is.
    Present,
    /// If the key has this version; [`Version::NONE`]: if there is no such key.
    Version(Version),
}

/// When a key expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// As it did before; never if there was no such key.
    Keep,
    /// At this instant, in Unix milliseconds.
    At(u64),
    /// So many milliseconds from now.
    In(u64),
}

/// What is done to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action<'a> {
    /// It has this value.
    Put {
        /// The value.
        value: &'a [u8],
        /// And this expiry.
        expiry: Expiry,
    },
    /// It is not there.
    Delete,
    /// So much is added to it, which is a number; it is 0 before if it is not there.
    Incr {
        /// How much.
        by: i64,
    },
    /// It has this expiry.
    Expire {
        /// Which.
        expiry: Expiry,
    },
}

/// An operation on a key.
///
/// ```text
/// kind u8 │ condition u8 │ expiry u8 │ 0 u8 │ key length u16 │ value length u32 │
///     [version, with condition 3] │ [milliseconds u64, with expiry 2 and 3] │ key │ value
/// ```
/// Kinds: 1 put, 2 delete, 3 incr (the value is an i64), 4 expire. Conditions: 0 none, 1 absent, 2 present, 3
/// version. Expiries: 0 never, 1 keep, 2 at, 3 in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation<'a> {
    /// The key.
    pub key: &'a [u8],
    /// When it is carried out.
    pub condition: Condition,
    /// What is done.
    pub action: Action<'a>,
}

/// Bytes that are no request. What is wrong with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

const CUT_SHORT: Malformed = Malformed("the request ends before it should");

impl WriteHead {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let session = self.session.unwrap_or(SessionId { epoch: 0, index: 0 });
        out.extend_from_slice(&session.epoch.to_le_bytes());
        for word in [session.index, self.number, self.first_unanswered] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// If the bytes end before it does.
    #[inline]
    pub fn decode(from: &mut &[u8]) -> Result<Self, Malformed> {
        let id = SessionId { epoch: take_u32(from)?, index: take_u64(from)? };
        let session = (id.epoch != 0 || id.index != 0).then_some(id);
        Ok(WriteHead { session, number: take_u64(from)?, first_unanswered: take_u64(from)? })
    }
}

impl<'a> Operation<'a> {
    /// Appends it.
    ///
    /// # Panics
    /// If key or value are longer than their lengths can say, which a client checks before.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let by;
        let (kind, value, expiry) = match self.action {
            Action::Put { value, expiry } => (1, value, expiry),
            Action::Delete => (2, &[][..], Expiry::Never),
            Action::Incr { by: sum } => {
                by = sum.to_le_bytes();
                (3, &by[..], Expiry::Never)
            }
            Action::Expire { expiry } => (4, &[][..], expiry),
        };
        let (condition, version) = match self.condition {
            Condition::None => (0, None),
            Condition::Absent => (1, None),
            Condition::Present => (2, None),
            Condition::Version(version) => (3, Some(version)),
        };
        let (expiry, millis) = match expiry {
            Expiry::Never => (0, None),
            Expiry::Keep => (1, None),
            Expiry::At(at) => (2, Some(at)),
            Expiry::In(after) => (3, Some(after)),
        };
        out.extend_from_slice(&[kind, condition, expiry, 0]);
        let key_bytes = u16::try_from(self.key.len()).expect("keys are shorter than 64 KiB");
        out.extend_from_slice(&key_bytes.to_le_bytes());
        let value_bytes = u32::try_from(value.len()).expect("values are shorter than 4 GiB");
        out.extend_from_slice(&value_bytes.to_le_bytes());
        if let Some(version) = version {
            encode_version(version, out);
        }
        if let Some(millis) = millis {
            out.extend_from_slice(&millis.to_le_bytes());
        }
        out.extend_from_slice(self.key);
        out.extend_from_slice(value);
    }

    /// Takes one off the front.
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline]
    pub fn decode(from: &mut &'a [u8]) -> Result<Self, Malformed> {
        let [kind, condition, expiry, zero] = take(from)?;
        let key_bytes = usize::from(u16::from_le_bytes(take(from)?));
        let value_bytes = take_u32(from)? as usize;
        if zero != 0 {
            return Err(Malformed("a byte that must be zero is not"));
        }
        let condition = match condition {
            0 => Condition::None,
            1 => Condition::Absent,
            2 => Condition::Present,
            3 => Condition::Version(decode_version(from)?),
            _ => return Err(Malformed("there is no such condition")),
        };
        let expiry = match expiry {
            0 => Expiry::Never,
            1 => Expiry::Keep,
            2 => Expiry::At(take_u64(from)?),
            3 => Expiry::In(take_u64(from)?),
            _ => return Err(Malformed("there is no such expiry")),
        };
        let key = take_slice(from, key_bytes)?;
        let value = take_slice(from, value_bytes)?;
        let action = match kind {
            1 => Action::Put { value, expiry },
            2 => Action::Delete,
            3 => match value.try_into() {
                Ok(by) => Action::Incr { by: i64::from_le_bytes(by) },
                Err(_) => return Err(Malformed("a number to add has 8 bytes")),
            },
            4 => Action::Expire { expiry },
            _ => return Err(Malformed("there is no such operation")),
        };
        let unused_value = matches!(action, Action::Delete | Action::Expire { .. });
        if unused_value && !value.is_empty() {
            return Err(Malformed("a value where none is used"));
        }
        if matches!(action, Action::Delete | Action::Incr { .. }) && expiry != Expiry::Never {
            return Err(Malformed("an expiry where none is used"));
        }
        Ok(Operation { key, condition, action })
    }
}

/// The answer to a `kv.get`: `version │ expires u64, 0: never │ value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Got<'a> {
    /// Of the entry that wrote it last.
    pub version: Version,
    /// Unix milliseconds.
    pub expires_at: Option<u64>,
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Got<'a> {
    /// What stands before the value.
    #[inline]
    pub fn head(&self) -> [u8; VERSION_BYTES + 8] {
        let mut head = [0; VERSION_BYTES + 8];
        head[..4].copy_from_slice(&self.version.epoch.to_le_bytes());
        head[4..12].copy_from_slice(&self.version.index.to_le_bytes());
        head[12..].copy_from_slice(&self.expires_at.unwrap_or(0).to_le_bytes());
        head
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// If it ends too early.
    pub fn decode(mut from: &'a [u8]) -> Result<Self, Malformed> {
        let version = decode_version(&mut from)?;
        let expires_at = Some(take_u64(&mut from)?).filter(|at| *at > 0);
        Ok(Got { version, expires_at, value: from })
    }
}

/// Appends a version.
pub fn encode_version(version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&version.epoch.to_le_bytes());
    out.extend_from_slice(&version.index.to_le_bytes());
}

/// Takes a version off the front.
///
/// # Errors
/// If the bytes end before it does.
pub fn decode_version(from: &mut &[u8]) -> Result<Version, Malformed> {
    Ok(Version { epoch: take_u32(from)?, index: take_u64(from)? })
}

/// The answer to what writes: the version of its entry, [`Version::NONE`] if nothing was changed, and for each
/// operation a number: of an incr the sum, of any other 1 if the key was there before, and 0 if not.
///
/// `version │ number i64 …`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written<'a> {
    /// Of the entry.
    pub version: Version,
    numbers: &'a [u8],
}

impl<'a> Written<'a> {
    /// Reads an answer.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(mut from: &'a [u8]) -> Result<Self, Malformed> {
        let version = decode_version(&mut from)?;
        if !from.len().is_multiple_of(8) {
            return Err(Malformed("an answer that ends within a number"));
        }
        Ok(Written { version, numbers: from })
    }

    /// One for each operation.
    pub fn numbers(&self) -> impl ExactSizeIterator<Item = i64> + 'a {
        let eight = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        self.numbers.chunks_exact(8).map(eight)
    }
}

/// A page of a scan that is asked for:
/// `partition u16 │ flags u16 (1: with values) │ entries at most u32 │ cursor u64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Of which partition.
    pub partition: u16,
    /// Whether values come along.
    pub with_values: bool,
    /// About so many entries, up to [`SCAN_ENTRIES_MAX`].
    pub entries: u32,
    /// 0 to begin; afterwards what the page before said.
    pub cursor: u64,
}

impl Scan {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&u16::from(self.with_values).to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.cursor.to_le_bytes());
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(mut from: &[u8]) -> Result<Self, Malformed> {
        let partition = u16::from_le_bytes(take(&mut from)?);
        let flags = u16::from_le_bytes(take(&mut from)?);
        let (entries, cursor) = (take_u32(&mut from)?, take_u64(&mut from)?);
        if flags > 1 || cursor > u64::from(u32::MAX) || !from.is_empty() {
            return Err(Malformed(
                "a scan has two flags, a cursor that was given, and nothing else",
            ));
        }
        Ok(Scan { partition, with_values: flags == 1, entries, cursor })
    }
}

/// An entry of a page: `key length u16 │ value length u32 │ version │ expires u64 │ key │ value`. The page
/// begins with the next cursor, u64; 0: that was all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scanned<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Empty if values were not asked for.
    pub value: &'a [u8],
    /// Of the entry that wrote it last.
    pub version: Version,
    /// Unix milliseconds.
    pub expires_at: Option<u64>,
}

impl<'a> Scanned<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.value.len() as u32).to_le_bytes());
        encode_version(self.version, out);
        out.extend_from_slice(&self.expires_at.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
    }

    /// Takes one off the front.
    ///
    /// # Errors
    /// If it is cut short.
    pub fn decode(from: &mut &'a [u8]) -> Result<Self, Malformed> {
        let key_bytes = usize::from(u16::from_le_bytes(take(from)?));
        let value_bytes = take_u32(from)? as usize;
        let version = decode_version(from)?;
        let expires_at = Some(take_u64(from)?).filter(|at| *at > 0);
        let key = take_slice(from, key_bytes)?;
        let value = take_slice(from, value_bytes)?;
        Ok(Scanned { key, value, version, expires_at })
    }
}

/// What a store is: `store 16 bytes │ partitions u16 │ shards u16`, then of each shard the number of its first
/// partition, u16; it has those up to the next one's.
///
/// The id is another one whenever sessions of before are not known any more: that of a data directory, or
/// one of the process if nothing outlives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Which store it is.
    pub store: [u8; 16],
    /// How many partitions it has.
    pub partitions: u16,
    /// The first partition of each shard.
    pub firsts: Vec<u16>,
}

impl Info {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.store);
        out.extend_from_slice(&self.partitions.to_le_bytes());
        out.extend_from_slice(&(self.firsts.len() as u16).to_le_bytes());
        self.firsts.iter().for_each(|first| out.extend_from_slice(&first.to_le_bytes()));
    }

    /// Reads it.
    ///
    /// # Errors
    /// If it is cut short.
    pub fn decode(mut from: &[u8]) -> Result<Self, Malformed> {
        let store = take(&mut from)?;
        let partitions = u16::from_le_bytes(take(&mut from)?);
        let shards = u16::from_le_bytes(take(&mut from)?);
        let first = |_| Ok(u16::from_le_bytes(take(&mut from)?));
        let firsts = (0..shards).map(first).collect::<Result<Vec<u16>, Malformed>>()?;
        if partitions == 0 || firsts.is_empty() {
            return Err(Malformed("a store has partitions and shards"));
        }
        Ok(Info { store, partitions, firsts })
    }

    /// The shard that has a partition.
    pub fn shard_of(&self, partition: u16) -> u16 {
        self.firsts.partition_point(|first| *first <= partition).saturating_sub(1) as u16
    }
}

/// Takes a `u32` off the front.
///
/// # Errors
/// If the bytes end before it does.
#[inline]
pub fn take_u32(from: &mut &[u8]) -> Result<u32, Malformed> {
    Ok(u32::from_le_bytes(take(from)?))
}

/// Takes a `u64` off the front.
///
/// # Errors
/// If the bytes end before it does.
#[inline]
pub fn take_u64(from: &mut &[u8]) -> Result<u64, Malformed> {
    Ok(u64::from_le_bytes(take(from)?))
}

#[inline]
fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (taken, rest) = from.split_first_chunk().ok_or(CUT_SHORT)?;
    *from = rest;
    Ok(*taken)
}

#[inline]
fn take_slice<'a>(from: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = from.split_at_checked(bytes).ok_or(CUT_SHORT)?;
    *from = rest;
    Ok(taken)
}
