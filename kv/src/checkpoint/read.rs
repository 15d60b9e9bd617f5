//! Frames to partitions: what a shard takes in of a checkpoint when it starts.

use super::format::{self, Decoded, Frame, FrameError, Kind};
use super::write::{MAGIC, VERSION};
use crate::effect::EffectRef;
use crate::log::LogIdentity;
use crate::store::Store;

/// Reads one checkpoint, in pieces.
#[derive(Debug)]
pub struct Reader {
    log: LogIdentity,
    number: u64,
    crc: u32,
    phase: Phase,
    partitions: u32,
    entries: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Start,
    Between,
    In { partition: u16, as_of: u64, count: u64 },
    Finished,
}

/// What [`Reader::take`] has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// So many bytes are read, and at least so many are needed from there on.
    Needs {
        /// From the front of what was given.
        read: usize,
        /// What is behind them has to be as long.
        bytes: usize,
    },
    /// That was all, and this is the checksum.
    Finished {
        /// Of the last frame.
        crc: u32,
    },
}

impl Reader {
    /// At the beginning of checkpoint `number` of a shard.
    pub fn new(log: LogIdentity, number: u64) -> Self {
        Reader { log, number, crc: 0, phase: Phase::Start, partitions: 0, entries: 0 }
    }

    /// Entries that have come so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Takes in the frames that are whole.
    ///
    /// # Errors
    /// What is wrong with the first that cannot be taken, and how many bytes are before it.
    pub fn take(&mut self, bytes: &[u8], store: &mut Store) -> Result<Taken, (usize, FrameError)> {
        let mut read = 0;
        while self.phase != Phase::Finished {
            let decoded =
                format::decode(&bytes[read..], self.crc).map_err(|error| (read, error))?;
            let frame = match decoded {
                Decoded::Needs(bytes) => return Ok(Taken::Needs { read, bytes }),
                Decoded::Frame(frame) => frame,
            };
            self.take_frame(&frame, store).map_err(|error| (read, error))?;
            self.crc = frame.crc;
            read += frame.bytes();
        }
        Ok(Taken::Finished { crc: self.crc })
    }

    fn take_frame(&mut self, frame: &Frame<'_>, store: &mut Store) -> Result<(), FrameError> {
        let Frame { kind, partition, mut payload, .. } = *frame;
        self.phase = match (self.phase, kind) {
            (Phase::Start, Kind::Start) => self.check_start(&mut payload)?,
            (Phase::Between, Kind::Begin) => {
                let (as_of, epochs) = begun(&mut payload)?;
                store.restore_begins(partition, as_of, epochs);
                Phase::In { partition, as_of, count: 0 }
            }
            (Phase::In { partition: open, .. }, _) if open != partition => {
                return Err(FrameError::Order);
            }
            (Phase::In { partition, as_of, count }, Kind::Entries) => {
                let came = restore(store, partition, as_of, &mut payload)?;
                Phase::In { partition, as_of, count: count + came }
            }
            (Phase::In { partition, .. }, Kind::Sessions) => {
                let sessions = std::mem::take(&mut payload);
                let restored = store.restore_sessions(partition, sessions);
                restored.map_err(|_| FrameError::Payload)?;
                self.phase
            }
            (Phase::In { partition, .. }, Kind::Restart) => {
                store.restore_is_void(partition);
                Phase::Between
            }
            (Phase::In { partition, as_of, count }, Kind::End) => {
                if u64::from_le_bytes(take(&mut payload)?) != count {
                    return Err(FrameError::Counts);
                }
                store.restore_ends(partition, as_of);
                self.partitions += 1;
                self.entries += count;
                Phase::Between
            }
            (Phase::Between, Kind::Finish) => {
                let partitions = u32::from_le_bytes(take(&mut payload)?);
                let entries = u64::from_le_bytes(take(&mut payload)?);
                if (partitions, entries) != (self.partitions, self.entries) {
                    return Err(FrameError::Counts);
                }
                Phase::Finished
            }
            _ => return Err(FrameError::Order),
        };
        if payload.is_empty() { Ok(()) } else { Err(FrameError::Payload) }
    }

    fn check_start(&self, payload: &mut &[u8]) -> Result<Phase, FrameError> {
        if take::<8>(payload)? != MAGIC {
            return Err(FrameError::Payload);
        }
        let version = u32::from_le_bytes(take(payload)?);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let shard = u32::from_le_bytes(take(payload)?);
        let directory = take::<16>(payload)?;
        let incarnation = u64::from_le_bytes(take(payload)?);
        let number = u64::from_le_bytes(take(payload)?);
        let says = (directory, incarnation, shard, number);
        let is_it =
            says == (self.log.directory.0, self.log.incarnation, self.log.shard, self.number);
        if is_it { Ok(Phase::Between) } else { Err(FrameError::Foreign) }
    }
}

/// As of which index a partition is, and which epochs it has had.
fn begun(payload: &mut &[u8]) -> Result<(u64, Vec<(u64, u32)>), FrameError> {
    let as_of = u64::from_le_bytes(take(payload)?);
    let count = u32::from_le_bytes(take(payload)?);
    let mut epochs = Vec::new();
    for _ in 0..count {
        let first = u64::from_le_bytes(take(payload)?);
        epochs.push((first, u32::from_le_bytes(take(payload)?)));
    }
    let is_ordered = epochs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
    if is_ordered && !epochs.is_empty() { Ok((as_of, epochs)) } else { Err(FrameError::Payload) }
}

/// Takes in entries. How many came.
fn restore(
    store: &mut Store,
    partition: u16,
    as_of: u64,
    payload: &mut &[u8],
) -> Result<u64, FrameError> {
    let mut count = 0;
    while !payload.is_empty() {
        let index = u64::from_le_bytes(take(payload)?);
        let effect = EffectRef::decode(payload).map_err(|_| FrameError::Payload)?;
        if !matches!(effect, EffectRef::Put { .. }) || index > as_of {
            return Err(FrameError::Payload);
        }
        store.restore(partition, index, &effect);
        count += 1;
    }
    Ok(count)
}

fn take<const N: usize>(payload: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (taken, rest) = payload.split_first_chunk::<N>().ok_or(FrameError::Payload)?;
    *payload = rest;
    Ok(*taken)
}
