//! Dropping members that do not answer: when it is safe, and proposing it (CHAIN §3, removal).

use super::{Effect, Replica};
use crate::chain::rules::{Rule, holds};
use crate::chain::{Life, Role, Step};
use catena_engine::time::Instant;

/// So many lengths of a grant more waits who reaches fewer members than it would drop, so that the larger
/// side goes first.
const SMALLER_SIDE_WAITS: u32 = 4;

/// Members that are on their way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removal {
    victims: Vec<Life>,
    since: Instant,
    /// When it was proposed last. From then on there is no way back but a newer epoch.
    proposed_at: Option<Instant>,
}

impl Replica {
    /// What is to be done about members that do not answer.
    pub(super) fn see_to_removal(&mut self, now: Instant) {
        if self.chain.role(self.own) != Some(Role::Serving) {
            return;
        }
        if let Some(Removal { victims, proposed_at: Some(at), .. }) = &self.removal {
            // CHAIN §2 ✦: a proposal whose outcome is not known stays one until a higher epoch is there.
            let (is_late, victims) = (now.since(*at) >= self.config.lease.length, victims.clone());
            if !holds(Rule::ProposalsStandUntilTheEpochMoves) {
                victims.iter().for_each(|victim| self.leases.relent(*victim));
            }
            if is_late {
                self.propose(now, victims);
            }
            return;
        }
        self.suspicion.join(now, &self.chain, &self.config);
        let victims = self.victims();
        for other in self.chain.others(self.own) {
            // CHAIN §3 ✦: to drop it a member stops granting it, …
            match victims.contains(&other) {
                true => self.leases.refuse(other),
                false => self.leases.relent(other),
            }
        }
        if victims.is_empty() {
            self.removal = None;
            return;
        }
        let since = self.removal.as_ref().filter(|it| it.victims == victims).map(|it| it.since);
        let since = since.unwrap_or(now);
        self.removal = Some(Removal { victims: victims.clone(), since, proposed_at: None });
        // … and waits until its own last grant has surely lapsed. One that is syncing reads nothing.
        let has_lapsed = victims.iter().all(|victim| {
            let is_syncing = self.chain.role(*victim) == Some(Role::Syncing);
            is_syncing || self.leases.has_lapsed(now, *victim)
        });
        let reached = self.chain.members().len() - victims.len();
        let is_smaller_side = reached < victims.len();
        let wait = self.config.lease.length * if is_smaller_side { SMALLER_SIDE_WAITS } else { 0 };
        let has_lapsed = has_lapsed || !holds(Rule::RemovalWaitsForGrants);
        if has_lapsed && now.since(since) >= wait {
            self.propose(now, victims);
        }
    }

    /// CHAIN §3 ✦: from here on its victims are granted nothing until a higher epoch has been adopted.
    fn propose(&mut self, now: Instant, victims: Vec<Life>) {
        let Ok(chain) = self.chain.after(&Step::Drop(victims.clone()), self.own) else { return };
        let proposed_at = Some(now);
        self.removal = Some(Removal { victims, since: now, proposed_at });
        self.effects.push(Effect::Propose(chain));
    }

    /// True if it is on its way out, and there is no way back.
    pub(super) fn is_dropping(&self, life: Life) -> bool {
        let removal = self.removal.as_ref().filter(|it| it.proposed_at.is_some());
        removal.is_some_and(|it| it.victims.contains(&life))
    }

    /// Those that may be dropped: accused here, and by a second one where there are three or more that
    /// serve, unless this one reaches none of the others.
    fn victims(&self) -> Vec<Life> {
        let accused: Vec<Life> = self.suspicion.accused().collect();
        let others = || self.chain.serving().filter(|life| *life != self.own);
        let is_alone = others().all(|life| accused.contains(&life));
        let needs_second = others().count() >= 2 && !is_alone;
        let may_drop = |life: &Life| {
            let is_syncing = self.chain.role(*life) == Some(Role::Syncing);
            // CHAIN §3 ✦: a proof of death stands for the second accuser.
            let is_sure = self.suspicion.knows_dead(*life);
            let is_sure = is_sure || self.suspicion.has_another_accuser(*life);
            is_syncing || !needs_second || is_sure
        };
        accused.into_iter().filter(may_drop).collect()
    }
}
