//! Passing requests on to other servers, frame for frame: what a proxy is made of.
//!
//! ```text
//! caller ─ frame ─► connection ─┐ Relay::choose        ┌─► connection ─ frame ─► server
//!                               └─ other call id, ─────┘
//!                                  same body, one turn
//! caller ◄─ frame ─ connection ◄─────────────────────────── connection ◄─ frame ─ server
//!                                  Relay::ended
//! ```
//!
//! A request goes straight from the receive buffer of one connection into the output of another, and
//! its answer the same way back, within the turn in which they came. There is no future, no task, and
//! in steady state no allocation. A [`Relay`] decides: where a request goes, and whether an attempt
//! that was certainly not executed is made again. The engine does the rest:
//! - bodies are not read: metadata, payload and (where both sides have one) the checksum of whoever
//!   made the frame go through as they came. Method, priority, route and "may have been sent before"
//!   go through; the call id is each connection's own, the time left is what is left;
//! - a caller that cancels, is gone, or has waited past its deadline is no more waited for: the server
//!   behind is sent a cancel;
//! - a request that finds its server's connection not ready (it is being made, its window or its output
//!   is full) waits for it, as long as its deadline allows, and no more than [`RelayConfig::waiting_max`]
//!   of them; a server whose last attempt to connect failed is not waited for;
//! - the load that a server tells with an answer goes through. What the shard says by itself (pongs,
//!   refusals) tells none, for its own load is another figure;
//! - an attempt is only made again when it was certainly not executed, whatever the [`Relay`] says.

use crate::client::{Client, ClientKey};
use crate::config::{ConfigError, between};
use crate::limits::COPY_BYTES_MAX;
use crate::time::{Duration, Instant};
use crate::wire::frame::{RequestHead, ResponseHead};

/// Attempts of one request that a [`Relay`] is told of when it chooses; the most it may make.
pub const TRIES_MAX: usize = 8;

/// Decides where requests go. Its methods run within the shard's turn: they must neither block nor
/// panic, and cost every request their time.
pub trait Relay {
    /// Where a request goes, other than where it was `tried` before (the tokens of those attempts, oldest
    /// first). `None`: nowhere; its caller is told so.
    ///
    /// Each attempt that is chosen here ends in exactly one [`Relay::ended`], unless its shard ends.
    fn choose(&mut self, request: &Chosen<'_>) -> Option<Destination>;

    /// An attempt has ended. What it says to do next counts only if the attempt was certainly not
    /// executed (see [`End::is_not_executed`]) and there is time for another (see [`Attempt::has_time`]).
    fn ended(&mut self, attempt: Attempt, end: &End, now: Instant) -> Next;
}

/// A request for which a destination is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// Its header.
    pub head: &'a RequestHead,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
    /// The tokens of the attempts that have failed, oldest first.
    pub tried: &'a [u64],
    /// How the last one of them ended.
    pub last: Option<End>,
    /// The instant.
    pub now: Instant,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    pub(crate) client: ClientKey,
    pub(crate) token: u64,
}

impl Destination {
    /// To the server of `client`; `token` comes back with [`Relay::ended`].
    #[inline]
    pub fn new(client: &Client, token: u64) -> Self {
        Destination { client: client.key(), token }
    }
}

/// One passing on of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// As it was given with [`Destination::new`].
    pub token: u64,
    /// When it was chosen.
    pub started: Instant,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
}

impl Attempt {
    /// True if its caller still waits: where it does not, another attempt is not made, whatever the
    /// [`Relay`] says.
    #[inline]
    pub fn has_time(&self, now: Instant) -> bool {
        self.deadline.is_none_or(|deadline| deadline > now)
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The server answered.
    Answered(ResponseHead),
    /// There is no connection to the server, and the last attempt to make one failed. Not sent.
    Unreachable,
    /// Too many requests wait for the server already. Not sent.
    TooManyWaiting,
    /// The connection ended before the request had left. Not sent.
    NeverSent,
    /// The request is longer than the server accepts. Not sent.
    TooLarge,
    /// The connection was lost while the answer was awaited. May have executed.
    Lost,
    /// The caller's deadline has passed. May have executed.
    DeadlinePassed,
    /// Nobody waits any more: the caller has cancelled, or is gone. May have executed.
    Dropped,
}

impl End {
    /// True if the request was certainly not executed, so that it may be passed on once more.
    pub fn is_not_executed(&self) -> bool {
        match self {
            End::Answered(head) => head.status.is_not_executed(),
            End::Unreachable | End::TooManyWaiting | End::NeverSent | End::TooLarge => true,
            End::Lost | End::DeadlinePassed | End::Dropped => false,
        }
    }

    /// True if the server was sent the request.
    pub fn was_sent(&self) -> bool {
        matches!(self, End::Answered(_) | End::Lost | End::DeadlinePassed | End::Dropped)
    }
}

/// What to do after an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The caller is told how it ended.
    Tell,
    /// Another attempt is made.
    TryAgain,
}

/// How a relay behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayConfig {
    /// Bodies up to this many bytes are copied: once behind their header, so that many leave in one
    /// piece, and requests once more to be there for another attempt. Longer ones are sent from where
    /// they were received. 0: none is copied. Default 1,024 (see `docs/proxy.md` for the measurement).
    pub copy_bytes_max: usize,
    /// Requests that may wait for one server: for its connection, for room in its window or in the
    /// connection's output. Default 16,384.
    pub waiting_max: usize,
    /// A request without a deadline gets this one. Default: none; it waits as long as its server lives.
    pub timeout: Option<Duration>,
}

impl Default for RelayConfig {
    fn default() -> Self {
        RelayConfig { copy_bytes_max: 1_024, waiting_max: 16 * 1_024, timeout: None }
    }
}

impl RelayConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        between("relay.copy_bytes_max", self.copy_bytes_max as u64, 0, COPY_BYTES_MAX as u64)?;
        between("relay.waiting_max", self.waiting_max as u64, 0, u32::MAX.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::CallId;
    use crate::wire::status::Status;

    #[test]
    fn only_what_was_certainly_not_executed_is_safe() {
        let answered = |status| {
            let call = CallId::new(0, 1);
            let head =
                ResponseHead { call, status, queue_delay_us: 0, service_us: 0, in_flight: 0 };
            End::Answered(head)
        };
        for end in [answered(Status::SHED), End::Unreachable, End::NeverSent, End::TooLarge] {
            assert!(end.is_not_executed(), "{end:?}");
        }
        for end in [answered(Status::OK), answered(Status::INTERNAL), End::Lost, End::Dropped] {
            assert!(!end.is_not_executed(), "{end:?}");
        }
    }

    #[test]
    fn a_value_out_of_bounds_is_named() {
        RelayConfig::default().validate().expect("the defaults serve");
        let large = RelayConfig { copy_bytes_max: 1 << 20, ..RelayConfig::default() };
        assert_eq!(large.validate().expect_err("not so much").name, "relay.copy_bytes_max");
    }
}
