//! A request in steady state allocates nothing: counted, on both kernel drivers.
//!
//! The shard runs by hand on the test's own thread, whose allocations are counted; the client has a
//! thread of its own. Its requests are pipelined, and cut at odd places, so that frames straddle
//! receives.

use catena_balancer::discovery::Endpoints;
use catena_balancer::policy::by_name;
use catena_balancer::proxy::{self, ProxyConfig, Shared};
use catena_engine::driver::Driver;
use catena_engine::mailbox::mesh;
use catena_engine::reactor::epoll::{EpollConfig, EpollDriver};
use catena_engine::reactor::uring::{UringConfig, UringDriver, UringError};
use catena_engine::rpc::connection::{Connection, Role};
use catena_engine::shard::{Shard, ShardConfig};
use catena_engine::time::{Duration, Instant};
use catena_engine::wire::frame::{CallId, MethodId, Priority, RequestHead, Route};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::hello::ShardMap;
use catena_engine::wire::output::Output;
use catena_engine::{Cores, Local, Router, Server, Status};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

mod balanced;
mod native;
mod resp;
mod tick;

const DEPTH: u32 = 16;
const WARM_UP: u64 = 20_000;
const COUNTED: u64 = 20_000;
const WINDOWS: u64 = 5;
const PAYLOAD: [u8; 32] = [7; 32];

#[test]
fn nothing_is_allocated_on_epoll() {
    let driver = EpollDriver::new(&EpollConfig::default()).expect("epoll is there");
    let counted = count(driver, |request, reply| reply.ok(request.payload()));
    assert_eq!(counted, 0, "allocations in {COUNTED} requests");
}

#[test]
fn nothing_is_allocated_on_uring() {
    match UringDriver::new(&UringConfig::default()) {
        Ok(driver) => {
            let counted = count(driver, |request, reply| reply.ok(request.payload()));
            assert_eq!(counted, 0, "allocations in {COUNTED} requests");
        }
        Err(error @ UringError::Refused { .. }) => println!("skipped: {error}"),
        Err(error) => panic!("io_uring is not refused, and yet: {error}"),
    }
}

#[test]
fn an_answer_written_in_place_allocates_nothing() {
    let driver = EpollDriver::new(&EpollConfig::default()).expect("epoll is there");
    let counted = count(driver, |request, reply| {
        reply.write(|out| {
            out.extend(request.payload());
            Status::OK
        })
    });
    assert_eq!(counted, 0, "allocations in {COUNTED} requests");
}

/// A request that a proxy passes on, and its answer. What there is comes with the balancer's tick, 50
/// times a second whatever the load.
#[test]
fn a_request_passed_on_allocates_nothing() {
    const OF_TICKS_MAX: u64 = COUNTED / 20;
    let driver = EpollDriver::new(&EpollConfig::default()).expect("epoll is there");
    let counted = count_passed_on(driver);
    assert!(counted <= OF_TICKS_MAX, "epoll: {counted} allocations in {COUNTED} requests");
    match UringDriver::new(&UringConfig::default()) {
        Ok(driver) => {
            let counted = count_passed_on(driver);
            assert!(counted <= OF_TICKS_MAX, "uring: {counted} allocations in {COUNTED} requests");
        }
        Err(error @ UringError::Refused { .. }) => println!("skipped: {error}"),
        Err(error) => panic!("io_uring is not refused, and yet: {error}"),
    }
}

/// Allocations of a proxy's shard before a server of its own.
fn count_passed_on<D: Driver>(driver: D) -> u64 {
    let server = Server::builder()
        .listen("127.0.0.1:0".parse().expect("an address"))
        .cores(Cores::Unpinned(1))
        .service(|_| Router::new().method("echo", |request, reply| reply.ok(request.payload())))
        .start()
        .expect("loopback can be listened on");
    let address = server.address().expect("it listens");
    let router = |local: &Local| {
        let endpoints = Endpoints::fixed([address.into()]).expect("there is one");
        let policy = by_name("hist").expect("it is known");
        proxy::router(local, ProxyConfig::default(), policy, Shared::new(endpoints, 1))
    };
    let counted = count_with(driver, router, ask);
    server.stop().expect("no shard failed");
    counted
}

/// The counter can count: a handler that keeps its payload allocates for each request.
#[test]
fn a_kept_payload_is_counted() {
    let driver = EpollDriver::new(&EpollConfig::default()).expect("epoll is there");
    let counted = count(driver, |request, reply| reply.ok(request.to_payload_bytes()));
    assert!(counted >= COUNTED, "{counted} allocations in {COUNTED} requests");
}

/// Allocations of the shard's thread while it serves [`COUNTED`] requests, in steady state: the fewest
/// of a few such windows after a warm-up. Memory that is kept grows to what was ever needed at once, and
/// on a busy machine a coincidence may need more late; what allocates by the request does so in all.
fn count<D: Driver>(
    driver: D,
    handler: impl FnMut(catena_engine::Request<'_>, catena_engine::Reply<'_>) -> catena_engine::Answered
    + 'static,
) -> u64 {
    count_with(driver, |_| Router::new().method("echo", handler), ask)
}

/// As [`count`], of a shard with these handlers, and this client on a thread of its own.
fn count_with<D: Driver>(
    mut driver: D,
    router: impl FnOnce(&Local) -> Router,
    client: fn(SocketAddr),
) -> u64 {
    let config = ShardConfig::default();
    let mailboxes = mesh(1, 64).pop().expect("one shard");
    let mut shard = Shard::new(config, &driver, mailboxes, Arc::default(), router);
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let address = shard.listen(&mut driver, any_port).expect("loopback can be listened on");
    let client = std::thread::spawn(move || client(address));
    serve(&mut shard, &mut driver, WARM_UP);
    let windows = (1..=WINDOWS).map(|window| {
        let served = WARM_UP + window * COUNTED;
        allocation_counter::measure(|| serve(&mut shard, &mut driver, served)).count_total
    });
    let counted = windows.min().expect("there are windows");
    drop(shard);
    drop(driver);
    client.join().expect("the client ends when its server does");
    counted
}

/// Turns until so many requests have been served since start.
fn serve<D: Driver>(shard: &mut Shard, driver: &mut D, until: u64) {
    let metrics = shard.metrics();
    while metrics.requests.value() < until {
        let next = shard.turn(driver);
        match next.busy {
            true => drop(driver.poll().expect("the driver works")),
            false => {
                let soon = driver.now() + Duration::from_millis(100);
                driver
                    .park(Some(next.until.map_or(soon, |until| until.min(soon))))
                    .expect("it parks");
            }
        }
    }
}

/// Keeps [`DEPTH`] requests in flight until its server is gone.
fn ask(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).expect("the shard listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut hello =
        Connection::new(Role::Client, Arc::default(), &ShardMap::default(), Instant::ZERO);
    let hello = hello.poll_transmit().expect("a client begins with its hello").to_vec();
    let requests = requests();
    let (first, second) = requests.split_at(requests.len() / 2 + 13);
    let mut answers = vec![0u8; requests.len()];
    let mut greet = || -> std::io::Result<()> {
        stream.write_all(&hello)?;
        let mut header = [0u8; 32];
        stream.read_exact(&mut header)?;
        let frame_bytes = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        stream.read_exact(&mut vec![0u8; frame_bytes as usize - header.len()])?;
        loop {
            stream.write_all(first)?;
            stream.write_all(second)?;
            stream.read_exact(&mut answers)?;
        }
    };
    // Ends with an error when the server is gone, as it must.
    drop(greet());
}

fn requests() -> Vec<u8> {
    let mut output = Output::default();
    for slot in 0..DEPTH {
        let head = RequestHead {
            call: CallId::new(slot, 1),
            method: MethodId::of("echo"),
            priority: Priority::NORMAL,
            time_left_us: 1_000_000,
            route: Route::ANY,
            repeat: false,
            hops: 0,
        };
        Framer::default().push(&mut output, head.header(), &[], Payload::Copied(&PAYLOAD));
    }
    output.to_vec()
}
