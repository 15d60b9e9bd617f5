//! What a run has shown, worked out of its log once it is over.

use super::director::{Absence, Directed};
use super::load::Driven;
use super::log::{Attempt, Log, Reason};
use super::plan::Plan;
use crate::balance::contender::Contender;
use crate::balance::record::{AttemptEnd, Calls, End, Record};
use crate::balance::report::{CallsReport, PolicyReport};
use crate::table::{count, plural};
use catena_engine::time::{Duration, Instant};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;

/// A server that is not there is turned away from once it gets no second call within this …
const TRICKLE: Duration = Duration::from_millis(100);
/// Calls that are made later than this after their instant, in one of 100 cases, spoil what is told of
/// latencies, which are told in ms.
const SLIP_P99_MAX: Duration = Duration::from_millis(1);
/// Clients that are busy for a larger share of the time are the bottleneck.
const SATURATED: f64 = 0.95;
/// Clients that wait for their core for a larger share of the time measure their neighbours too.
const WAITED_SHARE_MAX: f64 = 0.05;

/// All of one run.
#[derive(Clone, Debug)]
pub struct Findings {
    /// As a simulation tells it.
    pub policy: PolicyReport,
    /// What only a live run has.
    pub run: RunReport,
}

/// One run of one policy.
#[derive(Clone, Serialize, Debug)]
pub struct RunReport {
    /// As it was named.
    pub policy: String,
    /// Which of several runs, from 0.
    pub round: u32,
    /// All calls that are counted.
    #[serde(flatten)]
    pub total: CallsReport,
    /// What calls ended with that have no answer, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Those of all calls that were not meant to be made while an absence was being detected.
    pub outside: CallsReport,
    /// Times during which a server was not there.
    pub absences: Vec<AbsenceReport>,
    /// How much later than intended calls were made, in microseconds: half of them no later, 99 of 100,
    /// the latest.
    pub send_slip_us: [f64; 3],
    /// The share of the time that the clients' thread was on a core.
    pub clients_busy_share: f64,
    /// The share that it wanted to be, and another process was.
    pub clients_waited_share: f64,
    /// Load average of the machine over a minute, before and after.
    pub load_average: [f64; 2],
    /// Calls that were not made, because too many were under way.
    pub shed: u64,
    /// Calls that had not ended when the run did: none, unless it was interrupted.
    pub unfinished: u64,
    /// A server that ended by itself.
    pub server_lost: Option<u32>,
    /// Set if the run ended before its time.
    pub stopped_after_secs: Option<f64>,
    /// False: the figures are not those of the servers and policies alone.
    pub is_valid: bool,
    /// What a reader should know, in words.
    pub notes: Vec<String>,
}

/// A time during which a server was not there.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct AbsenceReport {
    /// Which server.
    pub server: u32,
    /// Stopped, killed or drained.
    pub what: &'static str,
    /// When it began.
    pub from_secs: f64,
    /// When it ended; `None`: not within the run.
    pub until_secs: Option<f64>,
    /// The detection window: from its beginning until the clients had turned away, which is the last call
    /// that came within 100 ms after another. 0: none came. `None`: they never did while it lasted.
    pub turned_away_after_secs: Option<f64>,
    /// Calls and copies of calls that were sent to it meanwhile and that it did not answer meanwhile, trials
    /// included.
    pub attempts: u64,
}

/// How busy the machine is.
#[derive(Clone, Copy, Debug)]
pub struct LoadAverage(f64);

impl LoadAverage {
    /// Over the last minute; 0 where the kernel does not say.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let first = text.split(' ').next().and_then(|word| word.parse().ok());
        LoadAverage(first.unwrap_or(0.0))
    }
}

/// What was run.
#[derive(Debug)]
pub struct Run<'a> {
    /// The plan that it is a part of.
    pub plan: &'a Plan,
    /// Its policy.
    pub contender: &'a Contender,
    /// Which of several.
    pub round: u32,
    /// Its beginning, on the machine's clock.
    pub began: Instant,
    /// How busy the machine was then.
    pub load_before: LoadAverage,
    /// By server: its line in tables over time.
    pub line_of: Vec<usize>,
}

impl Findings {
    /// Of a run that is over.
    pub fn of(run: &Run<'_>, driven: &Driven, directed: &Directed) -> Findings {
        let log = driven.log.lock();
        let record = record(run, &log);
        let until = Instant::ZERO + run.plan.scenario.duration.0;
        let absences: Vec<(AbsenceReport, [Instant; 2])> = directed
            .absences
            .iter()
            .map(|absence| detected(absence, until, &log, run.began))
            .collect();
        let windows: Vec<[Instant; 2]> = absences.iter().map(|(_, window)| *window).collect();
        let share = |part: Duration| part.as_secs_f64() / driven.elapsed.as_secs_f64().max(1e-9);
        let counted = |at: Instant| record.counts(since_began(run, at));
        let mut report = RunReport {
            policy: run.contender.to_string(),
            round: run.round,
            total: CallsReport::of(&record.calls()),
            errors: errors(&log, counted),
            outside: CallsReport::of(&calls_outside(run, &log, &record, &windows)),
            absences: absences.into_iter().map(|(report, _)| report).collect(),
            send_slip_us: slip(&log, counted),
            clients_busy_share: share(driven.spent.cpu),
            clients_waited_share: share(driven.spent.waited),
            load_average: [run.load_before.0, LoadAverage::now().0],
            shed: driven.shed,
            unfinished: log.calls.iter().filter(|call| call.ended.is_none()).count() as u64,
            server_lost: directed.lost.map(|(server, _)| server),
            stopped_after_secs: driven.stopped_after.map(|after| after.as_secs_f64()),
            is_valid: true,
            notes: Vec::new(),
        };
        report.judge(directed);
        let policy = PolicyReport::new(run.contender, &run.plan.scenario, &record);
        Findings { policy, run: report }
    }
}

impl RunReport {
    fn judge(&mut self, directed: &Directed) {
        if let Some(after) = self.stopped_after_secs {
            self.invalid(format!("it was interrupted after {after:.1} s"));
        }
        if let Some((server, at)) = directed.lost {
            let at = at.since(Instant::ZERO).as_secs_f64();
            self.invalid(format!("server {server} ended by itself, at {at:.1} s"));
        }
        let [_, slip_p99, slip_max] = self.send_slip_us;
        if slip_p99 > SLIP_P99_MAX.as_secs_f64() * 1e6 {
            self.invalid(format!(
                "the clients were late: one call in 100 was made {:.1} ms and more after its \
                 instant, at worst {:.1} ms. Latencies count that",
                slip_p99 / 1e3,
                slip_max / 1e3
            ));
        }
        if self.clients_busy_share >= SATURATED {
            let busy = self.clients_busy_share * 100.0;
            self.invalid(format!("the clients' core was busy for {busy:.0} % of the time"));
        }
        if self.clients_waited_share > WAITED_SHARE_MAX {
            self.invalid(format!(
                "other processes had the clients' core for {:.0} % of the time while they wanted \
                 to run",
                self.clients_waited_share * 100.0
            ));
        }
        if self.shed > 0 {
            let shed = plural(self.shed, "call");
            self.invalid(format!("{shed} of the schedule never made: too many were under way"));
        }
        if self.unfinished > 0 && self.stopped_after_secs.is_none() {
            let unfinished = plural(self.unfinished, "call");
            self.invalid(format!("{unfinished} had not ended long after their timeout"));
        }
    }

    fn invalid(&mut self, why: String) {
        self.is_valid = false;
        let (policy, run) = (&self.policy, self.round + 1);
        self.notes.push(format!("WARNING: {policy}, run {run}: {why}."));
    }
}

/// As a simulation writes it down.
fn record(run: &Run<'_>, log: &Log) -> Record {
    let mut record = Record::new(&run.plan.scenario, run.line_of.clone());
    for call in &log.calls {
        if let Some((at, end)) = call.ended {
            record.call(since_began(run, call.intended), at.since(call.intended), end);
        }
    }
    for attempt in &log.attempts {
        let started = since_began(run, attempt.started);
        if let Some((at, end)) = attempt.ended {
            record.attempt(attempt.server, started, at.since(attempt.started), end);
        }
        if record.counts(started) {
            match attempt.reason {
                Reason::First => {}
                Reason::Retry => record.retries += 1,
                Reason::Hedge => record.hedges += 1,
            }
        }
    }
    record.ejections.clone_from(&log.ejections);
    record
}

fn since_began(run: &Run<'_>, at: Instant) -> Instant {
    Instant::ZERO + at.since(run.began)
}

fn errors(log: &Log, counted: impl Fn(Instant) -> bool) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for call in log.calls.iter().filter(|call| counted(call.intended)) {
        if let Some(error) = call.error {
            *errors.entry(log.errors[usize::from(error)].clone()).or_default() += 1;
        }
    }
    errors
}

/// Half of the calls no later, 99 of 100, the latest; in microseconds.
fn slip(log: &Log, counted: impl Fn(Instant) -> bool) -> [f64; 3] {
    let calls = log.calls.iter().filter(|call| counted(call.intended));
    let mut slips: Vec<Duration> = calls.map(|call| call.made.since(call.intended)).collect();
    slips.sort_unstable();
    [0.5, 0.99, 1.0].map(|share| {
        let rank = (share * slips.len() as f64).ceil() as usize;
        let slip = slips.get(rank.max(1) - 1).copied().unwrap_or_default();
        slip.as_secs_f64() * 1e6
    })
}

/// Calls whose instant lies in none of the windows.
fn calls_outside(run: &Run<'_>, log: &Log, record: &Record, windows: &[[Instant; 2]]) -> Calls {
    let success_within = run.plan.scenario.success_within.map(|within| within.0);
    let mut calls = Calls::default();
    for call in &log.calls {
        let intended = since_began(run, call.intended);
        let is_inside = windows.iter().any(|[from, until]| (*from..=*until).contains(&intended));
        let Some((at, end)) = call.ended else { continue };
        if is_inside || !record.counts(intended) {
            continue;
        }
        let latency = at.since(call.intended);
        let is_in_time = success_within.is_none_or(|within| latency <= within);
        calls.add(latency, end, end == End::Answered && is_in_time);
    }
    calls
}

/// An absence, and the window in which it was being detected.
fn detected(
    absence: &Absence,
    end: Instant,
    log: &Log,
    began: Instant,
) -> (AbsenceReport, [Instant; 2]) {
    let Absence { server, what, from, until } = absence.clone();
    let last = until.unwrap_or(end);
    let starts: Vec<Instant> = log
        .attempts
        .iter()
        .filter(|attempt| attempt.server == server && !is_answered_by(attempt, last, began))
        .map(|attempt| Instant::ZERO + attempt.started.since(began))
        .filter(|started| (from..last).contains(started))
        .collect();
    let after = turned_away(&starts, from, last);
    let secs = |at: Instant| at.since(Instant::ZERO).as_secs_f64();
    let report = AbsenceReport {
        server,
        what,
        from_secs: secs(from),
        until_secs: until.map(secs),
        turned_away_after_secs: after.map(|after| after.as_secs_f64()),
        attempts: starts.len() as u64,
    };
    (report, [from, after.map_or(last, |after| from + after)])
}

/// Whoever answers is there: a server that drains, or one that listens again a moment before it is noted.
fn is_answered_by(attempt: &Attempt, last: Instant, began: Instant) -> bool {
    let answered = |&(at, end): &(Instant, AttemptEnd)| {
        end == AttemptEnd::Answered && Instant::ZERO + at.since(began) < last
    };
    attempt.ended.as_ref().is_some_and(answered)
}

/// How long after `from` the last call began that came soon after another one: what comes later, until
/// `until`, are single trials. `None`: they came soon after each other to the end. `starts` ascend.
fn turned_away(starts: &[Instant], from: Instant, until: Instant) -> Option<Duration> {
    let is_soon = |pair: &&[Instant]| pair[1].since(pair[0]) < TRICKLE;
    match starts.windows(2).rfind(is_soon) {
        None => Some(Duration::ZERO),
        Some(pair) if until.since(pair[1]) < TRICKLE => None,
        Some(pair) => Some(pair[1].since(from)),
    }
}

impl AbsenceReport {
    /// How long the detection took, for people.
    pub fn window(&self) -> String {
        match self.turned_away_after_secs {
            Some(after) => format!("{} ms", count((after * 1e3).ceil())),
            None => "never".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn who_sends_single_trials_has_turned_away() {
        let away = |starts: &[u64]| {
            let starts: Vec<Instant> = starts.iter().map(|&ms| at(ms)).collect();
            turned_away(&starts, at(4_000), at(6_000)).map(|after| after.as_millis())
        };
        assert_eq!(away(&[]), Some(0));
        assert_eq!(away(&[4_100]), Some(0));
        assert_eq!(away(&[4_001, 4_002, 4_040]), Some(40));
        assert_eq!(away(&[4_001, 4_002, 4_040, 5_040, 5_990]), Some(40), "trials");
        assert_eq!(away(&[4_001, 4_040, 5_040, 5_041]), Some(1_041), "it came back too soon");
        assert_eq!(away(&[4_001, 4_040, 5_940, 5_990]), None);
    }
}
