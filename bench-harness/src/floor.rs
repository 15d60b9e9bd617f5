//! `floor`: what the engine costs over a bare echo, all measured in one run by one generator.
//!
//! Rows take turns within a round, so that a machine that slows down slows all of them down. Ratios
//! are taken within each round, and their median is told.

mod report;
mod rounds;

use crate::cell::{Bench, Cell, Contender, Polls, Seats, Shape};
use crate::cli::FloorArgs;
use crate::host;
use crate::idle::Idlers;
use crate::interrupt::Interrupt;
use crate::load::{self, Pace};
use crate::publish::Publisher;
use crate::report::Manifest;
use crate::run::progress;
use crate::{Ended, Failure};
use catena_engine::reactor::turn::PollMode;
use indicatif::ProgressBar;
use report::{FloorReport, IdleRow};
use rounds::{Best, Rounds, ShapeRounds, cpu, median, p50, rate};

/// The loads.
const SHAPES: [Shape; 3] =
    [Shape { conns: 1, depth: 1 }, Shape { conns: 32, depth: 1 }, Shape { conns: 32, depth: 16 }];
/// The load of the idle rows.
const BUSY: Shape = Shape { conns: 32, depth: 1 };
/// Descriptors for everything but idle connections, in either process.
const DESCRIPTORS_RESERVED: u64 = 512;

/// Measures everything and tells.
pub fn floor(args: &FloorArgs) -> Result<Ended, Failure> {
    let mut publisher = Publisher::open(args.json.as_deref())?;
    let manifest = Manifest::gather();
    let mut notes = Vec::new();
    let contenders = contenders(&manifest, &mut notes);
    let seats = Seats::choose(args.seats)?;
    notes.extend(seats.note.clone());
    let bench = Bench {
        seats,
        warmup: args.warmup,
        duration: args.secs,
        payload_bytes: args.size,
        driver: args.load_driver,
        interrupt: Interrupt::on_signals()?,
    };
    let spins = bench.seats.are_apart();
    let rows = contenders.len() * SHAPES.len() + if spins { contenders.len() } else { 0 };
    let idle_rounds = if args.idle > 0 { args.rounds } else { 0 };
    let progress = progress(rows as u64 * u64::from(args.rounds) + u64::from(2 * idle_rounds));

    let mut asleep = Rounds::default();
    let mut spinning = Rounds::default();
    let mut measure = || -> Result<Option<IdleRow>, Failure> {
        for round in 0..args.rounds {
            // Each round begins with another row, so that none always follows the same one.
            let mut turn = contenders.clone();
            turn.rotate_left(round as usize % contenders.len());
            let polls = Polls { server: PollMode::Never, load: args.load_poll };
            for shape in SHAPES {
                asleep.measure(&bench, &turn, polls, shape, round, &progress)?;
            }
            if spins {
                spinning.measure(&bench, &turn, Polls::SPIN, SHAPES[0], round, &progress)?;
            }
        }
        (idle_rounds > 0)
            .then(|| idle_row(&bench, contenders[0], args, idle_rounds, &progress, &mut notes))
            .transpose()
    };
    let (idle, ended) = match measure() {
        Ok(idle) => (idle, Ended::Done),
        // Whatever broke off then broke off because of that.
        Err(_) if bench.interrupt.is_set() => (None, Ended::Interrupted),
        Err(failure) => return Err(failure),
    };
    let steps_done = progress.position();
    progress.finish_and_clear();
    if ended == Ended::Interrupted {
        let steps = progress.length().unwrap_or_default();
        notes.push(format!("WARNING: interrupted after {steps_done} of {steps} measurements."));
    }
    notes.extend(complaints(&asleep, &spinning));

    let report = FloorReport {
        manifest,
        server_core: bench.seats.server,
        load_core: bench.seats.load,
        rounds: args.rounds,
        secs: args.secs.as_secs_f64(),
        frame_bytes: catena_engine::wire::header::HEADER_BYTES as u32 + args.size,
        ratio_cpu: asleep.by_shape(|rounds| rounds.ratio_to_bare(cpu, Best::Lowest)),
        ratio_rps: asleep.by_shape(|rounds| rounds.ratio_to_bare(rate, Best::Highest)),
        ratio_rps_at_most: asleep.shapes(ShapeRounds::rate_is_upper_bound),
        ratio_cpu_epoll_uring: asleep.by_shape(|rounds| rounds.ratio_epoll_uring(cpu)),
        ratio_p50_spin: spinning.of(SHAPES[0]).ratio_to_bare(p50, Best::Lowest),
        rows: asleep.rows(),
        spin_rows: spinning.rows(),
        idle,
        is_interrupted: ended == Ended::Interrupted,
        notes,
    };
    publisher.publish(&report.text(), &report)?;
    Ok(ended)
}

/// Who takes part on this machine. The first one is the engine at its best.
fn contenders(manifest: &Manifest, notes: &mut Vec<String>) -> Vec<Contender> {
    match &manifest.host.io_uring_refused {
        None => Contender::ALL.to_vec(),
        Some(reason) => {
            notes.push(format!("Only epoll is measured: {reason}."));
            vec![Contender::EngineEpoll, Contender::BareEpoll]
        }
    }
}

/// 32 busy connections alone, and beside many that do nothing.
fn idle_row(
    bench: &Bench,
    contender: Contender,
    args: &FloorArgs,
    rounds: u32,
    progress: &ProgressBar,
    notes: &mut Vec<String>,
) -> Result<IdleRow, Failure> {
    let room = host::open_files_max().saturating_sub(DESCRIPTORS_RESERVED);
    let connections = args.idle.min(u32::try_from(room).unwrap_or(u32::MAX));
    if connections < args.idle {
        let (wanted, limit) = (args.idle, host::open_files_max());
        notes.push(format!(
            "{connections} idle connections instead of {wanted}: a process may open {limit} files \
             here (ulimit -Hn)."
        ));
    }
    let (mut alone, mut beside, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let server = bench.start(contender, PollMode::Never)?;
        let plan = bench.plan(contender, &server, BUSY, Pace::Closed, args.load_poll);
        let measure = |what: &str| -> Result<f64, Failure> {
            progress.set_message(format!("round {}: {BUSY} {what}", round + 1));
            let measured = load::run(&plan, &mut |_| progress.tick())?;
            progress.inc(1);
            Ok(Cell::of(&measured)?.rps)
        };
        // They take turns at being first, as rows do.
        let alone_first = round % 2 == 0;
        if alone_first {
            alone.push(measure("alone")?);
        }
        let before = host::process_memory_bytes(server.pid())?;
        let idlers = Idlers::start(&plan, connections)?;
        let grown = host::process_memory_bytes(server.pid())?.saturating_sub(before);
        memory.push(grown as f64 / f64::from(connections));
        beside.push(measure("beside idle ones")?);
        drop(idlers);
        if !alone_first {
            alone.push(measure("alone")?);
        }
    }
    let ratios = beside.iter().zip(&alone).map(|(beside, alone)| beside / alone);
    Ok(IdleRow {
        server: contender.to_string(),
        connections,
        memory_bytes_per_connection: median(memory.into_iter()),
        ratio_rps: median(ratios),
        rps_alone: median(alone.iter().copied()),
        rps_beside_idle: median(beside.iter().copied()),
    })
}

fn complaints(asleep: &Rounds, spinning: &Rounds) -> Vec<String> {
    let mut complaints = Vec::new();
    for (shape, contender, cell) in asleep.cells().chain(spinning.cells()) {
        if cell.errors > 0 {
            let errors = cell.errors;
            complaints.push(format!("WARNING: {contender} at {shape}: {errors} requests failed."));
        }
    }
    let rows = asleep.rows();
    let spent = rows.iter().filter(|row| rounds::is_spent(&row.median));
    let spent: Vec<_> = spent.map(|row| format!("{} {}", row.server, row.shape())).collect();
    if !spent.is_empty() {
        complaints.push(format!(
            "The load generator was as busy as it can be in these rows, so their servers could be \
             asked for more, and a request would then cost them less, because more are handled at \
             a time: {}. Where that is so of a bare echo alone, the engine's true ratio of rates is \
             at most the one told; where it is so of both, the ratio says little.",
            spent.join(", ")
        ));
    }
    // One core that is wanted by others now and then does not spoil a median.
    let disturbed =
        |rounds: &Rounds| rounds.rows().iter().any(|row| row.median.waited_share > 0.05);
    if disturbed(asleep) || disturbed(spinning) {
        complaints.push(
            "WARNING: other processes wanted the same cores for more than 5 % of the time; the \
             figures tell of them too. Make the machine quiet and measure again."
                .to_owned(),
        );
    }
    complaints
}

#[cfg(test)]
mod tests;
