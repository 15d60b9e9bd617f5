//! The engine on a simulated host: what [`crate::Server`] is on a kernel.
//!
//! One process of several shards, each an unchanged [`Shard`] on its own [`SimDriver`]. What a test
//! holds in its hand is an [`Engine`]: the host, its addresses, and a [`Handle`] as any thread has it.

use super::config::NetworkConfig;
use super::driver::SimDriver;
use super::host::HostId;
use super::process::{Boot, Hook, Next, Process};
use super::world::World;
use crate::application::Addresses;
use crate::config::ConnectionConfig;
use crate::dispatch::Router;
use crate::driver::Driver;
use crate::handle::Handle;
use crate::limits::{GOODBYES_MAX, MAILBOX_MESSAGES_MAX};
use crate::local::Local;
use crate::mailbox::mesh;
use crate::rpc::admission::AdmissionConfig;
use crate::shard::message::{Control, Inbox};
use crate::shard::{Shard, ShardConfig};
use crate::shard_index::ShardIndex;
use crate::wire::hello::ShardMap;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// What a simulated engine serves, and how.
#[derive(Clone)]
pub struct EngineConfig {
    /// How many shards.
    pub shards: u16,
    /// The port that all shards share, each of which then listens on a port of its own, too. `None`:
    /// nothing is served, and the shards are there for clients.
    pub port: Option<u16>,
    /// The port for streams that all shards share, as `port`; for an application.
    pub stream_port: Option<u16>,
    /// How connections behave.
    pub connection: ConnectionConfig,
    /// The limits of each shard.
    pub admission: AdmissionConfig,
    /// Connections of each shard; its driver must have [`crate::limits::GOODBYES_MAX`] sockets more.
    pub connections_max: u32,
    /// Called once on each shard, at every start of the process, to make that shard's own handlers.
    pub service: Service,
}

/// Makes the handlers of one shard; the hook lets them consume the world's time.
pub type Service = Rc<dyn Fn(&Local, &Hook) -> Router>;

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            shards: 1,
            port: None,
            stream_port: None,
            connection: ConnectionConfig::default(),
            admission: AdmissionConfig::default(),
            connections_max: NetworkConfig::default().sockets_max - GOODBYES_MAX,
            service: Rc::new(|_, _| Router::new()),
        }
    }
}

/// An engine on a host of its own. Clones are handles on the same one.
#[derive(Clone)]
pub struct Engine {
    host: HostId,
    running: Rc<RefCell<Running>>,
}

/// What there is of the process that runs now, or ran last.
struct Running {
    handle: Handle,
    address: Option<SocketAddr>,
    shard_addresses: Vec<SocketAddr>,
    streams: Addresses,
    shards: Vec<Weak<RefCell<Shard>>>,
}

impl World {
    /// Adds a host and starts an engine there. It starts anew after each crash, and at
    /// [`Fault::Restart`](super::Fault::Restart) when it has ended by itself.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn start_engine(&mut self, config: EngineConfig) -> Engine {
        config.connection.validate().expect("a simulated engine is configured by its test");
        let running = Rc::new(RefCell::new(Running {
            handle: Handle::simulated(Arc::from([])),
            address: None,
            shard_addresses: Vec::new(),
            streams: Addresses::default(),
            shards: Vec::new(),
        }));
        let place = running.clone();
        let host = self.start_host(u32::from(config.shards), move |boot| {
            let (processes, running) = start(&config, boot);
            place.replace(running);
            processes
        });
        Engine { host, running }
    }
}

impl Engine {
    /// The machine.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The address that all shards share; `None`: it serves nobody.
    pub fn address(&self) -> Option<SocketAddr> {
        self.running.borrow().address
    }

    /// The address of each shard; a restart may change them.
    pub fn shard_addresses(&self) -> Vec<SocketAddr> {
        self.running.borrow().shard_addresses.clone()
    }

    /// Where streams arrive; a restart may change the shards' own.
    pub fn stream_addresses(&self) -> Addresses {
        self.running.borrow().streams.clone()
    }

    /// A handle on the shards of the process that runs now, or ran last.
    pub fn handle(&self) -> Handle {
        self.running.borrow().handle.clone()
    }

    /// Begins to end in order, as [`Server::drain`](crate::Server::drain) does.
    pub fn drain(&self) {
        self.handle().control_all(|| Control::Drain);
    }

    /// Looks into a shard between turns. `None`: it has ended.
    pub fn inspect<T>(&self, shard: ShardIndex, look: impl FnOnce(&Shard) -> T) -> Option<T> {
        let shard = self.running.borrow().shards.get(shard.index())?.upgrade()?;
        let shard = shard.borrow();
        Some(look(&shard))
    }
}

/// One shard of a process, in the hands of the world.
struct ShardProcess {
    shard: Rc<RefCell<Shard>>,
}

impl Process for ShardProcess {
    fn turn(&mut self, driver: &mut SimDriver) -> Next {
        let next = self.shard.borrow_mut().turn(driver);
        Next { until: next.until, busy: next.busy, stopped: next.stopped }
    }
}

/// What a process does at its start, as `reactor::start` does it on threads.
fn start(config: &EngineConfig, boot: Boot<'_>) -> (Vec<Box<dyn Process>>, Running) {
    let hook = boot.hook();
    let Boot { host, drivers, mut rng, .. } = boot;
    let connection = Arc::new(config.connection.clone());
    let mut inboxes = Vec::new();
    let mut shards = Vec::new();
    let mut shard_addresses = Vec::new();
    let stream_address = config.stream_port.map(|port| SocketAddr::new(host.ip(), port));
    let mut streams = Addresses { shared: stream_address, shards: Vec::new() };
    let address = config.port.map(|port| SocketAddr::new(host.ip(), port));
    let mailboxes = mesh(config.shards, MAILBOX_MESSAGES_MAX);
    for (index, (driver, mailboxes)) in (0..config.shards).zip(drivers.iter_mut().zip(mailboxes)) {
        let shard_config = ShardConfig {
            index: ShardIndex(index),
            count: config.shards,
            connection: connection.clone(),
            admission: config.admission,
            connections_max: config.connections_max,
            seed: rng.next_u64(),
        };
        let inbox = Arc::<Inbox>::default();
        inboxes.push(inbox.clone());
        let router = |local: &Local| (config.service)(local, &hook);
        let mut shard = Shard::new(shard_config, driver, mailboxes, inbox, router);
        let own = SocketAddr::new(host.ip(), 0);
        let mut listen = |at| driver.listen(at).expect("the host is this engine's own");
        if let Some(address) = address {
            shard.add_listener(listen(address).0);
            let (listener, bound) = listen(own);
            shard.add_listener(listener);
            shard_addresses.push(bound);
        }
        if let Some(address) = stream_address {
            shard.add_stream_listener(listen(address).0, false);
            let (listener, bound) = listen(own);
            shard.add_stream_listener(listener, true);
            streams.shards.push(bound);
        }
        shards.push(Rc::new(RefCell::new(shard)));
    }
    let ports: Vec<u16> = shard_addresses.iter().map(SocketAddr::port).collect();
    let parkers: Vec<_> = drivers.iter().map(|driver| driver.parker()).collect();
    for (here, shard) in (0..config.shards).zip(&shards) {
        let map = ShardMap { here, ports: ports.clone() };
        shard.borrow_mut().set_peers(map, parkers.clone());
        shard.borrow_mut().set_stream_addresses(streams.clone());
    }
    let handle = Handle::simulated(inboxes.into());
    let weak = shards.iter().map(Rc::downgrade).collect();
    let running = Running { handle, address, shard_addresses, streams, shards: weak };
    let process = |shard| Box::new(ShardProcess { shard }) as Box<dyn Process>;
    (shards.into_iter().map(process).collect(), running)
}
