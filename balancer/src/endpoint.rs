//! The record of one endpoint on one core, from which every decision is made.

use crate::evidence::{Digest, Evidence};
use crate::histogram::Writer;
use catena_engine::Status;
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::frame::{PongHead, ResponseHead};
use std::sync::Arc;

/// A place in a balancer's table of endpoints; small and dense, used again after an endpoint has gone.
pub type Slot = u32;

/// The load that a server told with an answer, or a pong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerLoad {
    /// Requests in flight on the shard that answered, the one that was answered among them,
    /// a ping too.
    pub in_flight: u32,
    /// How long the request waited before its handler ran.
    pub queue_delay: Duration,
    /// How long the handler took.
    pub service_time: Duration,
}

impl ServerLoad {
    /// Requests in flight there without the one that was answered.
    #[inline]
    pub fn others_in_flight(&self) -> u32 {
        self.in_flight.saturating_sub(1)
    }

    /// The load that a Catena server tells with every answer; `None` if this one does not know it.
    pub fn of(head: &ResponseHead) -> Option<ServerLoad> {
        let micros = |micros: u32| Duration::from_micros(u64::from(micros));
        (head.in_flight != ResponseHead::LOAD_UNKNOWN).then(|| ServerLoad {
            in_flight: head.in_flight,
            queue_delay: micros(head.queue_delay_us),
            service_time: micros(head.service_us),
        })
    }

    /// The load that a Catena server tells with a pong; `None` if it tells none.
    pub fn of_pong(head: &PongHead) -> Option<ServerLoad> {
        let micros = |micros: u32| Duration::from_micros(u64::from(micros));
        head.tells_load().then(|| ServerLoad {
            in_flight: head.in_flight,
            queue_delay: micros(head.queue_delay_us),
            service_time: micros(head.service_us),
        })
    }
}

/// How a call ended, as far as the endpoint is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was answered, by whatever application status: the endpoint did its work.
    Answered(Option<ServerLoad>),
    /// It failed: refused, unreachable, lost, internal error. `timeout` is what the caller would have
    /// waited at most; a failure costs no less, so that failing fast attracts nobody.
    Failed {
        /// The caller's patience.
        timeout: Duration,
    },
    /// The caller's patience ended first.
    TimedOut,
    /// The caller lost interest: another copy was faster, or nobody waits any more. That it took at
    /// least so long is known, and no more.
    Abandoned,
}

impl Outcome {
    /// What a response of this status says of its server, which told `load` along with it. `patience` is
    /// how long the caller would have waited at most.
    pub fn of_status(status: Status, load: Option<ServerLoad>, patience: Duration) -> Outcome {
        match status {
            // Not able to, as opposed to not willing to do this.
            Status::SHED
            | Status::DRAINING
            | Status::EXPIRED_IN_QUEUE
            | Status::INTERNAL
            | Status::UNAVAILABLE
            | Status::UPSTREAM_LOST => Outcome::Failed { timeout: patience },
            Status::DEADLINE_PASSED => Outcome::TimedOut,
            // It speaks of the way that the request has come, which anybody may have made long.
            Status::TOO_MANY_HOPS => Outcome::Abandoned,
            _ => Outcome::Answered(load),
        }
    }

    /// True for failures and for calls that took too long.
    pub fn is_failure(&self) -> bool {
        matches!(self, Outcome::Failed { .. } | Outcome::TimedOut)
    }
}

/// What picks are made by, of one endpoint on one core: a cache line.
///
/// Latencies are nanoseconds in single precision: seven digits of numbers of which two are known.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Signal {
    /// Calls of this core that have not ended.
    pub in_flight: u32,
    /// Requests in flight there, as it told last.
    told_in_flight: u32,
    told_at: Instant,
    /// When the unfinished calls were started, summed up, in nanoseconds; wraps.
    started_sum: u64,
    /// When the last call counted, answered or not; the time of arrival until then.
    pub recent_at: Instant,
    /// When the last answer came in; the time of arrival until then.
    pub heard_at: Instant,
    /// An average of the last few latencies: quick to notice where the median is sure. 0: none yet.
    recent: f32,
    /// Of the window, over all cores. 0: nothing is known.
    pub p50: f32,
    /// Of the window, over all cores.
    pub p95: f32,
    /// Of the window, over all cores.
    pub p99: f32,
    /// Its share relative to the others' under equal conditions; at least 1.
    pub weight: f32,
}

/// Weight of the newest latency in the recent average.
const RECENT_WEIGHT: f32 = 0.25;
/// In so long, in nanoseconds, the recent average has faded into the median.
const FADE_NANOS: f32 = 1e9;
/// Calls in a window from which on its quantiles are believed.
const EVIDENCE_MIN: u64 = 8;

impl Signal {
    pub(crate) fn new(weight: u32, now: Instant) -> Self {
        Signal {
            in_flight: 0,
            told_in_flight: 0,
            told_at: Instant::ZERO,
            started_sum: 0,
            recent_at: now,
            heard_at: now,
            recent: 0.0,
            p50: 0.0,
            p95: 0.0,
            p99: 0.0,
            weight: weight as f32,
        }
    }

    /// How long its unfinished calls have been under way on average, in nanoseconds; 0: there are none.
    #[inline]
    pub fn mean_age(&self, now: Instant) -> f32 {
        self.age_sum(now) / self.in_flight.max(1) as f32
    }

    /// How long its unfinished calls have been under way together, in nanoseconds.
    #[inline]
    pub(crate) fn age_sum(&self, now: Instant) -> f32 {
        let sum = now.as_nanos().wrapping_mul(u64::from(self.in_flight));
        // Negative by a little if a call was started "after" now.
        (sum.wrapping_sub(self.started_sum) as i64).max(0) as f32
    }

    /// The average of the last few latencies, fading into the median within a second: what was slow may
    /// have recovered, and only calls can tell. `None`: nothing is known, or nothing new.
    #[inline]
    pub fn recent(&self, now: Instant) -> Option<f32> {
        let age = now.as_nanos().saturating_sub(self.recent_at.as_nanos()) as f32 / FADE_NANOS;
        (self.recent > 0.0 && age < 1.0).then_some(self.recent + (self.p50 - self.recent) * age)
    }

    /// True until the first latency comes in.
    #[inline]
    pub(crate) fn is_unheard(&self) -> bool {
        self.recent == 0.0
    }

    /// `median`, or the average of the last few latencies if that is beyond the window's p95; it fades
    /// into the median within a second: what was slow may have recovered, and only calls can tell.
    #[inline]
    pub(crate) fn overruled(&self, median: f32, now: Instant) -> f32 {
        if self.recent <= self.p95 {
            return median;
        }
        let age = nanos_since(self.recent_at, now) / FADE_NANOS;
        self.recent + (median - self.recent) * age.min(1.0)
    }

    /// Requests in flight there as it told last, fading into `usual` by the share `fade` in each
    /// nanosecond.
    #[inline]
    pub(crate) fn told_fading(&self, usual: f32, now: Instant, fade: f32) -> f32 {
        let age = nanos_since(self.told_at, now) * fade;
        let told = self.told_in_flight as f32;
        told + (usual - told) * age.min(1.0)
    }

    /// Requests in flight there, by what it told no longer than `age_max` ago.
    #[inline]
    pub fn told_in_flight(&self, now: Instant, age_max: Duration) -> Option<u32> {
        let age = now.as_nanos().saturating_sub(self.told_at.as_nanos());
        (age <= age_max.as_nanos() as u64 && self.told_at > Instant::ZERO)
            .then_some(self.told_in_flight)
    }

    #[inline]
    pub(crate) fn start(&mut self, now: Instant) {
        self.in_flight += 1;
        self.started_sum = self.started_sum.wrapping_add(now.as_nanos());
    }

    /// Notes the end of a call that was started at `started`.
    #[inline]
    pub(crate) fn end(&mut self, started: Instant) {
        self.in_flight -= 1;
        self.started_sum = self.started_sum.wrapping_sub(started.as_nanos());
    }

    /// Notes what a call counts as.
    #[inline]
    pub(crate) fn record(&mut self, cost: f32, now: Instant) {
        self.recent = match self.recent(now) {
            None => cost,
            Some(recent) => recent + (cost - recent) * RECENT_WEIGHT,
        };
        self.recent_at = now;
    }

    #[inline]
    pub(crate) fn told(&mut self, in_flight: u32, now: Instant) {
        self.told_in_flight = in_flight;
        self.told_at = now;
    }
}

/// In nanoseconds; 0 if `earlier` is in fact later.
#[inline]
fn nanos_since(earlier: Instant, now: Instant) -> f32 {
    now.as_nanos().saturating_sub(earlier.as_nanos()) as i64 as f32
}

/// The rest of what one core knows of an endpoint.
///
/// The end of a call touches four cache lines of its endpoint: the [`Signal`], the first line of this, the
/// first line of its health, and the bucket that counts, which alone has to wait for another one.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Endpoint {
    /// Writes this core's part of the evidence; retired when the endpoint drains.
    pub(crate) writer: Writer,
    /// Latencies in the newer half of the window.
    pub(crate) recorded: u32,
    /// Calls answered since metrics were published.
    pub(crate) answers: u32,
    /// The load that it told last.
    pub reported: Option<ServerLoad>,
    // What follows is for ticks and for those who ask.
    /// Its name, which is its identity.
    pub name: Arc<str>,
    /// Merged from all cores, refreshed now and then.
    pub digest: Digest,
    pub(crate) evidence: Arc<Evidence>,
}

impl Endpoint {
    /// A new one, with what other cores know of it already.
    pub(crate) fn new(
        name: Arc<str>,
        weight: u32,
        evidence: Arc<Evidence>,
        core: usize,
        now: Instant,
    ) -> (Self, Signal) {
        let mut signal = Signal::new(weight.max(1), now);
        let mut endpoint = Endpoint {
            writer: Writer::new(evidence.recorder(core).clone()),
            recorded: 0,
            answers: 0,
            reported: None,
            name,
            digest: Digest::default(),
            evidence,
        };
        endpoint.take_digest(&mut signal);
        (endpoint, signal)
    }

    #[inline]
    pub(crate) fn record(&mut self, cost: Duration) {
        self.writer.record(cost);
        self.recorded += 1;
    }

    /// True if it gets no further call.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.writer.is_retired()
    }

    /// Takes over what was merged.
    pub(crate) fn take_digest(&mut self, signal: &mut Signal) {
        self.digest = self.evidence.digest();
        let Digest { p50, p95, p99, count, .. } = self.digest;
        let is_believed = count >= EVIDENCE_MIN;
        let nanos = |quantile: Duration| if is_believed { quantile.as_nanos() as f32 } else { 0.0 };
        (signal.p50, signal.p95, signal.p99) = (nanos(p50), nanos(p95), nanos(p99));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_pick_looks_at_one_cache_line_an_endpoint() {
        assert_eq!(size_of::<Signal>(), 64);
    }

    #[test]
    fn the_end_of_a_call_looks_at_one_more_of_its_record() {
        assert_eq!(std::mem::offset_of!(Endpoint, name), 64);
    }

    #[test]
    fn the_age_of_the_unfinished_is_their_average() {
        let mut signal = Signal::new(1, at(0));
        assert_eq!(signal.mean_age(at(5)), 0.0);
        signal.start(at(10));
        signal.start(at(20));
        assert_eq!(signal.mean_age(at(30)), 15e6);
        signal.end(at(10));
        assert_eq!(signal.mean_age(at(30)), 10e6);
        signal.end(at(20));
        assert_eq!((signal.in_flight, signal.mean_age(at(40))), (0, 0.0));
    }

    #[test]
    fn a_sum_of_starts_may_wrap() {
        let far = 1u64 << 63;
        let mut signal = Signal::new(1, Instant::from_nanos(far));
        for _ in 0..5 {
            signal.start(Instant::from_nanos(far));
        }
        assert_eq!(signal.mean_age(Instant::from_nanos(far + 7)), 7.0);
    }

    #[test]
    fn what_was_slow_lately_fades_into_the_median() {
        let mut signal = Signal::new(1, at(0));
        assert_eq!(signal.recent(at(0)), None);
        signal.p50 = 1e6;
        signal.record(101e6, at(100));
        assert_eq!(signal.recent(at(100)), Some(101e6));
        assert_eq!(signal.recent(at(600)), Some(51e6));
        assert_eq!(signal.recent(at(1_100)), None);
        // What has faded does not come back with the next latency.
        signal.record(1e6, at(600));
        assert_eq!(signal.recent(at(600)), Some(51e6 - 12.5e6));
    }
}
