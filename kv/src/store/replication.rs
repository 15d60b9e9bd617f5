//! The replicas of a shard's partitions: what the chain protocol wants done ([`Effect`]) happens to the
//! partitions here, and what it wants said is gathered for the nodes that it is said to.
//!
//! ```text
//! ordered, durable, messages, time ─► replicas ─► effects ─┬─► commits, cuts ─► partitions
//!                                                          ├─► messages ─► Outbox, by node and shard
//!                                                          └─► proposals ─► the config store
//! ```
//!
//! All that a turn has brought is seen to at its end: one message a successor and partition, one write of
//! the log.

use super::gate::Elsewhere;
use super::snapshot::Snapshot;
use super::{Common, OwnPartitions, Store};
use crate::chain::{Chain, Life, NodeId};
use crate::fields::Malformed;
use crate::partition::Partition;
use crate::replica::message::{Entries, Envelope, Message};
use crate::replica::wire::{self, EntryRef};
use crate::replica::{Effect, History, MayNotRead, Replica, ReplicaConfig, Taken};
use crate::slot::{Partition as PartitionId, Partitions, shard_of};
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Instant;
use std::collections::BTreeMap;

/// See the module page.
#[derive(Debug)]
pub struct Replication {
    own: Life,
    config: ReplicaConfig,
    /// How many members a chain should have.
    members: usize,
    /// By place; `None`: no chain of it is known yet.
    pub(super) replicas: Vec<Option<Replica>>,
    /// The same: how often it has ceased to serve.
    tenures: Vec<u32>,
    /// False: what is ordered counts as durable.
    waits_for_disk: bool,
    /// Places of partitions that have more in their log than was seen to.
    pub(super) touched: Vec<usize>,
    /// Places of partitions, and what has become durable of them.
    pub(super) durable: Vec<(usize, u64)>,
    pub(super) outbox: Outbox,
    pub(super) snapshots: Vec<Snapshot>,
    proposals: Vec<(PartitionId, Chain)>,
    /// Memory for entries on their way into a message.
    payload: Vec<u8>,
}

/// Messages to other nodes, by node and its shard.
#[derive(Debug, Default)]
pub struct Outbox {
    /// How many shards each node has.
    shards: BTreeMap<NodeId, u16>,
    bytes: BTreeMap<(NodeId, ShardIndex), Vec<u8>>,
    /// Bytes that have gone, and nothing was heard of yet.
    under_way: BTreeMap<(NodeId, ShardIndex), usize>,
    partitions: Partitions,
}

/// Bytes of entries in one message; one entry may be more. Some hundred small entries share a head of 80
/// bytes then, and no message is much longer than others can wait for.
const ENTRIES_BYTES: usize = 256 << 10;

impl History for Partition {
    fn received(&self) -> u64 {
        Partition::received(self)
    }

    fn committed(&self) -> u64 {
        Partition::committed(self)
    }

    fn epochs(&self) -> Vec<(u64, u32)> {
        Partition::epochs(self).to_vec()
    }

    fn first_at_hand(&self) -> u64 {
        Partition::first_at_hand(self)
    }
}

/// At its start.
impl Store {
    /// The partitions are replicas from now on, of chains that should have so many members: nothing commits
    /// but what its chain commits. `waits_for_disk`: only what is on the disk counts as durable.
    pub fn replicate(
        &mut self,
        own: Life,
        config: ReplicaConfig,
        members: usize,
        waits_for_disk: bool,
    ) {
        self.common.commits_at_once = false;
        let outbox = Outbox { partitions: self.config.partitions, ..Outbox::default() };
        self.common.replication = Some(Box::new(Replication {
            own,
            config,
            members,
            replicas: self.partitions.list.iter().map(|_| None).collect(),
            tenures: vec![0; self.partitions.list.len()],
            waits_for_disk,
            touched: Vec::new(),
            durable: Vec::new(),
            outbox,
            snapshots: Vec::new(),
            proposals: Vec::new(),
            payload: Vec::new(),
        }));
    }
}

/// What comes from outside.
impl Store {
    /// The config store has this chain of a partition; another shard's is passed over.
    pub fn chain_seen(&mut self, partition: PartitionId, chain: &Chain) {
        self.with_replica_of(partition, |replication, place, partition| {
            let Replication { own, config, members, .. } = *replication;
            let known = &mut replication.replicas[place];
            let replica = known.get_or_insert_with(|| {
                let replica = Replica::new(own, config, chain.clone(), partition.received());
                if replica.is_head() {
                    partition.begin_epoch(chain.epoch());
                }
                replica
            });
            replica.seen(chain.clone());
            replica.want_membership(replica.chain().members().len() < members);
        });
    }

    /// How many shards a node has.
    pub fn node_has_shards(&mut self, node: NodeId, shards: u16) {
        if let Some(replication) = &mut self.common.replication {
            replication.outbox.shards.insert(node, shards);
        }
    }

    /// The connection to a node's shard was lost, or made anew: what was said may not have come.
    pub fn disconnected(&mut self, node: NodeId, shard: ShardIndex) {
        let Some(replication) = &mut self.common.replication else { return };
        let shards = replication.outbox.shards.get(&node).copied().unwrap_or(1);
        let partitions = self.config.partitions;
        for (replica, partition) in replication.replicas.iter_mut().zip(&self.partitions.list) {
            let Some(replica) = replica else { continue };
            let peer = replica.chain().life_of(node);
            let goes_there = shard_of(partition.id(), partitions, shards) == shard;
            if let Some(peer) = peer.filter(|_| goes_there) {
                replica.disconnected(peer);
            }
        }
    }

    /// Messages have come, one behind the other.
    ///
    /// # Errors
    /// If they cannot be read: those before the first that cannot were taken.
    pub fn take_messages(&mut self, now: Instant, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            let wire::Received { partition, envelope, beside } = wire::decode(&mut bytes)?;
            self.take_message(now, PartitionId(partition), envelope, beside)?;
        }
        Ok(())
    }

    fn take_message(
        &mut self,
        now: Instant,
        partition: PartitionId,
        envelope: Envelope,
        mut beside: &[u8],
    ) -> Result<(), Malformed> {
        self.take_piece(partition, &envelope, beside)?;
        let count = match &envelope.message {
            Message::Entries(entries) => entries.count,
            _ => 0,
        };
        let Some(place) = self.partitions.place_of_number(partition.0) else { return Ok(()) };
        let Common { memory, replication: Some(replication), .. } = &mut self.common else {
            return Ok(());
        };
        let Some(replica) = &mut replication.replicas[place] else { return Ok(()) };
        let taken = replica.take(now, envelope, &self.partitions.list[place]);
        // What is to be cut or voided, is before anything that comes behind.
        replication.carry_out(now, place, &mut self.partitions, memory);
        let Taken::Behind(known) = taken else { return Ok(()) };
        for number in 0..count {
            let entry = wire::take_entry(&mut beside)?;
            if number >= known && !self.accept(partition, entry)? {
                // What follows is a gap then, which closes the link: all of it comes again.
                break;
            }
        }
        Ok(())
    }

    /// Takes in a piece of a snapshot, if it is one that is expected.
    fn take_piece(
        &mut self,
        number: PartitionId,
        envelope: &Envelope,
        piece: &[u8],
    ) -> Result<(), Malformed> {
        let Some(place) = self.partitions.place_of_number(number.0) else { return Ok(()) };
        let Common { memory, replication, .. } = &mut self.common;
        let Some(replication) = replication else { return Ok(()) };
        let replica = &replication.replicas[place];
        if replica.as_ref().is_some_and(|replica| replica.takes_piece(envelope)) {
            self.partitions.list[place].snapshot_goes_on(memory, piece)?;
            replication.touch(place);
        }
        Ok(())
    }

    /// Takes an entry into the log. False: there is no room for it now.
    fn accept(&mut self, number: PartitionId, entry: EntryRef<'_>) -> Result<bool, Malformed> {
        let Store { partitions, common, .. } = self;
        let Some(place) = partitions.place_of_number(number.0) else { return Ok(false) };
        let partition = &mut partitions.list[place];
        let Common { log, memory, replication, .. } = common;
        let EntryRef { epoch, payload } = entry;
        let index = partition.received() + 1;
        if let Some(log) = log
            && log.append(partition.id(), epoch, index, payload).is_err()
        {
            return Ok(false);
        }
        let accepted = partition.accept(memory, epoch, payload);
        accepted.map_err(|_| Malformed("an entry with effects that cannot be read"))?;
        replication.as_mut().expect("somebody has asked a replica").touch(place);
        Ok(true)
    }

    /// Another [interval](ReplicaConfig::heartbeat) has passed.
    pub fn tick(&mut self, now: Instant) {
        let Some(replication) = &mut self.common.replication else { return };
        replication.replicas.iter_mut().flatten().for_each(|replica| replica.tick(now));
    }
}

/// What is asked of it.
impl Store {
    /// Whether reads of a partition, by its place, may be answered at this instant: one that was stamped
    /// before the value is read, and after everything was taken in that had come.
    ///
    /// # Errors
    /// [`MayNotRead`]
    pub fn may_read(&self, now: Instant, place: usize) -> Result<(), MayNotRead> {
        let Some(replication) = &self.common.replication else { return Ok(()) };
        let replica = replication.replicas[place].as_ref().ok_or(MayNotRead::NotServing)?;
        replica.may_read(now, &self.partitions.list[place])
    }

    /// The chain of a partition, by its place, as it is known here.
    pub fn chain(&self, place: usize) -> Option<&Chain> {
        let replication = self.common.replication.as_ref()?;
        replication.replicas[place].as_ref().map(Replica::chain)
    }

    /// Messages for other nodes' shards: to be sent, and then cleared.
    pub fn messages(&mut self) -> impl Iterator<Item = ((NodeId, ShardIndex), &mut Vec<u8>)> + '_ {
        let outbox = self.common.replication.as_mut().map(|it| &mut it.outbox.bytes);
        let waiting = outbox.into_iter().flatten().filter(|(_, bytes)| !bytes.is_empty());
        waiting.map(|(to, bytes)| (*to, bytes))
    }

    /// Chains that are to take the place of the ones before them.
    pub fn take_proposals(&mut self) -> Vec<(PartitionId, Chain)> {
        let proposals = self.common.replication.as_mut().map(|it| &mut it.proposals);
        proposals.map(std::mem::take).unwrap_or_default()
    }
}

/// What follows.
impl Store {
    /// A turn ends: what it has brought is seen to. True if there was more in the log of some partition.
    pub fn replicate_turn(&mut self, now: Instant) -> bool {
        let Store { partitions, common, leaving, .. } = self;
        let Common { memory, replication: Some(replication), .. } = common else { return false };
        let has_more = !replication.touched.is_empty();
        let mut touched = std::mem::take(&mut replication.touched);
        for place in touched.drain(..) {
            let partition = &partitions.list[place];
            let Some(replica) = &mut replication.replicas[place] else { continue };
            match replication.waits_for_disk {
                true => replica.received(partition),
                false => replica.durable(partition.received(), partition),
            }
        }
        replication.touched = touched;
        let mut durable = std::mem::take(&mut replication.durable);
        for (place, index) in durable.drain(..) {
            if let Some(replica) = &mut replication.replicas[place] {
                replica.durable(index, &partitions.list[place]);
            }
        }
        replication.durable = durable;
        for place in 0..partitions.list.len() {
            replication.carry_out(now, place, partitions, memory);
        }
        if !replication.snapshots.is_empty() {
            replication.step_snapshots(&mut partitions.list, memory);
        }
        let list = &partitions.list;
        leaving.forget(|place| list[place].committed());
        has_more
    }

    fn with_replica_of<T>(
        &mut self,
        number: PartitionId,
        run: impl FnOnce(&mut Replication, usize, &mut Partition) -> T,
    ) -> Option<T> {
        let place = self.partitions.place_of_number(number.0)?;
        let replication = self.common.replication.as_mut()?;
        Some(run(replication, place, &mut self.partitions.list[place]))
    }
}

impl Replication {
    pub(super) fn is_head(&self, place: usize) -> bool {
        self.replicas[place].as_ref().is_some_and(Replica::is_head)
    }

    pub(super) fn admit(&self, place: usize, writes: bool) -> Result<(), Elsewhere> {
        let replica = self.replicas[place].as_ref().ok_or(Elsewhere(None))?;
        let may = if writes { replica.is_head() } else { replica.serves() };
        if may { Ok(()) } else { Err(Elsewhere(Some(replica.chain().head().node))) }
    }

    pub(super) fn tenure(&self, place: usize) -> u32 {
        self.tenures[place]
    }

    /// There is more in the log of a partition.
    pub(super) fn touch(&mut self, place: usize) {
        if self.touched.last() != Some(&place) {
            self.touched.push(place);
        }
    }

    /// Does what a replica wants done.
    fn carry_out(
        &mut self,
        now: Instant,
        place: usize,
        partitions: &mut OwnPartitions,
        memory: &mut crate::memory::Memory,
    ) {
        let partition = &mut partitions.list[place];
        loop {
            let Some(replica) = &mut self.replicas[place] else { return };
            let effects: Vec<Effect> = replica.take_effects().collect();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Send(envelope) => self.outbox.push(partition, &envelope),
                    Effect::Forward(envelope) => {
                        self.outbox.push_entries(partition, envelope, &mut self.payload);
                    }
                    Effect::Commit(index) => partition.commit(memory, index),
                    Effect::Learn(chain) => self.adopt(now, place, chain, partition),
                    Effect::Propose(chain) => self.proposals.push((partition.id(), chain)),
                    Effect::Cut(index) => partition.cut(memory, index),
                    Effect::Void { as_of, epochs } => {
                        partition.snapshot_begins(memory, as_of, epochs);
                    }
                    Effect::Snapshot { link, as_of } => {
                        debug_assert_eq!(as_of, partition.committed(), "it is of this instant");
                        self.begin_snapshot(place, link, partition);
                    }
                    Effect::Told { .. } => unreachable!("the store asks no replica for versions"),
                }
            }
        }
    }

    /// A newer chain is acted in from now on.
    fn adopt(&mut self, now: Instant, place: usize, chain: Chain, partition: &mut Partition) {
        let Some(replica) = &mut self.replicas[place] else { return };
        let served = replica.serves();
        replica.adopt(now, chain, partition);
        self.tenures[place] += u32::from(served && !replica.serves());
        if replica.is_head() {
            partition.begin_epoch(replica.chain().epoch());
        }
        let count = replica.chain().members().len();
        replica.want_membership(count < self.members);
    }
}

impl Outbox {
    /// The shard of a node that has a partition, if the node is registered.
    pub(super) fn shard_of(
        &self,
        partition: PartitionId,
        node: NodeId,
    ) -> Option<(NodeId, ShardIndex)> {
        let shards = *self.shards.get(&node)?;
        Some((node, shard_of(partition, self.partitions, shards)))
    }

    /// Bytes of messages that wait, and that nothing was heard of.
    pub(super) fn under_way(&self, to: (NodeId, ShardIndex)) -> usize {
        let waiting = self.bytes.get(&to).map_or(0, Vec::len);
        waiting + self.under_way.get(&to).copied().unwrap_or(0)
    }

    pub(super) fn sent(&mut self, to: (NodeId, ShardIndex), bytes: usize) {
        *self.under_way.entry(to).or_default() += bytes;
    }

    pub(super) fn ended(&mut self, to: (NodeId, ShardIndex), bytes: usize) {
        if let Some(under_way) = self.under_way.get_mut(&to) {
            *under_way = under_way.saturating_sub(bytes);
        }
    }

    fn to(&mut self, partition: PartitionId, node: NodeId) -> Option<&mut Vec<u8>> {
        let to = self.shard_of(partition, node)?;
        Some(self.bytes.entry(to).or_default())
    }

    /// A message with these bytes beside it.
    pub(super) fn push_with(&mut self, partition: PartitionId, envelope: &Envelope, beside: &[u8]) {
        if let Some(out) = self.to(partition, envelope.to.node) {
            wire::encode(partition.0, envelope, out, |out| out.extend_from_slice(beside));
        }
    }

    fn push(&mut self, partition: &Partition, envelope: &Envelope) {
        // One that is not registered cannot be reached.
        if let Some(out) = self.to(partition.id(), envelope.to.node) {
            wire::encode(partition.id().0, envelope, out, |_| {});
        }
    }

    /// The same with entries beside it, in several messages if they are many.
    fn push_entries(&mut self, partition: &Partition, envelope: Envelope, payload: &mut Vec<u8>) {
        let Message::Entries(all) = envelope.message else {
            unreachable!("entries alone are forwarded")
        };
        let Some(out) = self.to(partition.id(), envelope.to.node) else { return };
        let (mut first, mut left) = (all.first, all.count);
        loop {
            payload.clear();
            let mut count = 0;
            while count < left && payload.len() < ENTRIES_BYTES {
                partition.push_entry(first + count, payload);
                count += 1;
            }
            let message = Message::Entries(Entries { first, count, ..all });
            let part = Envelope { message, ..envelope };
            wire::encode(partition.id().0, &part, out, |out| out.extend_from_slice(payload));
            (first, left) = (first + count, left - count);
            if left == 0 {
                break;
            }
        }
        payload.shrink_to(ENTRIES_BYTES);
    }
}

#[cfg(test)]
mod tests;
