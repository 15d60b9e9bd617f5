//! Accepting connections.
//!
//! One submission accepts until it fails. Out of descriptors or memory it is told once, tried again
//! after a while or when a socket has closed, and told again only after it has worked in between.
//! Connections wait in the backlog meanwhile.

use super::UringDriver;
use super::config::Features;
use super::op::{Op, Tag};
use super::socket::Stage;
use crate::driver::{Completion, ListenerId};
use crate::limits;
use crate::reactor::accept_errors::{RETRY_AFTER, concerns_one_connection};
use crate::sys::ring::{Brings, Reaped};
use crate::sys::submit::{Cancel, Shots};
use crate::sys::{clock, socket};
use crate::time::Instant;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

#[derive(Debug)]
pub(super) struct Listener {
    /// `None` when it has stopped and nothing of it is in flight.
    descriptor: Option<OwnedFd>,
    /// Accepted by the kernel, which runs ahead, while the driver had no slot for another socket. They
    /// wait as they would in the backlog.
    held: VecDeque<OwnedFd>,
    armed: bool,
    stopped: bool,
    /// The shard was told of a failure, and nothing was accepted since.
    failing: bool,
    /// When to try again after a failure.
    retry_at: Option<Instant>,
}

impl UringDriver {
    pub(super) fn start_listening(
        &mut self,
        address: SocketAddr,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let (descriptor, bound) = socket::listen_socket(address, true, limits::LISTEN_BACKLOG)?;
        Ok((self.accept_on(descriptor), bound))
    }

    pub(super) fn accept_on(&mut self, descriptor: OwnedFd) -> ListenerId {
        let id = ListenerId(u32::try_from(self.listeners.len()).expect("few listeners"));
        self.listeners.push(Listener {
            descriptor: Some(descriptor),
            held: VecDeque::new(),
            armed: false,
            stopped: false,
            failing: false,
            retry_at: None,
        });
        self.arm_accept(id);
        id
    }

    pub(super) fn stop_listener(&mut self, id: ListenerId) {
        let listener = &mut self.listeners[id.0 as usize];
        listener.stopped = true;
        listener.retry_at = None;
        listener.held.clear();
        if listener.armed {
            self.ring.cancel(Cancel::Descriptor(Op::new(Tag::Accept, id.0, 0).encode()));
        } else {
            listener.descriptor = None;
        }
    }

    fn arm_accept(&mut self, id: ListenerId) {
        let shots = self.shots(Features::MULTISHOT_ACCEPT);
        let listener = &mut self.listeners[id.0 as usize];
        assert!(!listener.armed && !listener.stopped, "one accept at a time, until it is stopped");
        let descriptor = listener.descriptor.as_ref().expect("a listener listens until stopped");
        let user_data = Op::new(Tag::Accept, id.0, 0).encode();
        self.ring.accept(descriptor.as_fd(), shots, user_data);
        (listener.armed, listener.retry_at) = (true, None);
    }

    pub(super) fn on_accept(&mut self, op: Op, reaped: Reaped) -> Option<Completion> {
        let id = ListenerId(op.slot);
        let listener = &mut self.listeners[op.slot as usize];
        listener.armed = reaped.more;
        if listener.stopped {
            if !listener.armed {
                listener.descriptor = None;
            }
            // A connection that came with it is closed here.
            return None;
        }
        let told = match reaped.brings {
            Brings::Descriptor(descriptor) => self.take_in(id, descriptor),
            _ => self.accept_failed(id, io::Error::from_raw_os_error(-reaped.result)),
        };
        let listener = &self.listeners[op.slot as usize];
        if !listener.armed && listener.retry_at.is_none() {
            self.arm_accept(id);
        }
        told
    }

    fn take_in(&mut self, id: ListenerId, descriptor: OwnedFd) -> Option<Completion> {
        let listener = &mut self.listeners[id.0 as usize];
        listener.failing = false;
        listener.held.push_back(descriptor);
        let told = self.seat(id);
        if told.is_none() {
            let listener = &self.listeners[id.0 as usize];
            if listener.armed && listener.held.len() == 1 {
                self.ring.cancel(Cancel::Descriptor(Op::new(Tag::Accept, id.0, 0).encode()));
            }
            self.retry_later(id);
        }
        told
    }

    /// Finds a slot for the connection that has been held for longest.
    fn seat(&mut self, id: ListenerId) -> Option<Completion> {
        if !self.sockets.has_room() {
            return None;
        }
        let descriptor = self.listeners[id.0 as usize].held.pop_front()?;
        let socket = self.sockets.insert(descriptor, Stage::Open);
        let socket = socket.expect("there is room, as was seen a moment ago");
        self.arm_receive(socket);
        Some(Completion::Accepted { listener: id, socket })
    }

    fn retry_later(&mut self, id: ListenerId) {
        let retry_at = clock::now() + RETRY_AFTER;
        self.listeners[id.0 as usize].retry_at = Some(retry_at);
        self.accept_retry_at = Some(self.accept_retry_at.map_or(retry_at, |at| at.min(retry_at)));
    }

    fn accept_failed(&mut self, id: ListenerId, error: io::Error) -> Option<Completion> {
        // The peer's affair, or nobody's; or the driver itself has cancelled, for want of a slot.
        let is_none = |error| matches!(error, Errno::AGAIN | Errno::CANCELED);
        let is_lost = |error| concerns_one_connection(error) || is_none(error);
        if Errno::from_io_error(&error).is_some_and(is_lost) {
            return None;
        }
        self.retry_later(id);
        let listener = &mut self.listeners[id.0 as usize];
        let first = !std::mem::replace(&mut listener.failing, true);
        first.then_some(Completion::AcceptFailed { listener: id, error })
    }

    /// Tries at the next turn what has failed: a descriptor and a slot have become free.
    pub(super) fn retry_accepts_soon(&mut self) {
        if self.accept_retry_at.is_some() {
            self.accept_retry_at = Some(Instant::ZERO);
            for listener in &mut self.listeners {
                listener.retry_at = listener.retry_at.map(|_| Instant::ZERO);
            }
        }
    }

    /// True if accepting has failed and is to be tried again now.
    pub(super) fn accept_is_due(&self) -> bool {
        self.accept_retry_at.is_some_and(|at| at <= clock::now())
    }

    /// Accepts again where that has failed and it is time.
    pub(super) fn retry_accepts(&mut self) {
        if !self.accept_is_due() {
            return;
        }
        let now = clock::now();
        let later = now + RETRY_AFTER;
        self.accept_retry_at = None;
        for index in 0..self.listeners.len() {
            let Some(retry_at) = self.listeners[index].retry_at else { continue };
            if retry_at <= now && self.seat_all(ListenerId(index as u32)) {
                continue;
            }
            let listener = &mut self.listeners[index];
            let next = if retry_at <= now { later } else { retry_at };
            listener.retry_at = Some(next);
            self.accept_retry_at = Some(self.accept_retry_at.map_or(next, |at| at.min(next)));
        }
    }

    /// Finds slots for what is held, and goes on accepting if there is still room then. True if so.
    fn seat_all(&mut self, id: ListenerId) -> bool {
        while let Some(accepted) = self.seat(id) {
            self.told.push_back(accepted);
        }
        if !self.sockets.has_room() {
            return false;
        }
        // An accept whose cancellation is under way begins anew when that has ended.
        self.listeners[id.0 as usize].retry_at = None;
        if !self.listeners[id.0 as usize].armed {
            self.arm_accept(id);
        }
        true
    }

    pub(super) fn shots(&self, feature: Features) -> Shots {
        if self.features.contains(feature) { Shots::Many } else { Shots::One }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Driver;
    use crate::reactor::uring::UringConfig;
    use std::net::{Ipv4Addr, TcpStream};

    /// What the kernel says of an accept that was cancelled.
    fn cancelled(listener: ListenerId) -> (Op, Reaped) {
        let op = Op::new(Tag::Accept, listener.0, 0);
        let (user_data, result) = (op.encode(), -libc::ECANCELED);
        (op, Reaped { user_data, result, more: false, brings: Brings::Nothing })
    }

    /// Only the driver cancels: when it stops, and when there is no slot for another socket. A second
    /// cancel of that sort may meet the accept that came after.
    #[test]
    fn a_cancel_of_our_own_is_no_failure() {
        let Ok(mut driver) = UringDriver::new(&UringConfig::default()) else {
            return println!("skipped: there is no io_uring");
        };
        let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
        let (listener, address) = driver.listen(anywhere).expect("loopback listens");
        let (op, reaped) = cancelled(listener);
        assert!(driver.on_accept(op, reaped).is_none(), "nothing has failed");
        let _guest = TcpStream::connect(address).expect("the backlog takes it");
        let accepted = loop {
            driver.park(None).expect("the driver works");
            if let Some(completion) = driver.next_completion() {
                break completion;
            }
        };
        assert!(matches!(accepted, Completion::Accepted { .. }), "it goes on: {accepted:?}");
        driver.stop_listening(listener);
        let (op, reaped) = cancelled(listener);
        assert!(driver.on_accept(op, reaped).is_none(), "it was told to stop");
    }
}
