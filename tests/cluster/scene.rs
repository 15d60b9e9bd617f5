//! A cluster, and somebody who writes and reads.

use crate::client::Client;
use crate::machine::Machine;
use catena_engine::sim::World;
use catena_engine::time::{Duration, Instant};
use catena_kv::cluster::config_store::InMemory;
use catena_kv::cluster::view::{ClusterConfig, View};
use catena_kv::log::DirectoryId;
use catena_kv::resp::Value;
use catena_kv::slot::{Partition, Partitions, Slot};
use std::net::SocketAddr;

const PARTITIONS: u16 = 8;

/// How long an answer may take, whoever fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module page.
pub struct Scene {
    pub nodes: Vec<Machine>,
    config_store: InMemory,
    /// By node.
    clients: Vec<Client<()>>,
    longest: Duration,
}

impl Scene {
    /// So many nodes of two shards, with chains of three as soon as the first so many have come.
    pub fn begin(world: &mut World, nodes: usize, first_nodes: usize) -> Self {
        let view = View::new(ClusterConfig {
            id: DirectoryId([7; 16]),
            partitions: Partitions::new(PARTITIONS).expect("a power of two"),
            hash_seed: 7,
            members: 3,
            first_nodes,
        });
        let config_store = InMemory::new(view, Duration::from_millis(2));
        let start = |number| Machine::start(world, &format!("node-{number}"), 2, &config_store);
        let nodes: Vec<Machine> = (0..nodes).map(start).collect();
        let clients = nodes.iter().map(|_| Client::new(world)).collect();
        Scene { nodes, config_store, clients, longest: Duration::ZERO }
    }

    /// The chains, as the config store has them.
    pub fn view(&self) -> View {
        self.config_store.view()
    }

    /// The longest that somebody has waited for a write.
    pub fn longest_wait(&self) -> Duration {
        self.longest
    }

    /// Waits until each chain has so many members that serve.
    pub fn wait_for_chains(&mut self, world: &mut World, members: usize) {
        let began_at = world.now();
        let is_there = |view: &View| {
            let chains = view.chains();
            !chains.is_empty() && chains.iter().all(|chain| chain.serving().count() == members)
        };
        while !is_there(&self.view()) {
            self.wait(world, began_at);
        }
        // Who has proposed the last one hears of it, and so do the others.
        world.run_for(Duration::from_secs(1));
    }

    /// Where a node says that a key is to be written; `None`: there.
    pub fn moved(&mut self, world: &mut World, node: usize, number: u64) -> Option<SocketAddr> {
        let words = ["SET".to_owned(), key(number), "value".to_owned()];
        match self.ask(world, node, &words).expect("it answers") {
            Value::Error(text) => {
                let mut words = text.split(' ');
                assert_eq!(words.next(), Some("MOVED"), "{text}");
                Some(words.nth(1).and_then(|it| it.parse().ok()).expect("an address"))
            }
            _ => None,
        }
    }

    /// Sets a key where its head is, again and again until that is acknowledged.
    pub fn set(&mut self, world: &mut World, number: u64, value: &str) {
        let words = ["SET".to_owned(), key(number), value.to_owned()];
        let began_at = world.now();
        loop {
            let node = self.head_of(&key(number));
            let answer = node.and_then(|node| self.ask(world, node, &words));
            if answer == Some(Value::Simple("OK".to_owned())) {
                break;
            }
            self.wait(world, began_at);
        }
        self.longest = self.longest.max(world.now().since(began_at));
    }

    /// Reads a key at a node, whichever it is.
    pub fn get_at(&mut self, world: &mut World, node: usize, number: u64) -> Option<String> {
        let words = ["GET".to_owned(), key(number)];
        let began_at = world.now();
        loop {
            match self.ask(world, node, &words) {
                Some(Value::Null) => return None,
                Some(Value::Bulk(value)) => return String::from_utf8(value).ok(),
                _ => self.wait(world, began_at),
            }
        }
    }

    /// The place of the node that orders writes of a key.
    pub fn head_of(&self, key: &str) -> Option<usize> {
        let view = self.view();
        let partition = Partition::of(Slot::of(key.as_bytes()), view.config().partitions);
        let head = view.chain(partition)?.head();
        let name = &view.node(head.node)?.name;
        name.strip_prefix("node-")?.parse().ok()
    }

    /// Asks a node. `None`: the connection is lost, or nothing has come for long.
    fn ask(&mut self, world: &mut World, node: usize, words: &[String]) -> Option<Value> {
        let until = world.now() + Duration::from_secs(1);
        let (client, machine) = (&mut self.clients[node], &self.nodes[node]);
        let mut is_asked = false;
        while world.now() < until {
            if client.is_open() && !is_asked {
                client.ask((), words);
                is_asked = true;
            }
            if let Some((_, answer)) = client.step(world, machine).pop() {
                return Some(answer);
            }
            if is_asked && client.in_flight() == 0 {
                return None;
            }
        }
        client.forget();
        None
    }

    fn wait(&mut self, world: &mut World, since: Instant) {
        let failures: Vec<_> = self.nodes.iter().map(Machine::failures).collect();
        let waited = world.now().since(since);
        assert!(waited < PATIENCE, "seed {}: {:?} {failures:?}", world.seed(), self.view());
        world.run_for(Duration::from_millis(1));
    }
}

pub fn key(number: u64) -> String {
    format!("key-{number}")
}
