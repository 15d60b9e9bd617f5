//! What all cores of a process know of one endpoint: one recorder a core, and the digest of them all.
//!
//! ```text
//! core 0 ─ record ─► Recorder 0 ─┐
//! core 1 ─ record ─► Recorder 1 ─┼─ merge, by one core, now and then ─► Digest ─► copied by each core
//! core n ─ record ─► Recorder n ─┘
//! ```
//!
//! No core waits for another: recorders have one writer each, the digest is a handful of relaxed
//! atomics. A reader that meets a digest while it is replaced may see numbers of two merges, which are
//! some ten milliseconds apart; nothing here needs them to be of one.

use crate::histogram::{Counts, Recorder};
use crate::metrics::{CoreMetrics, EndpointMetrics};
use catena_engine::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The numbers of a histogram that decisions are made by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    /// Half of the calls in the window took no longer.
    pub p50: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// 999 of 1,000 took no longer.
    pub p999: Duration,
    /// How many calls the window holds; 0: nothing is known, and the others say nothing.
    pub count: u64,
}

impl Digest {
    /// The digest of counts.
    pub fn of(counts: &Counts) -> Digest {
        let [p50, p95, p99, p999] = counts.quantiles([0.5, 0.95, 0.99, 0.999]);
        Digest { p50, p95, p99, p999, count: counts.count() }
    }
}

/// The evidence of one endpoint.
#[derive(Debug)]
pub struct Evidence {
    recorders: Box<[Arc<Recorder>]>,
    metrics: Box<[CoreMetrics]>,
    /// p50, p95, p99, p999 in nanoseconds, and the count.
    published: [AtomicU64; 5],
    /// When it was merged last, in nanoseconds of the cores' common clock.
    merged_at: AtomicU64,
}

impl Evidence {
    fn new(cores: usize) -> Self {
        let recorders = (0..cores).map(|_| Arc::default()).collect();
        let metrics = (0..cores).map(|_| CoreMetrics::default()).collect();
        let (published, merged_at) = Default::default();
        Evidence { recorders, metrics, published, merged_at }
    }

    /// The recorder of one core, which alone may write to it.
    #[inline]
    pub fn recorder(&self, core: usize) -> &Arc<Recorder> {
        &self.recorders[core]
    }

    /// Where one core, which alone may write to it, publishes what it counts.
    pub(crate) fn metrics(&self, core: usize) -> &CoreMetrics {
        &self.metrics[core]
    }

    /// True for the one core that is to merge now: the first that asks `interval` after the last.
    pub fn claims_merge(&self, now: Instant, interval: Duration) -> bool {
        let last = self.merged_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.since(Instant::from_nanos(last)) >= interval;
        let now = now.as_nanos().max(1);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        is_due && self.merged_at.compare_exchange(last, now, success, failure).is_ok()
    }

    /// Adds all recorders up into `counts`.
    pub fn read(&self, counts: &mut Counts) {
        for recorder in &self.recorders {
            counts.add(recorder);
        }
    }

    /// Replaces the digest.
    pub fn publish(&self, digest: &Digest) {
        let nanos = |duration: Duration| duration.as_nanos() as u64;
        let Digest { p50, p95, p99, p999, count } = *digest;
        let values = [nanos(p50), nanos(p95), nanos(p99), nanos(p999), count];
        for (cell, value) in self.published.iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// The digest as it was last replaced.
    pub fn digest(&self) -> Digest {
        let [p50, p95, p99, p999, count] =
            std::array::from_fn(|n| self.published[n].load(Ordering::Relaxed));
        let nanos = Duration::from_nanos;
        Digest { p50: nanos(p50), p95: nanos(p95), p99: nanos(p99), p999: nanos(p999), count }
    }

    /// Memory in bytes for each core.
    pub fn memory_bytes_per_core(&self) -> usize {
        let recorders: usize = self.recorders.iter().map(|recorder| recorder.memory_bytes()).sum();
        let metrics = size_of_val(&*self.metrics);
        (size_of::<Evidence>() + recorders + metrics) / self.recorders.len()
    }
}

/// The evidence of all endpoints, by name, for balancers on several cores that call the same ones.
///
/// Looked into when members change, never by a call.
#[derive(Debug)]
pub struct SharedEvidence {
    cores: usize,
    by_name: Mutex<BTreeMap<Arc<str>, Weak<Evidence>>>,
}

impl SharedEvidence {
    /// For balancers on so many cores, numbered from 0.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(cores: usize) -> Arc<Self> {
        assert!(cores > 0, "evidence is of somebody");
        Arc::new(SharedEvidence { cores, by_name: Mutex::default() })
    }

    /// How many cores share it.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// How many endpoints have ever been asked for and are not yet forgotten.
    #[cfg(test)]
    pub(crate) fn records(&self) -> usize {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What is published of all endpoints that some core holds.
    pub(crate) fn metrics(&self) -> Vec<EndpointMetrics> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let held = by_name.iter().filter_map(|(name, evidence)| Some((name, evidence.upgrade()?)));
        held.map(|(name, evidence)| {
            EndpointMetrics::of(name.clone(), evidence.digest(), &evidence.metrics)
        })
        .collect()
    }

    /// The evidence of an endpoint; lives as long as one core has a use for it.
    pub fn of(&self, name: &Arc<str>) -> Arc<Evidence> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(evidence) = by_name.get(name).and_then(Weak::upgrade) {
            return evidence;
        }
        by_name.retain(|_, evidence| evidence.strong_count() > 0);
        let evidence = Arc::new(Evidence::new(self.cores));
        by_name.insert(name.clone(), Arc::downgrade(&evidence));
        evidence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_what_they_know() {
        let shared = SharedEvidence::new(2);
        let name: Arc<str> = "a:1".into();
        let (one, other) = (shared.of(&name), shared.of(&name));
        one.recorder(0).record(Duration::from_micros(100));
        other.recorder(1).record(Duration::from_micros(200));
        let mut counts = Counts::default();
        one.read(&mut counts);
        one.publish(&Digest::of(&counts));
        let digest = other.digest();
        assert_eq!(digest.count, 2);
        assert!(
            digest.p50 >= Duration::from_micros(100) && digest.p50 < Duration::from_micros(101)
        );
        assert!(
            digest.p99 >= Duration::from_micros(200) && digest.p99 < Duration::from_micros(202)
        );
    }

    #[test]
    fn an_endpoint_that_nobody_calls_is_forgotten() {
        let shared = SharedEvidence::new(1);
        let name: Arc<str> = "a:1".into();
        shared.of(&name).recorder(0).record(Duration::from_micros(100));
        let mut counts = Counts::default();
        shared.of(&name).read(&mut counts);
        assert_eq!(counts.count(), 0);
    }

    #[test]
    fn memory_stays_below_24_kib_an_endpoint_and_core() {
        assert!(SharedEvidence::new(4).of(&"a:1".into()).memory_bytes_per_core() <= 23 * 1_024);
    }
}
