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

use crate::balancer::{Balancer, BalancerConfig, Event, Ticket};
use crate::config::believe;
use crate::discovery::Endpoints;
use crate::endpoint::{Outcome, ServerLoad, Slot};
use crate::evidence::SharedEvidence;
use crate::health::HealthConfig;
use crate::policy::Policy;
use crate::tending::{
    HEARTBEAT_INTERVAL, Prober, Probes, changed_members, log_change, log_connection,
};
use catena_engine::client::{Client, ClientConfig, Reach};
use catena_engine::relay::{
    Attempt, Chosen, Destination, End, Next, Relay, RelayConfig, TRIES_MAX,
};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::frame::PongHead;
use catena_engine::{Local, Router, Status};
use metrics::OwnCounters;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// How a proxy behaves.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Ejection and the budget of retries. Hedges are not made. A silent server is asked for a sign of life
    /// as often as [`HealthConfig::heartbeat_interval`] says; default 500 ms.
    pub balancer: BalancerConfig,
    /// The connections to the servers.
    pub client: ClientConfig,
    /// How frames are passed on, and the deadline of requests that have none.
    pub relay: RelayConfig,
    /// From so many attempts on, those that could not be sent counted, a server's refusal is told to the
    /// caller instead of being tried elsewhere. Default 3.
    pub attempts_max: usize,
    /// What the failure of a request without a deadline costs its server in the balancer's eyes, at
    /// least. Default 5 s.
    pub patience: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        let heartbeat_interval = Some(HEARTBEAT_INTERVAL);
        let health = HealthConfig { heartbeat_interval, ..HealthConfig::default() };
        ProxyConfig {
            balancer: BalancerConfig { health, ..BalancerConfig::default() },
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
/// If a value of `config` is out of bounds, which [`ProxyConfig::validate`] tells beforehand.
pub fn router(
    local: &Local,
    config: ProxyConfig,
    policy: Box<dyn Policy>,
    shared: Shared,
) -> Router {
    believe("a proxy", config.validate());
    let relay_config = config.relay;
    let core = usize::from(local.shard().0);
    let Shared { endpoints, evidence, metrics } = shared;
    let proxy = Proxy {
        this: Weak::new(),
        probes: Probes::default(),
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
    proxy.borrow_mut().this = Rc::downgrade(&proxy);
    proxy.borrow_mut().follow_members();
    local.spawn(tend(Rc::downgrade(&proxy), local.clone())).detach();
    Router::new().relay(Handle(proxy), relay_config)
}

/// The balancer of one shard, and its connections.
struct Proxy {
    /// Itself, for the probes that it sends.
    this: Weak<RefCell<Proxy>>,
    probes: Probes,
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
    counters: OwnCounters,
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
        let mut slots = [0; TRIES_MAX];
        for (slot, token) in slots.iter_mut().zip(request.tried) {
            *slot = *token as Slot;
        }
        let Proxy { balancer, rng, servers, .. } = self;
        let reach = |slot| reach(servers, slot);
        let ticket = match balancer.start_connected(&slots[..tries], now, rng, reach) {
            Some(ticket) => ticket,
            // All were tried. One that has refused, or left, may be there again; a queue that was full is
            // full still.
            None if request.last == Some(End::TooManyWaiting) => return None,
            None => balancer.start_connected(&[], now, rng, reach)?,
        };
        if tries > 0 && reach(ticket.slot()) == Reach::Unreachable {
            // Nobody can be reached, and that is why it was tried before in vain.
            balancer.end(ticket, &Outcome::Abandoned, now, rng);
            return None;
        }
        self.balancer.tally(ticket.slot()).retries += u64::from(tries > 0);
        self.probe_wanted(now);
        let client = client_of(&self.servers, ticket.slot());
        let client = client.expect("an endpoint has a connection");
        let token = ticket.into_token() | (tries as u64) << TRIES_SHIFT;
        Some(Destination::new(client, token))
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
        self.balancer.tally(ticket.slot()).count_end(end);
        self.balancer.end(ticket, &outcome, now, &mut self.rng);
        let tries = 1 + (attempt.token >> TRIES_SHIFT) as usize;
        let again = match end {
            End::Unreachable | End::NeverSent | End::TooManyWaiting => true,
            End::Answered(head) => {
                // For a caller that waits no more nothing is taken out of the budget.
                let is_wanted = is_worth_another(head.status)
                    && tries < self.config.attempts_max
                    && attempt.has_time(now);
                let is_granted = is_wanted && self.balancer.take_retry(now);
                let is_refused = is_wanted && !is_granted;
                self.balancer.tally(slot as Slot).retries_refused += u64::from(is_refused);
                is_granted
            }
            _ => false,
        };
        if again { Next::TryAgain } else { Next::Tell }
    }

    /// Asks those for their load of whom the policy wants to know it.
    #[inline]
    fn probe_wanted(&mut self, now: Instant) {
        let Proxy { balancer, rng, servers, probes, this, local, config, .. } = self;
        let interval = config.balancer.health.heartbeat_interval;
        let wanted = balancer.wanted_probes(now, rng);
        probes.send(wanted, |slot| client_of(servers, slot), interval, this, local);
    }

    /// Asks those for a sign of life that have given none for long.
    fn send_heartbeats(&mut self) {
        let Proxy { balancer, servers, probes, this, local, config, .. } = self;
        let interval = config.balancer.health.heartbeat_interval;
        let wanted = balancer.wanted_heartbeats(local.now());
        probes.send(wanted, |slot| client_of(servers, slot), interval, this, local);
    }

    /// Takes over a changed list of endpoints, and what that means for connections.
    fn follow_members(&mut self) {
        if let Some(members) = changed_members(&self.endpoints, &mut self.version) {
            self.balancer.set_members(&members, self.local.now());
        }
        for event in self.balancer.take_events() {
            match event {
                Event::Joined(slot, name) => self.join(slot, &name),
                Event::Left(slot) => self.servers[slot as usize] = None,
                Event::Draining(_, name) => {
                    tracing::info!(
                        endpoint = &*name,
                        "endpoint leaves; it gets no further request"
                    );
                }
                Event::Health(change, name) => log_change(change, &name, &self.balancer),
                Event::Gone(name) => log_connection(false, &name),
                Event::Back(name) => log_connection(true, &name),
            }
        }
        let Proxy { balancer, servers, local, .. } = self;
        balancer.follow_reach(|slot| reach(servers, slot), local.now());
    }

    fn join(&mut self, slot: Slot, name: &Arc<str>) {
        let address = name.parse().expect("it was made of an address");
        let client = Client::new(&self.local, address, self.config.client.clone());
        client.keep_connected();
        let counters = self.metrics.of(name, self.core);
        let slot = slot as usize;
        self.servers.resize_with(self.servers.len().max(slot + 1), || None);
        self.servers[slot] = Some(Server { client, counters });
        tracing::info!(endpoint = &**name, "endpoint joins");
    }

    /// What is not counted one by one, and the balancer does not know.
    fn publish(&self) {
        for Server { client, counters } in self.servers.iter().flatten() {
            counters.publish_reachable(client.reach() == Reach::Connected);
        }
    }
}

/// How it stands with the connection to a server.
#[inline]
fn reach(servers: &[Option<Server>], slot: Slot) -> Reach {
    client_of(servers, slot).expect("an endpoint has a connection").reach()
}

#[inline]
fn client_of(servers: &[Option<Server>], slot: Slot) -> Option<&Client> {
    Some(&servers.get(slot as usize)?.as_ref()?.client)
}

/// What the end of an attempt says of its server.
fn outcome_of(end: &End, timeout: Duration) -> Outcome {
    match end {
        End::Answered(head) => Outcome::of_status(head.status, ServerLoad::of(head), timeout),
        End::Unreachable | End::TooManyWaiting | End::NeverSent | End::Lost => {
            Outcome::Failed { timeout }
        }
        End::DeadlinePassed => Outcome::TimedOut,
        // These speak of the caller.
        End::TooLarge | End::Dropped => Outcome::Abandoned,
    }
}

/// True if another server may do what this one did not begin. TOO_MANY_HOPS is not among them: what went in a
/// circle goes in it again, and each round costs every proxy of it.
fn is_worth_another(status: Status) -> bool {
    matches!(status, Status::SHED | Status::DRAINING | Status::UNAVAILABLE)
}

impl Prober for RefCell<Proxy> {
    fn probe_ended(&self, slot: Slot, address: SocketAddr, answer: Option<PongHead>) {
        let mut proxy = self.borrow_mut();
        let Proxy { balancer, rng, servers, probes, local, .. } = &mut *proxy;
        let client = client_of(servers, slot);
        probes.ended((slot, address), answer, client, balancer, local.now(), rng);
    }
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
            proxy.send_heartbeats();
            proxy.publish();
            next
        };
        local.sleep_until(next).await;
    }
}
