//! How a member comes, or comes back (CHAIN §6).
//!
//! ```text
//! who comes      Join ──► (all that serve) … appended, syncing … Opened ──► … Durable … ── serves, as tail
//! the tail            Append ──┘            Begin, snapshot, entries ──►   waits ── Promote ──┘
//! ```
//!
//! What has come is brought up to date from the last entry that both have, if the tail still has those behind
//! it at hand; or else by a snapshot of all that has committed as of one index, with the entries behind that
//! index beside it. (One index for the whole snapshot, and not one for each range of keys: walks of that kind
//! are there for checkpoints, and nothing has to be compared key by key then.)

use super::message::{Envelope, Message, Position, Start};
use super::{Effect, History, Replica};
use crate::chain::rules::{Rule, holds};
use crate::chain::{Life, Role, Step};
use catena_engine::time::{Duration, Instant};

/// From when on the tail commits only what who comes has as well: so far may that be behind.
const LAG_MAX: u64 = 10_000;

/// How long a member that was dropped waits before it asks to come back; twice as long each time, …
const BACK_OFF: Duration = Duration::from_secs(1);

/// … up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// A member that is being added, as the tail sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joiner {
    life: Life,
    /// The link on which its log was compared with this one: what it acknowledges there counts.
    link: Option<u64>,
    /// Everything up to this index is safely there.
    durable: u64,
    /// It has all that has committed here, as of its last word.
    has_committed: bool,
    /// It has come so near that nothing commits without it.
    is_near: bool,
    /// Its promotion was proposed, at this instant last. From then on there is no way back but a newer epoch.
    proposed_at: Option<Instant>,
}

impl Joiner {
    /// True if its promotion was proposed, and it may be the tail already.
    pub fn is_proposed(&self) -> bool {
        self.proposed_at.is_some()
    }

    /// Nothing behind this index may commit.
    pub fn commits_up_to(&self) -> Option<u64> {
        let counts = match self.is_proposed() {
            true => holds(Rule::PromotedHaveWhatCommits),
            false => self.is_near,
        };
        counts.then_some(self.durable)
    }
}

/// A snapshot that comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loading {
    /// The number of the next piece.
    next: u64,
}

/// Asking to be a member.
#[derive(Clone, Debug, Default)]
pub struct Knocking {
    wants: bool,
    /// Who has answered, and when.
    answered: Vec<(Life, Instant)>,
    not_before: Instant,
    back_off: Duration,
}

impl Knocking {
    /// This one was a member, and is none any more.
    pub fn was_dropped(&mut self, now: Instant) {
        self.back_off = (self.back_off * 2).clamp(BACK_OFF, BACK_OFF_MAX);
        self.not_before = now + self.back_off;
    }

    /// A member has answered.
    pub fn heard(&mut self, now: Instant, from: Life) {
        self.answered.retain(|(life, _)| *life != from);
        self.answered.push((from, now));
    }

    fn heard_since(&self, since: Instant) -> Vec<Life> {
        let recent = self.answered.iter().filter(|(_, at)| *at >= since);
        recent.map(|(life, _)| *life).collect()
    }
}

/// As who comes.
impl Replica {
    /// Whether this one asks to be a member where it is none.
    pub fn want_membership(&mut self, wants: bool) {
        self.knocking.wants = wants;
    }

    pub(super) fn knock(&mut self, now: Instant) {
        let may = self.knocking.wants && now >= self.knocking.not_before;
        if !may || self.chain.role(self.own).is_some() {
            return;
        }
        let since = now - self.config.lease.length;
        let heard = self.knocking.heard_since(since);
        for member in self.chain.serving().collect::<Vec<_>>() {
            self.send(member, Message::Join { heard: heard.clone() });
        }
    }

    /// The tail says where this one goes on.
    pub(super) fn take_begin(
        &mut self,
        from: Life,
        link: u64,
        start: Start,
        history: &impl History,
    ) {
        if !self.is_upstream(from, link) || self.chain.role(self.own) != Some(Role::Syncing) {
            return;
        }
        if let Some(upstream) = &mut self.upstream {
            upstream.has_begun = true;
        }
        // What was before it in an earlier membership says nothing about those who are now: it may have been
        // the head.
        self.upstream_durable = 0;
        match start {
            // CHAIN §6.7: log and effects, back to what both have.
            Start::Behind(index) => {
                self.durable = self.durable.min(index);
                if index < history.received() && holds(Rule::DivergentEntriesAreCut) {
                    self.effects.push(Effect::Cut(index));
                }
            }
            Start::Snapshot { as_of, epochs } => {
                self.loading = Some(Loading { next: 0 });
                self.durable = 0;
                self.known_committed = as_of;
                self.effects.push(Effect::Void { as_of, epochs });
            }
        }
        self.told_durable = None;
        // Nothing may come for long where nobody writes.
        self.tell_durable();
    }

    /// A piece of a snapshot has come.
    pub(super) fn take_piece(
        &mut self,
        from: Life,
        (link, number, is_last): (u64, u64, bool),
        history: &impl History,
    ) {
        if !self.has_begun(from, link) {
            return;
        }
        let Some(loading) = self.loading.as_mut().filter(|it| it.next == number) else { return };
        loading.next += 1;
        if is_last {
            self.loading = None;
            self.advance(history);
        }
    }

    /// Commits what the tail says has committed, and tells it what is durable here.
    pub(super) fn tell_durable(&mut self) {
        if self.chain.role(self.own) != Some(Role::Syncing) || self.loading.is_some() {
            return;
        }
        let Some(upstream) = self.upstream else { return };
        if self.told_durable != Some((upstream.link, self.durable)) {
            self.told_durable = Some((upstream.link, self.durable));
            let (link, index) = (upstream.link, self.durable);
            self.send(upstream.peer, Message::Durable { link, index });
        }
    }

    /// True if a piece of a snapshot that has come is the next one of the snapshot that is expected.
    pub fn takes_piece(&self, envelope: &Envelope) -> bool {
        let Message::Piece { link, number, .. } = envelope.message else { return false };
        let is_now = envelope.epoch == self.chain.epoch() && envelope.to == self.own;
        let is_next = self.loading.as_ref().is_some_and(|it| it.next == number);
        is_now && is_next && self.has_begun(envelope.from, link)
    }

    fn has_begun(&self, from: Life, link: u64) -> bool {
        self.is_upstream(from, link) && self.upstream.is_some_and(|it| it.has_begun)
    }

    fn is_upstream(&self, from: Life, link: u64) -> bool {
        self.upstream.is_some_and(|it| it.peer == from && it.link == link)
    }
}

/// As a member, and as the tail.
impl Replica {
    /// Somebody asks to be a member.
    pub(super) fn take_join(&mut self, now: Instant, from: Life, heard: &[Life]) {
        if self.chain.role(self.own) != Some(Role::Serving) {
            return;
        }
        self.send(from, Message::Heard);
        // CHAIN §1: a newer incarnation proves that the older one is dead.
        if let Some(older) = self.chain.life_of(from.node) {
            if older.incarnation < from.incarnation {
                self.suspicion.is_dead(older);
            }
            return;
        }
        // CHAIN §6.1: everybody who serves hears it, and it them: a member that is not heard stops reads.
        let is_heard = self.chain.serving().all(|member| heard.contains(&member));
        let waits = self.appending_since.is_some_and(|at| now.since(at) < self.config.lease.length);
        if !self.is_tail() || self.chain.syncing().is_some() || !is_heard || waits {
            return;
        }
        if let Ok(chain) = self.chain.after(&Step::Append(from), self.own) {
            self.appending_since = Some(now);
            self.effects.push(Effect::Propose(chain));
        }
    }

    /// Who comes has opened the link and tells what it has. The entry behind which it goes on.
    pub(super) fn begin_joiner(
        &mut self,
        life: Life,
        link: u64,
        position: &Position,
        common: u64,
        history: &impl History,
    ) -> Option<u64> {
        if !self.is_tail() {
            return None;
        }
        let proposed_at = self.joiner.as_ref().and_then(|it| it.proposed_at);
        self.joiner = Some(Joiner {
            life,
            link: Some(link),
            durable: 0,
            has_committed: false,
            is_near: false,
            proposed_at,
        });
        let common = if holds(Rule::DivergentEntriesAreCut) {
            common
        } else {
            position.received.min(history.received())
        };
        // CHAIN §6.1: a walk that was cut off before it was done starts again.
        let is_at_hand = common >= position.committed && common + 1 >= history.first_at_hand();
        if is_at_hand && !position.is_void {
            self.send(life, Message::Begin { link, start: Start::Behind(common) });
            return Some(common);
        }
        let as_of = history.committed();
        let start = Start::Snapshot { as_of, epochs: epochs_up_to(history, as_of) };
        self.send(life, Message::Begin { link, start });
        self.effects.push(Effect::Snapshot { link, as_of });
        Some(as_of)
    }

    /// Who comes has this much safely on its disk.
    pub(super) fn take_durable(
        &mut self,
        from: Life,
        link: u64,
        index: u64,
        history: &impl History,
    ) {
        // CHAIN §6.3 ✦: acknowledgements count only after the logs were compared in this very link.
        let Some(joiner) = &mut self.joiner else { return };
        if joiner.life != from || joiner.link != Some(link) {
            return;
        }
        joiner.durable = joiner.durable.max(index);
        joiner.is_near |= joiner.durable + LAG_MAX >= history.received();
        joiner.has_committed = joiner.durable >= history.committed();
        self.advance(history);
    }

    /// The link to who comes is gone: what it will acknowledge has to be compared again.
    pub(super) fn joiner_is_cut_off(&mut self) {
        if let Some(joiner) = &mut self.joiner {
            (joiner.link, joiner.durable, joiner.is_near) = (None, 0, false);
            joiner.has_committed = false;
        }
    }

    /// The envelope for a piece of the snapshot that goes out on a link. `None`: that link is no more.
    pub fn piece(&self, link: u64, number: u64, is_last: bool) -> Option<Envelope> {
        let downstream = self.downstream.filter(|it| it.link == link)?;
        let message = Message::Piece { link, number, is_last };
        let (from, epoch) = (self.own, self.chain.epoch());
        Some(Envelope { from, to: downstream.peer, epoch, message })
    }

    /// Promotes who has come, when that is safe.
    pub(super) fn see_to_joiner(&mut self, now: Instant) {
        let Some(joiner) = self.joiner.clone() else { return };
        let (own, life) = (self.own, joiner.life);
        if !self.is_tail() || self.chain.syncing() != Some(life) {
            return;
        }
        let is_late = joiner.proposed_at.is_none_or(|at| now.since(at) >= self.config.lease.length);
        // CHAIN §6.4 ✦: it has all that was committed without it, and everybody who serves is in an epoch in
        // which it is a member.
        let has_all = joiner.is_near && joiner.has_committed || !holds(Rule::PromotionWaits);
        let serving = self.chain.serving().filter(|it| *it != own);
        let mut serving = serving.collect::<Vec<_>>().into_iter();
        let is_known = serving.all(|it| self.suspicion.has_heard(it));
        let is_known = is_known || !holds(Rule::PromotionIsKnownToAll);
        let goes_on = joiner.is_proposed() || has_all && is_known;
        if goes_on && is_late && !self.is_dropping(life) {
            let Ok(chain) = self.chain.after(&Step::Promote(life), own) else { return };
            self.joiner = Some(Joiner { proposed_at: Some(now), ..joiner });
            self.effects.push(Effect::Propose(chain));
        }
    }
}

/// The epochs of what is up to an index.
fn epochs_up_to(history: &impl History, index: u64) -> Vec<(u64, u32)> {
    history.epochs().into_iter().filter(|(first, _)| *first <= index).collect()
}
