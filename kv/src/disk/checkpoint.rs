//! While it runs: a shard's checkpoints, and the end of what they make superfluous.
//!
//! ```text
//! walk ─► checkpoint-<n>.new ─► sync ─► what it has in it is durable in the log, too ─► rename, sync
//!      ─► MANIFEST: this checkpoint, the log from where it was when the walk began, no older logs
//!      ─► segments and checkpoints before that are removed
//! ```

use super::manifest_file::ManifestFile;
use super::{DiskError, next_turn};
use crate::checkpoint::write::{What, Writer};
use crate::log::manifest::{Checkpoint, Manifest};
use crate::log::{BLOCK_BYTES, LogIdentity, segment, whole_blocks};
use crate::store::Store;
use crate::store::figures::CheckpointEvent;
use catena_engine::Local;
use catena_engine::driver::{FileBuffer, FileId, OpenFile};
use catena_engine::time::Duration;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointConfig {
    /// Bytes of log written since the last one, at least. Half of what the keys take if that is more: so
    /// that all checkpoints together write no more than twice what the log does.
    pub log_bytes_min: u64,
    /// Logs of former starts that are needed still, above which one is due at once.
    pub older_logs_max: usize,
}

impl Default for CheckpointConfig {
    /// 256 MiB, and 8 logs of former starts.
    fn default() -> Self {
        CheckpointConfig { log_bytes_min: 256 << 20, older_logs_max: 8 }
    }
}

/// How often it is looked whether one is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long after one that failed the next is tried.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Entries that a step looks at: some 5 to 20 µs of a turn.
const STEP_ENTRIES: usize = 64;

/// Bytes that are written at once: to copy them and to hand them to the kernel takes some 20 µs of a turn.
const WRITE_BYTES: usize = 128 << 10;

/// Takes checkpoints of a store, each when it is due. `older_bytes`: what the logs of former starts take that
/// are needed still. Each start makes its first segments ready before anybody writes, so without that count
/// many starts would fill a disk. `clock` tells Unix time in milliseconds; `published` is told after each
/// checkpoint.
pub fn begin(
    local: &Local,
    manifest: Rc<ManifestFile>,
    store: Rc<RefCell<Store>>,
    config: CheckpointConfig,
    older_bytes: u64,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    published: impl Fn() + 'static,
) {
    let last_tried = Cell::default();
    let task = Checkpoints { local: local.clone(), manifest, store, clock, last_tried };
    local.spawn_vital(async move { task.run(config, older_bytes, published).await });
}

struct Checkpoints {
    local: Local,
    manifest: Rc<ManifestFile>,
    store: Rc<RefCell<Store>>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The number of the last one that was begun in this process, or 0.
    last_tried: Cell<u64>,
}

impl Checkpoints {
    async fn run(&self, config: CheckpointConfig, mut older_bytes: u64, published: impl Fn()) {
        self.note(CheckpointEvent::LogBegins((self.clock)()));
        let mut logged_before = 0;
        let older = self.manifest.read().await.older.len();
        let mut is_due = older > config.older_logs_max;
        loop {
            let (logged, used) = {
                let store = self.store.borrow();
                (store.logged_bytes(), store.bytes_used())
            };
            is_due |= self.store.borrow_mut().takes_wanted_checkpoint();
            let to_be_read = older_bytes + logged - logged_before;
            is_due |= to_be_read > config.log_bytes_min.max(used / 2);
            // What it makes superfluous may be the room that the log waits for.
            is_due |= logged > logged_before && self.store.borrow().is_log_hindered();
            if !is_due {
                self.local.sleep(LOOK_INTERVAL).await;
                continue;
            }
            self.note(CheckpointEvent::Begins);
            match self.take().await {
                Ok(()) => {
                    self.note(CheckpointEvent::Taken((self.clock)()));
                    (logged_before, older_bytes, is_due) = (logged, 0, false);
                    published();
                }
                Err(error) => {
                    self.note(CheckpointEvent::Failed);
                    tracing::error!("a checkpoint failed, the log goes on growing: {error}");
                    self.local.sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    fn note(&self, event: CheckpointEvent) {
        self.store.borrow_mut().note_checkpoint(event);
    }

    /// Takes one.
    async fn take(&self) -> Result<(), DiskError> {
        let before = self.manifest.read().await;
        // No number twice: a manifest that could not be synced may be there all the same, and name it.
        let last = before.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.number);
        let number = last.max(self.last_tried.get()) + 1;
        self.last_tried.set(number);
        let start = self.store.borrow().log_start();
        let directory = self.manifest.directory();
        let ready = directory.join(segment::checkpoint_name(number));
        let unready = ready.with_extension("new");
        let crc = match self.write(&before, number, &unready).await {
            Ok(crc) => crc,
            Err(error) => {
                // What is left of it only takes room, and the next try removes it as well.
                let _left = self.local.remove_file(&unready).await;
                return Err(error);
            }
        };
        self.log_has_it_all().await;
        self.local.rename(&unready, &ready).await.map_err(DiskError::of("rename", &unready))?;
        let synced = self.local.sync_directory(directory).await;
        synced.map_err(DiskError::of("sync", directory))?;
        let change = |manifest: &mut Manifest| {
            manifest.start = start;
            manifest.last_segment = manifest.last_segment.max(start.segment - 1);
            manifest.checkpoint = Some(Checkpoint { number, crc });
            manifest.older.clear();
        };
        self.manifest.change(&self.local, change).await?;
        self.store.borrow_mut().forget_log_before(start.segment);
        self.remove_before(number, start.segment).await;
        tracing::info!(number, "checkpoint taken");
        Ok(())
    }

    /// Writes all of it, and syncs. Its checksum.
    async fn write(&self, manifest: &Manifest, number: u64, path: &Path) -> Result<u32, DiskError> {
        remove(&self.local, path).await?;
        let file = self.local.open_file(path, OpenFile { create: true, direct: true }).await;
        let file = file.map_err(DiskError::of("create", path))?;
        let Manifest { directory, incarnation, shard, .. } = *manifest;
        let log = LogIdentity { directory, incarnation, shard };
        let written = self.write_all(file, (&log, number)).await;
        let synced = match written {
            Ok(crc) => self.local.sync_file(file).await.map(|()| crc),
            Err(error) => Err(error),
        };
        self.local.close_file(file);
        synced.map_err(DiskError::of("write", path))
    }

    async fn write_all(&self, file: FileId, what: (&LogIdentity, u64)) -> io::Result<u32> {
        let mut writer = Writer::new(What::Checkpoint);
        let written = self.write_frames(&mut writer, file, what).await;
        if written.is_err() {
            writer.abandon(&mut self.store.borrow_mut());
        }
        written.map(|()| writer.crc())
    }

    async fn write_frames(
        &self,
        writer: &mut Writer,
        file: FileId,
        what: (&LogIdentity, u64),
    ) -> io::Result<()> {
        let mut out: Vec<u8> = Vec::with_capacity(2 * WRITE_BYTES);
        let mut buffer = FileBuffer::default();
        let mut offset = 0;
        loop {
            let is_done = writer.step(&mut self.store.borrow_mut(), what, STEP_ENTRIES, &mut out);
            if is_done {
                out.resize(whole_blocks(out.len()), 0);
            }
            if out.len() < WRITE_BYTES && !is_done {
                next_turn().await;
                continue;
            }
            let whole = out.len() / BLOCK_BYTES * BLOCK_BYTES;
            for piece in out[..whole].chunks(WRITE_BYTES) {
                buffer.resize(piece.len());
                buffer.bytes_mut().copy_from_slice(piece);
                let (back, written) = self.local.write_file(file, offset, buffer).await;
                written?;
                (buffer, offset) = (back, offset + piece.len() as u64);
            }
            out.drain(..whole);
            out.shrink_to(2 * WRITE_BYTES);
            if is_done {
                return Ok(());
            }
        }
    }

    /// Waits until the log is not behind what the walk has seen.
    async fn log_has_it_all(&self) {
        const LOOK: Duration = Duration::from_millis(1);
        let (appended, _) = self.store.borrow().log_entries();
        while !self.store.borrow().log_has(appended) {
            self.local.sleep(LOOK).await;
        }
    }

    /// Removes what is needed no more. What cannot be removed now takes room until the next start.
    async fn remove_before(&self, number: u64, first_segment: u64) {
        let directory = self.manifest.directory();
        let Ok(entries) = self.local.list_directory(directory).await else { return };
        for entry in entries {
            let Some(name) = entry.name.to_str() else { continue };
            let is_old_segment = segment::segment_number(name).is_some_and(|it| it < first_segment);
            let is_old_checkpoint = segment::checkpoint_number(name).is_some_and(|it| it < number);
            if is_old_segment || is_old_checkpoint {
                let path: PathBuf = directory.join(name);
                if let Err(error) = self.local.remove_file(&path).await {
                    tracing::warn!("cannot remove {}: {error}", path.display());
                }
            }
        }
    }
}

/// Removes a file, if it is there.
async fn remove(local: &Local, path: &Path) -> Result<(), DiskError> {
    match local.remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DiskError::of("remove", path)(error))
        }
        _ => Ok(()),
    }
}
