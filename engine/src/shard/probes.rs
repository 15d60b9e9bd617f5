//! Probes: one ping for each, and what ends it.

use super::calls;
use super::peers::Peers;
use crate::client::{CallError, ClientKey, Link, ProbeProgress, ProbeState, end_probe};
use crate::driver::{Driver, SocketId};
use crate::local::Local;
use crate::wire::frame::PongHead;

/// A probe has been made: send it, or let it wait for the connection that is being made.
pub(crate) fn start<D: Driver>(
    peers: &mut Peers,
    driver: &mut D,
    local: &Local,
    client_key: ClientKey,
) {
    let mut clients = local.state().clients.borrow_mut();
    let Some(client) = clients.get_mut(client_key) else { return };
    // Given up before it began.
    let Some(probe) = client.probe.as_mut() else { return };
    match client.link {
        Link::Up(socket) => {
            if let Some(peer) = peers.get_mut(socket) {
                probe.send(socket, &mut peer.connection);
                peers.mark_dirty(socket);
            }
        }
        Link::Connecting(_) => {}
        Link::Down => {
            drop(clients);
            calls::connect(peers, driver, local, client_key);
        }
        Link::BackingOff(kind) => {
            let error = CallError::Unreachable { address: client.address, kind };
            drop(clients);
            end_probe(local, client_key, Err(error));
        }
    }
}

/// A pong has come.
pub(crate) fn answered(local: &Local, client_key: ClientKey, head: PongHead) {
    if is_so(local, client_key, |probe| probe.is_answered_by(&head)) {
        end_probe(local, client_key, Ok(head));
    }
}

/// A connection has ended.
pub(crate) fn lost(local: &Local, client_key: ClientKey, socket: SocketId) {
    if is_so(local, client_key, |probe| *probe.progress() == ProbeProgress::Sent(socket)) {
        end_probe(local, client_key, Err(CallError::ConnectionLost));
    }
}

/// No connection was made.
pub(crate) fn end_waiting(local: &Local, client_key: ClientKey, error: CallError) {
    if is_so(local, client_key, ProbeState::is_waiting) {
        end_probe(local, client_key, Err(error));
    }
}

/// Its time is up.
pub(crate) fn expire(local: &Local, client_key: ClientKey) {
    let error = match is_so(local, client_key, ProbeState::is_waiting) {
        true => CallError::ExpiredUnsent,
        false => CallError::DeadlinePassed,
    };
    end_probe(local, client_key, Err(error));
}

fn is_so(local: &Local, client_key: ClientKey, test: impl FnOnce(&ProbeState) -> bool) -> bool {
    let clients = local.state().clients.borrow();
    clients.get(client_key).and_then(|client| client.probe.as_ref()).is_some_and(test)
}
