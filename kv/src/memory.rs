//! What the partitions of a shard share: where their keys lie, how these are hashed, and what they take.

use crate::session::Sessions;
use crate::slot_counts::SlotCounts;
use crate::table::{Arena, Graveyard, HashSeed, KeyHash, NewEntry, Replaced, Table};

/// See the module page.
#[derive(Debug)]
pub struct Memory {
    /// Where the keys of all tables lie.
    pub arena: Arena,
    /// What keys are hashed with.
    pub seed: HashSeed,
    /// How many keys there are in each slot.
    pub counts: SlotCounts,
    /// The stamp of what is used now; see [`crate::evict`].
    pub stamp: u16,
    /// What is no key any more, and is freed piece by piece.
    pub graveyard: Graveyard,
    /// The memory of all tables' indexes, in bytes.
    index_bytes: u64,
    /// The memory of all sessions, in bytes, and how many there are.
    session_bytes: u64,
    sessions: usize,
    /// Keys of all tables, and those of them that have an expiry.
    keys: u64,
    expiring: u64,
}

/// What is ordered is applied, come what may: whoever orders sees to it that there is room.
const ROOM: &str = "a write that was ordered had room reserved for it";

impl Memory {
    /// Nothing yet.
    pub fn new(arena: Arena, seed: HashSeed, counts: SlotCounts) -> Self {
        let graveyard = Graveyard::default();
        Memory {
            arena,
            seed,
            counts,
            stamp: 0,
            graveyard,
            index_bytes: 0,
            session_bytes: 0,
            sessions: 0,
            keys: 0,
            expiring: 0,
        }
    }

    /// Counts the memory of a table that is new.
    pub(crate) fn adopt(&mut self, table: &Table) {
        self.index_bytes += table.bytes_held() as u64;
    }

    /// Bytes that keys take: their entries, rounded up to what they lie in, and the indexes by which they are
    /// found; and what sessions remember. What was cleared and is not freed yet counts too.
    #[inline]
    pub fn bytes_used(&self) -> u64 {
        let graveyard = self.graveyard.bytes_held() as u64;
        self.arena.bytes_used() + self.index_bytes + self.session_bytes + graveyard
    }

    /// Bytes held from the allocator for it: what no key uses at the moment included.
    pub fn bytes_held(&self) -> u64 {
        let graveyard = self.graveyard.bytes_held() as u64;
        self.arena.bytes_held() + self.index_bytes + self.session_bytes + graveyard
    }

    /// Keys there are, expired ones included that nobody has met.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Keys with an expiry.
    pub fn expiring(&self) -> u64 {
        self.expiring
    }

    /// Sessions there are, in all partitions.
    pub fn sessions(&self) -> usize {
        self.sessions
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::of(&self.seed, key)
    }

    #[inline]
    pub(crate) fn put(&mut self, table: &mut Table, hash: KeyHash, entry: NewEntry<'_>) {
        let key = entry.key;
        let before = Sums::of(table);
        if table.put(&mut self.arena, hash, entry).expect(ROOM) == Replaced::Nothing {
            self.counts.add(key);
        }
        self.add(before, table);
    }

    #[inline]
    pub(crate) fn remove(&mut self, table: &mut Table, hash: KeyHash, key: &[u8]) {
        let before = Sums::of(table);
        if table.remove(&mut self.arena, hash, key) {
            self.counts.remove(key);
            self.add(before, table);
        }
    }

    pub(crate) fn set_expiry(
        &mut self,
        table: &mut Table,
        hash: KeyHash,
        key: &[u8],
        expires_at: Option<u64>,
        index: u64,
    ) {
        let before = Sums::of(table);
        table.set_expiry(&mut self.arena, hash, key, expires_at, index).expect(ROOM);
        self.add(before, table);
    }

    pub(crate) fn clear(&mut self, table: &mut Table) {
        let before = Sums::of(table);
        table.clear(&mut self.graveyard);
        self.add(before, table);
    }

    /// Changes the sessions of a partition, and counts what they take then.
    pub(crate) fn change_sessions<R>(
        &mut self,
        sessions: &mut Sessions,
        change: impl FnOnce(&mut Sessions) -> R,
    ) -> R {
        let (bytes, count) = (sessions.bytes(), sessions.len());
        let result = change(sessions);
        self.session_bytes = self.session_bytes + sessions.bytes() - bytes;
        self.sessions = self.sessions + sessions.len() - count;
        result
    }

    /// What has changed in one table changes in the sums over all.
    #[inline]
    fn add(&mut self, before: Sums, table: &Table) {
        let after = Sums::of(table);
        self.index_bytes = self.index_bytes + after.index_bytes - before.index_bytes;
        self.keys = self.keys + after.keys - before.keys;
        self.expiring = self.expiring + after.expiring - before.expiring;
    }
}

/// What is summed over tables.
#[derive(Clone, Copy)]
struct Sums {
    index_bytes: u64,
    keys: u64,
    expiring: u64,
}

impl Sums {
    #[inline]
    fn of(table: &Table) -> Self {
        Sums {
            index_bytes: table.bytes_held() as u64,
            keys: table.len() as u64,
            expiring: table.expiring() as u64,
        }
    }
}
