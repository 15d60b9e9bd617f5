//! What a service manager is told: that the service is ready, that it ends.
//!
//! Datagrams to the socket that `NOTIFY_SOCKET` names, as systemd's `sd_notify(3)` describes them; without
//! that variable nobody is told. A manager that does not listen is no reason not to serve: that is logged.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// It serves; `status` says how it came to.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// What it does meanwhile.
pub fn status(status: &str) {
    tell(&format!("STATUS={status}"));
}

/// It ends in order.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=draining");
}

fn tell(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, message) {
        tracing::warn!(?socket, "the service manager in NOTIFY_SOCKET cannot be told: {error}");
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    // An @ in front stands for a name that is in no file system.
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).expect("something was sent");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told() {
        let name = format!("catena-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).expect("a socket");
        send(path.as_os_str(), "READY=1").expect("somebody listens");
        assert_eq!(received(&by_path), "READY=1");
        std::fs::remove_file(&path).expect("it was made above");
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let by_name = UnixDatagram::bind_addr(&address).expect("a socket");
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").expect("somebody listens");
        assert_eq!(received(&by_name), "STOPPING=1");
    }

    #[test]
    fn nobody_there_is_an_error_and_nothing_more() {
        assert!(send(OsStr::new("/nonexistent/notify"), "READY=1").is_err());
    }
}
