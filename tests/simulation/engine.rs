//! Servers and clients of the unchanged engine, while hosts crash, pause and lose each other.
//!
//! Three servers of two shards each; some of their handlers answer within the turn, some later, some
//! burn the core, some call another server. Three clients make calls of all kinds, drop some, and let
//! some expire. Checked:
//! - an answer is that of its own request;
//! - a call that is said to be *not executed* has not been, and never is;
//! - no request is executed twice (nobody here sends one again);
//! - after the faults every client gets answers from every server;
//! - once the clients have ended, nothing is in flight at any server.

use crate::COMMAND;
use catena_engine::client::CallBuilder;
use catena_engine::config::{Broken, ConnectionConfig};
use catena_engine::service::Failure;
use catena_engine::shard_index::ShardIndex;
use catena_engine::sim::{
    Engine, EngineConfig, EventKind, FaultMix, Hook, World, WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use catena_engine::{
    Answer, CallError, Client, ClientConfig, Local, MethodId, Priority, Route, Router,
};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

const SERVERS: usize = 3;
const CLIENTS: usize = 3;
/// Tasks of each client that call one after the other.
const CALLERS: usize = 3;
const PORT: u16 = 7_000;

const METHODS: [MethodId; 4] =
    [MethodId::of("now"), MethodId::of("later"), MethodId::of("burn"), MethodId::of("relay")];
const NOW: MethodId = METHODS[0];

/// What is seen from above by all: the simulation runs in one thread.
#[derive(Default)]
struct Seen {
    next_request: Cell<u64>,
    /// Requests whose handler has begun.
    executed: RefCell<BTreeSet<u64>>,
    /// Requests whose callers were told that they were not executed.
    not_executed: RefCell<BTreeSet<u64>>,
    /// Answers by client and server.
    answered: [[Cell<u64>; SERVERS]; CLIENTS],
    /// Callers that are to end, and those that have.
    stop: Cell<bool>,
    callers: Cell<usize>,
    servers: RefCell<Vec<SocketAddr>>,
    /// What must not be. Noted, not panicked about: the engine contains the panics of what it runs.
    wrong: RefCell<Vec<String>>,
}

/// The number of the request stands first, and its answer is made from it alone.
fn answer_to(payload: &[u8]) -> Vec<u8> {
    payload.iter().rev().map(|byte| byte ^ 0x5A).collect()
}

impl Seen {
    fn executes(&self, payload: &[u8]) {
        let number = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let number = number.expect("a request begins with its number");
        let is_first = self.executed.borrow_mut().insert(number);
        self.check(is_first, || format!("request {number} is executed twice"));
        let was_refused = self.not_executed.borrow().contains(&number);
        self.check(!was_refused, || format!("request {number} is executed after all"));
    }

    fn check(&self, is_right: bool, what: impl FnOnce() -> String) {
        if !is_right {
            self.wrong.borrow_mut().push(what());
        }
    }

    fn is_refused(&self, number: u64, error: &CallError) {
        if error.is_not_executed() {
            let was = self.executed.borrow().contains(&number);
            self.check(!was, || format!("request {number} was executed: {error}"));
            self.not_executed.borrow_mut().insert(number);
        }
    }
}

fn router(seen: &Rc<Seen>, hook: &Hook) -> Router {
    let (now, later, burn, relay) = (seen.clone(), seen.clone(), seen.clone(), seen.clone());
    let hook = hook.clone();
    Router::new()
        .method("now", move |request, reply| {
            now.executes(request.payload());
            reply.ok(answer_to(request.payload()))
        })
        .method_async("later", move |request| {
            let seen = later.clone();
            async move {
                seen.executes(&request.payload);
                let pause = Duration::from_micros(request.local.random() % 20_000);
                request.local.sleep(pause).await;
                Ok(answer_to(&request.payload))
            }
        })
        .method("burn", move |request, reply| {
            burn.executes(request.payload());
            hook.burn(Duration::from_micros(request.payload().len() as u64));
            reply.ok(answer_to(request.payload()))
        })
        .method_async("relay", move |request| {
            let seen = relay.clone();
            async move {
                seen.executes(&request.payload);
                let server = request.local.random() as usize % SERVERS;
                let address = seen.servers.borrow()[server];
                let client = Client::new(&request.local, address, ClientConfig::default());
                call(&seen, &client, NOW, &request.local, |call| call)
                    .await
                    .map_err(Failure::from)?;
                Ok(answer_to(&request.payload))
            }
        })
}

/// One call with a number of its own, checked against what is seen from above.
async fn call(
    seen: &Seen,
    client: &Client,
    method: MethodId,
    local: &Local,
    options: impl FnOnce(CallBuilder) -> CallBuilder,
) -> Result<Answer, CallError> {
    let number = seen.next_request.replace(seen.next_request.get() + 1);
    let mut payload = number.to_le_bytes().to_vec();
    // Mostly small; now and then one that is split over many receives.
    let long = local.random().is_multiple_of(10);
    payload.resize(8 + (local.random() % if long { 20_000 } else { 100 }) as usize, number as u8);
    let expected = answer_to(&payload);
    let result = options(client.call(method, payload)).await;
    match &result {
        Ok(answer) => seen
            .check(answer.payload == expected, || format!("request {number} has another's answer")),
        Err(error) => seen.is_refused(number, error),
    }
    result
}

/// Calls one server after another, of all kinds, until it is told to stop.
async fn caller(seen: Rc<Seen>, me: usize, local: Local, config: ClientConfig) {
    let clients: Vec<Client> = (seen.servers.borrow().iter())
        .map(|address| Client::new(&local, *address, config.clone()))
        .collect();
    while !seen.stop.get() {
        let server = local.random() as usize % SERVERS;
        let method = METHODS[local.random() as usize % METHODS.len()];
        let timeout = Duration::from_millis(1 + local.random() % 200);
        let route = Route((local.random() % 3) as u32);
        let priority = Priority(local.random() as u16);
        let options = |call: CallBuilder| call.timeout(timeout).route(route).priority(priority);
        let work = Box::pin(call(&seen, &clients[server], method, &local, options));
        let patience = match local.random().is_multiple_of(8) {
            true => Duration::from_micros(local.random() % 5_000),
            false => Duration::from_secs(10),
        };
        // Dropping the call cancels it.
        if let Either::Left((Ok(_), _)) = select(work, local.sleep(patience)).await {
            let count = &seen.answered[me][server];
            count.set(count.get() + 1);
        }
        local.sleep(Duration::from_micros(local.random() % 3_000)).await;
    }
}

/// Counts a caller for as long as it is there, however it ends.
struct Counted(Rc<Seen>);

impl Counted {
    fn new(seen: &Rc<Seen>) -> Self {
        seen.callers.set(seen.callers.get() + 1);
        Counted(seen.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.callers.set(self.0.callers.get() - 1);
    }
}

fn start_server(world: &mut World, seen: &Rc<Seen>) -> Engine {
    let seen = seen.clone();
    world.start_engine(EngineConfig {
        shards: 2,
        port: Some(PORT),
        service: Rc::new(move |_, hook| router(&seen, hook)),
        ..EngineConfig::default()
    })
}

fn start_client(world: &mut World, seen: &Rc<Seen>, me: usize, broken: Broken) -> Engine {
    let seen = seen.clone();
    world.start_engine(EngineConfig {
        service: Rc::new(move |local, _| {
            let connection = ConnectionConfig { broken, ..ConnectionConfig::default() };
            let config =
                ClientConfig { connection: Arc::new(connection), ..ClientConfig::default() };
            for _ in 0..CALLERS {
                let counted = Counted::new(&seen);
                let work = caller(seen.clone(), me, local.clone(), config.clone());
                let task = local.spawn(async move {
                    let _counted = counted;
                    work.await;
                });
                task.detach();
            }
            Router::new()
        }),
        ..EngineConfig::default()
    })
}

/// One world from start to end; returns what it came to.
fn simulate(world: &mut World, broken: Broken) -> (u64, usize, usize) {
    let seen = Rc::<Seen>::default();
    let servers: Vec<Engine> = (0..SERVERS).map(|_| start_server(world, &seen)).collect();
    world.run_for(Duration::from_millis(1));
    *seen.servers.borrow_mut() =
        servers.iter().map(|server| server.address().expect("it listens")).collect();
    let clients: Vec<Engine> =
        (0..CLIENTS).map(|me| start_client(world, &seen, me, broken)).collect();
    let plan = world.draw_plan(Duration::from_millis(700), &FaultMix::default());
    world.schedule(&plan);
    world.run_for(Duration::from_millis(700));
    world.heal_all();
    world.note("healed");
    let counts = || seen.answered.iter().flatten().map(Cell::get).collect::<Vec<_>>();
    let before = counts();
    let progress = |_: &World| counts().iter().zip(&before).all(|(now, before)| now > before);
    assert!(world.run_until(Duration::from_secs(60), progress), "a client gets no answers");
    seen.stop.set(true);
    world.note("stop");
    let over = |_: &World| seen.callers.get() == 0;
    assert!(world.run_until(Duration::from_secs(60), over), "a call does not end");
    // What was cancelled last is on its way to the servers.
    let idle = |_: &World| {
        let shards = servers.iter().flat_map(|server| [(server, 0), (server, 1)]);
        shards.into_iter().all(|(server, shard)| {
            server
                .inspect(ShardIndex(shard), |shard| shard.in_flight())
                .is_none_or(|left| left == 0)
        })
    };
    assert!(world.run_until(Duration::from_secs(60), idle), "a server keeps what nobody waits for");
    drop(clients);
    assert!(seen.wrong.borrow().is_empty(), "{:?}", seen.wrong.borrow());
    let answers = counts().iter().sum();
    (answers, seen.executed.borrow().len(), seen.not_executed.borrow().len())
}

#[test]
fn calls_are_exact_whatever_goes_wrong() {
    let (mut answers, mut executed, mut refused) = (0, 0, 0);
    let coverage = each_seed(COMMAND, 0..500, &WorldConfig::default(), |world| {
        let came_to = simulate(world, Broken::Nothing);
        answers += came_to.0;
        executed += came_to.1;
        refused += came_to.2;
        came_to
    });
    println!("{answers} answers, {executed} requests executed, {refused} said not to be");
    coverage.require(&[
        EventKind::HostKilled,
        EventKind::HostLostPower,
        EventKind::HostPaused,
        EventKind::LinkCut,
        EventKind::LinkSlowed,
        EventKind::ConnectionLost,
        EventKind::ConnectionSilenced,
        EventKind::ConnectFailed,
        EventKind::SendLater,
    ]);
}

/// The checks can fail: without generations an answer that comes late is taken for another call's.
#[test]
fn a_client_that_ignores_generations_is_caught() {
    let caught = (0..50u64).any(|seed| {
        let mut world = World::new(seed, WorldConfig::default());
        let run = || simulate(&mut world, Broken::Generations);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        ended.is_err_and(|panic| {
            let text = panic.downcast::<String>().map(|text| *text).unwrap_or_default();
            text.contains("has another's answer")
        })
    });
    assert!(caught, "fifty seeds of a broken engine, and nothing is seen");
}
