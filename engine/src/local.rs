//! One shard as seen from what runs on it: handlers, futures, clients.
//!
//! A [`Local`] is a cheap handle, `!Send`, valid for the life of its shard. What it is asked for is
//! noted down and done by the shard within the same turn: code that runs on a shard never calls into
//! the middle of the shard that is running it.

mod files;

use crate::application::Message;
use crate::client::{CallKey, CallState, ClientKey, ClientState};
use crate::driver::{FileBuffer, FileId, FileTask, Parker, SocketId};
use crate::relay::End;
use crate::rng::Rng;
use crate::shard_index::ShardIndex;
use crate::time::{Duration, Instant};
use crate::timers::{TimerId, Timers};
use crate::wire::frame::{CallId, ResponseHead};
use crate::wire::framer::Payload;
use crate::wire::status::Status;
use async_task::{Builder, Runnable, Task};
use crossbeam_queue::SegQueue;
use files::FileOps;
pub(crate) use files::{FileOpDone, FileOpKey};
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

new_key_type! {
    /// A request that is answered later.
    pub(crate) struct DeferredKey;
    /// A future that sleeps.
    pub(crate) struct SleepKey;
    /// A future that runs on the shard.
    struct TaskKey;
}

impl DeferredKey {
    pub(crate) fn to_token(self) -> u64 {
        self.data().as_ffi()
    }

    pub(crate) fn from_token(token: u64) -> Self {
        KeyData::from_ffi(token).into()
    }
}

/// The shard that the caller runs on.
#[derive(Clone)]
pub struct Local(Rc<State>);

pub(crate) struct State {
    pub(crate) shard: ShardIndex,
    pub(crate) shard_count: u16,
    pub(crate) shard_ports: RefCell<Vec<u16>>,
    pub(crate) now: Cell<Instant>,
    /// The deadline of the request on whose behalf code runs right now; calls inherit it.
    deadline: Cell<Option<Instant>>,
    pub(crate) commands: RefCell<VecDeque<Command>>,
    pub(crate) deferred: RefCell<SlotMap<DeferredKey, Deferred>>,
    pub(crate) clients: RefCell<SlotMap<ClientKey, ClientState>>,
    pub(crate) calls: RefCell<SlotMap<CallKey, CallState>>,
    pub(crate) timers: RefCell<Timers<TimerKey>>,
    sleeps: RefCell<SlotMap<SleepKey, Sleeper>>,
    /// Every future that runs on this shard, by what wakes it.
    tasks: RefCell<SlotMap<TaskKey, Waker>>,
    file_ops: FileOps,
    pub(crate) runnables: Arc<RunQueue>,
    pub(crate) rng: RefCell<Rng>,
}

/// What a timer of the shard is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TimerKey {
    /// A connection's next timeout.
    Peer(SocketId),
    /// The end of a stream's time to read its last word.
    Stream(SocketId),
    /// A future that sleeps.
    Sleep(SleepKey),
    /// A call that waits for its connection or for room in the window.
    Call(CallKey),
    /// A client that waits before it connects again.
    Client(ClientKey),
    /// The end of a client's probe.
    Probe(ClientKey),
    /// The end of a time in which not everything was logged.
    Complaints,
}

/// Where a request came from, and its answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A connection of this shard.
    Peer { socket: SocketId, call: CallId },
    /// Another shard, under that shard's own key.
    Shard { shard: ShardIndex, key: u64 },
}

/// A request that is answered later.
#[derive(Debug)]
pub(crate) struct Deferred {
    pub(crate) origin: Origin,
    pub(crate) head: ResponseHead,
    pub(crate) started: Instant,
    pub(crate) payload_bytes: usize,
    /// The shard that works on it, when it was handed over.
    pub(crate) handed_to: Option<ShardIndex>,
    /// The future that works on it; dropped with the entry.
    task: Option<Task<()>>,
    waker: Option<Waker>,
}

/// What the shard is asked to do, in order, before the turn ends.
#[derive(Debug)]
pub(crate) enum Command {
    Answer { key: DeferredKey, status: Status, payload: Payload<'static> },
    StartCall(CallKey),
    CancelCall { socket: SocketId, call: CallId },
    Connect(ClientKey),
    Probe(ClientKey),
    CloseClient(ClientKey),
    Send { to: ShardIndex, message: Message },
    RelayEnded { token: u64, end: End },
    FileTask { op: FileOpKey, task: FileTask },
    CloseFile(FileId),
    Read { op: FileOpKey, file: FileId, offset: u64, buffer: FileBuffer },
    Write { op: FileOpKey, file: FileId, offset: u64, buffer: FileBuffer },
    Sync { op: FileOpKey, file: FileId },
}

struct Sleeper {
    timer: TimerId,
    waker: Option<Waker>,
}

/// Futures that want to be polled. Any thread may add one; only the shard takes.
#[derive(Default)]
pub(crate) struct RunQueue {
    queue: SegQueue<Runnable>,
    parker: OnceLock<Arc<Parker>>,
}

impl RunQueue {
    fn push(&self, runnable: Runnable) {
        self.queue.push(runnable);
        if let Some(parker) = self.parker.get() {
            parker.unpark();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// What code on a shard may do.
impl Local {
    /// The instant of this turn. Cheap: it was stamped once, after the turn's input was in.
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// Which shard this is.
    pub fn shard(&self) -> ShardIndex {
        self.0.shard
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> u16 {
        self.0.shard_count
    }

    /// The port of each shard's own, by index, on which requests reach it; empty: there are none.
    pub fn shard_ports(&self) -> Vec<u16> {
        self.0.shard_ports.borrow().clone()
    }

    /// The deadline of the request on whose behalf the caller runs; calls made now inherit it.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get()
    }

    /// Random bits from the shard's own generator; under simulation part of the seed.
    pub fn random(&self) -> u64 {
        self.0.rng.borrow_mut().next_u64()
    }

    /// Runs a future on this shard. Dropping the task cancels it; `detach()` lets it run on. It
    /// inherits the deadline of the request on whose behalf it is spawned.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.spawn_with(true, future)
    }

    /// Runs a future that the shard cannot do without: if it panics, the shard has failed, where a
    /// [spawned](Local::spawn) one's panic is for whoever awaits it, and nobody's once it is detached.
    pub fn spawn_vital(&self, future: impl Future<Output = ()> + 'static) {
        self.spawn_with(false, future).detach();
    }

    fn spawn_with<T: 'static>(
        &self,
        is_contained: bool,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        let runnables = self.0.runnables.clone();
        let future = OnShard {
            local: self.clone(),
            deadline: self.deadline(),
            task: None,
            future: Box::pin(future),
        };
        let (runnable, task) = Builder::new()
            .propagate_panic(is_contained)
            .spawn_local(move |()| future, move |runnable| runnables.push(runnable));
        runnable.schedule();
        task
    }

    /// Sends a message to the application of a shard of this process, this one included. They arrive in the
    /// order in which they were sent; a shard that has ended gets nothing.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn send(&self, to: ShardIndex, message: Message) {
        assert!(to.0 < self.shard_count(), "{to:?} of {} shards", self.shard_count());
        self.push(Command::Send { to, message });
    }

    /// Sleeps for `duration` of the shard's clock.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Sleeps until `at` on the shard's clock.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep { local: self.clone(), at, key: None }
    }
}

/// What the engine does with it.
impl Local {
    pub(crate) fn new(shard: ShardIndex, shard_count: u16, rng: Rng, now: Instant) -> Self {
        Local(Rc::new(State {
            shard,
            shard_count,
            shard_ports: RefCell::default(),
            now: Cell::new(now),
            deadline: Cell::new(None),
            commands: RefCell::default(),
            deferred: RefCell::default(),
            clients: RefCell::default(),
            calls: RefCell::default(),
            timers: RefCell::new(Timers::with_capacity(0)),
            sleeps: RefCell::default(),
            tasks: RefCell::default(),
            file_ops: FileOps::default(),
            runnables: Arc::default(),
            rng: RefCell::new(rng),
        }))
    }

    pub(crate) fn state(&self) -> &State {
        &self.0
    }

    /// Futures woken from now on end the sleep of this parker's shard.
    pub(crate) fn set_parker(&self, parker: Arc<Parker>) {
        // A shard that is restarted on another driver is a new shard with a new `Local`.
        self.0.runnables.parker.set(parker).expect("a shard has one driver");
    }

    pub(crate) fn push(&self, command: Command) {
        self.0.commands.borrow_mut().push_back(command);
    }

    /// Runs the futures that were ready when it began, so that two that wake each other do not keep
    /// the shard from its sockets. True if more are ready.
    pub(crate) fn run_futures(&self) -> bool {
        let runnables = &self.0.runnables;
        for _ in 0..runnables.queue.len() {
            let Some(runnable) = runnables.queue.pop() else { break };
            runnable.run();
        }
        !runnables.is_empty()
    }

    /// The shard ends: drops every future that runs on it, and with them what they hold. Without
    /// this, a future that waits for another thread would keep itself and its shard alive for ever,
    /// and whoever waits for its result waiting.
    pub(crate) fn end(&self) {
        let wakers: Vec<Waker> = self.0.tasks.borrow().values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
        loop {
            match self.0.runnables.queue.pop() {
                Some(runnable) => drop(runnable),
                None if self.0.tasks.borrow().is_empty() => break,
                // Another thread has woken a future and is about to queue it. It can only be dropped
                // here, for it is not `Send`.
                None => std::thread::yield_now(),
            }
        }
        let deferred: Vec<_> = self.0.deferred.borrow_mut().drain().collect();
        drop(deferred);
    }

    /// Runs `code` on behalf of a request with this deadline.
    #[inline]
    pub(crate) fn on_behalf<R>(&self, deadline: Option<Instant>, code: impl FnOnce() -> R) -> R {
        let _restore = Restore { cell: &self.0.deadline, outer: self.0.deadline.replace(deadline) };
        code()
    }

    pub(crate) fn defer(
        &self,
        origin: Origin,
        head: &ResponseHead,
        started: Instant,
        payload_bytes: usize,
    ) -> DeferredKey {
        self.0.deferred.borrow_mut().insert(Deferred {
            origin,
            head: *head,
            started,
            payload_bytes,
            handed_to: None,
            task: None,
            waker: None,
        })
    }

    /// The deferred request that came from `origin`. Looks at all of them: for rare occasions.
    pub(crate) fn find_deferred(&self, origin: Origin) -> Option<DeferredKey> {
        let deferred = self.0.deferred.borrow();
        deferred.iter().find(|(_, deferred)| deferred.origin == origin).map(|(key, _)| key)
    }

    /// Requests that were handed over to `shard` and have no answer. Looks at all of them, likewise.
    pub(crate) fn handed_over_to(&self, shard: ShardIndex) -> Vec<DeferredKey> {
        let deferred = self.0.deferred.borrow();
        let there = deferred.iter().filter(|(_, deferred)| deferred.handed_to == Some(shard));
        there.map(|(key, _)| key).collect()
    }

    /// Lets `task` work on a deferred request: who drops the request drops the task.
    pub(crate) fn attach(&self, key: DeferredKey, task: Task<()>) {
        match self.0.deferred.borrow_mut().get_mut(key) {
            Some(deferred) => deferred.task = Some(task),
            None => task.detach(),
        }
    }

    pub(crate) fn answer(&self, key: DeferredKey, status: Status, payload: Payload<'static>) {
        self.push(Command::Answer { key, status, payload });
    }

    pub(crate) fn is_deferred(&self, key: DeferredKey) -> bool {
        self.0.deferred.borrow().contains_key(key)
    }

    pub(crate) fn poll_dropped(&self, key: DeferredKey, context: &mut Context<'_>) -> Poll<()> {
        match self.0.deferred.borrow_mut().get_mut(key) {
            None => Poll::Ready(()),
            Some(deferred) => {
                deferred.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ends a deferred request: its task is dropped, whoever watches it is woken.
    pub(crate) fn take_deferred(&self, key: DeferredKey) -> Option<Deferred> {
        let mut deferred = self.0.deferred.borrow_mut().remove(key)?;
        if let Some(waker) = deferred.waker.take() {
            waker.wake();
        }
        Some(deferred)
    }

    /// A sleeping future's time has come.
    pub(crate) fn wake_sleeper(&self, key: SleepKey) {
        let sleeper = self.0.sleeps.borrow_mut().remove(key);
        if let Some(waker) = sleeper.and_then(|sleeper| sleeper.waker) {
            waker.wake();
        }
    }
}

impl Deferred {
    /// The header of its answer, given now.
    pub(crate) fn answer_head(&self, status: Status, in_flight: u32, now: Instant) -> ResponseHead {
        ResponseHead { status, service_us: now.micros_since(self.started), in_flight, ..self.head }
    }

    /// Cancels the future that works on it, if there is one.
    pub(crate) fn drop_task(&mut self) {
        drop(self.task.take());
    }

    /// Lets the future that works on it end by itself: it has just answered.
    pub(crate) fn release_task(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

/// Puts the deadline of what ran before back, also when `code` has panicked: whatever runs next would
/// inherit that of a request that is over.
struct Restore<'a> {
    cell: &'a Cell<Option<Instant>>,
    outer: Option<Instant>,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.cell.set(self.outer);
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Local(shard {})", self.0.shard.0)
    }
}

/// A future on its shard: runs with its inherited deadline, and is dropped when the shard ends,
/// whoever holds what would wake it.
struct OnShard<F: ?Sized> {
    local: Local,
    deadline: Option<Instant>,
    task: Option<TaskKey>,
    future: Pin<Box<F>>,
}

impl<F: Future + ?Sized> Future for OnShard<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let OnShard { local, deadline, task, future } = &mut *self;
        if task.is_none() {
            *task = Some(local.0.tasks.borrow_mut().insert(context.waker().clone()));
        }
        local.on_behalf(*deadline, || future.as_mut().poll(context))
    }
}

impl<F: ?Sized> Drop for OnShard<F> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.local.0.tasks.borrow_mut().remove(task);
        }
    }
}

/// Ends at an instant. See [`Local::sleep`].
#[derive(Debug)]
pub struct Sleep {
    local: Local,
    at: Instant,
    key: Option<SleepKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.local.now() >= self.at {
            return Poll::Ready(());
        }
        let state = self.local.state();
        let mut sleeps = state.sleeps.borrow_mut();
        match self.key.and_then(|key| sleeps.get_mut(key)) {
            Some(sleeper) => sleeper.waker = Some(context.waker().clone()),
            None => {
                let waker = Some(context.waker().clone());
                let key = sleeps.insert_with_key(|key| Sleeper {
                    timer: state.timers.borrow_mut().insert(self.at, TimerKey::Sleep(key)),
                    waker,
                });
                drop(sleeps);
                self.key = Some(key);
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let state = self.local.state();
        let sleeper = self.key.and_then(|key| state.sleeps.borrow_mut().remove(key));
        if let Some(sleeper) = sleeper {
            state.timers.borrow_mut().cancel(sleeper.timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_shard_outlives_its_end() {
        let local = Local::new(ShardIndex(0), 1, Rng::from_seed(1), Instant::ZERO);
        let state = Rc::downgrade(&local.0);
        local.spawn(std::future::pending::<()>()).detach();
        let sleeping = local.clone();
        local.spawn(async move { sleeping.sleep(Duration::from_secs(1)).await }).detach();
        local.run_futures();
        local.spawn(std::future::pending::<()>()).detach();
        local.end();
        drop(local);
        assert_eq!(state.strong_count(), 0, "a shard that restarts would leak each time");
    }
}
