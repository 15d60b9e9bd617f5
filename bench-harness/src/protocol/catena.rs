//! Catena's own protocol: the engine's state machine, in the role of the client.

use super::{Happened, Outcome, Protocol};
use bytes::Bytes;
use catena_engine::config::ConnectionConfig;
use catena_engine::driver::Output;
use catena_engine::limits::COPY_BYTES_MAX;
use catena_engine::rpc::connection::{CallFailure, CallRequest, Connection, Event, Role};
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::deframer::Input;
use catena_engine::wire::framer::Payload;
use catena_engine::wire::hello::ShardMap;
use catena_engine::wire::status::StatusClass;
use catena_engine::{MethodId, Status};
use std::io;
use std::sync::Arc;

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
}

impl Protocol for Catena {
    type Request = Request;

    fn new(request: &Arc<Request>, now: Instant) -> Self {
        let config = request.connection.clone();
        let connection = Connection::new(Role::Client, config, &ShardMap::default(), now);
        Catena { connection, request: request.clone() }
    }

    fn window(&self) -> u32 {
        if self.connection.is_open() { self.connection.peer().in_flight_max } else { 0 }
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
                    self.connection.recycle(body);
                    let outcome = outcome_of(head.status);
                    return Some(Happened::Ended { slot: token as u32, outcome });
                }
                other => {
                    if let Some(happened) = happened(other) {
                        return Some(happened);
                    }
                }
            }
        }
    }

    fn poll(&mut self) -> Option<Happened> {
        loop {
            if let Some(happened) = happened(self.connection.poll_event()?) {
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
        Status(code).to_string()
    }
}

fn happened(event: Event<'_>) -> Option<Happened> {
    match event {
        Event::Opened => Some(Happened::Opened),
        Event::CallFailed { token, failure } => {
            let outcome = match failure {
                CallFailure::DeadlinePassed => Outcome::TimedOut,
                CallFailure::ConnectionEnded => Outcome::ConnectionLost,
            };
            Some(Happened::Ended { slot: token as u32, outcome })
        }
        Event::Closed(reason) => Some(Happened::Closed(reason.to_string())),
        // What is in flight is still answered; the window is 0 from here on.
        Event::PeerLeaves { .. } => None,
        Event::Response { .. }
        | Event::Request { .. }
        | Event::RequestRefused { .. }
        | Event::RequestDropped { .. } => {
            unreachable!("responses lie in bytes, and nobody sends requests to a client")
        }
    }
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

    #[test]
    fn a_call_meets_a_server_and_ends_with_its_status() {
        let now = Instant::from_nanos(1);
        let request = Arc::new(Request {
            method: MethodId::of("echo"),
            payload: Bytes::from_static(&[7; 32]),
            timeout: Duration::from_secs(1),
            connection: Arc::default(),
        });
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
}
