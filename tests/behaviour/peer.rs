//! A peer that is no engine: it says what a test wants it to say, byte by byte.

use crate::lab::{Lab, Received};
use catena_engine::MethodId;
use catena_engine::limits::{FRAME_BYTES_CEILING, FRAME_BYTES_FLOOR};
use catena_engine::wire::deframer::{Deframer, Input};
use catena_engine::wire::frame::{
    CallId, GoAwayReason, Priority, RequestHead, ResponseHead, Route, control,
};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::header::{Header, Kind};
use catena_engine::wire::hello::{Hello, ShardMap, VERSION_MAX, VERSION_MIN};
use catena_engine::wire::output::Output;
use std::net::SocketAddr;
use std::time::Duration;

/// A frame that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heard {
    pub header: Header,
    pub payload: Vec<u8>,
}

/// What comes next from the other side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    Frame(Heard),
    Ended,
    Reset,
}

pub struct Peer<L: Lab> {
    pub socket: L::Socket,
    deframer: Deframer,
    bytes: Vec<u8>,
    read: usize,
}

impl<L: Lab> Peer<L> {
    /// Says nothing yet, and understands whatever comes.
    pub fn new(socket: L::Socket) -> Self {
        let deframer = Deframer::new(FRAME_BYTES_CEILING);
        Peer { socket, deframer, bytes: Vec::new(), read: 0 }
    }

    /// Connects to a server and exchanges hellos.
    pub fn greet(lab: &mut L, address: SocketAddr) -> Self {
        let mut peer = Peer::new(lab.connect(address));
        peer.send(lab, &hello_of_client());
        let Next::Frame(hello) = peer.next(lab) else { panic!("a server says hello first") };
        assert_eq!(hello.header.kind, Kind::Hello);
        peer
    }

    /// As [`Peer::greet`], of a server that may still have too many connections.
    pub fn greet_at_last(lab: &mut L, address: SocketAddr) -> Self {
        let mut greeted = None;
        lab.wait_until("there is room", |lab| {
            let mut peer = Peer::new(lab.connect(address));
            peer.send(lab, &hello_of_client());
            match peer.next(lab) {
                Next::Frame(heard) if heard.header.kind == Kind::Hello => greeted = Some(peer),
                Next::Frame(heard) => {
                    assert_eq!(GoAwayReason(heard.header.code), GoAwayReason::OVERLOADED)
                }
                ended => panic!("waited for a hello or a go-away: {ended:?}"),
            }
            greeted.is_some()
        });
        greeted.expect("waited for it")
    }

    pub fn send(&mut self, lab: &mut L, bytes: &[u8]) {
        lab.send(&mut self.socket, bytes);
    }

    /// The next frame, or the end.
    pub fn next(&mut self, lab: &mut L) -> Next {
        loop {
            let mut input = Input::new(&self.bytes[self.read..]);
            let frame = self.deframer.next(&mut input).expect("an engine sends nothing but frames");
            let heard = frame.map(|frame| Heard {
                header: frame.header,
                payload: frame.body.payload().to_vec(),
            });
            self.read = self.bytes.len() - input.left();
            if let Some(heard) = heard {
                return Next::Frame(heard);
            }
            match lab.receive(&mut self.socket) {
                Received::Bytes(bytes) => (self.bytes, self.read) = (bytes, 0),
                Received::Ended => return Next::Ended,
                Received::Reset => return Next::Reset,
            }
        }
    }

    /// The next frame that is a response; pings are answered meanwhile.
    pub fn response(&mut self, lab: &mut L) -> (ResponseHead, Vec<u8>) {
        loop {
            match self.next(lab) {
                Next::Frame(heard) if heard.header.kind == Kind::Response => {
                    return (ResponseHead::from_header(&heard.header), heard.payload);
                }
                Next::Frame(heard) if heard.header.kind == Kind::Ping => {
                    self.send(lab, &control_frame(Kind::Pong, heard.header.call));
                }
                other => panic!("waited for a response: {other:?}"),
            }
        }
    }

    /// The reason and the text of the go-away that comes next, behind responses and pings, after
    /// which the connection must end.
    pub fn go_away(&mut self, lab: &mut L) -> (GoAwayReason, String) {
        let told = loop {
            match self.next(lab) {
                Next::Frame(heard) if heard.header.kind == Kind::GoAway => {
                    let text = String::from_utf8(heard.payload).expect("texts are UTF-8");
                    break (GoAwayReason(heard.header.code), text);
                }
                Next::Frame(_) => {}
                ended => panic!("waited for a go-away: {ended:?}"),
            }
        };
        while let Next::Frame(_) = self.next(lab) {}
        told
    }

    /// Waits for the end of the connection, whatever comes before it.
    pub fn end(&mut self, lab: &mut L) {
        while let Next::Frame(_) = self.next(lab) {}
    }
}

/// The hello of a client that wants nothing special.
pub fn hello_of_client() -> Vec<u8> {
    hello_bytes(&hello(0))
}

/// The hello of a server with such a window.
pub fn hello_of_server(in_flight_max: u32) -> Vec<u8> {
    hello_bytes(&hello(in_flight_max))
}

pub fn hello(in_flight_max: u32) -> Hello {
    Hello {
        version_max: VERSION_MAX,
        version_min: VERSION_MIN,
        frame_bytes_max: FRAME_BYTES_CEILING,
        in_flight_max,
        payload_crc: false,
        idle_timeout_ms: 0,
        shards: ShardMap::default(),
    }
}

pub fn hello_bytes(hello: &Hello) -> Vec<u8> {
    assert!(hello.frame_bytes_max >= FRAME_BYTES_FLOOR);
    frame(hello.header(), &hello.encode_body())
}

/// A request in the first use of a slot.
pub fn request(slot: u32, method: MethodId, time_left: Duration, payload: &[u8]) -> Vec<u8> {
    let head = RequestHead {
        call: CallId::new(slot, 1),
        method,
        priority: Priority::NORMAL,
        time_left_us: u32::try_from(time_left.as_micros()).expect("short"),
        route: Route::ANY,
        repeat: false,
        hops: 0,
    };
    frame(head.header(), payload)
}

pub fn control_frame(kind: Kind, call: u64) -> Vec<u8> {
    frame(control(kind, 0, call), &[])
}

pub fn frame(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut output = Output::default();
    Framer::default().push(&mut output, header, &[], Payload::Copied(payload));
    output.to_vec()
}
