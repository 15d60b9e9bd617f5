//! How the end of a call counts.

use crate::endpoint::Outcome;
use crate::metrics::Tally;
use catena_engine::time::Duration;

/// How the end of a call counts for the endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// It did its work, whatever the application says about it: not found is an answer.
    Answered,
    /// It could not do its work.
    Failed,
    /// It did not begin to: overloaded, draining, unreachable.
    NotExecuted,
    /// It took longer than the caller could wait.
    TimedOut,
    /// The end says nothing about the endpoint: the caller lost interest, or was at fault.
    Unrelated,
}

impl Class {
    /// What a gRPC status code says (`grpc-status`, 0 to 16).
    pub fn of_grpc(code: u32) -> Class {
        match code {
            1 => Class::Unrelated,
            4 => Class::TimedOut,
            8 | 14 => Class::NotExecuted,
            2 | 13 | 15 => Class::Failed,
            _ => Class::Answered,
        }
    }

    /// What a status of HTTP says (RFC 9110, section 15; 429 is RFC 6585's).
    pub fn of_http(status: u16) -> Class {
        match status {
            408 | 504 => Class::TimedOut,
            429 | 503 => Class::NotExecuted,
            501 | 505 => Class::Answered,
            500..=599 => Class::Failed,
            _ => Class::Answered,
        }
    }

    /// As the balancer counts it. A failure costs no less than `patience`.
    pub(super) fn outcome(self, patience: Duration) -> Outcome {
        match self {
            Class::Answered => Outcome::Answered(None),
            Class::Failed | Class::NotExecuted => Outcome::Failed { timeout: patience },
            Class::TimedOut => Outcome::TimedOut,
            Class::Unrelated => Outcome::Abandoned,
        }
    }

    pub(super) fn count(self, tally: &mut Tally) {
        match self {
            Class::Answered | Class::Unrelated => {}
            Class::Failed => tally.errors_internal += 1,
            Class::NotExecuted => tally.errors_shed += 1,
            Class::TimedOut => tally.errors_deadline += 1,
        }
    }
}

/// Says how the end of a call counts. A closure will do.
pub trait Classify<Response, Error> {
    /// How this end counts.
    fn classify(&self, result: Result<&Response, &Error>) -> Class;
}

impl<F, Response, Error> Classify<Response, Error> for F
where
    F: Fn(Result<&Response, &Error>) -> Class,
{
    fn classify(&self, result: Result<&Response, &Error>) -> Class {
        self(result)
    }
}

/// A response is an answer, an error is a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByResult;

impl<Response, Error> Classify<Response, Error> for ByResult {
    fn classify(&self, result: Result<&Response, &Error>) -> Class {
        if result.is_ok() { Class::Answered } else { Class::Failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_apart() {
        let grpc = [0, 1, 4, 5, 8, 13, 14].map(Class::of_grpc);
        use Class::*;
        let expected = [Answered, Unrelated, TimedOut, Answered, NotExecuted, Failed, NotExecuted];
        assert_eq!(grpc, expected);
        let http = [200, 404, 408, 429, 500, 503, 504].map(Class::of_http);
        let expected = [Answered, Answered, TimedOut, NotExecuted, Failed, NotExecuted, TimedOut];
        assert_eq!(http, expected);
    }
}
