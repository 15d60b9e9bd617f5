//! The clients' side: calls, the attempts that they are made of, and when others are made.

use super::contender::Contender;
use super::events::Id;
use super::record::{AttemptEnd, End};
use super::scenario::Scenario;
use super::servers::Done;
use super::world::{Event, World};
use catena_balancer::balancer::{Balancer, Member, Ticket};
use catena_balancer::endpoint::{Outcome, ServerLoad, Slot};
use catena_balancer::evidence::SharedEvidence;
use catena_engine::rng::Rng;
use catena_engine::time::Instant;

/// Attempts that one call may consist of, hedges included: as many as other clients make at most.
const ATTEMPTS_MAX: usize = 4;

/// A client: one balancer, as each core of a process has one.
#[derive(Debug)]
pub struct Client {
    pub(super) balancer: Balancer,
    pub(super) rng: Rng,
    hedges: bool,
    retries: bool,
}

/// A call, until it has ended for whoever made it.
#[derive(Debug)]
pub struct Call {
    client: u32,
    /// Which servers it may go to; see [`World::elsewhere`].
    replicas: u32,
    arrived: Instant,
    attempts: [Option<Id>; ATTEMPTS_MAX],
    tried: [Slot; ATTEMPTS_MAX],
    attempt_count: usize,
    is_hedged: bool,
}

/// One attempt at a call, until it has left the world: it may be under way for longer than anybody
/// waits for it.
#[derive(Debug)]
pub struct Attempt {
    call: Id,
    pub(super) server: u32,
    /// While the client waits for it.
    ticket: Option<Ticket>,
    /// How its work went, once it is done.
    pub(super) work: Option<Done>,
    /// What its answer tells; `None`: it has failed.
    pub(super) load: Option<ServerLoad>,
}

/// Why another attempt is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    First,
    Retry,
    Hedge,
}

impl Client {
    /// A client that knows all servers, and nothing about them.
    pub fn new(scenario: &Scenario, contender: &Contender, rng: Rng) -> Self {
        let shared = SharedEvidence::new(1);
        let policy = contender.policy(scenario);
        let mut balancer = Balancer::new(contender.config(), policy, shared, 0, Instant::ZERO);
        let weights = scenario
            .servers
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.weight, group.count as usize));
        let members: Vec<Member> = weights
            .enumerate()
            .map(|(index, weight)| Member { name: format!("server-{index}").into(), weight })
            .collect();
        // Slots are given in the order of the members: a server's number is its slot.
        balancer.set_members(&members, Instant::ZERO);
        Client { balancer, rng, hedges: contender.hedge, retries: contender.retry }
    }
}

impl World {
    /// A call begins.
    pub(super) fn begin_call(&mut self, client: u32, replicas: u32) {
        let call = self.calls.insert(Call {
            client,
            replicas,
            arrived: self.now,
            attempts: [None; ATTEMPTS_MAX],
            tried: [0; ATTEMPTS_MAX],
            attempt_count: 0,
            is_hedged: false,
        });
        self.clients[client as usize].balancer.count_first_call();
        if let Some(timeout) = self.timeout {
            self.queue.push(self.now + timeout, Event::Timeout(call));
        }
        self.attempt(call, Reason::First);
        self.send_probes(client);
    }

    /// Makes an attempt at a call; false: there is no server left for it.
    fn attempt(&mut self, id: Id, reason: Reason) -> bool {
        let Some(call) = self.calls.get_mut(id) else { return false };
        if call.attempt_count == ATTEMPTS_MAX {
            return false;
        }
        let Client { balancer, rng, hedges, .. } = &mut self.clients[call.client as usize];
        let tried = &call.tried[..call.attempt_count];
        let elsewhere =
            self.elsewhere.get(call.replicas as usize).map_or(&[] as &[Slot], |slots| slots);
        let ticket = match (tried, elsewhere) {
            ([], elsewhere) => balancer.start(elsewhere, self.now, rng),
            (tried, []) => balancer.start(tried, self.now, rng),
            (tried, elsewhere) => balancer.start(&[tried, elsewhere].concat(), self.now, rng),
        };
        let Some(ticket) = ticket else { return false };
        if *hedges
            && !call.is_hedged
            && let Some(delay) = balancer.hedge_delay(&ticket)
        {
            self.queue.push(self.now + delay, Event::Hedge(id));
        }
        let server = ticket.slot();
        let attempt = Attempt { call: id, server, ticket: Some(ticket), work: None, load: None };
        let attempt = self.attempts.insert(attempt);
        call.attempts[call.attempt_count] = Some(attempt);
        call.tried[call.attempt_count] = server;
        call.attempt_count += 1;
        if self.record.counts(self.now) {
            self.record.retries += u64::from(reason == Reason::Retry);
            self.record.hedges += u64::from(reason == Reason::Hedge);
        }
        self.send(Event::Reach(attempt));
        true
    }

    /// An attempt is back: answered, if it tells a load.
    pub(super) fn on_reply(&mut self, id: Id) {
        let Some(Attempt { call, server, ticket: Some(ticket), load, .. }) =
            self.attempts.remove(id)
        else {
            return;
        };
        let (end, outcome) = match load {
            Some(load) => (AttemptEnd::Answered, Outcome::Answered(Some(load))),
            None => (AttemptEnd::Failed, Outcome::Failed { timeout: self.patience }),
        };
        let Some(waiting) = self.calls.get_mut(call) else { return };
        for attempt in &mut waiting.attempts {
            attempt.take_if(|attempt| *attempt == id);
        }
        let is_last = waiting.attempts.iter().all(Option::is_none);
        let client = waiting.client as usize;
        self.end_ticket(client, server, ticket, outcome, end);
        if end == AttemptEnd::Answered {
            self.end_call(call, End::Answered);
        } else if is_last {
            let Client { balancer, retries, .. } = &mut self.clients[client];
            let retries = *retries && balancer.take_retry(self.now);
            if !(retries && self.attempt(call, Reason::Retry)) {
                self.end_call(call, End::Failed);
            }
        }
    }

    pub(super) fn on_timeout(&mut self, call: Id) {
        if self.calls.get_mut(call).is_some() {
            self.end_call(call, End::TimedOut);
        }
    }

    pub(super) fn on_hedge(&mut self, id: Id) {
        let Some(call) = self.calls.get_mut(id) else { return };
        if call.is_hedged || call.attempts.iter().flatten().count() != 1 {
            return;
        }
        if self.clients[call.client as usize].balancer.take_hedge(self.now) {
            call.is_hedged = true;
            self.attempt(id, Reason::Hedge);
        }
    }

    /// A call has ended for whoever made it. Attempts that are still under way are given up.
    pub(super) fn end_call(&mut self, id: Id, end: End) {
        let Some(call) = self.calls.remove(id) else { return };
        self.record.call(call.arrived, self.now.since(call.arrived), end);
        let (outcome, attempt_end) = match end {
            End::TimedOut => (Outcome::TimedOut, AttemptEnd::TimedOut),
            End::Answered | End::Failed => (Outcome::Abandoned, AttemptEnd::Abandoned),
        };
        let cancels = end != End::TimedOut || self.cancel_expired;
        for attempt_id in call.attempts.into_iter().flatten() {
            let Some(attempt) = self.attempts.get_mut(attempt_id) else { continue };
            let server = attempt.server;
            if let Some(ticket) = attempt.ticket.take() {
                self.end_ticket(call.client as usize, server, ticket, outcome, attempt_end);
            }
            if cancels {
                self.send(Event::Cancel(attempt_id));
            }
        }
    }

    fn end_ticket(
        &mut self,
        client: usize,
        server: u32,
        ticket: Ticket,
        outcome: Outcome,
        end: AttemptEnd,
    ) {
        let started = ticket.started();
        let Client { balancer, rng, .. } = &mut self.clients[client];
        balancer.end(ticket, &outcome, self.now, rng);
        self.record.attempt(server, started, self.now.since(started), end);
    }
}
