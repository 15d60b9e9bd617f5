//! What a request is on the wire: the cut between the generator and what it talks to.
//!
//! A [`Protocol`] is one connection, without socket and clock. It turns "start request 7" into bytes
//! and bytes into "request 7 has ended so"; when requests start and what is measured is not its
//! business. One file a protocol.

pub mod catena;
pub mod echo;

use catena_engine::driver::Output;
use catena_engine::time::Instant;
use std::io;
use std::sync::Arc;

/// One connection of the generator.
///
/// Slots are small numbers, dense from 0, chosen by the caller; a slot carries one request at a time.
pub trait Protocol {
    /// What every request says; shared by all connections.
    type Request: std::fmt::Debug + Send + Sync + 'static;

    /// A connection that has just been made.
    fn new(request: &Arc<Self::Request>, now: Instant) -> Self;

    /// Requests that may be in flight at a time; 0: none may be started now.
    fn window(&self) -> u32;

    /// Starts the request of `slot`, within the window.
    ///
    /// # Errors
    /// If no such request can ever be started on this connection, and why.
    fn start(&mut self, slot: u32, now: Instant) -> Result<(), String>;

    /// What happened next in the bytes that arrived; takes what it has read off `bytes`. `None`:
    /// nothing more, and everything is read.
    fn next(&mut self, bytes: &mut &[u8], now: Instant) -> Option<Happened>;

    /// What happened other than in bytes.
    fn poll(&mut self) -> Option<Happened>;

    /// The peer ended its stream (`Ok`) or the connection broke. [`Protocol::poll`] tells what that
    /// means.
    fn handle_end(&mut self, result: io::Result<()>);

    /// Does what is due. [`Protocol::poll`] tells what came of it.
    fn handle_timeout(&mut self, now: Instant);

    /// When [`Protocol::handle_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Lends memory for output; it leaves with [`Protocol::poll_transmit`].
    fn provide_output(&mut self, memory: &mut Option<Output>);

    /// What to send, if anything.
    fn poll_transmit(&mut self) -> Option<Output>;

    /// The name of a status number in [`Outcome`].
    fn status_name(code: u16) -> String;

    /// What the peer said in words with a status: the first text of each.
    fn texts(&self) -> &[(u16, String)] {
        &[]
    }
}

/// What happened on a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happened {
    /// Requests may start.
    Opened,
    /// A request has ended.
    Ended {
        /// Which.
        slot: u32,
        /// How.
        outcome: Outcome,
    },
    /// The connection is over. What was in flight is lost.
    Closed(Ending),
}

/// How a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ending {
    /// In words.
    pub reason: String,
    /// What is known of it.
    pub kind: EndingKind,
}

/// How much a connection's end says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndingKind {
    /// The peer said why, and the reason tells.
    Told,
    /// The stream ended, or broke, without a word.
    Silent,
    /// What came was wrong, or came too late.
    Wrong,
}

impl Ending {
    /// The stream ended (`Ok`) or broke.
    pub fn silent(result: io::Result<()>) -> Self {
        let reason = match result {
            Ok(()) => "closed by the peer".to_owned(),
            Err(error) => format!("connection lost: {}", error.kind()),
        };
        Ending { reason, kind: EndingKind::Silent }
    }

    /// The peer is not what it should be.
    pub fn wrong(reason: impl Into<String>) -> Self {
        Ending { reason: reason.into(), kind: EndingKind::Wrong }
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// With the answer.
    Ok,
    /// Refused before it began, with this status of the protocol's own.
    NotExecuted(u16),
    /// Failed, and may have been executed, with this status of the protocol's own.
    MayHaveExecuted(u16),
    /// Not answered in time.
    TimedOut,
    /// The connection ended before the answer.
    ConnectionLost,
}
