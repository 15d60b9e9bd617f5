//! The third driver: what a shard asks of the world goes to the simulated network and disk.
//!
//! A driver is used in one of two ways. Inside a turn of a [`super::Process`] the world has polled
//! already; a further poll finds what completed since, and no time passes. A driver of a bare host
//! ([`super::World::bare_host`]) is called from outside, as a kernel driver would be: each poll takes
//! a moment of virtual time, and a park runs the world until there is something to wake up for.

use super::core::Core;
use super::disk::Work;
use super::event_log::{EventKind, Hash};
use super::handshake::Accept;
use super::host::{BufferPool, Notice, ShardAt, TO_THE_END};
use super::network::Read;
use super::world::Shared;
use crate::driver::{
    Chunk, Completion, Driver, DriverCounters, FileBuffer, FileId, FileOpId, FileTask, ListenerId,
    Output, Parker, SendState, SocketId,
};
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::cell::{Cell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// The driver of one shard of one simulated host.
pub struct SimDriver {
    shared: Rc<Shared>,
    at: ShardAt,
    incarnation: u32,
    parker: Arc<Parker>,
    pool: Arc<BufferPool>,
    ready: VecDeque<Completion>,
    /// Memory that is to be received into next, and for how many bytes at most.
    into: BTreeMap<SocketId, (Vec<u8>, usize)>,
    chunks: Vec<Option<Bytes>>,
    chunks_free: Vec<u32>,
    counters: DriverCounters,
    lend_copies: Cell<u64>,
}

impl SimDriver {
    pub(super) fn new(shared: Rc<Shared>, at: ShardAt) -> Self {
        let mut core = shared.core.borrow_mut();
        let incarnation = core.stage.host(at.host).incarnation;
        let shard = core.stage.shard(at);
        let (parker, pool) = (shard.parker.clone(), shard.pool.clone());
        drop(core);
        SimDriver {
            shared,
            at,
            incarnation,
            parker,
            pool,
            ready: VecDeque::new(),
            into: BTreeMap::new(),
            chunks: Vec::new(),
            chunks_free: Vec::new(),
            counters: DriverCounters::default(),
            lend_copies: Cell::new(0),
        }
    }

    /// Which shard of which host this is.
    pub fn at(&self) -> ShardAt {
        self.at
    }

    /// Uses CPU time: what is asked for next happens so much later. On a bare host the world goes
    /// on meanwhile.
    pub fn burn(&mut self, time: Duration) {
        if self.is_inside() {
            self.core().burn(self.at, time);
        } else {
            self.shared.run_for(time);
        }
    }

    /// Adds a remark to the event log.
    pub fn note(&self, text: &str) {
        self.core().note(text);
    }

    /// Receive buffers in use: chunks that were not given back and payloads that were lent.
    pub fn buffers_in_use(&self) -> usize {
        self.pool.in_use()
    }

    /// True if a turn left completions that were collected.
    pub(super) fn has_completions(&self) -> bool {
        !self.ready.is_empty()
    }

    fn core(&self) -> RefMut<'_, Core> {
        let core = self.shared.core.borrow_mut();
        let alive = core.stage.is_alive(self.at.host, self.incarnation);
        assert!(alive, "the process of this driver has crashed; nothing may use it any more");
        core
    }

    /// True within a turn; then no time may pass.
    fn is_inside(&self) -> bool {
        self.shared.core.borrow().running.is_some()
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.shared.core.borrow().stage.is_alive(self.at.host, self.incarnation) {
            return Ok(());
        }
        Err(io::Error::other(format!("the process of shard {} has crashed", self.at)))
    }

    /// Lets the world go on for as long as a look at the ring takes, and while the host is paused.
    fn pass_time(&mut self) -> io::Result<()> {
        if !self.is_inside() {
            let cost = {
                let core = &mut *self.shared.core.borrow_mut();
                core.stage.cpu.turn_cost.draw(&mut core.stage.rng)
            };
            self.shared.run_for(cost);
            self.sit_out_pause();
        }
        self.check_alive()
    }

    fn sit_out_pause(&mut self) {
        loop {
            let mut core = self.shared.core.borrow_mut();
            let (now, host) = (core.stage.now(), core.stage.host(self.at.host));
            let paused_for = host.paused_until.since(now);
            drop(core);
            if paused_for.is_zero() {
                return;
            }
            self.shared.run_for(paused_for);
        }
    }

    /// Takes what the shard was told.
    pub(super) fn collect(&mut self) {
        let shared = self.shared.clone();
        let core = &mut *shared.core.borrow_mut();
        core.stage.settle();
        let most = core.stage.completions_per_poll();
        while self.ready.len() < most {
            let Some(notice) = core.stage.shard(self.at).inbox.pop_front() else { break };
            self.take_notice(core, notice, most);
        }
    }

    fn take_notice(&mut self, core: &mut Core, notice: Notice, most: usize) {
        let at = self.at;
        let is_reported = |socket| core.network.is_reported(at, socket);
        match notice {
            Notice::Acceptable { listener } => self.accept(core, listener),
            Notice::Readable { socket, until } => self.receive(core, socket, until, most),
            Notice::Connected { socket, result } if is_reported(socket) => {
                let (kind, facts) = (connected(&result), [("socket", u64::from(socket.slot))]);
                core.stage.record_at(at, kind, &facts);
                let result = result.map_err(io::Error::from);
                self.ready.push_back(Completion::Connected { socket, result });
            }
            Notice::Connected { .. } => {}
            Notice::Sent { socket, output, result } => {
                let facts = [("socket", u64::from(socket.slot)), ("ok", u64::from(result.is_ok()))];
                core.stage.record_at(at, EventKind::Sent, &facts);
                let result = result.map_err(io::Error::from);
                self.ready.push_back(Completion::Sent { socket, output, result });
            }
            Notice::Closed { socket } => {
                let facts = [("socket", u64::from(socket.slot))];
                core.stage.record_at(at, EventKind::Closed, &facts);
                self.ready.push_back(Completion::Closed { socket });
            }
            Notice::File { op, buffer, result } => {
                let result = result.map_err(io::Error::from);
                self.ready.push_back(Completion::File { op, buffer, result });
            }
            Notice::FileTask { op, result } => {
                self.ready.push_back(Completion::FileTask { op, result });
            }
        }
    }

    fn accept(&mut self, core: &mut Core, listener: ListenerId) {
        match core.network.accept(&mut core.stage, self.at, listener) {
            Accept::Socket(socket) => {
                let facts = [("socket", u64::from(socket.slot))];
                core.stage.record_at(self.at, EventKind::Accepted, &facts);
                self.ready.push_back(Completion::Accepted { listener, socket });
                // There may be more to accept, and first of all bytes may have come with this one.
                let inbox = &mut core.stage.shard(self.at).inbox;
                inbox.push_front(Notice::Acceptable { listener });
                inbox.push_front(Notice::Readable { socket, until: TO_THE_END });
            }
            Accept::Failed(errno) => {
                core.stage.record_at(self.at, EventKind::AcceptFailed, &[]);
                let error = io::Error::from(errno);
                self.ready.push_back(Completion::AcceptFailed { listener, error });
            }
            Accept::Nothing => {}
        }
    }

    fn receive(&mut self, core: &mut Core, socket: SocketId, until: u64, most: usize) {
        let slot = ("socket", u64::from(socket.slot));
        loop {
            if self.ready.len() >= most {
                let notice = Notice::Readable { socket, until };
                return core.stage.shard(self.at).inbox.push_front(notice);
            }
            let buffer = match self.into.get(&socket) {
                Some((memory, bytes_max)) => {
                    Some((memory.capacity() - memory.len()).min(*bytes_max))
                }
                None => self.pool.has_free().then_some(core.config.network.chunk_bytes_max),
            };
            let stage = &mut core.stage;
            match core.network.read(stage, self.at, socket, until, buffer) {
                Read::Bytes(bytes) => {
                    let facts = [slot, ("bytes", bytes.len() as u64), ("digest", Hash::of(&bytes))];
                    stage.record_at(self.at, EventKind::Received, &facts);
                    self.counters.receives += 1;
                    self.counters.received_bytes += bytes.len() as u64;
                    if let Some((mut memory, _)) = self.into.remove(&socket) {
                        memory.extend_from_slice(&bytes);
                        self.ready.push_back(Completion::Filled { socket, memory });
                    } else {
                        let chunk = self.hold(bytes);
                        self.ready.push_back(Completion::Received { socket, chunk });
                    }
                }
                Read::NoBuffer => {
                    self.counters.buffer_waits += 1;
                    return stage.starve(self.at, socket);
                }
                Read::Ended(result) => {
                    let facts = [slot, ("ok", u64::from(result.is_ok()))];
                    stage.record_at(self.at, EventKind::ReceiveEnded, &facts);
                    let result = result.map_err(io::Error::from);
                    if let Some((memory, _)) = self.into.remove(&socket) {
                        self.ready.push_back(Completion::Filled { socket, memory });
                    }
                    return self.ready.push_back(Completion::ReceiveEnded { socket, result });
                }
                Read::Nothing => return,
            }
        }
    }

    /// Puts received bytes in a buffer of the pool.
    fn hold(&mut self, bytes: Bytes) -> Chunk {
        self.pool.take();
        let length = bytes.len() as u32;
        let bytes = Bytes::from_owner(LentBuffer { bytes, pool: self.pool.clone() });
        let buffer = self.chunks_free.pop().unwrap_or_else(|| {
            self.chunks.push(None);
            self.chunks.len() as u32 - 1
        });
        self.chunks[buffer as usize] = Some(bytes);
        Chunk { buffer, offset: 0, length }
    }

    fn chunk(&self, chunk: &Chunk) -> &Bytes {
        let bytes = self.chunks.get(chunk.buffer as usize).and_then(Option::as_ref);
        bytes.expect("a chunk is used with the driver that reported it, until it is given back")
    }

    fn submit(&mut self, file: FileId, work: Work, buffer: FileBuffer, op: FileOpId) {
        let at = self.at;
        let core = &mut *self.core();
        core.disks[at.host.index()].submit(&mut core.stage, at, file, work, buffer, op);
    }
}

impl Driver for SimDriver {
    fn now(&self) -> Instant {
        let core = &mut *self.core();
        let now = core.stage.now();
        core.stage.host(self.at.host).clock.shown_at(now)
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)> {
        let core = &mut *self.core();
        Ok(core.network.listen(&mut core.stage, self.at, address)?)
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        let core = &mut *self.core();
        core.network.stop_listening(&mut core.stage, self.at, listener);
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<SocketId> {
        let core = &mut *self.core();
        Ok(core.network.connect(&mut core.stage, self.at, address)?)
    }

    fn peer_address(&self, socket: SocketId) -> Option<SocketAddr> {
        self.core().network.peer_address(self.at, socket)
    }

    fn send(&mut self, socket: SocketId, output: Output) -> SendState {
        self.counters.sends += 1;
        self.counters.sent_bytes += output.len() as u64;
        let core = &mut *self.core();
        core.network.send(&mut core.stage, self.at, socket, output)
    }

    fn receive_into(
        &mut self,
        socket: SocketId,
        memory: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Vec<u8>> {
        // What was collected and not yet taken comes first.
        let has_more = self.ready.iter().any(|completion| match completion {
            Completion::Received { socket: of, .. }
            | Completion::ReceiveEnded { socket: of, .. } => *of == socket,
            _ => false,
        });
        if has_more
            || self.into.contains_key(&socket)
            || !self.core().network.receives(self.at, socket)
        {
            return Err(memory);
        }
        self.into.insert(socket, (memory, bytes_max));
        Ok(())
    }

    fn shutdown_send(&mut self, socket: SocketId) {
        let core = &mut *self.core();
        core.network.shutdown_send(&mut core.stage, self.at, socket);
    }

    fn pause_receive(&mut self, socket: SocketId) {
        {
            let core = &mut *self.core();
            core.network.pause_receive(&mut core.stage, self.at, socket);
        }
        if let Some((memory, _)) = self.into.remove(&socket) {
            self.ready.push_back(Completion::Filled { socket, memory });
        }
    }

    fn resume_receive(&mut self, socket: SocketId) {
        let core = &mut *self.core();
        core.network.resume_receive(&mut core.stage, self.at, socket);
    }

    fn close(&mut self, socket: SocketId) {
        {
            let core = &mut *self.core();
            core.network.close(&mut core.stage, self.at, socket);
        }
        self.into.remove(&socket);
        // What was collected and not yet taken is not reported any more.
        for completion in std::mem::take(&mut self.ready) {
            match completion {
                Completion::Received { socket: of, chunk } if of == socket => self.give_back(chunk),
                Completion::Connected { socket: of, .. } if of == socket => {}
                Completion::ReceiveEnded { socket: of, .. } if of == socket => {}
                Completion::Filled { socket: of, .. } if of == socket => {}
                other => self.ready.push_back(other),
            }
        }
    }

    fn file_task(&mut self, task: FileTask, op: FileOpId) {
        let at = self.at;
        let core = &mut *self.core();
        core.disks[at.host.index()].start_task(&mut core.stage, at, task, op);
    }

    fn read(&mut self, file: FileId, offset: u64, buffer: FileBuffer, op: FileOpId) {
        self.submit(file, Work::Read { offset }, buffer, op);
    }

    fn write(&mut self, file: FileId, offset: u64, buffer: FileBuffer, op: FileOpId) {
        self.submit(file, Work::Write { offset }, buffer, op);
    }

    fn sync(&mut self, file: FileId, op: FileOpId) {
        self.submit(file, Work::SYNC, FileBuffer::default(), op);
    }

    fn close_file(&mut self, file: FileId) {
        let at = self.at;
        self.core().disks[at.host.index()].close_file(at, file);
    }

    fn poll(&mut self) -> io::Result<bool> {
        self.counters.enters += 1;
        self.pass_time()?;
        self.collect();
        Ok(!self.ready.is_empty())
    }

    fn park(&mut self, until: Option<Instant>) -> io::Result<()> {
        assert!(
            !self.is_inside(),
            "a process never parks: its turn returns when it wants the next"
        );
        self.counters.enters += 1;
        self.counters.parks += 1;
        self.pass_time()?;
        let parked = self.run_until_woken(until);
        self.parker.withdraw();
        parked?;
        self.sit_out_pause();
        self.check_alive()?;
        self.collect();
        Ok(())
    }

    fn is_ready(&mut self) -> bool {
        if self.ready.is_empty() && self.pass_time().is_err() {
            return true; // A poll tells what is wrong.
        }
        !self.ready.is_empty() || !self.core().stage.shard(self.at).inbox.is_empty()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        let completion = self.ready.pop_front()?;
        self.counters.completions += 1;
        let network = &mut self.core().network;
        match &completion {
            Completion::Sent { socket, .. } => network.on_sent_reported(self.at, *socket),
            Completion::Closed { socket } | Completion::Connected { socket, result: Err(_) } => {
                network.free_socket(self.at, *socket);
            }
            _ => {}
        }
        Some(completion)
    }

    fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        self.chunk(chunk)
    }

    fn lend(&self, chunk: &Chunk) -> Bytes {
        let core = &mut *self.core();
        let bytes = self.chunk(chunk);
        if self.pool.is_low() {
            self.lend_copies.set(self.lend_copies.get() + 1);
        } else if !core.network.rng.chance(core.config.network.lend_copy_chance) {
            core.stage.record_at(self.at, EventKind::LentShared, &[]);
            return bytes.clone();
        }
        core.stage.record_at(self.at, EventKind::LentCopied, &[]);
        Bytes::copy_from_slice(bytes)
    }

    fn give_back(&mut self, chunk: Chunk) {
        let bytes = self.chunks[chunk.buffer as usize].take();
        assert!(bytes.is_some(), "a chunk is given back once");
        self.chunks_free.push(chunk.buffer);
    }

    fn parker(&self) -> Arc<Parker> {
        self.parker.clone()
    }

    fn describe(&self) -> String {
        format!("simulated driver, shard {}, incarnation {}", self.at, self.incarnation)
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters { lend_copies: self.lend_copies.get(), ..self.counters }
    }
}

impl SimDriver {
    /// Runs the world until this shard has a reason to wake up.
    fn run_until_woken(&mut self, until: Option<Instant>) -> io::Result<()> {
        loop {
            self.check_alive()?;
            let mut core = self.core();
            core.stage.settle();
            let clock = core.stage.host(self.at.host).clock;
            let until = until.and_then(|until| clock.when_shown(until));
            let now = core.stage.now();
            let shard = core.stage.shard(self.at);
            let unparked = std::mem::take(&mut shard.unparked);
            let woken = unparked || !shard.inbox.is_empty() || !self.ready.is_empty();
            drop(core);
            if woken || until.is_some_and(|until| until <= now) {
                return Ok(());
            }
            if !self.shared.step(until.unwrap_or(Instant::FAR_FUTURE)) {
                let until = until.ok_or_else(|| {
                    io::Error::other("parked for ever: nothing is left to happen in the world")
                })?;
                self.shared.core.borrow_mut().stage.advance_to(until);
            }
        }
    }
}

/// A receive buffer that goes home when its last `Bytes` is dropped.
struct LentBuffer {
    bytes: Bytes,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for LentBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for LentBuffer {
    fn drop(&mut self) {
        self.pool.give_back();
    }
}

fn connected<E>(result: &Result<(), E>) -> EventKind {
    if result.is_ok() { EventKind::Connected } else { EventKind::ConnectFailed }
}
