//! TCP sockets as every kernel driver wants them: close-on-exec, non-blocking, without Nagle's delay.

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// A listening socket on `address` (port 0: the system picks one) and the address that it has got.
///
/// With `reuse_port` several sockets may listen on one address, and the kernel spreads connections
/// over them. Sockets that it accepts inherit `TCP_NODELAY`, but not being non-blocking.
///
/// # Errors
/// As `socket`, `setsockopt`, `bind` and `listen` report them.
pub fn listen_socket(
    address: SocketAddr,
    reuse_port: bool,
    backlog: u32,
) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = tcp_socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let bound = SocketAddr::try_from(net::getsockname(&socket)?)?;
    Ok((socket, bound))
}

/// Lets further sockets listen on the address of `listener`, which was alone there until now. Those
/// ask for it with `reuse_port`; whoever does not is still refused.
///
/// # Errors
/// As `setsockopt` reports them.
pub fn share_address(listener: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_reuseport(listener, true)?)
}

/// A socket of `address`'s family, ready to be connected to it.
///
/// # Errors
/// As `socket` and `setsockopt` report them.
pub fn connect_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    Ok(tcp_socket(address)?)
}

/// Receives what is there behind the bytes of `memory`, into its spare capacity, at most `bytes_max`.
/// Returns how many bytes came and how many there was room for.
///
/// # Errors
/// As `recv` reports them; `EAGAIN` if nothing is there.
pub fn receive_into(
    socket: impl AsFd,
    memory: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(usize, usize), Errno> {
    let room = memory.spare_capacity_mut();
    let room_bytes = room.len().min(bytes_max);
    let ((received, _), _) = net::recv(socket, &mut room[..room_bytes], RecvFlags::DONTWAIT)?;
    let length = received.len();
    // SAFETY: so many bytes behind the ones that there were have just been written, within the
    // capacity.
    unsafe { memory.set_len(memory.len() + length) };
    Ok((length, room_bytes))
}

/// The address of the peer, while it is connected.
pub fn peer_address(socket: impl AsFd) -> Option<SocketAddr> {
    let address = net::getpeername(socket).ok().flatten()?;
    SocketAddr::try_from(address).ok()
}

fn tcp_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream};

    fn loopback() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn accepted_sockets_inherit_nodelay_and_know_their_peer() {
        let (listener, address) = listen_socket(loopback(), false, 8).expect("loopback listens");
        let client = TcpStream::connect(address).expect("the backlog takes one");
        let accepted = net::accept(&listener).expect("the connection is in the backlog");
        assert!(sockopt::tcp_nodelay(&accepted).expect("a TCP socket has the option"));
        assert_eq!(peer_address(&accepted), client.local_addr().ok());
    }

    #[test]
    fn a_port_can_be_shared_only_by_who_asked_for_it() {
        let (_first, address) = listen_socket(loopback(), true, 8).expect("loopback listens");
        listen_socket(address, true, 8).expect("shared on both sides");
        let alone = listen_socket(address, false, 8).expect_err("taken");
        assert_eq!(alone.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn who_was_alone_on_a_port_can_share_it_later() {
        let (first, address) = listen_socket(loopback(), false, 8).expect("loopback listens");
        let early = listen_socket(address, true, 8).expect_err("it is alone");
        assert_eq!(early.kind(), io::ErrorKind::AddrInUse);
        share_address(&first).expect("it is a TCP socket");
        let (_second, same) = listen_socket(address, true, 8).expect("it is shared now");
        assert_eq!(same, address);
        let alone = listen_socket(address, false, 8).expect_err("shared, but not with everybody");
        assert_eq!(alone.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_socket_that_is_not_connected_has_no_peer() {
        let socket = connect_socket(loopback()).expect("a socket is to be had");
        assert!(sockopt::tcp_nodelay(&socket).expect("a TCP socket has the option"));
        assert_eq!(peer_address(&socket), None);
    }
}
