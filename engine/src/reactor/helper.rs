//! A thread that does for a shard what would block it: jobs in, outcomes out, one after the other.
//!
//! The queues keep their memory: in steady state nothing is allocated.

use rustix::process::{getpid, setpriority_process};
use rustix::thread::{sched_getaffinity, sched_setaffinity};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// The shard's end. When it is dropped, the job under way is finished and the thread is gone; what was
/// not begun is dropped, as nothing was promised of it.
pub(super) struct Helper<J, D> {
    shared: Arc<Shared<J, D>>,
    thread: Option<JoinHandle<()>>,
}

/// What shard and helper both see.
struct Shared<J, D> {
    queue: Mutex<Queue<J>>,
    queue_changed: Condvar,
    done: Mutex<VecDeque<D>>,
    /// `done` is not empty; to be looked at without the lock.
    has_done: AtomicBool,
    ending: Ending,
}

struct Queue<J> {
    jobs: VecDeque<J>,
    stop: bool,
}

/// Tells a long job that its shard has ended.
#[derive(Default)]
pub(super) struct Ending(AtomicBool);

impl Ending {
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The niceness of a thread that does what may wait a little: where there is no spare core, it gets a quarter
/// of one beside a shard, and a shard that wakes goes first. With less a log could wait for its next
/// segment.
const NICENESS: i32 = 5;

/// What of the processor a helper gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// As much as a shard: requests wait for it.
    Equal,
    /// Less than a shard: nobody waits for it yet.
    Less,
}

const NO_PANIC: &str = "neither side panics while it holds the lock";

impl<J: Send + 'static, D: Send + 'static> Helper<J, D> {
    /// Starts the thread, on any core that the process may use. It calls `wake` after each job, when its
    /// outcome can be had.
    ///
    /// # Errors
    /// If there are too many threads.
    pub fn start(
        name: &str,
        share: Share,
        perform: impl Fn(J, &Ending) -> D + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { jobs: VecDeque::new(), stop: false }),
            queue_changed: Condvar::new(),
            done: Mutex::default(),
            has_done: AtomicBool::new(false),
            ending: Ending::default(),
        });
        let its = shared.clone();
        let work = move || {
            leave_the_shards_core();
            if share == Share::Less {
                // Without it the thread is just a little in the way.
                let _niceness = setpriority_process(None, NICENESS);
            }
            while let Some(job) = its.next_job() {
                let done = perform(job, &its.ending);
                its.done.lock().expect(NO_PANIC).push_back(done);
                its.has_done.store(true, Ordering::Release);
                wake();
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(work)?;
        Ok(Helper { shared, thread: Some(thread) })
    }
}

/// A thread begins on the core of the one that starts it, which is the shard's: the process may use others.
fn leave_the_shards_core() {
    // The first thread is no shard's, and has what the process was given.
    if let Ok(all) = sched_getaffinity(Some(getpid())) {
        // On the shard's core it works as well, beside the shard.
        let _moved = sched_setaffinity(None, &all);
    }
}

impl<J, D> Helper<J, D> {
    /// Adds a job behind the others.
    pub fn submit(&self, job: J) {
        self.shared.queue().jobs.push_back(job);
        self.shared.queue_changed.notify_one();
    }

    /// True if [`Helper::take_done`] has something. Reads one shared word.
    pub fn has_done(&self) -> bool {
        self.shared.has_done.load(Ordering::Acquire)
    }

    /// Swaps `into`, which is empty, for what was done since the last time.
    pub fn take_done(&self, into: &mut VecDeque<D>) {
        debug_assert!(into.is_empty(), "outcomes are told in order");
        let mut done = self.shared.done.lock().expect(NO_PANIC);
        self.shared.has_done.store(false, Ordering::Relaxed);
        std::mem::swap(into, &mut *done);
    }
}

impl<J, D> Drop for Helper<J, D> {
    fn drop(&mut self) {
        self.shared.ending.0.store(true, Ordering::Relaxed);
        let mut queue = self.shared.queue();
        queue.stop = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.queue_changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A helper that panicked has already said so on stderr.
            let _ = thread.join();
        }
    }
}

impl<J, D> Shared<J, D> {
    fn queue(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().expect(NO_PANIC)
    }

    /// Waits for a job. `None`: the shard has ended.
    fn next_job(&self) -> Option<J> {
        let waiting = |queue: &mut Queue<J>| queue.jobs.is_empty() && !queue.stop;
        let mut queue = self.queue_changed.wait_while(self.queue(), waiting).expect(NO_PANIC);
        queue.jobs.pop_front()
    }
}
