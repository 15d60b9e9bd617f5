//! One client over many servers, on one shard.
//!
//! ```text
//! call ─► Balancer::start ─► Client of that endpoint ─► answer ─► Balancer::end
//!              ▲      │ slow: the same to another, if idempotent     │
//!              │      └─ hedge ──► first answer wins, the other is cancelled
//!              └── not executed (or idempotent): another endpoint, out of the budget
//! ```
//!
//! A [`Balanced`] lives on its shard, as the engine's [`Client`] does. Those of several shards share what
//! they know of endpoints through one [`SharedEvidence`].

use crate::balancer::{Balancer, BalancerConfig, Event, Member, Ticket};
use crate::config::believe;
use crate::discovery::Endpoints;
use crate::endpoint::{Outcome, ServerLoad, Slot};
use crate::evidence::SharedEvidence;
use crate::health::Change;
use crate::metrics::Tally;
use crate::policy::Policy;
use catena_engine::client::{Answer, Call, CallBuilder, CallError, Client, ClientConfig};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant, earliest};
use catena_engine::wire::framer::Payload;
use catena_engine::wire::metadata::MetadataBuf;
use catena_engine::{Local, MethodId, Priority, Route, Status};
use futures_util::future::{Either, select};
use std::cell::{Ref, RefCell};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

/// How a balanced client behaves.
#[derive(Clone, Debug)]
pub struct BalancedConfig {
    /// Ejection, budget, hedges.
    pub balancer: BalancerConfig,
    /// Each endpoint's connection. Whatever [`ClientConfig::waits_for_connection`] says, nobody waits:
    /// there are other endpoints.
    pub client: ClientConfig,
    /// How often a call is sent at most, hedges not counted. Default 3.
    pub attempts_max: u32,
    /// A call without a deadline gets this one. A failure costs an endpoint no less than the caller's
    /// patience, so there has to be one. Default 5 s.
    pub timeout: Duration,
}

impl Default for BalancedConfig {
    fn default() -> Self {
        BalancedConfig {
            balancer: BalancerConfig::default(),
            client: ClientConfig::default(),
            attempts_max: 3,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Many servers, to be called as one. Clones are the same client; the last one closes it.
#[derive(Clone)]
pub struct Balanced(Rc<Shared>);

struct Shared {
    local: Local,
    config: BalancedConfig,
    state: RefCell<State>,
}

struct State {
    balancer: Balancer,
    rng: Rng,
    endpoints: Endpoints,
    version: u64,
    /// By slot.
    clients: Vec<Option<Client>>,
}

impl Balanced {
    /// A client of `endpoints` on this shard, which is core number `core` of those that share
    /// `evidence`.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which [`BalancedConfig::validate`] tells beforehand.
    pub fn new(
        local: &Local,
        config: BalancedConfig,
        policy: Box<dyn Policy>,
        endpoints: Endpoints,
        evidence: Arc<SharedEvidence>,
    ) -> Balanced {
        believe("a balanced client", config.validate());
        let core = usize::from(local.shard().0);
        let client = ClientConfig { waits_for_connection: false, ..config.client };
        let config = BalancedConfig { client, ..config };
        let balancer = Balancer::new(config.balancer, policy, evidence, core, local.now());
        let rng = Rng::from_seed(local.random());
        let state = State { balancer, rng, endpoints, version: 0, clients: Vec::new() };
        let shared = Rc::new(Shared { local: local.clone(), config, state: RefCell::new(state) });
        shared.follow_members();
        local.spawn(tend(Rc::downgrade(&shared), local.clone())).detach();
        Balanced(shared)
    }

    /// A call of `method`; nothing happens until it is awaited.
    pub fn call(&self, method: MethodId, payload: impl Into<Payload<'static>>) -> BalancedBuilder {
        BalancedBuilder {
            shared: self.0.clone(),
            request: BalancedRequest {
                method,
                payload: payload.into(),
                priority: Priority::NORMAL,
                route: Route::ANY,
                deadline: self.0.local.deadline(),
                metadata: None,
                is_idempotent: false,
            },
        }
    }

    /// What the balancer knows, to look at.
    pub fn balancer(&self) -> Ref<'_, Balancer> {
        Ref::map(self.0.state.borrow(), |state| &state.balancer)
    }
}

impl fmt::Debug for Balanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.balancer();
        f.debug_list().entries(names.endpoints().map(|(_, endpoint)| &endpoint.name)).finish()
    }
}

/// A call being put together.
#[must_use = "a call does nothing until it is awaited"]
pub struct BalancedBuilder {
    shared: Rc<Shared>,
    request: BalancedRequest,
}

#[derive(Clone)]
struct BalancedRequest {
    method: MethodId,
    payload: Payload<'static>,
    priority: Priority,
    route: Route,
    deadline: Option<Instant>,
    metadata: Option<MetadataBuf>,
    is_idempotent: bool,
}

impl BalancedBuilder {
    /// Stop waiting after `timeout`, or at the inherited deadline if that is earlier.
    pub fn timeout(self, timeout: Duration) -> Self {
        let deadline = self.shared.local.now() + timeout;
        self.deadline(deadline)
    }

    /// Stop waiting at `deadline`, or at the inherited deadline if that is earlier.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.request.deadline = earliest(self.request.deadline, Some(deadline));
        self
    }

    /// Executing it twice is as good as once: it may be sent again when it may have been executed, and
    /// a second copy may be sent when the first is slow.
    pub fn idempotent(mut self) -> Self {
        self.request.is_idempotent = true;
        self
    }

    /// How important it is.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.request.priority = priority;
        self
    }

    /// Which shard or partition it is for.
    pub fn route(mut self, route: Route) -> Self {
        self.request.route = route;
        self
    }

    /// Sends metadata along.
    pub fn metadata(mut self, metadata: MetadataBuf) -> Self {
        self.request.metadata = Some(metadata);
        self
    }
}

impl IntoFuture for BalancedBuilder {
    type Output = Result<Answer, BalancedError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self.shared, self.request))
    }
}

/// Why a balanced call has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BalancedError {
    /// There is no endpoint. Not executed.
    NoEndpoint,
    /// The last attempt failed like this. If an earlier attempt may have executed, so may the call.
    Call {
        /// The error of the last attempt.
        error: CallError,
        /// How often it was sent, hedges not counted.
        attempts: u32,
        /// True if no attempt was executed.
        is_not_executed: bool,
    },
}

impl BalancedError {
    /// True when the request was certainly not executed: sending it again is safe.
    pub fn is_not_executed(&self) -> bool {
        match self {
            BalancedError::NoEndpoint => true,
            BalancedError::Call { is_not_executed, .. } => *is_not_executed,
        }
    }
}

impl fmt::Display for BalancedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BalancedError::NoEndpoint => f.write_str("there is no endpoint to call"),
            BalancedError::Call { error, attempts: 1, .. } => error.fmt(f),
            BalancedError::Call { error, attempts, .. } => {
                write!(f, "{attempts} attempts failed, the last one: {error}")
            }
        }
    }
}

impl std::error::Error for BalancedError {}

/// Sends a call until it has an answer, or may not be sent again.
async fn run(shared: Rc<Shared>, mut request: BalancedRequest) -> Result<Answer, BalancedError> {
    let deadline = request.deadline.unwrap_or_else(|| shared.local.now() + shared.config.timeout);
    request.deadline = Some(deadline);
    shared.state.borrow_mut().balancer.count_first_call();
    let mut tried = Vec::new();
    let mut attempts = 0;
    let mut is_not_executed = true;
    loop {
        let attempt = match shared.attempt(&request, &tried) {
            Some(attempt) => attempt,
            // All were tried: then one of them again.
            None => shared.attempt(&request, &[]).ok_or(BalancedError::NoEndpoint)?,
        };
        let slot = attempt.slot;
        shared.tally(slot, |tally| tally.retries += u64::from(attempts > 0));
        attempts += 1;
        tried.push(slot);
        let error = match shared.with_hedge(attempt, &request, &mut tried).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        is_not_executed &= error.is_not_executed();
        let may_be_sent_again = attempts < shared.config.attempts_max
            && (error.is_not_executed() || request.is_idempotent)
            && is_worth_another(&error)
            && shared.local.now() < deadline;
        let is_sent_again =
            may_be_sent_again && shared.state.borrow_mut().balancer.take_retry(shared.local.now());
        if !is_sent_again {
            shared.tally(slot, |tally| tally.retries_refused += u64::from(may_be_sent_again));
            return Err(BalancedError::Call { error, attempts, is_not_executed });
        }
    }
}

/// True if another endpoint may do what this one did not.
fn is_worth_another(error: &CallError) -> bool {
    match error {
        CallError::Status { status, .. } => {
            matches!(*status, Status::SHED | Status::DRAINING | Status::EXPIRED_IN_QUEUE)
                || *status == Status::INTERNAL
        }
        CallError::ConnectionLost | CallError::Unreachable { .. } | CallError::TooManyWaiting => {
            true
        }
        _ => false,
    }
}

impl Shared {
    /// Sends the request to the endpoint of the balancer's choice.
    fn attempt(self: &Rc<Self>, request: &BalancedRequest, avoid: &[Slot]) -> Option<Attempt> {
        let now = self.local.now();
        let mut state = self.state.borrow_mut();
        let State { balancer, rng, clients, .. } = &mut *state;
        let ticket = balancer.start(avoid, now, rng)?;
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
    async fn with_hedge(
        self: &Rc<Self>,
        mut attempt: Attempt,
        request: &BalancedRequest,
        tried: &mut Vec<Slot>,
    ) -> Result<Answer, CallError> {
        let delay = request.is_idempotent.then(|| attempt.hedge_delay()).flatten();
        let Some(delay) = delay else { return attempt.await };
        match select(&mut attempt, self.local.sleep(delay)).await {
            Either::Left((result, _)) => return result,
            Either::Right(_) => {}
        }
        let now = self.local.now();
        if !self.state.borrow_mut().balancer.take_hedge(now) {
            self.tally(attempt.slot, |tally| tally.hedges_refused += 1);
            return attempt.await;
        }
        let Some(copy) = self.attempt(request, tried) else { return attempt.await };
        let slot = copy.slot;
        tried.push(slot);
        self.tally(slot, |tally| tally.hedges += 1);
        let (result, is_copys) = match select(attempt, copy).await {
            // The other is dropped, and so cancelled.
            Either::Left((Ok(answer), _)) => (Ok(answer), false),
            Either::Right((Ok(answer), _)) => (Ok(answer), true),
            Either::Left((Err(_), copy)) => (copy.await, true),
            Either::Right((Err(_), attempt)) => (attempt.await, false),
        };
        self.tally(slot, |tally| tally.hedges_won += u64::from(is_copys && result.is_ok()));
        result
    }

    fn tally(&self, slot: Slot, count: impl FnOnce(&mut Tally)) {
        count(self.state.borrow_mut().balancer.tally(slot));
    }

    /// Takes over a changed list of endpoints, and what that means for clients.
    fn follow_members(&self) {
        let mut state = self.state.borrow_mut();
        let State { balancer, endpoints, version, clients, .. } = &mut *state;
        let current = endpoints.version();
        if current != *version {
            *version = current;
            let list = endpoints.list();
            let member = |found: &crate::discovery::Resolved| Member {
                name: found.address.to_string().into(),
                weight: found.weight,
            };
            let members: Vec<Member> = list.iter().map(member).collect();
            balancer.set_members(&members, self.local.now());
        }
        for event in balancer.take_events() {
            match event {
                Event::Joined(slot, name) => {
                    let address = name.parse().expect("it was made of an address");
                    let client = Client::new(&self.local, address, self.config.client.clone());
                    let slot = slot as usize;
                    clients.resize(clients.len().max(slot + 1), None);
                    clients[slot] = Some(client);
                    tracing::debug!(endpoint = &*name, "endpoint joins");
                }
                Event::Left(slot) => clients[slot as usize] = None,
                Event::Draining(_) => {}
                Event::Health(change) => log_change(balancer, change),
            }
        }
    }
}

fn log_change(balancer: &Balancer, change: Change) {
    let name = |slot| balancer.endpoint(slot).map(|endpoint| &*endpoint.name);
    match change {
        Change::Ejected(slot, cause) => {
            tracing::warn!(endpoint = name(slot), ?cause, "endpoint ejected");
        }
        Change::Returned(slot) => tracing::info!(endpoint = name(slot), "endpoint is back"),
    }
}

/// Keeps a client's view of its endpoints fresh for as long as the client is there.
async fn tend(shared: Weak<Shared>, local: Local) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let next = {
                let mut state = shared.state.borrow_mut();
                let State { balancer, rng, .. } = &mut *state;
                balancer.tick(local.now(), rng)
            };
            shared.follow_members();
            next
        };
        local.sleep_until(next).await;
    }
}

/// One sending of a call. Its end is told to the balancer, also when nobody waits for it any more.
struct Attempt {
    shared: Rc<Shared>,
    slot: Slot,
    ticket: Option<Ticket>,
    deadline: Option<Instant>,
    call: Call,
}

impl Attempt {
    fn hedge_delay(&self) -> Option<Duration> {
        let state = self.shared.state.borrow();
        let ticket = self.ticket.as_ref().expect("it is under way");
        let delay = state.balancer.hedge_delay(ticket)?;
        let ends = self.deadline.is_some_and(|deadline| ticket.started() + delay >= deadline);
        (!ends).then_some(delay)
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
        let failed = Outcome::Failed { timeout: patience };
        match result {
            Ok(answer) => Outcome::Answered(ServerLoad::of(&answer.head)),
            Err(CallError::Status { status, .. }) => match *status {
                // Not able to, as opposed to not willing to do this.
                Status::SHED | Status::DRAINING | Status::EXPIRED_IN_QUEUE | Status::INTERNAL => {
                    failed
                }
                _ => Outcome::Answered(None),
            },
            Err(CallError::DeadlinePassed) => Outcome::TimedOut,
            // These speak of this side.
            Err(CallError::ExpiredUnsent | CallError::TooLarge { .. }) => Outcome::Abandoned,
            Err(_) => failed,
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
