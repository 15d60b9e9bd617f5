//! How calls and connections end, and whose fault it was.

use crate::limits::METADATA_BYTES_MAX;
use crate::wire::deframer::FrameError;
use crate::wire::frame::GoAwayReason;
use crate::wire::header::Kind;
use crate::wire::hello::HelloError;
use std::fmt;

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer ended its stream in order.
    PeerClosed,
    /// The kernel says that the connection is broken: reset, timed out …
    Lost(std::io::ErrorKind),
    /// The peer broke the protocol.
    PeerMisbehaved(Misbehaviour),
    /// The two sides do not speak a common version, or the hello is damaged.
    PeerIncompatible(HelloError),
    /// The peer was silent or slow for longer than allowed.
    PeerTooSlow(TooSlow),
    /// The peer said go-away with this reason; what was in flight has ended, or ends with it.
    PeerLeft(GoAwayReason),
    /// No request for longer than the idle timeout.
    Idle,
    /// This side has reached a limit on connections or memory.
    Overloaded,
    /// This side drained: everything it had accepted is answered.
    Drained,
    /// This side ended it with work still running: the drain timeout passed, or its owner said so.
    Aborted,
}

/// What a peer did that the protocol does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misbehaviour {
    /// Its bytes are no frames.
    Frame(FrameError),
    /// A frame that this side must not be sent, or not now.
    Unexpected(Kind),
    /// A call id whose slot is beyond the window told in hello.
    BeyondWindow {
        /// The slot that the id names.
        slot: u32,
        /// The window.
        window: u32,
    },
    /// A call id whose slot has a call in flight already.
    SlotBusy(u32),
}

/// Which limit a slow peer ran into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TooSlow {
    /// No hello.
    Hello,
    /// A frame begun and not finished.
    Frame,
    /// No sign of life after a ping.
    Pong,
    /// It does not take what it is sent, for longer than allowed.
    Reading,
}

impl CloseReason {
    /// The go-away that tells the peer, where there is something to tell.
    pub(crate) fn go_away(&self) -> Option<GoAwayReason> {
        Some(match self {
            CloseReason::PeerMisbehaved(_) => GoAwayReason::PROTOCOL_ERROR,
            CloseReason::PeerIncompatible(HelloError::Version { .. }) => {
                GoAwayReason::VERSION_MISMATCH
            }
            CloseReason::PeerIncompatible(_) => GoAwayReason::PROTOCOL_ERROR,
            CloseReason::PeerTooSlow(_) => GoAwayReason::TOO_SLOW,
            CloseReason::Idle => GoAwayReason::IDLE,
            CloseReason::Overloaded => GoAwayReason::OVERLOADED,
            CloseReason::Drained | CloseReason::Aborted => GoAwayReason::DRAINING,
            CloseReason::PeerClosed | CloseReason::Lost(_) | CloseReason::PeerLeft(_) => {
                return None;
            }
        })
    }

    /// True when the peer was told why, so that it should have a chance to read it.
    pub fn is_told(&self) -> bool {
        self.go_away().is_some()
    }

    /// True when the peer, not this side or the network, is to blame.
    pub fn is_peers_fault(&self) -> bool {
        matches!(
            self,
            CloseReason::PeerMisbehaved(_)
                | CloseReason::PeerIncompatible(_)
                | CloseReason::PeerTooSlow(_)
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::PeerClosed => f.write_str("closed by the peer"),
            CloseReason::Lost(kind) => write!(f, "connection lost: {kind}"),
            CloseReason::PeerMisbehaved(what) => write!(f, "the peer broke the protocol: {what}"),
            CloseReason::PeerIncompatible(why) => write!(f, "incompatible peer: {why}"),
            CloseReason::PeerTooSlow(what) => f.write_str(match what {
                TooSlow::Hello => "the peer said no hello in time",
                TooSlow::Frame => "the peer began a frame and did not finish it in time",
                TooSlow::Pong => "the peer is silent and answers no ping",
                TooSlow::Reading => "the peer did not read what it was sent in time",
            }),
            CloseReason::PeerLeft(reason) => write!(f, "the peer left: {reason:?}"),
            CloseReason::Idle => f.write_str("no request for longer than the idle timeout"),
            CloseReason::Overloaded => f.write_str("a limit on connections or memory is reached"),
            CloseReason::Drained => f.write_str("drained"),
            CloseReason::Aborted => f.write_str("ended here with work still running"),
        }
    }
}

impl std::error::Error for CloseReason {}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misbehaviour::Frame(error) => error.fmt(f),
            Misbehaviour::Unexpected(kind) => write!(f, "a {kind:?} frame is not allowed here"),
            Misbehaviour::BeyondWindow { slot, window } => {
                write!(f, "call slot {slot} is beyond the window of {window} calls")
            }
            Misbehaviour::SlotBusy(slot) => write!(f, "call slot {slot} has a call in flight"),
        }
    }
}

/// Why a call could not even be started. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// No hello yet, or the connection has ended.
    NotOpen,
    /// The peer is leaving and takes nothing new.
    Leaving,
    /// As many calls as the peer takes are in flight.
    WindowFull,
    /// The frame would be longer than the peer accepts.
    TooLarge {
        /// Its length in bytes.
        frame_bytes: usize,
        /// The most that the peer accepts.
        max: u32,
    },
    /// The metadata is longer than the protocol allows.
    MetadataTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The deadline has passed already.
    DeadlinePassed,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NotOpen => f.write_str("not connected"),
            StartError::Leaving => f.write_str("the peer is leaving"),
            StartError::WindowFull => f.write_str("as many calls as the peer takes are in flight"),
            StartError::TooLarge { frame_bytes, max } => {
                write!(f, "request of {frame_bytes} bytes; the peer accepts frames up to {max}")
            }
            StartError::MetadataTooLong { bytes } => {
                write!(f, "metadata of {bytes} bytes; at most {METADATA_BYTES_MAX} are allowed")
            }
            StartError::DeadlinePassed => f.write_str("the deadline passed before it was sent"),
        }
    }
}

impl std::error::Error for StartError {}
