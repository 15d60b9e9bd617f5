//! One connection: two ends and, between them, a pipe in each direction.
//!
//! ```text
//! send ─► unsent ─► in flight ─► arrived ─► received          pipe of the sender's side
//!         └── send buffer ──┘    └ window ┘
//!              ◄─── acknowledgement: bytes arrived, window ◄─
//! ```
//!
//! The sender's kernel holds bytes until they are acknowledged, the receiver's until they are read;
//! both are bounded, so a reader that does not read ends up holding back the sender.

use super::host::{HostId, ShardAt};
use crate::driver::{ListenerId, Output, SocketId};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A connection of the world; never used again for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ConnectionId(pub u64);

/// Who of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Client, Side::Server];

    pub fn index(self) -> usize {
        self as usize
    }

    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// A connection and what is under way on it.
#[derive(Debug)]
pub(super) struct Connection {
    pub ends: [End; 2],
    /// By the side that sends.
    pub pipes: [Pipe; 2],
    /// Bytes travel in pieces of random size.
    pub fragmented: bool,
    /// A third party forgot it: nothing gets through, and nobody says so.
    pub silenced: bool,
    pub began_at: Instant,
    pub attempts: u32,
    /// Chosen when the attempt reached the server's host.
    pub listener: Option<(ShardAt, ListenerId)>,
}

/// What the kernel of an end knows of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kernel {
    /// The handshake is under way.
    Opening,
    /// Bytes may flow.
    Open,
    /// The process is done with it; what was sent still leaves, then the stream ends.
    Orphaned,
    /// Nothing. Whatever arrives is answered with a reset.
    Gone,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub host: HostId,
    pub address: SocketAddr,
    pub kernel: Kernel,
    /// The socket that a process has for it.
    pub owner: Option<(ShardAt, SocketId)>,
    pub paused: bool,
    pub sending: Option<Sending>,
    pub broken: Option<Broken>,
    /// The end of what there was to receive has been reported.
    pub receive_ended: bool,
}

/// A send in flight.
#[derive(Debug)]
pub(super) struct Sending {
    pub output: Output,
    /// Bytes that are in the kernel's hands.
    pub taken: usize,
}

/// How an end broke.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    pub errno: Errno,
    /// A reader that has paused hears of it all the same. Kernels differ here.
    pub heard_while_paused: bool,
}

impl End {
    pub fn new(host: HostId, address: SocketAddr) -> Self {
        End {
            host,
            address,
            kernel: Kernel::Opening,
            owner: None,
            paused: false,
            sending: None,
            broken: None,
            receive_ended: false,
        }
    }
}

/// What travels.
#[derive(Debug)]
pub(super) enum Segment {
    /// The client's last step of the handshake.
    Opened,
    Data(Bytes),
    /// The end of the stream.
    End,
}

#[derive(Debug)]
pub(super) struct Flying {
    pub arrives_at: Instant,
    pub segment: Segment,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StreamEnd {
    No,
    Queued,
    Sent,
}

/// What an acknowledgement says: how much arrived, and up to where there is room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Acknowledgement {
    arrived: u64,
    window_end: u64,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    /// At the sender: bytes that have not left.
    unsent: BytesMut,
    end: StreamEnd,
    sent: u64,
    acknowledged: u64,
    window_end: u64,
    send_buffer_bytes: usize,
    wire_free_at: Instant,
    last_arrival: Instant,
    /// On the wire, in order. The delivery of the first is on the agenda, unless the path stalls.
    pub flight: VecDeque<Flying>,
    pub delivery_planned: bool,
    /// Since when the first does not get through.
    pub stalled_at: Option<Instant>,
    /// At the receiver: bytes that were not read.
    pub arrived: BytesMut,
    arrived_bytes: u64,
    pub end_arrived: bool,
    receive_buffer_bytes: usize,
    /// On its way back; there may be news since it left.
    pub acknowledgement: Option<Acknowledgement>,
    pub acknowledgement_stalled_at: Option<Instant>,
}

impl Pipe {
    pub fn new(send_buffer_bytes: usize, receive_buffer_bytes: usize) -> Self {
        Pipe {
            unsent: BytesMut::new(),
            end: StreamEnd::No,
            sent: 0,
            acknowledged: 0,
            window_end: receive_buffer_bytes as u64,
            send_buffer_bytes,
            wire_free_at: Instant::ZERO,
            last_arrival: Instant::ZERO,
            flight: VecDeque::new(),
            delivery_planned: false,
            stalled_at: None,
            arrived: BytesMut::new(),
            arrived_bytes: 0,
            end_arrived: false,
            receive_buffer_bytes,
            acknowledgement: None,
            acknowledgement_stalled_at: None,
        }
    }

    /// Takes as much of `sending` as there is room for. True: all of it is taken.
    pub fn fill(&mut self, sending: &mut Sending) -> bool {
        let held = self.unsent.len() + (self.sent - self.acknowledged) as usize;
        let mut room = self.send_buffer_bytes.saturating_sub(held);
        for slice in sending.output.slices(sending.taken, usize::MAX) {
            let taken = slice.len().min(room);
            self.unsent.extend_from_slice(&slice[..taken]);
            sending.taken += taken;
            room -= taken;
        }
        sending.taken == sending.output.len()
    }

    /// Nothing follows what was sent. To say so once more changes nothing.
    pub fn end_stream(&mut self) {
        if self.end == StreamEnd::No {
            self.end = StreamEnd::Queued;
        }
    }

    /// Puts on the wire what the window allows.
    pub fn transmit(&mut self, rules: &Wire, rng: &mut Rng, now: Instant, latency: Latency<'_>) {
        while let Some(segment) = self.next_segment(rules, rng) {
            self.put_on_wire(segment, rules, rng, now, latency);
        }
    }

    /// Puts one segment on the wire.
    pub fn put_on_wire(
        &mut self,
        segment: Segment,
        rules: &Wire,
        rng: &mut Rng,
        now: Instant,
        latency: Latency<'_>,
    ) {
        let bytes = if let Segment::Data(bytes) = &segment { bytes.len() as u64 } else { 0 };
        self.sent += bytes;
        let on_wire = Duration::from_nanos(bytes * 1_000_000_000 / rules.bandwidth);
        self.wire_free_at = self.wire_free_at.max(now) + on_wire;
        let arrives_at = (self.wire_free_at + latency(rng)).max(self.last_arrival);
        self.last_arrival = arrives_at;
        self.flight.push_back(Flying { arrives_at, segment });
    }

    fn next_segment(&mut self, rules: &Wire, rng: &mut Rng) -> Option<Segment> {
        if self.unsent.is_empty() {
            if self.end != StreamEnd::Queued {
                return None;
            }
            self.end = StreamEnd::Sent;
            return Some(Segment::End);
        }
        let room = usize::try_from(self.window_end - self.sent).unwrap_or(usize::MAX);
        let most = self.unsent.len().min(room).min(rules.segment_bytes_max);
        if most == 0 {
            return None;
        }
        let bytes = if rules.fragmented { random_size(most, rng) } else { most };
        Some(Segment::Data(self.unsent.split_to(bytes).freeze()))
    }

    /// Bytes arrived.
    pub fn arrive(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
        self.arrived_bytes += bytes.len() as u64;
    }

    /// Bytes that arrived since the beginning.
    pub fn arrived_bytes(&self) -> u64 {
        self.arrived_bytes
    }

    /// Bytes that were read since the beginning.
    pub fn read_bytes(&self) -> u64 {
        self.arrived_bytes - self.arrived.len() as u64
    }

    /// What an acknowledgement that leaves now would say.
    pub fn to_acknowledge(&self) -> Acknowledgement {
        Acknowledgement {
            arrived: self.arrived_bytes,
            window_end: self.read_bytes() + self.receive_buffer_bytes as u64,
        }
    }

    /// An acknowledgement came back to the sender.
    pub fn acknowledge(&mut self, news: Acknowledgement) {
        self.acknowledged = self.acknowledged.max(news.arrived);
        self.window_end = self.window_end.max(news.window_end);
    }

    /// Nothing more leaves the sender, not even what it held.
    pub fn stop_sending(&mut self) {
        self.unsent.clear();
        self.end = StreamEnd::Sent;
    }

    /// What is on the wire does not arrive either.
    pub fn drop_flight(&mut self) {
        self.flight.clear();
        self.stalled_at = None;
        self.acknowledgement_stalled_at = None;
    }

    /// What is on the wire arrives `at` the earliest: it was lost and is sent again.
    pub fn delay_flight(&mut self, at: Instant) {
        for flying in &mut self.flight {
            flying.arrives_at = flying.arrives_at.max(at);
        }
        self.last_arrival = self.last_arrival.max(at);
    }
}

/// How a connection's bytes are put on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    pub bandwidth: u64,
    pub segment_bytes_max: usize,
    pub fragmented: bool,
}

/// Draws the latency of one segment.
pub(super) type Latency<'a> = &'a dyn Fn(&mut Rng) -> Duration;

/// A size from 1 to `most`, all magnitudes alike: single bytes and the whole both come up often,
/// and a large body still takes few pieces.
pub(super) fn random_size(most: usize, rng: &mut Rng) -> usize {
    let magnitudes = u64::from(usize::BITS - most.leading_zeros()) + 1;
    match rng.below(magnitudes) {
        0 => most,
        magnitude => most.min(1 + rng.below(1 << (magnitude - 1)) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Wire = Wire { bandwidth: 1_000_000_000, segment_bytes_max: 100, fragmented: true };

    fn output(bytes: &[u8]) -> Sending {
        let mut output = Output::with_capacity(bytes.len());
        output.copied_mut().extend_from_slice(bytes);
        Sending { output, taken: 0 }
    }

    #[test]
    fn buffers_on_both_sides_bound_what_is_under_way() {
        let (mut pipe, mut rng) = (Pipe::new(30, 20), Rng::from_seed(3));
        let bytes: Vec<u8> = (0..100).collect();
        let mut sending = output(&bytes);
        let mut received = Vec::new();
        assert!(!pipe.fill(&mut sending), "100 bytes do not fit in 30");
        assert_eq!(sending.taken, 30);
        for round in 0.. {
            assert!(round < 1_000, "it makes progress");
            pipe.transmit(&RULES, &mut rng, Instant::ZERO, &|_| Duration::from_nanos(10));
            let flying: usize = pipe.flight.iter().map(|flying| segment_bytes(flying).len()).sum();
            assert!(flying + pipe.arrived.len() <= 20, "the window holds");
            while let Some(flying) = pipe.flight.pop_front() {
                pipe.arrive(segment_bytes(&flying));
            }
            received.extend_from_slice(&pipe.arrived.split());
            pipe.acknowledge(pipe.to_acknowledge());
            if pipe.fill(&mut sending) && received.len() == bytes.len() {
                break;
            }
        }
        assert_eq!(received, bytes);
    }

    #[test]
    fn arrivals_are_in_order_whatever_the_latency() {
        let (mut pipe, mut rng) = (Pipe::new(1_000, 1_000), Rng::from_seed(4));
        pipe.fill(&mut output(&[1; 900]));
        pipe.end_stream();
        let latency = |rng: &mut Rng| Duration::from_nanos(rng.below(1_000));
        pipe.transmit(&RULES, &mut rng, Instant::ZERO, &latency);
        assert!(pipe.flight.len() > 9);
        assert!(pipe.flight.iter().is_sorted_by_key(|flying| flying.arrives_at));
        assert!(matches!(pipe.flight.back(), Some(Flying { segment: Segment::End, .. })));
    }

    #[test]
    fn random_sizes_reach_from_one_to_the_whole() {
        let mut rng = Rng::from_seed(5);
        for most in [1, 2, 100, 65_536] {
            let sizes: Vec<usize> = (0..300).map(|_| random_size(most, &mut rng)).collect();
            assert!(sizes.iter().all(|size| (1..=most).contains(size)));
            assert!(sizes.contains(&1) && sizes.contains(&most), "{most}");
        }
    }

    fn segment_bytes(flying: &Flying) -> &[u8] {
        match &flying.segment {
            Segment::Data(bytes) => bytes,
            Segment::Opened | Segment::End => &[],
        }
    }
}
