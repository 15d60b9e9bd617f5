//! While it runs: a shard's batches into its segments.
//!
//! The writer ([`crate::log::batch`]) says what is to be done; here it is done, on the driver's own file
//! operations. Two futures: one writes and syncs, the other makes segments ready ahead.

use super::DiskError;
use super::manifest_file::ManifestFile;
use crate::log::batch::Action;
use crate::log::segment::{self, Segment};
use crate::log::{LogIdentity, whole_blocks};
use crate::store::Store;
use catena_engine::Local;
use catena_engine::driver::{FileBuffer, FileId, OpenFile};
use catena_engine::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// How long a segment that could not be made ready waits for the next try. Long enough that a full disk is
/// not hammered, short enough that room is used as soon as somebody has made it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long after the last write a log is idle. It then writes what proves its last batch, so that damage
/// of that can be told from a write that was cut off. A block for each pause, and soon enough that hardly a
/// crash comes before it.
const IDLE_AFTER: Duration = Duration::from_millis(100);

/// Wakes one task that waits for it; the journal's says that there is something to write.
#[derive(Clone, Debug, Default)]
pub struct Bell(Rc<BellState>);

#[derive(Debug, Default)]
struct BellState {
    has_rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    /// There is something to write.
    #[inline]
    pub fn ring(&self) {
        if !self.0.has_rung.replace(true)
            && let Some(waker) = self.0.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Waits until it has rung since this was asked last.
    pub async fn rung(&self) {
        poll_fn(|context| {
            if self.0.has_rung.take() {
                return Poll::Ready(());
            }
            *self.0.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits for so long at most. False: it has not rung.
    async fn rung_within(&self, local: &Local, time: Duration) -> bool {
        let (mut rung, mut time_is_up) = (pin!(self.rung()), pin!(local.sleep(time)));
        poll_fn(|context| match rung.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => time_is_up.as_mut().poll(context).map(|()| false),
        })
        .await
    }
}

/// What the two futures share.
#[derive(Clone)]
struct Journal {
    local: Local,
    store: Rc<RefCell<Store>>,
    bell: Bell,
    log: LogIdentity,
    manifest: Rc<ManifestFile>,
    files: Rc<RefCell<BTreeMap<u64, FileId>>>,
    /// Time from the first record of a batch to its write; zero: at once.
    gathers_for: Duration,
}

/// Begins to write the log of a store. `gathers_for`: how long a batch waits for more.
pub fn begin(
    local: &Local,
    log: LogIdentity,
    manifest: Rc<ManifestFile>,
    store: Rc<RefCell<Store>>,
    bell: Bell,
    gathers_for: Duration,
) {
    let journal = Journal {
        local: local.clone(),
        store,
        bell,
        log,
        manifest,
        files: Rc::default(),
        gathers_for,
    };
    // The first segment is made ready before anybody writes.
    journal.bell.ring();
    local.spawn_vital(journal.run());
}

impl Journal {
    async fn run(self) {
        let mut entries_settled = 0;
        loop {
            let action = self.store.borrow_mut().log_action();
            match action {
                Some(Action::Prepare { number, bytes }) => {
                    self.local.spawn_vital(self.clone().prepare(number, bytes));
                }
                Some(Action::Write { segment, offset, buffer }) => {
                    let file = self.files.borrow()[&segment];
                    let (buffer, result) = self.local.write_file(file, offset, buffer).await;
                    self.store.borrow_mut().log_written(buffer, result);
                }
                Some(Action::Sync { segment }) => {
                    let file = self.files.borrow()[&segment];
                    let began_at = self.local.now();
                    let result = self.local.sync_file(file).await;
                    self.store.borrow_mut().note_sync(self.local.now().since(began_at));
                    self.store.borrow_mut().log_synced(result);
                    self.close_before(segment);
                }
                None => {
                    let (_, durable) = self.store.borrow().log_entries();
                    if durable == entries_settled {
                        self.bell.rung().await;
                    } else if !self.bell.rung_within(&self.local, IDLE_AFTER).await {
                        self.store.borrow_mut().settle();
                        entries_settled = durable;
                        continue;
                    }
                    if self.gathers_for > Duration::ZERO {
                        self.local.sleep(self.gathers_for).await;
                    }
                }
            }
        }
    }

    /// Makes a segment ready, however long it takes.
    async fn prepare(self, number: u64, bytes: u64) {
        let mut has_failed = false;
        loop {
            match self.make_ready(number, bytes).await {
                Ok(segment) => {
                    if has_failed {
                        tracing::info!(number, "the log goes on");
                        self.store.borrow_mut().set_log_hindrance(None);
                    }
                    self.store.borrow_mut().log_prepared(segment);
                    self.bell.ring();
                    return;
                }
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::error!(
                            number,
                            "the log's next segment cannot be made ready; writes will be refused when the \
                             one before is full: {error}"
                        );
                    }
                    self.store.borrow_mut().set_log_hindrance(Some(error.to_string()));
                    self.local.sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn make_ready(&self, number: u64, bytes: u64) -> Result<Segment, DiskError> {
        let bytes = whole_blocks(bytes as usize) as u64;
        let directory = self.manifest.directory();
        let unready = directory.join(segment::unready_name(number));
        let ready = directory.join(segment::segment_name(number));
        // Of a try that failed. One that is ready and too small stays until the larger one takes its name:
        // the manifest may say that it is there.
        match self.local.remove_file(&unready).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DiskError::of("remove", &unready)(error));
            }
            _ => {}
        }
        let created = self.local.create_zeroed(&unready, bytes).await;
        created.map_err(DiskError::of("create", &unready))?;
        let segment = Segment { log: self.log, number, bytes, seed: self.local.random() as u32 };
        let options = OpenFile { create: false, direct: true };
        let file = self.local.open_file(&unready, options).await;
        let file = file.map_err(DiskError::of("open", &unready))?;
        let mut header = FileBuffer::zeroed(segment::BATCHES_OFFSET as usize);
        segment.encode(header.bytes_mut());
        let (_, written) = self.local.write_file(file, 0, header).await;
        let synced = match written {
            Ok(_) => self.local.sync_file(file).await,
            Err(error) => Err(error),
        };
        if let Err(error) = synced {
            self.local.close_file(file);
            return Err(DiskError::of("write", &unready)(error));
        }
        if let Err(error) = self.publish(number, &unready, &ready).await {
            self.local.close_file(file);
            return Err(error);
        }
        let smaller = self.files.borrow_mut().insert(number, file);
        smaller.into_iter().for_each(|smaller| self.local.close_file(smaller));
        Ok(segment)
    }

    /// Gives a segment its name, and says in the manifest that it may be written to.
    async fn publish(&self, number: u64, unready: &Path, ready: &Path) -> Result<(), DiskError> {
        let directory = self.manifest.directory();
        self.local.rename(unready, ready).await.map_err(DiskError::of("rename", unready))?;
        let synced = self.local.sync_directory(directory).await;
        synced.map_err(DiskError::of("sync", directory))?;
        self.manifest.change(&self.local, |manifest| manifest.last_segment = number).await
    }

    /// Closes the segments that nothing is written to any more.
    fn close_before(&self, segment: u64) {
        let mut files = self.files.borrow_mut();
        while let Some(oldest) = files.first_entry()
            && *oldest.key() < segment
        {
            self.local.close_file(oldest.remove());
        }
    }
}
