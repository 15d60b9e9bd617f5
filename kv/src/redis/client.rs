//! One connection that speaks the Redis protocol, as its shard knows it.

use super::answers::Answers;
use super::transaction::Transaction;
use crate::checkpoint::write::Writer;
use crate::resp::{Limits, Parser, Protocol};
use catena_engine::stream::StreamId;
use catena_engine::time::Instant;
use std::net::SocketAddr;

/// See the module page.
#[derive(Debug)]
pub struct Client {
    pub(super) parser: Parser,
    pub(super) state: ClientState,
}

/// All of it but its parser, which is in use while a command of it is carried out.
#[derive(Debug)]
pub struct ClientState {
    /// Its number, which no other connection of this process has or had.
    pub(super) id: u64,
    pub(super) stream: StreamId,
    pub(super) address: Option<SocketAddr>,
    pub(super) is_on_own_port: bool,
    /// `READONLY`: it reads at whichever replica, and is not sent to the head.
    pub(super) is_readonly: bool,
    pub(super) connected_at: Instant,
    pub(super) protocol: Protocol,
    pub(super) is_authenticated: bool,
    pub(super) name: Vec<u8>,
    pub(super) library: [Vec<u8>; 2],
    pub(super) last_command: &'static str,
    pub(super) last_command_at: Instant,
    /// Its answers that wait.
    pub(super) answers: Answers,
    /// A command about all keys waits for the answers before it, or is being carried out, piece by piece: it
    /// sees what was done before it, and neither sees nor undoes what comes behind it.
    pub(super) is_barred: bool,
    /// It would write while more gathers for the disk than one write should be long: it is read on when that
    /// is better.
    pub(super) is_slowed: bool,
    /// It is in the list of those whose answers wait, or who are slowed.
    pub(super) is_waiting: bool,
    /// What it has begun with `MULTI`.
    pub(super) transaction: Option<Transaction>,
    /// The backup that it takes.
    pub(super) backup: Option<Box<Writer>>,
}

impl Client {
    pub(super) fn new(limits: Limits, state: ClientState) -> Self {
        Client { parser: Parser::new(limits), state }
    }
}
