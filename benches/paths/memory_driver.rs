//! A driver without a kernel: what is "received" is given, what is sent is counted.

use bytes::Bytes;
use catena_engine::driver::{
    Chunk, Completion, Driver, DriverCounters, FileBuffer, FileId, FileOpId, FileTask, ListenerId,
    Output, Parker, SendState, SocketId,
};
use catena_engine::time::Instant;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

pub struct MemoryDriver {
    connections: u32,
    received: Vec<u8>,
    completions: VecDeque<Completion>,
    parker: Arc<Parker>,
    /// Bytes handed to `send`.
    pub sent_bytes: usize,
}

impl MemoryDriver {
    pub fn new(connections: u32) -> Self {
        MemoryDriver {
            connections,
            received: Vec::new(),
            completions: VecDeque::with_capacity(connections as usize),
            parker: Arc::new(Parker::new(None, Box::new(|| {}))),
            sent_bytes: 0,
        }
    }

    pub fn accept_all(&mut self) {
        for slot in 0..self.connections {
            let socket = SocketId { slot, generation: 1 };
            self.completions.push_back(Completion::Accepted { listener: ListenerId(0), socket });
        }
    }

    /// The same bytes on every connection.
    pub fn receive_all(&mut self, bytes: &[u8]) {
        self.received.clear();
        self.received.extend_from_slice(bytes);
        for slot in 0..self.connections {
            let socket = SocketId { slot, generation: 1 };
            let chunk = Chunk::new(0, 0, bytes.len() as u32);
            self.completions.push_back(Completion::Received { socket, chunk });
        }
    }
}

impl Driver for MemoryDriver {
    /// A clock that stands still costs nothing: what it costs in truth is the driver's, not counted.
    fn now(&self) -> Instant {
        Instant::from_nanos(1_000_000_000)
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)> {
        Ok((ListenerId(0), address))
    }

    fn stop_listening(&mut self, _: ListenerId) {}

    fn connect(&mut self, _: SocketAddr) -> io::Result<SocketId> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn peer_address(&self, _: SocketId) -> Option<SocketAddr> {
        None
    }

    fn send(&mut self, _: SocketId, output: Output) -> SendState {
        self.sent_bytes += output.len();
        SendState::Done(output)
    }

    fn receive_into(&mut self, _: SocketId, memory: Vec<u8>, _: usize) -> Result<(), Vec<u8>> {
        Err(memory)
    }

    fn shutdown_send(&mut self, _: SocketId) {}

    fn pause_receive(&mut self, _: SocketId) {}

    fn resume_receive(&mut self, _: SocketId) {}

    fn close(&mut self, socket: SocketId) {
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

    fn bytes<'a>(&'a self, _: &'a Chunk) -> &'a [u8] {
        &self.received
    }

    fn lend(&self, _: &Chunk) -> Bytes {
        Bytes::copy_from_slice(&self.received)
    }

    fn give_back(&mut self, _: Chunk) {}

    fn parker(&self) -> Arc<Parker> {
        self.parker.clone()
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters::default()
    }
}
