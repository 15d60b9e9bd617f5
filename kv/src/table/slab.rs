//! Keys and values that are too large for a run of cells, each in memory of its own.

use super::chunked::Chunked;
use bytes::Bytes;

/// The end of the list of vacant slots.
const NONE: u32 = u32::MAX;

/// What lies apart, by number. Slots are used again, not given back: at 32 bytes for what had more
/// than 4 KiB they are below 1 % of the most that ever lay here.
#[derive(Debug)]
pub(super) struct Slab {
    slots: Chunked<Slot>,
    /// The first vacant slot.
    vacant: u32,
    /// The bytes of all that is held.
    bytes: u64,
}

#[derive(Debug)]
enum Slot {
    Vacant { next: u32 },
    Held(Bytes),
}

impl Default for Slab {
    fn default() -> Self {
        Self { slots: Chunked::default(), vacant: NONE, bytes: 0 }
    }
}

impl Slab {
    pub(super) fn insert(&mut self, bytes: Bytes) -> u32 {
        self.bytes += bytes.len() as u64;
        if self.vacant == NONE {
            self.slots.push(Slot::Held(bytes));
            // Each has more than 4 KiB: 2^32 of them would be 16 TiB.
            return u32::try_from(self.slots.len() - 1).expect("memory ends before the numbers");
        }
        let number = self.vacant;
        match std::mem::replace(&mut self.slots[number as usize], Slot::Held(bytes)) {
            Slot::Vacant { next } => self.vacant = next,
            Slot::Held(_) => unreachable!("the list of vacant slots names vacant ones"),
        }
        number
    }

    pub(super) fn remove(&mut self, number: u32) {
        let vacant = Slot::Vacant { next: self.vacant };
        match std::mem::replace(&mut self.slots[number as usize], vacant) {
            Slot::Held(bytes) => self.bytes -= bytes.len() as u64,
            Slot::Vacant { .. } => unreachable!("an entry names what is held for it"),
        }
        self.vacant = number;
    }

    pub(super) fn at(&self, number: u32) -> &Bytes {
        match &self.slots[number as usize] {
            Slot::Held(bytes) => bytes,
            Slot::Vacant { .. } => unreachable!("an entry names what is held for it"),
        }
    }

    /// The bytes of all that is held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes of the slots themselves.
    pub(super) fn slots_bytes(&self) -> usize {
        self.slots.bytes_held()
    }
}

#[cfg(test)]
impl Slab {
    /// Panics if the counters do not add up.
    pub(super) fn recount(&self) {
        let (mut bytes, mut vacant) = (0, 0);
        for number in 0..self.slots.len() {
            match &self.slots[number] {
                Slot::Held(held) => bytes += held.len() as u64,
                Slot::Vacant { .. } => vacant += 1,
            }
        }
        assert_eq!(self.bytes, bytes);
        let next = |&number: &u32| match self.slots[number as usize] {
            Slot::Vacant { next } => (next != NONE).then_some(next),
            Slot::Held(_) => panic!("slot {number} is held and in the list of vacant ones"),
        };
        let first = (self.vacant != NONE).then_some(self.vacant);
        assert_eq!(std::iter::successors(first, next).count(), vacant);
    }
}
