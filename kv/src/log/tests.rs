//! The writer against the scan: whatever was written, torn and damaged, what comes back.

use super::batch::{Action, AppendError, LogWriter, WriterConfig};
use super::scan::{EntryRef, Fault, Scan, ScanConfig, ScanError, Step};
use super::segment::{BATCHES_OFFSET, Segment};
use super::{BLOCK_BYTES, DirectoryId, LogEnd, LogIdentity, LogStart};
use catena_engine::driver::FileBuffer;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io;

mod damage;
mod writer;

const LOG: LogIdentity = LogIdentity { directory: DirectoryId([1; 16]), incarnation: 2, shard: 0 };
/// Small, so that a few batches fill a segment.
const SEGMENT_BYTES: u64 = BATCHES_OFFSET + 4 * BLOCK_BYTES as u64;
const CONFIG: WriterConfig =
    WriterConfig { segment_bytes: SEGMENT_BYTES, batch_bytes_max: 3 * BLOCK_BYTES, partitions: 8 };
const SECTOR_BYTES: usize = 512;

/// Partition, index, payload.
type Entry = (u16, u64, Vec<u8>);

/// The files of a log.
#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<u64, Vec<u8>>,
}

/// A batch that was written.
#[derive(Clone)]
struct Batch {
    segment: u64,
    offset: u64,
    bytes: usize,
    entries: Vec<Entry>,
}

/// A log, written; all of its batches were acknowledged.
#[derive(Clone, Default)]
struct Written {
    disk: Disk,
    batches: Vec<Batch>,
}

impl Written {
    fn entries(&self, batches: usize) -> Vec<Entry> {
        self.batches[..batches].iter().flat_map(|batch| batch.entries.clone()).collect()
    }
}

/// Writes batches of entries with payloads of these lengths; no entries: one that settles. New segments
/// hold what `recycled` says.
fn write(
    batches: &[Vec<usize>],
    log: LogIdentity,
    recycled: &dyn Fn(u64, u64) -> Vec<u8>,
) -> Written {
    let mut written = Written::default();
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    let mut index = 0;
    for lengths in batches {
        let mut entries = Vec::new();
        for length in lengths {
            index += 1;
            let entry = ((index % 8) as u16, index, vec![index as u8; *length]);
            match writer.append(entry.0, 1, index, &entry.2) {
                Ok(()) => entries.push(entry),
                Err(AppendError::Full) => index -= 1,
                Err(AppendError::Stopped | AppendError::NoSegment) => panic!("nothing failed"),
            }
        }
        if entries.is_empty() {
            writer.settle();
        }
        run(&mut writer, &mut written, log, entries, recycled);
        assert!(writer.is_idle());
    }
    written
}

/// Does what the writer asks for until it has nothing more.
fn run(
    writer: &mut LogWriter,
    written: &mut Written,
    log: LogIdentity,
    mut entries: Vec<Entry>,
    recycled: &dyn Fn(u64, u64) -> Vec<u8>,
) {
    while let Some(action) = writer.poll() {
        match action {
            Action::Prepare { number, bytes } => {
                let seed =
                    (number as u32 + 1_000 * log.incarnation as u32).wrapping_mul(0x9E37_79B9);
                let segment = Segment { log, number, bytes, seed };
                let mut file = recycled(number, bytes);
                file.resize(bytes as usize, 0);
                segment.encode(&mut file);
                written.disk.files.insert(number, file);
                writer.prepared(segment);
            }
            Action::Write { segment, offset, buffer } => {
                let bytes = buffer.bytes().len();
                assert_eq!((offset % 4_096, bytes % 4_096), (0, 0), "whole blocks");
                let last = written.batches.last().filter(|last| last.segment == segment);
                let free = last.map_or(BATCHES_OFFSET, |last| last.offset + last.bytes as u64);
                assert_eq!(offset, free, "no block is written again");
                let file = written.disk.files.get_mut(&segment).expect("it was prepared");
                file[offset as usize..][..bytes].copy_from_slice(buffer.bytes());
                let entries = std::mem::take(&mut entries);
                written.batches.push(Batch { segment, offset, bytes, entries });
                writer.written(buffer, Ok(bytes));
            }
            Action::Sync { segment } => {
                assert_eq!(written.batches.last().map(|last| last.segment), Some(segment));
                writer.synced(Ok(()));
            }
        }
    }
}

fn zeros(_: u64, _: u64) -> Vec<u8> {
    Vec::new()
}

/// Segments that a former start has filled with batches of one block.
fn old_segments(number: u64, bytes: u64) -> Vec<u8> {
    let log = LogIdentity { incarnation: 1, ..LOG };
    let old = write(&vec![vec![60]; 24], log, &zeros);
    let mut file = old.disk.files[&(1 + number % 6)].clone();
    file.resize(bytes as usize, 0xFF);
    file
}

/// Reads a log: what was good, and where it ended.
fn read(disk: &Disk, end: Option<LogEnd>) -> (Vec<Entry>, Result<(LogEnd, bool), ScanError>) {
    let last_segment = *disk.files.keys().last().expect("there is a segment");
    let config = ScanConfig { log: LOG, start: LogStart::NEW, last_segment, end, read_bytes: 1 };
    read_as(disk, config)
}

fn read_as(disk: &Disk, config: ScanConfig) -> (Vec<Entry>, Result<(LogEnd, bool), ScanError>) {
    let mut scan = Scan::new(config);
    let mut entries = Vec::new();
    loop {
        match scan.next() {
            Ok(Step::Read(request)) => {
                let file = &disk.files[&request.segment];
                let from = (request.offset as usize).min(file.len());
                let to = (from + request.bytes).min(file.len());
                if let Err(error) = scan.supply(&file[from..to]) {
                    return (entries, Err(error));
                }
            }
            Ok(Step::Entry(EntryRef { partition, index, payload, epoch })) => {
                assert_eq!(epoch, 1);
                entries.push((partition, index, payload.to_vec()));
            }
            Ok(Step::End(end)) => {
                let torn = scan.is_torn();
                return (entries, Ok((end, torn)));
            }
            Err(error) => return (entries, Err(error)),
        }
    }
}

/// Batches of entries with lengths from nothing to more than a segment.
fn batches() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let length = prop_oneof![8 => 0..80usize, 3 => 80..3_000usize, 1 => 3_000..30_000usize];
    prop::collection::vec(prop::collection::vec(length, 0..6), 1..12)
}
