//! A client of the store, on a shard of the caller's own engine.
//!
//! It finds out by itself which shard has a key, talks to that shard's own port, and comes back after the
//! server was away. Every write has a number in a session of its partition: sent again after a lost answer it
//! is carried out once nevertheless, and gets the answer of the first time. When even that cannot tell how a
//! write ended, because its time is over, the result is [`Error::MaybeCommitted`] and nothing else.
//!
//! ```no_run
//! use catena_engine::shard_index::ShardIndex;
//! use catena_engine::{Cores, Server};
//! use catena_kv::client::{Client, Config, Error};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // An engine that listens nowhere: somewhere for connections to live. From any async code, on any thread:
//! let engine = Server::builder().cores(Cores::Unpinned(1)).start()?;
//! let address = "127.0.0.1:7380".parse()?;
//! let handle = engine.handle();
//! let balance = handle.run(ShardIndex(0), move |local| async move {
//!     let store = Client::new(&local, address, Config::default());
//!     store.put(b"{7}name", b"Ada").await?;
//!     let balance = store.add(b"{7}balance", 100).await?;
//!     // Only if nobody has changed it meanwhile.
//!     if let Some(found) = store.get(b"{7}name").await? {
//!         store.put_if_version(b"{7}name", b"Ada L.", found.version).await?;
//!     }
//!     Ok::<i64, Error>(balance)
//! });
//! println!("{}", balance.await??);
//! # Ok(())
//! # }
//! ```

mod error;
mod map;
mod session;

pub use crate::native::wire::{Action, Change, Condition, Expiry};
pub use crate::partition::Version;
pub use error::Error;

use crate::effect::SessionId;
use crate::fields::take_u16;
use crate::limits::KEY_BYTES_MAX;
use crate::native::status;
use crate::native::wire::{self, CHANGES_MAX, Got, Info, ScanRequest, Scanned, Write};
use async_lock::OnceCell;
use bytes::Bytes;
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::metadata::{MetadataBuf, TOKEN};
use catena_engine::{Answer, CallError, ClientConfig, Local, MethodId, Status};
use map::Map;
use session::{Session, Ticket};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// How its connections behave.
    pub connection: ClientConfig,
    /// From a call to its end, whatever it has to wait for. Default 5 s.
    pub timeout: Duration,
    /// The store ends a session that was not used for so long; the next write opens another. Default 60 s.
    pub session_lifetime: Duration,
    /// Writes to one partition that are under way at a time, at most; further ones wait. Default 256.
    pub window: u64,
    /// Between two attempts. Default 10 ms.
    pub pause: Duration,
    /// The store's password.
    pub password: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            connection: ClientConfig { waits_for_connection: false, ..ClientConfig::default() },
            timeout: Duration::from_secs(5),
            session_lifetime: Duration::from_secs(60),
            window: 256,
            pause: Duration::from_millis(10),
            password: None,
        }
    }
}

/// What a key holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// The entry that wrote it last.
    pub version: Version,
    /// Unix milliseconds; `None`: it lives until it is deleted.
    pub expires_at: Option<u64>,
    /// The value.
    pub bytes: Bytes,
}

/// What a write has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The version of all keys that it has changed; [`Version::NONE`] if there was nothing to change.
    pub version: Version,
    /// For each change: a counter's new value; otherwise 1, or 0 if the key to be deleted or expired was not
    /// there.
    pub values: Vec<i64>,
}

/// A page of a partition's keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Keys, their versions and expiries.
    pub keys: Vec<(Vec<u8>, Version, Option<u64>)>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<u32>,
}

/// See the module page. Clones are the same client.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

struct Shared {
    local: Local,
    config: Config,
    metadata: Option<MetadataBuf>,
    entry: catena_engine::Client,
    map: RefCell<Option<Rc<Map>>>,
    /// The last one, for the connections that it has.
    former: RefCell<Option<Rc<Map>>>,
    sessions: RefCell<BTreeMap<u16, Rc<OnceCell<Rc<Session>>>>>,
}

impl Client {
    /// A client of the store at `address`, where it listens for the native protocol. Connects with the first
    /// call.
    ///
    /// # Panics
    /// If a value of the configuration is out of its bounds, or the password is too long for a token.
    pub fn new(local: &Local, address: SocketAddr, mut config: Config) -> Self {
        // A server that is away may come back with other ports: waiting for the old one would be in vain.
        config.connection.waits_for_connection = false;
        let metadata = config.password.as_ref().map(|password| {
            let mut metadata = MetadataBuf::default();
            let pushed = metadata.push(TOKEN, password.as_bytes());
            pushed.unwrap_or_else(|error| panic!("the password is no token: {error}"));
            metadata
        });
        Client(Rc::new(Shared {
            local: local.clone(),
            entry: catena_engine::Client::new(local, address, config.connection.clone()),
            config,
            metadata,
            map: RefCell::default(),
            former: RefCell::default(),
            sessions: RefCell::default(),
        }))
    }

    /// What a key holds. What is answered is safe: a crash of the store does not take it back, where it
    /// writes in `sync` mode.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn get(&self, key: &[u8]) -> Result<Option<Value>, Error> {
        check_key(key)?;
        let deadline = self.0.deadline();
        let map = self.0.map(deadline).await?;
        let partition = map.partition_of(key);
        let payload = Bytes::copy_from_slice(key);
        match self.0.read(wire::GET, partition, payload, deadline).await {
            Ok(answer) => {
                let got = Got::decode(&answer.payload).map_err(|_| Error::Foreign)?;
                let Got { version, expires_at, .. } = got;
                let bytes = answer.payload.slice(wire::GOT_HEAD_BYTES..);
                Ok(Some(Value { version, expires_at, bytes }))
            }
            Err(Error::Refused(CallError::Status { status: status::NOT_FOUND, .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a key, which then lives until it is deleted: an expiry that it had is gone. [`Client::put_for`]
    /// gives one, and [`Client::write`] can keep the one there is. Returns its version.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<Version, Error> {
        let action = Action::Put { value, expiry: Expiry::Never };
        self.one(key, Condition::None, action).await.map(|(version, _)| version)
    }

    /// Sets a key that ends after `lifetime`, in milliseconds of the store's clock; what is no whole one
    /// counts as one more. Returns its version.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn put_for(
        &self,
        key: &[u8],
        value: &[u8],
        lifetime: Duration,
    ) -> Result<Version, Error> {
        let expiry = Expiry::In(whole_millis(lifetime));
        let action = Action::Put { value, expiry };
        self.one(key, Condition::None, action).await.map(|(version, _)| version)
    }

    /// Sets a key if it still has this version, [`Version::NONE`] meaning that it is not there; it keeps its
    /// expiry. Returns its new version.
    ///
    /// # Errors
    /// [`Error`]; with [`Error::ConditionFailed`] it has another one.
    pub async fn put_if_version(
        &self,
        key: &[u8],
        value: &[u8],
        version: Version,
    ) -> Result<Version, Error> {
        let condition = match version {
            Version::NONE => Condition::Absent,
            version => Condition::Version(version),
        };
        let action = Action::Put { value, expiry: Expiry::Keep };
        self.one(key, condition, action).await.map(|(version, _)| version)
    }

    /// Deletes a key. True: it was there.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        let done = self.one(key, Condition::None, Action::Delete).await;
        done.map(|(_, value)| value != 0)
    }

    /// Gives a key an expiry, or takes it away. True: it is there.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn expire(&self, key: &[u8], expiry: Expiry) -> Result<bool, Error> {
        let done = self.one(key, Condition::None, Action::Expire(expiry)).await;
        done.map(|(_, value)| value != 0)
    }

    /// Adds to a counter; one that is not there counts as 0. Returns its new value.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn add(&self, key: &[u8], by: i64) -> Result<i64, Error> {
        self.one(key, Condition::None, Action::Add(by)).await.map(|(_, value)| value)
    }

    async fn one(
        &self,
        key: &[u8],
        condition: Condition,
        action: Action<'_>,
    ) -> Result<(Version, i64), Error> {
        let written = self.write(&[Change { condition, key, action }]).await?;
        Ok((written.version, written.values[0]))
    }

    /// Makes changes to keys of one partition: all of them, or none. Keys with a common `{tag}` are in one
    /// partition.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn write(&self, changes: &[Change<'_>]) -> Result<Written, Error> {
        if changes.is_empty() || changes.len() > CHANGES_MAX {
            return Err(Error::TooLarge);
        }
        changes.iter().try_for_each(|change| check_key(change.key))?;
        let deadline = self.0.deadline();
        let map = self.0.map(deadline).await?;
        let partition = map.partition_of(changes[0].key);
        if changes.iter().any(|change| map.partition_of(change.key) != partition) {
            return Err(Error::SeveralPartitions);
        }
        let payload = self.0.write(partition, changes, deadline).await?;
        decode_written(&payload, changes.len()).ok_or(Error::Foreign)
    }

    /// Some keys of a partition: those that are there from the first page to the last one are in one of them.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn scan(&self, partition: u16, from: u32, count: u16) -> Result<Page, Error> {
        let deadline = self.0.deadline();
        let mut payload = Vec::new();
        ScanRequest { partition, from, count }.encode(&mut payload);
        let map = self.0.map(deadline).await?;
        if partition >= map.partitions() {
            return Err(Error::SeveralPartitions);
        }
        let answer = self.0.read(wire::SCAN, partition, payload.into(), deadline).await?;
        let (next, keys) = Scanned::page(&answer.payload).map_err(|_| Error::Foreign)?;
        let keys = keys.iter().map(|key| (key.key.to_vec(), key.version, key.expires_at)).collect();
        Ok(Page { keys, next })
    }

    /// How many partitions the store has, for [`Client::scan`].
    ///
    /// # Errors
    /// [`Error`]
    pub async fn partitions(&self) -> Result<u16, Error> {
        Ok(self.0.map(self.0.deadline()).await?.partitions())
    }
}

/// What is to be done after a call that has failed.
enum Next {
    /// It was not carried out, and never will be.
    Refuse,
    /// It was not carried out; it may be, later.
    Again,
    /// It was not carried out, and the shards are elsewhere.
    Look,
    /// It may have been carried out, and the connection may be gone.
    Repeat,
    /// The session is no more.
    NoSession,
}

impl Next {
    fn of(error: &CallError) -> Next {
        match error {
            CallError::Status { status, .. } => match *status {
                Status::WRONG_SHARD | Status::DRAINING => Next::Look,
                Status::SHED | Status::UNAVAILABLE | Status::EXPIRED_IN_QUEUE => Next::Again,
                status::WINDOW_FULL => Next::Again,
                // That of a write is short; who reads will not do better by asking again.
                Status::ANSWER_TOO_LARGE => Next::Refuse,
                status::NO_SESSION | status::FORGOTTEN => Next::NoSession,
                status if status.is_not_executed() => Next::Refuse,
                status if status.0 >= Status::APPLICATION_FIRST => Next::Refuse,
                _ => Next::Repeat,
            },
            CallError::TooLarge { .. } => Next::Refuse,
            CallError::Unreachable { .. } => Next::Look,
            error if error.is_not_executed() => Next::Again,
            _ => Next::Repeat,
        }
    }
}

impl Shared {
    fn deadline(&self) -> Instant {
        self.local.now() + self.config.timeout
    }

    /// Sends one copy of a request to a partition's shard.
    async fn send(
        &self,
        (map, partition): (&Map, u16),
        method: &str,
        payload: Bytes,
        is_repeat: bool,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let (client, route) = map.shard_of(partition);
        self.call(client, method, payload, |call| {
            let call = call.route(route).deadline(deadline);
            if is_repeat { call.repeat() } else { call }
        })
        .await
    }

    async fn call(
        &self,
        client: &catena_engine::Client,
        method: &str,
        payload: Bytes,
        options: impl FnOnce(catena_engine::client::CallBuilder) -> catena_engine::client::CallBuilder,
    ) -> Result<Answer, CallError> {
        let mut call = client.call(MethodId::of(method), payload);
        if let Some(metadata) = &self.metadata {
            call = call.metadata(metadata.clone());
        }
        options(call).await
    }

    /// Asks what may be asked again.
    async fn read(
        &self,
        method: &str,
        partition: u16,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        loop {
            let map = self.map(deadline).await?;
            let sent = self.send((&map, partition), method, payload.clone(), false, deadline);
            let error = match sent.await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match Next::of(&error) {
                Next::Refuse | Next::NoSession => return Err(Error::Refused(error)),
                Next::Again => {}
                Next::Look | Next::Repeat => self.forget(&map),
            }
            self.pause(deadline, Some(error)).await?;
        }
    }

    /// Carries out a write once, however often it is sent. The payload of its answer.
    async fn write(
        &self,
        partition: u16,
        changes: &[Change<'_>],
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let mut ticket = self.begin(partition, deadline).await?;
        // What has become of a copy that may have been carried out.
        let mut uncertain: Option<CallError> = None;
        loop {
            let ended = match self.map(deadline).await {
                Ok(map) => {
                    let mut payload = Vec::new();
                    Write::encode(Some(ticket.numbered()), changes, &mut payload);
                    let is_repeat = uncertain.is_some();
                    let place = (&*map, partition);
                    let sent = self.send(place, wire::WRITE, payload.into(), is_repeat, deadline);
                    sent.await.map_err(|error| (error, map))
                }
                Err(error) => return Err(certain_only(error, uncertain)),
            };
            let (error, map) = match ended {
                Ok(answer) => return Ok(answer.payload),
                Err(failed) => failed,
            };
            match Next::of(&error) {
                Next::Refuse => return Err(failure(error, uncertain)),
                Next::Again => {}
                Next::Look => self.forget(&map),
                Next::Repeat => {
                    self.forget(&map);
                    uncertain = Some(error.clone());
                }
                // A copy before this one may have been carried out: nobody knows any more.
                Next::NoSession if uncertain.is_some() => {
                    self.end_session(partition, ticket.session());
                    return Err(Error::MaybeCommitted(error));
                }
                Next::NoSession => {
                    self.end_session(partition, ticket.session());
                    ticket = self.begin(partition, deadline).await?;
                    continue;
                }
            }
            let paused = self.pause(deadline, Some(error)).await;
            paused.map_err(|error| certain_only(error, uncertain.clone()))?;
        }
    }

    /// A number for a write, in the session of its partition.
    async fn begin(&self, partition: u16, deadline: Instant) -> Result<Ticket, Error> {
        let slot = self.sessions.borrow_mut().entry(partition).or_default().clone();
        let opened = slot.get_or_try_init(|| self.open_session(partition, deadline));
        let session = self.before(deadline, opened).await.unwrap_or(Err(Error::NotExecuted(None)));
        let session = session?.clone();
        let begun = std::future::poll_fn(|context| session.poll_begin(context));
        self.before(deadline, begun).await.ok_or(Error::NotExecuted(None))
    }

    async fn open_session(&self, partition: u16, deadline: Instant) -> Result<Rc<Session>, Error> {
        let mut payload = Vec::new();
        let lifetime_ms = self.config.session_lifetime.as_millis().try_into().unwrap_or(u64::MAX);
        wire::encode_open(partition, lifetime_ms, &mut payload);
        // Opened twice, one of them is ended by the store when its lifetime is over.
        let answer = self.read(wire::SESSION_OPEN, partition, payload.into(), deadline).await?;
        let id = SessionId::decode(&mut &answer.payload[..]).map_err(|_| Error::Foreign)?;
        Ok(Rc::new(Session::new(id, self.config.window)))
    }

    /// A session is not used any more, unless another one has taken its place already.
    fn end_session(&self, partition: u16, session: &Rc<Session>) {
        let mut sessions = self.sessions.borrow_mut();
        let held = sessions.get(&partition).and_then(|slot| slot.get());
        if held.is_some_and(|held| held.id() == session.id()) {
            sessions.remove(&partition);
        }
    }

    /// How the server's shards are reached; asks for it if that is not known.
    async fn map(&self, deadline: Instant) -> Result<Rc<Map>, Error> {
        loop {
            if let Some(map) = self.map.borrow().clone() {
                return Ok(map);
            }
            let asked =
                self.call(&self.entry, wire::INFO, Bytes::new(), |call| call.deadline(deadline));
            let error = match asked.await {
                Ok(answer) => {
                    let info = Info::decode(&answer.payload).map_err(|_| Error::Foreign)?;
                    let former = self.former.borrow().clone();
                    let config = &self.config.connection;
                    let map = Map::new(&self.local, &self.entry, &info, config, former.as_deref());
                    let map = Rc::new(map.ok_or(Error::Foreign)?);
                    self.former.replace(Some(map.clone()));
                    self.map.replace(Some(map));
                    continue;
                }
                Err(error) => error,
            };
            if let Next::Refuse | Next::NoSession = Next::of(&error) {
                return Err(Error::Refused(error));
            }
            self.pause(deadline, Some(error)).await?;
        }
    }

    /// A map is not right any more, unless it was replaced already.
    fn forget(&self, map: &Rc<Map>) {
        let mut current = self.map.borrow_mut();
        if current.as_ref().is_some_and(|current| Rc::ptr_eq(current, map)) {
            *current = None;
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// If there will be none.
    async fn pause(&self, deadline: Instant, reason: Option<CallError>) -> Result<(), Error> {
        // Clients that were all cut off at once do not come back all at once.
        let most = self.config.pause.as_micros().max(1) as u64;
        let pause = Duration::from_micros(most / 2 + self.local.random() % most);
        if self.local.now() + pause >= deadline {
            return Err(Error::NotExecuted(reason));
        }
        self.local.sleep(pause).await;
        Ok(())
    }

    /// What a future gives, if that is before the deadline.
    async fn before<T>(&self, deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
        let (mut future, mut sleep) = (pin!(future), pin!(self.local.sleep_until(deadline)));
        let either = std::future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
        });
        either.await
    }
}

/// That there was no further attempt says nothing about those before it.
fn certain_only(error: Error, uncertain: Option<CallError>) -> Error {
    uncertain.map_or(error, Error::MaybeCommitted)
}

/// What a final answer says: of all copies if the store keeps it for repetitions, otherwise of this one
/// alone.
fn failure(error: CallError, uncertain: Option<CallError>) -> Error {
    let CallError::Status { status, payload } = &error else {
        return certain_only(Error::Refused(error), uncertain);
    };
    let mut rest = &payload[..];
    let change = take_u16(&mut rest);
    match (*status, change) {
        (status::CONDITION_FAILED, Ok(change)) => match wire::take_version(&mut rest) {
            Ok(version) => Error::ConditionFailed { change, version },
            Err(_) => Error::Foreign,
        },
        (status::NOT_INTEGER, Ok(change)) => Error::NotInteger { change },
        (status::OVERFLOW, Ok(change)) => Error::Overflow { change },
        _ => certain_only(Error::Refused(error), uncertain),
    }
}

fn decode_written(mut payload: &[u8], changes: usize) -> Option<Written> {
    let version = wire::take_version(&mut payload).ok()?;
    let (values, rest) = payload.as_chunks::<8>();
    let values: Vec<i64> = values.iter().map(|value| i64::from_le_bytes(*value)).collect();
    (values.len() == changes && rest.is_empty()).then_some(Written { version, values })
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.len() > KEY_BYTES_MAX { Err(Error::TooLarge) } else { Ok(()) }
}

/// What is no whole millisecond counts as one more: nothing ends before its time.
fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_never_cut_short() {
        let nanos = [0, 1, 999_999, 1_000_000, 1_000_001].map(Duration::from_nanos);
        assert_eq!(nanos.map(whole_millis), [0, 1, 1, 1, 2]);
    }
}
