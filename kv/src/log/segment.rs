//! A segment: a file of fixed length that begins with its header, twice.
//!
//! ```text
//!     0  header          8192  batch, batch, … each at a multiple of 4096
//!  4096  header again
//! ```
//!
//! The header, 64 bytes, little-endian; the rest of its block is zero:
//!
//! ```text
//!  0  magic       8 bytes  "catenlog"      32  incarnation u64
//!  8  version     u32      1               40  number      u64   of the segment, from 1 on
//! 12  shard       u32                      48  bytes       u64   length of the file
//! 16  directory   16 bytes                 56  seed        u32   of the records' checksums
//!                                          60  crc         u32   CRC32C of bytes 0 to 59
//! ```
//!
//! A segment is made ready under its temporary name: filled or recycled, headers written, synced; then it
//! is renamed and the directory synced. So under its own name a segment has had good headers from the first
//! instant on, they are never written again, and one that is bad was damaged later. The copies lie in two
//! blocks, which is the unit in which disks lose what they hold: one bad block cannot take both.

use super::{BLOCK_BYTES, DirectoryId, LogIdentity};
use std::fmt;

/// The length of a header.
pub const HEADER_BYTES: usize = 64;

/// Where the first batch begins: behind the blocks of the two headers.
pub const BATCHES_OFFSET: u64 = 2 * BLOCK_BYTES as u64;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"catenlog";

/// What a segment's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The log that it belongs to.
    pub log: LogIdentity,
    /// Its number in the log, from 1 on.
    pub number: u64,
    /// The length of its file; a multiple of [`BLOCK_BYTES`].
    pub bytes: u64,
    /// Drawn at random for this segment. Unlike those of the file's former lives, so that nothing of them
    /// counts; unknown to clients, so that no value of theirs can pass for a record.
    pub seed: u32,
}

/// Why a file is not the segment that it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentError {
    /// Neither copy of the header is good.
    Damaged,
    /// Good, and written by a version that this one does not know.
    Version(u32),
    /// The header of another segment.
    Foreign {
        /// Of which log.
        log: LogIdentity,
        /// Which segment.
        number: u64,
    },
    /// The file's stated length is none that a segment has.
    Length(u64),
}

impl Segment {
    /// The first two blocks of the file.
    ///
    /// # Panics
    /// If `out` is shorter than [`BATCHES_OFFSET`].
    pub fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..BATCHES_OFFSET as usize];
        out.fill(0);
        for block in out.chunks_exact_mut(BLOCK_BYTES) {
            block[0..8].copy_from_slice(&MAGIC);
            block[8..12].copy_from_slice(&VERSION.to_le_bytes());
            block[12..16].copy_from_slice(&self.log.shard.to_le_bytes());
            block[16..32].copy_from_slice(&self.log.directory.0);
            block[32..40].copy_from_slice(&self.log.incarnation.to_le_bytes());
            block[40..48].copy_from_slice(&self.number.to_le_bytes());
            block[48..56].copy_from_slice(&self.bytes.to_le_bytes());
            block[56..60].copy_from_slice(&self.seed.to_le_bytes());
            let crc = crc32c::crc32c(&block[..60]);
            block[60..64].copy_from_slice(&crc.to_le_bytes());
        }
    }

    /// Reads the first two blocks of the file that should be segment `number` of `log`.
    ///
    /// # Errors
    /// [`SegmentError`]; [`SegmentError::Damaged`] also if `bytes` hold no header at all.
    pub fn decode(bytes: &[u8], log: &LogIdentity, number: u64) -> Result<Self, SegmentError> {
        let first = Segment::decode_copy(bytes);
        let segment = match first {
            Ok(segment) => segment,
            Err(_) => Segment::decode_copy(bytes.get(BLOCK_BYTES..).unwrap_or_default()).map_err(
                |second| {
                    if let Err(SegmentError::Version(_)) = first {
                        first.unwrap_err()
                    } else {
                        second
                    }
                },
            )?,
        };
        if segment.log != *log || segment.number != number {
            return Err(SegmentError::Foreign { log: segment.log, number: segment.number });
        }
        let blocks = segment.bytes.is_multiple_of(BLOCK_BYTES as u64);
        if !blocks || segment.bytes <= BATCHES_OFFSET {
            return Err(SegmentError::Length(segment.bytes));
        }
        Ok(segment)
    }

    fn decode_copy(bytes: &[u8]) -> Result<Self, SegmentError> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(SegmentError::Damaged)?;
        if header[..8] != MAGIC || crc32c::crc32c(&header[..60]) != u32_at(header, 60) {
            return Err(SegmentError::Damaged);
        }
        if u32_at(header, 8) != VERSION {
            return Err(SegmentError::Version(u32_at(header, 8)));
        }
        let directory = DirectoryId(header[16..32].try_into().expect("16 bytes"));
        let log =
            LogIdentity { directory, incarnation: u64_at(header, 32), shard: u32_at(header, 12) };
        Ok(Segment {
            log,
            number: u64_at(header, 40),
            bytes: u64_at(header, 48),
            seed: u32_at(header, 56),
        })
    }
}

/// The name of a start's directory in the data directory.
pub fn incarnation_name(incarnation: u64) -> String {
    format!("gen-{incarnation}")
}

/// The incarnation whose directory has this name.
pub fn incarnation_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("gen-")?.parse().ok()?;
    (incarnation_name(number) == name && number > 0).then_some(number)
}

/// The shard whose directory has this name.
pub fn shard_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix("shard-")?.parse().ok()?;
    (shard_name(number) == name).then_some(number)
}

/// The name of a shard's directory in that of its start.
pub fn shard_name(shard: u32) -> String {
    format!("shard-{shard}")
}

/// The name of a segment's file in the directory of its shard.
pub fn segment_name(number: u64) -> String {
    format!("log-{number}")
}

/// The name of a segment's file until it is ready.
pub fn unready_name(number: u64) -> String {
    format!("log-{number}.new")
}

/// The name of a checkpoint's file in the directory of its shard.
pub fn checkpoint_name(number: u64) -> String {
    format!("checkpoint-{number}")
}

/// The number of the checkpoint whose file has this name.
pub fn checkpoint_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("checkpoint-")?.parse().ok()?;
    (checkpoint_name(number) == name && number > 0).then_some(number)
}

/// The number of the segment whose file has this name.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?;
    let number = digits.parse().ok()?;
    // One name a number: neither zeros in front nor a sign.
    (segment_name(number) == name && number > 0).then_some(number)
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SegmentError::Damaged => f.write_str("neither copy of its header is good"),
            SegmentError::Version(version) => {
                write!(f, "its format is version {version}, and this program reads {VERSION}")
            }
            SegmentError::Foreign { log, number } => {
                let LogIdentity { directory, incarnation, shard } = log;
                write!(
                    f,
                    "its header is that of segment {number} of shard {shard}, incarnation \
                     {incarnation}, data directory {directory}"
                )
            }
            SegmentError::Length(bytes) => write!(f, "its header states a length of {bytes} bytes"),
        }
    }
}

impl std::error::Error for SegmentError {}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within a header"))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within a header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogIdentity =
        LogIdentity { directory: DirectoryId([5; 16]), incarnation: 3, shard: 2 };
    const SEGMENT: Segment = Segment { log: LOG, number: 9, bytes: 1 << 26, seed: 77 };

    fn blocks(segment: &Segment) -> Vec<u8> {
        let mut bytes = vec![0xFF; BATCHES_OFFSET as usize];
        segment.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_header_is_byte_by_byte_as_documented() {
        let bytes = blocks(&SEGMENT);
        let expected = [
            &b"catenlog"[..],
            &[1, 0, 0, 0, 2, 0, 0, 0],
            &[5; 16],
            &[3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 4, 0, 0, 0, 0, 77, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes[..60], expected[..]);
        assert_eq!(bytes[60..64], crc32c::crc32c(&expected).to_le_bytes());
        assert_eq!(bytes[..BLOCK_BYTES], bytes[BLOCK_BYTES..]);
    }

    #[test]
    fn one_lost_block_leaves_a_good_header() {
        for lost in [0, BLOCK_BYTES] {
            let mut bytes = blocks(&SEGMENT);
            bytes[lost..lost + BLOCK_BYTES].fill(0xA5);
            assert_eq!(Segment::decode(&bytes, &LOG, 9), Ok(SEGMENT), "block at {lost}");
        }
        let both = vec![0xA5; BATCHES_OFFSET as usize];
        assert_eq!(Segment::decode(&both, &LOG, 9), Err(SegmentError::Damaged));
    }

    #[test]
    fn every_flipped_bit_of_a_copy_is_noticed() {
        for bit in 0..HEADER_BYTES * 8 {
            let mut copy = blocks(&SEGMENT)[..BLOCK_BYTES].to_vec();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Segment::decode(&copy, &LOG, 9), Err(SegmentError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn other_segments_are_not_taken() {
        let bytes = blocks(&SEGMENT);
        let foreign = Err(SegmentError::Foreign { log: LOG, number: 9 });
        assert_eq!(Segment::decode(&bytes, &LOG, 8), foreign);
        for log in [
            LogIdentity { incarnation: 4, ..LOG },
            LogIdentity { shard: 1, ..LOG },
            LogIdentity { directory: DirectoryId([6; 16]), ..LOG },
        ] {
            assert_eq!(Segment::decode(&bytes, &log, 9), foreign);
        }
        for bytes in [0, BATCHES_OFFSET, BATCHES_OFFSET + 4_097] {
            let segment = blocks(&Segment { bytes, ..SEGMENT });
            assert_eq!(Segment::decode(&segment, &LOG, 9), Err(SegmentError::Length(bytes)));
        }
    }

    #[test]
    fn names_are_read_as_they_are_given() {
        assert_eq!(segment_number(&segment_name(12)), Some(12));
        for name in ["log-0", "log-012", "log-+1", "log-", "log-1.new", "lag-1", "log--1"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
