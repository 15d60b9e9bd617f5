//! The sockets of a shard: a table of slots, and the end of a socket's life.
//!
//! A slot is freed when the last completion of its socket has come, and its generation goes up, so
//! neither an id nor a late completion ever means another socket.

use super::UringDriver;
use crate::driver::{Completion, SocketId};
use crate::sys::in_flight::Ticket;
use crate::sys::submit::Cancel;
use std::os::fd::OwnedFd;

/// Where a socket stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nobody's.
    Vacant,
    /// A connect is in flight.
    Connecting,
    /// To be sent to and received from.
    Open,
    /// The shard has closed it; operations are still in flight.
    Closing,
}

/// How a socket's receiving stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receive {
    /// Not in flight.
    Idle,
    /// In flight.
    Armed,
    /// In flight, and asked to end.
    Ending,
    /// Not in flight: there was no buffer, and it queues for one.
    Waiting,
    /// In flight, into memory of the shard's.
    Into(Ticket),
}

#[derive(Debug)]
pub(super) struct Socket {
    /// `Some` unless the slot is vacant.
    pub(super) descriptor: Option<OwnedFd>,
    generation: u32,
    pub(super) stage: Stage,
    pub(super) receive: Receive,
    /// The shard does not want to receive.
    pub(super) paused: bool,
    /// Nothing will be received any more, and the shard was told.
    pub(super) ended: bool,
    /// Receives are single for so many more chunks, for the shard to offer memory in between.
    pub(super) single: u8,
    /// Nothing will be sent any more, and the peer was told.
    pub(super) sends_ended: bool,
    /// The send or the connect that is in flight.
    pub(super) in_flight: Option<Ticket>,
}

impl Socket {
    fn vacant() -> Self {
        Socket {
            descriptor: None,
            generation: 0,
            stage: Stage::Vacant,
            receive: Receive::Idle,
            paused: false,
            ended: false,
            single: 0,
            sends_ended: false,
            in_flight: None,
        }
    }

    /// True while the kernel will complete something of this socket's.
    fn is_busy(&self) -> bool {
        let receives = !matches!(self.receive, Receive::Idle | Receive::Waiting);
        receives || self.in_flight.is_some()
    }

    /// The open descriptor of a socket that is not vacant.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        self.descriptor.as_ref().expect("a socket that is not vacant has a descriptor")
    }
}

/// The table of sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    slots: Vec<Socket>,
    vacant: Vec<u32>,
    /// Slots that are vacant for ever.
    retired: usize,
    max: u32,
}

impl Sockets {
    pub(super) fn new(max: u32) -> Self {
        Sockets { slots: Vec::new(), vacant: Vec::new(), retired: 0, max }
    }

    /// The most sockets at a time.
    pub(super) fn max(&self) -> u32 {
        self.max
    }

    /// True if another socket can be taken in.
    pub(super) fn has_room(&self) -> bool {
        !self.vacant.is_empty() || self.slots.len() < self.max as usize
    }

    /// Takes a socket in, or hands it back if all slots are taken.
    pub(super) fn insert(
        &mut self,
        descriptor: OwnedFd,
        stage: Stage,
    ) -> Result<SocketId, OwnedFd> {
        if !self.has_room() {
            return Err(descriptor);
        }
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Socket::vacant());
            self.slots.len() as u32 - 1
        });
        let socket = &mut self.slots[slot as usize];
        assert_eq!(socket.stage, Stage::Vacant, "a free slot has no tenant");
        let generation = socket.generation;
        *socket = Socket { descriptor: Some(descriptor), generation, stage, ..Socket::vacant() };
        Ok(SocketId { slot, generation })
    }

    /// The socket that an operation belongs to; `None` if it is gone.
    pub(super) fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        let socket = self.slots.get_mut(id.slot as usize)?;
        (socket.generation == id.generation && socket.stage != Stage::Vacant).then_some(socket)
    }

    /// The same, for looking.
    pub(super) fn get(&self, id: SocketId) -> Option<&Socket> {
        let socket = self.slots.get(id.slot as usize)?;
        (socket.generation == id.generation && socket.stage != Stage::Vacant).then_some(socket)
    }

    /// The socket of an id that must be alive.
    ///
    /// # Panics
    /// If it is not: somebody uses an id after `Closed` or a failed connect.
    pub(super) fn known(&mut self, id: SocketId) -> &mut Socket {
        self.get_mut(id).unwrap_or_else(|| panic!("{id:?} is used after its end"))
    }

    /// Frees a slot and closes its descriptor.
    pub(super) fn remove(&mut self, id: SocketId) {
        let socket = self.known(id);
        assert!(!socket.is_busy(), "a slot is freed after its last completion");
        let next = id.generation.checked_add(1);
        *socket = Socket { generation: next.unwrap_or(id.generation), ..Socket::vacant() };
        // A slot that has run out of generations stays empty: no id is ever given twice.
        match next {
            Some(_) => self.vacant.push(id.slot),
            None => self.retired += 1,
        }
    }

    /// Sockets that are not vacant.
    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.vacant.len() - self.retired
    }
}

impl UringDriver {
    /// Begins the end of a socket. Whatever is in flight is made to complete, by shutting the
    /// connection down, which also tells the peer at once, and by asking the kernel to cancel.
    /// Closing it once more, or what is void already, does nothing.
    pub(super) fn close_socket(&mut self, id: SocketId) {
        self.untell(id);
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if socket.stage == Stage::Closing {
            return;
        }
        socket.stage = Stage::Closing;
        if socket.receive == Receive::Waiting {
            // Its place in the queue goes stale.
            socket.receive = Receive::Idle;
        }
        if socket.is_busy() {
            // Fails where there is no connection yet, or no more; cancelling is enough then.
            let _ = rustix::net::shutdown(socket.descriptor(), rustix::net::Shutdown::Both);
        }
        if let Some(ticket) = socket.in_flight {
            self.ring.cancel(Cancel::Memory(ticket));
        }
        self.end_receive(id);
        self.finish_close(id);
    }

    /// Takes back what the shard has not looked at yet and must not hear of after a close. There is
    /// one such completion at most: the one by which `poll` knew that there is any.
    fn untell(&mut self, id: SocketId) {
        for _ in 0..self.told.len() {
            match self.told.pop_front().expect("counted above") {
                Completion::Received { socket, chunk } if socket == id => self.take_back(chunk),
                Completion::ReceiveEnded { socket, .. } | Completion::Filled { socket, .. }
                    if socket == id => {}
                Completion::Connected { socket, result } if socket == id => {
                    if result.is_err() {
                        // Its slot is free already.
                        self.told.push_back(Completion::Closed { socket });
                    }
                }
                other => self.told.push_back(other),
            }
        }
    }

    /// Ends a socket that is closing, once nothing of it is in flight.
    pub(super) fn finish_close(&mut self, id: SocketId) {
        let socket = self.sockets.known(id);
        if socket.stage == Stage::Closing && !socket.is_busy() {
            self.sockets.remove(id);
            self.told.push_back(Completion::Closed { socket: id });
            self.retry_accepts_soon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::connect_socket;

    fn descriptor() -> OwnedFd {
        connect_socket("127.0.0.1:1".parse().expect("an address")).expect("a socket is to be had")
    }

    #[test]
    fn ids_are_never_used_again() {
        let mut sockets = Sockets::new(1);
        let first = sockets.insert(descriptor(), Stage::Open).expect("room for one");
        assert!(sockets.insert(descriptor(), Stage::Open).is_err(), "no room for two");
        assert!(!sockets.has_room());
        sockets.remove(first);
        let second = sockets.insert(descriptor(), Stage::Open).expect("room again");
        assert_eq!(second.slot, first.slot);
        assert!(sockets.get(first).is_none() && sockets.get_mut(first).is_none());
        assert!(sockets.get(second).is_some());
        assert_eq!(sockets.count(), 1);
    }

    #[test]
    fn a_slot_out_of_generations_is_let_to_nobody() {
        let mut sockets = Sockets::new(1);
        let first = sockets.insert(descriptor(), Stage::Open).expect("room for one");
        sockets.slots[0].generation = u32::MAX;
        let last = SocketId { generation: u32::MAX, ..first };
        sockets.remove(last);
        assert!(!sockets.has_room() && sockets.count() == 0);
        assert!(sockets.get(last).is_none() && sockets.get(first).is_none());
    }

    #[test]
    #[should_panic(expected = "is used after its end")]
    fn a_dead_id_is_noticed() {
        let mut sockets = Sockets::new(1);
        let first = sockets.insert(descriptor(), Stage::Open).expect("room for one");
        sockets.remove(first);
        sockets.known(first);
    }

    #[test]
    fn a_socket_is_small() {
        assert!(
            size_of::<Socket>() <= 48,
            "{} bytes for each idle connection",
            size_of::<Socket>()
        );
    }
}
