//! What comes to a shard from other shards and from other threads.

use crate::application::Message;
use crate::driver::Parker;
use crate::limits::HANDLE_MESSAGES_MAX;
use crate::local::Local;
use crate::shard_index::ShardIndex;
use crate::time::Instant;
use crate::wire::frame::{RequestHead, ResponseHead};
use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// From shard to shard.
#[derive(Debug)]
pub enum ShardMessage {
    /// A request that arrived elsewhere and belongs here.
    Request(HandedOver),
    /// The answer to a request that was handed over.
    Response {
        /// The sender's key for it.
        key: u64,
        /// Status and load.
        head: ResponseHead,
        /// The answer.
        payload: Bytes,
    },
    /// Nobody waits for a request any more that was handed over.
    Drop {
        /// Who handed it over.
        from: ShardIndex,
        /// That shard's key for it.
        key: u64,
    },
    /// From the application of one shard to that of another.
    Application {
        /// Who sends it.
        from: ShardIndex,
        /// What only the application knows.
        message: Message,
    },
    /// The sender will hand over nothing more, and waits for nothing that it has handed over.
    Done {
        /// Who says so.
        from: ShardIndex,
    },
}

/// A request on its way to the shard that owns its route.
#[derive(Debug)]
pub struct HandedOver {
    /// Who hands it over.
    pub from: ShardIndex,
    /// That shard's key for it.
    pub key: u64,
    /// Its header.
    pub head: RequestHead,
    /// When it arrived there.
    pub arrived: Instant,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
    /// Its payload.
    pub payload: Bytes,
    /// Its metadata records.
    pub metadata: Bytes,
}

/// From any thread to a shard.
pub enum Control {
    /// Run this on the shard.
    Run(Box<dyn FnOnce(&Local) + Send>),
    /// Serve nobody new, finish what runs, then stop.
    Drain,
    /// Stop now.
    Stop,
    /// That shard has ended before its time, and answers nothing any more: drain.
    Lost(ShardIndex),
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Control::Run(_) => "Run",
            Control::Drain => "Drain",
            Control::Stop => "Stop",
            Control::Lost(_) => "Lost",
        })
    }
}

/// Why something was not put into an [`Inbox`].
#[derive(Debug)]
pub enum Undelivered {
    /// Too much waits already; here it is back.
    Full(Control),
    /// The shard has ended.
    Closed,
}

/// A shard's letter box for other threads: bounded, any number of senders.
#[derive(Debug)]
pub struct Inbox {
    queue: ArrayQueue<Control>,
    is_closed: AtomicBool,
    parker: OnceLock<Arc<Parker>>,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox {
            queue: ArrayQueue::new(HANDLE_MESSAGES_MAX),
            is_closed: AtomicBool::new(false),
            parker: OnceLock::new(),
        }
    }
}

impl Inbox {
    /// Puts something in and wakes the shard if it sleeps.
    ///
    /// # Errors
    /// Gives it back when [`HANDLE_MESSAGES_MAX`] messages wait already, or the shard has ended.
    pub fn push(&self, control: Control) -> Result<(), Undelivered> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(Undelivered::Closed);
        }
        self.queue.push(control).map_err(Undelivered::Full)?;
        // The shard may have ended in between, after it had emptied the box.
        if self.is_closed.load(Ordering::SeqCst) {
            self.empty();
        }
        if let Some(parker) = self.parker.get() {
            parker.unpark();
        }
        Ok(())
    }

    /// The shard has ended: what waits is dropped, and so is what comes.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.empty();
    }

    fn empty(&self) {
        while self.queue.pop().is_some() {}
    }

    pub(crate) fn pop(&self) -> Option<Control> {
        self.queue.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn set_parker(&self, parker: Arc<Parker>) {
        self.parker.set(parker).expect("an inbox belongs to one shard");
    }
}
