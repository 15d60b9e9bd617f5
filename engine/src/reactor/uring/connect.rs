//! Connecting to others.

use super::UringDriver;
use super::op::{Op, Tag};
use super::socket::Stage;
use crate::driver::{Completion, SocketId};
use crate::sys::ring::{Brings, Reaped};
use crate::sys::socket;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

impl UringDriver {
    pub(super) fn start_connect(&mut self, address: SocketAddr) -> io::Result<SocketId> {
        let descriptor = socket::connect_socket(address)?;
        let id = self.sockets.insert(descriptor, Stage::Connecting).map_err(|_| {
            let max = self.sockets.max();
            let full = format!("no socket for {address}: all {max} of this shard are in use");
            io::Error::new(io::ErrorKind::QuotaExceeded, full)
        })?;
        let socket = self.sockets.known(id);
        let user_data = Op::on(Tag::Connect, id).encode();
        let ticket = self.ring.connect(socket.descriptor().as_fd(), address, user_data);
        socket.in_flight = Some(ticket);
        Ok(id)
    }

    pub(super) fn on_connect(&mut self, op: Op, reaped: Reaped) -> Option<Completion> {
        if let Brings::Memory(address) = reaped.brings {
            self.ring.discard(address);
        }
        let id = op.socket();
        let socket = self.sockets.get_mut(id)?;
        socket.in_flight = None;
        if socket.stage == Stage::Closing {
            self.finish_close(id);
            return None;
        }
        if reaped.result < 0 {
            self.sockets.remove(id);
            self.retry_accepts_soon();
            let error = io::Error::from_raw_os_error(-reaped.result);
            return Some(Completion::Connected { socket: id, result: Err(error) });
        }
        socket.stage = Stage::Open;
        self.arm_receive(id);
        Some(Completion::Connected { socket: id, result: Ok(()) })
    }
}
