//! The streams of a shard: what the driver reports of them, and what the shard does with them.

use super::spare::SpareOutputs;
use crate::application::Application;
use crate::driver::{Chunk, Driver, SendState, SocketId};
use crate::limits::{
    BACKLOG_READ_MAX, LINGER, STREAM_INPUT_KEEP_BYTES, STREAM_STALL, STREAM_STALLED_READ_BYTES,
};
use crate::local::{Local, TimerKey};
use crate::metrics::ShardMetrics;
use crate::stream::{Part, Phase, State, Stream, StreamId, Streams};
use crate::time::{Duration, Instant};
use crate::wire::output::Output;
use std::collections::VecDeque;
use std::io;

/// Where a stream comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) socket: SocketId,
    pub(super) is_own_port: bool,
    pub(super) is_surplus: bool,
}

impl Streams {
    pub(super) fn new(memory_max: usize, output_bytes_max: usize) -> Self {
        Streams {
            slots: Vec::new(),
            count: 0,
            dirty: Vec::new(),
            flushing: Vec::new(),
            behind: VecDeque::new(),
            spare: SpareOutputs::default(),
            memory: 0,
            memory_max,
            has_grown: false,
            output_bytes_max,
            turn: 0,
            is_draining: false,
        }
    }

    pub(super) fn begin_turn(&mut self) {
        self.turn += 1;
    }

    /// True if there is something to do that nobody outside will tell of.
    pub(super) fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.behind.is_empty()
    }

    #[inline]
    pub(super) fn has(&self, socket: SocketId) -> bool {
        let state = self.slots.get(socket.slot as usize).and_then(Option::as_deref);
        state.is_some_and(|state| state.socket == socket)
    }

    /// How many have more to read than was their part of a turn.
    pub(super) fn behind(&self) -> usize {
        self.behind.len()
    }

    /// Memory of what was not read and what is not sent, in bytes, and of the tables.
    pub(super) fn memory_bytes(&self) -> usize {
        let states = self.slots.iter().flatten();
        let each: usize = states.map(|state| size_of::<State>() + state.held_bytes()).sum();
        each + self.slots.capacity() * size_of::<Option<Box<State>>>()
    }

    pub(super) fn accept<D: Driver>(
        &mut self,
        driver: &D,
        arrival: Arrival,
        application: &mut dyn Application,
    ) {
        let Arrival { socket, is_own_port, is_surplus } = arrival;
        let slot = socket.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        assert!(self.slots[slot].is_none(), "a driver reuses a slot only after it was closed");
        let mut state = Box::new(State {
            socket,
            peer: driver.peer_address(socket),
            is_own_port,
            is_surplus,
            input: Vec::new(),
            output: self.spare.take(),
            sending_bytes: 0,
            phase: Phase::Open,
            is_dirty: false,
            is_sending: false,
            is_paused: false,
            is_behind: false,
            is_held: false,
            has_peer_ended: false,
            has_ended_sends: false,
            part: Part::of(self.turn),
            accounted: 0,
            timer: None,
            has_taken: false,
            stalled_input_max: 0,
        });
        application.accepted(&mut self.handle(&mut state, &|| driver.now()));
        if is_surplus || self.is_draining {
            state.phase = Phase::Ending;
        }
        self.slots[slot] = Some(state);
        self.count += 1;
        self.mark_dirty(socket);
    }

    /// Bytes have arrived.
    #[inline]
    pub(super) fn receive<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        chunk: Chunk,
        application: &mut dyn Application,
    ) {
        if let Some(mut state) = self.take_out(socket) {
            let bytes = driver.bytes(&chunk);
            if state.phase != Phase::Open {
                // Whoever is being ended is not listened to.
            } else if self.is_full() || self.is_overfull(&state) {
                state.keep(bytes);
                state.put_off();
            } else if state.input.is_empty() && !state.is_held {
                let read = self.deliver(&mut state, bytes, application, &|| driver.now());
                state.keep(&bytes[read..]);
            } else {
                state.keep(bytes);
                if !state.is_behind && !state.is_held {
                    self.deliver_input(&mut state, application, &|| driver.now());
                }
            }
            self.put_back(state);
        }
        driver.give_back(chunk);
    }

    /// Gives the one that has been behind for longest its part of this turn.
    pub(super) fn read_one_behind<D: Driver>(
        &mut self,
        driver: &mut D,
        application: &mut dyn Application,
    ) {
        if self.is_full() {
            return;
        }
        let Some(socket) = self.behind.pop_front() else { return };
        let Some(mut state) = self.take_out(socket) else { return };
        state.is_behind = false;
        if self.is_overfull(&state) {
            state.put_off();
        } else {
            self.deliver_input(&mut state, application, &|| driver.now());
        }
        self.put_back(state);
    }

    pub(super) fn sent(&mut self, socket: SocketId, output: Output, result: &io::Result<()>) {
        self.spare.keep(output);
        let Some(state) = self.state_mut(socket) else { return };
        state.is_sending = false;
        state.has_taken = true;
        state.sending_bytes = 0;
        if result.is_err() {
            state.phase = Phase::Lost;
        }
        self.mark_dirty(socket);
    }

    /// The peer sends nothing more, or is gone.
    pub(super) fn receive_ended(&mut self, socket: SocketId, result: &io::Result<()>) {
        let Some(state) = self.state_mut(socket) else { return };
        let has_more_to_read = state.wants_more_turns() || state.is_behind || state.is_held_back();
        state.phase = match (result, state.phase) {
            (Err(_), _) | (Ok(()), Phase::Lingering) => Phase::Lost,
            // What it had sent before is read to the end first.
            (Ok(()), Phase::Open) if has_more_to_read => Phase::Open,
            (Ok(()), _) => Phase::Ending,
        };
        state.has_peer_ended = result.is_ok();
        self.mark_dirty(socket);
    }

    /// The time to read the last word is over, or to take something of what is owed.
    pub(super) fn timeout(&mut self, socket: SocketId) {
        let Some(state) = self.state_mut(socket) else { return };
        state.timer = None;
        if state.phase == Phase::Lingering {
            state.phase = Phase::Lost;
        } else if !std::mem::take(&mut state.has_taken) {
            state.stalled_input_max = state.input.len() + STREAM_STALLED_READ_BYTES;
        }
        self.mark_dirty(socket);
    }

    /// All streams end when their answers are out.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.each(|state| {
            if state.phase == Phase::Open {
                state.phase = Phase::Ending;
            }
        });
    }

    /// All streams end now.
    pub(super) fn end_all(&mut self) {
        self.each(|state| state.phase = Phase::Lost);
    }

    /// One send for each stream that has output; ends what has ended.
    pub(super) fn flush<D: Driver>(
        &mut self,
        driver: &mut D,
        application: &mut dyn Application,
        metrics: &ShardMetrics,
        local: &Local,
    ) {
        std::mem::swap(&mut self.dirty, &mut self.flushing);
        for index in 0..self.flushing.len() {
            let socket = self.flushing[index];
            let Some(state) = self.state_mut(socket) else { continue };
            state.is_dirty = false;
            if !state.is_sending && state.phase != Phase::Lost {
                self.send(driver, socket, metrics);
            }
            self.settle(driver, socket, application, local);
        }
        self.flushing.clear();
        if std::mem::take(&mut self.has_grown) && self.is_full() {
            self.give_up_the_largest();
        }
    }

    /// True if all streams together hold more than they may. Nothing more is read then until some of it has
    /// gone, for nobody knows how long the answers will be that it asks for.
    fn is_full(&self) -> bool {
        self.memory > self.memory_max
    }

    /// True if so much is owed to a stream that what it asks for waits.
    fn is_overfull(&self, state: &State) -> bool {
        state.output.len() + state.sending_bytes > self.output_bytes_max
    }

    /// Counts what a stream holds now, in place of what it held before.
    fn account(&mut self, held: usize, held_before: usize) {
        self.has_grown |= held > held_before;
        self.memory = self.memory + held - held_before;
    }

    fn each(&mut self, mut change: impl FnMut(&mut State)) {
        let all: Vec<SocketId> = self.slots.iter().flatten().map(|state| state.socket).collect();
        for socket in all {
            if let Some(state) = self.state_mut(socket) {
                change(state);
            }
            self.mark_dirty(socket);
        }
    }

    fn send<D: Driver>(&mut self, driver: &mut D, socket: SocketId, metrics: &ShardMetrics) {
        let Some(state) = self.state_mut(socket) else { return };
        let output = std::mem::take(&mut state.output);
        let bytes = output.len();
        if bytes == 0 {
            self.spare.keep(output);
            return;
        }
        metrics.bytes_out.add(bytes as u64);
        match driver.send(socket, output) {
            SendState::Done(output) => self.spare.keep(output),
            SendState::InFlight => {
                state.is_sending = true;
                state.sending_bytes = bytes;
            }
        }
    }

    /// After its output is on the way: pause, end, account.
    fn settle<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        application: &mut dyn Application,
        local: &Local,
    ) {
        let output_bytes_max = self.output_bytes_max;
        let Some(state) = self.state_mut(socket) else { return };
        match state.phase {
            Phase::Open => {}
            Phase::Ending if application.owes(StreamId(socket)) || !state.output.is_empty() => {}
            Phase::Ending => {
                state.phase = Phase::Lingering;
                set_timer(state, LINGER, local);
                state.input = Vec::new();
                if std::mem::take(&mut state.is_paused) {
                    driver.resume_receive(socket);
                }
            }
            Phase::Lingering => {}
            Phase::Lost => return self.close(driver, socket, application, local),
        }
        let Some(state) = self.state_mut(socket) else { return };
        if state.phase == Phase::Lingering && !state.is_sending {
            if state.has_peer_ended {
                return self.close(driver, socket, application, local);
            }
            if !std::mem::replace(&mut state.has_ended_sends, true) {
                driver.shutdown_send(socket);
            }
        }
        if state.phase == Phase::Open {
            let is_overfull = state.output.len() + state.sending_bytes > output_bytes_max;
            let is_waiting = state.is_behind || state.is_held;
            let wants_pause = match is_overfull {
                true => state.input.len() >= state.stalled_input_max,
                false => is_waiting && state.input.len() > BACKLOG_READ_MAX,
            };
            if !is_overfull {
                state.stalled_input_max = 0;
            } else if state.timer.is_none() {
                state.has_taken = false;
                // What has gone is known when all of it has: so long does it take to read it slowly.
                let owed_mib = (state.output.len() + state.sending_bytes) >> 20;
                let looks = u32::try_from(owed_mib).unwrap_or(u32::MAX).max(1);
                set_timer(state, STREAM_STALL * looks, local);
            }
            match (state.is_paused, wants_pause) {
                (false, true) => driver.pause_receive(socket),
                (true, false) => driver.resume_receive(socket),
                _ => {}
            }
            state.is_paused = wants_pause;
            // There may be room for more answers since, at once or now that it has taken some.
            if !is_overfull && state.wants_more_turns() && !state.is_behind {
                state.is_behind = true;
                self.behind.push_back(socket);
            }
        }
        let Some(state) = self.state_mut(socket) else { return };
        let held = state.held_bytes();
        let held_before = std::mem::replace(&mut state.accounted, held);
        self.account(held, held_before);
    }

    /// All streams together hold more memory than they may: those that hold most are ended, for a few
    /// that do not read their answers, or do not finish their commands, would take the memory of all.
    #[cold]
    fn give_up_the_largest(&mut self) {
        let all_bytes = self.memory;
        let states = || self.slots.iter().flatten();
        let lost = states().filter(|state| state.phase == Phase::Lost);
        let mut left = all_bytes - lost.map(|state| state.accounted).sum::<usize>();
        let open = states().filter(|state| state.phase != Phase::Lost);
        let mut open: Vec<_> = open.map(|state| (state.accounted, state.socket)).collect();
        open.sort_unstable_by_key(|(bytes, _)| *bytes);
        while left > self.memory_max
            && let Some((bytes, socket)) = open.pop()
        {
            tracing::warn!(
                bytes,
                all_bytes,
                "streams hold too much memory; the one that holds most is ended"
            );
            left -= bytes;
            if let Some(state) = self.state_mut(socket) {
                state.phase = Phase::Lost;
            }
            self.mark_dirty(socket);
        }
    }

    fn close<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        application: &mut dyn Application,
        local: &Local,
    ) {
        driver.close(socket);
        let Some(state) = self.slots[socket.slot as usize].take() else { return };
        self.count -= 1;
        self.memory -= state.accounted;
        if let Some(timer) = state.timer {
            local.state().timers.borrow_mut().cancel(timer);
        }
        if state.output.capacity() > 0 {
            self.spare.keep(state.output);
        }
        application.closed(StreamId(socket));
    }

    /// Delivers what was put aside.
    fn deliver_input(
        &mut self,
        state: &mut State,
        application: &mut dyn Application,
        clock: &dyn Fn() -> Instant,
    ) {
        let mut input = std::mem::take(&mut state.input);
        let read = self.deliver(state, &input, application, clock);
        if read == input.len() {
            input.clear();
            input.shrink_to(STREAM_INPUT_KEEP_BYTES);
        } else {
            input.drain(..read);
        }
        state.input = input;
    }

    #[inline]
    fn deliver(
        &mut self,
        state: &mut State,
        bytes: &[u8],
        application: &mut dyn Application,
        clock: &dyn Fn() -> Instant,
    ) -> usize {
        if state.phase != Phase::Open {
            return bytes.len();
        }
        state.provide_output(&mut self.spare);
        state.begin_part(self.turn);
        let read = application.received(bytes, &mut self.handle(state, clock));
        assert!(read <= bytes.len(), "an application reads no more than there is");
        if state.phase == Phase::Open { read } else { bytes.len() }
    }

    fn handle<'s>(&self, state: &'s mut State, clock: &'s dyn Fn() -> Instant) -> Stream<'s> {
        Stream { state, output_bytes_max: self.output_bytes_max, clock }
    }

    #[inline]
    fn take_out(&mut self, socket: SocketId) -> Option<Box<State>> {
        let slot = self.slots.get_mut(socket.slot as usize)?;
        slot.take_if(|state| state.socket == socket)
    }

    /// Puts a stream back that was read from, and in the queue of those with more to read.
    #[inline]
    fn put_back(&mut self, mut state: Box<State>) {
        let socket = state.socket;
        if state.wants_more_turns() && !self.is_overfull(&state) && !state.is_behind {
            state.is_behind = true;
            self.behind.push_back(socket);
        }
        let held = state.held_bytes();
        let held_before = std::mem::replace(&mut state.accounted, held);
        self.account(held, held_before);
        // One that is owed too much has more to read as well, and is in no queue for it.
        let is_read = !state.is_behind && !state.is_held_back() && !state.wants_more_turns();
        if state.has_peer_ended && is_read && state.phase == Phase::Open {
            state.phase = Phase::Ending;
        }
        self.slots[socket.slot as usize] = Some(state);
        self.mark_dirty(socket);
    }
}

fn set_timer(state: &mut State, after: Duration, local: &Local) {
    let mut timers = local.state().timers.borrow_mut();
    if let Some(timer) = state.timer.take() {
        timers.cancel(timer);
    }
    state.timer = Some(timers.insert(local.now() + after, TimerKey::Stream(state.socket)));
}
