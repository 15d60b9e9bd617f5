//! Memory that submissions name, from the submission to its last completion.
//!
//! A block holds one piece of memory for one operation. It is *moved* in when the operation is
//! submitted and can be had back only for a [`Landed`], which nobody but the ring makes, from the
//! operation's last completion:
//!
//! ```text
//!            board                      land (ring only)                take
//!  vacant ──────────► named by kernel ───────────────────► landed ─────────────► vacant
//!                          ▲                                 │
//!                          └─────────────────────────────────┘ board_again (short transfer)
//! ```
//!
//! Only heap memory *behind* a block is named to the kernel, so the table itself may grow and move.
//! A ring that goes away with blocks still in the kernel's hands leaks them.

use crate::driver::{FileBuffer, Output};
use crate::limits::SEND_SLICES_MAX;
use std::net::SocketAddr;

/// Proof that the kernel is done with a block. Hand it back to the ring that made it.
#[derive(Debug)]
#[must_use = "memory that is not taken back is lost to the ring"]
pub struct Landed {
    index: u32,
}

/// An operation that has memory in flight, for cancelling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Ticket {
    /// What the kernel knows the operation by: index in the low half, generation above it, and the
    /// top bit clear (see the ring's `user_data`).
    pub(super) fn user_data(self) -> u64 {
        self.0
    }

    /// The ticket that a completion speaks of.
    pub(super) fn from_user_data(user_data: u64) -> Ticket {
        Ticket(user_data)
    }
}

/// What a block holds.
#[derive(Debug)]
pub(super) enum Memory {
    None,
    Output {
        output: Output,
        sent: usize,
    },
    Address(Box<SocketAddress>),
    File(FileBuffer),
    /// To be received into, behind its bytes.
    Body(Vec<u8>),
}

#[derive(Debug)]
struct Block {
    memory: Memory,
    /// The array of a vectored send; kept for the next one.
    message: Option<Box<Message>>,
    /// What the caller knows the operation by.
    user_data: u64,
    generation: u32,
    in_flight: bool,
}

/// All blocks of one ring.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    blocks: Vec<Block>,
    vacant: Vec<u32>,
}

/// Generations are 31 bits wide: the top bit of a ticket is clear.
const GENERATION_MASK: u32 = u32::MAX >> 1;

impl InFlight {
    /// Takes `memory` in for an operation that the caller knows as `user_data`.
    pub(super) fn board(&mut self, memory: Memory, user_data: u64) -> Ticket {
        let index = self.vacant.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.blocks.len()).expect("fewer than 2^32 operations");
            let (memory, message) = (Memory::None, None);
            self.blocks.push(Block { memory, message, user_data, generation: 0, in_flight: false });
            index
        });
        let block = &mut self.blocks[index as usize];
        assert!(!block.in_flight, "a vacant block is not in flight");
        (block.memory, block.user_data, block.in_flight) = (memory, user_data, true);
        ticket(index, block.generation)
    }

    /// Lends a landed block's memory to the kernel again, for the rest of a short transfer.
    pub(super) fn board_again(&mut self, landed: Landed) -> Ticket {
        let block = &mut self.blocks[landed.index as usize];
        assert!(!block.in_flight, "a landed block is not in flight");
        block.in_flight = true;
        block.generation = (block.generation + 1) & GENERATION_MASK;
        ticket(landed.index, block.generation)
    }

    /// Notes that the kernel is done with the operation; answers what its caller knows it by.
    pub(super) fn land(&mut self, ticket: Ticket) -> (Landed, u64) {
        assert!(self.is_in_flight(ticket), "an operation with memory completes exactly once");
        let index = ticket.0 as u32;
        let block = &mut self.blocks[index as usize];
        block.in_flight = false;
        (Landed { index }, block.user_data)
    }

    /// True until the operation of `ticket` has completed.
    pub(super) fn is_in_flight(&self, ticket: Ticket) -> bool {
        let block = &self.blocks[ticket.0 as u32 as usize];
        block.in_flight && block.generation == (ticket.0 >> 32) as u32
    }

    /// Takes the memory out of a landed block and vacates it.
    pub(super) fn take(&mut self, landed: Landed) -> Memory {
        let block = &mut self.blocks[landed.index as usize];
        assert!(!block.in_flight, "a landed block is not in flight");
        block.generation = (block.generation + 1) & GENERATION_MASK;
        self.vacant.push(landed.index);
        std::mem::replace(&mut block.memory, Memory::None)
    }

    /// The memory of a block in flight, for naming it in the submission.
    pub(super) fn memory(&self, ticket: Ticket) -> &Memory {
        &self.blocks[ticket.0 as u32 as usize].memory
    }

    /// The same, for naming memory that the kernel will write to.
    pub(super) fn memory_mut(&mut self, ticket: Ticket) -> &mut Memory {
        &mut self.blocks[ticket.0 as u32 as usize].memory
    }

    /// The memory of a landed block.
    pub(super) fn landed_mut(&mut self, landed: &Landed) -> &mut Memory {
        let block = &mut self.blocks[landed.index as usize];
        assert!(!block.in_flight, "a landed block is not in flight");
        &mut block.memory
    }

    /// Fills the vectored-send header of a block with what is left of its output, and answers the
    /// header's address and the bytes that it names. The header stays put until the block lands.
    pub(super) fn message(&mut self, ticket: Ticket) -> (*const libc::msghdr, usize) {
        let block = &mut self.blocks[ticket.0 as u32 as usize];
        let Memory::Output { output, sent } = &block.memory else {
            panic!("only outputs are sent");
        };
        block.message.get_or_insert_with(Message::empty).fill(output, *sent)
    }

    /// True while the kernel may use any block.
    pub(super) fn any(&self) -> bool {
        self.vacant.len() < self.blocks.len() && self.blocks.iter().any(|block| block.in_flight)
    }
}

fn ticket(index: u32, generation: u32) -> Ticket {
    Ticket(u64::from(generation) << 32 | u64::from(index))
}

/// The header and the array that `sendmsg` reads.
struct Message {
    header: libc::msghdr,
    slices: [libc::iovec; SEND_SLICES_MAX],
}

impl Message {
    fn empty() -> Box<Message> {
        const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: `msghdr` is a C structure of integers and pointers, for which zero is valid.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Message { header, slices: [NOTHING; SEND_SLICES_MAX] })
    }

    /// Names the bytes of `output` from `sent` on, as many as fit.
    fn fill(&mut self, output: &Output, sent: usize) -> (*const libc::msghdr, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (slice, named) in output.slices(sent, SEND_SLICES_MAX).zip(&mut self.slices) {
            *named =
                libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
            (count, bytes) = (count + 1, bytes + slice.len());
        }
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = count as _;
        (&raw const self.header, bytes)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("slices", &self.header.msg_iovlen).finish_non_exhaustive()
    }
}

/// A socket address as the kernel reads it.
pub(super) enum SocketAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl SocketAddress {
    pub(super) fn new(address: SocketAddr) -> Box<SocketAddress> {
        Box::new(match address {
            SocketAddr::V4(v4) => SocketAddress::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => SocketAddress::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        })
    }

    /// Address and length for the submission.
    pub(super) fn named(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            SocketAddress::V4(v4) => ((&raw const *v4).cast(), size_of_val(v4) as libc::socklen_t),
            SocketAddress::V6(v6) => ((&raw const *v6).cast(), size_of_val(v6) as libc::socklen_t),
        }
    }
}

impl std::fmt::Debug for SocketAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SocketAddress::V4(_) => "SocketAddress::V4",
            SocketAddress::V6(_) => "SocketAddress::V6",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn output(bytes: &'static [u8]) -> Memory {
        let mut output = Output::default();
        output.share(Bytes::from_static(bytes));
        Memory::Output { output, sent: 0 }
    }

    #[test]
    fn memory_comes_back_once_and_its_block_is_used_again() {
        let mut blocks = InFlight::default();
        let first = blocks.board(output(b"one"), 7);
        assert!(blocks.any());
        let (landed, user_data) = blocks.land(first);
        assert_eq!(user_data, 7);
        assert!(matches!(blocks.take(landed), Memory::Output { output, .. } if output.len() == 3));
        assert!(!blocks.any());
        let second = blocks.board(output(b"two"), 8);
        assert_eq!(second.user_data() as u32, first.user_data() as u32, "same block");
        assert_ne!(second, first, "another generation");
        assert_eq!(second.user_data() >> 63, 0, "the top bit belongs to the ring");
    }

    #[test]
    #[should_panic(expected = "exactly once")]
    fn a_second_completion_is_noticed() {
        let mut blocks = InFlight::default();
        let ticket = blocks.board(output(b"one"), 7);
        let (landed, _) = blocks.land(ticket);
        let _again = blocks.board_again(landed);
        let _ = blocks.land(ticket);
    }

    #[test]
    fn a_message_names_what_was_not_sent_yet() {
        let mut blocks = InFlight::default();
        let ticket = blocks.board(output(b"abcdef"), 0);
        assert_eq!(blocks.message(ticket).1, 6);
        let (landed, _) = blocks.land(ticket);
        let Memory::Output { sent, .. } = blocks.landed_mut(&landed) else { panic!("an output") };
        *sent = 4;
        let again = blocks.board_again(landed);
        assert_eq!(blocks.message(again).1, 2);
    }

    #[test]
    fn addresses_are_in_network_order() {
        let v4 = SocketAddress::new("127.0.0.1:258".parse().expect("an address"));
        let SocketAddress::V4(raw) = &*v4 else { panic!("v4") };
        assert_eq!(raw.sin_port.to_ne_bytes(), [1, 2]);
        assert_eq!(raw.sin_addr.s_addr.to_ne_bytes(), [127, 0, 0, 1]);
        assert_eq!(v4.named().1, 16);
        assert_eq!(SocketAddress::new("[::1]:1".parse().expect("an address")).named().1, 28);
    }
}
