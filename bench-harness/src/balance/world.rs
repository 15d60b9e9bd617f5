//! The simulated world: clients with a balancer each, a network, servers, faults, and one queue of events.
//!
//! ```text
//! Arrive ─► balancer picks ─► Reach ─► server works ─► Work (done) ─► Leave ─► Reply ─► balancer learns
//!              ▲                                                                │
//!              └─ Hedge, or a retry after a failure    Timeout ─► gives up      └─► the call ends
//! ```
//!
//! Clients see of servers what answers and probes tell, after the network's delay, and nothing else.
//! Everything that is drawn comes from generators of their own: arrivals, faults, each server, each
//! client. So with one seed all policies meet the same calls and the same faults.

use super::clients::{Attempt, Call, Client};
use super::contender::Contender;
use super::events::{Id, Queue, Table};
use super::faults::{Case, Condition};
use super::record::{End, Record};
use super::scenario::{Arrival, Load, Scenario};
use super::servers::{Done, Server};
use crate::interrupt::Interrupt;
use catena_balancer::endpoint::{ServerLoad, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// A run goes on for so long after the last call has come, or for the timeout if that is longer; what
/// is unanswered then counts as timed out.
const LAST_CALLS: Duration = Duration::from_secs(60);
/// The patience that balancers are told of where the scenario has no timeout.
const PATIENCE_DEFAULT: Duration = Duration::from_secs(60);

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The next call comes.
    Arrive,
    /// An attempt reaches its server.
    Reach(Id),
    /// A server has done some work, if this arrangement of its work still holds.
    Work(u32, u32),
    /// An attempt leaves its server, with or without an answer.
    Leave(Id),
    /// An attempt is back at its client.
    Reply(Id),
    /// A server learns that nobody waits for an attempt any more.
    Cancel(Id),
    /// A call has taken too long.
    Timeout(Id),
    /// A second copy of a call may be sent.
    Hedge(Id),
    /// A probe reaches its server.
    Probe(Id),
    /// A probe is back at its client.
    Probed(Id),
    /// A client's balancer wants to look after itself.
    Tick(u32),
    /// A fault begins, ends, or is drawn anew.
    Fault(u32),
}

/// A question for a server's load.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    client: u32,
    server: u32,
    load: Option<ServerLoad>,
}

/// See the module page.
#[derive(Debug)]
pub struct World {
    pub(super) now: Instant,
    pub(super) queue: Queue<Event>,
    pub(super) clients: Vec<Client>,
    pub(super) servers: Vec<Server>,
    pub(super) calls: Table<Call>,
    pub(super) attempts: Table<Attempt>,
    probes: Table<Probe>,
    pub(super) record: Record,
    pub(super) network: Duration,
    pub(super) timeout: Option<Duration>,
    pub(super) patience: Duration,
    pub(super) cancel_expired: bool,
    /// Where a call must not go, by the first of its replicas; nothing if all servers are replicas.
    pub(super) elsewhere: Vec<Vec<Slot>>,
    cases: Vec<Case>,
    /// By server: which of the cases are its own.
    cases_of: Vec<Vec<u32>>,
    faults_rng: Rng,
    load: Load,
    arrival: Arrival,
    arrivals_rng: Rng,
    /// When the last call came, in seconds: calls may come faster than nanoseconds tell apart.
    arrived: f64,
    arrivals: u64,
    arrivals_end: Instant,
    done: Vec<Done>,
}

impl World {
    /// Runs a scenario with a policy to its end; `None` if somebody wants it to end before.
    pub fn run(
        scenario: &Scenario,
        contender: &Contender,
        seed: u64,
        line_of: Vec<usize>,
        interrupt: &Interrupt,
    ) -> Option<Record> {
        let mut world = World::new(scenario, contender, seed, line_of);
        let grace = world.timeout.unwrap_or_default().max(LAST_CALLS);
        let end = world.arrivals_end + grace;
        world.schedule_arrival();
        while let Some((at, event)) = world.queue.pop() {
            let is_over = world.now >= world.arrivals_end && world.calls.len() == 0;
            if is_over || at > end {
                break;
            }
            if interrupt.is_set() {
                return None;
            }
            world.now = at;
            world.handle(event);
        }
        for call in world.calls.ids() {
            world.end_call(call, End::TimedOut);
        }
        Some(world.record)
    }

    fn new(scenario: &Scenario, contender: &Contender, seed: u64, line_of: Vec<usize>) -> Self {
        let mut rng = Rng::from_seed(seed);
        let arrivals_rng = rng.fork();
        let mut faults_rng = rng.fork();
        let mut servers = Vec::new();
        for group in &scenario.servers {
            servers.extend((0..group.count).map(|_| Server::new(group, rng.fork())));
        }
        let clients: Vec<Client> =
            (0..scenario.clients).map(|_| Client::new(scenario, contender, rng.fork())).collect();
        let mut queue = Queue::new();
        let mut cases = Vec::new();
        let mut cases_of = vec![Vec::new(); servers.len()];
        for (at, case) in Case::all(scenario, &mut faults_rng) {
            queue.push(at, Event::Fault(cases.len() as u32));
            cases_of[case.server as usize].push(cases.len() as u32);
            cases.push(case);
        }
        for client in 0..clients.len() as u32 {
            queue.push(Instant::ZERO, Event::Tick(client));
        }
        let timeout = scenario.timeout.map(|timeout| timeout.0);
        World {
            now: Instant::ZERO,
            queue,
            clients,
            calls: Table::new(),
            attempts: Table::new(),
            probes: Table::new(),
            record: Record::new(scenario, line_of),
            network: scenario.network.0,
            timeout,
            patience: timeout.unwrap_or(PATIENCE_DEFAULT),
            cancel_expired: scenario.cancel_expired,
            elsewhere: elsewhere(servers.len() as u32, scenario.replicas),
            servers,
            cases,
            cases_of,
            faults_rng,
            load: scenario.rates(),
            arrival: scenario.arrival,
            arrivals_rng,
            arrived: 0.0,
            arrivals: 0,
            arrivals_end: Instant::ZERO + scenario.duration.0,
            done: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => self.on_arrive(),
            Event::Reach(attempt) => self.on_reach(attempt),
            Event::Work(server, arrangement) => self.on_work(server, arrangement),
            Event::Leave(attempt) => self.on_leave(attempt),
            Event::Reply(attempt) => self.on_reply(attempt),
            Event::Cancel(attempt) => self.on_cancel(attempt),
            Event::Timeout(call) => self.on_timeout(call),
            Event::Hedge(call) => self.on_hedge(call),
            Event::Probe(probe) => self.on_probe(probe),
            Event::Probed(probe) => self.on_probed(probe),
            Event::Tick(client) => self.on_tick(client),
            Event::Fault(case) => self.on_fault(case),
        }
    }

    /// After the network's delay, which may be none.
    pub(super) fn send(&mut self, event: Event) {
        if self.network.is_zero() {
            self.handle(event);
        } else {
            self.queue.push(self.now + self.network, event);
        }
    }

    fn schedule_arrival(&mut self) {
        self.arrived = self.load.next(self.arrived, self.arrival, &mut self.arrivals_rng);
        let at = Instant::from_nanos((self.arrived * 1e9) as u64);
        if at < self.arrivals_end {
            self.queue.push(at, Event::Arrive);
        }
    }

    fn on_arrive(&mut self) {
        let clients = self.clients.len() as u64;
        let client = match self.arrival {
            Arrival::Poisson if clients > 1 => self.arrivals_rng.below(clients),
            Arrival::Poisson => 0,
            Arrival::Const => self.arrivals % clients,
        };
        let replicas = match self.elsewhere.len() as u64 {
            0 => 0,
            count => self.arrivals_rng.below(count),
        };
        self.arrivals += 1;
        self.schedule_arrival();
        self.begin_call(client as u32, replicas as u32);
    }
}

/// What happens at servers.
impl World {
    fn on_reach(&mut self, id: Id) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let index = attempt.server;
        let server = &mut self.servers[index as usize];
        server.enter();
        let Condition { down, fail, .. } = *server.condition();
        if down || fail.is_some() {
            let after = if down { Duration::ZERO } else { fail.unwrap_or_default() };
            self.leave_later(id, after);
            return;
        }
        server.work(id, self.now);
        self.rearrange(index);
    }

    fn on_work(&mut self, index: u32, arrangement: u32) {
        let server = &mut self.servers[index as usize];
        if !server.is_due(arrangement) {
            return;
        }
        let mut done = std::mem::take(&mut self.done);
        server.finish(self.now, &mut done);
        let add = server.condition().add;
        self.rearrange(index);
        for done in done.drain(..) {
            if let Some(attempt) = self.attempts.get_mut(done.attempt) {
                attempt.work = Some(Done { service_time: done.service_time + add, ..done });
            }
            self.leave_later(done.attempt, add);
        }
        self.done = done;
    }

    fn leave_later(&mut self, attempt: Id, after: Duration) {
        if after.is_zero() {
            self.on_leave(attempt);
        } else {
            self.queue.push(self.now + after, Event::Leave(attempt));
        }
    }

    fn on_leave(&mut self, id: Id) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let server = &mut self.servers[attempt.server as usize];
        match &attempt.work {
            Some(done) => attempt.load = Some(server.leave(done, self.now)),
            None => server.drop_one(),
        }
        self.send(Event::Reply(id));
    }

    fn on_cancel(&mut self, id: Id) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let index = attempt.server;
        let server = &mut self.servers[index as usize];
        // Otherwise it is on its way out already.
        if server.cancel(id, self.now) {
            server.drop_one();
            self.attempts.remove(id);
        }
        self.rearrange(index);
    }

    fn on_probe(&mut self, id: Id) {
        let Some(probe) = self.probes.get_mut(id) else { return };
        let server = &mut self.servers[probe.server as usize];
        // One that stands still or is down answers nothing.
        if server.condition().down || server.condition().speed == 0.0 {
            self.probes.remove(id);
            return;
        }
        probe.load = Some(server.probed(self.now));
        self.send(Event::Probed(id));
    }

    fn on_probed(&mut self, id: Id) {
        let Some(Probe { client, server, load }) = self.probes.remove(id) else { return };
        if let Some(load) = load {
            let Client { balancer, rng, .. } = &mut self.clients[client as usize];
            balancer.probed(server, &load, self.now, rng);
        }
    }

    /// Sends the probes that a client wants now.
    pub(super) fn send_probes(&mut self, client: u32) {
        let Client { balancer, rng, .. } = &mut self.clients[client as usize];
        let wanted: Vec<Slot> = balancer.wanted_probes(self.now, rng).to_vec();
        if self.record.counts(self.now) {
            self.record.probes += wanted.len() as u64;
        }
        for server in wanted {
            let probe = self.probes.insert(Probe { client, server, load: None });
            self.send(Event::Probe(probe));
        }
    }

    fn on_tick(&mut self, index: u32) {
        let Client { balancer, rng, .. } = &mut self.clients[index as usize];
        let next = balancer.tick(self.now, rng);
        for event in balancer.take_events() {
            self.record.event(&event);
        }
        self.queue.push(next, Event::Tick(index));
    }

    fn on_fault(&mut self, index: u32) {
        let case = &mut self.cases[index as usize];
        if let Some(next) = case.change(self.now, &mut self.faults_rng) {
            self.queue.push(next, Event::Fault(index));
        }
        let server = case.server;
        let mut condition = Condition::WELL;
        for &case in &self.cases_of[server as usize] {
            self.cases[case as usize].apply(&mut condition);
        }
        let crashes = condition.down && !self.servers[server as usize].condition().down;
        self.servers[server as usize].set_condition(condition, self.now);
        if crashes {
            for attempt in self.servers[server as usize].crash(self.now) {
                self.on_leave(attempt);
            }
        }
        self.rearrange(server);
    }

    fn rearrange(&mut self, server: u32) {
        if let Some((at, arrangement)) = self.servers[server as usize].rearrange() {
            self.queue.push(at, Event::Work(server, arrangement));
        }
    }
}

/// For each server all those that are not among the `replicas` from it on.
fn elsewhere(servers: u32, replicas: Option<u32>) -> Vec<Vec<Slot>> {
    let Some(replicas) = replicas.filter(|replicas| *replicas < servers) else {
        return Vec::new();
    };
    let others =
        |first: u32| (replicas..servers).map(|n| (first + n) % servers).collect::<Vec<Slot>>();
    (0..servers).map(others).collect()
}
