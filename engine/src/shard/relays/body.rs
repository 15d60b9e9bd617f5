//! The body of a request or an answer that is passed on: copied if it is short, else shared from where it
//! lies.

use crate::limits::PARTIAL_KEEP_BYTES;
use crate::metrics::ShardMetrics;
use crate::wire::deframer::Body;
use crate::wire::framer::{PassedBody, Payload, TRAILER_BYTES};
use bytes::Bytes;

/// A body to pass on: copied if it is short, from where it lies if it is not.
#[inline]
pub(super) fn passed_body<'b>(
    body: &'b Body<'_>,
    copy_bytes_max: usize,
    lend: &dyn Fn() -> Bytes,
    metrics: &ShardMetrics,
) -> PassedBody<'b> {
    let copied = body.content();
    let is_long = copied.len() > copy_bytes_max;
    let shared = if is_long { body.share_content(lend) } else { None };
    let content = match shared {
        Some(bytes) => Payload::Shared(bytes),
        None => {
            count_copy(copied.len(), metrics);
            Payload::Copied(copied)
        }
    };
    if body.is_collected() {
        metrics.relay_collected.increment();
    }
    PassedBody { content, has_metadata: body.has_metadata(), trailer: body.trailer() }
}

#[inline]
fn count_copy(bytes: usize, metrics: &ShardMetrics) {
    if bytes > 0 {
        metrics.relay_copies.increment();
        metrics.relay_copied_bytes.add(bytes as u64);
    }
}

/// The body of a request, for the first attempt and for others.
#[derive(Debug, Default)]
pub(super) struct Kept {
    copied: Vec<u8>,
    shared: Option<Bytes>,
    has_metadata: bool,
    trailer: Option<[u8; TRAILER_BYTES]>,
}

impl Kept {
    #[inline]
    pub(super) fn keep(
        &mut self,
        body: &Body<'_>,
        copy_bytes_max: usize,
        lend: &dyn Fn() -> Bytes,
        metrics: &ShardMetrics,
    ) {
        let PassedBody { content, has_metadata, trailer } =
            passed_body(body, copy_bytes_max, lend, metrics);
        (self.has_metadata, self.trailer) = (has_metadata, trailer);
        match content {
            Payload::Copied(bytes) => self.copied.extend_from_slice(bytes),
            Payload::Shared(bytes) => self.shared = Some(bytes),
        }
    }

    #[inline]
    pub(super) fn body(&self) -> PassedBody<'_> {
        let content = match &self.shared {
            Some(bytes) => Payload::Shared(bytes.clone()),
            None => Payload::Copied(&self.copied),
        };
        PassedBody { content, has_metadata: self.has_metadata, trailer: self.trailer }
    }

    /// Counts that it was sent: what is not shared is copied into the connection's output.
    #[inline]
    pub(super) fn count_sent(&self, metrics: &ShardMetrics) {
        if self.shared.is_none() {
            count_copy(self.copied.len(), metrics);
        }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.shared = None;
        self.copied.clear();
        if self.copied.capacity() > PARTIAL_KEEP_BYTES {
            self.copied = Vec::new();
        }
    }
}
