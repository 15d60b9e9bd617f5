//! How the native service answers, beside the engine's own statuses.
//!
//! With every one of these the copy of the request that it answers has changed nothing. What is said with a
//! number is kept for repetitions if it was a repetition itself; see docs/kv-protocol.md.

use catena_engine::Status;

/// There is no such key.
pub const NOT_FOUND: Status = Status::application(0);
/// A condition does not hold. The payload: which change u16, the key's version (0-0: it is not there).
pub const CONDITION_FAILED: Status = Status::application(1);
/// A counter's value is no 64-bit integer. The payload: which change u16.
pub const NOT_INTEGER: Status = Status::application(2);
/// A counter would leave the range of 64-bit integers. The payload: which change u16.
pub const OVERFLOW: Status = Status::application(3);
/// There is no such session, or not any more: what became of its numbers is not known.
pub const NO_SESSION: Status = Status::application(4);
/// The number is below the first unanswered one: what became of it is not known any more.
pub const FORGOTTEN: Status = Status::application(5);
/// The number is too far from the first unanswered one, or too many results are unanswered: later.
pub const WINDOW_FULL: Status = Status::application(6);
/// Memory is used up. Not kept for repetitions.
pub const OUT_OF_MEMORY: Status = Status::application(7);
/// The partition has as many sessions as it may have.
pub const SESSIONS_FULL: Status = Status::application(8);

/// The keys are not for this node. The payload: the node that orders their writes u16, or nothing if that is
/// not known. Not kept for repetitions.
pub const WRONG_NODE: Status = Status::application(9);

/// The name of a status, the engine's own included.
pub fn name(status: Status) -> Option<&'static str> {
    Some(match status {
        NOT_FOUND => "no such key",
        CONDITION_FAILED => "condition failed",
        NOT_INTEGER => "value is no integer",
        OVERFLOW => "counter would overflow",
        NO_SESSION => "no such session",
        FORGOTTEN => "number is below the session's window",
        WINDOW_FULL => "number is beyond the session's window",
        OUT_OF_MEMORY => "out of memory",
        WRONG_NODE => "the keys are another node's",
        SESSIONS_FULL => "too many sessions in this partition",
        other => return other.name(),
    })
}
