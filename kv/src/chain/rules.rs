//! The rules of the chain protocol that data depends on, by name, so that tests can switch each off and see
//! that it is missed.

/// A rule. The numbers are those of the chain protocol's chapters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// §3 ✦: reads need a live grant of every other member.
    ReadsNeedGrants,
    /// §3 ✦: so do version queries.
    QueriesNeedGrants,
    /// §3: a grant counts from the instant at which it was asked for.
    GrantsCountFromAsking,
    /// §3 ✦: nothing is granted to who is no member of the newest chain, nor by such a one.
    GrantsAreOfMembers,
    /// §3 ✦: who is to be dropped is granted nothing, …
    VictimsGetNoGrants,
    /// §3 ✦: … also when the proposal's outcome is not known, until a higher epoch is there.
    ProposalsStandUntilTheEpochMoves,
    /// §3 ✦: the proposal waits until what was granted has lapsed.
    RemovalWaitsForGrants,
    /// §4.2 ✦: links are of one epoch, and what comes on an older one is not taken.
    OldLinksAreClosed,
    /// §4.3 ✦: the tail commits what is safe on all disks before it, …
    CommitsAreDurableUpstream,
    /// §4.3 ✦: … and on its own.
    CommitsAreDurable,
    /// §5 ✦: a new tail answers no read before what it had received has committed.
    NewTailsCatchUp,
    /// §6.3: before it is promoted a member has what has committed, …
    PromotionWaits,
    /// §6.4 ✦: … and everybody who serves knows of it.
    PromotionIsKnownToAll,
    /// §6.5 ✦: what commits after a promotion was proposed is there as well, whatever becomes of the link.
    PromotedHaveWhatCommits,
    /// §6.5 ✦: who has proposed another tail says nothing about what is in flight.
    PromotersSayNothing,
    /// §6.7: what a member has that the others have not is cut off.
    DivergentEntriesAreCut,
}

/// True, but for the rule that a test has switched off.
#[cfg(not(test))]
#[inline]
pub const fn holds(_: Rule) -> bool {
    true
}

#[cfg(test)]
pub use switch::{holds, without};

#[cfg(test)]
mod switch {
    use super::Rule;
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// True, but for the rule that is switched off.
    pub fn holds(rule: Rule) -> bool {
        BROKEN.get() != Some(rule)
    }

    /// Runs `run` without a rule, on this thread.
    pub fn without<T>(rule: Rule, run: impl FnOnce() -> T) -> T {
        BROKEN.set(Some(rule));
        let done = run();
        BROKEN.set(None);
        done
    }
}
