//! The deframer: cutting changes nothing, memory is bounded by what was sent.

use catena_engine::limits::PARTIAL_STEP_BYTES;
use catena_engine::wire::deframer::{Deframer, FrameError, Input};
use catena_engine::wire::header::Header;

/// The first byte says how the stream is cut (0: not at all), the second whether its checksums are
/// made right and which limit the deframer has; the stream follows.
pub fn run(data: &[u8]) {
    let [cut, options, stream @ ..] = data else { return };
    let mut stream = stream.to_vec();
    if options & 1 == 0 {
        crate::seal(&mut stream);
    }
    let limit = [4_096, 100, 1 << 16, 1 << 24][usize::from(options >> 1 & 3)];
    let whole = frames(&stream, stream.len().max(1), limit);
    if *cut > 0 {
        let pieces = frames(&stream, usize::from(*cut), limit);
        assert_eq!(pieces, whole, "cut every {cut} bytes");
    }
}

/// A frame with what lies in it.
type Read = (Header, Vec<u8>, Vec<u8>);

fn frames(stream: &[u8], piece: usize, limit: u32) -> (Vec<Read>, Option<FrameError>) {
    let mut deframer = Deframer::new(limit);
    let mut frames = Vec::new();
    let mut fed = 0;
    for chunk in stream.chunks(piece) {
        fed += chunk.len();
        let mut input = Input::new(chunk);
        loop {
            let frame = match deframer.next(&mut input) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            };
            let payload = frame.body.payload().to_vec();
            let metadata = frame.body.metadata().as_bytes().to_vec();
            for record in frame.body.metadata().records() {
                let _ = record;
            }
            let _ = frame.body.metadata().idempotency();
            let kept = frame.body.to_payload_bytes(|| chunk.to_vec().into());
            assert_eq!(kept, payload);
            frames.push((frame.header, metadata, payload));
            deframer.recycle(frame.body);
        }
        assert_eq!(input.left(), 0, "no frame is whole, so all is read");
        assert!(deframer.memory_bytes() <= 2 * fed + PARTIAL_STEP_BYTES);
    }
    (frames, None)
}
