//! The requests that were passed on and not answered: a table by token, whose slots keep their memory.
//!
//! A token holds its slot's generation, so one that comes late means nobody.

use super::body::Kept;
use crate::client::ClientKey;
use crate::driver::SocketId;
use crate::metrics::ShardMetrics;
use crate::relay::{Attempt, TRIES_MAX};
use crate::rpc::connection::PassedCall;
use crate::rpc::error::StartError;
use crate::shard::peer::Peer;
use crate::time::Instant;
use crate::wire::frame::{CallId, MethodId, Priority, RequestHead, Route};

/// Tells the token of a relayed request from those of calls and of deferred requests, which are slot
/// map keys: their lower half is an index, and there never are 2³¹ of them at a time.
const RELAYED: u64 = 1 << 31;

/// True if `token` is that of a relayed request.
#[inline]
pub(crate) fn is_relayed(token: u64) -> bool {
    token & RELAYED != 0
}

/// The requests that were passed on and not answered, by token.
#[derive(Debug, Default)]
pub(super) struct Requests {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    is_taken: bool,
    relayed: Relayed,
}

/// One of them. Its memory stays with its slot for the next one.
#[derive(Debug)]
pub(super) struct Relayed {
    /// Whose request it is.
    pub(super) caller: SocketId,
    pub(super) head: RequestHead,
    pub(super) deadline: Option<Instant>,
    pub(super) arrived: Instant,
    pub(super) content_bytes: usize,
    pub(super) attempt: Attempt,
    pub(super) stage: Stage,
    pub(super) tried: [u64; TRIES_MAX],
    pub(super) tries: u8,
    pub(super) kept: Kept,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nowhere at the moment.
    Between,
    /// In the queue of this client.
    Waiting(ClientKey),
    /// In flight.
    Sent {
        socket: SocketId,
        call: CallId,
        /// See [`Connection::transmits`].
        transmit: u32,
    },
}

impl Requests {
    /// Enters a request; gives its token.
    #[inline]
    pub(super) fn enter(
        &mut self,
        head: RequestHead,
        caller: SocketId,
        deadline: Option<Instant>,
        arrived: Instant,
    ) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, is_taken: false, relayed: Relayed::nobody() });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.is_taken = true;
        slot.generation = slot.generation.wrapping_add(1);
        let relayed = &mut slot.relayed;
        (relayed.caller, relayed.head) = (caller, head);
        (relayed.deadline, relayed.arrived) = (deadline, arrived);
        (relayed.stage, relayed.tries) = (Stage::Between, 0);
        u64::from(slot.generation) << 32 | RELAYED | u64::from(index)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, token: u64) -> Option<&mut Relayed> {
        let slot = self.slots.get_mut(index_of(token))?;
        (slot.is_taken && slot.generation == (token >> 32) as u32).then_some(&mut slot.relayed)
    }

    #[inline]
    pub(super) fn free(&mut self, token: u64) {
        let slot = &mut self.slots[index_of(token)];
        slot.is_taken = false;
        slot.relayed.kept.clear();
        self.free.push(index_of(token) as u32);
    }
}

fn index_of(token: u64) -> usize {
    (token as u32 & !(RELAYED as u32)) as usize
}

impl Relayed {
    fn nobody() -> Self {
        let at = Instant::ZERO;
        let head = RequestHead {
            call: CallId(0),
            method: MethodId(0),
            priority: Priority::NORMAL,
            time_left_us: 0,
            route: Route::ANY,
            repeat: false,
            hops: 0,
        };
        Relayed {
            caller: SocketId { slot: 0, generation: 0 },
            head,
            deadline: None,
            arrived: at,
            content_bytes: 0,
            attempt: Attempt { token: 0, started: at, deadline: None },
            stage: Stage::Between,
            tried: [0; TRIES_MAX],
            tries: 0,
            kept: Kept::default(),
        }
    }

    pub(super) fn tried(&self) -> &[u64] {
        &self.tried[..self.tries.into()]
    }

    #[inline]
    pub(super) fn send(
        &mut self,
        token: u64,
        peer: &mut Peer,
        now: Instant,
        metrics: &ShardMetrics,
    ) -> Result<(), StartError> {
        let Relayed { head, deadline, kept, .. } = self;
        let (head, deadline) = (*head, *deadline);
        let call = PassedCall { head, deadline, body: kept.body() };
        let call = peer.connection.pass_call(call, token, now)?;
        kept.count_sent(metrics);
        let transmit = peer.connection.transmits();
        self.stage = Stage::Sent { socket: peer.socket, call, transmit };
        Ok(())
    }
}
