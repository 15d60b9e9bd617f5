//! A server that is no engine: it says what a test wants it to say, frame by frame.

use catena_engine::Status;
use catena_engine::limits::FRAME_BYTES_CEILING;
use catena_engine::wire::deframer::{Deframer, Input};
use catena_engine::wire::frame::{CallId, GoAwayReason, ResponseHead, control};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::header::{Header, Kind};
use catena_engine::wire::hello::{Hello, ShardMap, VERSION_MAX, VERSION_MIN};
use catena_engine::wire::output::Output;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A frame that was received.
#[derive(Debug)]
pub struct Heard {
    pub header: Header,
    pub payload: Vec<u8>,
}

pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// The server's end of a connection.
pub struct Peer {
    stream: TcpStream,
    deframer: Deframer,
    bytes: Vec<u8>,
}

impl Peer {
    /// Takes the next connection; says nothing.
    pub async fn accept(listener: &TcpListener) -> Peer {
        let (stream, _) = listener.accept().await.expect("a connection");
        // A word that waits for the acknowledgement of the last comes after the pauses that tests see.
        stream.set_nodelay(true).expect("it is open");
        Peer { stream, deframer: Deframer::new(FRAME_BYTES_CEILING), bytes: Vec::new() }
    }

    /// Takes the next connection and exchanges hellos; so many calls may be in flight.
    pub async fn greet(listener: &TcpListener, in_flight_max: u32) -> Peer {
        let mut peer = Peer::accept(listener).await;
        let hello = Hello {
            version_max: VERSION_MAX,
            version_min: VERSION_MIN,
            frame_bytes_max: 1 << 20,
            in_flight_max,
            payload_crc: false,
            idle_timeout_ms: 0,
            shards: ShardMap::default(),
        };
        peer.send(hello.header(), &hello.encode_body()).await;
        assert_eq!(peer.next().await.map(|heard| heard.header.kind), Some(Kind::Hello));
        peer
    }

    pub async fn send(&mut self, header: Header, payload: &[u8]) {
        let mut output = Output::default();
        Framer::default().push(&mut output, header, &[], Payload::Copied(payload));
        self.stream.write_all(&output.to_vec()).await.expect("the client listens");
    }

    pub async fn answer(&mut self, request: &Heard) {
        let head = ResponseHead {
            call: CallId(request.header.call),
            status: Status::OK,
            queue_delay_us: 0,
            service_us: 0,
            in_flight: 0,
        };
        self.send(head.header(), &request.payload).await;
    }

    pub async fn go_away(&mut self, reason: GoAwayReason) {
        self.send(control(Kind::GoAway, reason.0, 0), b"as the test wants it").await;
    }

    /// Waits until the client has taken in what it was sent.
    pub async fn ping(&mut self) {
        self.send(control(Kind::Ping, 0, 7), &[]).await;
        assert_eq!(self.hear(Kind::Pong).await.header.call, 7);
    }

    /// The next frame, which is of this kind.
    pub async fn hear(&mut self, kind: Kind) -> Heard {
        let heard = self.next().await.expect("the client goes on");
        assert_eq!(heard.header.kind, kind, "{heard:?}");
        heard
    }

    /// The next frame; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            let mut input = Input::new(&self.bytes);
            let frame = self.deframer.next(&mut input).expect("a client sends nothing but frames");
            let heard = frame.map(|frame| Heard {
                header: frame.header,
                payload: frame.body.payload().to_vec(),
            });
            let read = self.bytes.len() - input.left();
            self.bytes.drain(..read);
            if heard.is_some() {
                return heard;
            }
            if self.stream.read_buf(&mut self.bytes).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}
