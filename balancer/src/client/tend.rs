//! What is done beside the calls: following the list of endpoints, digests and health, probes.

use super::{Shared, State};
use crate::balancer::{Balancer, Event, Member};
use crate::discovery::Resolved;
use crate::endpoint::{ServerLoad, Slot};
use crate::health::Change;
use catena_engine::Local;
use catena_engine::client::Client;
use catena_engine::time::Duration;
use std::rc::{Rc, Weak};

/// How long an answer to a probe is waited for where no heartbeats say how often one is to come.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps a client's view of its endpoints fresh for as long as the client is there.
pub(super) async fn tend(shared: Weak<Shared>, local: Local) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let next = {
                let mut state = shared.state.borrow_mut();
                let State { balancer, rng, .. } = &mut *state;
                balancer.tick(local.now(), rng)
            };
            shared.follow_members();
            shared.send_heartbeats();
            next
        };
        local.sleep_until(next).await;
    }
}

impl Shared {
    /// Takes over a changed list of endpoints, and what that means for clients.
    pub(super) fn follow_members(&self) {
        let mut state = self.state.borrow_mut();
        let State { balancer, endpoints, version, clients, .. } = &mut *state;
        let current = endpoints.version();
        if current != *version {
            *version = current;
            let list = endpoints.list();
            let member = |found: &Resolved| Member {
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

    /// Asks those for their load of whom the policy wants to know it; a call that has been started does
    /// not wait for that.
    pub(super) fn probe_wanted(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let State { balancer, rng, clients, probed, .. } = &mut *state;
        for &slot in balancer.wanted_probes(self.local.now(), rng) {
            self.probe(slot, clients, probed);
        }
    }

    /// Asks those for a sign of life that have given none for long.
    fn send_heartbeats(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let State { balancer, clients, probed, .. } = &mut *state;
        for &slot in balancer.wanted_heartbeats(self.local.now()) {
            self.probe(slot, clients, probed);
        }
    }

    /// Probes an endpoint, unless that is under way.
    fn probe(self: &Rc<Self>, slot: Slot, clients: &[Option<Client>], probed: &mut Vec<Slot>) {
        let Some(Some(client)) = clients.get(slot as usize) else { return };
        if probed.contains(&slot) {
            return;
        }
        probed.push(slot);
        let interval = self.config.balancer.health.heartbeat_interval;
        let probe = client.probe(interval.unwrap_or(PROBE_TIMEOUT));
        let (shared, address) = (Rc::downgrade(self), client.address());
        let told = async move {
            let result = probe.await;
            let Some(shared) = shared.upgrade() else { return };
            let now = shared.local.now();
            let mut state = shared.state.borrow_mut();
            let State { balancer, rng, clients, probed, .. } = &mut *state;
            probed.retain(|other| *other != slot);
            // The slot may stand for another endpoint by now.
            let is_same = matches!(&clients[slot as usize], Some(it) if it.address() == address);
            // No answer is no news: silence speaks for itself.
            let Some(head) = result.ok().filter(|_| is_same) else { return };
            match ServerLoad::of_pong(&head) {
                Some(load) => balancer.probed(slot, &load, now, rng),
                None => balancer.heard(slot, now),
            }
        };
        self.local.spawn(told).detach();
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
