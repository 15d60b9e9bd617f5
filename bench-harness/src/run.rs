//! `run`: loads a server that runs already.

use crate::cli::{Cli, RunArgs};
use crate::host;
use crate::idle::Idlers;
use crate::interrupt::Interrupt;
use crate::load::{self, LoadError, Pace, Plan, Target, Tick};
use crate::protocol::catena::Request;
use crate::publish::Publisher;
use crate::report::{Manifest, RunReport, Told};
use crate::table::{count, plural};
use crate::{Ended, Failure};
use catena_engine::server::Cores;
use catena_engine::time::Duration;
use clap::CommandFactory;
use clap::error::ErrorKind;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;

/// Requests in flight on a connection of an open loop unless told otherwise: so many that it is the
/// server, and not the generator's thrift, that makes a request wait.
const OPEN_DEPTH_DEFAULT: u32 = 128;

/// Makes the run and tells of it.
pub fn run(args: &RunArgs) -> Result<Ended, Failure> {
    args.log.install();
    let plan = plan(args, Interrupt::on_signals()?);
    let mut publisher = Publisher::open(args.json.as_deref())?;
    let progress = progress(100);
    let measure = || -> Result<_, LoadError> {
        let idlers = (args.idle > 0).then(|| Idlers::start(&plan, args.idle)).transpose()?;
        let measured = load::run(&plan, &mut |tick| show(&progress, "", tick))?;
        Ok((measured, idlers))
    };
    let (measured, idlers) = match measure() {
        Err(LoadError::Interrupted) => {
            eprintln!("catena-bench: {}", LoadError::Interrupted);
            return Ok(Ended::Interrupted);
        }
        measured => measured?,
    };
    progress.finish_and_clear();
    drop(idlers);

    let told =
        Told { target: args.target.text.clone(), method: args.method.to_string(), idle: args.idle };
    let report = RunReport::new(Manifest::gather(), told, &plan, &measured);
    publisher.publish(&report.text(), &report)?;
    match report.ok {
        _ if report.interrupted_after_secs.is_some() => Ok(Ended::Interrupted),
        0 => Err("no request was answered with \"ok\"".into()),
        _ if report.is_server_lost() => Ok(Ended::ServerLost),
        _ => Ok(Ended::Done),
    }
}

fn plan(args: &RunArgs, interrupt: Interrupt) -> Plan {
    let cores = cores(args);
    if cores.len() as u32 > args.connections {
        let connections = plural(args.connections.into(), "connection");
        let threads = cores.len();
        wrong_usage(
            "run",
            &format!("{threads} threads cannot share {connections}; ask for more -c"),
        );
    }
    let request = Request {
        method: args.method.id(),
        payload: args.method.payload(args.size),
        timeout: args.timeout,
        connection: Arc::default(),
    };
    let pace = match args.rate {
        None => Pace::Closed,
        Some(rate) => Pace::Open { rate, arrival: args.arrival },
    };
    let depth_default = if args.rate.is_some() { OPEN_DEPTH_DEFAULT } else { 1 };
    let warmup_default = (args.duration / 10).min(Duration::from_secs(1));
    Plan {
        address: args.target.address,
        target: Target::Catena(Arc::new(request)),
        connections: args.connections,
        depth: args.depth.unwrap_or(depth_default),
        pace,
        warmup: args.warmup.unwrap_or(warmup_default),
        duration: args.duration,
        timeout: args.timeout,
        seed: args.seed,
        driver: args.driver,
        poll: args.poll,
        cores,
        server_pid: None,
        interrupt,
    }
}

/// The core of each thread: as told, or the last ones, for servers tend to take the first.
fn cores(args: &RunArgs) -> Vec<Option<usize>> {
    let available = host::available_cores();
    let chosen = match (&args.cores, args.threads) {
        (None, threads) => {
            let threads = threads.unwrap_or(1) as usize;
            let Some(first) = available.len().checked_sub(threads) else {
                let cores = plural(available.len() as u64, "core");
                wrong_usage("run", &format!("{threads} threads, and {cores} that may be used"));
            };
            available[first..].to_vec()
        }
        (Some(Cores::List(list)), _) => list.clone(),
        (Some(_), _) => available.clone(),
    };
    if args.threads.is_some_and(|threads| threads as usize != chosen.len()) {
        wrong_usage("run", "-t and --cores name different numbers; one thread runs on each core");
    }
    for (index, core) in chosen.iter().enumerate() {
        if chosen[..index].contains(core) {
            wrong_usage(
                "run",
                &format!("core {core} is named twice; each thread wants one of its own"),
            );
        }
        if !available.contains(core) {
            wrong_usage(
                "run",
                &format!("core {core} cannot be used; this process has {available:?}"),
            );
        }
    }
    chosen.into_iter().map(Some).collect()
}

/// Ends the process as clap does, with the usage of the verb.
pub fn wrong_usage(verb: &str, message: &str) -> ! {
    let mut cli = Cli::command();
    cli.build();
    let verb = cli.find_subcommand_mut(verb).expect("it is a verb");
    verb.error(ErrorKind::ValueValidation, message).exit()
}

/// One live line on a terminal, nothing elsewhere.
pub fn progress(steps: u64) -> ProgressBar {
    let template = "{elapsed:>4} [{bar:30}] {msg}";
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    ProgressBar::new(steps).with_style(style.progress_chars("=> "))
}

/// Shows how far a run is, in hundredths.
pub fn show(progress: &ProgressBar, what: &str, tick: Tick) {
    let Tick { elapsed, total, answered } = tick;
    progress.set_position((elapsed.as_secs_f64() / total.as_secs_f64() * 100.0) as u64);
    let rate = answered as f64 / elapsed.as_secs_f64().max(0.001);
    progress.set_message(format!("{what}{} answers/s", count(rate.round())));
}
