//! Stores that replicate each other, with a network that loses nothing but what goes to who is dead or cut
//! off, and a config store that is always there.

use super::*;
use crate::chain::Incarnation;
use crate::chain::lease::LeaseConfig;
use crate::command::error::Error;
use crate::evict::Eviction;
use crate::slot::Slot;
use crate::store::StoreConfig;
use crate::store::gate::{Gate, GateState};
use catena_engine::time::Duration;

const PARTITIONS: u16 = 2;
const HEARTBEAT_MS: u64 = 50;
const CONFIG: ReplicaConfig = ReplicaConfig {
    heartbeat: Duration::from_millis(HEARTBEAT_MS),
    lease: LeaseConfig { length: Duration::from_millis(300), margin_thousandths: 50 },
};

struct Cluster {
    now_ms: u64,
    nodes: Vec<Node>,
    chains: Vec<Chain>,
}

/// Each key, the checksum of its value, and the index of its version.
type Keys = Vec<(Vec<u8>, u32, u64)>;

struct Node {
    store: Store,
    is_alive: bool,
    is_cut_off: bool,
}

fn life(node: usize) -> Life {
    Life { node: NodeId(node as u16), incarnation: Incarnation(1) }
}

impl Cluster {
    /// So many nodes, of which the first three are in the chains.
    fn new(nodes: usize) -> Self {
        let chain = Chain::first(1, (0..3).map(life)).expect("three that serve");
        let mut cluster = Cluster {
            now_ms: 10_000,
            nodes: (0..nodes).map(|node| Node::new(node, nodes)).collect(),
            chains: vec![chain; PARTITIONS.into()],
        };
        cluster.run(500);
        cluster
    }

    fn now(&self) -> Instant {
        Instant::ZERO + Duration::from_millis(self.now_ms)
    }

    /// Milliseconds pass.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            self.step();
        }
    }

    fn step(&mut self) {
        let (now, ticks) = (self.now(), self.now_ms.is_multiple_of(HEARTBEAT_MS));
        for place in 0..self.nodes.len() {
            let Node { store, is_alive, is_cut_off } = &mut self.nodes[place];
            if !*is_alive {
                continue;
            }
            if ticks {
                store.tick(now);
            }
            for (number, chain) in (0..).map(PartitionId).zip(&self.chains).filter(|_| ticks) {
                if !*is_cut_off {
                    store.chain_seen(number, chain);
                }
            }
            store.replicate_turn(now);
            for (partition, chain) in store.take_proposals() {
                let known = &mut self.chains[usize::from(partition.0)];
                if !*is_cut_off && known.epoch() + 1 == chain.epoch() {
                    *known = chain;
                }
            }
            let is_cut_off = *is_cut_off;
            let messages = store.messages().map(|(to, bytes)| (to, std::mem::take(bytes)));
            for ((NodeId(to), _), bytes) in messages.collect::<Vec<_>>() {
                let to = &mut self.nodes[usize::from(to)];
                if to.is_alive && !to.is_cut_off && !is_cut_off {
                    to.store.take_messages(now, &bytes).expect("they were encoded");
                }
            }
        }
    }

    /// Writes at a node. What its answer waits for.
    fn put(&mut self, node: usize, key: &str, value: &str) -> Result<Option<Gate>, Elsewhere> {
        self.put_until(node, key, value, None)
    }

    fn put_until(
        &mut self,
        node: usize,
        key: &str,
        value: &str,
        expires_at: Option<u64>,
    ) -> Result<Option<Gate>, Elsewhere> {
        let now = self.now();
        let store = &mut self.nodes[node].store;
        let place = store.place_of(Slot::of(key.as_bytes())).expect("there is one shard");
        store.admit(place, true)?;
        let mut keyspace = store.keyspace(place, self.now_ms);
        let key = keyspace.key(key.as_bytes()).expect("it is short");
        keyspace.put(&key, value.as_bytes(), expires_at).expect("nothing is logged");
        let seen = keyspace.seen();
        store.gate(place, seen, || now)
    }

    /// Reads at a node.
    fn get(&mut self, node: usize, key: &str) -> Result<(Option<String>, Option<Gate>), Elsewhere> {
        let now = self.now();
        let store = &mut self.nodes[node].store;
        let place = store.place_of(Slot::of(key.as_bytes())).expect("there is one shard");
        store.admit(place, false)?;
        let mut keyspace = store.keyspace(place, self.now_ms);
        let key = keyspace.key(key.as_bytes()).expect("it is short");
        let found = keyspace.get(&key).map(|found| String::from_utf8_lossy(found.value).into());
        let seen = keyspace.seen();
        Ok((found, store.gate(place, seen, || now)?))
    }

    fn state(&self, node: usize, gate: Option<Gate>) -> GateState {
        let store = &self.nodes[node].store;
        gate.map_or(GateState::Open, |gate| store.gate_state(&gate, self.now()))
    }

    /// A write that has been acknowledged.
    fn put_and_wait(&mut self, node: usize, key: &str, value: &str) {
        let gate = self.put(node, key, value).expect("it is the head");
        assert_eq!(self.state(node, gate), GateState::Shut, "nobody else has it yet");
        self.run(3);
        assert_eq!(self.state(node, gate), GateState::Open);
    }

    /// What a node has committed, by partition.
    fn committed(&self, node: usize) -> Vec<(u64, Keys)> {
        let store = &self.nodes[node].store;
        let of = |partition: &Partition| {
            let mut keys = Vec::new();
            let (mut from, mut next) = (0, Some(0));
            while let Some(at) = next {
                from = from.max(at);
                next = partition.table().walk(store.arena(), at, 1_000, |entry| {
                    let value = crc32c::crc32c(entry.value().bytes());
                    keys.push((entry.key().to_vec(), value, entry.index()));
                });
            }
            keys.sort();
            (partition.committed(), keys)
        };
        store.partitions().iter().map(of).collect()
    }
}

impl Node {
    fn new(node: usize, nodes: usize) -> Self {
        let mut store = Store::in_memory(StoreConfig {
            partitions: Partitions::new(PARTITIONS).expect("a power of two"),
            shard: ShardIndex(0),
            shards: 1,
            hash_seed: node as u64,
            epoch: 0,
            value_bytes_max: 1 << 20,
            memory_bytes_max: 1 << 30,
            eviction: Eviction::None,
        });
        store.replicate(life(node), CONFIG, 3, false);
        (0..nodes).for_each(|node| store.node_has_shards(NodeId(node as u16), 1));
        Node { store, is_alive: true, is_cut_off: false }
    }
}

#[test]
fn what_the_head_orders_is_read_everywhere_when_it_has_committed() {
    let mut cluster = Cluster::new(3);
    let head = Elsewhere(Some(NodeId(0)));
    assert_eq!(cluster.put(1, "key", "value"), Err(head), "the head orders, nobody else");
    let gate = cluster.put(0, "key", "value").expect("it is the head");
    let (seen, waits) = cluster.get(0, "key").expect("it serves");
    assert_eq!(seen.as_deref(), Some("value"));
    assert_eq!(cluster.state(0, gate), GateState::Shut);
    assert_eq!(cluster.state(0, waits), GateState::Shut, "what was seen has not committed");
    assert_eq!(cluster.get(2, "key"), Ok((None, None)), "the tail has not got it");
    cluster.run(3);
    for waits in [gate, waits] {
        assert_eq!(cluster.state(0, waits), GateState::Open);
    }
    for node in 0..3 {
        assert_eq!(cluster.get(node, "key"), Ok((Some("value".to_owned()), None)));
    }
}

/// Clocks differ: that a key's time is over is for the head to say, and for nobody else to order.
#[test]
fn what_has_expired_is_for_the_head() {
    let mut cluster = Cluster::new(3);
    let expires_at = Some(cluster.now_ms + 100);
    let gate = cluster.put_until(0, "key", "value", expires_at).expect("it is the head");
    cluster.run(50);
    assert_eq!(cluster.state(0, gate), GateState::Open);
    assert_eq!(cluster.get(1, "key"), Ok((Some("value".to_owned()), None)));
    cluster.run(50);
    let head = Elsewhere(Some(NodeId(0)));
    assert_eq!([1, 2].map(|node| cluster.get(node, "key")), [Err(head), Err(head)]);
    let (found, gate) = cluster.get(0, "key").expect("it is the head");
    assert_eq!((found, cluster.state(0, gate)), (None, GateState::Shut), "its end is an entry");
    cluster.run(3);
    assert_eq!(cluster.state(0, gate), GateState::Open);
    assert_eq!(cluster.get(1, "key"), Ok((None, None)));
    cluster.put_and_wait(0, "key", "again");
    assert_eq!(cluster.nodes[1].store.clear(), Err(Error::NOT_HEAD));
}

#[test]
fn two_that_go_leave_what_was_acknowledged_to_the_third() {
    let mut cluster = Cluster::new(3);
    (0..100).for_each(|number| cluster.put_and_wait(0, &format!("key-{number}"), "value"));
    let committed = cluster.committed(0);
    for (dead, head) in [(0, 1), (2, 1)] {
        cluster.nodes[dead].is_alive = false;
        cluster.run(1_000);
        assert!(cluster.chains.iter().all(|chain| chain.head() == life(head)));
        cluster.put_and_wait(head, "another", &format!("when {dead} is dead"));
    }
    let (alone, _) = (cluster.committed(1), cluster.committed(1));
    for ((_, before), (_, after)) in committed.iter().zip(&alone) {
        let is_there = |entry: &&(Vec<u8>, u32, u64)| after.contains(entry);
        assert_eq!(before.iter().filter(is_there).count(), before.len());
    }
}

#[test]
fn who_is_cut_off_answers_nothing_and_loses_what_nobody_else_has() {
    let mut cluster = Cluster::new(3);
    cluster.put_and_wait(0, "key", "old");
    cluster.nodes[0].is_cut_off = true;
    let ordered = cluster.put(0, "key", "never").expect("it thinks that it is the head");
    cluster.run(1_500);
    assert_eq!(cluster.state(0, ordered), GateState::Shut, "it knows nothing");
    let (_, read) = cluster.get(0, "other").expect("it thinks that it serves");
    assert_eq!(cluster.state(0, read), GateState::Shut, "without leases nothing is read");
    cluster.put_and_wait(1, "key", "new");
    cluster.nodes[0].is_cut_off = false;
    cluster.run(100);
    assert_eq!(cluster.state(0, ordered), GateState::Lost);
    assert_eq!(cluster.state(0, read), GateState::Lost);
    // It comes back, as the tail, with what the others have.
    cluster.run(5_000);
    assert!(cluster.chains.iter().all(|chain| chain.tail() == life(0)), "{:?}", cluster.chains);
    assert_eq!(cluster.get(0, "key"), Ok((Some("new".to_owned()), None)));
    assert!(cluster.committed(0) == cluster.committed(1));
    assert_eq!(cluster.state(0, ordered), GateState::Lost, "for ever");
}

#[test]
fn who_comes_is_given_all_keys_while_they_change() {
    const KEYS: u64 = 20_000;
    let mut cluster = Cluster::new(4);
    let key = |number: u64| format!("key-{}", number % KEYS);
    let large = "x".repeat(200_000);
    for number in 0..KEYS {
        let value = if number % 1_000 == 0 { large.clone() } else { number.to_string() };
        cluster.put(0, &key(number), &value).expect("it is the head");
        if number % 100 == 0 {
            cluster.run(1);
        }
    }
    cluster.nodes[2].is_alive = false;
    let mut number = 0;
    while cluster.chains.iter().any(|chain| chain.tail() != life(3)) {
        cluster.put(0, &key(number * 7), &format!("again {number}")).expect("it is the head");
        cluster.run(1);
        number += 1;
        assert!(number < 10_000, "{:?}", cluster.chains);
    }
    cluster.run(100);
    assert!(cluster.committed(3) == cluster.committed(0));
    assert!(cluster.committed(3).iter().all(|(_, keys)| keys.len() as u64 > KEYS / 3));
    cluster.put_and_wait(0, "key", "value");
    assert_eq!(cluster.get(3, "key"), Ok((Some("value".to_owned()), None)));
}

/// Whoever empties the store while a snapshot is sent makes what has come of it void.
#[test]
fn a_snapshot_of_what_is_deleted_meanwhile_begins_again() {
    let mut cluster = Cluster::new(4);
    for number in 0..30_000 {
        cluster.put(0, &format!("key-{number}"), "value").expect("it is the head");
    }
    cluster.nodes[2].is_alive = false;
    while cluster.chains.iter().all(|chain| chain.syncing().is_none()) {
        cluster.run(1);
    }
    let keys = |cluster: &Cluster| -> usize {
        cluster.committed(3).iter().map(|(_, keys)| keys.len()).sum()
    };
    while keys(&cluster) == 0 {
        cluster.run(1);
    }
    assert!(keys(&cluster) < 30_000, "some keys have come, and not all");
    cluster.nodes[0].store.clear().expect("it is the head");
    cluster.put(0, "key", "the only one").expect("it is the head");
    cluster.run(5_000);
    assert!(cluster.chains.iter().all(|chain| chain.tail() == life(3)), "{:?}", cluster.chains);
    assert!(cluster.committed(3) == cluster.committed(0));
    assert_eq!(keys(&cluster), 1);
}
