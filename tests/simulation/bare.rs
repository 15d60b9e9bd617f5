//! Bare hosts, each with one driver that a test calls by hand.

use catena_engine::driver::{Completion, Driver, Output, SendState, SocketId};
use catena_engine::sim::{HostId, SimDriver, World, WorldConfig};
use catena_engine::time::{Duration, Instant};
use std::io;
use std::net::SocketAddr;

/// A world of bare hosts, and what each was told.
pub struct Bare {
    pub world: World,
    pub drivers: Vec<SimDriver>,
    pub told: Vec<Vec<Told>>,
}

/// A completion, its bytes taken out.
#[derive(Debug)]
pub enum Told {
    Accepted(SocketId),
    AcceptFailed,
    Connected(Result<(), io::ErrorKind>),
    Received(Vec<u8>),
    Ended(Result<(), io::ErrorKind>),
    Sent(Result<(), io::ErrorKind>),
    Closed,
}

/// A connection from the second host to the first.
pub struct Link {
    pub address: SocketAddr,
    pub server: SocketId,
    pub client: SocketId,
}

pub const SERVER: usize = 0;
pub const CLIENT: usize = 1;

impl Bare {
    pub fn new(seed: u64, hosts: usize, config: WorldConfig) -> Self {
        let mut world = World::new(seed, config);
        let drivers = (0..hosts).map(|_| world.bare_host(1).remove(0)).collect();
        Bare { world, drivers, told: (0..hosts).map(|_| Vec::new()).collect() }
    }

    pub fn host(&self, index: usize) -> HostId {
        HostId(index as u32)
    }

    /// Lets time pass and then each driver look once.
    pub fn run_for(&mut self, time: Duration) {
        self.world.run_for(time);
        (0..self.drivers.len()).for_each(|index| self.look(index));
    }

    /// One driver takes all there is.
    pub fn look(&mut self, index: usize) {
        while self.drivers[index].poll().is_ok_and(|something| something) {
            while let Some(completion) = self.drivers[index].next_completion() {
                let told = self.take(index, completion);
                self.told[index].push(told);
            }
        }
    }

    fn take(&mut self, index: usize, completion: Completion) -> Told {
        match completion {
            Completion::Accepted { socket, .. } => Told::Accepted(socket),
            Completion::AcceptFailed { .. } => Told::AcceptFailed,
            Completion::Connected { result, .. } => Told::Connected(kind(result)),
            Completion::Received { chunk, .. } => {
                let bytes = self.drivers[index].bytes(&chunk).to_vec();
                self.drivers[index].give_back(chunk);
                Told::Received(bytes)
            }
            Completion::Filled { .. } => panic!("no memory was offered"),
            Completion::ReceiveEnded { result, .. } => Told::Ended(kind(result)),
            Completion::Sent { result, .. } => Told::Sent(kind(result)),
            Completion::Closed { .. } => Told::Closed,
            Completion::File { op, .. } | Completion::FileTask { op, .. } => {
                panic!("no file operation was asked for: {op:?}")
            }
        }
    }

    /// Runs until one driver was told something that `wanted` picks; says what it picked, and when.
    pub fn until<T>(
        &mut self,
        index: usize,
        limit: Duration,
        wanted: impl Fn(&Told) -> Option<T>,
    ) -> Option<(T, Instant)> {
        let give_up_at = self.world.now() + limit;
        while self.world.now() < give_up_at {
            if let Some(picked) = self.told[index].iter().find_map(&wanted) {
                return Some((picked, self.world.now()));
            }
            self.run_for(Duration::from_micros(200));
        }
        None
    }

    /// Connects the second host to the first.
    pub fn link(&mut self) -> Link {
        let address = SocketAddr::new(self.host(SERVER).ip(), 0);
        let (_, address) = self.drivers[SERVER].listen(address).expect("a port is free");
        let client = self.connect(address);
        let limit = Duration::from_secs(1);
        let connected = |told: &Told| match told {
            Told::Connected(result) => Some(*result),
            _ => None,
        };
        let accepted = |told: &Told| match told {
            Told::Accepted(socket) => Some(*socket),
            _ => None,
        };
        assert_eq!(self.until(CLIENT, limit, connected).expect("it is answered").0, Ok(()));
        let server = self.until(SERVER, limit, accepted).expect("it is accepted").0;
        Link { address, server, client }
    }

    pub fn connect(&mut self, address: SocketAddr) -> SocketId {
        self.drivers[CLIENT].connect(address).expect("there is room for a socket")
    }

    /// Sends; true if it was done at once.
    pub fn send(&mut self, index: usize, socket: SocketId, bytes: &[u8]) -> bool {
        let mut output = Output::with_capacity(bytes.len());
        output.copied_mut().extend_from_slice(bytes);
        matches!(self.drivers[index].send(socket, output), SendState::Done(_))
    }

    pub fn received(&self, index: usize) -> Vec<u8> {
        let chunks = self.told[index].iter().filter_map(|told| match told {
            Told::Received(bytes) => Some(&bytes[..]),
            _ => None,
        });
        chunks.collect::<Vec<_>>().concat()
    }

    pub fn ended(&self, index: usize) -> Option<Result<(), io::ErrorKind>> {
        self.told[index].iter().find_map(ended)
    }
}

pub fn ended(told: &Told) -> Option<Result<(), io::ErrorKind>> {
    match told {
        Told::Ended(result) => Some(*result),
        _ => None,
    }
}

fn kind(result: io::Result<()>) -> Result<(), io::ErrorKind> {
    result.map_err(|error| error.kind())
}
