//! What lies between two hosts, one direction at a time: how long it takes, and whether it is cut.

use super::config::{NetworkConfig, Span};
use super::host::HostId;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;

/// The links that differ from the ordinary.
#[derive(Debug, Default)]
pub(super) struct Links {
    states: BTreeMap<(HostId, HostId), Link>,
}

#[derive(Debug, Default)]
struct Link {
    cut_until: Instant,
    slow_until: Instant,
    slow_latency: Option<Span>,
}

impl Links {
    /// Cuts the way `from` one host `to` another until an instant. Of several cuts the longest holds.
    pub fn cut(&mut self, from: HostId, to: HostId, until: Instant) {
        let link = self.states.entry((from, to)).or_default();
        link.cut_until = link.cut_until.max(until);
    }

    /// Heals the way `from` one host `to` another.
    pub fn heal(&mut self, from: HostId, to: HostId) {
        self.states.entry((from, to)).or_default().cut_until = Instant::ZERO;
    }

    /// Gives the way another latency until an instant.
    pub fn slow(&mut self, from: HostId, to: HostId, latency: Span, until: Instant) {
        let link = self.states.entry((from, to)).or_default();
        link.slow_until = until;
        link.slow_latency = Some(latency);
    }

    /// All links are ordinary again.
    pub fn heal_all(&mut self) {
        self.states.clear();
    }

    /// True if nothing gets through. Within a host nothing is ever cut.
    pub fn is_cut(&self, from: HostId, to: HostId, now: Instant) -> bool {
        from != to && self.states.get(&(from, to)).is_some_and(|link| now < link.cut_until)
    }

    /// How long a segment that leaves now is under way.
    pub fn latency(
        &self,
        from: HostId,
        to: HostId,
        now: Instant,
        config: &NetworkConfig,
        rng: &mut Rng,
    ) -> Duration {
        let ordinary = if from == to { config.loopback_latency } else { config.latency };
        let link = self.states.get(&(from, to)).filter(|link| now < link.slow_until);
        link.and_then(|link| link.slow_latency).unwrap_or(ordinary).draw(rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = HostId(0);
    const B: HostId = HostId(1);

    #[test]
    fn a_cut_has_a_direction_and_an_end() {
        let mut links = Links::default();
        links.cut(A, B, Instant::from_nanos(10));
        links.cut(A, B, Instant::from_nanos(5));
        assert!(links.is_cut(A, B, Instant::from_nanos(9)));
        assert!(!links.is_cut(B, A, Instant::from_nanos(9)));
        assert!(!links.is_cut(A, B, Instant::from_nanos(10)));
        links.cut(A, B, Instant::FAR_FUTURE);
        links.heal(A, B);
        assert!(!links.is_cut(A, B, Instant::from_nanos(11)));
    }

    #[test]
    fn a_slow_link_is_slow_for_a_while() {
        let (mut links, config, mut rng) =
            (Links::default(), NetworkConfig::default(), Rng::from_seed(1));
        links.slow(A, B, Span::millis(30, 30), Instant::from_nanos(10));
        let mut latency =
            |from, to, now| links.latency(from, to, Instant::from_nanos(now), &config, &mut rng);
        assert_eq!(latency(A, B, 9), Duration::from_millis(30));
        assert!(latency(A, B, 10) <= config.latency.high);
        assert!(latency(B, A, 9) <= config.latency.high);
        assert!(latency(A, A, 9) <= config.loopback_latency.high);
    }
}
