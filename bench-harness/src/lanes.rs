//! The connections of one worker, and what is in flight on them: who may send, who has ended.
//!
//! Pure: knows neither sockets nor a clock. The worker brings bytes and instants, and takes away what
//! is to be sent.
//!
//! ```text
//! closed loop   lane opens ─► every slot starts a request ─► it ends ─► the slot starts the next
//! open loop     its turn comes ─► the next lane with room, in turn ─► or it waits in the pacer
//! ```

use crate::protocol::{Ending, Happened, Outcome, Protocol};
use crate::recording::{Flight, Recording, Window};
use crate::schedule::{Due, Pacer};
use catena_engine::driver::Output;
use catena_engine::limits::{OUTPUT_KEEP_BYTES_MAX, OUTPUT_START_BYTES};
use catena_engine::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

/// What makes requests start.
#[derive(Debug)]
pub enum Demand {
    /// Nothing: the connections idle.
    None,
    /// Whatever ends is followed by the next.
    Closed,
    /// The clock.
    Open(Pacer),
}

/// What the connections have shown of the peer, beyond how requests ended.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Requests that it takes in flight on a connection, as told when a connection opened; the least of
    /// all connections.
    pub window: u32,
    /// How often connections were lost.
    pub losses: u64,
    /// Why the first of them was.
    pub first_loss: Option<Ending>,
    /// Connections that were lost and not back at the end.
    pub gone: u32,
    /// The longest time within the window in which there was no connection at all.
    pub outage: Option<Window>,
    /// What it said in words with a status: the first text of each.
    pub texts: BTreeMap<u16, String>,
}

impl Default for Peer {
    fn default() -> Self {
        Peer {
            window: u32::MAX,
            losses: 0,
            first_loss: None,
            gone: 0,
            outage: None,
            texts: BTreeMap::new(),
        }
    }
}

impl Peer {
    /// Takes in what another worker has seen in the same run. Only while both were without a
    /// connection was there none.
    pub fn add(&mut self, other: Peer) {
        self.window = self.window.min(other.window);
        self.losses += other.losses;
        self.first_loss = self.first_loss.take().or(other.first_loss);
        self.gone += other.gone;
        self.outage = self.outage.zip(other.outage).and_then(|(one, other)| one.overlap(other));
        for (status, text) in other.texts {
            self.texts.entry(status).or_insert(text);
        }
    }

    fn had_no_connection(&mut self, span: Window, window: Window) {
        let longest = self.outage.map_or(Duration::ZERO, |longest| longest.length());
        self.outage = span.overlap(window).filter(|span| span.length() > longest).or(self.outage);
    }
}

/// The connections of one worker. A lane is one connection's place; the connection may be lost and
/// made again.
#[derive(Debug)]
pub struct Lanes<P: Protocol> {
    lanes: Vec<Lane<P>>,
    request: Arc<P::Request>,
    demand: Demand,
    /// Open loop: lanes with room, next one first; each at most once. Some may have no room any more.
    ready: VecDeque<u32>,
    /// Lanes that may have something to be sent, or to be closed; each at most once.
    dirty: Vec<u32>,
    spare: Vec<Output>,
    open: u32,
    in_flight: u32,
    answered: u64,
    recording: Recording,
    peer: Peer,
    /// Since when there is no connection, though there was one.
    dark_since: Option<Instant>,
    /// A request that can never be sent.
    impossible: Option<String>,
}

#[derive(Debug)]
struct Lane<P> {
    protocol: Option<P>,
    is_open: bool,
    /// It had a connection, which has ended.
    is_over: bool,
    is_ready: bool,
    is_dirty: bool,
    /// By slot; `None`: vacant.
    flights: Vec<Option<Flight>>,
    vacant: Vec<u32>,
}

impl<P: Protocol> Lane<P> {
    fn has_room(&self) -> bool {
        let in_flight = (self.flights.len() - self.vacant.len()) as u32;
        let window = self.protocol.as_ref().map_or(0, Protocol::window);
        self.is_open && !self.vacant.is_empty() && in_flight < window
    }
}

impl<P: Protocol> Lanes<P> {
    /// `count` lanes without connections, each for `depth` requests at a time.
    pub fn new(count: u32, depth: u32, request: Arc<P::Request>, recording: Recording) -> Self {
        let lane = |_| Lane {
            protocol: None,
            is_open: false,
            is_over: false,
            is_ready: false,
            is_dirty: false,
            flights: vec![None; depth as usize],
            vacant: (0..depth).rev().collect(),
        };
        Lanes {
            lanes: (0..count).map(lane).collect(),
            request,
            demand: Demand::None,
            ready: VecDeque::with_capacity(count as usize),
            dirty: Vec::with_capacity(count as usize),
            spare: Vec::new(),
            open: 0,
            in_flight: 0,
            answered: 0,
            recording,
            peer: Peer::default(),
            dark_since: None,
            impossible: None,
        }
    }

    /// How many lanes there are.
    pub fn count(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// Lanes on which requests can start.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests answered with "ok" since the start, warm-up included.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// What was learnt of the peer.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// True if requests are to be sent and the peer takes none: the window that it told is 0.
    pub fn is_refused(&self) -> bool {
        let has_slots = self.lanes.iter().any(|lane| !lane.flights.is_empty());
        has_slots && self.peer.window == 0
    }

    /// Why a request can never be sent, if that was found out.
    pub fn impossible(&self) -> Option<&str> {
        self.impossible.as_deref()
    }

    /// True if a request whose turn comes now can be sent.
    pub fn has_room(&mut self) -> bool {
        while let Some(&index) = self.ready.front() {
            let lane = &mut self.lanes[index as usize];
            if lane.has_room() {
                return true;
            }
            lane.is_ready = false;
            self.ready.pop_front();
        }
        false
    }

    /// When a request must start though nothing else happens.
    pub fn next_due(&mut self) -> Option<Instant> {
        let has_room = self.has_room();
        match &self.demand {
            Demand::Open(pacer) if has_room => pacer.next_due(),
            _ => None,
        }
    }
}

/// Inputs.
impl<P: Protocol> Lanes<P> {
    /// From now on requests start by `demand`, and are written down in `recording`.
    pub fn begin(&mut self, demand: Demand, recording: Recording, now: Instant) {
        self.recording = recording;
        self.demand = demand;
        for index in 0..self.count() {
            self.fill(index, now);
        }
    }

    /// No request starts any more. Those that wait never will. If this is before its time, the window
    /// ends here.
    pub fn stop(&mut self, now: Instant) {
        self.recording.cut(now);
        if let Some(since) = self.dark_since.take() {
            let span = Window { from: since, until: now };
            self.peer.had_no_connection(span, self.recording.window());
        }
        self.peer.gone = self.count() - self.open;
        if let Demand::Open(mut pacer) = std::mem::replace(&mut self.demand, Demand::None) {
            while let Some(due) = pacer.take_due(now) {
                self.recording.unsent(due.intended, now);
            }
        }
    }

    /// Ends the run: what is in flight stays unfinished.
    pub fn give_up(&mut self, now: Instant) -> Recording {
        for lane in &mut self.lanes {
            note_texts(&mut self.peer, lane.protocol.as_ref());
            for flight in lane.flights.iter_mut().filter_map(Option::take) {
                self.recording.unfinished(flight, now);
            }
        }
        self.in_flight = 0;
        self.recording.clone()
    }

    /// The lane's connection is made.
    pub fn connected(&mut self, index: u32, now: Instant) {
        let protocol = P::new(&self.request, now);
        let lane = &mut self.lanes[index as usize];
        (lane.protocol, lane.is_over) = (Some(protocol), false);
        self.take_events(index, now);
        self.mark_dirty(index);
    }

    /// Bytes have arrived.
    #[inline]
    pub fn received(&mut self, index: u32, mut bytes: &[u8], now: Instant) {
        self.provide_output(index);
        while let Some(protocol) = &mut self.lanes[index as usize].protocol
            && let Some(happened) = protocol.next(&mut bytes, now)
        {
            self.on_happened(index, happened, now);
        }
        self.take_events(index, now);
        self.mark_dirty(index);
    }

    /// The connection has ended.
    pub fn ended(&mut self, index: u32, result: io::Result<()>, now: Instant) {
        if let Some(protocol) = &mut self.lanes[index as usize].protocol {
            protocol.handle_end(result);
        }
        self.take_events(index, now);
    }

    /// The lane's timer has fired.
    pub fn timeout(&mut self, index: u32, now: Instant) {
        if let Some(protocol) = &mut self.lanes[index as usize].protocol {
            protocol.handle_timeout(now);
        }
        self.take_events(index, now);
        self.mark_dirty(index);
    }

    /// Takes note of requests whose turn came while there was no room. Call at the start of a turn,
    /// before anything that makes room.
    #[inline]
    pub fn put_off_due(&mut self, now: Instant) {
        if matches!(self.demand, Demand::Open(_))
            && !self.has_room()
            && let Demand::Open(pacer) = &mut self.demand
        {
            pacer.put_off_due(now, |intended| self.recording.shed(intended));
        }
    }

    /// Starts the requests whose turn has come, as long as there is room.
    #[inline]
    pub fn start_due(&mut self, now: Instant) {
        while self.has_room()
            && let Demand::Open(pacer) = &mut self.demand
            && let Some(due) = pacer.take_due(now)
        {
            let index = self.ready.pop_front().expect("there is room on the first one");
            self.lanes[index as usize].is_ready = false;
            self.start(index, due, now);
            self.fill(index, now);
        }
    }
}

/// Outputs.
impl<P: Protocol> Lanes<P> {
    /// A lane that may have something to be sent, or whose connection is over.
    #[inline]
    pub fn next_dirty(&mut self) -> Option<u32> {
        let index = self.dirty.pop()?;
        self.lanes[index as usize].is_dirty = false;
        Some(index)
    }

    /// What is to be sent on a lane.
    #[inline]
    pub fn poll_transmit(&mut self, index: u32) -> Option<Output> {
        self.lanes[index as usize].protocol.as_mut()?.poll_transmit()
    }

    /// When the lane's timer is to fire.
    #[inline]
    pub fn poll_timeout(&self, index: u32) -> Option<Instant> {
        self.lanes[index as usize].protocol.as_ref()?.poll_timeout()
    }

    /// True if requests can start on the lane, as far as its connection goes.
    #[inline]
    pub fn is_open(&self, index: u32) -> bool {
        self.lanes[index as usize].is_open
    }

    /// True if the lane's connection has ended, and its socket is to be closed.
    #[inline]
    pub fn is_over(&self, index: u32) -> bool {
        self.lanes[index as usize].is_over
    }

    /// Memory that is back from a send.
    #[inline]
    pub fn keep(&mut self, mut output: Output) {
        output.clear(OUTPUT_KEEP_BYTES_MAX);
        if output.capacity() > 0 {
            self.spare.push(output);
        }
    }

    /// The lane has something to be looked at when the turn ends.
    #[inline]
    pub fn mark_dirty(&mut self, index: u32) {
        if !std::mem::replace(&mut self.lanes[index as usize].is_dirty, true) {
            self.dirty.push(index);
        }
    }
}

impl<P: Protocol> Lanes<P> {
    fn take_events(&mut self, index: u32, now: Instant) {
        while let Some(protocol) = &mut self.lanes[index as usize].protocol
            && let Some(happened) = protocol.poll()
        {
            self.on_happened(index, happened, now);
        }
    }

    #[inline]
    fn on_happened(&mut self, index: u32, happened: Happened, now: Instant) {
        match happened {
            Happened::Ended { slot, outcome } => {
                self.on_ended(index, slot, outcome, now);
                self.fill(index, now);
            }
            Happened::Opened => self.on_opened(index, now),
            Happened::Closed(ending) => self.on_closed(index, ending, now),
        }
    }

    #[inline]
    fn on_ended(&mut self, index: u32, slot: u32, outcome: Outcome, now: Instant) {
        let lane = &mut self.lanes[index as usize];
        // A peer that answers what was not asked is told by the loss of its count, not by a crash.
        let Some(flight) = lane.flights.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        lane.vacant.push(slot);
        self.in_flight -= 1;
        self.answered += u64::from(outcome == Outcome::Ok);
        self.recording.ended(flight, outcome, now);
    }

    fn on_opened(&mut self, index: u32, now: Instant) {
        let lane = &mut self.lanes[index as usize];
        lane.is_open = true;
        let window = lane.protocol.as_ref().map_or(0, Protocol::window);
        tracing::debug!(lane = index, window, "a connection is open");
        self.peer.window = self.peer.window.min(window);
        self.open += 1;
        if let Some(since) = self.dark_since.take() {
            let span = Window { from: since, until: now };
            self.peer.had_no_connection(span, self.recording.window());
        }
        self.fill(index, now);
    }

    fn on_closed(&mut self, index: u32, ending: Ending, now: Instant) {
        tracing::debug!(reason = ending.reason, lane = index, "a connection ended");
        for slot in 0..self.lanes[index as usize].flights.len() as u32 {
            self.on_ended(index, slot, Outcome::ConnectionLost, now);
        }
        let lane = &mut self.lanes[index as usize];
        let was_open = std::mem::take(&mut lane.is_open);
        note_texts(&mut self.peer, lane.protocol.as_ref());
        (lane.protocol, lane.is_over) = (None, true);
        self.open -= u32::from(was_open);
        if was_open && self.open == 0 {
            self.dark_since = Some(now);
        }
        self.peer.losses += 1;
        self.peer.first_loss.get_or_insert(ending);
        self.mark_dirty(index);
    }

    /// The lane may have room: start what there is to start, or queue up for it.
    #[inline]
    fn fill(&mut self, index: u32, now: Instant) {
        match self.demand {
            Demand::None => {}
            Demand::Closed => {
                while self.impossible.is_none() && self.lanes[index as usize].has_room() {
                    self.start(index, Due { intended: now, waited: false }, now);
                }
            }
            Demand::Open(_) => {
                let lane = &mut self.lanes[index as usize];
                if !lane.is_ready && lane.has_room() {
                    lane.is_ready = true;
                    self.ready.push_back(index);
                }
            }
        }
    }

    #[inline]
    fn start(&mut self, index: u32, due: Due, now: Instant) {
        self.provide_output(index);
        let lane = &mut self.lanes[index as usize];
        let slot = lane.vacant.pop().expect("callers look for room first");
        let protocol = lane.protocol.as_mut().expect("where there is room there is a connection");
        if let Err(reason) = protocol.start(slot, now) {
            lane.vacant.push(slot);
            self.impossible.get_or_insert(reason);
            self.demand = Demand::None;
            return;
        }
        let flight = Flight { intended: due.intended, sent: now };
        lane.flights[slot as usize] = Some(flight);
        self.in_flight += 1;
        self.recording.sent(flight, due.waited);
        self.mark_dirty(index);
    }

    #[inline]
    fn provide_output(&mut self, index: u32) {
        if let Some(protocol) = &mut self.lanes[index as usize].protocol {
            let fresh = || Output::with_capacity(OUTPUT_START_BYTES);
            let mut memory = Some(self.spare.pop().unwrap_or_else(fresh));
            protocol.provide_output(&mut memory);
            self.spare.extend(memory);
        }
    }
}

fn note_texts<P: Protocol>(peer: &mut Peer, protocol: Option<&P>) {
    for (status, text) in protocol.map_or(&[][..], Protocol::texts) {
        peer.texts.entry(*status).or_insert_with(|| text.clone());
    }
}

#[cfg(test)]
mod tests;
