//! What comes back with every completion: which operation it was, and of whom.
//!
//! ```text
//!   59       56 55                     32 31                            0
//! ┌────────────┬─────────────────────────┬───────────────────────────────┐
//! │  tag (4)   │  slot (24)              │  generation (32)              │   above: the ring's own
//! └────────────┴─────────────────────────┴───────────────────────────────┘
//! ```
//!
//! A slot is an index into the table that the tag belongs to: sockets, listeners, file operations
//! or peers. A completion whose generation is not that of its slot is stale, and passed over.

use crate::driver::SocketId;
use crate::sys::ring::USER_DATA_BITS;

/// The kinds of operation, as far as their completions are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tag {
    /// A cancellation that found nothing: of no interest.
    Cancel,
    /// Slot: a listener.
    Accept,
    /// Slot: a socket.
    Connect,
    /// Slot: a socket.
    Receive,
    /// Slot: a socket. Into memory of the shard's.
    ReceiveInto,
    /// Slot: a socket.
    Send,
    /// Slot: a file operation.
    File,
    /// The eventfd by which threads without a ring end this shard's sleep.
    Wake,
    /// Slot: a peer whose ring could not be sent a message.
    Message,
    /// Time to tell the ends of eager sends, if nothing else has.
    Nudge,
}

const TAGS: [Tag; 10] = [
    Tag::Cancel,
    Tag::Accept,
    Tag::Connect,
    Tag::Receive,
    Tag::ReceiveInto,
    Tag::Send,
    Tag::File,
    Tag::Wake,
    Tag::Message,
    Tag::Nudge,
];

/// One operation. See the module page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Op {
    pub(super) tag: Tag,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Slots are numbers below this.
pub(super) const SLOTS_MAX: u32 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 24;
const SLOT_SHIFT: u32 = u32::BITS;
const TAG_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;

const _: () = assert!(TAGS.len() <= 1 << (USER_DATA_BITS - TAG_SHIFT), "tags fit into their bits");
const _: () = assert!(crate::limits::SOCKETS_MAX <= SLOTS_MAX, "sockets fit into their bits");

impl Op {
    pub(super) fn new(tag: Tag, slot: u32, generation: u32) -> Self {
        debug_assert!(slot < SLOTS_MAX, "slot {slot} has more than {SLOT_BITS} bits");
        Op { tag, slot, generation }
    }

    /// An operation on a socket.
    pub(super) fn on(tag: Tag, socket: SocketId) -> Self {
        Op::new(tag, socket.slot, socket.generation)
    }

    /// The socket of an operation on one.
    pub(super) fn socket(self) -> SocketId {
        SocketId { slot: self.slot, generation: self.generation }
    }

    pub(super) fn encode(self) -> u64 {
        (self.tag as u64) << TAG_SHIFT
            | u64::from(self.slot) << SLOT_SHIFT
            | u64::from(self.generation)
    }

    pub(super) fn decode(user_data: u64) -> Self {
        Op {
            tag: TAGS[(user_data >> TAG_SHIFT) as usize],
            slot: (user_data >> SLOT_SHIFT) as u32 & (SLOTS_MAX - 1),
            generation: user_data as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_survives_the_round_trip() {
        for (index, tag) in TAGS.into_iter().enumerate() {
            assert_eq!(tag as usize, index, "the table is in order");
            for slot in [0, 1, 0x00ab_cdef, SLOTS_MAX - 1] {
                for generation in [0, 1, 0x1234_5678, u32::MAX] {
                    let op = Op::new(tag, slot, generation);
                    assert_eq!(Op::decode(op.encode()), op);
                    assert_eq!(op.encode() >> USER_DATA_BITS, 0, "the top is the ring's own");
                }
            }
        }
    }

    #[test]
    fn the_layout_is_as_drawn() {
        let op = Op::new(Tag::Receive, 0x00ab_cdef, 0x1234_5678);
        assert_eq!(op.encode(), 0x03ab_cdef_1234_5678);
        assert_eq!(Op::decode(0).tag, Tag::Cancel);
    }
}
