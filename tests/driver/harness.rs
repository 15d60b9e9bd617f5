//! Two drivers in one thread, and all that they reported.

use catena_engine::driver::{
    Completion, Driver, FileBuffer, FileOpId, FileTaskDone, ListenerId, Output, SendState, SocketId,
};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A world with two drivers that can reach each other.
pub trait Harness {
    type D: Driver;

    fn new() -> Self;

    /// Both drivers, to be indexed with a [`Side`].
    fn drivers(&mut self) -> [&mut Self::D; 2];

    /// Where a driver may listen, port 0.
    fn address(&self, side: Side) -> SocketAddr;

    /// A directory for files, empty at first, that all drivers of this world see.
    fn directory(&self) -> PathBuf;

    /// Lets the world move on a little while neither driver has anything to report: a kernel needs
    /// some time, a simulated world its next event.
    fn settle(&mut self);
}

/// Which of the two drivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Server = 0,
    Client = 1,
}

pub use Side::{Client, Server};

/// A completion, without what belongs to the driver.
#[derive(Debug)]
pub enum Seen {
    Accepted(ListenerId, SocketId),
    AcceptFailed(io::Error),
    Connected(SocketId, io::Result<()>),
    /// Chunks of one socket that came one after the other are joined.
    Received(SocketId, Vec<u8>),
    Filled(SocketId, Vec<u8>),
    ReceiveEnded(SocketId, io::Result<()>),
    Sent(SocketId, Output, io::Result<()>),
    Closed(SocketId),
    File(FileOpId, FileBuffer, io::Result<usize>),
    FileTask(FileOpId, io::Result<FileTaskDone>),
}

impl Seen {
    /// The socket concerned, if one is.
    pub fn socket(&self) -> Option<SocketId> {
        match self {
            Seen::Accepted(_, socket)
            | Seen::Connected(socket, _)
            | Seen::Received(socket, _)
            | Seen::Filled(socket, _)
            | Seen::ReceiveEnded(socket, _)
            | Seen::Sent(socket, _, _)
            | Seen::Closed(socket) => Some(*socket),
            Seen::AcceptFailed(_) | Seen::File(..) | Seen::FileTask(..) => None,
        }
    }
}

/// How long a check waits for what must happen. Only a failing check ever waits that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A harness and what its drivers have reported so far.
pub struct Pair<H: Harness> {
    pub harness: H,
    pub seen: [Vec<Seen>; 2],
}

/// A connection between the two sides.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub listener: ListenerId,
    pub address: SocketAddr,
    pub server: SocketId,
    pub client: SocketId,
}

impl<H: Harness> Pair<H> {
    pub fn new() -> Self {
        Pair { harness: H::new(), seen: [Vec::new(), Vec::new()] }
    }

    pub fn driver(&mut self, side: Side) -> &mut H::D {
        let [server, client] = self.harness.drivers();
        match side {
            Server => server,
            Client => client,
        }
    }

    pub fn seen(&self, side: Side) -> &[Seen] {
        &self.seen[side as usize]
    }

    /// What was reported of one socket, in order.
    pub fn seen_of(&self, side: Side, socket: SocketId) -> Vec<&Seen> {
        self.seen(side).iter().filter(|seen| seen.socket() == Some(socket)).collect()
    }

    /// One turn of both drivers, and time for their world if they have nothing to do.
    pub fn turn(&mut self) {
        let reported = self.drain(Server) + self.drain(Client);
        if reported == 0 {
            self.harness.settle();
        }
    }

    /// Turns until `condition`, which must come true.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        self.repeat_until(what, |pair| {
            condition(pair) || {
                pair.turn();
                false
            }
        });
    }

    /// Repeats `attempt` until it returns true, which it must. It turns the drivers itself.
    pub fn repeat_until(&mut self, what: &str, mut attempt: impl FnMut(&mut Self) -> bool) {
        let give_up_at = Instant::now() + PATIENCE;
        while !attempt(self) {
            assert!(Instant::now() < give_up_at, "waited in vain until {what}:\n{}", self.story());
        }
    }

    /// So many turns, for what must not happen.
    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// Takes all completions of one side; returns how many there were.
    pub fn drain(&mut self, side: Side) -> usize {
        self.driver(side).poll().expect("the driver works");
        let mut count = 0;
        while let Some(completion) = self.driver(side).next_completion() {
            self.record(side, completion);
            count += 1;
        }
        count
    }

    /// Notes what was reported, and gives chunks back.
    pub fn record(&mut self, side: Side, completion: Completion) {
        let driver = self.driver(side);
        let news = match completion {
            Completion::Accepted { listener, socket } => Seen::Accepted(listener, socket),
            Completion::AcceptFailed { error, .. } => Seen::AcceptFailed(error),
            Completion::Connected { socket, result } => Seen::Connected(socket, result),
            Completion::Received { socket, chunk } => {
                let bytes = driver.bytes(&chunk).to_vec();
                assert!(!chunk.is_empty(), "an empty chunk is never reported");
                assert_eq!(bytes.len(), chunk.len());
                driver.give_back(chunk);
                Seen::Received(socket, bytes)
            }
            Completion::Filled { socket, memory } => Seen::Filled(socket, memory),
            Completion::ReceiveEnded { socket, result } => Seen::ReceiveEnded(socket, result),
            Completion::Sent { socket, output, result } => Seen::Sent(socket, output, result),
            Completion::Closed { socket } => Seen::Closed(socket),
            Completion::File { op, buffer, result } => Seen::File(op, buffer, result),
            Completion::FileTask { op, result } => Seen::FileTask(op, result),
        };
        let seen = &mut self.seen[side as usize];
        match (seen.last_mut(), news) {
            (Some(Seen::Received(last, bytes)), Seen::Received(socket, more))
                if *last == socket =>
            {
                bytes.extend_from_slice(&more);
            }
            (_, news) => seen.push(news),
        }
    }

    /// Listens on the server's side.
    pub fn listen(&mut self) -> (ListenerId, SocketAddr) {
        let address = self.harness.address(Server);
        self.driver(Server).listen(address).expect("the address is free")
    }

    /// A connection through a listener of its own.
    pub fn link(&mut self) -> Link {
        let (listener, address) = self.listen();
        self.link_through(listener, address)
    }

    /// A connection through a listener that is there.
    pub fn link_through(&mut self, listener: ListenerId, address: SocketAddr) -> Link {
        let known = self.accepted(listener).len();
        let client = self.driver(Client).connect(address).expect("there is room for a socket");
        self.until("the connection stands", |pair| {
            pair.accepted(listener).len() > known && pair.is_connected(client)
        });
        let server = self.accepted(listener)[known];
        Link { listener, address, server, client }
    }

    /// Sockets that a listener of the server's has accepted so far.
    pub fn accepted(&self, listener: ListenerId) -> Vec<SocketId> {
        let accepted = self.seen(Server).iter().filter_map(|seen| match seen {
            Seen::Accepted(by, socket) if *by == listener => Some(*socket),
            _ => None,
        });
        accepted.collect()
    }

    pub fn is_connected(&self, client: SocketId) -> bool {
        self.seen(Client)
            .iter()
            .any(|seen| matches!(seen, Seen::Connected(id, Ok(())) if *id == client))
    }

    pub fn is_closed(&self, side: Side, socket: SocketId) -> bool {
        self.seen(side).iter().any(|seen| matches!(seen, Seen::Closed(id) if *id == socket))
    }

    /// All bytes that were received on a socket so far.
    pub fn received(&self, side: Side, socket: SocketId) -> Vec<u8> {
        let mut all = Vec::new();
        for seen in self.seen(side) {
            match seen {
                Seen::Received(id, bytes) if *id == socket => all.extend_from_slice(bytes),
                _ => {}
            }
        }
        all
    }

    pub fn received_bytes(&self, side: Side, socket: SocketId) -> usize {
        let lengths = self.seen(side).iter().map(|seen| match seen {
            Seen::Received(id, bytes) if *id == socket => bytes.len(),
            _ => 0,
        });
        lengths.sum()
    }

    /// How the stream that was received ended, if it has.
    pub fn end_of(&self, side: Side, socket: SocketId) -> Option<Result<(), io::ErrorKind>> {
        self.seen(side).iter().find_map(|seen| match seen {
            Seen::ReceiveEnded(id, result) if *id == socket => Some(match result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.kind()),
            }),
            _ => None,
        })
    }

    /// How a send that was in flight ended, once it has; forgets it.
    pub fn take_sent(&mut self, side: Side, socket: SocketId) -> Option<(Output, io::Result<()>)> {
        let seen = &mut self.seen[side as usize];
        let index = seen.iter().position(|s| matches!(s, Seen::Sent(id, ..) if *id == socket))?;
        match seen.remove(index) {
            Seen::Sent(_, output, result) => Some((output, result)),
            _ => unreachable!("position found a Sent"),
        }
    }

    /// Sends `bytes` and waits until the driver has got rid of them.
    pub fn send_all(&mut self, side: Side, socket: SocketId, bytes: &[u8]) {
        if let SendState::InFlight = self.driver(side).send(socket, output_of(bytes)) {
            let mut outcome = None;
            self.until("the send ends", |pair| {
                outcome = pair.take_sent(side, socket);
                outcome.is_some()
            });
            outcome.expect("the wait is over").1.expect("the connection is sound");
        }
    }

    /// As [`Pair::send_all`], but leaves the other side's completions where they are.
    pub fn send_unseen(&mut self, side: Side, socket: SocketId, bytes: &[u8]) {
        if let SendState::InFlight = self.driver(side).send(socket, output_of(bytes)) {
            self.repeat_until("the send ends", |pair| {
                pair.harness.settle();
                pair.drain(side);
                pair.take_sent(side, socket).is_some()
            });
        }
    }

    /// Closes a socket and waits for the report.
    pub fn close(&mut self, side: Side, socket: SocketId) {
        self.driver(side).close(socket);
        self.until("the close is reported", |pair| pair.is_closed(side, socket));
    }

    fn story(&self) -> String {
        let mut story = String::new();
        for side in [Server, Client] {
            story +=
                &format!("{side:?} saw {} completions, the last of them:\n", self.seen(side).len());
            for seen in self.seen(side).iter().rev().take(12).rev() {
                let line: String = format!("{seen:?}").chars().take(160).collect();
                story += &format!("  {line}\n");
            }
        }
        story
    }
}

/// An output of copied bytes.
pub fn output_of(bytes: &[u8]) -> Output {
    let mut output = Output::with_capacity(bytes.len());
    output.copied_mut().extend_from_slice(bytes);
    output
}

/// Bytes in which every place can be told from its neighbours, and every `salt` from the others.
pub fn pattern(length: usize, salt: u64) -> Vec<u8> {
    let mut word = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
