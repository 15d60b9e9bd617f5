//! What live runs have shown, for people and for machines.

use super::findings::{Findings, RunReport};
use super::plan::Plan;
use crate::balance::report::{CallsReport, PolicyReport, SimReport, lines, ms, percent};
use crate::report::Manifest;
use crate::table::{count, plural, table, wrapped};
use serde::Serialize;

/// All runs of all policies.
#[derive(Clone, Serialize, Debug)]
pub struct LiveReport {
    /// As a simulation tells it; of several runs of a policy the median one, by p99.9 outside of the
    /// detection windows.
    #[serde(flatten)]
    pub balance: SimReport,
    /// Where it comes from.
    pub manifest: Manifest,
    /// Calls a second on average.
    pub rate: f64,
    /// Set if that was found by measuring: what the servers answer at most, calls a second.
    pub saturation: Option<f64>,
    /// Calls may be made twice.
    pub is_idempotent: bool,
    /// The core of the clients.
    pub client_core: usize,
    /// The cores of the servers.
    pub server_cores: Vec<usize>,
    /// All runs.
    pub runs: Vec<RunReport>,
    /// True if all runs are.
    pub is_valid: bool,
    /// What a reader should know, in words.
    pub notes: Vec<String>,
}

impl LiveReport {
    /// Of these runs, one at least.
    pub fn new(plan: &Plan, findings: Vec<Findings>) -> LiveReport {
        let (lines, _) = lines(&plan.scenario);
        let policies = plan.policies.iter().filter_map(|contender| {
            let name = contender.to_string();
            let own = findings.iter().filter(|found| found.run.policy == name);
            median(own.collect())
        });
        let balance = SimReport {
            tool: "catena-bench balance --live",
            version: env!("CARGO_PKG_VERSION"),
            scenario: plan.name.clone(),
            about: plan.scenario.about.clone(),
            seed: plan.seed,
            duration_secs: plan.scenario.duration.0.as_secs_f64(),
            interval_secs: plan.scenario.interval().as_secs_f64(),
            policies: policies.collect(),
            not_simulated: Vec::new(),
            lines,
        };
        let runs: Vec<RunReport> = findings.into_iter().map(|found| found.run).collect();
        let steps = plan.scenario.steps();
        let notes = runs.iter().flat_map(|run| run.notes.iter().cloned());
        LiveReport {
            balance,
            manifest: Manifest::gather(),
            rate: steps.iter().map(|(_, rate)| rate).sum::<f64>() / steps.len() as f64,
            saturation: plan.saturation,
            is_idempotent: plan.is_idempotent,
            client_core: plan.seats.clients,
            server_cores: plan.seats.servers.clone(),
            is_valid: runs.iter().all(|run| run.is_valid),
            notes: plan.notes.iter().cloned().chain(notes).collect(),
            runs,
        }
    }

    /// For people; with the tables over time, if these are wanted.
    pub fn text(&self, with_time: bool) -> String {
        let mut text = self.introduction();
        text.push_str(&self.balance.tables(with_time));
        if self.runs.iter().any(|run| !run.errors.is_empty()) {
            text.push_str("\nErrors, by kind\n\n");
            text.push_str(&self.errors());
        }
        if self.runs.iter().any(|run| !run.absences.is_empty()) {
            text.push('\n');
            text.push_str(&wrapped(
                "Servers that were not there: how long until the clients had turned away (the \
                 detection window), and calls that came outside of all windows. Latencies in ms.",
            ));
            text.push('\n');
            text.push_str(&self.absences());
        }
        text.push_str("\nThe clients themselves\n\n");
        text.push_str(&self.clients());
        for note in &self.notes {
            text.push('\n');
            text.push_str(&wrapped(note));
        }
        text
    }

    fn introduction(&self) -> String {
        let SimReport { scenario, about, seed, duration_secs, .. } = &self.balance;
        let servers: usize = self.balance.lines.iter().map(|line| line.servers.len()).sum();
        let servers = plural(servers as u64, "server process").replace("processs", "processes");
        let cores: Vec<String> = self.server_cores.iter().map(ToString::to_string).collect();
        let rate = match self.saturation {
            Some(most) => format!(
                "{} calls a second, {:.0} % of the {} that the servers answered at most",
                count(self.rate.round()),
                self.rate / most * 100.0,
                count(most.round())
            ),
            None => format!("{} calls a second", count(self.rate.round())),
        };
        let idempotent = match self.is_idempotent {
            true => "Calls are idempotent",
            false => "Calls are not idempotent: what may have been executed is not sent again",
        };
        let rounds = self.runs.iter().map(|run| run.round + 1).max().unwrap_or(1);
        let rounds = match rounds {
            1 => String::new(),
            rounds => format!(" {rounds} runs of each policy; tables show the median one."),
        };
        let loads = self.runs.iter().flat_map(|run| run.load_average);
        let (low, high) = loads
            .fold((f64::MAX, 0.0), |(low, high): (f64, f64), load| (low.min(load), high.max(load)));
        wrapped(&format!(
            "{scenario}: {about} Live: {servers} on core {}, the clients on core {}; an open loop of \
             {rate}, for {duration_secs} s, seed {seed}. {idempotent}.{rounds} Load average of the \
             machine: {low:.1} to {high:.1}, on {}.",
            cores.join(","),
            self.client_core,
            plural(self.manifest.host.cores.len() as u64, "core"),
        ))
    }

    fn errors(&self) -> String {
        let mut rows = Vec::new();
        for run in &self.runs {
            for (error, number) in &run.errors {
                rows.push(vec![self.name(run), error.clone(), count(*number as f64)]);
            }
        }
        table(&["policy", "error", "calls"], &rows)
    }

    fn absences(&self) -> String {
        let headers = [
            "policy",
            "windows",
            "sent there",
            "errors",
            "p99.9",
            "max",
            "outside: errors",
            "p99.9",
            "max",
        ];
        let row = |run: &RunReport| {
            let windows: Vec<String> =
                run.absences.iter().map(|absence| absence.window()).collect();
            let sent: u64 = run.absences.iter().map(|absence| absence.attempts).sum();
            let mut row = vec![self.name(run), windows.join(", "), count(sent as f64)];
            row.extend(tail_cells(&run.total));
            row.extend(tail_cells(&run.outside));
            row
        };
        table(&headers, &self.runs.iter().map(row).collect::<Vec<_>>())
    }

    fn clients(&self) -> String {
        let headers = ["policy", "late p50, us", "late p99, us", "busy", "kept waiting", "valid"];
        let row = |run: &RunReport| {
            let [p50, p99, _] = run.send_slip_us;
            vec![
                self.name(run),
                count(p50.round()),
                count(p99.round()),
                percent(run.clients_busy_share),
                percent(run.clients_waited_share),
                if run.is_valid { "yes" } else { "no" }.to_owned(),
            ]
        };
        table(&headers, &self.runs.iter().map(row).collect::<Vec<_>>())
    }

    /// Of a run, among others of its policy.
    fn name(&self, run: &RunReport) -> String {
        let is_one_of_many = self.runs.iter().any(|other| other.round > 0);
        match is_one_of_many {
            true => format!("{} #{}", run.policy, run.round + 1),
            false => run.policy.clone(),
        }
    }
}

/// Errors, p99.9 and the slowest.
fn tail_cells(calls: &CallsReport) -> [String; 3] {
    let errors = calls.failed + calls.timed_out;
    [count(errors as f64), ms(calls.latency.p999), ms(calls.latency.max)]
}

/// By p99.9 outside of the detection windows; of two the worse one.
fn median(mut runs: Vec<&Findings>) -> Option<PolicyReport> {
    let tail = |found: &Findings| found.run.outside.latency.p999;
    runs.sort_by(|one, other| tail(one).total_cmp(&tail(other)));
    runs.get(runs.len() / 2).map(|found| found.policy.clone())
}
