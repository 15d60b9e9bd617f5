//! Catena's own protocol: the engine's state machine, in the role of the client.

use super::{Ending, EndingKind, Happened, Outcome, Protocol};
use bytes::Bytes;
use catena_engine::config::ConnectionConfig;
use catena_engine::driver::Output;
use catena_engine::limits::{COPY_BYTES_MAX, IN_FLIGHT_CEILING};
use catena_engine::rpc::connection::{CallFailure, CallRequest, Connection, Event, Role};
use catena_engine::rpc::error::CloseReason;
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::deframer::Input;
use catena_engine::wire::framer::Payload;
use catena_engine::wire::hello::ShardMap;
use catena_engine::wire::status::StatusClass;
use catena_engine::{MethodId, Status};
use std::io;
use std::sync::Arc;

/// Statuses of one connection whose text is kept, and the characters that are kept of it: enough to
/// see what is wrong, whatever the peer sends.
const TEXTS_MAX: usize = 16;
const TEXT_CHARS_MAX: usize = 200;

/// What every call says.
#[derive(Debug)]
pub struct Request {
    /// Which method.
    pub method: MethodId,
    /// With which payload.
    pub payload: Bytes,
    /// How long to wait for the answer; told to the server as the call's deadline.
    pub timeout: Duration,
    /// How the connections behave.
    pub connection: Arc<ConnectionConfig>,
}

/// One connection.
#[derive(Debug)]
pub struct Catena {
    connection: Connection,
    request: Arc<Request>,
    /// What the peer said as it left.
    farewell: Option<String>,
    texts: Vec<(u16, String)>,
}

impl Protocol for Catena {
    type Request = Request;

    fn new(request: &Arc<Request>, now: Instant) -> Self {
        let config = request.connection.clone();
        let connection = Connection::new(Role::Client, config, &ShardMap::default(), now);
        Catena { connection, request: request.clone(), farewell: None, texts: Vec::new() }
    }

    fn window(&self) -> u32 {
        match self.connection.is_open() {
            true => self.connection.peer().in_flight_max.min(IN_FLIGHT_CEILING),
            false => 0,
        }
    }

    #[inline]
    fn start(&mut self, slot: u32, now: Instant) -> Result<(), String> {
        let Request { method, payload, timeout, .. } = &*self.request;
        // A short payload is copied anyway; only a long one is worth a reference count.
        let payload = match payload.len() > COPY_BYTES_MAX {
            true => Payload::Shared(payload.clone()),
            false => Payload::Copied(payload),
        };
        let mut call = CallRequest::new(*method, payload);
        call.deadline = Some(now + *timeout);
        let started = self.connection.start_call(call, u64::from(slot), now);
        started.map(drop).map_err(|error| error.to_string())
    }

    #[inline]
    fn next(&mut self, bytes: &mut &[u8], now: Instant) -> Option<Happened> {
        loop {
            let mut input = Input::new(bytes);
            let event = self.connection.handle_bytes(&mut input, now);
            *bytes = input.rest();
            match event? {
                Event::Response { token, head, body } => {
                    let outcome = outcome_of(head.status);
                    if outcome != Outcome::Ok {
                        note_text(&mut self.texts, head.status, body.payload());
                    }
                    self.connection.recycle(body);
                    return Some(Happened::Ended { slot: token as u32, outcome });
                }
                other => {
                    if let Some(happened) = happened(other, &mut self.farewell) {
                        return Some(happened);
                    }
                }
            }
        }
    }

    fn poll(&mut self) -> Option<Happened> {
        loop {
            let event = self.connection.poll_event()?;
            if let Some(happened) = happened(event, &mut self.farewell) {
                return Some(happened);
            }
        }
    }

    fn handle_end(&mut self, result: io::Result<()>) {
        self.connection.handle_end(result);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    fn provide_output(&mut self, memory: &mut Option<Output>) {
        self.connection.provide_output(memory);
    }

    fn poll_transmit(&mut self) -> Option<Output> {
        self.connection.poll_transmit()
    }

    fn status_name(code: u16) -> String {
        match Status(code).class() {
            StatusClass::Application => format!("{} ({code} on the wire)", Status(code)),
            _ => Status(code).to_string(),
        }
    }

    fn texts(&self) -> &[(u16, String)] {
        &self.texts
    }
}

/// Keeps the first text of each status. Where there is none, or it is no text, nothing.
#[cold]
fn note_text(texts: &mut Vec<(u16, String)>, status: Status, payload: &[u8]) {
    let is_known = texts.iter().any(|(known, _)| *known == status.0);
    if is_known || texts.len() == TEXTS_MAX {
        return;
    }
    if let Ok(text) = std::str::from_utf8(payload)
        && !text.is_empty()
        && !text.contains(char::is_control)
    {
        texts.push((status.0, text.chars().take(TEXT_CHARS_MAX).collect()));
    }
}

fn happened(event: Event<'_>, farewell: &mut Option<String>) -> Option<Happened> {
    match event {
        Event::Opened => Some(Happened::Opened),
        Event::CallFailed { token, failure } => {
            let outcome = match failure {
                CallFailure::DeadlinePassed => Outcome::TimedOut,
                CallFailure::ConnectionEnded => Outcome::ConnectionLost,
            };
            Some(Happened::Ended { slot: token as u32, outcome })
        }
        Event::Closed(reason) => Some(Happened::Closed(ending(&reason, farewell.take()))),
        // What is in flight is still answered; the window is 0 from here on.
        Event::PeerLeaves { reason, text } => {
            // Quoted as a string of the language, for it comes from a stranger and goes to a terminal.
            let words = if text.is_empty() { String::new() } else { format!(", {text:?}") };
            *farewell = Some(format!("it said go-away: {reason:?}{words}"));
            None
        }
        // Not asked for here.
        Event::Ponged(_) => None,
        Event::Response { .. }
        | Event::Request { .. }
        | Event::Pinged { .. }
        | Event::RequestRefused { .. }
        | Event::RequestDropped { .. } => {
            unreachable!("responses lie in bytes, and nobody sends requests to a client")
        }
    }
}

fn ending(reason: &CloseReason, farewell: Option<String>) -> Ending {
    let kind = match (reason, &farewell) {
        (_, Some(_)) => EndingKind::Told,
        (CloseReason::PeerClosed | CloseReason::Lost(_), None) => EndingKind::Silent,
        _ => EndingKind::Wrong,
    };
    Ending { reason: farewell.unwrap_or_else(|| reason.to_string()), kind }
}

fn outcome_of(status: Status) -> Outcome {
    match status.class() {
        StatusClass::Ok => Outcome::Ok,
        StatusClass::NotExecuted => Outcome::NotExecuted(status.0),
        StatusClass::MayHaveExecuted | StatusClass::Application => {
            Outcome::MayHaveExecuted(status.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            method: MethodId::of("echo"),
            payload: Bytes::from_static(&[7; 32]),
            timeout: Duration::from_secs(1),
            connection: Arc::default(),
        }
    }

    #[test]
    fn a_call_meets_a_server_and_ends_with_its_status() {
        let now = Instant::from_nanos(1);
        let request = Arc::new(request());
        let mut client = Catena::new(&request, now);
        assert_eq!(client.window(), 0, "no hello yet");
        let config = request.connection.clone();
        let mut server = Connection::new(Role::Server, config, &ShardMap::default(), now);
        let hello = server.poll_transmit().expect("a hello").to_vec();
        assert_eq!(client.next(&mut &hello[..], now), Some(Happened::Opened));
        assert_eq!(client.window(), 1_024);
        client.start(5, now).expect("it is open");

        let output = client.poll_transmit().expect("hello and request").to_vec();
        let mut input = Input::new(&output);
        while let Some(event) = server.handle_bytes(&mut input, now) {
            if let Event::Request { head, body, deadline } = event {
                assert_eq!((body.payload(), deadline), (&[7; 32][..], Some(now + request.timeout)));
                let head = catena_engine::wire::frame::ResponseHead {
                    call: head.call,
                    status: Status::SHED,
                    queue_delay_us: 0,
                    service_us: 0,
                    in_flight: 1,
                };
                server.respond(head, Payload::Copied(b""));
            }
        }
        let answer = server.poll_transmit().expect("an answer").to_vec();
        let outcome = Outcome::NotExecuted(Status::SHED.0);
        assert_eq!(client.next(&mut &answer[..], now), Some(Happened::Ended { slot: 5, outcome }));
        assert_eq!(Catena::status_name(Status::SHED.0), "shed");

        client.start(6, now).expect("it is open");
        client.handle_timeout(now + Duration::from_secs(2));
        let outcome = Outcome::TimedOut;
        assert_eq!(client.poll(), Some(Happened::Ended { slot: 6, outcome }));
        client.start(7, now).expect("it is open");
        client.handle_end(Ok(()));
        let outcome = Outcome::ConnectionLost;
        assert_eq!(client.poll(), Some(Happened::Ended { slot: 7, outcome }));
        assert!(matches!(client.poll(), Some(Happened::Closed(_))));
        assert_eq!((client.poll(), client.window()), (None, 0));
    }

    #[test]
    fn a_text_is_kept_once_for_each_status_and_only_if_it_is_text() {
        let mut texts = Vec::new();
        note_text(&mut texts, Status::MALFORMED, b"16 MiB at most");
        note_text(&mut texts, Status::MALFORMED, b"something else");
        note_text(&mut texts, Status::SHED, b"");
        note_text(&mut texts, Status::WRONG_SHARD, &[1, 0, 0, 0]);
        note_text(&mut texts, Status::DENIED, b"\x1b[2J");
        assert_eq!(texts, [(Status::MALFORMED.0, "16 MiB at most".to_owned())]);
        for status in 1_000..2_000 {
            note_text(&mut texts, Status(status), &[b'x'; 500]);
        }
        assert_eq!((texts.len(), texts[1].1.len()), (TEXTS_MAX, TEXT_CHARS_MAX));
    }

    #[test]
    fn a_go_away_tells_why_the_connection_ended() {
        let shards = ShardMap::default();
        for (leaves, kind) in [(true, EndingKind::Told), (false, EndingKind::Silent)] {
            let mut client = Catena::new(&Arc::new(request()), Instant::ZERO);
            if leaves {
                let config = Arc::<ConnectionConfig>::default();
                let mut server = Connection::new(Role::Server, config, &shards, Instant::ZERO);
                server.abort(CloseReason::Overloaded);
                let bytes = server.poll_transmit().expect("a go-away").to_vec();
                let mut bytes = &bytes[..];
                while client.next(&mut bytes, Instant::ZERO).is_some() {}
            }
            client.handle_end(Ok(()));
            let ended = std::iter::from_fn(|| client.poll());
            let Some(Happened::Closed(ending)) = ended.last() else { panic!("it has ended") };
            assert_eq!((ending.kind, ending.reason.contains("overloaded")), (kind, leaves));
        }
    }
}
