//! What a shard runs beside request handlers: other protocols on connections of their own, messages to
//! its like on other shards, and a step at the end of each turn.
//!
//! ```text
//! driver ─ Received ─► received(bytes, stream) ─► the stream's output ──────┐
//! mailbox ───────────► message(from, message, streams) ─► any stream's ─────┤
//! futures have run ──► turn_ended(streams) ─► any stream's output ──────────┴─► one send a stream
//! ```
//!
//! Such a connection is a [`Stream`]: bytes in, bytes out. The engine keeps what was not read yet, stops
//! reading from a peer that does not read its answers, gives every stream its part of a turn and no
//! more, and ends it without losing its last bytes. What the bytes mean is the application's.

use crate::shard_index::ShardIndex;
use crate::stream::{Stream, StreamId, Streams};
use std::any::Any;
use std::fmt;
use std::net::SocketAddr;

/// From one shard's application to another's; see [`Local::send`](crate::Local::send). What comes back
/// may be the same memory, so that in steady state nothing is allocated.
pub type Message = Box<dyn Any + Send>;

/// See the module page. All methods run within a turn and must not block: the whole shard waits.
pub trait Application {
    /// All shards are ready; streams reach them here. Called once, before anything else.
    fn started(&mut self, addresses: Addresses) {
        let _nobody_asked = addresses;
    }

    /// A peer has connected. If it is one too many ([`Stream::is_surplus`]) it may be told so; it is ended
    /// in any case.
    fn accepted(&mut self, stream: &mut Stream<'_>);

    /// Bytes have arrived: all that were not read yet, the oldest first. Returns how many it has read; the
    /// others come again with what arrives behind them, or in the next turn if [`Stream::may_go_on`] was
    /// asked and said no.
    fn received(&mut self, bytes: &[u8], stream: &mut Stream<'_>) -> usize;

    /// A stream has ended: its id is void.
    fn closed(&mut self, stream: StreamId);

    /// True while an answer is owed to this stream that is not in its output. Asked when nothing more will be
    /// read from it, for it is ended when this is false.
    fn owes(&self, stream: StreamId) -> bool {
        let _ended_at_once = stream;
        false
    }

    /// The application of another shard, or of this one, has sent a message.
    fn message(&mut self, from: ShardIndex, message: Message, streams: &mut Streams) {
        let _not_meant_for_this = (from, message, streams);
    }

    /// The turn's input has been delivered and its futures have run. What became due is answered now.
    fn turn_ended(&mut self, streams: &mut Streams) {
        let _nothing_is_due = streams;
    }

    /// The shard drains: asked in each turn from the end of its last connection on, until it has finished
    /// what it has to.
    fn is_finished(&mut self) -> bool {
        true
    }
}

/// Where a server is reached: by those who bring requests, or streams.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// The address that all shards share; `None`: none is listened on.
    pub shared: Option<SocketAddr>,
    /// By shard, the address of its own; empty if there are none.
    pub shards: Vec<SocketAddr>,
}

/// As much of an application as its shard has; none costs one look.
pub(crate) type Slot = Option<Box<dyn Application>>;

impl fmt::Debug for dyn Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Application")
    }
}
