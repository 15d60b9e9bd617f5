//! Asking a server whether it is there, and for its load, without calling it.

use super::{CallError, Client, ClientKey};
use crate::driver::SocketId;
use crate::local::{Command, Local, TimerKey};
use crate::rpc::connection::Connection;
use crate::time::Duration;
use crate::timers::TimerId;
use crate::wire::frame::PongHead;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Set in the echo of each probe: a connection's own pings carry an instant, which never has it.
const ECHO_OF_PROBE: u64 = 1 << 63;

impl Client {
    /// Asks the server for a pong, which tells the load of the shard that this client is connected to.
    ///
    /// It begins at once. It is no call: it takes no room in the window, waits behind no call, runs no
    /// handler, and no counter of requests sees it. It connects where there is no connection yet, but
    /// outlasts no failed attempt: then, and while the client pauses after one, it ends with
    /// [`CallError::Unreachable`]. At most one is under way a client; another ends with
    /// [`CallError::TooManyWaiting`].
    ///
    /// An answer may tell no load, see [`PongHead::tells_load`]; it is a sign of life all the same.
    pub fn probe(&self, timeout: Duration) -> Probe {
        let local = &self.0.local;
        let state = local.state();
        let mut clients = state.clients.borrow_mut();
        let client = &mut clients[self.0.key];
        if client.probe.is_some() {
            return Probe(Some(Err(CallError::TooManyWaiting)));
        }
        client.probes += 1;
        let echo = ECHO_OF_PROBE | client.probes;
        let timer = TimerKey::Probe(self.0.key);
        let timer = state.timers.borrow_mut().insert(local.now() + timeout, timer);
        let progress = ProbeProgress::Waiting;
        client.probe = Some(ProbeState { echo, progress, timer: Some(timer), waker: None });
        local.push(Command::Probe(self.0.key));
        Probe(Some(Ok(self.clone())))
    }
}

/// A probe under way. Dropping it gives it up.
#[derive(Debug)]
#[must_use = "a probe that is dropped is given up"]
pub struct Probe(Option<Result<Client, CallError>>);

impl Future for Probe {
    type Output = Result<PongHead, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let client = match self.0.take().expect("polled after it was ready") {
            Ok(client) => client,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let mut clients = client.0.local.state().clients.borrow_mut();
        let place = &mut clients[client.0.key].probe;
        let probe = place.as_mut().expect("removed by this future alone");
        if let ProbeProgress::Ended(result) = &probe.progress {
            let result = result.clone();
            *place = None;
            return Poll::Ready(result);
        }
        probe.waker = Some(context.waker().clone());
        drop(clients);
        self.0 = Some(Ok(client));
        Poll::Pending
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let Some(Ok(client)) = self.0.take() else { return };
        let state = client.0.local.state();
        let probe = state.clients.borrow_mut()[client.0.key].probe.take();
        if let Some(timer) = probe.and_then(|probe| probe.timer) {
            state.timers.borrow_mut().cancel(timer);
        }
    }
}

/// One probe, from start to end; owned by its future.
#[derive(Debug)]
pub(crate) struct ProbeState {
    /// What its ping says, and its pong repeats.
    echo: u64,
    progress: ProbeProgress,
    /// Set until it ends.
    timer: Option<TimerId>,
    waker: Option<Waker>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ProbeProgress {
    /// For a connection.
    Waiting,
    Sent(SocketId),
    Ended(Result<PongHead, CallError>),
}

impl ProbeState {
    pub(crate) fn is_waiting(&self) -> bool {
        self.progress == ProbeProgress::Waiting
    }

    pub(crate) fn progress(&self) -> &ProbeProgress {
        &self.progress
    }

    /// True if `head` answers it.
    pub(crate) fn is_answered_by(&self, head: &PongHead) -> bool {
        self.echo == head.echo && matches!(self.progress, ProbeProgress::Sent(_))
    }

    /// Sends it, unless that was done.
    pub(crate) fn send(&mut self, socket: SocketId, connection: &mut Connection) {
        if self.is_waiting() && connection.ping(self.echo) {
            self.progress = ProbeProgress::Sent(socket);
        }
    }
}

/// Notes how a client's probe ended; who waits for that is woken.
pub(crate) fn end(local: &Local, client: ClientKey, result: Result<PongHead, CallError>) {
    let state = local.state();
    let mut clients = state.clients.borrow_mut();
    let Some(probe) = clients.get_mut(client).and_then(|client| client.probe.as_mut()) else {
        return;
    };
    probe.progress = ProbeProgress::Ended(result);
    if let Some(timer) = probe.timer.take() {
        state.timers.borrow_mut().cancel(timer);
    }
    let waker = probe.waker.take();
    // A waker is foreign code: it meets no borrow.
    drop(clients);
    if let Some(waker) = waker {
        waker.wake();
    }
}
