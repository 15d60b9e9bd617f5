//! The sockets that the shards of a server listen on, all made before any shard runs.
//!
//! So an address that cannot be had is known before anything else happens, and nothing is left behind
//! when something else fails. The shards share one address by `SO_REUSEPORT`; with that alone a second
//! server on the same port would go unnoticed and take half of the connections. So the first socket
//! takes the address for itself, and only then lets the others join.

use crate::driver::{Driver, ListenerId};
use crate::limits::LISTEN_BACKLOG;
use crate::server::StartError;
use crate::sys::socket;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// A driver of the kernel's, which can be given sockets.
pub(crate) trait KernelDriver: Driver {
    /// Accepts on a socket that listens already.
    ///
    /// # Errors
    /// As the kernel reports them.
    fn listen_on(&mut self, socket: OwnedFd) -> io::Result<ListenerId>;
}

/// Where a server listens.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The address that all shards share.
    pub(crate) address: SocketAddr,
    /// The address of each shard's own; empty if they have none.
    pub(crate) shard_addresses: Vec<SocketAddr>,
    /// The sockets of each shard.
    pub(crate) sockets: Vec<Vec<OwnedFd>>,
}

/// Listens on `address` for so many shards, and on a port of its own for each if `shard_ports` says
/// so.
pub(crate) fn listen(
    address: SocketAddr,
    shards: u16,
    shard_ports: bool,
) -> Result<Listening, StartError> {
    let on = |address, is_shared| {
        socket::listen_socket(address, is_shared, LISTEN_BACKLOG)
            .map_err(|error| StartError::Listen { address, error })
    };
    let (first, bound) = on(address, false)?;
    socket::share_address(&first).map_err(|error| StartError::Listen { address, error })?;
    let mut listening =
        Listening { address: bound, shard_addresses: Vec::new(), sockets: vec![vec![first]] };
    for _ in 1..shards {
        listening.sockets.push(vec![on(bound, true)?.0]);
    }
    if shard_ports {
        for sockets in &mut listening.sockets {
            let (own, bound) = on(SocketAddr::new(address.ip(), 0), false)?;
            sockets.push(own);
            listening.shard_addresses.push(bound);
        }
    }
    Ok(listening)
}
