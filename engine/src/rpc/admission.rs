//! Accept or shed, before the handler runs.
//!
//! Three limits: requests in flight on the shard, payload bytes held by them, and the **queue delay
//! controller**, which keeps the time that requests wait below a target by refusing some of them,
//! the lowest priorities first.
//!
//! The controller looks at the *least* delay of each interval, as CoDel does (Nichols and Jacobson,
//! ACM Queue 10(5), 2012): a burst raises the greatest delay, only a standing queue raises the least.
//! Its output is a *level* on the scale of priorities, as in DAGOR (Zhou et al., SoCC 2018): what is
//! below the level is refused, what is in the level's band is refused with the probability of the
//! level's fraction, so that traffic of one single priority is thinned and not cut off.

use crate::config::{ConfigError, between};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::frame::Priority;

/// Bands of priority, by its three highest bits.
const BANDS: f64 = 8.0;
/// Share of a band by which the level rises after an interval whose delay is just above the target;
/// a delay of n targets raises it n times as far, up to the cap. The cap and the interval give the
/// shortest way from "all" to "half" of one priority: 2 intervals.
const LEVEL_RISE: f64 = 0.02;
const LEVEL_RISE_MAX: f64 = 0.25;
/// Share of a band by which the level falls after a good interval: overload is left with care.
const LEVEL_FALL: f64 = 0.02;
/// The level ends half a band below the top: something is always let in, or nothing could be measured.
const LEVEL_MAX: f64 = BANDS - 0.5;

/// The limits of one shard.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionConfig {
    /// Requests accepted and not answered. Default 65,536.
    pub in_flight_max: u32,
    /// Payload bytes of those requests. Default 256 MiB.
    pub bytes_max: usize,
    /// Memory in bytes that the connections hold: requests that have not arrived in full, and answers
    /// that were not read. Above it the connection that holds most is ended. Default 256 MiB.
    pub connection_bytes_max: usize,
    /// The standing queue delay above which requests are shed. Default 5 ms.
    pub queue_delay_target: Duration,
    /// How long the delay must stand. Default 100 ms, above the longest ordinary burst.
    pub interval: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        AdmissionConfig {
            in_flight_max: 65_536,
            bytes_max: 256 << 20,
            connection_bytes_max: 256 << 20,
            queue_delay_target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
        }
    }
}

impl AdmissionConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        const MINUTE_US: u64 = 60_000_000;
        between("admission.in_flight_max", self.in_flight_max.into(), 1, u32::MAX.into())?;
        between("admission.bytes_max", self.bytes_max as u64, 1, 1 << 40)?;
        let connections = self.connection_bytes_max as u64;
        between("admission.connection_bytes_max", connections, 1 << 20, 1 << 40)?;
        let target = micros(self.queue_delay_target);
        between("admission.queue_delay_target (µs)", target, 1, MINUTE_US)?;
        between("admission.interval (µs)", micros(self.interval), 1, MINUTE_US)
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShedReason {
    /// Too many requests in flight on the shard.
    InFlight,
    /// Too many payload bytes held on the shard.
    Bytes,
    /// The queue delay stands above its target, and this priority is among the lowest.
    QueueDelay,
}

/// The controller and the counts of one shard.
#[derive(Debug)]
pub struct Admission {
    config: AdmissionConfig,
    in_flight: u32,
    bytes: usize,
    level: f64,
    /// Bands in which requests arrived in this interval, one bit each: the level skips the others.
    bands_seen: u8,
    interval_ends_at: Instant,
    least_delay: Duration,
}

impl Admission {
    /// Nothing in flight, nothing shed.
    pub fn new(config: AdmissionConfig) -> Self {
        Admission {
            config,
            in_flight: 0,
            bytes: 0,
            level: 0.0,
            bands_seen: 0,
            interval_ends_at: Instant::ZERO,
            least_delay: Duration::ZERO,
        }
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Below this much of the scale of priorities (0 to 1) requests are shed.
    pub fn shed_level(&self) -> f64 {
        self.level / BANDS
    }

    /// Takes in how long a request waited. Call for each request, before [`Admission::admit`].
    #[inline]
    pub fn observe(&mut self, priority: Priority, delay: Duration, now: Instant) {
        if now >= self.interval_ends_at {
            self.end_interval(now);
        }
        self.bands_seen |= 1 << band(priority);
        self.least_delay = self.least_delay.min(delay);
    }

    /// Whether a request may begin.
    ///
    /// # Errors
    /// Why not.
    #[inline]
    pub fn admit(
        &self,
        priority: Priority,
        payload_bytes: usize,
        rng: &mut Rng,
    ) -> Result<(), ShedReason> {
        if self.in_flight >= self.config.in_flight_max {
            return Err(ShedReason::InFlight);
        }
        if self.bytes + payload_bytes > self.config.bytes_max {
            return Err(ShedReason::Bytes);
        }
        if self.level > 0.0 && self.is_shed(priority, rng) {
            return Err(ShedReason::QueueDelay);
        }
        Ok(())
    }

    /// A request is answered later: it counts until [`Admission::end`].
    pub fn begin(&mut self, payload_bytes: usize) {
        self.in_flight += 1;
        self.bytes += payload_bytes;
    }

    /// A request that was begun has ended.
    pub fn end(&mut self, payload_bytes: usize) {
        self.in_flight = self.in_flight.checked_sub(1).expect("every end has a begin");
        self.bytes = self.bytes.checked_sub(payload_bytes).expect("every end has a begin");
    }

    fn is_shed(&self, priority: Priority, rng: &mut Rng) -> bool {
        let band = f64::from(band(priority));
        band + 1.0 <= self.level || (band <= self.level && rng.chance(self.level - band))
    }

    /// Judges the interval that has ended, before the first request of the next one counts. Of an
    /// interval that ended long ago nothing is left to be judged by: a queue that stands has requests
    /// in every interval, and one slow request before a quiet time is no queue.
    fn end_interval(&mut self, now: Instant) {
        let is_recent = now.since(self.interval_ends_at) < self.config.interval;
        let targets = self.least_delay.as_secs_f64() / self.config.queue_delay_target.as_secs_f64();
        if targets > 1.0 && is_recent {
            let from = self.level.max(self.lowest_band_from(self.level));
            self.level = (from + (LEVEL_RISE * targets).min(LEVEL_RISE_MAX)).min(LEVEL_MAX);
        } else {
            self.level = (self.level - LEVEL_FALL).max(0.0);
            if self.lowest_band_from(self.level) > self.level {
                // Nobody is in the level's band: the next one to let in more of is below it.
                self.level = self.highest_band_below(self.level);
            }
        }
        self.bands_seen = 0;
        self.least_delay = Duration::MAX;
        self.interval_ends_at = now + self.config.interval;
    }

    /// The bottom of the lowest band with requests that reaches above `level`.
    fn lowest_band_from(&self, level: f64) -> f64 {
        let above = self.bands_seen & (u8::MAX << level as u32);
        if above == 0 { level } else { f64::from(above.trailing_zeros()) }
    }

    /// The top of the highest band with requests that ends below `level`, or 0.
    fn highest_band_below(&self, level: f64) -> f64 {
        let below = self.bands_seen & !(u8::MAX << level as u32);
        f64::from(u8::BITS - below.leading_zeros())
    }
}

fn band(priority: Priority) -> u8 {
    (priority.0 >> 13) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_limits() {
        let config = AdmissionConfig { in_flight_max: 2, bytes_max: 100, ..Default::default() };
        let mut admission = Admission::new(config);
        let mut rng = Rng::from_seed(1);
        assert_eq!(admission.admit(Priority::NORMAL, 101, &mut rng), Err(ShedReason::Bytes));
        admission.begin(60);
        assert_eq!(admission.admit(Priority::NORMAL, 41, &mut rng), Err(ShedReason::Bytes));
        admission.begin(40);
        assert_eq!(admission.admit(Priority::NORMAL, 0, &mut rng), Err(ShedReason::InFlight));
        admission.end(60);
        assert_eq!(admission.admit(Priority::NORMAL, 60, &mut rng), Ok(()));
    }

    /// A server that can do `capacity` requests an interval, offered `offered` of each priority.
    /// Returns the share of each priority that was let in, once settled.
    fn settle(offered: &[(Priority, u32)], capacity: u32) -> Vec<f64> {
        let config = AdmissionConfig::default();
        let mut admission = Admission::new(config);
        let mut rng = Rng::from_seed(3);
        let mut queue = 0u32;
        let mut now = Instant::ZERO;
        let mut admitted = vec![0u32; offered.len()];
        const INTERVALS: u32 = 2_000;
        for interval in 0..INTERVALS {
            for (index, (priority, count)) in offered.iter().enumerate() {
                for _ in 0..*count {
                    let delay = config.interval * queue / capacity;
                    admission.observe(*priority, delay, now);
                    if admission.admit(*priority, 0, &mut rng).is_ok() {
                        queue += 1;
                        admitted[index] += u32::from(interval >= INTERVALS / 2);
                    }
                }
            }
            queue = queue.saturating_sub(capacity);
            now += config.interval;
        }
        let offered = offered.iter().map(|(_, count)| f64::from(count * INTERVALS / 2));
        admitted
            .iter()
            .zip(offered)
            .map(|(admitted, offered)| f64::from(*admitted) / offered)
            .collect()
    }

    #[test]
    fn without_overload_nothing_is_shed() {
        assert_eq!(settle(&[(Priority::NORMAL, 90)], 100), [1.0]);
    }

    #[test]
    fn under_overload_the_lowest_priority_goes_first() {
        let offered =
            [(Priority::BACKGROUND, 60), (Priority::NORMAL, 60), (Priority::CRITICAL, 30)];
        let shares = settle(&offered, 100);
        assert!(shares[0] < 0.5, "background is thinned: {shares:?}");
        assert!(shares[1] > 0.9 && shares[2] > 0.9, "the others hardly suffer: {shares:?}");
    }

    #[test]
    fn one_slow_request_is_no_queue() {
        let slow = Duration::from_millis(80);
        let interval = AdmissionConfig::default().interval;
        for gap in [interval * 3 / 2, interval * 5] {
            let mut admission = Admission::new(AdmissionConfig::default());
            let mut now = Instant::from_nanos(1 << 40);
            for delay in [Duration::ZERO, slow, Duration::ZERO, slow, Duration::ZERO] {
                admission.observe(Priority::NORMAL, delay, now);
                assert_eq!(admission.shed_level(), 0.0, "{delay:?} with gaps of {gap:?}");
                now += gap / if delay == slow { 10 } else { 1 };
            }
        }
    }

    #[test]
    fn a_second_of_overload_sheds_whatever_the_priority() {
        for priority in [Priority::BACKGROUND, Priority::NORMAL, Priority::CRITICAL] {
            let mut admission = Admission::new(AdmissionConfig::default());
            let mut now = Instant::ZERO;
            for _ in 0..10 {
                admission.observe(priority, Duration::from_millis(80), now);
                now += Duration::from_millis(101);
            }
            let mut rng = Rng::from_seed(1);
            let shed = (0..100).filter(|_| admission.admit(priority, 0, &mut rng).is_err()).count();
            assert!(shed > 50, "{priority:?}: {shed} of 100 shed");
            for _ in 0..200 {
                admission.observe(priority, Duration::ZERO, now);
                now += Duration::from_millis(101);
            }
            assert_eq!(admission.shed_level(), 0.0, "{priority:?}: good times are noticed");
        }
    }

    #[test]
    fn one_single_priority_is_thinned_not_cut_off() {
        let shares = settle(&[(Priority::NORMAL, 200)], 100);
        assert!((0.35..0.6).contains(&shares[0]), "half of it fits: {shares:?}");
    }
}
