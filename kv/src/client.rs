//! A client of the native service: knows which shard has a key, and repeats without executing twice.
//!
//! It runs on a shard of an engine, as whatever calls does, and holds a connection to each shard of the
//! store. A write is numbered in a session of its partition; when its answer does not come, it is sent
//! again under the same number until the deadline, and takes effect once at most.
//!
//! ```no_run
//! use catena_engine::{Local, Server};
//! use catena_kv::client::{Client, ClientConfig};
//!
//! async fn count_a_visit(local: Local) -> Result<i64, catena_kv::client::Error> {
//!     let address = "127.0.0.1:7400".parse().expect("an address");
//!     let client = Client::new(&local, address, ClientConfig::default());
//!     client.put(b"greeting", b"hello").await?;
//!     let greeting = client.get(b"greeting").await?.expect("it was just written");
//!     client.cas(b"greeting", greeting.version, b"good day").await?;
//!     client.incr(b"visits", 1).await
//! }
//! ```

mod sessions;

use crate::limits::KEY_BYTES_MAX;
use crate::native::wire::{
    self, Action, Condition, Expiry, Got, Info, Malformed, Operation, Scan, Scanned, WriteHead,
    Written, method, status,
};
use crate::partition::Version;
use crate::slot::{Partition, Partitions, Slot};
use bytes::Bytes;
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::metadata::{MetadataBuf, TOKEN};
use catena_engine::{Answer, CallError, Local, MethodId, Route, Status};
use sessions::{Numbered, Sessions};
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// How long a call may take, all of its attempts together. Default 5 s.
    pub timeout: Duration,
    /// The pause before something is sent again. Default 5 ms; it doubles up to [`PAUSE_MAX`].
    pub pause: Duration,
    /// How long the store remembers this client without hearing of it. Default 10 minutes.
    pub session_lifetime: Duration,
    /// What the store asks for, if it does.
    pub password: Option<String>,
    /// How its connections behave; whether calls wait for one is the client's own affair.
    pub engine: catena_engine::ClientConfig,
}

/// The longest pause before something is sent again: a store that has recovered is found soon.
pub const PAUSE_MAX: Duration = Duration::from_millis(200);

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            timeout: Duration::from_secs(5),
            pause: Duration::from_millis(5),
            session_lifetime: Duration::from_secs(600),
            password: None,
            engine: catena_engine::ClientConfig::default(),
        }
    }
}

/// See the module page. Clones share everything.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

struct Shared {
    local: Local,
    address: SocketAddr,
    config: ClientConfig,
    metadata: Option<MetadataBuf>,
    /// Who tells which shard has what.
    guide: catena_engine::Client,
    map: RefCell<Option<Rc<Map>>>,
    sessions: Sessions,
}

/// Where everything is, as the store has told.
struct Map {
    info: Info,
    partitions: Partitions,
    shards: Vec<catena_engine::Client>,
}

/// What a key holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// The value.
    pub bytes: Bytes,
    /// The entry that wrote it last: to be compared with.
    pub version: Version,
    /// Unix milliseconds.
    pub expires_at: Option<u64>,
}

/// Why a call has no answer, or not the one hoped for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A condition does not hold; nothing was changed.
    ConditionFailed {
        /// Which operation of a batch.
        operation: u32,
        /// What its key has.
        version: Version,
    },
    /// An incr of what is no number, or beyond 64 bits; nothing was changed.
    NotANumber {
        /// Which operation of a batch.
        operation: u32,
    },
    /// The store refuses; nothing was changed.
    Refused {
        /// Why.
        status: Status,
        /// For people.
        text: String,
    },
    /// The time was over before it could be executed; nothing was changed, nor will be.
    NotExecuted(String),
    /// The time was over, and it may have been executed, or may still be: until the next write of this
    /// client to the same partition has been answered.
    MaybeCommitted(String),
    /// The store's answer cannot be read.
    Protocol(&'static str),
}

impl Client {
    /// A client of the store whose native service listens at `address`. Connects with the first call.
    pub fn new(local: &Local, address: SocketAddr, config: ClientConfig) -> Self {
        let metadata = config.password.as_ref().map(|password| {
            let mut metadata = MetadataBuf::default();
            metadata.push(TOKEN, password.as_bytes()).expect("a password is short");
            metadata
        });
        // A call that waited for a shard's port would miss that the store has come back on another.
        let engine = catena_engine::ClientConfig { waits_for_connection: false, ..config.engine };
        let config = ClientConfig { engine, ..config };
        let guide = catena_engine::Client::new(local, address, config.engine.clone());
        Client(Rc::new(Shared {
            local: local.clone(),
            address,
            config,
            metadata,
            guide,
            map: RefCell::default(),
            sessions: Sessions::default(),
        }))
    }

    /// What a key holds.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn get(&self, key: &[u8]) -> Result<Option<Value>, Error> {
        let (key, deadline) = (Bytes::copy_from_slice(checked(key)?), self.deadline());
        let answer = self.ask(&key, method::GET, key.clone(), deadline).await;
        match answer {
            Ok(payload) => {
                let got = Got::decode(&payload)?;
                let bytes = payload.slice_ref(got.value);
                Ok(Some(Value { bytes, version: got.version, expires_at: got.expires_at }))
            }
            Err(Error::Refused { status: status::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a key; it lives until it is deleted. Its new version.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<Version, Error> {
        self.put_if(key, value, Condition::None, Expiry::Never).await
    }

    /// Sets a key if it has this version still; [`Version::NONE`]: if it is not there. Its new version.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn cas(&self, key: &[u8], version: Version, value: &[u8]) -> Result<Version, Error> {
        self.put_if(key, value, Condition::Version(version), Expiry::Keep).await
    }

    /// Sets a key and its expiry, if a condition holds. Its new version.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn put_if(
        &self,
        key: &[u8],
        value: &[u8],
        condition: Condition,
        expiry: Expiry,
    ) -> Result<Version, Error> {
        let operation = Operation { key, condition, action: Action::Put { value, expiry } };
        Ok(self.write(method::PUT, &[operation]).await?.0)
    }

    /// Deletes a key. True: it was there.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        let operation = Operation { key, condition: Condition::None, action: Action::Delete };
        Ok(self.write(method::DELETE, &[operation]).await?.1 == [1])
    }

    /// Adds to a number; 0 if it is not there. The sum.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn incr(&self, key: &[u8], by: i64) -> Result<i64, Error> {
        let operation = Operation { key, condition: Condition::None, action: Action::Incr { by } };
        let (_, numbers) = self.write(method::INCR, &[operation]).await?;
        numbers.first().copied().ok_or(Error::Protocol("an incr is answered with its sum"))
    }

    /// Sets when a key expires. True: it is there.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn expire(&self, key: &[u8], expiry: Expiry) -> Result<bool, Error> {
        let operation =
            Operation { key, condition: Condition::None, action: Action::Expire { expiry } };
        Ok(self.write(method::EXPIRE, &[operation]).await?.1 == [1])
    }

    /// Carries out several operations on keys of one partition, or none of them. The version that the keys
    /// have then, and a number for each: see [`Written`].
    ///
    /// # Errors
    /// [`Error`]
    pub async fn batch(&self, operations: &[Operation<'_>]) -> Result<(Version, Vec<i64>), Error> {
        self.write(method::BATCH, operations).await
    }

    /// A page of a partition's keys, and the cursor of the next one; 0: that was all.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn scan(&self, scan: Scan, mut each: impl FnMut(Scanned<'_>)) -> Result<u64, Error> {
        let mut request = Vec::new();
        scan.encode(&mut request);
        let (place, deadline) = (Place::Partition(scan.partition), self.deadline());
        let payload = self.ask_at(place, method::SCAN, request.into(), deadline).await?;
        let mut page = &payload[..];
        let next = wire::take_u64(&mut page)?;
        while !page.is_empty() {
            each(Scanned::decode(&mut page)?);
        }
        Ok(next)
    }

    /// How many partitions the store has.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn partitions(&self) -> Result<u16, Error> {
        let map = self.map(self.deadline()).await.map_err(not_executed)?;
        Ok(map.info.partitions)
    }

    fn deadline(&self) -> Instant {
        self.0.local.now() + self.0.config.timeout
    }
}

/// What a request is about.
#[derive(Clone, Copy)]
enum Place<'a> {
    Key(&'a [u8]),
    Partition(u16),
}

/// How an attempt ended without an answer.
struct Failed {
    error: CallError,
    /// Nothing was executed, for sure.
    is_harmless: bool,
}

impl Client {
    /// Sends a read until it is answered.
    async fn ask(
        &self,
        key: &[u8],
        method: MethodId,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        self.ask_at(Place::Key(key), method, payload, deadline).await
    }

    async fn ask_at(
        &self,
        place: Place<'_>,
        method: MethodId,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let mut pauses = Pauses::new(&self.0.config);
        loop {
            let failed = match self.attempt(place, method, payload.clone(), false, deadline).await {
                Ok(answer) => return Ok(answer.payload),
                Err(failed) => failed,
            };
            if let Some(refusal) = refusal(&failed.error) {
                return Err(refusal);
            }
            if !pauses.pause(&self.0.local, deadline).await {
                return Err(not_executed(failed));
            }
        }
    }

    /// Carries out a write: the version of its entry, and its numbers.
    async fn write(
        &self,
        method: MethodId,
        operations: &[Operation<'_>],
    ) -> Result<(Version, Vec<i64>), Error> {
        let first = operations.first().ok_or(Error::Protocol("a batch without operations"))?;
        operations.iter().try_for_each(|operation| checked(operation.key).map(drop))?;
        let deadline = self.deadline();
        let mut pauses = Pauses::new(&self.0.config);
        let mut numbered = self.number(first.key, deadline).await?;
        // It may have been executed by an attempt before.
        let mut is_repeat = false;
        loop {
            let mut request = Vec::new();
            let (session, number) = (Some(numbered.session()), numbered.number());
            let first_unanswered = numbered.first_unanswered();
            WriteHead { session, number, first_unanswered }.encode(&mut request);
            operations.iter().for_each(|operation| operation.encode(&mut request));
            let place = Place::Key(first.key);
            let attempt = self.attempt(place, method, request.into(), is_repeat, deadline).await;
            let failed = match attempt {
                Ok(answer) => {
                    let written = Written::decode(&answer.payload)?;
                    return Ok((written.version, written.numbers().collect()));
                }
                Err(failed) => failed,
            };
            match refusal(&failed.error) {
                Some(Error::Refused { status: status::NO_SESSION, .. }) if !is_repeat => {
                    // It was not executed, and never will be under this number.
                    numbered.forget_session();
                    numbered = self.number(first.key, deadline).await?;
                    continue;
                }
                Some(Error::Refused { status: status::NO_SESSION | status::FORGOTTEN, .. }) => {
                    numbered.forget_session();
                    return Err(Error::MaybeCommitted("its session has ended meanwhile".into()));
                }
                Some(refusal) => return Err(refusal),
                None => {}
            }
            is_repeat |= !failed.is_harmless;
            if !pauses.pause(&self.0.local, deadline).await {
                return Err(if is_repeat {
                    Error::MaybeCommitted(failed.error.to_string())
                } else {
                    not_executed(failed)
                });
            }
        }
    }

    /// A number in the session of a key's partition, which is opened if there is none.
    async fn number(&self, key: &[u8], deadline: Instant) -> Result<Numbered, Error> {
        let mut pauses = Pauses::new(&self.0.config);
        loop {
            let map = match self.map(deadline).await {
                Ok(map) => map,
                Err(failed) if pauses.pause(&self.0.local, deadline).await => {
                    drop(failed);
                    continue;
                }
                Err(failed) => return Err(not_executed(failed)),
            };
            let partition = Partition::of(Slot::of(key), map.partitions).0;
            let open = async || {
                let mut request = partition.to_le_bytes().to_vec();
                let lifetime_ms = self.0.config.session_lifetime.as_millis() as u64;
                request.extend_from_slice(&lifetime_ms.to_le_bytes());
                let place = Place::Partition(partition);
                self.ask_at(place, method::OPEN, request.into(), deadline).await
            };
            return self.0.sessions.number(partition, open).await;
        }
    }

    /// Sends something once.
    async fn attempt(
        &self,
        place: Place<'_>,
        method: MethodId,
        payload: Bytes,
        is_repeat: bool,
        deadline: Instant,
    ) -> Result<Answer, Failed> {
        let map = self.map(deadline).await?;
        let partition = match place {
            Place::Key(key) => Partition::of(Slot::of(key), map.partitions).0,
            Place::Partition(partition) => partition,
        };
        let shard = map.info.shard_of(partition);
        let client = map.shards.get(usize::from(shard)).unwrap_or(&self.0.guide);
        let mut call = client.call(method, payload).deadline(deadline);
        call = call.route(Route(u32::from(shard) + 1));
        if is_repeat {
            call = call.repeat();
        }
        if let Some(metadata) = &self.0.metadata {
            call = call.metadata(metadata.clone());
        }
        call.await.map_err(|error| {
            // Whoever cannot be reached, or says that it is another's, may have begun anew elsewhere.
            let knows_better = match &error {
                CallError::Status { status, .. } => *status == Status::WRONG_SHARD,
                CallError::Unreachable { .. } | CallError::ConnectionLost => true,
                _ => false,
            };
            if knows_better {
                self.0.map.take();
            }
            let is_harmless = is_harmless(&error);
            Failed { error, is_harmless }
        })
    }

    /// Which shard has what; asked for if it is not known.
    async fn map(&self, deadline: Instant) -> Result<Rc<Map>, Failed> {
        if let Some(map) = &*self.0.map.borrow() {
            return Ok(map.clone());
        }
        let mut call = self.0.guide.call(method::INFO, Bytes::new()).deadline(deadline);
        if let Some(metadata) = &self.0.metadata {
            call = call.metadata(metadata.clone());
        }
        let answer = call.await.map_err(|error| Failed { error, is_harmless: true })?;
        let told = Info::decode(&answer.payload).ok();
        let known = told.and_then(|info| Some((Partitions::new(info.partitions)?, info)));
        let Some((partitions, info)) = known else {
            let (status, payload) = (Status::MALFORMED, answer.payload);
            return Err(Failed { error: CallError::Status { status, payload }, is_harmless: true });
        };
        let connect = |shard: &wire::ShardInfo| {
            let address = SocketAddr::new(self.0.address.ip(), shard.port);
            catena_engine::Client::new(&self.0.local, address, self.0.config.engine.clone())
        };
        // Somebody else may have asked meanwhile.
        if let Some(map) = &*self.0.map.borrow() {
            return Ok(map.clone());
        }
        let has_ports = info.shards.iter().all(|shard| shard.port > 0);
        let shards = if has_ports { info.shards.iter().map(connect).collect() } else { Vec::new() };
        let map = Rc::new(Map { info, partitions, shards });
        *self.0.map.borrow_mut() = Some(map.clone());
        Ok(map)
    }
}

/// The pauses of one call, each longer than the one before.
struct Pauses {
    next: Duration,
}

impl Pauses {
    fn new(config: &ClientConfig) -> Self {
        Pauses { next: config.pause }
    }

    /// False: the time would be over.
    async fn pause(&mut self, local: &Local, deadline: Instant) -> bool {
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        if local.now() + pause >= deadline {
            return false;
        }
        local.sleep(pause).await;
        true
    }
}

fn checked(key: &[u8]) -> Result<&[u8], Error> {
    if key.len() <= KEY_BYTES_MAX {
        return Ok(key);
    }
    let text = format!("a key has {KEY_BYTES_MAX} bytes at most");
    Err(Error::Refused { status: status::TOO_LONG, text })
}

/// What is certain in a status of the store's own; `None`: it may be tried again.
fn refusal(error: &CallError) -> Option<Error> {
    let CallError::Status { status, payload } = error else { return None };
    let mut from = &payload[..];
    let (operation, version) = match *status {
        status::CONDITION_FAILED | status::NOT_A_NUMBER => {
            (wire::take_u32(&mut from).ok()?, wire::decode_version(&mut from).ok()?)
        }
        _ => (0, Version::NONE),
    };
    match *status {
        status::CONDITION_FAILED => Some(Error::ConditionFailed { operation, version }),
        status::NOT_A_NUMBER => Some(Error::NotANumber { operation }),
        Status::UNAUTHENTICATED | Status::DENIED | Status::MALFORMED | Status::UNKNOWN_METHOD => {
            Some(Error::Refused { status: *status, text: error.to_string() })
        }
        // These pass.
        status::LOADING | status::WINDOW_FULL => None,
        status if status.0 >= Status::APPLICATION_FIRST => {
            Some(Error::Refused { status, text: String::from_utf8_lossy(payload).into_owned() })
        }
        _ => None,
    }
}

/// True if nothing was executed, for sure. Every refusal of the store's own is of that kind.
fn is_harmless(error: &CallError) -> bool {
    match error {
        CallError::Status { status, .. } if status.0 >= Status::APPLICATION_FIRST => true,
        other => other.is_not_executed(),
    }
}

fn not_executed(failed: Failed) -> Error {
    Error::NotExecuted(failed.error.to_string())
}

impl From<Malformed> for Error {
    fn from(Malformed(text): Malformed) -> Self {
        Error::Protocol(text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::ConditionFailed { operation, version } => {
                let version = version.text();
                write!(f, "the condition of operation {operation} does not hold: version {version}")
            }
            Error::NotANumber { operation } => {
                write!(f, "operation {operation} adds to what is no number, or beyond 64 bits")
            }
            Error::Refused { status, text } => write!(f, "the store refuses: {status} ({text})"),
            Error::NotExecuted(why) => write!(f, "not executed: {why}"),
            Error::MaybeCommitted(why) => write!(f, "it may have been executed: {why}"),
            Error::Protocol(what) => write!(f, "an answer that cannot be read: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.address)
    }
}
