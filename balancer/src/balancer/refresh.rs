//! What a balancer does by the clock: windows rotate, recorders are merged into digests that all cores
//! read, counts are published, health is reviewed. All of it off the path of a call.

use super::Balancer;
use crate::endpoint::Slot;
use crate::evidence::Digest;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// How often some digests are refreshed: half the 10 to 100 ms within which decisions should see what was.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_millis(20);
/// Between two ticks: this core was busy with something else, and heard nobody.
const LATE: Duration = Duration::from_millis(200);
/// A round of all endpoints takes no more ticks than this, which makes it 100 ms …
const TICKS_PER_ROUND_MAX: usize = 5;
/// … and up to so many endpoints are refreshed by each tick: a round is worth no less work …
const REFRESHES_PER_TICK_MIN: usize = 64;
/// … unless there are more than 2,560: a tick is to stay well below 1 ms, and a refresh is 0.3 to 1 µs.
const REFRESHES_PER_TICK_MAX: usize = 512;
/// No merge sooner after the last one than this, whichever core made it.
const MERGE_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Half a window lasts until so many latencies are in it …
const HALF_WINDOW_COUNT: u64 = 500;
/// … but no shorter and no longer than this. A window of 1,000 calls, as far as these allow.
const HALF_WINDOW_MIN: Duration = Duration::from_millis(50);
const HALF_WINDOW_MAX: Duration = Duration::from_secs(5);

/// Connections come and go; one that is missing for so long is worth a word.
const GONE_SAID_AFTER: Duration = Duration::from_secs(1);

/// When what was done last to an endpoint, on this core; what the end of a call has no use for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rotation {
    /// When the newer half of its window began.
    began: Instant,
    /// Calls in flight when metrics were published.
    in_flight: u32,
    /// When it was last asked for a sign of life.
    pub(super) asked_at: Instant,
    /// When it gave one that was no answer.
    pub(super) sign_at: Instant,
    /// Since when it is not connected …
    gone_since: Option<Instant>,
    /// … and whether that has been said.
    is_said_gone: bool,
}

impl Rotation {
    pub(super) fn new(now: Instant) -> Self {
        Rotation { began: now, asked_at: now, ..Rotation::default() }
    }

    /// Whether its owner should say that it is connected (again), or that it is not (for a while).
    pub(super) fn note_reach(&mut self, is_connected: bool, now: Instant) -> Option<bool> {
        if is_connected {
            self.gone_since = None;
            return std::mem::take(&mut self.is_said_gone).then_some(true);
        }
        let since = *self.gone_since.get_or_insert(now);
        let is_news = !self.is_said_gone && now.since(since) >= GONE_SAID_AFTER;
        self.is_said_gone |= is_news;
        is_news.then_some(false)
    }
}

impl Balancer {
    /// Refreshes digests and rotates windows, of some endpoints at a time where there are many; reviews
    /// health after each round of all. Returns when it wants to be called again.
    pub fn tick(&mut self, now: Instant, rng: &mut Rng) -> Instant {
        self.budget.advance(now);
        // Whoever is late has not listened either.
        if now.since(self.ticked_at) > LATE {
            self.health.listens_again(now);
        }
        self.ticked_at = now;
        // The peers' medians change with digests only: between rounds there is nothing new to compare, and
        // what a review costs is spread over the refreshes that it follows.
        if self.refresh_next_ones(now) {
            let endpoints = self.endpoints.iter().enumerate();
            let digests = endpoints
                .filter_map(|(slot, endpoint)| Some((slot as Slot, endpoint.as_ref()?.digest)));
            let changes = self.health.review(digests, now, rng);
            changes.into_iter().for_each(|change| self.note(change));
        }
        now + REFRESH_INTERVAL
    }

    /// Refreshes those whose turn it is; true if that ends a round.
    fn refresh_next_ones(&mut self, now: Instant) -> bool {
        let slots = self.endpoints.len();
        let share = slots
            .div_ceil(TICKS_PER_ROUND_MAX)
            .clamp(REFRESHES_PER_TICK_MIN, REFRESHES_PER_TICK_MAX)
            .min(slots);
        let end = self.refresh_next + share;
        for slot in self.refresh_next..end {
            self.refresh(slot % slots, now);
        }
        let is_round = end >= slots;
        self.refresh_next = if is_round { end - slots } else { end };
        is_round
    }

    /// Rotates this core's part of an endpoint's window when it is full or old. Merges all parts if
    /// this one has changed and nobody has merged of late; the others take what one has merged. So
    /// endpoints that nobody calls cost next to nothing, however many they are.
    fn refresh(&mut self, slot: usize, now: Instant) {
        let Some(endpoint) = &mut self.endpoints[slot] else { return };
        let rotation = &mut self.rotations[slot];
        let age = now.since(rotation.began);
        let is_full = u64::from(endpoint.recorded) >= HALF_WINDOW_COUNT && age >= HALF_WINDOW_MIN;
        if is_full || age >= HALF_WINDOW_MAX {
            endpoint.writer.rotate();
            (rotation.began, endpoint.recorded) = (now, 0);
        }
        let has_news = endpoint.writer.has_news();
        if has_news && endpoint.evidence.claims_merge(now, MERGE_INTERVAL_MIN) {
            endpoint.writer.clear_news();
            self.counts.clear();
            endpoint.evidence.read(&mut self.counts);
            endpoint.evidence.publish(&Digest::of(&self.counts));
        }
        // Who has no news, and shares with nobody, has nothing to take over.
        if has_news || self.shared.cores() > 1 {
            endpoint.take_digest(&mut self.signals[slot]);
        }
        self.publish(slot);
    }

    /// Puts what was counted of an endpoint where others can read it.
    pub(super) fn publish(&mut self, slot: usize) {
        let Some(endpoint) = &mut self.endpoints[slot] else { return };
        let (rotation, tally) = (&mut self.rotations[slot], &mut self.tallies[slot]);
        let in_flight = self.signals[slot].in_flight;
        tally.answers += u64::from(std::mem::take(&mut endpoint.answers));
        // Nothing is counted when a call begins: it has ended since, or is in flight.
        tally.picks += tally.ended() + u64::from(in_flight) - u64::from(rotation.in_flight);
        rotation.in_flight = in_flight;
        let metrics = endpoint.evidence.metrics(self.core);
        metrics.add(&std::mem::take(tally));
        let is_another = endpoint.is_draining() && self.by_name.contains_key(&endpoint.name);
        if !is_another {
            metrics.publish_state(self.health.standing(slot as Slot), endpoint.reported.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{BalancerConfig, Member};
    use crate::endpoint::Outcome;
    use crate::evidence::SharedEvidence;
    use crate::policy::by_name;

    /// How many of `endpoints` each tick after one call to each of them has refreshed in all.
    fn refreshed(endpoints: usize, ticks: usize) -> Vec<usize> {
        let (mut now, mut rng) = (Instant::from_nanos(1 << 40), Rng::from_seed(1));
        let policy = by_name("rr").expect("there is round robin");
        let shared = SharedEvidence::new(1);
        let mut balancer = Balancer::new(BalancerConfig::default(), policy, shared, 0, now);
        let member = |n: usize| Member { name: format!("10.0.0.1:{n}").into(), weight: 1 };
        balancer.set_members(&(0..endpoints).map(member).collect::<Vec<_>>(), now);
        for _ in 0..endpoints {
            let ticket = balancer.start(&[], now, &mut rng).expect("there are endpoints");
            balancer.end(ticket, &Outcome::Answered(None), now, &mut rng);
        }
        let tick = |_| {
            now = balancer.tick(now, &mut rng);
            balancer.endpoints().filter(|(_, endpoint)| endpoint.digest.count > 0).count()
        };
        (0..ticks).map(tick).collect()
    }

    #[test]
    fn a_round_takes_a_tick_where_endpoints_are_few_and_100_ms_where_they_are_many() {
        assert_eq!(refreshed(0, 1), [0]);
        assert_eq!(refreshed(64, 1), [64]);
        assert_eq!(refreshed(100, 2), [64, 100]);
        assert_eq!(refreshed(1_000, 5), [200, 400, 600, 800, 1_000]);
        assert_eq!(refreshed(2_561, 6), [512, 1_024, 1_536, 2_048, 2_560, 2_561]);
    }
}
