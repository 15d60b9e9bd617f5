//! Calls from outside: handles that any thread may hold.
//!
//! A [`Handle`] reaches the shards of one engine. What it sends is a closure or a future that then
//! *runs on the shard*, where everything is local; only the way there and the result cross threads.
//! The futures here are bound to no executor: tokio, glommio, smol or a plain `block_on` will do.

use crate::client::{Answer, CallError, Client, ClientConfig};
use crate::local::Local;
use crate::shard::message::{Control, Inbox, Undelivered};
use crate::shard_index::ShardIndex;
use crate::sys::clock;
use crate::time::{Duration, Instant};
use crate::wire::frame::{MethodId, Priority, Route};
use bytes::Bytes;
use futures_channel::{mpsc, oneshot};
use futures_util::future::{Either, select};
use futures_util::{FutureExt, StreamExt};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls that may wait on their way from one [`RemoteClient`] to its shard.
const WAITING_MAX: usize = 16 * 1_024;

/// The shards of an engine, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    inboxes: Arc<[Arc<Inbox>]>,
    clock: ShardClock,
}

/// What the clock of the shards shows, for who is not on one of them. A simulated clock shows itself
/// to its shards alone: then there is none.
type ShardClock = Option<fn() -> Instant>;

/// Why something was not done on a shard, or has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandleError {
    /// The shard's inbox is full; try again in a moment, or ask less of it.
    Full,
    /// The shard has stopped, or stopped before there was a result.
    Stopped,
    /// What was to run panicked; the shard goes on. The panic's message is where those of the process
    /// go.
    Panicked,
}

impl HandleError {
    /// True when nothing of it was done: to ask again is safe.
    pub fn is_not_executed(self) -> bool {
        match self {
            HandleError::Full => true,
            HandleError::Stopped | HandleError::Panicked => false,
        }
    }
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandleError::Full => "too many messages wait for this shard already",
            HandleError::Stopped => "the shard has stopped",
            HandleError::Panicked => "what was run on the shard panicked",
        })
    }
}

impl std::error::Error for HandleError {}

impl Handle {
    /// A handle on shards whose driver is the kernel's.
    pub(crate) fn new(inboxes: Arc<[Arc<Inbox>]>) -> Self {
        Handle { inboxes, clock: Some(clock::now) }
    }

    /// A handle on simulated shards.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(inboxes: Arc<[Arc<Inbox>]>) -> Self {
        Handle { inboxes, clock: None }
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.inboxes.len()).expect("shards are counted in a u16 at start")
    }

    /// Makes a future on shard `shard` and runs it there; gives its result.
    ///
    /// # Errors
    /// [`HandleError`].
    ///
    /// # Panics
    /// If there is no such shard.
    pub async fn run<T, F>(
        &self,
        shard: ShardIndex,
        make: impl FnOnce(Local) -> F + Send + 'static,
    ) -> Result<T, HandleError>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.push(shard, move |local| {
            let made = catch_unwind(AssertUnwindSafe(|| make(local.clone())));
            let task = local.spawn(async move {
                let ended = match made {
                    Ok(work) => AssertUnwindSafe(work).catch_unwind().await,
                    Err(panic) => Err(panic),
                };
                if ended.is_err() {
                    tracing::error!("work from another thread panicked on this shard");
                }
                // Whoever asked may be gone; the work was asked for all the same.
                drop(sender.send(ended.map_err(|_panic| HandleError::Panicked)));
            });
            task.detach();
        })?;
        receiver.await.unwrap_or(Err(HandleError::Stopped))
    }

    /// A client that lives on shard `shard` and can be called from any thread.
    ///
    /// # Errors
    /// [`HandleError`].
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn client(
        &self,
        shard: ShardIndex,
        address: SocketAddr,
        config: ClientConfig,
    ) -> Result<RemoteClient, HandleError> {
        let (client, mut receiver) = RemoteClient::new(address, self.clock);
        let waiting = client.waiting.clone();
        self.push(shard, move |local| {
            let client = Client::new(local, address, config);
            let tasks = local.clone();
            let serve = async move {
                while let Some(call) = receiver.next().await {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    tasks.spawn(call.run(client.clone())).detach();
                }
            };
            local.spawn(serve).detach();
        })?;
        Ok(client)
    }

    /// Runs a closure on the shard and asks for no result.
    fn push(
        &self,
        shard: ShardIndex,
        code: impl FnOnce(&Local) + Send + 'static,
    ) -> Result<(), HandleError> {
        let inbox = &self.inboxes[usize::from(shard.0)];
        inbox.push(Control::Run(Box::new(code))).map_err(|undelivered| match undelivered {
            Undelivered::Full(_) => HandleError::Full,
            Undelivered::Closed => HandleError::Stopped,
        })
    }

    pub(crate) fn control_all(&self, control: impl Fn() -> Control) {
        for inbox in self.inboxes.iter() {
            let mut message = control();
            while let Err(Undelivered::Full(back)) = inbox.push(message) {
                message = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// A client on a shard, to be called from any thread. Clones share its connection.
#[derive(Clone, Debug)]
pub struct RemoteClient {
    /// Unbounded itself: a bounded one gives each clone of a sender a place of its own.
    sender: mpsc::UnboundedSender<RemoteCall>,
    /// Calls in the channel.
    waiting: Arc<AtomicUsize>,
    address: SocketAddr,
    clock: ShardClock,
}

/// What a [`RemoteClient`] can be told about a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallOptions {
    /// Stop waiting so long after the call was made, wherever it has got until then.
    pub timeout: Option<Duration>,
    /// How important it is.
    pub priority: Priority,
    /// Which shard or partition it is for.
    pub route: Route,
    /// It may have been sent before.
    pub repeat: bool,
}

/// Why a call from outside has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemoteCallError {
    /// It did not reach the shard, or the shard stopped.
    Handle(HandleError),
    /// It failed there.
    Call(CallError),
}

impl RemoteCallError {
    /// True when the request was certainly not executed: sending it again is safe.
    pub fn is_not_executed(&self) -> bool {
        match self {
            RemoteCallError::Handle(error) => error.is_not_executed(),
            RemoteCallError::Call(error) => error.is_not_executed(),
        }
    }
}

impl fmt::Display for RemoteCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoteCallError::Handle(error) => error.fmt(f),
            RemoteCallError::Call(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RemoteCallError {}

impl RemoteClient {
    fn new(
        address: SocketAddr,
        clock: ShardClock,
    ) -> (RemoteClient, mpsc::UnboundedReceiver<RemoteCall>) {
        let (sender, receiver) = mpsc::unbounded();
        (RemoteClient { sender, waiting: Arc::default(), address, clock }, receiver)
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls `method`. The timeout begins when the future is first polled (under simulation, when the
    /// shard takes the call); dropping the future cancels the call, at the server too.
    ///
    /// # Errors
    /// [`RemoteCallError`].
    pub async fn call(
        &self,
        method: MethodId,
        payload: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<Answer, RemoteCallError> {
        let (result, receiver) = oneshot::channel();
        let deadline = self.clock.zip(options.timeout).map(|(now, timeout)| now() + timeout);
        let call = RemoteCall { method, payload: payload.into(), options, deadline, result };
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(RemoteCallError::Handle(HandleError::Full));
        }
        self.sender
            .unbounded_send(call)
            .map_err(|_| RemoteCallError::Handle(HandleError::Stopped))?;
        match receiver.await {
            Ok(result) => result.map_err(RemoteCallError::Call),
            Err(oneshot::Canceled) => Err(RemoteCallError::Handle(HandleError::Stopped)),
        }
    }
}

/// A call on its way to the shard.
#[derive(Debug)]
struct RemoteCall {
    method: MethodId,
    payload: Bytes,
    options: CallOptions,
    /// On the shard's clock, where the caller could read it.
    deadline: Option<Instant>,
    result: oneshot::Sender<Result<Answer, CallError>>,
}

impl RemoteCall {
    async fn run(self, client: Client) {
        let RemoteCall { method, payload, options, deadline, mut result } = self;
        let mut call = client.call(method, payload).priority(options.priority).route(options.route);
        match (deadline, options.timeout) {
            (Some(deadline), _) => call = call.deadline(deadline),
            (None, Some(timeout)) => call = call.timeout(timeout),
            (None, None) => {}
        }
        if options.repeat {
            call = call.repeat();
        }
        // Whoever asked may go away first; dropping the call cancels it.
        let ended = match select(call.into_future(), result.cancellation()).await {
            Either::Left((ended, _)) => ended,
            Either::Right(((), _call)) => return,
        };
        drop(result.send(ended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_calls_wait_for_a_shard_that_is_busy() {
        let (client, mut receiver) = RemoteClient::new(([127, 0, 0, 1], 1).into(), None);
        let method = MethodId::of("anything");
        let calls = (0..WAITING_MAX + 3).map(|n| {
            // Each from a caller of its own.
            let client = client.clone();
            let mut call =
                async move { client.call(method, "", CallOptions::default()).await }.boxed();
            let ended = call.as_mut().now_or_never();
            (n, call, ended)
        });
        for (n, _call, ended) in calls {
            let full = Some(Err(RemoteCallError::Handle(HandleError::Full)));
            let expected = if n < WAITING_MAX { None } else { full };
            assert!(ended.map(|ended| ended.map(drop)) == expected, "call {n}");
        }
        receiver.close();
        let stopped = client.call(method, "", CallOptions::default()).now_or_never();
        assert!(matches!(stopped, Some(Err(RemoteCallError::Handle(_)))));
    }

    #[test]
    fn a_timeout_begins_with_the_call_wherever_the_clock_can_be_read() {
        let options = |timeout_ns| CallOptions {
            timeout: Some(Duration::from_nanos(timeout_ns)),
            ..CallOptions::default()
        };
        let at_thousand: fn() -> Instant = || Instant::from_nanos(1_000);
        for (clock, timeout_ns, deadline_ns) in [
            (Some(at_thousand), Some(50), Some(1_050)),
            (Some(at_thousand), None, None),
            (None, Some(50), None),
        ] {
            let (client, mut receiver) = RemoteClient::new(([127, 0, 0, 1], 1).into(), clock);
            let options = timeout_ns.map_or_else(CallOptions::default, options);
            let mut call = client.call(MethodId::of("anything"), "", options).boxed_local();
            assert!(call.as_mut().now_or_never().is_none());
            let sent = receiver.try_recv().expect("it is on its way");
            assert_eq!(sent.deadline, deadline_ns.map(Instant::from_nanos));
        }
    }

    #[test]
    fn errors_know_whether_it_was_executed() {
        assert!(RemoteCallError::Handle(HandleError::Full).is_not_executed());
        assert!(!RemoteCallError::Handle(HandleError::Stopped).is_not_executed());
        assert!(!HandleError::Panicked.is_not_executed());
        assert!(RemoteCallError::Call(CallError::ExpiredUnsent).is_not_executed());
        assert!(!RemoteCallError::Call(CallError::ConnectionLost).is_not_executed());
    }
}
