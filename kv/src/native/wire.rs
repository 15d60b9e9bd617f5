//! The layouts of requests and answers, as docs/kv-protocol.md has them: little-endian, read in place.

use crate::effect::SessionId;
use crate::fields::{ended, take, take_slice, take_u16, take_u32, take_u64};
use crate::partition::Version;
use crate::session::Numbered;

pub use crate::fields::Malformed;

/// The value and version of a key. The payload is the key.
pub const GET: &str = "kv.get";
/// Changes of keys of one partition: all happen, or none.
pub const WRITE: &str = "kv.write";
/// Keys of a partition, some at a time.
pub const SCAN: &str = "kv.scan";
/// Opens a session in a partition.
pub const SESSION_OPEN: &str = "kv.session.open";
/// Ends a session.
pub const SESSION_CLOSE: &str = "kv.session.close";
/// Says that a session is used.
pub const SESSION_KEEP: &str = "kv.session.keep";
/// How partitions lie on shards, and where these are reached.
pub const INFO: &str = "kv.info";

/// All of them, in this order.
pub const METHODS: [&str; 7] = [GET, WRITE, SCAN, SESSION_OPEN, SESSION_CLOSE, SESSION_KEEP, INFO];

/// Changes of one write: each pair of their keys is compared, which takes some 10 µs for so many.
pub const CHANGES_MAX: usize = 128;

/// Keys of one page of a scan: of the longest keys they make half of a frame of 16 MiB.
pub const SCAN_COUNT_MAX: u16 = 128;

/// The layout that [`Info`] has.
pub const INFO_VERSION: u16 = 1;

/// `kv.write`: whose request it is, and what it changes.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Its number in a session, if it has one.
    pub numbered: Option<Numbered>,
    count: usize,
    changes: &'a [u8],
}

/// One change of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// What has to hold before.
    pub condition: Condition,
    /// Up to [`KEY_BYTES_MAX`](crate::limits::KEY_BYTES_MAX).
    pub key: &'a [u8],
    /// What is done.
    pub action: Action<'a>,
}

/// What has to hold of a key before anything is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// It is not there.
    Absent,
    /// It is there.
    Present,
    /// It has this version.
    Version(Version),
}

/// What is done to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action<'a> {
    /// Its value is set.
    Put {
        /// The value.
        value: &'a [u8],
        /// Until when.
        expiry: Expiry,
    },
    /// It is deleted, if it is there.
    Delete,
    /// It gets an expiry, if it is there.
    Expire(Expiry),
    /// Its value, the decimal digits of an integer, grows by this; a key that is not there counts as 0. It
    /// keeps its expiry.
    Add(i64),
    /// Nothing: it is about the condition alone.
    Check,
}

/// How long a key lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expiry {
    /// Until it is deleted.
    #[default]
    Never,
    /// As long as it would have.
    Keep,
    /// For so many milliseconds from when the request is carried out.
    In(u64),
    /// Until this instant, in Unix milliseconds.
    At(u64),
}

mod kind {
    pub const PUT: u8 = 1;
    pub const DELETE: u8 = 2;
    pub const EXPIRE: u8 = 3;
    pub const ADD: u8 = 4;
    pub const CHECK: u8 = 5;
}

impl<'a> Write<'a> {
    /// Reads it, all of its changes included.
    ///
    /// # Errors
    /// What is wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let session = take_session(&mut rest)?;
        let number = take_u64(&mut rest)?;
        let first_unanswered = take_u64(&mut rest)?;
        let numbered =
            (session.epoch > 0).then_some(Numbered { session, number, first_unanswered });
        if numbered.is_none() && (session.index, number, first_unanswered) != (0, 0, 0) {
            return Err(Malformed("a number without a session"));
        }
        let count = usize::from(take_u16(&mut rest)?);
        if count == 0 || count > CHANGES_MAX {
            return Err(Malformed("a write has 1 to 128 changes"));
        }
        let changes = rest;
        for _ in 0..count {
            Change::decode(&mut rest)?;
        }
        match rest {
            [] => Ok(Write { numbered, count, changes }),
            _ => Err(Malformed("bytes behind the last change")),
        }
    }

    /// Appends one.
    ///
    /// # Panics
    /// If there are no changes, or more than [`CHANGES_MAX`], or a key is longer than keys may be.
    pub fn encode(numbered: Option<Numbered>, changes: &[Change<'_>], out: &mut Vec<u8>) {
        assert!((1..=CHANGES_MAX).contains(&changes.len()), "{} changes", changes.len());
        let numbered = numbered.unwrap_or(NOT_NUMBERED);
        numbered.session.encode(out);
        out.extend_from_slice(&numbered.number.to_le_bytes());
        out.extend_from_slice(&numbered.first_unanswered.to_le_bytes());
        out.extend_from_slice(&(changes.len() as u16).to_le_bytes());
        changes.iter().for_each(|change| change.encode(out));
    }

    /// How many changes it has.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Its changes.
    pub fn changes(&self) -> impl Iterator<Item = Change<'a>> + Clone + use<'a> {
        let (mut rest, count) = (self.changes, self.count);
        (0..count).map(move |_| Change::decode(&mut rest).expect("it was decoded before"))
    }
}

const NOT_NUMBERED: Numbered =
    Numbered { session: SessionId { epoch: 0, index: 0 }, number: 0, first_unanswered: 0 };

impl<'a> Change<'a> {
    fn decode(rest: &mut &'a [u8]) -> Result<Self, Malformed> {
        let [kind] = take(rest)?;
        let condition = Condition::decode(rest)?;
        let length = take_u16(rest)?;
        let key = take_slice(rest, length.into())?;
        let action = match kind {
            kind::PUT => {
                let expiry = Expiry::decode(rest)?;
                let length = take_u32(rest)?;
                Action::Put { value: take_slice(rest, length as usize)?, expiry }
            }
            kind::DELETE => Action::Delete,
            kind::EXPIRE => Action::Expire(Expiry::decode(rest)?),
            kind::ADD => Action::Add(i64::from_le_bytes(take(rest)?)),
            kind::CHECK => Action::Check,
            _ => return Err(Malformed("a change of unknown kind")),
        };
        Ok(Change { condition, key, action })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.action {
            Action::Put { .. } => kind::PUT,
            Action::Delete => kind::DELETE,
            Action::Expire(_) => kind::EXPIRE,
            Action::Add(_) => kind::ADD,
            Action::Check => kind::CHECK,
        });
        self.condition.encode(out);
        let length = u16::try_from(self.key.len()).expect("a key is at most 65,535 bytes");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(self.key);
        match self.action {
            Action::Put { value, expiry } => {
                expiry.encode(out);
                let length = u32::try_from(value.len()).expect("a value is at most 512 MiB");
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(value);
            }
            Action::Expire(expiry) => expiry.encode(out),
            Action::Add(by) => out.extend_from_slice(&by.to_le_bytes()),
            Action::Delete | Action::Check => {}
        }
    }
}

impl Condition {
    fn decode(rest: &mut &[u8]) -> Result<Self, Malformed> {
        let [kind] = take(rest)?;
        let version = take_version(rest)?;
        match (kind, version) {
            (0, Version::NONE) => Ok(Condition::None),
            (1, Version::NONE) => Ok(Condition::Absent),
            (2, Version::NONE) => Ok(Condition::Present),
            (3, version) => Ok(Condition::Version(version)),
            _ => Err(Malformed("an unknown condition")),
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        let (kind, version) = match self {
            Condition::None => (0, Version::NONE),
            Condition::Absent => (1, Version::NONE),
            Condition::Present => (2, Version::NONE),
            Condition::Version(version) => (3, version),
        };
        out.push(kind);
        push_version(out, version);
    }

    /// True if it holds of a key with this version, [`Version::NONE`] if it is not there.
    pub fn holds(self, version: Version) -> bool {
        match self {
            Condition::None => true,
            Condition::Absent => version == Version::NONE,
            Condition::Present => version != Version::NONE,
            Condition::Version(wanted) => version == wanted,
        }
    }
}

impl Expiry {
    fn decode(rest: &mut &[u8]) -> Result<Self, Malformed> {
        let [kind] = take(rest)?;
        match (kind, take_u64(rest)?) {
            (0, 0) => Ok(Expiry::Never),
            (1, 0) => Ok(Expiry::Keep),
            (2, millis) => Ok(Expiry::In(millis)),
            (3, at) if at > 0 => Ok(Expiry::At(at)),
            _ => Err(Malformed("an unknown expiry")),
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        let (kind, value) = match self {
            Expiry::Never => (0, 0),
            Expiry::Keep => (1, 0),
            Expiry::In(millis) => (2, millis),
            Expiry::At(at) => (3, at),
        };
        out.push(kind);
        out.extend_from_slice(&value.to_le_bytes());
    }

    /// The instant, of a key whose expiry is `now` this.
    pub fn instant(self, now_ms: u64, before: Option<u64>) -> Option<u64> {
        match self {
            Expiry::Never => None,
            Expiry::Keep => before,
            Expiry::In(millis) => Some(now_ms.saturating_add(millis)),
            Expiry::At(at) => Some(at),
        }
    }
}

/// The answer to `kv.get`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Got<'a> {
    /// The entry that wrote the key last.
    pub version: Version,
    /// Unix milliseconds.
    pub expires_at: Option<u64>,
    /// The value.
    pub value: &'a [u8],
}

/// Bytes of a [`Got`] before the value.
pub const GOT_HEAD_BYTES: usize = 20;

impl<'a> Got<'a> {
    /// What stands before the value.
    pub fn head(&self) -> [u8; GOT_HEAD_BYTES] {
        let mut head = [0; GOT_HEAD_BYTES];
        head[..4].copy_from_slice(&self.version.epoch.to_le_bytes());
        head[4..12].copy_from_slice(&self.version.index.to_le_bytes());
        head[12..].copy_from_slice(&self.expires_at.unwrap_or(0).to_le_bytes());
        head
    }

    /// Reads it.
    ///
    /// # Errors
    /// If it is too short.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let version = take_version(&mut bytes)?;
        let expires_at = take_u64(&mut bytes)?;
        Ok(Got { version, expires_at: (expires_at > 0).then_some(expires_at), value: bytes })
    }
}

/// `kv.scan`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanRequest {
    /// Whose keys.
    pub partition: u16,
    /// 0, or where the page before ended.
    pub from: u32,
    /// About how many.
    pub count: u16,
}

impl ScanRequest {
    /// Reads it.
    ///
    /// # Errors
    /// If it is too short or too long.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let partition = take_u16(&mut bytes)?;
        let from = take_u32(&mut bytes)?;
        let count = take_u16(&mut bytes)?;
        ended(bytes, ScanRequest { partition, from, count })
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
    }
}

/// A key of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scanned<'a> {
    /// The entry that wrote it last.
    pub version: Version,
    /// Unix milliseconds.
    pub expires_at: Option<u64>,
    /// The key.
    pub key: &'a [u8],
}

impl<'a> Scanned<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_version(out, self.version);
        out.extend_from_slice(&self.expires_at.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
        out.extend_from_slice(self.key);
    }

    /// Reads a page: where it goes on, if it does, and its keys.
    ///
    /// # Errors
    /// If it is none.
    pub fn page(mut bytes: &'a [u8]) -> Result<(Option<u32>, Vec<Self>), Malformed> {
        let [is_last] = take(&mut bytes)?;
        let next = take_u32(&mut bytes)?;
        let mut keys = Vec::new();
        while !bytes.is_empty() {
            let version = take_version(&mut bytes)?;
            let expires_at = take_u64(&mut bytes)?;
            let length = take_u16(&mut bytes)?;
            let key = take_slice(&mut bytes, length.into())?;
            let expires_at = (expires_at > 0).then_some(expires_at);
            keys.push(Scanned { version, expires_at, key });
        }
        Ok(((is_last == 0).then_some(next), keys))
    }
}

/// `kv.session.open`: a partition, and a lifetime in milliseconds.
///
/// # Errors
/// If it is too short or too long.
pub fn decode_open(mut bytes: &[u8]) -> Result<(u16, u64), Malformed> {
    let partition = take_u16(&mut bytes)?;
    let lifetime_ms = take_u64(&mut bytes)?;
    ended(bytes, (partition, lifetime_ms))
}

/// Appends what [`decode_open`] reads.
pub fn encode_open(partition: u16, lifetime_ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&partition.to_le_bytes());
    out.extend_from_slice(&lifetime_ms.to_le_bytes());
}

/// `kv.session.close` and `kv.session.keep`: a partition, and a session of it.
///
/// # Errors
/// If it is too short or too long.
pub fn decode_session(mut bytes: &[u8]) -> Result<(u16, SessionId), Malformed> {
    let partition = take_u16(&mut bytes)?;
    let session = take_session(&mut bytes)?;
    ended(bytes, (partition, session))
}

/// Appends what [`decode_session`] reads.
pub fn encode_session(partition: u16, session: SessionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&partition.to_le_bytes());
    session.encode(out);
}

/// The answer to `kv.info`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Info {
    /// Partitions of the store, a power of two.
    pub partitions: u16,
    /// The epoch in which entries are ordered.
    pub epoch: u32,
    /// By shard.
    pub shards: Vec<ShardInfo>,
}

/// A shard as [`Info`] has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardInfo {
    /// Its own port; 0: it has none, and is reached by its route.
    pub port: u16,
    /// Its first partition.
    pub first: u16,
    /// The one behind its last.
    pub end: u16,
}

impl Info {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&INFO_VERSION.to_le_bytes());
        out.extend_from_slice(&self.partitions.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&(self.shards.len() as u16).to_le_bytes());
        for shard in &self.shards {
            out.extend_from_slice(&shard.port.to_le_bytes());
            out.extend_from_slice(&shard.first.to_le_bytes());
            out.extend_from_slice(&shard.end.to_le_bytes());
        }
    }

    /// Reads it; what a later version adds behind is passed over.
    ///
    /// # Errors
    /// If it is too short.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut word = || take(&mut bytes).map(u16::from_le_bytes);
        let (version, partitions) = (word()?, word()?);
        if version < INFO_VERSION {
            return Err(Malformed("an info of an unknown version"));
        }
        let epoch = u32::from(word()?) | u32::from(word()?) << 16;
        let count = word()?;
        let mut shards = Vec::new();
        for _ in 0..count {
            shards.push(ShardInfo { port: word()?, first: word()?, end: word()? });
        }
        Ok(Info { partitions, epoch, shards })
    }
}

/// Appends a version.
pub fn push_version(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(&version.epoch.to_le_bytes());
    out.extend_from_slice(&version.index.to_le_bytes());
}

/// Takes a version off the front.
///
/// # Errors
/// If there is too little.
pub fn take_version(rest: &mut &[u8]) -> Result<Version, Malformed> {
    let SessionId { epoch, index } = take_session(rest)?;
    Ok(Version { epoch, index })
}

fn take_session(rest: &mut &[u8]) -> Result<SessionId, Malformed> {
    SessionId::decode(rest).map_err(|_| Malformed("it ends before its last field"))
}

#[cfg(test)]
mod tests;
