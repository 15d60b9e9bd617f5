//! Servers are drained and started again, one after the other, while clients call and the network is
//! slow, cut and partitioned, and processes stand still: no request that was accepted loses its answer.
//!
//! No connection is lost here by any fault, and no deadline is near. So every call ends with its answer:
//! one that a leaving server has refused was not executed, and its client makes it again. Anything else
//! is a request that a drain has lost.

use crate::COMMAND;
use catena_engine::sim::{
    Engine, EngineConfig, EventKind, Fault, FaultMix, FaultWeights, Span, World, WorldConfig,
    each_seed,
};
use catena_engine::time::Duration;
use catena_engine::{CallError, Client, ClientConfig, Local, MethodId, Route, Router, Status};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;

const SERVERS: usize = 2;
const SHARDS: u16 = 2;
const CALLERS: usize = 8;
const PORT: u16 = 7_000;
const METHODS: [MethodId; 2] = [MethodId::of("now"), MethodId::of("later")];

/// Seen from above.
#[derive(Default)]
struct Seen {
    next_request: Cell<u64>,
    executed: RefCell<BTreeSet<u64>>,
    answered: Cell<u64>,
    refused: Cell<u64>,
    repeated: Cell<u64>,
    stop: Cell<bool>,
    callers: Cell<usize>,
    wrong: RefCell<Vec<String>>,
}

impl Seen {
    fn executes(&self, payload: &[u8]) {
        let number = u64::from_le_bytes(payload.try_into().expect("eight bytes"));
        if !self.executed.borrow_mut().insert(number) {
            self.wrong.borrow_mut().push(format!("request {number} is executed twice"));
        }
    }

    /// A call has ended, in one of the two ways in which it may.
    fn ends(&self, number: u64, result: Result<Vec<u8>, CallError>) {
        let was_executed = self.executed.borrow().contains(&number);
        let is_right = match &result {
            Ok(payload) => was_executed && payload[..] == number.to_le_bytes(),
            Err(error) => error.is_not_executed() && !was_executed,
        };
        if !is_right {
            let how = format!("request {number}, executed: {was_executed}, came to {result:?}");
            self.wrong.borrow_mut().push(how);
        }
        let count = if result.is_ok() { &self.answered } else { &self.refused };
        count.set(count.get() + 1);
    }
}

fn router(seen: &Rc<Seen>) -> Router {
    let (now, later) = (seen.clone(), seen.clone());
    Router::new()
        .method("now", move |request, reply| {
            now.repeated.set(now.repeated.get() + u64::from(request.head().repeat));
            now.executes(request.payload());
            reply.ok(request.payload())
        })
        .method_async("later", move |request| {
            later.executes(&request.payload);
            async move {
                let work = Duration::from_micros(request.local.random() % 30_000);
                request.local.sleep(work).await;
                Ok(request.payload)
            }
        })
}

async fn caller(seen: Rc<Seen>, servers: Vec<SocketAddr>, local: Local) {
    let clients: Vec<Client> = servers
        .into_iter()
        .map(|address| Client::new(&local, address, ClientConfig::default()))
        .collect();
    while !seen.stop.get() {
        let number = seen.next_request.replace(seen.next_request.get() + 1);
        let client = &clients[local.random() as usize % SERVERS];
        let method = METHODS[local.random() as usize % METHODS.len()];
        // To any shard, to its own, or through the other one.
        let route = Route((local.random() % u64::from(SHARDS + 1)) as u32);
        let call = client.call(method, number.to_le_bytes().to_vec()).route(route);
        let result = call.timeout(Duration::from_secs(600)).await;
        let is_draining = matches!(
            result,
            Err(CallError::Status { status: Status::DRAINING, .. } | CallError::Unreachable { .. })
        );
        seen.ends(number, result.map(|answer| answer.payload.to_vec()));
        let pause = if is_draining { 5_000 } else { 500 };
        local.sleep(Duration::from_micros(local.random() % pause)).await;
    }
    seen.callers.set(seen.callers.get() - 1);
}

fn start_server(world: &mut World, seen: &Rc<Seen>) -> Engine {
    let seen = seen.clone();
    world.start_engine(EngineConfig {
        shards: SHARDS,
        port: Some(PORT),
        service: Rc::new(move |_, _| router(&seen)),
        ..EngineConfig::default()
    })
}

fn start_clients(world: &mut World, seen: &Rc<Seen>, servers: &[Engine]) {
    let seen = seen.clone();
    let addresses: Vec<_> =
        servers.iter().map(|server| server.address().expect("it listens")).collect();
    seen.callers.set(CALLERS);
    world.start_engine(EngineConfig {
        service: Rc::new(move |local, _| {
            for _ in 0..CALLERS {
                let work = caller(seen.clone(), addresses.clone(), local.clone());
                local.spawn(work).detach();
            }
            Router::new()
        }),
        ..EngineConfig::default()
    });
}

/// What may go wrong without a connection being lost.
fn faults() -> FaultMix {
    FaultMix {
        lasts: Span::millis(1, 300),
        weights: FaultWeights {
            pause: 3,
            cut: 2,
            partition: 2,
            slow_link: 3,
            skew_clock: 1,
            ..FaultWeights::NONE
        },
        ..FaultMix::default()
    }
}

/// Calls answered, calls refused for good, calls made again, and servers drained.
fn simulate(world: &mut World) -> [u64; 4] {
    let seen = Rc::<Seen>::default();
    let servers: Vec<Engine> = (0..SERVERS).map(|_| start_server(world, &seen)).collect();
    world.run_for(Duration::from_millis(10));
    start_clients(world, &seen, &servers);
    let plan = world.draw_plan(Duration::from_secs(2), &faults());
    world.schedule(&plan);
    let mut drained = 0;
    for round in 0..8 {
        world.run_for(Duration::from_millis(20 + 60 * (world.seed() % 3)));
        let server = &servers[round % SERVERS];
        server.drain();
        world.note("drain");
        let ended = |world: &World| !world.is_running(server.host());
        assert!(world.run_until(Duration::from_secs(100), ended), "a server does not end");
        world.inject(Fault::Restart { host: server.host() });
        drained += 1;
    }
    world.heal_all();
    let before = seen.answered.get();
    let progress = |_: &World| seen.answered.get() > before + 100;
    assert!(world.run_until(Duration::from_secs(60), progress), "no answers after the faults");
    seen.stop.set(true);
    let over = |_: &World| seen.callers.get() == 0;
    assert!(world.run_until(Duration::from_secs(60), over), "a call does not end");
    assert!(seen.wrong.borrow().is_empty(), "{:#?}", seen.wrong.borrow());
    [seen.answered.get(), seen.refused.get(), seen.repeated.get(), drained]
}

#[test]
fn a_drain_loses_no_accepted_request() {
    let mut sums = [0; 4];
    let coverage = each_seed(COMMAND, 0..100, &WorldConfig::default(), |world| {
        let came_to = simulate(world);
        sums.iter_mut().zip(came_to).for_each(|(sum, count)| *sum += count);
        came_to
    });
    let [answered, refused, repeated, drained] = sums;
    println!("{answered} answered, {refused} refused, {repeated} repeated while {drained} drained");
    assert_eq!(refused, 0, "a client gives up, though the next server would have taken it");
    assert!(repeated > 100, "drains that nobody notices: {repeated} repeated");
    coverage.require(&[
        EventKind::HostExited,
        EventKind::HostPaused,
        EventKind::LinkCut,
        EventKind::LinkSlowed,
        EventKind::PathStalled,
    ]);
}
