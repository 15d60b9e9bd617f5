//! The sockets that the shards of a server listen on, all made before any shard runs.
//!
//! So an address that cannot be had is known before anything else happens, and nothing is left behind
//! when something else fails. The shards share one address by `SO_REUSEPORT`; with that alone a second
//! server on the same port would go unnoticed and take half of the connections. So the first socket
//! takes the address for itself, and only then lets the others join.
//!
//! A server that was killed may hold the address for some milliseconds more, until the kernel has taken
//! its rings down. So that a supervisor can start it again at once, the first socket tries again for
//! [`ADDRESS_PATIENCE`] before it says that the address is taken.

use crate::application::Addresses;
use crate::driver::{Driver, ListenerId};
use crate::limits::{ADDRESS_PATIENCE, LISTEN_BACKLOG};
use crate::server::StartError;
use crate::sys::socket;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

/// A driver of the kernel's, which can be given sockets.
pub(crate) trait KernelDriver: Driver {
    /// Accepts on a socket that listens already.
    ///
    /// # Errors
    /// As the kernel reports them.
    fn listen_on(&mut self, socket: OwnedFd) -> io::Result<ListenerId>;
}

/// Where a server listens.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    pub(crate) addresses: Addresses,
    /// The sockets of each shard: the shared one, then its own.
    pub(crate) sockets: Vec<Vec<OwnedFd>>,
}

/// The ports on which each shard listens alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OwnPorts {
    /// None does.
    None,
    /// The system picks them.
    Any,
    /// The first shard's, the others' behind it.
    From(u16),
}

impl OwnPorts {
    fn of_shard(self, shard: usize) -> Option<u16> {
        match self {
            OwnPorts::None => None,
            OwnPorts::Any => Some(0),
            // Past the last port the system picks, rather than that shards share one of them.
            OwnPorts::From(first) => {
                Some(usize::from(first).checked_add(shard)?.try_into().unwrap_or(0))
            }
        }
    }
}

/// Listens on `address` for so many shards, and on a port of its own for each if there are any.
pub(crate) fn listen(
    address: SocketAddr,
    shards: u16,
    own_ports: OwnPorts,
) -> Result<Listening, StartError> {
    let on = |address, is_shared| {
        socket::listen_socket(address, is_shared, LISTEN_BACKLOG)
            .map_err(|error| StartError::Listen { address, error })
    };
    let (first, bound) = once_free(|| on(address, false))?;
    socket::share_address(&first).map_err(|error| StartError::Listen { address, error })?;
    let mut sockets = vec![vec![first]];
    for _ in 1..shards {
        sockets.push(vec![on(bound, true)?.0]);
    }
    let mut own_addresses = Vec::new();
    for (shard, sockets) in sockets.iter_mut().enumerate() {
        let Some(port) = own_ports.of_shard(shard) else { continue };
        let (own, bound) = once_free(|| on(SocketAddr::new(address.ip(), port), false))?;
        sockets.push(own);
        own_addresses.push(bound);
    }
    let addresses = Addresses { shared: Some(bound), shards: own_addresses };
    Ok(Listening { addresses, sockets })
}

/// Listens, trying again for a while if the address is taken. Others that try meanwhile are told apart
/// by the kernel: one of them gets it.
fn once_free<T>(mut listen: impl FnMut() -> Result<T, StartError>) -> Result<T, StartError> {
    const RETRY_AFTER: Duration = Duration::from_millis(2);
    let give_up_at = Instant::now() + ADDRESS_PATIENCE;
    loop {
        match listen() {
            Err(StartError::Listen { error, .. })
                if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up_at =>
            {
                thread::sleep(RETRY_AFTER);
            }
            outcome => return outcome,
        }
    }
}
