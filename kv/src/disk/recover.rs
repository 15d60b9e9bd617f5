//! At a start: a shard takes in what its partitions have on disk, and makes sure that it stays there.

use super::open::DataDirectory;
use super::sources::{self, Source, SourceError};
use super::{DiskError, document, next_turn};
use crate::checkpoint::format::FrameError;
use crate::checkpoint::read::{Reader, Taken};
use crate::effect::EffectError;
use crate::log::manifest::{Checkpoint, Manifest, OlderLog};
use crate::log::scan::{EntryRef, Scan, ScanConfig, ScanError, Step};
use crate::log::{BLOCK_BYTES, LogEnd, LogIdentity, LogStart, segment};
use crate::store::{OutOfOrder, Store};
use catena_engine::Local;
use catena_engine::driver::{FileBuffer, FileId, OpenFile};
use catena_engine::time::{Duration, Instant};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes of a log that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// Why a shard cannot be recovered. Nothing was changed.
#[derive(Debug)]
pub enum RecoverError {
    /// A file operation failed.
    Disk(DiskError),
    /// It is not known what to recover from.
    Source(SourceError),
    /// A log is damaged.
    Scan {
        /// The data directory.
        directory: PathBuf,
        /// Where, and how.
        error: ScanError,
    },
    /// A checkpoint is damaged.
    Checkpoint {
        /// Its file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        error: FrameError,
    },
    /// More keys than one shard has memory for.
    TooMany,
    /// A record is good, and what it says is not.
    Entry {
        /// Where the log is.
        directory: PathBuf,
        /// Of which partition.
        partition: u16,
        /// Which entry.
        index: u64,
        /// What is wrong.
        wrong: WrongEntry,
    },
}

/// What is wrong with an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WrongEntry {
    /// It does not follow what was taken in before it.
    OutOfOrder(OutOfOrder),
    /// Its effects cannot be read.
    Effect(EffectError),
}

impl From<EffectError> for WrongEntry {
    fn from(error: EffectError) -> Self {
        WrongEntry::Effect(error)
    }
}

/// What a recovery has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Logs that it read.
    pub logs: usize,
    /// Entries that were new.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes that the logs' files take.
    pub log_bytes: u64,
    /// Logs that ended within a write.
    pub torn: usize,
}

impl Recovered {
    /// Adds what another shard has found.
    pub fn add(&mut self, other: &Recovered) {
        self.logs += other.logs;
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.log_bytes += other.log_bytes;
        self.torn += other.torn;
    }
}

/// Takes in what the partitions of `store` have on disk, and writes this start's manifest. The shard may
/// serve after that.
///
/// # Errors
/// [`RecoverError`]
pub async fn recover(
    local: &Local,
    data: &DataDirectory,
    store: &mut Store,
) -> Result<(Manifest, Recovered), RecoverError> {
    let sources = sources::find(local, data, store.own_partitions()).await;
    let sources = sources.map_err(RecoverError::Source)?;
    let mut recovered = Recovered { logs: sources.len(), ..Recovered::default() };
    let mut older = Vec::new();
    for source in &sources {
        let end = take_in(local, source, store, &mut recovered).await?;
        let Manifest { incarnation, shard, .. } = source.manifest;
        older.push(OlderLog { incarnation, shard, end });
    }
    let manifest = Manifest {
        directory: data.identity.directory,
        incarnation: data.identity.incarnation,
        shard: u32::from(local.shard().0),
        shards: u32::from(local.shard_count()),
        start: LogStart::NEW,
        last_segment: 0,
        checkpoint: None,
        older,
    };
    begin(local, data, &manifest).await.map_err(RecoverError::Disk)?;
    Ok((manifest, recovered))
}

/// Makes the directory of this start and the manifest that says what came before.
async fn begin(local: &Local, data: &DataDirectory, manifest: &Manifest) -> Result<(), DiskError> {
    let directory = data.of_shard(manifest.incarnation, manifest.shard);
    let start = directory.parent().expect("a shard's directory is in that of its start");
    local.create_directory(&directory).await.map_err(DiskError::of("create", &directory))?;
    local.sync_directory(&data.path).await.map_err(DiskError::of("sync", &data.path))?;
    local.sync_directory(start).await.map_err(DiskError::of("sync", start))?;
    document::replace(local, &directory.join("MANIFEST"), manifest.encode().as_bytes()).await
}

/// Takes in one log. Where it ends.
async fn take_in(
    local: &Local,
    source: &Source,
    store: &mut Store,
    recovered: &mut Recovered,
) -> Result<LogEnd, RecoverError> {
    let Manifest { directory, incarnation, shard, start, last_segment, .. } = source.manifest;
    let log = LogIdentity { directory, incarnation, shard };
    if source.end.is_none() {
        // A killed process may have renamed its manifest and not come to make that durable. It was read:
        // this start will depend on it.
        let synced = local.sync_directory(&source.directory).await;
        synced.map_err(DiskError::of("sync", &source.directory)).map_err(RecoverError::Disk)?;
    }
    if let Some(checkpoint) = &source.manifest.checkpoint {
        restore(local, (&source.directory, log), checkpoint, store, recovered).await?;
    }
    if last_segment < start.segment {
        // It had begun no segment.
        let offset = segment::BATCHES_OFFSET;
        return Ok(LogEnd { segment: start.segment, offset, crc: start.prev_crc });
    }
    for number in start.segment..=last_segment {
        let path = source.directory.join(segment::segment_name(number));
        // One that is not needed, as it lies behind the end, may be gone.
        recovered.log_bytes += local.file_length(&path).await.unwrap_or(0);
    }
    let config = ScanConfig { log, start, last_segment, end: source.end, read_bytes: READ_BYTES };
    let mut scan = Scan::new(config);
    let damaged = |error| {
        let directory = source.directory.ancestors().nth(2).unwrap_or(&source.directory).into();
        RecoverError::Scan { directory, error }
    };
    let mut files = SegmentFiles { local, directory: &source.directory, open: None };
    let mut buffer = FileBuffer::default();
    let mut progress = Progress::new(local);
    let end = loop {
        match scan.next().map_err(damaged)? {
            Step::End(end) => break end,
            Step::Entry(entry) => {
                let EntryRef { partition, epoch, index, payload } = entry;
                let taken = store.recover(partition, epoch, index, payload);
                let directory = || source.directory.clone();
                let is_new = taken.map_err(|wrong| RecoverError::Entry {
                    directory: directory(),
                    partition,
                    index,
                    wrong,
                })?;
                recovered.entries += u64::from(is_new);
            }
            Step::Read(request) => {
                has_room(store)?;
                buffer.resize(request.bytes);
                let file = files.file(request.segment).await.map_err(RecoverError::Disk)?;
                let (filled, read) = local.read_file(file, request.offset, buffer).await;
                buffer = filled;
                let path = files.path(request.segment);
                let read = read.map_err(DiskError::of("read", &path));
                let read = read.map_err(RecoverError::Disk)?;
                recovered.bytes += read as u64;
                progress.tell(|shard| {
                    let (segment, of) = (request.segment, last_segment);
                    let entries = recovered.entries;
                    let log = source.directory.display();
                    tracing::info!(shard, %log, segment, of, entries, "recovering");
                });
                scan.supply(&buffer.bytes()[..read]).map_err(damaged)?;
            }
        }
    };
    recovered.torn += usize::from(scan.is_torn());
    files.close();
    if source.end.is_none() {
        if let Some((number, from)) = scan.last_batch() {
            let batch = from..end.offset.next_multiple_of(BLOCK_BYTES as u64);
            write_again(&mut files, number, batch, buffer).await.map_err(RecoverError::Disk)?;
        }
        // What a killed process had written may be in the page cache alone: it counts from now on.
        for number in start.segment..=last_segment {
            let file = files.file(number).await.map_err(RecoverError::Disk)?;
            let path = files.path(number);
            let synced = local.sync_file(file).await.map_err(DiskError::of("sync", &path));
            synced.map_err(RecoverError::Disk)?;
        }
        files.close();
    }
    Ok(end)
}

/// One shard may have to take in what many had.
fn has_room(store: &Store) -> Result<(), RecoverError> {
    if store.has_pages_to_recover() { Ok(()) } else { Err(RecoverError::TooMany) }
}

/// Writes a part of a segment once more, byte for byte. If it is there because of a sync that failed, it is
/// in the page cache and not on the disk, and the kernel takes it for clean: no later sync would write it.
async fn write_again(
    files: &mut SegmentFiles<'_>,
    number: u64,
    bytes: Range<u64>,
    mut buffer: FileBuffer,
) -> Result<(), DiskError> {
    let (file, path) = (files.file(number).await?, files.path(number));
    let mut offset = bytes.start;
    while offset < bytes.end {
        buffer.resize(READ_BYTES.min((bytes.end - offset) as usize));
        let (filled, read) = files.local.read_file(file, offset, buffer).await;
        read.map_err(DiskError::of("read", &path))?;
        let (back, written) = files.local.write_file(file, offset, filled).await;
        buffer = back;
        offset += written.map_err(DiskError::of("write", &path))? as u64;
    }
    Ok(())
}

/// Takes in a checkpoint.
async fn restore(
    local: &Local,
    (directory, log): (&Path, LogIdentity),
    checkpoint: &Checkpoint,
    store: &mut Store,
    recovered: &mut Recovered,
) -> Result<(), RecoverError> {
    let path = directory.join(segment::checkpoint_name(checkpoint.number));
    let failed = |doing| {
        let to_disk_error = DiskError::of(doing, &path);
        move |error| RecoverError::Disk(to_disk_error(error))
    };
    let file = local.open_file(&path, OpenFile::default()).await.map_err(failed("open"))?;
    let mut reader = Reader::new(log, checkpoint.number);
    let mut unread: Vec<u8> = Vec::new();
    let mut buffer = FileBuffer::zeroed(READ_BYTES);
    let (mut offset, mut taken) = (0, 0);
    let mut progress = Progress::new(local);
    let wrong = |offset, error| RecoverError::Checkpoint { path: path.clone(), offset, error };
    let crc = loop {
        let (filled, read) = local.read_file(file, offset, buffer).await;
        buffer = filled;
        let read = read.map_err(failed("read"))?;
        unread.extend_from_slice(&buffer.bytes()[..read]);
        (offset, recovered.bytes) = (offset + read as u64, recovered.bytes + read as u64);
        match reader.take(&unread, store) {
            Ok(Taken::Finished { crc }) => break crc,
            Ok(Taken::Needs { .. }) if read == 0 => {
                return Err(wrong(taken, FrameError::Short));
            }
            Ok(Taken::Needs { read, .. }) => {
                unread.drain(..read);
                taken += read as u64;
            }
            Err((before, error)) => return Err(wrong(taken + before as u64, error)),
        }
        has_room(store)?;
        progress.tell(|shard| {
            let (bytes, entries) = (offset, reader.entries());
            tracing::info!(shard, checkpoint = %path.display(), bytes, entries, "recovering");
        });
        next_turn().await;
    };
    local.close_file(file);
    if crc != checkpoint.crc {
        return Err(wrong(taken, FrameError::NotThisOne));
    }
    recovered.entries += reader.entries();
    Ok(())
}

/// Says now and then that a long recovery goes on.
struct Progress<'a> {
    local: &'a Local,
    next: Instant,
}

/// How often that is said.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

impl<'a> Progress<'a> {
    fn new(local: &'a Local) -> Self {
        Progress { local, next: local.now() + PROGRESS_EVERY }
    }

    fn tell(&mut self, say: impl FnOnce(u16)) {
        let now = self.local.now();
        if now >= self.next {
            self.next = now + PROGRESS_EVERY;
            say(self.local.shard().0);
        }
    }
}

/// The segments of one log, of which one is open.
struct SegmentFiles<'a> {
    local: &'a Local,
    directory: &'a Path,
    open: Option<(u64, FileId)>,
}

impl SegmentFiles<'_> {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(segment::segment_name(number))
    }

    async fn file(&mut self, number: u64) -> Result<FileId, DiskError> {
        if let Some((open, file)) = self.open
            && open == number
        {
            return Ok(file);
        }
        self.close();
        let path = self.path(number);
        let file = self.local.open_file(&path, OpenFile::default()).await;
        let file = file.map_err(DiskError::of("open", &path))?;
        self.open = Some((number, file));
        Ok(file)
    }

    fn close(&mut self) {
        if let Some((_, file)) = self.open.take() {
            self.local.close_file(file);
        }
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Disk(error) => error.fmt(f),
            RecoverError::Source(error) => error.fmt(f),
            RecoverError::Scan { directory, error } => write!(f, "{}/{error}", directory.display()),
            RecoverError::Checkpoint { path, offset, error } => write!(
                f,
                "{}, offset {offset}: the checkpoint is damaged: {error}. Nothing was changed. \
                 Keep the file, look after the disk, and restore a backup",
                path.display()
            ),
            RecoverError::TooMany => f.write_str(
                "the keys on the disk are more than one shard has memory for (64 GiB with what they take \
                 besides). Nothing was changed; start with more shards",
            ),
            RecoverError::Entry { directory, partition, index, wrong } => {
                write!(f, "{}: entry {index} of partition {partition} ", directory.display())?;
                match wrong {
                    WrongEntry::OutOfOrder(wrong) => write!(
                        f,
                        "follows entry {}: what lies between is missing; restore a backup",
                        wrong.last
                    ),
                    WrongEntry::Effect(error) => {
                        write!(f, "cannot be read: {error}; start the version that wrote it")
                    }
                }
            }
        }
    }
}

impl std::error::Error for RecoverError {}
