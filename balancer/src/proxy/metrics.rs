//! The page of a proxy's counters: what its balancers count of each server, under the balancer's names,
//! and what only a proxy knows.

use crate::evidence::SharedEvidence;
use crate::metrics::{MetricsSnapshot, Tally, write_head, write_series};
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
    /// By server, then by shard; forgotten when no shard holds the server any more, as its evidence is.
    by_name: Mutex<BTreeMap<Arc<str>, Weak<[Counters]>>>,
}

/// What one shard counts of one server, beside its balancer.
///
/// 128-byte alignment keeps the neighbours of a shard's figures out of its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    ends: [Counter; KINDS.len()],
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

/// The counters of one server in the hand of the one shard that writes to them.
#[derive(Debug)]
pub(super) struct OwnCounters {
    all: Arc<[Counters]>,
    shard: usize,
}

impl OwnCounters {
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
        self.all[self.shard].ends[kind].increment();
    }

    pub(super) fn publish_reachable(&self, is_reachable: bool) {
        self.all[self.shard].reachable.set(is_reachable.into());
    }
}

impl Drop for OwnCounters {
    /// The shard holds the server no more, while others may.
    fn drop(&mut self) {
        self.publish_reachable(false);
    }
}

impl Tally {
    /// Counts what went wrong with an attempt, as [`Tally::count_error`] does with a call: the ends of an
    /// attempt that speak of its caller are no errors of the server.
    #[inline]
    pub(super) fn count_end(&mut self, end: &End) {
        match end {
            End::Answered(head) => match head.status.class() {
                StatusClass::Ok | StatusClass::Application => {}
                StatusClass::NotExecuted | StatusClass::MayHaveExecuted => {
                    self.count_status(head.status);
                }
            },
            End::Unreachable => self.errors_unreachable += 1,
            End::Lost | End::NeverSent => self.errors_connection_lost += 1,
            End::DeadlinePassed => self.errors_deadline += 1,
            End::TooManyWaiting => self.errors_other += 1,
            End::TooLarge | End::Dropped => {}
        }
    }
}

impl ProxyMetrics {
    pub(super) fn new(shards: usize, evidence: Arc<SharedEvidence>) -> Arc<Self> {
        Arc::new(ProxyMetrics { shards, evidence, by_name: Mutex::default() })
    }

    /// The counters of one server for one shard.
    pub(super) fn of(&self, name: &Arc<str>, shard: usize) -> OwnCounters {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_name.get(name).and_then(Weak::upgrade);
        let all = known.unwrap_or_else(|| {
            by_name.retain(|_, counters| counters.strong_count() > 0);
            let all: Arc<[Counters]> = (0..self.shards).map(|_| Counters::default()).collect();
            by_name.insert(name.clone(), Arc::downgrade(&all));
            all
        });
        OwnCounters { all, shard }
    }

    /// Writes everything in the Prometheus text format, version 0.0.4: first what
    /// [`MetricsSnapshot::write_prometheus`] writes, then what a proxy adds.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_prometheus(&self, out: &mut impl fmt::Write) -> fmt::Result {
        MetricsSnapshot::of(&self.evidence).write_prometheus(out)?;
        let servers: Vec<(Arc<str>, Arc<[Counters]>)> = {
            let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            let held = by_name.iter().map(|(name, all)| Some((name.clone(), all.upgrade()?)));
            held.flatten().collect()
        };
        let family = "catena_proxy_attempts_total";
        write_head(out, family, "Attempts that ended, by how.", "counter")?;
        for (name, shards) in &servers {
            for (kind, end) in KINDS.iter().enumerate() {
                let count: u64 = shards.iter().map(|shard| shard.ends[kind].value()).sum();
                write_series(out, family, name, &format!(r#"end="{end}""#), count)?;
            }
        }
        let family = "catena_proxy_reachable";
        write_head(out, family, "Shards that are connected to the server.", "gauge")?;
        for (name, shards) in &servers {
            let count: u64 = shards.iter().map(|shard| shard.reachable.value()).sum();
            write_series(out, family, name, "", count)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
