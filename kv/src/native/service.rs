//! The methods on one shard, and the answers that wait until what they depend on has committed.

use super::execute::{check_distinct, execute};
use super::wire::{
    self, Action, Condition, Got, Info, Malformed, OPERATIONS_MAX, Operation, SCAN_ENTRIES_MAX,
    Scan, Scanned, VERSION_BYTES, WriteHead, encode_version, status,
};
use crate::effect::{EffectRef, SessionId};
use crate::partition::Version;
use crate::redis::server::Server;
use crate::session::LIFETIME_MS_MAX;
use crate::slot::Slot;
use crate::store::Store;
use bytes::Bytes;
use catena_engine::handler::{Answered, Reply, Request};
use catena_engine::shard_index::ShardIndex;
use catena_engine::wire::framer::Payload;
use catena_engine::wire::metadata;
use catena_engine::wire::status::Status;
use catena_engine::{Local, Responder, Router};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// One shard's part of the service.
pub struct Native {
    local: Local,
    store: Rc<RefCell<Store>>,
    serving: Rc<Cell<bool>>,
    server: Arc<Server>,
    clock: Box<dyn Fn() -> u64>,
    /// Which store it is; see [`Info::store`].
    id: Cell<[u8; 16]>,
    /// Memory for an answer on its way out.
    scratch: RefCell<Vec<u8>>,
    waiting: RefCell<Vec<Waiting>>,
    /// Entries that were durable when the waiting ones were looked at last.
    released_at: Cell<u64>,
}

/// An answer that waits until an entry has committed.
struct Waiting {
    place: usize,
    index: u64,
    responder: Responder,
    status: Status,
    payload: Bytes,
}

/// Which operations a method takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Put,
    Cas,
    Delete,
    Incr,
    Expire,
    Batch,
}

impl Native {
    /// Serves the keys of `store`, once `serving` says that they are there. `clock` tells Unix time in
    /// milliseconds.
    pub fn new(
        local: &Local,
        store: Rc<RefCell<Store>>,
        serving: Rc<Cell<bool>>,
        server: Arc<Server>,
        clock: impl Fn() -> u64 + 'static,
    ) -> Rc<Self> {
        Rc::new(Native {
            local: local.clone(),
            store,
            serving,
            server,
            clock: Box::new(clock),
            id: Cell::new([0; 16]),
            scratch: RefCell::default(),
            waiting: RefCell::default(),
            released_at: Cell::new(0),
        })
    }

    /// Says which store it is, before it serves.
    pub fn set_id(&self, id: [u8; 16]) {
        self.id.set(id);
    }

    /// The methods.
    pub fn methods(self: &Rc<Self>, router: Router) -> Router {
        let method =
            |router: Router, name, handle: fn(&Native, &Request<'_>, Reply<'_>) -> Answered| {
                let native = self.clone();
                router.method(name, move |request, reply| match native.admit(&request) {
                    Ok(()) => handle(&native, &request, reply),
                    Err((status, text)) => reply.fail(status, text),
                })
            };
        let router = method(router, "kv.get", Native::get);
        let router = method(router, "kv.put", |native, request, reply| {
            native.write(Takes::Put, request, reply)
        });
        let router = method(router, "kv.cas", |native, request, reply| {
            native.write(Takes::Cas, request, reply)
        });
        let router = method(router, "kv.delete", |native, request, reply| {
            native.write(Takes::Delete, request, reply)
        });
        let router = method(router, "kv.incr", |native, request, reply| {
            native.write(Takes::Incr, request, reply)
        });
        let router = method(router, "kv.expire", |native, request, reply| {
            native.write(Takes::Expire, request, reply)
        });
        let router = method(router, "kv.batch", |native, request, reply| {
            native.write(Takes::Batch, request, reply)
        });
        let router = method(router, "kv.scan", Native::scan);
        let router = method(router, "kv.session.open", Native::open_session);
        let router = method(router, "kv.session.close", Native::close_session);
        method(router, "kv.info", Native::info)
    }

    /// Gives the answers whose entries have committed.
    pub fn release_answers(&self) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        let store = self.store.borrow();
        let (_, durable) = store.log_entries();
        if self.released_at.replace(durable) == durable {
            return;
        }
        let is_due = |waiting: &mut Waiting| store.committed(waiting.place) >= waiting.index;
        for Waiting { responder, status, payload, .. } in waiting.extract_if(.., is_due) {
            responder.answer(status, Payload::Shared(payload));
        }
    }

    /// Whether a request is looked at.
    fn admit(&self, request: &Request<'_>) -> Result<(), (Status, &'static str)> {
        if self.server.config.password.is_some() {
            let token = request.metadata().find(metadata::TOKEN).ok().flatten();
            if !token.is_some_and(|token| self.server.is_password(token)) {
                self.server.note_wrong_password((self.clock)(), "a caller of the native service");
                return Err((Status::UNAUTHENTICATED, "the password goes into the token"));
            }
        }
        if !self.serving.get() {
            return Err((status::LOADING, "the store does not have its keys yet"));
        }
        Ok(())
    }

    fn get(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let mut store = self.store.borrow_mut();
        let key = request.payload();
        let place = match store.place_of(Slot::of(key)) {
            Ok(place) => place,
            Err(shard) => return wrong_shard(shard, reply),
        };
        let mut keys = store.keyspace(place, (self.clock)());
        let Ok(hashed) = keys.key(key) else { return reply.fail(status::TOO_LONG, "the key") };
        match keys.get_gated(&hashed) {
            (Some(found), gate) => {
                let (version, expires_at, value) = (found.version, found.expires_at, found.value);
                let got = Got { version, expires_at, value };
                if gate.is_none() {
                    return reply.write(|writer| {
                        writer.extend(&got.head());
                        writer.extend(value);
                        Status::OK
                    });
                }
                let mut out = self.scratch.borrow_mut();
                out.clear();
                out.extend_from_slice(&got.head());
                out.extend_from_slice(value);
                self.answer(reply, (place, gate), Status::OK, &out)
            }
            (None, gate) => self.answer(reply, (place, gate), status::NOT_FOUND, &[]),
        }
    }

    fn write(&self, takes: Takes, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let mut payload = request.payload();
        let Ok(head) = WriteHead::decode(&mut payload) else {
            return reply.fail(Status::MALFORMED, "the request ends before it should");
        };
        let is_repeat = request.head().repeat;
        if takes == Takes::Batch {
            return match operations(payload) {
                Ok(operations) => self.write_all(head, is_repeat, &operations, reply),
                Err(Malformed(text)) => reply.fail(Status::MALFORMED, text),
            };
        }
        match Operation::decode(&mut payload) {
            Ok(operation) if payload.is_empty() && takes.takes(&operation) => {
                self.write_all(head, is_repeat, &[operation], reply)
            }
            Ok(_) => {
                reply.fail(Status::MALFORMED, "one operation, of the method's kind, and no more")
            }
            Err(Malformed(text)) => reply.fail(Status::MALFORMED, text),
        }
    }

    fn write_all(
        &self,
        head: WriteHead,
        is_repeat: bool,
        operations: &[Operation<'_>],
        reply: Reply<'_>,
    ) -> Answered {
        let mut store = self.store.borrow_mut();
        let mut places = operations.iter().map(|operation| store.place_of(Slot::of(operation.key)));
        let first = places.next().expect("there is an operation");
        if places.any(|place| place != first) {
            return reply.fail(status::CROSS_PARTITION, "the keys of a batch are of one partition");
        }
        let place = match first {
            Ok(place) => place,
            Err(shard) => return wrong_shard(shard, reply),
        };
        let now_ms = (self.clock)();
        let grows = |operation: &Operation<'_>| {
            matches!(operation.action, Action::Put { .. } | Action::Incr { .. })
        };
        if operations.iter().any(grows) && !store.make_room(now_ms, || self.local.random()) {
            return reply.fail(status::OUT_OF_MEMORY, "no memory is left for what is written");
        }
        let mut keys = store.keyspace(place, now_ms);
        let mut out = self.scratch.borrow_mut();
        out.clear();
        let status = execute(&mut keys, head, is_repeat, operations, &mut out);
        self.answer(reply, (place, keys.gate()), status, &out)
    }

    fn scan(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let scan = match Scan::decode(request.payload()) {
            Ok(scan) => scan,
            Err(Malformed(text)) => return reply.fail(Status::MALFORMED, text),
        };
        let store = self.store.borrow();
        let place = match store.place_of_partition(scan.partition) {
            Ok(place) => place,
            Err(Some(shard)) => return wrong_shard(shard, reply),
            Err(None) => return reply.fail(Status::MALFORMED, "there is no such partition"),
        };
        let (partition, now_ms) = (&store.partitions()[place], (self.clock)());
        let mut out = self.scratch.borrow_mut();
        out.clear();
        out.extend_from_slice(&[0; 8]);
        let count = scan.entries.clamp(1, SCAN_ENTRIES_MAX) as usize;
        let from = scan.cursor as u32;
        let next = partition.table().walk(&store.memory().arena, from, count, |entry| {
            if entry.is_expired(now_ms) {
                return;
            }
            let value = if scan.with_values { entry.value().bytes() } else { &[] };
            let version = partition.version(entry.index());
            let expires_at = entry.expires_at();
            Scanned { key: entry.key(), value, version, expires_at }.encode(&mut out);
        });
        out[..8].copy_from_slice(&next.map_or(0, u64::from).to_le_bytes());
        reply.answer(Status::OK, Payload::Copied(&out))
    }

    fn open_session(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let Some((partition, lifetime_ms)) = partition_and(request.payload(), u64::from_le_bytes)
        else {
            return reply.fail(Status::MALFORMED, "a partition and a lifetime");
        };
        let lifetime_ms = lifetime_ms.clamp(1, LIFETIME_MS_MAX);
        let full = |store: &Store, place: usize| store.partitions()[place].sessions().is_full();
        self.order(partition, EffectRef::OpenSession { lifetime_ms }, full, reply)
    }

    fn close_session(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let id = |bytes: [u8; VERSION_BYTES]| {
            wire::decode_version(&mut &bytes[..]).expect("as many bytes as it has")
        };
        let Some((partition, Version { epoch, index })) = partition_and(request.payload(), id)
        else {
            return reply.fail(Status::MALFORMED, "a partition and a session");
        };
        let session = SessionId { epoch, index };
        self.order(partition, EffectRef::CloseSession { session }, |_, _| false, reply)
    }

    /// Orders an entry that is about sessions; answers its version.
    fn order(
        &self,
        partition: u16,
        effect: EffectRef<'_>,
        is_full: impl FnOnce(&Store, usize) -> bool,
        reply: Reply<'_>,
    ) -> Answered {
        let mut store = self.store.borrow_mut();
        let place = match store.place_of_partition(partition) {
            Ok(place) => place,
            Err(Some(shard)) => return wrong_shard(shard, reply),
            Err(None) => return reply.fail(Status::MALFORMED, "there is no such partition"),
        };
        if is_full(&store, place) {
            return reply.fail(status::TOO_MANY_SESSIONS, "the partition takes no further session");
        }
        let mut keys = store.keyspace(place, (self.clock)());
        match keys.write_all(&[effect]) {
            Ok(version) => {
                let mut out = self.scratch.borrow_mut();
                out.clear();
                encode_version(version, &mut out);
                self.answer(reply, (place, keys.gate()), Status::OK, &out)
            }
            Err(error) => reply.fail(status::NOT_WRITABLE, &error.0),
        }
    }

    fn info(&self, _: &Request<'_>, reply: Reply<'_>) -> Answered {
        let store = self.store.borrow();
        let (partitions, shards) = (store.config().partitions, store.config().shards);
        let first = |shard| partitions.of_shard(ShardIndex(shard), shards).start;
        let firsts = (0..shards).map(first).collect();
        let info = Info { store: self.id.get(), partitions: partitions.count(), firsts };
        let mut out = Vec::new();
        info.encode(&mut out);
        reply.answer(Status::OK, Payload::Copied(&out))
    }

    /// Answers now, or when the entry that it depends on has committed.
    #[inline]
    fn answer(
        &self,
        reply: Reply<'_>,
        (place, gate): (usize, Option<u64>),
        status: Status,
        payload: &[u8],
    ) -> Answered {
        let Some(index) = gate else { return reply.answer(status, Payload::Copied(payload)) };
        let (answered, responder) = reply.later();
        let payload = Bytes::copy_from_slice(payload);
        self.waiting.borrow_mut().push(Waiting { place, index, responder, status, payload });
        answered
    }
}

impl Takes {
    fn takes(self, operation: &Operation<'_>) -> bool {
        match (self, operation.action) {
            (Takes::Cas, Action::Put { .. }) => {
                matches!(operation.condition, Condition::Version(_))
            }
            (Takes::Put, Action::Put { .. })
            | (Takes::Delete, Action::Delete)
            | (Takes::Incr, Action::Incr { .. })
            | (Takes::Expire, Action::Expire { .. })
            | (Takes::Batch, _) => true,
            _ => false,
        }
    }
}

/// The operations of a batch.
fn operations(mut payload: &[u8]) -> Result<Vec<Operation<'_>>, Malformed> {
    let mut operations = Vec::new();
    while !payload.is_empty() {
        if operations.len() == OPERATIONS_MAX {
            return Err(Malformed("a batch of more than 1024 operations"));
        }
        operations.push(Operation::decode(&mut payload)?);
    }
    if operations.is_empty() {
        return Err(Malformed("a batch without operations"));
    }
    check_distinct(&operations)?;
    Ok(operations)
}

/// `partition u16 │ value`
fn partition_and<const N: usize, T>(
    payload: &[u8],
    value: impl Fn([u8; N]) -> T,
) -> Option<(u16, T)> {
    let (partition, rest) = payload.split_first_chunk()?;
    Some((u16::from_le_bytes(*partition), value(rest.try_into().ok()?)))
}

/// The shard that was meant has not got it: here is the one that has.
fn wrong_shard(shard: ShardIndex, reply: Reply<'_>) -> Answered {
    let route = u32::from(shard.0) + 1;
    reply.answer(Status::WRONG_SHARD, Payload::Copied(&route.to_le_bytes()))
}
