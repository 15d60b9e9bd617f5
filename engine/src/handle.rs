//! Calls from outside: handles that any thread may hold.
//!
//! A [`Handle`] reaches the shards of one engine. What it sends is a closure or a future that then
//! *runs on the shard*, where everything is local; only the way there and the result cross threads.
//! The futures here are bound to no executor: tokio, glommio, smol or a plain `block_on` will do.

use crate::client::{Answer, CallError, Client, ClientConfig};
use crate::local::Local;
use crate::shard::message::{Control, Inbox, Undelivered};
use crate::shard_index::ShardIndex;
use crate::time::Duration;
use crate::wire::frame::{MethodId, Priority, Route};
use bytes::Bytes;
use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls that may wait on their way from one [`RemoteClient`] to its shard.
const WAITING_MAX: usize = 16 * 1_024;

/// The shards of an engine, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    inboxes: Arc<[Arc<Inbox>]>,
}

/// Why something could not be handed to a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandleError {
    /// The shard's inbox is full; try again in a moment, or ask less of it.
    Full,
    /// The shard has stopped, or stopped before there was a result.
    Stopped,
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandleError::Full => "too many messages wait for this shard already",
            HandleError::Stopped => "the shard has stopped",
        })
    }
}

impl std::error::Error for HandleError {}

impl Handle {
    pub(crate) fn new(inboxes: Arc<[Arc<Inbox>]>) -> Self {
        Handle { inboxes }
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
            let work = make(local.clone());
            let task = local.spawn(async move {
                // Whoever asked may be gone; the work was asked for all the same.
                drop(sender.send(work.await));
            });
            task.detach();
        })?;
        receiver.await.map_err(|_| HandleError::Stopped)
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
        let (client, mut receiver) = RemoteClient::new(address);
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
}

/// What a [`RemoteClient`] can be told about a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallOptions {
    /// Stop waiting after so long.
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
    fn new(address: SocketAddr) -> (RemoteClient, mpsc::UnboundedReceiver<RemoteCall>) {
        let (sender, receiver) = mpsc::unbounded();
        (RemoteClient { sender, waiting: Arc::default(), address }, receiver)
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls `method`. Dropping the future cancels the call, at the server too.
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
        let call = RemoteCall { method, payload: payload.into(), options, result };
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
    result: oneshot::Sender<Result<Answer, CallError>>,
}

impl RemoteCall {
    async fn run(self, client: Client) {
        let RemoteCall { method, payload, options, mut result } = self;
        let mut call = client.call(method, payload).priority(options.priority).route(options.route);
        if let Some(timeout) = options.timeout {
            call = call.timeout(timeout);
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
    use futures_util::FutureExt;

    #[test]
    fn only_so_many_calls_wait_for_a_shard_that_is_busy() {
        let (client, mut receiver) = RemoteClient::new(([127, 0, 0, 1], 1).into());
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
}
