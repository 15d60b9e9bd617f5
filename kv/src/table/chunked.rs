//! A vector that grows without copying what it holds.

use std::ops::{Index, IndexMut};

/// Elements a chunk. A power of two, so that finding an element is a shift and a mask; with the
/// largest element (64 bytes) the last chunk, which alone is copied when it grows, stays within 32
/// KiB.
const CHUNK_LEN: usize = 512;

/// A vector in chunks of [`CHUNK_LEN`] elements. A `Vec` that doubles copies everything: for a
/// million elements that is a pause of milliseconds. Here a push copies at most half a chunk, and
/// 24 bytes a chunk when the list of chunks grows.
#[derive(Debug)]
pub(super) struct Chunked<T> {
    /// All but the last are full.
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Chunked<T> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, value: T) {
        if self.len == self.chunks.len() * CHUNK_LEN {
            self.chunks.push(Vec::new());
        }
        let last = self.chunks.last_mut().expect("a chunk was pushed if there was none with room");
        if last.len() == last.capacity() {
            // Exact, because `bytes_held` relies on a full chunk having no capacity beyond its
            // length.
            let room = last.capacity().clamp(1, CHUNK_LEN - last.len());
            last.reserve_exact(room);
        }
        last.push(value);
        self.len += 1;
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let last = self.chunks.last_mut()?;
        let value = last.pop();
        debug_assert!(value.is_some(), "a chunk goes with its last element");
        if last.is_empty() {
            self.chunks.pop();
        } else if last.len() * 4 <= last.capacity() {
            last.shrink_to(last.len() * 2);
        }
        self.len -= 1;
        value
    }

    /// Takes element `at` out; the last one takes its place.
    pub(super) fn swap_remove(&mut self, at: usize) -> T {
        let last = self.pop().expect("an element that shall go is there");
        if at == self.len { last } else { std::mem::replace(&mut self[at], last) }
    }

    /// The bytes held from the allocator.
    pub(super) fn bytes_held(&self) -> usize {
        let full = self.chunks.len().saturating_sub(1) * CHUNK_LEN;
        let elements = full + self.chunks.last().map_or(0, Vec::capacity);
        elements * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

impl<T> Index<usize> for Chunked<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: usize) -> &T {
        &self.chunks[at / CHUNK_LEN][at % CHUNK_LEN]
    }
}

impl<T> IndexMut<usize> for Chunked<T> {
    #[inline]
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.chunks[at / CHUNK_LEN][at % CHUNK_LEN]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_a_vector_and_counts_what_its_chunks_hold() {
        let (mut chunked, mut vector) = (Chunked::default(), Vec::new());
        let mut random: u64 = 1;
        for step in 0..20_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let grows = step < 12_000;
            match (random >> 60, vector.is_empty()) {
                (0..4, false) => {
                    let at = (random >> 20) as usize % vector.len();
                    assert_eq!(chunked.swap_remove(at), vector.swap_remove(at));
                }
                (4..8, _) if !grows => assert_eq!(chunked.pop(), vector.pop()),
                _ if grows => {
                    chunked.push(step);
                    vector.push(step);
                }
                _ => {}
            }
            assert_eq!(chunked.len(), vector.len());
            let counted: usize = chunked.chunks.iter().map(|chunk| chunk.capacity() * 8).sum();
            assert_eq!(chunked.bytes_held(), counted + chunked.chunks.capacity() * 24);
        }
        assert!((0..vector.len()).all(|at| chunked[at] == vector[at]));
        while let Some(value) = chunked.pop() {
            assert_eq!(Some(value), vector.pop());
        }
        assert!(chunked.len() == 0 && chunked.chunks.is_empty());
    }
}
