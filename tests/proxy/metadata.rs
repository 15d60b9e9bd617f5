//! Metadata goes through as it came, both ways.
//!
//! The engine's own servers send none with an answer, so server and caller are plain sockets here, over
//! loopback, which say what they please in frames.

use catena_balancer::discovery::{Endpoints, Resolved};
use catena_balancer::policy::by_name;
use catena_balancer::proxy::{ProxyConfig, Shared, router};
use catena_engine::config::ConnectionConfig;
use catena_engine::limits::{FRAME_BYTES_CEILING, METADATA_BYTES_MAX};
use catena_engine::relay::RelayConfig;
use catena_engine::wire::deframer::{Deframer, Input};
use catena_engine::wire::frame::{CallId, Priority, RequestHead, ResponseHead, Route, control};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::header::{Header, Kind};
use catena_engine::wire::hello::{Hello, ShardMap, VERSION_MAX, VERSION_MIN};
use catena_engine::wire::output::Output;
use catena_engine::{Cores, MethodId, Server, Status};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long anything may take that happens at once as a rule.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the whole block. The longest is what the protocol allows.
const METADATA_SIZES: [usize; 4] = [0, 1, 300, METADATA_BYTES_MAX];
/// Copied on the way or not, in one receive or in several.
const PAYLOAD_SIZES: [usize; 4] = [0, 100, 5_000, 300_000];

#[test]
fn metadata_of_requests_and_of_answers_goes_through() {
    for copy_bytes_max in [0, 1_024] {
        for payload_crc in [false, true] {
            metadata_goes_through(copy_bytes_max, payload_crc);
        }
    }
}

fn metadata_goes_through(copy_bytes_max: usize, payload_crc: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    let address = listener.local_addr().expect("it is bound");
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the proxy connects");
        answer_all(Peer::greet(stream, payload_crc));
    });
    let proxy = proxy(address, copy_bytes_max, payload_crc);
    let proxy_address = proxy.address().expect("it listens");
    let stream = TcpStream::connect(proxy_address).expect("the proxy listens");
    let mut caller = Peer::greet(stream, payload_crc);
    for metadata_size in METADATA_SIZES {
        for payload_size in PAYLOAD_SIZES {
            let sent = (bytes(metadata_size, 1), bytes(payload_size, 2));
            caller.send(request(), &sent.0, &sent.1);
            let answer = caller.next_but_pings(Kind::Response).expect("the proxy answers");
            assert_eq!(Status(answer.header.code), Status::application(7));
            let case = format!("{metadata_size} and {payload_size} bytes, {copy_bytes_max}");
            assert!(answer.metadata == reversed(&sent.0), "metadata of the answer: {case}");
            assert!(answer.payload == reversed(&sent.1), "payload of the answer: {case}");
        }
    }
    drop(caller);
    proxy.stop().expect("no shard failed");
    server.join().expect("it has met nothing unexpected");
}

fn proxy(server: SocketAddr, copy_bytes_max: usize, payload_crc: bool) -> Server {
    let connection = ConnectionConfig { payload_crc, ..ConnectionConfig::default() };
    let relay = RelayConfig { copy_bytes_max, ..RelayConfig::default() };
    let mut config = ProxyConfig { relay, ..ProxyConfig::default() };
    config.client.connection = Arc::new(connection.clone());
    let endpoints = Endpoints::fixed([Resolved::from(server)]).expect("there is one");
    let shared = Shared::new(endpoints, 1);
    let builder = Server::builder().listen("127.0.0.1:0".parse().expect("an address"));
    let builder = builder.cores(Cores::Unpinned(1)).connection(connection);
    let service = move |local: &_| {
        let policy = by_name("rr").expect("there is such a policy");
        router(local, config.clone(), policy, shared.clone())
    };
    builder.service(service).start().expect("loopback can be listened on")
}

/// Answers each request with its own metadata and payload, both back to front: so they arrived as they
/// were sent, and nobody on the way back could take one for what was on the way there.
fn answer_all(mut peer: Peer) {
    while let Some(heard) = peer.next_but_pings(Kind::Request) {
        let head = ResponseHead {
            call: CallId(heard.header.call),
            status: Status::application(7),
            queue_delay_us: 1,
            service_us: 2,
            in_flight: 3,
        };
        peer.send(head.header(), &reversed(&heard.metadata), &reversed(&heard.payload));
    }
}

fn request() -> Header {
    let head = RequestHead {
        call: CallId::new(0, 1),
        method: MethodId::of("mirror"),
        priority: Priority::NORMAL,
        time_left_us: 60_000_000,
        route: Route::ANY,
        repeat: false,
        hops: 0,
    };
    head.header()
}

/// No records in it, for nobody but its receiver is to read it.
fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| ((at + seed) * 31 % 251) as u8).collect()
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

struct Heard {
    header: Header,
    metadata: Vec<u8>,
    payload: Vec<u8>,
}

/// One side of a connection, byte by byte.
struct Peer {
    stream: TcpStream,
    framer: Framer,
    deframer: Deframer,
    /// What was received and not yet read, from `read` on.
    bytes: Vec<u8>,
    read: usize,
}

impl Peer {
    /// Says hello and waits for the other side's.
    fn greet(stream: TcpStream, payload_crc: bool) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
        let (deframer, framer) = (Deframer::new(FRAME_BYTES_CEILING), Framer::default());
        let mut peer = Peer { stream, framer, deframer, bytes: Vec::new(), read: 0 };
        let hello = Hello {
            version_max: VERSION_MAX,
            version_min: VERSION_MIN,
            frame_bytes_max: FRAME_BYTES_CEILING,
            in_flight_max: 16,
            payload_crc,
            idle_timeout_ms: 0,
            shards: ShardMap::default(),
        };
        peer.send(hello.header(), &[], &hello.encode_body());
        peer.next_but_pings(Kind::Hello).expect("the other side says hello, too");
        peer.framer = Framer::new(payload_crc);
        peer
    }

    fn send(&mut self, header: Header, metadata: &[u8], payload: &[u8]) {
        let mut output = Output::default();
        self.framer.push(&mut output, header, metadata, Payload::Copied(payload));
        self.stream.write_all(&output.to_vec()).expect("the other side reads");
    }

    /// The next frame of that kind; pings are answered meanwhile. `None`: the other side has ended, or
    /// goes away.
    fn next_but_pings(&mut self, kind: Kind) -> Option<Heard> {
        loop {
            let heard = self.next()?;
            match heard.header.kind {
                Kind::Ping => self.send(control(Kind::Pong, 0, heard.header.call), &[], &[]),
                Kind::GoAway => return None,
                came => {
                    assert_eq!(came, kind);
                    return Some(heard);
                }
            }
        }
    }

    fn next(&mut self) -> Option<Heard> {
        loop {
            let mut input = Input::new(&self.bytes[self.read..]);
            let frame = self.deframer.next(&mut input).expect("nothing but frames is sent");
            let heard = frame.map(|frame| Heard {
                header: frame.header,
                metadata: frame.body.metadata().as_bytes().to_vec(),
                payload: frame.body.payload().to_vec(),
            });
            self.read = self.bytes.len() - input.left();
            if heard.is_some() {
                return heard;
            }
            self.bytes.resize(64 << 10, 0);
            let count = self.stream.read(&mut self.bytes).expect("it comes in time");
            self.bytes.truncate(count);
            self.read = 0;
            if count == 0 {
                return None;
            }
        }
    }
}
