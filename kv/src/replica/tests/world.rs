//! A world of replicas of one partition, from one seed.

use super::event::{Beside, Event};
use super::log::{Entry, Log, last_write};
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
const CONFIG: ReplicaConfig = ReplicaConfig {
    heartbeat: Duration::from_nanos(HEARTBEAT),
    lease: LeaseConfig { length: Duration::from_nanos(LEASE), margin_thousandths: 50 },
};

/// How bad it gets.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    nodes: u16,
    spares: usize,
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
    pub promoted: u64,
    pub crashes: u64,
    pub restarts: u64,
    pub snapshots: u64,
    pub cuts: u64,
    /// Nodes that are no serving members at the end.
    pub missing: u64,
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
        self.promoted += other.promoted;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.snapshots += other.snapshots;
        self.cuts += other.cuts;
        self.missing += other.missing;
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
            spares: pick(&[0, 1]) as usize,
            cut_one_in: pick(&[u64::MAX, 2_000, 200, 50]),
            delay: pick(&[MS / 5, 2 * MS, 20 * MS, 80 * MS]),
            disk: pick(&[MS / 10, MS, 10 * MS, 100 * MS]),
            store: pick(&[MS, 20 * MS, 500 * MS]),
            lost_one_in: pick(&[u64::MAX, 5, 2]),
            between: pick(&[400 * MS, 1_500 * MS, 4_000 * MS]),
        }
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
    /// A write of the log is on its way.
    syncing: bool,
    /// Everything up to there is on the disk.
    durable: u64,
    /// The log as the disk has it, while something has been cut off and that is not durable.
    before_cut: Option<Log>,
    /// What was on its way to the disk before it counts no more.
    generation: u64,
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

fn first_life(node: usize) -> Life {
    Life { node: NodeId(node as u16), incarnation: Incarnation(1) }
}

fn place(life: Life) -> usize {
    life.node.0 as usize
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = Rng::from_seed(seed);
        let lives = (0..faults.nodes as usize).map(first_life);
        let chain = Chain::first(1, lives).expect("they serve");
        let node = |place: usize, rng: &mut Rng| Node {
            replica: Replica::new(first_life(place), CONFIG, chain.clone(), 0),
            log: Log { kept: [0, 20, 100_000][rng.below(3) as usize], ..Log::default() },
            is_alive: true,
            paused_until: 0,
            offset: rng.below(1_000_000 * MS),
            drift: rng.below(49) as i64 - 24,
            learning: None,
            syncing: false,
            durable: 0,
            before_cut: None,
            generation: 0,
            reads: BTreeMap::new(),
        };
        let nodes =
            (0..faults.nodes as usize + faults.spares).map(|place| node(place, &mut rng)).collect();
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
            world.nodes[place].replica.want_membership(true);
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

    fn store_delay(&self) -> u64 {
        if self.is_peace() { MS } else { self.faults.store }
    }

    fn disk_delay(&self) -> u64 {
        if self.is_peace() { MS } else { self.faults.disk }
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
            Event::Durable { node, .. } | Event::Learnt { node, .. } | Event::Tell { node, .. } => {
                Some(*node)
            }
            Event::Restart(_) => None,
            Event::Message { envelope, .. } => Some(place(envelope.to)),
            Event::Piece { from, .. } => Some(place(*from)),
            Event::Proposed { .. } | Event::Client | Event::Fault => None,
            Event::Heal(..) | Event::Reset(..) => None,
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
            Event::Message { connection, envelope, beside } => {
                self.message(connection, envelope, &beside);
            }
            Event::Piece { from, link, pieces } => {
                let replica = &self.nodes[place(from)].replica;
                let piece = replica.piece(link, 1, true).filter(|piece| piece.from == from);
                if let Some(piece) = piece {
                    self.send(piece, Beside { pieces, ..Beside::default() });
                }
            }
            Event::Reset(one, other) => self.reset((one, other)),
            Event::Durable { node, generation, index } => {
                let it = &mut self.nodes[node];
                if generation != it.generation {
                    return;
                }
                (it.syncing, it.durable, it.before_cut) = (false, index, None);
                it.replica.durable(index, &it.log);
                self.effects(node);
                self.write_log(node);
            }
            Event::Learnt { node, generation } => {
                if generation == self.nodes[node].generation {
                    self.learnt(node);
                }
            }
            Event::Restart(node) => self.restart(node),
            Event::Proposed { node, chain } => self.proposed(node, chain),
            Event::Tell { node, chain } => {
                self.nodes[node].replica.seen(chain);
                self.effects(node);
            }
            Event::Look(node) => {
                let (chain, delay) = (self.store.clone(), self.some(self.store_delay()));
                self.after(delay, Event::Tell { node, chain });
                self.after(500 * MS, Event::Look(node));
            }
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Heal(one, other) => {
                self.cut.retain(|pair| *pair != (one, other));
                // What was said meanwhile is lost, and that is known.
                self.reset((one, other));
            }
        }
    }

    fn message(&mut self, connection: u64, envelope: Envelope, beside: &Beside) {
        let (from, to) = (place(envelope.from), place(envelope.to));
        if self.connections.get(&(from, to)).map(|(number, _)| *number) != Some(connection) {
            return;
        }
        let clock = self.clock(to);
        if self.trace {
            println!("{:>9} {from} → {to} {envelope:?}", self.now / 1_000);
        }
        if self.nodes[to].replica.own() != envelope.to {
            return;
        }
        let Node { replica, log, .. } = &mut self.nodes[to];
        let is_last = matches!(envelope.message, Message::Piece { is_last: true, .. });
        let is_piece = matches!(envelope.message, Message::Piece { .. });
        if is_piece && replica.takes_piece(&envelope) {
            log.table.extend(beside.pieces.iter().copied());
            log.is_void &= !is_last;
        }
        if let Taken::Behind(known) = replica.take(clock, envelope, log) {
            log.entries.extend_from_slice(&beside.entries[known as usize..]);
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
            let gone = self.store.members().iter().filter(|it| chain.role(it.life).is_none());
            self.seen.dropped += gone.count() as u64;
            let promoted =
                self.store.syncing().is_some_and(|it| chain.role(it) == Some(Role::Serving));
            self.seen.promoted += u64::from(promoted);
            self.store = chain;
        }
        let is_lost = !self.is_peace() && self.rng.below(self.faults.lost_one_in) == 0;
        for other in 0..self.nodes.len() {
            let is_told = if other == node { !is_lost } else { self.rng.below(2) == 0 };
            if is_told {
                let (chain, delay) = (self.store.clone(), self.some(self.store_delay()));
                self.after(delay, Event::Tell { node: other, chain });
            }
        }
    }

    /// Carries out what a replica wants.
    fn effects(&mut self, node: usize) {
        let effects: Vec<Effect> = self.nodes[node].replica.take_effects().collect();
        for effect in effects {
            match effect {
                Effect::Send(envelope) => self.send(envelope, Beside::default()),
                Effect::Forward(envelope) => {
                    let Message::Entries(head) = envelope.message else { unreachable!("entries") };
                    let log = &self.nodes[node].log;
                    let is_at_hand = head.count == 0 || head.first >= log.first_at_hand();
                    assert!(is_at_hand, "payloads are gone");
                    let entries = log.behind(head.first - 1)[..head.count as usize].to_vec();
                    self.send(envelope, Beside { entries, ..Beside::default() });
                }
                Effect::Cut(index) => {
                    let it = &mut self.nodes[node];
                    if it.before_cut.is_none() {
                        let mut before = it.log.clone();
                        before.entries.truncate((it.durable - before.base) as usize);
                        it.before_cut = Some(before);
                    }
                    it.log.cut(index);
                    it.durable = it.durable.min(index);
                    (it.syncing, it.generation) = (false, it.generation + 1);
                    self.seen.cuts += 1;
                }
                Effect::Void { as_of, epochs } => {
                    let it = &mut self.nodes[node];
                    let kept = it.log.kept;
                    it.log = Log {
                        base: as_of,
                        base_epochs: epochs,
                        is_void: true,
                        committed: as_of,
                        kept,
                        ..Log::default()
                    };
                    (it.durable, it.before_cut) = (as_of, None);
                    (it.syncing, it.generation) = (false, it.generation + 1);
                }
                Effect::Snapshot { link, as_of } => {
                    let log = &self.nodes[node].log;
                    assert_eq!(log.committed, as_of);
                    let pieces = (0..KEYS).map(|key| (key, log.value(key))).collect::<Vec<_>>();
                    let (one, other) = pieces.split_at(1);
                    let first = self.nodes[node].replica.piece(link, 0, false);
                    let first = first.expect("the link is the one that it was asked for on");
                    let from = first.from;
                    self.send(first, Beside { pieces: one.to_vec(), ..Beside::default() });
                    // Entries come in between.
                    let delay = self.some(100 * MS);
                    self.after(delay, Event::Piece { from, link, pieces: other.to_vec() });
                    self.seen.snapshots += 1;
                }
                Effect::Commit(index) => self.commit(node, index),
                Effect::Learn(chain) => self.learn(node, chain),
                Effect::Propose(chain) => {
                    let delay = self.some(self.store_delay());
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

    fn send(&mut self, envelope: Envelope, beside: Beside) {
        let pair = (place(envelope.from), place(envelope.to));
        let is_peace = self.is_peace();
        if self.cut.contains(&pair) {
            return;
        }
        if !is_peace && self.rng.below(self.faults.cut_one_in) == 0 {
            // What is said behind it may come before anybody knows that this was lost.
            let delay = self.some(self.faults.delay);
            return self.after(delay, Event::Reset(pair.0, pair.1));
        }
        let delay = self.some(if is_peace { MS / 5 } else { self.faults.delay });
        let (number, last) = *self.connections.entry(pair).or_insert((0, 0));
        let at = (self.now + delay).max(last + 1);
        self.connections.insert(pair, (number, at));
        let event = Event::Message { connection: number, envelope, beside };
        self.after(at - self.now, event);
    }

    /// What was on its way is lost, both ways; both ends learn of it.
    fn reset(&mut self, (one, other): (usize, usize)) {
        for (from, to) in [(one, other), (other, one)] {
            let connection = self.connections.entry((from, to)).or_insert((0, 0));
            *connection = (connection.0 + 1, self.now);
            let peer = self.nodes[to].replica.own();
            if self.nodes[from].is_alive {
                self.nodes[from].replica.disconnected(peer);
            }
        }
        for node in [one, other] {
            self.effects(node);
        }
    }

    fn learn(&mut self, node: usize, chain: Chain) {
        let it = &mut self.nodes[node];
        if it.learning.as_ref().is_some_and(|other| other.epoch() >= chain.epoch()) {
            return;
        }
        let is_new = it.learning.replace(chain).is_none();
        if is_new {
            let delay = self.some(self.disk_delay());
            let generation = self.nodes[node].generation;
            self.after(delay, Event::Learnt { node, generation });
        }
    }

    fn write_log(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        // What is beside a snapshot is durable with it.
        if it.log.is_void || it.syncing || it.durable == it.log.received() {
            return;
        }
        it.syncing = true;
        let (index, generation) = (it.log.received(), it.generation);
        let delay = self.some(self.disk_delay());
        self.after(delay, Event::Durable { node, generation, index });
    }

    fn commit(&mut self, node: usize, index: u64) {
        let log = &mut self.nodes[node].log;
        assert!(index <= log.received(), "only what is there commits");
        for at in log.committed + 1..=index {
            let entry = log.at(at);
            match self.committed.get(at as usize - 1) {
                Some(there) => assert_eq!(*there, entry, "one index has two identities"),
                None => self.committed.push(entry),
            }
        }
        log.committed = log.committed.max(index);
        let replica = &self.nodes[node].replica;
        if replica.is_tail() && index > self.acknowledged {
            self.seen.acknowledged += index - self.acknowledged;
            self.acknowledged = index;
            for member in replica.chain().serving() {
                let it = &self.nodes[place(member)];
                let has = it.is_alive && it.replica.own() == member;
                let late = has && it.durable < index;
                assert!(!late, "{index} was acknowledged, and {member} has {}", it.durable);
            }
        }
    }

    /// CHAIN §8.3: what was acknowledged is in every later configuration. Who lags behind the newest one may
    /// act in one that is over.
    fn check_acknowledged(&self, node: usize) {
        let Node { replica, log, .. } = &self.nodes[node];
        let serves = replica.chain().role(replica.own()) == Some(Role::Serving);
        if *replica.chain() == self.store && serves {
            let has = log.received();
            assert!(has >= self.acknowledged, "node {node} has {has} of {}", self.acknowledged);
            let from = log.base as usize..self.acknowledged.max(log.base) as usize;
            assert_eq!(log.entries[..from.len()], self.committed[from]);
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
        let bound = it.log.received().saturating_sub(it.log.committed) < 50;
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
        let in_flight = it.log.behind(it.log.committed);
        if !in_flight.iter().any(|entry| entry.key == key) {
            let value = it.log.value(key);
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
            let value = self.nodes[node].log.value(read.key);
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
            0 if self.nodes[one].is_alive => {
                // One that serves has to be left.
                let store = self.store.clone();
                let mut left = store.serving().filter(|it| place(*it) != one);
                if left.any(|it| self.is_alive(it)) {
                    self.nodes[one].is_alive = false;
                    let away = self.some(1_500 * MS);
                    self.after(away, Event::Restart(one));
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

    /// This member's process runs.
    fn is_alive(&self, member: Life) -> bool {
        let it = &self.nodes[place(member)];
        it.is_alive && it.replica.own() == member
    }

    /// A node that has crashed comes back with what was durable, as another member; or with nothing.
    fn restart(&mut self, node: usize) {
        let loses_disk = self.rng.below(5) == 0;
        let forgotten = self.rng.next_u64();
        let it = &mut self.nodes[node];
        if let Some(before) = it.before_cut.take() {
            it.log = before;
            it.durable = it.log.received();
        }
        if loses_disk || it.log.is_void {
            it.log = Log { kept: it.log.kept, ..Log::default() };
            it.durable = 0;
        }
        let log = &mut it.log;
        log.entries.truncate((it.durable - log.base) as usize);
        // How far it had committed is known from a while ago.
        log.committed = log.committed.min(it.durable);
        log.committed -= forgotten % (log.committed - log.base + 1);
        let incarnation = Incarnation(it.replica.own().incarnation.0 + 1);
        let own = Life { incarnation, ..it.replica.own() };
        it.replica = Replica::new(own, CONFIG, self.store.clone(), it.durable);
        it.replica.want_membership(true);
        (it.is_alive, it.syncing, it.learning) = (true, false, None);
        it.generation += 1;
        it.reads.clear();
        self.seen.restarts += 1;
        if self.trace {
            println!(
                "{:>9} {node} starts again with {}",
                self.now / 1_000,
                self.nodes[node].durable
            );
        }
        for other in 0..self.nodes.len() {
            self.reset((node, other));
        }
        self.after(1, Event::Tick(node));
        self.after(1, Event::Look(node));
    }

    /// In peace everything has come right.
    fn check_end(&mut self) {
        if !self.store.serving().any(|it| self.is_alive(it)) {
            return;
        }
        let trouble = format!("at the end of {:?}", self.faults);
        assert!(self.store.serving().all(|it| self.is_alive(it)), "{} {trouble}", self.store);
        for member in self.store.serving().map(place) {
            let Node { replica, log, .. } = &self.nodes[member];
            assert_eq!(*replica.chain(), self.store, "node {member}");
            let late = self.committed.len() as u64 - log.committed;
            assert!(late < 100, "node {member} is {late} behind");
            let clock = self.clock(member);
            assert_eq!(replica.may_read(clock, log), Ok(()), "node {member} of {}", self.store);
            for key in 0..KEYS {
                let expected = last_write(&self.committed[..log.committed as usize], key);
                assert_eq!(log.value(key), expected, "node {member}");
            }
        }
        self.seen.missing += (self.nodes.len() - self.store.serving().count()) as u64;
    }
}
