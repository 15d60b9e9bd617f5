//! The seam: what a shard may ask of the world, and what the world answers.
//!
//! Three drivers stand behind it: `reactor::uring` (the product), `reactor::epoll` (where io_uring
//! is refused) and `sim` (a whole cluster in one thread from one seed). [`crate::shard`] and
//! everything above it know this file alone, so whatever runs on the kernel runs in the simulator.
//!
//! The life of a socket, for every driver:
//!
//! ```text
//! connect ──► Connected(Ok) ─┐                     ┌─ Received* ─ ReceiveEnded
//!     └─────► Connected(Err) │ ──► open, reading ──┤                           ──► close ──► Closed
//! listen ───► Accepted ──────┘                     └─ Sent* (one send in flight at most)
//! ```
//!
//! Rules that callers may lean on:
//! - After `close` nothing but `Sent` (for the send that was in flight) and then exactly one `Closed`
//!   is reported for a socket; an id is never used again for another socket.
//! - Completions of one socket come in the order in which things happened on it.
//! - Memory handed to a driver is *moved* in and comes back out of the completion.

mod file_task;

use crate::primitive::{AtomicBool, Ordering, fence};
use crate::time::Instant;
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use crate::wire::output::Output;
pub use file_task::{
    DirectoryEntry, EntryKind, FileLock, FileSystemSpace, FileTask, FileTaskDone, FileTaskError,
};

/// One socket of one shard. The generation tells a reused slot from its former tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SocketId {
    /// Index into the tables of driver and shard; small and dense.
    pub slot: u32,
    /// Counts the tenants of the slot.
    pub generation: u32,
}

/// One listening socket of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ListenerId(pub u32);

/// One open file of one shard. Counts the files that were opened: an id is never given again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FileId(pub u32);

/// Chosen by the caller of a file operation, returned with its completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FileOpId(pub u64);

/// Bytes that arrived on a socket, lying in a buffer of the driver's.
///
/// A token, not the bytes: read them with [`Driver::bytes`], keep them with [`Driver::lend`], and
/// always end with [`Driver::give_back`].
#[derive(Debug)]
#[must_use = "a chunk that is not given back is a receive buffer lost"]
pub struct Chunk {
    pub(crate) buffer: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Chunk {
    /// For drivers: `length` bytes from `offset` on, in the driver's buffer number `buffer`.
    pub fn new(buffer: u32, offset: u32, length: u32) -> Self {
        Chunk { buffer, offset, length }
    }

    /// For drivers: the number of the buffer.
    pub fn buffer(&self) -> u32 {
        self.buffer
    }

    /// How many bytes arrived; never 0.
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// False: an empty chunk is never reported.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// What became of a [`Driver::send`].
#[derive(Debug)]
pub enum SendState {
    /// Everything is in the kernel's hands already; here is the output back, cleared of nothing.
    Done(Output),
    /// On its way; [`Completion::Sent`] will bring the output back.
    InFlight,
}

/// How a file is opened. Reading and writing are always both possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFile {
    /// Create the file if it is missing.
    pub create: bool,
    /// Bypass the page cache where the file system takes it (offsets, lengths and memory must then
    /// be multiples of [`crate::limits::DIRECT_IO_ALIGN_BYTES`]; [`FileBuffer`] is aligned so).
    pub direct: bool,
}

/// Memory for file operations, aligned for direct I/O.
///
/// A `Vec` that is one alignment longer than asked and starts its use at the first aligned byte.
#[derive(Debug, Default)]
pub struct FileBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl FileBuffer {
    /// A zeroed buffer of `length` bytes.
    pub fn zeroed(length: usize) -> Self {
        let align = crate::limits::DIRECT_IO_ALIGN_BYTES;
        let memory = vec![0u8; length + align];
        let start = memory.as_ptr().align_offset(align);
        FileBuffer { memory, start, length }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = FileBuffer::zeroed(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    /// How long it can become without moving to other memory.
    pub fn capacity(&self) -> usize {
        self.memory.len().saturating_sub(crate::limits::DIRECT_IO_ALIGN_BYTES)
    }

    /// Makes it `length` bytes long. What comes into use holds zeros or what it held before. Beyond
    /// its capacity it moves, and that at least doubles, so that growing is paid for once a byte.
    pub fn resize(&mut self, length: usize) {
        if length > self.capacity() {
            let mut grown = FileBuffer::zeroed(length.max(2 * self.capacity()));
            grown.bytes_mut()[..self.length].copy_from_slice(self.bytes());
            *self = grown;
        }
        self.length = length;
    }

    /// The usable bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    /// The usable bytes, to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// What happened since it was last asked.
#[derive(Debug)]
pub enum Completion {
    /// A peer connected; the socket reads from now on. While all of the driver's sockets are in use
    /// others wait, as they do in the backlog, and nothing is reported of them.
    Accepted {
        /// Where it arrived.
        listener: ListenerId,
        /// Its id from now on.
        socket: SocketId,
    },
    /// Accepting failed and goes on by itself as soon as it can (out of file descriptors, say).
    AcceptFailed {
        /// The listener concerned.
        listener: ListenerId,
        /// Why, as the kernel says it.
        error: io::Error,
    },
    /// A [`Driver::connect`] ended. After `Ok` the socket reads; after `Err` its id is void.
    Connected {
        /// The id that `connect` gave.
        socket: SocketId,
        /// Refused, unreachable, timed out …
        result: io::Result<()>,
    },
    /// Bytes arrived.
    Received {
        /// On which socket.
        socket: SocketId,
        /// Where they lie; must be given back.
        chunk: Chunk,
    },
    /// A [`Driver::receive_into`] has ended: with bytes, because receiving was paused, or because
    /// nothing will arrive any more, which [`Completion::ReceiveEnded`] then says.
    Filled {
        /// Which socket.
        socket: SocketId,
        /// The memory, longer by what arrived.
        memory: Vec<u8>,
    },
    /// Nothing will arrive on this socket any more. It can still be sent to; it must be closed.
    ReceiveEnded {
        /// Which socket.
        socket: SocketId,
        /// `Ok`: the peer ended its stream in order. `Err`: reset, timed out …
        result: io::Result<()>,
    },
    /// A send that was in flight has ended.
    Sent {
        /// Which socket.
        socket: SocketId,
        /// The memory, back from the driver.
        output: Output,
        /// `Ok`: every byte is in the kernel's hands. `Err`: the connection is broken.
        result: io::Result<()>,
    },
    /// The last completion of a socket, the answer to [`Driver::close`].
    Closed {
        /// Which socket.
        socket: SocketId,
    },
    /// A read, a write or a sync ended.
    File {
        /// The id that the caller chose.
        op: FileOpId,
        /// The memory, back from the driver (empty after a sync).
        buffer: FileBuffer,
        /// Bytes read or written: all that were asked for, except at the end of a file.
        result: io::Result<usize>,
    },
    /// A [`Driver::file_task`] ended.
    FileTask {
        /// The id that the caller chose.
        op: FileOpId,
        /// Its answer, or an error that says what was tried.
        result: io::Result<FileTaskDone>,
    },
}

/// What a shard may ask for. See the module page for the life of a socket.
pub trait Driver {
    /// Reads the clock.
    fn now(&self) -> Instant;

    /// Listens on `address` (port 0: the system picks one) and accepts from now on.
    ///
    /// # Errors
    /// As `bind` and `listen` report them; the caller knows the address and says it.
    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)>;

    /// Stops accepting. Connections in the backlog are reset by the kernel.
    fn stop_listening(&mut self, listener: ListenerId);

    /// Starts to connect; [`Completion::Connected`] tells the outcome.
    ///
    /// # Errors
    /// Only what is known at once: no free socket slot, no file descriptor.
    fn connect(&mut self, address: SocketAddr) -> io::Result<SocketId>;

    /// The peer's address, where it can be told.
    fn peer_address(&self, socket: SocketId) -> Option<SocketAddr>;

    /// Sends all of `output` in order. At most one send may be in flight on a socket.
    fn send(&mut self, socket: SocketId, output: Output) -> SendState;

    /// Receives what arrives next behind the bytes of `memory`, into its spare capacity, instead of
    /// into a buffer of the driver's: once, at most `bytes_max`, and not necessarily all of these.
    /// [`Completion::Filled`] brings the memory back; until then nothing else is received.
    ///
    /// An offer, for the rest of a large frame. A driver that cannot take it up at this moment, say
    /// because it is receiving already, hands the memory back, and the bytes come as chunks.
    ///
    /// # Errors
    /// The memory, if the offer is declined.
    fn receive_into(
        &mut self,
        socket: SocketId,
        memory: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Vec<u8>>;

    /// Ends the sending side in order: the peer reads what was sent, and then the end. Receiving goes
    /// on. No send may be in flight, and none may follow; a connection that is broken already stays so.
    fn shutdown_send(&mut self, socket: SocketId);

    /// Stops reading: the peer's bytes stay in the kernel and its window closes. Chunks that were
    /// already received may still be reported; memory that is being received into comes back.
    fn pause_receive(&mut self, socket: SocketId);

    /// Reads again after [`Driver::pause_receive`].
    fn resume_receive(&mut self, socket: SocketId);

    /// Ends the socket: sends nothing more, forgets what was not read. [`Completion::Closed`] follows.
    /// A send in flight is cut off, before its first byte perhaps if it was asked for in this turn.
    fn close(&mut self, socket: SocketId);

    /// Begins one of the rare operations on files; [`Completion::FileTask`] tells the outcome. It is
    /// unordered against every other operation in flight, and blocks nobody, however long it takes.
    fn file_task(&mut self, task: FileTask, op: FileOpId);

    /// Reads into all of `buffer` from `offset`; short only at the end of the file.
    fn read(&mut self, file: FileId, offset: u64, buffer: FileBuffer, op: FileOpId);

    /// Writes all of `buffer` at `offset`. Unordered against every other operation in flight.
    fn write(&mut self, file: FileId, offset: u64, buffer: FileBuffer, op: FileOpId);

    /// Makes durable what was *completed* before this call (`fdatasync`), but not the file's name:
    /// that takes a [`FileTask::SyncDirectory`].
    fn sync(&mut self, file: FileId, op: FileOpId);

    /// Closes the file once its operations in flight have ended. Its id is void from now on.
    ///
    /// # Panics
    /// If it is void already, as every operation on a void id does: whoever keeps one for too long
    /// would write into what somebody else has opened.
    fn close_file(&mut self, file: FileId);

    /// Hands over what was asked for and looks, without sleeping, whether anything completed.
    /// True: [`Driver::next_completion`] has something.
    ///
    /// # Errors
    /// Only when the driver itself is broken; the shard cannot go on.
    fn poll(&mut self) -> io::Result<bool>;

    /// As [`Driver::poll`], but sleeps until something completes, the shard is unparked, or `until`.
    ///
    /// The caller announces the sleep on its [`Parker`] and looks for work once more before this;
    /// the driver withdraws the announcement before it returns.
    ///
    /// # Errors
    /// Only when the driver itself is broken; the shard cannot go on.
    fn park(&mut self, until: Option<Instant>) -> io::Result<()>;

    /// True when [`Driver::poll`] is worth its cost; reads shared memory, makes no system call
    /// where the driver can do without one.
    fn is_ready(&mut self) -> bool;

    /// The next completion, oldest first. `None`: the turn has seen them all.
    fn next_completion(&mut self) -> Option<Completion>;

    /// The bytes of a chunk.
    fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8];

    /// The bytes of a chunk, to keep beyond the turn. Lends the receive buffer itself while there
    /// are plenty, and a copy when few are left, so that a slow holder cannot drain the pool.
    fn lend(&self, chunk: &Chunk) -> Bytes;

    /// Ends the use of a chunk. A lent buffer goes home when its last `Bytes` is dropped.
    fn give_back(&mut self, chunk: Chunk);

    /// The way for others to end this shard's sleep.
    fn parker(&self) -> Arc<Parker>;

    /// Wakes another shard that said it is parked; from ring to ring where both have one.
    fn unpark(&mut self, other: &Arc<Parker>) {
        other.unpark();
    }

    /// What this driver is and which features of the kernel it uses, for the start line and metrics.
    fn describe(&self) -> String;

    /// Counts since start.
    fn counters(&self) -> DriverCounters;
}

/// What a driver did since start; published by the shard's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounters {
    /// System calls that submit, wait or poll.
    pub enters: u64,
    /// Completions reaped.
    pub completions: u64,
    /// Sleeps in the kernel.
    pub parks: u64,
    /// Chunks received.
    pub receives: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Sends handed to the kernel, short ones counted again.
    pub sends: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Receives that ended for want of a buffer and waited for one.
    pub buffer_waits: u64,
    /// Chunks copied instead of lent because few buffers were left.
    pub lend_copies: u64,
}

/// A shard's bed: others look here whether it sleeps, and wake it only then.
///
/// The sleeper says "parked", *then* looks once more for work, then sleeps; the waker adds work,
/// *then* looks whether the sleeper is parked. With a full fence on both sides at least one of the
/// two sees the other, so no wake is lost, and a shard that is awake costs its peers no system call.
pub struct Parker {
    parked: AtomicBool,
    /// The shard's ring, for a wake from ring to ring. Kept open here, so that a message to a shard
    /// that has ended goes nowhere, and not to whatever has taken its number.
    ring: Option<OwnedFd>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Parker {
    /// A parker whose sleeper is woken by `wake` (from any thread), or by a message to `ring`.
    pub fn new(ring: Option<OwnedFd>, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        Parker { parked: AtomicBool::new(false), ring, wake }
    }

    /// Says that the shard is about to sleep. The caller looks for work once more after this.
    pub fn announce(&self) {
        // A store would do. The swap makes `parked` one chain of changes in loom's model too, which
        // otherwise lets a claim of the last sleep overtake it; next to a sleep it costs nothing.
        self.parked.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the shard is awake.
    pub fn withdraw(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }

    /// True if the shard is parked and this caller is the one to wake it. Call after adding work.
    pub fn claim(&self) -> bool {
        fence(Ordering::SeqCst);
        self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::Relaxed)
    }

    /// Wakes the shard if it is parked. Any thread; call after adding work.
    pub fn unpark(&self) {
        if self.claim() {
            (self.wake)();
        }
    }

    /// Wakes the shard without asking whether it is parked, for who has won [`Parker::claim`].
    pub fn wake_claimed(&self) {
        (self.wake)();
    }

    /// The shard's ring, if it has one.
    pub fn ring(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(AsFd::as_fd)
    }
}

impl std::fmt::Debug for Parker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parked = self.parked.load(Ordering::Relaxed);
        f.debug_struct("Parker").field("parked", &parked).field("ring", &self.ring).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn only_a_parked_shard_is_woken_and_only_once() {
        let wakes = Arc::new(AtomicU32::new(0));
        let counted = wakes.clone();
        let wake = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let parker = Parker::new(None, wake);
        parker.unpark();
        assert_eq!(wakes.load(Ordering::Relaxed), 0, "awake: nobody to wake");
        parker.announce();
        parker.unpark();
        parker.unpark();
        assert_eq!(wakes.load(Ordering::Relaxed), 1, "one sleep, one wake");
    }

    #[test]
    fn file_buffers_are_aligned_and_keep_their_length() {
        for length in [0, 1, 511, 4096, 100_000] {
            let mut buffer = FileBuffer::zeroed(length);
            assert_eq!(buffer.bytes().len(), length);
            let address = buffer.bytes().as_ptr() as usize;
            assert_eq!(address % crate::limits::DIRECT_IO_ALIGN_BYTES, 0);
            buffer.bytes_mut().fill(7);
            assert_eq!(FileBuffer::copy_of(buffer.bytes()).bytes(), buffer.bytes());
        }
    }

    #[test]
    fn file_buffers_grow_aligned_and_shrink_in_place() {
        let mut buffer = FileBuffer::default();
        assert_eq!((buffer.capacity(), buffer.bytes()), (0, &[][..]));
        for length in [1, 4096, 4097, 100, 100_000] {
            let kept = buffer.bytes().len().min(length);
            buffer.resize(length);
            assert_eq!(buffer.bytes().len(), length);
            assert!(buffer.bytes()[..kept].iter().all(|byte| *byte == 7));
            buffer.bytes_mut().fill(7);
            let address = buffer.bytes().as_ptr() as usize;
            assert_eq!(address % crate::limits::DIRECT_IO_ALIGN_BYTES, 0);
        }
        let (address, capacity) = (buffer.bytes().as_ptr(), buffer.capacity());
        buffer.resize(10);
        buffer.resize(capacity);
        assert_eq!(buffer.bytes().as_ptr(), address, "within its capacity it stays where it is");
    }
}
