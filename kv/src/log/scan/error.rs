//! Why a log cannot be read: which file, where, what was found, what to do.

use crate::log::LogIdentity;
use crate::log::segment::{SegmentError, incarnation_name, segment_name, shard_name};
use std::fmt;

/// What stands where a record should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A length that no record has there; 0 where nothing was written.
    Length(u32),
    /// Bytes that do not have their checksum.
    Checksum {
        /// What they say.
        stated: u32,
        /// What they have.
        computed: u32,
    },
    /// A record that was written behind another one.
    Chain {
        /// The checksum of the record before, as it says.
        stated: u32,
        /// The checksum of the record that is before it.
        before: u32,
    },
    /// A record of another batch.
    Batch {
        /// Which, as it says.
        stated: u32,
        /// Which would be right.
        expected: u32,
    },
    /// Nothing: the segment is full.
    SegmentEnd,
    /// A good record, but not the one with which the log was stated to end.
    NotTheEnd,
}

/// A log that cannot be recovered as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanError {
    /// Something that was acknowledged is not as it was written.
    Damaged {
        /// Which log.
        log: LogIdentity,
        /// The file.
        segment: u64,
        /// Where in it.
        offset: u64,
        /// What stands there.
        fault: Fault,
        /// Segment and offset of the later batch that proves it; `None`: the manifest does.
        later: Option<(u64, u64)>,
    },
    /// A segment's header is damaged or another's.
    Segment {
        /// Which log.
        log: LogIdentity,
        /// The file.
        segment: u64,
        /// What is wrong.
        error: SegmentError,
    },
    /// A file is shorter than it was made.
    Shorter {
        /// Which log.
        log: LogIdentity,
        /// The file.
        segment: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// A good record of a kind that this version does not know.
    UnknownKind {
        /// Which log.
        log: LogIdentity,
        /// The file.
        segment: u64,
        /// Where in it.
        offset: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Length(length) => write!(f, "a record's length of {length} bytes"),
            Fault::Checksum { stated, computed } => {
                write!(f, "bytes with checksum {computed:08x} instead of {stated:08x}")
            }
            Fault::Chain { stated, before } => write!(
                f,
                "a record that follows one with checksum {stated:08x}, behind one with {before:08x}"
            ),
            Fault::Batch { stated, expected } => {
                write!(f, "a record of batch {stated} instead of {expected}")
            }
            Fault::NotTheEnd => f.write_str("another record than the last one"),
            Fault::SegmentEnd => f.write_str("the end of the segment"),
        }
    }
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScanError::Damaged { log, segment, offset, fault, later } => {
                write!(f, "{}, offset {offset}: the log is damaged: ", Path(log, *segment))?;
                write!(f, "here stands {fault}, and ")?;
                match later {
                    Some((segment, offset)) => write!(
                        f,
                        "a later batch in {}, offset {offset}, proves that more was acknowledged",
                        segment_name(*segment)
                    )?,
                    None => f.write_str("the manifest of a later start says otherwise")?,
                }
            }
            ScanError::Segment { log, segment, error } => {
                write!(f, "{}, offset 0: this is not the segment: {error}", Path(log, *segment))?;
                if let SegmentError::Version(_) = error {
                    return f.write_str(". Start the version that wrote it");
                }
            }
            ScanError::Shorter { log, segment, length } => write!(
                f,
                "{}: the file ends at offset {length}, before its segment does",
                Path(log, *segment)
            )?,
            ScanError::UnknownKind { log, segment, offset } => {
                return write!(
                    f,
                    "{}, offset {offset}: a record of a kind that this version does not know. Start the \
                     version that wrote it",
                    Path(log, *segment)
                );
            }
        }
        f.write_str(
            ". Nothing was changed. Keep the file, look after the disk, and restore a backup; a member of a \
             chain may set its data directory aside and join again, empty",
        )
    }
}

impl std::error::Error for ScanError {}

/// A segment's file, from the data directory on.
struct Path<'a>(&'a LogIdentity, u64);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = incarnation_name(self.0.incarnation);
        write!(f, "{generation}/{}/{}", shard_name(self.0.shard), segment_name(self.1))
    }
}
