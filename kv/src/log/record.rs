//! A record: 32 bytes of header, a payload, zeros up to a multiple of 8.
//!
//! ```text
//!  0  crc       u32   CRC32C from byte 4 to the end of the zeros, begun with the segment's seed
//!  4  length    u32   header and payload, without the zeros
//!  8  prev_crc  u32   crc of the record before in the same log
//! 12  partition u16
//! 14  kind      u8    1 entry, 2 begin of a batch, 3 end of a batch
//! 15  flags     u8    0
//! 16  epoch     u32
//! 20  batch     u32   counts the batches of the log, and begins again at 0 after 2^32
//! 24  index     u64
//! 32  payload
//! ```
//!
//! `begin` and `end` have no payload, and zeros for partition, epoch and index. A checksum that begins with
//! a seed is right under no other seed: for equal bytes the two differ by an invertible function of the
//! difference of the seeds. So nothing of a recycled file's former life is ever good.

/// The length of a header.
pub const HEADER_BYTES: usize = 32;

/// What records are aligned to: the checksum then runs over whole words.
pub const ALIGN_BYTES: usize = 8;

/// The longest entry in bytes. Twice the largest value, for entries of several effects; a record's length
/// has 32 bits.
pub const ENTRY_BYTES_MAX: usize = 2 * crate::limits::VALUE_BYTES_MAX;

const _: () = assert!(record_bytes(ENTRY_BYTES_MAX) <= u32::MAX as usize, "lengths have 32 bits");

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Its payload is an entry: effects that happen together.
    Entry = 1,
    /// The first record of a batch.
    Begin = 2,
    /// The last record of a batch.
    End = 3,
}

/// What a header says besides checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose index it is.
    pub partition: u16,
    /// `None`: a kind that this version does not know.
    pub kind: Option<Kind>,
    /// In which it was ordered.
    pub epoch: u32,
    /// The order of the partition's entries.
    pub index: u64,
}

impl Header {
    /// The first or the last record of a batch.
    pub const fn bracket(kind: Kind) -> Self {
        Header { partition: 0, kind: Some(kind), epoch: 0, index: 0 }
    }
}

/// What ties a record to its place: the segment's seed, the record before, the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Of the segment.
    pub seed: u32,
    /// The checksum of the record before.
    pub prev_crc: u32,
    /// The batch's number.
    pub batch: u32,
}

/// A record whose own checksum is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it says.
    pub header: Header,
    /// The batch it says it is of.
    pub batch: u32,
    /// The checksum of the record before, as it says.
    pub prev_crc: u32,
    /// Its own checksum.
    pub crc: u32,
    /// The length of its payload in bytes.
    pub payload_bytes: usize,
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordError {
    /// It needs so many bytes to be looked at, and fewer are there.
    Short(usize),
    /// The length is none that a record has.
    Length(u32),
    /// The checksum is not that of the bytes.
    Checksum {
        /// What stands in the header.
        stated: u32,
        /// What the bytes have.
        computed: u32,
    },
}

/// The bytes that a record with such a payload takes, zeros included.
pub const fn record_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN_BYTES)
}

/// Writes a record to the front of `out`, and returns its checksum.
///
/// # Panics
/// If `out` is shorter than [`record_bytes`], or the payload longer than [`ENTRY_BYTES_MAX`].
#[inline]
pub fn encode(out: &mut [u8], header: Header, payload: &[u8], link: Link) -> u32 {
    assert!(payload.len() <= ENTRY_BYTES_MAX, "entries are bounded before they are ordered");
    let bytes = record_bytes(payload.len());
    let out = &mut out[..bytes];
    let (head, body) = out.split_first_chunk_mut::<HEADER_BYTES>().expect("a header fits");
    let length = (HEADER_BYTES + payload.len()) as u32;
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[12..14].copy_from_slice(&header.partition.to_le_bytes());
    head[14] = header.kind.map_or(0, |kind| kind as u8);
    head[15] = 0;
    head[16..20].copy_from_slice(&header.epoch.to_le_bytes());
    head[24..32].copy_from_slice(&header.index.to_le_bytes());
    body[..payload.len()].copy_from_slice(payload);
    body[payload.len()..].fill(0);
    seal(out, link)
}

/// Gives a written record another place; returns its checksum. `record` is the record and no more.
#[inline]
pub fn seal(record: &mut [u8], link: Link) -> u32 {
    record[8..12].copy_from_slice(&link.prev_crc.to_le_bytes());
    record[20..24].copy_from_slice(&link.batch.to_le_bytes());
    let crc = checksum(record, link.seed);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The length that the record at the front of `bytes` says it takes, zeros included.
///
/// # Panics
/// If `bytes` hold no header.
#[inline]
pub fn stated_bytes(bytes: &[u8]) -> usize {
    (u32_at(bytes, 4) as usize).next_multiple_of(ALIGN_BYTES)
}

/// Reads the record at the front of `bytes`, of which at most `bytes_max` can be its own: what is left
/// of the segment.
///
/// # Errors
/// [`RecordError`]. After [`RecordError::Short`] it may be tried again with more bytes.
#[inline]
pub fn decode(bytes: &[u8], bytes_max: u64, seed: u32) -> Result<Record, RecordError> {
    if bytes.len() < HEADER_BYTES {
        return Err(RecordError::Short(HEADER_BYTES));
    }
    let length = u32_at(bytes, 4);
    let payload_bytes = (length as usize).wrapping_sub(HEADER_BYTES);
    if payload_bytes > ENTRY_BYTES_MAX || stated_bytes(bytes) as u64 > bytes_max {
        return Err(RecordError::Length(length));
    }
    let whole = stated_bytes(bytes);
    let record = bytes.get(..whole).ok_or(RecordError::Short(whole))?;
    let (stated, computed) = (u32_at(record, 0), checksum(record, seed));
    if stated != computed {
        return Err(RecordError::Checksum { stated, computed });
    }
    let header = Header {
        partition: u16::from_le_bytes([record[12], record[13]]),
        kind: kind_of(record[14], record[15]),
        epoch: u32_at(record, 16),
        index: u64::from(u32_at(record, 24)) | u64::from(u32_at(record, 28)) << 32,
    };
    let (prev_crc, batch) = (u32_at(record, 8), u32_at(record, 20));
    Ok(Record { header, batch, prev_crc, crc: stated, payload_bytes })
}

/// The checksum that a record should have.
#[inline]
fn checksum(record: &[u8], seed: u32) -> u32 {
    crc32c::crc32c_append(seed, &record[4..])
}

/// Flags are part of the kind until there is a first one: what they mean must be known.
#[inline]
fn kind_of(kind: u8, flags: u8) -> Option<Kind> {
    match (kind, flags) {
        (1, 0) => Some(Kind::Entry),
        (2, 0) => Some(Kind::Begin),
        (3, 0) => Some(Kind::End),
        _ => None,
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within a header"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINK: Link = Link { seed: 7, prev_crc: 8, batch: 9 };
    const HEADER: Header =
        Header { partition: 0x102, kind: Some(Kind::Entry), epoch: 0x304, index: 1 << 40 };

    fn written(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0xFF; record_bytes(payload.len())];
        encode(&mut out, HEADER, payload, LINK);
        out
    }

    /// As `docs/log-format.md` has it: a change of this is a change of the format.
    #[test]
    fn a_record_is_byte_by_byte_as_documented() {
        let bytes = written(b"abc");
        let expected = [
            [0, 0, 0, 0, 35, 0, 0, 0],
            [8, 0, 0, 0, 2, 1, 1, 0],
            [4, 3, 0, 0, 9, 0, 0, 0],
            [0, 0, 0, 0, 0, 1, 0, 0],
            [b'a', b'b', b'c', 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes[4..], expected[4..]);
        assert_eq!(bytes[..4], crc32c::crc32c_append(7, &expected[4..]).to_le_bytes());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let bytes = written(&payload);
            let record = decode(&bytes, bytes.len() as u64, 7).unwrap();
            prop_assert_eq!((record.header, record.batch, record.prev_crc), (HEADER, 9, 8));
            prop_assert_eq!(record.payload_bytes, payload.len());
            prop_assert_eq!(&bytes[HEADER_BYTES..][..payload.len()], &payload[..]);
        }

        #[test]
        fn every_flipped_bit_is_noticed(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            bit: prop::sample::Index,
        ) {
            let mut bytes = written(&payload);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes.resize(bytes.len() + 600, 0);
            prop_assert!(decode(&bytes, bytes.len() as u64, 7).is_err());
        }

        #[test]
        fn no_record_is_good_under_another_seed(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            seed: u32,
        ) {
            let bytes = written(&payload);
            prop_assert_eq!(decode(&bytes, bytes.len() as u64, seed).is_ok(), seed == 7);
        }

        #[test]
        fn garbage_is_read_without_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            length in 0..100u32,
            bytes_max in 0..200u64,
        ) {
            if bytes.len() >= 8 {
                bytes[4..8].copy_from_slice(&length.to_le_bytes());
            }
            let _ = decode(&bytes, bytes_max, 7);
        }
    }
}
