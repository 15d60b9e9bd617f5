//! The replica with the least expected wait, judged by what servers tell: C3.
//!
//! Suresh, Canini, Schmid, Feldmann, *C3: Cutting Tail Latency in Cloud Data Stores via Adaptive
//! Replica Selection*, NSDI 2015. The score of a replica is R − 1/μ + q̂³/μ, where q̂ is 1, plus
//! outstanding calls × clients, plus the queue that the server told: a long queue costs by its cube, so
//! that a fast server does not attract everybody. R, 1/μ and the queue are averages of what the last few
//! answers told.
//!
//! This is the selection alone. The paper's clients also bound the rate at which they call each server,
//! and hold calls back in a queue when all are at their rates; a balancer has no such queue. The paper's
//! simulator has no rates without it either, and neither has Elasticsearch's adaptive replica selection.

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
    /// Weight of what is new in the averages. The paper's simulator: 0.9, Elasticsearch: 0.3.
    pub alpha: f64,
}

impl Default for C3Config {
    fn default() -> Self {
        C3Config { clients: 1, alpha: 0.9 }
    }
}

/// See the module page.
#[derive(Debug)]
pub struct C3 {
    config: C3Config,
    servers: Vec<Server>,
}

/// Averages in nanoseconds, and of requests; `None` before the first answer.
type Server = Option<Averages>;

/// Memory of one server.
#[cfg(test)]
pub(crate) const SERVER_BYTES: usize = size_of::<Server>();

#[derive(Clone, Copy, Debug)]
struct Averages {
    response: f64,
    service: f64,
    queue: f64,
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
        let Some(averages) = self.servers[slot as usize] else {
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
        _now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        let slots = candidates.slots();
        // Equal scores are common at the start, and all clients must not begin with the same server.
        let (before, after) = slots.split_at(rng.below(slots.len() as u64) as usize);
        let mut best: Option<(f64, Slot)> = None;
        for &slot in after.iter().chain(before) {
            let score = self.score(slot, candidates.signal(slot).in_flight);
            why.consider(slot, score as f32);
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, slot));
            }
        }
        let (score, slot) = best.expect("candidates are never none");
        why.choose(slot, score as f32, Verdict::Cheapest)
    }

    fn ended(&mut self, slot: Slot, outcome: &Outcome, cost: Option<Duration>, _now: Instant) {
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
        let averages = server.get_or_insert(Averages { response, service, queue });
        let mix = |average: &mut f64, new: f64| *average += alpha * (new - *average);
        mix(&mut averages.response, response);
        mix(&mut averages.service, service);
        mix(&mut averages.queue, queue);
    }

    fn joined(&mut self, slot: Slot, _now: Instant) {
        let slot = slot as usize;
        self.servers.resize(self.servers.len().max(slot + 1), None);
        self.servers[slot] = None;
    }
}
