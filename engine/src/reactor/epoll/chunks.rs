//! Memory to receive into. One buffer is enough for a shard that takes its chunks one after the
//! other; there are more for who holds several.

use crate::driver::Chunk;

pub(super) struct Chunks {
    buffers: Vec<Box<[u8]>>,
    free: Vec<u32>,
    buffer_bytes: usize,
    buffers_max: usize,
}

impl Chunks {
    pub fn new(buffer_bytes: usize, buffers_max: usize) -> Self {
        Chunks { buffers: Vec::new(), free: Vec::new(), buffer_bytes, buffers_max }
    }

    /// A buffer that nobody uses; `None` when the caller holds them all.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        if self.buffers.len() == self.buffers_max {
            return None;
        }
        self.buffers.push(vec![0; self.buffer_bytes].into_boxed_slice());
        Some(self.buffers.len() as u32 - 1)
    }

    pub fn put(&mut self, buffer: u32) {
        debug_assert!(!self.free.contains(&buffer), "a buffer comes back once");
        self.free.push(buffer);
    }

    pub fn memory(&mut self, buffer: u32) -> &mut [u8] {
        &mut self.buffers[buffer as usize]
    }

    pub fn bytes(&self, chunk: &Chunk) -> &[u8] {
        let start = chunk.offset as usize;
        &self.buffers[chunk.buffer as usize][start..start + chunk.length as usize]
    }
}
