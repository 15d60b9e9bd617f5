//! Memory of large frames that nobody uses at the moment.
//!
//! A general allocator gives memory of this size back to the system as soon as it can, and a frame
//! of 1 MiB then costs 256 page faults, which is more than receiving it. So it goes home to its
//! shard instead, from wherever the last `Bytes` of the frame is dropped.

use crate::limits::{PARTIAL_STEP_BYTES, SPARE_BODIES_BYTES_MAX, SPARE_BODIES_MAX};
use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many pieces a search looks at: a constant time for a few sizes in turn.
const LOOKS: usize = 4;

/// The spare memory of one shard.
#[derive(Debug)]
pub struct SpareBodies {
    /// Oldest first.
    pieces: ArrayQueue<Vec<u8>>,
    bytes: AtomicUsize,
}

impl Default for SpareBodies {
    fn default() -> Self {
        SpareBodies { pieces: ArrayQueue::new(SPARE_BODIES_MAX), bytes: AtomicUsize::new(0) }
    }
}

impl SpareBodies {
    /// Empty memory for `bytes` or more, but less than twice as many, if there is some.
    pub fn take(&self, bytes: usize) -> Option<Vec<u8>> {
        for _ in 0..LOOKS {
            let piece = self.pop()?;
            if (bytes..bytes * 2).contains(&piece.capacity()) {
                return Some(piece);
            }
            self.push(piece);
        }
        None
    }

    /// Keeps `memory` for another frame, if it is large enough to be worth it. The oldest makes room:
    /// sizes that are not asked for any more leave by and by.
    pub fn keep(&self, mut memory: Vec<u8>) {
        if !(PARTIAL_STEP_BYTES..=SPARE_BODIES_BYTES_MAX).contains(&memory.capacity()) {
            return;
        }
        memory.clear();
        self.push(memory);
        while self.bytes.load(Ordering::Relaxed) > SPARE_BODIES_BYTES_MAX && self.pop().is_some() {}
    }

    /// A frame to be shared, whose memory comes back here.
    pub fn share(self: &Arc<Self>, memory: Vec<u8>) -> Bytes {
        Bytes::from_owner(Body { memory, home: self.clone() })
    }

    /// Memory that is kept, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn push(&self, piece: Vec<u8>) {
        self.bytes.fetch_add(piece.capacity(), Ordering::Relaxed);
        if let Some(oldest) = self.pieces.force_push(piece) {
            self.bytes.fetch_sub(oldest.capacity(), Ordering::Relaxed);
        }
    }

    fn pop(&self) -> Option<Vec<u8>> {
        let piece = self.pieces.pop()?;
        self.bytes.fetch_sub(piece.capacity(), Ordering::Relaxed);
        Some(piece)
    }
}

/// Owns a frame that is shared.
struct Body {
    memory: Vec<u8>,
    home: Arc<SpareBodies>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.home.keep(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_home_with_its_last_bytes_and_is_used_again() {
        let spare = Arc::new(SpareBodies::default());
        let memory = vec![7; 1 << 20];
        let address = memory.as_ptr();
        let shared = spare.share(memory);
        let slice = shared.slice(5..9);
        drop(shared);
        assert_eq!(spare.bytes(), 0, "part of it is still in use");
        assert_eq!(slice, [7; 4][..]);
        drop(slice);
        assert_eq!(spare.bytes(), 1 << 20);
        let again = spare.take(1_000_000).expect("it fits");
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert_eq!(spare.bytes(), 0);
    }

    #[test]
    fn a_small_frame_does_not_get_a_large_memory() {
        let spare = SpareBodies::default();
        spare.keep(Vec::with_capacity(1 << 20));
        assert!(spare.take(1 << 19).is_none(), "twice as much as is needed");
        assert!(spare.take((1 << 20) + 1).is_none(), "too little");
        assert!(spare.take(1 << 20).is_some(), "it was put back");
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_leaves() {
        let spare = SpareBodies::default();
        spare.keep(Vec::with_capacity(PARTIAL_STEP_BYTES - 1));
        assert_eq!(spare.bytes(), 0, "the allocator is good at these");
        for _ in 0..3 * SPARE_BODIES_MAX {
            spare.keep(Vec::with_capacity(PARTIAL_STEP_BYTES));
        }
        assert_eq!(spare.bytes(), SPARE_BODIES_MAX * PARTIAL_STEP_BYTES);
        spare.keep(Vec::with_capacity(SPARE_BODIES_BYTES_MAX));
        assert_eq!(spare.bytes(), SPARE_BODIES_BYTES_MAX, "all older ones made room");
    }
}
