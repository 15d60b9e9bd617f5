//! Requests that are passed on: from one connection's receive into another's output, and back.
//!
//! ```text
//!            no room, no connection yet
//!   arrive ──────────────────────────► Waiting ──┐ pump
//!     │ room                                     ▼
//!     └────────────────────────────────────► Sent ──► answered ──► told, gone
//!                     ▲                       │ certainly not executed, and the relay says so
//!                     └───────────────────────┘ another server
//! ```
//!
//! The peer whose bytes are read is taken out of [`Peers`] meanwhile, so both connections are at hand.

mod body;
mod requests;

pub(crate) use requests::is_relayed;

use super::peer::Peer;
use super::peers::Peers;
use super::serve::Serving;
use crate::client::{ClientKey, ClientState, Link};
use crate::driver::SocketId;
use crate::limits::HOPS_MAX;
use crate::local::{Command, Local};
use crate::metrics::ShardMetrics;
use crate::relay::{Attempt, Chosen, Destination, End, Next, Relay, RelayConfig, TRIES_MAX};
use crate::rpc::connection::{CallFailure, Connection, DropCause};
use crate::rpc::error::StartError;
use crate::time::Instant;
use crate::wire::deframer::Body;
use crate::wire::frame::{CallId, RequestHead, ResponseHead};
use crate::wire::framer::{PassedBody, Payload};
use crate::wire::status::Status;
use body::passed_body;
use bytes::Bytes;
use requests::{Relayed, Requests, Stage};
use std::borrow::Cow;
use std::sync::Arc;

/// The requests that this shard passes on, and by what.
pub(crate) struct Relays {
    relay: Box<dyn Relay>,
    config: RelayConfig,
    requests: Requests,
    metrics: Arc<ShardMetrics>,
}

/// Why a request was not passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Refused {
    /// How the last attempt ended. `None`: there was none.
    end: Option<End>,
    /// How many attempts there were.
    tries: u8,
    /// There is no server left that it could be passed on to.
    none_is_left: bool,
}

impl Relays {
    pub(crate) fn new(
        relay: Box<dyn Relay>,
        config: RelayConfig,
        metrics: Arc<ShardMetrics>,
    ) -> Self {
        Relays { relay, config, requests: Requests::default(), metrics }
    }

    /// Finds a server for a request that has none, attempt after attempt; `last` is how the last one
    /// before ended.
    fn place(
        &mut self,
        token: u64,
        mut last: Option<End>,
        peers: &mut Peers,
        local: &Local,
    ) -> Result<(), Refused> {
        let Relays { relay, config, requests, metrics } = self;
        let relayed = requests.get_mut(token).expect("whoever places a request has its token");
        let now = local.now();
        let mut none_is_left = false;
        while usize::from(relayed.tries) < TRIES_MAX {
            let (head, deadline) = (&relayed.head, relayed.deadline);
            let tried = relayed.tried();
            let chosen = relay.choose(&Chosen { head, deadline, tried, last, now });
            let Some(Destination { client, token: choice }) = chosen else {
                none_is_left = true;
                break;
            };
            relayed.attempt = Attempt { token: choice, started: now, deadline };
            relayed.tried[usize::from(relayed.tries)] = choice;
            relayed.tries += 1;
            let Err(end) = start(relayed, token, client, (config, metrics), peers, local) else {
                return Ok(());
            };
            last = Some(end);
            if relay.ended(relayed.attempt, &end, now) == Next::Tell {
                break;
            }
        }
        Err(Refused { end: last, tries: relayed.tries, none_is_left })
    }

    /// Starts the requests that wait for `client`, as many as its window takes and its connection has
    /// room for.
    pub(crate) fn pump(&mut self, local: &Local, client_key: ClientKey, peer: &mut Peer) {
        let mut clients = local.state().clients.borrow_mut();
        let Some(client) = clients.get_mut(client_key) else { return };
        if client.link != Link::Up(peer.socket) {
            return;
        }
        while let Some(token) = client.relays.front().copied() {
            let waiting = self.requests.get_mut(token);
            if let Some(relayed) = waiting
                && relayed.stage == Stage::Waiting(client_key)
            {
                if !peer.connection.has_room_for_calls() {
                    peer.holds_calls = true;
                    return;
                }
                match relayed.send(token, peer, local.now(), &self.metrics) {
                    Ok(()) => {}
                    Err(StartError::WindowFull) => return,
                    Err(StartError::Leaving | StartError::NotOpen) => {
                        return link_is_down(client, client_key, local);
                    }
                    // It leaves the queue with this, and must not be counted as gone once more.
                    Err(StartError::TooLarge { .. } | StartError::MetadataTooLong { .. }) => {
                        relayed.stage = Stage::Between;
                        local.push(Command::RelayEnded { token, end: End::TooLarge });
                    }
                    // Its caller's connection is about to say so.
                    Err(StartError::DeadlinePassed) => relayed.stage = Stage::Between,
                }
            } else {
                client.relays_in_vain = client.relays_in_vain.saturating_sub(1);
            }
            client.relays.pop_front();
        }
    }

    /// A request has ended while it waited for a server. Its place in the queue is given up with those
    /// of others, when they are the greater part: so each costs a look or two, however long the queue is.
    fn leave_queue(&mut self, client_key: ClientKey, local: &Local) {
        let mut clients = local.state().clients.borrow_mut();
        let Some(client) = clients.get_mut(client_key) else { return };
        client.relays_in_vain += 1;
        if client.relays_in_vain > client.relays.len() / 2 {
            let waits = |token: u64| {
                self.requests
                    .get_mut(token)
                    .is_some_and(|it| it.stage == Stage::Waiting(client_key))
            };
            client.relays.retain({
                let mut waits = waits;
                move |token| waits(*token)
            });
            client.relays_in_vain = 0;
        }
    }

    /// An upstream connection has given up a call.
    pub(crate) fn call_failed(
        &mut self,
        token: u64,
        failure: CallFailure,
        from: &Connection,
    ) -> End {
        let relayed = self.requests.get_mut(token);
        let is_never_sent = relayed.is_some_and(|relayed| match relayed.stage {
            Stage::Sent { transmit, .. } => from.is_never_sent(transmit),
            Stage::Between | Stage::Waiting(_) => false,
        });
        match failure {
            CallFailure::DeadlinePassed => End::DeadlinePassed,
            CallFailure::ConnectionEnded if is_never_sent => End::NeverSent,
            CallFailure::ConnectionEnded => End::Lost,
        }
    }

    /// Nobody waits for a request any more. Gives the bytes that it held, if there was such a request.
    pub(crate) fn dropped(&mut self, token: u64, cause: DropCause, local: &Local) -> Option<usize> {
        let relayed = self.requests.get_mut(token)?;
        if let Stage::Sent { socket, call, .. } = relayed.stage {
            local.push(Command::CancelCall { socket, call });
        }
        let end = match cause {
            DropCause::DeadlinePassed => End::DeadlinePassed,
            DropCause::Cancelled | DropCause::ConnectionEnded => End::Dropped,
        };
        let (attempt, bytes, stage) = (relayed.attempt, relayed.content_bytes, relayed.stage);
        self.requests.free(token);
        if let Stage::Waiting(client_key) = stage {
            self.leave_queue(client_key, local);
        }
        self.relay.ended(attempt, &end, local.now());
        Some(bytes)
    }
}

impl std::fmt::Debug for Relays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relays").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Passes a request of `connection` on, or refuses it; `now` is the instant before it. Returns the
/// instant after it.
#[inline]
pub(super) fn forward(
    serving: &mut Serving,
    peers: &mut Peers,
    from: (&mut Connection, SocketId),
    arrival: (&RequestHead, &Body<'_>, Option<Instant>, Instant),
    lend: &dyn Fn() -> Bytes,
    clock: &dyn Fn() -> Instant,
    now: Instant,
) -> Instant {
    let ((connection, caller), (head, body, deadline, arrived)) = (from, arrival);
    serving.metrics.requests.increment();
    let bytes = body.content().len();
    let refusal = serving.refusal(head, deadline, arrived, bytes, now);
    let refusal = refusal.or_else(|| (head.hops >= HOPS_MAX).then_some(GOES_IN_CIRCLES));
    let refusal = refusal.map(|(status, text)| (status, Cow::Borrowed(text)));
    let refusal = refusal.or_else(|| {
        let Serving { relays, local, metrics, admission, .. } = serving;
        let relays = relays.as_mut().expect("whoever forwards has a relay");
        let deadline = deadline.or_else(|| Some(arrived + relays.config.timeout?));
        let token = relays.requests.enter(*head, caller, deadline, arrived);
        let relayed = relays.requests.get_mut(token).expect("entered just now");
        relayed.content_bytes = bytes;
        relayed.kept.keep(body, relays.config.copy_bytes_max, lend, metrics);
        if let Err(refused) = relays.place(token, None, peers, local) {
            relays.requests.free(token);
            return Some(refusal_of(refused));
        }
        connection.defer(head.call, deadline, token);
        admission.begin(bytes);
        metrics.relayed.increment();
        None
    });
    if let Some((status, text)) = refusal {
        let head = ResponseHead {
            in_flight: ResponseHead::LOAD_UNKNOWN,
            ..serving.bare_head(head, status, arrived, now)
        };
        let status = connection.respond(head, Payload::Copied(text.as_bytes()));
        serving.metrics.count_response(status.class());
    }
    clock()
}

/// The answer to a request that was passed on: passes it back, or tries again.
#[inline]
pub(super) fn answered(
    serving: &mut Serving,
    peers: &mut Peers,
    token: u64,
    answer: (&ResponseHead, &Body<'_>),
    lend: &dyn Fn() -> Bytes,
) {
    let (head, body) = answer;
    if try_again(serving, peers, token, &End::Answered(*head)).is_err() {
        let Some(relays) = &serving.relays else { return };
        let copy_bytes_max = relays.config.copy_bytes_max;
        let body = passed_body(body, copy_bytes_max, lend, &serving.metrics);
        tell(serving, peers, token, *head, body);
    }
}

/// An attempt has ended without an answer.
pub(super) fn ended(serving: &mut Serving, peers: &mut Peers, token: u64, end: End) {
    let Err(refused) = try_again(serving, peers, token, &end) else { return };
    let (status, text) = refusal_of(refused);
    let head = ResponseHead {
        call: CallId(0),
        status,
        queue_delay_us: 0,
        service_us: 0,
        // Of no server: those behind have not answered.
        in_flight: ResponseHead::LOAD_UNKNOWN,
    };
    tell(serving, peers, token, head, PassedBody::text(&text));
}

/// Makes another attempt, if that is safe and the relay wants it. `Ok`: nothing is left to do.
#[inline]
fn try_again(
    serving: &mut Serving,
    peers: &mut Peers,
    token: u64,
    end: &End,
) -> Result<(), Refused> {
    let Serving { relays, local, .. } = serving;
    let Some(relays) = relays else { return Ok(()) };
    let Some(relayed) = relays.requests.get_mut(token) else { return Ok(()) };
    relayed.stage = Stage::Between;
    let now = local.now();
    let next = relays.relay.ended(relayed.attempt, end, now);
    if next == Next::Tell || !end.is_not_executed() || !relayed.attempt.has_time(now) {
        return Err(Refused { end: Some(*end), tries: relayed.tries, none_is_left: false });
    }
    relayed.head.repeat |= end.was_sent();
    relays.place(token, Some(*end), peers, local)
}

/// Tells the caller how its request ended.
#[inline]
fn tell(
    serving: &mut Serving,
    peers: &mut Peers,
    token: u64,
    head: ResponseHead,
    body: PassedBody<'_>,
) {
    let Some(relays) = &mut serving.relays else { return };
    let Some(relayed) = relays.requests.get_mut(token) else { return };
    let (caller, call) = (relayed.caller, relayed.head.call);
    let took_us = serving.local.now().micros_since(relayed.arrived);
    serving.admission.end(relayed.content_bytes);
    relays.requests.free(token);
    serving.count_service_time(took_us);
    if let Some(status) = peers.pass_answer(caller, ResponseHead { call, ..head }, body) {
        serving.metrics.count_response(status.class());
    }
}

/// Sends a request to the server of `client`, or lets it wait for that.
#[inline]
fn start(
    relayed: &mut Relayed,
    token: u64,
    client_key: ClientKey,
    (config, metrics): (&RelayConfig, &ShardMetrics),
    peers: &mut Peers,
    local: &Local,
) -> Result<(), End> {
    let mut clients = local.state().clients.borrow_mut();
    let Some(client) = clients.get_mut(client_key) else { return Err(End::Unreachable) };
    if let Link::Up(socket) = client.link {
        // It is not there while it is read from: then it is pumped afterwards.
        if let Some(peer) = peers.get_with_output(socket) {
            if !peer.connection.has_room_for_calls() {
                peer.holds_calls = true;
            } else if client.relays.is_empty() {
                match relayed.send(token, peer, local.now(), metrics) {
                    Ok(()) => {
                        peers.mark_dirty(socket);
                        return Ok(());
                    }
                    Err(StartError::TooLarge { .. } | StartError::MetadataTooLong { .. }) => {
                        return Err(End::TooLarge);
                    }
                    Err(StartError::Leaving | StartError::NotOpen) => {
                        link_is_down(client, client_key, local);
                    }
                    Err(StartError::WindowFull | StartError::DeadlinePassed) => {}
                }
            }
        }
    } else if client.is_unreachable {
        client.is_kept_connected = true;
        return Err(End::Unreachable);
    } else if client.link == Link::Down {
        local.push(Command::Connect(client_key));
    }
    if client.relays.len().saturating_sub(client.relays_in_vain) >= config.waiting_max {
        return Err(End::TooManyWaiting);
    }
    client.relays.push_back(token);
    relayed.stage = Stage::Waiting(client_key);
    Ok(())
}

/// The connection takes no more; the next one is made.
fn link_is_down(client: &mut ClientState, client_key: ClientKey, local: &Local) {
    client.link = Link::Down;
    local.push(Command::Connect(client_key));
}

/// No connection was made: whoever waits for one is told.
pub(super) fn unreachable(client: &mut ClientState, local: &Local) {
    client.relays_in_vain = 0;
    for token in client.relays.drain(..) {
        local.push(Command::RelayEnded { token, end: End::Unreachable });
    }
}

/// What the caller is told of a request that came here too late in its way.
const GOES_IN_CIRCLES: (Status, &str) =
    (Status::TOO_MANY_HOPS, "passed on by too many proxies; is each the upstream of another?");

/// What the caller of a request is told that was not answered.
#[cold]
fn refusal_of(refused: Refused) -> (Status, Cow<'static, str>) {
    let Refused { end, tries, none_is_left } = refused;
    let (status, text) = match end {
        None => (Status::UNAVAILABLE, "no server is known to pass the request on to"),
        Some(End::Lost | End::DeadlinePassed | End::Dropped) => {
            (Status::UPSTREAM_LOST, "the connection to the server was lost before it answered")
        }
        Some(End::TooManyWaiting) => {
            (Status::SHED, "too many requests wait for the servers behind this proxy")
        }
        Some(End::TooLarge) => {
            (Status::REQUEST_TOO_LARGE, "longer than the server behind this proxy accepts")
        }
        Some(End::Unreachable | End::NeverSent | End::Answered(_)) => {
            let who = if none_is_left {
                "each server behind this proxy that may be called was tried"
            } else {
                "servers behind this proxy were tried as often as one request may"
            };
            let s = if tries == 1 { "" } else { "s" };
            let text = format!(
                "{who}, in {tries} attempt{s}, and none took the request; it was not executed: \
                 send it again later"
            );
            return (Status::UNAVAILABLE, text.into());
        }
    };
    (status, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_how_many_were_tried_whether_all_and_what_to_do() {
        let refused = |tries, none_is_left| {
            let (status, text) =
                refusal_of(Refused { end: Some(End::Unreachable), tries, none_is_left });
            assert_eq!(status, Status::UNAVAILABLE);
            text.into_owned()
        };
        assert_eq!(
            refused(3, true),
            "each server behind this proxy that may be called was tried, in 3 attempts, and none \
             took the request; it was not executed: send it again later"
        );
        assert_eq!(
            refused(1, false),
            "servers behind this proxy were tried as often as one request may, in 1 attempt, and \
             none took the request; it was not executed: send it again later"
        );
    }
}
