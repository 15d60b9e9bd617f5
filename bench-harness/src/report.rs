//! The report of a run: figures, and in words what they are worth. For people and for machines.

use crate::host::HostFacts;
use crate::load::{Measured, Pace, Plan, Target, WorkerReport};
use crate::protocol::Outcome;
use crate::recording::{LATE, Recording};
use crate::table::{count, micros, table, wrapped};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// A worker that is busy for a larger share of its time is the bottleneck.
const SATURATED: f64 = 0.95;
/// A larger share of requests that the generator itself sent late spoils the schedule.
const LATE_SHARE_MAX: f64 = 0.01;
/// A generator that waits for its CPU for a larger share of the time measures its neighbours too.
const WAITED_SHARE_MAX: f64 = 0.05;
/// A smaller share of the offered rate that was achieved is worth a word.
const ACHIEVED_MIN: f64 = 0.99;

/// Where a report comes from: enough to make the same run again.
#[derive(Clone, Serialize, Debug)]
pub struct Manifest {
    /// This program.
    pub tool: &'static str,
    /// Its version.
    pub version: &'static str,
    /// As it was called.
    pub argv: Vec<String>,
    /// When, in seconds since 1970.
    pub at_unix_secs: u64,
    /// The machine.
    pub host: HostFacts,
}

impl Manifest {
    /// Of this call, on this machine.
    pub fn gather() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Manifest {
            tool: "catena-bench",
            version: env!("CARGO_PKG_VERSION"),
            argv: std::env::args().collect(),
            at_unix_secs: at.as_secs(),
            host: HostFacts::gather(),
        }
    }
}

/// A latency in microseconds, by quantile.
#[derive(Clone, Copy, PartialEq, Serialize, Debug)]
pub struct Latency {
    /// Half were quicker.
    pub p50: f64,
    /// Nine of ten were quicker.
    pub p90: f64,
    /// 99 of 100 were quicker.
    pub p99: f64,
    /// 999 of 1,000 were quicker.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Latency {
    /// Of a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

/// Both times of the requests.
#[derive(Clone, Copy, Serialize, Debug)]
pub struct Latencies {
    /// From the intended send to the answer.
    pub response: Latency,
    /// From the actual send to the answer.
    pub service: Latency,
}

/// Errors by what they say about the work.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Debug)]
pub struct ErrorClasses {
    /// The handler never began.
    pub not_executed: u64,
    /// The handler may have run: a status, or no answer in time.
    pub may_have_executed: u64,
    /// The connection was lost.
    pub transport: u64,
}

/// One thread of the generator.
#[derive(Clone, Serialize, Debug)]
pub struct ClientReport {
    /// Where it ran; `null`: not pinned.
    pub core: Option<usize>,
    /// On what.
    pub driver: &'static str,
    /// Share of the time that it spent on its CPU.
    pub cpu_share: f64,
    /// The same without looking in vain whether something had come.
    pub busy_share: f64,
    /// Share of the time in which it was ready to run and another process had its CPU.
    pub waited_share: f64,
}

impl From<&WorkerReport> for ClientReport {
    fn from(worker: &WorkerReport) -> Self {
        let WorkerReport { core, driver, cpu_share, busy_share, waited_share } = worker.clone();
        ClientReport { core, driver, cpu_share, busy_share, waited_share }
    }
}

/// A run, told.
#[derive(Clone, Serialize, Debug)]
pub struct RunReport {
    /// Where it comes from.
    pub manifest: Manifest,
    /// Whom it loaded.
    pub target: String,
    /// With which method.
    pub method: String,
    /// Payload of a request in bytes.
    pub payload_bytes: usize,
    /// Connections that sent.
    pub connections: u32,
    /// Connections that idled.
    pub idle_connections: u32,
    /// Requests in flight on each, at most.
    pub depth: u32,
    /// `closed` or `open`.
    #[serde(rename = "loop")]
    pub mode: &'static str,
    /// Open loop: how the requests were spread.
    pub arrival: Option<String>,
    /// Open loop: requests a second that were meant to be sent.
    pub offered_rps: Option<f64>,
    /// Of the schedule.
    pub seed: u64,
    /// Not counted.
    pub warmup_secs: f64,
    /// Counted.
    pub duration_secs: f64,
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Those that ended well.
    pub ok: u64,
    /// The others, by status.
    pub errors: BTreeMap<String, u64>,
    /// The others, by what they say about the work.
    pub error_classes: ErrorClasses,
    /// In flight when the run was given up; in the latencies with their age.
    pub unfinished: u64,
    /// Waiting for a free connection at the end; in the response times with their age.
    pub unsent: u64,
    /// Never sent, because too many waited already; in no latency.
    pub shed_by_generator: u64,
    /// Answers with "ok" that arrived in the measured time, a second.
    pub rps: f64,
    /// Microseconds.
    pub latency_us: Latencies,
    /// Sent more than `late_after_us` after their intended instant.
    pub late_sends: u64,
    /// Those for which a connection was free: the generator was late.
    pub late_sends_by_generator: u64,
    /// See `late_sends`.
    pub late_after_us: u64,
    /// Connections lost and made again.
    pub connections_lost: u64,
    /// CPU share of the generator's threads, the highest.
    pub client_cpu_share: f64,
    /// Each of them.
    pub clients: Vec<ClientReport>,
    /// False: the figures say more about the generator than about the server.
    pub is_valid: bool,
    /// What a reader should know, in words.
    pub notes: Vec<String>,
}

/// What a report says of a run beyond plan and measurement.
#[derive(Clone, Debug)]
pub struct Told {
    /// The server, as the caller named it.
    pub target: String,
    /// The method, as the caller named it.
    pub method: String,
    /// Connections that idled beside.
    pub idle: u32,
}

impl RunReport {
    /// Tells of one run.
    pub fn new(manifest: Manifest, told: Told, plan: &Plan, measured: &Measured) -> Self {
        let Measured { recording, workers, losses, .. } = measured;
        let (mode, arrival, offered_rps) = match plan.pace {
            Pace::Closed => ("closed", None, None),
            Pace::Open { rate, arrival } => ("open", Some(arrival.to_string()), Some(rate)),
        };
        let latency_us = Latencies {
            response: Latency::of(recording.response()),
            service: Latency::of(recording.service()),
        };
        let (errors, error_classes) = errors_of(&plan.target, recording);
        let Verdict { is_valid, notes } = Verdict::on(plan, measured, &errors);
        let cpu_shares = workers.iter().map(|worker| worker.cpu_share);
        RunReport {
            manifest,
            target: told.target,
            method: told.method,
            payload_bytes: payload_bytes(&plan.target),
            connections: plan.connections,
            idle_connections: told.idle,
            depth: plan.depth,
            mode,
            arrival,
            offered_rps,
            seed: plan.seed,
            warmup_secs: plan.warmup.as_secs_f64(),
            duration_secs: plan.duration.as_secs_f64(),
            requests: recording.requests(),
            ok: recording.ok,
            errors,
            error_classes,
            unfinished: recording.unfinished,
            unsent: recording.unsent,
            shed_by_generator: recording.shed,
            rps: rps(recording),
            latency_us,
            late_sends: recording.late_sends,
            late_sends_by_generator: recording.late_by_generator,
            late_after_us: LATE.as_micros() as u64,
            connections_lost: losses.count,
            client_cpu_share: cpu_shares.fold(0.0, f64::max),
            clients: workers.iter().map(ClientReport::from).collect(),
            is_valid,
            notes,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let RunReport { target, method, payload_bytes, connections, depth, .. } = self;
        let pace = match (self.offered_rps, &self.arrival) {
            (Some(rate), Some(arrival)) => format!("open loop, {} /s {arrival}", count(rate)),
            _ => "closed loop".to_owned(),
        };
        let idle = match self.idle_connections {
            0 => String::new(),
            idle => format!(", {} idle beside", count(idle.into())),
        };
        let duration = self.duration_secs;
        let warmup = self.warmup_secs;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{target}  {method}, {payload_bytes} B payload");
        let _ = writeln!(
            text,
            "{connections} connections x {depth} in flight{idle}, {pace}, {duration:.1} s after \
             {warmup:.1} s of warm-up\n"
        );
        let headers = ["latency, us", "p50", "p90", "p99", "p99.9", "max"];
        let row = |name: &str, latency: &Latency| {
            let Latency { p50, p90, p99, p999, max } = *latency;
            let mut row = vec![name.to_owned()];
            row.extend([p50, p90, p99, p999, max].map(micros));
            row
        };
        let response = row("response (from intended send)", &self.latency_us.response);
        let service = row("service (from actual send)", &self.latency_us.service);
        text.push_str(&table(&headers, &[response, service]));
        let _ = writeln!(text, "\nrate        {} answers/s", count(self.rps));
        let (requests, ok) = (count(self.requests as f64), count(self.ok as f64));
        let _ = writeln!(text, "requests    {requests}, {ok} ok");
        for (name, errors) in &self.errors {
            let _ = writeln!(text, "error       {name}: {}", count(*errors as f64));
        }
        for (what, how_many) in [
            ("unfinished", self.unfinished),
            ("unsent", self.unsent),
            ("shed here", self.shed_by_generator),
            ("late sends", self.late_sends),
        ] {
            if how_many > 0 {
                let _ = writeln!(text, "{what:<11} {}", count(how_many as f64));
            }
        }
        for client in &self.clients {
            let core =
                client.core.map_or("no fixed core".to_owned(), |core| format!("core {core}"));
            let (cpu, busy) = (client.cpu_share * 100.0, client.busy_share * 100.0);
            let driver = client.driver;
            let _ =
                writeln!(text, "generator   {driver}, {core}: CPU {cpu:.0} %, busy {busy:.0} %");
        }
        for note in &self.notes {
            let _ = write!(text, "\n{}", wrapped(note));
        }
        text
    }
}

/// Answers with "ok" a second.
pub fn rps(recording: &Recording) -> f64 {
    recording.answered_in_window as f64 / recording.window().length().as_secs_f64()
}

fn payload_bytes(target: &Target) -> usize {
    match target {
        Target::Catena(request) => request.payload.len(),
        Target::Echo(request) => request.payload_bytes(),
    }
}

fn errors_of(target: &Target, recording: &Recording) -> (BTreeMap<String, u64>, ErrorClasses) {
    let mut errors = BTreeMap::new();
    let mut classes = ErrorClasses::default();
    for (outcome, count) in &recording.errors {
        *errors.entry(target.outcome_name(*outcome)).or_default() += count;
        match outcome {
            Outcome::Ok => {}
            Outcome::NotExecuted(_) => classes.not_executed += count,
            Outcome::MayHaveExecuted(_) | Outcome::TimedOut => classes.may_have_executed += count,
            Outcome::ConnectionLost => classes.transport += count,
        }
    }
    (errors, classes)
}

/// What the figures are worth.
struct Verdict {
    is_valid: bool,
    notes: Vec<String>,
}

impl Verdict {
    fn on(plan: &Plan, measured: &Measured, errors: &BTreeMap<String, u64>) -> Verdict {
        let Measured { recording, workers, losses, .. } = measured;
        let mut verdict = Verdict { is_valid: true, notes: Vec::new() };
        let busiest = workers.iter().map(|worker| worker.busy_share).fold(0.0, f64::max);
        let is_saturated = busiest >= SATURATED;
        if is_saturated {
            verdict.invalid(format!(
                "this generator was saturated: a thread was busy for {:.0} % of the time, so the \
                 server could do more than was asked of it. Give it more threads (-t) on cores of \
                 their own",
                busiest * 100.0
            ));
        }
        let waited = workers.iter().map(|worker| worker.waited_share).fold(0.0, f64::max);
        if waited > WAITED_SHARE_MAX {
            verdict.invalid(format!(
                "other processes had this generator's core for {:.0} % of the time while it wanted \
                 to run. Give it a core of its own (--cores)",
                waited * 100.0
            ));
        }
        let intended = recording.intended().max(1) as f64;
        let late_share = recording.late_by_generator as f64 / intended;
        if late_share > LATE_SHARE_MAX {
            verdict.invalid(format!(
                "this generator was late: {:.1} % of the requests were sent more than {} us after \
                 their instant though a connection was free. The response times count that; use \
                 --poll always, a core of its own, or more threads",
                late_share * 100.0,
                LATE.as_micros()
            ));
        }
        if recording.shed > 0 {
            verdict.invalid(format!(
                "{} requests were never sent, because a million waited already; they are in no \
                 latency, so the response times are better than what users would see",
                recording.shed
            ));
        }
        if let Pace::Open { rate, .. } = plan.pace {
            verdict.notes.extend(shortfall(rate, plan, recording, is_saturated));
        }
        if losses.count > 0 {
            let first = losses.first.as_deref().unwrap_or("unknown");
            let count = losses.count;
            verdict.notes.push(format!("{count} connections were lost; the first: {first}"));
        }
        if errors.contains_key("unknown method") {
            let hint = "the server does not know this method; see --method";
            verdict.notes.push(hint.to_owned());
        }
        if plan.pace == Pace::Closed && verdict.is_valid {
            verdict.notes.push(
                "Closed loop: while the server stalls, nothing is asked of it, so a stall counts \
                 once and not for everybody who would have come. For latency as users see it, set \
                 a rate (-R)."
                    .to_owned(),
            );
        }
        verdict
    }

    fn invalid(&mut self, why: String) {
        self.is_valid = false;
        self.notes.push(format!("WARNING: {why}."));
    }
}

/// Why the offered rate was not achieved, if it was not.
fn shortfall(rate: f64, plan: &Plan, recording: &Recording, is_saturated: bool) -> Option<String> {
    // What the schedule really held: a Poisson schedule of n requests is off by some √n.
    let intended = recording.intended() as f64;
    let in_time = rps(recording) * plan.duration.as_secs_f64();
    let achieved = in_time / intended.max(1.0);
    // Those in flight at the end are no shortfall.
    let on_the_way = f64::from(plan.connections) * f64::from(plan.depth);
    if achieved >= ACHIEVED_MIN || intended - in_time <= on_the_way.min(intended / 2.0) {
        return None;
    }
    let who = if is_saturated { "server and generator together" } else { "the server" };
    let wait_ms = recording.response().max().saturating_sub(recording.service().max()) as f64 / 1e6;
    let errors = match recording.error_count() {
        0 => String::new(),
        count => format!(", {count} ended with an error"),
    };
    Some(format!(
        "Of {} requests/s offered, {who} kept up with {:.0} %{errors}. The rest waited for one of \
         the {} places in flight, at worst for some {wait_ms:.0} ms; response time counts that \
         wait, service time does not.",
        count(rate),
        achieved * 100.0,
        count(on_the_way),
    ))
}

#[cfg(test)]
mod tests;
