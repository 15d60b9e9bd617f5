//! What an application gives the engine: handlers, and what a handler is given.
//!
//! A handler runs to completion inside the turn, on the bytes where the kernel put them. It ends in
//! one of two ways, and the type [`Answered`] makes sure that it does:
//! - it answers now, through [`Reply`]: no allocation, no copy but that of the answer;
//! - it answers [`Reply::later`], and carries a [`Responder`] wherever the work goes on.

use crate::local::{DeferredKey, Local};
use crate::rpc::connection::Connection;
use crate::time::Instant;
use crate::wire::deframer::Body;
use crate::wire::frame::{MethodId, RequestHead, ResponseHead};
use crate::wire::framer::{Payload, PayloadWriter};
use crate::wire::metadata::Metadata;
use crate::wire::output::Output;
use crate::wire::status::Status;
use bytes::Bytes;

/// Serves one method on one shard. Any `FnMut(Request<'_>, Reply<'_>) -> Answered` is one.
pub trait Handler {
    /// Answers `request`, now or later. Must not block: the whole shard waits.
    fn handle(&mut self, request: Request<'_>, reply: Reply<'_>) -> Answered;
}

impl<F: FnMut(Request<'_>, Reply<'_>) -> Answered> Handler for F {
    fn handle(&mut self, request: Request<'_>, reply: Reply<'_>) -> Answered {
        self(request, reply)
    }
}

/// Where a body lies, seen from a handler. Nothing but references: a request is passed by value, and
/// what has to be dropped would be dropped at each step.
#[derive(Clone, Copy)]
pub(crate) enum RequestBody<'t> {
    /// In a receive of this turn, which `lend` gives to keep.
    Frame { body: &'t Body<'t>, lend: &'t dyn Fn() -> Bytes },
    /// Handed over by another shard.
    Owned { payload: &'t Bytes, metadata: &'t Bytes },
}

impl RequestBody<'_> {
    #[inline]
    pub(crate) fn payload_bytes(&self) -> usize {
        match self {
            RequestBody::Frame { body, .. } => body.payload().len(),
            RequestBody::Owned { payload, .. } => payload.len(),
        }
    }
}

/// A request, for the length of the turn.
pub struct Request<'t> {
    pub(crate) head: &'t RequestHead,
    pub(crate) body: RequestBody<'t>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) local: &'t Local,
}

impl Request<'_> {
    /// The payload, where the kernel put it.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match &self.body {
            RequestBody::Frame { body, .. } => body.payload(),
            RequestBody::Owned { payload, .. } => payload,
        }
    }

    /// The payload to keep beyond the turn: short ones are copied, long ones borrow the receive
    /// buffer until the last `Bytes` is dropped.
    pub fn to_payload_bytes(&self) -> Bytes {
        match &self.body {
            RequestBody::Frame { body, lend } => body.to_payload_bytes(lend),
            RequestBody::Owned { payload, .. } => Bytes::clone(payload),
        }
    }

    /// The metadata; empty if there is none.
    pub fn metadata(&self) -> Metadata<'_> {
        match &self.body {
            RequestBody::Frame { body, .. } => body.metadata(),
            RequestBody::Owned { metadata, .. } => Metadata::new(metadata),
        }
    }

    /// The header: call id, method, priority, route, repeat.
    pub fn head(&self) -> &RequestHead {
        self.head
    }

    /// The method that was asked for.
    pub fn method(&self) -> MethodId {
        self.head.method
    }

    /// When the caller stops waiting, on this machine's clock.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The shard that this runs on: to spawn, to sleep, to call others.
    pub fn local(&self) -> &Local {
        self.local
    }
}

/// Proof that a handler has answered, or has taken the duty to answer later.
///
/// There is one for each [`Reply`] that was used, and a handler gives back one for each that it was
/// given; so none can be dropped unanswered. That holds because a proof cannot be copied:
///
/// ```compile_fail,E0277
/// fn assert_copy<T: Copy>() {}
/// assert_copy::<catena_engine::Answered>();
/// ```
/// ```compile_fail,E0277
/// fn assert_clone<T: Clone>() {}
/// assert_clone::<catena_engine::Answered>();
/// ```
#[derive(Debug)]
#[must_use]
pub struct Answered(pub(crate) Outcome);

/// How a handler ended its part of the turn.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It answered at this instant, with this status.
    Now(Instant, Status),
    /// It answers later, under this key.
    Later(DeferredKey),
}

/// The one-shot right to answer, for the length of the turn.
pub struct Reply<'t> {
    pub(crate) target: ReplyTarget<'t>,
    pub(crate) head: ResponseHead,
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) payload_bytes: usize,
    pub(crate) clock: &'t dyn Fn() -> Instant,
    pub(crate) local: &'t Local,
}

/// Where an answer goes.
pub(crate) enum ReplyTarget<'t> {
    /// Straight into the connection's output.
    Peer { connection: &'t mut Connection, origin: crate::local::Origin },
    /// To the shard that handed the request over.
    Shard { answer: &'t mut Option<(ResponseHead, Bytes)>, origin: crate::local::Origin },
}

impl<'t> Reply<'t> {
    /// Answers with `payload`, status OK.
    #[inline]
    pub fn ok<'p>(self, payload: impl Into<Payload<'p>>) -> Answered {
        self.answer(Status::OK, payload.into())
    }

    /// Answers with a status other than OK. The text goes along as the payload, for people.
    pub fn fail(self, status: Status, text: &str) -> Answered {
        self.answer(status, Payload::Copied(text.as_bytes()))
    }

    /// Answers with this status and payload.
    #[inline]
    pub fn answer(self, status: Status, payload: Payload<'_>) -> Answered {
        let (head, at) = self.finished(status);
        let status = match self.target {
            ReplyTarget::Peer { connection, .. } => connection.respond(head, payload),
            ReplyTarget::Shard { answer, .. } => {
                *answer = Some((head, owned(payload)));
                status
            }
        };
        Answered(Outcome::Now(at, status))
    }

    /// Answers with what `write` appends, put straight where it is sent from. `write` returns the
    /// status.
    #[inline]
    pub fn write(mut self, write: impl FnOnce(&mut PayloadWriter<'_>) -> Status) -> Answered {
        let mut answered_at = None;
        let (started, clock, mut head) = (self.started, self.clock, self.head);
        let finish = |writer: &mut PayloadWriter<'_>| {
            head.status = write(writer);
            let at = clock();
            head.service_us = at.micros_since(started);
            answered_at = Some(at);
            head
        };
        let status = match &mut self.target {
            ReplyTarget::Peer { connection, .. } => connection.respond_with(finish),
            ReplyTarget::Shard { answer, .. } => {
                let mut output = Output::default();
                let head = finish(&mut PayloadWriter::new(output.copied_mut()));
                let payload = Bytes::from(std::mem::take(output.copied_mut()));
                **answer = Some((head, payload));
                head.status
            }
        };
        Answered(Outcome::Now(answered_at.expect("finish has run"), status))
    }

    /// Puts the answer off. The request now counts against the shard's limits until the
    /// [`Responder`] answers or is dropped.
    pub fn later(self) -> (Answered, Responder) {
        let origin = match &self.target {
            ReplyTarget::Peer { origin, .. } | ReplyTarget::Shard { origin, .. } => *origin,
        };
        let key = self.local.defer(origin, &self.head, self.started, self.payload_bytes);
        if let ReplyTarget::Peer { connection, .. } = self.target {
            connection.defer(self.head.call, self.deadline, key.to_token());
        }
        let responder = Responder {
            local: self.local.clone(),
            key,
            deadline: self.deadline,
            is_answered: false,
        };
        (Answered(Outcome::Later(key)), responder)
    }

    fn finished(&self, status: Status) -> (ResponseHead, Instant) {
        let at = (self.clock)();
        let service_us = at.micros_since(self.started);
        (ResponseHead { status, service_us, ..self.head }, at)
    }
}

fn owned(payload: Payload<'_>) -> Bytes {
    match payload {
        Payload::Copied(bytes) => Bytes::copy_from_slice(bytes),
        Payload::Shared(bytes) => bytes,
    }
}

/// The one-shot right to answer after the turn. Belongs to its shard: `!Send`.
///
/// Dropped without an answer, it answers [`Status::INTERNAL`], so that no caller waits in vain.
#[derive(Debug)]
pub struct Responder {
    local: Local,
    key: DeferredKey,
    deadline: Option<Instant>,
    is_answered: bool,
}

impl Responder {
    /// Answers with `payload`, status OK.
    pub fn ok(self, payload: impl Into<Payload<'static>>) {
        self.answer(Status::OK, payload.into());
    }

    /// Answers with a status other than OK. The text goes along as the payload, for people.
    pub fn fail(self, status: Status, text: &str) {
        self.answer(status, Payload::Shared(Bytes::copy_from_slice(text.as_bytes())));
    }

    /// Answers with this status and payload. Without effect when nobody waits any more.
    pub fn answer(mut self, status: Status, payload: Payload<'static>) {
        self.is_answered = true;
        self.local.answer(self.key, status, payload);
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// True once nobody waits for the answer: cancelled, past its deadline, connection lost.
    pub fn is_dropped(&self) -> bool {
        !self.local.is_deferred(self.key)
    }

    /// Ends when nobody waits for the answer any more.
    pub async fn dropped(&self) {
        std::future::poll_fn(|context| self.local.poll_dropped(self.key, context)).await;
    }

    pub(crate) fn key(&self) -> DeferredKey {
        self.key
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.is_answered {
            let text = Bytes::from_static(b"the handler dropped the request unanswered");
            self.local.answer(self.key, Status::INTERNAL, Payload::Shared(text));
        }
    }
}
