//! Compile-time bounds: each says its unit, why it is what it is, and where the number comes from.
//! What an operator may choose at start is in [`crate::config`] and is checked against these.

use crate::time::Duration;

/// Alignment in bytes of memory, offset and length for direct I/O: the largest logical block size
/// in common use. (`statx` can tell a smaller one; 4,096 suits all of them.)
pub const DIRECT_IO_ALIGN_BYTES: usize = 4_096;

/// Zeros that a file is filled with by one write, in bytes: far beyond where the system call costs
/// anything, and short enough, a millisecond or so, to look between two of them whether to go on.
pub const FILL_WRITE_BYTES: u64 = 1 << 20;

/// A file that is filled with zeros is synced after so many bytes: a file system may have to write out
/// all that is not before it can sync another file, and 8 MiB are some ten milliseconds of that on
/// an ordinary solid-state disk.
pub const FILL_SYNC_BYTES: u64 = 8 << 20;

/// The most slices that one vectored send names. `IOV_MAX` of Linux is 1,024 (`uio.h`); 64 keeps the
/// array on the stack and, at two slices a large payload, covers 32 large answers in one send.
pub const SEND_SLICES_MAX: usize = 64;

/// The most bytes of metadata records on one request. A token of 4 KiB (the usual ceiling of a signed
/// web token in a header) and a trace context fit twice; the wire could carry 65,535.
pub const METADATA_BYTES_MAX: usize = 8 * 1_024;

/// The largest frame in bytes that any configuration may accept: 1 GiB. The wire's length field
/// reaches 4 GiB; a frame is collected in one piece of memory, so the bound is about that.
pub const FRAME_BYTES_CEILING: u32 = 1 << 30;

/// The smallest `frame_bytes_max` that any side may tell, in bytes, and the limit of hello and go-away,
/// whose senders may not know more. Until the hellos are exchanged no frame may be longer: a
/// stranger can make us hold one page. The largest hello has 2,127 bytes ([`SHARDS_MAX`] ports).
pub const FRAME_BYTES_FLOOR: u32 = 4_096;

/// Memory in bytes that a deframer keeps between split frames. Small frames that straddle two
/// receives then cost no allocation, and an idle connection holds at most this.
pub const PARTIAL_KEEP_BYTES: usize = 1_024;

/// First step in bytes by which the memory of a frame under way grows; it doubles from there, as
/// bytes really arrive. A peer that announces 16 MiB and sends nothing costs this much.
pub const PARTIAL_STEP_BYTES: usize = 64 * 1_024;

/// The most memory in bytes that a shard keeps of large frames that nobody uses any more: as much as
/// for output. Without it a frame of 1 MiB costs some three times the CPU, in page faults.
pub const SPARE_BODIES_BYTES_MAX: usize = 32 << 20;

/// The most pieces of such memory: at 64 KiB, the smallest that is kept, 4 MiB.
pub const SPARE_BODIES_MAX: usize = 64;

/// Payloads up to this many bytes are copied behind their header, longer ones are sent from where
/// they lie. Copying 4 KiB costs about 100 ns and saves two slices and a reference count.
pub const COPY_BYTES_MAX: usize = 4 * 1_024;

/// The largest in-flight window that any configuration may set, in calls, and the most of a peer's
/// window that is used: a connection's table then stays below 3 MiB, and a scan of it for deadlines
/// below 100 µs.
pub const IN_FLIGHT_CEILING: u32 = 65_536;

/// The most proxies that may pass one request on: what three bits of its header hold. Nobody needs more
/// than two or three in a row; where proxies pass requests around in a circle, this ends it.
pub const HOPS_MAX: u8 = 7;

/// The most shards that one server may have: its map of them, 2 bytes a port, then fits into a hello
/// of [`FRAME_BYTES_FLOOR`]. The largest machines sold have 768 hardware threads.
pub const SHARDS_MAX: usize = 1_024;

/// The most bytes of text in a go-away, so that it fits into the smallest allowed frame.
pub const GO_AWAY_TEXT_BYTES_MAX: usize = 512;

/// Payloads up to this many bytes are copied when they are kept beyond the turn; longer ones borrow
/// the receive buffer. A copy of 1 KiB costs about 30 ns, a loan two atomic operations and, worse,
/// a whole receive buffer for as long as it lasts.
pub const LEND_BYTES_MIN: usize = 1_024;

/// The most completions that one turn handles before it sends what it has. Bounds how long the first
/// answer of a turn waits for the last, and the memory of the output under way.
pub const TURN_COMPLETIONS_MAX: u32 = 256;

/// How long a turn handles completions, and then once more messages of other shards, before it sends
/// what it has. As [`TURN_COMPLETIONS_MAX`], for handlers that take their time; ten times what a turn
/// of small requests takes.
pub const TURN_TIME_MAX: Duration = Duration::from_micros(500);

/// The most frames with something to do that one peer is served in a turn, the most bytes that are read
/// of it, and the longest time. What it has sent beyond is put aside, and the others have their turn: a
/// peer that floods delays the others by this and not by all that its socket holds. Enough that an
/// ordinary pipeline (16 requests) or a receive buffer full of small requests (240) is never cut.
pub const PEER_TURN_FRAMES_MAX: u32 = 256;
/// See [`PEER_TURN_FRAMES_MAX`]. Bytes that are only collected, of large frames, cost little; those
/// received into their own memory do not count.
pub const PEER_TURN_BYTES_MAX: u32 = 256 * 1_024;
/// See [`PEER_TURN_FRAMES_MAX`]. A fifth of [`TURN_TIME_MAX`].
pub const PEER_TURN_TIME_MAX: Duration = Duration::from_micros(100);
/// The most commands that an application reads of one stream in a turn, as [`PEER_TURN_FRAMES_MAX`]: those
/// of other protocols are shorter, and a receive buffer holds some 600 of them.
pub const STREAM_TURN_COMMANDS_MAX: u32 = 1_024;
/// The most memory in bytes that a stream keeps for what it has not read, when it has read everything.
pub const STREAM_INPUT_KEEP_BYTES: usize = 4 * 1_024;
/// Bytes that a stream has not read above which room for them grows more slowly than to the double. Where
/// allocators go over to whole pages, which are moved without a copy, or soon behind.
pub const STREAM_INPUT_LONG_BYTES: usize = 1 << 20;
/// Bytes put aside of one peer above which it is not read from until they are read. Stopping and
/// resuming costs two operations of the driver; so not for each receive beyond the peer's part.
pub const BACKLOG_READ_MAX: usize = 64 * 1_024;
/// Turns from one measurement of a turn's length to the next. A reading of the clock costs about as
/// much as serving half a request; one in 16 turns does not show.
pub const TURNS_BETWEEN_MEASUREMENTS: u64 = 16;

/// How often a call is started anew that was certainly not executed, because its server left or ended
/// the connection. One is what a restart takes; a few, for who meets several servers that leave, one
/// after the other. Beyond these its caller should know.
pub const CALL_RETRIES_MAX: u8 = 3;

/// A send that the kernel took only after so long had to wait for the peer. Told late or noticed late
/// is far less ([`EAGER_SEND_TOLD_LATE_MS_MAX`], a long turn).
pub const SEND_HAS_WAITED: Duration = Duration::from_millis(100);

/// What the kernel may hold of what it took for one peer, in bytes: the third value of
/// `net.ipv4.tcp_wmem`, 4 MiB unless somebody has changed it.
pub const SOCKET_SEND_BYTES_MAX: usize = 4 << 20;

/// Memory in bytes with which an output starts: 64 small answers.
pub const OUTPUT_START_BYTES: usize = 4 * 1_024;

/// The most memory in bytes that is kept of one output between sends.
pub const OUTPUT_KEEP_BYTES_MAX: usize = 64 * 1_024;

/// The most memory in bytes of outputs that a shard keeps for the next sends: 8,192 of the starting
/// size, which are as many connections answering at once.
pub const OUTPUTS_KEPT_BYTES_MAX: usize = 32 << 20;

/// How long a stream that is owed too much to be read from may take nothing of it, for each MiB that it is
/// owed, before it is read from all the same: its peer may be one that writes all it has to say before it
/// reads, and waits to be read from.
pub const STREAM_STALL: Duration = Duration::from_secs(1);
/// Bytes that are put aside of such a one, after each [`STREAM_STALL`] so many more: what is read of half a
/// million short commands. Memory of all streams together bounds what that comes to.
pub const STREAM_STALLED_READ_BYTES: usize = 16 << 20;

/// How long a peer has to read our last word, and the end behind it, and to end its own side, before the
/// socket is closed. A close with unread input resets the connection, and a reset destroys what the
/// peer has not read yet.
pub const LINGER: Duration = Duration::from_secs(1);

/// Log lines about peers at fault that a shard writes within [`COMPLAINTS_WINDOW`]; of others their
/// number is told at its end. Enough to see what it is about; a client that errs and connects again
/// at once made 7,534 lines in a minute without.
pub const COMPLAINTS_MAX: u32 = 10;
/// See [`COMPLAINTS_MAX`]. With it a shard writes 95,040 such lines a day at most, some 15 MiB.
pub const COMPLAINTS_WINDOW: Duration = Duration::from_secs(10);

/// Messages that may wait between one shard and one other. At 128 bytes each: 128 KiB a pair.
pub const MAILBOX_MESSAGES_MAX: usize = 1_024;

/// Messages that there is room for between one shard and all others together: 4 MiB. There is a
/// mailbox for each pair of shards, so that with a fixed size their memory grows with the square of
/// the shards (128 GiB for 1,024). From 32 shards on the mailboxes share this instead. What finds
/// its mailbox full waits with the sender, so a small one costs wake-ups and loses nothing.
pub const SHARD_MAILBOX_MESSAGES_MAX: usize = 32 * 1_024;

/// Messages from other threads that may wait for one shard.
pub const HANDLE_MESSAGES_MAX: usize = 16 * 1_024;

const _: () = assert!(SHARD_MAILBOX_MESSAGES_MAX >= 32 * SHARDS_MAX, "no mailbox below 32");
const _: () = assert!(GO_AWAY_TEXT_BYTES_MAX + 64 <= FRAME_BYTES_FLOOR as usize);
const _: () = assert!(SHARDS_MAX * 2 + 128 <= FRAME_BYTES_FLOOR as usize, "a hello must fit");
const _: () = assert!(FRAME_BYTES_FLOOR <= FRAME_BYTES_CEILING);
const _: () = assert!(METADATA_BYTES_MAX <= u16::MAX as usize, "its length is a u16 on the wire");
const _: () = assert!(PARTIAL_KEEP_BYTES <= PARTIAL_STEP_BYTES);
const _: () = assert!(SEND_SLICES_MAX <= 1_024, "IOV_MAX of Linux");
const _: () = assert!(DIRECT_IO_ALIGN_BYTES.is_power_of_two());

/// Connections that wait to be accepted, per listener. The kernel cuts it to `net.core.somaxconn`
/// (4,096 since Linux 5.4), so asking for more is in vain unless an operator has raised that.
pub const LISTEN_BACKLOG: u32 = 4_096;

/// How long a start waits for its address to become free. A process that was killed has let go of a
/// port that it had on epoll when it is reaped; an io_uring that still accepts on it is taken down by
/// the kernel in the background, seen to take up to 14 ms, longer on a loaded machine.
pub const ADDRESS_PATIENCE: Duration = Duration::from_millis(250);

/// Connections of one shard at a time that are one too many and are told so, beside those that are
/// served. Each takes a round trip, or [`LINGER`] where the peer does not close; whoever comes beyond
/// them waits in the backlog, so a flood of connections costs a shard no more memory than this.
pub const GOODBYES_MAX: u32 = 32;

/// How long a shard that has said that it cannot accept keeps silent about the next time.
pub const ACCEPT_WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The most connections that a shard can be told to have.
pub const CONNECTIONS_MAX: u32 = SOCKETS_MAX - GOODBYES_MAX;

/// Sockets of one shard below which a server does not start, unless it was asked for fewer: it would
/// turn away nearly everybody. A dozen clients, and a few goodbyes beside them.
pub const SOCKETS_MIN: u32 = 16;

/// Sockets of one shard unless told otherwise. An idle one costs the driver some 40 bytes; file
/// descriptors are what really bounds them, and lower this at start.
pub const SOCKETS_MAX_DEFAULT: u32 = 65_536;

/// The most sockets that a shard can be told to have: slot numbers have 24 bits in an operation's
/// `user_data` (`reactor::uring::op`).
pub const SOCKETS_MAX: u32 = 1 << 24;

/// File descriptors that are left for everything but sockets when the limit of the process lowers
/// the number of sockets: rings, listeners, log files, standard streams.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// File descriptors that each shard has beside its sockets: its ring or epoll instance, the counters
/// that wake it, its two listeners.
pub const DESCRIPTORS_OF_SHARD: u64 = 5;

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

/// Frames of this many bytes or more are received into their own memory. Below, the single receives
/// cost more than the copy that they save: measured on loopback, the server's CPU per request was
/// 1.11 times as much at 64 KiB, the same at 128 KiB, and 0.83, 0.78 and 0.71 times at 192, 256 and
/// 512 KiB (`docs/performance.md`).
pub const RECEIVE_INTO_FRAME_BYTES_MIN: usize = 192 * 1_024;

/// If fewer bytes than this of a frame are to come, they come with what follows: copying a page costs
/// less than a receive of its own.
pub const RECEIVE_INTO_BYTES_MIN: usize = 4 * 1_024;

/// The most bytes that are received into a frame's own memory at a time: copying them takes the
/// kernel some 100 µs, in which the shard does nothing else.
pub const RECEIVE_INTO_BYTES_MAX: usize = 1_024 * 1_024;

/// So many chunks a socket receives one by one before it goes back to a receive that goes on by
/// itself: after an offer of memory, for the next large frame to find it between two receives, and
/// after it ran out of buffers, for others to have some. A guess: a peer that mixes large frames
/// with a few small ones stays as it is, and one that has changed its ways goes back soon.
pub const SINGLE_RECEIVES: u8 = 8;

/// Submission queue entries unless told otherwise: a send and a receive for each completion of a turn
/// ([`TURN_COMPLETIONS_MAX`]). A turn that queues more enters the kernel in between. 64-byte entries,
/// so 32 KiB, which some kernels charge to the limit on locked memory (`docs/operations.md`).
pub const SUBMISSION_ENTRIES_DEFAULT: u32 = 2 * TURN_COMPLETIONS_MAX;

/// Completion queue entries unless told otherwise: 8 for each submission, because multishot
/// operations complete many times. 16 bytes each, so 64 KiB. When it overflows, the kernel queues on
/// the heap.
pub const COMPLETION_ENTRIES_DEFAULT: u32 = 8 * SUBMISSION_ENTRIES_DEFAULT;

/// Outputs up to this many bytes are sent eagerly: the kernel takes what fits into the socket at
/// once. More rarely fits (the initial send buffer of Linux takes some 80 KiB), so it waits.
pub const EAGER_SEND_BYTES_MAX: usize = 32 * 1_024;

/// The most milliseconds by which the end of an eager send may be told late. It is told with whatever
/// wakes the shard next, so that an answer and the sleep after it are one system call; this bounds
/// the wait when nothing does. A busy shard is woken in vain 200 times a second by it: 0.1 % of a core.
pub const EAGER_SEND_TOLD_LATE_MS_MAX: u64 = 5;

/// Connections that one listener of the epoll driver accepts in one round. Accepting costs some 10 µs,
/// so this bounds what a storm of connections adds to the latency of the others to about half a
/// millisecond. (io_uring's accepts are bounded by [`TURN_COMPLETIONS_MAX`].)
pub const ACCEPTS_PER_ROUND: u32 = 64;

/// The longest spin before sleep. Waking from sleep costs 5 to 50 µs on both sides of a round trip;
/// a spin of this length at worst doubles what the sleep would have cost.
pub const SPIN_MAX: Duration = Duration::from_micros(50);

/// The longest that a sleeping shard may be asked to gather completions: beyond a millisecond a request
/// waits longer for others than any network takes.
pub const GATHER_MAX: Duration = Duration::from_millis(1);

/// So many completions end the gathering before its time. 16 requests, or 16 receives full of them, share
/// the cost of one wake; with more each one saves less than a hundredth.
pub const GATHER_COMPLETIONS: u32 = 16;

/// Waits from one spin that is tried, although it is not expected to pay, to the next. One spin of
/// [`SPIN_MAX`] in 64 waits that are longer costs below 1 µs a wait.
pub const SPIN_RETRY_WAITS: u32 = 64;

/// Messages taken from one shard while another has some too. Large enough to read a peer's cache lines
/// for many messages at a time, small enough to keep the others' waiting short.
pub const PEER_BATCH: u32 = 32;

/// Milliseconds until accepting is tried again after it failed for want of descriptors or memory.
pub const ACCEPT_RETRY_MS: u64 = 50;

const _: () = assert!(RECEIVE_BUFFERS_DEFAULT.is_power_of_two());
const _: () = assert!(EAGER_SEND_BYTES_MAX <= i32::MAX as usize, "results are 32-bit");
