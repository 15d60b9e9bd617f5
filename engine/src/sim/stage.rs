//! What network and disk act upon: the time, the agenda of what is to happen, the hosts with the
//! shards to be told, and the log.

use super::config::CpuConfig;
use super::event_log::{EventKind, EventLog, Facts, Place};
use super::fault::Fault;
use super::host::{Host, HostId, Notice, Shard, ShardAt, WakeList};
use super::stream::{ConnectionId, Side};
use crate::driver::{ListenerId, SocketId};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Something that is to happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A shard has its turn, unless a later decision moved it.
    Turn(ShardAt),
    /// The process of a host starts, unless it was started since.
    Boot(HostId, u32),
    /// The process of a host goes on after a pause.
    Resume(HostId),
    /// A connection attempt reaches the server's host.
    Syn(ConnectionId),
    /// Its answer reaches the client's host.
    SynAck(ConnectionId),
    /// The next segment of a stream reaches the other end; the side is the sender's.
    Deliver(ConnectionId, Side),
    /// An acknowledgement reaches the side that sent the bytes.
    Ack(ConnectionId, Side),
    /// A reset reaches a side.
    Reset(ConnectionId, Side),
    /// A side has waited for an acknowledgement since an instant, too long.
    GiveUp(ConnectionId, Side, Instant),
    /// A close has ended.
    CloseDone(ShardAt, u32, SocketId),
    /// A listener that could not accept tries again.
    AcceptAgain(ShardAt, u32, ListenerId),
    /// A file operation of a host has ended.
    DiskDone(HostId, u64),
    /// A fault begins, unless all was healed since it was scheduled.
    Fault(Fault, u32),
    /// Paths that were cut may work again.
    Heal,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    sequence: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// See the module page.
#[derive(Debug)]
pub(super) struct Stage {
    /// The time of the event that is being handled.
    clock: Instant,
    /// CPU time that the running turn has used; its effects begin so much after `clock`.
    ahead: Duration,
    sequence: u64,
    agenda: BinaryHeap<Reverse<Entry>>,
    pub hosts: Vec<Host>,
    pub log: EventLog,
    pub wakes: WakeList,
    pub cpu: CpuConfig,
    pub rng: Rng,
    /// Shards with sockets that wait for a receive buffer.
    starved: Vec<ShardAt>,
}

impl Stage {
    pub fn new(cpu: CpuConfig, records_kept: usize, rng: Rng) -> Self {
        Stage {
            clock: Instant::ZERO,
            ahead: Duration::ZERO,
            sequence: 0,
            agenda: BinaryHeap::new(),
            hosts: Vec::new(),
            log: EventLog::new(records_kept),
            wakes: WakeList::default(),
            cpu,
            rng,
            starved: Vec::new(),
        }
    }

    /// The world's time, as far as whoever runs just now is concerned.
    pub fn now(&self) -> Instant {
        self.clock + self.ahead
    }

    /// Puts `event` on the agenda. What is to happen in the far future never does.
    pub fn at(&mut self, at: Instant, event: Event) {
        if at == Instant::FAR_FUTURE {
            return;
        }
        self.sequence += 1;
        let at = at.max(self.clock);
        self.agenda.push(Reverse(Entry { at, sequence: self.sequence, event }));
    }

    /// Puts `event` on the agenda, `delay` from now.
    pub fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now() + delay, event);
    }

    /// Moves the clock to the next event no later than `limit`, and hands it over.
    pub fn next_event(&mut self, limit: Instant) -> Option<Event> {
        let Reverse(first) = self.agenda.peek()?;
        if first.at > limit {
            return None;
        }
        let Reverse(entry) = self.agenda.pop()?;
        self.clock = entry.at;
        Some(entry.event)
    }

    /// Moves the clock on where nothing is to happen before `at`.
    pub fn advance_to(&mut self, at: Instant) {
        debug_assert!(self.agenda.peek().is_none_or(|Reverse(first)| first.at >= at));
        self.clock = self.clock.max(at);
    }

    /// Uses CPU time in the running turn.
    pub fn burn(&mut self, time: Duration) {
        self.ahead += time;
    }

    pub fn host(&mut self, host: HostId) -> &mut Host {
        &mut self.hosts[host.index()]
    }

    /// True while the process that an event was meant for runs.
    pub fn is_alive(&self, host: HostId, incarnation: u32) -> bool {
        let host = &self.hosts[host.index()];
        host.running && host.incarnation == incarnation
    }

    pub fn shard(&mut self, at: ShardAt) -> &mut Shard {
        &mut self.hosts[at.host.index()].shards[at.shard as usize]
    }

    pub fn record(&mut self, place: Place, kind: EventKind, facts: Facts<'_>) {
        let now = self.now();
        self.log.record(now, place, kind, facts);
    }

    pub fn record_about(&mut self, place: Place, kind: EventKind, text: &str) {
        let now = self.now();
        self.log.record_about(now, place, kind, text);
    }

    pub fn record_at(&mut self, at: ShardAt, kind: EventKind, facts: Facts<'_>) {
        self.record(Place::Shard(at), kind, facts);
    }

    /// Tells a shard something, and wakes it.
    pub fn notify(&mut self, at: ShardAt, notice: Notice) {
        let inbox = &mut self.shard(at).inbox;
        match (&notice, inbox.back_mut()) {
            // Two readinesses of one socket with nothing between them are one.
            (
                Notice::Readable { socket, until },
                Some(Notice::Readable { socket: last, until: sum }),
            ) if last == socket => *sum = (*sum).max(*until),
            _ => inbox.push_back(notice),
        }
        self.wake(at);
    }

    /// Gives a shard a turn as soon as its core is free.
    pub fn wake(&mut self, at: ShardAt) {
        let latency = self.cpu.wake_latency.draw(&mut self.rng);
        self.turn_no_later_than(at, self.now() + latency);
    }

    /// Puts a turn on the agenda unless an earlier one is there.
    pub fn turn_no_later_than(&mut self, at: ShardAt, when: Instant) {
        let Host { paused_until, bare, .. } = *self.host(at.host);
        if bare {
            return;
        }
        let shard = self.shard(at);
        let when = when.max(shard.busy_until).max(paused_until);
        if shard.turn_at.is_none_or(|planned| when < planned) {
            shard.turn_at = Some(when);
            self.at(when, Event::Turn(at));
        }
    }

    /// True if the turn of the event at hand is due; otherwise it is outdated, or moved.
    pub fn begin_turn(&mut self, at: ShardAt) -> bool {
        let clock = self.clock;
        let host = self.host(at.host);
        if !host.running || host.shards[at.shard as usize].turn_at != Some(clock) {
            return false;
        }
        let free_at = host.paused_until.max(host.shards[at.shard as usize].busy_until);
        let shard = self.shard(at);
        shard.turn_at = None;
        if free_at > clock {
            self.turn_no_later_than(at, free_at);
            return false;
        }
        shard.unparked = false;
        shard.parker.withdraw();
        true
    }

    /// Ends the running turn: its core was busy for as long as it burned and a little more.
    pub fn end_turn(&mut self, at: ShardAt, busy: bool, until: Option<Instant>) {
        let cost = self.cpu.turn_cost.draw(&mut self.rng);
        self.burn(cost);
        self.settle();
        let free_at = self.now();
        self.ahead = Duration::ZERO;
        let until = until.and_then(|until| self.host(at.host).clock.when_shown(until));
        let shard = self.shard(at);
        shard.busy_until = free_at;
        // The shard says that it is parked and looks once more, in one step: nobody runs meanwhile.
        shard.parker.announce();
        if busy || !shard.inbox.is_empty() {
            self.turn_no_later_than(at, free_at);
        } else if let Some(until) = until {
            self.turn_no_later_than(at, until);
        }
    }

    /// Ends what a process did at its start; its shards have their first turns a little later.
    pub fn end_boot(&mut self, host: HostId) {
        let latency = self.cpu.boot_latency.draw(&mut self.rng);
        let first_turn = self.now() + latency;
        self.ahead = Duration::ZERO;
        for shard in 0..self.host(host).shards.len() as u32 {
            self.shard(ShardAt { host, shard }).parker.announce();
            self.turn_no_later_than(ShardAt { host, shard }, first_turn);
        }
    }

    /// How many completions the next poll hands over at most: now and then just a few.
    pub fn completions_per_poll(&mut self) -> usize {
        let few = self.rng.chance(0.1).then(|| 1 + self.rng.below(4) as usize);
        few.unwrap_or(self.cpu.completions_per_poll_max).max(1)
    }

    /// Remembers that `socket` has bytes and no buffer to put them in.
    pub fn starve(&mut self, at: ShardAt, socket: SocketId) {
        self.record_at(at, EventKind::BufferWait, &[("socket", u64::from(socket.slot))]);
        let sockets = &mut self.shard(at).starved;
        if !sockets.contains(&socket) {
            sockets.push(socket);
        }
        if !self.starved.contains(&at) {
            self.starved.push(at);
        }
    }

    /// Takes note of what turns did behind the world's back: shards unparked, buffers dropped.
    pub fn settle(&mut self) {
        for wake in self.wakes.take() {
            if self.is_alive(wake.at.host, wake.incarnation) {
                self.record_at(wake.at, EventKind::Unparked, &[]);
                self.shard(wake.at).unparked = true;
                self.wake(wake.at);
            }
        }
        for at in std::mem::take(&mut self.starved) {
            if !self.shard(at).pool.has_free() {
                self.starved.push(at);
                continue;
            }
            for socket in std::mem::take(&mut self.shard(at).starved) {
                self.notify(at, Notice::Readable { socket, until: super::host::TO_THE_END });
            }
        }
    }
}
