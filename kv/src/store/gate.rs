//! When an answer may be given: what it depends on has committed, and, where the keys are replicated, it is
//! certain that nobody else has gone on without this replica.
//!
//! ```text
//! command ─► keyspace ─► Seen ─► gate? ─┬─ none ─► answered at once
//!                                       └─ Gate ─► (committed? lease? still a member?) ─► Open, or Lost
//! ```

use super::Store;
use crate::chain::NodeId;
use crate::replica::MayNotRead;
use catena_engine::time::Instant;

/// What an answer depends on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Seen {
    /// The last entry in flight that it tells of.
    pub index: Option<u64>,
    /// It tells that an entry of its own was ordered. If not, it is a read.
    pub has_ordered: bool,
    /// It has met a key whose time is over, which is for the head to say.
    pub wants_head: bool,
}

/// What an answer waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// The partition, by its place in the shard.
    place: u16,
    /// CHAIN §3 ✦◇: every answer that is not the commit of its own entry is a read, and needs the lease when
    /// it is given.
    is_read: bool,
    /// For how many times the replica had ceased to serve: the entry that it waits for is one of that time.
    tenure: u32,
    /// The index that has to be committed there.
    index: u64,
}

/// How it stands with a gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GateState {
    /// The answer waits.
    Shut,
    /// It may be given.
    Open,
    /// It is not known what becomes of the entry, and will not be here.
    Lost,
}

/// The keys are not for this node; for this one, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elsewhere(pub Option<NodeId>);

impl Gate {
    /// The partition, by its place in the shard.
    pub fn place(&self) -> usize {
        usize::from(self.place)
    }

    /// True if it needs a lease when it opens.
    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// For the commit of an entry, where there are no chains.
    #[cfg(test)]
    pub fn plain(place: u16, index: u64) -> Self {
        Gate { place, is_read: false, tenure: 0, index }
    }

    /// The index that has to be committed there.
    pub fn index(&self) -> u64 {
        self.index
    }
}

impl Store {
    /// Whether a command on keys of a partition, by its place, may be carried out here.
    ///
    /// # Errors
    /// Where else.
    #[inline]
    pub fn admit(&self, place: usize, writes: bool) -> Result<(), Elsewhere> {
        match &self.common.replication {
            None => Ok(()),
            Some(replication) => replication.admit(place, writes),
        }
    }

    /// What the answer to such a command has to wait for; `now` is stamped after it has come.
    ///
    /// # Errors
    /// The command is for somebody else: it has changed nothing, and its answer tells nothing.
    #[inline]
    pub fn gate(
        &self,
        place: usize,
        seen: Seen,
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Gate>, Elsewhere> {
        if self.common.replication.is_none() {
            return Ok(seen.index.map(|index| self.gate_of(place, index)));
        }
        if seen.wants_head {
            return Err(Elsewhere(self.chain(place).map(|chain| chain.head().node)));
        }
        let is_read = !seen.has_ordered;
        if is_read && seen.index.is_none() && self.may_read(now(), place).is_ok() {
            return Ok(None);
        }
        let index = seen.index.unwrap_or_default();
        Ok(Some(Gate { is_read, ..self.gate_of(place, index) }))
    }

    /// What the answer to an entry's command waits for.
    pub fn gate_of(&self, place: usize, index: u64) -> Gate {
        let replication = self.common.replication.as_ref();
        let tenure = replication.map_or(0, |replication| replication.tenure(place));
        let place = u16::try_from(place).expect("there are fewer partitions than slots");
        Gate { place, is_read: false, tenure, index }
    }

    /// How it stands with a gate; `now` is stamped after the answer's command has come.
    #[inline]
    pub fn gate_state(&self, gate: &Gate, now: Instant) -> GateState {
        let has_committed = self.committed(gate.place()) >= gate.index;
        match &self.common.replication {
            None if has_committed => GateState::Open,
            None => GateState::Shut,
            Some(replication) if replication.tenure(gate.place()) != gate.tenure => GateState::Lost,
            Some(_) if !has_committed => GateState::Shut,
            Some(_) if !gate.is_read => GateState::Open,
            Some(_) => match self.may_read(now, gate.place()) {
                Ok(()) => GateState::Open,
                Err(MayNotRead::NotServing) => GateState::Lost,
                Err(MayNotRead::NoLease | MayNotRead::Behind) => GateState::Shut,
            },
        }
    }
}
