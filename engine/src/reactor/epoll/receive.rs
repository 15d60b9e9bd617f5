//! Receiving: into a buffer of the driver's, or where the shard has offered memory.

use super::sockets::{self, Arrived};
use super::{EpollDriver, Work};
use crate::driver::{Chunk, Completion, SocketId};
use std::io;

impl EpollDriver {
    pub(super) fn receive(&mut self, id: SocketId) -> Option<Completion> {
        let socket = self.sockets.get_mut(id)?;
        socket.queued_receive = false;
        if let Some((memory, bytes_max)) = socket.into.take() {
            return self.receive_into_memory(id, memory, bytes_max);
        }
        if !socket.wants_receive() {
            return None;
        }
        let Some(buffer) = self.chunks.take() else {
            socket.queued_receive = true;
            self.starved.push_back(id);
            self.counters.buffer_waits += 1;
            return None;
        };
        let arrived = sockets::receive(socket, self.chunks.memory(buffer));
        if socket.wants_receive() {
            socket.queued_receive = true;
            self.carried.push_back(Work::Receive(id));
        }
        match arrived {
            Arrived::Bytes(length) => {
                self.counters.receives += 1;
                self.counters.received_bytes += length as u64;
                let chunk = Chunk { buffer, offset: 0, length: length as u32 };
                Some(Completion::Received { socket: id, chunk })
            }
            Arrived::Nothing => {
                self.chunks.put(buffer);
                None
            }
            Arrived::End(result) => {
                self.chunks.put(buffer);
                let result = result.map_err(io::Error::from);
                Some(Completion::ReceiveEnded { socket: id, result })
            }
        }
    }

    fn receive_into_memory(
        &mut self,
        id: SocketId,
        mut memory: Vec<u8>,
        bytes_max: usize,
    ) -> Option<Completion> {
        let socket = self.sockets.get_mut(id)?;
        if socket.paused {
            return Some(Completion::Filled { socket: id, memory });
        }
        let arrived = sockets::receive_into(socket, &mut memory, bytes_max);
        if socket.wants_receive() {
            socket.queued_receive = true;
            self.carried.push_back(Work::Receive(id));
        }
        match arrived {
            Arrived::Bytes(length) => {
                self.counters.receives += 1;
                self.counters.received_bytes += length as u64;
            }
            Arrived::Nothing => {
                socket.into = Some((memory, bytes_max));
                return None;
            }
            Arrived::End(result) => {
                socket.error = result.err();
                self.work.push_front(Work::End(id));
            }
        }
        Some(Completion::Filled { socket: id, memory })
    }
}
