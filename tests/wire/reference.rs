//! Frames written as a newcomer would write them from `docs/protocol.md`, without the engine.

/// CRC32C (Castagnoli), one bit at a time.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _bit in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

/// A frame as numbers. `frame_bytes` and the checksums are for [`RawFrame::encode`] to compute.
#[derive(Clone, Debug, Default)]
pub struct RawFrame {
    pub kind: u8,
    pub flags: u8,
    pub code: u16,
    pub call: u64,
    pub words: [u32; 3],
    pub body: Vec<u8>,
}

pub const HELLO: u8 = 1;
pub const REQUEST: u8 = 2;

pub const METADATA: u8 = 1;
pub const PAYLOAD_CRC: u8 = 2;

impl RawFrame {
    /// A frame of this kind that says nothing else.
    pub fn of(kind: u8) -> RawFrame {
        RawFrame { kind, ..RawFrame::default() }
    }

    /// The bytes on the wire; a body checksum follows if the flag is set.
    pub fn encode(&self) -> Vec<u8> {
        let trailer = if self.flags & PAYLOAD_CRC != 0 { 4 } else { 0 };
        let frame_bytes = (32 + self.body.len() + trailer) as u32;
        let mut bytes = frame_bytes.to_le_bytes().to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.code.to_le_bytes());
        bytes.extend(self.call.to_le_bytes());
        bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(crc32c(&bytes).to_le_bytes());
        bytes.extend(&self.body);
        if trailer > 0 {
            bytes.extend(crc32c(&self.body).to_le_bytes());
        }
        bytes
    }
}

/// Makes the header checksum of changed bytes right again, where there is a whole header.
pub fn reseal(frame: &mut [u8]) {
    if frame.len() >= 32 {
        let crc = crc32c(&frame[..28]);
        frame[28..32].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A hello of version 1 without records.
pub fn hello() -> Vec<u8> {
    hello_with(&[])
}

/// A hello of version 1 with records of 4 bytes each: type, value.
pub fn hello_with(records: &[(u16, u32)]) -> Vec<u8> {
    let call = u64::from_le_bytes(*b"CATENA\r\n");
    let record = |(record_type, value): &(u16, u32)| {
        [&record_type.to_le_bytes()[..], &[4, 0], &value.to_le_bytes()].concat()
    };
    let body = records.iter().flat_map(record).collect();
    RawFrame { code: 1, call, words: [1, 0, 0], body, ..RawFrame::of(HELLO) }.encode()
}

/// Record type: the longest frame that a side accepts.
pub const FRAME_BYTES_MAX: u16 = 1;
/// Record type: the window.
pub const IN_FLIGHT_MAX: u16 = 2;

/// A request for the first call of a slot.
pub fn request(slot: u32, method: u32, payload: &[u8]) -> RawFrame {
    RawFrame {
        code: 0x8000,
        call: 1 << 32 | u64::from(slot),
        words: [method, 0, 0],
        body: payload.to_vec(),
        ..RawFrame::of(REQUEST)
    }
}

#[test]
fn the_checksum_is_the_one_that_everybody_means() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    assert_eq!(crc32c(b""), 0);
}
