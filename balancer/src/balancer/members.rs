//! The set of endpoints: who joins gets a slot, who leaves gets no further call and keeps its slot until
//! its last call has ended.

use super::Balancer;
use super::refresh::Rotation;
use crate::endpoint::{Endpoint, Slot};
use crate::health::Change;
use crate::metrics::Tally;
use catena_engine::time::Instant;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One endpoint to balance over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name, which is its identity: `host:port`, say.
    pub name: Arc<str>,
    /// Its share relative to the others' under equal conditions, at least 1.
    pub weight: u32,
}

/// What happened to the set of endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The slot stands for this endpoint from now on.
    Joined(Slot, Arc<str>),
    /// The endpoint gets no more calls; those under way end in their own time.
    Draining(Slot, Arc<str>),
    /// Its last call has ended; the slot is free.
    Left(Slot),
    /// The health of the endpoint of this name has changed.
    Health(Change, Arc<str>),
}

impl Balancer {
    /// The endpoints from now on. Those that are not among them any more get no further call.
    pub fn set_members(&mut self, members: &[Member], now: Instant) {
        let is_first = self.by_name.is_empty();
        let staying: BTreeSet<&str> = members.iter().map(|member| &*member.name).collect();
        let leaves = |name: &Arc<str>| !staying.contains(&**name);
        let leaving = self.by_name.iter().filter(|(name, _)| leaves(name)).map(|(_, slot)| *slot);
        let leaving: Vec<Slot> = leaving.collect();
        for slot in leaving {
            self.drain(slot);
        }
        for member in members {
            match self.by_name.get(&member.name) {
                Some(&slot) => self.signals[slot as usize].weight = member.weight.max(1) as f32,
                None => self.join(member, is_first, now),
            }
        }
    }
}

impl Balancer {
    fn join(&mut self, member: &Member, is_first: bool, now: Instant) {
        let vacant = self.endpoints.iter().position(Option::is_none);
        let index = vacant.unwrap_or(self.endpoints.len());
        let slot = index as Slot;
        let evidence = self.shared.of(&member.name);
        let name = member.name.clone();
        let (endpoint, signal) =
            Endpoint::new(name.clone(), member.weight, evidence, self.core, now);
        let rotation = Rotation::new(now);
        if index == self.endpoints.len() {
            self.endpoints.push(Some(endpoint));
            self.signals.push(signal);
            self.rotations.push(rotation);
            self.tallies.push(Tally::default());
        } else {
            self.endpoints[index] = Some(endpoint);
            self.signals[index] = signal;
            self.rotations[index] = rotation;
            self.tallies[index] = Tally::default();
        }
        self.by_name.insert(name.clone(), slot);
        if let Some(picks) = &mut self.picks {
            picks.joined(slot, &name);
        }
        self.policy.joined(slot, now);
        self.health.joined(slot, is_first, now);
        self.events.push(Event::Joined(slot, name));
    }

    fn drain(&mut self, slot: Slot) {
        let name = self.endpoint_of(slot).name.clone();
        self.by_name.remove(&name);
        self.health.left(slot);
        self.rotations[slot as usize].is_draining = true;
        self.events.push(Event::Draining(slot, name));
        self.leave_if_done(slot);
    }

    pub(super) fn leave_if_done(&mut self, slot: Slot) {
        if self.signals[slot as usize].in_flight == 0 {
            self.publish(slot as usize);
            let endpoint = self.endpoint_of(slot);
            // It may have come back in the meantime, in another slot.
            if !self.by_name.contains_key(&endpoint.name) {
                endpoint.evidence.metrics(self.core).publish_gone();
            }
            self.endpoints[slot as usize] = None;
            self.events.push(Event::Left(slot));
        }
    }
}
