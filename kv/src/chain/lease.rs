//! Grants between the members of a chain: why a replica may answer reads by itself.
//!
//! ```text
//! holder    asks ─────────────────────────── reads until here ───┤ asked + length
//!             \                                                  ·
//! granter      answers ──────────────────────────────────────────·────┤ answered + length + margin
//!                                                        drops the holder from here on
//! ```
//!
//! A grant is "I will take no part in removing you before so long has passed". The holder counts from the
//! instant at which it asked, the granter from that at which it answered, which is later; and the granter
//! counts longer by a margin, so that two clocks that do not run alike make no difference (CHAIN §3). What is
//! granted is not of an epoch: it goes on through changes of the chain that both are members of.

use super::rules::{Rule, holds};
use super::{Chain, Life};
use catena_engine::time::{Duration, Instant};

/// How long grants are, and how far clocks may differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseConfig {
    /// What is asked for, and granted at most.
    pub length: Duration,
    /// The part of it, in thousandths, by which the granter counts longer: the ratio that two clocks may
    /// have.
    pub margin_thousandths: u32,
}

/// Asks for a grant in one chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// When it is sent, by the clock of who asks.
    pub asked_at: Instant,
    /// For how long.
    pub length: Duration,
}

/// Grants what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// To whom.
    pub to: Life,
    /// As it was asked.
    pub asked_at: Instant,
    /// For how long from then: no longer than that was asked for.
    pub length: Duration,
}

/// The grants of one replica in one chain: those that it holds, and those that it gave.
#[derive(Clone, Debug)]
pub struct Leases {
    own: Life,
    config: LeaseConfig,
    /// From whom, and until when.
    held: Vec<(Life, Instant)>,
    /// To whom, and until when that may count.
    given: Vec<(Life, Instant)>,
    /// Who is given none.
    refused: Vec<Life>,
}

impl LeaseConfig {
    /// How long a grant binds who gives it, from its answer on.
    pub fn binding(&self, length: Duration) -> Duration {
        length + length * self.margin_thousandths / 1_000
    }
}

impl Leases {
    /// None yet.
    pub fn new(own: Life, config: LeaseConfig) -> Self {
        Leases { own, config, held: Vec::new(), given: Vec::new(), refused: Vec::new() }
    }

    /// What to ask every other member for, at this instant.
    pub fn ask(&self, now: Instant) -> Ask {
        Ask { asked_at: now, length: self.config.length }
    }

    /// Answers who asks, at this instant, which was stamped after the question was taken in. `None`: it is
    /// granted nothing.
    ///
    /// CHAIN §3 ✦: a grant is for one chain, of which both are members in the newest that is known here.
    pub fn answer(&mut self, now: Instant, chain: &Chain, from: Life, ask: Ask) -> Option<Grant> {
        let are_members = chain.role(from).is_some() && chain.role(self.own).is_some();
        if !are_members && holds(Rule::GrantsAreOfMembers) {
            return None;
        }
        if self.refused.contains(&from) && holds(Rule::VictimsGetNoGrants) {
            return None;
        }
        let length = ask.length.min(self.config.length);
        note(&mut self.given, from, now + self.config.binding(length));
        Some(Grant { to: from, asked_at: ask.asked_at, length })
    }

    /// Takes a grant that has come, now. It counts from the instant at which it was asked for.
    pub fn take(&mut self, now: Instant, from: Life, grant: &Grant) {
        if grant.to == self.own {
            let length = grant.length.min(self.config.length);
            let begins = if holds(Rule::GrantsCountFromAsking) { grant.asked_at } else { now };
            note(&mut self.held, from, begins + length);
        }
    }

    /// Until when this one grants.
    pub fn held_until(&self, from: Life) -> Option<Instant> {
        self.held.iter().find(|(life, _)| *life == from).map(|(_, until)| *until)
    }

    /// True if reads may be answered in this chain at this instant.
    ///
    /// CHAIN §3 ✦: with a live grant from every other member, the syncing one included.
    pub fn may_read(&self, now: Instant, chain: &Chain) -> bool {
        chain.others(self.own).all(|other| self.held_until(other).is_some_and(|until| now < until))
    }

    /// Gives this one nothing any more: it is to be dropped.
    pub fn refuse(&mut self, life: Life) {
        if !self.refused.contains(&life) {
            self.refused.push(life);
        }
    }

    /// It is not to be dropped after all, and nothing was proposed.
    pub fn relent(&mut self, life: Life) {
        self.refused.retain(|refused| *refused != life);
    }

    /// True if this one has surely none left of what it was given here, and gets no more.
    ///
    /// CHAIN §3 ✦: who drops a member waits until its own last grant has surely lapsed.
    pub fn has_lapsed(&self, now: Instant, life: Life) -> bool {
        let binds = self.given.iter().any(|(to, until)| *to == life && now < *until);
        self.refused.contains(&life) && !binds
    }

    /// When that will be; not before now.
    pub fn lapses_at(&self, life: Life) -> Instant {
        let given = self.given.iter().find(|(to, _)| *to == life);
        given.map_or(Instant::ZERO, |(_, until)| *until)
    }

    /// This one may be dropped at once: it has acknowledged that, or is dead.
    pub fn forget(&mut self, life: Life) {
        self.given.retain(|(to, _)| *to != life);
    }

    /// A newer chain: who is refused may be granted again, and what is no member of it is forgotten, but for
    /// what was given, which binds until it lapses.
    ///
    /// CHAIN §3 ✦: from sending a proposal until a higher epoch is adopted its victims are granted nothing.
    pub fn adopt(&mut self, now: Instant, chain: &Chain) {
        self.refused.clear();
        self.held.retain(|(life, _)| chain.role(*life).is_some());
        self.given.retain(|(life, until)| chain.role(*life).is_some() || now < *until);
    }
}

/// The later of what is noted and of this.
fn note(all: &mut Vec<(Life, Instant)>, life: Life, until: Instant) {
    match all.iter_mut().find(|(noted, _)| *noted == life) {
        Some((_, noted)) => *noted = (*noted).max(until),
        None => all.push((life, until)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Incarnation, NodeId, Step};

    const LENGTH: Duration = Duration::from_millis(300);
    const CONFIG: LeaseConfig = LeaseConfig { length: LENGTH, margin_thousandths: 50 };

    fn life(node: u16) -> Life {
        Life { node: NodeId(node), incarnation: Incarnation(1) }
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn chain() -> Chain {
        let chain = Chain::first(1, [life(1), life(2)]).expect("two that serve");
        chain.after(&Step::Append(life(3)), life(2)).expect("the tail appends")
    }

    #[test]
    fn reads_need_a_grant_of_every_other_member() {
        let chain = chain();
        let mut leases = Leases::new(life(1), CONFIG);
        let grant = |asked| Grant { to: life(1), asked_at: at(asked), length: LENGTH };
        assert!(!leases.may_read(at(0), &chain));
        leases.take(at(400), life(2), &grant(0));
        assert!(!leases.may_read(at(0), &chain), "who is syncing grants, too");
        leases.take(at(400), life(3), &grant(10));
        assert!(leases.may_read(at(299), &chain));
        assert!(!leases.may_read(at(300), &chain), "from the instant of asking on");
        leases.take(at(400), life(2), &grant(100));
        leases.take(at(400), life(2), &grant(50));
        assert!(leases.may_read(at(309), &chain), "one that comes late takes nothing back");
        assert!(!leases.may_read(at(310), &chain));
        leases.take(at(400), life(3), &Grant { to: life(2), ..grant(200) });
        assert!(!leases.may_read(at(310), &chain), "that was for somebody else");
        let longer = Grant { length: LENGTH * 9, ..grant(310) };
        leases.take(at(400), life(2), &longer);
        leases.take(at(400), life(3), &longer);
        assert!(!leases.may_read(at(610), &chain), "no longer than was asked for");
    }

    #[test]
    fn who_is_alone_needs_none() {
        let chain = Chain::first(1, [life(1)]).expect("one that serves");
        assert!(Leases::new(life(1), CONFIG).may_read(at(0), &chain));
    }

    #[test]
    fn what_was_granted_binds_longer_than_it_counts() {
        let chain = chain();
        let (mut granter, mut holder) =
            (Leases::new(life(1), CONFIG), Leases::new(life(2), CONFIG));
        let grant = granter.answer(at(20), &chain, life(2), holder.ask(at(0))).expect("a member");
        holder.take(at(400), life(1), &grant);
        assert_eq!(holder.held_until(life(1)), Some(at(300)));
        assert!(!granter.has_lapsed(at(9_999), life(2)), "it may be granted again");
        granter.refuse(life(2));
        assert_eq!(granter.answer(at(30), &chain, life(2), holder.ask(at(25))), None);
        assert_eq!(granter.lapses_at(life(2)), at(20 + 315));
        assert!(!granter.has_lapsed(at(334), life(2)));
        assert!(granter.has_lapsed(at(335), life(2)));
        let short = LeaseConfig { length: LENGTH / 2, ..CONFIG };
        let mut other = Leases::new(life(3), short);
        let grant = other.answer(at(0), &chain, life(2), holder.ask(at(0))).expect("a member");
        assert_eq!(grant.length, LENGTH / 2, "the smaller of the two");
    }

    #[test]
    fn strangers_and_former_starts_are_granted_nothing() {
        let chain = chain();
        let mut leases = Leases::new(life(1), CONFIG);
        let former = Life { incarnation: Incarnation(0), ..life(2) };
        for stranger in [former, life(4)] {
            assert_eq!(leases.answer(at(0), &chain, stranger, leases.ask(at(0))), None);
        }
        let without = chain.after(&Step::Drop(vec![life(1)]), life(2)).expect("one stays");
        assert_eq!(leases.answer(at(0), &without, life(2), leases.ask(at(0))), None);
    }

    #[test]
    fn a_newer_chain_lets_it_grant_again_and_keeps_what_binds() {
        let chain = chain();
        let mut leases = Leases::new(life(1), CONFIG);
        leases.answer(at(0), &chain, life(2), leases.ask(at(0))).expect("a member");
        leases.refuse(life(2));
        let touched = chain.after(&Step::Touch, life(1)).expect("it serves");
        leases.adopt(at(10), &touched);
        assert!(leases.answer(at(10), &touched, life(2), leases.ask(at(10))).is_some());
        leases.refuse(life(2));
        assert!(!leases.has_lapsed(at(320), life(2)), "what it was given before binds on");
        leases.forget(life(2));
        assert!(leases.has_lapsed(at(20), life(2)));
    }
}
