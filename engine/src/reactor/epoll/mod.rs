//! The driver for hosts that refuse io_uring: edge-triggered epoll.
//!
//! epoll tells what *may* be done; doing it is a system call each, and this driver makes it as late
//! as it can. What the kernel reports becomes `Work` in a queue, and [`Driver::next_completion`]
//! performs one piece after the other until one of them yields a completion. So a shard that takes
//! its chunks one by one receives into one buffer, whatever the number of ready sockets, and nothing
//! is copied.
//!
//! A *round* is what happens between one look at the kernel and the moment when `next_completion`
//! has nothing more. A socket is received from once a round: who has more than a buffer's worth, or
//! a listener with many connections waiting, is carried over to the end of the next round, which
//! begins with another look. Nobody starves, and a turn with one ready socket costs three system
//! calls: `epoll_wait`, `recv`, `send`.

#![forbid(unsafe_code)]

pub mod bare_echo;
mod chunks;
mod config;
mod files;
mod listeners;
mod poller;
mod receive;
mod sockets;
#[cfg(test)]
mod tests;

use super::descriptors;
use super::file_tasks::FileTasks;
use super::listen::KernelDriver;
use crate::driver::{
    Chunk, Completion, Driver, DriverCounters, FileBuffer, FileId, FileOpId, FileTask, ListenerId,
    Output, Parker, SendState, SocketId,
};
use crate::limits::{ACCEPTS_PER_ROUND, RECEIVE_INTO_BYTES_MAX};
use crate::sys::{clock, socket as sys_socket};
use crate::time::{Duration, Instant, earliest};
use bytes::Bytes;
use chunks::Chunks;
pub use config::EpollConfig;
use files::{Action, Bell, Files};
use listeners::{Accepted, Listeners};
use poller::{EDGE_IN, EventFlags, Poller, READING, READING_AND_WRITING, Token};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::sockopt;
use sockets::{Phase, Sending, Socket, Sockets, Transmitted};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// See the module page.
pub struct EpollDriver {
    config: EpollConfig,
    /// What the starter should know.
    note: Option<String>,
    poller: Poller,
    sockets: Sockets,
    listeners: Listeners,
    files: Files,
    file_tasks: FileTasks,
    /// Rung by the file helpers.
    bell: Bell,
    chunks: Chunks,
    /// What this round has to do, oldest first.
    work: VecDeque<Work>,
    /// What waits for the next round.
    carried: VecDeque<Work>,
    /// Sockets that wait for a receive buffer.
    starved: VecDeque<SocketId>,
    /// The work is what the last look brought: no reason to look again before it is done.
    round_open: bool,
    /// Somebody unparked this shard, and no sleep was cut short for it yet.
    unparked: bool,
    parker: Arc<Parker>,
    counters: DriverCounters,
    /// Apart from the others because lending is not exclusive.
    lend_copies: Cell<u64>,
    clock: clock::Clock,
}

/// Something that may be done without blocking. Yields one completion at most.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// The outcome of a connect is known.
    Connect(SocketId),
    /// There may be bytes, or the end of the stream.
    Receive(SocketId),
    /// The end of the stream was met while receiving into the caller's memory.
    End(SocketId),
    /// The send in flight can go on, or has failed, or was cut off by a close.
    Send(SocketId),
    /// The caller closed it: report that and let the slot.
    Close(SocketId),
    /// Connections may wait; so many may still be accepted in this round.
    Accept { listener: ListenerId, left: u32 },
    /// A file helper has done something.
    Files,
}

impl EpollDriver {
    /// A driver with no sockets.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration out of bounds; otherwise the kernel refused an epoll
    /// instance or an event counter, most likely for want of file descriptors.
    pub fn new(config: &EpollConfig) -> io::Result<Self> {
        config.check()?;
        let poller = Poller::new(config.events_max as usize)
            .map_err(|error| explain("cannot create an epoll instance", &error))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .and_then(|wake| poller.add(&wake, Token::Unparked, EDGE_IN).map(|()| wake))
            .map_err(|error| explain("cannot create an event counter", &error.into()))?;
        // The counter is never read: each write is an edge, and 2^64 of them are out of reach.
        let wake = move || {
            let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
        };
        let bell = Bell::new()
            .and_then(|bell| poller.add(&bell, Token::FilesDone, EDGE_IN).map(|()| bell))
            .map_err(|error| explain("cannot create an event counter", &error.into()))?;
        let (sockets_max, note) = descriptors::sockets_max(config.sockets_max);
        Ok(EpollDriver {
            poller,
            sockets: Sockets::new(sockets_max),
            note,
            listeners: Listeners::default(),
            files: Files::default(),
            file_tasks: FileTasks::default(),
            bell,
            chunks: Chunks::new(config.receive_chunk_bytes as usize, config.chunks_max as usize),
            work: VecDeque::new(),
            carried: VecDeque::new(),
            starved: VecDeque::new(),
            round_open: false,
            unparked: false,
            parker: Arc::new(Parker::new(None, Box::new(wake))),
            counters: DriverCounters::default(),
            lend_copies: Cell::new(0),
            clock: clock::Clock::default(),
            config: EpollConfig { sockets_max, ..config.clone() },
        })
    }

    fn has_work(&self) -> bool {
        !self.work.is_empty() || !self.carried.is_empty()
    }

    /// Asks the kernel what has happened, sleeping `timeout` at most, and begins a round.
    fn look(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.poller.wait(timeout)?;
        let events = self.poller.take_events();
        for event in &events {
            let (token, flags) = poller::read_event(event);
            match token {
                Token::Socket(socket) => self.on_socket_event(socket, flags),
                Token::Listener(listener) => self.queue_accept(listener),
                Token::Unparked => self.unparked = true,
                Token::FilesDone => self.work.push_back(Work::Files),
            }
        }
        self.poller.put_events(events);
        if self.listeners.retry_at().is_some() {
            self.end_pauses(clock::now());
        }
        self.work.append(&mut self.carried);
        self.round_open = true;
        Ok(())
    }

    fn on_socket_event(&mut self, id: SocketId, flags: EventFlags) {
        // An event may be older than the close of the socket that it names.
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if socket.phase == Phase::Connecting {
            self.work.push_back(Work::Connect(id));
            return;
        }
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        if broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            socket.readable = true;
            socket.ending |= broken || flags.contains(EventFlags::RDHUP);
            if socket.wants_receive() && !socket.queued_receive {
                socket.queued_receive = true;
                self.work.push_back(Work::Receive(id));
            }
        }
        if (broken || flags.contains(EventFlags::OUT))
            && let Some(sending) = &mut socket.sending
            && !std::mem::replace(&mut sending.queued, true)
        {
            self.work.push_back(Work::Send(id));
        }
    }

    fn queue_accept(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(id)
            && !listener.is_paused()
            && !std::mem::replace(&mut listener.queued, true)
        {
            self.work.push_back(Work::Accept { listener: id, left: ACCEPTS_PER_ROUND });
        }
    }

    /// Accepts again where a pause lasts no longer than `until`.
    fn end_pauses(&mut self, until: Instant) {
        while let Some(listener) = self.listeners.end_pause(until) {
            self.queue_accept(listener);
        }
    }

    fn perform(&mut self, work: Work) -> Option<Completion> {
        match work {
            Work::Connect(socket) => self.finish_connect(socket),
            Work::Receive(socket) => self.receive(socket),
            Work::End(id) => {
                let result = self.sockets.get(id)?.error.map_or(Ok(()), |error| Err(error.into()));
                Some(Completion::ReceiveEnded { socket: id, result })
            }
            Work::Send(socket) => self.finish_send(socket),
            Work::Close(socket) => {
                self.release(socket);
                Some(Completion::Closed { socket })
            }
            Work::Accept { listener, left } => self.accept(listener, left),
            Work::Files => {
                let completion = self.next_file_completion()?;
                self.work.push_front(Work::Files);
                Some(completion)
            }
        }
    }

    fn next_file_completion(&mut self) -> Option<Completion> {
        if let Some(done) = self.files.next_done() {
            return Some(Completion::File {
                op: done.op,
                buffer: done.buffer,
                result: done.result,
            });
        }
        let done = self.file_tasks.next_done()?;
        Some(done.into_completion(|descriptor, direct| self.files.adopt(descriptor, direct)))
    }

    fn finish_connect(&mut self, id: SocketId) -> Option<Completion> {
        let socket = self.sockets.get_mut(id).filter(|one| one.phase == Phase::Connecting)?;
        let outcome = match socket.error {
            Some(error) => Err(error),
            None => sockopt::socket_error(&socket.fd).and_then(|outcome| outcome),
        };
        // This reports once more what has arrived in the meantime.
        match outcome.and_then(|()| self.poller.modify(&socket.fd, Token::Socket(id), READING)) {
            Ok(()) => {
                socket.phase = Phase::Open;
                Some(Completion::Connected { socket: id, result: Ok(()) })
            }
            Err(error) => {
                self.release(id);
                Some(Completion::Connected { socket: id, result: Err(error.into()) })
            }
        }
    }

    /// Goes on with a send in flight, and reports it if it has ended.
    fn finish_send(&mut self, id: SocketId) -> Option<Completion> {
        if let Some(cut_off) = self.sockets.cut_off(id).and_then(Option::take) {
            let error = cut_off.failed.unwrap_or(Errno::CANCELED);
            let result = Err(error.into());
            return Some(Completion::Sent { socket: id, output: cut_off.output, result });
        }
        let socket = self.sockets.get_mut(id)?;
        let sending = socket.sending.as_mut()?;
        sending.queued = false;
        let result = match sending.failed {
            Some(error) => Err(error),
            None => match sending.go_on(&socket.fd, &mut self.counters) {
                Transmitted::All => self.poller.modify(&socket.fd, Token::Socket(id), READING),
                Transmitted::Blocked => return None,
                Transmitted::Failed(error) => Err(error),
            },
        };
        if let Err(error) = result {
            socket.note_error(error);
        }
        let output = socket.sending.take().expect("it was here a moment ago").output;
        Some(Completion::Sent { socket: id, output, result: result.map_err(io::Error::from) })
    }

    fn accept(&mut self, id: ListenerId, left: u32) -> Option<Completion> {
        let listener = self.listeners.get_mut(id)?;
        listener.queued = false;
        if self.sockets.is_full() {
            // The backlog is the place to wait in, until a socket has ended.
            listener.wait(clock::now());
            return None;
        }
        let completion = match listener.accept() {
            Accepted::Connection(fd) => match self.adopt(fd, Phase::Open, READING) {
                Ok(socket) => Some(Completion::Accepted { listener: id, socket }),
                Err(error) => return self.pause_accepting(id, error),
            },
            Accepted::Lost => None,
            Accepted::None => {
                listener.recovered();
                return None;
            }
            Accepted::Failed(error) => return self.pause_accepting(id, error),
        };
        let listener = self.listeners.get_mut(id).expect("it accepted a moment ago");
        listener.recovered();
        listener.queued = true;
        if left > 1 {
            self.work.push_front(Work::Accept { listener: id, left: left - 1 });
        } else {
            self.carried.push_back(Work::Accept { listener: id, left: ACCEPTS_PER_ROUND });
        }
        completion
    }

    /// Stops accepting for a while, and says why unless the caller knows that it fails.
    fn pause_accepting(&mut self, id: ListenerId, error: Errno) -> Option<Completion> {
        let is_news = self.listeners.get_mut(id)?.pause(clock::now());
        is_news.then(|| Completion::AcceptFailed { listener: id, error: error.into() })
    }

    /// Takes a socket into a slot and into the epoll set. The caller looked whether there is room.
    fn adopt(&mut self, fd: OwnedFd, phase: Phase, flags: EventFlags) -> Result<SocketId, Errno> {
        let id = self.sockets.next_id().expect("the caller looked whether there is room");
        self.poller.add(&fd, Token::Socket(id), flags)?;
        Ok(self.sockets.insert(Socket::new(fd, phase)))
    }

    /// Voids an id. Its file descriptor and its slot are what a failing accept may be waiting for.
    fn release(&mut self, id: SocketId) {
        self.sockets.free(id);
        self.end_pauses(Instant::FAR_FUTURE);
    }

    /// Sleeps until there is something to do; see [`Driver::park`].
    fn sleep(&mut self, until: Option<Instant>) -> io::Result<()> {
        if std::mem::take(&mut self.unparked) {
            return Ok(());
        }
        if self.has_work() {
            return self.poll().map(drop);
        }
        self.counters.parks += 1;
        loop {
            let wake_at = earliest(until, self.listeners.retry_at());
            self.look(wake_at.map(|wake_at| wake_at.since(clock::now())))?;
            if self.has_work()
                || std::mem::take(&mut self.unparked)
                || until.is_some_and(|until| clock::now() >= until)
            {
                return Ok(());
            }
        }
    }
}

impl Driver for EpollDriver {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)> {
        let (fd, bound) = sys_socket::listen_socket(address, true, self.config.backlog)?;
        Ok((self.listen_on(fd)?, bound))
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        self.listeners.remove(listener);
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<SocketId> {
        if self.sockets.is_full() {
            return Err(sockets::no_slot(self.config.sockets_max));
        }
        let fd = sys_socket::connect_socket(address)?;
        let outcome = rustix::net::connect(&fd, &address);
        let id = self.adopt(fd, Phase::Connecting, READING_AND_WRITING)?;
        // On loopback the outcome is often known at once.
        if outcome != Err(Errno::INPROGRESS) {
            let socket = self.sockets.get_mut(id).expect("it was adopted a moment ago");
            socket.error = outcome.err();
            self.work.push_back(Work::Connect(id));
        }
        Ok(id)
    }

    fn peer_address(&self, socket: SocketId) -> Option<SocketAddr> {
        sys_socket::peer_address(&self.sockets.get(socket)?.fd)
    }

    fn send(&mut self, id: SocketId, output: Output) -> SendState {
        let socket = self.sockets.get_mut(id).filter(|one| one.phase == Phase::Open);
        let socket = socket.expect("a send names an open socket");
        assert!(socket.sending.is_none(), "at most one send is in flight on a socket");
        let mut sending = Sending::new(output);
        match sending.go_on(&socket.fd, &mut self.counters) {
            Transmitted::All => return SendState::Done(sending.output),
            Transmitted::Blocked => {
                let armed = self.poller.modify(&socket.fd, Token::Socket(id), READING_AND_WRITING);
                sending.failed = armed.err();
            }
            Transmitted::Failed(error) => sending.failed = Some(error),
        }
        if sending.failed.is_some() {
            sending.queued = true;
            self.work.push_back(Work::Send(id));
        }
        socket.sending = Some(sending);
        SendState::InFlight
    }

    fn receive_into(
        &mut self,
        socket: SocketId,
        memory: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Vec<u8>> {
        let Some(socket) = self.sockets.get_mut(socket) else { return Err(memory) };
        if socket.paused || socket.ended || socket.into.is_some() {
            return Err(memory);
        }
        // What is to be received stands in the queue already, or will be told by the kernel.
        socket.into = Some((memory, bytes_max.min(RECEIVE_INTO_BYTES_MAX)));
        Ok(())
    }

    fn shutdown_send(&mut self, id: SocketId) {
        let socket = self.sockets.get_mut(id).filter(|one| one.phase == Phase::Open);
        let socket = socket.expect("only an open socket ends its sends");
        assert!(socket.sending.is_none(), "a send is not cut off by ending in order");
        // Fails where the connection is gone, of which the receiving side hears.
        let _ = rustix::net::shutdown(&socket.fd, rustix::net::Shutdown::Write);
    }

    fn pause_receive(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.paused = true;
            if socket.into.is_some() && !std::mem::replace(&mut socket.queued_receive, true) {
                self.work.push_back(Work::Receive(id));
            }
        }
    }

    fn resume_receive(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        socket.paused = false;
        if socket.wants_receive() && !socket.queued_receive {
            socket.queued_receive = true;
            self.work.push_back(Work::Receive(id));
        }
    }

    fn close(&mut self, id: SocketId) {
        if !self.sockets.leave(id) {
            return;
        }
        if let Some(Some(cut_off)) = self.sockets.cut_off(id)
            && !std::mem::replace(&mut cut_off.queued, true)
        {
            self.work.push_back(Work::Send(id));
        }
        self.work.push_back(Work::Close(id));
    }

    fn file_task(&mut self, task: FileTask, op: FileOpId) {
        let bell = self.bell.clone();
        self.file_tasks.submit(task, op, move || bell.ring());
        if self.file_tasks.has_done() {
            self.work.push_back(Work::Files);
        }
    }

    fn read(&mut self, file: FileId, offset: u64, buffer: FileBuffer, op: FileOpId) {
        self.files.submit(file, op, Action::Read { offset, buffer }, &self.bell);
    }

    fn write(&mut self, file: FileId, offset: u64, buffer: FileBuffer, op: FileOpId) {
        self.files.submit(file, op, Action::Write { offset, buffer }, &self.bell);
    }

    fn sync(&mut self, file: FileId, op: FileOpId) {
        self.files.submit(file, op, Action::Sync, &self.bell);
    }

    fn close_file(&mut self, file: FileId) {
        self.files.close(file);
    }

    fn poll(&mut self) -> io::Result<bool> {
        if !self.round_open || self.work.is_empty() {
            self.look(Some(Duration::ZERO))?;
        }
        Ok(!self.work.is_empty())
    }

    fn park(&mut self, until: Option<Instant>) -> io::Result<()> {
        let slept = self.sleep(until);
        self.parker.withdraw();
        slept
    }

    /// Costs an `epoll_wait` unless work is queued: an epoll set has no memory that could be read.
    /// A failure of it is left for [`Driver::poll`] to report.
    fn is_ready(&mut self) -> bool {
        self.poll().unwrap_or(true)
    }

    fn next_completion(&mut self) -> Option<Completion> {
        while let Some(work) = self.work.pop_front() {
            if let Some(completion) = self.perform(work) {
                self.counters.completions += 1;
                return Some(completion);
            }
        }
        self.round_open = false;
        None
    }

    fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        self.chunks.bytes(chunk)
    }

    /// Always a copy: there is one buffer to receive into, and it is needed for the next socket.
    fn lend(&self, chunk: &Chunk) -> Bytes {
        self.lend_copies.set(self.lend_copies.get() + 1);
        Bytes::copy_from_slice(self.chunks.bytes(chunk))
    }

    fn give_back(&mut self, chunk: Chunk) {
        self.chunks.put(chunk.buffer);
        // All of them: the first may have been closed meanwhile, and the buffer is for who is left.
        self.work.extend(self.starved.drain(..).map(Work::Receive));
    }

    fn parker(&self) -> Arc<Parker> {
        self.parker.clone()
    }

    fn describe(&self) -> String {
        let mut text = "epoll (edge-triggered; files on helper threads)".to_owned();
        if let Some(note) = &self.note {
            text += &format!("; {note}");
        }
        text
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters {
            enters: self.poller.enters,
            lend_copies: self.lend_copies.get(),
            ..self.counters
        }
    }
}

impl KernelDriver for EpollDriver {
    fn listen_on(&mut self, fd: OwnedFd) -> io::Result<ListenerId> {
        let id = self.listeners.next_id();
        self.poller.add(&fd, Token::Listener(id), EDGE_IN)?;
        self.listeners.insert(fd);
        Ok(id)
    }
}

impl std::fmt::Debug for EpollDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EpollDriver")
            .field("config", &self.config)
            .field("work", &self.work)
            .field("carried", &self.carried)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

/// An error of the kernel's with what was being tried.
fn explain(what: &str, error: &io::Error) -> io::Error {
    let advice = descriptors::advice(error);
    io::Error::new(error.kind(), format!("epoll driver: {what}: {error}{advice}"))
}
