//! The harness of the simulated driver: virtual time moves when a driver is called, and in `settle`.

use crate::harness::{Harness, Side};
use crate::kernel::Make;
use catena_engine::sim::{NetworkConfig, SimDriver, World, WorldConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A world in which a message of a few bytes arrives as one piece, as the checks of held chunks ask.
fn config() -> WorldConfig {
    let network = NetworkConfig { fragmented_chance: 0.0, backlog: 300, ..Default::default() };
    WorldConfig { network, ..Default::default() }
}

/// Two shards of one process.
pub struct OneHost {
    world: World,
    drivers: [SimDriver; 2],
}

impl Harness for OneHost {
    type D = SimDriver;

    fn new() -> Self {
        let mut world = World::new(1, config());
        let drivers = world.bare_host(2).try_into().ok().expect("two shards, two drivers");
        OneHost { world, drivers }
    }

    fn drivers(&mut self) -> [&mut SimDriver; 2] {
        self.drivers.each_mut()
    }

    fn address(&self, _side: Side) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    fn directory(&self) -> PathBuf {
        "/".into()
    }

    fn settle(&mut self) {
        self.world.run_for(Duration::from_micros(100));
    }
}

/// Two machines, with buffers that hold little: whatever can be carried over to another turn is.
pub struct TwoHosts {
    world: World,
    drivers: [SimDriver; 2],
}

impl Harness for TwoHosts {
    type D = SimDriver;

    fn new() -> Self {
        let mut config = config();
        config.network.chunk_bytes_max = 100;
        config.network.receive_buffers = 20;
        config.cpu.completions_per_poll_max = 2;
        let mut world = World::new(2, config);
        let drivers = [world.bare_host(1).remove(0), world.bare_host(1).remove(0)];
        TwoHosts { world, drivers }
    }

    fn drivers(&mut self) -> [&mut SimDriver; 2] {
        self.drivers.each_mut()
    }

    fn address(&self, side: Side) -> SocketAddr {
        (self.drivers[side as usize].at().host.ip(), 0).into()
    }

    fn directory(&self) -> PathBuf {
        "/".into()
    }

    fn settle(&mut self) {
        self.world.run_for(Duration::from_micros(100));
    }
}

/// A driver alone in its world, for the checks that need no second.
pub struct Alone;

impl Make for Alone {
    type D = SimDriver;
    const SUITE: &'static str = "sim";

    fn make() -> SimDriver {
        World::new(3, config()).bare_host(1).remove(0)
    }
}
