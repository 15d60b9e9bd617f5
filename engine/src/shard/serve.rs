//! A request: admit, route, dispatch, answer.

use super::complaints::{Complaint, Complaints};
use super::message::{HandedOver, ShardMessage};
use super::relays::{Relays, is_relayed};
use crate::dispatch::Router;
use crate::driver::{Driver, SocketId};
use crate::handler::{Answered, Outcome, Reply, ReplyTarget, Request, RequestBody};
use crate::local::{Deferred, DeferredKey, Local, Origin, TimerKey};
use crate::mailbox::Mailboxes;
use crate::metrics::ShardMetrics;
use crate::rng::Rng;
use crate::rpc::admission::{Admission, ShedReason};
use crate::rpc::connection::{Connection, DropCause};
use crate::shard_index::ShardIndex;
use crate::time::{Duration, Instant};
use crate::wire::deframer::Body;
use crate::wire::frame::{MethodId, PongHead, RequestHead, ResponseHead, Route};
use crate::wire::framer::Payload;
use crate::wire::status::Status;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What it takes to serve a request on this shard.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) local: Local,
    router: Router,
    /// What passes requests on, if they are.
    pub(crate) relays: Option<Relays>,
    pub(crate) admission: Admission,
    pub(crate) metrics: Arc<ShardMetrics>,
    rng: Rng,
    /// When what this turn delivers was in hand.
    turn_at: Instant,
    /// Which turn it is, counted from the start.
    turn: u64,
    /// How long the turn before this one took, if there was no sleep between: what is delivered now
    /// may have waited so long in the kernel.
    waited_before: Duration,
    recent_service: RecentService,
    complaints: Complaints,
    /// Messages for other shards; sent at the end of the turn.
    outbox: Outbox,
    /// Requests that other shards handed over, by their key for it.
    handed_over: BTreeMap<(ShardIndex, u64), DeferredKey>,
}

/// A request with all that is known of it when it is about to be served.
pub(crate) struct Arrival<'t> {
    pub(crate) head: &'t RequestHead,
    pub(crate) body: RequestBody<'t>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) arrived: Instant,
    pub(crate) origin: Origin,
}

impl Serving {
    pub(crate) fn new(local: Local, mut router: Router, admission: Admission, rng: Rng) -> Self {
        let metrics = ShardMetrics::new();
        let relays = router.take_relay();
        let relays = relays.map(|(relay, config)| Relays::new(relay, config, metrics.clone()));
        Serving {
            turn_at: local.now(),
            turn: 0,
            local,
            router,
            relays,
            admission,
            metrics,
            rng,
            waited_before: Duration::ZERO,
            recent_service: RecentService::default(),
            complaints: Complaints::default(),
            outbox: Outbox::default(),
            handed_over: BTreeMap::new(),
        }
    }

    pub(crate) fn begin_turn(&mut self, turn_at: Instant, previous_turn_at: Option<Instant>) {
        self.turn_at = turn_at;
        self.turn += 1;
        self.waited_before = previous_turn_at.map_or(Duration::ZERO, |at| turn_at.since(at));
    }

    /// When what this turn delivers was in hand.
    #[inline]
    pub(crate) fn turn_at(&self) -> Instant {
        self.turn_at
    }

    /// The number of this turn.
    #[inline]
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// True if a peer's fault is worth a log line of its own; otherwise it is in a sum told later.
    pub(super) fn may_complain(&mut self) -> bool {
        match self.complaints.add(self.local.now()) {
            Complaint::Tell => true,
            Complaint::LeaveOut => false,
            Complaint::LeaveOutUntil(at) => {
                self.local.state().timers.borrow_mut().insert(at, TimerKey::Complaints);
                false
            }
        }
    }

    /// Tells how many faults of peers had no log line of their own, if there were any.
    pub(super) fn tell_complaints(&mut self) {
        let count = self.complaints.take_left_out();
        if count > 0 {
            tracing::warn!(
                count,
                "more connections ended by their peers' fault, not logged singly"
            );
        }
    }

    /// Serves a request of `connection`, and since when it waits; `now` is the instant before it.
    /// Returns the instant after it.
    #[inline]
    pub(crate) fn serve_peer(
        &mut self,
        connection: &mut Connection,
        socket: SocketId,
        arrival: (&RequestHead, &Body<'_>, Option<Instant>, Instant),
        lend: &dyn Fn() -> Bytes,
        clock: &dyn Fn() -> Instant,
        now: Instant,
    ) -> Instant {
        let (head, body, deadline, arrived) = arrival;
        self.metrics.requests.increment();
        let origin = Origin::Peer { socket, call: head.call };
        let body = RequestBody::Frame { body, lend };
        let arrival = Arrival { head, body, deadline, arrived, origin };
        if let Some(shard) = self.owner_elsewhere(head.route) {
            self.hand_over(connection, arrival, shard, now);
            return now;
        }
        let mark = connection.output_mark();
        let target = ReplyTarget::Peer { connection, origin };
        match self.serve(arrival, target, clock, now) {
            Some(at) => at,
            None => {
                let head = self.bare_head(head, Status::INTERNAL, arrived, now);
                self.metrics.count_response(head.status.class());
                connection.roll_back_output(mark);
                connection.respond(head, Payload::Copied(PANICKED.as_bytes()));
                clock()
            }
        }
    }

    /// Serves a request that another shard handed over.
    pub(crate) fn serve_handed_over<D: Driver>(&mut self, request: HandedOver, driver: &D) {
        let HandedOver { from, key, head, arrived, deadline, payload, metadata } = request;
        let origin = Origin::Shard { shard: from, key };
        let body = RequestBody::Owned { payload: &payload, metadata: &metadata };
        let mut answer = None;
        let target = ReplyTarget::Shard { answer: &mut answer, origin };
        let arrival = Arrival { head: &head, body, deadline, arrived, origin };
        let now = self.local.now();
        if self.serve(arrival, target, &|| driver.now(), now).is_none() {
            let text = Bytes::from_static(PANICKED.as_bytes());
            answer = Some((self.bare_head(&head, Status::INTERNAL, arrived, now), text));
        }
        if let Some((head, payload)) = answer {
            self.outbox.push(from, ShardMessage::Response { key, head, payload });
        }
    }

    /// Sends a request back that another shard handed over, for this one serves nothing any more.
    pub(crate) fn refuse_handed_over(&mut self, request: &HandedOver) {
        let head =
            self.bare_head(&request.head, Status::DRAINING, request.arrived, self.local.now());
        self.answer_shard(request.from, request.key, head, Bytes::new());
    }

    /// Another shard has ended before its time. What it had handed over is dropped; what was on its way
    /// there is forgotten, and the requests among that are given: they were never handed over.
    pub(crate) fn lose(&mut self, lost: ShardIndex) -> Vec<DeferredKey> {
        let theirs = (lost, 0)..=(lost, u64::MAX);
        let orphans: Vec<_> = self.handed_over.range(theirs).map(|(_, key)| *key).collect();
        for key in orphans {
            self.drop_deferred(key.to_token(), DropCause::ConnectionEnded);
        }
        self.outbox.close(lost)
    }

    /// Nobody waits any more for a request that another shard handed over.
    pub(crate) fn drop_handed_over(&mut self, from: ShardIndex, key: u64) {
        if let Some(deferred) = self.handed_over.get(&(from, key)).copied() {
            self.discard_deferred(deferred);
        }
    }

    /// Ends a deferred request that nobody waits for: its future is dropped with all it waits for.
    pub(crate) fn drop_deferred(&mut self, token: u64, cause: DropCause) {
        let is_dropped = match is_relayed(token) {
            true => self.drop_relayed(token, cause),
            false => self.discard_deferred(DeferredKey::from_token(token)),
        };
        if !is_dropped {
            return;
        }
        match cause {
            DropCause::Cancelled => self.metrics.cancelled.increment(),
            DropCause::DeadlinePassed => {
                self.metrics.deadline_passed.increment();
                // Its connection has told the caller so.
                self.metrics.count_response(Status::DEADLINE_PASSED.class());
            }
            DropCause::ConnectionEnded => {}
        }
    }

    /// Answers a ping that waits since `queued` with the load of this shard, unless it passes requests on:
    /// the answers that it passes back tell the load of other servers, and a caller that takes both for one
    /// figure would compare them with each other.
    pub(crate) fn answer_ping(
        &self,
        connection: &mut Connection,
        echo: u64,
        queued: Instant,
        now: Instant,
    ) {
        if self.relays.is_some() {
            return connection.pong(PongHead::without_load(echo));
        }
        connection.pong(PongHead {
            echo,
            queue_delay_us: now.micros_since(queued),
            service_us: self.recent_service.micros(),
            in_flight: self.admission.in_flight().saturating_add(1),
        });
    }

    /// Counts how long a request was in work.
    #[inline]
    pub(crate) fn count_service_time(&mut self, micros: u32) {
        self.metrics.service_time_us.record(micros);
        self.recent_service.record(micros);
    }

    /// Counts a request that its connection has answered by itself.
    pub(crate) fn count_refused(&self, status: Status) {
        self.metrics.requests.increment();
        self.metrics.count_response(status.class());
    }

    /// As [`Serving::discard_deferred`], of one that was passed on: its server is told.
    fn drop_relayed(&mut self, token: u64, cause: DropCause) -> bool {
        let relays = self.relays.as_mut();
        let bytes = relays.and_then(|relays| relays.dropped(token, cause, &self.local));
        bytes.inspect(|bytes| self.admission.end(*bytes)).is_some()
    }

    /// True if there was such a request.
    fn discard_deferred(&mut self, key: DeferredKey) -> bool {
        let Some(mut deferred) = self.end_deferred(key) else { return false };
        if let Some(shard) = deferred.handed_to {
            let from = self.local.shard();
            self.outbox.push(shard, ShardMessage::Drop { from, key: key.to_token() });
        }
        deferred.drop_task();
        true
    }

    /// Takes a deferred request off the books.
    pub(crate) fn end_deferred(&mut self, key: DeferredKey) -> Option<Deferred> {
        let deferred = self.local.take_deferred(key)?;
        self.admission.end(deferred.payload_bytes);
        if let Origin::Shard { shard, key } = deferred.origin {
            self.handed_over.remove(&(shard, key));
        }
        Some(deferred)
    }

    /// Sends an answer to the shard that had handed the request over.
    pub(crate) fn answer_shard(
        &mut self,
        shard: ShardIndex,
        key: u64,
        head: ResponseHead,
        payload: Bytes,
    ) {
        self.outbox.push(shard, ShardMessage::Response { key, head, payload });
    }

    /// Sends a message to a shard.
    pub(crate) fn tell(&mut self, shard: ShardIndex, message: ShardMessage) {
        self.outbox.push(shard, message);
    }

    /// Sends a message to each other shard.
    pub(crate) fn tell_others(&mut self, message: impl Fn() -> ShardMessage) {
        let own = self.local.shard();
        for shard in (0..self.local.shard_count()).map(ShardIndex).filter(|shard| *shard != own) {
            self.outbox.push(shard, message());
        }
    }

    /// Gives the messages to the mailboxes, as many as they take; the rest waits for the next turn.
    pub(crate) fn pass_on(&mut self, mailboxes: &mut Mailboxes<ShardMessage>) {
        self.outbox.pass_on(mailboxes);
    }

    pub(crate) fn has_messages_to_pass_on(&self) -> bool {
        self.outbox.count > 0
    }

    /// Admits, dispatches, answers. `None`: the handler panicked before it answered.
    #[inline]
    fn serve(
        &mut self,
        arrival: Arrival<'_>,
        target: ReplyTarget<'_>,
        clock: &dyn Fn() -> Instant,
        now: Instant,
    ) -> Option<Instant> {
        let Arrival { head, body, deadline, arrived, origin } = arrival;
        let payload_bytes = body.payload_bytes();
        let refusal = self.refusal(head, deadline, arrived, payload_bytes, now);
        let request = Request { head, body, deadline, local: &self.local };
        let reply = Reply {
            target,
            head: ResponseHead {
                call: head.call,
                status: Status::OK,
                queue_delay_us: now.micros_since(arrived),
                service_us: 0,
                in_flight: self.admission.in_flight() + 1,
            },
            started: now,
            deadline,
            payload_bytes,
            clock,
            local: &self.local,
        };
        let answered = if let Some((status, text)) = refusal {
            reply.fail(status, text)
        } else if let Some(handler) = self.router.find(head.method) {
            let local = &self.local;
            let handle = || local.on_behalf(deadline, || handler.handle(request, reply));
            // A panic is contained to its request; what it left half done is the handler's own.
            match catch_unwind(AssertUnwindSafe(handle)) {
                Ok(answered) => answered,
                Err(_panic) => {
                    let method = self.router.name(head.method).unwrap_or("?");
                    tracing::error!(method, "a handler panicked; its caller is told so");
                    // It may have taken the duty to answer later, which then is its responder's.
                    Answered(Outcome::Later(self.local.find_deferred(origin)?))
                }
            }
        } else {
            reply.answer(Status::UNKNOWN_METHOD, Payload::Copied(&[]))
        };
        match answered {
            Answered(Outcome::Now(at, status)) => {
                self.count_service_time(at.micros_since(now));
                // What is handed over is counted where it arrived, and where its answer leaves.
                if let Origin::Peer { .. } = origin {
                    self.metrics.count_response(status.class());
                }
                Some(at)
            }
            Answered(Outcome::Later(key)) => {
                self.admission.begin(payload_bytes);
                if let Origin::Shard { shard, key: theirs } = origin {
                    self.handed_over.insert((shard, theirs), key);
                }
                Some(clock())
            }
        }
    }

    /// Why a request that waits since `arrived` is not begun, if it is not: too late, or too much.
    #[inline]
    pub(super) fn refusal(
        &mut self,
        head: &RequestHead,
        deadline: Option<Instant>,
        arrived: Instant,
        payload_bytes: usize,
        now: Instant,
    ) -> Option<(Status, &'static str)> {
        self.local.state().now.set(now);
        let waited = now.since(arrived);
        self.metrics.queue_delay_us.record(now.micros_since(arrived));
        self.admission.observe(head.priority, waited + self.waited_before, now);
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.metrics.expired_in_queue.increment();
            return Some((Status::EXPIRED_IN_QUEUE, ""));
        }
        let admitted = self.admission.admit(head.priority, payload_bytes, &mut self.rng);
        let reason = admitted.err()?;
        self.metrics.count_shed(reason);
        Some((Status::SHED, shed_text(reason)))
    }

    /// True if requests of this method are passed on to other servers.
    #[inline]
    pub(super) fn passes_on(&self, method: MethodId) -> bool {
        self.relays.is_some() && self.router.is_passed_on(method)
    }

    /// The shard that a route names, if it is another one. Route 0 is at home everywhere; route n
    /// is shard n - 1.
    #[inline]
    fn owner_elsewhere(&self, route: Route) -> Option<u32> {
        if route == Route::ANY {
            return None;
        }
        let shard = route.0 - 1;
        (shard != u32::from(self.local.shard().0)).then_some(shard)
    }

    /// Sends a request on to the shard that its route names; the answer comes back by message.
    fn hand_over(
        &mut self,
        connection: &mut Connection,
        arrival: Arrival<'_>,
        shard: u32,
        now: Instant,
    ) {
        let Arrival { head, body, deadline, arrived, origin } = arrival;
        let request = Request { head, body, deadline, local: &self.local };
        let payload_bytes = request.payload().len();
        let count = u32::from(self.local.shard_count());
        let refusal = if shard >= count {
            Some(Status::WRONG_SHARD)
        } else {
            let admitted = self.admission.admit(head.priority, payload_bytes, &mut self.rng);
            admitted.err().map(|reason| {
                self.metrics.count_shed(reason);
                Status::SHED
            })
        };
        let response_head = self.bare_head(head, Status::OK, arrived, now);
        if let Some(status) = refusal {
            let head = ResponseHead { status, ..response_head };
            self.metrics.count_response(status.class());
            connection.respond(head, Payload::Copied(&[]));
            return;
        }
        let shard = ShardIndex(u16::try_from(shard).expect("below the count, which is a u16"));
        let key = self.local.defer(origin, &response_head, now, payload_bytes);
        self.admission.begin(payload_bytes);
        if let Some(deferred) = self.local.state().deferred.borrow_mut().get_mut(key) {
            deferred.handed_to = Some(shard);
        }
        connection.defer(head.call, deadline, key.to_token());
        let message = ShardMessage::Request(HandedOver {
            from: self.local.shard(),
            key: key.to_token(),
            head: *head,
            arrived,
            deadline,
            payload: request.to_payload_bytes(),
            metadata: Bytes::copy_from_slice(request.metadata().as_bytes()),
        });
        self.metrics.handed_over.increment();
        self.outbox.push(shard, message);
    }

    pub(super) fn bare_head(
        &self,
        head: &RequestHead,
        status: Status,
        arrived: Instant,
        now: Instant,
    ) -> ResponseHead {
        ResponseHead {
            call: head.call,
            status,
            queue_delay_us: now.micros_since(arrived),
            service_us: 0,
            in_flight: self.admission.in_flight() + 1,
        }
    }
}

/// The average of the last few service times, each of a weight of 1/16 when it is the newest.
#[derive(Clone, Copy, Debug, Default)]
struct RecentService {
    /// 16 × the average, in µs: what is below one microsecond is not lost.
    sixteenfold: u64,
}

impl RecentService {
    #[inline]
    fn record(&mut self, micros: u32) {
        self.sixteenfold = match self.sixteenfold {
            0 => u64::from(micros) * 16,
            sixteenfold => sixteenfold - sixteenfold / 16 + u64::from(micros),
        };
    }

    fn micros(self) -> u32 {
        u32::try_from(self.sixteenfold / 16).unwrap_or(u32::MAX)
    }
}

/// Messages for other shards: in order for each, and none waits behind one for a shard whose mailbox
/// is full.
#[derive(Debug, Default)]
struct Outbox {
    /// By shard; as long as the highest number that was written to.
    queues: Vec<VecDeque<ShardMessage>>,
    count: usize,
    /// Shards that take nothing any more.
    closed: Vec<ShardIndex>,
}

impl Outbox {
    fn push(&mut self, to: ShardIndex, message: ShardMessage) {
        if self.closed.contains(&to) {
            return;
        }
        if self.queues.len() <= to.index() {
            self.queues.resize_with(to.index() + 1, VecDeque::new);
        }
        self.queues[to.index()].push_back(message);
        self.count += 1;
    }

    /// Forgets what is on its way to a shard, now and later. Gives the keys of the requests among it.
    fn close(&mut self, to: ShardIndex) -> Vec<DeferredKey> {
        self.closed.push(to);
        let queue = self.queues.get_mut(to.index()).map(std::mem::take).unwrap_or_default();
        self.count -= queue.len();
        let requests = queue.into_iter().filter_map(|message| match message {
            ShardMessage::Request(request) => Some(DeferredKey::from_token(request.key)),
            _ => None,
        });
        requests.collect()
    }

    fn pass_on(&mut self, mailboxes: &mut Mailboxes<ShardMessage>) {
        if self.count == 0 {
            return;
        }
        for (to, queue) in (0..).map(ShardIndex).zip(&mut self.queues) {
            while let Some(message) = queue.pop_front() {
                if let Err(message) = mailboxes.send(to, message) {
                    queue.push_front(message);
                    break;
                }
                self.count -= 1;
            }
        }
    }
}

/// What the caller of a handler that panicked is told.
const PANICKED: &str = "the handler panicked";

fn shed_text(reason: ShedReason) -> &'static str {
    match reason {
        ShedReason::InFlight => "too many requests in flight on this shard",
        ShedReason::Bytes => "too many payload bytes in flight on this shard",
        ShedReason::QueueDelay => "the queue of this shard is too long for this priority",
    }
}
