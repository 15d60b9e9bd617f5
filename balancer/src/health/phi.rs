//! How unlikely the silence of an endpoint is: the phi accrual failure detector.
//!
//! Hayashibara, Défago, Yared, Katayama, *The φ Accrual Failure Detector*, 2004: from the intervals
//! between heartbeats so far, φ is −log₁₀ of the probability that the next one is still to come after
//! so long a silence. φ = 8: one wrong suspicion in 10⁸ intervals, if they are as regular as they were.

use catena_engine::time::{Duration, Instant};

/// Intervals that are remembered, as the weight of the newest: 1/16.
const MEMORY: f64 = 16.0;

/// The heartbeats of one endpoint. What each sign of life touches comes first.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct PhiAccrual {
    last: Instant,
    /// How often a heartbeat is due, in seconds.
    beat: f64,
    /// Mean and variance of the intervals, in seconds, weighted towards the newest.
    mean: f64,
    variance: f64,
    /// No interval is taken for more regular than this, in seconds.
    deviation_min: f64,
}

impl PhiAccrual {
    /// A detector that expects a heartbeat every `interval`, and has just heard one.
    pub fn new(interval: Duration, now: Instant) -> Self {
        let beat = interval.as_secs_f64();
        // A quarter of an interval: the start is doubtful, and so is a machine that is busy now and then.
        let deviation_min = beat / 4.0;
        let variance = deviation_min * deviation_min;
        PhiAccrual { last: now, beat, mean: beat, variance, deviation_min }
    }

    /// A heartbeat, or anything else that the endpoint sent.
    pub fn heard(&mut self, now: Instant) {
        let interval = now.since(self.last).as_secs_f64();
        self.last = self.last.max(now);
        // Signs of life that come more often than heartbeats are due must not make the next one look
        // late: many in between say nothing, and none counts as earlier than due.
        if interval >= self.beat / 2.0 {
            let difference = interval.max(self.beat) - self.mean;
            self.mean += difference / MEMORY;
            self.variance += (difference * difference - self.variance) / MEMORY;
        }
    }

    /// The silence until now means nothing, and says nothing of its rhythm.
    pub fn resume(&mut self, now: Instant) {
        self.last = self.last.max(now);
    }

    /// How unlikely the silence until `now` is.
    pub fn phi(&self, now: Instant) -> f64 {
        let deviation = self.variance.sqrt().max(self.deviation_min);
        let y = (now.since(self.last).as_secs_f64() - self.mean) / deviation;
        // The tail of a normal distribution by the logistic approximation (Bowling et al., 2009); good to
        // 1.4 · 10⁻⁴, and smooth far out, where the exact one is lost in rounding.
        // P(later) = e⁻ˣ / (1 + e⁻ˣ); its logarithm is taken of the two parts, or it would end in 0.
        let x = y * (1.5976 + 0.070_56 * y * y);
        if y > 0.0 {
            x * std::f64::consts::LOG10_E + (-x).exp().ln_1p() * std::f64::consts::LOG10_E
        } else {
            x.exp().ln_1p() * std::f64::consts::LOG10_E
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_millis(100);

    fn after(beats: u32, interval: impl Fn(u32) -> Duration) -> (PhiAccrual, Instant) {
        let mut now = Instant::ZERO;
        let mut detector = PhiAccrual::new(BEAT, now);
        for beat in 0..beats {
            now += interval(beat);
            detector.heard(now);
        }
        (detector, now)
    }

    #[test]
    fn suspicion_grows_with_silence() {
        let (detector, now) = after(100, |_| BEAT);
        let phis: Vec<f64> = (0..10).map(|beats| detector.phi(now + BEAT * beats)).collect();
        assert!(phis.is_sorted(), "{phis:?}");
        assert!(phis[1] < 1.0, "on time: {phis:?}");
        assert!(phis[3] > 8.0, "two beats late: {phis:?}");
        assert!(phis[9].is_finite());
    }

    #[test]
    fn irregular_beats_are_given_more_time() {
        let (regular, at) = after(200, |_| BEAT);
        let (irregular, later) = after(200, |beat| BEAT / 2 + BEAT * (beat % 2));
        assert!(irregular.phi(later + BEAT * 2) < regular.phi(at + BEAT * 2));
    }

    #[test]
    fn who_was_busy_and_is_now_idle_has_until_the_next_heartbeat_is_due() {
        let (detector, now) = after(1_000, |_| BEAT.mul_f64(0.55));
        assert!(detector.phi(now + BEAT.mul_f64(1.5)) < 8.0, "its heartbeat may be on its way");
    }

    #[test]
    fn answers_between_heartbeats_are_signs_of_life_but_no_rhythm() {
        let (mut detector, mut now) = after(50, |_| BEAT);
        for _ in 0..1_000 {
            now += Duration::from_millis(1);
            detector.heard(now);
        }
        assert!(detector.phi(now + BEAT) < 1.0, "{}", detector.phi(now + BEAT));
    }
}
