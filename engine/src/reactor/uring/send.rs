//! Sending: one send in flight on a socket, gone on with until all of it was sent.

use super::UringDriver;
use super::config::Features;
use super::op::{Op, Tag};
use super::socket::Stage;
use crate::driver::{Completion, Output, SendState, SocketId};
use crate::limits::{EAGER_SEND_BYTES_MAX, EAGER_SEND_TOLD_LATE_MS_MAX};
use crate::sys::ring::{Brings, Reaped};
use crate::sys::submit::Patience;
use io_uring::types::Timespec;
use std::io;
use std::os::fd::AsFd;

impl UringDriver {
    pub(super) fn start_send(&mut self, id: SocketId, output: Output) -> SendState {
        let eager = self.features.contains(Features::EAGER_SEND);
        let socket = self.sockets.known(id);
        assert!(
            socket.stage == Stage::Open && socket.in_flight.is_none() && !socket.sends_ended,
            "{id:?} is sent to while {:?}, with one send in flight at most, and none after its end",
            socket.stage
        );
        if output.is_empty() {
            return SendState::Done(output);
        }
        let patience = if eager && output.len() <= EAGER_SEND_BYTES_MAX {
            Patience::Eager
        } else {
            Patience::Patient
        };
        let user_data = Op::on(Tag::Send, id).encode();
        let ticket = self.ring.send(socket.descriptor().as_fd(), output, patience, user_data);
        socket.in_flight = Some(ticket);
        self.counters.sends += 1;
        SendState::InFlight
    }

    /// Nothing is in flight that the ring could bring out of order, and there is nothing to wait for,
    /// so a plain system call will do: there is one in the life of a connection at most.
    pub(super) fn end_sends(&mut self, id: SocketId) {
        let socket = self.sockets.known(id);
        assert!(
            socket.stage == Stage::Open && socket.in_flight.is_none(),
            "{id:?} ends its sends while {:?}, with none in flight",
            socket.stage
        );
        socket.sends_ended = true;
        // Fails where the connection is gone, of which the receiving side hears.
        let _ = rustix::net::shutdown(socket.descriptor(), rustix::net::Shutdown::Write);
    }

    /// Bounds how late the ends of eager sends are told. One time-out serves all sends until it
    /// fires: arming one for each sleep would cost a reprogrammed timer, or two, each time.
    pub(super) fn arm_nudge(&mut self) {
        static LATE: Timespec =
            Timespec::new().nsec(EAGER_SEND_TOLD_LATE_MS_MAX as u32 * 1_000_000);
        self.ring.timeout(&LATE, Op::new(Tag::Nudge, 0, 0).encode());
        self.nudge_armed = true;
    }

    pub(super) fn on_send(&mut self, op: Op, reaped: Reaped) -> Option<Completion> {
        let Brings::Memory(landed) = reaped.brings else {
            unreachable!("a send brings its output back");
        };
        let id = op.socket();
        let Some(socket) = self.sockets.get_mut(id) else {
            unreachable!("a socket outlives its send");
        };
        let sent = usize::try_from(reaped.result).unwrap_or(0);
        self.counters.sent_bytes += sent as u64;
        let left = self.ring.count_sent(&landed, sent);
        let result = match -reaped.result {
            _ if left == 0 => Ok(()),
            _ if socket.stage == Stage::Closing => {
                Err(io::Error::from_raw_os_error(libc::ECANCELED))
            }
            // The socket was full for an eager send, or a patient one was cut short.
            error if error < 0 || error == libc::EAGAIN || error == libc::EINTR => {
                socket.in_flight = Some(self.ring.send_rest(socket.descriptor().as_fd(), landed));
                self.counters.sends += 1;
                return None;
            }
            0 => Err(io::ErrorKind::WriteZero.into()),
            error => Err(io::Error::from_raw_os_error(error)),
        };
        socket.in_flight = None;
        let output = self.ring.take_output(landed);
        self.finish_close(id);
        Some(Completion::Sent { socket: id, output, result })
    }
}
