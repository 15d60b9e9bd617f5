//! What is written down of each request, and what the figures are made of.
//!
//! Two times are kept for each request. **Response time** runs from the instant at which it was
//! *meant* to be sent to its answer: what a user sees. **Service time** runs from the instant at
//! which it *was* sent: what the server and the network took. In a closed loop the two are the same,
//! for the next request is meant to be sent when the last one has ended; in an open loop they part as
//! soon as requests have to wait for a connection, and service time alone would hide that.
//!
//! Which requests count: those meant to be sent within the window, whenever they end. Of these, every
//! one is in exactly one of `ok`, `errors`, `unfinished`, `unsent`, `shed`. The latencies are those
//! of requests that were answered with "ok", and of those that were waited for in vain (timed out,
//! unfinished, unsent), with the time that they were waited for: leaving these out would make a
//! server look better the more it loses. Other errors are counted and not timed: a refusal is quick.
//!
//! Pure: the clock is an argument.

use crate::protocol::Outcome;
use catena_engine::time::{Duration, Instant};
use hdrhistogram::Histogram;

/// The longest time that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// Significant digits of the histograms: 0.1 %, at the resolution of a nanosecond.
const DIGITS: u8 = 3;

/// A request that is sent later than this after its intended instant counts as sent late. Above the
/// jitter of a sleep that is cut by a timer (some 60 µs), below what anybody calls a latency.
pub const LATE: Duration = Duration::from_micros(100);

/// The span of time in which requests count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The end of the warm-up.
    pub from: Instant,
    /// The end of the run.
    pub until: Instant,
}

impl Window {
    /// True if a request that was meant to be sent at this instant counts.
    #[inline]
    pub fn contains(&self, at: Instant) -> bool {
        self.from <= at && at < self.until
    }

    /// How long it is.
    pub fn length(&self) -> Duration {
        self.until.since(self.from)
    }

    /// What the two have in common.
    pub fn overlap(self, other: Window) -> Option<Window> {
        let (from, until) = (self.from.max(other.from), self.until.min(other.until));
        (from < until).then_some(Window { from, until })
    }
}

/// A request that was sent and has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flight {
    /// When it was meant to be sent.
    pub intended: Instant,
    /// When it was sent.
    pub sent: Instant,
}

/// What one worker has seen.
#[derive(Clone, Debug)]
pub struct Recording {
    window: Window,
    response: Histogram<u64>,
    service: Histogram<u64>,
    /// Answered with "ok".
    pub ok: u64,
    /// Ended otherwise, by how.
    pub errors: Vec<(Outcome, u64)>,
    /// In flight when the run was given up.
    pub unfinished: u64,
    /// Still waiting for room at the end of the window.
    pub unsent: u64,
    /// Found no place to wait for room.
    pub shed: u64,
    /// Sent more than [`LATE`] after their intended instant, for whatever reason.
    pub late_sends: u64,
    /// Those of them for which there was room: the generator itself was late.
    pub late_by_generator: u64,
    /// Answers with "ok" that arrived within the window, whenever their requests were sent: the rate.
    pub answered_in_window: u64,
}

impl Recording {
    /// Nothing seen yet.
    pub fn new(window: Window) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, DIGITS)
                .expect("the bounds are constants that hdrhistogram takes")
        };
        Recording {
            window,
            response: histogram(),
            service: histogram(),
            ok: 0,
            errors: Vec::new(),
            unfinished: 0,
            unsent: 0,
            shed: 0,
            late_sends: 0,
            late_by_generator: 0,
            answered_in_window: 0,
        }
    }

    /// In which span requests count.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Nothing that is meant to be sent from now on counts. A window that has ended stays as it is;
    /// of one that has not begun nothing is left.
    pub fn cut(&mut self, now: Instant) {
        self.window.until = self.window.until.min(now);
        self.window.from = self.window.from.min(self.window.until);
    }

    /// A request was sent. `waited`: there was no room for it at its intended instant.
    #[inline]
    pub fn sent(&mut self, flight: Flight, waited: bool) {
        if flight.sent.since(flight.intended) > LATE && self.window.contains(flight.intended) {
            self.late_sends += 1;
            self.late_by_generator += u64::from(!waited);
        }
    }

    /// A request has ended.
    #[inline]
    pub fn ended(&mut self, flight: Flight, outcome: Outcome, now: Instant) {
        let is_ok = outcome == Outcome::Ok;
        self.answered_in_window += u64::from(is_ok && self.window.contains(now));
        if !self.window.contains(flight.intended) {
            return;
        }
        if is_ok {
            self.ok += 1;
        } else {
            self.count_error(outcome, 1);
        }
        if is_ok || outcome == Outcome::TimedOut {
            self.time(flight, now);
        }
    }

    /// A request was in flight when the run was given up: it took this long at least.
    pub fn unfinished(&mut self, flight: Flight, now: Instant) {
        if self.window.contains(flight.intended) {
            self.unfinished += 1;
            self.time(flight, now);
        }
    }

    /// A request still waited for room at the end: its response would have taken this long at least.
    pub fn unsent(&mut self, intended: Instant, now: Instant) {
        if self.window.contains(intended) {
            self.unsent += 1;
            self.response.saturating_record(now.since(intended).as_nanos() as u64);
        }
    }

    /// A request found no place to wait for room, and was never sent.
    pub fn shed(&mut self, intended: Instant) {
        self.shed += u64::from(self.window.contains(intended));
    }

    /// Takes in what another worker has seen.
    pub fn add(&mut self, other: &Recording) {
        let fits = "histograms of one kind have the same bounds";
        self.response.add(&other.response).expect(fits);
        self.service.add(&other.service).expect(fits);
        for (outcome, count) in &other.errors {
            self.count_error(*outcome, *count);
        }
        // Workers that were interrupted did not hear of it in the same instant.
        self.window.until = self.window.until.max(other.window.until);
        self.ok += other.ok;
        self.unfinished += other.unfinished;
        self.unsent += other.unsent;
        self.shed += other.shed;
        self.late_sends += other.late_sends;
        self.late_by_generator += other.late_by_generator;
        self.answered_in_window += other.answered_in_window;
    }

    /// Errors of all kinds.
    pub fn error_count(&self) -> u64 {
        self.errors.iter().map(|(_, count)| count).sum()
    }

    /// Requests that ended, well or not.
    pub fn requests(&self) -> u64 {
        self.ok + self.error_count()
    }

    /// Requests that were meant to be sent.
    pub fn intended(&self) -> u64 {
        self.requests() + self.unfinished + self.unsent + self.shed
    }

    /// From intended send to answer.
    pub fn response(&self) -> &Histogram<u64> {
        &self.response
    }

    /// From actual send to answer.
    pub fn service(&self) -> &Histogram<u64> {
        &self.service
    }

    #[inline]
    fn time(&mut self, flight: Flight, now: Instant) {
        self.response.saturating_record(now.since(flight.intended).as_nanos() as u64);
        self.service.saturating_record(now.since(flight.sent).as_nanos() as u64);
    }

    fn count_error(&mut self, outcome: Outcome, count: u64) {
        match self.errors.iter_mut().find(|(seen, _)| *seen == outcome) {
            Some((_, seen)) => *seen += count,
            None => self.errors.push((outcome, count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn flight(intended_ms: u64, sent_ms: u64) -> Flight {
        Flight { intended: at(intended_ms), sent: at(sent_ms) }
    }

    fn recording() -> Recording {
        Recording::new(Window { from: at(1_000), until: at(2_000) })
    }

    fn ms(histogram: &Histogram<u64>, quantile: f64) -> u64 {
        (histogram.value_at_quantile(quantile) as f64 / 1e6).round() as u64
    }

    #[test]
    fn response_counts_from_the_intention_and_service_from_the_send() {
        let mut recording = recording();
        recording.ended(flight(1_100, 1_300), Outcome::Ok, at(1_305));
        assert_eq!(ms(recording.response(), 1.0), 205);
        assert_eq!(ms(recording.service(), 1.0), 5);
    }

    #[test]
    fn the_intention_decides_what_counts_and_the_arrival_makes_the_rate() {
        let mut recording = recording();
        recording.ended(flight(999, 999), Outcome::Ok, at(1_001));
        recording.ended(flight(1_000, 1_000), Outcome::Ok, at(1_001));
        recording.ended(flight(1_999, 1_999), Outcome::Ok, at(2_001));
        recording.ended(flight(2_000, 2_000), Outcome::Ok, at(2_001));
        assert_eq!((recording.ok, recording.answered_in_window), (2, 2));
        assert_eq!(recording.response().len(), 2);
    }

    #[test]
    fn every_request_is_in_one_count_and_waiting_in_vain_is_timed() {
        let mut one = recording();
        one.ended(flight(1_000, 1_000), Outcome::Ok, at(1_001));
        one.ended(flight(1_000, 1_000), Outcome::NotExecuted(100), at(1_001));
        one.ended(flight(1_000, 1_000), Outcome::TimedOut, at(1_500));
        let mut other = recording();
        other.ended(flight(1_000, 1_000), Outcome::NotExecuted(100), at(1_001));
        other.ended(flight(1_000, 1_000), Outcome::ConnectionLost, at(1_001));
        other.unfinished(flight(1_200, 1_700), at(2_200));
        other.unsent(at(1_900), at(2_000));
        for ms in [900, 1_000, 1_001, 1_002] {
            other.shed(at(ms));
        }
        one.add(&other);
        assert_eq!((one.requests(), one.error_count(), one.intended()), (5, 4, 10));
        assert_eq!(one.errors.iter().find(|(o, _)| *o == Outcome::NotExecuted(100)).unwrap().1, 2);
        assert_eq!(one.response().len(), 4, "ok, timed out, unfinished, unsent");
        assert_eq!(one.service().len(), 3, "what was not sent had no service");
        assert_eq!((ms(one.response(), 1.0), ms(one.service(), 1.0)), (1_000, 500));
    }

    #[test]
    fn late_is_late_and_the_generator_is_blamed_only_if_there_was_room() {
        let mut recording = recording();
        let just_in_time = Flight { intended: at(1_100), sent: at(1_100) + LATE };
        recording.sent(just_in_time, false);
        assert_eq!((recording.late_sends, recording.late_by_generator), (0, 0));
        recording.sent(flight(1_100, 1_101), true);
        recording.sent(flight(1_100, 1_101), false);
        recording.sent(flight(900, 1_101), false);
        assert_eq!((recording.late_sends, recording.late_by_generator), (2, 1));
    }

    #[test]
    fn nanoseconds_are_told_apart_and_hours_are_not_lost() {
        let mut recording = recording();
        let sent = at(1_100);
        let quick = Duration::from_nanos(5_501);
        recording.ended(Flight { intended: sent, sent }, Outcome::Ok, sent + quick);
        assert!(recording.service().max().abs_diff(5_501) <= 5, "{}", recording.service().max());
        recording.ended(flight(1_100, 1_100), Outcome::Ok, at(3_600_000));
        assert!(recording.service().max() >= 60_000_000_000);
    }
}
