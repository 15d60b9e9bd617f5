//! The bytes of a segment that have been read and not yet left behind.

use super::ReadRequest;
use crate::log::BLOCK_BYTES;

/// A stretch of one segment's file, beginning at a block.
#[derive(Debug)]
pub struct Window {
    segment: u64,
    offset: u64,
    bytes: Vec<u8>,
    read_bytes: usize,
    asked: Option<ReadRequest>,
}

impl Window {
    /// Empty; reads so many bytes at once.
    pub fn new(read_bytes: usize) -> Self {
        let read_bytes = read_bytes.next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES);
        Window { segment: 0, offset: 0, bytes: Vec::new(), read_bytes, asked: None }
    }

    /// What is there from `offset` on: at least `needed` bytes, in a file of `file_bytes`.
    #[inline]
    pub fn want(
        &mut self,
        segment: u64,
        offset: u64,
        needed: usize,
        file_bytes: u64,
    ) -> Result<&[u8], ReadRequest> {
        let from = offset.wrapping_sub(self.offset) as usize;
        if segment == self.segment && from < self.bytes.len() && self.bytes.len() - from >= needed {
            return Ok(&self.bytes[from..]);
        }
        Err(self.ask(segment, offset, needed, file_bytes))
    }

    /// Bytes that [`Window::want`] has shown.
    #[inline]
    pub fn bytes(&self, offset: u64, length: usize) -> &[u8] {
        &self.bytes[(offset - self.offset) as usize..][..length]
    }

    /// Takes what was asked for.
    pub fn supply(&mut self, bytes: &[u8]) -> ReadRequest {
        let request = self.asked.take().expect("bytes are supplied when they were asked for");
        assert!(bytes.len() <= request.bytes, "no more than was asked for");
        self.bytes.extend_from_slice(bytes);
        request
    }

    /// Leaves behind what lies before the offset's block, and asks for what is missing after the rest.
    #[cold]
    fn ask(&mut self, segment: u64, offset: u64, needed: usize, file_bytes: u64) -> ReadRequest {
        let block = offset - offset % BLOCK_BYTES as u64;
        let end = self.offset + self.bytes.len() as u64;
        if segment == self.segment && (self.offset..end).contains(&block) {
            self.bytes.drain(..(block - self.offset) as usize);
        } else {
            self.bytes.clear();
        }
        (self.segment, self.offset) = (segment, block);
        let from = block + self.bytes.len() as u64;
        let to = (offset + needed as u64).next_multiple_of(BLOCK_BYTES as u64);
        let to = to.max(from + self.read_bytes as u64).min(file_bytes);
        let request = ReadRequest { segment, offset: from, bytes: (to - from) as usize };
        self.asked = Some(request);
        request
    }
}
