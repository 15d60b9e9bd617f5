//! The floor: the least that a server on epoll can do, to measure the engine against.
//!
//! One thread echoes length-prefixed frames: the first four bytes, little-endian, are the length of
//! the whole frame. What a read brings in whole frames goes back in one write, as it came; the rest
//! waits for its other half. There are no calls, no deadlines, no slots with generations here, and
//! no system call without need: a read that did not fill its room is not followed by another one.

use crate::sys::socket::listen_socket;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What to do when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Ask the kernel again and again.
    Spin,
    /// Sleep in the kernel.
    Sleep,
}

/// Room for a read: 32 calls of 32 bytes arrive together in a tenth of it.
const ROOM_BYTES: usize = 16 * 1_024;
/// A longer frame is taken for garbage.
const FRAME_BYTES_MAX: usize = 64 << 20;
const EVENTS_MAX: usize = 256;

/// The token of the listener; peers have their index.
const LISTENER: u64 = u64::MAX;

/// Told once an arrival, and never for being writable, which a socket is nearly always.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// Serves on `address` and the calling thread until `stop` is set; `bound` hears the address that
/// the system has picked. A sleeping server looks at `stop` when it is woken: connect to it.
///
/// # Errors
/// When the address cannot be listened on, or the kernel refuses an epoll instance. What goes wrong
/// on a connection ends that connection.
pub fn serve(
    address: SocketAddr,
    idle: Idle,
    stop: &AtomicBool,
    bound: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let (listener, address) = listen_socket(address, false, 4_096)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::ET)?;
    bound(address);

    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let timeout = (idle == Idle::Spin).then_some(&at_once);
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut peers: Vec<Option<Peer>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => accept_all(&epoll, &listener, &mut peers),
                index => echo(&epoll, &mut peers, index as usize, event.flags),
            }
        }
    }
    Ok(())
}

struct Peer {
    fd: OwnedFd,
    /// What was read and not echoed yet.
    bytes: Vec<u8>,
    /// How many of them are in whole frames.
    whole: usize,
    /// A write was not taken, and `OUT` is asked for.
    blocked: bool,
}

fn accept_all(epoll: &OwnedFd, listener: &OwnedFd, peers: &mut Vec<Option<Peer>>) {
    while let Ok(fd) =
        rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
    {
        let free = peers.iter().position(Option::is_none);
        let index = free.unwrap_or(peers.len());
        if epoll::add(epoll, &fd, EventData::new_u64(index as u64), READING).is_err() {
            continue;
        }
        let bytes = Vec::with_capacity(ROOM_BYTES);
        let peer = Some(Peer { fd, bytes, whole: 0, blocked: false });
        match free {
            Some(index) => peers[index] = peer,
            None => peers.push(peer),
        }
    }
}

/// Echoes what there is. A peer that has ended or broken the rules is closed.
fn echo(epoll: &OwnedFd, peers: &mut [Option<Peer>], index: usize, flags: EventFlags) {
    let Some(peer) = &mut peers[index] else { return };
    let ending = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
    let interest = match peer.echo(ending) {
        Echoed::All if peer.blocked => READING,
        Echoed::Blocked if !peer.blocked => READING | EventFlags::OUT,
        Echoed::All | Echoed::Blocked => return,
        Echoed::Ended => {
            peers[index] = None;
            return;
        }
    };
    peer.blocked = !peer.blocked;
    if epoll::modify(epoll, peer.fd.as_fd(), EventData::new_u64(index as u64), interest).is_err() {
        peers[index] = None;
    }
}

enum Echoed {
    All,
    Blocked,
    Ended,
}

impl Peer {
    /// Reads and writes until the peer has nothing more, or takes nothing more. With `ending` there
    /// will be no other event, so reading goes on to the very end.
    fn echo(&mut self, ending: bool) -> Echoed {
        let mut is_drained = false;
        loop {
            while self.whole > 0 {
                match rustix::net::send(&self.fd, &self.bytes[..self.whole], SendFlags::NOSIGNAL) {
                    Ok(sent) => {
                        self.bytes.drain(..sent);
                        self.whole -= sent;
                    }
                    Err(Errno::AGAIN) => return Echoed::Blocked,
                    Err(_) => return Echoed::Ended,
                }
            }
            if is_drained {
                return Echoed::All;
            }
            let room = self.bytes.capacity() - self.bytes.len();
            let spare = rustix::buffer::spare_capacity(&mut self.bytes);
            match rustix::net::recv(&self.fd, spare, RecvFlags::empty()) {
                Ok((0, _)) => return Echoed::Ended,
                Ok((length, _)) => is_drained = length < room && !ending,
                Err(Errno::AGAIN) => return Echoed::All,
                Err(_) => return Echoed::Ended,
            }
            if !self.count_whole_frames() {
                return Echoed::Ended;
            }
        }
    }

    /// Finds where the last whole frame ends and makes room for the one that is cut. False if what
    /// was read is no frame.
    fn count_whole_frames(&mut self) -> bool {
        while let Some(prefix) = self.bytes[self.whole..].first_chunk::<4>() {
            let length = u32::from_le_bytes(*prefix) as usize;
            if !(4..=FRAME_BYTES_MAX).contains(&length) {
                return false;
            }
            let begun = self.bytes.len() - self.whole;
            if begun < length {
                self.bytes.reserve(length - begun);
                break;
            }
            self.whole += length;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpStream};
    use std::sync::{Arc, mpsc};
    use std::thread::{self, JoinHandle};

    struct Server {
        address: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: JoinHandle<io::Result<()>>,
    }

    impl Server {
        fn start(idle: Idle) -> Self {
            let (tell, told) = mpsc::channel();
            let stop = Arc::new(AtomicBool::new(false));
            let its = stop.clone();
            let thread = thread::spawn(move || {
                let loopback = (Ipv4Addr::LOCALHOST, 0).into();
                serve(loopback, idle, &its, |address| tell.send(address).expect("it is awaited"))
            });
            let address = told.recv().expect("loopback listens");
            Server { address, stop, thread }
        }

        fn stop(self) {
            self.stop.store(true, Ordering::Relaxed);
            let _woken = TcpStream::connect(self.address);
            self.thread.join().expect("it does not panic").expect("epoll works");
        }
    }

    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![length as u8; length];
        frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
        frame
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let peer = TcpStream::connect(address).expect("the echo listens");
        peer.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("not zero");
        peer
    }

    #[test]
    fn frames_come_back_whole_however_they_were_cut() {
        for idle in [Idle::Sleep, Idle::Spin] {
            let server = Server::start(idle);
            let mut peers = [(); 3].map(|()| connect(server.address));
            let frames: Vec<u8> = [4, 5, 32, 64, 20_000, 33]
                .into_iter()
                .flat_map(frame)
                .cycle()
                .take(40_000)
                .collect();
            let whole = 4 + 5 + 32 + 64 + 20_000 + 33;
            for (peer, piece) in peers.iter_mut().zip([1_000, 33, 40_000]) {
                frames.chunks(piece).for_each(|piece| peer.write_all(piece).expect("it reads"));
                let mut echo = vec![0; whole + 4 + 5 + 32 + 64];
                peer.read_exact(&mut echo).expect("every whole frame comes back");
                assert!(echo == frames[..echo.len()], "{idle:?}, in pieces of {piece}");
            }
            server.stop();
        }
    }

    #[test]
    fn a_peer_that_does_not_read_is_waited_for() {
        let server = Server::start(Idle::Sleep);
        let mut peer = connect(server.address);
        let mut its = peer.try_clone().expect("descriptors are left");
        let frames = frame(1 << 20).repeat(24);
        let expected = frames.clone();
        let writer = thread::spawn(move || {
            its.write_all(&frames).expect("it reads");
            its.shutdown(std::net::Shutdown::Write).expect("it is connected");
        });
        // The writer is stuck by then, as nothing was read of the echo yet.
        thread::sleep(std::time::Duration::from_millis(50));
        let mut echo = Vec::new();
        peer.read_to_end(&mut echo).expect("the end is orderly");
        assert!(echo == expected);
        writer.join().expect("the writer is done");
        server.stop();
    }

    #[test]
    fn garbage_ends_its_connection_alone() {
        let server = Server::start(Idle::Sleep);
        let (mut bad, mut good) = (connect(server.address), connect(server.address));
        bad.write_all(&3u32.to_le_bytes()).expect("it reads");
        assert_eq!(bad.read(&mut [0; 8]).expect("the end is orderly"), 0);
        good.write_all(&frame(40)).expect("it reads");
        good.read_exact(&mut [0; 40]).expect("the others are served");
        server.stop();
    }
}
