//! Bytes on their way out: what one vectored send takes.
//!
//! Small things (headers, metadata, small payloads) are copied into one run of memory; a large
//! payload stays where it is and is named between two pieces of that run:
//!
//! ```text
//! copied   [h1 p1 h2 | h3 p3 h4 p4]
//! shared             ^ payload 2 (Bytes)
//! slices   [h1 p1 h2] [payload 2] [h3 p3 h4 p4]
//! ```
//!
//! An `Output` is moved into the driver for a send and comes back when the send has ended, so its
//! memory is used again and a connection that has nothing to say owns none.

use crate::limits::SEND_SLICES_MAX;
use bytes::Bytes;
use std::io::IoSlice;

/// Bytes to send, in order. See the module page.
#[derive(Debug, Default)]
pub struct Output {
    copied: Vec<u8>,
    shared: Vec<Shared>,
    shared_bytes: usize,
}

/// A payload that is sent from where it lies, after the first `after` copied bytes.
#[derive(Debug)]
struct Shared {
    after: usize,
    payload: Bytes,
}

/// A place in an [`Output`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    copied: usize,
    shared: usize,
}

impl Output {
    /// An empty output with room for `capacity` copied bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Output { copied: Vec::with_capacity(capacity), ..Output::default() }
    }

    /// Bytes to send, copied and shared.
    pub fn len(&self) -> usize {
        self.copied.len() + self.shared_bytes
    }

    /// True when there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.copied.is_empty() && self.shared.is_empty()
    }

    /// Memory held for copied bytes.
    pub fn capacity(&self) -> usize {
        self.copied.capacity()
    }

    /// All memory held, in bytes, that of shared payloads included: others may hold these too, and
    /// for as long as they wait here they are not freed.
    pub fn memory_bytes(&self) -> usize {
        self.copied.capacity() + self.shared.capacity() * size_of::<Shared>() + self.shared_bytes
    }

    /// The copied bytes, to append to. Nothing before the current end may be changed.
    pub fn copied_mut(&mut self) -> &mut Vec<u8> {
        &mut self.copied
    }

    /// Appends `payload` without copying it.
    pub fn share(&mut self, payload: Bytes) {
        if !payload.is_empty() {
            self.shared_bytes += payload.len();
            self.shared.push(Shared { after: self.copied.len(), payload });
        }
    }

    /// Where it ends now; see [`Output::roll_back`].
    #[inline]
    pub fn mark(&self) -> Mark {
        Mark { copied: self.copied.len(), shared: self.shared.len() }
    }

    /// Forgets everything that was appended since `mark`.
    pub fn roll_back(&mut self, mark: Mark) {
        self.copied.truncate(mark.copied);
        for shared in self.shared.drain(mark.shared..) {
            self.shared_bytes -= shared.payload.len();
        }
    }

    /// The copied bytes when nothing is shared: the common case, one plain send.
    pub fn as_single(&self) -> Option<&[u8]> {
        self.shared.is_empty().then_some(&self.copied)
    }

    /// The bytes from `skip` on, as slices for a vectored send, at most `slices_max` of them.
    pub fn slices(&self, skip: usize, slices_max: usize) -> Slices<'_> {
        Slices { output: self, next_shared: 0, position: 0, skip, left: slices_max }
    }

    /// Empties it and keeps the memory: up to `keep_bytes_max` for copied bytes, and as many places
    /// for shared payloads as one send can name.
    pub fn clear(&mut self, keep_bytes_max: usize) {
        self.copied.clear();
        self.shared.clear();
        self.shared_bytes = 0;
        if self.copied.capacity() > keep_bytes_max {
            self.copied = Vec::new();
        }
        if self.shared.capacity() > SEND_SLICES_MAX {
            self.shared = Vec::new();
        }
    }

    /// All bytes in one piece; for tests and the simulator.
    pub fn to_vec(&self) -> Vec<u8> {
        self.slices(0, usize::MAX).flat_map(|slice| slice.to_vec()).collect()
    }
}

/// The pieces of an [`Output`] in order; see [`Output::slices`].
#[derive(Debug)]
pub struct Slices<'a> {
    output: &'a Output,
    next_shared: usize,
    /// Copied bytes already yielded.
    position: usize,
    skip: usize,
    left: usize,
}

impl<'a> Slices<'a> {
    /// The next piece before skipping: the copied run up to the next shared payload, or that payload.
    fn next_piece(&mut self) -> Option<&'a [u8]> {
        let shared = self.output.shared.get(self.next_shared);
        let run_end = shared.map_or(self.output.copied.len(), |shared| shared.after);
        if self.position < run_end {
            let run = &self.output.copied[self.position..run_end];
            self.position = run_end;
            return Some(run);
        }
        self.next_shared += 1;
        shared.map(|shared| &shared.payload[..])
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = IoSlice<'a>;

    fn next(&mut self) -> Option<IoSlice<'a>> {
        if self.left == 0 {
            return None;
        }
        loop {
            let piece = self.next_piece()?;
            if self.skip >= piece.len() {
                self.skip -= piece.len();
                continue;
            }
            self.left -= 1;
            return Some(IoSlice::new(&piece[std::mem::take(&mut self.skip)..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed() -> (Output, Vec<u8>) {
        let mut output = Output::with_capacity(16);
        output.share(Bytes::from_static(b"zero"));
        output.copied_mut().extend_from_slice(b"one");
        output.copied_mut().extend_from_slice(b"two");
        output.share(Bytes::from_static(b"three"));
        output.share(Bytes::from_static(b"four"));
        output.share(Bytes::new());
        output.copied_mut().extend_from_slice(b"five");
        (output, b"zeroonetwothreefourfive".to_vec())
    }

    #[test]
    fn what_is_rolled_back_was_never_there() {
        let (mut output, all) = mixed();
        let mark = output.mark();
        output.roll_back(mark);
        assert_eq!(output.to_vec(), all);
        output.copied_mut().extend_from_slice(b"six");
        output.share(Bytes::from_static(b"seven"));
        output.roll_back(mark);
        assert_eq!((output.len(), output.to_vec()), (all.len(), all));
    }

    #[test]
    fn pieces_come_in_order_from_any_byte_on() {
        let (output, all) = mixed();
        assert_eq!(output.len(), all.len());
        assert_eq!(output.slices(0, usize::MAX).count(), 5);
        for skip in 0..=all.len() {
            let rest: Vec<u8> = output.slices(skip, 99).flat_map(|s| s.to_vec()).collect();
            assert_eq!(rest, all[skip..], "skip {skip}");
        }
    }

    #[test]
    fn the_number_of_slices_is_bounded() {
        let (output, _) = mixed();
        assert_eq!(output.slices(0, 2).map(|s| s.len()).sum::<usize>(), "zeroonetwo".len());
        assert_eq!(output.slices(4, 1).map(|s| s.len()).sum::<usize>(), "onetwo".len());
    }

    #[test]
    fn clearing_keeps_memory_up_to_the_bound() {
        let (mut output, _) = mixed();
        output.clear(1 << 20);
        assert!(output.is_empty() && output.capacity() >= 16 && output.as_single() == Some(&[]));
        output.clear(1);
        assert_eq!(output.capacity(), 0);
    }
}
