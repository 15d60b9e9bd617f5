//! The native protocol of the store: methods on the engine's RPC, for clients that need more than Redis'
//! protocol says: versions, conditions, and requests that are carried out at most once.
//!
//! ```text
//! request ─► admitted? ─► its partition is here? ─► its number is new? ─► store ─► answer, now or when its
//!            (password)   (or: wrong shard)         (or: its result)              entry has committed
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`wire`] | layouts of requests and answers |
//! | [`status`] | how requests end, beside the engine's own statuses |
//! | [`mod@write`] | `kv.write` |
//! | [`waiting`] | answers that wait for a commit |
//!
//! docs/kv-protocol.md describes all of it for who writes a client.

pub mod status;
pub mod waiting;
pub mod wire;
pub mod write;

use crate::effect::{EffectRef, SessionId};
use crate::partition::Found;
use crate::redis::here::connection::is_same;
use crate::redis::server::Server;
use crate::session::{LIFETIME_MS_MAX, LIFETIME_MS_MIN};
use crate::slot::{Partition, Slot, shard_of};
use crate::store::Store;
use crate::store::gate::Seen;
use bytes::Bytes;
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Duration;
use catena_engine::wire::metadata::TOKEN;
use catena_engine::{Answered, Local, Reply, Request, Router, Status};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use waiting::Waiting;
use wire::{Got, Info, Malformed, ScanRequest, Scanned, ShardInfo, Write};
use write::{Asked, Done, refuse, refused, wrong_shard};

/// The service on one shard. Clones are the same one.
#[derive(Clone)]
pub struct Native(Rc<State>);

struct State {
    local: Local,
    server: Arc<Server>,
    store: Rc<RefCell<Store>>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// False while the keys are not there yet.
    serving: Rc<Cell<bool>>,
    waiting: RefCell<Waiting>,
    /// Memory for an answer.
    answer: RefCell<Vec<u8>>,
}

/// Memory that is kept for the next answer.
const ANSWER_KEPT_BYTES: usize = 64 * 1_024;

/// How a method answers: it appends the payload.
type Run = fn(&State, &mut Store, &Request<'_>, &mut Vec<u8>) -> Result<Done, Malformed>;

impl Native {
    /// Serves the keys of `store`. `clock` tells Unix time in milliseconds; `serving` is true as soon as the
    /// keys are there.
    pub fn new(
        local: &Local,
        server: Arc<Server>,
        store: Rc<RefCell<Store>>,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
        serving: Rc<Cell<bool>>,
    ) -> Self {
        Native(Rc::new(State {
            local: local.clone(),
            server,
            store,
            clock,
            serving,
            waiting: RefCell::default(),
            answer: RefCell::default(),
        }))
    }

    /// Adds its methods.
    pub fn route(&self, router: Router) -> Router {
        let methods: [(&'static str, Run); 7] = [
            (wire::GET, State::get),
            (wire::WRITE, State::write),
            (wire::SCAN, State::scan),
            (wire::SESSION_OPEN, State::open_session),
            (wire::SESSION_CLOSE, State::close_session),
            (wire::SESSION_KEEP, State::keep_session),
            (wire::INFO, State::info),
        ];
        methods.into_iter().fold(router, |router, (name, run)| {
            let service = self.0.clone();
            router.method(name, move |request, reply| service.serve(run, &request, reply))
        })
    }

    /// Gives the answers that are due.
    pub fn turn_ended(&self) {
        let (store, now) = (self.0.store.borrow(), self.0.local.now());
        self.0.waiting.borrow_mut().release(|gate| store.gate_state(gate, now));
    }

    /// Ends sessions that are not used, as long as the shard lives.
    pub fn keep_up(&self) {
        let state = self.0.clone();
        let keeping = async move {
            let mut place = 0;
            loop {
                state.local.sleep(state.end_unused(&mut place)).await;
            }
        };
        self.0.local.spawn(keeping).detach();
    }
}

impl State {
    /// True, unless it has refused.
    fn admit(&self, request: &Request<'_>) -> Result<(), (Status, &'static str)> {
        if let Some(password) = &self.server.config.password {
            let token = request.metadata().find(TOKEN).ok().flatten();
            if token.is_none() {
                return Err((
                    Status::UNAUTHENTICATED,
                    "the password is wanted as token (metadata 2)",
                ));
            }
            if !token.is_some_and(|token| is_same(token, password.as_bytes())) {
                if let Some(count) = self.server.wrong_password((self.clock)()) {
                    tracing::warn!(count, "wrong password on the native protocol");
                }
                return Err((Status::UNAUTHENTICATED, "the password is wrong"));
            }
        }
        if !self.serving.get() {
            return Err((Status::UNAVAILABLE, "the store is loading its keys"));
        }
        Ok(())
    }

    /// Answers a request, now or when its gate opens.
    fn serve(&self, run: Run, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        if let Err((status, text)) = self.admit(request) {
            return reply.fail(status, text);
        }
        let answer = &mut *self.answer.borrow_mut();
        answer.clear();
        answer.shrink_to(ANSWER_KEPT_BYTES);
        let mut store = self.store.borrow_mut();
        let done = match run(self, &mut store, request, answer) {
            Ok(done) => done,
            Err(Malformed(text)) => return reply.fail(Status::MALFORMED, text),
        };
        // Stamped after the request has come.
        let gate = |(place, seen)| store.gate(place, seen, || self.local.now());
        match done.seen.map_or(Ok(None), gate) {
            Ok(None) => reply.answer(done.status, answer[..].into()),
            Ok(Some(gate)) => {
                let payload = Bytes::copy_from_slice(answer);
                self.waiting.borrow_mut().put_off(gate, reply, done.status, payload)
            }
            Err(elsewhere) => {
                let status = Done::elsewhere(answer, elsewhere).status;
                reply.answer(status, answer[..].into())
            }
        }
    }

    fn get(
        &self,
        store: &mut Store,
        request: &Request<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<Done, Malformed> {
        let bytes = request.payload();
        let place = match store.place_of(Slot::of(bytes)) {
            Ok(place) => place,
            Err(shard) => return Ok(wrong_shard(answer, shard)),
        };
        if let Err(elsewhere) = store.admit(place, false) {
            return Ok(Done::elsewhere(answer, elsewhere));
        }
        let mut keyspace = store.keyspace(place, (self.clock)());
        let Ok(key) = keyspace.key(bytes) else { return Err(Malformed("the key is too long")) };
        let status = match keyspace.get(&key) {
            None => status::NOT_FOUND,
            Some(Found { value, version, expires_at }) => {
                answer.extend_from_slice(&Got { version, expires_at, value }.head());
                answer.extend_from_slice(value);
                Status::OK
            }
        };
        Ok(Done { status, seen: Some((place, keyspace.seen())) })
    }

    fn write(
        &self,
        store: &mut Store,
        request: &Request<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<Done, Malformed> {
        let write = Write::decode(request.payload())?;
        let asked = Asked {
            is_repeat: request.head().repeat,
            now_ms: (self.clock)(),
            now: self.local.now(),
            random: &|| self.local.random(),
        };
        Ok(write::write(store, &write, &asked, answer))
    }

    fn scan(
        &self,
        store: &mut Store,
        request: &Request<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<Done, Malformed> {
        let ScanRequest { partition, from, count } = ScanRequest::decode(request.payload())?;
        let place = match place_of(store, partition)? {
            Ok(place) => place,
            Err(shard) => return Ok(wrong_shard(answer, shard)),
        };
        if let Err(elsewhere) = store.admit(place, false) {
            return Ok(Done::elsewhere(answer, elsewhere));
        }
        let now_ms = (self.clock)();
        let partition = &store.partitions()[place];
        answer.extend_from_slice(&[0; 5]);
        let count = count.clamp(1, wire::SCAN_COUNT_MAX).into();
        let next = partition.table().walk(store.arena(), from, count, |entry| {
            if !entry.is_expired(now_ms) {
                let version = partition.version_of(entry.index());
                Scanned { version, expires_at: entry.expires_at(), key: entry.key() }
                    .encode(answer);
            }
        });
        answer[0] = u8::from(next.is_none());
        answer[1..5].copy_from_slice(&next.unwrap_or(0).to_le_bytes());
        Ok(Done { status: Status::OK, seen: Some((place, Seen::default())) })
    }

    fn open_session(
        &self,
        store: &mut Store,
        request: &Request<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<Done, Malformed> {
        let (partition, lifetime_ms) = wire::decode_open(request.payload())?;
        let place = match place_of(store, partition)? {
            Ok(place) => place,
            Err(shard) => return Ok(wrong_shard(answer, shard)),
        };
        if let Err(elsewhere) = store.admit(place, true) {
            return Ok(Done::elsewhere(answer, elsewhere));
        }
        if !(LIFETIME_MS_MIN..=LIFETIME_MS_MAX).contains(&lifetime_ms) {
            return Ok(refuse(answer, Status::MALFORMED, "a session lives for a second to a day"));
        }
        if !store.make_room((self.clock)(), || self.local.random()) {
            return Ok(Done::now(status::OUT_OF_MEMORY));
        }
        if !store.partitions()[place].sessions().has_room() {
            return Ok(Done::now(status::SESSIONS_FULL));
        }
        Ok(match order(store, place, (self.clock)(), EffectRef::OpenSession { lifetime_ms }) {
            Ok((session, seen)) => {
                session.encode(answer);
                store.parts().0.at(place).sessions_mut().keep(session, self.local.now());
                Done { status: Status::OK, seen: Some((place, seen)) }
            }
            Err(error) => refused(answer, &error),
        })
    }

    fn close_session(
        &self,
        store: &mut Store,
        request: &Request<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<Done, Malformed> {
        let (partition, session) = wire::decode_session(request.payload())?;
        let place = match place_of(store, partition)? {
            Ok(place) => place,
            Err(shard) => return Ok(wrong_shard(answer, shard)),
        };
        if let Err(elsewhere) = store.admit(place, true) {
            return Ok(Done::elsewhere(answer, elsewhere));
        }
        if !self.is_open(store, place, session) {
            return Ok(missing(store, place));
        }
        Ok(match order(store, place, (self.clock)(), EffectRef::CloseSession { session }) {
            Ok((_, seen)) => Done { status: Status::OK, seen: Some((place, seen)) },
            Err(error) => refused(answer, &error),
        })
    }

    fn keep_session(
        &self,
        store: &mut Store,
        request: &Request<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<Done, Malformed> {
        let (partition, session) = wire::decode_session(request.payload())?;
        let place = match place_of(store, partition)? {
            Ok(place) => place,
            Err(shard) => return Ok(wrong_shard(answer, shard)),
        };
        if let Err(elsewhere) = store.admit(place, true) {
            return Ok(Done::elsewhere(answer, elsewhere));
        }
        let is_open = self.is_open(store, place, session);
        Ok(if is_open { Done::now(Status::OK) } else { missing(store, place) })
    }

    /// True if a session is open; it is used now.
    fn is_open(&self, store: &mut Store, place: usize, session: SessionId) -> bool {
        store.parts().0.at(place).sessions_mut().keep(session, self.local.now())
    }

    fn info(
        &self,
        store: &mut Store,
        request: &Request<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<Done, Malformed> {
        if !request.payload().is_empty() {
            return Err(Malformed("nothing is asked but how it is"));
        }
        let (partitions, shards) = (store.config().partitions, self.local.shard_count());
        let ports = self.local.shard_ports();
        let shard = |shard: u16| {
            let own = partitions.of_shard(ShardIndex(shard), shards);
            let port = ports.get(usize::from(shard)).copied().unwrap_or(0);
            ShardInfo { port, first: own.start, end: own.end }
        };
        let info = Info {
            partitions: partitions.count(),
            epoch: store.partitions().first().map_or(0, |partition| partition.epoch()),
            shards: (0..shards).map(shard).collect(),
        };
        info.encode(answer);
        Ok(Done::now(Status::OK))
    }

    /// Orders the end of the sessions of one partition that were not used. How long to wait for the next.
    fn end_unused(&self, place: &mut usize) -> Duration {
        /// All partitions are looked at in so long: a lifetime is a second at least.
        const ROUND: Duration = Duration::from_millis(500);
        let mut store = self.store.borrow_mut();
        let count = store.partitions().len();
        if store.memory().sessions() == 0 || count == 0 {
            return ROUND;
        }
        *place = (*place + 1) % count;
        let sessions = store.parts().0.at(*place).sessions_mut();
        let unused: Vec<SessionId> = sessions.unused(self.local.now()).collect();
        for session in unused {
            // A log that cannot go on keeps them: the next round tries again.
            let _later =
                order(&mut store, *place, (self.clock)(), EffectRef::CloseSession { session });
        }
        ROUND / count as u32
    }
}

/// The place of a partition, or the shard that has it.
fn place_of(store: &Store, partition: u16) -> Result<Result<usize, ShardIndex>, Malformed> {
    let config = store.config();
    if partition >= config.partitions.count() {
        return Err(Malformed("there is no such partition"));
    }
    let own = store.own_partitions();
    Ok(match own.contains(&partition) {
        true => Ok(usize::from(partition - own.start)),
        false => Err(shard_of(Partition(partition), config.partitions, config.shards)),
    })
}

/// Orders an entry of one effect. Its (epoch, index), and what an answer depends on.
fn order(
    store: &mut Store,
    place: usize,
    now_ms: u64,
    effect: EffectRef<'_>,
) -> Result<(SessionId, Seen), crate::command::error::Error> {
    let mut keyspace = store.keyspace(place, now_ms);
    let version = keyspace.write_all(&[effect])?;
    let id = SessionId { epoch: version.epoch, index: version.index };
    Ok((id, keyspace.seen()))
}

/// There is no such session; if it is what is in flight that says so, once that has committed.
fn missing(store: &Store, place: usize) -> Done {
    let partition = &store.partitions()[place];
    let (committed, received) = (partition.committed(), partition.received());
    let index = (received > committed).then_some(received);
    let seen = Seen { index, ..Seen::default() };
    Done { status: status::NO_SESSION, seen: Some((place, seen)) }
}
