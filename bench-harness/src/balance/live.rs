//! `balance --live`: policies against scenarios, over real sockets.
//!
//! ```text
//! this process                                     N × catena-bench serve --faults
//! ┌ clients' core ─────────────────────────────┐   ┌ servers' cores ───────────────┐
//! │ schedule ─► Balanced ─► policy, watched ───┼──►│ slots, service times by timer │
//! │    (load)                  (log)           │   └───────────────────────────────┘
//! └────────────────────────────────────────────┘         ▲ SIGSTOP, SIGKILL, SIGTERM,
//!   director: faults at their times ── fleet ────────────┘ start again, `fault` calls
//! ```
//!
//! Each policy has servers of its own, one policy after the other: two at a time would be each other's
//! load. All processes are on this machine, so what is simulated of a server is its work, by a timer, and
//! what is real is the rest: the engine, its clients, sockets, scheduler, signals.
//!
//! | file | what |
//! |---|---|
//! | [`plan`] | what is to be run, and whether it can be |
//! | [`fleet`], [`director`] | the processes, and what happens to them |
//! | [`load`], [`log`] | calls, and what becomes of them |
//! | [`findings`], [`report`] | what is told of it |

mod director;
mod findings;
mod fleet;
mod load;
mod log;
mod plan;
mod report;

use super::contender::Contender;
use super::report::lines;
use super::svg;
use crate::cli::BalanceArgs;
use crate::interrupt::Interrupt;
use crate::run::{progress, wrong_usage};
use crate::{Ended, Failure, host};
use catena_engine::reactor::turn::PollMode;
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Duration;
use catena_engine::{Cores, Local, Router, Server};
use director::{Directed, direct};
use findings::{Findings, LoadAverage};
use fleet::Fleet;
use futures_executor::block_on;
use indicatif::ProgressBar;
use load::{Driven, Job, closed_loop, open_loop};
use plan::Plan;
use report::LiveReport;
use std::future::Future;
use std::thread;

/// Time between the start of the servers and the first call, for threads to get going.
const LEAD: Duration = Duration::from_millis(50);

/// Runs and tells.
pub fn balance(args: &BalanceArgs) -> Result<Ended, Failure> {
    let mut plan = Plan::new(args)?;
    let mut publisher = super::publisher(args)?;
    let interrupt = Interrupt::on_signals()?;
    let progress = progress(100);
    let measured = measure_all(&mut plan, &interrupt, &progress);
    progress.finish_and_clear();
    let runs = measured?;
    if runs.is_empty() {
        eprintln!("catena-bench: interrupted before anything was measured");
        return Ok(Ended::Interrupted);
    }
    let report = LiveReport::new(&plan, runs);
    publisher.publish_svg(|| svg::draw(&report.balance))?;
    let with_time = args.over_time || args.policy.len() == 1;
    publisher.publish(&report.text(with_time), &report)?;
    match report.runs.iter().any(|run| run.server_lost.is_some()) {
        _ if interrupt.is_set() => Ok(Ended::Interrupted),
        true => Ok(Ended::ServerLost),
        false => Ok(Ended::Done),
    }
}

/// All policies, one after the other, as often as was asked for. Fewer if somebody wants it to end.
fn measure_all(
    plan: &mut Plan,
    interrupt: &Interrupt,
    progress: &ProgressBar,
) -> Result<Vec<Findings>, Failure> {
    if let Some(share) = plan.scenario.of_saturation() {
        progress.set_message("what can the servers do at most?");
        let rate = calibrate(plan, interrupt)?;
        if interrupt.is_set() {
            return Ok(Vec::new());
        }
        if rate == 0.0 {
            return Err(
                "the servers answered nothing while it was measured what they can do".into()
            );
        }
        plan.saturation = Some(rate);
        plan.scenario.set_rate(share * rate);
    }
    let total = plan.rounds as usize * plan.policies.len();
    let mut runs = Vec::new();
    for round in 0..plan.rounds {
        for contender in &plan.policies {
            if interrupt.is_set() {
                return Ok(runs);
            }
            let of = format!("{contender}, {} of {total}", runs.len() + 1);
            runs.push(measure(plan, contender, round, interrupt, &mut |elapsed| {
                let duration = plan.scenario.duration.0.as_secs_f64();
                progress.set_position((elapsed.as_secs_f64() / duration * 100.0) as u64);
                progress.set_message(of.clone());
            })?);
        }
    }
    Ok(runs)
}

/// How many calls a second the servers of a plan answer at most.
fn calibrate(plan: &Plan, interrupt: &Interrupt) -> Result<f64, Failure> {
    let home = Home::start(plan)?;
    let fleet = Fleet::start(&plan.command_lines(0))?;
    let (endpoints, callers) = (plan.endpoints(&fleet.addresses()), plan.calibration_callers());
    let stop = Stop::new(interrupt);
    let spans = (plan::CALIBRATION_WARMUP, plan::CALIBRATION);
    home.run(move |local| closed_loop(local, endpoints, callers, spans, stop))
}

/// One run of one policy, on servers of its own.
fn measure(
    plan: &Plan,
    contender: &Contender,
    round: u32,
    interrupt: &Interrupt,
    tick: &mut dyn FnMut(Duration),
) -> Result<Findings, Failure> {
    let home = Home::start(plan)?;
    let mut fleet = Fleet::start(&plan.command_lines(round))?;
    let seed = plan.seed + u64::from(round);
    let load_before = LoadAverage::now();
    let began = host::now() + LEAD;
    let stop = Stop::new(interrupt);
    let job = Job {
        endpoints: plan.endpoints(&fleet.addresses()),
        scenario: plan.scenario.clone(),
        contender: contender.clone(),
        seed,
        is_idempotent: plan.is_idempotent,
        began,
        stop: stop.clone(),
    };
    let (driven, directed) = thread::scope(|scope| -> Result<(Driven, Directed), Failure> {
        let is_over = stop.clone();
        let home = &home;
        let calls = scope.spawn(move || {
            // Told in any case, for the faults end with the calls.
            let _told = Over(&is_over);
            home.run(|local| open_loop(local, job))
        });
        let directed = direct(&plan.scenario, seed, began, (&mut fleet, home), &stop, tick);
        // If a fault could not be made, nobody wants the rest.
        stop.over.set();
        let driven = calls.join().expect("the thread does nothing but wait");
        Ok((driven?, directed?))
    })?;
    let (_, line_of) = lines(&plan.scenario);
    let run = findings::Run { plan, contender, round, began, load_before, line_of };
    Ok(Findings::of(&run, &driven, &directed))
}

/// Whether a run is to end: somebody wants all of it to end, or the other half of this one has ended.
#[derive(Clone, Debug)]
struct Stop {
    interrupt: Interrupt,
    over: Interrupt,
}

impl Stop {
    fn new(interrupt: &Interrupt) -> Self {
        Stop { interrupt: interrupt.clone(), over: Interrupt::default() }
    }

    fn is_set(&self) -> bool {
        self.interrupt.is_set() || self.over.is_set()
    }
}

/// Says that a run is over when it is dropped.
struct Over<'a>(&'a Stop);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.set();
    }
}

/// A server that listens nowhere: the place where clients live.
#[derive(Debug)]
struct Home(Server);

impl Home {
    fn start(plan: &Plan) -> Result<Home, Failure> {
        let server = Server::builder()
            .cores(Cores::List(vec![plan.seats.clients]))
            .poll(PollMode::Never)
            .seed(plan.seed)
            .service(|_| Router::new());
        let server = server.start();
        Ok(Home(server.map_err(|error| format!("cannot start the clients: {error}"))?))
    }

    /// Runs a future on its shard.
    fn run<T, F>(&self, make: impl FnOnce(Local) -> F + Send + 'static) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        Ok(block_on(self.0.handle().run(ShardIndex(0), make))?)
    }
}
