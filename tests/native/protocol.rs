//! What the protocol promises, request by request.

use crate::{COMMAND, config, run, start, start_with};
use bytes::Bytes;
use catena_engine::sim::{Crash, Engine, EngineConfig, Fault, World, WorldConfig, each_seed};
use catena_engine::time::Duration;
use catena_engine::wire::metadata::{MetadataBuf, TOKEN};
use catena_engine::{CallError, Client, ClientConfig, Local, MethodId, Route, Status};
use catena_kv::client::{self, Error};
use catena_kv::effect::SessionId;
use catena_kv::native::status;
use catena_kv::native::wire::{self, Action, Change, Condition, Expiry, Info, Write};
use catena_kv::node::NodeConfig;
use catena_kv::partition::Version;
use catena_kv::session::{Numbered, WINDOW};
use catena_kv::slot::{Partition, Partitions, Slot};
use futures_util::future::join;
use std::net::SocketAddr;

const KEY: &[u8] = b"key";

fn partition_of(key: &[u8]) -> u16 {
    Partition::of(Slot::of(key), Partitions::new(8).expect("a power of two")).0
}

/// A connection, and what is asked through it.
struct Asker {
    client: Client,
    token: Option<&'static str>,
}

type Answered = (Status, Bytes);

impl Asker {
    fn new(local: &Local, address: SocketAddr) -> Self {
        Asker { client: Client::new(local, address, ClientConfig::default()), token: None }
    }

    async fn ask(&self, method: &str, payload: Vec<u8>, is_repeat: bool) -> Answered {
        let route = Route(1);
        self.ask_at(route, method, payload, is_repeat).await
    }

    async fn ask_at(&self, at: Route, method: &str, payload: Vec<u8>, again: bool) -> Answered {
        let mut call = self.client.call(MethodId::of(method), payload).route(at);
        call = if again { call.repeat() } else { call };
        if let Some(token) = self.token {
            let mut metadata = MetadataBuf::default();
            metadata.push(TOKEN, token.as_bytes()).expect("a short one");
            call = call.metadata(metadata);
        }
        match call.await {
            Ok(answer) => (answer.head.status, answer.payload),
            Err(CallError::Status { status, payload }) => (status, payload),
            Err(other) => panic!("{method}: {other}"),
        }
    }

    async fn open(&self, lifetime_ms: u64) -> SessionId {
        let mut payload = Vec::new();
        wire::encode_open(partition_of(KEY), lifetime_ms, &mut payload);
        let (status, answer) = self.ask(wire::SESSION_OPEN, payload, false).await;
        assert_eq!(status, Status::OK);
        SessionId::decode(&mut &answer[..]).expect("an id")
    }

    async fn session(&self, method: &str, session: SessionId) -> Status {
        let mut payload = Vec::new();
        wire::encode_session(partition_of(KEY), session, &mut payload);
        self.ask(method, payload, false).await.0
    }

    /// One change of the one key.
    async fn change(
        &self,
        numbered: Option<Numbered>,
        condition: Condition,
        action: Action<'_>,
        is_repeat: bool,
    ) -> Answered {
        let mut payload = Vec::new();
        Write::encode(numbered, &[Change { condition, key: KEY, action }], &mut payload);
        self.ask(wire::WRITE, payload, is_repeat).await
    }

    async fn add(&self, numbered: Numbered, is_repeat: bool) -> Answered {
        self.change(Some(numbered), Condition::None, Action::Add(5), is_repeat).await
    }

    async fn value(&self) -> Option<Vec<u8>> {
        let (status, answer) = self.ask(wire::GET, KEY.to_vec(), false).await;
        (status == Status::OK).then(|| answer[wire::GOT_HEAD_BYTES..].to_vec())
    }
}

fn in_world(seeds: u64, test: impl Fn(&mut World, Engine, Engine)) {
    each_seed(COMMAND, 1..seeds + 1, &WorldConfig::default(), |world| {
        let server = start(world, 1, None);
        let engine = world.start_engine(EngineConfig::default());
        world.run_for(Duration::from_secs(1));
        test(world, server, engine);
    });
}

fn crash(world: &mut World, server: &Engine) {
    let down_for = Some(Duration::from_millis(10));
    world.inject(Fault::Crash { host: server.host(), how: Crash::PowerLoss, down_for });
    world.run_for(Duration::from_secs(1));
}

/// Writes so much that the log's beginning is in a checkpoint alone.
async fn fill_the_log(local: &Local, address: SocketAddr) {
    let store = client::Client::new(local, address, client::Config::default());
    for number in 0..100_u8 {
        store.put(&[number], &[number; 1_000]).await.expect("it serves");
    }
    local.sleep(Duration::from_secs(2)).await;
}

fn numbered(session: SessionId, number: u64, first_unanswered: u64) -> Numbered {
    Numbered { session, number, first_unanswered }
}

#[test]
fn a_repetition_gets_the_first_answer_also_after_a_loss_of_power() {
    in_world(5, |world, server, engine| {
        let address = server.address().expect("it listens");
        let (session, first) = run(world, &engine, move |local| async move {
            let (one, other) = (Asker::new(&local, address), Asker::new(&local, address));
            let session = one.open(60_000).await;
            // Both copies are under way at once: the second one meets the entry of the first in flight.
            let number = numbered(session, 0, 0);
            let (first, second) = join(one.add(number, false), other.add(number, true)).await;
            assert_eq!(first, second, "one answer for all copies");
            assert_eq!(first.0, Status::OK);
            assert_eq!(one.value().await.as_deref(), Some(&b"5"[..]));
            fill_the_log(&local, address).await;
            (session, first)
        });
        crash(world, &server);
        run(world, &engine, move |local| async move {
            let asker = Asker::new(&local, address);
            assert_eq!(asker.add(numbered(session, 0, 0), true).await, first);
            assert_eq!(asker.value().await.as_deref(), Some(&b"5"[..]));
            let (status, _) = asker.add(numbered(session, 1, 1), false).await;
            assert_eq!(status, Status::OK);
            let (status, _) = asker.add(numbered(session, 0, 0), true).await;
            assert_eq!(status, status::FORGOTTEN, "below the first unanswered number");
            let (status, _) = asker.add(numbered(session, 1 + WINDOW, 1), false).await;
            assert_eq!(status, status::WINDOW_FULL);
            let (status, _) = asker.add(numbered(session, 3, 4), false).await;
            assert_eq!(status, status::FORGOTTEN, "below its own first unanswered number");
            let (status, _) = asker.add(numbered(session, 1, 1), true).await;
            assert_eq!(status, Status::OK, "what was refused has not moved the window");
            assert_eq!(asker.session(wire::SESSION_CLOSE, session).await, Status::OK);
            let (status, _) = asker.add(numbered(session, 1, 1), true).await;
            assert_eq!(status, status::NO_SESSION);
            assert_eq!(asker.session(wire::SESSION_CLOSE, session).await, status::NO_SESSION);
            let unknown = SessionId { epoch: 9_999, index: 1 };
            let (status, _) = asker.add(numbered(unknown, 0, 0), false).await;
            assert_eq!(status, status::NO_SESSION, "never created by a request");
            assert_eq!(asker.value().await.as_deref(), Some(&b"10"[..]));
        });
    });
}

#[test]
fn a_failure_is_kept_for_repetitions_if_it_was_told_to_one() {
    in_world(3, |world, server, engine| {
        let address = server.address().expect("it listens");
        run(world, &engine, move |local| async move {
            let asker = Asker::new(&local, address);
            let session = asker.open(60_000).await;
            let put = Action::Put { value: b"1", expiry: Expiry::Never };
            let create = |number: u64, is_repeat| {
                let number = Some(numbered(session, number, 0));
                asker.change(number, Condition::Absent, put, is_repeat)
            };
            assert_eq!(create(0, false).await.0, Status::OK);
            let first = create(1, true).await;
            assert_eq!(first.0, status::CONDITION_FAILED);
            let failed = create(2, false).await;
            assert_eq!(failed.0, status::CONDITION_FAILED);
            let delete = asker.change(None, Condition::None, Action::Delete, false).await;
            assert_eq!(delete.0, Status::OK);
            assert_eq!(create(1, true).await, first, "the state is another one, the answer is not");
            assert_eq!(create(2, false).await.0, Status::OK, "of it nothing was kept");
        });
    });
}

#[test]
fn a_session_that_is_not_used_ends() {
    in_world(3, |world, server, engine| {
        let address = server.address().expect("it listens");
        let [used, unused] = run(world, &engine, move |local| async move {
            let asker = Asker::new(&local, address);
            let sessions = [asker.open(2_000).await, asker.open(2_000).await];
            for _ in 0..5 {
                local.sleep(Duration::from_secs(1)).await;
                assert_eq!(asker.session(wire::SESSION_KEEP, sessions[0]).await, Status::OK);
            }
            assert_eq!(asker.session(wire::SESSION_KEEP, sessions[1]).await, status::NO_SESSION);
            sessions
        });
        crash(world, &server);
        run(world, &engine, move |local| async move {
            let asker = Asker::new(&local, address);
            assert_eq!(asker.session(wire::SESSION_KEEP, used).await, Status::OK);
            assert_eq!(asker.session(wire::SESSION_KEEP, unused).await, status::NO_SESSION);
            local.sleep(Duration::from_secs(4)).await;
            assert_eq!(asker.session(wire::SESSION_KEEP, used).await, status::NO_SESSION);
        });
    });
}

#[test]
fn who_asks_the_wrong_shard_is_told_the_right_one() {
    each_seed(COMMAND, 1..4, &WorldConfig::default(), |world| {
        let server = start(world, 3, None);
        let engine = world.start_engine(EngineConfig::default());
        let address = server.address().expect("it listens");
        world.run_for(Duration::from_secs(1));
        let own: Vec<u16> = server.shard_addresses().iter().map(SocketAddr::port).collect();
        run(world, &engine, move |local| async move {
            let asker = Asker::new(&local, address);
            let (_, answer) = asker.ask(wire::INFO, Vec::new(), false).await;
            let info = Info::decode(&answer).expect("an info");
            assert_eq!(info.shards.iter().map(|shard| shard.port).collect::<Vec<_>>(), own);
            let mut refused = 0;
            for (at, key) in (0..30).map(|number| (number, format!("key-{number}").into_bytes())) {
                let asked = Route(1 + at % 3);
                let (status, detail) = asker.ask_at(asked, wire::GET, key.clone(), false).await;
                if status != Status::WRONG_SHARD {
                    assert_eq!(status, status::NOT_FOUND);
                    continue;
                }
                refused += 1;
                let right = Route(u32::from_le_bytes(detail[..].try_into().expect("a route")));
                let shard = &info.shards[right.0 as usize - 1];
                assert!((shard.first..shard.end).contains(&partition_of(&key)));
                let (status, _) = asker.ask_at(right, wire::GET, key, false).await;
                assert_eq!(status, status::NOT_FOUND);
            }
            assert!(refused > 5, "{refused} were refused");
        });
    });
}

#[test]
fn the_password_is_wanted_with_each_request() {
    each_seed(COMMAND, 1..3, &WorldConfig::default(), |world| {
        let server = start(world, 1, Some("secret"));
        let engine = world.start_engine(EngineConfig::default());
        let address = server.address().expect("it listens");
        world.run_for(Duration::from_secs(1));
        run(world, &engine, move |local| async move {
            let mut asker = Asker::new(&local, address);
            for (token, expected) in [
                (None, Status::UNAUTHENTICATED),
                (Some("secre"), Status::UNAUTHENTICATED),
                (Some("secret"), status::NOT_FOUND),
            ] {
                asker.token = token;
                assert_eq!(asker.ask(wire::GET, KEY.to_vec(), false).await.0, expected);
            }
            let password = Some("secret".to_owned());
            let config = client::Config { password, ..client::Config::default() };
            let store = client::Client::new(&local, address, config);
            store.put(KEY, b"value").await.expect("it knows the password");
            let stranger = client::Client::new(&local, address, client::Config::default());
            assert!(matches!(stranger.put(KEY, b"value").await, Err(Error::Refused(_))));
        });
    });
}

#[test]
fn changes_of_one_write_happen_together_and_conditions_hold_for_all() {
    in_world(3, |world, server, engine| {
        let address = server.address().expect("it listens");
        run(world, &engine, move |local| async move {
            let store = client::Client::new(&local, address, client::Config::default());
            let put = |key, condition| {
                let action = Action::Put { value: b"v", expiry: Expiry::In(1_000) };
                Change { condition, key, action }
            };
            let add = Change { condition: Condition::None, key: b"{t}n", action: Action::Add(3) };
            let delete = Change { action: Action::Delete, key: b"{t}none", ..add };
            let all = [put(b"{t}a", Condition::Absent), add, delete];
            let written = store.write(&all).await.expect("it serves");
            assert_eq!(written.values, [1, 3, 0]);
            let failed = store.write(&all).await;
            let version = written.version;
            assert_eq!(failed, Err(Error::ConditionFailed { change: 0, version }));
            let found = store.get(b"{t}n").await.expect("it serves").expect("it is there");
            assert_eq!((&found.bytes[..], found.version), (&b"3"[..], version), "none happened");
            let found = store.get(b"{t}a").await.expect("it serves").expect("it is there");
            assert_eq!(found.expires_at, Some((1 << 40) + 1_000));
            let put_again = store.put_if_version(b"{t}a", b"w", version).await;
            assert!(put_again.is_ok_and(|newer| newer > version));
            let again = store.put_if_version(b"{t}a", b"x", version).await;
            assert!(matches!(again, Err(Error::ConditionFailed { change: 0, .. })), "{again:?}");
            assert_eq!(store.add(b"{t}a", 1).await, Err(Error::NotInteger { change: 0 }));
            let other = Change { key: b"elsewhere", ..add };
            assert_eq!(store.write(&[add, other]).await, Err(Error::SeveralPartitions));
            scan(&store, version).await;
        });
    });
}

/// A write that changes nothing is no entry, so no entry says that its answer has come. Its number is not in
/// the way of those after it nevertheless.
#[test]
fn a_client_whose_writes_change_nothing_goes_on() {
    in_world(2, |world, server, engine| {
        let address = server.address().expect("it listens");
        run(world, &engine, move |local| async move {
            let store = client::Client::new(&local, address, client::Config::default());
            for number in 0..2 * WINDOW + 10 {
                assert_eq!(store.delete(KEY).await, Ok(false), "number {number}");
            }
            store.put(KEY, b"here").await.expect("there is room for a number");
        });
    });
}

/// Who repeats a write that was carried out gets its answer, also when no memory is left for another one.
#[test]
fn a_repetition_is_answered_when_memory_is_used_up() {
    each_seed(COMMAND, 1..3, &WorldConfig::default(), |world| {
        let config = NodeConfig { memory_bytes_max: 1 << 20, ..config(None) };
        let server = start_with(world, 1, config);
        let engine = world.start_engine(EngineConfig::default());
        let address = server.address().expect("it listens");
        world.run_for(Duration::from_secs(1));
        run(world, &engine, move |local| async move {
            let asker = Asker::new(&local, address);
            let session = asker.open(60_000).await;
            let first = asker.add(numbered(session, 0, 0), false).await;
            assert_eq!(first.0, Status::OK);
            let store = client::Client::new(&local, address, client::Config::default());
            let mut refused = None;
            for number in 0..200_u8 {
                refused = store.put(&[number], &[number; 50_000]).await.err();
                if refused.is_some() {
                    break;
                }
            }
            let status = status::OUT_OF_MEMORY;
            let expected = CallError::Status { status, payload: Bytes::new() };
            assert_eq!(refused, Some(Error::Refused(expected)));
            assert_eq!(asker.add(numbered(session, 0, 0), true).await, first);
            assert_eq!(asker.add(numbered(session, 1, 0), false).await.0, status);
        });
    });
}

/// A store that keeps nothing is another one after each start: a session of before is none of its own, even
/// if it was the first one too.
#[test]
fn a_store_that_has_forgotten_takes_no_session_for_another() {
    each_seed(COMMAND, 1..4, &WorldConfig::default(), |world| {
        let server = start_with(world, 1, NodeConfig { directory: None, ..config(None) });
        let engine = world.start_engine(EngineConfig::default());
        let address = server.address().expect("it listens");
        let before = run(world, &engine, move |local| async move {
            let asker = Asker::new(&local, address);
            let session = asker.open(60_000).await;
            assert_eq!(asker.add(numbered(session, 0, 0), false).await.0, Status::OK);
            session
        });
        crash(world, &server);
        run(world, &engine, move |local| async move {
            let asker = Asker::new(&local, address);
            let session = asker.open(60_000).await;
            assert_eq!(session.index, before.index, "the same entry of another store");
            let (status, _) = asker.add(numbered(before, 0, 0), true).await;
            assert_eq!(status, status::NO_SESSION);
        });
    });
}

/// All keys are found.
async fn scan(store: &client::Client, written: Version) {
    let mut keys = Vec::new();
    for partition in 0..store.partitions().await.expect("it serves") {
        let mut from = Some(0);
        while let Some(at) = from {
            let page = store.scan(partition, at, 10).await.expect("it serves");
            keys.extend(page.keys);
            from = page.next;
        }
    }
    keys.sort();
    let names: Vec<&[u8]> = keys.iter().map(|(key, ..)| &key[..]).collect();
    assert_eq!(names, [&b"{t}a"[..], b"{t}n"]);
    assert_eq!(keys[1].1, written);
}
