//! What is chosen at start: validated once, then believed.

use crate::limits::{FRAME_BYTES_CEILING, FRAME_BYTES_FLOOR, IN_FLIGHT_CEILING};
use crate::time::Duration;
use std::fmt;

/// How one connection behaves, on either side.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// The longest frame in bytes that this side accepts, header included. Default: 16 MiB and a
    /// little, so that a body of 16 MiB fits with its metadata. Told to the peer in hello.
    pub frame_bytes_max: u32,
    /// Requests that a peer may have in flight on one connection. Default 1,024: enough to fill
    /// 10 Gbit/s × 1 ms with 1 KiB frames. Told to the peer in hello.
    pub in_flight_max: u32,
    /// Ask for checksums over bodies; used when both sides ask. Default: no (TCP has its own; turn
    /// it on where memory or middleboxes are not trusted).
    pub payload_crc: bool,
    /// From the connection to the peer's hello. Default 10 s.
    pub hello_timeout: Duration,
    /// Silence after which the peer is pinged. Default 15 s; below the minute after which many
    /// middleboxes forget an idle connection.
    pub keepalive_interval: Duration,
    /// From a ping to any sign of life, after which the connection is given up. Default 10 s; behind
    /// answers that the peer takes slowly, the frame timeout of 4 MiB (50 s) if that is longer.
    pub keepalive_timeout: Duration,
    /// Server: a connection without a request, arriving or in work, for so long is left (after twice
    /// the time at most). Told to the peer in hello. Default: never.
    pub idle_timeout: Option<Duration>,
    /// From the first to the last byte of one frame, for the first MiB; each further MiB has as
    /// much again. Default 10 s. This ends a peer that sends half a header for ever. A peer that does
    /// not take its answers has the same time, by what waits for it.
    pub frame_timeout: Duration,
    /// From go-away to the end, whatever still runs. Default 30 s.
    pub drain_timeout: Duration,
    /// Bytes that wait to be sent to one peer, above which a server reads nothing more from it, and a
    /// client starts no further call: those wait, as they do for room in the window. Default 1 MiB.
    pub output_bytes_max: usize,
    /// What is broken on purpose, so that the simulation can show that it would see it.
    #[cfg(feature = "sim")]
    pub broken: Broken,
}

/// A rule of the engine that is switched off. For the simulation's own tests alone.
#[cfg(feature = "sim")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Broken {
    /// Nothing.
    #[default]
    Nothing,
    /// A client takes an answer for the call that is in the slot now, whichever it was meant for.
    Generations,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        ConnectionConfig {
            frame_bytes_max: (16 << 20) + (64 << 10),
            in_flight_max: 1_024,
            payload_crc: false,
            hello_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(10),
            idle_timeout: None,
            frame_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            output_bytes_max: 1 << 20,
            #[cfg(feature = "sim")]
            broken: Broken::Nothing,
        }
    }
}

impl ConnectionConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let millis = |duration: Duration| duration.as_millis().try_into().unwrap_or(u64::MAX);
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        between(
            "frame_bytes_max",
            self.frame_bytes_max.into(),
            FRAME_BYTES_FLOOR.into(),
            FRAME_BYTES_CEILING.into(),
        )?;
        between("in_flight_max", self.in_flight_max.into(), 1, IN_FLIGHT_CEILING.into())?;
        between("hello_timeout (ms)", millis(self.hello_timeout), 1, DAY_MS)?;
        between("keepalive_interval (ms)", millis(self.keepalive_interval), 1, DAY_MS)?;
        between("keepalive_timeout (ms)", millis(self.keepalive_timeout), 1, DAY_MS)?;
        between("idle_timeout (ms)", self.idle_timeout.map_or(1, millis), 1, DAY_MS)?;
        between("frame_timeout (ms)", millis(self.frame_timeout), 1, DAY_MS)?;
        between("drain_timeout (ms)", millis(self.drain_timeout), 0, DAY_MS)?;
        between("output_bytes_max", self.output_bytes_max as u64, 1, 1 << 40)
    }
}

pub(crate) fn between(
    name: &'static str,
    value: u64,
    low: u64,
    high: u64,
) -> Result<(), ConfigError> {
    let is_within = (low..=high).contains(&value);
    if is_within { Ok(()) } else { Err(ConfigError { name, value, low, high }) }
}

/// A configuration value that is out of its bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Which value.
    pub name: &'static str,
    /// What it was.
    pub value: u64,
    /// The least it may be.
    pub low: u64,
    /// The most it may be.
    pub high: u64,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { name, value, low, high } = self;
        write!(f, "{name} is {value}; it must be between {low} and {high}")
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_named() {
        ConnectionConfig::default().validate().expect("defaults serve");
        let bad = ConnectionConfig { in_flight_max: 0, ..Default::default() };
        let error = bad.validate().expect_err("no request could ever be sent");
        assert_eq!(error.to_string(), "in_flight_max is 0; it must be between 1 and 65536");
    }
}
