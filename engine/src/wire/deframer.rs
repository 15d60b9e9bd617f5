//! Bytes in → frames, in place.
//!
//! A frame that lies whole in a receive is read where it lies. One that is split over receives is
//! collected in memory of its own, and only that one:
//!
//! ```text
//! receive 1   [frame A][frame B][fra        A, B in place; "fra" is copied
//! receive 2   me C][frame D]                "me C" completes C; D in place
//! ```

use super::framer::TRAILER_BYTES;
use super::header::{Flags, HEADER_BYTES, Header, HeaderError};
use super::metadata::Metadata;
use super::spare::SpareBodies;
use crate::limits::{
    LEND_BYTES_MIN, METADATA_BYTES_MAX, PARTIAL_KEEP_BYTES, PARTIAL_STEP_BYTES,
    RECEIVE_INTO_BYTES_MIN, RECEIVE_INTO_FRAME_BYTES_MIN,
};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// A receive that is being read: the bytes and how far it is read.
#[derive(Debug)]
pub struct Input<'a> {
    chunk: &'a [u8],
    position: usize,
}

impl<'a> Input<'a> {
    /// The whole of `chunk`, unread.
    pub fn new(chunk: &'a [u8]) -> Self {
        Input { chunk, position: 0 }
    }

    /// Bytes not yet read.
    pub fn left(&self) -> usize {
        self.chunk.len() - self.position
    }

    /// The bytes not yet read.
    pub fn rest(&self) -> &'a [u8] {
        &self.chunk[self.position..]
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let taken = &self.chunk[self.position..self.position + count];
        self.position += count;
        taken
    }
}

/// One frame.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub body: Body<'a>,
}

/// Metadata and payload of a frame: a view of the receive, or memory of its own.
#[derive(Debug)]
pub struct Body<'a> {
    storage: Storage<'a>,
    metadata: (u32, u32),
    payload: (u32, u32),
}

#[derive(Debug)]
enum Storage<'a> {
    /// The whole frame, and where it begins in the receive.
    InPlace { frame: &'a [u8], offset: usize },
    /// The whole frame, collected, short enough that its memory is used again.
    Collected(Vec<u8>),
    /// The whole frame, collected, to be shared by whoever keeps it.
    Large(Bytes),
}

impl Body<'_> {
    #[inline]
    fn frame(&self) -> &[u8] {
        match &self.storage {
            Storage::InPlace { frame, .. } => frame,
            Storage::Collected(frame) => frame,
            Storage::Large(frame) => frame,
        }
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.frame()[self.payload.0 as usize..self.payload.1 as usize]
    }

    /// The metadata; empty if the frame has none.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata::new(&self.frame()[self.metadata.0 as usize..self.metadata.1 as usize])
    }

    /// Metadata block and payload, as they lie between header and trailer.
    #[inline]
    pub fn content(&self) -> &[u8] {
        &self.frame()[HEADER_BYTES..self.payload.1 as usize]
    }

    /// True if the content begins with a metadata block.
    #[inline]
    pub fn has_metadata(&self) -> bool {
        self.metadata.0 as usize > HEADER_BYTES
    }

    /// The checksum of the content that the frame came with, if it did.
    #[inline]
    pub fn trailer(&self) -> Option<[u8; TRAILER_BYTES]> {
        self.frame()[self.payload.1 as usize..].first_chunk().copied()
    }

    /// The content to keep without a copy, if that can be: a frame that was collected in memory that
    /// is used again cannot be shared.
    pub fn share_content(&self, lend: impl FnOnce() -> Bytes) -> Option<Bytes> {
        let (start, end) = (HEADER_BYTES, self.payload.1 as usize);
        match &self.storage {
            Storage::InPlace { offset, .. } => Some(lend().slice(offset + start..offset + end)),
            Storage::Large(frame) => Some(frame.slice(start..end)),
            Storage::Collected(_) => None,
        }
    }

    /// True if the frame did not lie in one receive, so that it was put together.
    #[inline]
    pub fn is_collected(&self) -> bool {
        !matches!(self.storage, Storage::InPlace { .. })
    }

    /// The payload to keep. Short ones are copied, which costs less than a loan; long ones are a
    /// slice of `lend()` (the whole receive, to keep) or of the memory they were collected in.
    pub fn to_payload_bytes(&self, lend: impl FnOnce() -> Bytes) -> Bytes {
        let (start, end) = (self.payload.0 as usize, self.payload.1 as usize);
        match &self.storage {
            Storage::InPlace { offset, .. } if end - start > LEND_BYTES_MIN => {
                lend().slice(offset + start..offset + end)
            }
            Storage::Large(frame) => frame.slice(start..end),
            Storage::InPlace { .. } | Storage::Collected(_) => {
                Bytes::copy_from_slice(self.payload())
            }
        }
    }
}

/// Memory that somebody receives into: what it held, and how large it is.
#[derive(Clone, Copy, Debug)]
struct Lent {
    arrived: usize,
    capacity: usize,
}

/// Splits one connection's bytes into frames.
#[derive(Debug)]
pub struct Deframer {
    /// The beginning of a frame whose rest has not arrived; empty: none is under way.
    partial: Vec<u8>,
    /// The decoded header of that frame, once there are enough bytes of it.
    header: Option<Header>,
    frame_bytes_max: u32,
    /// The longest frame that was collected so far: so much memory the peer is trusted to fill.
    trusted_bytes: u32,
    /// While the memory of the frame under way is being received into.
    lent: Option<Lent>,
    /// Where the memory of large frames comes from and goes to.
    spare: Option<Arc<SpareBodies>>,
}

impl Deframer {
    /// A deframer that refuses frames longer than `frame_bytes_max`.
    pub fn new(frame_bytes_max: u32) -> Self {
        Deframer {
            partial: Vec::new(),
            header: None,
            frame_bytes_max,
            trusted_bytes: 0,
            lent: None,
            spare: None,
        }
    }

    /// The next frame. `None`: all of `input` is read, and no frame is whole.
    ///
    /// # Errors
    /// What is wrong with the bytes. The stream cannot be followed any further: close it.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<Frame<'a>>, FrameError> {
        if self.partial.is_empty() {
            debug_assert!(self.lent.is_none() || input.left() == 0, "what comes next is in there");
            let Some(bytes) = input.rest().first_chunk::<HEADER_BYTES>() else {
                self.collect(input, input.left());
                return Ok(None);
            };
            let header = self.checked(bytes)?;
            let frame_bytes = header.frame_bytes as usize;
            if input.left() >= frame_bytes {
                let offset = input.position;
                let frame = input.take(frame_bytes);
                return read(header, Storage::InPlace { frame, offset }).map(Some);
            }
            self.header = Some(header);
        }
        self.next_collected(input)
    }

    /// From the next frame on, refuses frames longer than this.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Takes the memory of large frames from `spare`, where it goes when they are dropped.
    pub fn use_spare(&mut self, spare: Arc<SpareBodies>) {
        self.spare = Some(spare);
    }

    /// Gives up the frame under way, if there is one, and all memory.
    pub fn release_memory(&mut self) {
        self.partial = Vec::new();
        self.header = None;
        // What is lent counts for whoever holds it now.
        self.lent = self.lent.map(|_| Lent { arrived: 0, capacity: 0 });
    }

    /// Memory to receive the rest of the frame under way into, if that is worth while, and how many
    /// bytes the rest has: it holds what has come of the frame and has room for some or all of the
    /// rest. Until [`Deframer::put_back`] returns it there must be no other input.
    #[inline]
    pub fn lend_partial(&mut self) -> Option<(Vec<u8>, usize)> {
        let frame_bytes = self.header?.frame_bytes as usize;
        let left = frame_bytes - self.partial.len();
        let is_large =
            frame_bytes >= RECEIVE_INTO_FRAME_BYTES_MIN && left >= RECEIVE_INTO_BYTES_MIN;
        if !is_large || self.lent.is_some() {
            return None;
        }
        if self.partial.len() == self.partial.capacity() {
            self.grow(self.partial.len() + 1);
        }
        let (arrived, capacity) = (self.partial.len(), self.partial.capacity());
        self.lent = Some(Lent { arrived, capacity });
        Some((std::mem::take(&mut self.partial), left))
    }

    /// Takes lent memory back, with whatever was received into it.
    pub fn put_back(&mut self, partial: Vec<u8>) {
        assert!(self.lent.take().is_some(), "what is put back was lent");
        // Unless the frame was given up in the meantime.
        if self.header.is_some() {
            self.partial = partial;
        }
    }

    /// Bytes of the frame under way that have arrived, and that it has in all (if known).
    pub fn under_way(&self) -> Option<(usize, Option<u32>)> {
        let length = self.header.map(|header| header.frame_bytes);
        let arrived = self.partial.len() + self.lent.map_or(0, |lent| lent.arrived);
        (arrived > 0).then_some((arrived, length))
    }

    /// Memory held for the frame under way, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.partial.capacity() + self.lent.map_or(0, |lent| lent.capacity)
    }

    /// Takes back the memory of a frame that was collected, for the next one, if it is small.
    #[inline]
    pub fn recycle(&mut self, body: Body<'_>) {
        if let Storage::Collected(mut frame) = body.storage
            && self.partial.is_empty()
        {
            frame.clear();
            self.partial = frame;
        }
    }

    /// Goes on with the frame under way.
    fn next_collected<'a>(
        &mut self,
        input: &mut Input<'a>,
    ) -> Result<Option<Frame<'a>>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                self.collect(input, HEADER_BYTES - self.partial.len());
                let Some(bytes) = self.partial.first_chunk::<HEADER_BYTES>() else {
                    return Ok(None);
                };
                *self.header.insert(self.checked(bytes)?)
            }
        };
        self.collect(input, header.frame_bytes as usize - self.partial.len());
        if self.partial.len() < header.frame_bytes as usize {
            return Ok(None);
        }
        self.header = None;
        self.trusted_bytes = self.trusted_bytes.max(header.frame_bytes);
        let frame = std::mem::take(&mut self.partial);
        let storage = match &self.spare {
            _ if frame.capacity() <= PARTIAL_KEEP_BYTES => Storage::Collected(frame),
            Some(spare) if frame.capacity() >= PARTIAL_STEP_BYTES => {
                Storage::Large(spare.share(frame))
            }
            _ => Storage::Large(Bytes::from(frame)),
        };
        read(header, storage).map(Some)
    }

    /// Copies up to `wanted` bytes. Memory grows in doubling steps as bytes really arrive, so that
    /// a length that lies costs one step, and beyond it no more than twice what was really sent. A
    /// frame no longer than one that has come before is believed: growing costs more than receiving.
    fn collect(&mut self, input: &mut Input<'_>, wanted: usize) {
        let taken = input.take(wanted.min(input.left()));
        let needed = self.partial.len() + taken.len();
        if needed > self.partial.capacity() {
            self.grow(needed);
        }
        self.partial.extend_from_slice(taken);
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        let whole = self.header.map_or(HEADER_BYTES, |header| header.frame_bytes as usize);
        let step = (self.partial.capacity() * 2).max(PARTIAL_STEP_BYTES);
        let step = step.max(self.trusted_bytes as usize);
        let target = whole.min(step).max(needed);
        if target >= PARTIAL_STEP_BYTES
            && let Some(spare) = &self.spare
            && let Some(mut memory) = spare.take(target)
        {
            memory.extend_from_slice(&self.partial);
            spare.keep(std::mem::replace(&mut self.partial, memory));
        } else {
            self.partial.reserve_exact(target - self.partial.len());
        }
    }

    #[inline]
    fn checked(&self, bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let header = Header::decode(bytes).map_err(FrameError::Header)?;
        let frame_bytes = header.frame_bytes;
        if (frame_bytes as usize) < HEADER_BYTES {
            return Err(FrameError::TooShort { frame_bytes });
        }
        let max = header.kind.frame_bytes_max(self.frame_bytes_max);
        if frame_bytes > max {
            return Err(FrameError::TooLong { frame_bytes, max });
        }
        Ok(header)
    }
}

/// Cuts a whole frame into metadata, payload and trailer, and checks the trailer.
#[inline]
fn read(header: Header, storage: Storage<'_>) -> Result<Frame<'_>, FrameError> {
    let mut body = Body {
        storage,
        metadata: (HEADER_BYTES as u32, HEADER_BYTES as u32),
        payload: (HEADER_BYTES as u32, header.frame_bytes),
    };
    if header.flags.has(Flags::PAYLOAD_CRC) {
        body.payload.1 = without_trailer(body.frame())?;
    }
    if header.flags.has(Flags::METADATA) {
        let block = &body.frame()[HEADER_BYTES..body.payload.1 as usize];
        let (length, records) = block.split_first_chunk().ok_or(FrameError::Metadata)?;
        let length = usize::from(u16::from_le_bytes(*length));
        if length > records.len() || length > METADATA_BYTES_MAX {
            return Err(FrameError::Metadata);
        }
        let records_at = HEADER_BYTES + 2;
        body.metadata = (records_at as u32, (records_at + length) as u32);
        body.payload.0 = body.metadata.1;
    }
    Ok(Frame { header, body })
}

/// Where the body ends and the trailer begins, after checking the one against the other.
fn without_trailer(frame: &[u8]) -> Result<u32, FrameError> {
    let body = &frame[HEADER_BYTES..];
    let (body, trailer) = body.split_last_chunk::<TRAILER_BYTES>().ok_or(FrameError::Trailer)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*trailer) {
        return Err(FrameError::Trailer);
    }
    Ok((HEADER_BYTES + body.len()) as u32)
}

/// Why a stream of bytes is no stream of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The header is wrong in itself.
    Header(HeaderError),
    /// The frame claims to be shorter than its own header.
    TooShort {
        /// The claim.
        frame_bytes: u32,
    },
    /// The frame is longer than its kind may be, or than this side has said it accepts.
    TooLong {
        /// Its length.
        frame_bytes: u32,
        /// The limit that it is over: the one told in hello, or that of its kind.
        max: u32,
    },
    /// The metadata block reaches beyond its frame or its limit.
    Metadata,
    /// The body does not fit its checksum.
    Trailer,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Header(error) => error.fmt(f),
            FrameError::TooShort { frame_bytes } => {
                write!(
                    f,
                    "frame claims {frame_bytes} bytes, less than its {HEADER_BYTES}-byte header"
                )
            }
            FrameError::TooLong { frame_bytes, max } => {
                write!(f, "frame of {frame_bytes} bytes; at most {max} are accepted here")
            }
            FrameError::Metadata => f.write_str("metadata block reaches beyond its frame or limit"),
            FrameError::Trailer => f.write_str("payload checksum mismatch: damaged on the way"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests;
