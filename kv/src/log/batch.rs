//! Writing: gathers records into a batch, says what to write where, and knows what is durable.
//!
//! One batch is in flight at a time. While it is, the next gathers in the other of two buffers; a sync so
//! serves every record that waited for it, and the number of syncs follows the disk.
//!
//! ```text
//!            append          poll: Write          written          poll: Sync         synced
//!  (empty) ─────────► gathers ─────────► writes ─────────► is written ─────────► syncs ─────────► durable
//!                        ▲                  │                                      │
//!                        │ append: the next │ fails                                │ fails
//!                     gathers               └───────────────► Stopped ◄────────────┘
//! ```
//!
//! `Stopped` is for good. What a failed write or sync has left on the disk is unknown, and a second sync
//! that succeeds proves nothing: the kernel may have dropped the pages. A new start reads what is there.
//!
//! A batch that does not fit into its segment goes to the next; one larger than that asks for a larger one.
//! Segments are made ready ahead by the caller, who is asked by [`Action::Prepare`].

use super::record::{self, Header, Kind, Link};
use super::segment::{BATCHES_OFFSET, Segment};
use super::{LogStart, whole_blocks};
use catena_engine::driver::FileBuffer;
use std::collections::VecDeque;
use std::{fmt, io};

/// The bytes of a record without payload, such as the last one of a batch.
const BRACKET_BYTES: usize = record::record_bytes(0);

/// How a log is written.
#[derive(Clone, Copy, Debug)]
pub struct WriterConfig {
    /// The length of a segment's file, headers included; a multiple of the block.
    pub segment_bytes: u64,
    /// How large a batch may become while it gathers; the entry that makes it so large is in it still.
    pub batch_bytes_max: usize,
    /// Partitions of the store; those of records are below.
    pub partitions: u16,
}

/// What is to be done, in this order, each once.
#[derive(Debug)]
pub enum Action {
    /// Make this segment ready, then call [`LogWriter::prepared`]. If it fails, try again: nothing is lost
    /// meanwhile, but records wait. If it is ready already, with fewer bytes, make a larger one in its place.
    Prepare {
        /// Its number.
        number: u64,
        /// The least length of its file.
        bytes: u64,
    },
    /// Write it all, then call [`LogWriter::written`].
    Write {
        /// Into which segment.
        segment: u64,
        /// Where in its file.
        offset: u64,
        /// The batch, whole blocks.
        buffer: FileBuffer,
    },
    /// Make what was written durable, then call [`LogWriter::synced`].
    Sync {
        /// Which segment.
        segment: u64,
    },
}

/// Why an entry was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendError {
    /// The batch is as large as it may become; there is room when the one before is durable.
    Full,
    /// No further segment can be had for now, and it fits into none that there is.
    NoSegment,
    /// The log has stopped; see [`LogWriter::stopped`].
    Stopped,
}

/// A log that has failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// The segment concerned.
    pub segment: u64,
    /// What failed: "write" or "sync".
    pub operation: &'static str,
    /// Why, as the system says it.
    pub reason: String,
}

/// Writes one log. Call [`LogWriter::poll`] until it says `None` after each other call.
#[derive(Debug)]
pub struct LogWriter {
    config: WriterConfig,
    gathering: Gathering,
    in_flight: Option<InFlight>,
    /// The buffer that is neither gathering nor in flight.
    spare: FileBuffer,
    /// The segment that is written to, and where in it the next batch goes.
    current: Option<Segment>,
    offset: u64,
    /// The one after it, made ready ahead.
    ready: Option<Segment>,
    asked: Option<u64>,
    /// The segments that were written to, where each begins; the oldest first.
    starts: VecDeque<LogStart>,
    next_number: u64,
    /// Partition → where it stands in the gathering batch's list, if it is there that it stands.
    positions: Vec<u32>,
    /// Of the batch that became durable last.
    durable: Vec<(u16, u64)>,
    durable_entries: u64,
    written_bytes: u64,
    settle: bool,
    /// There will be no further segment for now.
    is_confined: bool,
    stopped: Option<Stopped>,
}

/// The batch that grows.
#[derive(Debug)]
struct Gathering {
    buffer: FileBuffer,
    /// Bytes in use; 0 before the first record.
    filled: usize,
    entries: u64,
    /// The highest index of each partition in it.
    touched: Vec<(u16, u64)>,
    /// What the next record is tied to.
    link: Link,
    /// The checksum of the record before the batch.
    before: u32,
}

#[derive(Debug)]
struct InFlight {
    segment: u64,
    bytes: usize,
    entries: u64,
    touched: Vec<(u16, u64)>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Writes,
    IsWritten,
    Syncs,
}

impl LogWriter {
    /// A log that begins at `start`.
    ///
    /// # Panics
    /// If the configuration leaves no room for a batch.
    pub fn new(config: WriterConfig, start: LogStart) -> Self {
        assert!(config.segment_bytes > BATCHES_OFFSET, "a segment holds more than its headers");
        let link =
            Link { seed: 0, prev_crc: start.prev_crc, batch: start.prev_batch.wrapping_add(1) };
        LogWriter {
            config,
            gathering: Gathering {
                buffer: FileBuffer::default(),
                filled: 0,
                entries: 0,
                touched: Vec::new(),
                link,
                before: start.prev_crc,
            },
            in_flight: None,
            spare: FileBuffer::default(),
            current: None,
            offset: 0,
            ready: None,
            asked: None,
            starts: VecDeque::new(),
            next_number: start.segment,
            positions: vec![0; config.partitions.into()],
            durable: Vec::new(),
            durable_entries: 0,
            written_bytes: 0,
            settle: false,
            is_confined: false,
            stopped: None,
        }
    }

    /// Takes an entry into the batch that gathers.
    ///
    /// # Errors
    /// [`AppendError`]; the entry was not taken then.
    ///
    /// # Panics
    /// If there is no such partition, or the payload is longer than [`record::ENTRY_BYTES_MAX`].
    #[inline]
    pub fn append(
        &mut self,
        partition: u16,
        epoch: u32,
        index: u64,
        payload: &[u8],
    ) -> Result<(), AppendError> {
        if self.stopped.is_some() {
            return Err(AppendError::Stopped);
        }
        let bytes = record::record_bytes(payload.len());
        let filled = self.gathering.filled.max(BRACKET_BYTES) + bytes + BRACKET_BYTES;
        // By what was there before it: the largest entry has its turn as well as the smallest.
        if self.gathering.filled > self.config.batch_bytes_max {
            return Err(AppendError::Full);
        }
        if self.is_confined && whole_blocks(filled) as u64 > self.room() {
            return Err(AppendError::NoSegment);
        }
        let header = Header { partition, kind: Some(Kind::Entry), epoch, index };
        self.gathering.begin();
        self.gathering.push(header, payload);
        self.gathering.entries += 1;
        self.touch(partition, index);
        Ok(())
    }

    /// True if there is a segment to write to: not before the first one is ready.
    pub fn has_segment(&self) -> bool {
        self.current.is_some() || self.ready.is_some()
    }

    /// Takes a segment that is ready: headers written and synced, under its name, the directory synced.
    ///
    /// # Panics
    /// If it is not the one that was asked for.
    pub fn prepared(&mut self, segment: Segment) {
        assert_eq!(self.asked.take(), Some(segment.number), "one is asked for at a time");
        self.ready = Some(segment);
    }

    /// Whether no further segment can be had for now: then nothing is taken that would have to wait for one.
    pub fn confine(&mut self, is_confined: bool) {
        self.is_confined = is_confined;
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        if self.stopped.is_some() {
            return None;
        }
        // First, for it takes long: until it is ready, batches go into the one before.
        if self.ready.is_none() && self.asked.is_none() {
            return Some(self.ask(self.next_number, self.config.segment_bytes));
        }
        match &mut self.in_flight {
            Some(batch) if batch.stage == Stage::IsWritten => {
                batch.stage = Stage::Syncs;
                return Some(Action::Sync { segment: batch.segment });
            }
            None if self.gathering.entries > 0 || self.settle => {
                return self.close();
            }
            _ => {}
        }
        None
    }

    /// The write has ended; gives the buffer back.
    ///
    /// # Panics
    /// If none was in flight.
    pub fn written(&mut self, buffer: FileBuffer, result: io::Result<usize>) {
        let batch = self.in_flight.as_mut().expect("a write was asked for");
        assert_eq!(batch.stage, Stage::Writes, "a write was asked for");
        let reason = match result {
            Ok(bytes) if bytes == batch.bytes => {
                batch.stage = Stage::IsWritten;
                // A batch of one huge entry leaves no huge buffer behind.
                let keep = buffer.capacity() <= 2 * whole_blocks(self.config.batch_bytes_max);
                self.spare = if keep { buffer } else { FileBuffer::default() };
                return;
            }
            Ok(bytes) => format!("{bytes} of {} bytes were written", batch.bytes),
            Err(error) => error.to_string(),
        };
        self.stopped = Some(Stopped { segment: batch.segment, operation: "write", reason });
    }

    /// The sync has ended. What became durable by it: the highest index of each partition concerned.
    ///
    /// # Panics
    /// If none was in flight.
    pub fn synced(&mut self, result: io::Result<()>) -> &[(u16, u64)] {
        let batch = self.in_flight.as_mut().expect("a sync was asked for");
        assert_eq!(batch.stage, Stage::Syncs, "a sync was asked for");
        if let Err(error) = result {
            let reason = error.to_string();
            self.stopped = Some(Stopped { segment: batch.segment, operation: "sync", reason });
            return &[];
        }
        self.durable_entries += batch.entries;
        self.durable = std::mem::take(&mut batch.touched);
        self.in_flight = None;
        &self.durable
    }

    /// Asks for a batch even if no entry has come. It proves that the batch before was durable, so that
    /// later damage of it is told from a write that was cut off. For idle logs and before an orderly end.
    pub fn settle(&mut self) {
        self.settle = true;
    }

    /// True if nothing gathers or is in flight: all that was appended is durable.
    pub fn is_idle(&self) -> bool {
        self.gathering.entries == 0 && !self.settle && self.in_flight.is_none()
    }

    /// How many entries are durable since the writer began.
    pub fn durable_entries(&self) -> u64 {
        self.durable_entries
    }

    /// Bytes of all batches since the writer began, as they lie in segments.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Bytes that gather, not counting what is in flight.
    pub fn gathered_bytes(&self) -> usize {
        self.gathering.filled
    }

    /// Why the log has stopped, if it has.
    pub fn stopped(&self) -> Option<&Stopped> {
        self.stopped.as_ref()
    }

    /// The segments that were written to, where each begins; the oldest first. Whatever is appended from
    /// now on is in the last of them or later.
    pub fn starts(&self) -> impl ExactSizeIterator<Item = LogStart> + '_ {
        self.starts.iter().copied()
    }

    /// Forgets the segments below `segment`, which a checkpoint covers.
    pub fn forget_before(&mut self, segment: u64) {
        while self.starts.len() > 1 && self.starts[0].segment < segment {
            self.starts.pop_front();
        }
    }

    fn touch(&mut self, partition: u16, index: u64) {
        let position = &mut self.positions[usize::from(partition)];
        let touched = &mut self.gathering.touched;
        match touched.get_mut(*position as usize) {
            Some(entry) if entry.0 == partition => entry.1 = index,
            _ => {
                *position = touched.len() as u32;
                touched.push((partition, index));
            }
        }
    }

    /// The largest batch that the segments that are there have room for, in bytes.
    fn room(&self) -> u64 {
        let current = self.current.map_or(0, |segment| segment.bytes - self.offset);
        current.max(self.ready.map_or(0, |segment| segment.bytes - BATCHES_OFFSET))
    }

    fn ask(&mut self, number: u64, bytes: u64) -> Action {
        self.asked = Some(number);
        Action::Prepare { number, bytes }
    }

    /// Ends the batch that gathers and puts it in flight; or asks for the segment that it lacks.
    fn close(&mut self) -> Option<Action> {
        self.gathering.begin();
        let bytes = whole_blocks(self.gathering.filled + BRACKET_BYTES);
        let room = self.current.map_or(0, |segment| segment.bytes - self.offset);
        if bytes as u64 > room {
            let next = self.ready?;
            if next.bytes - BATCHES_OFFSET < bytes as u64 {
                self.ready = None;
                // More gathers while it is made ready, and has to fit, too.
                let gathers = (2 * bytes).min(whole_blocks(self.config.batch_bytes_max));
                return Some(self.ask(next.number, BATCHES_OFFSET + gathers.max(bytes) as u64));
            }
            self.rotate(next);
        }
        let segment = self.current.expect("there is room in it").number;
        let offset = self.offset;
        self.offset += bytes as u64;
        self.written_bytes += bytes as u64;
        self.settle = false;
        let entries = self.gathering.entries;
        let buffer = self.gathering.end(bytes, std::mem::take(&mut self.spare));
        // Two lists take turns, as the buffers do: what the caller was told last is forgotten now.
        self.durable.clear();
        let list = std::mem::take(&mut self.durable);
        let touched = std::mem::replace(&mut self.gathering.touched, list);
        self.in_flight = Some(InFlight { segment, bytes, entries, touched, stage: Stage::Writes });
        Some(Action::Write { segment, offset, buffer })
    }

    /// Goes on in the next segment, which is there and large enough.
    fn rotate(&mut self, next: Segment) {
        self.ready = None;
        let prev_batch = self.gathering.link.batch.wrapping_sub(1);
        self.starts.push_back(LogStart {
            segment: next.number,
            prev_crc: self.gathering.before,
            prev_batch,
        });
        self.current = Some(next);
        self.offset = BATCHES_OFFSET;
        self.next_number = next.number + 1;
        self.gathering.reseal(next.seed);
    }
}

impl Gathering {
    /// Writes the first record of the batch, unless it is there.
    fn begin(&mut self) {
        if self.filled == 0 {
            self.before = self.link.prev_crc;
            self.push(Header::bracket(Kind::Begin), &[]);
        }
    }

    fn push(&mut self, header: Header, payload: &[u8]) {
        let filled = self.filled + record::record_bytes(payload.len());
        if filled > self.buffer.bytes().len() {
            let capacity = self.buffer.capacity();
            self.buffer.resize(whole_blocks(filled).max(capacity));
        }
        let place = &mut self.buffer.bytes_mut()[self.filled..filled];
        self.link.prev_crc = record::encode(place, header, payload, self.link);
        self.filled = filled;
    }

    /// Ties all its records to another segment. Once a segment, so appending need not know in which
    /// segment the batch will be.
    fn reseal(&mut self, seed: u32) {
        self.link = Link { seed, prev_crc: self.before, ..self.link };
        let mut rest = &mut self.buffer.bytes_mut()[..self.filled];
        while !rest.is_empty() {
            let (record, after) = rest.split_at_mut(record::stated_bytes(rest));
            self.link.prev_crc = record::seal(record, self.link);
            rest = after;
        }
    }

    /// Writes the last record and the zeros behind it; gives the batch away and begins the next with `spare`.
    fn end(&mut self, bytes: usize, spare: FileBuffer) -> FileBuffer {
        self.push(Header::bracket(Kind::End), &[]);
        self.buffer.resize(bytes);
        self.buffer.bytes_mut()[self.filled..].fill(0);
        self.filled = 0;
        self.entries = 0;
        self.link.batch = self.link.batch.wrapping_add(1);
        std::mem::replace(&mut self.buffer, spare)
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stopped { segment, operation, reason } = self;
        let name = super::segment::segment_name(*segment);
        write!(
            f,
            "the {operation} of {name} failed: {reason}. Nothing is acknowledged from now on; look after \
             the disk, then start again, which recovers what is durable"
        )
    }
}

impl std::error::Error for Stopped {}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AppendError::Full => "the log's batch is full until the one before it is durable",
            AppendError::NoSegment => "the log's segments are full, and there is none after them",
            AppendError::Stopped => "the log has stopped",
        })
    }
}

impl std::error::Error for AppendError {}
