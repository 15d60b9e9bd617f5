//! A client for tokio programs (feature `tokio`): the same connection state machine over tokio's
//! sockets, without any shard or thread of ours.
//!
//! For a program that lives on tokio and only calls. (A program that also runs shards can use
//! [`crate::handle::RemoteClient`], whose futures run on tokio too.)
//!
//! ```text
//! call() ── commands ──► Task: Queue ──► Conversation ◄──► server
//!   ▲                                        │ the server leaves, or the connection ends
//!   │                                        ▼
//!   └─────────── oneshot ───────── finishes in a task of its own, beside the next one
//! ```
//!
//! | file | what |
//! |---|---|
//! | this one | the client, and the task that owns its connection |
//! | `queue.rs` | the calls that wait, and when to connect for them; pure |
//! | `conversation.rs` | one connection and its socket |

mod conversation;
mod queue;

use self::conversation::Conversation;
use self::queue::{Failed, Queue};
use crate::client::{Answer, CallError, ClientConfig};
use crate::handle::CallOptions;
use crate::rng::Rng;
use crate::rpc::connection::CallRequest;
use crate::time::{Duration, Instant};
use crate::wire::frame::MethodId;
use ::tokio::net::TcpStream;
use ::tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One server, called from tokio tasks. Clones share its connection, which is made with the first
/// call and again when it was lost.
#[derive(Clone, Debug)]
pub struct TokioClient {
    commands: mpsc::UnboundedSender<Command>,
    /// One for each call that may wait; so it bounds the commands too.
    places: Arc<Semaphore>,
    next_number: Arc<AtomicU64>,
    address: SocketAddr,
    clock: Clock,
}

type Outcome = Result<Answer, CallError>;

#[derive(Debug)]
enum Command {
    Call(u64, Box<Call>),
    /// The future of the call with this number was dropped.
    Forget(u64),
}

/// A call, from the future that made it to the connection.
#[derive(Debug)]
struct Call {
    method: MethodId,
    payload: Bytes,
    options: CallOptions,
    deadline: Option<Instant>,
    result: oneshot::Sender<Outcome>,
    /// Given back when it is sent, or has ended.
    place: OwnedSemaphorePermit,
}

impl TokioClient {
    /// A client of the server at `address`.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub fn new(address: SocketAddr, config: ClientConfig) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let clock = Clock::start();
        let places = config.waiting_max.min(Semaphore::MAX_PERMITS);
        let task = Task {
            address,
            clock,
            commands: receiver,
            queue: Queue::new(config.clone(), Rng::from_seed(wall_seed())),
            config,
            link: Link::Down,
            finishing: Vec::new(),
        };
        ::tokio::spawn(task.run());
        let places = Arc::new(Semaphore::new(places));
        TokioClient { commands, places, next_number: Arc::default(), address, clock }
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls `method`. The timeout begins when the future is first polled; dropping the future
    /// cancels the call, at the server too.
    ///
    /// # Errors
    /// As [`crate::Client::call`]: a call waits for a connection as long as its timeout allows;
    /// without one it fails with the first attempt that does. A server that refuses the protocol
    /// itself is not waited for, and none is by a client that does not
    /// [wait for connections](ClientConfig::waits_for_connection).
    pub async fn call(
        &self,
        method: MethodId,
        payload: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<Answer, CallError> {
        let deadline = options.timeout.map(|timeout| self.clock.now() + timeout);
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Err(CallError::TooManyWaiting);
        };
        let (result, receiver) = oneshot::channel();
        let payload = payload.into();
        let call = Call { method, payload, options, deadline, result, place };
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        if self.commands.send(Command::Call(number, Box::new(call))).is_err() {
            let kind = io::ErrorKind::ConnectionAborted;
            return Err(CallError::Unreachable { address: self.address, kind });
        }
        let mut forget = Forget { commands: &self.commands, number, is_armed: true };
        let ended = receiver.await;
        forget.is_armed = false;
        // Nobody knows whether it was sent before its task ended with the runtime.
        ended.unwrap_or(Err(CallError::ConnectionLost))
    }
}

impl Call {
    fn request(&self) -> CallRequest<'_> {
        CallRequest {
            priority: self.options.priority,
            route: self.options.route,
            deadline: self.deadline,
            repeat: self.options.repeat,
            ..CallRequest::new(self.method, self.payload.clone())
        }
    }

    fn end(self, outcome: Outcome) {
        // Who is told may call again at once.
        drop(self.place);
        // Whoever asked may have gone away.
        drop(self.result.send(outcome));
    }
}

/// Cancels a call whose future is dropped before it ended.
struct Forget<'a> {
    commands: &'a mpsc::UnboundedSender<Command>,
    number: u64,
    is_armed: bool,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            // The task may have ended with the runtime.
            drop(self.commands.send(Command::Forget(self.number)));
        }
    }
}

/// Owns the connection, when there is one, and the calls that wait for it.
struct Task {
    address: SocketAddr,
    config: ClientConfig,
    clock: Clock,
    commands: mpsc::UnboundedReceiver<Command>,
    queue: Queue<Box<Call>>,
    link: Link,
    /// Connections that take no more calls: where to tell each which of its calls are given up.
    finishing: Vec<mpsc::UnboundedSender<u64>>,
}

enum Link {
    /// Nobody wants a connection, or there is a pause before the next attempt.
    Down,
    Connecting(Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Up(Box<Conversation>),
}

impl Link {
    /// Until the next thing has happened; gives what came of an attempt to connect.
    async fn turn(&mut self, clock: Clock) -> Option<io::Result<TcpStream>> {
        match self {
            Link::Down => std::future::pending().await,
            Link::Connecting(attempt) => Some(attempt.await),
            Link::Up(conversation) => {
                conversation.turn(clock).await;
                None
            }
        }
    }
}

impl Task {
    /// Until every client handle is gone.
    async fn run(mut self) {
        loop {
            self.advance();
            let wake_at = self.queue.wake_at();
            ::tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Call(number, call)) => self.take(number, call),
                    Some(Command::Forget(number)) => self.forget(number),
                    None => return self.leave(),
                },
                attempt = self.link.turn(self.clock) => match attempt {
                    Some(Ok(stream)) => self.connected(stream),
                    Some(Err(error)) => self.attempt_failed(&error),
                    None => {}
                },
                () = self.clock.sleep_until(wake_at) => self.expire(),
            }
        }
    }

    /// A call has been made: it waits for its turn, if it may.
    fn take(&mut self, number: u64, call: Box<Call>) {
        match self.queue.refusal(self.clock.now()) {
            None => self.queue.push(number, call.deadline, call),
            Some(kind) => call.end(Err(CallError::Unreachable { address: self.address, kind })),
        }
    }

    /// Brings the connection and the calls that wait together.
    fn advance(&mut self) {
        let now = self.clock.now();
        if let Link::Up(conversation) = &mut self.link {
            conversation.start_calls(&mut self.queue, now);
            if let Some(reason) = conversation.end_reason() {
                let has_answered = conversation.has_answered();
                let failed = self.queue.connection_ended(reason, has_answered, now);
                self.part();
                self.fail(failed);
            }
        }
        if matches!(self.link, Link::Down) && self.queue.begin_attempt(now) {
            self.link = Link::Connecting(Box::pin(connect(
                self.address,
                self.config.connection.hello_timeout,
            )));
        }
    }

    fn connected(&mut self, stream: TcpStream) {
        let config = self.config.connection.clone();
        self.link = Link::Up(Box::new(Conversation::new(stream, config, self.clock.now())));
    }

    fn attempt_failed(&mut self, error: &io::Error) {
        self.link = Link::Down;
        let failed = self.queue.attempt_failed(error.kind(), self.clock.now());
        self.fail(Some(failed));
    }

    fn fail(&self, failed: Option<Failed<Box<Call>>>) {
        let Some(Failed { kind, calls }) = failed else { return };
        let address = self.address;
        tracing::debug!(%address, %kind, "no connection; a pause before the next attempt");
        for call in calls {
            call.end(Err(CallError::Unreachable { address, kind }));
        }
    }

    fn expire(&mut self) {
        let now = self.clock.now();
        while let Some(call) = self.queue.pop_expired(now) {
            call.end(Err(CallError::ExpiredUnsent));
        }
    }

    /// The future of a call was dropped: wherever the call is, it ends.
    fn forget(&mut self, number: u64) {
        if self.queue.remove(number).is_some() {
            return;
        }
        if let Link::Up(conversation) = &mut self.link
            && conversation.forget(number)
        {
            return;
        }
        self.finishing.retain(|forgotten| forgotten.send(number).is_ok());
    }

    /// Lets the connection, which takes no more calls, finish by itself.
    fn part(&mut self) {
        if let Link::Up(conversation) = std::mem::replace(&mut self.link, Link::Down) {
            let (forgotten, receiver) = mpsc::unbounded_channel();
            self.finishing.retain(|forgotten| !forgotten.is_closed());
            self.finishing.push(forgotten);
            ::tokio::spawn(conversation.finish(self.clock, receiver));
        }
    }

    /// Nobody will call any more; nothing waits, for each call holds a client.
    fn leave(mut self) {
        if let Link::Up(conversation) = &mut self.link {
            conversation.leave(self.clock.now());
        }
        self.part();
    }
}

/// Connects, within `timeout`.
async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    ::tokio::time::timeout(timeout, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Tokio's clock in our unit.
#[derive(Clone, Copy, Debug)]
struct Clock {
    origin: ::tokio::time::Instant,
}

impl Clock {
    fn start() -> Self {
        Clock { origin: ::tokio::time::Instant::now() }
    }

    fn now(self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// Never ends for `None`.
    async fn sleep_until(self, at: Option<Instant>) {
        match at {
            Some(at) => ::tokio::time::sleep_until(self.origin + at.since(Instant::ZERO)).await,
            None => std::future::pending().await,
        }
    }
}

/// Only to tell clients' back-off jitter apart.
fn wall_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
