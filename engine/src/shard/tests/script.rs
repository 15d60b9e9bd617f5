//! A driver whose completions are told by the test, which sees what the shard asks for.

use crate::driver::{
    Chunk, Completion, Driver, DriverCounters, FileBuffer, FileId, FileOpId, FileTask, ListenerId,
    Output, Parker, SendState, SocketId,
};
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

pub(super) struct ScriptDriver {
    /// Shared with handlers, which spend time.
    pub(super) clock: Rc<Cell<Instant>>,
    completions: VecDeque<Completion>,
    chunks: Vec<Vec<u8>>,
    pub(super) sent: BTreeMap<SocketId, Vec<u8>>,
    pub(super) paused: BTreeSet<SocketId>,
    pub(super) closed: BTreeSet<SocketId>,
    /// Sends stay in flight until [`ScriptDriver::send_held`].
    pub(super) holds_sends: bool,
    held: Vec<(SocketId, Output)>,
    shut_down: BTreeSet<SocketId>,
    next_slot: u32,
    parker: Arc<Parker>,
}

impl ScriptDriver {
    pub(super) fn new() -> Self {
        ScriptDriver {
            clock: Rc::new(Cell::new(Instant::from_nanos(1_000_000_000))),
            completions: VecDeque::new(),
            chunks: Vec::new(),
            sent: BTreeMap::new(),
            paused: BTreeSet::new(),
            closed: BTreeSet::new(),
            holds_sends: false,
            held: Vec::new(),
            shut_down: BTreeSet::new(),
            next_slot: 0,
            parker: Arc::new(Parker::new(None, Box::new(|| {}))),
        }
    }

    pub(super) fn wait(&self, time: Duration) {
        self.clock.set(self.clock.get() + time);
    }

    pub(super) fn accepts(&mut self) -> SocketId {
        let socket = self.new_socket();
        self.completions.push_back(Completion::Accepted { listener: ListenerId(0), socket });
        socket
    }

    pub(super) fn receives(&mut self, socket: SocketId, bytes: Vec<u8>) {
        let chunk = Chunk::new(self.chunks.len() as u32, 0, bytes.len() as u32);
        self.chunks.push(bytes);
        self.completions.push_back(Completion::Received { socket, chunk });
    }

    pub(super) fn connects(&mut self, socket: SocketId) {
        self.completions.push_back(Completion::Connected { socket, result: Ok(()) });
    }

    pub(super) fn ends(&mut self, socket: SocketId) {
        self.completions.push_back(Completion::ReceiveEnded { socket, result: Ok(()) });
    }

    /// What is held back arrives.
    pub(super) fn send_held(&mut self) {
        for (socket, output) in std::mem::take(&mut self.held) {
            self.sent.entry(socket).or_default().extend(output.to_vec());
            self.completions.push_back(Completion::Sent { socket, output, result: Ok(()) });
        }
    }

    /// True if the peer was told that nothing more will be sent.
    pub(super) fn is_shut_down(&self, socket: SocketId) -> bool {
        self.shut_down.contains(&socket)
    }

    fn new_socket(&mut self) -> SocketId {
        let slot = self.next_slot;
        self.next_slot += 1;
        SocketId { slot, generation: 1 }
    }
}

impl Driver for ScriptDriver {
    fn now(&self) -> Instant {
        self.clock.get()
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)> {
        Ok((ListenerId(0), address))
    }

    fn stop_listening(&mut self, _: ListenerId) {}

    fn connect(&mut self, _: SocketAddr) -> io::Result<SocketId> {
        Ok(self.new_socket())
    }

    fn peer_address(&self, _: SocketId) -> Option<SocketAddr> {
        None
    }

    fn send(&mut self, socket: SocketId, output: Output) -> SendState {
        if self.holds_sends {
            self.held.push((socket, output));
            return SendState::InFlight;
        }
        self.sent.entry(socket).or_default().extend(output.to_vec());
        SendState::Done(output)
    }

    fn receive_into(&mut self, _: SocketId, memory: Vec<u8>, _: usize) -> Result<(), Vec<u8>> {
        Err(memory)
    }

    fn shutdown_send(&mut self, socket: SocketId) {
        self.shut_down.insert(socket);
    }

    fn pause_receive(&mut self, socket: SocketId) {
        self.paused.insert(socket);
    }

    fn resume_receive(&mut self, socket: SocketId) {
        self.paused.remove(&socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.closed.insert(socket);
        self.completions.push_back(Completion::Closed { socket });
    }

    fn file_task(&mut self, _: FileTask, _: FileOpId) {}

    fn read(&mut self, _: FileId, _: u64, _: FileBuffer, _: FileOpId) {}

    fn write(&mut self, _: FileId, _: u64, _: FileBuffer, _: FileOpId) {}

    fn sync(&mut self, _: FileId, _: FileOpId) {}

    fn close_file(&mut self, _: FileId) {}

    fn poll(&mut self) -> io::Result<bool> {
        Ok(!self.completions.is_empty())
    }

    fn park(&mut self, _: Option<Instant>) -> io::Result<()> {
        Ok(())
    }

    fn is_ready(&mut self) -> bool {
        !self.completions.is_empty()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        &self.chunks[chunk.buffer() as usize]
    }

    fn lend(&self, chunk: &Chunk) -> Bytes {
        Bytes::copy_from_slice(self.bytes(chunk))
    }

    fn give_back(&mut self, _: Chunk) {}

    fn parker(&self) -> Arc<Parker> {
        self.parker.clone()
    }

    fn describe(&self) -> String {
        "script".to_owned()
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters::default()
    }
}
