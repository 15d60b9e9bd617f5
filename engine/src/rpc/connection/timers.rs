//! What is due when. Each limit of time stands here once, as the instant at which it is passed.

use super::{CallFailure, Connection, DropCause, Event, Phase, Role};
use crate::limits::{SEND_HAS_WAITED, SOCKET_SEND_BYTES_MAX};
use crate::rpc::error::{CloseReason, TooSlow};
use crate::time::{Duration, Instant, earliest};
use crate::wire::header::{HEADER_BYTES, Kind};
use crate::wire::status::Status;

impl Connection {
    /// Does what is due at `now`. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        self.expire_calls(now);
        self.expire_deferred(now);
        self.end_if_done();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.hello_deadline()) {
            return self.close(CloseReason::PeerTooSlow(TooSlow::Hello));
        }
        if is_due(self.partial_deadline()) {
            return self.close(CloseReason::PeerTooSlow(TooSlow::Frame));
        }
        if is_due(self.pong_deadline()) {
            return self.close(CloseReason::PeerTooSlow(TooSlow::Pong));
        }
        if is_due(self.taking_deadline) {
            return self.close(CloseReason::PeerTooSlow(TooSlow::Reading));
        }
        if is_due(self.leave_deadline) {
            return self.leave_is_over();
        }
        if is_due(self.idle_at()) {
            self.idled(now);
        }
        if is_due(self.ping_at()) {
            self.ask_if_alive(now);
        }
    }

    /// When [`Connection::handle_timeout`] wants to be called; later calls of this may give an
    /// earlier instant. An instant in the past means at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Closed {
            return None;
        }
        let mut next = earliest(self.ping_at(), self.pong_deadline());
        next = earliest(next, self.hello_deadline());
        next = earliest(next, self.partial_deadline());
        next = earliest(next, self.taking_deadline);
        next = earliest(next, self.leave_deadline);
        next = earliest(next, self.idle_at());
        next = earliest(next, self.calls.earliest_deadline());
        earliest(next, self.deferred.earliest_deadline())
    }

    /// The owner has handed `bytes` to the kernel, which has not taken them all yet. The peer has the
    /// frame timeout, once and again for each MiB, to take them. In the meantime nobody asks for a
    /// pong, because the ping would wait behind them.
    #[inline]
    pub fn handle_send_started(&mut self, bytes: usize, now: Instant) {
        self.taking_deadline = Some(now + self.transfer_time(bytes));
        self.sending_since = now;
    }

    /// The kernel has taken what was handed to it.
    ///
    /// If that took long, the peer has acknowledged something in the meantime, which is a sign of life;
    /// what the kernel took at once says nothing, and is no reason to believe in a peer that is silent.
    #[inline]
    pub fn handle_send_ended(&mut self, now: Instant) {
        self.taking_deadline = None;
        if now.since(self.sending_since) >= SEND_HAS_WAITED {
            self.is_behind = true;
            self.last_received_at = now;
            // The ping may have been the last of it: its time begins now.
            self.pinged_at = self.pinged_at.map(|_| now);
        }
    }

    /// The owner has stopped reading from the peer, because too much waits for the peer to take it.
    /// Until [`Connection::handle_receive_resumed`] the peer's silence is not its fault: keepalive,
    /// frame timeout and idle timeout stand still.
    pub fn handle_receive_paused(&mut self) {
        self.is_paused = true;
    }

    /// The owner reads again: every clock that stood still starts anew.
    pub fn handle_receive_resumed(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_paused) {
            self.last_received_at = now;
            self.last_request_at = now;
            self.pinged_at = None;
            self.partial_since = self.partial_since.map(|_| now);
        }
    }

    fn expire_calls(&mut self, now: Instant) {
        let Connection { calls, events, framer, output, .. } = self;
        calls.expire_and_free(now, |call, token| {
            super::push_control(framer, output, Kind::Cancel, 0, call.0);
            let failure = CallFailure::DeadlinePassed;
            events.push_back(Event::CallFailed { token, failure });
        });
    }

    fn expire_deferred(&mut self, now: Instant) {
        let Connection { deferred, events, framer, output, has_worked, .. } = self;
        deferred.expire(now, |call, token| {
            super::push_bare_answer(framer, output, call, Status::DEADLINE_PASSED);
            *has_worked = true;
            let cause = DropCause::DeadlinePassed;
            events.push_back(Event::RequestDropped { token, cause });
        });
    }

    /// No request has *arrived* for the idle timeout. If one was in work in the meantime the timeout
    /// starts anew, so the connection is left after one timeout at least and two at most, and an
    /// answer costs no look at the clock.
    fn idled(&mut self, now: Instant) {
        match std::mem::take(&mut self.has_worked) {
            true => self.last_request_at = now,
            false => self.leave(CloseReason::Idle, now),
        }
    }

    /// A connection that is quiet enough to be pinged holds no memory either.
    fn ask_if_alive(&mut self, now: Instant) {
        self.pinged_at = Some(now);
        self.push_control(Kind::Ping, 0, now.as_nanos());
        self.calls.release_memory();
        self.deferred.release_memory();
        self.events.shrink_to_fit();
        if self.deframer.under_way().is_none() {
            self.deframer.release_memory();
        }
    }

    fn hello_deadline(&self) -> Option<Instant> {
        (!self.is_greeted).then(|| self.opened_at + self.config.hello_timeout)
    }

    /// When the peer has been silent for long enough to be asked.
    fn ping_at(&self) -> Option<Instant> {
        (self.is_greeted && self.can_hear() && self.pinged_at.is_none())
            .then(|| self.last_received_at + self.config.keepalive_interval)
    }

    fn pong_deadline(&self) -> Option<Instant> {
        let pinged_at = self.pinged_at.filter(|_| self.can_hear())?;
        Some(pinged_at + self.pong_time())
    }

    /// From a ping to its pong. A ping that goes behind what the kernel holds has the time that all of
    /// that has: a peer that is slow is not dead.
    fn pong_time(&self) -> Duration {
        match self.is_behind {
            true => self.config.keepalive_timeout.max(self.transfer_time(SOCKET_SEND_BYTES_MAX)),
            false => self.config.keepalive_timeout,
        }
    }

    fn partial_deadline(&self) -> Option<Instant> {
        let since = self.partial_since.filter(|_| !self.is_paused)?;
        let (_, frame_bytes) = self.deframer.under_way()?;
        Some(since + self.transfer_time(frame_bytes.map_or(HEADER_BYTES, |bytes| bytes as usize)))
    }

    fn idle_at(&self) -> Option<Instant> {
        let timeout: Duration = self.config.idle_timeout?;
        let is_idle = self.role == Role::Server
            && self.phase == Phase::Open
            && self.deferred.is_empty()
            && !self.is_paused;
        is_idle.then(|| self.last_request_at + timeout)
    }

    /// A ping would reach the peer, and its pong us.
    fn can_hear(&self) -> bool {
        !self.is_paused && self.taking_deadline.is_none()
    }

    /// The frame timeout for the first MiB and as much again for each further one.
    fn transfer_time(&self, bytes: usize) -> Duration {
        let steps = u32::try_from(1 + (bytes >> 20)).unwrap_or(u32::MAX);
        self.config.frame_timeout.saturating_mul(steps)
    }
}
