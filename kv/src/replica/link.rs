//! The links of a replica: from its predecessor, and to its successor (CHAIN §4.2).
//!
//! ```text
//! predecessor ── Open ──────────────► successor     closes its older links, then tells what it has
//!             ◄───────────── Opened ──
//!             ── Entries … ─────────►               from the first that it lacks on
//!             ◄─────────── Committed ─
//! ```
//!
//! A link is of one epoch and one connection, and has a number of which the highest counts on both sides.

use super::message::{Entries, Message, Position};
use super::{Effect, History, Replica, Taken, entries_envelope, position_of};
use crate::chain::rules::{Rule, holds};
use crate::chain::{Life, Role};

/// The link from the predecessor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// From whom.
    pub peer: Life,
    /// Its number.
    pub link: u64,
    /// As who is syncing: it was said where this one goes on. What comes on a link on which that was lost is
    /// not taken.
    pub has_begun: bool,
}

/// The link to the successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Downstream {
    /// To whom.
    pub peer: Life,
    /// Its number.
    pub link: u64,
    sent: Option<Sent>,
}

/// What was sent on a link that is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sent {
    /// The last entry.
    index: u64,
    /// Up to where they are durable.
    durable: u64,
    /// Up to where they had committed.
    committed: u64,
}

impl Sent {
    /// Nothing since this entry.
    fn behind(index: u64) -> Self {
        Sent { index, durable: 0, committed: 0 }
    }
}

impl Downstream {
    /// True if entries go out on it.
    pub fn is_open(&self) -> bool {
        self.sent.is_some()
    }
}

impl Replica {
    /// Opens the link to the successor, anew if there was one.
    pub(super) fn open_downstream(&mut self) {
        let Some(peer) = self.chain.successor(self.own) else { return };
        self.links += 1;
        self.joiner_is_cut_off();
        let link = self.links;
        self.downstream = Some(Downstream { peer, link, sent: None });
        self.send(peer, Message::Open { link });
    }

    /// Asks the successor once more, by the same number: whatever has become of the first time.
    pub(super) fn ask_again_to_open(&mut self) {
        match self.downstream {
            None => self.open_downstream(),
            Some(Downstream { peer, link, sent: None }) => self.send(peer, Message::Open { link }),
            Some(_) => {}
        }
    }

    /// The predecessor opens its link, or asks once more to.
    ///
    /// CHAIN §4.2 ✦: the epoch has been adopted, and older links are closed, before `received` is told: what
    /// comes on them later is not taken.
    pub(super) fn take_open(&mut self, from: Life, link: u64, history: &impl History) {
        let is_older = self.upstream.is_some_and(|it| it.peer == from && it.link > link);
        if self.chain.predecessor(self.own) != Some(from) || is_older {
            return;
        }
        if self.upstream.is_none_or(|it| (it.peer, it.link) != (from, link)) {
            self.upstream = Some(Upstream { peer: from, link, has_begun: false });
        }
        let position = match self.loading.is_some() {
            true => Position { received: 0, committed: 0, epochs: Vec::new(), is_void: true },
            false => position_of(history),
        };
        self.send(from, Message::Opened { link, position });
    }

    /// The successor tells what it has: the rest follows.
    pub(super) fn take_opened(
        &mut self,
        from: Life,
        link: u64,
        position: &Position,
        history: &impl History,
    ) {
        let Some(down) = self.downstream.filter(|it| it.peer == from && it.link == link) else {
            return;
        };
        if down.is_open() {
            return;
        }
        let common = position_of(history).common(position);
        let first = match self.chain.role(from) {
            Some(Role::Syncing) => self.begin_joiner(from, link, position, common, history),
            // CHAIN §8.1: what a serving successor has is a prefix of what its predecessor has.
            _ => (common == position.received).then_some(common),
        };
        let Some(index) = first else { return };
        self.downstream = Some(Downstream { sent: Some(Sent::behind(index)), ..down });
        self.forward(history);
        self.take_committed(from, link, position.committed, history);
    }

    /// Sends the successor what it lacks, and how far that is durable.
    pub(super) fn forward(&mut self, history: &impl History) {
        let (durable, received) = (self.durable_so_far(), history.received());
        let (from, epoch) = (self.own, self.chain.epoch());
        let committed = history.committed();
        // Nobody else tells a member that is syncing what has committed.
        let is_syncing =
            self.chain.syncing().is_some_and(|it| self.chain.tail() == from && it != from);
        let Some(Downstream { peer, link, sent: Some(sent) }) = &mut self.downstream else {
            return;
        };
        let has_committed = is_syncing && sent.committed < committed;
        if sent.index >= received && sent.durable >= durable && !has_committed {
            return;
        }
        let (first, count) = (sent.index + 1, received.saturating_sub(sent.index));
        *sent = Sent { index: sent.index.max(received), durable, committed };
        let link = *link;
        let entries = Entries { link, first, count, upstream_durable: durable, committed };
        let envelope = entries_envelope(from, *peer, epoch, entries);
        self.effects.push(Effect::Forward(envelope));
    }

    /// Entries have come from the predecessor.
    pub(super) fn take_entries(
        &mut self,
        from: Life,
        entries: Entries,
        history: &impl History,
    ) -> Taken {
        let Entries { link, first, count, upstream_durable, committed } = entries;
        let is_open = self.upstream.is_some_and(|it| it.peer == from && it.link == link);
        if !is_open && holds(Rule::OldLinksAreClosed) {
            return Taken::Nothing;
        }
        let is_syncing = self.chain.role(self.own) == Some(Role::Syncing);
        if is_syncing && !self.upstream.is_some_and(|it| it.has_begun) {
            self.upstream = None;
            self.send(from, Message::Closed { link });
            return Taken::Nothing;
        }
        // Only `received + 1` is taken: what is there already is passed over, and a gap closes the link.
        let received = history.received();
        if first > received + 1 {
            self.upstream = None;
            self.send(from, Message::Closed { link });
            return Taken::Nothing;
        }
        self.upstream_durable = self.upstream_durable.max(upstream_durable);
        if is_syncing {
            self.known_committed = self.known_committed.max(committed);
        }
        let known = (received + 1 - first).min(count);
        if known == count {
            self.advance(history);
            return Taken::Nothing;
        }
        Taken::Behind(known)
    }

    /// The successor tells what has committed.
    pub(super) fn take_committed(
        &mut self,
        from: Life,
        link: u64,
        committed: u64,
        history: &impl History,
    ) {
        if self.downstream.is_some_and(|it| it.peer == from && it.link == link && it.is_open()) {
            self.commit(committed.min(history.received()), history);
        }
    }
}
