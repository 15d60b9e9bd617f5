//! Partitions to frames: a checkpoint, or a backup, of one shard.

use super::format::{self, Kind};
use crate::log::LogIdentity;
use crate::partition::{Partition, WalkKey};
use crate::store::Store;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// What the first frame begins with.
pub const MAGIC: [u8; 8] = *b"catenchk";

/// A frame of entries is closed when it has so many bytes: small enough to be checked and taken in without
/// much memory, large enough that its header does not count. A large value has one of its own.
pub(super) const FRAME_BYTES: usize = 64 * 1_024;

/// Writes one checkpoint, a piece at a time.
#[derive(Debug)]
pub struct Writer {
    /// The place of the partition that is walked.
    place: usize,
    phase: Phase,
    crc: u32,
    partitions: u32,
    entries: u64,
    what: What,
}

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// All that the log before it says: keys and sessions.
    Checkpoint,
    /// Keys alone. What is made of a backup goes on from another past than the store did, and would know the
    /// sessions that this one opened since by the same ids as its own new ones.
    Backup,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Start,
    Between,
    Walking(WalkKey),
    Finished,
}

impl Writer {
    /// At its beginning.
    pub fn new(what: What) -> Self {
        Writer { place: 0, phase: Phase::Start, crc: 0, partitions: 0, entries: 0, what }
    }

    /// The checksum of the last frame: of all of them, since they are chained.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Entries written so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Appends what comes next, a frame or two, after looking at about `count` entries. True: that was all.
    pub fn step(
        &mut self,
        store: &mut Store,
        (log, number): (&LogIdentity, u64),
        count: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        match self.phase {
            Phase::Start => {
                self.frame(out, Kind::Start, 0, |out| start(out, log, number));
                self.phase = Phase::Between;
            }
            Phase::Between => self.begin(store, out),
            Phase::Walking(key) => self.walk(key, store, count, out),
            Phase::Finished => {}
        }
        self.phase == Phase::Finished
    }

    /// Ends it before its end: nothing is saved for it any more.
    pub fn abandon(&mut self, store: &mut Store) {
        if let Phase::Walking(key) = self.phase
            && let Some(partition) = store.parts().0.get(self.place)
        {
            partition.end_walk(key);
        }
        self.phase = Phase::Finished;
    }

    /// The next partition, or the end.
    fn begin(&mut self, store: &mut Store, out: &mut Vec<u8>) {
        let (all, _) = store.parts();
        let Some(partition) = all.get(self.place) else {
            let (partitions, entries) = (self.partitions, self.entries);
            self.frame(out, Kind::Finish, 0, |out| {
                out.extend_from_slice(&partitions.to_le_bytes());
                out.extend_from_slice(&entries.to_le_bytes());
            });
            self.phase = Phase::Finished;
            return;
        };
        let key = partition.begin_walk();
        self.crc = format::encode(out, self.crc, Kind::Begin, partition.id().0, |out| {
            describe(out, partition);
        });
        if self.what == What::Checkpoint {
            self.crc = sessions(out, self.crc, partition);
        }
        self.phase = Phase::Walking(key);
    }

    fn walk(&mut self, key: WalkKey, store: &mut Store, count: usize, out: &mut Vec<u8>) {
        let (all, memory) = store.parts();
        let partition = all.get(self.place).expect("it was there when its walk began");
        let id = partition.id().0;
        let Some(walk) = partition.step_walk(key, memory, count) else { return };
        if walk.is_void() {
            partition.end_walk(key);
            self.frame(out, Kind::Restart, id, |_| {});
            self.phase = Phase::Between;
            return;
        }
        let piece = walk.take_piece();
        let (is_done, walked) = (walk.is_done(), walk.count());
        if let Some(piece) = piece {
            self.crc = format::encode(out, self.crc, Kind::Entries, id, |out| piece.write(out));
        }
        if is_done {
            partition.end_walk(key);
            self.frame(out, Kind::End, id, |out| out.extend_from_slice(&walked.to_le_bytes()));
            self.entries += walked;
            self.partitions += 1;
            self.place += 1;
            self.phase = Phase::Between;
        }
    }

    fn frame(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        partition: u16,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.crc = format::encode(out, self.crc, kind, partition, write);
    }
}

/// The payload of the first frame.
pub fn start(out: &mut Vec<u8>, log: &LogIdentity, number: u64) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&log.shard.to_le_bytes());
    out.extend_from_slice(&log.directory.0);
    out.extend_from_slice(&log.incarnation.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
}

/// Appends the sessions of a partition as of what has committed, some to a frame. The last checksum.
fn sessions(out: &mut Vec<u8>, mut crc: u32, partition: &Partition) -> u32 {
    let mut payload = Vec::new();
    let mut close = |payload: &mut Vec<u8>| {
        crc = format::encode(out, crc, Kind::Sessions, partition.id().0, |out| out.append(payload));
    };
    partition.sessions().encode(partition.committed(), &mut payload, |payload| {
        if payload.len() >= FRAME_BYTES {
            close(payload);
        }
    });
    if !payload.is_empty() {
        close(&mut payload);
    }
    crc
}

fn describe(out: &mut Vec<u8>, partition: &Partition) {
    out.extend_from_slice(&partition.committed().to_le_bytes());
    let epochs = partition.epochs();
    out.extend_from_slice(&(epochs.len() as u32).to_le_bytes());
    for (first, epoch) in epochs {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&epoch.to_le_bytes());
    }
}
