//! What a checkpoint's file is made of: frames, each with its checksum, chained to the one before.
//!
//! ```text
//! file    start │ begin p │ sessions … │ entries … │ end p │ begin q │ … │ end q │ … │ finish │ zeros
//! ```
//!
//! A frame, little-endian:
//!
//! ```text
//!  0  crc       u32   CRC32C from byte 4 on, begun with the crc of the frame before (0 for the first)
//!  4  length    u32   of the payload
//!  8  kind      u8    1 start, 2 begin, 3 entries, 4 restart, 5 end, 6 finish, 7 sessions
//!  9  zero      u8
//! 10  partition u16   0 for start and finish
//! 12  zero      u32
//! 16  payload
//! ```
//!
//! | kind | payload |
//! |---|---|
//! | start | `catenchk`, version u32 (1), shard u32, directory 16 bytes, incarnation u64, number u64 |
//! | begin | as of which index u64, how many epochs u32, then of each: first index u64, epoch u32 |
//! | entries | any number of: index u64, a put as in the log |
//! | restart | nothing: all entries of the partition since its begin are void, and another begin follows |
//! | sessions | any number of: epoch u32, index u64, lifetime in ms u64, first unanswered u64, results u32 |
//! | | and of each result behind it: number u64, index u64, status u16, length u32, bytes |
//! | end | how many entries u64 |
//! | finish | how many partitions u32, how many entries u64 |

use std::fmt;

/// The length of a frame's header.
pub const HEADER_BYTES: usize = 16;

/// The longest payload: an entry of the largest value, and its key.
pub const PAYLOAD_BYTES_MAX: usize = crate::limits::VALUE_BYTES_MAX + (1 << 20);

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The file begins.
    Start = 1,
    /// A partition begins.
    Begin = 2,
    /// Keys of it.
    Entries = 3,
    /// It begins again.
    Restart = 4,
    /// It is complete.
    End = 5,
    /// The file is complete.
    Finish = 6,
    /// Sessions of the partition.
    Sessions = 7,
}

/// Why bytes are no checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The checksum is not that of the bytes.
    Checksum,
    /// A length that no frame has.
    Length(u32),
    /// A kind that this version does not know.
    Kind(u8),
    /// The payload is not what its kind has.
    Payload,
    /// A frame that may not come at this place.
    Order,
    /// The file ends before its finish.
    Short,
    /// Something follows behind its finish.
    Long,
    /// A version that this one does not know.
    Version(u32),
    /// It is another directory's, start's or shard's, or has another number.
    Foreign,
    /// The counts are not those of what came.
    Counts,
    /// It is complete, and not the one that the manifest means.
    NotThisOne,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        let kinds = [
            Kind::Start,
            Kind::Begin,
            Kind::Entries,
            Kind::Restart,
            Kind::End,
            Kind::Finish,
            Kind::Sessions,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Appends a frame whose payload `write` appends. Returns its checksum.
///
/// # Panics
/// If the payload is longer than [`PAYLOAD_BYTES_MAX`]: nobody could read it again.
pub fn encode(
    out: &mut Vec<u8>,
    prev_crc: u32,
    kind: Kind,
    partition: u16,
    write: impl FnOnce(&mut Vec<u8>),
) -> u32 {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    write(out);
    let length = out.len() - start - HEADER_BYTES;
    assert!(length <= PAYLOAD_BYTES_MAX, "a frame of {length} bytes");
    let frame = &mut out[start..];
    frame[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    frame[8] = kind as u8;
    frame[10..12].copy_from_slice(&partition.to_le_bytes());
    let crc = crc32c::crc32c_append(prev_crc, &frame[4..]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whose.
    pub partition: u16,
    /// What it says.
    pub payload: &'a [u8],
    /// Its checksum.
    pub crc: u32,
}

impl Frame<'_> {
    /// Its length in the file.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// What bytes begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// A frame that is not whole: so many bytes are needed.
    Needs(usize),
}

/// Reads the frame at the front of `bytes`.
///
/// # Errors
/// If it is none.
pub fn decode(bytes: &[u8], prev_crc: u32) -> Result<Decoded<'_>, FrameError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(Decoded::Needs(HEADER_BYTES));
    };
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (crc, length) = (word(0), word(4));
    let kind = Kind::of(header[8]).ok_or(FrameError::Kind(header[8]))?;
    if length as usize > PAYLOAD_BYTES_MAX {
        return Err(FrameError::Length(length));
    }
    let whole = HEADER_BYTES + length as usize;
    let Some(frame) = bytes.get(..whole) else { return Ok(Decoded::Needs(whole)) };
    if crc32c::crc32c_append(prev_crc, &frame[4..]) != crc {
        return Err(FrameError::Checksum);
    }
    let partition = u16::from_le_bytes([header[10], header[11]]);
    Ok(Decoded::Frame(Frame { kind, partition, payload: &frame[HEADER_BYTES..], crc }))
}

/// A sentence, as it follows a colon.
impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Checksum => f.write_str("the checksum of a frame is not that of its bytes"),
            FrameError::Length(length) => {
                write!(f, "a frame says that it has {length} bytes, which none has")
            }
            FrameError::Kind(kind) => write!(f, "a frame is of kind {kind}, which is unknown"),
            FrameError::Payload => f.write_str("the content of a frame is not what its kind has"),
            FrameError::Order => f.write_str("a frame stands where it cannot come"),
            FrameError::Short => f.write_str("the file ends before its last frame"),
            FrameError::Long => f.write_str("bytes follow behind its last frame"),
            FrameError::Version(version) => write!(
                f,
                "it is of version {version}, which is unknown; use the version that wrote it"
            ),
            FrameError::Foreign => f.write_str("it is another store's, or another shard's"),
            FrameError::Counts => f.write_str("the counts in it are not those of what came"),
            FrameError::NotThisOne => f.write_str("it is whole, and not the one that belongs here"),
        }
    }
}

impl std::error::Error for FrameError {}
