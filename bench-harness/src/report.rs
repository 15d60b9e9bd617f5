//! The report of a run: figures, and in words what they are worth. For people and for machines.

mod verdict;

use crate::host::HostFacts;
use crate::load::{Measured, Pace, Plan, Target, WorkerReport};
use crate::protocol::Outcome;
use crate::recording::{LATE, Recording};
use crate::table::{count, micros, or_dash, plural, table, wrapped};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};
use verdict::Verdict;

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

/// A latency in microseconds, by quantile; nothing where no request was timed.
#[derive(Clone, Copy, PartialEq, Serialize, Debug)]
pub struct Latency {
    /// Half were quicker.
    pub p50: Option<f64>,
    /// Nine of ten were quicker.
    pub p90: Option<f64>,
    /// 99 of 100 were quicker.
    pub p99: Option<f64>,
    /// 999 of 1,000 were quicker.
    pub p999: Option<f64>,
    /// The slowest.
    pub max: Option<f64>,
}

impl Latency {
    /// Of a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let known = |ns: u64| (!histogram.is_empty()).then_some(ns as f64 / 1e3);
        let us = |quantile| known(histogram.value_at_quantile(quantile));
        Latency {
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: known(histogram.max()),
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
    /// Requests in flight on each, at most: what was asked for, or the server's window if that is
    /// less.
    pub depth: u32,
    /// Requests in flight on each that were asked for.
    pub depth_asked: u32,
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
    /// What the server said in words with a status, by its name: the first text of each.
    pub error_texts: BTreeMap<String, String>,
    /// In flight when the run was given up; in the latencies with their age.
    pub unfinished: u64,
    /// Waiting for a free connection at the end; in the response times with their age.
    pub unsent: u64,
    /// Never sent, because too many waited already; in no latency.
    pub shed_by_generator: u64,
    /// Answers with "ok" that arrived in the measured time, a second; `null`: nothing was measured.
    pub rps: Option<f64>,
    /// Microseconds.
    pub latency_us: Latencies,
    /// Sent more than `late_after_us` after their intended instant.
    pub late_sends: u64,
    /// Those for which a connection was free: the generator was late.
    pub late_sends_by_generator: u64,
    /// See `late_sends`.
    pub late_after_us: u64,
    /// How often a connection was lost.
    pub connections_lost: u64,
    /// Connections that were lost and not back at the end.
    pub connections_gone: u32,
    /// The longest time without any connection, from and until, in seconds of the measured time.
    pub no_connection_secs: Option<[f64; 2]>,
    /// Interrupted: so much of `duration_secs` was measured.
    pub interrupted_after_secs: Option<f64>,
    /// CPU share of the generator's threads, the highest.
    pub client_cpu_share: f64,
    /// Each of them.
    pub clients: Vec<ClientReport>,
    /// False: the figures say more about the generator than about the server, or the server was not
    /// there all the time, or the run was interrupted.
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
        let Measured { recording, workers, peer, interrupted_after, .. } = measured;
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
        let texts = peer.texts.iter();
        let error_texts =
            texts.map(|(code, text)| (plan.target.status_name(*code), text.clone())).collect();
        let cpu_shares = workers.iter().map(|worker| worker.cpu_share);
        RunReport {
            manifest,
            target: told.target,
            method: told.method,
            payload_bytes: payload_bytes(&plan.target),
            connections: plan.connections,
            idle_connections: told.idle,
            depth: plan.depth_within(peer.window),
            depth_asked: plan.depth,
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
            error_texts,
            unfinished: recording.unfinished,
            unsent: recording.unsent,
            shed_by_generator: recording.shed,
            rps: rps(recording),
            latency_us,
            late_sends: recording.late_sends,
            late_sends_by_generator: recording.late_by_generator,
            late_after_us: LATE.as_micros() as u64,
            connections_lost: peer.losses,
            connections_gone: peer.gone,
            no_connection_secs: peer.outage.map(|outage| {
                let from = recording.window().from;
                [outage.from, outage.until].map(|at| at.since(from).as_secs_f64())
            }),
            interrupted_after_secs: interrupted_after.map(|length| length.as_secs_f64()),
            client_cpu_share: cpu_shares.fold(0.0, f64::max),
            clients: workers.iter().map(ClientReport::from).collect(),
            is_valid,
            notes,
        }
    }

    /// True if connections were missing within the measured time, or at its end.
    pub fn is_server_lost(&self) -> bool {
        self.no_connection_secs.is_some() || self.connections_gone > 0
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
        let duration = self.interrupted_after_secs.unwrap_or(self.duration_secs);
        let connections = plural((*connections).into(), "connection");
        let warmup = self.warmup_secs;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{target}  {method}, {payload_bytes} B payload");
        let _ = writeln!(
            text,
            "{connections} x {depth} in flight{idle}, {pace}, {duration:.1} s after \
             {warmup:.1} s of warm-up\n"
        );
        let headers = ["latency, us", "p50", "p90", "p99", "p99.9", "max"];
        let row = |name: &str, latency: &Latency| {
            let Latency { p50, p90, p99, p999, max } = *latency;
            let mut row = vec![name.to_owned()];
            row.extend([p50, p90, p99, p999, max].map(|us| or_dash(us, micros)));
            row
        };
        let response = row("response (from intended send)", &self.latency_us.response);
        let service = row("service (from actual send)", &self.latency_us.service);
        text.push_str(&table(&headers, &[response, service]));
        let _ = writeln!(text, "\nrate        {} answers/s", or_dash(self.rps, count));
        let (requests, ok) = (count(self.requests as f64), count(self.ok as f64));
        let _ = writeln!(text, "requests    {requests}, {ok} ok");
        for (name, errors) in &self.errors {
            let said = self.error_texts.get(name).map(|said| format!(" (\"{said}\")"));
            let said = said.unwrap_or_default();
            let _ = writeln!(text, "error       {name}: {}{said}", count(*errors as f64));
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

/// Answers with "ok" a second; nothing if no time was measured.
pub fn rps(recording: &Recording) -> Option<f64> {
    let secs = recording.window().length().as_secs_f64();
    (secs > 0.0).then(|| recording.answered_in_window as f64 / secs)
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

#[cfg(test)]
mod tests;
