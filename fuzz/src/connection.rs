//! One connection against raw bytes, or against a script.

use crate::script::{Script, Step};
use crate::watched::Watched;
use arbitrary::{Arbitrary, Unstructured};
use catena_engine::rpc::connection::Role;
use catena_engine::time::Duration;

/// The first byte chooses: bit 0 a server, bit 1 a hello comes first, bit 2 a script instead of raw
/// bytes, bit 3 leave the checksums of raw bytes as they are, bit 4 calls are started first.
///
/// Raw bytes: the second byte is the length of a piece (0: all in one), the third the pause after
/// each, in units of 16 ms.
pub fn run(data: &[u8]) {
    let [mode, rest @ ..] = data else { return };
    match mode & 4 {
        0 => run_bytes(*mode, rest),
        _ => run_script(rest),
    }
}

fn run_bytes(mode: u8, data: &[u8]) {
    let [cut, pause, stream @ ..] = data else { return };
    let role = if mode & 1 == 1 { Role::Server } else { Role::Client };
    let mut stream = stream.to_vec();
    if mode & 8 == 0 {
        crate::seal(&mut stream);
    }
    let mut watched = Watched::new(role, true, true);
    if mode & 2 != 0 {
        watched.greet();
    }
    if mode & 16 != 0 {
        (0..4).for_each(|_| watched.start(None, b"hello"));
    }
    let piece = if *cut == 0 { stream.len().max(1) } else { usize::from(*cut) };
    for chunk in stream.chunks(piece) {
        watched.feed(chunk);
        watched.now += Duration::from_millis(16 * u64::from(*pause));
        watched.look_at_the_clock();
    }
    watched.finish();
}

fn run_script(data: &[u8]) {
    let Ok(script) = Script::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let role = if script.is_server { Role::Server } else { Role::Client };
    let mut watched = Watched::new(role, script.payload_crc, script.has_idle_timeout);
    if script.is_greeted {
        watched.greet();
    }
    for step in &script.steps {
        apply(&mut watched, step, script.cut.into());
    }
    watched.finish();
}

fn apply(watched: &mut Watched, step: &Step, cut: usize) {
    match step {
        Step::Frame(frame) => feed(watched, &frame.encode(), cut),
        Step::CutFrame(frame, at) => {
            let bytes = frame.encode();
            feed(watched, &bytes[..usize::from(*at) % bytes.len()], cut);
        }
        Step::Bytes(bytes) => feed(watched, bytes, cut),
        Step::Wait(ms) => watched.now += Duration::from_millis((*ms).into()),
        Step::Due => watched.go_to_what_is_due(),
        Step::Start { deadline_ms, payload_bytes } => {
            let deadline = deadline_ms.map(|ms| Duration::from_millis(ms.into()));
            watched.start(deadline, &[9; 255][..usize::from(*payload_bytes)]);
        }
        Step::Cancel(nth) => watched.cancel((*nth).into()),
        Step::Answer(nth) => watched.answer((*nth).into()),
        Step::Drain => {
            watched.connection.drain(watched.now);
            watched.after();
        }
        Step::SendStarted(bytes) => {
            watched.connection.handle_send_started(*bytes as usize, watched.now);
            watched.after();
        }
        Step::SendEnded => {
            watched.connection.handle_send_ended(watched.now);
            watched.after();
        }
        Step::Pause => {
            watched.connection.handle_receive_paused();
            watched.after();
        }
        Step::Resume => {
            watched.connection.handle_receive_resumed(watched.now);
            watched.after();
        }
        Step::End { in_order } => watched.end(*in_order),
        Step::Abort => watched.abort(),
    }
}

fn feed(watched: &mut Watched, bytes: &[u8], cut: usize) {
    let piece = if cut == 0 { bytes.len().max(1) } else { cut };
    bytes.chunks(piece).for_each(|chunk| watched.feed(chunk));
}
