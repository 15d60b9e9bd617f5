//! A proxy: requests come in, and go out to the server of the balancer's choice.
//!
//! ```text
//! caller ─► engine: relay ─► choose: Balancer::start ─► connection to that server
//!                ▲                                             │
//!                └── again, out of the budget ◄── ended: Balancer::end ◄── answer, or none
//! ```
//!
//! The engine moves the frames (see [`catena_engine::relay`]); this decides where to, and when an attempt
//! that was certainly not executed is worth another. What may have executed is never sent again, and
//! nothing is sent twice at a time: a frame does not say that it is idempotent.
//!
//! Attempts that were never sent (no connection, too many waiting) go elsewhere freely, for they load
//! nobody. Those that a server has refused go elsewhere out of the budget of retries.

mod metrics;

pub use metrics::ProxyMetrics;

use crate::balancer::{Balancer, BalancerConfig, Event, Member, Ticket};
use crate::discovery::Endpoints;
use crate::endpoint::{Outcome, ServerLoad, Slot};
use crate::evidence::SharedEvidence;
use crate::health::Change;
use crate::policy::Policy;
use catena_engine::client::{Client, ClientConfig, Reach};
use catena_engine::relay::{
    Attempt, Chosen, Destination, End, Next, Relay, RelayConfig, TRIES_MAX,
};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use catena_engine::{Local, Router, Status};
use metrics::Counters;
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// How a proxy behaves.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Ejection and the budget of retries. Hedges are not made.
    pub balancer: BalancerConfig,
    /// The connections to the servers.
    pub client: ClientConfig,
    /// How frames are passed on, and the deadline of requests that have none.
    pub relay: RelayConfig,
    /// How often a request is sent at most. Default 3.
    pub attempts_max: usize,
    /// What the failure of a request without a deadline costs its server in the balancer's eyes, at
    /// least. Default 5 s.
    pub patience: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        ProxyConfig {
            balancer: BalancerConfig::default(),
            client: ClientConfig::default(),
            relay: RelayConfig::default(),
            attempts_max: 3,
            patience: Duration::from_secs(5),
        }
    }
}

/// What the shards of one proxy share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Which servers there are.
    pub endpoints: Endpoints,
    /// What is known of them.
    pub evidence: Arc<SharedEvidence>,
    /// What is counted of them.
    pub metrics: Arc<ProxyMetrics>,
}

impl Shared {
    /// For a proxy of `shards` shards over `endpoints`.
    pub fn new(endpoints: Endpoints, shards: usize) -> Self {
        let evidence = SharedEvidence::new(shards);
        let metrics = ProxyMetrics::new(shards, evidence.clone());
        Shared { endpoints, evidence, metrics }
    }
}

/// A router that passes every request on to one of the servers.
///
/// # Panics
/// If a value of `config` is out of bounds.
pub fn router(
    local: &Local,
    config: ProxyConfig,
    policy: Box<dyn Policy>,
    shared: Shared,
) -> Router {
    let relay_config = config.relay;
    let core = usize::from(local.shard().0);
    let Shared { endpoints, evidence, metrics } = shared;
    let proxy = Proxy {
        balancer: Balancer::new(config.balancer, policy, evidence, core, local.now()),
        rng: Rng::from_seed(local.random()),
        local: local.clone(),
        config,
        endpoints,
        version: 0,
        servers: Vec::new(),
        metrics,
        core,
    };
    let proxy = Rc::new(RefCell::new(proxy));
    proxy.borrow_mut().follow_members();
    local.spawn(tend(Rc::downgrade(&proxy), local.clone())).detach();
    Router::new().relay(Handle(proxy), relay_config)
}

/// The balancer of one shard, and its connections.
struct Proxy {
    local: Local,
    config: ProxyConfig,
    balancer: Balancer,
    rng: Rng,
    endpoints: Endpoints,
    version: u64,
    /// By slot.
    servers: Vec<Option<Server>>,
    metrics: Arc<ProxyMetrics>,
    core: usize,
}

struct Server {
    client: Client,
    counters: Arc<Counters>,
}

struct Handle(Rc<RefCell<Proxy>>);

impl Relay for Handle {
    #[inline]
    fn choose(&mut self, request: &Chosen<'_>) -> Option<Destination> {
        self.0.borrow_mut().choose(request)
    }

    #[inline]
    fn ended(&mut self, attempt: Attempt, end: &End, now: Instant) -> Next {
        self.0.borrow_mut().ended(attempt, end, now)
    }
}

/// How many attempts came before one, in its token: above the ticket's bits.
const TRIES_SHIFT: u32 = 48;

impl Proxy {
    fn choose(&mut self, request: &Chosen<'_>) -> Option<Destination> {
        let now = request.now;
        let tries = request.tried.len();
        if tries == 0 {
            self.balancer.count_first_call();
        }
        let mut slots = [0; TRIES_MAX + 1];
        for (slot, token) in slots.iter_mut().zip(request.tried) {
            *slot = *token as Slot;
        }
        let ticket = match self.balancer.start(&slots[..tries], now, &mut self.rng) {
            Some(ticket) => self.connected_first(ticket, &mut slots, tries, now),
            // All were tried. One that has refused, or left, may be there again; who cannot be reached is
            // not.
            None => {
                let ticket = self.balancer.start(&[], now, &mut self.rng)?;
                if self.reach(&ticket) == Reach::Unreachable {
                    self.give_up(ticket, Reach::Unreachable, now);
                    return None;
                }
                ticket
            }
        };
        let server = self.servers[ticket.slot() as usize].as_ref();
        let server = server.expect("an endpoint has a connection");
        let token = ticket.into_token() | (tries as u64) << TRIES_SHIFT;
        Some(Destination::new(&server.client, token))
    }

    /// The ticket, or, where its server is not connected, one of another server, if there is any. So
    /// nothing waits for a connection while others are there.
    #[inline]
    fn connected_first(
        &mut self,
        ticket: Ticket,
        avoid: &mut [Slot; TRIES_MAX + 1],
        tries: usize,
        now: Instant,
    ) -> Ticket {
        let reach = self.reach(&ticket);
        if reach == Reach::Connected {
            return ticket;
        }
        avoid[tries] = ticket.slot();
        match self.balancer.start(&avoid[..=tries], now, &mut self.rng) {
            Some(other) => {
                self.give_up(ticket, reach, now);
                other
            }
            None => ticket,
        }
    }

    #[inline]
    fn reach(&self, ticket: &Ticket) -> Reach {
        let server = self.servers[ticket.slot() as usize].as_ref();
        server.expect("an endpoint has a connection").client.reach()
    }

    /// A server was chosen and gets nothing, for it is not connected.
    fn give_up(&mut self, ticket: Ticket, reach: Reach, now: Instant) {
        let timeout = self.config.patience;
        let outcome = match reach {
            Reach::Unreachable => Outcome::Failed { timeout },
            Reach::NotYet | Reach::Connected => Outcome::Abandoned,
        };
        self.balancer.end(ticket, &outcome, now, &mut self.rng);
    }

    fn ended(&mut self, attempt: Attempt, end: &End, now: Instant) -> Next {
        let ticket = Ticket::from_token(attempt.token, attempt.started);
        let slot = ticket.slot() as usize;
        let patience = attempt
            .deadline
            .map_or(self.config.patience, |deadline| deadline.since(attempt.started));
        let outcome = outcome_of(end, patience);
        if let Some(Some(server)) = self.servers.get(slot) {
            server.counters.count(end);
        }
        self.balancer.end(ticket, &outcome, now, &mut self.rng);
        let tries = 1 + (attempt.token >> TRIES_SHIFT) as usize;
        let again = match end {
            End::Unreachable | End::NeverSent | End::TooManyWaiting => true,
            End::Answered(head) => {
                is_worth_another(head.status)
                    && tries < self.config.attempts_max
                    && self.balancer.take_retry(now)
            }
            _ => false,
        };
        if again { Next::TryAgain } else { Next::Tell }
    }

    /// Takes over a changed list of endpoints, and what that means for connections.
    fn follow_members(&mut self) {
        let version = self.endpoints.version();
        if version != self.version {
            self.version = version;
            let member = |found: &crate::discovery::Resolved| Member {
                name: found.address.to_string().into(),
                weight: found.weight,
            };
            let members: Vec<Member> = self.endpoints.list().iter().map(member).collect();
            self.balancer.set_members(&members, self.local.now());
        }
        for event in self.balancer.take_events() {
            match event {
                Event::Joined(slot, name) => self.join(slot, &name),
                Event::Left(slot) => self.servers[slot as usize] = None,
                Event::Draining(slot) => self.log_draining(slot),
                Event::Health(change) => self.log_health(change),
            }
        }
    }

    fn join(&mut self, slot: Slot, name: &Arc<str>) {
        let address = name.parse().expect("it was made of an address");
        let client = Client::new(&self.local, address, self.config.client.clone());
        client.keep_connected();
        let counters = self.metrics.of(name, self.core);
        let slot = slot as usize;
        self.servers.resize_with(self.servers.len().max(slot + 1), || None);
        self.servers[slot] = Some(Server { client, counters });
        tracing::info!(server = &**name, "server joins");
    }

    fn log_draining(&self, slot: Slot) {
        let name = self.balancer.endpoint(slot).map(|endpoint| &*endpoint.name);
        tracing::info!(server = name, "server leaves; it gets no further request");
    }

    fn log_health(&self, change: Change) {
        let name = |slot| self.balancer.endpoint(slot).map(|endpoint| &*endpoint.name);
        match change {
            Change::Ejected(slot, cause) => {
                tracing::warn!(server = name(slot), ?cause, "server ejected");
            }
            Change::Returned(slot) => tracing::info!(server = name(slot), "server is back"),
        }
    }

    /// What is not counted one by one.
    fn publish(&self) {
        for (slot, server) in self.servers.iter().enumerate() {
            if let Some(server) = server {
                let slot = slot as Slot;
                let in_flight = self.balancer.signal(slot).in_flight;
                server.counters.publish(
                    in_flight,
                    self.balancer.standing(slot),
                    server.client.reach() == Reach::Connected,
                );
            }
        }
    }
}

/// What the end of an attempt says of its server.
fn outcome_of(end: &End, timeout: Duration) -> Outcome {
    match end {
        End::Answered(head) => match head.status {
            Status::OK => Outcome::Answered(ServerLoad::of(head)),
            // Not able to, as opposed to not willing to do this.
            Status::SHED
            | Status::DRAINING
            | Status::EXPIRED_IN_QUEUE
            | Status::INTERNAL
            | Status::UNAVAILABLE
            | Status::UPSTREAM_LOST => Outcome::Failed { timeout },
            Status::DEADLINE_PASSED => Outcome::TimedOut,
            _ => Outcome::Answered(None),
        },
        End::Unreachable | End::TooManyWaiting | End::NeverSent | End::Lost => {
            Outcome::Failed { timeout }
        }
        End::DeadlinePassed => Outcome::TimedOut,
        // These speak of the caller.
        End::TooLarge | End::Dropped => Outcome::Abandoned,
    }
}

/// True if another server may do what this one did not begin.
fn is_worth_another(status: Status) -> bool {
    matches!(status, Status::SHED | Status::DRAINING | Status::UNAVAILABLE)
}

/// Keeps the view of the servers fresh for as long as the proxy is there.
async fn tend(proxy: Weak<RefCell<Proxy>>, local: Local) {
    loop {
        let next = {
            let Some(proxy) = proxy.upgrade() else { return };
            let mut proxy = proxy.borrow_mut();
            let Proxy { balancer, rng, .. } = &mut *proxy;
            let next = balancer.tick(local.now(), rng);
            proxy.follow_members();
            proxy.publish();
            next
        };
        local.sleep_until(next).await;
    }
}
