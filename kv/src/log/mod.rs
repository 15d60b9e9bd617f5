//! The log of one shard: records, segments, batches, recovery. Pure: others read and write the files.
//!
//! ```text
//! DIR/IDENTITY                                  what the directory is             manifest
//! DIR/gen-<incarnation>/shard-<k>/MANIFEST      what of the log counts            manifest
//! DIR/gen-<incarnation>/shard-<k>/log-<n>       a segment: header, batches        segment
//!                                                   batch: begin, entries, end    batch writes, scan reads
//!                                                       record: header, payload   record
//! ```
//!
//! All records since the last write make a **batch**, which is one write and one sync. A batch begins at a
//! block and is filled up with zeros to the next, so blocks that hold acknowledged records are never written
//! again, and only the last batch of a log can be torn. `docs/log-format.md` gives every byte.

pub mod batch;
pub mod manifest;
pub mod record;
pub mod scan;
pub mod segment;
#[cfg(test)]
mod tests;

use std::fmt;

/// What batches and headers are aligned to, in bytes: what direct I/O asks for and the largest sector that
/// disks write in one piece. Part of the format.
pub const BLOCK_BYTES: usize = 4_096;

const _: () = assert!(BLOCK_BYTES == catena_engine::limits::DIRECT_IO_ALIGN_BYTES);

/// Which log of which cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// Drawn once for a data directory.
    pub directory: DirectoryId,
    /// Which start of the process wrote it.
    pub incarnation: u64,
    /// Which shard of that start.
    pub shard: u32,
}

/// 128 random bits that no other data directory has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirectoryId(pub [u8; 16]);

/// Where a log begins, once segments before it have been removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogStart {
    /// The first segment.
    pub segment: u64,
    /// The checksum of the record before its first one.
    pub prev_crc: u32,
    /// The number of the batch before its first one.
    pub prev_batch: u32,
}

impl LogStart {
    /// Where a log begins from which nothing has been removed.
    pub const NEW: LogStart = LogStart { segment: 1, prev_crc: 0, prev_batch: 0 };
}

/// Where a log ends: behind its last good record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    /// The segment of the last good record; that of the start if there is none.
    pub segment: u64,
    /// The first byte behind that record in the segment's file.
    pub offset: u64,
    /// The checksum of that record.
    pub crc: u32,
}

/// `bytes` rounded up to whole blocks.
pub const fn whole_blocks(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
