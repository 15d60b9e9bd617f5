//! Ending the sleep of a shard: from ring to ring, or through an eventfd from any thread.

use super::UringDriver;
use super::config::Features;
use super::op::{Op, Tag};
use crate::driver::Parker;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A shard that this one has woken through its ring.
#[derive(Debug)]
pub(super) struct Peer {
    parker: Arc<Parker>,
    /// False once a message has failed: it is woken by its eventfd from then on.
    reachable: bool,
}

/// An eventfd, and the parker that writes to it when its shard is to be woken from outside.
pub(super) fn parker(ring: Option<OwnedFd>) -> io::Result<(Arc<OwnedFd>, Arc<Parker>)> {
    let doorbell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let bell = doorbell.clone();
    let wake = move || {
        // Fails only when the count is full, and then the bell has been rung.
        let _ = rustix::io::write(&*bell, &1u64.to_ne_bytes());
    };
    Ok((doorbell, Arc::new(Parker::new(ring, Box::new(wake)))))
}

impl UringDriver {
    /// Listens to the eventfd. It is never read: each write completes the poll once, and the count
    /// is of no interest.
    pub(super) fn arm_wake(&mut self) {
        self.ring.poll_readable(self.doorbell.as_fd(), Op::new(Tag::Wake, 0, 0).encode());
    }

    pub(super) fn wake(&mut self, other: &Arc<Parker>) {
        let Some(ring) = other.ring().filter(|_| self.features.contains(Features::RING_MESSAGE))
        else {
            return other.unpark();
        };
        if !other.claim() {
            return;
        }
        let known = self.peers.iter().position(|peer| Arc::ptr_eq(&peer.parker, other));
        let slot = known.unwrap_or_else(|| {
            self.peers.push(Peer { parker: other.clone(), reachable: true });
            self.peers.len() - 1
        });
        if self.peers[slot].reachable {
            self.ring.message(ring, Op::new(Tag::Message, slot as u32, 0).encode());
        } else {
            other.wake_claimed();
        }
    }

    /// A message did not reach the ring of its peer, who is claimed and still sleeps.
    pub(super) fn on_message_failed(&mut self, op: Op) {
        let peer = &mut self.peers[op.slot as usize];
        peer.reachable = false;
        peer.parker.wake_claimed();
    }
}
