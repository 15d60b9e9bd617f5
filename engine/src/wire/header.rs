//! The fixed header: 32 bytes, little-endian, the same offsets for every kind of frame.
//!
//! ```text
//! offset  bytes  field        request           response            others
//!      0      4  frame_bytes  whole frame, header and trailer included
//!      4      1  kind
//!      5      1  flags
//!      6      2  code         priority          status              hello: version; go-away: reason
//!      8      8  call         call id           call id             cancel: call id; ping, pong: echo;
//!                                                                   hello: magic
//!     16      4  first        method            queue delay, µs     hello: lowest version;
//!                                                                   pong: queue delay, µs
//!     20      4  second       time left, µs     service time, µs    pong: service time, µs
//!     24      4  third        route             requests in flight  pong: requests in flight + 1
//!     28      4  crc          CRC32C of bytes 0..28
//! ```
//!
//! The header has a checksum of its own, always, because its length is believed before the body has
//! arrived: a flipped bit there would otherwise make the receiver wait for bytes that never come.
//! The body's checksum, where negotiated, is a trailer (see [`Flags::PAYLOAD_CRC`]).

use crate::limits::{FRAME_BYTES_FLOOR, HOPS_MAX};
use crate::sys::checksum::crc32c_of_header;
use std::fmt;

/// Bytes of the header. Half a cache line; a 32-byte payload behind it fills the other half.
pub const HEADER_BYTES: usize = 32;

/// What a frame is. Numbers are the wire's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// First frame of both sides: version and features.
    Hello = 1,
    /// Asks for one answer.
    Request = 2,
    /// The one answer to a request.
    Response = 3,
    /// The caller no longer wants the answer.
    Cancel = 4,
    /// Asks for a pong.
    Ping = 5,
    /// Answers a ping.
    Pong = 6,
    /// The sender will end the connection; start nothing new on it.
    GoAway = 7,
    /// Reserved: an item of a stream.
    StreamItem = 8,
    /// Reserved: the end of a stream.
    StreamEnd = 9,
    /// Reserved: leave to send more of a stream.
    Credit = 10,
}

impl Kind {
    /// The kind with this number on the wire.
    pub const fn from_wire(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Hello,
            2 => Kind::Request,
            3 => Kind::Response,
            4 => Kind::Cancel,
            5 => Kind::Ping,
            6 => Kind::Pong,
            7 => Kind::GoAway,
            8 => Kind::StreamItem,
            9 => Kind::StreamEnd,
            10 => Kind::Credit,
            _ => return None,
        })
    }

    /// The longest frame of this kind in bytes, where the side that receives it accepts
    /// `frame_bytes_max`: some kinds are nothing but their header, and hello and go-away must fit
    /// where nothing was agreed yet.
    #[inline]
    pub const fn frame_bytes_max(self, frame_bytes_max: u32) -> u32 {
        match self {
            Kind::Cancel | Kind::Ping | Kind::Pong | Kind::Credit => HEADER_BYTES as u32,
            Kind::Hello | Kind::GoAway => FRAME_BYTES_FLOOR,
            Kind::Request | Kind::Response | Kind::StreamItem | Kind::StreamEnd => frame_bytes_max,
        }
    }
}

/// One bit each, and a number of three; a bit that is not defined for the kind of frame must be zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// A metadata block stands before the payload.
    pub const METADATA: Flags = Flags(1);
    /// The last 4 bytes of the frame are the CRC32C of all bytes between header and trailer.
    pub const PAYLOAD_CRC: Flags = Flags(2);
    /// This request may have been sent before: a retry, a hedge, a repeat after a lost connection.
    pub const REPEAT: Flags = Flags(4);

    /// Where a request says by how many proxies it was passed on.
    const HOPS_SHIFT: u32 = 3;
    const HOPS: Flags = Flags(HOPS_MAX << Self::HOPS_SHIFT);

    /// True if each of these flags means something on a frame of `kind`.
    pub const fn are_defined_for(self, kind: Kind) -> bool {
        let defined = match kind {
            Kind::Request => {
                Flags::METADATA.0 | Flags::PAYLOAD_CRC.0 | Flags::REPEAT.0 | Flags::HOPS.0
            }
            Kind::Response | Kind::StreamItem | Kind::StreamEnd => {
                Flags::METADATA.0 | Flags::PAYLOAD_CRC.0
            }
            Kind::Hello | Kind::GoAway => Flags::PAYLOAD_CRC.0,
            Kind::Cancel | Kind::Ping | Kind::Pong | Kind::Credit => 0,
        };
        self.0 & !defined == 0
    }

    /// The bits on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// True if all of `flags` are set.
    pub const fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both sets together.
    pub const fn with(self, flags: Flags) -> Flags {
        Flags(self.0 | flags.0)
    }

    /// By how many proxies a request was passed on: 0 to [`HOPS_MAX`].
    #[inline]
    pub const fn hops(self) -> u8 {
        (self.0 & Flags::HOPS.0) >> Self::HOPS_SHIFT
    }

    /// These flags with another number of hops; of one above [`HOPS_MAX`], that.
    #[inline]
    pub const fn with_hops(self, hops: u8) -> Flags {
        let hops = if hops < HOPS_MAX { hops } else { HOPS_MAX };
        Flags(self.0 & !Flags::HOPS.0 | hops << Self::HOPS_SHIFT)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Flags::METADATA, "METADATA"),
            (Flags::PAYLOAD_CRC, "PAYLOAD_CRC"),
            (Flags::REPEAT, "REPEAT"),
        ];
        let set = names.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| name);
        let hops = (self.hops() > 0).then(|| format!("HOPS={}", self.hops()));
        f.debug_set().entries(set).entries(hops).finish()
    }
}

/// A decoded header. The meaning of `code`, `first`, `second` and `third` depends on the kind; see
/// the table on the module page and the named views in [`crate::wire::frame`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Length of the whole frame in bytes, header and trailer included.
    pub frame_bytes: u32,
    /// What the frame is.
    pub kind: Kind,
    /// How to read its body.
    pub flags: Flags,
    /// Priority, status, version or reason.
    pub code: u16,
    /// The call that the frame belongs to, a magic number, or an echo.
    pub call: u64,
    /// Method or queue delay.
    pub first: u32,
    /// Time left or service time.
    pub second: u32,
    /// Route or requests in flight.
    pub third: u32,
}

impl Header {
    /// The 32 bytes on the wire, checksum included.
    #[inline]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.frame_bytes.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags.bits();
        bytes[6..8].copy_from_slice(&self.code.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.call.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.first.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.second.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.third.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the 32 bytes. The checksum is looked at first: nothing else of a damaged header counts.
    ///
    /// # Errors
    /// What is wrong with it; the stream cannot be followed any further.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, HeaderError> {
        if checksum(bytes) != u32_at(bytes, 28) {
            return Err(HeaderError::Checksum);
        }
        let kind = Kind::from_wire(bytes[4]).ok_or(HeaderError::UnknownKind(bytes[4]))?;
        let flags = Flags(bytes[5]);
        if !flags.are_defined_for(kind) {
            return Err(HeaderError::UndefinedFlags { kind, bits: bytes[5] });
        }
        Ok(Header {
            frame_bytes: u32_at(bytes, 0),
            kind,
            flags,
            code: u16::from_le_bytes([bytes[6], bytes[7]]),
            call: u64::from(u32_at(bytes, 8)) | u64::from(u32_at(bytes, 12)) << 32,
            first: u32_at(bytes, 16),
            second: u32_at(bytes, 20),
            third: u32_at(bytes, 24),
        })
    }
}

/// Of the header without its last four bytes.
#[inline]
fn checksum(bytes: &[u8; HEADER_BYTES]) -> u32 {
    let checked = bytes.first_chunk().expect("a header is longer than what is checked of it");
    crc32c_of_header(checked)
}

#[inline]
fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Why 32 bytes are no header of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// The checksum does not fit: damage on the way, or a peer that speaks something else.
    Checksum,
    /// A kind that no version known here has.
    UnknownKind(u8),
    /// A flag bit that has no meaning on a frame of this kind, in no version known here.
    UndefinedFlags {
        /// What the frame is.
        kind: Kind,
        /// All its flags.
        bits: u8,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Checksum => write!(
                f,
                "header checksum mismatch: damaged on the way, or the peer does not speak Catena"
            ),
            HeaderError::UnknownKind(kind) => write!(f, "unknown frame kind {kind}"),
            HeaderError::UndefinedFlags { kind, bits } => {
                write!(f, "flags {bits:#010b} are not defined for a {kind:?} frame")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: Header = Header {
        frame_bytes: 64,
        kind: Kind::Request,
        flags: Flags::REPEAT,
        code: 0x8000,
        call: 0x0102_0304_0506_0708,
        first: 0x1111_2222,
        second: 250_000,
        third: 3,
    };

    #[test]
    fn every_damaged_bit_is_seen() {
        let good = SAMPLE.encode();
        assert_eq!(Header::decode(&good), Ok(SAMPLE));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), Err(HeaderError::Checksum), "bit {bit}");
        }
    }

    #[test]
    fn unknown_kinds_and_flags_are_named() {
        let undefined = |kind, bits| HeaderError::UndefinedFlags { kind, bits };
        for (kind, flags, expected) in [
            (0, 0, HeaderError::UnknownKind(0)),
            (11, 0, HeaderError::UnknownKind(11)),
            (2, 0x80, undefined(Kind::Request, 0x80)),
            (3, 4, undefined(Kind::Response, 4)),
            (5, 2, undefined(Kind::Ping, 2)),
            (7, 1, undefined(Kind::GoAway, 1)),
        ] {
            let mut bytes = SAMPLE.encode();
            (bytes[4], bytes[5]) = (kind, flags);
            let crc = checksum(&bytes);
            bytes[28..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Header::decode(&bytes), Err(expected));
        }
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for number in 0..=u8::MAX {
            assert!(Kind::from_wire(number).is_none_or(|kind| kind as u8 == number));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            frame_bytes: u32, kind in 1u8..=10, flags: u8, code: u16, call: u64,
            first: u32, second: u32, third: u32,
        ) {
            let kind = Kind::from_wire(kind).expect("1 to 10 are kinds");
            let flags = Flags(flags);
            let header = Header { frame_bytes, kind, flags, code, call, first, second, third };
            let undefined = HeaderError::UndefinedFlags { kind, bits: flags.0 };
            let expected = if flags.are_defined_for(kind) { Ok(header) } else { Err(undefined) };
            prop_assert_eq!(Header::decode(&header.encode()), expected);
        }

        #[test]
        fn any_bytes_decode_or_fail_cleanly(bytes: [u8; HEADER_BYTES]) {
            let _ = Header::decode(&bytes);
        }
    }
}
