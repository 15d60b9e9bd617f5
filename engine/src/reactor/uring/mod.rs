//! The io_uring driver: everything asynchronous, one system call a turn.
//!
//! | file | what completes there |
//! |---|---|
//! | `config` | nothing: what may be chosen, what may be missing, what can go wrong at start |
//! | `probe` | nothing: what this kernel offers |
//! | `op` | which operation of whom a completion speaks of |
//! | `socket` | the last operation of a socket that was closed |
//! | `accept`, `connect`, `recv`, `send`, `file`, `wake` | what the name says |
//!
//! **A turn.** [`poll`](Driver::poll) and [`park`](Driver::park) submit what the turn before has
//! queued and take completions in with the same system call; `poll` makes none when nothing is
//! queued and the shared words say that nothing has come. Small sends are *eager* (see
//! `sys::ring`): their end is told with whatever comes next, so `park` after an answer really
//! sleeps. If nothing comes, it is told after [`EAGER_SEND_TOLD_LATE_MS_MAX`].
//!
//! **Sleeping.** The shard announces itself on its [`Parker`], looks once more for work (its
//! mailboxes), and calls `park`, which withdraws the announcement before it returns. A shard that
//! finds work after announcing withdraws by itself.
//!
//! **Not done on purpose.** Sockets are not put into the kernel's table of fixed files: measured,
//! it made no difference to an echo at 32 connections, and it would need a table as large as the
//! most sockets. Nothing is sent zero-copy: on loopback the kernel copies regardless.
//!
//! [`EAGER_SEND_TOLD_LATE_MS_MAX`]: crate::limits::EAGER_SEND_TOLD_LATE_MS_MAX

mod accept;
pub mod bare_echo;
mod config;
mod connect;
mod file;
mod op;
mod probe;
mod recv;
mod send;
mod socket;
mod wake;

pub use config::{Features, UringConfig, UringError};

use super::descriptors;
use super::file_tasks::FileTasks;
use super::listen::KernelDriver;
use crate::driver::{
    Chunk, Completion, Driver, DriverCounters, FileBuffer, FileId, FileOpId, FileTask, ListenerId,
    Output, Parker, SendState, SocketId,
};
use crate::sys::pool::Pool;
use crate::sys::ring::{Reaped, Ring, Wait};
use crate::sys::{clock, socket as sys_socket};
use crate::time::{Duration, Instant, earliest};
use bytes::Bytes;
use op::{Op, Tag};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The driver of one shard. Made on the shard's thread, and stays there.
#[derive(Debug)]
pub struct UringDriver {
    /// First, so that the kernel lets go of everything before anything else is dropped.
    ring: Ring,
    features: Features,
    /// What was asked for and cannot be had, for the start line.
    note: Option<String>,
    sockets: socket::Sockets,
    listeners: Vec<accept::Listener>,
    accept_retry_at: Option<Instant>,
    files: file::Files,
    file_tasks: FileTasks,
    /// Sockets whose next receive awaits what the shard makes of the last.
    unarmed: Vec<SocketId>,
    /// Sockets that wait for a receive buffer, first come first served.
    waiting: VecDeque<SocketId>,
    /// Completions that did not come one for one from the kernel; they go first.
    told: VecDeque<Completion>,
    parker: Arc<Parker>,
    doorbell: Arc<OwnedFd>,
    peers: Vec<wake::Peer>,
    /// A time-out that bounds how late the end of an eager send is told is in flight.
    nudge_armed: bool,
    counters: DriverCounters,
    lend_copies: Cell<u64>,
    clock: clock::Clock,
}

impl UringDriver {
    /// A driver for the calling thread, with whatever this kernel offers.
    ///
    /// # Errors
    /// [`UringError`] says why there is none, and whether another driver may do.
    pub fn new(config: &UringConfig) -> Result<Self, UringError> {
        let (mut ring, features) = probe::open(config)?;
        let reachable = features.contains(Features::RING_MESSAGE).then(|| ring.share_descriptor());
        let (doorbell, parker) = reachable
            .transpose()
            .and_then(wake::parker)
            .map_err(|error| UringError::new("making the shard wakeable", error))?;
        let waker = parker.clone();
        let on_return = Box::new(move || waker.unpark());
        let pool = Pool::new(config.receive_buffers, config.receive_buffer_bytes, on_return)
            .map_err(|error| UringError::new("mapping the receive buffers", error))?;
        probe::provide(&mut ring, pool)?;
        let (sockets_max, note) = descriptors::sockets_max(config.sockets_max);
        let mut driver = UringDriver {
            ring,
            features,
            note,
            sockets: socket::Sockets::new(sockets_max),
            listeners: Vec::new(),
            accept_retry_at: None,
            files: file::Files::default(),
            file_tasks: FileTasks::default(),
            unarmed: Vec::new(),
            waiting: VecDeque::new(),
            told: VecDeque::new(),
            parker,
            doorbell,
            peers: Vec::new(),
            nudge_armed: false,
            counters: DriverCounters::default(),
            lend_copies: Cell::new(0),
            clock: clock::Clock::default(),
        };
        driver.arm_wake();
        // A filter may let rings be made and not entered.
        let entered = driver.ring.enter(Wait::No);
        entered.map_err(|error| UringError::new("entering io_uring", error))?;
        Ok(driver)
    }

    /// The features of the kernel that are in use.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Receive buffers by whereabouts; they add up to all there are.
    pub fn buffers(&self) -> BufferCounts {
        let buffers = self.ring.buffers();
        let (all, with_kernel) = (buffers.pool().count(), buffers.with_kernel());
        BufferCounts { all, with_kernel, lent: buffers.lent() }
    }

    /// Sockets that are not yet closed for good.
    pub fn sockets(&self) -> usize {
        self.sockets.count()
    }

    /// What one reaped completion means to the shard, if anything.
    fn on_reaped(&mut self, reaped: Reaped) -> Option<Completion> {
        let op = Op::decode(reaped.user_data);
        match op.tag {
            Tag::Receive => self.on_receive(op, reaped),
            Tag::ReceiveInto => self.on_filled(op, reaped),
            Tag::Send => self.on_send(op, reaped),
            Tag::Accept => self.on_accept(op, reaped),
            Tag::Connect => self.on_connect(op, reaped),
            Tag::File => self.on_file(op, reaped),
            Tag::Wake => {
                self.arm_wake();
                None
            }
            Tag::Message => {
                self.on_message_failed(op);
                None
            }
            Tag::Nudge => {
                self.nudge_armed = false;
                None
            }
            Tag::Cancel => None,
        }
    }

    /// What is due before the kernel is entered.
    fn prepare(&mut self) {
        self.refill();
        self.arm_rest();
        if self.accept_retry_at.is_some() {
            self.retry_accepts();
        }
    }

    /// How long to sleep at most.
    fn wait_until(&self, until: Option<Instant>) -> Wait {
        let Some(until) = earliest(until, self.accept_retry_at) else { return Wait::Forever };
        match until.since(clock::now()) {
            Duration::ZERO => Wait::No,
            left => Wait::AtMost(left),
        }
    }
}

/// See [`UringDriver::buffers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferCounts {
    /// How many there are.
    pub all: u16,
    /// Ready to be received into.
    pub with_kernel: u16,
    /// Lent as `Bytes`, some of them held as chunks too.
    pub lent: u16,
}

impl Driver for UringDriver {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)> {
        self.start_listening(address)
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        self.stop_listener(listener);
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<SocketId> {
        self.start_connect(address)
    }

    fn peer_address(&self, socket: SocketId) -> Option<SocketAddr> {
        sys_socket::peer_address(self.sockets.get(socket)?.descriptor())
    }

    fn send(&mut self, socket: SocketId, output: Output) -> SendState {
        self.start_send(socket, output)
    }

    fn receive_into(
        &mut self,
        socket: SocketId,
        memory: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Vec<u8>> {
        self.receive_into_memory(socket, memory, bytes_max)
    }

    fn shutdown_send(&mut self, socket: SocketId) {
        self.end_sends(socket);
    }

    fn pause_receive(&mut self, socket: SocketId) {
        self.pause(socket);
    }

    fn resume_receive(&mut self, socket: SocketId) {
        self.resume(socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.close_socket(socket);
    }

    fn file_task(&mut self, task: FileTask, op: FileOpId) {
        let parker = self.parker.clone();
        self.file_tasks.submit(task, op, move || parker.unpark());
    }

    fn read(&mut self, file: FileId, offset: u64, buffer: FileBuffer, op: FileOpId) {
        self.read_file(file, offset, buffer, op);
    }

    fn write(&mut self, file: FileId, offset: u64, buffer: FileBuffer, op: FileOpId) {
        self.write_file(file, offset, buffer, op);
    }

    fn sync(&mut self, file: FileId, op: FileOpId) {
        self.sync_file(file, op);
    }

    fn close_file(&mut self, file: FileId) {
        self.end_file(file);
    }

    fn poll(&mut self) -> io::Result<bool> {
        self.prepare();
        self.ring.enter(Wait::No)?;
        if self.told.is_empty()
            && let Some(first) = self.next_completion()
        {
            self.told.push_front(first);
        }
        Ok(!self.told.is_empty())
    }

    fn park(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.prepare();
        let starving = !self.waiting.is_empty();
        if starving {
            // Whoever drops a lent buffer must wake this shard; look once more after saying so.
            self.parker.announce();
            self.ring.buffers().pool().await_return(true);
            self.refill();
        }
        if self.file_tasks.are_in_flight() {
            // Their helper wakes a shard that says it is parked; look once more after saying so.
            self.parker.announce();
        }
        if self.ring.has_eager_sends() && !self.nudge_armed {
            self.arm_nudge();
        }
        let has_news = !self.told.is_empty() || self.file_tasks.has_done();
        let wait = if has_news { Wait::No } else { self.wait_until(until) };
        let entered = self.ring.enter(wait);
        // Whoever wanted this shard awake has it so: the next sleep is not theirs to end.
        self.ring.take_wake();
        self.parker.withdraw();
        if starving {
            self.ring.buffers().pool().await_return(false);
        }
        entered.map(drop)
    }

    fn is_ready(&mut self) -> bool {
        !self.told.is_empty()
            || !self.unarmed.is_empty()
            || self.ring.is_ready()
            || (!self.waiting.is_empty() && self.ring.buffers().pool().has_returned())
            || self.accept_is_due()
            || self.file_tasks.has_done()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.told.pop_front() {
                return Some(completion);
            }
            if self.file_tasks.has_done() {
                return self.next_task_done();
            }
            let reaped = self.ring.next_reaped()?;
            if let Some(completion) = self.on_reaped(reaped) {
                return Some(completion);
            }
        }
    }

    fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        self.chunk_bytes(chunk)
    }

    fn lend(&self, chunk: &Chunk) -> Bytes {
        self.lend_chunk(chunk)
    }

    fn give_back(&mut self, chunk: Chunk) {
        self.take_back(chunk);
    }

    fn parker(&self) -> Arc<Parker> {
        self.parker.clone()
    }

    fn unpark(&mut self, other: &Arc<Parker>) {
        self.wake(other);
    }

    fn describe(&self) -> String {
        // Asked of the kernel itself: a file may not be there, or no descriptor left to read it with.
        let kernel = rustix::system::uname();
        let missing = Features::ALL.without(self.features);
        let (submissions, completions) = self.ring.entries();
        let pool = self.ring.buffers().pool();
        let (buffers, bytes) = (pool.count(), pool.buffer_bytes());
        let mut text = format!(
            "io_uring on Linux {}: {}; {submissions} submissions, {completions} completions, \
             {buffers} receive buffers of {bytes} bytes",
            kernel.release().to_string_lossy(),
            self.features,
        );
        if missing != Features::NONE {
            text += &format!("; without {missing}");
        }
        if let Some(note) = &self.note {
            text += &format!("; {note}");
        }
        text
    }

    fn counters(&self) -> DriverCounters {
        let ring = self.ring.counts();
        DriverCounters {
            enters: ring.enters,
            completions: ring.completions,
            parks: ring.sleeps,
            lend_copies: self.lend_copies.get(),
            ..self.counters
        }
    }
}

impl KernelDriver for UringDriver {
    fn listen_on(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
        Ok(self.accept_on(socket))
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        // Nobody is to send a message to a ring that nobody looks at.
        self.parker.withdraw();
    }
}
