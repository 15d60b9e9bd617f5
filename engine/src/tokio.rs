//! A client for tokio programs (feature `tokio`): the same connection state machine over tokio's
//! sockets, without any shard or thread of ours.
//!
//! For a program that lives on tokio and only calls. (A program that also runs shards can use
//! [`crate::handle::RemoteClient`], whose futures run on tokio too.)

use crate::client::{Answer, CallError, ClientConfig};
use crate::handle::CallOptions;
use crate::rng::Rng;
use crate::rpc::connection::{CallFailure, CallRequest, Connection, Event, Role};
use crate::rpc::error::StartError;
use crate::time::{Instant, earliest};
use crate::wire::deframer::Input;
use crate::wire::frame::{CallId, MethodId};
use crate::wire::hello::ShardMap;
use crate::wire::output::Output;
use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::TcpStream;
use ::tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use ::tokio::sync::{mpsc, oneshot};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;

/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 * 1_024;

/// One server, called from tokio tasks. Clones share its connection, which is made with the first
/// call and again when it was lost.
#[derive(Clone, Debug)]
pub struct TokioClient {
    commands: mpsc::UnboundedSender<Command>,
    address: SocketAddr,
}

#[derive(Debug)]
enum Command {
    Call(Box<Pending>),
    /// The future of the call with this number was dropped.
    Forget(u64),
}

/// A call, from the future that made it to the task that owns the connection.
#[derive(Debug)]
struct Pending {
    number: u64,
    method: MethodId,
    payload: Bytes,
    options: CallOptions,
    deadline: Option<Instant>,
    result: oneshot::Sender<Result<Answer, CallError>>,
}

impl TokioClient {
    /// A client of the server at `address`.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub fn new(address: SocketAddr, config: ClientConfig) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let task = Task {
            address,
            rng: Rng::from_seed(Clock::wall_seed()),
            config,
            clock: Clock::start(),
            commands: receiver,
            waiting: VecDeque::new(),
            failures: 0,
        };
        ::tokio::spawn(task.run());
        TokioClient { commands, address }
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls `method`. Dropping the future cancels the call, at the server too.
    ///
    /// # Errors
    /// As [`crate::Client::call`]: a call waits for a connection as long as its timeout allows;
    /// without one it fails with the first attempt that does.
    pub async fn call(
        &self,
        method: MethodId,
        payload: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<Answer, CallError> {
        let (result, receiver) = oneshot::channel();
        let number = Clock::number();
        let payload = payload.into();
        let pending = Pending { number, method, payload, options, deadline: None, result };
        let stopped = CallError::Unreachable {
            address: self.address,
            kind: io::ErrorKind::ConnectionAborted,
        };
        if self.commands.send(Command::Call(Box::new(pending))).is_err() {
            return Err(stopped);
        }
        let mut forget = Forget { commands: &self.commands, number, is_armed: true };
        let ended = receiver.await;
        forget.is_armed = false;
        ended.unwrap_or(Err(stopped))
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

/// Owns the connection, when there is one.
struct Task {
    address: SocketAddr,
    config: ClientConfig,
    rng: Rng,
    clock: Clock,
    commands: mpsc::UnboundedReceiver<Command>,
    waiting: VecDeque<Pending>,
    failures: u32,
}

impl Task {
    /// Until every client handle is gone.
    async fn run(mut self) {
        loop {
            while self.waiting.is_empty() {
                match self.commands.recv().await {
                    None => return,
                    Some(command) => self.take(command),
                }
            }
            match self.connect().await {
                Ok(stream) => {
                    drop(stream.set_nodelay(true));
                    if self.converse(stream).await.is_none() {
                        return;
                    }
                }
                Err(error) => self.attempt_failed(error.kind()).await,
            }
        }
    }

    /// Connects, and lets calls come, go and expire meanwhile.
    async fn connect(&mut self) -> io::Result<TcpStream> {
        let connecting = TcpStream::connect(self.address);
        ::tokio::pin!(connecting);
        loop {
            let expires_at = self.first_deadline();
            ::tokio::select! {
                result = &mut connecting => return result,
                Some(command) = self.commands.recv() => self.take(command),
                () = self.clock.sleep_until(expires_at) => self.expire_waiting(),
            }
        }
    }

    /// When the first of the calls that wait to be sent expires.
    fn first_deadline(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|pending| pending.deadline).min()
    }

    fn expire_waiting(&mut self) {
        let now = self.clock.now();
        for pending in std::mem::take(&mut self.waiting) {
            if pending.deadline.is_some_and(|deadline| deadline <= now) {
                drop(pending.result.send(Err(CallError::ExpiredUnsent)));
            } else {
                self.waiting.push_back(pending);
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Call(mut pending) => {
                let now = self.clock.now();
                pending.deadline = pending.options.timeout.map(|timeout| now + timeout);
                if self.waiting.len() < self.config.waiting_max {
                    self.waiting.push_back(*pending);
                } else {
                    drop(pending.result.send(Err(CallError::TooManyWaiting)));
                }
            }
            Command::Forget(number) => self.waiting.retain(|pending| pending.number != number),
        }
    }

    /// Fails the calls that cannot wait, and pauses before the next attempt.
    async fn attempt_failed(&mut self, kind: io::ErrorKind) {
        self.failures = self.failures.saturating_add(1);
        let retry_at = self.clock.now() + self.config.backoff(self.failures, &mut self.rng);
        let address = self.address;
        for pending in std::mem::take(&mut self.waiting) {
            match pending.deadline {
                Some(deadline) if deadline > retry_at => self.waiting.push_back(pending),
                Some(_) => drop(pending.result.send(Err(CallError::ExpiredUnsent))),
                None => {
                    drop(pending.result.send(Err(CallError::Unreachable { address, kind })));
                }
            }
        }
        self.clock.sleep_until(Some(retry_at)).await;
    }

    /// One connection from hello to end. `None`: nobody will call any more.
    async fn converse(&mut self, stream: TcpStream) -> Option<()> {
        let (reader, writer) = stream.into_split();
        let config = self.config.connection.clone();
        let now = self.clock.now();
        let mut conversation = Conversation {
            connection: Connection::new(Role::Client, config, &ShardMap::default(), now),
            reader,
            writer,
            input: BytesMut::with_capacity(READ_BYTES),
            output: None,
            calls: BTreeMap::new(),
            is_over: false,
        };
        let mut is_wanted = true;
        while !conversation.is_over {
            conversation.start_calls(&mut self.waiting, self.clock.now());
            conversation.take_events();
            if conversation.connection.is_open() {
                self.failures = 0;
            }
            let wake_at = earliest(conversation.connection.poll_timeout(), self.first_deadline());
            ::tokio::select! {
                command = self.commands.recv(), if is_wanted => match command {
                    Some(Command::Forget(number)) if conversation.forget(number) => {}
                    Some(command) => self.take(command),
                    None => {
                        is_wanted = false;
                        conversation.connection.drain(self.clock.now());
                    }
                },
                result = conversation.exchange() => {
                    let now = self.clock.now();
                    match result {
                        Ok(true) => conversation.read(now),
                        Ok(false) => {}
                        Err(end) => conversation.connection.handle_end(end.0),
                    }
                }
                () = self.clock.sleep_until(wake_at) => {
                    conversation.connection.handle_timeout(self.clock.now());
                    self.expire_waiting();
                }
            }
            conversation.take_events();
        }
        is_wanted.then_some(())
    }
}

/// The peer ended its stream, or the connection broke.
struct End(io::Result<()>);

/// A connection and its socket.
struct Conversation {
    connection: Connection,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    input: BytesMut,
    /// What is being written, and how much of it is.
    output: Option<(Output, usize)>,
    /// Calls in flight by number.
    calls: BTreeMap<u64, (CallId, oneshot::Sender<Result<Answer, CallError>>)>,
    is_over: bool,
}

impl Conversation {
    /// Starts as many of the calls that wait as the server takes.
    fn start_calls(&mut self, waiting: &mut VecDeque<Pending>, now: Instant) {
        while let Some(pending) = waiting.pop_front() {
            let request = CallRequest {
                priority: pending.options.priority,
                route: pending.options.route,
                deadline: pending.deadline,
                repeat: pending.options.repeat,
                ..CallRequest::new(pending.method, pending.payload.clone())
            };
            match self.connection.start_call(request, pending.number, now) {
                Ok(call) => drop(self.calls.insert(pending.number, (call, pending.result))),
                Err(
                    error @ (StartError::TooLarge { .. }
                    | StartError::MetadataTooLong { .. }
                    | StartError::DeadlinePassed),
                ) => {
                    drop(pending.result.send(Err(error.into())));
                }
                Err(StartError::NotOpen | StartError::Leaving | StartError::WindowFull) => {
                    return waiting.push_front(pending);
                }
            }
        }
    }

    /// True if the call was in flight here and is cancelled now.
    fn forget(&mut self, number: u64) -> bool {
        match self.calls.remove(&number) {
            Some((call, _)) => {
                self.connection.cancel(call);
                true
            }
            None => false,
        }
    }

    /// Reads (`true`) or writes (`false`) something, whichever is possible first.
    async fn exchange(&mut self) -> Result<bool, End> {
        if self.output.is_none() {
            self.output = self.connection.poll_transmit().map(|output| (output, 0));
        }
        self.input.reserve(READ_BYTES);
        let read = self.reader.read_buf(&mut self.input);
        let Some((output, written)) = &mut self.output else {
            return read_end(read.await);
        };
        let slices: Vec<_> = output.slices(*written, crate::limits::SEND_SLICES_MAX).collect();
        ::tokio::select! {
            read = read => read_end(read),
            result = self.writer.write_vectored(&slices) => {
                *written += result.map_err(|error| End(Err(error)))?;
                if *written == output.len() {
                    self.output = None;
                }
                Ok(false)
            }
        }
    }

    /// Takes in what was read.
    fn read(&mut self, now: Instant) {
        let chunk = self.input.split().freeze();
        let mut input = Input::new(&chunk);
        while let Some(event) = self.connection.handle_bytes(&mut input, now) {
            match event {
                Event::Response { token, head, body } => {
                    let payload = body.to_payload_bytes(|| chunk.clone());
                    self.end(token, Answer::of(head, payload));
                    self.connection.recycle(body);
                }
                other => self.on_event(other),
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::CallFailed { token, failure } => self.end(
                token,
                Err(match failure {
                    CallFailure::DeadlinePassed => CallError::DeadlinePassed,
                    CallFailure::ConnectionEnded => CallError::ConnectionLost,
                }),
            ),
            Event::Closed(reason) => {
                tracing::debug!(%reason, "connection ended");
                self.is_over = true;
            }
            Event::Opened | Event::PeerLeaves { .. } | Event::RequestDropped { .. } => {}
            Event::RequestRefused { .. } => {}
            Event::Request { .. } | Event::Response { .. } => {
                unreachable!("a client gets no requests, and takes responses where bytes are read")
            }
        }
    }

    fn end(&mut self, number: u64, result: Result<Answer, CallError>) {
        if let Some((_, sender)) = self.calls.remove(&number) {
            // Whoever asked may have gone away.
            drop(sender.send(result));
        }
    }
}

fn read_end(read: io::Result<usize>) -> Result<bool, End> {
    match read {
        Ok(0) => Err(End(Ok(()))),
        Ok(_) => Ok(true),
        Err(error) => Err(End(Err(error))),
    }
}

/// Tokio's clock in our unit.
struct Clock {
    origin: ::tokio::time::Instant,
}

impl Clock {
    fn start() -> Self {
        Clock { origin: ::tokio::time::Instant::now() }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// Never ends for `None`.
    async fn sleep_until(&self, at: Option<Instant>) {
        match at {
            Some(at) => ::tokio::time::sleep_until(self.origin + at.since(Instant::ZERO)).await,
            None => std::future::pending().await,
        }
    }

    /// A number that no other call of this process has.
    fn number() -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Only to tell clients' back-off jitter apart.
    fn wall_seed() -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_nanos() as u64)
    }
}
