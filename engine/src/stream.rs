//! Connections whose bytes mean what an [`Application`](crate::application::Application) says.

use crate::driver::SocketId;
use crate::limits::{PEER_TURN_TIME_MAX, STREAM_INPUT_LONG_BYTES, STREAM_TURN_COMMANDS_MAX};
use crate::shard::spare::SpareOutputs;
use crate::time::Instant;
use crate::timers::TimerId;
use crate::wire::output::Output;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// One stream of one shard. Never given again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamId(pub(crate) SocketId);

impl StreamId {
    /// Small and dense, for tables; used again when the stream has ended.
    pub fn slot(self) -> usize {
        self.0.slot as usize
    }
}

/// The streams of one shard.
#[derive(Debug)]
pub struct Streams {
    /// By slot of the socket. A box each, so that growing moves pointers.
    pub(crate) slots: Vec<Option<Box<State>>>,
    pub(crate) count: usize,
    /// Those with output, an end, or something to be settled; each at most once.
    pub(crate) dirty: Vec<SocketId>,
    /// The other of two lists that take turns at being `dirty`.
    pub(crate) flushing: Vec<SocketId>,
    /// Those with more to read than was their part of a turn; each at most once.
    pub(crate) behind: VecDeque<SocketId>,
    pub(crate) spare: SpareOutputs,
    /// Memory of all streams in bytes, and the most that it may be.
    pub(crate) memory: usize,
    pub(crate) memory_max: usize,
    /// Some of them has come to hold more in this turn.
    pub(crate) has_grown: bool,
    /// Bytes that wait to be sent on one stream above which nothing more is read from it.
    pub(crate) output_bytes_max: usize,
    pub(crate) turn: u64,
    pub(crate) is_draining: bool,
}

/// What the shard has of one stream.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) socket: SocketId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) is_own_port: bool,
    pub(crate) is_surplus: bool,
    /// Received and not read yet.
    pub(crate) input: Vec<u8>,
    pub(crate) output: Output,
    pub(crate) sending_bytes: usize,
    pub(crate) phase: Phase,
    pub(crate) is_dirty: bool,
    pub(crate) is_sending: bool,
    pub(crate) is_paused: bool,
    pub(crate) is_behind: bool,
    /// The application wants nothing more until it says so.
    pub(crate) is_held: bool,
    /// The peer sends nothing more.
    pub(crate) has_peer_ended: bool,
    pub(crate) has_ended_sends: bool,
    pub(crate) part: Part,
    pub(crate) accounted: usize,
    /// The end of its time to read its last word; or else the next look whether it takes what it is owed.
    pub(crate) timer: Option<TimerId>,
    /// It has taken something of what it is owed since the last look.
    pub(crate) has_taken: bool,
    /// Bytes that may be put aside of it while it is owed too much to be read from.
    pub(crate) stalled_input_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Open,
    /// Nothing more is read; it ends when its answers are out.
    Ending,
    /// The last word is on its way; the peer has a moment to read it.
    Lingering,
    /// Nobody is there any more.
    Lost,
}

/// What is left of a stream's part of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    turn: u64,
    /// `None`: not looked at yet. A look costs as much as a command.
    began_at: Option<Instant>,
    left: u32,
    was_refused: bool,
}

/// One stream, for the length of a call.
pub struct Stream<'s> {
    pub(crate) state: &'s mut State,
    pub(crate) output_bytes_max: usize,
    pub(crate) clock: &'s dyn Fn() -> Instant,
}

impl Stream<'_> {
    /// Which one.
    #[inline]
    pub fn id(&self) -> StreamId {
        StreamId(self.state.socket)
    }

    /// Who has connected, where it can be told.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.state.peer
    }

    /// True if it arrived on this shard's own port, false if on the one that all shards share.
    pub fn is_on_own_port(&self) -> bool {
        self.state.is_own_port
    }

    /// True if there are too many: it will be ended.
    pub fn is_surplus(&self) -> bool {
        self.state.is_surplus
    }

    /// What is sent at the end of the turn, to append to.
    #[inline]
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.state.output.copied_mut()
    }

    /// Appends bytes without copying them: for long ones.
    pub fn share(&mut self, bytes: Bytes) {
        self.state.output.share(bytes);
    }

    /// Reads nothing more, sends what there is and what is still owed, and ends.
    pub fn close(&mut self) {
        if self.state.phase == Phase::Open {
            self.state.phase = Phase::Ending;
        }
    }

    /// True once it reads nothing more.
    pub fn is_closing(&self) -> bool {
        self.state.phase != Phase::Open
    }

    /// Bytes that wait to be sent, those on their way included.
    pub fn waiting_bytes(&self) -> usize {
        self.state.output.len() + self.state.sending_bytes
    }

    /// To be asked between two commands: false when the stream has had its part of this turn, or its peer
    /// does not read its answers. The rest is delivered again, when it is its turn.
    #[inline]
    pub fn may_go_on(&mut self) -> bool {
        let state = &mut *self.state;
        let may = !state.part.is_over(self.clock)
            && !state.is_held
            && state.output.len() + state.sending_bytes <= self.output_bytes_max
            && state.phase == Phase::Open;
        state.part.was_refused = !may;
        may
    }

    /// The instant of this call, not of the turn: a look at the clock, which costs some tens of nanoseconds.
    pub fn look_at_clock(&self) -> Instant {
        (self.clock)()
    }

    /// Reads nothing more until [`Streams::read_on`]: too many answers are owed to this stream.
    pub fn hold(&mut self) {
        self.state.is_held = true;
    }
}

impl Part {
    /// Commands from one look at the clock to the next, which costs as much as one of them.
    const LOOKS: u32 = 32;

    pub(crate) fn of(turn: u64) -> Self {
        Part { turn, began_at: None, left: STREAM_TURN_COMMANDS_MAX, was_refused: false }
    }

    /// Counts one more command; true if that is enough.
    #[inline]
    fn is_over(&mut self, clock: &dyn Fn() -> Instant) -> bool {
        self.left = self.left.saturating_sub(1);
        if self.left.is_multiple_of(Part::LOOKS) {
            let now = clock();
            let began_at = *self.began_at.get_or_insert(now);
            return self.left == 0 || now.since(began_at) > PEER_TURN_TIME_MAX;
        }
        false
    }
}

/// What an application may do with the streams of its shard.
impl Streams {
    /// A stream that has not ended, to write to.
    pub fn get(&mut self, id: StreamId) -> Option<StreamOutput<'_>> {
        self.mark_dirty(id.0);
        let state = self.slots.get_mut(id.slot())?.as_deref_mut()?;
        let is_there = state.socket == id.0 && state.phase != Phase::Lost;
        is_there.then_some(StreamOutput { state, spare: &mut self.spare })
    }

    /// Delivers once more what a stream has not read that was [held](Stream::hold), for there is room for its
    /// answers again. For any other there is nothing to be done: what it has not read is waited for.
    pub fn read_on(&mut self, id: StreamId) {
        let Some(state) = self.state_mut(id.0) else { return };
        if !std::mem::take(&mut state.is_held) {
            return;
        }
        if !state.is_behind && !state.input.is_empty() {
            state.is_behind = true;
            self.behind.push_back(id.0);
        }
        self.mark_dirty(id.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// True when the shard drains: what is owed is answered, and the streams end.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    pub(crate) fn state_mut(&mut self, socket: SocketId) -> Option<&mut State> {
        let state = self.slots.get_mut(socket.slot as usize)?.as_deref_mut()?;
        (state.socket == socket).then_some(state)
    }

    pub(crate) fn mark_dirty(&mut self, socket: SocketId) {
        if let Some(state) = self.state_mut(socket)
            && !std::mem::replace(&mut state.is_dirty, true)
        {
            self.dirty.push(socket);
        }
    }
}

/// The writing side of one stream.
pub struct StreamOutput<'s> {
    state: &'s mut State,
    spare: &'s mut SpareOutputs,
}

impl StreamOutput<'_> {
    /// What is sent at the end of the turn, to append to.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.state.provide_output(self.spare);
        self.state.output.copied_mut()
    }

    /// Appends bytes without copying them: for long ones.
    pub fn share(&mut self, bytes: Bytes) {
        self.state.provide_output(self.spare);
        self.state.output.share(bytes);
    }

    /// As [`Stream::close`].
    pub fn close(&mut self) {
        if self.state.phase == Phase::Open {
            self.state.phase = Phase::Ending;
        }
    }

    /// Ends it at the end of the turn, whatever is owed to it: its peer need not read for that.
    pub fn abort(&mut self) {
        self.state.phase = Phase::Lost;
    }
}

impl State {
    /// Memory to write into, if it has none.
    #[inline]
    pub(crate) fn provide_output(&mut self, spare: &mut SpareOutputs) {
        if self.output.capacity() == 0 && self.output.is_empty() {
            self.output = spare.take();
        }
    }

    /// Gives its part of a turn, unless it has had some of it.
    #[inline]
    pub(crate) fn begin_part(&mut self, turn: u64) {
        if self.part.turn != turn {
            self.part = Part::of(turn);
        }
        self.part.was_refused = false;
    }

    /// It is to be read in another turn.
    pub(crate) fn put_off(&mut self) {
        self.part.was_refused = true;
    }

    /// True if it stopped reading because its part was over.
    pub(crate) fn wants_more_turns(&self) -> bool {
        self.part.was_refused && !self.is_held && self.has_unread()
    }

    /// True if it is held, and there is something to be read when it is no more.
    pub(crate) fn is_held_back(&self) -> bool {
        self.is_held && self.has_unread()
    }

    fn has_unread(&self) -> bool {
        !self.input.is_empty() && self.phase == Phase::Open
    }

    /// Keeps what was not read. A long message is waited for piece by piece, and what it holds counts: so
    /// its room grows by eighths, and not to twice of what was needed.
    pub(crate) fn keep(&mut self, unread: &[u8]) {
        let has_room = self.input.capacity() - self.input.len() >= unread.len();
        if !has_room && self.input.len() >= STREAM_INPUT_LONG_BYTES {
            self.input.reserve_exact(unread.len().max(self.input.len() / 8));
        }
        self.input.extend_from_slice(unread);
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.input.capacity() + self.output.len() + self.sending_bytes
    }
}
