//! What goes into a connection as a command, and what comes out of it as an event.

use super::super::error::CloseReason;
use crate::time::Instant;
use crate::wire::deframer::Body;
use crate::wire::frame::{
    GoAwayReason, MethodId, PongHead, Priority, RequestHead, ResponseHead, Route,
};
use crate::wire::framer::Payload;
use crate::wire::status::Status;

/// A call to start.
#[derive(Clone, Debug)]
pub struct CallRequest<'a> {
    /// Which handler.
    pub method: MethodId,
    /// How important.
    pub priority: Priority,
    /// Which shard or partition.
    pub route: Route,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// True if the request may have been sent before.
    pub repeat: bool,
    /// Metadata records; empty for none.
    pub metadata: &'a [u8],
    /// The payload.
    pub payload: Payload<'a>,
}

impl<'a> CallRequest<'a> {
    /// A call of `method` with nothing but a payload.
    pub fn new(method: MethodId, payload: impl Into<Payload<'a>>) -> Self {
        CallRequest {
            method,
            priority: Priority::NORMAL,
            route: Route::ANY,
            deadline: None,
            repeat: false,
            metadata: &[],
            payload: payload.into(),
        }
    }
}

/// What happened on a connection. `token` is what the owner gave when it started or deferred.
#[derive(Debug)]
pub enum Event<'a> {
    /// The peer's hello is in; calls may start.
    Opened,
    /// Server: a request to answer or to defer, now.
    Request {
        /// Its header.
        head: RequestHead,
        /// Its metadata and payload.
        body: Body<'a>,
        /// When its caller stops waiting, on this side's clock.
        deadline: Option<Instant>,
    },
    /// Server: a request arrived that was answered in here already, with this status.
    RequestRefused {
        /// What its caller is told.
        status: Status,
    },
    /// Client: the answer to a call.
    Response {
        /// Given to [`start_call`](super::Connection::start_call).
        token: u64,
        /// Status and the server's load.
        head: ResponseHead,
        /// The answer.
        body: Body<'a>,
    },
    /// Client: a call ended without an answer.
    CallFailed {
        /// Given to [`start_call`](super::Connection::start_call).
        token: u64,
        /// Why.
        failure: CallFailure,
    },
    /// Server: nobody waits for this deferred request any more; drop its handler.
    RequestDropped {
        /// Given to [`defer`](super::Connection::defer).
        token: u64,
        /// Why.
        cause: DropCause,
    },
    /// Server: a ping, to be answered with [`pong`](super::Connection::pong), now.
    Pinged {
        /// What the pong is to repeat.
        echo: u64,
    },
    /// Client: the answer to a ping, be it of [`ping`](super::Connection::ping) or one that this side
    /// sent by itself.
    Ponged(PongHead),
    /// The peer said go-away; text for the log. It may say so again, with a better reason.
    PeerLeaves {
        /// Why.
        reason: GoAwayReason,
        /// In the peer's words.
        text: String,
    },
    /// Over. Send what is left to send, then close the socket. The last event.
    Closed(CloseReason),
}

/// Why a call has no answer. In each case the server may have executed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallFailure {
    /// Its deadline passed here; the server was told to stop.
    DeadlinePassed,
    /// The connection ended.
    ConnectionEnded,
}

/// Why nobody waits for a request any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropCause {
    /// The caller cancelled.
    Cancelled,
    /// The deadline passed; the caller was answered so.
    DeadlinePassed,
    /// The connection ended.
    ConnectionEnded,
}
