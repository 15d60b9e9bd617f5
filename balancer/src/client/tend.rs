//! What is done beside the calls: following the list of endpoints, digests and health, probes.

use super::{Shared, State};
use crate::balancer::Event;
use crate::endpoint::Slot;
use crate::tending::{Prober, changed_members, log_change, log_connection};
use catena_engine::Local;
use catena_engine::client::{Client, Reach};
use catena_engine::time::Duration;
use catena_engine::wire::frame::PongHead;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

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
        if let Some(members) = changed_members(endpoints, version) {
            balancer.set_members(&members, self.local.now());
        }
        for event in balancer.take_events() {
            match event {
                Event::Joined(slot, name) => {
                    let address = name.parse().expect("it was made of an address");
                    let client = Client::new(&self.local, address, self.config.client.clone());
                    client.keep_connected();
                    let slot = slot as usize;
                    clients.resize(clients.len().max(slot + 1), None);
                    clients[slot] = Some(client);
                    tracing::debug!(endpoint = &*name, "endpoint joins");
                }
                Event::Left(slot) => clients[slot as usize] = None,
                Event::Draining(_, name) => tracing::debug!(endpoint = &*name, "endpoint leaves"),
                Event::Health(change, name) => log_change(change, &name, balancer),
                Event::Gone(name) => log_connection(false, &name),
                Event::Back(name) => log_connection(true, &name),
            }
        }
        balancer.follow_reach(|slot| reach(clients, slot), self.local.now());
    }

    /// Asks those for their load of whom the policy wants to know it; a call that has been started does
    /// not wait for that.
    pub(super) fn probe_wanted(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let State { balancer, rng, clients, probes, .. } = &mut *state;
        let (prober, interval) = (Rc::downgrade(self), self.heartbeat_interval());
        let wanted = balancer.wanted_probes(self.local.now(), rng);
        probes.send(wanted, |slot| client_of(clients, slot), interval, &prober, &self.local);
    }

    /// Asks those for a sign of life that have given none for long.
    fn send_heartbeats(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let State { balancer, clients, probes, .. } = &mut *state;
        let (prober, interval) = (Rc::downgrade(self), self.heartbeat_interval());
        let wanted = balancer.wanted_heartbeats(self.local.now());
        probes.send(wanted, |slot| client_of(clients, slot), interval, &prober, &self.local);
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        self.config.balancer.health.heartbeat_interval
    }
}

/// How it stands with the connection to an endpoint.
#[inline]
pub(super) fn reach(clients: &[Option<Client>], slot: Slot) -> Reach {
    client_of(clients, slot).expect("an endpoint has a client").reach()
}

#[inline]
fn client_of(clients: &[Option<Client>], slot: Slot) -> Option<&Client> {
    clients.get(slot as usize)?.as_ref()
}

impl Prober for Shared {
    fn probe_ended(&self, slot: Slot, address: SocketAddr, answer: Option<PongHead>) {
        let mut state = self.state.borrow_mut();
        let State { balancer, rng, clients, probes, .. } = &mut *state;
        let client = client_of(clients, slot);
        probes.ended((slot, address), answer, client, balancer, self.local.now(), rng);
    }
}
