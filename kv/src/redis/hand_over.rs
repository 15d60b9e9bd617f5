//! What this shard has asked of others, and others of it.
//!
//! ```text
//! this shard                              the other one
//! ask ─► outbound ══ Bundle::Asked ═════► carry out ─┬─ known ──────────────► told
//!                                                    ├─ waits for a commit ─► held ─► told
//!                                                    └─ a walk, piece by piece ─────► told
//! told ◄════════════ Bundle::Told ═══════════════════════════════════════════════════┘
//! ```

use super::answers::Ticket;
use super::bundle::{AskKey, Bundle, Commands, Whole};
use super::debts::{Debts, Gathered, Share};
use super::everywhere::Gathering;
use super::split::{Part, Split};
use crate::resp::{Args, Protocol};
use crate::store::gate::{Gate, GateState};
use catena_engine::Local;
use catena_engine::shard_index::ShardIndex;
use catena_engine::stream::StreamId;
use slotmap::SlotMap;
use std::sync::Arc;

/// See the module page.
#[derive(Debug)]
pub struct HandOver {
    asks: SlotMap<AskKey, Waiting>,
    /// By shard: what it is to be asked, and told.
    outbound: Vec<[Commands; 2]>,
    /// Shards that have something outbound.
    has_outbound: bool,
    held: Vec<Held>,
    /// Bytes of these.
    held_bytes: usize,
    here: ShardIndex,
    debts: Arc<Debts>,
    #[expect(clippy::vec_box, reason = "they are kept as they are sent")]
    spare: Vec<Box<Bundle>>,
}

/// Who waits for an answer.
#[derive(Debug)]
pub enum Waiting {
    /// A client.
    Client(StreamId, Ticket, Protocol),
    /// A client, for the parts of all shards.
    Whole(Gathering),
    /// The whole that this is a part of.
    Part(AskKey),
    /// A client, for what several shards do of a command.
    Split(Split),
    /// The split command of which this is a part.
    SplitPart(AskKey, Part),
}

/// Whose answer it is, on the shard that gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// The shard that asks.
    pub shard: ShardIndex,
    /// By what it knows it.
    pub ask: AskKey,
}

/// An answer that waits for commits.
#[derive(Debug)]
struct Held {
    asker: Asker,
    gates: Vec<Gate>,
    text: Vec<u8>,
}

const ASKED: usize = 0;
const TOLD: usize = 1;

/// Bundles that are kept for the next turns: two for each of a few shards.
const SPARE_MAX: usize = 16;

/// Bytes of answers that a shard is told in a turn before the rest waits for the next one, and of large ones
/// before those have gone on. Nobody knows how long an answer will be before it is there, and the one that
/// asks ends a client that does not read; so it has to see the first ones before the last ones are made.
const TOLD_BYTES_MAX: usize = 8 << 20;

impl HandOver {
    /// Of shard `here` among so many, which owe each other what `debts` says.
    pub fn new(here: ShardIndex, shards: u16, debts: Arc<Debts>) -> Self {
        HandOver {
            asks: SlotMap::default(),
            outbound: (0..shards).map(|_| Default::default()).collect(),
            has_outbound: false,
            held: Vec::new(),
            held_bytes: 0,
            here,
            debts,
            spare: Vec::new(),
        }
    }

    /// Commands of this shard's clients that others carry out.
    pub fn asked(&self) -> usize {
        self.asks.len()
    }

    /// Notes who waits.
    pub fn wait(&mut self, waiting: Waiting) -> AskKey {
        self.asks.insert(waiting)
    }

    /// Who waits, no more.
    pub fn waiting(&mut self, ask: AskKey) -> Option<Waiting> {
        self.asks.remove(ask)
    }

    /// The client of this shard that waits for the whole of which this is a part, if it is one of this
    /// shard's.
    pub fn client_of_part(&self, asker: Asker, here: ShardIndex) -> Option<StreamId> {
        let Some(Waiting::Part(whole)) = self.asks.get(asker.ask).filter(|_| asker.shard == here)
        else {
            return None;
        };
        let Some(Waiting::Whole(gathering)) = self.asks.get(*whole) else { return None };
        match self.asks.get(gathering.waiting)? {
            Waiting::Client(stream, ..) => Some(*stream),
            _ => None,
        }
    }

    /// The parts that have come, for who waits for the whole.
    pub fn gathering(&mut self, ask: AskKey) -> Option<&mut Gathering> {
        match self.asks.get_mut(ask)? {
            Waiting::Whole(gathering) => Some(gathering),
            _ => None,
        }
    }

    /// The parts of a split command that have come.
    pub fn split(&mut self, ask: AskKey) -> Option<&mut Split> {
        match self.asks.get_mut(ask)? {
            Waiting::Split(split) => Some(split),
            _ => None,
        }
    }

    /// Has several commands of one name carried out by a shard.
    pub fn ask_each(&mut self, shard: ShardIndex, ask: AskKey, protocol: Protocol, text: &[u8]) {
        self.has_outbound = true;
        self.outbound[shard.index()][ASKED].ask_each(ask, protocol, text);
    }

    /// Has a command carried out by another shard.
    pub fn ask(
        &mut self,
        shard: ShardIndex,
        ask: AskKey,
        protocol: Protocol,
        whole: Whole,
        args: &Args<'_>,
    ) {
        self.has_outbound = true;
        self.outbound[shard.index()][ASKED].ask(ask, protocol, whole, args);
    }

    /// Answers a command that another shard has asked for; an empty text says that the answer is lost.
    pub fn tell(&mut self, asker: Asker, text: &[u8]) {
        self.has_outbound = true;
        self.outbound[asker.shard.index()][TOLD].tell(asker.ask, text);
        self.debts.give(self.here, asker.shard, text.len());
    }

    /// As [`HandOver::tell`], once all of `gates` have opened.
    pub fn tell_after(&mut self, asker: Asker, gates: Vec<Gate>, text: &[u8]) {
        self.held_bytes += text.len();
        self.held.push(Held { asker, gates, text: text.to_vec() });
    }

    /// Tells what waited for commits that have come since, or never will.
    pub fn release(&mut self, state: impl Fn(&Gate) -> GateState) {
        let is_known = |held: &mut Held| {
            held.gates.retain(|gate| state(gate) != GateState::Open);
            held.gates.is_empty() || held.gates.iter().any(|gate| state(gate) == GateState::Lost)
        };
        for mut held in self.held.extract_if(.., is_known) {
            self.has_outbound = true;
            self.held_bytes -= held.text.len();
            if !held.gates.is_empty() {
                held.text.clear();
            }
            self.outbound[held.asker.shard.index()][TOLD].tell(held.asker.ask, &held.text);
            self.debts.give(self.here, held.asker.shard, held.text.len());
        }
    }

    /// An answer of a shard has come, and waits as one of `gathered`.
    pub fn has_come(&self, from: ShardIndex, text: &[u8], gathered: &Gathered) -> Option<Share> {
        self.debts.take((from, self.here), text.len(), gathered)
    }

    /// What has come of commands that several shards carry out, by their clients.
    pub fn part_bytes(&self) -> impl Iterator<Item = (StreamId, usize)> + '_ {
        self.asks.values().filter_map(|waiting| {
            let (whole, bytes) = match waiting {
                Waiting::Split(split) => (split.waiting, split.bytes()),
                Waiting::Whole(gathering) => (gathering.waiting, gathering.bytes()),
                _ => return None,
            };
            let Some(Waiting::Client(stream, ..)) = self.asks.get(whole) else { return None };
            Some((*stream, bytes))
        })
    }

    /// A client has gone: what comes of its commands that several shards carry out is not kept.
    pub fn forget(&mut self, client: StreamId) {
        let whole = |waiting: &Waiting| match waiting {
            Waiting::Split(split) => Some(split.waiting),
            Waiting::Whole(gathering) => Some(gathering.waiting),
            _ => None,
        };
        let is_its = |waiting: &Waiting| {
            let client_of = whole(waiting).and_then(|whole| self.asks.get(whole));
            matches!(client_of, Some(Waiting::Client(it, ..)) if *it == client)
        };
        let wholes = self.asks.iter().filter(|(_, waiting)| is_its(waiting));
        let wholes: Vec<AskKey> = wholes.map(|(ask, _)| ask).collect();
        for ask in wholes {
            let waiting = self.asks.remove(ask);
            if let Some(client) = waiting.as_ref().and_then(whole) {
                self.asks.remove(client);
            }
        }
    }

    /// True if no more should be answered to a shard in this turn.
    pub fn has_told_much(&self, shard: ShardIndex) -> bool {
        self.outbound[shard.index()][TOLD].told_bytes() >= TOLD_BYTES_MAX
    }

    /// True if no more should be answered to a shard before what it was answered has gone on. `may_last`:
    /// that it waits for something that may take long.
    pub fn is_owed_much(&self, shard: ShardIndex, may_last: impl FnOnce() -> bool) -> bool {
        let (owed, under_way) = self.debts.between(self.here, shard);
        under_way >= TOLD_BYTES_MAX || (owed >= TOLD_BYTES_MAX && !may_last())
    }

    /// True if what waits for commits is so much that no more should be answered before they come.
    pub fn holds_much(&self) -> bool {
        self.held_bytes >= TOLD_BYTES_MAX
    }

    /// Sends everything that is outbound.
    pub fn send(&mut self, local: &Local) {
        if !std::mem::take(&mut self.has_outbound) {
            return;
        }
        for (shard, outbound) in (0..).map(ShardIndex).zip(&mut self.outbound) {
            for (kind, commands) in outbound.iter_mut().enumerate() {
                if commands.is_empty() {
                    continue;
                }
                let mut message = self.spare.pop().unwrap_or_default();
                let memory = std::mem::replace(commands, message.take());
                *message = if kind == ASKED { Bundle::Asked(memory) } else { Bundle::Told(memory) };
                local.send(shard, message);
            }
        }
    }

    /// Keeps the memory of a message that was read.
    pub fn keep(&mut self, mut message: Box<Bundle>, mut commands: Commands) {
        if self.spare.len() < SPARE_MAX {
            commands.clear();
            *message = Bundle::Told(commands);
            self.spare.push(message);
        }
    }
}
