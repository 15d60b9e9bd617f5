//! The review against peers: what no single call shows. An endpoint is measured by the medians of all
//! endpoints of which enough is known.

use super::{Cause, Change, Health, Peers, Standing};
use crate::endpoint::Slot;
use crate::evidence::Digest;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// What a review sorts; kept for its memory, so that a review allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    quantiles: Vec<Duration>,
    /// Of failures, and whose.
    shares: Vec<(f64, Slot)>,
}

/// Its memory of one endpoint.
#[cfg(test)]
pub(super) const SCRATCH_BYTES: usize = size_of::<Duration>() + size_of::<(f64, Slot)>();

impl Health {
    /// Looks at what no single call shows: medians against the peers', shares of failures, silence.
    /// `digests` are those of all members, by slot.
    pub fn review(
        &mut self,
        digests: impl Iterator<Item = (Slot, Digest)> + Clone,
        now: Instant,
        rng: &mut Rng,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        self.peers = self.compare(digests.clone());
        let slow = |digest: &Digest, health: &Health| {
            health.knows_peers()
                && digest.count >= health.config.evidence_min
                && digest.p50 > health.peers.p50.mul_f64(health.config.slow_factor)
                && digest.p50 > health.peers.p99
        };
        for (slot, digest) in digests {
            // The window of one that has just returned still holds what it was ejected for.
            if slow(&digest, self) && self.standing(slot) == Some(Standing::Live) {
                changes.extend(self.eject(slot, Cause::Slow, now, rng));
            }
        }
        for slot in 0..self.members.len() as Slot {
            let Some(member) = &self.members[slot as usize] else { continue };
            let heartbeats = member.heartbeats.as_ref().filter(|_| member.is_connected());
            let silent =
                heartbeats.is_some_and(|heartbeats| heartbeats.phi(now) > self.config.phi_max);
            if silent && self.is_in_use(slot) {
                changes.extend(self.eject(slot, Cause::Silent, now, rng));
            }
        }
        if now.since(self.reviewed_at) >= self.config.review_interval {
            self.reviewed_at = now;
            self.review_failures(now, rng, &mut changes);
        }
        changes
    }
}

impl Health {
    /// Medians over the endpoints of which enough is known.
    fn compare(&mut self, digests: impl Iterator<Item = (Slot, Digest)> + Clone) -> Peers {
        let min = self.config.evidence_min;
        let quantiles = &mut self.scratch.quantiles;
        let mut median = |quantile: fn(&Digest) -> Duration| {
            quantiles.clear();
            let known = digests.clone().filter(|(_, digest)| digest.count >= min);
            quantiles.extend(known.map(|(_, digest)| quantile(&digest)));
            // The lower median: two slow ones of four are measured by the two that are not.
            let middle = quantiles.len().checked_sub(1)? / 2;
            Some(*quantiles.select_nth_unstable(middle).1)
        };
        let p50 = median(|digest| digest.p50).unwrap_or_default();
        let p95 = median(|digest| digest.p95).unwrap_or_default();
        let p99 = median(|digest| digest.p99).unwrap_or_default();
        let slow = p99.mul_f64(self.config.slow_factor);
        Peers { p50, p95, p99, slow, count: quantiles.len() }
    }

    fn review_failures(&mut self, now: Instant, rng: &mut Rng, changes: &mut Vec<Change>) {
        let min = self.config.failure_share_calls_min;
        let mut shares = std::mem::take(&mut self.scratch.shares);
        shares.clear();
        for (slot, member) in self.members.iter_mut().enumerate() {
            let Some(member) = member else { continue };
            if member.calls >= min {
                let share = f64::from(member.failures) / f64::from(member.calls);
                shares.push((share, slot as Slot));
                (member.calls, member.failures) = (0, 0);
            }
        }
        shares.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        if let Some(&(median, _)) = shares.get(shares.len().saturating_sub(1) / 2) {
            let bound = median + self.config.failure_share_above_peers;
            for &(_, slot) in shares.iter().filter(|(share, _)| *share > bound) {
                if self.is_in_use(slot) {
                    changes.extend(self.eject(slot, Cause::FailureShare, now, rng));
                }
            }
        }
        self.scratch.shares = shares;
    }
}
