//! Reads and numbered writes of the store, over the native protocol, of a store in memory.

use crate::{DEPTH, count_with};
use catena_engine::driver::Driver;
use catena_engine::reactor::epoll::{EpollConfig, EpollDriver};
use catena_engine::rpc::connection::{Connection, Role};
use catena_engine::time::Instant;
use catena_engine::wire::frame::{CallId, MethodId, Priority, RequestHead, Route};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::hello::ShardMap;
use catena_engine::wire::output::Output;
use catena_engine::{Local, Router};
use catena_kv::effect::SessionId;
use catena_kv::evict::Eviction;
use catena_kv::native::Native;
use catena_kv::native::wire::{self, Action, Change, Condition, Expiry, Write as WriteRequest};
use catena_kv::session::Numbered;
use catena_kv::slot::{Partition, Partitions, Slot};
use catena_kv::store::{Store, StoreConfig};
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;

const KEY: &[u8] = b"key";

fn router(local: &Local) -> Router {
    let store = Store::in_memory(StoreConfig {
        partitions: Partitions::default(),
        shard: local.shard(),
        shards: local.shard_count(),
        hash_seed: 7,
        epoch: 1,
        value_bytes_max: 1 << 20,
        memory_bytes_max: 1 << 30,
        eviction: Eviction::None,
    });
    let (store, serving) = (Rc::new(RefCell::new(store)), Rc::new(Cell::new(true)));
    Native::new(local, Arc::default(), store, Arc::new(|| 1), serving).route(Router::new())
}

#[test]
fn reads_and_numbered_writes_allocate_nothing() {
    let driver = EpollDriver::new(&EpollConfig::default()).expect("epoll is there");
    assert_eq!(count(driver), 0, "allocations");
}

fn count<D: Driver>(driver: D) -> u64 {
    count_with(driver, router, |address| drop(ask(address)))
}

/// Keeps [`DEPTH`] requests in flight until its server is gone: reads and writes in turns, each write under
/// the next number.
fn ask(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut hello =
        Connection::new(Role::Client, Arc::default(), &ShardMap::default(), Instant::ZERO);
    let hello = hello.poll_transmit().expect("a client begins with its hello").to_vec();
    stream.write_all(&hello)?;
    let mut answer = Vec::new();
    read_frame(&mut stream, &mut answer)?;
    let mut open = Vec::new();
    let partition = Partition::of(Slot::of(KEY), Partitions::default()).0;
    wire::encode_open(partition, 60_000, &mut open);
    stream.write_all(&frame(0, wire::SESSION_OPEN, &open))?;
    let session = SessionId::decode(&mut read_frame(&mut stream, &mut answer)?).expect("an id");
    let mut number = 0;
    loop {
        let first_unanswered = number;
        let mut requests = Vec::new();
        for slot in 0..DEPTH {
            if slot % 2 == 0 {
                requests.extend(frame(slot, wire::GET, KEY));
                continue;
            }
            let action = Action::Put { value: &[7; 100], expiry: Expiry::Never };
            let change = Change { condition: Condition::None, key: KEY, action };
            let mut payload = Vec::new();
            let numbered = Numbered { session, number, first_unanswered };
            WriteRequest::encode(Some(numbered), &[change], &mut payload);
            requests.extend(frame(slot, wire::WRITE, &payload));
            number += 1;
        }
        stream.write_all(&requests)?;
        for _ in 0..DEPTH {
            let payload = read_frame(&mut stream, &mut answer)?;
            assert!(payload.len() == 120 || payload.len() == 20 || number <= DEPTH as u64);
        }
    }
}

fn frame(slot: u32, method: &str, payload: &[u8]) -> Vec<u8> {
    let mut output = Output::default();
    let head = RequestHead {
        call: CallId::new(slot, 1),
        method: MethodId::of(method),
        priority: Priority::NORMAL,
        time_left_us: 1_000_000,
        route: Route::ANY,
        repeat: false,
        hops: 0,
    };
    Framer::default().push(&mut output, head.header(), &[], Payload::Copied(payload));
    output.to_vec()
}

/// The payload of the next frame.
fn read_frame<'a>(stream: &mut TcpStream, frame: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    const HEADER_BYTES: usize = 32;
    frame.resize(HEADER_BYTES, 0);
    stream.read_exact(frame)?;
    let frame_bytes = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
    frame.resize(frame_bytes as usize, 0);
    stream.read_exact(&mut frame[HEADER_BYTES..])?;
    Ok(&frame[HEADER_BYTES..])
}
