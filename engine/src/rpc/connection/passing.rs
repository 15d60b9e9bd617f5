//! Frames that come from another connection and are passed on as they are: a proxy's.
//!
//! The header is ours (another call id, the time that is left now), the body is theirs.

use super::{Connection, Phase, time_left_us};
use crate::limits::IN_FLIGHT_CEILING;
use crate::rpc::error::StartError;
use crate::time::Instant;
use crate::wire::frame::{CallId, RequestHead, ResponseHead};
use crate::wire::framer::PassedBody;
use crate::wire::status::Status;

/// A request to pass on.
#[derive(Clone, Debug)]
pub struct PassedCall<'a> {
    /// Its header as it came; call id and time left are set anew.
    pub head: RequestHead,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
    /// Its body as it came.
    pub body: PassedBody<'a>,
}

impl Connection {
    /// Client: passes a request on; its answer or failure will carry `token`. The server is told the
    /// time that is left; here the owner alone looks after the deadline, and cancels. The request is one
    /// hop further than `call` says; its owner has refused those that may not be.
    ///
    /// # Errors
    /// Why nothing was sent.
    #[inline]
    pub fn pass_call(
        &mut self,
        call: PassedCall<'_>,
        token: u64,
        now: Instant,
    ) -> Result<CallId, StartError> {
        let PassedCall { head, deadline, body } = call;
        match self.phase {
            Phase::Open => {}
            Phase::Leaving => return Err(StartError::Leaving),
            Phase::Greeting | Phase::Closed => return Err(StartError::NotOpen),
        }
        let time_left_us = match deadline {
            None => 0,
            Some(deadline) if deadline <= now => return Err(StartError::DeadlinePassed),
            Some(deadline) => time_left_us(deadline, now),
        };
        let frame_bytes = self.framer.frame_bytes(0, body.content.len());
        if frame_bytes > self.peer.frame_bytes_max as usize {
            return Err(StartError::TooLarge { frame_bytes, max: self.peer.frame_bytes_max });
        }
        let window = self.peer.in_flight_max.min(IN_FLIGHT_CEILING);
        let call = self.calls.start(window, None, token).ok_or(StartError::WindowFull)?;
        let head = RequestHead { call, time_left_us, hops: head.hops + 1, ..head };
        self.framer.push_passed(&mut self.output, head.header(), body);
        Ok(call)
    }

    /// Server: passes an answer on to a deferred request. Returns the status that the peer is told:
    /// that of `head`, unless the answer is longer than the peer accepts. `None`: nobody waits for it
    /// any more, nothing was sent.
    #[inline]
    pub fn pass_answer(&mut self, head: ResponseHead, body: PassedBody<'_>) -> Option<Status> {
        if self.phase == Phase::Closed {
            return None;
        }
        self.end_deferred(head.call)?;
        let frame_bytes = self.framer.frame_bytes(0, body.content.len());
        if frame_bytes > self.peer.frame_bytes_max as usize {
            let head = ResponseHead { status: Status::ANSWER_TOO_LARGE, ..head };
            self.framer.push_passed(&mut self.output, head.header(), PassedBody::EMPTY);
            return Some(head.status);
        }
        self.framer.push_passed(&mut self.output, head.header(), body);
        Some(head.status)
    }
}
