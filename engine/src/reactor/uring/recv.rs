//! Receiving: one submission a socket that goes on for as long as there is data and a buffer.
//!
//! It ends for want of a buffer (`ENOBUFS`), which is back-pressure: the socket queues, first come
//! first served, and receives again when a buffer has come back, never before. A socket that sends
//! much may so take all buffers once; after that it has one at a time, as has everybody who queues.
//!
//! A large body is received into memory that the shard offers, between two chunks. A receive that
//! goes on leaves no such moment, so the first offer is declined, and makes the socket receive
//! chunks one by one for a while. Each is armed when the shard has dealt with the one before.

use super::UringDriver;
use super::config::Features;
use super::op::{Op, Tag};
use super::socket::{Receive, Socket, Stage};
use crate::driver::{Chunk, Completion, SocketId};
use crate::limits;
use crate::sys::ring::{Brings, Reaped};
use crate::sys::socket::peer_address;
use crate::sys::submit::{Cancel, Shots};
use bytes::Bytes;
use std::io;
use std::os::fd::AsFd;

impl UringDriver {
    pub(super) fn arm_receive(&mut self, id: SocketId) {
        let mut shots = self.shots(Features::MULTISHOT_RECEIVE);
        let socket = self.sockets.known(id);
        if socket.single > 0 {
            shots = Shots::One;
        }
        assert!(
            socket.stage == Stage::Open && matches!(socket.receive, Receive::Idle),
            "an open socket receives once at a time"
        );
        socket.receive = Receive::Armed;
        let user_data = Op::on(Tag::Receive, id).encode();
        self.ring.receive(socket.descriptor().as_fd(), shots, user_data);
    }

    pub(super) fn on_receive(&mut self, op: Op, reaped: Reaped) -> Option<Completion> {
        let id = op.socket();
        let chunk = self.take_chunk(id, &reaped);
        if reaped.more {
            return chunk.map(|chunk| Completion::Received { socket: id, chunk });
        }
        let socket = self.sockets.get_mut(id)?;
        socket.receive = Receive::Idle;
        if socket.stage == Stage::Closing {
            self.finish_close(id);
            return None;
        }
        if let Some(chunk) = chunk {
            if socket.single > 0 {
                socket.single -= 1;
                self.unarmed.push(id);
            } else {
                self.receive_on(id);
            }
            return Some(Completion::Received { socket: id, chunk });
        }
        match -reaped.result {
            libc::ENOBUFS => {
                socket.receive = Receive::Waiting;
                // A receive that goes on would take all buffers that come back, and those behind it
                // in the queue would never have one.
                socket.single = limits::SINGLE_RECEIVES;
                self.waiting.push_back(id);
                self.counters.buffer_waits += 1;
                None
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                self.receive_on(id);
                None
            }
            error => {
                socket.ended = true;
                Some(Completion::ReceiveEnded { socket: id, result: end_of(socket, error) })
            }
        }
    }

    /// Takes the offer up if nothing is being received. Otherwise the socket is made to receive
    /// one by one from now on, so that the next offer comes at a better time.
    pub(super) fn receive_into_memory(
        &mut self,
        id: SocketId,
        memory: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Vec<u8>> {
        let Some(socket) = self.sockets.get_mut(id) else { return Err(memory) };
        let is_quiet = socket.receive == Receive::Idle && !socket.paused && !socket.ended;
        if socket.stage == Stage::Open && is_quiet {
            socket.single = limits::SINGLE_RECEIVES;
            let user_data = Op::on(Tag::ReceiveInto, id).encode();
            let (descriptor, bytes_max) =
                (socket.descriptor().as_fd(), bytes_max.min(limits::RECEIVE_INTO_BYTES_MAX));
            let ticket = self.ring.receive_into(descriptor, memory, bytes_max, user_data);
            socket.receive = Receive::Into(ticket);
            return Ok(());
        }
        if socket.single == 0 {
            self.end_receive(id);
        }
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.single = limits::SINGLE_RECEIVES;
        }
        Err(memory)
    }

    pub(super) fn on_filled(&mut self, op: Op, reaped: Reaped) -> Option<Completion> {
        let Brings::Memory(landed) = reaped.brings else {
            unreachable!("a receive into memory brings it back");
        };
        let id = op.socket();
        let received = usize::try_from(reaped.result).unwrap_or(0);
        let memory = self.ring.take_body(landed, received);
        let socket = self.sockets.known(id);
        socket.receive = Receive::Idle;
        if socket.stage == Stage::Closing {
            self.finish_close(id);
            return None;
        }
        match -reaped.result {
            _ if received > 0 => {
                self.counters.receives += 1;
                self.counters.received_bytes += received as u64;
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            error => {
                socket.ended = true;
                let result = end_of(socket, error);
                self.told.push_back(Completion::ReceiveEnded { socket: id, result });
            }
        }
        self.unarmed.push(id);
        Some(Completion::Filled { socket: id, memory })
    }

    /// Receives on where the shard has made no offer.
    pub(super) fn arm_rest(&mut self) {
        while let Some(id) = self.unarmed.pop() {
            let Some(socket) = self.sockets.get(id) else { continue };
            let is_quiet = socket.receive == Receive::Idle && !socket.ended;
            if socket.stage == Stage::Open && is_quiet {
                self.receive_on(id);
            }
        }
    }

    /// Asks the kernel to end the receive that is in flight, if any.
    pub(super) fn end_receive(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        match socket.receive {
            Receive::Armed => {
                socket.receive = Receive::Ending;
                self.ring.cancel(Cancel::Plain(Op::on(Tag::Receive, id).encode()));
            }
            Receive::Into(ticket) => self.ring.cancel(Cancel::Memory(ticket)),
            Receive::Idle | Receive::Ending | Receive::Waiting => {}
        }
    }

    /// The bytes that a completion brings; what nobody wants any more goes straight back.
    fn take_chunk(&mut self, id: SocketId, reaped: &Reaped) -> Option<Chunk> {
        let Brings::Buffer(buffer) = reaped.brings else { return None };
        let wanted = self.sockets.get(id).is_some_and(|socket| socket.stage == Stage::Open);
        if !wanted || reaped.result <= 0 {
            self.ring.buffers_mut().give_back(buffer);
            return None;
        }
        let length = reaped.result as u32;
        self.counters.receives += 1;
        self.counters.received_bytes += u64::from(length);
        Some(Chunk { buffer: u32::from(buffer), offset: 0, length })
    }

    /// Receives again unless the shard does not want to.
    fn receive_on(&mut self, id: SocketId) {
        if !self.sockets.known(id).paused {
            self.arm_receive(id);
        }
    }

    pub(super) fn pause(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        socket.paused = true;
        self.end_receive(id);
    }

    pub(super) fn resume(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        socket.paused = false;
        // One that is ending goes on when it has ended; one that waits still waits.
        if socket.stage == Stage::Open && socket.receive == Receive::Idle && !socket.ended {
            self.arm_receive(id);
        }
    }

    /// Takes lent buffers in that came back, and lets sockets that wait for one receive again.
    pub(super) fn refill(&mut self) {
        self.ring.buffers_mut().collect_returned();
        if self.waiting.is_empty() {
            return;
        }
        let mut room = self.ring.buffers().with_kernel();
        while room > 0 {
            let Some(id) = self.waiting.pop_front() else { return };
            let Some(socket) = self.sockets.get_mut(id) else { continue };
            if socket.receive == Receive::Waiting {
                socket.receive = Receive::Idle;
                // One that does not want to receive takes no buffer from those behind it.
                room -= u16::from(!socket.paused);
                self.receive_on(id);
            }
        }
    }

    pub(super) fn chunk_bytes(&self, chunk: &Chunk) -> &[u8] {
        self.ring.buffers().bytes(chunk.buffer as u16, chunk.offset, chunk.length)
    }

    pub(super) fn lend_chunk(&self, chunk: &Chunk) -> Bytes {
        let buffers = self.ring.buffers();
        let count = buffers.pool().count();
        if count - buffers.lent() <= count / limits::LEND_RESERVE_FRACTION {
            self.lend_copies.set(self.lend_copies.get() + 1);
            return Bytes::copy_from_slice(self.chunk_bytes(chunk));
        }
        match buffers.lend(chunk.buffer as u16, chunk.offset, chunk.length) {
            Some(lent) => Bytes::from_owner(lent),
            // Part of it is lent already: one owner a buffer.
            None => Bytes::copy_from_slice(self.chunk_bytes(chunk)),
        }
    }

    pub(super) fn take_back(&mut self, chunk: Chunk) {
        self.ring.buffers_mut().give_back(chunk.buffer as u16);
    }
}

/// How the stream ended, by the result of the last receive.
fn end_of(socket: &Socket, error: i32) -> io::Result<()> {
    match error {
        // The kernel tells a reset once, and a send may have been the one to hear it. Where both sides
        // have ended in order, there is no peer left either.
        0 if socket.sends_ended || peer_address(socket.descriptor()).is_some() => Ok(()),
        0 => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
        _ => Err(io::Error::from_raw_os_error(error)),
    }
}
