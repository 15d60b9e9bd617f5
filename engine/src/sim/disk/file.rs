//! One file of a disk: what reads see, what is durable, and what lies between the two.

use crate::rng::Rng;
use crate::sim::image::{Fate, Image, draw_fate};

#[derive(Debug, Default)]
pub(super) struct File {
    /// What reads see.
    pub cached: Image,
    pub durable: Image,
    /// Completed and not durable, in the order of completion.
    unsynced: Vec<Change>,
    changes_completed: u64,
}

#[derive(Debug)]
pub(super) struct Change {
    /// Its number among the completed changes of the file.
    number: u64,
    pub what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Bytes were written.
    Write { offset: u64, bytes: Vec<u8> },
    /// Room was reserved up to a length, and the file lengthened to it.
    Extend { length: u64 },
}

/// What is left of a change, with how many bytes.
pub(super) struct Left {
    pub fate: Fate,
    pub bytes: u64,
    pub pieces: Vec<What>,
}

impl File {
    pub fn is_empty(&self) -> bool {
        self.cached.length() == 0 && self.durable.length() == 0 && self.unsynced.is_empty()
    }

    /// A change has completed: reads see it from now on.
    pub fn complete(&mut self, what: What) {
        what.apply(&mut self.cached);
        self.changes_completed += 1;
        self.unsynced.push(Change { number: self.changes_completed, what });
    }

    pub fn write(&mut self, offset: u64, bytes: Vec<u8>) {
        self.complete(What::Write { offset, bytes });
    }

    /// What a sync that is issued now covers.
    pub fn changes_completed(&self) -> u64 {
        self.changes_completed
    }

    /// Makes durable the changes up to a number.
    pub fn sync(&mut self, up_to: u64) {
        for change in self.take_unsynced(up_to) {
            change.what.apply(&mut self.durable);
        }
    }

    pub fn take_unsynced(&mut self, up_to: u64) -> Vec<Change> {
        let covered = self.unsynced.partition_point(|change| change.number <= up_to);
        self.unsynced.drain(..covered).collect()
    }

    /// Flips a bit on the disk. Reads see it where the cache held the same: such pages come and go.
    pub fn flip_bit(&mut self, bit: u64) {
        let (offset, mask) = (bit / 8, 1u8 << (bit % 8));
        let [mut cached, mut durable] = [[0u8; 1]; 2];
        self.durable.read(offset, &mut durable);
        self.cached.read(offset, &mut cached);
        if cached == durable && offset < self.cached.length() {
            self.cached.write(offset, &[cached[0] ^ mask]);
        }
        self.durable.write(offset, &[durable[0] ^ mask]);
    }
}

impl What {
    pub fn apply(&self, image: &mut Image) {
        match self {
            What::Write { offset, bytes } => image.write(*offset, bytes),
            What::Extend { length } => image.extend(*length),
        }
    }

    /// Where it begins and how long it is.
    pub fn range(&self) -> (u64, u64) {
        match self {
            What::Write { offset, bytes } => (*offset, bytes.len() as u64),
            What::Extend { length } => (0, *length),
        }
    }

    /// Draws what is left of it when it is not durable. A length that grew is the new one or the old.
    pub fn survivors(self, rng: &mut Rng) -> Left {
        match self {
            What::Write { offset, bytes } => {
                let (fate, kept) = draw_fate(offset, bytes.len(), rng);
                let piece = |range: std::ops::Range<usize>| What::Write {
                    offset: offset + range.start as u64,
                    bytes: bytes[range].to_vec(),
                };
                let left = kept.iter().map(|range| range.len() as u64).sum();
                Left { fate, bytes: left, pieces: kept.into_iter().map(piece).collect() }
            }
            What::Extend { length } if rng.chance(0.5) => {
                Left { fate: Fate::Kept, bytes: length, pieces: vec![What::Extend { length }] }
            }
            What::Extend { .. } => Left { fate: Fate::Lost, bytes: 0, pieces: Vec::new() },
        }
    }
}
