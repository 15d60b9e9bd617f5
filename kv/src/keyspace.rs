//! What a command sees: the keys of one partition, at one instant.

use crate::command::error::Error;
use crate::effect::EffectRef;
use crate::evict;
use crate::limits::{KEY_BYTES_MAX, answer_bytes_max};
use crate::partition::{Found, Partition, Version};
use crate::store::Common;
use crate::store::gate::Seen;
use crate::table::KeyHash;

/// See the module page.
pub struct Keyspace<'s> {
    pub(crate) partition: &'s mut Partition,
    pub(crate) common: &'s mut Common,
    pub(crate) now_ms: u64,
    /// What the answer depends on.
    pub(crate) seen: Seen,
}

/// A key, and its hash.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// As it came.
    pub bytes: &'a [u8],
    hash: KeyHash,
}

impl Keyspace<'_> {
    /// Unix time in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// What the answer depends on.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// The version that the next write makes.
    pub fn next_version(&self) -> Version {
        Version { epoch: self.partition.epoch(), index: self.partition.received() + 1 }
    }

    /// A key, ready to be looked up.
    ///
    /// # Errors
    /// If it is longer than keys may be.
    #[inline]
    pub fn key<'a>(&self, bytes: &'a [u8]) -> Result<Key<'a>, Error> {
        if bytes.len() > KEY_BYTES_MAX {
            return Err(Error::KEY_TOO_LONG);
        }
        Ok(Key { bytes, hash: self.common.memory.hash(bytes) })
    }

    /// For how many seconds a key that is there was not used, about. `None`: nobody notes that.
    pub fn idle_seconds(&self, key: &Key<'_>) -> Option<u64> {
        if !self.common.notes_use {
            return None;
        }
        let entry = self.partition.table().get(&self.common.memory.arena, key.hash, key.bytes);
        // What has not committed is being written now.
        Some(entry.map_or(0, |entry| evict::seconds_since(entry.touched(), self.now_ms)))
    }

    /// # Errors
    /// If no value may be so long.
    pub fn check_length(&self, bytes: usize) -> Result<(), Error> {
        if bytes > self.common.value_bytes_max { Err(Error::TOO_LONG) } else { Ok(()) }
    }

    /// # Errors
    /// If no answer may be so long.
    pub fn check_answer(&self, bytes: usize) -> Result<(), Error> {
        let bytes_max = answer_bytes_max(self.common.value_bytes_max);
        if bytes > bytes_max { Err(Error::ANSWER_TOO_LONG) } else { Ok(()) }
    }

    /// Ends a key if it has expired. True: it has, and its end was ordered.
    pub fn end_if_expired(&mut self, key: &Key<'_>) -> bool {
        self.has_expired(key) && self.end_expired(key)
    }

    /// What a key holds, and notes that it was used. One that has expired is deleted, and holds nothing.
    #[inline]
    pub fn get(&mut self, key: &Key<'_>) -> Option<Found<'_>> {
        if self.common.notes_use {
            self.partition.note_use(&mut self.common.memory, key.hash, key.bytes);
        }
        self.look(key)
    }

    /// The same, and notes nothing.
    #[inline]
    pub fn look(&mut self, key: &Key<'_>) -> Option<Found<'_>> {
        if self.partition.has_expiring() && self.has_expired(key) {
            self.common.counters.misses += 1;
            self.end_expired(key);
            return None;
        }
        let Common { memory, scratch, .. } = self.common;
        let (found, gate) = self.partition.newest(&memory.arena, key.hash, key.bytes, scratch);
        self.seen.index = self.seen.index.max(gate);
        match &found {
            Some(_) => self.common.counters.hits += 1,
            None => self.common.counters.misses += 1,
        }
        found
    }

    /// Sets a key. Returns its version.
    ///
    /// # Errors
    /// If the value is longer than values may be, or nothing can be logged any more.
    #[inline]
    pub fn put(
        &mut self,
        key: &Key<'_>,
        value: &[u8],
        expires_at: Option<u64>,
    ) -> Result<Version, Error> {
        self.check_length(value.len())?;
        self.write(key, EffectRef::Put { key: key.bytes, value, expires_at })
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// If nothing can be logged any more.
    pub fn delete(&mut self, key: &Key<'_>) -> Result<(), Error> {
        self.write(key, EffectRef::Delete { key: key.bytes }).map(drop)
    }

    /// Sets or ends the expiry of a key that is there.
    ///
    /// # Errors
    /// If nothing can be logged any more.
    pub fn expire(&mut self, key: &Key<'_>, expires_at: Option<u64>) -> Result<(), Error> {
        self.write(key, EffectRef::Expire { key: key.bytes, expires_at }).map(drop)
    }

    /// Overwrites a part of the value of a key that is there.
    ///
    /// # Errors
    /// If nothing can be logged any more.
    pub fn splice(&mut self, key: &Key<'_>, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let offset = u32::try_from(offset).map_err(|_| Error::TOO_LONG)?;
        self.write(key, EffectRef::Splice { key: key.bytes, offset, bytes }).map(drop)
    }

    /// Writes several effects as one entry: all happen, or none.
    ///
    /// # Errors
    /// If nothing can be logged any more.
    pub fn write_all(&mut self, effects: &[EffectRef<'_>]) -> Result<Version, Error> {
        let index = self.common.order(self.partition, effects)?;
        Ok(self.ordered(index))
    }
}

impl Keyspace<'_> {
    #[inline]
    fn write(&mut self, _key: &Key<'_>, effect: EffectRef<'_>) -> Result<Version, Error> {
        let index = self.common.order(self.partition, &[effect])?;
        Ok(self.ordered(index))
    }

    #[inline]
    fn ordered(&mut self, index: u64) -> Version {
        self.seen.has_ordered = true;
        if self.partition.committed() < index {
            self.seen.index = self.seen.index.max(Some(index));
        }
        Version { epoch: self.partition.epoch(), index }
    }

    fn has_expired(&mut self, key: &Key<'_>) -> bool {
        let Common { memory, scratch, .. } = self.common;
        let (found, gate) = self.partition.newest(&memory.arena, key.hash, key.bytes, scratch);
        let expires_at = found.and_then(|found| found.expires_at);
        let has_expired = expires_at.is_some_and(|at| at <= self.now_ms);
        if has_expired {
            // Whoever is told that it is gone is told of the entry that says when.
            self.seen.index = self.seen.index.max(gate);
        }
        has_expired
    }

    /// The end of a key is an entry like any other: what was seen to be gone stays gone, whatever the clock
    /// does later.
    #[cold]
    fn end_expired(&mut self, key: &Key<'_>) -> bool {
        // A log that has failed is told to whoever writes; to a reader the key is gone all the same. But that
        // it is gone is for the head to say (CHAIN §4.7), whose clock may differ.
        let ended = self.delete(key);
        self.seen.wants_head |= ended == Err(Error::NOT_HEAD);
        let is_ordered = ended.is_ok();
        self.common.counters.expired += u64::from(is_ordered);
        is_ordered
    }
}
