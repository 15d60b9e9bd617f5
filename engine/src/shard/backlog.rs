//! What was received from one peer and is not read yet: the peer does not read its answers, or has sent
//! more than its part of a turn.

use crate::time::Instant;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// Received bytes in order, in the pieces in which they came. Reading on copies nothing, and whoever
/// keeps a payload that lies in a piece keeps that piece alone.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// None of them is empty.
    pieces: VecDeque<(Bytes, Instant)>,
    bytes: usize,
}

impl Backlog {
    /// True if nothing waits to be read.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a copy of what came last, at `arrived`.
    pub(super) fn push(&mut self, received: &[u8], arrived: Instant) {
        if !received.is_empty() {
            self.bytes += received.len();
            self.pieces.push_back((Bytes::copy_from_slice(received), arrived));
        }
    }

    /// Takes the oldest piece, with the instant at which it arrived.
    pub(super) fn pop(&mut self) -> Option<(Bytes, Instant)> {
        let (piece, arrived) = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        Some((piece, arrived))
    }

    /// Puts the oldest piece back, less the bytes at its front that were read.
    pub(super) fn put_back(&mut self, mut piece: Bytes, arrived: Instant, read: usize) {
        piece.advance(read);
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_front((piece, arrived));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Instant = Instant::from_nanos(7);

    #[test]
    fn reading_on_copies_nothing() {
        let mut backlog = Backlog::default();
        backlog.push(&[], Instant::ZERO);
        assert!(backlog.is_empty());
        backlog.push(&[1; 1_000], Instant::ZERO);
        backlog.push(&[2; 50], LATER);
        let (whole, arrived) = backlog.pop().expect("two pieces came");
        let start = whole.as_ptr();
        backlog.put_back(whole, arrived, 0);
        for read in 1..=10 {
            let (piece, arrived) = backlog.pop().expect("it was put back");
            assert_eq!(
                piece.as_ptr(),
                start.wrapping_add((read - 1) * 100),
                "it lies where it lay"
            );
            backlog.put_back(piece, arrived, 100);
            assert_eq!(backlog.bytes(), 1_050 - read * 100);
        }
        let (other, arrived) = backlog.pop().expect("the other piece");
        assert_eq!((&other[..], arrived), (&[2; 50][..], LATER));
        assert!(backlog.is_empty() && backlog.bytes() == 0);
    }

    #[test]
    fn a_payload_that_is_kept_keeps_its_piece_alone() {
        let mut backlog = Backlog::default();
        for _ in 0..3 {
            backlog.push(&[7; 2_000], Instant::ZERO);
        }
        let (first, arrived) = backlog.pop().expect("three pieces came");
        let kept = first.slice(10..1_500);
        backlog.put_back(first, arrived, 1_500);
        let second = {
            backlog.pop().expect("the rest of the first");
            backlog.pop().expect("the second").0
        };
        assert!(second.is_unique(), "nobody else keeps it");
        assert_eq!(kept.len(), 1_490);
    }
}
