//! CRC32C of the 28 checked bytes of a header.
//!
//! Each frame pays for it twice, and the general routine of the `crc32c` crate spends some 140
//! instructions on lengths, alignment and three-way interleaving that 28 bytes have no use for. Here
//! it is three and a half words through the processor's own instruction. Longer data, and processors
//! without the instruction, go to the crate.

/// The length of what is checked: a header without its checksum.
pub const CHECKED_BYTES: usize = 28;

/// The CRC32C (Castagnoli, as in RFC 3720) of 28 bytes.
#[inline]
pub fn crc32c_of_header(bytes: &[u8; CHECKED_BYTES]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has the one feature that the function is compiled for.
        return unsafe { with_sse42(bytes) };
    }
    crc32c::crc32c(bytes)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse4.2")]
fn with_sse42(bytes: &[u8; CHECKED_BYTES]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u32, _mm_crc32_u64};
    let (words, last) = bytes.as_chunks::<8>();
    let mut crc = u64::from(u32::MAX);
    for word in words {
        crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
    }
    let last: [u8; 4] = last.try_into().expect("28 bytes are three words and a half");
    !_mm_crc32_u32(crc as u32, u32::from_le_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_the_crate_says(bytes: [u8; CHECKED_BYTES]) {
            prop_assert_eq!(crc32c_of_header(&bytes), crc32c::crc32c(&bytes));
        }
    }
}
