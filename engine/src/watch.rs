//! Who looks after the shards: whether all of them run, and why one has ended before its time.
//!
//! A shard ends before its time when its driver breaks or when it panics outside of a handler (a panic
//! of a handler, a future or a closure from outside is contained, and costs its caller an answer). An
//! engine that has lost a shard is not served half-dead. What is routed to that shard has no home any
//! more, its own connections are gone, and nothing within the process can bring it back; a process
//! that ends is started again by whoever watches over it, one that limps is not. So the others answer
//! what waits for the lost shard, drain, and end, and whoever waits for the engine is told why.

use crate::shard_index::ShardIndex;
use std::any::Any;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A shard has ended before its time. The others drain, and end then.
#[derive(Clone, Debug)]
pub struct ShardFailure {
    /// Which shard.
    pub shard: ShardIndex,
    /// Why.
    pub cause: FailureCause,
}

/// Why a shard has ended before its time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FailureCause {
    /// It panicked, with this message: a bug of the engine, or of code that it calls and does not
    /// contain (a foreign waker, say).
    Panicked(String),
    /// Its driver broke: the kernel refused what it has to grant for anything to go on.
    Driver(Arc<io::Error>),
}

impl fmt::Display for ShardFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shard = self.shard.0;
        match &self.cause {
            FailureCause::Panicked(message) => write!(f, "shard {shard} panicked: {message}"),
            FailureCause::Driver(error) => write!(f, "the driver of shard {shard} broke: {error}"),
        }
    }
}

impl std::error::Error for ShardFailure {}

impl FailureCause {
    /// What a panic leaves behind.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        FailureCause::Panicked(text.unwrap_or_else(|| "with a value that is no text".to_owned()))
    }
}

/// Looks at the shards of one engine, from any thread and for as long as one likes. See
/// [`Server::watch`](crate::Server::watch).
#[derive(Clone, Debug)]
pub struct Watch(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    running: u16,
    has_ended: bool,
    failure: Option<ShardFailure>,
}

impl Watch {
    pub(crate) fn new(shards: u16) -> Self {
        let state = State { running: shards, has_ended: false, failure: None };
        Watch(Arc::new(Shards { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// True until the first shard has ended, in order or not.
    pub fn is_running(&self) -> bool {
        !self.lock().has_ended
    }

    /// The first shard that has ended before its time, if one has.
    pub fn failure(&self) -> Option<ShardFailure> {
        self.lock().failure.clone()
    }

    /// Waits until all shards have ended in order, or one of them before its time.
    ///
    /// # Errors
    /// The [`ShardFailure`], as soon as it has happened. The other shards drain by then, which
    /// [`Server::drain`](crate::Server::drain) and [`Server::join`](crate::Server::join) wait for.
    pub fn wait(&self) -> Result<(), ShardFailure> {
        let goes_on = |state: &mut State| state.failure.is_none() && state.running > 0;
        let waited = self.0.changed.wait_while(self.lock(), goes_on);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        state.failure.clone().map_or(Ok(()), Err)
    }

    /// A shard has ended, and why if before its time.
    pub(crate) fn ended(&self, shard: ShardIndex, cause: Option<FailureCause>) {
        let mut state = self.lock();
        state.has_ended = true;
        state.running -= 1;
        if let Some(cause) = cause {
            let failure = ShardFailure { shard, cause };
            tracing::error!("{failure}");
            state.failure.get_or_insert(failure);
        }
        drop(state);
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_told_at_once() {
        let watch = Watch::new(3);
        assert!(watch.is_running());
        let told = std::thread::spawn({
            let watch = watch.clone();
            move || watch.wait()
        });
        let broken = io::Error::from_raw_os_error(libc::EBADF);
        watch.ended(ShardIndex(2), Some(FailureCause::Driver(Arc::new(broken))));
        watch.ended(ShardIndex(0), Some(FailureCause::of_panic(&"later")));
        let failure = told.join().expect("it does not panic").expect_err("one has failed");
        assert!(failure.to_string().starts_with("the driver of shard 2 broke: Bad file"));
        assert!(!watch.is_running() && watch.failure().is_some());
    }

    #[test]
    fn an_end_in_order_is_the_end_of_all() {
        let watch = Watch::new(2);
        watch.ended(ShardIndex(1), None);
        assert!(!watch.is_running(), "not all of them any more");
        watch.ended(ShardIndex(0), None);
        watch.wait().expect("nothing has failed");
    }

    #[test]
    fn panics_are_told_in_their_own_words() {
        let failure = |panic: &(dyn Any + Send)| {
            ShardFailure { shard: ShardIndex(1), cause: FailureCause::of_panic(panic) }.to_string()
        };
        assert_eq!(failure(&"plain"), "shard 1 panicked: plain");
        assert_eq!(failure(&"formatted".to_owned()), "shard 1 panicked: formatted");
        assert_eq!(failure(&7), "shard 1 panicked: with a value that is no text");
    }
}
