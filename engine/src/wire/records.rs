//! Records: `type (u16), length (u16), value`, little-endian, one after the other.
//!
//! The body of a hello and the metadata block are lists of them. A reader skips types that it does
//! not know, so that either side can learn new ones without asking the other.

/// Appends one record.
///
/// # Panics
/// If `value` is longer than a record can hold; callers have checked it against their own limit.
pub fn push(out: &mut Vec<u8>, record_type: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("record values are checked to be below 64 KiB");
    out.extend_from_slice(&record_type.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
}

/// Reads records from front to back; ends after the first that is cut short.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

/// A record's length reaches beyond the end of its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CutShort;

impl<'a> Records<'a> {
    /// The records in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Records { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(u16, &'a [u8]), CutShort>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let whole = std::mem::take(&mut self.rest);
        let Some((&[type_low, type_high, length_low, length_high], rest)) =
            whole.split_first_chunk()
        else {
            return Some(Err(CutShort));
        };
        let length = usize::from(u16::from_le_bytes([length_low, length_high]));
        if rest.len() < length {
            return Some(Err(CutShort));
        }
        let (value, rest) = rest.split_at(length);
        self.rest = rest;
        Some(Ok((u16::from_le_bytes([type_low, type_high]), value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_record_ends_the_list_with_an_error() {
        let mut bytes = Vec::new();
        push(&mut bytes, 1, b"one");
        push(&mut bytes, 900, b"");
        push(&mut bytes, 2, b"second");
        let all: Vec<_> = Records::new(&bytes).collect();
        assert_eq!(all, [Ok((1, &b"one"[..])), Ok((900, &b""[..])), Ok((2, &b"second"[..]))]);
        for cut in 12..bytes.len() {
            let read: Vec<_> = Records::new(&bytes[..cut]).collect();
            assert_eq!(read.last(), Some(&Err(CutShort)), "cut at {cut}");
            assert_eq!(read.len(), 3);
        }
    }
}
