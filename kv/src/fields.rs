//! Little-endian fields, read off the front of bytes in place: what the layouts of messages are made of.

/// Bytes that are not what their layout wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(pub &'static str);

const SHORT: Malformed = Malformed("it ends before its last field");

/// Takes so many bytes.
///
/// # Errors
/// If there is too little.
pub fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or(SHORT)?;
    *rest = left;
    Ok(*taken)
}

/// The same, whose number is known only when it is read.
///
/// # Errors
/// If there is too little.
pub fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(length).ok_or(SHORT)?;
    *rest = left;
    Ok(taken)
}

/// # Errors
/// If there is too little.
pub fn take_u16(rest: &mut &[u8]) -> Result<u16, Malformed> {
    take(rest).map(u16::from_le_bytes)
}

/// # Errors
/// If there is too little.
pub fn take_u32(rest: &mut &[u8]) -> Result<u32, Malformed> {
    take(rest).map(u32::from_le_bytes)
}

/// # Errors
/// If there is too little.
pub fn take_u64(rest: &mut &[u8]) -> Result<u64, Malformed> {
    take(rest).map(u64::from_le_bytes)
}

/// The value, if nothing is left behind it.
///
/// # Errors
/// If something is.
pub fn ended<T>(rest: &[u8], value: T) -> Result<T, Malformed> {
    if rest.is_empty() { Ok(value) } else { Err(Malformed("bytes behind the last field")) }
}
