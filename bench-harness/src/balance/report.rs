//! What a simulation has shown, for people and for machines. Nothing in it depends on the machine or on
//! the time of day: a scenario, a policy and a seed are one report.

use super::contender::Contender;
use super::record::{Attempts, Calls, Quantiles, Record};
use super::scenario::Scenario;
use crate::table::{count, table, wrapped};
use serde::Serialize;
use std::fmt::Write as _;

/// So many servers have a line each in tables and drawings over time; of more, those that are alike
/// share one.
const LINES_MAX: u32 = 12;

/// The whole run.
#[derive(Clone, Serialize, Debug)]
pub struct SimReport {
    /// This program.
    pub tool: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The name or file of the scenario.
    pub scenario: String,
    /// What it is about.
    pub about: String,
    /// The seed.
    pub seed: u64,
    /// How long calls came, in seconds.
    pub duration_secs: f64,
    /// The length of the intervals of what is told over time, in seconds.
    pub interval_secs: f64,
    /// What is told apart over time.
    pub lines: Vec<Line>,
    /// The policies, in the order in which they were named.
    pub policies: Vec<PolicyReport>,
    /// Those that were not simulated, or not to the end, because it was interrupted: there is nothing of
    /// them in here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_simulated: Vec<String>,
}

/// A server, or servers that are alike.
#[derive(Clone, Serialize, Debug)]
pub struct Line {
    /// For legends.
    pub name: String,
    /// Which servers.
    pub servers: Vec<u32>,
}

/// Latencies in microseconds; all 0 if there are none.
#[derive(Clone, Copy, Serialize, Debug)]
pub struct Latency {
    /// The average.
    pub mean: f64,
    /// Half were no slower.
    pub p50: f64,
    /// Nine of ten were no slower.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// Calls, as those saw them who made them.
#[derive(Clone, Copy, Serialize, Debug)]
pub struct CallsReport {
    /// How many.
    pub calls: u64,
    /// The share that was answered, and in time.
    pub success: f64,
    /// Failed, and so did what was tried instead.
    pub failed: u64,
    /// Not answered within the timeout.
    pub timed_out: u64,
    /// Of those that were answered, and of those that timed out, at the timeout. Failures are left out:
    /// they are quick.
    pub latency: Latency,
}

/// One policy.
#[derive(Clone, Serialize, Debug)]
pub struct PolicyReport {
    /// As it was named.
    pub policy: String,
    /// With ejection.
    pub health: bool,
    /// With second copies of slow calls.
    pub hedge: bool,
    /// With second attempts after failures.
    pub retry: bool,
    /// All calls.
    #[serde(flatten)]
    pub total: CallsReport,
    /// Attempts after a failure.
    pub retries: u64,
    /// Second copies.
    pub hedges: u64,
    /// Questions for a server's load, besides those that calls are.
    pub probes: u64,
    /// Times that some client ejected a server.
    pub ejections: u64,
    /// By step of the load.
    pub steps: Vec<StepReport>,
    /// By server.
    pub servers: Vec<ServerReport>,
    /// By interval.
    pub over_time: Vec<IntervalReport>,
}

/// One step of the load.
#[derive(Clone, Serialize, Debug)]
pub struct StepReport {
    /// When it began.
    pub at_secs: f64,
    /// Calls a second, at its beginning.
    pub rate: f64,
    /// Its calls.
    #[serde(flatten)]
    pub total: CallsReport,
}

/// One server, as the clients saw it. Retries and hedges are attempts of their own here.
#[derive(Clone, Serialize, Debug)]
pub struct ServerReport {
    /// Which.
    pub server: u32,
    /// The share of all attempts that it got.
    pub share: f64,
    /// Attempts.
    pub attempts: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, timed out.
    pub timed_out: u64,
    /// Of those answered or timed out.
    pub latency: Latency,
    /// Times that some client ejected it.
    pub ejections: u64,
}

/// One interval.
#[derive(Clone, Serialize, Debug)]
pub struct IntervalReport {
    /// When it began.
    pub at_secs: f64,
    /// Calls that came in it.
    #[serde(flatten)]
    pub total: CallsReport,
    /// By line.
    pub lines: Vec<LineInterval>,
}

/// One interval of one line.
#[derive(Clone, Serialize, Debug)]
pub struct LineInterval {
    /// The share of all attempts.
    pub share: f64,
    /// Failed and timed out.
    pub errors: u64,
    /// In microseconds; 0 if there was no answer.
    pub p99: f64,
}

/// What is told apart over time, and for each server its line.
pub fn lines(scenario: &Scenario) -> (Vec<Line>, Vec<usize>) {
    let count = scenario.server_count();
    let mut hit_by = vec![Vec::new(); count as usize];
    for (index, fault) in scenario.faults.iter().enumerate() {
        for server in fault.servers.of(count).unwrap_or_default() {
            hit_by[server as usize].push(index);
        }
    }
    let trouble = |faults: &[usize]| {
        let labels = faults.iter().filter_map(|&fault| scenario.faults[fault].effect().ok());
        labels.map(|effect| effect.label()).collect::<Vec<_>>().join(", ")
    };
    let mut keys: Vec<(u32, &[usize])> = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    let mut line_of = Vec::new();
    for (server, faults) in (0..count).zip(&hit_by) {
        let key = (if count <= LINES_MAX { server } else { 0 }, faults.as_slice());
        let line = keys.iter().position(|known| *known == key).unwrap_or(keys.len());
        if line == keys.len() {
            keys.push(key);
            lines.push(Line { name: String::new(), servers: Vec::new() });
        }
        lines[line].servers.push(server);
        line_of.push(line);
    }
    for (line, (_, faults)) in lines.iter_mut().zip(keys) {
        let who = match line.servers.as_slice() {
            [one] => format!("server {one}"),
            many => format!("{} servers", many.len()),
        };
        let trouble = trouble(faults);
        line.name = if trouble.is_empty() { who } else { format!("{who} ({trouble})") };
    }
    (lines, line_of)
}

impl PolicyReport {
    /// Of one run.
    pub fn new(contender: &Contender, scenario: &Scenario, record: &Record) -> Self {
        let steps = scenario.steps().into_iter().zip(&record.by_step);
        let all: u64 = record.by_server.iter().map(|server| server.count).sum();
        let servers = record.by_server.iter().zip(&record.ejections).enumerate();
        let interval = scenario.interval().as_secs_f64();
        let intervals = record.by_interval.iter().zip(&record.by_line).enumerate();
        PolicyReport {
            policy: contender.to_string(),
            health: contender.health,
            hedge: contender.hedge,
            retry: contender.retry,
            total: CallsReport::of(&record.calls()),
            retries: record.retries,
            hedges: record.hedges,
            probes: record.probes,
            ejections: record.ejections.iter().sum(),
            steps: steps
                .map(|((at, rate), calls)| StepReport {
                    at_secs: at.as_secs_f64(),
                    rate,
                    total: CallsReport::of(calls),
                })
                .collect(),
            servers: servers
                .map(|(server, (attempts, &ejections))| ServerReport {
                    server: server as u32,
                    share: share(attempts.count, all),
                    attempts: attempts.count,
                    failed: attempts.failed,
                    timed_out: attempts.timed_out,
                    latency: Latency::of(&attempts.quantiles()),
                    ejections,
                })
                .collect(),
            over_time: intervals
                .map(|(index, (calls, lines))| IntervalReport {
                    at_secs: index as f64 * interval,
                    total: CallsReport::of(calls),
                    lines: LineInterval::all(lines),
                })
                .collect(),
        }
    }
}

impl LineInterval {
    fn all(lines: &[Attempts]) -> Vec<LineInterval> {
        let all: u64 = lines.iter().map(|line| line.count).sum();
        let of = |line: &Attempts| LineInterval {
            share: share(line.count, all),
            errors: line.failed + line.timed_out,
            p99: line.quantiles().p99 * 1e6,
        };
        lines.iter().map(of).collect()
    }
}

impl CallsReport {
    /// Of these.
    pub fn of(calls: &Calls) -> Self {
        CallsReport {
            calls: calls.count,
            success: calls.success_share(),
            failed: calls.failed,
            timed_out: calls.timed_out,
            latency: Latency::of(&calls.quantiles()),
        }
    }
}

impl Latency {
    fn of(quantiles: &Quantiles) -> Self {
        let Quantiles { mean, p50, p90, p99, p999, max } = *quantiles;
        let us = |seconds: f64| seconds * 1e6;
        Latency {
            mean: us(mean),
            p50: us(p50),
            p90: us(p90),
            p99: us(p99),
            p999: us(p999),
            max: us(max),
        }
    }
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

impl SimReport {
    /// For people; with the tables over time, if these are wanted.
    pub fn text(&self, with_time: bool) -> String {
        let seconds = self.duration_secs;
        let how = format!("Simulated, {seconds} s, seed {}.", self.seed);
        let mut text = wrapped(&format!("{}: {} {how}", self.scenario, self.about));
        text.push_str(&self.tables(with_time));
        if !self.not_simulated.is_empty() {
            let policies = self.not_simulated.join(", ");
            text.push('\n');
            text.push_str(&wrapped(&format!("Interrupted: nothing is told of {policies}.")));
        }
        text
    }

    /// All that follows the first paragraph.
    pub fn tables(&self, with_time: bool) -> String {
        let mut text = String::new();
        text.push_str("\nLatencies in ms, of what was answered or timed out.\n\n");
        text.push_str(&self.totals());
        for policy in self.policies.iter().filter(|policy| policy.steps.len() > 1) {
            let _ = write!(text, "\n{}, by step of the load\n\n", policy.policy);
            text.push_str(&policy.steps_table());
        }
        if self.lines.len() > 1 {
            text.push_str("\nShare of attempts in %, then p99 in ms\n\n");
            text.push_str(&self.servers());
        }
        if with_time && self.lines.len() > 1 {
            for policy in &self.policies {
                self.over_time(policy, &mut text);
            }
        } else if self.lines.len() > 1 {
            text.push('\n');
            text.push_str(&wrapped(
                "Over time: --over-time, or name one policy alone; --svg FILE draws it.",
            ));
        }
        text
    }

    fn totals(&self) -> String {
        let headers = [
            "policy",
            "calls",
            "success",
            "mean",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "failed",
            "timed out",
            "probes",
            "retries",
            "hedges",
            "ejected",
        ];
        let row = |policy: &PolicyReport| {
            let extra = |count: u64| percent(share(count, policy.total.calls));
            let mut row = vec![policy.policy.clone()];
            row.extend(policy.total.cells());
            row.push(match policy.probes {
                0 => "-".to_owned(),
                probes => format!("{:.2}", probes as f64 / policy.total.calls as f64),
            });
            row.push(if policy.retry { extra(policy.retries) } else { "-".to_owned() });
            row.push(if policy.hedge { extra(policy.hedges) } else { "-".to_owned() });
            row.push(if policy.health { count(policy.ejections as f64) } else { "-".to_owned() });
            row
        };
        table(&headers, &self.policies.iter().map(row).collect::<Vec<_>>())
    }

    /// Shares and p99 of the whole run, by line and policy.
    fn servers(&self) -> String {
        let mut headers = vec![""];
        headers.extend(self.policies.iter().map(|policy| policy.policy.as_str()));
        let cell = |policy: &PolicyReport, line: &Line| {
            let of = |server: &u32| &policy.servers[*server as usize];
            let share: f64 = line.servers.iter().map(|server| of(server).share).sum();
            let p99s = line.servers.iter().map(|server| of(server).latency.p99);
            let p99 = p99s.fold(0.0, f64::max);
            format!("{:.2}  {}", share * 100.0, ms(p99))
        };
        let rows: Vec<Vec<String>> = self
            .lines
            .iter()
            .map(|line| {
                let cells = self.policies.iter().map(|policy| cell(policy, line));
                [line.name.clone()].into_iter().chain(cells).collect()
            })
            .collect();
        table(&headers, &rows)
    }

    fn over_time(&self, policy: &PolicyReport, text: &mut String) {
        let names: Vec<String> = self
            .lines
            .iter()
            .map(|line| match line.servers.as_slice() {
                [one] => one.to_string(),
                _ => line.name.clone(),
            })
            .collect();
        let headers = |all: [&'static str; 2]| -> Vec<&str> {
            ["s"].into_iter().chain(all).chain(names.iter().map(String::as_str)).collect()
        };
        let rows = |cells: &dyn Fn(&IntervalReport) -> Vec<String>| -> Vec<Vec<String>> {
            let row = |interval: &IntervalReport| {
                [format!("{:.1}", interval.at_secs)].into_iter().chain(cells(interval)).collect()
            };
            // Nothing is counted before the warm-up's end.
            let counted = policy.over_time.iter().filter(|interval| interval.total.calls > 0);
            counted.map(row).collect()
        };
        let shares = rows(&|interval| {
            let lines = interval.lines.iter().map(|line| format!("{:.1}", line.share * 100.0));
            [percent(interval.total.success), count(interval.total.calls as f64)]
                .into_iter()
                .chain(lines)
                .collect()
        });
        let tails = rows(&|interval| {
            let latency = &interval.total.latency;
            let lines = interval.lines.iter().map(|line| ms(line.p99));
            [ms(latency.p50), ms(latency.p99)].into_iter().chain(lines).collect()
        });
        let _ =
            write!(text, "\n{} over time: share of attempts in %, by server\n\n", policy.policy);
        text.push_str(&table(&headers(["success", "calls"]), &shares));
        let _ = write!(text, "\n{} over time: p99 in ms, by server\n\n", policy.policy);
        text.push_str(&table(&headers(["p50, all", "p99, all"]), &tails));
    }
}

impl PolicyReport {
    fn steps_table(&self) -> String {
        let headers = [
            "from s",
            "calls/s",
            "calls",
            "success",
            "mean",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "failed",
            "timed out",
        ];
        let row = |step: &StepReport| {
            let mut row = vec![format!("{}", step.at_secs), count(step.rate)];
            row.extend(step.total.cells());
            row
        };
        table(&headers, &self.steps.iter().map(row).collect::<Vec<_>>())
    }
}

impl CallsReport {
    fn cells(&self) -> Vec<String> {
        let Latency { mean, p50, p90, p99, p999, .. } = self.latency;
        let mut cells = vec![count(self.calls as f64), percent(self.success)];
        cells.extend([mean, p50, p90, p99, p999].map(ms));
        cells.extend([count(self.failed as f64), count(self.timed_out as f64)]);
        cells
    }
}

/// A share for people.
pub fn percent(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

/// Microseconds as milliseconds, with as many digits as mean something.
pub fn ms(us: f64) -> String {
    match us / 1e3 {
        0.0 => "-".to_owned(),
        ms if ms < 10.0 => format!("{ms:.3}"),
        ms if ms < 1_000.0 => format!("{ms:.1}"),
        ms => count(ms.round()),
    }
}
