//! Reading: what of a log is good, in order; where it ends; whether that end is a torn write or damage.
//!
//! Others read the files: [`Scan::next`] says which bytes it wants, [`Scan::supply`] takes them.
//!
//! A record is **good** if its own checksum is right under its segment's seed, `prev_crc` is the checksum of
//! the record read before, and its batch is the one that is open (for a first record: one more than the
//! last, and at a block). What is not good is a **bad place**, and one of two things:
//!
//! - the end of the log, whose last batch was perhaps cut off: only the last batch can be, since the next
//!   is not written before it is durable, and then it was acknowledged to nobody;
//! - damage to what was acknowledged.
//!
//! It is damage if the beginning of a later batch than the last one read stands anywhere behind it, at a
//! block of this segment or of a later one: that batch was written when the earlier ones were durable.
//!
//! ```text
//!             not good                     nothing, or bad                      nothing found
//! (between batches) ─────► look in next segment ─────► search for a later batch ───────► End
//!        ▲    │ begin ◄───────────┘ begin               ▲     │ found
//!   end  │    ▼                       not good          │     ▼
//!       (in a batch) ───────────────────────────────────┘  Damaged
//! ```
//!
//! If an end is stated (the manifest of a later start has it), nothing is searched: all before it has to be
//! good, and nothing behind it is looked at.

mod error;
mod window;

pub use error::{Fault, ScanError};

use super::record::{self, Header, Kind, Record, RecordError};
use super::segment::{BATCHES_OFFSET, Segment};
use super::{BLOCK_BYTES, LogEnd, LogIdentity, LogStart};
use window::Window;

/// What is to be scanned.
#[derive(Clone, Copy, Debug)]
pub struct ScanConfig {
    /// Which log.
    pub log: LogIdentity,
    /// Where it begins.
    pub start: LogStart,
    /// The highest number of a segment that may have been written; all from the start to this one are there.
    pub last_segment: u64,
    /// Where it ends, if that has been decided.
    pub end: Option<LogEnd>,
    /// Bytes to read at once; more if a record is longer.
    pub read_bytes: usize,
}

/// What [`Scan::next`] has come to.
#[derive(Debug)]
pub enum Step<'a> {
    /// Read this and [`Scan::supply`] it.
    Read(ReadRequest),
    /// The next good entry.
    Entry(EntryRef<'a>),
    /// There is no more.
    End(LogEnd),
}

/// Bytes of a segment's file; whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    /// Which segment.
    pub segment: u64,
    /// From where in its file.
    pub offset: u64,
    /// How many.
    pub bytes: usize,
}

/// An entry of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRef<'a> {
    /// Whose.
    pub partition: u16,
    /// In which it was ordered.
    pub epoch: u32,
    /// Its number in the partition.
    pub index: u64,
    /// Its effects; see [`crate::effect::effects`].
    pub payload: &'a [u8],
}

/// Reads one log.
#[derive(Debug)]
pub struct Scan {
    config: ScanConfig,
    window: Window,
    /// Of the segment that is being looked at.
    segment: Option<Segment>,
    phase: Phase,
    /// The next byte to look at in the segment.
    offset: u64,
    prev_crc: u32,
    batch: u32,
    in_batch: bool,
    /// Where the last batch begins that was read: segment and offset.
    last_batch: Option<(u64, u64)>,
    /// Behind the last good record.
    end: LogEnd,
    /// The last bad place: in which segment, where, and what was there.
    bad: Option<(u64, u64, Fault)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Opens this segment, then goes on with that.
    Open(u64, After),
    /// Record by record.
    Records,
    /// Block by block.
    Search,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    Records,
    /// From this offset on.
    Search(u64),
}

/// Either bytes are wanted first, or the log is not as it should be.
enum Halt {
    Read(ReadRequest),
    Error(ScanError),
}

impl From<ReadRequest> for Halt {
    fn from(request: ReadRequest) -> Self {
        Halt::Read(request)
    }
}

impl Scan {
    /// At the beginning of a log.
    pub fn new(config: ScanConfig) -> Self {
        let LogStart { segment, prev_crc, prev_batch } = config.start;
        Scan {
            config,
            window: Window::new(config.read_bytes),
            segment: None,
            phase: Phase::Open(segment, After::Records),
            offset: BATCHES_OFFSET,
            prev_crc,
            batch: prev_batch,
            in_batch: false,
            last_batch: None,
            end: LogEnd { segment, offset: BATCHES_OFFSET, crc: prev_crc },
            bad: None,
        }
    }

    /// Goes on to the next entry, as far as the bytes reach.
    ///
    /// # Errors
    /// [`ScanError`], from which there is no way on.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "what it lends ends with the next call")]
    pub fn next(&mut self) -> Result<Step<'_>, ScanError> {
        loop {
            let stepped = match self.phase {
                Phase::Records => match self.record() {
                    Ok(Some((record, at))) => return Ok(Step::Entry(self.entry(&record, at))),
                    Ok(None) => Ok(()),
                    Err(halt) => Err(halt),
                },
                Phase::Open(number, after) => self.open(number, after),
                Phase::Search => self.search(),
                Phase::Done => return Ok(Step::End(self.end)),
            };
            match stepped {
                Ok(()) => {}
                Err(Halt::Read(request)) => return Ok(Step::Read(request)),
                Err(Halt::Error(error)) => return Err(error),
            }
        }
    }

    /// Takes the bytes that [`Step::Read`] asked for; fewer where the file ends before.
    ///
    /// # Errors
    /// [`ScanError::Shorter`] if they are fewer.
    ///
    /// # Panics
    /// If none were asked for, or these are more.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        let request = self.window.supply(bytes);
        if bytes.len() < request.bytes {
            let length = request.offset + bytes.len() as u64;
            let log = self.config.log;
            return Err(ScanError::Shorter { log, segment: request.segment, length });
        }
        Ok(())
    }

    /// Where the scan is: segment and offset. For telling progress.
    pub fn position(&self) -> (u64, u64) {
        (self.end.segment, self.end.offset)
    }

    /// Where the last batch begins that was read: segment and offset. It ends where the log does; all
    /// before it is durable, for it was not written sooner.
    pub fn last_batch(&self) -> Option<(u64, u64)> {
        self.last_batch
    }

    /// The bad place at which the log was taken to end, and what was there instead of a record. `None`
    /// until [`Step::End`], and if the end was stated.
    pub fn ended_at(&self) -> Option<(u64, u64, Fault)> {
        self.bad.filter(|_| self.phase == Phase::Done)
    }

    /// True if the last batch was begun and not ended: a write that was cut off.
    pub fn is_torn(&self) -> bool {
        self.in_batch
    }

    fn open(&mut self, number: u64, after: After) -> Result<(), Halt> {
        let bytes = self.window.want(number, 0, BATCHES_OFFSET as usize, BATCHES_OFFSET)?;
        let segment = Segment::decode(bytes, &self.config.log, number).map_err(|error| {
            Halt::Error(ScanError::Segment { log: self.config.log, segment: number, error })
        })?;
        self.segment = Some(segment);
        (self.phase, self.offset) = match after {
            After::Records => (Phase::Records, BATCHES_OFFSET),
            After::Search(offset) => (Phase::Search, offset),
        };
        Ok(())
    }

    /// Reads the record at the offset: an entry and where it is, or one that only brackets a batch, or
    /// a bad place, which changes the phase.
    #[inline]
    fn record(&mut self) -> Result<Option<(Record, u64)>, Halt> {
        if self.config.end == Some(self.end) {
            self.phase = Phase::Done;
            return Ok(None);
        }
        let segment = self.segment.expect("records are read from an open segment");
        let record = match self.good_record(&segment)? {
            Ok(record) => record,
            Err(fault) => {
                self.bad_place(segment.number, fault).map_err(Halt::Error)?;
                return Ok(None);
            }
        };
        let at = self.offset;
        self.offset += record::record_bytes(record.payload_bytes) as u64;
        self.prev_crc = record.crc;
        self.end = LogEnd { segment: segment.number, offset: self.offset, crc: record.crc };
        self.check_end(at).map_err(Halt::Error)?;
        match record.header.kind {
            Some(Kind::Entry) => return Ok(Some((record, at))),
            Some(Kind::Begin) => {
                (self.batch, self.in_batch) = (record.batch, true);
                self.last_batch = Some((segment.number, at));
            }
            Some(Kind::End) => {
                self.in_batch = false;
                self.offset = self.offset.next_multiple_of(BLOCK_BYTES as u64);
            }
            None => {
                let log = self.config.log;
                let error = ScanError::UnknownKind { log, segment: segment.number, offset: at };
                return Err(Halt::Error(error));
            }
        }
        Ok(None)
    }

    /// A good record that is not the stated end may not reach as far, or further.
    #[inline]
    fn check_end(&self, offset: u64) -> Result<(), ScanError> {
        match self.config.end {
            Some(end) if self.end != end && self.position() >= (end.segment, end.offset) => {
                let (log, segment, fault) = (self.config.log, self.end.segment, Fault::NotTheEnd);
                Err(ScanError::Damaged { log, segment, offset, fault, later: None })
            }
            _ => Ok(()),
        }
    }

    /// The record at the offset, if it is good there.
    #[inline]
    fn good_record(&mut self, segment: &Segment) -> Result<Result<Record, Fault>, Halt> {
        let left = segment.bytes - self.offset;
        let mut needed = record::HEADER_BYTES;
        if left < needed as u64 {
            return Ok(Err(Fault::SegmentEnd));
        }
        let record = loop {
            let bytes = self.window.want(segment.number, self.offset, needed, segment.bytes)?;
            match record::decode(bytes, left, segment.seed) {
                Ok(record) => break record,
                Err(RecordError::Short(bytes)) => needed = bytes,
                Err(RecordError::Length(length)) => return Ok(Err(Fault::Length(length))),
                Err(RecordError::Checksum { stated, computed }) => {
                    return Ok(Err(Fault::Checksum { stated, computed }));
                }
            }
        };
        if record.prev_crc != self.prev_crc {
            return Ok(Err(Fault::Chain { stated: record.prev_crc, before: self.prev_crc }));
        }
        let begins = record.header.kind == Some(Kind::Begin);
        let batch = if self.in_batch { self.batch } else { self.batch.wrapping_add(1) };
        if record.batch != batch || begins == self.in_batch {
            return Ok(Err(Fault::Batch { stated: record.batch, expected: batch }));
        }
        Ok(Ok(record))
    }

    /// Decides what to do about a bad place at the offset.
    fn bad_place(&mut self, number: u64, fault: Fault) -> Result<(), ScanError> {
        let elsewhere = !self.in_batch && self.offset > BATCHES_OFFSET;
        let last = self.config.end.map_or(self.config.last_segment, |end| end.segment);
        if elsewhere && number < last {
            // The batch may not have fitted. If this turns out to be the end, then it was here.
            self.bad = Some((number, self.offset, fault));
            self.phase = Phase::Open(number + 1, After::Records);
            return Ok(());
        }
        // A next segment without its first batch: the log ended in the one before.
        let at_next = !self.in_batch && self.offset == BATCHES_OFFSET;
        let before = self.bad.filter(|bad| at_next && bad.0 + 1 == number);
        let (segment, offset, fault) = before.unwrap_or((number, self.offset, fault));
        self.bad = Some((segment, offset, fault));
        if self.config.end.is_some() {
            let log = self.config.log;
            return Err(ScanError::Damaged { log, segment, offset, fault, later: None });
        }
        let from = offset.next_multiple_of(BLOCK_BYTES as u64);
        self.phase = Phase::Open(segment, After::Search(from));
        Ok(())
    }

    /// Looks at one block for the beginning of a later batch than the last one read.
    fn search(&mut self) -> Result<(), Halt> {
        let segment = self.segment.expect("blocks are read from an open segment");
        if self.offset >= segment.bytes {
            self.phase = match segment.number < self.config.last_segment {
                true => Phase::Open(segment.number + 1, After::Search(BATCHES_OFFSET)),
                false => Phase::Done,
            };
            return Ok(());
        }
        let begin = record::record_bytes(0);
        let bytes = self.window.want(segment.number, self.offset, begin, segment.bytes)?;
        // A beginning has a known length, so nothing that only looks like a long record is summed up.
        let found = record::decode(bytes, begin as u64, segment.seed).ok().filter(|record| {
            let ahead = record.batch.wrapping_sub(self.batch).cast_signed();
            record.header == Header::bracket(Kind::Begin) && ahead > 0
        });
        if found.is_some() {
            let (log, later) = (self.config.log, Some((segment.number, self.offset)));
            let (segment, offset, fault) = self.bad.expect("a bad place began the search");
            return Err(Halt::Error(ScanError::Damaged { log, segment, offset, fault, later }));
        }
        self.offset += BLOCK_BYTES as u64;
        Ok(())
    }

    #[inline]
    fn entry(&self, record: &Record, at: u64) -> EntryRef<'_> {
        let Header { partition, epoch, index, .. } = record.header;
        let payload = self.window.bytes(at + record::HEADER_BYTES as u64, record.payload_bytes);
        EntryRef { partition, epoch, index, payload }
    }
}
