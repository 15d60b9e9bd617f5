//! What a balancer does by the clock: windows rotate, recorders are merged into digests that all cores
//! read, counts are published, health is reviewed. All of it off the path of a call.

use super::Balancer;
use crate::endpoint::Slot;
use crate::evidence::Digest;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// How often digests are refreshed: half the 10 to 100 ms within which decisions should see what was.
const REFRESH_INTERVAL: Duration = Duration::from_millis(20);
/// Endpoints whose digests one tick refreshes: some 100 µs of work. Of more, each waits its turn.
const REFRESHES_PER_TICK_MAX: usize = 64;
/// No merge sooner after the last one than this, whichever core made it.
const MERGE_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Half a window lasts until so many latencies are in it …
const HALF_WINDOW_COUNT: u64 = 500;
/// … but no shorter and no longer than this. A window of 1,000 calls, as far as these allow.
const HALF_WINDOW_MIN: Duration = Duration::from_millis(50);
const HALF_WINDOW_MAX: Duration = Duration::from_secs(5);

/// How far an endpoint's window is, on this core.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rotation {
    began: Instant,
    pub(super) recorded: u64,
    /// Calls answered since metrics were published; here because an answer touches this anyway.
    pub(super) answers: u64,
    /// Calls in flight when metrics were published.
    in_flight: u32,
    /// Something was recorded, or forgotten, since this core merged last.
    pub(super) has_news: bool,
    pub(super) is_draining: bool,
    /// When it was last asked for a sign of life.
    pub(super) asked_at: Instant,
    /// When it gave one that was no answer.
    pub(super) sign_at: Instant,
}

impl Rotation {
    pub(super) fn new(now: Instant) -> Self {
        Rotation { began: now, asked_at: now, ..Rotation::default() }
    }
}

impl Balancer {
    /// Refreshes digests, rotates windows, reviews health. Returns when it wants to be called again.
    pub fn tick(&mut self, now: Instant, rng: &mut Rng) -> Instant {
        self.budget.advance(now);
        for _ in 0..self.endpoints.len().min(REFRESHES_PER_TICK_MAX) {
            let slot = self.refresh_next % self.endpoints.len();
            self.refresh_next = slot + 1;
            self.refresh(slot, now);
        }
        let endpoints = self.endpoints.iter().enumerate();
        let digests = endpoints
            .filter_map(|(slot, endpoint)| Some((slot as Slot, endpoint.as_ref()?.digest)));
        let changes = self.health.review(digests, now, rng);
        changes.into_iter().for_each(|change| self.note(change));
        now + REFRESH_INTERVAL
    }

    /// Rotates this core's part of an endpoint's window when it is full or old. Merges all parts if
    /// this one has changed and nobody has merged of late; the others take what one has merged. So
    /// endpoints that nobody calls cost next to nothing, however many they are.
    fn refresh(&mut self, slot: usize, now: Instant) {
        let Some(endpoint) = &mut self.endpoints[slot] else { return };
        let rotation = &mut self.rotations[slot];
        let age = now.since(rotation.began);
        let is_full = rotation.recorded >= HALF_WINDOW_COUNT && age >= HALF_WINDOW_MIN;
        if is_full || age >= HALF_WINDOW_MAX {
            endpoint.recorder.rotate();
            *rotation = Rotation { began: now, recorded: 0, has_news: true, ..*rotation };
        }
        if rotation.has_news && endpoint.evidence.claims_merge(now, MERGE_INTERVAL_MIN) {
            rotation.has_news = false;
            self.counts.clear();
            endpoint.evidence.read(&mut self.counts);
            endpoint.evidence.publish(&Digest::of(&self.counts));
            endpoint.take_digest(&mut self.signals[slot]);
        } else if self.shared.cores() > 1 {
            endpoint.take_digest(&mut self.signals[slot]);
        }
        self.publish(slot);
    }

    /// Puts what was counted of an endpoint where others can read it.
    pub(super) fn publish(&mut self, slot: usize) {
        let Some(endpoint) = &self.endpoints[slot] else { return };
        let (rotation, tally) = (&mut self.rotations[slot], &mut self.tallies[slot]);
        let in_flight = self.signals[slot].in_flight;
        tally.answers += std::mem::take(&mut rotation.answers);
        // Nothing is counted when a call begins: it has ended since, or is in flight.
        tally.picks += tally.ended() + u64::from(in_flight) - u64::from(rotation.in_flight);
        rotation.in_flight = in_flight;
        let metrics = endpoint.evidence.metrics(self.core);
        metrics.add(&std::mem::take(tally));
        let is_another = rotation.is_draining && self.by_name.contains_key(&endpoint.name);
        if !is_another {
            metrics.publish_state(self.health.standing(slot as Slot), endpoint.reported.as_ref());
        }
    }
}
