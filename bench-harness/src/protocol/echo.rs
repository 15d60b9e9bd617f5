//! What the bare echo servers speak: a little-endian length, itself included, and whatever follows.
//!
//! The second word of a frame carries the slot. A frame is as long as a request of the engine with
//! the same payload, so that both are asked to move the same bytes.

use super::{Ending, Happened, Outcome, Protocol};
use catena_engine::driver::Output;
use catena_engine::time::Instant;
use catena_engine::wire::header::HEADER_BYTES;
use std::io;
use std::sync::Arc;

/// Length and slot.
const PREFIX_BYTES: usize = 8;

/// What every frame looks like, but for its slot.
#[derive(Debug)]
pub struct Request {
    frame: Vec<u8>,
}

impl Request {
    /// Frames as long as the engine's requests with such a payload.
    pub fn with_payload(payload_bytes: u32) -> Self {
        let frame_bytes = HEADER_BYTES as u32 + payload_bytes;
        let mut frame = vec![0; frame_bytes as usize];
        frame[..4].copy_from_slice(&frame_bytes.to_le_bytes());
        Request { frame }
    }

    /// What of a frame is not header, or would not be in the engine.
    pub fn payload_bytes(&self) -> usize {
        self.frame.len() - HEADER_BYTES
    }
}

/// One connection.
#[derive(Debug)]
pub struct Echo {
    request: Arc<Request>,
    output: Output,
    /// The beginning of a frame whose rest has not arrived.
    partial: Vec<u8>,
    is_opened: bool,
    closed: Option<Ending>,
}

impl Protocol for Echo {
    type Request = Request;

    fn new(request: &Arc<Request>, _now: Instant) -> Self {
        let partial = Vec::with_capacity(request.frame.len());
        let request = request.clone();
        Echo { request, output: Output::default(), partial, is_opened: false, closed: None }
    }

    fn window(&self) -> u32 {
        u32::MAX
    }

    #[inline]
    fn start(&mut self, slot: u32, _now: Instant) -> Result<(), String> {
        let frame = &self.request.frame;
        let copied = self.output.copied_mut();
        copied.extend_from_slice(&frame[..4]);
        copied.extend_from_slice(&slot.to_le_bytes());
        copied.extend_from_slice(&frame[PREFIX_BYTES..]);
        Ok(())
    }

    #[inline]
    fn next(&mut self, bytes: &mut &[u8], _now: Instant) -> Option<Happened> {
        let frame_bytes = self.request.frame.len();
        if self.partial.is_empty() && bytes.len() >= frame_bytes {
            let (frame, rest) = bytes.split_at(frame_bytes);
            *bytes = rest;
            return Some(self.answer(frame));
        }
        let (taken, rest) = bytes.split_at(bytes.len().min(frame_bytes - self.partial.len()));
        *bytes = rest;
        self.partial.extend_from_slice(taken);
        if self.partial.len() < frame_bytes {
            return None;
        }
        let frame = std::mem::take(&mut self.partial);
        let happened = self.answer(&frame);
        self.partial = frame;
        self.partial.clear();
        Some(happened)
    }

    fn poll(&mut self) -> Option<Happened> {
        if !std::mem::replace(&mut self.is_opened, true) {
            return Some(Happened::Opened);
        }
        self.closed.take().map(Happened::Closed)
    }

    fn handle_end(&mut self, result: io::Result<()>) {
        self.closed = Some(Ending::silent(result));
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn provide_output(&mut self, memory: &mut Option<Output>) {
        if self.output.is_empty()
            && self.output.capacity() == 0
            && let Some(memory) = memory.take()
        {
            self.output = memory;
        }
    }

    fn poll_transmit(&mut self) -> Option<Output> {
        (!self.output.is_empty()).then(|| std::mem::take(&mut self.output))
    }

    fn status_name(_code: u16) -> String {
        unreachable!("an echo has no statuses")
    }
}

impl Echo {
    #[inline]
    fn answer(&self, frame: &[u8]) -> Happened {
        if frame[..4] != self.request.frame[..4] {
            return Happened::Closed(Ending::wrong("what came back is not what was sent"));
        }
        let slot = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        Happened::Ended { slot, outcome: Outcome::Ok }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_were_cut() {
        let now = Instant::ZERO;
        let mut echo = Echo::new(&Arc::new(Request::with_payload(32)), now);
        assert_eq!(echo.poll(), Some(Happened::Opened));
        for slot in 0..9 {
            echo.start(slot, now).expect("an echo is always open");
        }
        let sent = echo.poll_transmit().expect("nine frames").to_vec();
        assert_eq!(sent.len(), 9 * 64, "as long as the engine's");
        let mut slots = Vec::new();
        for piece in sent.chunks(50) {
            let mut bytes = piece;
            while let Some(happened) = echo.next(&mut bytes, now) {
                let Happened::Ended { slot, outcome: Outcome::Ok } = happened else {
                    panic!("{happened:?}");
                };
                slots.push(slot);
            }
            assert!(bytes.is_empty());
        }
        assert_eq!(slots, (0..9).collect::<Vec<_>>());
        let closed = echo.next(&mut &[0; 64][..], now);
        assert!(matches!(closed, Some(Happened::Closed(_))), "{closed:?}");
        echo.handle_end(Ok(()));
        assert_eq!(echo.poll(), Some(Happened::Closed(Ending::silent(Ok(())))));
    }
}
