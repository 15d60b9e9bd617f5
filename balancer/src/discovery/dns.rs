//! Endpoints by name, looked up again and again.

use super::{Closing, DiscoveryError, LOOK_INTERVAL, Resolved, Source};
use crate::config::{ConfigError, between};
use catena_engine::rng::Rng;
use catena_engine::time::Duration;
use std::hash::{BuildHasher, RandomState};
use std::net::ToSocketAddrs;

/// No more often than this: a resolver is everybody's.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// No less often than this: addresses of a service that moved would be wrong for a day.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// All addresses of `HOST:PORT`, of IPv4 and IPv6 (`[::1]:7400`), by the system's resolver. It knows no
/// time to live: so they are looked up at an interval, of which a part is drawn at random so that clients
/// that were started together do not ask together. A resolver's cache is what respects times to live.
#[derive(Debug)]
pub struct Dns {
    name: String,
    interval: Duration,
    family: Option<Family>,
    rng: Rng,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

impl Dns {
    /// The addresses of `HOST:PORT`, looked up every [`LOOK_INTERVAL`].
    pub fn new(name: impl Into<String>) -> Self {
        let rng = Rng::from_seed(RandomState::new().hash_one("discovery"));
        Dns { name: name.into(), interval: LOOK_INTERVAL, family: None, rng }
    }

    /// Looks them up so often, 100 ms to a day.
    ///
    /// # Errors
    /// If `interval` is out of these bounds.
    pub fn every(self, interval: Duration) -> Result<Self, ConfigError> {
        between("interval", interval, INTERVAL_MIN, INTERVAL_MAX)?;
        Ok(Dns { interval, ..self })
    }

    /// Addresses of IPv4 alone: of servers that have both, each would be two endpoints.
    pub fn ipv4_only(self) -> Self {
        Dns { family: Some(Family::V4), ..self }
    }

    /// Addresses of IPv6 alone.
    pub fn ipv6_only(self) -> Self {
        Dns { family: Some(Family::V6), ..self }
    }

    /// From the shortest to the longest pause: a tenth either way.
    fn pause(&mut self) -> Duration {
        self.rng.between(self.interval - self.interval / 10, self.interval + self.interval / 10)
    }
}

impl Source for Dns {
    fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError> {
        let addresses = self.name.to_socket_addrs();
        let addresses = addresses
            .map_err(|error| DiscoveryError::Resolve { name: self.name.clone(), error })?;
        let is_wanted = |family| self.family.is_none_or(|wanted| wanted == family);
        let wanted = addresses
            .filter(|address| is_wanted(if address.is_ipv4() { Family::V4 } else { Family::V6 }));
        Ok(wanted.map(Resolved::from).collect())
    }

    fn wait(&mut self, closing: &Closing) {
        let pause = self.pause();
        closing.sleep(pause);
    }

    fn describe(&self) -> String {
        let family = match self.family {
            None => "",
            Some(Family::V4) => ", IPv4 only",
            Some(Family::V6) => ", IPv6 only",
        };
        format!("dns {}{family}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn found(dns: Dns) -> Vec<SocketAddr> {
        let mut dns = dns;
        let found = dns.find().expect("an address is its own name");
        found.into_iter().map(|found| found.address).collect()
    }

    #[test]
    fn names_and_addresses_are_found_and_nonsense_is_named() {
        let v4: SocketAddr = "127.0.0.1:7400".parse().expect("an address");
        let v6: SocketAddr = "[::1]:7400".parse().expect("an address");
        assert_eq!(found(Dns::new("127.0.0.1:7400")), [v4]);
        assert_eq!(found(Dns::new("[::1]:7400")), [v6]);
        assert_eq!(found(Dns::new("[::1]:7400").ipv6_only()), [v6]);
        assert_eq!(found(Dns::new("[::1]:7400").ipv4_only()), []);
        for name in ["127.0.0.1", "host.invalid:1", "::1", "127.0.0.1:65536", ""] {
            let error = Dns::new(name).find().expect_err("there is no such endpoint").to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn all_addresses_of_a_name_are_endpoints() {
        // Every machine knows this name, by one family or both.
        let all = found(Dns::new("localhost:7400"));
        assert!(!all.is_empty() && all.iter().all(|address| address.ip().is_loopback()), "{all:?}");
        let mut split = found(Dns::new("localhost:7400").ipv4_only());
        split.extend(found(Dns::new("localhost:7400").ipv6_only()));
        split.sort_unstable();
        let mut all = all;
        all.sort_unstable();
        assert_eq!(split, all);
    }

    #[test]
    fn a_family_that_has_none_is_no_endpoints_and_says_so() {
        let error = crate::discovery::Endpoints::watch(Dns::new("127.0.0.1:1").ipv6_only());
        let error = error.expect_err("it is of the other family").to_string();
        assert!(error.starts_with("dns 127.0.0.1:1, IPv6 only: no endpoints"), "{error}");
    }

    #[test]
    fn pauses_differ_by_a_tenth_either_way() {
        let second = Duration::from_secs(1);
        let mut dns = Dns::new("x:1").every(second).expect("it is within the bounds");
        let pauses: Vec<Duration> = (0..100).map(|_| dns.pause()).collect();
        let bounds = Duration::from_millis(900)..=Duration::from_millis(1_100);
        assert!(pauses.iter().all(|pause| bounds.contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        for interval in [Duration::ZERO, Duration::MAX] {
            let error = Dns::new("x:1").every(interval).expect_err("too often, too rarely");
            assert!(error.to_string().starts_with("interval is "), "{error}");
        }
    }
}
