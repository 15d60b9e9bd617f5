//! Calls from inside a shard: no locks, no threads.
//!
//! A [`Client`] is one peer's address and the one connection to it, made when it is first needed and
//! made again, with jittered back-off, when it is lost. Many calls share the connection; a call that
//! is dropped is cancelled at the server; a call made on behalf of a request inherits its deadline.
//!
//! A call that finds no connection waits for one as long as its deadline allows; without a deadline
//! it fails with the first attempt that does. A caller that has another server to turn to does not want
//! to wait: see [`ClientConfig::waits_for_connection`].
//!
//! A server that is restarted is not noticed, as far as that is safe. A call that was *certainly* not
//! executed, because the server refused it while leaving, or because the connection ended before it
//! was sent, is started anew on the next connection, at most [`CALL_RETRIES_MAX`] times and while its
//! time lasts. So does a call without a deadline wait for the next connection, when a server has
//! accepted one and ended it unused; a server that is not there is told at once. A call that may have
//! been executed is never repeated: that is for the caller to decide.
//!
//! [`CALL_RETRIES_MAX`]: crate::limits::CALL_RETRIES_MAX

mod probe;

pub use probe::Probe;

pub(crate) use probe::{ProbeProgress, ProbeState, end as end_probe};

use crate::config::{ConfigError, ConnectionConfig, between};
use crate::driver::SocketId;
use crate::limits::CALL_RETRIES_MAX;
use crate::local::{Command, Local};
use crate::rng::Rng;
use crate::rpc::error::StartError;
use crate::time::{Duration, Instant, earliest};
use crate::timers::TimerId;
use crate::wire::frame::{CallId, MethodId, Priority, ResponseHead, Route};
use crate::wire::framer::Payload;
use crate::wire::metadata::MetadataBuf;
use crate::wire::status::Status;
use bytes::Bytes;
use slotmap::{Key, KeyData, new_key_type};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

new_key_type! {
    pub(crate) struct ClientKey;
    pub(crate) struct CallKey;
}

impl CallKey {
    pub(crate) fn to_token(self) -> u64 {
        self.data().as_ffi()
    }

    pub(crate) fn from_token(token: u64) -> Self {
        KeyData::from_ffi(token).into()
    }
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// How its connection behaves.
    pub connection: Arc<ConnectionConfig>,
    /// Pause after the first failed attempt to connect; doubles with each further one. Default 20 ms.
    pub backoff_min: Duration,
    /// The longest pause. Default 2 s.
    pub backoff_max: Duration,
    /// Calls that may wait for a connection, for room in the window, or for requests before them to be
    /// sent (see [`ConnectionConfig::output_bytes_max`]). Default 16,384.
    pub waiting_max: usize,
    /// False: a call ends with [`CallError::Unreachable`] at once when there is no connection and none
    /// is being made, because the last attempt failed and the pause after it is not over; and so does
    /// each call that waits when an attempt fails, whatever time it has left. For who has other servers
    /// to turn to. Default true: such calls wait for the next attempt, as the module page says.
    pub waits_for_connection: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            connection: Arc::default(),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            waiting_max: 16 * 1_024,
            waits_for_connection: true,
        }
    }
}

impl ClientConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        let millis = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
        self.connection.validate()?;
        between("client.backoff_min (ms)", millis(self.backoff_min), 0, DAY_MS)?;
        let least = millis(self.backoff_min);
        between("client.backoff_max (ms)", millis(self.backoff_max), least, DAY_MS)?;
        between("client.waiting_max", self.waiting_max as u64, 1, u32::MAX.into())
    }

    /// The pause before attempt `attempt` (from 1): doubling, capped, and drawn from its upper half,
    /// so that the clients of a server that came back do not come all at once.
    pub(crate) fn backoff(&self, attempt: u32, rng: &mut Rng) -> Duration {
        let doubled = self.backoff_min * 2u32.saturating_pow(attempt.saturating_sub(1).min(16));
        let pause = doubled.min(self.backoff_max);
        rng.between(pause / 2, pause)
    }
}

/// One peer, to be called from this shard. Clones share the connection; the last one closes it.
#[derive(Clone)]
pub struct Client(std::rc::Rc<Owner>);

struct Owner {
    local: Local,
    key: ClientKey,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.local.push(Command::CloseClient(self.key));
    }
}

impl Client {
    /// A client of the server at `address`. Connects with the first call.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which [`ClientConfig::validate`] tells beforehand.
    pub fn new(local: &Local, address: SocketAddr, config: ClientConfig) -> Client {
        config.validate().unwrap_or_else(|error| panic!("a client cannot be made: {error}"));
        let state = ClientState::new(address, config);
        let key = local.state().clients.borrow_mut().insert(state);
        Client(std::rc::Rc::new(Owner { local: local.clone(), key }))
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.0.local.state().clients.borrow()[self.0.key].address
    }

    /// Connects now, and again whenever the connection is lost, whether anybody calls or not: what a
    /// request is passed on by should be there when the request comes.
    pub fn keep_connected(&self) {
        let Owner { local, key } = &*self.0;
        local.state().clients.borrow_mut()[*key].is_kept_connected = true;
        local.push(Command::Connect(*key));
    }

    /// How it stands with the connection.
    #[inline]
    pub fn reach(&self) -> Reach {
        let clients = self.0.local.state().clients.borrow();
        let client = &clients[self.0.key];
        match client.link {
            Link::Up(_) => Reach::Connected,
            _ if client.is_unreachable => Reach::Unreachable,
            _ => Reach::NotYet,
        }
    }

    pub(crate) fn key(&self) -> ClientKey {
        self.0.key
    }

    /// A call of `method`; nothing happens until it is awaited.
    pub fn call(&self, method: MethodId, payload: impl Into<Payload<'static>>) -> CallBuilder {
        CallBuilder {
            client: self.clone(),
            request: OwnedRequest {
                method,
                priority: Priority::NORMAL,
                route: Route::ANY,
                deadline: self.0.local.deadline(),
                repeat: false,
                metadata: None,
                payload: payload.into(),
            },
        }
    }
}

/// Whether a server can be reached, as far as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// There is a connection.
    Connected,
    /// There is none, and nothing speaks against one.
    NotYet,
    /// There is none, and the last attempt to make one failed.
    Unreachable,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.address())
    }
}

/// A call being put together.
#[derive(Debug)]
#[must_use = "a call does nothing until it is awaited"]
pub struct CallBuilder {
    client: Client,
    request: OwnedRequest,
}

impl CallBuilder {
    /// Stop waiting after `timeout`, or at the inherited deadline if that is earlier.
    pub fn timeout(self, timeout: Duration) -> Self {
        let deadline = self.client.0.local.now() + timeout;
        self.deadline(deadline)
    }

    /// Stop waiting at `deadline`, or at the inherited deadline if that is earlier.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.request.deadline = earliest(self.request.deadline, Some(deadline));
        self
    }

    /// Do not inherit the deadline of the request on whose behalf this runs.
    pub fn without_deadline(mut self) -> Self {
        self.request.deadline = None;
        self
    }

    /// How important it is.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.request.priority = priority;
        self
    }

    /// Which shard or partition it is for.
    pub fn route(mut self, route: Route) -> Self {
        self.request.route = route;
        self
    }

    /// Marks it as one that may have been sent before.
    pub fn repeat(mut self) -> Self {
        self.request.repeat = true;
        self
    }

    /// Sends metadata along.
    pub fn metadata(mut self, metadata: MetadataBuf) -> Self {
        self.request.metadata = Some(metadata);
        self
    }
}

impl IntoFuture for CallBuilder {
    type Output = Result<Answer, CallError>;
    type IntoFuture = Call;

    fn into_future(self) -> Call {
        Call { state: Some(self.client.start(self.request)) }
    }
}

/// A call under way. Dropping it cancels it, at the server too.
#[derive(Debug)]
pub struct Call {
    state: Option<Result<(Client, CallKey), CallError>>,
}

impl Future for Call {
    type Output = Result<Answer, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (client, key) = match self.state.take().expect("polled after it was ready") {
            Ok(started) => started,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let mut calls = client.0.local.state().calls.borrow_mut();
        let call = calls.get_mut(key).expect("removed by this future alone");
        if let CallProgress::Ended(_) = call.progress {
            let call = calls.remove(key).expect("it was just there");
            let CallProgress::Ended(result) = call.progress else { unreachable!("matched above") };
            return Poll::Ready(result);
        }
        call.waker = Some(context.waker().clone());
        drop(calls);
        self.state = Some(Ok((client, key)));
        Poll::Pending
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(Ok((client, key))) = self.state.take() else { return };
        let state = client.0.local.state();
        let call = state.calls.borrow_mut().remove(key).expect("removed by this future alone");
        if let Some(timer) = call.timer {
            state.timers.borrow_mut().cancel(timer);
        }
        match call.progress {
            CallProgress::Sent { socket, call, .. } => {
                client.0.local.push(Command::CancelCall { socket, call });
            }
            CallProgress::Waiting => {
                state.clients.borrow_mut()[client.0.key].waiting_in_vain += 1;
            }
            CallProgress::New | CallProgress::Ended(_) => {}
        }
    }
}

/// The answer to a call: status OK, and what the server sent.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The payload.
    pub payload: Bytes,
    /// Status, queue delay, service time and load of the shard that answered.
    pub head: ResponseHead,
}

impl Answer {
    /// What a response means to its caller. "Deadline passed" is one thing, whoever noticed first.
    pub(crate) fn of(head: ResponseHead, payload: Bytes) -> Result<Answer, CallError> {
        match head.status {
            Status::OK => Ok(Answer { payload, head }),
            Status::DEADLINE_PASSED => Err(CallError::DeadlinePassed),
            status => Err(CallError::Status { status, payload }),
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The server answered with a status other than OK; its class says whether it executed.
    Status {
        /// The status.
        status: Status,
        /// What came with it: text for people, or what the status defines.
        payload: Bytes,
    },
    /// The deadline passed before the request was sent. Not executed.
    ExpiredUnsent,
    /// The deadline passed while the answer was awaited. May have executed.
    DeadlinePassed,
    /// The connection was lost while the answer was awaited. May have executed.
    ConnectionLost,
    /// No connection could be made. Not executed.
    Unreachable {
        /// To whom.
        address: SocketAddr,
        /// Why, as the kernel says it.
        kind: io::ErrorKind,
    },
    /// Too many calls wait for this server's connection already. Not executed.
    TooManyWaiting,
    /// The request is longer than the server accepts. Not executed.
    TooLarge {
        /// Its length on the wire.
        frame_bytes: usize,
        /// What the server accepts.
        max: u32,
    },
}

impl CallError {
    /// True when the request was certainly not executed: sending it again is safe.
    pub fn is_not_executed(&self) -> bool {
        match self {
            CallError::Status { status, .. } => status.is_not_executed(),
            CallError::DeadlinePassed | CallError::ConnectionLost => false,
            CallError::ExpiredUnsent
            | CallError::Unreachable { .. }
            | CallError::TooManyWaiting
            | CallError::TooLarge { .. } => true,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Status { status, payload } => {
                write!(f, "the server answered: {status}")?;
                match std::str::from_utf8(payload) {
                    Ok(text) if !text.is_empty() => write!(f, " ({text})"),
                    _ => Ok(()),
                }
            }
            CallError::ExpiredUnsent => f.write_str("the deadline passed before it could be sent"),
            CallError::DeadlinePassed => f.write_str("the deadline passed; it may have executed"),
            CallError::ConnectionLost => f.write_str("connection lost; it may have executed"),
            CallError::Unreachable { address, kind } => {
                write!(f, "no connection to {address}: {kind}")
            }
            CallError::TooManyWaiting => {
                f.write_str("too many calls wait for a connection to this server already")
            }
            CallError::TooLarge { frame_bytes, max } => {
                write!(f, "request of {frame_bytes} bytes; the server accepts frames up to {max}")
            }
        }
    }
}

impl std::error::Error for CallError {}

impl Client {
    fn start(self, request: OwnedRequest) -> Result<(Client, CallKey), CallError> {
        let local = &self.0.local;
        let state = local.state();
        if request.deadline.is_some_and(|deadline| deadline <= local.now()) {
            return Err(CallError::ExpiredUnsent);
        }
        let key = state.calls.borrow_mut().insert(CallState {
            client: self.0.key,
            request: Some(request),
            progress: CallProgress::New,
            retries: 0,
            timer: None,
            waker: None,
        });
        local.push(Command::StartCall(key));
        Ok((self, key))
    }
}

/// A request that waits to be sent.
#[derive(Debug)]
pub(crate) struct OwnedRequest {
    pub(crate) method: MethodId,
    pub(crate) priority: Priority,
    pub(crate) route: Route,
    pub(crate) deadline: Option<Instant>,
    pub(crate) repeat: bool,
    pub(crate) metadata: Option<MetadataBuf>,
    pub(crate) payload: Payload<'static>,
}

/// One call, from start to end; owned by its future.
#[derive(Debug)]
pub(crate) struct CallState {
    pub(crate) client: ClientKey,
    /// Taken when it ends; until then it may have to be sent again.
    pub(crate) request: Option<OwnedRequest>,
    pub(crate) progress: CallProgress,
    /// How often it was started anew.
    pub(crate) retries: u8,
    /// Set while it waits to be sent and has a deadline.
    pub(crate) timer: Option<TimerId>,
    waker: Option<Waker>,
}

#[derive(Debug)]
pub(crate) enum CallProgress {
    /// The shard has not looked at it yet.
    New,
    /// In its client's queue.
    Waiting,
    Sent {
        socket: SocketId,
        call: CallId,
        /// See [`Connection::transmits`](crate::rpc::connection::Connection::transmits).
        transmit: u32,
    },
    Ended(Result<Answer, CallError>),
}

impl CallState {
    /// Notes how it ended; who waits for that is to be woken.
    pub(crate) fn end(&mut self, result: Result<Answer, CallError>) -> Option<Waker> {
        self.progress = CallProgress::Ended(result);
        self.waker.take()
    }

    /// True while it is in its client's queue.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.progress, CallProgress::Waiting)
    }

    /// Counts one more attempt. False: it has had as many as it may.
    pub(crate) fn may_retry(&mut self) -> bool {
        let may_retry = self.retries < CALL_RETRIES_MAX;
        self.retries += u8::from(may_retry);
        may_retry
    }
}

impl From<StartError> for CallError {
    /// The two that end a call; the others let it wait.
    fn from(error: StartError) -> Self {
        match error {
            StartError::TooLarge { frame_bytes, max } => CallError::TooLarge { frame_bytes, max },
            StartError::MetadataTooLong { .. } => {
                unreachable!("a MetadataBuf is never longer than the limit")
            }
            StartError::NotOpen
            | StartError::Leaving
            | StartError::WindowFull
            | StartError::DeadlinePassed => CallError::ExpiredUnsent,
        }
    }
}

/// One client's connection, as the shard keeps it.
#[derive(Debug)]
pub(crate) struct ClientState {
    pub(crate) address: SocketAddr,
    pub(crate) config: ClientConfig,
    pub(crate) link: Link,
    /// Calls that wait for the connection or for room in the window, oldest first.
    pub(crate) waiting: VecDeque<CallKey>,
    /// How many of these have ended in the meantime: dropped, or past their deadline.
    pub(crate) waiting_in_vain: usize,
    /// Requests of others that wait likewise, by token; some may have ended in the meantime.
    pub(crate) relays: VecDeque<u64>,
    /// How many of these have ended while they waited.
    pub(crate) relays_in_vain: usize,
    /// It connects without being called.
    pub(crate) is_kept_connected: bool,
    /// There is no connection, and the last attempt to make one showed that there is no server. One that
    /// takes connections and ends them has the benefit of a few attempts: it may be about to restart.
    pub(crate) is_unreachable: bool,
    /// Attempts to connect that failed in a row, connections on which nothing was answered included.
    pub(crate) failures: u32,
    /// How often its server was probed.
    pub(crate) probes: u64,
    /// The probe under way.
    pub(crate) probe: Option<ProbeState>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// No connection, and nobody wants one.
    Down,
    /// Connecting, or waiting for the server's hello.
    Connecting(SocketId),
    /// Calls can be started.
    Up(SocketId),
    /// Waiting before the next attempt; why the last one failed.
    BackingOff(io::ErrorKind),
}

impl ClientState {
    fn new(address: SocketAddr, config: ClientConfig) -> Self {
        ClientState {
            address,
            config,
            link: Link::Down,
            waiting: VecDeque::new(),
            waiting_in_vain: 0,
            relays: VecDeque::new(),
            relays_in_vain: 0,
            is_kept_connected: false,
            is_unreachable: false,
            failures: 0,
            probes: 0,
            probe: None,
        }
    }

    /// True if somebody wants a connection.
    pub(crate) fn is_wanted(&self) -> bool {
        let probe_waits = || self.probe.as_ref().is_some_and(ProbeState::is_waiting);
        self.is_kept_connected
            || self.waiting.len() > self.waiting_in_vain
            || !self.relays.is_empty()
            || probe_waits()
    }

    /// Why a call that finds no connection now is not to wait for the next one.
    pub(crate) fn refusal(&self) -> Option<CallError> {
        match self.link {
            Link::BackingOff(kind) if !self.config.waits_for_connection => {
                Some(CallError::Unreachable { address: self.address, kind })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_bounds_is_named() {
        let valid = ClientConfig::default();
        valid.validate().expect("the defaults serve");
        let broken = ConnectionConfig { frame_bytes_max: 1, ..ConnectionConfig::default() };
        let shorter = valid.backoff_min / 2;
        for (config, name) in [
            (ClientConfig { connection: Arc::new(broken), ..valid.clone() }, "frame_bytes_max"),
            (ClientConfig { backoff_max: shorter, ..valid.clone() }, "client.backoff_max"),
            (ClientConfig { waiting_max: 0, ..valid.clone() }, "client.waiting_max"),
        ] {
            assert_eq!(config.validate().expect_err(name).name.split(' ').next(), Some(name));
        }
    }

    #[test]
    fn backoff_doubles_is_capped_and_jittered() {
        let config = ClientConfig::default();
        let mut rng = Rng::from_seed(5);
        for (attempt, pause_ms) in [(1, 20), (2, 40), (3, 80), (8, 2_000), (1_000, 2_000)] {
            let pause = Duration::from_millis(pause_ms);
            for _ in 0..50 {
                let drawn = config.backoff(attempt, &mut rng);
                assert!((pause / 2..=pause).contains(&drawn), "attempt {attempt}: {drawn:?}");
            }
        }
        let two: Vec<_> = (0..2).map(|_| config.backoff(3, &mut rng)).collect();
        assert_ne!(two[0], two[1], "no two clients come at the same instant");
    }

    #[test]
    fn errors_know_whether_it_was_executed() {
        let status = |status| CallError::Status { status, payload: Bytes::new() };
        assert!(status(Status::SHED).is_not_executed());
        assert!(!status(Status::INTERNAL).is_not_executed());
        assert!(CallError::ExpiredUnsent.is_not_executed());
        assert!(!CallError::ConnectionLost.is_not_executed());
    }
}
