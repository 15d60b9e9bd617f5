//! What a proxy counts of each server, in the Prometheus text format.

use crate::evidence::SharedEvidence;
use crate::health::Standing;
use catena_engine::metrics::{Counter, Gauge};
use catena_engine::relay::End;
use catena_engine::wire::status::StatusClass;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What all shards of a proxy count of its servers. Looked into when servers come or go, and by whoever
/// reads; never by a request.
#[derive(Debug)]
pub struct ProxyMetrics {
    shards: usize,
    evidence: Arc<SharedEvidence>,
    /// By server and shard; a server that has gone is forgotten.
    by_name: Mutex<BTreeMap<Arc<str>, Vec<Weak<Counters>>>>,
}

/// What one shard counts of one server.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    ends: [Counter; KINDS.len()],
    in_flight: Gauge,
    state: Gauge,
    reachable: Gauge,
}

/// How attempts end, as they are told apart in the counters.
const KINDS: [&str; 11] = [
    "ok",
    "not_executed",
    "may_have_executed",
    "application",
    "unreachable",
    "too_many_waiting",
    "never_sent",
    "too_large",
    "lost",
    "deadline_passed",
    "dropped",
];

/// The states of a server, as they are told apart in the gauges.
const STATES: [&str; 4] = ["live", "returning", "trial", "ejected"];

impl Counters {
    #[inline]
    pub(super) fn count(&self, end: &End) {
        let kind = match end {
            End::Answered(head) => match head.status.class() {
                StatusClass::Ok => 0,
                StatusClass::NotExecuted => 1,
                StatusClass::MayHaveExecuted => 2,
                StatusClass::Application => 3,
            },
            End::Unreachable => 4,
            End::TooManyWaiting => 5,
            End::NeverSent => 6,
            End::TooLarge => 7,
            End::Lost => 8,
            End::DeadlinePassed => 9,
            End::Dropped => 10,
        };
        self.ends[kind].increment();
    }

    pub(super) fn publish(&self, in_flight: u32, standing: Option<Standing>, is_reachable: bool) {
        self.in_flight.set(in_flight.into());
        self.reachable.set(is_reachable.into());
        self.state.set(match standing {
            Some(Standing::Live) => 0,
            Some(Standing::Returning { .. }) => 1,
            Some(Standing::Trial) => 2,
            Some(Standing::Ejected { .. }) | None => 3,
        });
    }
}

impl ProxyMetrics {
    pub(super) fn new(shards: usize, evidence: Arc<SharedEvidence>) -> Arc<Self> {
        Arc::new(ProxyMetrics { shards, evidence, by_name: Mutex::default() })
    }

    /// Fresh counters of one server on one shard.
    pub(super) fn of(&self, name: &Arc<str>, shard: usize) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.retain(|_, shards| shards.iter().any(|counters| counters.strong_count() > 0));
        let shards = by_name.entry(name.clone()).or_default();
        shards.resize_with(self.shards, Weak::new);
        shards[shard] = Arc::downgrade(&counters);
        counters
    }

    /// Writes everything in the Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_prometheus(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let by_name: Vec<(Arc<str>, Vec<Arc<Counters>>)> = {
            let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            let alive =
                |shards: &Vec<Weak<Counters>>| shards.iter().filter_map(Weak::upgrade).collect();
            by_name.iter().map(|(name, shards)| (name.clone(), alive(shards))).collect()
        };
        head(
            out,
            "counter",
            "catena_proxy_attempts_total",
            "Attempts that ended, by server and end.",
        )?;
        for (name, shards) in &by_name {
            for (kind, end) in KINDS.iter().enumerate() {
                let count: u64 = shards.iter().map(|counters| counters.ends[kind].value()).sum();
                writeln!(
                    out,
                    "catena_proxy_attempts_total{{server=\"{name}\",end=\"{end}\"}} {count}"
                )?;
            }
        }
        head(out, "gauge", "catena_proxy_in_flight", "Attempts under way, by server.")?;
        for (name, shards) in &by_name {
            let count: u64 = shards.iter().map(|counters| counters.in_flight.value()).sum();
            writeln!(out, "catena_proxy_in_flight{{server=\"{name}\"}} {count}")?;
        }
        head(
            out,
            "gauge",
            "catena_proxy_latency_seconds",
            "Quantiles of the latency window, by server.",
        )?;
        for (name, _) in &by_name {
            let digest = self.evidence.of(name).digest();
            for (quantile, value) in [("0.5", digest.p50), ("0.99", digest.p99)] {
                let value = value.as_secs_f64();
                writeln!(
                    out,
                    "catena_proxy_latency_seconds{{server=\"{name}\",quantile=\"{quantile}\"}} {value}"
                )?;
            }
        }
        head(
            out,
            "gauge",
            "catena_proxy_state",
            "Shards in whose eyes a server is in this state.",
        )?;
        for (name, shards) in &by_name {
            for (number, state) in STATES.iter().enumerate() {
                let is = |counters: &&Arc<Counters>| counters.state.value() == number as u64;
                let count = shards.iter().filter(is).count();
                writeln!(out, "catena_proxy_state{{server=\"{name}\",state=\"{state}\"}} {count}")?;
            }
        }
        head(
            out,
            "gauge",
            "catena_proxy_reachable",
            "Shards that can reach a server, as far as they know.",
        )?;
        for (name, shards) in &by_name {
            let count: u64 = shards.iter().map(|counters| counters.reachable.value()).sum();
            writeln!(out, "catena_proxy_reachable{{server=\"{name}\"}} {count}")?;
        }
        Ok(())
    }
}

fn head(out: &mut impl fmt::Write, kind: &str, name: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}")?;
    writeln!(out, "# TYPE {name} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_summed_by_server() {
        let metrics = ProxyMetrics::new(2, SharedEvidence::new(2));
        let name: Arc<str> = "10.0.0.1:7400".into();
        let (one, other) = (metrics.of(&name, 0), metrics.of(&name, 1));
        one.count(&End::Lost);
        other.count(&End::Lost);
        other.count(&End::Unreachable);
        one.publish(3, Some(Standing::Live), true);
        other.publish(4, Some(Standing::Trial), false);
        let mut text = String::new();
        metrics.write_prometheus(&mut text).expect("a string takes it all");
        for line in [
            r#"catena_proxy_attempts_total{server="10.0.0.1:7400",end="lost"} 2"#,
            r#"catena_proxy_attempts_total{server="10.0.0.1:7400",end="unreachable"} 1"#,
            r#"catena_proxy_in_flight{server="10.0.0.1:7400"} 7"#,
            r#"catena_proxy_state{server="10.0.0.1:7400",state="trial"} 1"#,
            r#"catena_proxy_reachable{server="10.0.0.1:7400"} 1"#,
        ] {
            assert!(text.lines().any(|written| written == line), "missing: {line}\n{text}");
        }
        drop((one, other));
        let other: Arc<str> = "10.0.0.2:7400".into();
        let _counters = metrics.of(&other, 0);
        let mut text = String::new();
        metrics.write_prometheus(&mut text).expect("a string takes it all");
        assert!(!text.contains("10.0.0.1"), "a server that has gone is forgotten");
    }
}
