//! One simulated server.
//!
//! All models are one. A call that is worked on has so much work left, in nanoseconds of undisturbed
//! time; all of them get on equally fast, so one clock of **work done** serves them all, and a call
//! ends when this clock reaches what it showed at its beginning plus its work. The models differ in how
//! many are worked on at a time (`queue`: the workers, the others: all) and in how fast the clock goes
//! (`sharing`: cores / calls, at most 1). Faults make it slower, or stop it.

use super::events::Id;
use super::faults::Condition;
use super::scenario::{Group, Model};
use super::values::Distribution;
use catena_balancer::endpoint::ServerLoad;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// Rounding makes the clock of work done late or early by less than this, in nanoseconds.
const CLOCK_TOLERANCE: f64 = 1e-3;

/// Answers that are remembered for probes: those of the last second, of servers that give a thousand …
const RECENT_MAX: usize = 1_024;
/// … and how long. What is older says nothing of now: a server that has worked off a burst would tell
/// its latency for as long as nobody calls it again.
const RECENT_AGE_MAX: Duration = Duration::from_secs(1);

/// See the module page.
#[derive(Debug)]
pub struct Server {
    time: Distribution,
    running_max: usize,
    /// Cores; `None`: every running call has its own.
    cores: Option<f64>,
    condition: Condition,
    rng: Rng,
    /// Work done by anyone who has been running all the time, in nanoseconds.
    clock: f64,
    clock_at: Instant,
    running: BinaryHeap<Running>,
    waiting: VecDeque<Waiting>,
    /// Calls that have come and whose answers have not left.
    in_flight: u32,
    /// The last answers, oldest first.
    recent: VecDeque<Recent>,
    sequence: u64,
    /// When the next call ends as things are, and the number of that arrangement.
    next: Option<Instant>,
    arrangement: u32,
}

#[derive(Debug)]
struct Waiting {
    attempt: Id,
    arrived: Instant,
    /// Calls that were in flight when it came, without itself.
    met: u32,
}

#[derive(Debug)]
struct Running {
    /// What the clock will show at its end.
    end: f64,
    sequence: u64,
    attempt: Id,
    arrived: Instant,
    began: Instant,
    met: u32,
}

/// What is remembered of an answer.
#[derive(Clone, Copy, Debug)]
struct Recent {
    at: Instant,
    /// Calls in flight when its call came.
    met: u32,
    latency: Duration,
}

/// A call whose work is done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Which.
    pub attempt: Id,
    /// How long it waited, and how long its work took.
    pub queue_delay: Duration,
    /// See above.
    pub service_time: Duration,
    /// Calls that were in flight when it came.
    pub met: u32,
}

impl Server {
    /// One of a group, with nothing to do.
    pub fn new(group: &Group, rng: Rng) -> Self {
        let running_max = match group.model {
            Model::Queue => group.workers.unwrap_or(1) as usize,
            Model::Latency | Model::Sharing => usize::MAX,
        };
        Server {
            time: group.time,
            running_max,
            cores: group.capacity,
            condition: Condition::WELL,
            rng,
            clock: 0.0,
            clock_at: Instant::ZERO,
            running: BinaryHeap::new(),
            waiting: VecDeque::new(),
            in_flight: 0,
            recent: VecDeque::with_capacity(RECENT_MAX),
            sequence: 0,
            next: None,
            arrangement: 0,
        }
    }

    /// What the faults make of it.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// The faults have changed.
    pub fn set_condition(&mut self, condition: Condition, now: Instant) {
        self.advance(now);
        self.condition = condition;
    }

    /// A call has come, and is in flight here until [`Server::leave`].
    pub fn enter(&mut self) {
        self.in_flight += 1;
    }

    /// The answer to a call leaves. Returns the load that it tells: the call itself is still in flight, as
    /// it is where a Catena server writes the header of its answer.
    pub fn leave(&mut self, done: &Done, now: Instant) -> ServerLoad {
        let Done { queue_delay, service_time, met, .. } = *done;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent { at: now, met, latency: queue_delay + service_time });
        let load = ServerLoad { in_flight: self.in_flight, queue_delay, service_time };
        self.in_flight -= 1;
        load
    }

    /// The load as a probe is told it: requests in flight, itself among them, and how long calls took in
    /// the last second that met about as many (a load within an eighth, or one, of that of now). Prequal's
    /// rule is the median of these. If there were none nothing is known against it, and zero is told, so
    /// that somebody finds out.
    pub fn probed(&self, now: Instant) -> ServerLoad {
        let reach = (self.in_flight / 8).max(1);
        let mut near = [Duration::ZERO; RECENT_MAX];
        let mut count = 0;
        for recent in self.recent.iter().rev() {
            if now.since(recent.at) > RECENT_AGE_MAX {
                break;
            }
            if recent.met.abs_diff(self.in_flight) <= reach {
                near[count] = recent.latency;
                count += 1;
            }
        }
        let service_time = match count {
            0 => Duration::ZERO,
            _ => *near[..count].select_nth_unstable(count / 2).1,
        };
        ServerLoad { in_flight: self.in_flight + 1, queue_delay: Duration::ZERO, service_time }
    }

    /// A call leaves without an answer.
    pub fn drop_one(&mut self) {
        self.in_flight -= 1;
    }

    /// There is work to do for a call.
    pub fn work(&mut self, attempt: Id, now: Instant) {
        self.advance(now);
        let waiting = Waiting { attempt, arrived: now, met: self.in_flight.saturating_sub(1) };
        if self.running.len() < self.running_max {
            self.begin(waiting, now);
        } else {
            self.waiting.push_back(waiting);
        }
    }

    /// Takes out those whose work is done by now, and lets others begin.
    pub fn finish(&mut self, now: Instant, done: &mut Vec<Done>) {
        self.advance(now);
        let reached = self.clock + CLOCK_TOLERANCE;
        while self.running.peek().is_some_and(|first| first.end <= reached) {
            let Some(running) = self.running.pop() else { break };
            let Running { attempt, arrived, began, met, .. } = running;
            let (queue_delay, service_time) = (began.since(arrived), now.since(began));
            done.push(Done { attempt, queue_delay, service_time, met });
        }
        self.fill(now);
    }

    /// Stops working on a call; false: its work is done already, or never was to be.
    pub fn cancel(&mut self, attempt: Id, now: Instant) -> bool {
        self.advance(now);
        let before = self.running.len() + self.waiting.len();
        self.waiting.retain(|waiting| waiting.attempt != attempt);
        self.running.retain(|running| running.attempt != attempt);
        let after = self.running.len() + self.waiting.len();
        self.fill(now);
        after < before
    }

    /// Loses all work.
    pub fn crash(&mut self, now: Instant) -> Vec<Id> {
        self.advance(now);
        let running = std::mem::take(&mut self.running).into_sorted_vec();
        let running = running.into_iter().map(|running| running.attempt);
        let lost: Vec<Id> =
            running.chain(self.waiting.drain(..).map(|waiting| waiting.attempt)).collect();
        lost
    }

    /// When [`Server::finish`] is to be called next, if that has changed since this was asked last, with
    /// the number that makes former answers void.
    pub fn rearrange(&mut self) -> Option<(Instant, u32)> {
        let next = self.next_end();
        if next == self.next {
            return None;
        }
        self.next = next;
        self.arrangement = self.arrangement.wrapping_add(1);
        next.map(|at| (at, self.arrangement))
    }

    /// True, once, if this answer of [`Server::rearrange`] still holds.
    pub fn is_due(&mut self, arrangement: u32) -> bool {
        let is_due = self.arrangement == arrangement && self.next.is_some();
        if is_due {
            self.next = None;
        }
        is_due
    }
}

impl Server {
    fn fill(&mut self, now: Instant) {
        while self.running.len() < self.running_max {
            let Some(waiting) = self.waiting.pop_front() else { break };
            self.begin(waiting, now);
        }
    }

    fn begin(&mut self, waiting: Waiting, now: Instant) {
        let drawn = self.time.draw(&mut self.rng);
        let work = match self.condition.latency {
            Some(latency) => latency.as_nanos() as f64,
            None => drawn * self.condition.cold_factor(now),
        };
        let Waiting { attempt, arrived, met } = waiting;
        let (end, sequence) = (self.clock + work, self.sequence);
        self.sequence += 1;
        self.running.push(Running { end, sequence, attempt, arrived, began: now, met });
    }

    /// How fast work gets done.
    fn rate(&self) -> f64 {
        let cores = self.cores.map(|cores| cores * self.condition.capacity);
        let share = cores.map_or(1.0, |cores| (cores / self.running.len() as f64).min(1.0));
        self.condition.speed * share
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.since(self.clock_at);
        self.clock_at = now;
        if self.running.is_empty() {
            // Nobody looks: begin again where numbers are small and exact.
            self.clock = 0.0;
        } else if !passed.is_zero() {
            self.clock += passed.as_nanos() as f64 * self.rate();
        }
    }

    fn next_end(&self) -> Option<Instant> {
        let first = self.running.peek()?;
        let rate = self.rate();
        if rate == 0.0 {
            return None;
        }
        let left = ((first.end - self.clock).max(0.0) / rate).ceil();
        Some(self.clock_at + Duration::from_nanos(left as u64))
    }
}

impl Ord for Running {
    /// The one that ends first is the greatest: the heap gives out its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.end.total_cmp(&self.end).then(other.sequence.cmp(&self.sequence))
    }
}

impl PartialOrd for Running {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Running {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Running {}

#[cfg(test)]
mod tests {
    use super::super::events::Table;
    use super::*;

    fn server(model: &str) -> Server {
        let group: Group = toml::from_str(&format!("count = 1\n{model}")).expect(model);
        Server::new(&group, Rng::from_seed(1))
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// When, in milliseconds, calls end that come at `arrivals`, while `changes` happen.
    fn ends(mut server: Server, arrivals: &[u64], changes: &[(u64, Condition)]) -> Vec<u64> {
        let mut table = Table::new();
        let mut done = Vec::new();
        let mut ends = Vec::new();
        for ms in 0..10_000 {
            done.clear();
            if let Some(at) = server.next_end().filter(|next| *next <= at(ms)) {
                server.finish(at, &mut done);
                ends.extend(done.iter().map(|_| at.as_nanos() / 1_000_000));
            }
            for (_, condition) in changes.iter().filter(|change| change.0 == ms) {
                server.set_condition(condition.clone(), at(ms));
            }
            for _ in arrivals.iter().filter(|arrival| **arrival == ms) {
                server.work(table.insert(()), at(ms));
            }
        }
        ends
    }

    #[test]
    fn a_queue_has_so_many_workers() {
        let one = server("model = 'queue'\ntime = 'const:10ms'");
        assert_eq!(ends(one, &[0, 0, 5, 50], &[]), [10, 20, 30, 60]);
        let two = server("model = 'queue'\nworkers = 2\ntime = 'const:10ms'");
        assert_eq!(ends(two, &[0, 0, 5, 50], &[]), [10, 10, 20, 60]);
    }

    #[test]
    fn latency_knows_no_load() {
        let server = server("model = 'latency'\ntime = 'const:10ms'");
        assert_eq!(ends(server, &[0, 0, 5, 5], &[]), [10, 10, 15, 15]);
    }

    #[test]
    fn cores_are_shared_evenly() {
        let one = server("model = 'sharing'\ncapacity = 1\ntime = 'const:10ms'");
        // Alone until 5 with 5 done, then half as fast until 15; the other one has 5 left then.
        assert_eq!(ends(one, &[0, 5], &[]), [15, 20]);
        let two = server("model = 'sharing'\ncapacity = 2\ntime = 'const:10ms'");
        assert_eq!(ends(two, &[0, 5], &[]), [10, 15]);
    }

    #[test]
    fn faults_slow_down_what_is_under_way() {
        let with = |speed| Condition { speed, ..Condition::WELL };
        let queue = || server("model = 'queue'\ntime = 'const:10ms'");
        assert_eq!(ends(queue(), &[0], &[(5, with(0.5))]), [15]);
        assert_eq!(ends(queue(), &[0, 0], &[(5, with(0.0)), (105, with(1.0))]), [110, 120]);
        let latency = Condition { latency: Some(Duration::from_millis(30)), ..Condition::WELL };
        assert_eq!(ends(queue(), &[0, 5], &[(5, latency)]), [10, 40]);
    }

    /// What probes are told by a server whose calls were answered so: when, how many were met, and after
    /// how many milliseconds.
    fn told(answers: &[(u64, u32, u64)], in_flight: u32, now: u64) -> u64 {
        let mut server = server("model = 'latency'\ntime = 'const:10ms'");
        let attempt = Table::new().insert(());
        for &(ms, met, latency) in answers {
            let service_time = Duration::from_millis(latency);
            server.enter();
            let queue_delay = Duration::ZERO;
            server.leave(&Done { attempt, queue_delay, service_time, met }, at(ms));
        }
        (0..in_flight).for_each(|_| server.enter());
        server.probed(at(now)).service_time.as_millis() as u64
    }

    #[test]
    fn probes_are_told_what_calls_like_them_took_lately() {
        let answers = [(1_000, 0, 5), (1_100, 1, 7), (1_200, 40, 300), (1_300, 44, 340)];
        assert_eq!(told(&answers, 0, 1_400), 7, "the median of those that met one or none");
        assert_eq!(told(&answers, 42, 1_400), 340);
        assert_eq!(told(&answers, 20, 1_400), 0, "nothing is known of such a load");
        assert_eq!(told(&answers, 42, 2_250), 340, "of the last second alone");
        assert_eq!(told(&answers, 42, 2_400), 0, "a burst is not told for ever");
    }

    #[test]
    fn cancelling_makes_room() {
        let mut server = server("model = 'queue'\ntime = 'const:10ms'");
        let mut table = Table::new();
        let [a, b, c] = [0, 1, 2].map(|n| table.insert(n));
        for call in [a, b, c] {
            server.work(call, at(0));
        }
        assert!(server.cancel(a, at(4)) && server.cancel(b, at(4)) && !server.cancel(a, at(4)));
        assert_eq!(server.next_end(), Some(at(14)));
        assert_eq!(server.crash(at(5)), [c]);
        assert_eq!(server.next_end(), None);
    }
}
