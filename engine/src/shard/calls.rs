//! The client side of a shard: connect, start calls, match answers, back off.
//!
//! ```text
//!         a call comes           hello is in
//! Down ───────────────► Connecting ─────────► Up ──► lost, or the server leaves: Down
//!   ▲                       │ failed
//!   └──── pause is over ── BackingOff
//! ```

use super::peer::Peer;
use super::peers::Peers;
use super::probes;
use super::relays;
use crate::client::{
    Answer, CallError, CallKey, CallProgress, CallState, ClientKey, ClientState, Link,
};
use crate::driver::{Driver, SocketId};
use crate::limits::CALL_RETRIES_MAX;
use crate::local::{Command, Local, State, TimerKey};
use crate::rpc::connection::{CallFailure, CallRequest, Connection};
use crate::rpc::error::{CloseReason, StartError};
use crate::wire::frame::ResponseHead;
use bytes::Bytes;
use std::io;

/// A call has been made: send it, or let it wait for a connection.
pub(crate) fn start<D: Driver>(peers: &mut Peers, driver: &mut D, local: &Local, key: CallKey) {
    let state = local.state();
    // Dropped before it was sent.
    let Some(client_key) = state.calls.borrow().get(key).map(|call| call.client) else { return };
    if !enqueue(local, client_key, key) {
        return;
    }
    let link = state.clients.borrow()[client_key].link;
    match link {
        Link::Up(socket) => {
            if let Some(peer) = peers.get_mut(socket) {
                pump(local, client_key, socket, peer);
                peers.mark_dirty(socket);
            }
        }
        Link::Down => connect(peers, driver, local, client_key),
        Link::Connecting(_) | Link::BackingOff(_) => {}
    }
    watch(state, key);
}

/// Puts a call behind those that wait; false: it may not wait, and has failed.
fn enqueue(local: &Local, client_key: ClientKey, key: CallKey) -> bool {
    let state = local.state();
    let mut clients = state.clients.borrow_mut();
    let client = &mut clients[client_key];
    if let Some(error) = client.refusal() {
        drop(clients);
        end(state, key, Err(error));
        return false;
    }
    if client.waiting.len() - client.waiting_in_vain >= client.config.waiting_max {
        drop(clients);
        end(state, key, Err(CallError::TooManyWaiting));
        return false;
    }
    // Not before most have ended: so a call costs a look or two, however long the queue is.
    if client.waiting_in_vain > client.waiting.len() / 2 {
        let calls = state.calls.borrow();
        client.waiting.retain(|key| calls.get(*key).is_some_and(CallState::is_waiting));
        client.waiting_in_vain = 0;
    }
    client.waiting.push_back(key);
    if let Some(call) = state.calls.borrow_mut().get_mut(key) {
        call.progress = CallProgress::Waiting;
    }
    true
}

/// Starts the calls that wait, as many as the window takes and the connection has room for.
pub(crate) fn pump(local: &Local, client_key: ClientKey, socket: SocketId, peer: &mut Peer) {
    let state = local.state();
    let mut clients = state.clients.borrow_mut();
    let Some(client) = clients.get_mut(client_key) else { return };
    if client.link != Link::Up(socket) {
        return;
    }
    if let Some(probe) = &mut client.probe {
        probe.send(socket, &mut peer.connection);
    }
    let mut failed = Vec::new();
    peer.holds_calls = false;
    while let Some(key) = client.waiting.front().copied() {
        if !peer.connection.has_room_for_calls() {
            peer.holds_calls = true;
            break;
        }
        match start_on(local, socket, &mut peer.connection, key) {
            Ok(Started::Sent) => {}
            Ok(Started::Ended) => client.waiting_in_vain -= 1,
            Err(StartError::WindowFull) => break,
            Err(StartError::Leaving | StartError::NotOpen) => {
                client.link = Link::Down;
                local.push(Command::Connect(client_key));
                break;
            }
            Err(error) => failed.push((key, error)),
        }
        client.waiting.pop_front();
    }
    drop(clients);
    for (key, error) in failed {
        end(state, key, Err(error.into()));
    }
}

/// What became of a call whose turn it was.
enum Started {
    Sent,
    /// Dropped, or expired, while it waited.
    Ended,
}

/// Sends one call.
fn start_on(
    local: &Local,
    socket: SocketId,
    connection: &mut Connection,
    key: CallKey,
) -> Result<Started, StartError> {
    let state = local.state();
    let mut calls = state.calls.borrow_mut();
    let Some(call) = calls.get_mut(key) else { return Ok(Started::Ended) };
    let Some(request) = call.request.as_ref().filter(|_| call.is_waiting()) else {
        return Ok(Started::Ended);
    };
    let metadata = request.metadata.as_ref().map_or(&[][..], |buf| buf.as_metadata().as_bytes());
    let call_request = CallRequest {
        method: request.method,
        priority: request.priority,
        route: request.route,
        deadline: request.deadline,
        repeat: request.repeat,
        metadata,
        payload: request.payload.clone(),
    };
    let id = connection.start_call(call_request, key.to_token(), local.now())?;
    let transmit = connection.transmits();
    call.progress = CallProgress::Sent { socket, call: id, transmit };
    if let Some(timer) = call.timer.take() {
        state.timers.borrow_mut().cancel(timer);
    }
    Ok(Started::Sent)
}

/// Sees to it that a call which could not be sent at once ends at its deadline, whatever it waits
/// for.
fn watch(state: &State, key: CallKey) {
    let mut calls = state.calls.borrow_mut();
    let Some(call) = calls.get_mut(key).filter(|call| call.is_waiting()) else { return };
    if let Some(deadline) = call.request.as_ref().and_then(|request| request.deadline) {
        let timer = state.timers.borrow_mut().insert(deadline, TimerKey::Call(key));
        call.timer = Some(timer);
    }
}

/// The deadline of a call that waits has passed.
pub(crate) fn expire_waiting(local: &Local, key: CallKey) {
    let state = local.state();
    let Some(client_key) = state.calls.borrow().get(key).map(|call| call.client) else { return };
    if let Some(client) = state.clients.borrow_mut().get_mut(client_key) {
        client.waiting_in_vain += 1;
    }
    end(state, key, Err(CallError::ExpiredUnsent));
}

/// Connects, if somebody waits for it.
pub(crate) fn connect<D: Driver>(
    peers: &mut Peers,
    driver: &mut D,
    local: &Local,
    client_key: ClientKey,
) {
    let state = local.state();
    let mut clients = state.clients.borrow_mut();
    let Some(client) = clients.get_mut(client_key) else { return };
    if client.link != Link::Down {
        return;
    }
    if !client.is_wanted() {
        return;
    }
    match driver.connect(client.address) {
        Ok(socket) => {
            client.link = Link::Connecting(socket);
            let config = client.config.connection.clone();
            peers.insert_connecting(socket, client_key, config, local.now());
        }
        Err(error) => {
            drop(clients);
            attempt_failed(local, client_key, Loss { kind: error.kind(), is_by_server: false });
        }
    }
}

/// The server's hello is in.
pub(crate) fn opened(local: &Local, client_key: ClientKey, socket: SocketId) {
    let mut clients = local.state().clients.borrow_mut();
    if let Some(client) = clients.get_mut(client_key)
        && client.link == Link::Connecting(socket)
    {
        client.link = Link::Up(socket);
        client.is_unreachable = false;
    }
}

/// The server leaves: what is in flight ends on this connection, what comes takes another.
pub(crate) fn leaving(local: &Local, client_key: ClientKey, socket: SocketId, has_answered: bool) {
    let link = local.state().clients.borrow().get(client_key).map(|client| client.link);
    if link == Some(Link::Up(socket)) {
        let loss = Loss { kind: io::ErrorKind::ConnectionAborted, is_by_server: true };
        gone(local, client_key, loss, has_answered);
    }
}

/// The connection has ended.
pub(crate) fn lost(
    local: &Local,
    client_key: ClientKey,
    socket: SocketId,
    reason: &CloseReason,
    has_answered: bool,
) {
    let loss = Loss::of(reason);
    probes::lost(local, client_key, socket);
    let link = local.state().clients.borrow().get(client_key).map(|client| client.link);
    match link {
        Some(Link::Up(current)) if current == socket => {
            gone(local, client_key, loss, has_answered);
        }
        Some(Link::Connecting(current)) if current == socket => {
            attempt_failed(local, client_key, loss);
        }
        _ => {}
    }
}

/// Why there is no connection.
struct Loss {
    kind: io::ErrorKind,
    /// There was one, and the server has ended it: it is there, and may be about to restart.
    is_by_server: bool,
}

impl Loss {
    fn of(reason: &CloseReason) -> Loss {
        let kind = match reason {
            CloseReason::Lost(kind) => *kind,
            CloseReason::PeerTooSlow(_) => io::ErrorKind::TimedOut,
            CloseReason::PeerIncompatible(_) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::ConnectionAborted,
        };
        let is_by_server = match reason {
            CloseReason::PeerClosed | CloseReason::PeerLeft(_) => true,
            CloseReason::Lost(kind) => {
                matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            _ => false,
        };
        Loss { kind, is_by_server }
    }
}

/// A connection on which calls could be started takes no more. One that has answered something was
/// good, and the next is made at once; any other was no better than none, or a server that takes
/// connections and leaves would be called again as fast as the network can.
fn gone(local: &Local, client_key: ClientKey, loss: Loss, has_answered: bool) {
    if !has_answered {
        return attempt_failed(local, client_key, loss);
    }
    let client = &mut local.state().clients.borrow_mut()[client_key];
    client.link = Link::Down;
    client.failures = 0;
    if client.is_wanted() {
        local.push(Command::Connect(client_key));
    }
}

/// No connection was made, or none that was good for anything: calls without a deadline fail, unless
/// the server was there; the others wait for the next attempt, unless the client is not to wait.
fn attempt_failed(local: &Local, client_key: ClientKey, loss: Loss) {
    let Loss { kind, is_by_server } = loss;
    let state = local.state();
    let mut clients = state.clients.borrow_mut();
    let Some(client) = clients.get_mut(client_key) else { return };
    client.failures = client.failures.saturating_add(1);
    client.link = Link::BackingOff(kind);
    let pause = client.config.backoff(client.failures, &mut state.rng.borrow_mut());
    let at = local.now() + pause;
    state.timers.borrow_mut().insert(at, TimerKey::Client(client_key));
    client.is_unreachable = !is_by_server || client.failures > CALL_RETRIES_MAX.into();
    if client.is_unreachable {
        relays::unreachable(client, local);
    }
    let ClientState { address, config, waiting, waiting_in_vain, .. } = client;
    tracing::debug!(%address, %kind, ?pause, "no connection; waiting before the next attempt");
    let mut failed = Vec::new();
    let mut calls = state.calls.borrow_mut();
    waiting.retain(|key| {
        let Some(call) = calls.get_mut(*key).filter(|call| call.is_waiting()) else {
            return false;
        };
        let has_deadline = call.request.as_ref().is_some_and(|request| request.deadline.is_some());
        let waits_on =
            config.waits_for_connection && (has_deadline || (is_by_server && call.may_retry()));
        if !waits_on {
            failed.push(*key);
        }
        waits_on
    });
    *waiting_in_vain = 0;
    let error = CallError::Unreachable { address: *address, kind };
    drop((calls, clients));
    probes::end_waiting(local, client_key, error.clone());
    for key in failed {
        end(state, key, Err(error.clone()));
    }
}

/// The pause after a failed attempt is over.
pub(crate) fn backoff_ended<D: Driver>(
    peers: &mut Peers,
    driver: &mut D,
    local: &Local,
    client_key: ClientKey,
) {
    if let Some(client) = local.state().clients.borrow_mut().get_mut(client_key) {
        client.link = Link::Down;
    }
    connect(peers, driver, local, client_key);
}

/// The last handle of a client is gone.
pub(crate) fn close(peers: &mut Peers, local: &Local, client_key: ClientKey) {
    let Some(mut client) = local.state().clients.borrow_mut().remove(client_key) else { return };
    relays::unreachable(&mut client, local);
    match client.link {
        // No call can be in flight: each holds a handle of its client. What was passed on ends first.
        Link::Up(socket) => peers.drain_one(socket, local.now()),
        Link::Connecting(socket) => peers.abort(socket),
        Link::Down | Link::BackingOff(_) => {}
    }
}

/// The answer to a call is in.
pub(crate) fn answered(local: &Local, token: u64, head: ResponseHead, payload: Bytes) {
    end(local.state(), CallKey::from_token(token), Answer::of(head, payload));
}

/// Whether a request was sent that was not executed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WasSent {
    Yes,
    No,
}

/// Starts a call anew that was certainly not executed, on whatever connection there is next. False: it
/// has had its attempts, and ends.
pub(crate) fn retry(local: &Local, token: u64, was_sent: WasSent) -> bool {
    let key = CallKey::from_token(token);
    let mut calls = local.state().calls.borrow_mut();
    // Dropped in the meantime: nothing is left to do.
    let Some(call) = calls.get_mut(key) else { return true };
    if !call.may_retry() {
        return false;
    }
    call.progress = CallProgress::New;
    if let Some(request) = &mut call.request {
        request.repeat |= was_sent == WasSent::Yes;
    }
    drop(calls);
    local.push(Command::StartCall(key));
    true
}

/// True when the connection has ended and this call had not left it.
fn is_never_sent(local: &Local, token: u64, connection: &Connection) -> bool {
    let calls = local.state().calls.borrow();
    let call = calls.get(CallKey::from_token(token));
    call.is_some_and(|call| match call.progress {
        CallProgress::Sent { transmit, .. } => connection.is_never_sent(transmit),
        _ => false,
    })
}

/// A call has ended on `connection` without an answer.
pub(crate) fn failed(local: &Local, token: u64, failure: CallFailure, connection: &Connection) {
    if failure == CallFailure::ConnectionEnded
        && is_never_sent(local, token, connection)
        && retry(local, token, WasSent::No)
    {
        return;
    }
    let error = match failure {
        CallFailure::DeadlinePassed => CallError::DeadlinePassed,
        CallFailure::ConnectionEnded => CallError::ConnectionLost,
    };
    end(local.state(), CallKey::from_token(token), Err(error));
}

fn end(state: &State, key: CallKey, result: Result<Answer, CallError>) {
    let mut calls = state.calls.borrow_mut();
    let Some(call) = calls.get_mut(key) else { return };
    if let Some(timer) = call.timer.take() {
        state.timers.borrow_mut().cancel(timer);
    }
    let left = (call.request.take(), call.end(result));
    // A waker is foreign code, and so may be what drops with the request: neither meets a borrow.
    drop(calls);
    if let (_request, Some(waker)) = left {
        waker.wake();
    }
}
