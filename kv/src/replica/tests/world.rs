//! A world of replicas of one partition, from one seed.

use crate::chain::lease::LeaseConfig;
use crate::chain::{Chain, Incarnation, Life, NodeId, Role};
use crate::replica::message::{Envelope, Message};
use crate::replica::{Effect, History, Replica, ReplicaConfig, Taken};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use std::cmp::Reverse;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;
const HEARTBEAT: u64 = 50 * MS;
const LEASE: u64 = 300 * MS;
/// How long there are faults, and how long there are none behind them.
const TROUBLE: u64 = 6_000 * MS;
const PEACE: u64 = 6_000 * MS;
const KEYS: u64 = 3;

/// How bad it gets.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    nodes: u16,
    /// One in so many messages cuts its connection.
    cut_one_in: u64,
    delay: u64,
    disk: u64,
    store: u64,
    /// One in so many answers of the config store is lost.
    lost_one_in: u64,
    /// From one crash, pause or partition to the next, on average.
    between: u64,
}

/// What has happened.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    pub acknowledged: u64,
    pub reads: u64,
    pub dirty_reads: u64,
    pub refused_reads: u64,
    pub dropped: u64,
    pub crashes: u64,
    pub pauses: u64,
    pub partitions: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Seen) {
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.dirty_reads += other.dirty_reads;
        self.refused_reads += other.refused_reads;
        self.dropped += other.dropped;
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.partitions += other.partitions;
    }
}

impl Faults {
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed ^ 0xfa17);
        let mut pick = |all: &[u64]| all[rng.below(all.len() as u64) as usize];
        Faults {
            nodes: pick(&[1, 2, 3, 3, 3, 4, 5]) as u16,
            cut_one_in: pick(&[u64::MAX, 2_000, 200, 50]),
            delay: pick(&[MS / 5, 2 * MS, 20 * MS, 80 * MS]),
            disk: pick(&[MS / 10, MS, 10 * MS, 100 * MS]),
            store: pick(&[MS, 20 * MS, 500 * MS]),
            lost_one_in: pick(&[u64::MAX, 5, 2]),
            between: pick(&[400 * MS, 1_500 * MS, 4_000 * MS]),
        }
    }
}

/// The log of a node, and what of it has committed. An entry writes one key.
#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    committed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    epoch: u32,
    key: u64,
    /// No other one has it.
    id: u64,
}

impl History for Log {
    fn received(&self) -> u64 {
        self.entries.len() as u64
    }

    fn committed(&self) -> u64 {
        self.committed
    }

    fn epoch_of(&self, index: u64) -> u32 {
        self.entries[index as usize - 1].epoch
    }
}

struct Node {
    replica: Replica,
    log: Log,
    is_alive: bool,
    paused_until: u64,
    /// Its clock: what it shows at the beginning, and how many thousandths it runs ahead or behind.
    offset: u64,
    drift: i64,
    /// A chain that is being made durable.
    learning: Option<Chain>,
    /// The number of the write that will be durable next, and up to where it goes.
    syncing: bool,
    reads: BTreeMap<u64, Read>,
}

/// A read that has asked the tail.
#[derive(Clone, Copy)]
struct Read {
    key: u64,
    /// What had committed anywhere when it came.
    committed_before: u64,
    /// Up to where it has to wait.
    until: Option<u64>,
}

enum Event {
    Tick(usize),
    Message { connection: u64, envelope: Envelope, entries: Vec<Entry> },
    Durable { node: usize, index: u64 },
    Learnt { node: usize },
    Proposed { node: usize, chain: Chain },
    Tell { node: usize, chain: Chain },
    Look(usize),
    Client,
    Fault,
    Heal(usize, usize),
}

pub struct World {
    rng: Rng,
    faults: Faults,
    now: u64,
    number: u64,
    events: BTreeMap<Reverse<(u64, u64)>, Event>,
    nodes: Vec<Node>,
    store: Chain,
    /// By pair: the connection, and when the last message on it comes.
    connections: BTreeMap<(usize, usize), (u64, u64)>,
    cut: Vec<(usize, usize)>,
    /// Everything that has committed anywhere, in order.
    committed: Vec<Entry>,
    acknowledged: u64,
    queries: u64,
    /// The last chain that an acknowledged entry was looked for in.
    pub seen: Seen,
    trace: bool,
}

fn life(node: usize) -> Life {
    Life { node: NodeId(node as u16), incarnation: Incarnation(1) }
}

fn place(life: Life) -> usize {
    life.node.0 as usize
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let config = ReplicaConfig {
            heartbeat: Duration::from_nanos(HEARTBEAT),
            lease: LeaseConfig { length: Duration::from_nanos(LEASE), margin_thousandths: 50 },
        };
        let mut rng = Rng::from_seed(seed);
        let chain = Chain::first(1, (0..faults.nodes as usize).map(life)).expect("they serve");
        let node = |place: usize, rng: &mut Rng| Node {
            replica: Replica::new(life(place), config, chain.clone(), 0),
            log: Log::default(),
            is_alive: true,
            paused_until: 0,
            offset: rng.below(1_000_000 * MS),
            drift: rng.below(49) as i64 - 24,
            learning: None,
            syncing: false,
            reads: BTreeMap::new(),
        };
        let nodes = (0..faults.nodes as usize).map(|place| node(place, &mut rng)).collect();
        let mut world = World {
            rng,
            faults,
            now: 0,
            number: 0,
            events: BTreeMap::new(),
            nodes,
            store: chain,
            connections: BTreeMap::new(),
            cut: Vec::new(),
            committed: Vec::new(),
            acknowledged: 0,
            queries: 0,
            seen: Seen::default(),
            trace: std::env::var("CATENA_SEED").is_ok(),
        };
        for place in 0..world.nodes.len() {
            let after = world.rng.below(HEARTBEAT);
            world.after(after, Event::Tick(place));
            world.after(after, Event::Look(place));
        }
        world.after(MS, Event::Client);
        world.after(MS, Event::Fault);
        world
    }

    pub fn faults(&self) -> Faults {
        self.faults
    }

    pub fn run(&mut self) {
        while let Some((Reverse((at, _)), event)) = self.events.pop_last() {
            if at > TROUBLE + PEACE {
                break;
            }
            self.now = at;
            self.step(event);
        }
        self.check_end();
    }

    fn is_peace(&self) -> bool {
        self.now >= TROUBLE
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.number += 1;
        self.events.insert(Reverse((self.now + delay, self.number)), event);
    }

    fn some(&mut self, around: u64) -> u64 {
        1 + self.rng.below(2 * around)
    }

    /// What a node's clock shows.
    fn clock(&self, node: usize) -> Instant {
        let Node { offset, drift, .. } = self.nodes[node];
        let ran = self.now as i64 + self.now as i64 / 1_000 * drift;
        Instant::from_nanos(offset + ran as u64)
    }

    fn step(&mut self, event: Event) {
        let at = match &event {
            Event::Tick(node) | Event::Look(node) => Some(*node),
            Event::Durable { node, .. } | Event::Learnt { node } | Event::Tell { node, .. } => {
                Some(*node)
            }
            Event::Message { envelope, .. } => Some(place(envelope.to)),
            Event::Proposed { .. } | Event::Client | Event::Fault | Event::Heal(..) => None,
        };
        if let Some(node) = at.map(|node| &self.nodes[node]) {
            if !node.is_alive {
                return;
            }
            if node.paused_until > self.now {
                let left = node.paused_until - self.now;
                return self.after(left, event);
            }
        }
        match event {
            Event::Tick(node) => {
                let clock = self.clock(node);
                self.nodes[node].replica.tick(clock);
                self.after(HEARTBEAT, Event::Tick(node));
                self.effects(node);
            }
            Event::Message { connection, envelope, entries } => {
                self.message(connection, envelope, &entries);
            }
            Event::Durable { node, index } => {
                let Node { replica, log, syncing, .. } = &mut self.nodes[node];
                *syncing = false;
                replica.durable(index, log);
                self.effects(node);
                self.write_log(node);
            }
            Event::Learnt { node } => self.learnt(node),
            Event::Proposed { node, chain } => self.proposed(node, chain),
            Event::Tell { node, chain } => {
                self.nodes[node].replica.seen(chain);
                self.effects(node);
            }
            Event::Look(node) => {
                let (chain, delay) = (self.store.clone(), self.some(self.faults.store));
                self.after(delay, Event::Tell { node, chain });
                self.after(500 * MS, Event::Look(node));
            }
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Heal(one, other) => {
                self.cut.retain(|pair| *pair != (one, other));
            }
        }
    }

    fn message(&mut self, connection: u64, envelope: Envelope, entries: &[Entry]) {
        let (from, to) = (place(envelope.from), place(envelope.to));
        if self.connections.get(&(from, to)).map(|(number, _)| *number) != Some(connection) {
            return;
        }
        let clock = self.clock(to);
        if self.trace {
            println!("{:>9} {from} → {to} {envelope:?}", self.now / 1_000);
        }
        let Node { replica, log, .. } = &mut self.nodes[to];
        if let Taken::Behind(known) = replica.take(clock, envelope, log) {
            log.entries.extend_from_slice(&entries[known as usize..]);
            replica.received(log);
        }
        self.effects(to);
        self.write_log(to);
    }

    fn learnt(&mut self, node: usize) {
        let clock = self.clock(node);
        let Node { replica, log, learning, .. } = &mut self.nodes[node];
        let Some(chain) = learning.take() else { return };
        if self.trace {
            println!("{:>9} {node} adopts {chain}", self.now / 1_000);
        }
        replica.adopt(clock, chain, log);
        self.check_acknowledged(node);
        self.effects(node);
    }

    /// A compare-and-swap: what comes of it is told, or not.
    fn proposed(&mut self, node: usize, chain: Chain) {
        if self.trace {
            println!("{:>9} {node} proposes {chain} at {}", self.now / 1_000, self.store);
        }
        if self.store.epoch() + 1 == chain.epoch() {
            self.seen.dropped += (self.store.members().len() - chain.members().len()) as u64;
            self.store = chain;
        }
        let is_lost = !self.is_peace() && self.rng.below(self.faults.lost_one_in) == 0;
        for other in 0..self.nodes.len() {
            let is_told = if other == node { !is_lost } else { self.rng.below(2) == 0 };
            if is_told {
                let (chain, delay) = (self.store.clone(), self.some(self.faults.store));
                self.after(delay, Event::Tell { node: other, chain });
            }
        }
    }

    /// Carries out what a replica wants.
    fn effects(&mut self, node: usize) {
        let effects: Vec<Effect> = self.nodes[node].replica.take_effects().collect();
        for effect in effects {
            match effect {
                Effect::Send(envelope) => self.send(envelope, Vec::new()),
                Effect::Forward(envelope) => {
                    let Message::Entries(head) = envelope.message else { unreachable!("entries") };
                    let first = head.first as usize - 1;
                    let log = &self.nodes[node].log;
                    let entries = log.entries[first..][..head.count as usize].to_vec();
                    assert!(head.count == 0 || head.first > log.committed, "payloads are gone");
                    self.send(envelope, entries);
                }
                Effect::Commit(index) => self.commit(node, index),
                Effect::Learn(chain) => self.learn(node, chain),
                Effect::Propose(chain) => {
                    let delay = self.some(self.faults.store);
                    self.after(delay, Event::Proposed { node, chain });
                }
                Effect::Told { number, committed } => {
                    if let Some(read) = self.nodes[node].reads.get_mut(&number) {
                        read.until = Some(committed);
                    }
                }
            }
        }
        self.answer_reads(node);
    }

    fn send(&mut self, envelope: Envelope, entries: Vec<Entry>) {
        let pair = (place(envelope.from), place(envelope.to));
        let is_peace = self.is_peace();
        if self.cut.contains(&pair) {
            return;
        }
        if !is_peace && self.rng.below(self.faults.cut_one_in) == 0 {
            return self.reset(pair);
        }
        let delay = self.some(if is_peace { MS / 5 } else { self.faults.delay });
        let (number, last) = *self.connections.entry(pair).or_insert((0, 0));
        let at = (self.now + delay).max(last + 1);
        self.connections.insert(pair, (number, at));
        let event = Event::Message { connection: number, envelope, entries };
        self.after(at - self.now, event);
    }

    /// What was on its way is lost, both ways; both ends learn of it.
    fn reset(&mut self, (one, other): (usize, usize)) {
        for (from, to) in [(one, other), (other, one)] {
            let connection = self.connections.entry((from, to)).or_insert((0, 0));
            *connection = (connection.0 + 1, self.now);
            self.nodes[from].replica.disconnected(life(to));
        }
        for node in [one, other] {
            let effects: Vec<Effect> = self.nodes[node].replica.take_effects().collect();
            for effect in effects {
                if let Effect::Send(envelope) = effect {
                    let pair = (place(envelope.from), place(envelope.to));
                    let (number, _) = *self.connections.entry(pair).or_insert((0, 0));
                    let event = Event::Message { connection: number, envelope, entries: vec![] };
                    let delay = self.some(MS);
                    self.after(delay, event);
                }
            }
        }
    }

    fn learn(&mut self, node: usize, chain: Chain) {
        let it = &mut self.nodes[node];
        if it.learning.as_ref().is_some_and(|other| other.epoch() >= chain.epoch()) {
            return;
        }
        let is_new = it.learning.replace(chain).is_none();
        if is_new {
            let delay = self.some(self.faults.disk);
            self.after(delay, Event::Learnt { node });
        }
    }

    fn write_log(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let index = it.log.received();
        if !std::mem::replace(&mut it.syncing, true) {
            let delay = self.some(self.faults.disk);
            self.after(delay, Event::Durable { node, index });
        }
    }

    fn commit(&mut self, node: usize, index: u64) {
        let log = &mut self.nodes[node].log;
        assert!(index <= log.received(), "only what is there commits");
        for at in log.committed..index {
            let entry = log.entries[at as usize];
            match self.committed.get(at as usize) {
                Some(there) => assert_eq!(*there, entry, "one index has two identities"),
                None => self.committed.push(entry),
            }
        }
        log.committed = log.committed.max(index);
        let is_tail = self.nodes[node].replica.is_tail();
        if is_tail && index > self.acknowledged {
            self.seen.acknowledged += index - self.acknowledged;
            self.acknowledged = index;
            let everywhere = self.nodes[node].replica.chain().clone();
            for member in everywhere.serving().map(place) {
                let has = self.nodes[member].log.received();
                assert!(has >= index, "{index} was acknowledged, and node {member} has {has}");
            }
        }
    }

    /// CHAIN §8.3: what was acknowledged is in every later configuration. Who lags behind the newest one may
    /// act in one that is over.
    fn check_acknowledged(&self, node: usize) {
        let it = &self.nodes[node];
        let is_newest = *it.replica.chain() == self.store;
        if is_newest && it.replica.chain().role(life(node)) == Some(Role::Serving) {
            // What an earlier tail acknowledges from now on has been here as long.
            let has = &it.log.entries;
            let end = self.acknowledged.min(has.len() as u64) as usize;
            assert!(
                has.len() as u64 >= self.acknowledged,
                "node {node} lacks what is acknowledged"
            );
            assert_eq!(has[..end], self.committed[..end]);
        }
    }

    fn client(&mut self) {
        let next = self.some(2 * MS);
        self.after(next, Event::Client);
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let it = &mut self.nodes[node];
        if !it.is_alive || it.paused_until > self.now {
            return;
        }
        let key = self.rng.below(KEYS);
        let bound = it.log.received() - it.log.committed < 50;
        if it.replica.is_head() && bound && self.rng.below(2) == 0 {
            self.number += 1;
            let (epoch, id) = (it.replica.chain().epoch(), self.number);
            it.log.entries.push(Entry { epoch, key, id });
            it.replica.received(&it.log);
            self.effects(node);
            return self.write_log(node);
        }
        self.read(node, key);
    }

    fn read(&mut self, node: usize, key: u64) {
        let clock = self.clock(node);
        let committed_before = self.committed.len() as u64;
        let it = &mut self.nodes[node];
        if it.replica.may_read(clock, &it.log).is_err() {
            self.seen.refused_reads += 1;
            return;
        }
        let in_flight = &it.log.entries[it.log.committed as usize..];
        if !in_flight.iter().any(|entry| entry.key == key) {
            let value = last_write(&it.log.entries[..it.log.committed as usize], key);
            return self.check_read(key, committed_before, value);
        }
        self.queries += 1;
        it.reads.insert(self.queries, Read { key, committed_before, until: None });
        it.replica.query(self.queries, clock, &it.log);
        self.effects(node);
    }

    /// Those whose commits have come, and which may still be read here.
    fn answer_reads(&mut self, node: usize) {
        let clock = self.clock(node);
        let it = &mut self.nodes[node];
        if it.reads.len() > 100 {
            it.reads.pop_first();
        }
        if it.replica.may_read(clock, &it.log).is_err() {
            return;
        }
        let committed = it.log.committed;
        let is_due = |read: &Read| read.until.is_some_and(|until| committed >= until);
        let due: Vec<Read> = it.reads.values().filter(|it| is_due(it)).copied().collect();
        it.reads.retain(|_, read| !is_due(read));
        for read in due {
            let log = &self.nodes[node].log;
            let value = last_write(&log.entries[..committed as usize], read.key);
            self.seen.dirty_reads += 1;
            self.check_read(read.key, read.committed_before, value);
        }
    }

    /// CHAIN §8.4: the latest committed value at some instant between question and answer.
    fn check_read(&mut self, key: u64, committed_before: u64, value: u64) {
        self.seen.reads += 1;
        let oldest = last_write(&self.committed[..committed_before as usize], key);
        let all = self.committed.len() as u64;
        assert!(oldest <= value && value <= all, "read {value}; {oldest} to {all} would do");
    }

    fn fault(&mut self) {
        if self.is_peace() {
            return;
        }
        let next = self.some(self.faults.between);
        self.after(next, Event::Fault);
        let count = self.nodes.len() as u64;
        let (one, other) = (self.rng.below(count) as usize, self.rng.below(count) as usize);
        match self.rng.below(4) {
            0 => {
                // One that serves has to be left.
                let store = self.store.clone();
                let mut left = store.serving().filter(|it| *it != life(one));
                if left.any(|it| self.nodes[place(it)].is_alive) {
                    self.nodes[one].is_alive = false;
                    self.seen.crashes += 1;
                    if self.trace {
                        println!("{:>9} {one} crashes", self.now / 1_000);
                    }
                }
            }
            1 => {
                let for_ns = self.some(400 * MS);
                self.nodes[one].paused_until = self.now + for_ns;
                self.seen.pauses += 1;
            }
            2 => {
                let until = self.some(800 * MS);
                for pair in [(one, other), (other, one)] {
                    self.cut.push(pair);
                    self.after(until, Event::Heal(pair.0, pair.1));
                }
                self.reset((one, other));
                self.seen.partitions += 1;
            }
            _ => {
                // One way, or one from all.
                let until = self.some(800 * MS);
                let others = if self.rng.below(2) == 0 {
                    vec![other]
                } else {
                    (0..count as usize).collect()
                };
                for other in others {
                    self.cut.push((one, other));
                    self.after(until, Event::Heal(one, other));
                }
                self.seen.partitions += 1;
            }
        }
    }

    /// In peace everything has come right.
    fn check_end(&self) {
        let alive = |it: &Life| self.nodes[place(*it)].is_alive;
        if !self.store.serving().any(|it| alive(&it)) {
            return;
        }
        assert!(self.store.serving().all(|it| alive(&it)), "{} has dead members", self.store);
        for member in self.store.serving().map(place) {
            let Node { replica, log, .. } = &self.nodes[member];
            assert_eq!(*replica.chain(), self.store, "node {member}");
            let late = self.committed.len() as u64 - log.committed;
            assert!(late < 50, "node {member} is {late} behind");
            let clock = self.clock(member);
            assert_eq!(replica.may_read(clock, log), Ok(()), "node {member} of {}", self.store);
        }
    }
}

/// The index of the last write of a key.
fn last_write(entries: &[Entry], key: u64) -> u64 {
    entries.iter().rposition(|entry| entry.key == key).map_or(0, |at| at as u64 + 1)
}
