//! What each core counts of each endpoint, merged only when somebody reads it.
//!
//! ```text
//! core 0 ── counts ──► Tally ─ tick ─► CoreMetrics ─┐
//! core 1 ── counts ──► Tally ─ tick ─► CoreMetrics ─┼─ reads ─► MetricsSnapshot ─► Prometheus text
//!                     (its own memory)  (published) ┘          (any thread, any time)
//! ```
//!
//! A call adds to plain numbers that its core's balancer has at hand anyway. A tick, some 20 ms apart, adds
//! them up where others can read them, on cache lines that this core alone writes. So a snapshot is so much
//! behind, and no figure in it ever goes back as long as some core holds the endpoint.

use crate::endpoint::{Outcome, ServerLoad};
use crate::evidence::{Digest, SharedEvidence};
use crate::health::{Cause, Standing};
use catena_engine::Status;
use catena_engine::client::CallError;
use catena_engine::time::Duration;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The table of all counters: exported name and meaning of each family, then the field of each of its
/// members with its label.
macro_rules! counters {
    ($($family:literal $help:literal { $($field:ident $label:literal)+ })*) => {
        /// What one core counted of one endpoint, or all of them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Tally {
            $($(
                #[doc = concat!("`", $family, "{", $label, "}`: ", $help)]
                pub $field: u64,
            )+)*
        }

        /// How many counters there are.
        const COUNTERS: usize = [$($(stringify!($field),)+)*].len();

        impl Tally {
            fn figures(&self) -> [u64; COUNTERS] {
                [$($(self.$field,)+)*]
            }

            fn of_figures(figures: [u64; COUNTERS]) -> Self {
                let [$($($field,)+)*] = figures;
                Tally { $($($field,)+)* }
            }
        }

        /// By family, in the order of the fields.
        const FAMILIES: &[(&str, &str, &[&str])] = &[$(($family, $help, &[$($label,)+]),)*];
    };
}

counters! {
    "catena_balancer_picks_total" "Calls sent, retries, hedges and trials included." { picks "" }
    "catena_balancer_ends_total" "Calls that ended, by how." {
        answers r#"outcome="answered""#
        failures r#"outcome="failed""#
        timeouts r#"outcome="timed_out""#
        abandoned r#"outcome="abandoned""#
    }
    "catena_balancer_errors_total" "Errors, by what went wrong." {
        errors_shed r#"kind="shed""#
        errors_draining r#"kind="draining""#
        errors_expired_in_queue r#"kind="expired_in_queue""#
        errors_internal r#"kind="internal""#
        errors_connection_lost r#"kind="connection_lost""#
        errors_unreachable r#"kind="unreachable""#
        errors_deadline r#"kind="deadline""#
        errors_other r#"kind="other""#
    }
    "catena_balancer_trials_total" "Calls that tried whether it has recovered." { trials "" }
    "catena_balancer_retries_total" "Calls sent here after another endpoint failed them." { retries "" }
    "catena_balancer_retries_refused_total" "Calls failed here that the budget left at that." {
        retries_refused ""
    }
    "catena_balancer_hedges_total" "Second copies of calls that were slow elsewhere." { hedges "" }
    "catena_balancer_hedges_won_total" "Second copies that were answered first." { hedges_won "" }
    "catena_balancer_hedges_refused_total" "Calls slow here that the budget left at that." {
        hedges_refused ""
    }
    "catena_balancer_ejections_total" "Times that a core ejected it, by cause." {
        ejections_failures_in_row r#"cause="failures_in_row""#
        ejections_failure_share r#"cause="failure_share""#
        ejections_slow r#"cause="slow""#
        ejections_silent r#"cause="silent""#
        ejections_trial_failed r#"cause="trial_failed""#
    }
}

impl Tally {
    /// Calls sent and not ended.
    pub fn in_flight(&self) -> u64 {
        self.picks.saturating_sub(self.ended())
    }

    pub(crate) fn ended(&self) -> u64 {
        self.answers + self.failures + self.timeouts + self.abandoned
    }

    /// Counts what went wrong with a call.
    pub fn count_error(&mut self, error: &CallError) {
        let kind = match error {
            CallError::Status { status, .. } => return self.count_status(*status),
            CallError::ConnectionLost => &mut self.errors_connection_lost,
            CallError::Unreachable { .. } => &mut self.errors_unreachable,
            CallError::DeadlinePassed | CallError::ExpiredUnsent => &mut self.errors_deadline,
            _ => &mut self.errors_other,
        };
        *kind += 1;
    }

    /// Counts an answer that says what went wrong.
    pub(crate) fn count_status(&mut self, status: Status) {
        let kind = match status {
            Status::SHED => &mut self.errors_shed,
            Status::DRAINING => &mut self.errors_draining,
            Status::EXPIRED_IN_QUEUE => &mut self.errors_expired_in_queue,
            Status::INTERNAL => &mut self.errors_internal,
            _ => &mut self.errors_other,
        };
        *kind += 1;
    }

    pub(crate) fn count_unanswered(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Answered(_) => {}
            Outcome::Failed { .. } => self.failures += 1,
            Outcome::TimedOut => self.timeouts += 1,
            Outcome::Abandoned => self.abandoned += 1,
        }
    }

    pub(crate) fn count_ejection(&mut self, cause: Cause) {
        let kind = match cause {
            Cause::FailuresInRow => &mut self.ejections_failures_in_row,
            Cause::FailureShare => &mut self.ejections_failure_share,
            Cause::Slow => &mut self.ejections_slow,
            Cause::Silent => &mut self.ejections_silent,
            Cause::TrialFailed => &mut self.ejections_trial_failed,
        };
        *kind += 1;
    }

    fn add(&mut self, other: &Tally) {
        let mut sums = self.figures();
        sums.iter_mut().zip(other.figures()).for_each(|(sum, figure)| *sum += figure);
        *self = Tally::of_figures(sums);
    }
}

/// What one core published of one endpoint.
///
/// 128-byte alignment keeps the neighbours of a core's figures out of its cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CoreMetrics {
    counters: [AtomicU64; COUNTERS],
    /// An index of [`STANDINGS`], or that of none.
    standing: AtomicU64,
    /// Requests in flight there as told last, and one; 0: it told nothing.
    told_in_flight: AtomicU64,
    /// Nanoseconds.
    told_queue_delay: AtomicU64,
    told_service_time: AtomicU64,
}

/// Where an endpoint stands with a core.
const STANDINGS: [&str; 6] = ["live", "slow_start", "ejected", "trial", "draining", "unconnected"];
const DRAINING: usize = 4;
const UNCONNECTED: usize = 5;
const GONE: u64 = STANDINGS.len() as u64;

impl Default for CoreMetrics {
    fn default() -> Self {
        CoreMetrics {
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            standing: AtomicU64::new(GONE),
            told_in_flight: AtomicU64::new(0),
            told_queue_delay: AtomicU64::new(0),
            told_service_time: AtomicU64::new(0),
        }
    }
}

impl CoreMetrics {
    /// Adds what the core has counted since the last time. For that core alone: of two writers, one is
    /// not counted.
    pub(crate) fn add(&self, tally: &Tally) {
        for (cell, figure) in self.counters.iter().zip(tally.figures()) {
            if figure > 0 {
                cell.store(cell.load(Ordering::Relaxed) + figure, Ordering::Relaxed);
            }
        }
    }

    /// Takes over where the endpoint stands, `None` if it leaves, and the load that it told last. For that
    /// core alone.
    pub(crate) fn publish_state(&self, standing: Option<Standing>, told: Option<&ServerLoad>) {
        let index = match standing {
            Some(Standing::Live) => 0,
            Some(Standing::Returning { .. }) => 1,
            Some(Standing::Ejected { .. }) => 2,
            Some(Standing::Trial) => 3,
            Some(Standing::Unconnected) => UNCONNECTED,
            None => DRAINING,
        };
        self.standing.store(index as u64, Ordering::Relaxed);
        if let Some(told) = told {
            let nanos = |time: Duration| time.as_nanos() as u64;
            self.told_queue_delay.store(nanos(told.queue_delay), Ordering::Relaxed);
            self.told_service_time.store(nanos(told.service_time), Ordering::Relaxed);
            self.told_in_flight.store(u64::from(told.in_flight) + 1, Ordering::Relaxed);
        }
    }

    /// The core holds it no more.
    pub(crate) fn publish_gone(&self) {
        self.standing.store(GONE, Ordering::Relaxed);
        self.told_in_flight.store(0, Ordering::Relaxed);
    }

    fn tally(&self) -> Tally {
        let mut figures = [0; COUNTERS];
        // Ends are read before picks, or a call that began and ended in between would only have ended.
        for (figure, cell) in figures.iter_mut().zip(&self.counters).rev() {
            *figure = cell.load(Ordering::Relaxed);
        }
        Tally::of_figures(figures)
    }

    fn told(&self) -> Option<ServerLoad> {
        let nanos = |cell: &AtomicU64| Duration::from_nanos(cell.load(Ordering::Relaxed));
        Some(ServerLoad {
            in_flight: self.told_in_flight.load(Ordering::Relaxed).checked_sub(1)? as u32,
            queue_delay: nanos(&self.told_queue_delay),
            service_time: nanos(&self.told_service_time),
        })
    }
}

/// With how many cores an endpoint stands how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standings {
    /// In full use.
    pub live: u32,
    /// New, or back, and given less than its part.
    pub slow_start: u32,
    /// Not called.
    pub ejected: u32,
    /// One call is under way to see how it is.
    pub trial: u32,
    /// It leaves: no new calls.
    pub draining: u32,
    /// There is no connection to it.
    pub unconnected: u32,
}

impl Standings {
    fn figures(&self) -> [u32; STANDINGS.len()] {
        [self.live, self.slow_start, self.ejected, self.trial, self.draining, self.unconnected]
    }

    fn count(&mut self, standing: u64) {
        match standing {
            0 => self.live += 1,
            1 => self.slow_start += 1,
            2 => self.ejected += 1,
            3 => self.trial += 1,
            4 => self.draining += 1,
            5 => self.unconnected += 1,
            _ => {}
        }
    }
}

/// What all cores know of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointMetrics {
    /// Its name.
    pub name: Arc<str>,
    /// What was counted, by all cores together.
    pub tally: Tally,
    /// Latencies in the window, of all cores together.
    pub latency: Digest,
    /// With how many cores it stands how.
    pub standings: Standings,
    /// The load that it told last, the greatest that a core was told; `None`: it told none.
    pub told: Option<ServerLoad>,
}

impl EndpointMetrics {
    pub(crate) fn of(name: Arc<str>, latency: Digest, cores: &[CoreMetrics]) -> Self {
        let mut tally = Tally::default();
        let mut standings = Standings::default();
        for core in cores {
            tally.add(&core.tally());
            standings.count(core.standing.load(Ordering::Relaxed));
        }
        let told = cores.iter().filter_map(CoreMetrics::told).max_by_key(|told| told.in_flight);
        EndpointMetrics { name, tally, latency, standings, told }
    }
}

/// What all cores know of all endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetricsSnapshot {
    /// In order of their names.
    pub endpoints: Vec<EndpointMetrics>,
}

impl MetricsSnapshot {
    /// All that is published now. Locks what balancers lock when their members change, and no call ever.
    pub fn of(shared: &SharedEvidence) -> Self {
        let mut endpoints = shared.metrics();
        endpoints.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        MetricsSnapshot { endpoints }
    }

    /// The metrics of the endpoint of that name.
    pub fn endpoint(&self, name: &str) -> Option<&EndpointMetrics> {
        self.endpoints.iter().find(|endpoint| &*endpoint.name == name)
    }

    /// Writes everything in the Prometheus text format, version 0.0.4: times in seconds, as is the
    /// custom there; quantiles are of the sliding window, and so gauges.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_prometheus(&self, out: &mut impl Write) -> fmt::Result {
        let mut first = 0;
        for (family, help, labels) in FAMILIES {
            write_head(out, family, help, "counter")?;
            for endpoint in &self.endpoints {
                let figures = &endpoint.tally.figures()[first..];
                for (label, figure) in labels.iter().zip(figures) {
                    write_series(out, family, &endpoint.name, label, figure)?;
                }
            }
            first += labels.len();
        }
        self.write_gauges(out)
    }

    fn write_gauges(&self, out: &mut impl Write) -> fmt::Result {
        let name = "catena_balancer_in_flight";
        write_head(out, name, "Calls sent and not ended.", "gauge")?;
        for endpoint in &self.endpoints {
            write_series(out, name, &endpoint.name, "", endpoint.tally.in_flight())?;
        }
        let name = "catena_balancer_standing";
        write_head(out, name, "With how many cores the endpoint stands how.", "gauge")?;
        for endpoint in &self.endpoints {
            for (standing, cores) in STANDINGS.iter().zip(endpoint.standings.figures()) {
                let label = format!(r#"standing="{standing}""#);
                write_series(out, name, &endpoint.name, &label, cores)?;
            }
        }
        let name = "catena_balancer_window_calls";
        write_head(out, name, "Calls in the sliding window of latencies.", "gauge")?;
        for endpoint in &self.endpoints {
            write_series(out, name, &endpoint.name, "", endpoint.latency.count)?;
        }
        let name = "catena_balancer_latency_seconds";
        let help =
            "Quantiles of what calls cost in the sliding window; failures cost the patience.";
        write_head(out, name, help, "gauge")?;
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.latency.count > 0) {
            let Digest { p50, p95, p99, p999, .. } = endpoint.latency;
            for (quantile, value) in [("0.5", p50), ("0.95", p95), ("0.99", p99), ("0.999", p999)] {
                let label = format!(r#"quantile="{quantile}""#);
                write_series(out, name, &endpoint.name, &label, value.as_secs_f64())?;
            }
        }
        self.write_told(out)
    }

    fn write_told(&self, out: &mut impl Write) -> fmt::Result {
        type Figure = fn(&ServerLoad) -> f64;
        let families: [(&str, &str, Figure); 3] = [
            ("in_flight", "Requests in flight, as the endpoint told last.", |told| {
                f64::from(told.in_flight)
            }),
            ("queue_delay_seconds", "Wait for a handler, as the endpoint told last.", |told| {
                told.queue_delay.as_secs_f64()
            }),
            ("service_time_seconds", "Time of a handler, as the endpoint told last.", |told| {
                told.service_time.as_secs_f64()
            }),
        ];
        for (suffix, help, figure) in families {
            let name = format!("catena_balancer_told_{suffix}");
            write_head(out, &name, help, "gauge")?;
            for endpoint in &self.endpoints {
                if let Some(told) = &endpoint.told {
                    write_series(out, &name, &endpoint.name, "", figure(told))?;
                }
            }
        }
        Ok(())
    }
}

/// What stands above the series of a family: its help, its type.
pub(crate) fn write_head(
    out: &mut impl Write,
    family: &str,
    help: &str,
    kind: &str,
) -> fmt::Result {
    writeln!(out, "# HELP {family} {help}")?;
    writeln!(out, "# TYPE {family} {kind}")
}

/// One line: a figure of `endpoint`, told apart by `label` from others of the same family; empty: by nothing.
pub(crate) fn write_series(
    out: &mut impl Write,
    family: &str,
    endpoint: &str,
    label: &str,
    figure: impl fmt::Display,
) -> fmt::Result {
    write!(out, "{family}{{endpoint=\"")?;
    for character in endpoint.chars() {
        match character {
            '\\' => out.write_str("\\\\")?,
            '"' => out.write_str("\\\"")?,
            '\n' => out.write_str("\\n")?,
            other => out.write_char(other)?,
        }
    }
    let comma = if label.is_empty() { "" } else { "," };
    writeln!(out, "\"{comma}{label}}} {figure}")
}

#[cfg(test)]
mod tests;
