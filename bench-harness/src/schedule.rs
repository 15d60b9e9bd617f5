//! When requests are meant to be sent, and which of them wait because they could not be.
//!
//! An open loop has users who do not know how the server is doing: their requests come when they
//! come. So the instants are fixed beforehand, in closed form or by a seeded generator, and never
//! moved. A request whose turn comes while every connection is busy waits here, and its response
//! time counts from its own instant, not from the one at which there was room.
//!
//! Pure: the clock is an argument.

use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// The most requests of one worker that wait for room; 8 bytes each. One second at a million a
/// second: whoever is further behind measures the length of the run, and is told so.
pub const WAITING_MAX: usize = 1 << 20;

/// How the instants of an open loop are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Independent users: exponential gaps.
    Poisson,
    /// A metronome: equal gaps. Kinder to a server than any traffic is.
    Const,
}

impl FromStr for Arrival {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "poisson" => Ok(Arrival::Poisson),
            "const" => Ok(Arrival::Const),
            other => Err(format!("{other:?} is no arrival process; say poisson or const")),
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arrival::Poisson => "poisson",
            Arrival::Const => "const",
        })
    }
}

/// One worker's part of a rate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share {
    /// Requests a second of all workers together.
    pub rate: f64,
    /// Which worker, from 0.
    pub worker: u32,
    /// How many workers there are.
    pub workers: u32,
}

/// The instants at which one worker means to send, from `from` to before `until`.
#[derive(Debug)]
pub struct Schedule {
    share: Share,
    from: Instant,
    until: Instant,
    gaps: Gaps,
    next: Instant,
}

#[derive(Debug)]
enum Gaps {
    /// The k-th instant of this worker is `from + (k · workers + worker) / rate`.
    Const { k: u64 },
    /// Exponential gaps of mean `workers / rate`; nanoseconds since `from`, with their fraction.
    Poisson { rng: Rng, at_ns: f64 },
}

impl Schedule {
    /// The schedule of one worker. `rng` must be that worker's own.
    ///
    /// # Panics
    /// If the rate is not positive: the command line refuses that.
    pub fn new(arrival: Arrival, share: Share, rng: Rng, from: Instant, until: Instant) -> Self {
        assert!(share.rate > 0.0 && share.rate.is_finite(), "a rate is positive");
        let gaps = match arrival {
            Arrival::Const => Gaps::Const { k: 0 },
            Arrival::Poisson => Gaps::Poisson { rng, at_ns: 0.0 },
        };
        let mut schedule = Schedule { share, from, until, gaps, next: from };
        schedule.advance();
        schedule
    }

    /// The next instant; `None`: there are no more.
    #[inline]
    pub fn peek(&self) -> Option<Instant> {
        (self.next < self.until).then_some(self.next)
    }

    /// Goes on to the one after.
    #[inline]
    pub fn advance(&mut self) {
        let Share { rate, worker, workers } = self.share;
        let ns_since_start = match &mut self.gaps {
            Gaps::Const { k } => {
                let nth = *k * u64::from(workers) + u64::from(worker);
                *k += 1;
                nth as f64 * 1e9 / rate
            }
            Gaps::Poisson { rng, at_ns } => {
                // `unit` is below 1, so the logarithm is finite.
                let gap = -(1.0 - rng.unit()).ln() * 1e9 * f64::from(workers) / rate;
                *at_ns += gap;
                *at_ns
            }
        };
        self.next = self.from + Duration::from_nanos(ns_since_start as u64);
    }
}

/// A request whose turn has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// When it was meant to be sent.
    pub intended: Instant,
    /// It could not be sent then, because every connection was busy.
    pub waited: bool,
}

/// A schedule, and those whose turn has come and who wait for room, oldest first.
#[derive(Debug)]
pub struct Pacer {
    schedule: Schedule,
    waiting: VecDeque<Instant>,
    waiting_max: usize,
}

impl Pacer {
    /// Nobody waits yet; at most `waiting_max` ever will.
    pub fn new(schedule: Schedule, waiting_max: usize) -> Self {
        Pacer { schedule, waiting: VecDeque::with_capacity(waiting_max), waiting_max }
    }

    /// The oldest request whose turn has come, for a caller who has room for it.
    #[inline]
    pub fn take_due(&mut self, now: Instant) -> Option<Due> {
        if let Some(intended) = self.waiting.pop_front() {
            return Some(Due { intended, waited: true });
        }
        let intended = self.schedule.peek().filter(|intended| *intended <= now)?;
        self.schedule.advance();
        Some(Due { intended, waited: false })
    }

    /// Takes note of those whose turn came while there was no room. Call with the instant until which
    /// there was none. `on_shed` hears of each that finds no place to wait; it is never sent.
    pub fn put_off_due(&mut self, now: Instant, mut on_shed: impl FnMut(Instant)) {
        while let Some(intended) = self.schedule.peek().filter(|intended| *intended <= now) {
            self.schedule.advance();
            if self.waiting.len() < self.waiting_max {
                self.waiting.push_back(intended);
            } else {
                on_shed(intended);
            }
        }
    }

    /// When the next turn comes; at once if somebody waits.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.front().copied().or(self.schedule.peek())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Share = Share { rate: 1_000.0, worker: 0, workers: 1 };

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    fn all(mut schedule: Schedule) -> Vec<u64> {
        let mut instants = Vec::new();
        while let Some(at) = schedule.peek() {
            instants.push(at.as_nanos());
            schedule.advance();
        }
        instants
    }

    fn schedule(arrival: Arrival, share: Share, seed: u64, secs: u64) -> Schedule {
        let from = at(7_000);
        Schedule::new(arrival, share, Rng::from_seed(seed), from, from + Duration::from_secs(secs))
    }

    #[test]
    fn a_metronome_does_not_drift() {
        // A third of a nanosecond is left over at every beat; after a million beats nothing is.
        let share = Share { rate: 3_000_000.0, ..ONE };
        let instants = all(schedule(Arrival::Const, share, 0, 1));
        assert_eq!(instants.len(), 3_000_000);
        assert_eq!(instants[..3], [7_000, 7_333, 7_666]);
        assert_eq!(instants[3_000], 7_000 + 1_000_000);
        assert_eq!(instants[2_700_000], 7_000 + 900_000_000);
    }

    #[test]
    fn workers_take_turns_and_together_keep_the_rate() {
        let share = |worker| Share { rate: 1_000.0, worker, workers: 3 };
        let mut together: Vec<u64> =
            (0..3).flat_map(|worker| all(schedule(Arrival::Const, share(worker), 0, 1))).collect();
        together.sort_unstable();
        assert_eq!(together, all(schedule(Arrival::Const, ONE, 0, 1)));
        let poisson =
            |worker| all(schedule(Arrival::Poisson, share(worker), 90 + worker as u64, 50));
        let count = (0..3).map(|worker| poisson(worker).len()).sum::<usize>();
        assert!((49_000..51_000).contains(&count), "{count} of 50,000 ± 4.5 standard deviations");
    }

    #[test]
    fn fractional_rates_are_kept() {
        let share = Share { rate: 0.5, ..ONE };
        assert_eq!(all(schedule(Arrival::Const, share, 0, 10)).len(), 5);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_variance_of_exponential_ones() {
        let instants = all(schedule(Arrival::Poisson, ONE, 42, 200));
        let gaps: Vec<f64> = instants.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / (count - 1.0);
        assert!((mean / 1e6 - 1.0).abs() < 0.02, "mean gap {mean} ns of 1 ms");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "deviation {} ns", variance.sqrt());
        assert_eq!(instants, all(schedule(Arrival::Poisson, ONE, 42, 200)), "a seed is a schedule");
        assert_ne!(instants, all(schedule(Arrival::Poisson, ONE, 43, 200)));
    }

    #[test]
    fn who_finds_no_room_keeps_its_instant() {
        let mut pacer = Pacer::new(schedule(Arrival::Const, ONE, 0, 1), 2);
        let start = at(7_000);
        let beat = |k| start + Duration::from_millis(k);
        assert_eq!(pacer.take_due(beat(0)), Some(Due { intended: beat(0), waited: false }));
        assert_eq!(pacer.take_due(beat(0)), None);
        // No room from beat 1 to beat 4: two wait, two find no place.
        let mut shed = Vec::new();
        pacer.put_off_due(beat(4), |intended| shed.push(intended));
        assert_eq!(shed, [beat(3), beat(4)]);
        assert_eq!(pacer.next_due(), Some(beat(1)));
        assert_eq!(pacer.take_due(beat(5)), Some(Due { intended: beat(1), waited: true }));
        assert_eq!(pacer.take_due(beat(5)), Some(Due { intended: beat(2), waited: true }));
        assert_eq!(pacer.take_due(beat(5)), Some(Due { intended: beat(5), waited: false }));
        assert_eq!(pacer.take_due(beat(5)), None);
        assert_eq!(pacer.next_due(), Some(beat(6)));
    }

    #[test]
    fn the_schedule_ends() {
        let mut pacer = Pacer::new(schedule(Arrival::Const, ONE, 0, 1), 10);
        let mut count = 0;
        while pacer.take_due(Instant::FAR_FUTURE).is_some() {
            count += 1;
        }
        assert_eq!((count, pacer.next_due()), (1_000, None));
    }
}
