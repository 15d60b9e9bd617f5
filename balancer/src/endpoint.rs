//! The record of one endpoint on one core, from which every decision is made.

use crate::evidence::{Digest, Evidence};
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::frame::ResponseHead;
use std::sync::Arc;

/// A place in a balancer's table of endpoints; small and dense, used again after an endpoint has gone.
pub type Slot = u32;

/// The load that a server told with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerLoad {
    /// Requests in flight on the shard that answered.
    pub in_flight: u32,
    /// How long the request waited before its handler ran.
    pub queue_delay: Duration,
    /// How long the handler took.
    pub service_time: Duration,
}

impl ServerLoad {
    /// The load that a Catena server tells with every answer; `None` if this one does not know it.
    pub fn of(head: &ResponseHead) -> Option<ServerLoad> {
        let micros = |micros: u32| Duration::from_micros(u64::from(micros));
        (head.in_flight != ResponseHead::LOAD_UNKNOWN).then(|| ServerLoad {
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
    /// True for failures and for calls that took too long.
    pub fn is_failure(&self) -> bool {
        matches!(self, Outcome::Failed { .. } | Outcome::TimedOut)
    }
}

/// One endpoint, as one core knows it.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name, which is its identity.
    pub name: Arc<str>,
    /// Its share relative to the others' under equal conditions; at least 1.
    pub weight: u32,
    /// Calls of this core that have not ended.
    pub in_flight: u32,
    /// When these were started, summed up, in nanoseconds; wraps.
    started_sum: u64,
    /// Merged from all cores, refreshed now and then.
    pub digest: Digest,
    /// An average of the last few latencies, in nanoseconds: quick to notice where the digest is sure.
    recent_nanos: u64,
    recent_at: Instant,
    /// What it told last, and when.
    pub reported: Option<(ServerLoad, Instant)>,
    /// When the last outcome came in; the time of arrival until then.
    pub heard_at: Instant,
    pub(crate) evidence: Arc<Evidence>,
}

/// Weight of the newest latency in the recent average, as a power of two: 1/4.
const RECENT_BITS: u32 = 2;
/// It fades in 1,024 steps of 2²⁰ ns, 1.07 s in all.
const FADE_STEPS: u64 = 1_024;
const FADE_STEP_BITS: u32 = 20;

impl Endpoint {
    pub(crate) fn new(name: Arc<str>, weight: u32, evidence: Arc<Evidence>, now: Instant) -> Self {
        Endpoint {
            name,
            weight,
            in_flight: 0,
            started_sum: 0,
            digest: evidence.digest(),
            recent_nanos: 0,
            recent_at: now,
            reported: None,
            heard_at: now,
            evidence,
        }
    }

    #[inline]
    pub(crate) fn start(&mut self, now: Instant) {
        self.in_flight += 1;
        self.started_sum = self.started_sum.wrapping_add(now.as_nanos());
    }

    /// Notes the end of a call that was started at `started`, and its cost.
    #[inline]
    pub(crate) fn end(
        &mut self,
        started: Instant,
        cost: Option<Duration>,
        core: usize,
        now: Instant,
    ) {
        self.in_flight -= 1;
        self.started_sum = self.started_sum.wrapping_sub(started.as_nanos());
        let Some(cost) = cost else { return };
        self.evidence.recorder(core).record(cost);
        let cost = cost.as_nanos() as u64;
        self.recent_nanos = match self.recent(now) {
            None => cost,
            Some(recent) => {
                let recent = recent.as_nanos() as u64;
                recent - (recent >> RECENT_BITS) + (cost >> RECENT_BITS)
            }
        };
        self.recent_at = now;
    }

    /// Takes over what was merged.
    pub(crate) fn take_digest(&mut self) {
        self.digest = self.evidence.digest();
    }

    /// How long its unfinished calls have been under way on average; zero if there are none.
    #[inline]
    pub fn mean_age(&self, now: Instant) -> Duration {
        if self.in_flight == 0 {
            return Duration::ZERO;
        }
        let count = u64::from(self.in_flight);
        let sum = now.as_nanos().wrapping_mul(count).wrapping_sub(self.started_sum);
        Duration::from_nanos(sum / count)
    }

    /// The average of the last few latencies, fading into the median within a second: what was slow may
    /// have recovered, and only calls can tell. `None`: nothing is known, or nothing new.
    #[inline]
    pub fn recent(&self, now: Instant) -> Option<Duration> {
        let age = now.since(self.recent_at).as_nanos() as u64 >> FADE_STEP_BITS;
        if self.recent_nanos == 0 || age >= FADE_STEPS {
            return None;
        }
        let median = self.digest.p50.as_nanos() as u64;
        let (old, new) = (self.recent_nanos / FADE_STEPS, median / FADE_STEPS);
        Some(Duration::from_nanos(old * (FADE_STEPS - age) + new * age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::SharedEvidence;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn the_age_of_the_unfinished_is_their_average() {
        let name: Arc<str> = "a:1".into();
        let evidence = SharedEvidence::new(1).of(&name);
        let mut endpoint = Endpoint::new(name, 1, evidence, at(0));
        assert_eq!(endpoint.mean_age(at(5)), Duration::ZERO);
        endpoint.start(at(10));
        endpoint.start(at(20));
        assert_eq!(endpoint.mean_age(at(30)), Duration::from_millis(15));
        endpoint.end(at(10), Some(Duration::from_millis(20)), 0, at(30));
        assert_eq!(endpoint.mean_age(at(30)), Duration::from_millis(10));
        let recent = endpoint.recent(at(30)).expect("one has ended");
        assert!(recent > Duration::from_micros(19_999) && recent <= Duration::from_millis(20));
        assert!(endpoint.recent(at(600)).expect("not yet faded") < Duration::from_millis(10));
        assert_eq!(endpoint.recent(at(1_200)), None);
        endpoint.end(at(20), None, 0, at(40));
        assert_eq!((endpoint.in_flight, endpoint.mean_age(at(40))), (0, Duration::ZERO));
    }

    #[test]
    fn a_sum_of_starts_may_wrap() {
        let name: Arc<str> = "a:1".into();
        let evidence = SharedEvidence::new(1).of(&name);
        let far = 1u64 << 63;
        let mut endpoint = Endpoint::new(name, 1, evidence, Instant::from_nanos(far));
        for _ in 0..5 {
            endpoint.start(Instant::from_nanos(far));
        }
        assert_eq!(endpoint.mean_age(Instant::from_nanos(far + 7)), Duration::from_nanos(7));
    }
}
