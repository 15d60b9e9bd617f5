//! Whom to ask for its load or a sign of life, and what comes of it. The asking is the owner's.

use super::Balancer;
use super::refresh::REFRESH_INTERVAL;
use crate::endpoint::{ServerLoad, Slot};
use crate::policy::Candidates;
use catena_engine::rng::Rng;
use catena_engine::time::Instant;

/// Endpoints that one tick asks for a sign of life, where it need not be more: for each to be asked once
/// an interval.
const HEARTBEATS_PER_TICK_MIN: usize = 64;

impl Balancer {
    /// Whose load the policy wants to be told, after a call was started: to be asked without waiting.
    pub fn wanted_probes(&mut self, now: Instant, rng: &mut Rng) -> &[Slot] {
        self.wanted.clear();
        let eligible = self.health.eligible();
        if !eligible.is_empty() {
            let candidates = Candidates { signals: &self.signals, eligible };
            self.policy.probes(&candidates, now, rng, &mut self.wanted);
        }
        &self.wanted
    }

    /// Who is to be asked for a sign of life, after a [`Balancer::tick`]: those that have given none for a
    /// heartbeat interval ([`HealthConfig`](crate::health::HealthConfig)), the ejected ones too, each once
    /// an interval, some at a time. What comes of it is told to [`Balancer::probed`], or to
    /// [`Balancer::heard`] where no load came along.
    pub fn wanted_heartbeats(&mut self, now: Instant) -> &[Slot] {
        self.wanted.clear();
        let Some(interval) = self.health.heartbeat_interval() else { return &self.wanted };
        let ticks = interval.as_nanos().div_ceil(REFRESH_INTERVAL.as_nanos()).max(1) as usize;
        let count_max = self.endpoints.len().div_ceil(ticks).max(HEARTBEATS_PER_TICK_MIN);
        let states = self.signals.iter().zip(&mut self.rotations).enumerate();
        for (slot, (signal, rotation)) in states {
            let last = signal.heard_at.max(rotation.sign_at).max(rotation.asked_at);
            let is_due = now.since(last) >= interval;
            if is_due && self.health.is_connected(slot as Slot) {
                rotation.asked_at = now;
                self.wanted.push(slot as Slot);
                if self.wanted.len() == count_max {
                    break;
                }
            }
        }
        &self.wanted
    }

    /// A probe has been answered.
    pub fn probed(&mut self, slot: Slot, load: &ServerLoad, now: Instant, rng: &mut Rng) {
        let servers = self.by_name.len();
        let Some(Some(endpoint)) = self.endpoints.get_mut(slot as usize) else { return };
        endpoint.reported = Some(*load);
        let signal = &mut self.signals[slot as usize];
        signal.told(load.others_in_flight(), now);
        self.rotations[slot as usize].sign_at = now;
        self.health.heard(slot, now);
        self.policy.probed(slot, load, servers, now, rng);
    }

    /// An endpoint gave a sign of life other than an answer.
    pub fn heard(&mut self, slot: Slot, now: Instant) {
        // No answer: how long calls take there is as little known as before, and worth exploring.
        if let Some(rotation) = self.rotations.get_mut(slot as usize) {
            rotation.sign_at = now;
        }
        self.health.heard(slot, now);
    }
}
