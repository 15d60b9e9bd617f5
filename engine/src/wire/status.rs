//! Statuses: how a request ended, as its caller sees it.
//!
//! The class is visible in the number, so that a client that does not know a status still knows
//! whether it may try again:
//!
//! | numbers | class |
//! |---|---|
//! | 0 | ok |
//! | 1 … 199 | **not executed**: the handler never began; always safe to send again |
//! | 200 … 999 | **may have executed**: only an idempotent request may be sent again |
//! | 1000 … 65535 | the application's own; as "may have executed" |

use std::fmt;

/// How a request ended. See the module page for the classes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(pub u16);

/// What a status says about the work.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StatusClass {
    /// Done; the payload is the answer.
    Ok,
    /// The handler never began. Sending again is always safe.
    NotExecuted,
    /// The handler may have begun, and may have finished.
    MayHaveExecuted,
    /// The application's own meaning; the handler ran.
    Application,
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status($number);)*

            /// The name of a status of this version, `None` for others.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some($text),)* _ => None }
            }
        }

        #[cfg(test)]
        const ALL: &[Status] = &[$(Status::$name),*];
    };
}

statuses! {
    /// Done.
    OK = 0, "ok";
    /// The server is overloaded and refused before it began. The same server may take it later,
    /// another may take it now.
    SHED = 100, "shed";
    /// The server is leaving; another one may take it now.
    DRAINING = 101, "draining";
    /// The deadline passed while the request waited.
    EXPIRED_IN_QUEUE = 102, "expired in queue";
    /// The route names a shard that is not here. The payload, where there is one, is the right
    /// route: 4 bytes, little-endian.
    WRONG_SHARD = 103, "wrong shard";
    /// No handler has this method id.
    UNKNOWN_METHOD = 104, "unknown method";
    /// The caller did not say, or could not prove, who it is.
    UNAUTHENTICATED = 105, "unauthenticated";
    /// The caller may not do this.
    DENIED = 106, "denied";
    /// The payload or the metadata cannot be read. Sending the same bytes again will not help.
    MALFORMED = 107, "malformed";
    /// A proxy has no server that it could pass the request on to: none is known, or none can be
    /// reached. The same proxy may have one later.
    UNAVAILABLE = 108, "unavailable";
    /// The request is longer than the server behind a proxy accepts. Sending the same bytes again will
    /// not help.
    REQUEST_TOO_LARGE = 109, "request too large";
    /// The request was passed on by [`HOPS_MAX`](crate::limits::HOPS_MAX) proxies, and the next one
    /// refuses to: they seem to pass it around in a circle.
    TOO_MANY_HOPS = 110, "too many hops";
    /// The caller cancelled while the handler ran.
    CANCELLED = 200, "cancelled";
    /// The deadline passed while the handler ran.
    DEADLINE_PASSED = 201, "deadline passed";
    /// The handler failed in a way it did not foresee, or dropped the request unanswered.
    INTERNAL = 202, "internal error";
    /// The answer is larger than the caller accepts in one frame.
    ANSWER_TOO_LARGE = 203, "answer too large";
    /// A proxy has passed the request on, and lost the server before it answered.
    UPSTREAM_LOST = 204, "upstream lost";
}

impl Status {
    /// The first number that belongs to the application.
    pub const APPLICATION_FIRST: u16 = 1_000;

    /// A status of the application's own: `Status::application(n)` is `1000 + n` on the wire.
    ///
    /// # Panics
    /// If `number` is above 64,535, which a 16-bit status cannot hold.
    pub const fn application(number: u16) -> Status {
        assert!(number <= u16::MAX - Self::APPLICATION_FIRST, "application statuses end at 64535");
        Status(Self::APPLICATION_FIRST + number)
    }

    /// What the number says about the work.
    pub const fn class(self) -> StatusClass {
        match self.0 {
            0 => StatusClass::Ok,
            1..=199 => StatusClass::NotExecuted,
            200..=999 => StatusClass::MayHaveExecuted,
            _ => StatusClass::Application,
        }
    }

    /// True for [`Status::OK`].
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// True when the handler never began, so that sending again is always safe.
    pub const fn is_not_executed(self) -> bool {
        matches!(self.class(), StatusClass::NotExecuted)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.class()) {
            (Some(name), _) => f.write_str(name),
            (None, StatusClass::Application) => {
                write!(f, "application status {}", self.0 - Self::APPLICATION_FIRST)
            }
            (None, StatusClass::NotExecuted) => write!(f, "not executed, status {}", self.0),
            (None, _) => write!(f, "may have executed, status {}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_in_the_number() {
        for status in ALL {
            let safe = (100..200).contains(&status.0);
            assert_eq!(status.is_not_executed(), safe, "{status:?}");
            assert!(status.0 < Status::APPLICATION_FIRST && status.name().is_some());
        }
        assert_eq!(Status(150).class(), StatusClass::NotExecuted, "unknown, and still safe");
        assert_eq!(Status(999).class(), StatusClass::MayHaveExecuted);
        assert_eq!(Status::application(7).class(), StatusClass::Application);
        assert_eq!(Status::application(7).to_string(), "application status 7");
    }
}
