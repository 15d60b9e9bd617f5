//! How many keys each slot has, for `CLUSTER COUNTKEYSINSLOT` and whoever moves slots.

use crate::slot::{Partition, Partitions, Slot};
use std::ops::Range;

/// The slots of one shard.
#[derive(Debug)]
pub struct SlotCounts {
    partitions: Partitions,
    first: usize,
    counts: Vec<u32>,
}

impl SlotCounts {
    /// For the slots of these partitions.
    pub fn new(partitions: Partitions, own: Range<u16>) -> Self {
        let slots = |partition: u16| Partition(partition).slots(partitions);
        let (first, end) = match own.is_empty() {
            true => (0, 0),
            false => (slots(own.start).start, slots(own.end - 1).end),
        };
        SlotCounts { partitions, first: first.into(), counts: vec![0; usize::from(end - first)] }
    }

    /// Keys in a slot; 0 if it is none of this shard's.
    pub fn of(&self, slot: Slot) -> u32 {
        let place = usize::from(slot.number()).checked_sub(self.first);
        place.and_then(|place| self.counts.get(place)).copied().unwrap_or(0)
    }

    /// A key is new.
    #[inline]
    pub fn add(&mut self, key: &[u8]) {
        self.counts[usize::from(Slot::of(key).number()) - self.first] += 1;
    }

    /// A key is gone.
    #[inline]
    pub fn remove(&mut self, key: &[u8]) {
        self.counts[usize::from(Slot::of(key).number()) - self.first] -= 1;
    }

    /// A partition is empty.
    pub fn clear(&mut self, partition: Partition) {
        for slot in partition.slots(self.partitions) {
            self.counts[usize::from(slot) - self.first] = 0;
        }
    }
}
