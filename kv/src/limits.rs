//! Compile-time bounds of the store: each says its unit, why it is what it is, and where the number is from.

/// The longest key in bytes: its length has 16 bits in an entry of the table and in the log. Keys of more
/// than a few hundred bytes are rare; Redis takes 512 MiB.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// The longest value in bytes unless configured. An eighth of Redis' bound: what is longer than that is rare,
/// and takes a connection, the log and a checkpoint as much memory once more.
pub const VALUE_BYTES_DEFAULT: u32 = 64 << 20;

/// The longest answer in bytes that a command on several keys puts together: 64 MiB, or the longest value if
/// that may be more. A key can be named a thousand times in one command.
pub fn answer_bytes_max(value_bytes_max: usize) -> usize {
    value_bytes_max.max(64 << 20)
}

/// The longest value in bytes that any configuration may allow: 512 MiB, as in Redis.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

const _: () = assert!(VALUE_BYTES_MAX <= u32::MAX as usize, "a value's length has 32 bits");
