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
    /// The endpoint of this name has not been connected for a second.
    Gone(Arc<str>),
    /// It is connected again.
    Back(Arc<str>),
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
        let endpoint = self.endpoints[slot as usize].as_mut().expect("a slot of an endpoint");
        endpoint.writer.retire();
        let name = endpoint.name.clone();
        self.by_name.remove(&name);
        self.health.left(slot);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{BalancerConfig, Ticket};
    use crate::endpoint::Outcome;
    use crate::evidence::SharedEvidence;
    use crate::metrics::MetricsSnapshot;
    use crate::policy::by_name;
    use catena_engine::rng::Rng;
    use catena_engine::time::Duration;

    const MILLI: Duration = Duration::from_millis(1);

    /// One that drains, with a call under way, and the one of the same name that came after it.
    #[test]
    fn of_one_that_comes_back_while_it_drains_nothing_doubles_or_is_lost() {
        let (mut now, mut rng) = (Instant::from_nanos(1 << 40), Rng::from_seed(1));
        let (policy, shared) =
            (by_name("rr").expect("there is round robin"), SharedEvidence::new(1));
        let config = BalancerConfig::default();
        let mut balancer = Balancer::new(config, policy, shared.clone(), 0, now);
        let members = [Member { name: "a:1".into(), weight: 1 }];
        let call = |balancer: &mut Balancer, now, rng: &mut Rng| -> Ticket {
            balancer.start(&[], now, rng).expect("there is an endpoint")
        };
        let answered = Outcome::Answered(None);

        balancer.set_members(&members, now);
        let mut old: Vec<Ticket> = (0..3).map(|_| call(&mut balancer, now, &mut rng)).collect();
        balancer.end(old.remove(0), &answered, now + MILLI, &mut rng);
        balancer.set_members(&[], now);
        balancer.set_members(&members, now);
        for _ in 0..10 {
            let ticket = call(&mut balancer, now, &mut rng);
            assert_ne!(ticket.slot(), old[0].slot());
            balancer.end(ticket, &answered, now + MILLI * 2, &mut rng);
        }
        balancer.end(old.remove(0), &answered, now + MILLI * 50, &mut rng);
        let known = |balancer: &mut Balancer, now, rng: &mut Rng| {
            balancer.tick(now, rng);
            shared.of(&members[0].name).digest().count
        };
        assert_eq!(known(&mut balancer, now + MILLI * 60, &mut rng), 12);

        // Half a window lasts 5 s where calls are few, and slides once, though two look after it.
        now += MILLI * 5_001;
        assert_eq!(known(&mut balancer, now, &mut rng), 12);
        balancer.end(old.remove(0), &answered, now + MILLI * 70, &mut rng);
        assert_eq!(balancer.endpoints().count(), 1, "its last call has ended");
        let ticket = call(&mut balancer, now, &mut rng);
        balancer.end(ticket, &answered, now + MILLI, &mut rng);
        assert_eq!(known(&mut balancer, now + MILLI * 20, &mut rng), 14);
        now += MILLI * 5_001;
        assert_eq!(known(&mut balancer, now, &mut rng), 2, "what came after the first slide");
        now += MILLI * 5_001;
        assert_eq!(known(&mut balancer, now, &mut rng), 0);

        let tally = MetricsSnapshot::of(&shared).endpoints[0].tally;
        assert_eq!((tally.picks, tally.answers), (14, 14));
    }
}
