//! Snapshots of partitions, on their way to members that come: all keys and sessions as of one index, in
//! pieces, while entries behind that index go beside them.
//!
//! ```text
//! sessions │ keys … │ keys … │ the last one        (each a message, with the bytes beside it)
//! ```
//!
//! What goes beside a piece: what it is (u8: 0 sessions, 1 keys), and these as a checkpoint has them
//! ([`crate::checkpoint::format`]).

use super::Store;
use super::replication::Replication;
use crate::chain::NodeId;
use crate::effect::EffectRef;
use crate::fields::{Malformed, take, take_u64};
use crate::memory::Memory;
use crate::partition::{Partition, WalkKey};
use crate::replica::message::{Envelope, Message};
use catena_engine::shard_index::ShardIndex;

/// A snapshot that is being sent.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The place of its partition.
    place: usize,
    walk: WalkKey,
    /// On this link.
    link: u64,
    /// The number of its next piece.
    next: u64,
}

/// Bytes that may be under way to a shard of another node before no further piece is sent to it: what a
/// connection takes in a few milliseconds, so that entries and heartbeats behind are not late.
const UNDER_WAY_BYTES_MAX: usize = 1 << 20;

/// Entries that are looked at for a piece: 64 KiB of small ones, and some 100 µs.
const STEP_ENTRIES: usize = 1_024;

/// Pieces of a snapshot in one turn.
const PIECES_A_TURN: usize = 4;

const SESSIONS: u8 = 0;
const KEYS: u8 = 1;

/// As who sends it.
impl Replication {
    /// A member wants one on this link. Its sessions go out before any entry does that may refer to them.
    pub(super) fn begin_snapshot(&mut self, place: usize, link: u64, partition: &mut Partition) {
        let replica = self.replicas[place].as_ref();
        let Some(first) = replica.and_then(|replica| replica.piece(link, 0, false)) else { return };
        let mut sessions = vec![SESSIONS];
        partition.sessions().encode(partition.committed(), &mut sessions, |_| {});
        self.outbox.push_with(partition.id(), &first, &sessions);
        let walk = partition.begin_walk();
        self.snapshots.push(Snapshot { place, walk, link, next: 1 });
    }

    /// Sends some more of those that are being sent.
    pub(super) fn step_snapshots(&mut self, partitions: &mut [Partition], memory: &Memory) {
        let mut snapshots = std::mem::take(&mut self.snapshots);
        snapshots.retain_mut(|snapshot| self.step_snapshot(snapshot, partitions, memory));
        self.snapshots = snapshots;
    }

    /// False: it has ended.
    fn step_snapshot(
        &mut self,
        snapshot: &mut Snapshot,
        partitions: &mut [Partition],
        memory: &Memory,
    ) -> bool {
        let Snapshot { place, walk: key, link, next } = snapshot;
        let partition = &mut partitions[*place];
        let replica = self.replicas[*place].as_mut().expect("it has asked for the snapshot");
        for _ in 0..PIECES_A_TURN {
            let Some(envelope) = replica.piece(*link, *next, false) else {
                partition.end_walk(*key);
                return false;
            };
            let to = self.outbox.shard_of(partition.id(), envelope.to.node);
            if to.is_none_or(|to| self.outbox.under_way(to) >= UNDER_WAY_BYTES_MAX) {
                return true;
            }
            let walk = partition.step_walk(*key, memory, STEP_ENTRIES).expect("it has begun");
            if walk.is_void() {
                // All keys have gone meanwhile: another one begins, on another link.
                partition.end_walk(*key);
                replica.disconnected(envelope.to);
                return false;
            }
            let (piece, is_last) = (walk.take_piece(), walk.is_done());
            if piece.is_none() && !is_last {
                continue;
            }
            let mut keys = vec![KEYS];
            if let Some(piece) = piece {
                piece.write(&mut keys);
            }
            let message = Message::Piece { link: *link, number: *next, is_last };
            let envelope = Envelope { message, ..envelope };
            self.outbox.push_with(partition.id(), &envelope, &keys);
            *next += 1;
            if is_last {
                partition.end_walk(*key);
                return false;
            }
        }
        true
    }
}

/// As who takes it in.
impl Partition {
    /// A snapshot as of this index begins: what there is goes.
    pub(super) fn snapshot_begins(
        &mut self,
        memory: &mut Memory,
        as_of: u64,
        epochs: Vec<(u64, u32)>,
    ) {
        self.cut(memory, self.committed());
        self.restore_begins(memory, epochs);
        self.restore_ends(as_of);
    }

    /// A piece of it has come.
    ///
    /// # Errors
    /// If it cannot be read; some of it may have been taken in.
    pub(super) fn snapshot_goes_on(
        &mut self,
        memory: &mut Memory,
        mut piece: &[u8],
    ) -> Result<(), Malformed> {
        match take(&mut piece)? {
            [SESSIONS] => {
                let restored = self.restore_sessions(memory, piece);
                return restored.map_err(|_| Malformed("sessions that are none"));
            }
            [KEYS] => {}
            _ => return Err(Malformed("a piece of a snapshot of unknown kind")),
        }
        while !piece.is_empty() {
            let index = take_u64(&mut piece)?;
            match EffectRef::decode(&mut piece) {
                Ok(effect @ EffectRef::Put { .. }) => self.restore(memory, index, &effect),
                _ => return Err(Malformed("a snapshot with what is no key")),
            }
        }
        Ok(())
    }
}

/// How much is on its way to other nodes.
impl Store {
    /// So many bytes of messages have gone on their way.
    pub fn messages_sent(&mut self, to: (NodeId, ShardIndex), bytes: usize) {
        if let Some(replication) = &mut self.common.replication {
            replication.outbox.sent(to, bytes);
        }
    }

    /// So many have been taken there, or are lost.
    pub fn messages_ended(&mut self, to: (NodeId, ShardIndex), bytes: usize) {
        if let Some(replication) = &mut self.common.replication {
            replication.outbox.ended(to, bytes);
        }
    }
}
