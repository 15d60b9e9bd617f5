//! Endpoints by name, looked up again and again.

use super::{DiscoveryError, LOOK_INTERVAL, Resolved, Source};
use catena_engine::time::Duration;
use std::net::ToSocketAddrs;

/// All addresses of `HOST:PORT`, by the system's resolver, which knows no time to live: so they are looked
/// up at an interval.
#[derive(Debug)]
pub struct Dns {
    name: String,
    interval: Duration,
    is_first: bool,
}

impl Dns {
    /// The addresses of `HOST:PORT`, looked up every [`LOOK_INTERVAL`].
    pub fn new(name: impl Into<String>) -> Self {
        Dns { name: name.into(), interval: LOOK_INTERVAL, is_first: true }
    }

    /// Looks them up so often.
    pub fn every(self, interval: Duration) -> Self {
        Dns { interval, ..self }
    }
}

impl Source for Dns {
    fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError> {
        if !std::mem::take(&mut self.is_first) {
            std::thread::sleep(self.interval);
        }
        let addresses = self.name.to_socket_addrs();
        let addresses = addresses
            .map_err(|error| DiscoveryError::Resolve { name: self.name.clone(), error })?;
        Ok(addresses.map(Resolved::from).collect())
    }

    fn describe(&self) -> String {
        format!("dns {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_found_and_nonsense_is_named() {
        let found = Dns::new("127.0.0.1:7400").find().expect("an address is its own name");
        assert_eq!(
            found,
            [Resolved::from("127.0.0.1:7400".parse::<std::net::SocketAddr>().unwrap())]
        );
        for name in ["127.0.0.1", "host.invalid:1"] {
            let error = Dns::new(name).find().expect_err("there is no such endpoint").to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
