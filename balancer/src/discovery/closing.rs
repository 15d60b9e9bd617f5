//! When a watch ends.

use catena_engine::time::Duration;
use std::sync::{Condvar, Mutex, PoisonError};

/// Tells a source that nobody needs to know what it finds any more. A source sleeps by it, and so wakes
/// when that happens.
#[derive(Debug, Default)]
pub struct Closing {
    is_closed: Mutex<bool>,
    woken: Condvar,
}

impl Closing {
    /// Sleeps for `duration`; less if nobody needs to know any more, which it returns.
    pub fn sleep(&self, duration: Duration) -> bool {
        let is_closed = self.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.woken.wait_timeout_while(is_closed, duration, |is_closed| !*is_closed);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// True when nobody needs to know any more.
    pub fn is_closed(&self) -> bool {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn close(&self) {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.woken.notify_all();
    }
}
