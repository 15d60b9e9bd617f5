//! Frames → bytes out: header, metadata, payload, trailer, appended to an [`Output`].

use super::frame::ResponseHead;
use super::header::{Flags, HEADER_BYTES, Header};
use super::output::Output;
use crate::limits::COPY_BYTES_MAX;
use bytes::Bytes;

/// Bytes of the trailer that carries the body's checksum.
pub const TRAILER_BYTES: usize = 4;

/// A payload to send.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// Copied behind its header.
    Copied(&'a [u8]),
    /// Sent from where it lies when it is long, copied when it is short.
    Shared(Bytes),
}

impl Payload<'_> {
    /// Bytes of the payload.
    pub fn len(&self) -> usize {
        match self {
            Payload::Copied(bytes) => bytes.len(),
            Payload::Shared(bytes) => bytes.len(),
        }
    }

    /// True for an empty payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload itself.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Copied(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Payload::Copied(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Payload::Copied(bytes)
    }
}

impl From<Bytes> for Payload<'_> {
    fn from(bytes: Bytes) -> Self {
        Payload::Shared(bytes)
    }
}

impl From<Vec<u8>> for Payload<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Payload::Shared(Bytes::from(bytes))
    }
}

/// The body of a frame that is passed on as it came: nothing in it is read.
#[derive(Clone, Debug)]
pub struct PassedBody<'a> {
    /// Metadata block and payload, as they lie between header and trailer. What is shared is sent from
    /// where it lies, however short it is.
    pub content: Payload<'a>,
    /// True if it begins with a metadata block.
    pub has_metadata: bool,
    /// The checksum of `content`, if it came with one: whoever made the frame has computed it, so that
    /// it covers the whole way.
    pub trailer: Option<[u8; TRAILER_BYTES]>,
}

impl PassedBody<'_> {
    /// No body.
    pub const EMPTY: PassedBody<'static> =
        PassedBody { content: Payload::Copied(&[]), has_metadata: false, trailer: None };

    /// A payload of our own.
    pub fn text(text: &str) -> PassedBody<'_> {
        PassedBody { content: Payload::Copied(text.as_bytes()), ..PassedBody::EMPTY }
    }
}

/// Appends frames to outputs. What it knows is what the hellos have agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framer {
    payload_crc: bool,
}

impl Framer {
    /// A framer; `payload_crc` says whether bodies get a checksum.
    pub fn new(payload_crc: bool) -> Self {
        Framer { payload_crc }
    }

    /// The length on the wire of a frame with so much metadata and payload.
    pub fn frame_bytes(&self, metadata_bytes: usize, payload_bytes: usize) -> usize {
        let block = if metadata_bytes == 0 { 0 } else { 2 + metadata_bytes };
        let body = block + payload_bytes;
        HEADER_BYTES + body + if self.payload_crc && body > 0 { TRAILER_BYTES } else { 0 }
    }

    /// Appends one frame. `header.frame_bytes` and the flags for metadata and checksum are set here.
    ///
    /// The caller has checked the length against what the peer accepts and `metadata` against
    /// [`METADATA_BYTES_MAX`](crate::limits::METADATA_BYTES_MAX).
    #[inline]
    pub fn push(&self, out: &mut Output, header: Header, metadata: &[u8], payload: Payload<'_>) {
        let frame_bytes = self.frame_bytes(metadata.len(), payload.len());
        let header = self.finished(header, frame_bytes, !metadata.is_empty());
        let copied = out.copied_mut();
        copied.extend_from_slice(&header.encode());
        let body_at = copied.len();
        push_metadata(copied, metadata);
        match payload {
            Payload::Copied(bytes) => copied.extend_from_slice(bytes),
            Payload::Shared(bytes) if bytes.len() <= COPY_BYTES_MAX => {
                copied.extend_from_slice(&bytes);
            }
            Payload::Shared(bytes) => return self.push_shared(out, body_at, bytes),
        }
        self.push_trailer(copied, body_at);
    }

    /// Appends one frame whose payload `write` appends in place and whose header it returns; the
    /// header is filled in afterwards. Returns what `write` did and the length of the payload.
    #[inline]
    pub fn push_with(
        &self,
        out: &mut Output,
        write: impl FnOnce(&mut PayloadWriter<'_>) -> ResponseHead,
    ) -> (ResponseHead, usize) {
        let copied = out.copied_mut();
        let header_at = copied.len();
        copied.extend_from_slice(&[0; HEADER_BYTES]);
        let body_at = copied.len();
        let head = write(&mut PayloadWriter::new(copied));
        let payload_bytes = copied.len() - body_at;
        self.push_trailer(copied, body_at);
        let header = self.finished(head.header(), copied.len() - header_at, false);
        copied[header_at..body_at].copy_from_slice(&header.encode());
        (head, payload_bytes)
    }

    /// Appends one frame whose body came from another connection. A checksum that it came with goes
    /// along where this connection has them, and is left out where it has not.
    #[inline]
    pub fn push_passed(&self, out: &mut Output, header: Header, body: PassedBody<'_>) {
        let PassedBody { content, has_metadata, trailer } = body;
        let frame_bytes = self.frame_bytes(0, content.len());
        let header = self.finished(header, frame_bytes, has_metadata);
        let computed = |content: &[u8]| crc32c::crc32c(content).to_le_bytes();
        let copied = out.copied_mut();
        copied.extend_from_slice(&header.encode());
        let has_trailer = self.payload_crc && !content.is_empty();
        let trailer = has_trailer.then(|| trailer.unwrap_or_else(|| computed(content.bytes())));
        match content {
            Payload::Copied(bytes) => copied.extend_from_slice(bytes),
            Payload::Shared(bytes) => out.share(bytes),
        }
        if let Some(trailer) = trailer {
            out.copied_mut().extend_from_slice(&trailer);
        }
    }

    fn push_shared(&self, out: &mut Output, body_at: usize, payload: Bytes) {
        if !self.payload_crc {
            return out.share(payload);
        }
        let crc = crc32c::crc32c(&out.copied_mut()[body_at..]);
        let crc = crc32c::crc32c_append(crc, &payload);
        out.share(payload);
        out.copied_mut().extend_from_slice(&crc.to_le_bytes());
    }

    fn push_trailer(&self, copied: &mut Vec<u8>, body_at: usize) {
        if self.payload_crc && copied.len() > body_at {
            let crc = crc32c::crc32c(&copied[body_at..]);
            copied.extend_from_slice(&crc.to_le_bytes());
        }
    }

    fn finished(&self, mut header: Header, frame_bytes: usize, metadata: bool) -> Header {
        header.frame_bytes =
            u32::try_from(frame_bytes).expect("callers check the length against the peer's limit");
        if metadata {
            header.flags = header.flags.with(Flags::METADATA);
        }
        if self.payload_crc && frame_bytes > HEADER_BYTES {
            header.flags = header.flags.with(Flags::PAYLOAD_CRC);
        }
        header
    }
}

fn push_metadata(copied: &mut Vec<u8>, metadata: &[u8]) {
    if !metadata.is_empty() {
        let length = u16::try_from(metadata.len()).expect("metadata is checked against its limit");
        copied.extend_from_slice(&length.to_le_bytes());
        copied.extend_from_slice(metadata);
    }
}

/// Where a payload is written in place: append only.
#[derive(Debug)]
pub struct PayloadWriter<'a> {
    copied: &'a mut Vec<u8>,
}

impl<'a> PayloadWriter<'a> {
    pub(crate) fn new(copied: &'a mut Vec<u8>) -> Self {
        PayloadWriter { copied }
    }

    /// Appends `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    /// Appends `count` times the byte `byte`.
    pub fn fill(&mut self, byte: u8, count: usize) {
        let end = self.copied.len() + count;
        self.copied.resize(end, byte);
    }
}

impl std::io::Write for PayloadWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
