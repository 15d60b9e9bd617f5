//! One sending of a call, and the copy that is sent when it is slow.

use super::tend::reach;
use super::{BalancedRequest, Shared, State};
use crate::balancer::Ticket;
use crate::endpoint::{Outcome, ServerLoad, Slot};
use catena_engine::client::{Answer, Call, CallBuilder, CallError};
use catena_engine::time::{Duration, Instant};
use futures_util::future::{Either, select};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// How often a call that is slow looks whether its endpoint was given up, or the budget has a hedge for
/// it now: as often as the balancer learns something.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Endpoints to which a call need not go again. Of more than these the first are forgotten.
const TRIED_MAX: usize = 8;

/// Where a call has been.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried {
    slots: [Slot; TRIED_MAX],
    count: usize,
}

impl Tried {
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots[..self.count.min(TRIED_MAX)]
    }

    /// True if the next one is not forgotten for another.
    pub(super) fn has_room(&self) -> bool {
        self.count < TRIED_MAX
    }

    pub(super) fn push(&mut self, slot: Slot) {
        self.slots[self.count % TRIED_MAX] = slot;
        self.count += 1;
    }
}

/// Why there is no answer to one sending, its copy included.
pub(super) struct Failure {
    /// What ended it.
    pub(super) error: CallError,
    /// Neither it nor its copy was executed.
    pub(super) is_not_executed: bool,
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let is_not_executed = error.is_not_executed();
        Failure { error, is_not_executed }
    }
}

impl Shared {
    /// Sends the request to the endpoint of the balancer's choice.
    pub(super) fn attempt(
        self: &Rc<Self>,
        request: &BalancedRequest,
        avoid: &[Slot],
    ) -> Option<Attempt> {
        let now = self.local.now();
        let mut state = self.state.borrow_mut();
        let State { balancer, rng, clients, .. } = &mut *state;
        let ticket = balancer.start_connected(avoid, now, rng, |slot| reach(clients, slot))?;
        let slot = ticket.slot();
        tracing::trace!(why = %balancer.explain(&ticket), "picked");
        let client = clients[slot as usize].as_ref().expect("an endpoint has a client");
        let mut builder: CallBuilder = client
            .call(request.method, request.payload.clone())
            .priority(request.priority)
            .route(request.route);
        if let Some(deadline) = request.deadline {
            builder = builder.deadline(deadline);
        }
        if let Some(metadata) = &request.metadata {
            builder = builder.metadata(metadata.clone());
        }
        drop(state);
        self.probe_wanted();
        let call = builder.into_future();
        Some(Attempt {
            shared: self.clone(),
            slot,
            ticket: Some(ticket),
            deadline: request.deadline,
            call,
        })
    }

    /// The attempt's answer, or that of a copy that is sent when the attempt is slow.
    pub(super) async fn with_hedge(
        self: &Rc<Self>,
        mut attempt: Attempt,
        request: &BalancedRequest,
        tried: &mut Tried,
    ) -> Result<Answer, Failure> {
        if !request.is_idempotent {
            return Ok(attempt.await?);
        }
        let mut is_counted = false;
        loop {
            let wait = attempt.hedge_wait();
            let is_due = wait.is_zero();
            let can_go = is_due && self.state.borrow_mut().balancer.can_start(tried.slots());
            if can_go && self.state.borrow_mut().balancer.take_hedge(self.local.now()) {
                break;
            }
            if can_go && !std::mem::replace(&mut is_counted, true) {
                self.tally(attempt.slot, |tally| tally.hedges_refused += 1);
            }
            // Refused now is not refused for ever: the budget grows with the calls that are answered.
            let wait = if is_due { LOOK_INTERVAL } else { wait };
            if let Either::Left((result, _)) = select(&mut attempt, self.local.sleep(wait)).await {
                return Ok(result?);
            }
        }
        let Some(copy) = self.attempt(request, tried.slots()) else { return Ok(attempt.await?) };
        tried.push(copy.slot);
        self.first_of(attempt, copy).await
    }

    /// The first answer of two; the other sending is dropped, and so cancelled.
    async fn first_of(&self, attempt: Attempt, copy: Attempt) -> Result<Answer, Failure> {
        let slot = copy.slot;
        self.tally(slot, |tally| tally.hedges += 1);
        let (first_error, last, is_copys) = match select(attempt, copy).await {
            Either::Left((Ok(answer), _)) => return Ok(answer),
            Either::Right((Ok(answer), _)) => {
                self.tally(slot, |tally| tally.hedges_won += 1);
                return Ok(answer);
            }
            Either::Left((Err(error), copy)) => (error, copy.await, true),
            Either::Right((Err(error), attempt)) => (error, attempt.await, false),
        };
        let won = u64::from(is_copys && last.is_ok());
        self.tally(slot, |tally| tally.hedges_won += won);
        last.map_err(|error| {
            let is_not_executed = first_error.is_not_executed() && error.is_not_executed();
            Failure { error, is_not_executed }
        })
    }
}

/// One sending of a call. Its end is told to the balancer, also when nobody waits for it any more.
pub(super) struct Attempt {
    shared: Rc<Shared>,
    pub(super) slot: Slot,
    ticket: Option<Ticket>,
    deadline: Option<Instant>,
    call: Call,
}

impl Attempt {
    /// How long to wait before looking whether a copy should be sent; zero: now.
    fn hedge_wait(&self) -> Duration {
        let state = self.shared.state.borrow();
        let ticket = self.ticket.as_ref().expect("it is under way");
        if state.balancer.is_given_up(ticket) {
            return Duration::ZERO;
        }
        let age = self.shared.local.now().since(ticket.started());
        let delay = state.balancer.hedge_delay(ticket);
        delay.map_or(LOOK_INTERVAL, |delay| delay.saturating_sub(age).min(LOOK_INTERVAL))
    }

    fn end(&mut self, outcome: &Outcome) {
        let Some(ticket) = self.ticket.take() else { return };
        let now = self.shared.local.now();
        let mut state = self.shared.state.borrow_mut();
        let State { balancer, rng, .. } = &mut *state;
        balancer.end(ticket, outcome, now, rng);
    }

    fn outcome_of(&self, result: &Result<Answer, CallError>) -> Outcome {
        let ticket = self.ticket.as_ref().expect("it has not ended");
        let patience = self
            .deadline
            .map_or(self.shared.config.timeout, |deadline| deadline.since(ticket.started()));
        match result {
            Ok(answer) => Outcome::Answered(ServerLoad::of(&answer.head)),
            Err(CallError::Status { status, .. }) => Outcome::of_status(*status, None, patience),
            Err(CallError::DeadlinePassed) => Outcome::TimedOut,
            // These speak of this side.
            Err(CallError::ExpiredUnsent | CallError::TooLarge { .. }) => Outcome::Abandoned,
            Err(_) => Outcome::Failed { timeout: patience },
        }
    }
}

impl Future for Attempt {
    type Output = Result<Answer, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(result) = Pin::new(&mut self.call).poll(context) else {
            return Poll::Pending;
        };
        let outcome = self.outcome_of(&result);
        if let Err(error) = &result {
            self.shared.tally(self.slot, |tally| tally.count_error(error));
        }
        self.end(&outcome);
        Poll::Ready(result)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.end(&Outcome::Abandoned);
    }
}
