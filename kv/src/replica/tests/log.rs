//! What a node keeps in the world of the tests.

use crate::replica::History;
use std::collections::BTreeMap;

/// The log of a node, and what of it has committed. An entry writes one key.
#[derive(Clone, Default)]
pub struct Log {
    /// What is below came by a snapshot: the last write of each key up to an index.
    pub base: u64,
    pub base_epochs: Vec<(u64, u32)>,
    pub table: BTreeMap<u64, u64>,
    /// The snapshot is not complete: nothing counts.
    pub is_void: bool,
    pub entries: Vec<Entry>,
    pub committed: u64,
    /// Payloads of so many committed entries are at hand.
    pub kept: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub epoch: u32,
    pub key: u64,
    /// No other one has it.
    pub id: u64,
}

impl Log {
    pub fn at(&self, index: u64) -> Entry {
        self.entries[(index - self.base) as usize - 1]
    }

    pub fn behind(&self, index: u64) -> &[Entry] {
        &self.entries[(index - self.base) as usize..]
    }

    pub fn cut(&mut self, index: u64) {
        assert!(index >= self.committed && index >= self.base, "what has committed is cut");
        self.entries.truncate((index - self.base) as usize);
    }

    /// The last write of a key as of what has committed.
    pub fn value(&self, key: u64) -> u64 {
        let committed = &self.entries[..(self.committed - self.base) as usize];
        match last_write(committed, key) {
            0 => self.table.get(&key).copied().unwrap_or(0),
            found => self.base + found,
        }
    }
}

impl History for Log {
    fn received(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn committed(&self) -> u64 {
        self.committed
    }

    fn epochs(&self) -> Vec<(u64, u32)> {
        let mut epochs = self.base_epochs.clone();
        for (index, entry) in (self.base + 1..).zip(&self.entries) {
            if epochs.last().is_none_or(|(_, epoch)| *epoch != entry.epoch) {
                epochs.push((index, entry.epoch));
            }
        }
        epochs
    }

    fn first_at_hand(&self) -> u64 {
        (self.committed + 1).saturating_sub(self.kept).max(self.base + 1)
    }
}

/// The index of the last write of a key.
pub fn last_write(entries: &[Entry], key: u64) -> u64 {
    entries.iter().rposition(|entry| entry.key == key).map_or(0, |at| at as u64 + 1)
}
