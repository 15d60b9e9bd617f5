//! One io_uring: setting it up, entering the kernel, taking completions in. What can be submitted is
//! in [`super::submit`].
//!
//! The 64 bits that come back with every completion:
//!
//! ```text
//!   63    62     61     60     59                      0
//! ┌─────┬──────┬──────┬──────┬─────────────────────────┐
//! │  1  │ desc │ mute │ wake │  caller's `user_data`   │   operations without memory
//! ├─────┼──────┴──────┴──────┴──┬──────────────────────┤
//! │  0  │ generation of block   │  index of block      │   operations with memory: `in_flight`
//! └─────┴───────────────────────┴──────────────────────┘
//!   desc  a result that is not an error is a new file descriptor
//!   mute  nobody waits for this: only a failure is told, and it is not counted
//!   wake  it completes to end a sleep; told only when it will not complete again
//! ```
//!
//! **Eager sends.** A send that is told not to wait (`MSG_DONTWAIT`), to fail if it is short
//! (`MSG_WAITALL`) and to complete only on failure (`IOSQE_CQE_SKIP_SUCCESS`) is over when the
//! `io_uring_enter` that took it returns: either a completion says how much was sent, or all was.
//! So an answer and the sleep after it are one system call, and the completion of the answer does
//! not end that sleep. [`Ring::reap`] turns the silence into an ordinary completion.

use super::buf_ring::BufRing;
use super::in_flight::{InFlight, Landed, Ticket};
use super::pool::Pool;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionStatus, EnterFlags, IoUring, Probe, cqueue, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bits of `user_data` that belong to the caller.
pub const USER_DATA_BITS: u32 = 60;
pub(super) const CALLERS: u64 = 1 << 63;
pub(super) const DESCRIPTOR: u64 = 1 << 62;
pub(super) const MUTE: u64 = 1 << 61;
pub(super) const WAKE: u64 = 1 << 60;
pub(super) const USER_DATA_MASK: u64 = (1 << USER_DATA_BITS) - 1;

/// The group number of the one buffer ring that a ring has.
pub(super) const BUFFER_GROUP: u16 = 0;

/// How long a ring that goes away waits for the kernel to let go of its memory before it leaks it.
const FAREWELL: Duration = Duration::from_secs(10);

/// What to ask `io_uring_setup` for.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Entries of the submission queue; the kernel rounds up to a power of two and clamps.
    pub submission_entries: u32,
    /// Entries of the completion queue; rounded and clamped likewise.
    pub completion_entries: u32,
    /// Submissions are read in order, without an array of indices in between (Linux 6.6).
    pub no_sqarray: bool,
    /// Completions are worked off when asked for, never in between (Linux 6.1).
    pub defer_taskrun: bool,
    /// One thread submits, which the kernel may lean on (Linux 6.0).
    pub single_issuer: bool,
    /// No interrupt for a completion; a shared word says that there is one (Linux 5.19).
    pub taskrun_flag: bool,
    /// One bad submission does not hold up the others (Linux 5.18).
    pub submit_all: bool,
}

/// A completion, with what it brings.
#[derive(Debug)]
pub struct Reaped {
    /// What the caller gave when it submitted the operation.
    pub user_data: u64,
    /// As the kernel gives it: a count of bytes, or a negated error number.
    pub result: i32,
    /// True if the operation goes on and will complete again.
    pub more: bool,
    /// What is the caller's again, or for the first time.
    pub brings: Brings,
}

/// See [`Reaped::brings`].
#[derive(Debug)]
pub enum Brings {
    /// Nothing but the result.
    Nothing,
    /// The memory that the submission named.
    Memory(Landed),
    /// An accepted connection.
    Descriptor(OwnedFd),
    /// A receive buffer, to be given back.
    Buffer(u16),
}

/// How to enter the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Submit, take in what has completed, come back.
    No,
    /// Sleep until something has completed.
    Forever,
    /// Sleep until something has completed, but no longer than this.
    AtMost(Duration),
}

/// For what a ring that goes to sleep waits beyond the first completion.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// It wakes when so many have come,
    pub completions: u32,
    /// or when so long has passed and there is one, or else at the first one.
    pub at_most: Duration,
}

/// See [`Ring::counts`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Those that were ready to sleep.
    pub sleeps: u64,
    /// Completions taken in.
    pub completions: u64,
}

#[derive(Debug)]
struct EagerSend {
    ticket: Ticket,
    /// Counts submissions; compared with what the kernel has consumed.
    sequence: u64,
    bytes: i32,
}

/// One io_uring with its receive buffers and the memory that it has in flight. Stays on the thread
/// that made it.
pub struct Ring {
    /// Says whether anything has completed; points into `io`.
    completed: CompletionStatus,
    io: IoUring,
    /// The ring's index among the descriptors that its thread has registered.
    registered: Option<u32>,
    pub(super) in_flight: InFlight,
    buffers: Option<BufRing>,
    eager: VecDeque<EagerSend>,
    reaped: VecDeque<Reaped>,
    /// True if somebody wanted the sleeper awake; see [`Ring::take_wake`].
    woken: bool,
    /// Operations that will complete at least once more.
    pub(super) awaited: u64,
    /// Submissions since start, and those among them that the kernel has not consumed.
    pushed: u64,
    queued: u32,
    counts: Counts,
    gather: Option<Gather>,
    /// The kernel holds the ring against the thread that made it.
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Ring {
    /// Sets a ring up. The calling thread is the one that must use it.
    ///
    /// # Errors
    /// As `io_uring_setup` reports them; `EINVAL` where the kernel does not know a flag.
    pub fn new(setup: &Setup) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(setup.completion_entries);
        if setup.no_sqarray {
            builder.setup_no_sqarray();
        }
        if setup.defer_taskrun {
            builder.setup_defer_taskrun();
        }
        if setup.single_issuer {
            builder.setup_single_issuer();
        }
        if setup.taskrun_flag {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        if setup.submit_all {
            builder.setup_submit_all();
        }
        let mut io = builder.build(setup.submission_entries)?;
        // SAFETY: it is kept beside the ring and used no longer than it.
        let completed = unsafe { io.completion().status() };
        Ok(Ring {
            completed,
            io,
            registered: None,
            in_flight: InFlight::default(),
            buffers: None,
            eager: VecDeque::new(),
            reaped: VecDeque::new(),
            woken: false,
            awaited: 0,
            pushed: 0,
            queued: 0,
            counts: Counts::default(),
            gather: None,
            stays_on_its_thread: PhantomData,
        })
    }

    /// Which operations the kernel knows.
    ///
    /// # Errors
    /// As `io_uring_register` reports them.
    pub fn probe(&self) -> io::Result<Probe> {
        let mut probe = Probe::new();
        self.io.submitter().register_probe(&mut probe)?;
        Ok(probe)
    }

    /// Entries of the submission and of the completion queue.
    pub fn entries(&self) -> (u32, u32) {
        (self.io.params().sq_entries(), self.io.params().cq_entries())
    }

    /// True if the kernel can leave out the completion of an operation that succeeds.
    pub fn skips_success(&self) -> bool {
        self.io.params().is_feature_skip_cqe_on_success()
    }

    /// Another descriptor of the ring, for messages from other rings. It keeps the ring's queues in
    /// memory, but no operation alive.
    ///
    /// # Errors
    /// As `fcntl` reports them.
    pub fn share_descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring is open for as long as `self` lives.
        let ring = unsafe { BorrowedFd::borrow_raw(self.io.as_raw_fd()) };
        ring.try_clone_to_owned()
    }

    /// Spares every later entry the look-up of the ring's file descriptor.
    ///
    /// # Errors
    /// As `io_uring_register` reports them.
    pub fn register_descriptor(&mut self) -> io::Result<()> {
        let update =
            RingUpdate { offset: u32::MAX, reserved: 0, descriptor: self.io.as_raw_fd() as u64 };
        self.registered = Some(ring_descriptors(&self.io, REGISTER_RING_FDS, update)?);
        Ok(())
    }

    /// Hands `pool` to the kernel to receive into.
    ///
    /// # Errors
    /// As `io_uring_register` reports them; `EINVAL` where the kernel knows no buffer rings.
    pub fn provide_buffers(&mut self, pool: Arc<Pool>) -> io::Result<()> {
        assert!(self.buffers.is_none(), "a ring has one set of buffers");
        let buffers = BufRing::new(pool)?;
        let (address, entries) = buffers.registration();
        // SAFETY: `buffers` is dropped after the ring is closed (see `Drop`), so the entries are
        // mapped for as long as they are registered.
        let registered = unsafe {
            self.io.submitter().register_buf_ring_with_flags(address, entries, BUFFER_GROUP, 0)
        };
        registered?;
        self.buffers = Some(buffers);
        Ok(())
    }

    /// The receive buffers.
    ///
    /// # Panics
    /// If [`Ring::provide_buffers`] was not called.
    pub fn buffers(&self) -> &BufRing {
        self.buffers.as_ref().expect("receive buffers were provided at start")
    }

    /// The receive buffers, to give back to and to collect from.
    ///
    /// # Panics
    /// If [`Ring::provide_buffers`] was not called.
    pub fn buffers_mut(&mut self) -> &mut BufRing {
        self.buffers.as_mut().expect("receive buffers were provided at start")
    }

    /// Forgets that somebody wanted the sleeper awake: by a message from another ring, or by what
    /// [`Ring::poll_readable`] watches. Until then no entry sleeps. True if so.
    pub fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// The next completion that was taken in.
    pub fn next_reaped(&mut self) -> Option<Reaped> {
        self.reaped.pop_front()
    }

    /// True if entering or reaping brings something: reads two shared words, writes none, makes no
    /// system call.
    pub fn is_ready(&mut self) -> bool {
        self.queued > 0
            || !self.reaped.is_empty()
            || !self.completed.is_empty()
            || self.needs_enter()
    }

    /// True if sends were submitted of which it is not yet known whether they are over.
    pub fn has_eager_sends(&self) -> bool {
        !self.eager.is_empty()
    }

    /// Counts since start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// True if [`Ring::set_gather`] has an effect (Linux 6.12).
    pub fn can_gather(&self) -> bool {
        self.io.params().is_feature_min_timeout()
    }

    /// From now on, sleeps end a little later, with more to do.
    pub fn set_gather(&mut self, gather: Gather) {
        self.gather = Some(gather).filter(|_| self.can_gather());
    }

    /// Submits what is queued, sleeps as asked, and takes in what has completed. Makes no system
    /// call when that is not needed. True: [`Ring::next_reaped`] has something.
    ///
    /// # Errors
    /// Only those that no waiting cures: the ring is used wrongly, or broken.
    pub fn enter(&mut self, wait: Wait) -> io::Result<bool> {
        // What has come already must not be slept over.
        let wait = if self.reap() || self.woken { Wait::No } else { wait };
        if wait != Wait::No || self.queued > 0 || self.needs_enter() {
            self.system_call(wait)?;
            self.reap();
        }
        Ok(!self.reaped.is_empty())
    }

    /// True if the kernel has work that only an entry gets done.
    fn needs_enter(&mut self) -> bool {
        let flags = self.io.submission();
        let needed = flags.taskrun() || flags.cq_overflow();
        // Dropping it would write the queue's tail to a cache line that the kernel wakes us by.
        std::mem::forget(flags);
        needed
    }

    fn system_call(&mut self, wait: Wait) -> io::Result<()> {
        let mut flags = EnterFlags::GETEVENTS;
        let (descriptor, timespec);
        if let Some(index) = self.registered {
            flags |= EnterFlags::REGISTERED_RING;
            descriptor = index as i32;
        } else {
            descriptor = self.io.as_raw_fd();
        }
        if wait != Wait::No && self.io.params().is_feature_no_iowait() {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let mut arguments = SubmitArgs::new();
        let mut completions = u32::from(wait != Wait::No);
        if let Some(gather) = self.gather
            && wait != Wait::No
        {
            flags |= EnterFlags::EXT_ARG;
            arguments = arguments.min_wait_usec(gather.at_most.as_micros() as u32);
            completions = gather.completions;
        }
        if let Wait::AtMost(duration) = wait {
            flags |= EnterFlags::EXT_ARG;
            timespec = Timespec::from(duration);
            arguments = arguments.timespec(&timespec);
        }
        self.counts.enters += 1;
        self.counts.sleeps += u64::from(wait != Wait::No);
        let (argument, size) = if flags.contains(EnterFlags::EXT_ARG) {
            ((&raw const arguments).cast::<libc::c_void>(), size_of_val(&arguments))
        } else {
            (std::ptr::null(), 0)
        };
        // SAFETY: the descriptor is this ring's; `argument` is null or points to an argument of
        // the kernel's layout (the type is transparent) whose timespec lives until the call ends;
        // memory that the submissions name is in `in_flight` or in the buffer ring.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                descriptor,
                self.queued,
                completions,
                flags.bits(),
                argument,
                size,
            )
        };
        self.queued = self.io.submission().len() as u32;
        if entered >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Time is up; a signal; completions overflow; no memory at the moment.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    /// Takes in what has completed without entering the kernel, eager sends that succeeded first.
    /// True: [`Ring::next_reaped`] has something.
    fn reap(&mut self) -> bool {
        // Read before the queue: completions that overflowed are in it once the flag is gone.
        let overflow = !self.eager.is_empty() && self.io.submission().cq_overflow();
        let first = self.reaped.len();
        while !self.completed.is_empty() {
            let completion = self.io.completion().next().expect("the queue is not empty");
            self.counts.completions += 1;
            self.take_in(&completion);
        }
        if !self.eager.is_empty() && !overflow {
            self.conclude_eager_sends(first);
        }
        !self.reaped.is_empty()
    }

    fn take_in(&mut self, completion: &cqueue::Entry) {
        let (user_data, result) = (completion.user_data(), completion.result());
        let more = cqueue::more(completion.flags());
        if user_data & CALLERS == 0 {
            self.awaited -= 1;
            return self.push_landed(Ticket::from_user_data(user_data), result);
        }
        self.woken |= user_data & WAKE != 0;
        let is_mute = user_data & MUTE != 0;
        if !is_mute {
            self.awaited -= u64::from(!more);
        }
        if result >= 0 && (is_mute || (user_data & WAKE != 0 && more)) {
            return;
        }
        let brings = if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
            self.buffers_mut().received(buffer);
            Brings::Buffer(buffer)
        } else if user_data & DESCRIPTOR != 0 && result >= 0 {
            // SAFETY: the result of an accept is a descriptor that nobody else knows of.
            Brings::Descriptor(unsafe { OwnedFd::from_raw_fd(result) })
        } else {
            Brings::Nothing
        };
        let user_data = user_data & USER_DATA_MASK;
        self.reaped.push_back(Reaped { user_data, result, more, brings });
    }

    fn push_landed(&mut self, ticket: Ticket, result: i32) {
        let (landed, user_data) = self.in_flight.land(ticket);
        let brings = Brings::Memory(landed);
        self.reaped.push_back(Reaped { user_data, result, more: false, brings });
    }

    /// Notes an eager send that was just pushed.
    pub(super) fn expect_silence(&mut self, ticket: Ticket, bytes: u32) {
        let bytes = i32::try_from(bytes).expect("eager sends are small");
        self.eager.push_back(EagerSend { ticket, sequence: self.pushed, bytes });
    }

    /// Completes the eager sends that the kernel has consumed and not complained about, ahead of
    /// the completions from `first` on: they happened before.
    fn conclude_eager_sends(&mut self, first: usize) {
        let consumed = self.pushed - u64::from(self.queued);
        let complaints_and_others = self.reaped.len() - first;
        while self.eager.front().is_some_and(|send| send.sequence <= consumed) {
            let send = self.eager.pop_front().expect("there is a front");
            if self.in_flight.is_in_flight(send.ticket) {
                self.awaited -= 1;
                self.push_landed(send.ticket, send.bytes);
            }
        }
        if complaints_and_others > 0 {
            self.reaped.make_contiguous()[first..].rotate_left(complaints_and_others);
        }
    }

    /// Queues a submission, making room for it if need be.
    ///
    /// # Safety
    /// Memory that `entry` names stays valid until the operation has completed for the last time.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: as the caller promises.
        while unsafe { self.io.submission().push(entry) }.is_err() {
            self.system_call(Wait::No)
                .expect("a ring that was entered before can be entered again by its thread");
            self.reap();
        }
        self.pushed += 1;
        self.queued += 1;
    }

    /// Asks the kernel to give up everything in flight, and waits until it has. True: it has.
    fn quiesce(&mut self) -> bool {
        let everything = io_uring::types::CancelBuilder::any().all();
        let cancel = opcode::AsyncCancel2::new(everything).build().user_data(CALLERS | MUTE);
        let give_up_at = Instant::now() + FAREWELL;
        // SAFETY: a cancellation names no memory.
        unsafe { self.push(&cancel) };
        loop {
            let entered = self.enter(Wait::AtMost(Duration::from_millis(50)));
            // Accepted connections and landed memory are dropped here.
            self.reaped.clear();
            if self.awaited == 0 {
                return true;
            }
            if entered.is_err() || Instant::now() > give_up_at {
                return false;
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let quiet = self.awaited == 0 || self.quiesce();
        if let Some(offset) = self.registered {
            // The registration keeps the ring alive beyond its file descriptor.
            let update = RingUpdate { offset, reserved: 0, descriptor: 0 };
            let ended = ring_descriptors(&self.io, UNREGISTER_RING_FDS, update);
            debug_assert!(ended.is_ok(), "what was registered can be unregistered: {ended:?}");
        }
        if quiet && self.buffers.is_some() {
            // The ring may live on behind a shared descriptor.
            let ended = self.io.submitter().unregister_buf_ring(BUFFER_GROUP);
            debug_assert!(ended.is_ok(), "what was registered can be unregistered: {ended:?}");
        }
        if !quiet {
            // The kernel may still write to what it was lent: better lost than reused.
            debug_assert!(!self.in_flight.any() || self.awaited > 0);
            std::mem::forget(std::mem::take(&mut self.in_flight));
            std::mem::forget(self.buffers.take());
        }
        // The fields go in order: `io` before `buffers`, whose entries the kernel reads.
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("descriptor", &self.io.as_raw_fd())
            .field("awaited", &self.awaited)
            .field("buffers", &self.buffers)
            .finish_non_exhaustive()
    }
}

/// `struct io_uring_rsrc_update` of the kernel's interface.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    descriptor: u64,
}

const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// (Un)registers the ring's descriptor with the calling thread; answers its index. The `io-uring`
/// crate can do this too, but forgets the index with its borrow of the ring.
fn ring_descriptors(io: &IoUring, opcode: libc::c_uint, mut update: RingUpdate) -> io::Result<u32> {
    // SAFETY: the kernel reads and writes one `update`, which is laid out as it wants it.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, io.as_raw_fd(), opcode, &raw mut update, 1)
    };
    if done == 1 { Ok(update.offset) } else { Err(io::Error::last_os_error()) }
}
