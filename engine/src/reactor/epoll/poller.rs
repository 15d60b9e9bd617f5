//! The epoll set: who is in it, and how the shard sleeps on it.

use crate::driver::{ListenerId, SocketId};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

pub(super) use rustix::event::epoll::EventFlags;

/// What a reading socket reports: each arrival of bytes once, and the end of the peer's stream.
///
/// Not `OUT`: an arrival that was read before it was reported would then be reported all the same,
/// for being writable, and cost a turn that has nothing to do.
pub(super) const READING: EventFlags =
    EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// What a socket reports while a connect or a send waits for the kernel.
pub(super) const READING_AND_WRITING: EventFlags = READING.union(EventFlags::OUT);

/// What a listener or an event counter reports.
pub(super) const EDGE_IN: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// Waits longer than this are taken in several steps; `epoll_wait` counts milliseconds in an `int`.
const WAIT_STEP_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Who an event is for. Travels through the kernel as 64 bits:
///
/// ```text
/// 63        32 31 30         0
/// generation  | 0 | slot         a socket
/// listener    | 1 | 0            a listener
/// 0           | 1 | 1 or 2       the counters that wake the shard: others', the file helper's
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token {
    Socket(SocketId),
    Listener(ListenerId),
    Unparked,
    FilesDone,
}

const NOT_A_SOCKET: u32 = 1 << 31;
const UNPARKED: u32 = NOT_A_SOCKET | 1;
const FILES_DONE: u32 = NOT_A_SOCKET | 2;

/// Slots of sockets stay below this.
pub(super) const SLOTS_MAX: u32 = NOT_A_SOCKET;

impl Token {
    fn encode(self) -> epoll::EventData {
        let (high, low) = match self {
            Token::Socket(socket) => (socket.generation, socket.slot),
            Token::Listener(listener) => (listener.0, NOT_A_SOCKET),
            Token::Unparked => (0, UNPARKED),
            Token::FilesDone => (0, FILES_DONE),
        };
        epoll::EventData::new_u64(u64::from(high) << 32 | u64::from(low))
    }

    fn decode(data: epoll::EventData) -> Token {
        let (high, low) = ((data.u64() >> 32) as u32, data.u64() as u32);
        match low {
            NOT_A_SOCKET => Token::Listener(ListenerId(high)),
            UNPARKED => Token::Unparked,
            FILES_DONE => Token::FilesDone,
            slot => Token::Socket(SocketId { slot, generation: high }),
        }
    }
}

/// An epoll instance and the events of its last wait.
pub(super) struct Poller {
    epoll: OwnedFd,
    /// Filled by `wait`, never grown: what does not fit stays in the kernel until the next wait.
    events: Vec<epoll::Event>,
    /// System calls that waited or looked.
    pub enters: u64,
}

impl Poller {
    pub fn new(events_max: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Poller { epoll, events: Vec::with_capacity(events_max), enters: 0 })
    }

    pub fn add(&self, source: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, source, token.encode(), flags)
    }

    /// Changes what `source` reports; what is true already is reported at once.
    pub fn modify(&self, source: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::modify(&self.epoll, source, token.encode(), flags)
    }

    /// Sleeps until there are events, but at most for `timeout` (`None`: for as long as it takes).
    /// May come back early, with or without events.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        let step = match timeout.map(Step::towards) {
            None => None,
            Some(Step::Millis(step)) => Some(step),
            Some(Step::Precise(rest)) => {
                if !self.sleep_precisely(rest)? {
                    return Ok(());
                }
                Some(Duration::ZERO)
            }
        };
        self.enters += 1;
        let step = step.map(timespec);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            step.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sleeps for less than a millisecond; true when there are events.
    ///
    /// `epoll_wait` counts whole milliseconds and `epoll_pwait2` needs Linux 5.11, which the hosts
    /// that need this driver may not have. An epoll instance can be polled like any other file, and
    /// `ppoll` counts nanoseconds everywhere.
    fn sleep_precisely(&mut self, timeout: Duration) -> io::Result<bool> {
        self.enters += 1;
        let mut set = [PollFd::new(&self.epoll, PollFlags::IN)];
        match rustix::event::poll(&mut set, Some(&timespec(timeout))) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the events of the last wait out, to go through them while the owner changes.
    /// Give the memory back with [`Poller::put_events`].
    pub fn take_events(&mut self) -> Vec<epoll::Event> {
        std::mem::take(&mut self.events)
    }

    pub fn put_events(&mut self, events: Vec<epoll::Event>) {
        self.events = events;
    }
}

/// The next part of a wait.
#[derive(Debug)]
enum Step {
    /// A look, or whole milliseconds, which `epoll_wait` can count.
    Millis(Duration),
    /// What is left in the end.
    Precise(Duration),
}

impl Step {
    /// Never beyond `timeout`: rounded down, so that the rest can be slept precisely.
    fn towards(timeout: Duration) -> Step {
        let millis = timeout.min(WAIT_STEP_MAX).as_millis() as u64;
        if millis == 0 && !timeout.is_zero() {
            Step::Precise(timeout)
        } else {
            Step::Millis(Duration::from_millis(millis))
        }
    }
}

/// Whom an event is for, and what it says.
pub(super) fn read_event(event: &epoll::Event) -> (Token, EventFlags) {
    (Token::decode(event.data), event.flags)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::now;
    use rustix::event::{EventfdFlags, eventfd};

    const DAY_NANOS: u64 = 24 * 3_600 * 1_000_000_000;

    #[test]
    fn tokens_survive_the_way_through_the_kernel() {
        let last_slot = SLOTS_MAX - 1;
        for token in [
            Token::Socket(SocketId { slot: 0, generation: 0 }),
            Token::Socket(SocketId { slot: last_slot, generation: u32::MAX }),
            Token::Socket(SocketId { slot: 2, generation: 1 }),
            Token::Listener(ListenerId(0)),
            Token::Listener(ListenerId(u32::MAX)),
            Token::Unparked,
            Token::FilesDone,
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }

    #[test]
    fn the_steps_of_a_wait_end_at_its_deadline() {
        for (nanos, steps_expected) in [
            (0, 0),
            (1, 1),
            (999_999, 1),
            (1_000_000, 1),
            (2_300_000, 2),
            (100 * DAY_NANOS + 1, 101),
        ] {
            let (mut left, mut steps) = (Duration::from_nanos(nanos), 0);
            while !left.is_zero() {
                let (Step::Millis(step) | Step::Precise(step)) = Step::towards(left);
                left = left.checked_sub(step).expect("no step goes beyond the deadline");
                steps += 1;
            }
            assert_eq!(steps, steps_expected, "{nanos} ns");
        }
        assert!(matches!(Step::towards(Duration::ZERO), Step::Millis(Duration::ZERO)), "a look");
    }

    #[test]
    fn a_wait_without_events_lasts() {
        let mut poller = Poller::new(8).expect("an epoll instance is to be had");
        let deadline = now() + Duration::from_micros(2_300);
        while now() < deadline {
            poller.wait(Some(deadline.since(now()))).expect("the epoll instance is open");
        }
        assert!(poller.take_events().is_empty());
        assert!(poller.enters < 1_000, "it sleeps and does not spin: {} steps", poller.enters);
    }

    #[test]
    fn a_short_wait_ends_with_its_event() {
        let mut poller = Poller::new(8).expect("an epoll instance is to be had");
        let counter = eventfd(1, EventfdFlags::CLOEXEC).expect("a counter is to be had");
        poller.add(&counter, Token::Unparked, EDGE_IN).expect("both are open");
        poller.wait(Some(Duration::from_micros(900))).expect("the epoll instance is open");
        let events = poller.take_events();
        assert_eq!(events.iter().map(|e| read_event(e).0).collect::<Vec<_>>(), [Token::Unparked]);
        poller.put_events(events);
        poller.wait(Some(Duration::ZERO)).expect("the epoll instance is open");
        assert!(poller.take_events().is_empty(), "each edge is told once");
    }
}
