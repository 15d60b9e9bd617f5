//! Clients of the engine against servers that do not do their part, and servers against such
//! clients: what nobody answers ends in time, and nothing turns in circles.

use crate::COMMAND;
use catena_engine::driver::{Completion, Driver, Output, SendState, SocketId};
use catena_engine::shard_index::ShardIndex;
use catena_engine::sim::{
    Boot, Engine, EngineConfig, Next, Process, SimDriver, World, WorldConfig, each_seed,
};
use catena_engine::time::Duration;
use catena_engine::wire::frame::{GoAwayReason, control};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::header::{Header, Kind};
use catena_engine::wire::hello::{Hello, ShardMap, VERSION_MAX, VERSION_MIN};
use catena_engine::{CallError, Client, ClientConfig, Local, MethodId, Router};
use futures_util::future::{join, join_all};
use std::cell::Cell;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

const PORT: u16 = 7_000;
const ECHO: MethodId = MethodId::of("echo");
const PANIC: MethodId = MethodId::of("panic");
/// In which a test's calls end; far below the second and more for which its servers say nothing.
const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(1_000);

fn each_world(seeds: u64, test: impl Fn(&mut World)) {
    each_seed(COMMAND, 0..seeds, &WorldConfig::default(), test);
}

/// Runs a client to its end, on an engine of its own.
fn run<T, F>(world: &mut World, on: &Engine, make: impl FnOnce(Local) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let handle = on.handle();
    let mut work = pin!(handle.run(ShardIndex(0), make));
    let mut outcome = None;
    world.run_until(LONG, |_| {
        if let Poll::Ready(ended) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            outcome = Some(ended);
        }
        outcome.is_some()
    });
    outcome.expect("it ends").expect("the shard lives on")
}

fn frame(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut output = Output::default();
    Framer::default().push(&mut output, header, &[], Payload::Copied(payload));
    output.to_vec()
}

fn hello(in_flight_max: u32) -> Vec<u8> {
    let hello = Hello {
        version_max: VERSION_MAX,
        version_min: VERSION_MIN,
        frame_bytes_max: 1 << 20,
        in_flight_max,
        payload_crc: false,
        idle_timeout_ms: 0,
        shards: ShardMap::default(),
    };
    frame(hello.header(), &hello.encode_body())
}

/// Listens, says the same to everybody, and hears nothing, or hangs up at the first word.
#[derive(Clone)]
struct Says {
    words: Vec<u8>,
    hangs_up: bool,
    accepted: Rc<Cell<u64>>,
}

/// Who says `words` to everybody who connects, where, and to how many that has been so far.
fn says(world: &mut World, words: Vec<u8>, hangs_up: bool) -> (SocketAddr, Rc<Cell<u64>>) {
    let accepted = Rc::<Cell<u64>>::default();
    let server = Says { words, hangs_up, accepted: accepted.clone() };
    let address = Rc::<Cell<Option<SocketAddr>>>::default();
    let bound = address.clone();
    world.start_host(1, move |boot: Boot<'_>| {
        let at = SocketAddr::new(boot.host.ip(), PORT);
        boot.drivers[0].listen(at).expect("nobody else has the port");
        bound.set(Some(at));
        vec![Box::new(server.clone()) as Box<dyn Process>]
    });
    (address.get().expect("hosts start at once"), accepted)
}

impl Process for Says {
    fn turn(&mut self, driver: &mut SimDriver) -> Next {
        while let Some(completion) = driver.next_completion() {
            match completion {
                Completion::Accepted { socket, .. } => {
                    self.accepted.update(|accepted| accepted + 1);
                    if !self.words.is_empty() {
                        send(driver, socket, &self.words);
                    }
                }
                Completion::Received { socket, chunk } => {
                    driver.give_back(chunk);
                    if self.hangs_up {
                        driver.close(socket);
                    }
                }
                Completion::ReceiveEnded { socket, .. } => driver.close(socket),
                _ => {}
            }
        }
        Next { until: None, busy: false, stopped: false }
    }
}

fn send(driver: &mut SimDriver, socket: SocketId, bytes: &[u8]) {
    let mut output = Output::default();
    output.copied_mut().extend_from_slice(bytes);
    match driver.send(socket, output) {
        SendState::Done(_) | SendState::InFlight => {}
    }
}

/// A call of `method` without a deadline that goes on beside the test, to whatever end.
fn call_beside(local: &Local, client: &Client, method: MethodId) {
    let call = client.call(method, b"").into_future();
    local.spawn(async move { drop(call.await) }).detach();
}

#[test]
fn a_call_ends_at_its_deadline_while_another_connects() {
    each_world(4, |world| {
        let (address, _) = says(world, Vec::new(), false);
        let engine = world.start_engine(EngineConfig::default());
        let (came, took) = run(world, &engine, move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            call_beside(&local, &client, ECHO);
            local.sleep(Duration::from_millis(5)).await;
            let began_at = local.now();
            let came = client.call(ECHO, b"").timeout(SHORT).await;
            (came.map(drop), local.now().since(began_at))
        });
        assert_eq!(came, Err(CallError::ExpiredUnsent));
        assert!(took < SHORT * 2, "{took:?}");
    });
}

#[test]
fn a_call_ends_at_its_deadline_while_its_client_backs_off() {
    each_world(4, |world| {
        let nobody = SocketAddr::new(world.bare_host(1)[0].at().host.ip(), PORT);
        let engine = world.start_engine(EngineConfig::default());
        let (came, took) = run(world, &engine, move |local| async move {
            let pause = Duration::from_secs(100);
            let config =
                ClientConfig { backoff_min: pause, backoff_max: pause, ..ClientConfig::default() };
            let client = Client::new(&local, nobody, config);
            let refused = client.call(ECHO, b"").await;
            assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
            let began_at = local.now();
            let came = client.call(ECHO, b"").timeout(SHORT).await;
            (came.map(drop), local.now().since(began_at))
        });
        assert_eq!(came, Err(CallError::ExpiredUnsent));
        assert!(took < SHORT * 2, "{took:?}");
    });
}

#[test]
fn calls_that_have_ended_do_not_count_as_waiting() {
    each_world(4, |world| {
        // A window of one, and no answers.
        let (address, _) = says(world, hello(1), false);
        let engine = world.start_engine(EngineConfig::default());
        let came = run(world, &engine, move |local| async move {
            let config = ClientConfig { waiting_max: 8, ..ClientConfig::default() };
            let client = Client::new(&local, address, config);
            // One that is in flight, and one that waits ahead of all that follow.
            call_beside(&local, &client, ECHO);
            call_beside(&local, &client, ECHO);
            local.sleep(SHORT).await;
            let mut came = Vec::new();
            for _ in 0..20 {
                let expiring = client.call(ECHO, b"").timeout(SHORT).into_future();
                let dropped = client.call(ECHO, b"").into_future();
                let (expired, ()) = join(expiring, async {
                    local.sleep(Duration::from_millis(1)).await;
                    drop(dropped);
                })
                .await;
                came.push(expired.map(drop));
            }
            // Those that do wait count, whatever else has ended among them.
            let waiting = (0..20).map(|_| client.call(ECHO, b"").timeout(SHORT).into_future());
            let ended = join_all(waiting).await;
            let is_refused = |end: &&Result<_, _>| matches!(end, Err(CallError::TooManyWaiting));
            (came, ended.iter().filter(is_refused).count())
        });
        let (came, refused) = came;
        assert_eq!(came, vec![Err(CallError::ExpiredUnsent); 20]);
        assert_eq!(refused, 13, "eight wait, one of them from the beginning");
    });
}

/// Takes connections, serves none, and has many callers.
fn connections_in_ten_seconds(world: &mut World, words: Vec<u8>, hangs_up: bool) -> u64 {
    let (address, accepted) = says(world, words, hangs_up);
    let engine = world.start_engine(EngineConfig::default());
    let answered = run(world, &engine, move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let timeout = Duration::from_secs(10);
        let calls = (0..1_000).map(|_| client.call(ECHO, b"").timeout(timeout).into_future());
        join_all(calls).await.iter().filter(|came| came.is_ok()).count()
    });
    assert_eq!(answered, 0);
    accepted.get()
}

// 20 ms, 40, 80 … 2 s: a dozen attempts in 10 s.
#[test]
fn a_server_that_always_hangs_up_is_not_stormed() {
    each_world(4, |world| {
        let count = connections_in_ten_seconds(world, hello(1), true);
        assert!((3..20).contains(&count), "{count} connections");
    });
}

#[test]
fn a_server_that_always_leaves_is_not_stormed() {
    each_world(4, |world| {
        let mut words = hello(1);
        words.extend(frame(control(Kind::GoAway, GoAwayReason::DRAINING.0, 0), b"not now"));
        let count = connections_in_ten_seconds(world, words, false);
        assert!((3..20).contains(&count), "{count} connections");
    });
}

#[test]
fn a_stranger_that_was_sent_away_keeps_no_shard_busy() {
    each_world(4, |world| {
        let server = world.start_engine(EngineConfig { port: Some(PORT), ..Default::default() });
        let address = server.address().expect("it serves");
        let mut stranger = world.bare_host(1).remove(0);
        let socket = stranger.connect(address).expect("a socket is to be had");
        world.run_for(Duration::from_millis(10));
        while stranger.poll().is_ok_and(|something| something) {
            while let Some(completion) = stranger.next_completion() {
                if let Completion::Received { chunk, .. } = completion {
                    stranger.give_back(chunk);
                }
            }
        }
        send(&mut stranger, socket, &[7; 5_000]);
        let turns = || server.inspect(ShardIndex(0), |shard| shard.metrics().turns.value());
        let before = turns().expect("it runs");
        world.run_for(Duration::from_millis(500));
        let taken = turns().expect("it runs") - before;
        assert!((1..50).contains(&taken), "{taken} turns for one stranger");
    });
}

#[test]
fn the_deadline_of_a_request_does_not_outlive_a_panic() {
    each_world(1, |world| {
        let server = world.start_engine(EngineConfig {
            port: Some(PORT),
            service: Rc::new(|_, _| {
                Router::new().method("panic", |_, _| panic!("as the test wants it"))
            }),
            ..EngineConfig::default()
        });
        let address = server.address().expect("it serves");
        let engine = world.start_engine(EngineConfig::default());
        let came = run(world, &engine, move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            client.call(PANIC, b"").timeout(LONG).await.map(drop)
        });
        assert!(matches!(came, Err(CallError::Status { .. })), "{came:?}");
        let deadline = run(world, &server, |local| async move { local.deadline() });
        assert_eq!(deadline, None, "of a request that is over");
    });
}
