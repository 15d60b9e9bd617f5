//! Holds a driver to the rules that `driver.rs` promises to its callers.

use catena_engine::driver::{Completion, SendState, SocketId};
use std::collections::{BTreeMap, BTreeSet};

/// What one shard knows of its sockets, and so what may be reported of them.
#[derive(Debug, Default)]
pub struct Audit {
    sockets: BTreeMap<SocketId, Socket>,
    former: BTreeSet<SocketId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Socket {
    connected: bool,
    ended: bool,
    sending: bool,
    closing: bool,
}

impl Audit {
    /// `connect` gave an id.
    pub fn connecting(&mut self, socket: SocketId) {
        self.enter(socket, Socket::default());
    }

    /// `send` answered.
    pub fn sending(&mut self, socket: SocketId, state: &SendState) {
        self.socket(socket).sending = matches!(state, SendState::InFlight);
    }

    /// `close` is about to be called.
    pub fn closing(&mut self, socket: SocketId) {
        self.socket(socket).closing = true;
    }

    /// Sockets that were closed and wait for their last completion.
    pub fn closing_count(&self) -> usize {
        self.sockets.values().filter(|socket| socket.closing).count()
    }

    /// Sockets that are open or opening.
    pub fn open_count(&self) -> usize {
        self.sockets.len() - self.closing_count()
    }

    /// A completion was reported.
    pub fn see(&mut self, completion: &Completion) {
        match completion {
            Completion::Accepted { socket, .. } => {
                self.enter(*socket, Socket { connected: true, ..Socket::default() });
            }
            Completion::Connected { socket, result } => {
                let known = self.socket(*socket);
                assert!(!known.closing && !known.connected, "connected out of turn: {known:?}");
                known.connected = true;
                if result.is_err() {
                    self.leave(*socket);
                }
            }
            Completion::Received { socket, chunk } => {
                let known = self.socket(*socket);
                assert!(known.connected && !known.ended && !known.closing, "received: {known:?}");
                assert!(!chunk.is_empty());
            }
            Completion::Filled { socket, .. } => {
                let known = self.socket(*socket);
                assert!(known.connected && !known.ended && !known.closing, "filled: {known:?}");
            }
            Completion::ReceiveEnded { socket, .. } => {
                let known = self.socket(*socket);
                assert!(known.connected && !known.ended && !known.closing, "ended: {known:?}");
                known.ended = true;
            }
            Completion::Sent { socket, .. } => {
                let known = self.socket(*socket);
                assert!(std::mem::take(&mut known.sending), "no send was in flight");
            }
            Completion::Closed { socket } => {
                let known = self.socket(*socket);
                assert!(known.closing && !known.sending, "closed: {known:?}");
                self.leave(*socket);
            }
            Completion::AcceptFailed { .. }
            | Completion::File { .. }
            | Completion::FileTask { .. } => {}
        }
    }

    fn enter(&mut self, socket: SocketId, state: Socket) {
        assert!(!self.former.contains(&socket), "{socket:?} was used before");
        assert!(self.sockets.insert(socket, state).is_none(), "{socket:?} is in use");
        let same_slot = self.sockets.keys().filter(|other| other.slot == socket.slot).count();
        assert_eq!(same_slot, 1, "a slot has one tenant at a time");
    }

    fn leave(&mut self, socket: SocketId) {
        self.sockets.remove(&socket);
        self.former.insert(socket);
    }

    fn socket(&mut self, socket: SocketId) -> &mut Socket {
        self.sockets.get_mut(&socket).unwrap_or_else(|| panic!("{socket:?} is void"))
    }
}
