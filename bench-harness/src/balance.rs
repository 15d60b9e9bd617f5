//! `balance`: policies against scenarios, in a simulation of discrete events or, with [`live`], over real
//! sockets.
//!
//! The simulation drives the code that clients run, [`catena_balancer::balancer::Balancer`] and its
//! policies, in virtual time; servers, network and faults are models. It shows what a policy does to
//! tails, exactly and repeatably, in seconds. What a server's kernel, cache or allocator does it does
//! not show; some of that does `--live`, which puts the same policies before processes of this machine.
//!
//! | file | what |
//! |---|---|
//! | [`mod@scenario`], [`values`], `scenarios/*.toml` | what is simulated |
//! | [`contender`] | a policy and what is put around it |
//! | [`world`], [`events`] | what happens, one event after the other |
//! | [`clients`], [`servers`], [`faults`] | those to whom it happens |
//! | [`record`], [`report`], [`svg`] | what is told of it |
//! | [`live`] | the same over processes and sockets |

mod clients;
mod contender;
mod events;
mod faults;
mod live;
mod record;
mod report;
mod scenario;
mod servers;
mod svg;
#[cfg(test)]
mod tests;
mod values;
mod world;
#[cfg(test)]
mod wrong_files;

pub use contender::Contender;
pub use values::Distribution;

use crate::cli::{BalanceArgs, OfferedRate};
use crate::interrupt::Interrupt;
use crate::publish::Publisher;
use crate::run::wrong_usage;
use crate::{Ended, Failure};
use report::{PolicyReport, SimReport};
use scenario::Scenario;
use std::io::Write;
use world::World;

/// The names of the scenarios that are built in.
pub fn built_in() -> String {
    scenario::BUILT_IN.map(|(name, _)| name).join(", ")
}

/// Simulates or measures, and tells.
pub fn balance(args: &BalanceArgs) -> Result<Ended, Failure> {
    if args.show {
        let text = Scenario::text(&args.scenario)?;
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(Ended::Done);
    }
    match (args.sim, args.live) {
        (true, _) => balance_simulated(args),
        (_, true) => live::balance(args),
        _ => wrong_usage("balance", "say --sim or --live"),
    }
}

/// Where the report and the drawing go.
fn publisher(args: &BalanceArgs) -> Result<Publisher, Failure> {
    if let (Some(json), Some(svg)) = (&args.json, &args.svg)
        && json == svg
    {
        let place = json.display();
        wrong_usage("balance", &format!("--json and --svg both say {place}; name a file for one"));
    }
    Publisher::open(args.json.as_deref())?.and_svg(args.svg.as_deref())
}

/// The scenario with what the command line says in place of it.
fn scenario(args: &BalanceArgs) -> Result<Scenario, Failure> {
    let mut scenario = Scenario::load(&args.scenario)?;
    match args.rate {
        Some(OfferedRate::PerSecond(rate)) => scenario.set_rate(rate),
        Some(OfferedRate::OfSaturation(share)) => scenario.set_of_saturation(share),
        None => {}
    }
    if let Some(duration) = args.duration {
        scenario.set_duration(duration).map_err(|error| format!("--duration: {error}"))?;
    }
    if let Some(count) = args.servers {
        scenario.set_server_count(count).map_err(|error| format!("--servers: {error}"))?;
    }
    Ok(scenario)
}

fn balance_simulated(args: &BalanceArgs) -> Result<Ended, Failure> {
    let scenario = scenario(args)?;
    let mut publisher = publisher(args)?;
    let interrupt = Interrupt::on_signals()?;
    scenario
        .check_simulated()
        .map_err(|error| format!("scenario {} cannot be simulated: {error}", args.scenario))?;
    let report = simulate(&args.scenario, &scenario, &args.policy, args.seed, &interrupt);
    if report.policies.is_empty() {
        eprintln!("catena-bench: interrupted before any policy was simulated to the end");
        return Ok(Ended::Interrupted);
    }
    publisher.publish_svg(|| svg::draw(&report))?;
    let with_time = args.over_time || args.policy.len() == 1;
    publisher.publish(&report.text(with_time), &report)?;
    Ok(if report.not_simulated.is_empty() { Ended::Done } else { Ended::Interrupted })
}

/// One run for each policy, until somebody wants it to end.
fn simulate(
    name: &str,
    scenario: &Scenario,
    contenders: &[Contender],
    seed: u64,
    interrupt: &Interrupt,
) -> SimReport {
    let (lines, line_of) = report::lines(scenario);
    let (mut policies, mut not_simulated) = (Vec::new(), Vec::new());
    for contender in contenders {
        match World::run(scenario, contender, seed, line_of.clone(), interrupt) {
            Some(record) => policies.push(PolicyReport::new(contender, scenario, &record)),
            None => not_simulated.push(contender.to_string()),
        }
    }
    SimReport {
        tool: "catena-bench balance --sim",
        version: env!("CARGO_PKG_VERSION"),
        scenario: name.to_owned(),
        about: scenario.about.clone(),
        seed,
        duration_secs: scenario.duration.0.as_secs_f64(),
        interval_secs: scenario.interval().as_secs_f64(),
        policies,
        not_simulated,
        lines,
    }
}
