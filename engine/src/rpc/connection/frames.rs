//! What the peer's frames do, one kind a method.

use super::{Connection, DropCause, Event, Phase, Role};
use crate::limits::GO_AWAY_TEXT_BYTES_MAX;
use crate::rpc::error::{CloseReason, Misbehaviour};
use crate::time::Instant;
use crate::wire::deframer::{Body, Frame};
use crate::wire::frame::{CallId, GoAwayReason, PongHead, RequestHead, ResponseHead};
use crate::wire::framer::Framer;
use crate::wire::header::{Header, Kind};
use crate::wire::hello::{Hello, ShardMap};
use crate::wire::status::Status;

impl Connection {
    #[inline]
    pub(super) fn handle_frame<'a>(&mut self, frame: Frame<'a>, now: Instant) -> Option<Event<'a>> {
        let Frame { header, body } = frame;
        let kind = header.kind;
        if !self.is_greeted && !matches!(kind, Kind::Hello | Kind::GoAway) {
            self.misbehaved(Misbehaviour::Unexpected(kind));
            return None;
        }
        let event = match (kind, self.role) {
            (Kind::Request, Role::Server) => return self.on_request(&header, body, now),
            (Kind::Response, Role::Client) => return self.on_response(&header, body),
            (Kind::Cancel, Role::Server) => self.on_cancel(CallId(header.call)),
            (Kind::Hello, _) if !self.is_greeted => self.on_hello(&header, &body),
            (Kind::GoAway, _) => self.on_go_away(&header, &body, now),
            // Its load is known to the owner alone.
            (Kind::Ping, Role::Server) => Some(Event::Pinged { echo: header.call }),
            (Kind::Ping, Role::Client) => {
                self.pong(PongHead::without_load(header.call));
                None
            }
            // It has read all that came before the ping.
            (Kind::Pong, role) => {
                self.is_behind = false;
                (role == Role::Client).then(|| Event::Ponged(PongHead::from_header(&header)))
            }
            _ => {
                self.misbehaved(Misbehaviour::Unexpected(kind));
                None
            }
        };
        self.deframer.recycle(body);
        event
    }

    #[inline]
    fn on_request<'a>(
        &mut self,
        header: &Header,
        body: Body<'a>,
        now: Instant,
    ) -> Option<Event<'a>> {
        let head = RequestHead::from_header(header);
        let slot = head.call.slot();
        if slot >= self.config.in_flight_max {
            let window = self.config.in_flight_max;
            self.misbehaved(Misbehaviour::BeyondWindow { slot, window });
            return None;
        }
        if self.deferred.is_busy(slot) {
            self.misbehaved(Misbehaviour::SlotBusy(slot));
            return None;
        }
        self.last_request_at = now;
        if self.phase == Phase::Leaving {
            self.answer_bare(head.call, Status::DRAINING);
            self.deframer.recycle(body);
            return Some(Event::RequestRefused { status: Status::DRAINING });
        }
        let deadline = head.time_left().map(|left| now + left);
        Some(Event::Request { head, body, deadline })
    }

    #[inline]
    fn on_response<'a>(&mut self, header: &Header, body: Body<'a>) -> Option<Event<'a>> {
        let head = ResponseHead::from_header(header);
        #[cfg(feature = "sim")]
        let head = self.break_generation(head);
        let Some(token) = self.calls.end_and_free(head.call) else {
            // Cancelled or expired here while the answer was on its way.
            self.deframer.recycle(body);
            return None;
        };
        self.end_if_done();
        Some(Event::Response { token, head, body })
    }

    /// See [`Broken::Generations`](crate::config::Broken::Generations).
    #[cfg(feature = "sim")]
    fn break_generation(&self, head: ResponseHead) -> ResponseHead {
        if self.config.broken != crate::config::Broken::Generations {
            return head;
        }
        let call = self.calls.in_slot(head.call.slot()).unwrap_or(head.call);
        ResponseHead { call, ..head }
    }

    fn on_cancel(&mut self, call: CallId) -> Option<Event<'static>> {
        // An unknown id is normal: the answer and the cancel crossed.
        let token = self.end_deferred(call)?;
        Some(Event::RequestDropped { token, cause: DropCause::Cancelled })
    }

    fn on_hello(&mut self, header: &Header, body: &Body<'_>) -> Option<Event<'static>> {
        let ours = Connection::hello(self.role, &self.config, &ShardMap::default());
        let agreed = Hello::decode(header, body.payload())
            .and_then(|peer| ours.agree(&peer).map(|_version| peer));
        let mut peer = match agreed {
            Ok(peer) => peer,
            Err(error) => {
                self.close(CloseReason::PeerIncompatible(error));
                return None;
            }
        };
        if self.role == Role::Server {
            // A client serves nothing, whatever it says; its map of shards would only take memory.
            peer.in_flight_max = 0;
            peer.shards = ShardMap::default();
        }
        self.framer = Framer::new(ours.payload_crc && peer.payload_crc);
        self.deframer.set_frame_bytes_max(self.config.frame_bytes_max);
        self.peer = peer;
        self.is_greeted = true;
        if self.phase != Phase::Greeting {
            // This side began to leave before it knew its peer: nothing opens any more.
            return None;
        }
        self.phase = Phase::Open;
        Some(Event::Opened)
    }

    /// The first go-away makes this side leave too; each further one may give a better reason.
    fn on_go_away(
        &mut self,
        header: &Header,
        body: &Body<'_>,
        now: Instant,
    ) -> Option<Event<'static>> {
        let reason = GoAwayReason(header.code);
        let text = body.payload();
        let text = &text[..text.len().min(GO_AWAY_TEXT_BYTES_MAX)];
        let text = String::from_utf8_lossy(text).into_owned();
        self.leave_after_peer(reason, now);
        Some(Event::PeerLeaves { reason, text })
    }
}
