//! One call under way: its end is told to the balancer, also when nobody waits for it any more.

use super::{Class, Classify, now};
use crate::balancer::{Balancer, Ticket};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use pin_project_lite::pin_project;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

/// A balancer that several threads tell of their calls.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Core>);

#[derive(Debug)]
pub(super) struct Core {
    pub(super) balancer: Balancer,
    pub(super) rng: Rng,
    /// Of whoever waits until a call may begin; the end of one may change that.
    pub(super) waiting: Option<Waker>,
    tick_at: Instant,
}

impl Shared {
    pub(super) fn new(balancer: Balancer) -> Arc<Self> {
        let rng = Rng::from_seed(RandomState::new().hash_one("balance"));
        Arc::new(Shared(Mutex::new(Core { balancer, rng, waiting: None, tick_at: Instant::ZERO })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Nothing else looks at the time: whoever calls does. Without calls there is nothing to be refreshed.
    pub(super) fn tick_if_due(&mut self, now: Instant) {
        if now >= self.tick_at {
            self.tick(now);
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.tick_at = self.balancer.tick(now, &mut self.rng);
    }
}

pin_project! {
    /// The future of a call whose end counts. Dropped before it ends, the call counts as abandoned.
    pub struct Tracked<F, C> {
        #[pin]
        call: F,
        guard: Guard<C>,
    }
}

impl<F, C> Tracked<F, C> {
    pub(super) fn new(
        call: F,
        shared: Arc<Shared>,
        ticket: Ticket,
        classify: C,
        patience: Duration,
    ) -> Self {
        Tracked { call, guard: Guard { shared, ticket: Some(ticket), classify, patience } }
    }
}

impl<F, C, Response, Error> Future for Tracked<F, C>
where
    F: Future<Output = Result<Response, Error>>,
    C: Classify<Response, Error>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.call.poll(context));
        let class = this.guard.classify.classify(result.as_ref());
        this.guard.end(class);
        Poll::Ready(result)
    }
}

impl<F, C> fmt::Debug for Tracked<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("ticket", &self.guard.ticket).finish_non_exhaustive()
    }
}

struct Guard<C> {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
    classify: C,
    patience: Duration,
}

impl<C> Guard<C> {
    fn end(&mut self, class: Class) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut core = self.shared.lock();
        let Core { balancer, rng, waiting, .. } = &mut *core;
        class.count(balancer.tally(ticket.slot()));
        balancer.end(ticket, &class.outcome(self.patience), now(), rng);
        let waiting = waiting.take();
        drop(core);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<C> Drop for Guard<C> {
    fn drop(&mut self) {
        self.end(Class::Unrelated);
    }
}
