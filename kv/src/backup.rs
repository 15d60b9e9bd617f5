//! Backups: a directory with all keys of a store, taken while it serves, from which a data directory is made.
//!
//! ```text
//! DIR/BACKUP     what there is: partitions, and of each file its length, its checksum, its keys
//! DIR/shard-<k>  all keys of one shard, as a checkpoint has them (crate::checkpoint::format)
//! ```
//!
//! `BACKUP` is written last: a directory without it is no backup. Whatever number of shards a backup was
//! taken from, what is made of it can be served by any other.
//!
//! A data directory that is being made has [`RESTORING`] in it, which becomes its `IDENTITY` at last. Who is
//! killed meanwhile leaves it, and nobody serves what has it.

mod made;

pub use made::Made;

use crate::checkpoint::format::{self, Decoded, Frame, FrameError, HEADER_BYTES, Kind};
use crate::checkpoint::write;
use crate::log::manifest::{self, Checkpoint, Identity, Manifest, Served};
use crate::log::{DirectoryId, LogIdentity, LogStart, segment};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a backup is, as its document says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    /// Of this document and of the files.
    pub version: u32,
    /// When it was begun, in Unix milliseconds.
    pub taken_ms: u64,
    /// Partitions of the store.
    pub partitions: u16,
    /// Keys were hashed with this, in hexadecimal digits.
    pub hash_seed: String,
    /// Its files, by shard.
    pub shard: Vec<ShardFile>,
}

/// One file of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardFile {
    /// Its length in bytes.
    pub bytes: u64,
    /// The checksum of its last frame, which is of all of them.
    pub crc: u32,
    /// How many keys it has.
    pub keys: u64,
    /// The newest epoch of its entries.
    pub epoch: u32,
}

/// The version that is written, and the only one that is read: that of all such documents.
pub const VERSION: u32 = manifest::VERSION;

/// Why a backup was not taken, or nothing made of one.
#[derive(Debug)]
pub enum BackupError {
    /// A file operation failed.
    File {
        /// What was to be done.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The directory has something in it already.
    NotEmpty(PathBuf),
    /// It has what a restore left that was cut off.
    CutOff(PathBuf),
    /// The directory has no document of a backup.
    NoBackup(PathBuf),
    /// It is no backup, or an incomplete one.
    Document {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file of it is damaged.
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong there.
        error: FrameError,
    },
}

/// Sees that what a server gives is whole, and counts.
#[derive(Debug, Default)]
pub struct Frames {
    crc: u32,
    offset: u64,
    keys: u64,
    epoch: u32,
    is_finished: bool,
}

impl Frames {
    /// Takes the frames off the front of `bytes` that are whole; each is given to `each`. How many bytes that
    /// were.
    ///
    /// # Errors
    /// What is wrong, and the offset of the frame in the file.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&Frame<'_>) -> io::Result<()>,
    ) -> Result<Result<usize, io::Error>, (u64, FrameError)> {
        let mut read = 0;
        while !self.is_finished {
            let decoded = format::decode(&bytes[read..], self.crc);
            let frame = match decoded.map_err(|error| (self.offset, error))? {
                Decoded::Needs(_) => break,
                Decoded::Frame(frame) => frame,
            };
            self.note(&frame).map_err(|error| (self.offset, error))?;
            if let Err(error) = each(&frame) {
                return Ok(Err(error));
            }
            read += frame.bytes();
            self.offset += frame.bytes() as u64;
        }
        Ok(Ok(read))
    }

    /// True when the last one has come.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// What has come.
    pub fn file(&self) -> ShardFile {
        let Frames { offset: bytes, crc, keys, epoch, .. } = *self;
        ShardFile { bytes, crc, keys, epoch }
    }

    fn note(&mut self, frame: &Frame<'_>) -> Result<(), FrameError> {
        self.crc = frame.crc;
        if frame.kind == Kind::Begin {
            // Epochs are in their order, each behind its first index.
            let epoch = frame.payload.last_chunk().ok_or(FrameError::Payload)?;
            self.epoch = self.epoch.max(u32::from_le_bytes(*epoch));
        }
        if frame.kind == Kind::Finish {
            let keys = frame.payload.get(4..12).ok_or(FrameError::Payload)?;
            self.keys = u64::from_le_bytes(keys.try_into().expect("eight bytes"));
            self.is_finished = true;
        }
        Ok(())
    }
}

/// What a data directory has in it while it is made from a backup: its identity, under this name.
pub const RESTORING: &str = "RESTORING";

/// Makes a directory for a backup or of one, which must be new or empty.
///
/// # Errors
/// [`BackupError`]
pub fn make_directory(path: &Path) -> Result<Made, BackupError> {
    let mut made = Made::default();
    made.directory(path)?;
    let mut entries = fs::read_dir(path).map_err(failed("list", path))?;
    match entries.next() {
        None => Ok(made),
        Some(_) if path.join(RESTORING).exists() => Err(BackupError::CutOff(path.to_path_buf())),
        Some(_) => Err(BackupError::NotEmpty(path.to_path_buf())),
    }
}

/// Completes a backup whose files are written and synced.
///
/// # Errors
/// [`BackupError`]
pub fn complete(directory: &Path, backup: &Backup, mut made: Made) -> Result<(), BackupError> {
    let document = manifest::with_checksum(backup);
    write_synced(&mut made, &directory.join("BACKUP"), document.as_bytes())?;
    sync_directory(directory)?;
    made.keep();
    Ok(())
}

/// Reads what a backup is.
///
/// # Errors
/// [`BackupError`]
pub fn open(directory: &Path) -> Result<Backup, BackupError> {
    let path = directory.join("BACKUP");
    let content = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::NoBackup(directory.to_path_buf()));
        }
        content => content.map_err(failed("read", &path))?,
    };
    let wrong = |problem: String| BackupError::Document { path: path.clone(), problem };
    let backup: Backup =
        manifest::checked(&content).map_err(|problem| wrong(problem.to_string()))?;
    if u64::from_str_radix(&backup.hash_seed, 16).is_err() {
        return Err(wrong("hash_seed: not 16 hexadecimal digits".to_owned()));
    }
    if crate::slot::Partitions::new(backup.partitions).is_none() || backup.shard.is_empty() {
        return Err(wrong("partitions or shards: a number that there cannot be".to_owned()));
    }
    Ok(backup)
}

/// What a data directory is that is made from a backup.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    /// Its id, of its own.
    pub id: DirectoryId,
    /// Random bits. The store that was backed up may go on, and its epochs with its starts: what is made of
    /// the backup begins some thousand to a million epochs later, so that no version and no session is ever
    /// named as another one there.
    pub random: u64,
}

/// The least and the most by which the epochs of a restored store are ahead.
const EPOCHS_AHEAD: Range<u64> = 1 << 10..1 << 20;

/// Makes a data directory from a backup. How many keys it has. `progress` is told of each shard that is done.
///
/// # Errors
/// [`BackupError`]; what was made of the data directory is removed then.
pub fn restore(
    directory: &Path,
    data: &Path,
    Restored { id, random }: Restored,
    mut progress: impl FnMut(usize, &ShardFile),
) -> Result<u64, BackupError> {
    let backup = open(directory)?;
    let mut made = make_directory(data)?;
    let shards = u32::try_from(backup.shard.len()).expect("a document is far shorter");
    let newest = backup.shard.iter().map(|file| u64::from(file.epoch)).max().unwrap_or_default();
    let ahead = EPOCHS_AHEAD.start + random % (EPOCHS_AHEAD.end - EPOCHS_AHEAD.start);
    let incarnation = newest + ahead;
    let hash_seed = u64::from_str_radix(&backup.hash_seed, 16).expect("it was checked");
    let identity = Identity {
        directory: id,
        partitions: backup.partitions,
        hash_seed,
        incarnation,
        served: Some(Served { incarnation, shards }),
    };
    // First, for whoever meets what a process has left that was killed in the midst of this.
    let unfinished = data.join(RESTORING);
    write_synced(&mut made, &unfinished, identity.encode().as_bytes())?;
    sync_directory(data)?;
    let start = data.join(segment::incarnation_name(incarnation));
    for (shard, file) in (0..shards).zip(&backup.shard) {
        let from = directory.join(segment::shard_name(shard));
        let to = start.join(segment::shard_name(shard));
        made.directory(&to)?;
        let log = LogIdentity { directory: id, incarnation, shard };
        let checkpoint = to.join(segment::checkpoint_name(1));
        let crc = copy(&from, file, (made.file(&checkpoint)?, &checkpoint), &log)?;
        let manifest = Manifest {
            directory: id,
            incarnation,
            shard,
            shards,
            start: LogStart::NEW,
            last_segment: 0,
            checkpoint: Some(Checkpoint { number: 1, crc }),
            older: Vec::new(),
        };
        write_synced(&mut made, &to.join("MANIFEST"), manifest.encode().as_bytes())?;
        sync_directory(&to)?;
        progress(shard as usize, file);
    }
    sync_directory(&start)?;
    // What is below is durable before anybody would serve it.
    sync_directory(data)?;
    let finished = data.join("IDENTITY");
    fs::rename(&unfinished, &finished).map_err(failed("rename", &unfinished))?;
    made.renamed(&unfinished, &finished);
    sync_directory(data)?;
    made.keep();
    Ok(backup.shard.iter().map(|file| file.keys).sum())
}

/// Copies the frames of one shard, as a checkpoint of `log`. The checksum of the copy.
fn copy(
    from: &Path,
    expected: &ShardFile,
    (mut output, to): (File, &Path),
    log: &LogIdentity,
) -> Result<u32, BackupError> {
    let mut input = BufReader::new(File::open(from).map_err(failed("open", from))?);
    let mut frames = Frames::default();
    let (mut unread, mut crc) = (Vec::new(), 0);
    let damaged =
        |(offset, error)| BackupError::Damaged { path: from.to_path_buf(), offset, error };
    while !frames.is_finished() {
        let before = unread.len();
        let piece = input.by_ref().take(1 << 20).read_to_end(&mut unread);
        piece.map_err(failed("read", from))?;
        if unread.len() == before {
            return Err(damaged((frames.offset, FrameError::Short)));
        }
        let mut out = Vec::with_capacity(unread.len() + HEADER_BYTES);
        let taken = frames.take(&unread, |frame| {
            crc = format::encode(&mut out, crc, frame.kind, frame.partition, |out| {
                match frame.kind {
                    Kind::Start => write::start(out, log, 1),
                    _ => out.extend_from_slice(frame.payload),
                }
            });
            Ok(())
        });
        let read = taken.map_err(damaged)?.map_err(failed("write", to))?;
        unread.drain(..read);
        output.write_all(&out).map_err(failed("write", to))?;
    }
    let behind = input.read(&mut [0]).map_err(failed("read", from))?;
    if !unread.is_empty() || behind > 0 {
        return Err(damaged((frames.offset, FrameError::Long)));
    }
    if frames.file() != *expected {
        return Err(damaged((frames.offset, FrameError::NotThisOne)));
    }
    output.sync_all().map_err(failed("sync", to))?;
    Ok(crc)
}

fn write_synced(made: &mut Made, path: &Path, content: &[u8]) -> Result<(), BackupError> {
    let mut file = made.file(path)?;
    file.write_all(content).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
}

fn sync_directory(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

/// For `map_err`.
pub fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_path_buf();
    move |error| BackupError::File { doing, path, error }
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackupError::File { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())
            }
            BackupError::NotEmpty(path) => write!(
                f,
                "{} has something in it; name a directory that is new or empty",
                path.display()
            ),
            BackupError::CutOff(path) => write!(
                f,
                "{0} has what a restore left that was cut off; remove {0}, or name another directory",
                path.display()
            ),
            BackupError::NoBackup(path) => write!(
                f,
                "{} is no backup, or one that was cut off: there is no BACKUP in it, which is written last; \
                 name a directory that `catena backup` has made",
                path.display()
            ),
            BackupError::Document { path, problem } => write!(f, "{}: {problem}", path.display()),
            BackupError::Damaged { path, offset, error } => write!(
                f,
                "{}, offset {offset}: the backup is damaged: {error}; use another one",
                path.display()
            ),
        }
    }
}

impl std::error::Error for BackupError {}
