//! One partition of one replica: what is ordered, what has committed, and what a key holds.
//!
//! ```text
//! order ─► received ──(the log has it safely)──► committed ─► table
//!             │                                      ▲
//!             └── in flight: the newest state ───────┘
//! ```
//!
//! A write is ordered against the *newest* state: what is in flight, or else the table. The table holds
//! what has committed and nothing else, so what is cut off from the end of the log was never in it. An
//! answer that has seen something in flight waits until that has committed: a reader never sees what a
//! crash could take back. Where a write commits as it is ordered (no log, or one that is written
//! later), nothing is ever in flight.

use crate::checkpoint::walk::Walk;
use crate::effect::{self, EffectError, EffectRef, SessionId};
use crate::in_flight::InFlight;
use crate::memory::Memory;
use crate::replica::wire;
use crate::session::{NoSessions, Sessions};
use crate::slot::Partition as PartitionId;
use crate::table::{Arena, KeyHash, NewEntry, NewValue, Table};
use std::fmt;

/// See the module page.
#[derive(Debug)]
pub struct Partition {
    id: PartitionId,
    epochs: Epochs,
    /// The index of the last entry that was ordered.
    received: u64,
    /// The index of the last entry that is in the table.
    committed: u64,
    in_flight: InFlight,
    table: Table,
    /// Checkpoints and backups that go through it: rarely one, hardly ever two.
    walks: Vec<(WalkKey, Walk)>,
    sessions: Sessions,
}

/// Names a walk among those of its partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkKey(u64);

/// Which version of a key it is: the epoch and the index of the entry that wrote it last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// The epoch in which it was ordered.
    pub epoch: u32,
    /// Its index in the partition.
    pub index: u64,
}

/// `epoch-index`, as `GETV` tells it.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.index)
    }
}

/// What a key holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// The entry that wrote it last.
    pub version: Version,
    /// Unix milliseconds.
    pub expires_at: Option<u64>,
}

impl Partition {
    /// An empty one, whose first entry will be ordered in `epoch`.
    pub fn new(id: PartitionId, epoch: u32) -> Self {
        Partition {
            id,
            epochs: Epochs::starting(epoch),
            received: 0,
            committed: 0,
            in_flight: InFlight::default(),
            table: Table::default(),
            walks: Vec::new(),
            sessions: Sessions::default(),
        }
    }

    /// Which one.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The epoch in which entries are ordered now.
    pub fn epoch(&self) -> u32 {
        self.epochs.current()
    }

    /// The index of the last entry that was ordered.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The index of the last entry that has committed.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Its keys, as far as they have committed.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The same, for what is no write: sweeps, samples, stamps.
    pub fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    /// Its sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The same, to note which are used.
    pub fn sessions_mut(&mut self) -> &mut Sessions {
        &mut self.sessions
    }

    /// True if some key has an expiry, or may get one.
    #[inline]
    pub fn has_expiring(&self) -> bool {
        self.table.expiring() > 0 || !self.in_flight.is_empty()
    }

    /// True if it has keys, or may get some.
    pub fn has_keys(&self) -> bool {
        !self.table.is_empty() || !self.in_flight.is_empty()
    }

    /// The newest state of a key, in flight or not, and the index of an entry in flight that it depends on.
    /// A value that is in flight in pieces is put together in `scratch`.
    #[inline]
    pub fn newest<'a>(
        &'a self,
        arena: &'a Arena,
        hash: KeyHash,
        key: &[u8],
        scratch: &'a mut Vec<u8>,
    ) -> (Option<Found<'a>>, Option<u64>) {
        if self.in_flight.is_empty() {
            return (self.settled(arena, hash, key), None);
        }
        self.newest_in_flight(arena, hash, key, scratch)
    }

    /// Memory in bytes for what is in flight.
    #[cfg(test)]
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight.bytes_held()
    }

    /// True if an entry that changes the key is in flight.
    pub fn is_in_flight(&self, hash: KeyHash, key: &[u8]) -> bool {
        !self.in_flight.is_empty() && self.in_flight.newest(hash, key).is_some()
    }

    /// Orders an entry, which is then in flight. Returns its index.
    pub fn order(&mut self, memory: &mut Memory, effects: &[EffectRef<'_>]) -> u64 {
        self.received += 1;
        self.in_flight.push(self.received, effects, |key| memory.hash(key));
        let entry = SessionId { epoch: self.epochs.current(), index: self.received };
        for effect in effects.iter().filter(|effect| effect.is_of_session()) {
            memory.change_sessions(&mut self.sessions, |sessions| sessions.order(entry, effect));
        }
        self.received
    }

    /// Orders an entry that commits at once. Returns its index.
    #[inline]
    pub fn order_and_commit(&mut self, memory: &mut Memory, effects: &[EffectRef<'_>]) -> u64 {
        debug_assert!(self.in_flight.is_empty(), "an entry commits after those before it");
        self.received += 1;
        self.committed = self.received;
        let entry = SessionId { epoch: self.epochs.current(), index: self.received };
        for effect in effects {
            if effect.is_of_session() {
                memory
                    .change_sessions(&mut self.sessions, |sessions| sessions.order(entry, effect));
            }
            let place = (&mut self.table, &mut self.walks, &mut self.sessions);
            apply(place, memory, self.id, self.received, effect);
        }
        self.received
    }

    /// Begins to bring into the cache what the oldest entry in flight is about. The hash of its key.
    #[inline]
    pub fn prefetch_oldest(&self, memory: &Memory) -> Option<KeyHash> {
        let hash = memory.hash(self.in_flight.oldest_key()?);
        self.table.prefetch(hash);
        Some(hash)
    }

    /// Commits what is in flight, up to an index.
    pub fn commit(&mut self, memory: &mut Memory, up_to: u64) {
        let up_to = up_to.min(self.received);
        let (table, walks, sessions) = (&mut self.table, &mut self.walks, &mut self.sessions);
        let id = self.id;
        while self.in_flight.commit(up_to, memory, |memory, index, effect| {
            apply((table, walks, sessions), memory, id, index, &effect);
        }) {}
        self.committed = self.committed.max(up_to);
    }

    /// Takes in an entry from a log that is recovered: nothing is in flight, and every entry before it has
    /// been taken in.
    ///
    /// # Errors
    /// If its effects cannot be read.
    pub fn recover(
        &mut self,
        memory: &mut Memory,
        epoch: u32,
        index: u64,
        payload: &[u8],
    ) -> Result<(), EffectError> {
        self.epochs.begin(epoch, index);
        let entry = SessionId { epoch, index };
        for effect in effect::effects(payload) {
            let effect = effect?;
            memory.change_sessions(&mut self.sessions, |sessions| sessions.order(entry, &effect));
            let place = (&mut self.table, &mut self.walks, &mut self.sessions);
            apply(place, memory, self.id, index, &effect);
        }
        (self.received, self.committed) = (index, index);
        Ok(())
    }

    /// Takes in an entry that another replica has ordered: it is in flight then. It follows the last one.
    ///
    /// # Errors
    /// If its effects cannot be read; it was not taken in then.
    pub fn accept(
        &mut self,
        memory: &mut Memory,
        epoch: u32,
        payload: &[u8],
    ) -> Result<u64, EffectError> {
        let effects = effect::effects(payload).collect::<Result<Vec<_>, _>>()?;
        // This one may have been about to order in an epoch of which nothing came.
        self.epochs.cut(self.received);
        self.epochs.begin(epoch, self.received + 1);
        self.order(memory, &effects);
        Ok(self.received)
    }

    /// Takes back every entry behind `index`, which has not committed: log and newest state are as if they
    /// had not been ordered.
    pub fn cut(&mut self, memory: &mut Memory, index: u64) {
        debug_assert!(index >= self.committed, "what has committed stays");
        self.in_flight.cut(index, memory);
        memory.change_sessions(&mut self.sessions, |sessions| sessions.cut(index));
        self.epochs.cut(index);
        self.received = self.received.min(index);
    }

    /// Appends an entry in flight, as it goes beside a message.
    pub fn push_entry(&self, index: u64, out: &mut Vec<u8>) {
        wire::push_entry(out, self.epochs.of(index), |out| self.in_flight.copy_effects(index, out));
    }

    /// The oldest entry whose effects are at hand; one behind the last if there is none.
    pub fn first_at_hand(&self) -> u64 {
        self.in_flight.first().unwrap_or(self.received + 1)
    }

    /// The version that the entry `index` has written.
    pub fn version_of(&self, index: u64) -> Version {
        Version { epoch: self.epochs.of(index), index }
    }

    /// Its epochs: the first index of each, and its number.
    pub fn epochs(&self) -> &[(u64, u32)] {
        &self.epochs.begun
    }

    /// A key is used now.
    pub fn note_use(&mut self, memory: &mut Memory, hash: KeyHash, key: &[u8]) {
        let stamp = memory.stamp;
        self.table.touch(&mut memory.arena, hash, key, stamp);
    }

    /// Begins to walk through what has committed.
    pub fn begin_walk(&mut self) -> WalkKey {
        let key = WalkKey(self.walks.iter().map(|(key, _)| key.0 + 1).max().unwrap_or(0));
        self.walks.push((key, Walk::new(self.committed)));
        key
    }

    /// Goes on with a walk by about so many entries; gives it, if there is such a one.
    pub fn step_walk(
        &mut self,
        key: WalkKey,
        memory: &Memory,
        entries: usize,
    ) -> Option<&mut Walk> {
        let (_, walk) = self.walks.iter_mut().find(|(other, _)| *other == key)?;
        if !walk.is_void() {
            walk.step(&self.table, memory, entries);
        }
        Some(walk)
    }

    /// Ends a walk, wherever it is.
    pub fn end_walk(&mut self, key: WalkKey) {
        self.walks.retain(|(other, _)| *other != key);
    }

    /// A checkpoint of it is taken in: it is empty, and has had these epochs.
    pub fn restore_begins(&mut self, memory: &mut Memory, epochs: Vec<(u64, u32)>) {
        self.restore_is_void(memory);
        self.epochs = Epochs { begun: epochs };
    }

    /// What was taken in so far of a checkpoint does not count.
    pub fn restore_is_void(&mut self, memory: &mut Memory) {
        let place = (&mut self.table, &mut Vec::new(), &mut self.sessions);
        apply(place, memory, self.id, 0, &EffectRef::Clear);
        memory.change_sessions(&mut self.sessions, Sessions::clear);
    }

    /// An entry of a checkpoint.
    pub fn restore(&mut self, memory: &mut Memory, index: u64, effect: &EffectRef<'_>) {
        let place = (&mut self.table, &mut Vec::new(), &mut self.sessions);
        apply(place, memory, self.id, index, effect);
    }

    /// Sessions of a checkpoint.
    ///
    /// # Errors
    /// If they are none.
    pub fn restore_sessions(
        &mut self,
        memory: &mut Memory,
        bytes: &[u8],
    ) -> Result<(), NoSessions> {
        memory.change_sessions(&mut self.sessions, |sessions| sessions.restore(bytes))
    }

    /// The checkpoint is complete, as of this index.
    pub fn restore_ends(&mut self, as_of: u64) {
        (self.received, self.committed) = (as_of, as_of);
    }

    /// Entries are ordered in this epoch from now on.
    pub fn begin_epoch(&mut self, epoch: u32) {
        self.epochs.begin(epoch, self.received + 1);
    }

    fn settled<'a>(&'a self, arena: &'a Arena, hash: KeyHash, key: &[u8]) -> Option<Found<'a>> {
        let entry = self.table.get(arena, hash, key)?;
        let index = entry.index();
        let version = self.version_of(index);
        Some(Found { value: entry.value().bytes(), version, expires_at: entry.expires_at() })
    }

    fn newest_in_flight<'a>(
        &'a self,
        arena: &'a Arena,
        hash: KeyHash,
        key: &[u8],
        scratch: &'a mut Vec<u8>,
    ) -> (Option<Found<'a>>, Option<u64>) {
        let Some(newest) = self.in_flight.newest(hash, key) else {
            return (self.settled(arena, hash, key), None);
        };
        let (index, mut effect, mut before) = (newest.index, newest.effect, newest.before);
        let version = self.version_of(index);
        let mut expiry: Option<Option<u64>> = None;
        let mut splices: Vec<(usize, &[u8])> = Vec::new();
        // From the last effect back to one that gives a value.
        let base: Option<(&[u8], Option<u64>)> = loop {
            match effect {
                EffectRef::Put { value, expires_at, .. } => break Some((value, expires_at)),
                EffectRef::Expire { expires_at, .. } => {
                    expiry.get_or_insert(expires_at);
                }
                EffectRef::Splice { offset, bytes, .. } => splices.push((offset as usize, bytes)),
                _ => break None,
            }
            let Some(place) = before else {
                let settled = self.table.get(arena, hash, key);
                break settled.map(|entry| (entry.value().bytes(), entry.expires_at()));
            };
            let older = self.in_flight.before(place);
            (effect, before) = (older.effect, older.before);
        };
        let Some((value, own_expiry)) = base else { return (None, Some(index)) };
        let expires_at = expiry.unwrap_or(own_expiry);
        if splices.is_empty() {
            return (Some(Found { value, version, expires_at }), Some(index));
        }
        scratch.clear();
        scratch.extend_from_slice(value);
        for (offset, bytes) in splices.into_iter().rev() {
            splice(scratch, offset, bytes);
        }
        (Some(Found { value: scratch, version, expires_at }), Some(index))
    }
}

impl Version {
    /// That of a key that is not there.
    pub const NONE: Version = Version { epoch: 0, index: 0 };

    /// Reads what [`Version`] writes, and nothing else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (epoch, index) = std::str::from_utf8(text).ok()?.split_once('-')?;
        let version = Version { epoch: epoch.parse().ok()?, index: index.parse().ok()? };
        (version.to_string().as_bytes() == text).then_some(version)
    }
}

/// Which epoch each index is of: an entry of the table keeps its index alone.
#[derive(Debug)]
struct Epochs {
    /// The first index of each epoch, in order; the last one may not have been ordered yet.
    begun: Vec<(u64, u32)>,
}

impl Epochs {
    fn starting(epoch: u32) -> Self {
        Epochs { begun: vec![(0, epoch)] }
    }

    fn current(&self) -> u32 {
        self.begun.last().expect("there is one from the start").1
    }

    /// From `index` on entries are of `epoch`.
    fn begin(&mut self, epoch: u32, index: u64) {
        if epoch <= self.current() {
            return;
        }
        // One in which nothing was ordered leaves no trace.
        self.begun.pop_if(|(first, _)| *first >= index);
        self.begun.push((index, epoch));
    }

    /// None of what is behind `index` was ordered.
    fn cut(&mut self, index: u64) {
        let kept = self.begun.iter().take_while(|(first, _)| *first <= index).count();
        self.begun.truncate(kept.max(1));
    }

    #[inline]
    fn of(&self, index: u64) -> u32 {
        // Nearly always the last one.
        let mut epochs = self.begun.iter().rev();
        epochs.find(|(first, _)| *first <= index).map_or(0, |(_, epoch)| *epoch)
    }
}

/// Puts `bytes` at `offset`, zeros between if the value was shorter.
fn splice(value: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if value.len() < end {
        value.resize(end, 0);
    }
    value[offset..end].copy_from_slice(bytes);
}

/// The same of a value that is kept: in as much memory as it has bytes, for that is what is counted.
fn spliced(value: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut longer = Vec::with_capacity(value.len().max(offset + bytes.len()));
    longer.extend_from_slice(value);
    splice(&mut longer, offset, bytes);
    longer
}

/// Does in the table what an effect says.
#[inline]
fn apply(
    (table, walks, sessions): (&mut Table, &mut Vec<(WalkKey, Walk)>, &mut Sessions),
    memory: &mut Memory,
    id: PartitionId,
    index: u64,
    effect: &EffectRef<'_>,
) {
    for (_, walk) in walks {
        walk.before(effect, table, memory);
    }
    match *effect {
        EffectRef::Put { key, value, expires_at } => {
            let value = NewValue::Copied(value);
            let touched = memory.stamp;
            let entry = NewEntry { key, value, index, expires_at, touched };
            memory.put(table, memory.hash(key), entry);
        }
        EffectRef::Delete { key } => memory.remove(table, memory.hash(key), key),
        EffectRef::Expire { key, expires_at } => {
            memory.set_expiry(table, memory.hash(key), key, expires_at, index);
        }
        EffectRef::Splice { key, offset, bytes } => {
            let hash = memory.hash(key);
            let Some(entry) = table.get(&memory.arena, hash, key) else { return };
            let expires_at = entry.expires_at();
            let value = spliced(entry.value().bytes(), offset as usize, bytes);
            let value = NewValue::Shared(value.into());
            let touched = memory.stamp;
            memory.put(table, hash, NewEntry { key, value, index, expires_at, touched });
        }
        EffectRef::Clear => {
            memory.clear(table);
            memory.counts.clear(id);
        }
        EffectRef::NoOp => {}
        EffectRef::OpenSession { .. } | EffectRef::CloseSession { .. } | EffectRef::Request(_) => {
            memory.change_sessions(sessions, |sessions| sessions.commit(effect));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::spliced;

    #[test]
    fn what_is_kept_of_a_splice_takes_the_memory_of_its_bytes() {
        for (value, offset, bytes, expected) in [
            (&b"0123456789"[..], 10, &b"x"[..], &b"0123456789x"[..]),
            (b"0123456789", 3, b"abc", b"012abc6789"),
            (b"01", 4, b"ab", b"01\0\0ab"),
            (b"", 0, b"", b""),
        ] {
            let whole = spliced(value, offset, bytes);
            assert_eq!((whole.as_slice(), whole.capacity()), (expected, expected.len()));
        }
    }
}
