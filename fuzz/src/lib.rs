//! What the fuzz targets do with their bytes; see `README.md` for how to run them.

pub mod connection;
pub mod deframer;
pub mod layouts;
pub mod resp;
mod script;
mod watched;

const HEADER_BYTES: usize = 32;
const PAYLOAD_CRC: u8 = 2;

/// Makes every checksum in a stream of frames right, as far as its lengths can be followed: a fuzzer
/// that must guess checksums tests nothing but the checksum.
pub fn seal(stream: &mut [u8]) {
    let mut rest = stream;
    while rest.len() >= HEADER_BYTES {
        let frame_bytes = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let header_crc = crc32c::crc32c(&rest[..28]);
        rest[28..32].copy_from_slice(&header_crc.to_le_bytes());
        if !(HEADER_BYTES..=rest.len()).contains(&frame_bytes) {
            return;
        }
        let (frame, after) = rest.split_at_mut(frame_bytes);
        if frame[5] & PAYLOAD_CRC != 0 && frame_bytes >= HEADER_BYTES + 4 {
            let (body, trailer) =
                frame[HEADER_BYTES..].split_at_mut(frame_bytes - HEADER_BYTES - 4);
            trailer.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        }
        rest = after;
    }
}
