//! What an operator may choose about the epoll driver.

use super::poller::SLOTS_MAX;
use crate::limits::LISTEN_BACKLOG;
use std::io;

/// What can be chosen at start.
#[derive(Clone, Debug)]
pub struct EpollConfig {
    /// Sockets that may be open at the same time, 1 to 2^31. Memory is taken as they come.
    pub sockets_max: u32,
    /// Bytes of a receive buffer: the most that one receive brings, 1 to 2^31.
    pub receive_chunk_bytes: u32,
    /// Receive buffers, at least 1: chunks that the shard may hold before it gives one back.
    pub chunks_max: u32,
    /// Events that one look fetches, at least 1. What does not fit is fetched by the next look.
    pub events_max: u32,
    /// Connections that the kernel keeps waiting for an accept; it caps this at `somaxconn`.
    pub backlog: u32,
}

impl Default for EpollConfig {
    fn default() -> Self {
        EpollConfig {
            sockets_max: 1 << 20,
            receive_chunk_bytes: 64 * 1_024,
            chunks_max: 16,
            events_max: 512,
            backlog: LISTEN_BACKLOG,
        }
    }
}

impl EpollConfig {
    pub(super) fn check(&self) -> io::Result<()> {
        let bounds = [
            ("sockets_max", self.sockets_max, SLOTS_MAX),
            ("receive_chunk_bytes", self.receive_chunk_bytes, 1 << 31),
            ("chunks_max", self.chunks_max, u32::MAX),
            ("events_max", self.events_max, 1 << 16),
        ];
        for (name, value, max) in bounds {
            if value == 0 || value > max {
                let reason = format!("epoll driver: {name} is {value}, must be 1 to {max}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_named() {
        EpollConfig::default().check().expect("the defaults are within bounds");
        let none = EpollConfig { sockets_max: 0, ..EpollConfig::default() };
        let many = EpollConfig { events_max: 1 << 20, ..EpollConfig::default() };
        for (config, name) in [(none, "sockets_max is 0"), (many, "events_max is 1048576")] {
            let error = config.check().expect_err("out of bounds");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
