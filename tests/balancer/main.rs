//! One balanced client over several servers, in the simulator: engine, client and balancer unchanged, the
//! network, the clock and the faults simulated. And the balancer alone, against what must always hold.

mod model;

mod metrics;

use catena_balancer::client::{Balanced, BalancedConfig};
use catena_balancer::discovery::{Endpoints, Resolved};
use catena_balancer::evidence::SharedEvidence;
use catena_balancer::health::{Cause, HealthConfig, Standing};
use catena_balancer::policy::by_name;
use catena_engine::sim::{Crash, Engine, EngineConfig, Fault, World, WorldConfig, each_seed};
use catena_engine::time::Duration;
use catena_engine::{Local, MethodId, Router};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const COMMAND: &str = "cargo test --test balancer";
const PORT: u16 = 7_000;
const WORK: MethodId = MethodId::of("work");
const SERVERS: usize = 4;
const CALLERS: usize = 8;
/// Callers pause for so long between calls at most: some four calls are under way at any time, so that
/// shares mean something.
const THINK_MICROS_MAX: u64 = 2_000;

/// What came of the calls, and the client itself, to look at.
#[derive(Default)]
struct Seen {
    executed: RefCell<Vec<u64>>,
    answered: Cell<u64>,
    failed: RefCell<Vec<String>>,
    slowest: Cell<Duration>,
    stop: Cell<bool>,
    callers: Cell<usize>,
    client: RefCell<Option<Balanced>>,
}

/// A server that needs about a millisecond for each request.
fn start_server(world: &mut World, seen: &Rc<Seen>, number: usize) -> Engine {
    let seen = seen.clone();
    world.start_engine(EngineConfig {
        port: Some(PORT),
        service: Rc::new(move |_, _| {
            let seen = seen.clone();
            Router::new().method_async("work", move |request| {
                seen.executed.borrow_mut()[number] += 1;
                async move {
                    let work = Duration::from_micros(500 + request.local.random() % 1_000);
                    request.local.sleep(work).await;
                    Ok(request.payload)
                }
            })
        }),
        ..EngineConfig::default()
    })
}

/// How a scenario's client behaves.
#[derive(Clone)]
struct Behaviour {
    policy: &'static str,
    is_idempotent: bool,
    callers: usize,
    config: BalancedConfig,
}

impl Default for Behaviour {
    fn default() -> Self {
        let mut config = BalancedConfig::default();
        // A day's course in seconds: shorter pauses before trials than where machines really restart.
        config.balancer.health = HealthConfig {
            pause_min: Duration::from_millis(200),
            pause_max: Duration::from_secs(1),
            slow_start_answers: 50,
            ..config.balancer.health
        };
        Behaviour { policy: "hist", is_idempotent: true, callers: CALLERS, config }
    }
}

async fn caller(seen: Rc<Seen>, client: Balanced, local: Local, is_idempotent: bool) {
    while !seen.stop.get() {
        let began = local.now();
        let call = client.call(WORK, local.random().to_le_bytes().to_vec());
        let call = call.timeout(Duration::from_secs(2));
        let result = if is_idempotent { call.idempotent().await } else { call.await };
        match result {
            Ok(_) => seen.answered.set(seen.answered.get() + 1),
            Err(error) => seen.failed.borrow_mut().push(error.to_string()),
        }
        seen.slowest.set(seen.slowest.get().max(local.now().since(began)));
        local.sleep(Duration::from_micros(local.random() % THINK_MICROS_MAX)).await;
    }
    seen.callers.set(seen.callers.get() - 1);
}

struct Scene<'w> {
    world: &'w mut World,
    seen: Rc<Seen>,
    servers: Vec<Engine>,
    endpoints: Endpoints,
}

impl<'w> Scene<'w> {
    /// Servers, and a client that calls them, warmed up.
    fn set(world: &'w mut World, behaviour: Behaviour) -> Self {
        let seen = Rc::<Seen>::default();
        seen.executed.borrow_mut().resize(SERVERS, 0);
        let servers: Vec<Engine> =
            (0..SERVERS).map(|number| start_server(world, &seen, number)).collect();
        world.run_for(Duration::from_millis(10));
        let addresses = servers.iter().map(|server| server.address().expect("it listens"));
        let endpoints = Endpoints::fixed(addresses.map(Resolved::from)).expect("there are some");
        let (on_client, watched) = (seen.clone(), endpoints.clone());
        let callers = behaviour.callers;
        seen.callers.set(callers);
        world.start_engine(EngineConfig {
            service: Rc::new(move |local, _| {
                let Behaviour { policy, is_idempotent, config, .. } = behaviour.clone();
                let policy = by_name(policy).expect("there is such a policy");
                let evidence = SharedEvidence::new(1);
                let client = Balanced::new(local, config, policy, watched.clone(), evidence);
                on_client.client.replace(Some(client.clone()));
                for _ in 0..callers {
                    let (seen, client) = (on_client.clone(), client.clone());
                    local.spawn(caller(seen, client, local.clone(), is_idempotent)).detach();
                }
                Router::new()
            }),
            ..EngineConfig::default()
        });
        world.run_for(Duration::from_secs(1));
        assert!(
            seen.answered.get() > 100 * callers as u64 || callers == 0,
            "{} answers at the start",
            seen.answered.get()
        );
        assert!(seen.failed.borrow().is_empty(), "{:?}", seen.failed.borrow());
        seen.slowest.set(Duration::ZERO);
        Scene { world, seen, servers, endpoints }
    }

    /// The share of the calls of the next `time` that each server executes.
    fn shares_over(&mut self, time: Duration) -> Vec<f64> {
        self.seen.executed.borrow_mut().fill(0);
        self.world.run_for(time);
        let executed = self.seen.executed.borrow();
        let all: u64 = executed.iter().sum();
        executed.iter().map(|&count| count as f64 / all as f64).collect()
    }

    fn standing_of(&self, number: usize) -> Option<Standing> {
        let client = self.seen.client.borrow();
        let balancer = client.as_ref().expect("it has started").balancer();
        let name = self.servers[number].address().expect("it listens").to_string();
        let found = balancer.endpoints().find(|(_, endpoint)| *endpoint.name == *name);
        balancer.standing(found?.0)
    }

    /// Ends the calls: none is forgotten.
    fn end(self) {
        self.seen.stop.set(true);
        let seen = self.seen.clone();
        let over = move |_: &World| seen.callers.get() == 0;
        assert!(self.world.run_until(Duration::from_secs(60), over), "a call does not end");
        let client = self.seen.client.take().expect("it has started");
        let balancer = client.balancer();
        let in_flight = balancer.endpoints().map(|(slot, _)| balancer.signal(slot).in_flight);
        let in_flight: u32 = in_flight.sum();
        assert_eq!(in_flight, 0, "a call ended and was not taken off its endpoint");
    }
}

fn each_world(seeds: u64, test: impl Fn(&mut World)) {
    each_seed(COMMAND, 0..seeds, &WorldConfig::default(), |world| test(world));
}

#[test]
fn equal_servers_get_equal_shares_whatever_the_policy() {
    for policy in ["random", "rr", "wrr", "ll", "ewma", "c3", "prequal-piggyback", "hist"] {
        each_world(2, |world| {
            let mut scene = Scene::set(world, Behaviour { policy, ..Behaviour::default() });
            let shares = scene.shares_over(Duration::from_secs(2));
            let even = shares.iter().all(|share| (0.05..0.6).contains(share));
            assert!(even, "{policy}: {shares:?}");
            scene.end();
        });
    }
}

#[test]
fn a_server_that_stands_still_is_passed_over_and_comes_back() {
    each_world(3, |world| {
        let mut scene = Scene::set(world, Behaviour::default());
        let host = scene.servers[1].host();
        scene.world.inject(Fault::Pause { host, lasts: Duration::from_secs(3) });
        scene.world.run_for(Duration::from_millis(500));
        let shares = scene.shares_over(Duration::from_secs(2));
        assert_eq!(shares[1], 0.0, "it stands still");
        scene.world.run_for(Duration::from_secs(3));
        let shares = scene.shares_over(Duration::from_secs(2));
        assert!(shares[1] > 0.02, "it is back: {shares:?}");
        assert!(scene.seen.failed.borrow().is_empty(), "{:?}", scene.seen.failed.borrow());
        scene.end();
    });
}

/// Three heartbeats, and what the network and the ticks add.
const SILENCE_MAX: Duration = Duration::from_millis(1_600);

fn is_out(standing: Option<Standing>) -> bool {
    matches!(standing, Some(Standing::Ejected { .. } | Standing::Trial))
}

#[test]
fn who_stands_still_is_noticed_though_nobody_calls() {
    each_world(3, |world| {
        let scene = Scene::set(world, Behaviour { callers: 0, ..Behaviour::default() });
        scene.world.run_for(Duration::from_secs(3));
        assert!((0..SERVERS).all(|number| scene.standing_of(number) == Some(Standing::Live)));
        let host = scene.servers[1].host();
        scene.world.inject(Fault::Pause { host, lasts: Duration::from_secs(4) });
        scene.world.run_for(SILENCE_MAX);
        let standing = scene.standing_of(1);
        let is_silent = matches!(standing, Some(Standing::Ejected { cause: Cause::Silent, .. }));
        assert!(is_silent, "{standing:?}");
        let others = [0, 2, 3].map(|number| scene.standing_of(number));
        assert_eq!(others, [Some(Standing::Live); 3]);
        scene.end();
    });
}

/// Not one call is lost to it: neither is one sent there to see whether it is back before it is.
#[test]
fn calls_that_may_run_once_only_lose_no_more_than_was_under_way() {
    each_world(3, |world| {
        let mut once = Behaviour { is_idempotent: false, ..Behaviour::default() };
        once.config.balancer.health.pause_min = Duration::from_millis(100);
        let mut scene = Scene::set(world, once);
        let host = scene.servers[1].host();
        scene.world.inject(Fault::Pause { host, lasts: Duration::from_secs(8) });
        scene.world.run_for(SILENCE_MAX);
        assert!(is_out(scene.standing_of(1)), "{:?}", scene.standing_of(1));
        // What was under way has ended.
        scene.world.run_for(Duration::from_secs(3));
        let failed = scene.seen.failed.borrow().len();
        assert!(failed <= CALLERS, "{failed} failed");
        scene.world.run_for(Duration::from_secs(3));
        assert_eq!(scene.seen.failed.borrow().len(), failed, "a trial was made in vain");
        scene.world.run_for(Duration::from_secs(4));
        let shares = scene.shares_over(Duration::from_secs(2));
        assert!(shares[1] > 0.02, "it is back: {shares:?}");
        scene.end();
    });
}

/// Without answers to tell it, the policy asks: of endpoints that it has not heard from.
#[test]
fn a_policy_that_wants_probes_gets_them() {
    each_world(2, |world| {
        let behaviour = Behaviour { policy: "prequal", ..Behaviour::default() };
        let scene = Scene::set(world, behaviour);
        let client = scene.seen.client.borrow().clone().expect("it has started");
        let told = |balancer: &catena_balancer::balancer::Balancer| {
            balancer.endpoints().all(|(_, endpoint)| endpoint.reported.is_some())
        };
        assert!(told(&client.balancer()));
        drop(client);
        scene.end();
    });
}

#[test]
fn idempotent_calls_survive_a_crash() {
    each_world(3, |world| {
        let mut scene = Scene::set(world, Behaviour::default());
        let host = scene.servers[2].host();
        scene.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
        let shares = scene.shares_over(Duration::from_secs(1));
        assert!(shares[2] < 0.01, "{shares:?}");
        scene.world.inject(Fault::Restart { host });
        scene.world.run_for(Duration::from_secs(4));
        let shares = scene.shares_over(Duration::from_secs(2));
        assert!(shares[2] > 0.02, "it is back: {shares:?}");
        assert!(scene.seen.failed.borrow().is_empty(), "{:?}", scene.seen.failed.borrow());
        scene.end();
    });
}

#[test]
fn a_rolling_restart_goes_unnoticed_even_by_calls_that_may_run_once_only() {
    each_world(3, |world| {
        let once = Behaviour { is_idempotent: false, ..Behaviour::default() };
        let scene = Scene::set(world, once);
        for server in &scene.servers {
            server.drain();
            let ended = |world: &World| !world.is_running(server.host());
            assert!(scene.world.run_until(Duration::from_secs(30), ended), "it does not end");
            scene.world.inject(Fault::Restart { host: server.host() });
            scene.world.run_for(Duration::from_secs(4));
        }
        assert!(scene.seen.failed.borrow().is_empty(), "{:?}", scene.seen.failed.borrow());
        scene.end();
    });
}

#[test]
fn an_endpoint_that_leaves_gets_nothing_new_and_ends_what_it_has() {
    each_world(3, |world| {
        let mut scene = Scene::set(world, Behaviour::default());
        let staying = scene.servers[1..].iter().map(|server| server.address().expect("it listens"));
        scene.endpoints.replace(staying.map(Resolved::from)).expect("some stay");
        scene.world.run_for(Duration::from_millis(100));
        let shares = scene.shares_over(Duration::from_secs(2));
        assert_eq!(shares[0], 0.0);
        assert_eq!(scene.standing_of(0), None);
        assert!(scene.seen.failed.borrow().is_empty(), "{:?}", scene.seen.failed.borrow());
        let all = scene.servers.iter().map(|server| server.address().expect("it listens"));
        scene.endpoints.replace(all.map(Resolved::from)).expect("there are some");
        scene.world.run_for(Duration::from_secs(1));
        let shares = scene.shares_over(Duration::from_secs(2));
        assert!(shares[0] > 0.02, "it is back: {shares:?}");
        scene.end();
    });
}

#[test]
fn slow_ways_to_a_server_eject_it_by_latency() {
    each_world(3, |world| {
        let mut behaviour = Behaviour::default();
        // Long pauses: so it is out whenever one looks.
        behaviour.config.balancer.health = HealthConfig::default();
        let mut scene = Scene::set(world, behaviour);
        let to = scene.servers[3].host();
        let from = catena_engine::sim::HostId(SERVERS as u32);
        let latency = catena_engine::sim::Span::millis(40, 50);
        let lasts = Duration::from_secs(60);
        scene.world.inject(Fault::SlowLink { from, to, latency, lasts });
        scene.world.run_for(Duration::from_secs(2));
        let shares = scene.shares_over(Duration::from_secs(5));
        assert!(shares[3] < 0.02, "{shares:?}");
        let standing = scene.standing_of(3);
        assert!(is_out(standing), "{standing:?}");
        scene.end();
    });
}

/// A call that could not be sent loads nobody. So it costs no budget, and goes on to the endpoint that
/// is connected, however many are not: fewer than half are ejected, and the others are picked for ever.
#[test]
fn whoever_is_connected_answers_though_most_are_down() {
    for policy in ["hist", "ll", "ewma", "rr", "prequal-piggyback"] {
        each_world(1, |world| {
            let behaviour = Behaviour { policy, is_idempotent: false, ..Behaviour::default() };
            let scene = Scene::set(world, behaviour);
            for server in &scene.servers[1..] {
                let host = server.host();
                scene.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
            }
            // What was in hand is lost, and the clients notice.
            scene.world.run_for(Duration::from_secs(2));
            scene.seen.failed.borrow_mut().clear();
            scene.seen.answered.set(0);
            scene.world.run_for(Duration::from_secs(3));
            let (failed, answered) = (scene.seen.failed.borrow().len(), scene.seen.answered.get());
            assert_eq!(failed, 0, "{policy}: {failed} failed, {answered} were answered");
            scene.end();
        });
    }
}

/// Nobody can be reached: each call says so after a look at each, and costs the budget nothing.
#[test]
fn where_nobody_can_be_reached_a_call_looks_at_each_once() {
    for policy in ["hist", "ll", "rr"] {
        each_world(2, |world| {
            let behaviour = Behaviour { policy, is_idempotent: false, ..Behaviour::default() };
            let scene = Scene::set(world, behaviour);
            let unreachable = |scene: &Scene<'_>| {
                let metrics = scene.metrics();
                metrics.endpoints.iter().map(|it| it.tally.errors_unreachable).sum::<u64>()
            };
            for server in &scene.servers {
                let host = server.host();
                scene.world.inject(Fault::Crash { host, how: Crash::Kill, down_for: None });
            }
            scene.world.run_for(Duration::from_secs(2));
            scene.seen.failed.borrow_mut().clear();
            let before = unreachable(&scene);
            scene.world.run_for(Duration::from_secs(1));
            let looks = unreachable(&scene) - before;
            let failed = scene.seen.failed.borrow().len() as u64;
            // The metrics are up to a tick old.
            let bound = (failed + failed / 10 + 1) * SERVERS as u64;
            assert!(failed > 100 && looks <= bound, "{policy}: {looks} looks for {failed} calls");
            scene.end();
        });
    }
}
