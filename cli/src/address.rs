//! Where to listen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// `PORT` on loopback, or `ADDRESS:PORT`.
///
/// # Errors
/// What would be right.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse()
        .map_err(|_| format!("{text:?} is no address; say 7400, 0.0.0.0:7400 or [::1]:7400"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_on_loopback_unless_told_otherwise() {
        for (text, address) in [("9100", "127.0.0.1:9100"), ("0.0.0.0:1", "0.0.0.0:1")] {
            assert_eq!(parse_address(text).map(|address| address.to_string()), Ok(address.into()));
        }
        assert!(parse_address("here").is_err_and(|error| error.contains("[::1]:7400")));
    }
}
