//! One real connection alone with whatever a test sends it.

use crate::reference;
use catena_engine::config::ConnectionConfig;
use catena_engine::rpc::connection::{CallRequest, Connection, Event, Role};
use catena_engine::rpc::error::CloseReason;
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::deframer::{Deframer, Input};
use catena_engine::wire::frame::{MethodId, PongHead, ResponseHead};
use catena_engine::wire::framer::Payload;
use catena_engine::wire::hello::ShardMap;
use catena_engine::wire::status::Status;
use std::sync::Arc;

/// Requests for this method are deferred and never answered; all others are echoed.
pub const NEVER: MethodId = MethodId(2);
/// The window of a server under test, and the calls that a client under test has in flight.
pub const WINDOW: u32 = 8;

/// A connection under test, and what came out of it.
pub struct Peer {
    pub connection: Connection,
    pub now: Instant,
    /// What happened, in words.
    pub events: Vec<String>,
    pub closed: Option<CloseReason>,
    /// Everything it sent.
    pub sent: Vec<u8>,
    fed: usize,
}

impl Peer {
    /// A connection that has heard nothing yet.
    pub fn new(role: Role, config: ConnectionConfig) -> Peer {
        let now = Instant::from_nanos(1);
        let config = ConnectionConfig { in_flight_max: WINDOW, ..config };
        config.validate().expect("a valid configuration");
        let connection = Connection::new(role, Arc::new(config), &ShardMap::default(), now);
        Peer { connection, now, events: Vec::new(), closed: None, sent: Vec::new(), fed: 0 }
    }

    /// A connection that has heard a hello. A client has calls in flight.
    pub fn open(role: Role) -> Peer {
        let mut peer = Peer::new(role, ConnectionConfig::default());
        match role {
            Role::Server => peer.feed(&reference::hello()),
            Role::Client => {
                peer.feed(&reference::hello_with(&[(reference::IN_FLIGHT_MAX, WINDOW)]));
                for token in 0..u64::from(WINDOW) {
                    let request = CallRequest::new(NEVER, b"");
                    peer.connection.start_call(request, token, peer.now).expect("in the window");
                }
                peer.drain_outputs();
            }
        }
        assert_eq!(peer.events, ["Opened"]);
        peer.events.clear();
        peer
    }

    /// Hands bytes to it, and keeps the contract of an owner.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.fed += bytes.len();
        let mut input = Input::new(bytes);
        while let Some(event) = self.connection.handle_bytes(&mut input, self.now) {
            if let Event::Pinged { echo } = event {
                self.connection.pong(PongHead::without_load(echo));
                continue;
            }
            self.note(&event);
            match event {
                Event::Request { head, body, deadline } if head.method == NEVER => {
                    self.connection.defer(head.call, deadline, head.call.0);
                    self.connection.recycle(body);
                }
                Event::Request { head, body, .. } => {
                    self.connection.respond(ok(&head), Payload::Copied(body.payload()));
                    self.connection.recycle(body);
                }
                Event::Response { body, .. } => self.connection.recycle(body),
                _ => {}
            }
        }
        self.drain_outputs();
        let bound = 2 * self.fed + 256 * 1_024;
        assert!(self.connection.memory_bytes() <= bound, "more than what was sent can explain");
    }

    /// The other side ends its stream.
    pub fn end(&mut self) {
        self.connection.handle_end(Ok(()));
        self.drain_outputs();
    }

    /// Time passes in silence until it is over; how long that took.
    pub fn wait_for_the_end(&mut self) -> Duration {
        let begin = self.now;
        for _step in 0..1_000 {
            let Some(next) = self.connection.poll_timeout() else {
                assert!(self.closed.is_some(), "no timeout, and not closed");
                return self.now.since(begin);
            };
            self.now = self.now.max(next);
            self.connection.handle_timeout(self.now);
            self.drain_outputs();
        }
        panic!("a silent peer is borne for ever");
    }

    fn drain_outputs(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.note(&event);
        }
        if let Some(output) = self.connection.poll_transmit() {
            self.sent.extend(output.to_vec());
        }
        assert_eq!(self.connection.is_closed(), self.closed.is_some());
    }

    fn note(&mut self, event: &Event<'_>) {
        assert!(self.closed.is_none(), "{event:?} after Closed");
        self.events.push(match event {
            Event::Request { head, body, .. } => format!(
                "{head:?} metadata {:?} payload {:?}",
                body.metadata().as_bytes(),
                body.payload()
            ),
            Event::Response { token, head, body } => {
                format!("{token} {head:?} {:?}", body.payload())
            }
            other => format!("{other:?}"),
        });
        if let Event::Closed(reason) = event {
            self.closed = Some(reason.clone());
        }
    }
}

impl Drop for Peer {
    /// Whatever happened to it, what a connection sends is frames.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let mut deframer = Deframer::new(1 << 30);
            let mut input = Input::new(&self.sent);
            while deframer.next(&mut input).expect("what we send is frames").is_some() {}
            assert_eq!(deframer.under_way(), None, "and whole ones");
        }
    }
}

fn ok(head: &catena_engine::wire::frame::RequestHead) -> ResponseHead {
    let (call, status) = (head.call, Status::OK);
    ResponseHead { call, status, queue_delay_us: 0, service_us: 0, in_flight: 1 }
}
