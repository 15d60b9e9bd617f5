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

mod attempt;
mod tend;

use self::attempt::Tried;
use crate::balancer::{Balancer, BalancerConfig};
use crate::config::believe;
use crate::discovery::Endpoints;
use crate::endpoint::Slot;
use crate::evidence::SharedEvidence;
use crate::health::HealthConfig;
use crate::metrics::Tally;
use crate::policy::Policy;
use crate::tending::{HEARTBEAT_INTERVAL, Probes};
use catena_engine::client::{Answer, CallError, Client, ClientConfig};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant, earliest};
use catena_engine::wire::framer::Payload;
use catena_engine::wire::metadata::MetadataBuf;
use catena_engine::{Local, MethodId, Priority, Route, Status};
use std::cell::{Ref, RefCell};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

/// How a balanced client behaves.
#[derive(Clone, Debug)]
pub struct BalancedConfig {
    /// Ejection, budget, hedges. Heartbeats are sent as often as
    /// [`HealthConfig::heartbeat_interval`] says; default 500 ms: a server that stands still is out after
    /// less than 1.5 s, also where nobody calls it, and an idle connection carries 64 bytes a second each
    /// way.
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
        let heartbeat_interval = Some(HEARTBEAT_INTERVAL);
        let health = HealthConfig { heartbeat_interval, ..HealthConfig::default() };
        BalancedConfig {
            balancer: BalancerConfig { health, ..BalancerConfig::default() },
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
    probes: Probes,
}

impl Balanced {
    /// A client of `endpoints` on this shard. Those of other shards share what they know through
    /// `evidence`, which is made once for all of them: `SharedEvidence::new(shard_count)`.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which [`BalancedConfig::validate`] tells beforehand, or if
    /// `evidence` was made for fewer shards than this one's number asks for.
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
        let state = State {
            balancer,
            rng,
            endpoints,
            version: 0,
            clients: Vec::new(),
            probes: Probes::default(),
        };
        let shared = Rc::new(Shared { local: local.clone(), config, state: RefCell::new(state) });
        shared.follow_members();
        local.spawn(tend::tend(Rc::downgrade(&shared), local.clone())).detach();
        Balanced(shared)
    }

    /// A call of `method`; nothing happens until it is sent or awaited.
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

impl BalancedBuilder {
    /// Makes the call. Awaiting the builder does the same; it puts the future into a box, and this does
    /// not.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(self) -> Result<Answer, BalancedError> {
        run(self.shared, self.request).await
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
    let mut tried = Tried::default();
    let mut attempts = 0;
    let mut is_not_executed = true;
    let mut last_error = None;
    let mut is_free = false;
    loop {
        let to_somebody_new = shared.attempt(&request, tried.slots());
        let is_new = to_somebody_new.is_some();
        // If all were tried then one of them again, and that is no longer free. Where nobody can be reached
        // there is no point in it.
        let attempt = to_somebody_new.or_else(|| {
            let is_in_vain = matches!(last_error, Some(CallError::Unreachable { .. }));
            let is_paid = !is_in_vain && (!is_free || shared.may_retry(attempts));
            is_paid.then(|| shared.attempt(&request, &[]))?
        });
        let Some(attempt) = attempt else {
            let call = |error| BalancedError::Call { error, attempts, is_not_executed };
            return Err(last_error.map_or(BalancedError::NoEndpoint, call));
        };
        let slot = attempt.slot;
        shared.tally(slot, |tally| tally.retries += u64::from(last_error.is_some()));
        attempts += 1;
        tried.push(slot);
        let failure = match shared.with_hedge(attempt, &request, &mut tried).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let error = failure.error;
        is_not_executed &= failure.is_not_executed;
        // What was never sent has loaded nobody: it goes elsewhere freely, as long as there is somebody new.
        is_free = was_never_sent(&error) && is_new && tried.has_room();
        attempts -= u32::from(is_free);
        let may_be_sent_again = attempts < shared.config.attempts_max
            && (error.is_not_executed() || request.is_idempotent)
            && is_worth_another(&error)
            && shared.local.now() < deadline;
        let is_sent_again = may_be_sent_again && (is_free || shared.may_retry(attempts));
        if !is_sent_again {
            shared.tally(slot, |tally| tally.retries_refused += u64::from(may_be_sent_again));
            return Err(BalancedError::Call { error, attempts, is_not_executed });
        }
        last_error = Some(error);
    }
}

/// True if nothing of the request has left this machine.
fn was_never_sent(error: &CallError) -> bool {
    matches!(error, CallError::Unreachable { .. } | CallError::TooManyWaiting)
}

/// True if another endpoint may do what this one did not. TOO_MANY_HOPS is not among them: what went through
/// a circle of proxies goes through it again, and each round costs every proxy of it.
fn is_worth_another(error: &CallError) -> bool {
    match error {
        CallError::Status { status, .. } => {
            matches!(*status, Status::SHED | Status::DRAINING | Status::EXPIRED_IN_QUEUE)
                || matches!(*status, Status::INTERNAL | Status::UNAVAILABLE | Status::UPSTREAM_LOST)
        }
        CallError::ConnectionLost | CallError::Unreachable { .. } | CallError::TooManyWaiting => {
            true
        }
        _ => false,
    }
}

impl Shared {
    /// Takes a retry out of the budget for a call that was sent so often; false: it may not be sent again.
    fn may_retry(&self, attempts: u32) -> bool {
        attempts < self.config.attempts_max
            && self.state.borrow_mut().balancer.take_retry(self.local.now())
    }

    /// Counts something of an endpoint that is not seen from the balancer.
    fn tally(&self, slot: Slot, count: impl FnOnce(&mut Tally)) {
        count(self.state.borrow_mut().balancer.tally(slot));
    }
}
