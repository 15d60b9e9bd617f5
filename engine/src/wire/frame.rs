//! Frames by name: what the header's words mean for each kind.

use super::header::{Flags, Header, Kind};
use super::status::Status;
use crate::time::Duration;

/// The id of a call on one connection.
///
/// The low half names a *slot*, below the in-flight window that the server told in its hello; the
/// high half counts the calls that used the slot. At most one call of a slot is in flight, so the
/// server finds a call without hashing, and the window enforces itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CallId(pub u64);

impl CallId {
    /// The id of the `generation`-th call in `slot`.
    pub const fn new(slot: u32, generation: u32) -> Self {
        CallId((generation as u64) << 32 | slot as u64)
    }

    /// Which slot of the window.
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }

    /// Which use of the slot.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Which handler a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MethodId(pub u32);

impl MethodId {
    /// The id of a method by its name: FNV-1a of the bytes. Two names of one router that collide
    /// are refused when the router is built.
    pub const fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash = 0x811C_9DC5u32;
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
            at += 1;
        }
        MethodId(hash)
    }
}

/// How important a request is: under overload the lowest are shed first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Priority(pub u16);

impl Priority {
    /// Work that can wait for hours: backfill, checks.
    pub const BACKGROUND: Priority = Priority(0x2000);
    /// What nobody said anything about.
    pub const NORMAL: Priority = Priority(0x8000);
    /// What the service exists for.
    pub const CRITICAL: Priority = Priority(0xE000);
}

impl Default for Priority {
    fn default() -> Self {
        Priority::NORMAL
    }
}

/// Which shard, or which partition, a request is meant for. 0: whichever it reaches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Route(pub u32);

impl Route {
    /// Whichever shard the request reaches.
    pub const ANY: Route = Route(0);
}

/// The header of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHead {
    /// The caller's id for it, echoed in the response.
    pub call: CallId,
    /// Which handler.
    pub method: MethodId,
    /// How important.
    pub priority: Priority,
    /// Time until the caller stops waiting, in µs from the moment of sending; 0: for ever, or for
    /// longer than the field can say (71 minutes), in which case a cancel will end it.
    pub time_left_us: u32,
    /// Which shard or partition.
    pub route: Route,
    /// True if the request may have been sent before.
    pub repeat: bool,
    /// By how many proxies it was passed on: 0 to [`HOPS_MAX`](crate::limits::HOPS_MAX).
    pub hops: u8,
}

impl RequestHead {
    /// The header on the wire; its length, and the flags that tell about the body, are the framer's
    /// to set.
    pub fn header(&self) -> Header {
        let flags = if self.repeat { Flags::REPEAT } else { Flags::NONE };
        Header {
            frame_bytes: 0,
            kind: Kind::Request,
            flags: flags.with_hops(self.hops),
            code: self.priority.0,
            call: self.call.0,
            first: self.method.0,
            second: self.time_left_us,
            third: self.route.0,
        }
    }

    /// Reads the header of a request.
    pub fn from_header(header: &Header) -> Self {
        RequestHead {
            call: CallId(header.call),
            method: MethodId(header.first),
            priority: Priority(header.code),
            time_left_us: header.second,
            route: Route(header.third),
            repeat: header.flags.has(Flags::REPEAT),
            hops: header.flags.hops(),
        }
    }

    /// Time until the caller stops waiting; `None`: it waits for ever.
    pub fn time_left(&self) -> Option<Duration> {
        (self.time_left_us > 0).then(|| Duration::from_micros(u64::from(self.time_left_us)))
    }
}

/// The header of a response: how it ended, and the load of the shard that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    /// The id of the request.
    pub call: CallId,
    /// How it ended.
    pub status: Status,
    /// From arrival on the shard to the start of the handler.
    pub queue_delay_us: u32,
    /// From the start of the handler to this answer.
    pub service_us: u32,
    /// Requests that the shard had accepted and not answered, this one included, or
    /// [`ResponseHead::LOAD_UNKNOWN`].
    pub in_flight: u32,
}

impl ResponseHead {
    /// `in_flight` of an answer that was given by a part of the server which does not know the
    /// shard's load; `queue_delay_us` and `service_us` then mean nothing.
    pub const LOAD_UNKNOWN: u32 = u32::MAX;

    /// The header on the wire, as [`RequestHead::header`].
    pub fn header(&self) -> Header {
        Header {
            frame_bytes: 0,
            kind: Kind::Response,
            flags: Flags::NONE,
            code: self.status.0,
            call: self.call.0,
            first: self.queue_delay_us,
            second: self.service_us,
            third: self.in_flight,
        }
    }

    /// Reads the header of a response.
    pub fn from_header(header: &Header) -> Self {
        ResponseHead {
            call: CallId(header.call),
            status: Status(header.code),
            queue_delay_us: header.first,
            service_us: header.second,
            in_flight: header.third,
        }
    }
}

/// The header of a pong: which ping it answers, and the load of the shard that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PongHead {
    /// The 8 bytes of the ping.
    pub echo: u64,
    /// From the arrival of the ping on the shard until it was read: as long as a request waits.
    pub queue_delay_us: u32,
    /// What requests took of late, on average, from the start of their handler to the answer.
    pub service_us: u32,
    /// Requests that the shard had accepted and not answered, the ping counted as one; 0: the sender
    /// does not tell its load, and the other two mean nothing.
    pub in_flight: u32,
}

impl PongHead {
    /// A pong that tells no load: that of a client, of a server that passes requests on, or of one that is
    /// older than the load.
    pub const fn without_load(echo: u64) -> Self {
        PongHead { echo, queue_delay_us: 0, service_us: 0, in_flight: 0 }
    }

    /// True if it tells the load of the shard that sent it.
    pub const fn tells_load(&self) -> bool {
        self.in_flight > 0
    }

    /// The header on the wire, as [`RequestHead::header`].
    pub fn header(&self) -> Header {
        Header {
            first: self.queue_delay_us,
            second: self.service_us,
            third: self.in_flight,
            ..control(Kind::Pong, 0, self.echo)
        }
    }

    /// Reads the header of a pong.
    pub fn from_header(header: &Header) -> Self {
        PongHead {
            echo: header.call,
            queue_delay_us: header.first,
            service_us: header.second,
            in_flight: header.third,
        }
    }
}

/// Why a peer says go-away. Numbers are the wire's; unknown ones are read as "ends", for what is to be
/// done is the same for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GoAwayReason(pub u16);

impl GoAwayReason {
    /// The peer drains: it shuts down, or is moved.
    pub const DRAINING: GoAwayReason = GoAwayReason(0);
    /// What it received is not the protocol; the text says what.
    pub const PROTOCOL_ERROR: GoAwayReason = GoAwayReason(1);
    /// No version is spoken by both.
    pub const VERSION_MISMATCH: GoAwayReason = GoAwayReason(2);
    /// No request for longer than the idle timeout that was told in hello.
    pub const IDLE: GoAwayReason = GoAwayReason(3);
    /// A limit on connections or memory is reached.
    pub const OVERLOADED: GoAwayReason = GoAwayReason(4);
    /// The peer took too long: no hello, half a frame, no pong, answers not read.
    pub const TOO_SLOW: GoAwayReason = GoAwayReason(5);
}

impl std::fmt::Debug for GoAwayReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            0 => "draining",
            1 => "protocol error",
            2 => "version mismatch",
            3 => "idle",
            4 => "overloaded",
            5 => "too slow",
            other => return write!(f, "ends (reason {other})"),
        })
    }
}

/// The header of a frame that says no more than its kind, a code and a number.
pub fn control(kind: Kind, code: u16, call: u64) -> Header {
    let flags = Flags::NONE;
    Header { frame_bytes: 0, kind, flags, code, call, first: 0, second: 0, third: 0 }
}
