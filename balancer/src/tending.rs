//! What is done beside the calls, by clients and by the proxy alike: following the list of endpoints,
//! asking for signs of life, saying what has changed.

use crate::balancer::{Balancer, Member};
use crate::discovery::{Endpoints, Resolved};
use crate::endpoint::{ServerLoad, Slot};
use crate::health::Change;
use catena_engine::Local;
use catena_engine::client::Client;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::frame::PongHead;
use std::net::SocketAddr;
use std::rc::Weak;

/// How often a silent endpoint is asked for a sign of life unless told otherwise: one that stands still is
/// out after three times this.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// How long an answer to a probe is waited for where no heartbeats say how often one is to come.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The members of a list of endpoints, if it has changed since `version`.
pub(crate) fn changed_members(endpoints: &Endpoints, version: &mut u64) -> Option<Vec<Member>> {
    let current = endpoints.version();
    if std::mem::replace(version, current) == current {
        return None;
    }
    let member =
        |found: &Resolved| Member { name: found.address.to_string().into(), weight: found.weight };
    Some(endpoints.list().iter().map(member).collect())
}

/// Says what has changed in the health of the endpoint `name`, and what speaks for it.
pub(crate) fn log_change(change: Change, name: &str, balancer: &Balancer) {
    let digest = balancer.endpoint(change.slot()).map(|endpoint| endpoint.digest);
    let (p50, p99) = digest.map(|digest| (digest.p50, digest.p99)).unwrap_or_default();
    let (peers_p50, peers_p99) = balancer.peers().unwrap_or_default();
    match change {
        Change::Ejected(_, cause) => tracing::warn!(
            endpoint = name,
            ?cause,
            ?p50,
            ?p99,
            ?peers_p50,
            ?peers_p99,
            "endpoint ejected; calls go to others until a trial finds it well"
        ),
        // As loud as the other, or the log of who reads warnings says that it is out for ever.
        Change::Returned(_) => tracing::warn!(endpoint = name, "endpoint is back"),
    }
}

/// Whoever sends probes.
pub(crate) trait Prober: 'static {
    /// A probe of the endpoint that stood at `slot`, at `address`, has ended; without an answer: `None`.
    fn probe_ended(&self, slot: Slot, address: SocketAddr, answer: Option<PongHead>);
}

/// Says that an endpoint is not connected, or is again.
pub(crate) fn log_connection(is_connected: bool, name: &str) {
    match is_connected {
        true => tracing::warn!(endpoint = name, "endpoint is connected again"),
        false => tracing::warn!(endpoint = name, "endpoint is not connected"),
    }
}

/// The probes under way of one prober: one an endpoint, by slot.
#[derive(Debug, Default)]
pub(crate) struct Probes(Vec<bool>);

impl Probes {
    /// Asks the endpoints at `slots`, each of which `client_of` knows how to reach, or is gone.
    pub(crate) fn send<'c, P: Prober>(
        &mut self,
        slots: &[Slot],
        client_of: impl Fn(Slot) -> Option<&'c Client>,
        heartbeat_interval: Option<Duration>,
        prober: &Weak<P>,
        local: &Local,
    ) {
        for &slot in slots {
            if let Some(client) = client_of(slot) {
                self.send_one((slot, client), heartbeat_interval, prober, local);
            }
        }
    }

    /// Asks `client`, which is the endpoint at `slot`, unless that is under way.
    fn send_one<P: Prober>(
        &mut self,
        (slot, client): (Slot, &Client),
        heartbeat_interval: Option<Duration>,
        prober: &Weak<P>,
        local: &Local,
    ) {
        let index = slot as usize;
        self.0.resize(self.0.len().max(index + 1), false);
        if std::mem::replace(&mut self.0[index], true) {
            return;
        }
        let probe = client.probe(heartbeat_interval.unwrap_or(PROBE_TIMEOUT));
        let (prober, address) = (prober.clone(), client.address());
        let told = async move {
            let answer = probe.await.ok();
            if let Some(prober) = prober.upgrade() {
                prober.probe_ended(slot, address, answer);
            }
        };
        local.spawn(told).detach();
    }

    /// One has ended. `client` is whoever stands at `slot` now; what another one answered says nothing of
    /// it. No answer is no news either: silence speaks for itself.
    pub(crate) fn ended(
        &mut self,
        (slot, address): (Slot, SocketAddr),
        answer: Option<PongHead>,
        client: Option<&Client>,
        balancer: &mut Balancer,
        now: Instant,
        rng: &mut Rng,
    ) {
        self.0[slot as usize] = false;
        let is_same = client.is_some_and(|client| client.address() == address);
        let Some(head) = answer.filter(|_| is_same) else { return };
        match ServerLoad::of_pong(&head) {
            Some(load) => balancer.probed(slot, &load, now, rng),
            None => balancer.heard(slot, now),
        }
    }
}
