//! What happens during a run, as it happens: calls, and the attempts that each is made of.
//!
//! Attempts are seen where the client's balancer tells its policy of them, so what is watched is the
//! client as programs use it. Which call an attempt belongs to follows from whose future is being polled.

use crate::balance::record::{AttemptEnd, End};
use crate::host;
use catena_balancer::client::BalancedError;
use catena_balancer::endpoint::{Outcome, ServerLoad, Slot};
use catena_balancer::policy::{Candidates, Policy, Why};
use catena_engine::client::CallError;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// A call, by its number in [`Log::calls`].
pub type CallIndex = u32;

/// One call. Instants are the machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it was meant to be made.
    pub intended: Instant,
    /// When it was made.
    pub made: Instant,
    /// When and how it ended; `None`: it has not.
    pub ended: Option<(Instant, End)>,
    /// Which of [`Log::errors`] it ended with.
    pub error: Option<u16>,
    /// Its latest attempt.
    latest: Option<u32>,
}

/// One attempt at a call.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Which server.
    pub server: u32,
    /// When it began.
    pub started: Instant,
    /// When and how it ended; `None`: it has not.
    pub ended: Option<(Instant, AttemptEnd)>,
    /// Why it was made.
    pub reason: Reason,
    /// The one before, of the same call.
    previous: Option<u32>,
}

/// Why an attempt is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A call begins.
    First,
    /// The one before has failed.
    Retry,
    /// The one before is slow.
    Hedge,
}

/// See the module page.
#[derive(Clone, Default, Debug)]
pub struct Log {
    /// In the order of their making.
    pub calls: Vec<Call>,
    /// In the order of their beginnings.
    pub attempts: Vec<Attempt>,
    /// What calls ended with that failed, in words.
    pub errors: Vec<String>,
    /// By server: how often a client was seen to have ejected it.
    pub ejections: Vec<u64>,
    /// Whose future is being polled.
    current: Option<CallIndex>,
    /// By client and slot: which server that is.
    server_of: Vec<Vec<u32>>,
}

/// A log that those who write it share; they all run on one shard.
#[derive(Clone, Debug)]
pub struct SharedLog(Arc<Mutex<Log>>);

impl SharedLog {
    /// An empty one, for so many servers and with room for so many calls.
    pub fn new(servers: usize, calls: usize) -> Self {
        let log = Log {
            calls: Vec::with_capacity(calls),
            attempts: Vec::with_capacity(calls),
            ejections: vec![0; servers],
            ..Log::default()
        };
        SharedLog(Arc::new(Mutex::new(log)))
    }

    /// To read or write it.
    pub fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `policy` for one more client, watched.
    pub fn watch(&self, policy: Box<dyn Policy>) -> Watched {
        let mut log = self.lock();
        let client = log.server_of.len();
        log.server_of.push(Vec::new());
        Watched { policy, client, log: self.clone() }
    }
}

impl Log {
    /// Which server each slot of the client that was watched `nth` stands for.
    pub fn set_slots(&mut self, nth: usize, servers: Vec<u32>) {
        self.server_of[nth] = servers;
    }

    /// A call is made.
    pub fn begin(&mut self, intended: Instant, made: Instant) -> CallIndex {
        self.calls.push(Call { intended, made, ended: None, error: None, latest: None });
        self.calls.len() as CallIndex - 1
    }

    /// A call has ended.
    pub fn end(&mut self, call: CallIndex, at: Instant, result: Result<(), &BalancedError>) {
        let (end, error) = match result {
            Ok(()) => (End::Answered, None),
            Err(error) => (end_of(error), Some(self.number_of(kind_of(error)))),
        };
        let call = &mut self.calls[call as usize];
        assert!(call.ended.is_none(), "a future ends once");
        call.ended = Some((at, end));
        call.error = error;
    }

    /// A client has ejected the server in this slot.
    pub fn ejected(&mut self, client: usize, slot: Slot) {
        let server = self.server(client, slot);
        self.ejections[server as usize] += 1;
    }

    fn number_of(&mut self, error: String) -> u16 {
        let known = self.errors.iter().position(|known| *known == error);
        let number = known.unwrap_or_else(|| {
            self.errors.push(error);
            self.errors.len() - 1
        });
        u16::try_from(number).expect("there are far fewer kinds of errors than calls")
    }

    fn attempt_begins(&mut self, server: u32, now: Instant) {
        // A client's own questions belong to no call.
        let Some(call) = self.current else { return };
        let call = &mut self.calls[call as usize];
        let reason = match call.latest {
            None => Reason::First,
            Some(latest) if self.attempts[latest as usize].ended.is_none() => Reason::Hedge,
            Some(_) => Reason::Retry,
        };
        let previous = call.latest.replace(self.attempts.len() as u32);
        let attempt = Attempt { server, started: now, ended: None, reason, previous };
        self.attempts.push(attempt);
    }

    fn attempt_ends(&mut self, server: u32, end: AttemptEnd, now: Instant) {
        let Some(call) = self.current else { return };
        let mut next = self.calls[call as usize].latest;
        while let Some(index) = next {
            let attempt = &mut self.attempts[index as usize];
            if attempt.server == server && attempt.ended.is_none() {
                attempt.ended = Some((now, end));
                return;
            }
            next = attempt.previous;
        }
    }

    fn server(&self, client: usize, slot: Slot) -> u32 {
        self.server_of[client][slot as usize]
    }
}

fn end_of(error: &BalancedError) -> End {
    match error {
        BalancedError::Call { error, .. } => match error {
            CallError::DeadlinePassed | CallError::ExpiredUnsent => End::TimedOut,
            CallError::Status { status, .. }
                if *status == catena_engine::Status::DEADLINE_PASSED =>
            {
                End::TimedOut
            }
            _ => End::Failed,
        },
        _ => End::Failed,
    }
}

/// Without addresses and numbers, so that there are but a few.
fn kind_of(error: &BalancedError) -> String {
    match error {
        BalancedError::Call { error: CallError::Status { status, .. }, .. } => {
            match status.name() {
                Some(name) => name.to_owned(),
                None => format!("status {}", status.0),
            }
        }
        BalancedError::Call { error: CallError::Unreachable { kind, .. }, .. } => {
            format!("unreachable: {kind}")
        }
        BalancedError::Call { error, .. } => error.to_string(),
        other => other.to_string(),
    }
}

/// A policy that tells the log of every attempt, and otherwise does as the one that it wraps.
#[derive(Debug)]
pub struct Watched {
    policy: Box<dyn Policy>,
    client: usize,
    log: SharedLog,
}

impl Policy for Watched {
    fn pick(
        &mut self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        why: &mut Why,
    ) -> Slot {
        self.policy.pick(candidates, now, rng, why)
    }

    fn started(&mut self, slot: Slot, now: Instant) {
        let mut log = self.log.lock();
        let server = log.server(self.client, slot);
        log.attempt_begins(server, host::now());
        drop(log);
        self.policy.started(slot, now);
    }

    fn ended(&mut self, slot: Slot, outcome: &Outcome, cost: Option<Duration>, now: Instant) {
        let end = match outcome {
            Outcome::Answered(_) => AttemptEnd::Answered,
            Outcome::Failed { .. } => AttemptEnd::Failed,
            Outcome::TimedOut => AttemptEnd::TimedOut,
            Outcome::Abandoned => AttemptEnd::Abandoned,
        };
        let mut log = self.log.lock();
        let server = log.server(self.client, slot);
        log.attempt_ends(server, end, host::now());
        drop(log);
        self.policy.ended(slot, outcome, cost, now);
    }

    fn probes(
        &mut self,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
        wanted: &mut Vec<Slot>,
    ) {
        self.policy.probes(candidates, now, rng, wanted);
    }

    fn probed(
        &mut self,
        slot: Slot,
        load: &ServerLoad,
        servers: usize,
        now: Instant,
        rng: &mut Rng,
    ) {
        self.policy.probed(slot, load, servers, now, rng);
    }

    fn joined(&mut self, slot: Slot, now: Instant) {
        self.policy.joined(slot, now);
    }
}

/// A call's future, whose attempts are its own.
pub struct Attributed<F> {
    call: CallIndex,
    log: SharedLog,
    future: Pin<Box<F>>,
}

impl<F: Future> Attributed<F> {
    /// Attempts that begin or end within `future` are those of `call`.
    pub fn new(call: CallIndex, log: SharedLog, future: F) -> Self {
        Attributed { call, log, future: Box::pin(future) }
    }
}

impl<F: Future> Future for Attributed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let call = self.call;
        self.log.lock().current = Some(call);
        let polled = self.future.as_mut().poll(context);
        self.log.lock().current = None;
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn attempts_are_those_of_the_call_that_is_polled() {
        let mut log = SharedLog::new(3, 8).lock().clone();
        let first = log.begin(at(0), at(1));
        let second = log.begin(at(0), at(1));
        log.current = Some(first);
        log.attempt_begins(0, at(1));
        log.current = Some(second);
        log.attempt_begins(0, at(1));
        log.attempt_ends(0, AttemptEnd::Failed, at(2));
        log.attempt_begins(1, at(2));
        log.current = Some(first);
        log.attempt_begins(2, at(5));
        log.attempt_ends(0, AttemptEnd::Abandoned, at(6));
        log.attempt_ends(2, AttemptEnd::Answered, at(6));
        log.current = None;
        // Nobody's: a client looks after itself.
        log.attempt_begins(1, at(6));
        let told: Vec<_> = log
            .attempts
            .iter()
            .map(|attempt| (attempt.server, attempt.reason, attempt.ended.map(|(_, end)| end)))
            .collect();
        let expected = [
            (0, Reason::First, Some(AttemptEnd::Abandoned)),
            (0, Reason::First, Some(AttemptEnd::Failed)),
            (1, Reason::Retry, None),
            (2, Reason::Hedge, Some(AttemptEnd::Answered)),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn errors_are_of_few_kinds_whoever_they_come_from() {
        let mut log = Log::default();
        let unreachable = |port: u16| BalancedError::Call {
            error: CallError::Unreachable {
                address: ([127, 0, 0, 1], port).into(),
                kind: std::io::ErrorKind::ConnectionRefused,
            },
            attempts: 1,
            is_not_executed: true,
        };
        let late = BalancedError::Call {
            error: CallError::DeadlinePassed,
            attempts: 2,
            is_not_executed: false,
        };
        for error in [unreachable(1), unreachable(2), late] {
            let call = log.begin(at(0), at(0));
            log.end(call, at(1), Err(&error));
        }
        assert_eq!(log.errors.len(), 2, "{:?}", log.errors);
        let ends: Vec<End> = log.calls.iter().filter_map(|call| Some(call.ended?.1)).collect();
        assert_eq!(ends, [End::Failed, End::Failed, End::TimedOut]);
    }
}
