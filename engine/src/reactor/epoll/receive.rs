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
        self.after_receive(id, &arrived);
        match arrived {
            Arrived::Bytes(length) => {
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

    /// Counts what came, and tries again later where there may be more.
    fn after_receive(&mut self, id: SocketId, arrived: &Arrived) {
        if let Arrived::Bytes(length) = arrived {
            self.counters.receives += 1;
            self.counters.received_bytes += *length as u64;
        }
        if let Some(socket) = self.sockets.get_mut(id)
            && socket.wants_receive()
        {
            socket.queued_receive = true;
            self.carried.push_back(Work::Receive(id));
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
        self.after_receive(id, &arrived);
        match arrived {
            Arrived::Bytes(_) => {}
            Arrived::Nothing => {
                self.sockets.get_mut(id)?.into = Some((memory, bytes_max));
                return None;
            }
            Arrived::End(result) => {
                self.sockets.get_mut(id)?.error = result.err();
                self.work.push_front(Work::End(id));
            }
        }
        Some(Completion::Filled { socket: id, memory })
    }
}
