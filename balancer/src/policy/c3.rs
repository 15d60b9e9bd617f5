//! The replica with the least expected wait, judged by what servers tell: C3.
//!
//! Suresh, Canini, Schmid, Feldmann, *C3: Cutting Tail Latency in Cloud Data Stores via Adaptive
//! Replica Selection*, NSDI 2015. The score of a replica is R − 1/μ + q̂³/μ, where q̂ is 1, plus
//! outstanding calls × clients, plus the queue that the server told: a long queue costs by its cube, so
//! that a fast server does not attract everybody. Besides, each client bounds the rate at which it calls
//! each server by CUBIC's growth and back-off.
//!
//! Without the paper's backpressure queue: when every server is at its rate, the best one is called.

use super::{Candidates, Policy, Verdict, Why};
use crate::config::believe;
use crate::endpoint::{Outcome, Slot};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// Constants of the rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct C3Config {
    /// How many clients call the same servers, as far as this one knows. Default 1.
    pub clients: u32,
    /// Weight of what was known against what is new. The paper's simulator: 0.9.
    pub alpha: f64,
    /// Length of a window of the rate control. The paper: 20 ms.
    pub window: Duration,
}

impl Default for C3Config {
    fn default() -> Self {
        C3Config { clients: 1, alpha: 0.9, window: Duration::from_millis(20) }
    }
}

/// CUBIC's constants for a window of 20 ms, and the most that a rate grows at once.
const CUBIC_SCALE: f64 = 4e-6;
const CUBIC_DECREASE: f64 = 0.2;
const STEP_MAX: f64 = 10.0;

/// See the module page.
#[derive(Debug)]
pub struct C3 {
    config: C3Config,
    servers: Vec<Server>,
}

#[derive(Clone, Copy, Debug)]
struct Server {
    /// Averages in nanoseconds, and of requests; `None` before the first answer.
    averages: Option<Averages>,
    rate: Rate,
}

/// Memory of one server.
#[cfg(test)]
pub(crate) const SERVER_BYTES: usize = size_of::<Server>();

#[derive(Clone, Copy, Debug)]
struct Averages {
    response: f64,
    service: f64,
    queue: f64,
}

/// How many calls a window one server is sent.
#[derive(Clone, Copy, Debug)]
struct Rate {
    limit: f64,
    /// The limit before it was lowered last.
    limit_before: f64,
    lowered_at: Instant,
    raised_at: Instant,
    window_at: Instant,
    sent: f64,
    received: f64,
    received_before: f64,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Rate {
            limit: STEP_MAX,
            limit_before: STEP_MAX,
            lowered_at: now,
            raised_at: now,
            window_at: now,
            sent: 0.0,
            received: 0.0,
            received_before: 0.0,
        }
    }

    fn advance(&mut self, window: Duration, now: Instant) {
        let passed = now.since(self.window_at);
        if passed >= window {
            let is_next = passed < window * 2;
            self.received_before = if is_next { self.received } else { 0.0 };
            (self.sent, self.received) = (0.0, 0.0);
            self.window_at = now;
        }
    }

    fn is_free(&self, window: Duration, now: Instant) -> bool {
        self.sent < self.limit || now.since(self.window_at) >= window
    }

    /// An answer has come: the limit follows the rate at which they do.
    fn received(&mut self, window: Duration, now: Instant) {
        self.advance(window, now);
        self.received += 1.0;
        let receives = self.received_before.max(self.received);
        if self.limit > receives && now.since(self.raised_at) > window * 2 {
            self.limit_before = self.limit;
            self.limit = (self.limit * CUBIC_DECREASE).max(1.0);
            self.lowered_at = now;
            self.raised_at = now;
        } else if self.limit < receives {
            let since = now.since(self.lowered_at).as_secs_f64() * 1e3;
            let turning = (CUBIC_DECREASE * self.limit_before / CUBIC_SCALE).cbrt();
            let cubic = CUBIC_SCALE * (since - turning).powi(3) + self.limit_before;
            if cubic > self.limit {
                self.limit = cubic.min(self.limit + STEP_MAX);
                self.raised_at = now;
            }
        }
    }
}

impl C3 {
    /// The rule with these constants.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which `validate` tells beforehand.
    pub fn new(config: C3Config) -> Self {
        believe("a C3 policy", config.validate());
        C3 { config, servers: Vec::new() }
    }

    fn score(&self, slot: Slot, in_flight: u32) -> f64 {
        // Nothing is known: tried first.
        let Some(averages) = self.servers[slot as usize].averages else {
            return f64::from(in_flight);
        };
        let outstanding = f64::from(in_flight) * f64::from(self.config.clients);
        let queue = 1.0 + outstanding + averages.queue;
        averages.response - averages.service + queue.powi(3) * averages.service
    }
}

impl Policy for C3 {
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        why.verdict = Verdict::Cheapest;
        let window = self.config.window;
        let slots = candidates.slots();
        // Equal scores are common at the start, and all clients must not begin with the same server.
        let (before, after) = slots.split_at(rng.below(slots.len() as u64) as usize);
        let mut best: Option<(bool, f64, Slot)> = None;
        for &slot in after.iter().chain(before) {
            let score = self.score(slot, candidates.signal(slot).in_flight);
            why.consider(slot, score as f32);
            let is_bound = !self.servers[slot as usize].rate.is_free(window, now);
            if best.is_none_or(|(bound, least, _)| (is_bound, score) < (bound, least)) {
                best = Some((is_bound, score, slot));
            }
        }
        best.expect("candidates are never none").2
    }

    fn started(&mut self, slot: Slot, now: Instant) {
        let rate = &mut self.servers[slot as usize].rate;
        rate.advance(self.config.window, now);
        rate.sent += 1.0;
    }

    fn ended(&mut self, slot: Slot, outcome: &Outcome, cost: Option<Duration>, now: Instant) {
        let Some(cost) = cost else { return };
        let response = cost.as_nanos() as f64;
        let (service, queue) = match outcome {
            Outcome::Answered(Some(load)) => {
                let queue = f64::from(load.others_in_flight());
                (load.service_time.as_nanos() as f64, queue)
            }
            _ => (response, 0.0),
        };
        let alpha = self.config.alpha;
        let server = &mut self.servers[slot as usize];
        let averages = server.averages.get_or_insert(Averages { response, service, queue });
        let mix = |old: &mut f64, new: f64| *old = alpha * *old + (1.0 - alpha) * new;
        mix(&mut averages.response, response);
        mix(&mut averages.service, service);
        mix(&mut averages.queue, queue);
        server.rate.received(self.config.window, now);
    }

    fn joined(&mut self, slot: Slot, now: Instant) {
        let new = Server { averages: None, rate: Rate::new(now) };
        let slot = slot as usize;
        self.servers.resize(self.servers.len().max(slot + 1), new);
        self.servers[slot] = new;
    }
}
