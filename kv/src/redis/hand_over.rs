//! What this shard has asked of others, and others of it.
//!
//! ```text
//! this shard                              the other one
//! ask ─► outbound ══ Bundle::Asked ═════► carry out ─┬─ known ──────────────► told
//!                                                    ├─ waits for a commit ─► held ─► told
//!                                                    └─ a walk, piece by piece ─────► told
//! told ◄════════════ Bundle::Told ═══════════════════════════════════════════════════┘
//! ```

use super::answers::{Gate, Ticket};
use super::bundle::{AskKey, Bundle, Commands, Whole};
use super::everywhere::Gathering;
use crate::resp::{Args, Protocol};
use catena_engine::Local;
use catena_engine::shard_index::ShardIndex;
use catena_engine::stream::StreamId;
use slotmap::SlotMap;

/// See the module page.
#[derive(Debug)]
pub struct HandOver {
    asks: SlotMap<AskKey, Waiting>,
    /// By shard: what it is to be asked, and told.
    outbound: Vec<[Commands; 2]>,
    /// Shards that have something outbound.
    has_outbound: bool,
    held: Vec<Held>,
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

impl HandOver {
    /// Between so many shards.
    pub fn new(shards: u16) -> Self {
        HandOver {
            asks: SlotMap::default(),
            outbound: (0..shards).map(|_| Default::default()).collect(),
            has_outbound: false,
            held: Vec::new(),
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

    /// The parts that have come, for who waits for the whole.
    pub fn gathering(&mut self, ask: AskKey) -> Option<&mut Gathering> {
        match self.asks.get_mut(ask)? {
            Waiting::Whole(gathering) => Some(gathering),
            _ => None,
        }
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

    /// Answers a command that another shard has asked for.
    pub fn tell(&mut self, asker: Asker, text: &[u8]) {
        self.has_outbound = true;
        self.outbound[asker.shard.index()][TOLD].tell(asker.ask, text);
    }

    /// As [`HandOver::tell`], once all of `gates` have opened.
    pub fn tell_after(&mut self, asker: Asker, gates: Vec<Gate>, text: &[u8]) {
        self.held.push(Held { asker, gates, text: text.to_vec() });
    }

    /// Tells what waited for commits that have come since.
    pub fn release(&mut self, committed: impl Fn(usize) -> u64) {
        let is_open = |gate: &Gate| committed(gate.partition) >= gate.index;
        for held in self.held.extract_if(.., |held| held.gates.iter().all(is_open)) {
            self.has_outbound = true;
            self.outbound[held.asker.shard.index()][TOLD].tell(held.asker.ask, &held.text);
        }
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
