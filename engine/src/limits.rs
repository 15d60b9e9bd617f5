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

/// Connections that wait to be accepted, per listener. The kernel cuts it to `net.core.somaxconn`
/// (4,096 since Linux 5.4), so asking for more is in vain unless an operator has raised that.
pub const LISTEN_BACKLOG: u32 = 4_096;

/// Sockets of one shard unless told otherwise. An idle one costs the driver some 40 bytes; file
/// descriptors are what really bounds them, and lower this at start.
pub const SOCKETS_MAX_DEFAULT: u32 = 65_536;

/// The most sockets that a shard can be told to have: slot numbers have 24 bits in an operation's
/// `user_data` (`reactor::uring::op`).
pub const SOCKETS_MAX: u32 = 1 << 24;

/// File descriptors that are left for everything but sockets when the limit of the process lowers
/// the number of sockets: rings, listeners, log files, standard streams.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// Receive buffers of one shard unless told otherwise: with 16 KiB each, 8 MiB of address space, of
/// which only what was ever filled is memory. Enough for 512 connections to deliver in one turn.
pub const RECEIVE_BUFFERS_DEFAULT: u16 = 512;

/// The most receive buffers: entries of a buffer ring, which Linux numbers with 15 bits.
pub const RECEIVE_BUFFERS_MAX: u16 = 1 << 15;

/// Size in bytes of a receive buffer unless told otherwise.
pub const RECEIVE_BUFFER_BYTES_DEFAULT: u32 = 16 * 1_024;

/// The smallest and the largest receive buffer in bytes: a page, and what is still worth copying out
/// of when few are left.
pub const RECEIVE_BUFFER_BYTES_MIN: u32 = 4 * 1_024;
/// See [`RECEIVE_BUFFER_BYTES_MIN`].
pub const RECEIVE_BUFFER_BYTES_MAX: u32 = 1_024 * 1_024;

/// Below one unlent receive buffer in so many, chunks are copied out instead of lent, so that a slow
/// holder cannot drain the pool.
pub const LEND_RESERVE_FRACTION: u16 = 4;

/// Submission queue entries unless told otherwise. A turn that queues more enters the kernel in
/// between; 64-byte entries, so 64 KiB.
pub const SUBMISSION_ENTRIES_DEFAULT: u32 = 1_024;

/// Completion queue entries unless told otherwise: 8 for each submission, because multishot
/// operations complete many times. 16 bytes each. When it overflows, the kernel queues on the heap.
pub const COMPLETION_ENTRIES_DEFAULT: u32 = 8 * SUBMISSION_ENTRIES_DEFAULT;

/// Outputs up to this many bytes are sent eagerly: the kernel takes what fits into the socket at
/// once. More rarely fits (the initial send buffer of Linux takes some 80 KiB), so it waits.
pub const EAGER_SEND_BYTES_MAX: usize = 32 * 1_024;

/// The most milliseconds by which the end of an eager send may be told late. It is told with whatever
/// wakes the shard next, so that an answer and the sleep after it are one system call; this bounds
/// the wait when nothing does.
pub const EAGER_SEND_TOLD_LATE_MS_MAX: u64 = 1;

/// Milliseconds until accepting is tried again after it failed for want of descriptors or memory.
pub const ACCEPT_RETRY_MS: u64 = 50;

const _: () = assert!(RECEIVE_BUFFERS_DEFAULT.is_power_of_two());
const _: () = assert!(EAGER_SEND_BYTES_MAX <= i32::MAX as usize, "results are 32-bit");
