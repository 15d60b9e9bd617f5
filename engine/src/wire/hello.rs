//! The first frame of both sides: which versions, and which features.
//!
//! The header carries the versions (`code`: highest spoken, `first`: lowest spoken) and a magic
//! number where other frames have the call id; the body is a list of
//! [`records`]. Header layout, magic and the meaning of these three fields are
//! the same in all versions, so that two peers of any age can at least tell each other why not.

use super::frame::control;
use super::header::{Header, Kind};
use super::records::{self, Records};
use crate::limits::{FRAME_BYTES_FLOOR, SHARDS_MAX};
use std::fmt;

/// Where other frames have the call id: `"CATENA\r\n"` read as a little-endian number.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CATENA\r\n");
/// The highest version spoken here.
pub const VERSION_MAX: u16 = 1;
/// The lowest version spoken here.
pub const VERSION_MIN: u16 = 1;

const FRAME_BYTES_MAX: u16 = 1;
const IN_FLIGHT_MAX: u16 = 2;
const PAYLOAD_CRC: u16 = 3;
const IDLE_TIMEOUT: u16 = 4;
const SHARDS: u16 = 5;

/// Where the shards of a server listen one by one, so that a client may choose.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ShardMap {
    /// Which shard this connection ended up on.
    pub here: u16,
    /// The port of each shard, by index; empty: the server has no such ports.
    pub ports: Vec<u16>,
}

/// What one side tells the other about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Highest version spoken.
    pub version_max: u16,
    /// Lowest version spoken.
    pub version_min: u16,
    /// The longest frame in bytes that this side accepts.
    pub frame_bytes_max: u32,
    /// Requests of one connection that this side takes at a time; 0: it serves none.
    pub in_flight_max: u32,
    /// This side wants payload checksums. They are used when both want them.
    pub payload_crc: bool,
    /// After so many milliseconds without a request, arriving or in work, this side says go-away;
    /// 0: never.
    pub idle_timeout_ms: u32,
    /// The server's shards.
    pub shards: ShardMap,
}

impl Hello {
    /// What a peer accepts of whom nothing is known yet: the least that any peer must.
    pub(crate) const LEAST: Hello = Hello {
        version_max: 0,
        version_min: 0,
        frame_bytes_max: FRAME_BYTES_FLOOR,
        in_flight_max: 0,
        payload_crc: false,
        idle_timeout_ms: 0,
        shards: ShardMap { here: 0, ports: Vec::new() },
    };

    /// The header on the wire; its length is the framer's to set.
    pub fn header(&self) -> Header {
        let mut header = control(Kind::Hello, self.version_max, MAGIC);
        header.first = u32::from(self.version_min);
        header
    }

    /// The records on the wire.
    ///
    /// # Panics
    /// If there are more than [`SHARDS_MAX`] shards; a server checks that when it starts.
    pub fn encode_body(&self) -> Vec<u8> {
        assert!(self.shards.ports.len() <= SHARDS_MAX, "a server has at most {SHARDS_MAX} shards");
        let mut body = Vec::with_capacity(64);
        records::push(&mut body, FRAME_BYTES_MAX, &self.frame_bytes_max.to_le_bytes());
        records::push(&mut body, IN_FLIGHT_MAX, &self.in_flight_max.to_le_bytes());
        records::push(&mut body, PAYLOAD_CRC, &[u8::from(self.payload_crc)]);
        records::push(&mut body, IDLE_TIMEOUT, &self.idle_timeout_ms.to_le_bytes());
        if !self.shards.ports.is_empty() {
            let mut value = self.shards.here.to_le_bytes().to_vec();
            value.extend(self.shards.ports.iter().flat_map(|port| port.to_le_bytes()));
            records::push(&mut body, SHARDS, &value);
        }
        body
    }

    /// Reads a hello. What a peer leaves out has the value that needs no feature.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(header: &Header, body: &[u8]) -> Result<Hello, HelloError> {
        if header.call != MAGIC {
            return Err(HelloError::Magic);
        }
        let mut hello = Hello {
            version_max: header.code,
            version_min: u16::try_from(header.first).unwrap_or(u16::MAX),
            ..Hello::LEAST
        };
        for record in Records::new(body) {
            let (record_type, value) = record.map_err(|_| HelloError::Records)?;
            hello.learn(record_type, value).ok_or(HelloError::Value(record_type))?;
        }
        Ok(hello)
    }

    /// Takes in one record; `None` if its value is not what its type promises.
    fn learn(&mut self, record_type: u16, value: &[u8]) -> Option<()> {
        match record_type {
            FRAME_BYTES_MAX => {
                let told = u32_of(value)?;
                self.frame_bytes_max = (told >= FRAME_BYTES_FLOOR).then_some(told)?;
            }
            IN_FLIGHT_MAX => self.in_flight_max = u32_of(value)?,
            PAYLOAD_CRC => {
                let &[wanted @ (0 | 1)] = value else { return None };
                self.payload_crc = wanted == 1;
            }
            IDLE_TIMEOUT => self.idle_timeout_ms = u32_of(value)?,
            SHARDS => {
                let mut numbers = value
                    .chunks(2)
                    .map(|pair| Some(u16::from_le_bytes([*pair.first()?, *pair.get(1)?])));
                self.shards.here = numbers.next()??;
                self.shards.ports = numbers.collect::<Option<Vec<_>>>()?;
                let is_known = usize::from(self.shards.here) < self.shards.ports.len();
                (is_known && self.shards.ports.len() <= SHARDS_MAX).then_some(())?;
            }
            _later_versions => {}
        }
        Some(())
    }

    /// The version that both sides speak, or why there is none.
    ///
    /// # Errors
    /// [`HelloError::Version`] with both ranges.
    pub fn agree(&self, peer: &Hello) -> Result<u16, HelloError> {
        let version = self.version_max.min(peer.version_max);
        if version < self.version_min.max(peer.version_min) {
            return Err(HelloError::Version {
                ours: (self.version_min, self.version_max),
                theirs: (peer.version_min, peer.version_max),
            });
        }
        Ok(version)
    }
}

fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(value.try_into().ok()?))
}

/// Why a hello is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloError {
    /// The magic number is not ours.
    Magic,
    /// The list of records is cut short.
    Records,
    /// The value of a record of this type is not what the type promises.
    Value(u16),
    /// No version is spoken by both; lowest and highest of each side.
    Version {
        /// Spoken here.
        ours: (u16, u16),
        /// Spoken by the peer.
        theirs: (u16, u16),
    },
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloError::Magic => f.write_str("the peer's hello has a foreign magic number"),
            HelloError::Records => f.write_str("the records of the peer's hello are cut short"),
            HelloError::Value(record) => write!(f, "hello record {record} has a bad value"),
            HelloError::Version { ours, theirs } => write!(
                f,
                "no common protocol version: {}..={} here, {}..={} there; upgrade the older side",
                ours.0, ours.1, theirs.0, theirs.1
            ),
        }
    }
}

impl std::error::Error for HelloError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Hello {
        Hello {
            version_max: VERSION_MAX,
            version_min: VERSION_MIN,
            frame_bytes_max: 1 << 24,
            in_flight_max: 1_024,
            payload_crc: true,
            idle_timeout_ms: 60_000,
            shards: ShardMap { here: 1, ports: vec![7001, 7002] },
        }
    }

    #[test]
    fn what_is_told_is_heard_and_unknown_records_are_skipped() {
        let hello = sample();
        let mut body = hello.encode_body();
        assert_eq!(Hello::decode(&hello.header(), &body), Ok(hello.clone()));
        records::push(&mut body, 777, b"from the future");
        assert_eq!(Hello::decode(&hello.header(), &body), Ok(hello));
    }

    #[test]
    fn lies_are_refused() {
        let hello = sample();
        let body = hello.encode_body();
        let cut = Hello::decode(&hello.header(), &body[..body.len() - 1]);
        assert_eq!(cut, Err(HelloError::Records));
        for (record_type, value) in [
            (FRAME_BYTES_MAX, &(FRAME_BYTES_FLOOR - 1).to_le_bytes()[..]),
            (IN_FLIGHT_MAX, b"xyz"),
            (PAYLOAD_CRC, &[2]),
            (PAYLOAD_CRC, &[1, 0]),
            (IDLE_TIMEOUT, b""),
            (SHARDS, b""),
            (SHARDS, b"odd"),
            (SHARDS, &[1, 0, 7, 7]),
            (SHARDS, &[0; 2 + 2 * (SHARDS_MAX + 1)]),
        ] {
            let mut bad = Vec::new();
            records::push(&mut bad, record_type, value);
            assert_eq!(Hello::decode(&hello.header(), &bad), Err(HelloError::Value(record_type)));
        }
        let foreign = Header { call: 7, ..hello.header() };
        assert_eq!(Hello::decode(&foreign, &body), Err(HelloError::Magic));
    }

    #[test]
    fn versions_agree_or_say_why_not() {
        let here = Hello { version_min: 2, version_max: 5, ..sample() };
        assert_eq!(here.agree(&Hello { version_min: 1, version_max: 3, ..sample() }), Ok(3));
        let newer = Hello { version_min: 6, version_max: 9, ..sample() };
        let refused = here.agree(&newer).expect_err("ranges do not meet");
        assert_eq!(refused, HelloError::Version { ours: (2, 5), theirs: (6, 9) });
        assert!(refused.to_string().contains("2..=5 here, 6..=9 there"));
    }
}
