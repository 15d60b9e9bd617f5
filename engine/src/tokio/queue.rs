//! PURE: the calls that wait to be sent, and when the next connection may be made for them.
//!
//! ```text
//!           a call waits, the pause is over             the hello is in
//! no connection ─────────────────────────► connecting ─────────────────► calls are taken out
//!       ▲  ▲                                    │ failed                        │
//!       │  └───────────── a pause ──────────────┴── it ended, and was no good ──┤
//!       └──────────────────── at once ── it ended, and had answered something ──┘
//! ```

use crate::client::ClientConfig;
use crate::rng::Rng;
use crate::rpc::error::CloseReason;
use crate::time::{Instant, earliest};
use crate::timers::{TimerId, Timers};
use crate::wire::frame::GoAwayReason;
use std::collections::BTreeMap;
use std::io;

/// Calls that wait, each with its number, which says whose turn it is.
#[derive(Debug)]
pub(super) struct Queue<T> {
    config: ClientConfig,
    rng: Rng,
    waiting: BTreeMap<u64, Waiting<T>>,
    /// One for each of them that has a deadline.
    deadlines: Timers<u64>,
    /// Attempts to connect that failed in a row, connections on which nothing was answered included.
    failures: u32,
    /// Until then no connection is made; and why not.
    pause: Option<(Instant, io::ErrorKind)>,
}

#[derive(Debug)]
struct Waiting<T> {
    call: T,
    timer: Option<TimerId>,
}

/// Why there is no connection, and the calls that fail for it.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Failed<T> {
    pub(super) kind: io::ErrorKind,
    pub(super) calls: Vec<T>,
}

/// The calls.
impl<T> Queue<T> {
    pub(super) fn new(config: ClientConfig, rng: Rng) -> Self {
        Queue {
            config,
            rng,
            waiting: BTreeMap::new(),
            deadlines: Timers::with_capacity(0),
            failures: 0,
            pause: None,
        }
    }

    pub(super) fn push(&mut self, number: u64, deadline: Option<Instant>, call: T) {
        let timer = deadline.map(|deadline| self.deadlines.insert(deadline, number));
        self.waiting.insert(number, Waiting { call, timer });
    }

    /// The call whose turn it is.
    pub(super) fn first(&self) -> Option<(u64, &T)> {
        self.waiting.first_key_value().map(|(number, waiting)| (*number, &waiting.call))
    }

    /// Takes a call out; `None` if it does not wait, or no longer.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let Waiting { call, timer } = self.waiting.remove(&number)?;
        if let Some(timer) = timer {
            self.deadlines.cancel(timer);
        }
        Some(call)
    }

    /// Takes out a call whose deadline has passed.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let number = self.deadlines.pop_due(now)?;
        let waiting = self.waiting.remove(&number);
        Some(waiting.expect("a call that leaves takes its timer along").call)
    }

    /// When to ask [`Queue::pop_expired`] and [`Queue::begin_attempt`] again.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let pause = self.pause.filter(|_| !self.waiting.is_empty());
        earliest(self.deadlines.next(), pause.map(|(ends, _)| ends))
    }
}

/// The connection.
impl<T> Queue<T> {
    /// While there is no connection: true if one is to be made now.
    pub(super) fn begin_attempt(&mut self, now: Instant) -> bool {
        if self.waiting.is_empty() || self.is_paused(now) {
            return false;
        }
        self.pause = None;
        true
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.pause.is_some_and(|(ends, _)| ends > now)
    }

    /// Why a call that comes now is not to wait for a connection.
    pub(super) fn refusal(&self, now: Instant) -> Option<io::ErrorKind> {
        let is_refused = !self.config.waits_for_connection && self.is_paused(now);
        self.pause.filter(|_| is_refused).map(|(_, kind)| kind)
    }

    /// No connection was made: calls without a deadline fail, the others wait for the next attempt,
    /// unless nobody is to wait.
    pub(super) fn attempt_failed(&mut self, kind: io::ErrorKind, now: Instant) -> Failed<T> {
        self.begin_pause(kind, now);
        let waits = self.config.waits_for_connection;
        let (waiting, failing): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|(_, waiting)| waits && waiting.timer.is_some());
        self.waiting = waiting;
        let timers = failing.values().filter_map(|failing| failing.timer);
        for timer in timers {
            self.deadlines.cancel(timer);
        }
        Failed { kind, calls: failing.into_values().map(|failing| failing.call).collect() }
    }

    /// A connection takes no more calls.
    ///
    /// One that has answered something was good, and the next is made at once, unless the server has
    /// said that this would not help. Any other was no better than none, or a server that takes
    /// connections and leaves would be called again as fast as the network can.
    pub(super) fn connection_ended(
        &mut self,
        reason: &CloseReason,
        has_answered: bool,
        now: Instant,
    ) -> Option<Failed<T>> {
        if has_answered {
            self.failures = 0;
            if !is_refusal(reason) {
                return None;
            }
        }
        let kind = kind_of(reason);
        if !has_answered && is_foreign(reason) {
            // The next attempt will end like this one, whatever time a call has.
            self.begin_pause(kind, now);
            self.deadlines = Timers::with_capacity(0);
            let waiting = std::mem::take(&mut self.waiting).into_values();
            return Some(Failed { kind, calls: waiting.map(|waiting| waiting.call).collect() });
        }
        Some(self.attempt_failed(kind, now))
    }

    fn begin_pause(&mut self, kind: io::ErrorKind, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.pause = Some((now + self.config.backoff(self.failures, &mut self.rng), kind));
    }
}

/// The two sides do not understand each other.
fn is_foreign(reason: &CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::PeerMisbehaved(_)
            | CloseReason::PeerIncompatible(_)
            | CloseReason::PeerLeft(GoAwayReason::PROTOCOL_ERROR | GoAwayReason::VERSION_MISMATCH)
    )
}

/// The server does not want this client, or not now.
fn is_refusal(reason: &CloseReason) -> bool {
    is_foreign(reason) || *reason == CloseReason::PeerLeft(GoAwayReason::OVERLOADED)
}

/// The end of a connection, as the failure of an attempt to make one.
fn kind_of(reason: &CloseReason) -> io::ErrorKind {
    match reason {
        foreign if is_foreign(foreign) => io::ErrorKind::InvalidData,
        CloseReason::Lost(kind) => *kind,
        CloseReason::PeerTooSlow(_) => io::ErrorKind::TimedOut,
        CloseReason::PeerLeft(GoAwayReason::OVERLOADED) => io::ErrorKind::ResourceBusy,
        _ => io::ErrorKind::ConnectionAborted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use io::ErrorKind;

    const NO_GOOD: CloseReason = CloseReason::PeerClosed;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    /// Pauses of 50 to 100 ms, then of 100 to 200, and so on up to 400 to 800.
    fn queue() -> Queue<&'static str> {
        let config = ClientConfig {
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_millis(800),
            ..ClientConfig::default()
        };
        Queue::new(config, Rng::from_seed(1))
    }

    fn expired(queue: &mut Queue<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop_expired(now)).collect()
    }

    /// How long the pause is that begins at `now`.
    fn pause(queue: &Queue<&'static str>, now: Instant) -> Duration {
        queue.wake_at().expect("somebody waits").since(now)
    }

    #[test]
    fn calls_come_out_in_their_turn() {
        let mut queue = queue();
        for (number, call) in [(5, "b"), (3, "a"), (9, "c")] {
            queue.push(number, None, call);
        }
        assert_eq!(queue.first(), Some((3, &"a")));
        assert_eq!(queue.remove(5), Some("b"), "forgotten");
        assert_eq!(queue.remove(3), Some("a"));
        assert_eq!(queue.first(), Some((9, &"c")));
        assert_eq!(queue.remove(3), None, "gone before");
    }

    #[test]
    fn each_call_ends_at_its_own_deadline_pause_or_not() {
        let mut queue = queue();
        queue.push(1, Some(at(30)), "late");
        queue.push(2, Some(at(10)), "soon");
        queue.push(3, Some(at(20)), "forgotten");
        queue.push(4, Some(at(10_000)), "patient");
        let failed = queue.attempt_failed(ErrorKind::ConnectionRefused, at(0));
        assert_eq!(failed.calls, [""; 0], "each has time left");
        assert_eq!(queue.remove(3), Some("forgotten"));
        assert_eq!(queue.wake_at(), Some(at(10)), "before the pause ends");
        assert_eq!(expired(&mut queue, at(9)), [""; 0]);
        assert_eq!(expired(&mut queue, at(10)), ["soon"]);
        assert_eq!(expired(&mut queue, at(40)), ["late"]);
        assert!(!queue.begin_attempt(at(49)), "the pause is 50 ms at least");
        assert!(queue.begin_attempt(at(100)), "and 100 at most");
        assert_eq!(queue.wake_at(), Some(at(10_000)), "the attempt is under way");
    }

    #[test]
    fn calls_without_a_deadline_fail_with_the_attempt() {
        let mut queue = queue();
        queue.push(1, None, "fails");
        queue.push(2, Some(at(1_000)), "waits");
        queue.push(3, None, "fails too");
        let failed = queue.attempt_failed(ErrorKind::ConnectionRefused, at(0));
        let kind = ErrorKind::ConnectionRefused;
        assert_eq!(failed, Failed { kind, calls: vec!["fails", "fails too"] });
        assert_eq!(queue.first(), Some((2, &"waits")));
    }

    #[test]
    fn who_is_not_to_wait_fails_with_the_attempt_and_in_the_pause_after_it() {
        let mut queue = queue();
        queue.config.waits_for_connection = false;
        let kind = ErrorKind::ConnectionRefused;
        assert_eq!(queue.refusal(at(0)), None, "nothing was tried yet");
        queue.push(1, Some(at(1_000)), "has time");
        queue.push(2, None, "has all the time");
        let calls = vec!["has time", "has all the time"];
        assert_eq!(queue.attempt_failed(kind, at(0)), Failed { kind, calls });
        assert_eq!(queue.wake_at(), None, "its timer has gone with it");
        assert_eq!(queue.refusal(at(49)), Some(kind), "the pause is 50 ms at least");
        assert_eq!(queue.refusal(at(100)), None, "and 100 at most");
    }

    #[test]
    fn nobody_connects_for_nobody() {
        let mut queue = queue();
        assert!(!queue.begin_attempt(at(0)));
        queue.attempt_failed(ErrorKind::ConnectionRefused, at(0));
        assert_eq!(queue.wake_at(), None);
        queue.push(1, None, "came in the pause");
        assert!(queue.wake_at().is_some_and(|at_| at_ >= at(50)), "it waits for its end");
        assert!(queue.begin_attempt(at(100)));
    }

    #[test]
    fn pauses_grow_until_something_is_answered() {
        let mut queue = queue();
        queue.push(1, Some(Instant::FAR_FUTURE), "waits");
        for pause_ms in [100, 200, 400, 800, 800] {
            // A connection that was made and ended is no better than one that was refused.
            assert_eq!(queue.connection_ended(&NO_GOOD, false, at(7)).unwrap().calls, [""; 0]);
            let full = Duration::from_millis(pause_ms);
            let drawn = pause(&queue, at(7));
            assert!((full / 2..=full).contains(&drawn), "{drawn:?} of {full:?}");
        }
        assert!(queue.begin_attempt(at(1_000)));
        assert_eq!(queue.connection_ended(&NO_GOOD, true, at(1_000)), None);
        assert!(queue.begin_attempt(at(1_000)), "it was good, the next is made at once");
        queue.attempt_failed(ErrorKind::ConnectionRefused, at(1_000));
        assert!(pause(&queue, at(1_000)) <= Duration::from_millis(100), "from the beginning");
    }

    #[test]
    fn a_server_that_refuses_gets_its_pause_though_it_has_answered() {
        for (reason, has_pause) in [
            (GoAwayReason::DRAINING, false),
            (GoAwayReason::IDLE, false),
            (GoAwayReason::TOO_SLOW, false),
            (GoAwayReason::OVERLOADED, true),
            (GoAwayReason::PROTOCOL_ERROR, true),
        ] {
            let mut queue = queue();
            queue.push(1, Some(at(5_000)), "waits");
            let reason = CloseReason::PeerLeft(reason);
            let failed = queue.connection_ended(&reason, true, at(0));
            assert_eq!(failed.is_some(), has_pause, "{reason}");
            assert_eq!(failed.map_or(0, |failed| failed.calls.len()), 0, "{reason}");
            assert_eq!(queue.begin_attempt(at(0)), !has_pause, "{reason}");
        }
    }

    #[test]
    fn a_stranger_is_not_waited_for() {
        let mut queue = queue();
        queue.push(1, None, "fails");
        queue.push(2, Some(at(5_000)), "fails too");
        let reason = CloseReason::PeerLeft(GoAwayReason::VERSION_MISMATCH);
        let failed = queue.connection_ended(&reason, false, at(0));
        let kind = ErrorKind::InvalidData;
        assert_eq!(failed, Some(Failed { kind, calls: vec!["fails", "fails too"] }));
        assert_eq!(queue.wake_at(), None, "their timers have gone with them");
        queue.push(3, None, "next");
        assert!(!queue.begin_attempt(at(49)), "and there is a pause");
    }
}
