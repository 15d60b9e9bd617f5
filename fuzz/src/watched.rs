//! A connection whose every promise is checked.

use catena_engine::config::ConnectionConfig;
use catena_engine::rpc::connection::{CallRequest, Connection, Event, Role};
use catena_engine::rpc::error::CloseReason;
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::deframer::{Deframer, Input};
use catena_engine::wire::frame::{CallId, MethodId, PongHead, ResponseHead};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::header::Kind;
use catena_engine::wire::hello::{Hello, ShardMap};
use catena_engine::wire::output::Output;
use catena_engine::wire::status::Status;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const WINDOW: u32 = 8;

pub struct Watched {
    pub connection: Connection,
    pub now: Instant,
    pub is_over: bool,
    role: Role,
    /// Calls started and not ended, by token.
    calls: BTreeMap<u64, CallId>,
    /// Requests deferred and neither answered nor dropped, by token.
    deferred: BTreeMap<u64, CallId>,
    next_token: u64,
    sent: Vec<u8>,
    fed: usize,
}

impl Watched {
    pub fn new(role: Role, payload_crc: bool, has_idle_timeout: bool) -> Watched {
        let now = Instant::from_nanos(1);
        let config = ConnectionConfig {
            frame_bytes_max: 1 << 16,
            in_flight_max: WINDOW,
            payload_crc,
            idle_timeout: has_idle_timeout.then_some(Duration::from_secs(7)),
            ..Default::default()
        };
        let connection = Connection::new(role, Arc::new(config), &ShardMap::default(), now);
        Watched {
            connection,
            now,
            is_over: false,
            role,
            calls: BTreeMap::new(),
            deferred: BTreeMap::new(),
            next_token: 0,
            sent: Vec::new(),
            fed: 0,
        }
    }

    /// Says the hello of a peer that asks for checksums.
    pub fn greet(&mut self) {
        let hello = Hello {
            version_max: 1,
            version_min: 1,
            frame_bytes_max: 5_000,
            in_flight_max: WINDOW,
            payload_crc: true,
            idle_timeout_ms: 0,
            shards: ShardMap::default(),
        };
        let mut output = Output::default();
        let body = Payload::Copied(&hello.encode_body());
        Framer::default().push(&mut output, hello.header(), &[], body);
        self.feed(&output.to_vec());
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        if self.is_over {
            return;
        }
        self.fed += bytes.len();
        let mut input = Input::new(bytes);
        while let Some(event) = self.connection.handle_bytes(&mut input, self.now) {
            self.note(&event);
            self.serve(event);
        }
        assert!(self.connection.is_closed() || input.left() == 0);
        self.after();
    }

    fn serve(&mut self, event: Event<'_>) {
        match event {
            Event::Request { head, body, deadline } => {
                assert_eq!(self.role, Role::Server);
                assert!(head.call.slot() < WINDOW);
                match head.method.0 % 4 {
                    0 => {
                        self.connection.respond(ok(head.call), Payload::Copied(body.payload()));
                    }
                    1 => {
                        self.connection.respond_with(|writer| {
                            writer.fill(7, head.method.0 as usize % 10_000);
                            ok(head.call)
                        });
                    }
                    _ => {
                        self.connection.defer(head.call, deadline, self.next_token);
                        self.deferred.insert(self.next_token, head.call);
                        self.next_token += 1;
                    }
                }
                self.connection.recycle(body);
            }
            Event::Response { body, .. } => self.connection.recycle(body),
            Event::Pinged { echo } => self.connection.pong(PongHead::without_load(echo)),
            _ => {}
        }
    }

    pub fn start(&mut self, deadline: Option<Duration>, payload: &[u8]) {
        let deadline = deadline.map(|timeout| self.now + timeout);
        let request = CallRequest { deadline, ..CallRequest::new(MethodId(0), payload) };
        if let Ok(call) = self.connection.start_call(request, self.next_token, self.now) {
            assert_eq!(self.role, Role::Client);
            self.calls.insert(self.next_token, call);
            self.next_token += 1;
        }
        self.after();
    }

    pub fn cancel(&mut self, nth: usize) {
        if let Some((&token, &call)) = self.calls.iter().nth(nth) {
            assert!(self.connection.cancel(call), "what is in flight can be cancelled");
            self.calls.remove(&token);
            self.after();
        }
    }

    pub fn answer(&mut self, nth: usize) {
        if let Some((&token, &call)) = self.deferred.iter().nth(nth) {
            let told = self.connection.respond_deferred(ok(call), Payload::Copied(b"late"));
            assert!(told.is_some(), "it waits");
            self.deferred.remove(&token);
            self.after();
        }
    }

    /// Polls everything, as an owner must after each input and command.
    pub fn after(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.note(&event);
        }
        if let Some(output) = self.connection.poll_transmit() {
            self.sent.extend(output.to_vec());
        }
        assert_eq!(self.connection.is_closed(), self.is_over);
        assert!(self.connection.memory_bytes() <= 2 * self.fed + 256 * 1_024);
        if self.is_over {
            assert!(self.calls.is_empty() && self.deferred.is_empty(), "all has ended before");
            assert_eq!(self.connection.poll_timeout(), None);
        }
    }

    fn note(&mut self, event: &Event<'_>) {
        assert!(!self.is_over, "{event:?} after Closed");
        match event {
            Event::Response { token, head, .. } => {
                assert_eq!(self.calls.remove(token), Some(head.call), "one end for each call");
            }
            Event::CallFailed { token, .. } => {
                assert!(self.calls.remove(token).is_some(), "one end for each call");
            }
            Event::RequestDropped { token, .. } => {
                assert!(self.deferred.remove(token).is_some(), "one end for each request");
            }
            Event::Closed(_) => self.is_over = true,
            Event::Opened
            | Event::Request { .. }
            | Event::RequestRefused { .. }
            | Event::Pinged { .. }
            | Event::Ponged(_)
            | Event::PeerLeaves { .. } => {}
        }
    }

    pub fn look_at_the_clock(&mut self) {
        self.connection.handle_timeout(self.now);
        self.after();
        let next = self.connection.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "time that is handled moves on");
    }

    pub fn go_to_what_is_due(&mut self) {
        if let Some(next) = self.connection.poll_timeout() {
            self.now = self.now.max(next);
            self.look_at_the_clock();
        }
    }

    pub fn end(&mut self, in_order: bool) {
        self.connection.handle_end(match in_order {
            true => Ok(()),
            false => Err(std::io::ErrorKind::ConnectionReset.into()),
        });
        self.after();
    }

    pub fn abort(&mut self) {
        self.connection.abort(CloseReason::Aborted);
        self.after();
    }

    /// In silence everything ends; and all that was said in the meantime was frames.
    pub fn finish(mut self) {
        // An owner that has stopped reading reads again once nothing waits to be sent.
        self.connection.handle_receive_resumed(self.now);
        for _step in 0..2_000 {
            if self.is_over {
                break;
            }
            self.go_to_what_is_due();
        }
        assert!(self.is_over, "a silent peer is borne for ever");
        let mut deframer = Deframer::new(1 << 20);
        let mut input = Input::new(&self.sent);
        let mut is_first = true;
        while let Some(frame) = deframer.next(&mut input).expect("what is sent is frames") {
            assert_eq!(frame.header.kind == Kind::Hello, is_first, "hello first, and once");
            is_first = false;
        }
        assert_eq!(deframer.under_way(), None, "whole frames");
    }
}

fn ok(call: CallId) -> ResponseHead {
    ResponseHead { call, status: Status::OK, queue_delay_us: 0, service_us: 0, in_flight: 1 }
}
