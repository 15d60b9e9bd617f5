//! What a data directory is (`IDENTITY`), and what of a shard's files counts (`MANIFEST`).
//!
//! Both are TOML, for whoever has to look after a disk at night, with a last line that is the checksum of
//! all before it: `# crc32c 1a2b3c4d`. They are replaced whole: write, sync, rename, sync of the directory.

use super::{DirectoryId, LogEnd, LogStart};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of both documents that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// The most partitions that a store may have; slots are divided evenly among them.
pub const PARTITIONS_MAX: u16 = 1_024;

const CHECKSUM: &str = "# crc32c ";

/// What a data directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Drawn when it was made.
    pub directory: DirectoryId,
    /// A power of two up to [`PARTITIONS_MAX`]; fixed when it was made.
    pub partitions: u16,
    /// Seed of the tables' hash, equal on all replicas, so that cursors stay good.
    pub hash_seed: u64,
    /// How often a process was started on it.
    pub incarnation: u64,
    /// The last start that came to serve: whatever it has left has to be there.
    pub served: Option<Served>,
}

/// A start all of whose shards had recovered, and might acknowledge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// Which.
    pub incarnation: u64,
    /// How many shards it had.
    pub shards: u32,
}

/// What of a shard's files counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Which data directory.
    pub directory: DirectoryId,
    /// Which start.
    pub incarnation: u64,
    /// Which shard.
    pub shard: u32,
    /// Of how many.
    pub shards: u32,
    /// Where its log begins: nothing before is needed.
    pub start: LogStart,
    /// The highest segment that has been made ready; none from the start to it may be missing.
    pub last_segment: u64,
    /// The checkpoint that the log goes on from.
    pub checkpoint: Option<Checkpoint>,
    /// Logs of former starts that are needed still, and where they end for ever.
    pub older: Vec<OlderLog>,
}

/// A checkpoint's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Its number: the file is `checkpoint-<number>`.
    pub number: u64,
    /// The CRC32C of the file.
    pub crc: u32,
}

/// A log that a former start wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OlderLog {
    /// Which start.
    pub incarnation: u64,
    /// Which of its shards.
    pub shard: u32,
    /// Where it ends.
    pub end: LogEnd,
}

/// Why a document is not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestError {
    /// The file, as the caller names it.
    pub file: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// It does not end with its checksum.
    NoChecksum,
    /// It was changed since it was written.
    Checksum {
        /// What it says.
        stated: u32,
        /// What it has.
        computed: u32,
    },
    /// Another version wrote it.
    Version(u32),
    /// It is no such document; as the parser says it, with the line.
    Syntax(String),
    /// A field has a value that it cannot have.
    Field {
        /// Which, with the table that it is in.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
}

impl Identity {
    /// The file's content.
    pub fn encode(&self) -> String {
        with_checksum(&IdentityDocument {
            version: VERSION,
            directory: self.directory.to_string(),
            partitions: self.partitions,
            hash_seed: hex(self.hash_seed),
            incarnation: self.incarnation,
            served: self.served,
        })
    }

    /// Reads the content of `file`, which is for the error alone.
    ///
    /// # Errors
    /// [`ManifestError`] names the file, and the field if it is one.
    pub fn decode(content: &[u8], file: &str) -> Result<Self, ManifestError> {
        checked::<IdentityDocument>(content)
            .and_then(Identity::from_document)
            .map_err(|problem| ManifestError { file: file.to_owned(), problem })
    }

    fn from_document(document: IdentityDocument) -> Result<Self, Problem> {
        let partitions = document.partitions;
        let sound = partitions.is_power_of_two() && partitions <= PARTITIONS_MAX;
        require(sound, "partitions", "a power of two from 1 to 1024")?;
        require(document.incarnation > 0, "incarnation", "1 or more")?;
        if let Some(served) = document.served {
            let known = (1..=document.incarnation).contains(&served.incarnation);
            require(known, "served.incarnation", "from 1 to incarnation")?;
            require(served.shards > 0, "served.shards", "1 or more")?;
        }
        Ok(Identity {
            directory: directory_id(&document.directory)?,
            partitions,
            hash_seed: from_hex(&document.hash_seed, 16, "hash_seed", "16 hexadecimal digits")?
                as u64,
            incarnation: document.incarnation,
            served: document.served,
        })
    }
}

impl Manifest {
    /// The file's content.
    pub fn encode(&self) -> String {
        with_checksum(&ManifestDocument {
            version: VERSION,
            directory: self.directory.to_string(),
            incarnation: self.incarnation,
            shard: self.shard,
            shards: self.shards,
            log: LogDocument {
                first_segment: self.start.segment,
                last_segment: self.last_segment,
                prev_crc: self.start.prev_crc,
                prev_batch: self.start.prev_batch,
            },
            checkpoint: self.checkpoint.as_ref().map(|Checkpoint { number, crc }| {
                CheckpointDocument { number: *number, crc: *crc }
            }),
            older: self.older.iter().map(OlderDocument::from).collect(),
        })
    }

    /// Reads the content of `file`, which is for the error alone.
    ///
    /// # Errors
    /// [`ManifestError`] names the file, and the field if it is one.
    pub fn decode(content: &[u8], file: &str) -> Result<Self, ManifestError> {
        checked::<ManifestDocument>(content)
            .and_then(Manifest::from_document)
            .map_err(|problem| ManifestError { file: file.to_owned(), problem })
    }

    fn from_document(document: ManifestDocument) -> Result<Self, Problem> {
        let LogDocument { first_segment, last_segment, prev_crc, prev_batch } = document.log;
        require(document.incarnation > 0, "incarnation", "1 or more")?;
        require(document.shard < document.shards, "shard", "less than shards")?;
        require(first_segment > 0, "log.first_segment", "1 or more")?;
        // One less: nothing has been made ready yet.
        require(
            last_segment >= first_segment - 1,
            "log.last_segment",
            "log.first_segment - 1 or more",
        )?;
        for older in &document.older {
            let former = (1..document.incarnation).contains(&older.incarnation);
            require(former, "older.incarnation", "of a start before this one")?;
            require(older.segment > 0, "older.segment", "1 or more")?;
            let behind_header = older.offset >= super::segment::BATCHES_OFFSET;
            require(behind_header, "older.offset", "behind the segment's headers")?;
        }
        let mut logs: Vec<_> =
            document.older.iter().map(|log| (log.incarnation, log.shard)).collect();
        logs.sort_unstable();
        logs.dedup();
        require(logs.len() == document.older.len(), "older.shard", "once for each older log")?;
        Ok(Manifest {
            directory: directory_id(&document.directory)?,
            incarnation: document.incarnation,
            shard: document.shard,
            shards: document.shards,
            start: LogStart { segment: first_segment, prev_crc, prev_batch },
            last_segment,
            checkpoint: document
                .checkpoint
                .map(|CheckpointDocument { number, crc }| Checkpoint { number, crc }),
            older: document.older.iter().map(OlderLog::from).collect(),
        })
    }
}

/// Numbers above 2^63 are none of TOML's, and ids are read more easily so: these fields are hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityDocument {
    version: u32,
    directory: String,
    partitions: u16,
    hash_seed: String,
    incarnation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    served: Option<Served>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestDocument {
    version: u32,
    directory: String,
    incarnation: u64,
    shard: u32,
    shards: u32,
    log: LogDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckpointDocument>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    older: Vec<OlderDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogDocument {
    first_segment: u64,
    last_segment: u64,
    prev_crc: u32,
    prev_batch: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointDocument {
    number: u64,
    crc: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OlderDocument {
    incarnation: u64,
    shard: u32,
    segment: u64,
    offset: u64,
    crc: u32,
}

/// Enough to tell who wrote a document whose other fields may be unknown.
#[derive(Deserialize)]
struct VersionDocument {
    version: u32,
}

impl From<&OlderLog> for OlderDocument {
    fn from(log: &OlderLog) -> Self {
        let LogEnd { segment, offset, crc } = log.end;
        OlderDocument { incarnation: log.incarnation, shard: log.shard, segment, offset, crc }
    }
}

impl From<&OlderDocument> for OlderLog {
    fn from(log: &OlderDocument) -> Self {
        let end = LogEnd { segment: log.segment, offset: log.offset, crc: log.crc };
        OlderLog { incarnation: log.incarnation, shard: log.shard, end }
    }
}

/// The content of a document, with a last line that is its checksum.
pub(crate) fn with_checksum(document: &impl Serialize) -> String {
    let body = toml::to_string(document).expect("these documents have numbers below 2^63 and text");
    format!("{body}{CHECKSUM}{:08x}\n", crc32c::crc32c(body.as_bytes()))
}

/// The content of a document that [`with_checksum`] made. Checksum first, version second: only then does it
/// matter what the fields are.
pub(crate) fn checked<D: DeserializeOwned>(content: &[u8]) -> Result<D, Problem> {
    let content = str::from_utf8(content).map_err(|error| Problem::Syntax(error.to_string()))?;
    let end = content.strip_suffix('\n').ok_or(Problem::NoChecksum)?;
    let (body, digits) = end.rsplit_once(CHECKSUM).ok_or(Problem::NoChecksum)?;
    let stated = from_hex(digits, 8, "", "").map_err(|_| Problem::NoChecksum)? as u32;
    let computed = crc32c::crc32c(body.as_bytes());
    if stated != computed {
        return Err(Problem::Checksum { stated, computed });
    }
    let syntax = |error: toml::de::Error| Problem::Syntax(error.to_string());
    let VersionDocument { version } = toml::from_str(body).map_err(syntax)?;
    if version != VERSION {
        return Err(Problem::Version(version));
    }
    toml::from_str(body).map_err(syntax)
}

fn require(holds: bool, field: &'static str, expected: &'static str) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(Problem::Field { field, expected }) }
}

fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// Exactly so many lower-case digits: one way to write each number.
fn from_hex(
    text: &str,
    digits: usize,
    field: &'static str,
    expected: &'static str,
) -> Result<u128, Problem> {
    let plain = text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    require(plain && text.len() == digits, field, expected)?;
    Ok(u128::from_str_radix(text, 16).expect("these are up to 32 digits"))
}

fn directory_id(text: &str) -> Result<DirectoryId, Problem> {
    let number = from_hex(text, 32, "directory", "32 hexadecimal digits")?;
    Ok(DirectoryId(number.to_be_bytes()))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NoChecksum => {
                f.write_str("it does not end with a line \"# crc32c <8 hexadecimal digits>\"")
            }
            Problem::Checksum { stated, computed } => {
                write!(f, "its checksum is {computed:08x}, and its last line says {stated:08x}")
            }
            Problem::Version(version) => {
                write!(f, "it is of version {version}, and this program reads {VERSION}")
            }
            Problem::Syntax(reason) => f.write_str(reason.trim_end()),
            Problem::Field { field, expected } => write!(f, "{field} has to be {expected}"),
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ManifestError { file, problem } = self;
        write!(f, "{file} cannot be used: {problem}. ")?;
        match problem {
            Problem::Version(_) => f.write_str("Start the version that wrote it"),
            _ => f.write_str("Nothing was changed. Look after the disk, and restore a backup"),
        }
    }
}

impl std::error::Error for ManifestError {}

#[cfg(test)]
mod tests;
