//! One replica of one partition: how entries go down the chain, how they commit, who may read, and what
//! happens when members fail. The chain protocol as a state machine: whatever happens is told to it, and it
//! says what is to be done ([`Effect`]); it knows no clock, network, disk or key.
//!
//! ```text
//!            ordered                entries ─►                 entries ─►
//! client ──────────► head ─────────────────────► middle ───────────────────► tail ──► committed
//!                     │ log                        │ log                      │ log
//!                     ◄──────────── committed ─────◄──────────── committed ───┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`message`] | what replicas say to each other |
//! | [`wire`] | the same as bytes |
//! | [`link`] | to the successor and from the predecessor: opened, replayed, closed |
//! | [`joining`] | how a member comes, or comes back: asking, catching up, being promoted |
//! | [`suspicion`] | who does not answer, and who says so |
//! | [`removal`] | dropping members: when that is safe, and proposing it |
//!
//! The numbers in comments (CHAIN §3 …) are those of the chain protocol's rules; ✦ marks the ones that a
//! model lost data without.

pub mod joining;
pub mod link;
pub mod message;
pub mod removal;
pub mod suspicion;
pub mod wire;

use crate::chain::lease::{Grant, LeaseConfig, Leases};
use crate::chain::rules::{Rule, holds};
use crate::chain::{Chain, Life, Role};
use catena_engine::time::{Duration, Instant};
use joining::{Joiner, Knocking, Loading};
use link::{Downstream, Upstream};
use message::{Entries, Envelope, Message, Position};
use removal::Removal;
use suspicion::Suspicion;

/// Times of a replica. All members of a chain are told the same ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaConfig {
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// How long grants are, and how far clocks may differ.
    pub lease: LeaseConfig,
}

impl Default for ReplicaConfig {
    /// CHAIN §3: heartbeats each 50 ms, grants of 300 ms, clocks that differ by 5 % at most.
    fn default() -> Self {
        let lease = LeaseConfig { length: Duration::from_millis(300), margin_thousandths: 50 };
        ReplicaConfig { heartbeat: Duration::from_millis(50), lease }
    }
}

/// What a replica has to know of its partition's entries.
pub trait History {
    /// The index of the last entry in the log.
    fn received(&self) -> u64;
    /// The index of the last one that has committed.
    fn committed(&self) -> u64;
    /// The first index of each epoch in the log, and its number.
    fn epochs(&self) -> Vec<(u64, u32)>;
    /// The first entry whose payload is at hand; one behind the last if there is none.
    fn first_at_hand(&self) -> u64;
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Say this. It may get lost, and what is said to one member comes in its order or not at all.
    Send(Envelope),
    /// Send these entries of the log.
    Forward(Envelope),
    /// Everything up to this index has committed.
    Commit(u64),
    /// A newer chain: it is to be made durable, then [adopted](Replica::adopt).
    Learn(Chain),
    /// Have the config store put this chain in the place of the one before it, by its epoch.
    Propose(Chain),
    /// What is in the log behind this index was never acknowledged: it goes, with all that came of it, and
    /// before anything is added.
    Cut(u64),
    /// A snapshot as of this index will come: whatever is there goes, and until the snapshot is complete
    /// nothing of it counts, also after a restart.
    Void {
        /// The index.
        as_of: u64,
        /// The epochs up to there.
        epochs: Vec<(u64, u32)>,
    },
    /// Send a snapshot as of this index, which has committed now, in [pieces](Replica::piece).
    Snapshot {
        /// On this link.
        link: u64,
        /// The index.
        as_of: u64,
    },
    /// Up to there the tail has committed, at some instant since this was asked.
    Told {
        /// Of the query.
        number: u64,
        /// The index.
        committed: u64,
    },
}

/// What becomes of entries that have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// All but so many at the beginning, which are there already, go into the log.
    Behind(u64),
    /// None of them.
    Nothing,
}

/// Why no read is answered at this instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MayNotRead {
    /// It is no serving member.
    NotServing,
    /// Some member's grant has lapsed.
    NoLease,
    /// It has become tail, and what the tail before it may have committed has not committed here.
    Behind,
}

/// See the module page.
#[derive(Debug)]
pub struct Replica {
    own: Life,
    config: ReplicaConfig,
    chain: Chain,
    leases: Leases,
    /// Everything up to this index is safely on this disk.
    durable: u64,
    /// The same of all members before this one.
    upstream_durable: u64,
    upstream: Option<Upstream>,
    downstream: Option<Downstream>,
    /// Links that were opened to successors.
    links: u64,
    /// Nothing is read here before everything up to this index has committed.
    barrier: u64,
    suspicion: Suspicion,
    removal: Option<Removal>,
    /// As the tail: who is being added.
    joiner: Option<Joiner>,
    /// As who is none yet: asking to be a member.
    knocking: Knocking,
    /// A snapshot has begun to come and is not complete, whatever becomes of the link: nothing that is there
    /// counts.
    loading: Option<Loading>,
    /// The same: what the tail has said has committed.
    known_committed: u64,
    /// The same: what the tail was told last, and on which link.
    told_durable: Option<(u64, u64)>,
    /// As the tail: when somebody's becoming a member was proposed last.
    appending_since: Option<Instant>,
    effects: Vec<Effect>,
}

impl Replica {
    /// A replica that has been told of this chain, with what its log has of it: `durable` is the last entry
    /// that is safely on the disk.
    pub fn new(own: Life, config: ReplicaConfig, chain: Chain, durable: u64) -> Self {
        let mut replica = Replica {
            own,
            config,
            leases: Leases::new(own, config.lease),
            durable,
            upstream_durable: 0,
            upstream: None,
            downstream: None,
            links: 0,
            barrier: 0,
            suspicion: Suspicion::default(),
            removal: None,
            joiner: None,
            knocking: Knocking::default(),
            loading: None,
            known_committed: 0,
            told_durable: None,
            appending_since: None,
            effects: Vec::new(),
            chain,
        };
        replica.suspicion.adopt(own, &replica.chain);
        replica.take_place(durable);
        replica
    }

    /// Who this is.
    pub fn own(&self) -> Life {
        self.own
    }

    /// The chain that it acts in.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// True if it orders writes.
    pub fn is_head(&self) -> bool {
        self.chain.head() == self.own
    }

    /// True if it is a member that has everything, and may answer reads.
    pub fn serves(&self) -> bool {
        self.chain.role(self.own) == Some(Role::Serving)
    }

    /// True if it commits them.
    pub fn is_tail(&self) -> bool {
        self.chain.tail() == self.own
    }

    /// What is to be done since this was asked last, in this order.
    pub fn take_effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// Whether reads may be answered at this instant, which was stamped after the turn's input was taken in,
    /// and before the value is read.
    ///
    /// # Errors
    /// [`MayNotRead`].
    pub fn may_read(&self, now: Instant, history: &impl History) -> Result<(), MayNotRead> {
        if self.chain.role(self.own) != Some(Role::Serving) {
            return Err(MayNotRead::NotServing);
        }
        // CHAIN §3 ✦ Reads: a live grant from every other member, the syncing one included.
        if !self.leases.may_read(now, &self.chain) && holds(Rule::ReadsNeedGrants) {
            return Err(MayNotRead::NoLease);
        }
        // CHAIN §5 ✦: who became tail answers nothing until `committed` is what `received` was then.
        let is_behind = self.is_tail() && history.committed() < self.barrier;
        if is_behind && holds(Rule::NewTailsCatchUp) {
            return Err(MayNotRead::Behind);
        }
        Ok(())
    }

    /// A newer chain is durable here: this acts in it from now on.
    pub fn adopt(&mut self, now: Instant, chain: Chain, history: &impl History) {
        if chain.epoch() <= self.chain.epoch() {
            return;
        }
        let was_member = self.chain.role(self.own).is_some();
        self.chain = chain;
        if was_member && self.chain.role(self.own).is_none() {
            self.knocking.was_dropped(now);
        }
        self.leases.adopt(now, &self.chain);
        self.suspicion.adopt(self.own, &self.chain);
        (self.removal, self.appending_since) = (None, None);
        self.take_place(history.received());
        self.send_heartbeats(now);
        self.open_downstream();
        self.advance(history);
    }

    /// What follows from where it stands in the chain: every change closes the links, and they are opened
    /// again (CHAIN §4.2).
    fn take_place(&mut self, received: u64) {
        (self.upstream, self.downstream, self.joiner) = (None, None, None);
        if self.is_head() {
            self.upstream_durable = u64::MAX;
        }
        if self.is_tail() {
            self.barrier = received;
        }
    }

    /// The head has ordered an entry, or several; or a replica has taken some into its log.
    pub fn received(&mut self, history: &impl History) {
        self.advance(history);
    }

    /// Everything up to this index is safely on the disk.
    pub fn durable(&mut self, index: u64, history: &impl History) {
        self.durable = self.durable.max(index);
        self.advance(history);
    }

    /// Time has passed: to be called once in each [heartbeat](ReplicaConfig::heartbeat).
    pub fn tick(&mut self, now: Instant) {
        self.suspicion.tick(now, &self.config);
        self.send_heartbeats(now);
        self.see_to_removal(now);
        self.see_to_joiner(now);
        self.knock(now);
        self.ask_again_to_open();
    }

    /// The connection to a member has been lost: what was said to it may not have come.
    pub fn disconnected(&mut self, peer: Life) {
        if self.downstream.as_ref().is_some_and(|it| it.peer == peer) {
            self.open_downstream();
        }
        if self.upstream.is_some_and(|it| it.peer == peer) {
            self.upstream = None;
        }
    }

    /// The config store has this chain; it was read there, or a proposal met it.
    pub fn seen(&mut self, chain: Chain) {
        if chain.epoch() > self.chain.epoch() {
            self.effects.push(Effect::Learn(chain));
        }
    }

    /// Asks the tail up to where it has committed; [`Effect::Told`] answers, or nothing does.
    pub fn query(&mut self, number: u64, now: Instant, history: &impl History) {
        if !self.is_tail() {
            return self.send(self.chain.tail(), Message::Query { number });
        }
        if self.may_read_dirty(now, history) {
            let committed = history.committed();
            self.effects.push(Effect::Told { number, committed });
        }
    }

    /// Whether this is the tail and may say up to where it has committed.
    fn may_read_dirty(&self, now: Instant, history: &impl History) -> bool {
        // CHAIN §6.5 ✦: who has proposed another tail says nothing about what is in flight.
        let is_promoting = self.joiner.as_ref().is_some_and(Joiner::is_proposed);
        let may_read = self.may_read(now, history).is_ok() || !holds(Rule::QueriesNeedGrants);
        self.is_tail() && may_read && !(is_promoting && holds(Rule::PromotersSayNothing))
    }

    /// A message has come. What becomes of the entries that come with it.
    pub fn take(&mut self, now: Instant, envelope: Envelope, history: &impl History) -> Taken {
        let Envelope { from, to, epoch, message } = envelope;
        if to != self.own {
            return Taken::Nothing;
        }
        if let Message::Heartbeat { chain, .. } | Message::Stale(chain) = &message {
            self.seen(chain.clone());
        }
        // CHAIN §5: lower: refused with the newest chain. Higher: it has to be learnt first, and whoever
        // adopts it says so, which brings what was said once more.
        if epoch > self.chain.epoch() {
            return Taken::Nothing;
        }
        if epoch < self.chain.epoch() {
            if !matches!(message, Message::Stale(_)) {
                self.send(from, Message::Stale(self.chain.clone()));
            }
            return Taken::Nothing;
        }
        match message {
            Message::Heartbeat { ask, accused, .. } => {
                self.suspicion.heard(from);
                self.suspicion.accused_by(now, from, accused, &self.config);
                let grant = self.leases.answer(now, &self.chain, from, ask);
                self.send(from, Message::Granted(grant));
                // It may have come to this epoch just now, and missed the link's opening.
                if self.chain.successor(self.own) == Some(from) {
                    self.ask_again_to_open();
                }
            }
            Message::Granted(grant) => {
                self.suspicion.heard(from);
                self.granted(now, from, grant);
            }
            Message::Stale(_) => {}
            Message::Open { link } => self.take_open(from, link, history),
            Message::Opened { link, position } => self.take_opened(from, link, &position, history),
            Message::Begin { link, start } => self.take_begin(from, link, start, history),
            Message::Piece { link, number, is_last } => {
                self.take_piece(from, (link, number, is_last), history);
            }
            Message::Durable { link, index } => self.take_durable(from, link, index, history),
            Message::Join { heard } => self.take_join(now, from, &heard),
            Message::Heard => self.knocking.heard(now, from),
            Message::Entries(entries) => return self.take_entries(from, entries, history),
            Message::Committed { link, committed } => {
                self.take_committed(from, link, committed, history);
            }
            Message::Closed { link } => {
                if self.downstream.as_ref().is_some_and(|it| it.peer == from && it.link == link) {
                    self.open_downstream();
                }
            }
            Message::Query { number } => {
                // CHAIN §3 ✦: a version query is answered under the same leases as a read.
                if self.may_read_dirty(now, history) {
                    let committed = history.committed();
                    self.send(from, Message::Told { number, committed });
                }
            }
            Message::Told { number, committed } => {
                if from == self.chain.tail() {
                    self.effects.push(Effect::Told { number, committed });
                }
            }
        }
        Taken::Nothing
    }

    fn granted(&mut self, now: Instant, from: Life, grant: Option<Grant>) {
        let Some(grant) = grant else { return };
        self.leases.take(now, from, &grant);
        self.suspicion.granted(from);
    }

    fn send_heartbeats(&mut self, now: Instant) {
        if self.chain.role(self.own).is_none() {
            return;
        }
        let ask = self.leases.ask(now);
        for other in self.chain.others(self.own).collect::<Vec<_>>() {
            let (chain, accused) = (self.chain.clone(), self.suspicion.accused().collect());
            self.send(other, Message::Heartbeat { ask, chain, accused });
        }
    }

    /// What may go on, goes on: entries to the successor, and what has become durable everywhere commits.
    fn advance(&mut self, history: &impl History) {
        self.forward(history);
        // CHAIN §4.3 ✦: the tail commits what is durable before it and on its own disk, also right after it
        // became tail.
        if self.is_tail() {
            let mut safe = history.received();
            if holds(Rule::CommitsAreDurableUpstream) {
                safe = safe.min(self.upstream_durable);
            }
            if holds(Rule::CommitsAreDurable) {
                safe = safe.min(self.durable);
            }
            // CHAIN §6.3, §6.5 ✦: who is about to become the tail has to have it, too.
            if let Some(bound) = self.joiner.as_ref().and_then(Joiner::commits_up_to) {
                safe = safe.min(bound);
            }
            self.commit(safe, history);
        }
        if self.chain.role(self.own) == Some(Role::Syncing) && self.loading.is_none() {
            self.commit(self.known_committed.min(history.received()), history);
        }
        self.tell_durable();
    }

    fn commit(&mut self, index: u64, history: &impl History) {
        if index <= history.committed() {
            return;
        }
        self.effects.push(Effect::Commit(index));
        if let Some(Upstream { peer, link, .. }) = self.upstream {
            self.send(peer, Message::Committed { link, committed: index });
        }
    }

    fn send(&mut self, to: Life, message: Message) {
        let envelope = Envelope { from: self.own, to, epoch: self.chain.epoch(), message };
        self.effects.push(Effect::Send(envelope));
    }

    /// Everything up to this index is safely on the disks of this member and of all before it.
    fn durable_so_far(&self) -> u64 {
        self.upstream_durable.min(self.durable)
    }
}

/// What is in the log.
fn position_of(history: &impl History) -> Position {
    let (received, committed) = (history.received(), history.committed());
    Position { received, committed, epochs: history.epochs(), is_void: false }
}

/// As [`Entries`], to send.
fn entries_envelope(from: Life, to: Life, epoch: u32, entries: Entries) -> Envelope {
    Envelope { from, to, epoch, message: Message::Entries(entries) }
}

#[cfg(test)]
mod tests;
