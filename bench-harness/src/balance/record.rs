//! What is written down during a run: how calls went, and what each server got, over time.

use super::scenario::Scenario;
use catena_balancer::balancer::Event;
use catena_balancer::health::Change;
use catena_engine::time::{Duration, Instant};

/// How a call ended, for whoever made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It was answered.
    Answered,
    /// It failed, and so did what was tried instead.
    Failed,
    /// The time was up.
    TimedOut,
}

/// How one attempt at a call ended, for whoever chose the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttemptEnd {
    /// It was answered.
    Answered,
    /// It failed or was refused.
    Failed,
    /// The time was up.
    TimedOut,
    /// The other copy was faster.
    Abandoned,
}

/// Calls of some part of a run.
#[derive(Clone, Default, Debug)]
pub struct Calls {
    /// All that ended.
    pub count: u64,
    /// Answered in time to be a success.
    pub successes: u64,
    /// Failed.
    pub failed: u64,
    /// Took longer than the timeout.
    pub timed_out: u64,
    /// Seconds, of those that were answered and of those whose time was up.
    latencies: Vec<f32>,
}

/// Attempts at one server in some part of a run.
#[derive(Clone, Default, Debug)]
pub struct Attempts {
    /// All that were started.
    pub count: u64,
    /// Failed or refused.
    pub failed: u64,
    /// Took longer than the timeout.
    pub timed_out: u64,
    /// Seconds, of those that were answered and of those whose time was up.
    latencies: Vec<f32>,
}

/// Quantiles of latencies in seconds; all 0 if there are none.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Quantiles {
    /// The average.
    pub mean: f64,
    /// Half were no slower.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// See the module page.
#[derive(Debug)]
pub struct Record {
    success_within: Option<Duration>,
    counts_from: Instant,
    interval: Duration,
    /// Where steps begin.
    steps_at: Vec<Instant>,
    /// By step.
    pub by_step: Vec<Calls>,
    /// By interval.
    pub by_interval: Vec<Calls>,
    /// By interval and line.
    pub by_line: Vec<Vec<Attempts>>,
    /// By server.
    pub by_server: Vec<Attempts>,
    /// By server: how often a client ejected it.
    pub ejections: Vec<u64>,
    /// Second attempts after a failure.
    pub retries: u64,
    /// Second copies.
    pub hedges: u64,
    /// Questions for a server's load.
    pub probes: u64,
    line_of: Vec<usize>,
}

impl Record {
    /// Of nothing yet. `line_of` says, by server, which line of the tables over time it belongs to.
    pub fn new(scenario: &Scenario, line_of: Vec<usize>) -> Self {
        let intervals = scenario.duration.0.as_nanos().div_ceil(scenario.interval().as_nanos());
        let lines = line_of.iter().max().map_or(0, |last| last + 1);
        let steps = scenario.steps();
        Record {
            success_within: scenario.success_within.map(|within| within.0),
            counts_from: Instant::ZERO + scenario.warmup.0,
            interval: scenario.interval(),
            by_step: vec![Calls::default(); steps.len()],
            steps_at: steps.iter().map(|(at, _)| Instant::ZERO + *at).collect(),
            by_interval: vec![Calls::default(); intervals as usize],
            by_line: vec![vec![Attempts::default(); lines]; intervals as usize],
            by_server: vec![Attempts::default(); line_of.len()],
            ejections: vec![0; line_of.len()],
            retries: 0,
            hedges: 0,
            probes: 0,
            line_of,
        }
    }

    /// True if what begins now is counted.
    pub fn counts(&self, now: Instant) -> bool {
        now >= self.counts_from
    }

    /// A call has ended.
    pub fn call(&mut self, arrived: Instant, latency: Duration, end: End) {
        if !self.counts(arrived) {
            return;
        }
        let is_success =
            end == End::Answered && self.success_within.is_none_or(|within| latency <= within);
        let step = self.steps_at.partition_point(|at| *at <= arrived).max(1) - 1;
        let interval = self.interval_of(arrived);
        for calls in [&mut self.by_step[step], &mut self.by_interval[interval]] {
            calls.add(latency, end, is_success);
        }
    }

    /// An attempt has ended.
    pub fn attempt(&mut self, server: u32, started: Instant, latency: Duration, end: AttemptEnd) {
        if !self.counts(started) {
            return;
        }
        let interval = self.interval_of(started);
        let line = self.line_of[server as usize];
        let cell = &mut self.by_line[interval][line];
        for attempts in [cell, &mut self.by_server[server as usize]] {
            attempts.count += 1;
            attempts.failed += u64::from(end == AttemptEnd::Failed);
            attempts.timed_out += u64::from(end == AttemptEnd::TimedOut);
            if matches!(end, AttemptEnd::Answered | AttemptEnd::TimedOut) {
                attempts.latencies.push(latency.as_secs_f32());
            }
        }
    }

    /// Something has happened to a client's set of servers.
    pub fn event(&mut self, event: &Event) {
        if let Event::Health(Change::Ejected(slot, _), _) = event {
            self.ejections[*slot as usize] += 1;
        }
    }

    /// All calls.
    pub fn calls(&self) -> Calls {
        let mut all = Calls::default();
        for calls in &self.by_step {
            all.count += calls.count;
            all.successes += calls.successes;
            all.failed += calls.failed;
            all.timed_out += calls.timed_out;
            all.latencies.extend(&calls.latencies);
        }
        all
    }

    /// Those that start late, as retries do, are counted into the last one.
    fn interval_of(&self, at: Instant) -> usize {
        let index = at.as_nanos() / self.interval.as_nanos() as u64;
        (index as usize).min(self.by_interval.len() - 1)
    }
}

impl Calls {
    /// One more has ended.
    pub fn add(&mut self, latency: Duration, end: End, is_success: bool) {
        self.count += 1;
        self.successes += u64::from(is_success);
        self.failed += u64::from(end == End::Failed);
        self.timed_out += u64::from(end == End::TimedOut);
        if end != End::Failed {
            self.latencies.push(latency.as_secs_f32());
        }
    }

    /// The share of successes; 1 if there were no calls.
    pub fn success_share(&self) -> f64 {
        if self.count == 0 { 1.0 } else { self.successes as f64 / self.count as f64 }
    }

    /// Of their latencies.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles::of(&self.latencies)
    }
}

impl Attempts {
    /// Of their latencies.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles::of(&self.latencies)
    }
}

impl Quantiles {
    /// Exact: each is one of the latencies, except the average.
    pub fn of(latencies: &[f32]) -> Self {
        if latencies.is_empty() {
            return Quantiles::default();
        }
        let mut sorted = latencies.to_vec();
        sorted.sort_unstable_by(f32::total_cmp);
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            f64::from(sorted[rank.clamp(1, sorted.len()) - 1])
        };
        let sum: f64 = sorted.iter().copied().map(f64::from).sum();
        Quantiles {
            mean: sum / sorted.len() as f64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact() {
        let latencies: Vec<f32> = (1..=1_000).rev().map(|n| n as f32).collect();
        let quantiles = Quantiles::of(&latencies);
        assert_eq!((quantiles.p50, quantiles.p90, quantiles.p99), (500.0, 900.0, 990.0));
        assert_eq!((quantiles.p999, quantiles.max, quantiles.mean), (999.0, 1_000.0, 500.5));
        assert_eq!(Quantiles::of(&[2.0]).p50, 2.0);
        assert_eq!(Quantiles::of(&[]), Quantiles::default());
    }
}
