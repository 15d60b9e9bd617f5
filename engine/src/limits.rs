//! Compile-time bounds: each says its unit, why it is what it is, and where the number comes from.
//! What an operator may choose at start is in [`crate::config`] and is checked against these.

/// Alignment in bytes of memory, offset and length for direct I/O: the largest logical block size
/// in common use. (`statx` can tell a smaller one; 4,096 suits all of them.)
pub const DIRECT_IO_ALIGN_BYTES: usize = 4_096;

/// The most slices that one vectored send names. `IOV_MAX` of Linux is 1,024 (`uio.h`); 64 keeps the
/// array on the stack and, at two slices a large payload, covers 32 large answers in one send.
pub const SEND_SLICES_MAX: usize = 64;

const _: () = assert!(SEND_SLICES_MAX <= 1_024, "IOV_MAX of Linux");
const _: () = assert!(DIRECT_IO_ALIGN_BYTES.is_power_of_two());
