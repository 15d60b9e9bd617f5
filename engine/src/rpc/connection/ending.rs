//! How a connection ends: by leaving, when what runs has ended, or at once.

use super::{CallFailure, Connection, DropCause, Event, Phase, Role};
use crate::limits::GO_AWAY_TEXT_BYTES_MAX;
use crate::rpc::error::{CloseReason, Misbehaviour};
use crate::time::Instant;
use crate::wire::frame::{CallId, GoAwayReason, control};
use crate::wire::framer::Payload;
use crate::wire::header::Kind;
use crate::wire::output::Output;

impl Connection {
    /// Begins to leave of our own will: says go-away and lets what runs end, for so long.
    pub(super) fn leave(&mut self, reason: CloseReason, now: Instant) {
        let go_away = reason.go_away().expect("one leaves for a reason that can be told");
        let text = match reason {
            CloseReason::Drained => "draining".to_owned(),
            ref other => other.to_string(),
        };
        self.push_go_away(go_away, &text);
        self.phase = Phase::Leaving;
        self.end_reason = Some(reason);
        self.leave_deadline = Some(now + self.config.drain_timeout);
        self.end_if_done();
    }

    /// Leaves because the peer does.
    ///
    /// A client has its calls to wait for, each with a deadline of its own. A server has nothing to
    /// wait for but its client's end, and waits for that only so long.
    pub(super) fn leave_after_peer(&mut self, reason: GoAwayReason, now: Instant) {
        let reason = CloseReason::PeerLeft(reason);
        if !self.is_greeted {
            return self.close(reason);
        }
        if self.role == Role::Server && self.leave_deadline.is_none() {
            self.leave_deadline = Some(now + self.config.drain_timeout);
        }
        self.phase = Phase::Leaving;
        // A reason of our own came first and stays. Of the peer's reasons the last says most.
        if matches!(self.end_reason, None | Some(CloseReason::PeerLeft(_))) {
            self.end_reason = Some(reason);
        }
        self.end_if_done();
    }

    /// A client that leaves ends when its last call has; a server waits for its client to end, so
    /// that a request under way is refused in so many words rather than met by a closed door.
    pub(super) fn end_if_done(&mut self) {
        if self.phase == Phase::Leaving && self.role == Role::Client && self.calls.is_empty() {
            self.end_as_left();
        }
    }

    /// The time for leaving is up.
    pub(super) fn leave_is_over(&mut self) {
        match self.in_flight() {
            0 => self.end_as_left(),
            _ => self.close(CloseReason::Aborted),
        }
    }

    /// Ends for the reason for which it was left, which the peer has heard.
    fn end_as_left(&mut self) {
        let reason = self.end_reason.take().expect("whoever leaves has a reason");
        self.end(reason);
    }

    /// The peer's stream has ended, in order or not.
    pub(super) fn end_with_stream(&mut self, end: CloseReason) {
        let reason = match self.end_reason.take() {
            // The peer has said why, which is more than the end of its stream says.
            Some(left @ CloseReason::PeerLeft(_)) => left,
            Some(left) if self.in_flight() == 0 => left,
            _ => end,
        };
        self.end(reason);
    }

    /// Ends a connection before it has begun: a go-away takes the place of the hello, so that nothing
    /// is started on it.
    ///
    /// # Panics
    /// If it has begun.
    pub fn refuse(&mut self, reason: CloseReason) {
        assert!(self.phase == Phase::Greeting && !self.is_greeted, "refused before it begins");
        self.output = Output::default();
        self.close(reason);
    }

    pub(super) fn misbehaved(&mut self, what: Misbehaviour) {
        self.close(CloseReason::PeerMisbehaved(what));
    }

    /// Ends at once and tells the peer, where there is something to tell.
    pub(super) fn close(&mut self, reason: CloseReason) {
        if self.phase == Phase::Closed {
            return;
        }
        if reason == CloseReason::Overloaded {
            // What waits to be sent is what there is too much of.
            self.output = crate::wire::output::Output::default();
        }
        if let Some(go_away) = reason.go_away() {
            self.push_go_away(go_away, &reason.to_string());
        }
        self.end(reason);
    }

    fn end(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed;
        self.end_reason = Some(reason);
        self.deframer.release_memory();
    }

    /// After the end: everything in flight, one by one, then the reason.
    pub(super) fn poll_closing_event(&mut self) -> Option<Event<'static>> {
        if let Some(token) = self.calls.pop() {
            let failure = CallFailure::ConnectionEnded;
            return Some(Event::CallFailed { token, failure });
        }
        if let Some(token) = self.deferred.pop() {
            let cause = DropCause::ConnectionEnded;
            return Some(Event::RequestDropped { token, cause });
        }
        self.end_reason.take().map(Event::Closed)
    }

    /// Ends a deferred request, if it still waits.
    pub(super) fn end_deferred(&mut self, call: CallId) -> Option<u64> {
        let token = self.deferred.end(call)?;
        self.has_worked = true;
        Some(token)
    }

    fn push_go_away(&mut self, reason: GoAwayReason, text: &str) {
        let header = control(Kind::GoAway, reason.0, 0);
        let mut length = text.len().min(GO_AWAY_TEXT_BYTES_MAX);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let text = Payload::Copied(&text.as_bytes()[..length]);
        self.framer.push(&mut self.output, header, &[], text);
    }
}
