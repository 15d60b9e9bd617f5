//! The optional block before a payload: trace context, token, idempotency number.
//!
//! On the wire: `length (u16)` of the records that follow, then [`records`].
//! Most requests carry none and pay nothing for it.

use super::records::{self, CutShort, Records};
use crate::limits::METADATA_BYTES_MAX;

/// W3C trace context: `trace id (16), parent span id (8), flags (1)`.
pub const TRACE_CONTEXT: u16 = 1;
/// An opaque token that proves who the caller is.
pub const TOKEN: u16 = 2;
/// `session (u64), number (u64)`: the same pair means the same request.
pub const IDEMPOTENCY: u16 = 3;

/// Who sent a request for the how-manieth time; equal pairs mean one and the same request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Idempotency {
    /// The caller's session.
    pub session: u64,
    /// The number of the request within it.
    pub number: u64,
}

/// The records of one request, read where they lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metadata<'a> {
    records: &'a [u8],
}

impl<'a> Metadata<'a> {
    /// The metadata whose records are `records`.
    pub fn new(records: &'a [u8]) -> Self {
        Metadata { records }
    }

    /// True when the request carries none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records as they are on the wire, to forward them.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.records
    }

    /// The records one by one; unknown types are for the reader to skip.
    pub fn records(&self) -> Records<'a> {
        Records::new(self.records)
    }

    /// The first record of this type.
    ///
    /// # Errors
    /// [`CutShort`] when the block is damaged before such a record is found.
    pub fn find(&self, record_type: u16) -> Result<Option<&'a [u8]>, CutShort> {
        for record in self.records() {
            let (found, value) = record?;
            if found == record_type {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The idempotency number, if the request has one.
    ///
    /// # Errors
    /// [`CutShort`] when the block is damaged or the record is not 16 bytes long.
    pub fn idempotency(&self) -> Result<Option<Idempotency>, CutShort> {
        let Some(value) = self.find(IDEMPOTENCY)? else { return Ok(None) };
        let (session, number) = value.split_first_chunk::<8>().ok_or(CutShort)?;
        let number: [u8; 8] = number.try_into().map_err(|_| CutShort)?;
        Ok(Some(Idempotency {
            session: u64::from_le_bytes(*session),
            number: u64::from_le_bytes(number),
        }))
    }
}

/// Metadata to send. Build it once and use it for many requests.
#[derive(Clone, Debug, Default)]
pub struct MetadataBuf {
    records: Vec<u8>,
}

/// A record would make the block longer than [`METADATA_BYTES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetadataTooLong {
    /// Bytes that the block would have.
    pub bytes: usize,
}

impl std::fmt::Display for MetadataTooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "metadata of {} bytes; at most {METADATA_BYTES_MAX} are allowed", self.bytes)
    }
}

impl std::error::Error for MetadataTooLong {}

impl MetadataBuf {
    /// A copy of what arrived, to keep or to send on.
    pub fn copy_of(metadata: Metadata<'_>) -> Self {
        MetadataBuf { records: metadata.as_bytes().to_vec() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`MetadataTooLong`]; the block is then as it was.
    pub fn push(&mut self, record_type: u16, value: &[u8]) -> Result<(), MetadataTooLong> {
        let bytes = self.records.len() + 4 + value.len();
        if bytes > METADATA_BYTES_MAX {
            return Err(MetadataTooLong { bytes });
        }
        records::push(&mut self.records, record_type, value);
        Ok(())
    }

    /// Adds the idempotency number.
    ///
    /// # Errors
    /// As [`MetadataBuf::push`].
    pub fn push_idempotency(&mut self, id: Idempotency) -> Result<(), MetadataTooLong> {
        let mut value = [0u8; 16];
        value[..8].copy_from_slice(&id.session.to_le_bytes());
        value[8..].copy_from_slice(&id.number.to_le_bytes());
        self.push(IDEMPOTENCY, &value)
    }

    /// To read it, or to send it.
    pub fn as_metadata(&self) -> Metadata<'_> {
        Metadata::new(&self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_found() {
        let mut buf = MetadataBuf::default();
        let id = Idempotency { session: u64::MAX - 1, number: 42 };
        buf.push(999, b"later versions").expect("short");
        buf.push(TOKEN, b"secret").expect("short");
        buf.push_idempotency(id).expect("short");
        let metadata = buf.as_metadata();
        assert_eq!(metadata.find(TOKEN), Ok(Some(&b"secret"[..])));
        assert_eq!(metadata.find(TRACE_CONTEXT), Ok(None));
        assert_eq!(metadata.idempotency(), Ok(Some(id)));
    }

    #[test]
    fn damage_is_an_error_and_the_limit_holds() {
        let mut buf = MetadataBuf::default();
        buf.push(IDEMPOTENCY, &[0; 15]).expect("short");
        assert_eq!(buf.as_metadata().idempotency(), Err(CutShort));
        let refused = buf.push(TOKEN, &[0; METADATA_BYTES_MAX]);
        assert!(refused.is_err());
        assert_eq!(buf.as_metadata().find(TOKEN), Ok(None), "refused leaves it as it was");
    }
}
