//! The sockets of one shard by slot and generation, and what a send or a receive does to one.

use super::poller::SLOTS_MAX;
use crate::driver::{DriverCounters, Output, SocketId};
use crate::limits::SEND_SLICES_MAX;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

/// An open or connecting socket.
///
/// `queued_*` say that the socket stands in the work queue for that already: once is enough.
pub(super) struct Socket {
    pub fd: OwnedFd,
    pub phase: Phase,
    /// The kernel may hold bytes, or the end of the stream, that were not received yet.
    pub readable: bool,
    pub queued_receive: bool,
    /// The caller does not want to be told.
    pub paused: bool,
    /// The peer's end, or an error, was reported by the kernel and is behind the bytes that are
    /// left: there will be no other event, so a short receive does not mean that all is read.
    pub ending: bool,
    /// `ReceiveEnded` was reported.
    pub ended: bool,
    /// The error that a failed connect or send took from the socket: who asks later is told "end of
    /// stream", and would take a reset for an orderly end.
    pub error: Option<Errno>,
    pub sending: Option<Sending>,
    /// Memory that is to be received into next, and for how many bytes at most.
    pub into: Option<(Vec<u8>, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Connecting,
    Open,
}

/// A send that the kernel did not take at once.
pub(super) struct Sending {
    pub output: Output,
    pub sent_bytes: usize,
    /// Why it will not go on, if so.
    pub failed: Option<Errno>,
    pub queued: bool,
}

impl Socket {
    pub fn new(fd: OwnedFd, phase: Phase) -> Self {
        Socket {
            fd,
            phase,
            readable: false,
            queued_receive: false,
            paused: false,
            ending: false,
            ended: false,
            error: None,
            sending: None,
            into: None,
        }
    }

    /// True when a receive is worth its system call.
    pub fn wants_receive(&self) -> bool {
        self.readable && !self.paused && !self.ended
    }

    /// Remembers why a send failed, for [`receive`] to tell. `EPIPE` is no news to the reading side:
    /// it follows an end that can still be read, in order or not.
    pub fn note_error(&mut self, error: Errno) {
        if error != Errno::PIPE {
            self.error = Some(error);
        }
    }
}

/// How far a send has come.
pub(super) enum Transmitted {
    /// Everything is in the kernel's hands.
    All,
    /// The kernel's buffer is full.
    Blocked,
    Failed(Errno),
}

impl Sending {
    pub fn new(output: Output) -> Self {
        Sending { output, sent_bytes: 0, failed: None, queued: false }
    }

    /// Sends what is left, for as long as the kernel takes it.
    pub fn go_on(&mut self, fd: impl AsFd, counters: &mut DriverCounters) -> Transmitted {
        const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
        let length = self.output.len();
        while self.sent_bytes < length {
            counters.sends += 1;
            let (taken, offered) = match self.output.as_single() {
                Some(bytes) => {
                    let rest = &bytes[self.sent_bytes..];
                    (rustix::net::send(&fd, rest, FLAGS), rest.len())
                }
                None => send_slices(&fd, &self.output, self.sent_bytes, FLAGS),
            };
            match taken {
                Ok(taken) => {
                    self.sent_bytes += taken;
                    counters.sent_bytes += taken as u64;
                    if taken < offered {
                        return Transmitted::Blocked;
                    }
                }
                Err(Errno::AGAIN) => return Transmitted::Blocked,
                Err(Errno::INTR) => {}
                Err(error) => return Transmitted::Failed(error),
            }
        }
        Transmitted::All
    }
}

/// One vectored send; tells what was taken and how much was offered.
fn send_slices(
    fd: impl AsFd,
    output: &Output,
    skip: usize,
    flags: SendFlags,
) -> (Result<usize, Errno>, usize) {
    let mut slices = [IoSlice::new(&[]); SEND_SLICES_MAX];
    let (mut count, mut offered) = (0, 0);
    for (place, slice) in slices.iter_mut().zip(output.slices(skip, SEND_SLICES_MAX)) {
        offered += slice.len();
        count += 1;
        *place = slice;
    }
    let mut no_control = SendAncillaryBuffer::default();
    (rustix::net::sendmsg(fd, &slices[..count], &mut no_control, flags), offered)
}

/// What a receive brought.
pub(super) enum Arrived {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The end of the stream, in order or not.
    End(Result<(), Errno>),
}

/// Receives once into `memory` and notes on `socket` whether it is worth trying again.
pub(super) fn receive(socket: &mut Socket, memory: &mut [u8]) -> Arrived {
    let room = memory.len();
    let received = rustix::net::recv(&socket.fd, memory, RecvFlags::DONTWAIT);
    note_received(socket, received.map(|(length, _)| (length, room)))
}

/// The same behind the bytes of `memory`.
pub(super) fn receive_into(socket: &mut Socket, memory: &mut Vec<u8>, bytes_max: usize) -> Arrived {
    let received = crate::sys::socket::receive_into(&socket.fd, memory, bytes_max);
    note_received(socket, received)
}

/// So many bytes were received, and there was room for so many.
fn note_received(socket: &mut Socket, received: Result<(usize, usize), Errno>) -> Arrived {
    match received {
        Ok((0, _)) => {
            socket.ended = true;
            Arrived::End(socket.error.map_or(Ok(()), Err))
        }
        Ok((length, room)) => {
            // A short receive has emptied the socket: whatever comes later is a new edge.
            socket.readable = length == room || socket.ending;
            Arrived::Bytes(length)
        }
        Err(Errno::AGAIN) => {
            socket.readable = false;
            Arrived::Nothing
        }
        Err(Errno::INTR) => Arrived::Nothing,
        Err(error) => {
            socket.ended = true;
            Arrived::End(Err(error))
        }
    }
}

/// The slots. A slot counts its tenants, so that an id that was kept too long names nobody.
pub(super) struct Sockets {
    slots: Vec<Slot>,
    free: Vec<u32>,
    slots_max: u32,
}

struct Slot {
    generation: u32,
    tenant: Tenant,
}

enum Tenant {
    Nobody,
    Socket(Socket),
    /// Closed by the caller, not yet reported so; with the send that was cut off.
    Leaving(Option<Sending>),
}

impl Sockets {
    /// # Panics
    /// If `slots_max` does not fit a token; the driver's configuration was checked.
    pub fn new(slots_max: u32) -> Self {
        assert!(slots_max <= SLOTS_MAX, "a slot has to fit a token");
        Sockets { slots: Vec::new(), free: Vec::new(), slots_max }
    }

    /// True when no socket can be added.
    pub fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() as u64 >= u64::from(self.slots_max)
    }

    /// The id that [`Sockets::insert`] will give next, unless full.
    pub fn next_id(&self) -> Option<SocketId> {
        if self.is_full() {
            return None;
        }
        let fresh = SocketId { slot: self.slots.len() as u32, generation: 0 };
        Some(self.free.last().map_or(fresh, |&slot| SocketId {
            slot,
            generation: self.slots[slot as usize].generation,
        }))
    }

    /// Adds a socket under [`Sockets::next_id`].
    pub fn insert(&mut self, socket: Socket) -> SocketId {
        let id = self.next_id().expect("the caller looked whether there is room");
        let tenant = Tenant::Socket(socket);
        match self.free.pop() {
            Some(slot) => self.slots[slot as usize].tenant = tenant,
            None => self.slots.push(Slot { generation: 0, tenant }),
        }
        id
    }

    pub fn get(&self, id: SocketId) -> Option<&Socket> {
        match self.slots.get(id.slot as usize) {
            Some(Slot { generation, tenant: Tenant::Socket(socket) })
                if *generation == id.generation =>
            {
                Some(socket)
            }
            _ => None,
        }
    }

    pub fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        match self.slots.get_mut(id.slot as usize) {
            Some(Slot { generation, tenant: Tenant::Socket(socket) })
                if *generation == id.generation =>
            {
                Some(socket)
            }
            _ => None,
        }
    }

    /// Closes the socket in the kernel; the slot waits for [`Sockets::free`]. False if the id names
    /// no socket.
    pub fn leave(&mut self, id: SocketId) -> bool {
        let Some(socket) = self.get_mut(id) else { return false };
        let cut_off = socket.sending.take();
        self.slots[id.slot as usize].tenant = Tenant::Leaving(cut_off);
        true
    }

    /// The send that was cut off when `id` was closed, if any and until taken.
    pub fn cut_off(&mut self, id: SocketId) -> Option<&mut Option<Sending>> {
        match self.slots.get_mut(id.slot as usize) {
            Some(Slot { generation, tenant: Tenant::Leaving(sending) })
                if *generation == id.generation && sending.is_some() =>
            {
                Some(sending)
            }
            _ => None,
        }
    }

    /// Voids the id and lets the slot to the next tenant.
    pub fn free(&mut self, id: SocketId) {
        let slot = &mut self.slots[id.slot as usize];
        assert_eq!(slot.generation, id.generation, "only the tenant's own id ends a tenancy");
        slot.tenant = Tenant::Nobody;
        // A slot that has run out of generations stays empty: no id is ever given twice.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(id.slot);
        }
    }
}

/// What the caller is told when there is no slot for another socket.
pub(super) fn no_slot(slots_max: u32) -> io::Error {
    let reason = format!("all {slots_max} sockets of this shard are in use (sockets_max)");
    io::Error::new(io::ErrorKind::QuotaExceeded, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Socket {
        let any = std::fs::File::open("/dev/null").expect("every Linux has it");
        Socket::new(any.into(), Phase::Open)
    }

    #[test]
    fn a_reused_slot_has_a_new_id() {
        let mut sockets = Sockets::new(2);
        let first = sockets.insert(socket());
        let other = sockets.insert(socket());
        assert!(sockets.is_full() && sockets.next_id().is_none());
        assert!(sockets.leave(first));
        assert!(sockets.get(first).is_none() && sockets.is_full(), "leaving is not gone");
        assert!(!sockets.leave(first), "left once");
        sockets.free(first);
        let second = sockets.insert(socket());
        assert_eq!(second.slot, first.slot);
        assert_ne!(second, first);
        assert!(sockets.get(first).is_none() && sockets.get_mut(second).is_some());
        assert!(sockets.get(other).is_some());
    }

    #[test]
    fn a_slot_out_of_generations_is_let_to_nobody() {
        let mut sockets = Sockets::new(1);
        sockets.insert(socket());
        sockets.slots[0].generation = u32::MAX;
        sockets.free(SocketId { slot: 0, generation: u32::MAX });
        assert!(sockets.is_full());
    }
}
