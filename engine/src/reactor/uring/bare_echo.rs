//! The least that an echo server on io_uring costs: the yardstick for the engine.
//!
//! A raw ring on one thread: multishot accept and receive, buffers picked by the kernel, all whole
//! frames of a receive answered with one eager send, one system call a turn. No ids, no deadlines,
//! no limits; a frame is a little-endian length, itself included, and whatever follows.
//! It is measured, never served with: what a peer does not read is kept for it without bound.

use super::config::{Features, UringConfig, UringError};
use super::probe;
use crate::driver::Output;
use crate::limits::LISTEN_BACKLOG;
use crate::sys::pool::Pool;
use crate::sys::ring::{Brings, Reaped, Ring, Wait};
use crate::sys::socket;
use crate::sys::submit::{Patience, Shots};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What to do when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Read two shared words again and again.
    Spin,
    /// Sleep in the kernel.
    Sleep,
}

/// Serves on `address` and the calling thread until `stop` is set; `bound` hears the address that
/// the system has picked. A sleeping server looks at `stop` when it is woken: connect to it.
///
/// # Errors
/// When there is no ring to be had with all that the least echo needs, the address cannot be
/// listened on, or the ring breaks. What goes wrong on a connection ends that connection.
pub fn serve(
    address: SocketAddr,
    idle: Idle,
    stop: &AtomicBool,
    bound: impl FnOnce(SocketAddr),
) -> Result<(), UringError> {
    let config = UringConfig::default();
    let (mut ring, features) = probe::open(&config)?;
    let needed =
        Features::MULTISHOT_ACCEPT.with(Features::MULTISHOT_RECEIVE).with(Features::EAGER_SEND);
    if !features.contains(needed) {
        return Err(UringError::TooOld { missing: "multishot operations or eager sends" });
    }
    let failed = |step| move |error| UringError::new(step, error);
    let pool = Pool::new(config.receive_buffers, config.receive_buffer_bytes, Box::new(|| {}));
    probe::provide(&mut ring, pool.map_err(failed("mapping the receive buffers"))?)?;
    let (listener, address) =
        socket::listen_socket(address, false, LISTEN_BACKLOG).map_err(failed("listening"))?;
    ring.accept(listener.as_fd(), Shots::Many, Op::Accept.encode());
    bound(address);
    let (peers, vacant, dirty) = (Vec::new(), Vec::new(), Vec::new());
    let mut server = Server { ring, listener, peers, vacant, dirty };
    while !stop.load(Ordering::Relaxed) {
        server.turn(idle, stop).map_err(failed("entering io_uring"))?;
    }
    Ok(())
}

enum Op {
    Accept,
    Receive(u32),
    Send(u32),
}

impl Op {
    fn encode(&self) -> u64 {
        match self {
            Op::Accept => 1 << 32,
            Op::Receive(peer) => 2 << 32 | u64::from(*peer),
            Op::Send(peer) => 3 << 32 | u64::from(*peer),
        }
    }

    fn decode(user_data: u64) -> Op {
        match user_data >> 32 {
            1 => Op::Accept,
            2 => Op::Receive(user_data as u32),
            3 => Op::Send(user_data as u32),
            other => unreachable!("no operation has the tag {other}"),
        }
    }
}

struct Server {
    ring: Ring,
    listener: OwnedFd,
    peers: Vec<Peer>,
    vacant: Vec<u32>,
    /// Peers that have something to be sent.
    dirty: Vec<u32>,
}

#[derive(Default)]
struct Peer {
    socket: Option<OwnedFd>,
    /// The beginning of a frame that has not arrived whole.
    partial: Vec<u8>,
    output: Output,
    sending: bool,
    receiving: bool,
}

impl Server {
    fn turn(&mut self, idle: Idle, stop: &AtomicBool) -> io::Result<()> {
        match idle {
            Idle::Sleep => self.ring.enter(Wait::Forever)?,
            Idle::Spin => {
                while !self.ring.is_ready() && !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                self.ring.enter(Wait::No)?
            }
        };
        while let Some(reaped) = self.ring.next_reaped() {
            match Op::decode(reaped.user_data) {
                Op::Accept => self.on_accept(reaped),
                Op::Receive(peer) => self.on_receive(peer, reaped),
                Op::Send(peer) => self.on_send(peer, reaped),
            }
        }
        while let Some(index) = self.dirty.pop() {
            let peer = &mut self.peers[index as usize];
            if let Some(socket) = &peer.socket
                && !peer.sending
                && !peer.output.is_empty()
            {
                peer.sending = true;
                let output = std::mem::take(&mut peer.output);
                let user_data = Op::Send(index).encode();
                self.ring.send(socket.as_fd(), output, Patience::Eager, user_data);
            }
        }
        Ok(())
    }

    fn on_accept(&mut self, reaped: Reaped) {
        if !reaped.more {
            self.ring.accept(self.listener.as_fd(), Shots::Many, Op::Accept.encode());
        }
        if let Brings::Descriptor(socket) = reaped.brings {
            let index = self.vacant.pop().unwrap_or_else(|| {
                self.peers.push(Peer::default());
                self.peers.len() as u32 - 1
            });
            self.ring.receive(socket.as_fd(), Shots::Many, Op::Receive(index).encode());
            let peer = &mut self.peers[index as usize];
            (peer.socket, peer.receiving) = (Some(socket), true);
        }
    }

    fn on_receive(&mut self, index: u32, reaped: Reaped) {
        let peer = &mut self.peers[index as usize];
        if let Brings::Buffer(buffer) = reaped.brings {
            let length = reaped.result.max(0) as u32;
            peer.take(self.ring.buffers().bytes(buffer, 0, length));
            self.ring.buffers_mut().give_back(buffer);
            if !peer.output.is_empty() && !peer.sending {
                self.dirty.push(index);
            }
        }
        if reaped.more {
            return;
        }
        // Buffers are always given back before the next turn: to run out of them is no end.
        if reaped.result > 0 || reaped.result == -libc::ENOBUFS {
            let socket = peer.socket.as_ref().expect("a peer that receives has a socket");
            self.ring.receive(socket.as_fd(), Shots::Many, Op::Receive(index).encode());
        } else {
            peer.receiving = false;
            self.retire(index);
        }
    }

    fn on_send(&mut self, index: u32, reaped: Reaped) {
        let Brings::Memory(landed) = reaped.brings else {
            unreachable!("a send brings its output back");
        };
        let peer = &mut self.peers[index as usize];
        let sent = match reaped.result {
            result if result >= 0 => result as usize,
            result if result == -libc::EAGAIN => 0,
            _ => {
                self.ring.discard(landed);
                peer.sending = false;
                return self.retire(index);
            }
        };
        let socket = peer.socket.as_ref().expect("a peer that is sent to has a socket");
        if self.ring.count_sent(&landed, sent) > 0 {
            self.ring.send_rest(socket.as_fd(), landed);
            return;
        }
        peer.sending = false;
        let mut output = self.ring.take_output(landed);
        if peer.output.is_empty() {
            output.clear(usize::MAX);
            peer.output = output;
        } else {
            self.dirty.push(index);
        }
        self.retire(index);
    }

    /// Frees the place of a peer that is gone, once nothing of it is in flight.
    fn retire(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        if !peer.receiving && !peer.sending {
            *peer = Peer::default();
            self.vacant.push(index);
        }
    }
}

impl Peer {
    /// Copies the whole frames among `bytes` to the output and keeps the rest.
    fn take(&mut self, bytes: &[u8]) {
        if self.partial.is_empty() {
            let whole = whole_frames(bytes);
            self.output.copied_mut().extend_from_slice(&bytes[..whole]);
            self.partial.extend_from_slice(&bytes[whole..]);
        } else {
            self.partial.extend_from_slice(bytes);
            let whole = whole_frames(&self.partial);
            self.output.copied_mut().extend(self.partial.drain(..whole));
        }
    }
}

/// The length of the whole frames at the start of `bytes`. A frame that claims to be shorter than
/// its own length field counts as having just that.
fn whole_frames(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some((length, _)) = bytes[end..].split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).max(4);
        if bytes.len() - end < length {
            break;
        }
        end += length;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpStream};
    use std::sync::{Arc, mpsc};
    use std::thread::{self, JoinHandle};

    #[test]
    fn only_whole_frames_are_echoed() {
        let mut peer = Peer::default();
        let stream = [6, 0, 0, 0, 1, 2, 5, 0, 0, 0, 3, 4, 0, 0, 0];
        for byte in stream {
            peer.take(&[byte]);
        }
        assert_eq!(peer.output.to_vec(), stream);
        assert!(peer.partial.is_empty());
        peer.take(&[6, 0, 0, 0, 1]);
        assert_eq!(peer.output.len(), stream.len());
        assert_eq!(whole_frames(&[4, 0, 0, 0, 9, 0, 0]), 4);
        assert_eq!(whole_frames(&[0, 0, 0, 0]), 4, "no endless loop on a lie");
    }

    /// An echo on a thread of its own; `None` where io_uring is refused.
    fn start(idle: Idle) -> Option<Echo> {
        if let Err(error) = Ring::new(&probe::setup(&UringConfig::default(), Features::NONE)) {
            println!("skipped: {error}");
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (its, (tell, told)) = (stop.clone(), mpsc::channel());
        let thread = thread::spawn(move || {
            let bound = |address| tell.send(address).expect("the test listens");
            serve((Ipv4Addr::LOCALHOST, 0).into(), idle, &its, bound).expect("it was there");
        });
        let address = told.recv().expect("loopback listens");
        Some(Echo { address, stop, thread })
    }

    struct Echo {
        address: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: JoinHandle<()>,
    }

    impl Echo {
        fn end(self) {
            self.stop.store(true, Ordering::Relaxed);
            drop(TcpStream::connect(self.address));
            self.thread.join().expect("it does not panic");
        }
    }

    fn frames(lengths: &[usize]) -> Vec<u8> {
        let frame = |length: &usize| {
            let mut frame = vec![*length as u8; *length];
            frame[..4].copy_from_slice(&(*length as u32).to_le_bytes());
            frame
        };
        lengths.iter().flat_map(frame).collect()
    }

    #[test]
    fn frames_come_back_whole_however_they_were_cut() {
        for idle in [Idle::Sleep, Idle::Spin] {
            let Some(server) = start(idle) else { return };
            let frames = frames(&[4, 5, 32, 64, 40_000, 33]);
            for piece in [1_000, 33, 50_000] {
                let mut peer = TcpStream::connect(server.address).expect("the echo listens");
                for piece in frames.chunks(piece) {
                    peer.write_all(piece).expect("it reads");
                }
                peer.write_all(&frames[..3]).expect("it reads");
                let mut echo = vec![0; frames.len()];
                peer.read_exact(&mut echo).expect("every whole frame comes back");
                assert!(echo == frames, "{idle:?}, in pieces of {piece}");
            }
            server.end();
        }
    }

    #[test]
    fn a_peer_that_reads_late_gets_all() {
        let Some(server) = start(Idle::Sleep) else { return };
        let mut peer = TcpStream::connect(server.address).expect("the echo listens");
        let frames = frames(&[20_000; 800]);
        peer.write_all(&frames).expect("the echo keeps what is not read");
        let mut echo = vec![0; frames.len()];
        peer.read_exact(&mut echo).expect("every whole frame comes back");
        assert!(echo == frames);
        server.end();
    }
}
