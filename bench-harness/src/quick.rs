//! `quick`: a first look at the engine, with a table that explains itself.

use crate::cell::{Bench, Cell, Contender, Polls, Seats, Shape};
use crate::cli::QuickArgs;
use crate::interrupt::Interrupt;
use crate::load::{self, Measured, Pace};
use crate::publish::print;
use crate::report::{Manifest, RunReport, Told};
use crate::run::{progress, show};
use crate::schedule::Arrival;
use crate::table::{count, micros, plural, table, wrapped};
use crate::{Ended, Failure};
use catena_engine::reactor::turn::PollMode;
use catena_engine::server::DriverChoice;
use catena_engine::time::Duration;
use indicatif::ProgressBar;

const ONE: Shape = Shape { conns: 1, depth: 1 };
const MANY: Shape = Shape { conns: 32, depth: 1 };
const DEEP: Shape = Shape { conns: 32, depth: 16 };
const SHAPES: [Shape; 3] = [ONE, MANY, DEEP];

/// Load before each row, not measured.
const WARMUP: Duration = Duration::from_millis(300);

/// The open loop asks for so much of what the closed loop at [`MANY`] reached.
const OPEN_SHARE: f64 = 0.5;

/// Measures, prints, explains.
pub fn quick(args: &QuickArgs) -> Result<Ended, Failure> {
    let manifest = Manifest::gather();
    let seats = Seats::choose(args.seats)?;
    let bench = Bench {
        seats: seats.clone(),
        warmup: WARMUP,
        duration: args.secs,
        payload_bytes: 32,
        driver: DriverChoice::Auto,
        interrupt: Interrupt::on_signals()?,
    };
    let engines: &[Contender] = match manifest.host.io_uring_refused {
        None => &[Contender::EngineUring, Contender::EngineEpoll],
        Some(_) => &[Contender::EngineEpoll],
    };
    let mut rows = Rows::default();
    let progress = progress(100);
    let measured = measure(&bench, engines, &mut rows, &progress);
    progress.finish_and_clear();
    match measured {
        // Whatever broke off then broke off because of that.
        Err(_) if bench.interrupt.is_set() => {
            if !rows.table.is_empty() {
                print(&text(&manifest, &bench, &rows))?;
            }
            let (done, of) = (rows.table.len(), rows_planned(&bench, engines));
            eprintln!("catena-bench: interrupted after {done} of {of} rows");
            Ok(Ended::Interrupted)
        }
        Err(failure) => Err(failure),
        Ok(()) => print(&text(&manifest, &bench, &rows)).map(|()| Ended::Done),
    }
}

fn rows_planned(bench: &Bench, engines: &[Contender]) -> usize {
    engines.len() * SHAPES.len() + usize::from(bench.seats.are_apart()) + 1
}

/// What was measured.
#[derive(Default)]
struct Rows {
    table: Vec<Vec<String>>,
    open: Option<RunReport>,
}

fn measure(
    bench: &Bench,
    engines: &[Contender],
    rows: &mut Rows,
    progress: &ProgressBar,
) -> Result<(), Failure> {
    let mut many_rps = 0.0;
    let polls = Polls { server: PollMode::Never, load: PollMode::Never };
    for engine in engines {
        for shape in SHAPES {
            let name = format!("{engine} {shape}: ");
            let cell = bench.measure(*engine, polls, shape, &mut |tick| {
                show(progress, &name, tick);
            })?;
            if shape == MANY && many_rps == 0.0 {
                many_rps = cell.rps;
            }
            rows.table.push(row(*engine, &load_name(shape), &cell));
        }
    }
    let best = engines[0];
    if bench.seats.are_apart() {
        let mut on_tick = |tick| show(progress, "both sides spinning: ", tick);
        let cell = bench.measure(best, Polls::SPIN, ONE, &mut on_tick)?;
        let mut row = row(best, "1 connection x 1, both sides spin", &cell);
        // What a server spends that is never idle says nothing.
        row.pop();
        row.push("-".to_owned());
        rows.table.push(row);
    }
    let rate = (many_rps * OPEN_SHARE / 1_000.0).ceil().max(1.0) * 1_000.0;
    let (measured, open) =
        open_loop(bench, best, rate, &mut |tick| show(progress, "open loop: ", tick))?;
    let name = format!("32 connections, {} /s by the clock", count(rate));
    rows.table.push(row(best, &name, &Cell::of(&measured)?));
    rows.open = Some(open);
    Ok(())
}

fn open_loop(
    bench: &Bench,
    engine: Contender,
    rate: f64,
    on_tick: &mut dyn FnMut(load::Tick),
) -> Result<(Measured, RunReport), Failure> {
    let server = bench.start(engine, PollMode::Adaptive)?;
    let pace = Pace::Open { rate, arrival: Arrival::Poisson };
    let mut plan = bench.plan(engine, &server, DEEP, pace, PollMode::Adaptive);
    plan.duration *= 2;
    let measured = load::run(&plan, on_tick)?;
    let target = format!("catena://{}", server.address());
    let told = Told { target, method: "echo".to_owned(), idle: 0 };
    let report = RunReport::new(Manifest::gather(), told, &plan, &measured);
    Ok((measured, report))
}

fn load_name(shape: Shape) -> String {
    format!("{} x {}", plural(shape.conns.into(), "connection"), shape.depth)
}

fn row(engine: Contender, load: &str, cell: &Cell) -> Vec<String> {
    vec![
        load.to_owned(),
        match engine.driver() {
            DriverChoice::Uring => "io_uring".to_owned(),
            _ => "epoll".to_owned(),
        },
        count(cell.rps.round()),
        micros(cell.p50_us),
        micros(cell.p99_us),
        micros(cell.server_cpu_us_per_request),
    ]
}

fn text(manifest: &Manifest, bench: &Bench, rows: &Rows) -> String {
    let Seats { server, load, note } = &bench.seats;
    let mut lines = vec![
        format!("Catena {}: an RPC echo of 32 bytes over loopback.", manifest.version),
        format!("Server on core {server}, load generator on core {load}."),
    ];
    lines.extend(manifest.host.lines());
    let driver = match &manifest.host.io_uring_refused {
        None => {
            "Driver: io_uring works here, so servers choose it; epoll is the fallback.".to_owned()
        }
        Some(reason) => format!("Driver: epoll only; {reason}."),
    };
    lines.push(wrapped(&driver).trim_end().to_owned());
    lines.extend(note.clone());
    let headers = [
        "load: connections x requests in flight",
        "driver",
        "requests/s",
        "p50, us",
        "p99, us",
        "server CPU, us/request",
    ];
    let mut paragraphs = vec![lines.join("\n") + "\n", table(&headers, &rows.table)];
    let mut say = |paragraph: &str| paragraphs.push(wrapped(paragraph));
    say(
        "How to read it. Every row is one server core. p99: 99 of 100 requests were answered within \
         this time. Server CPU: what a request costs that core, the kernel's part included, by the \
         kernel's own accounting.",
    );
    say(
        "A request alone waits for two sleeping processes to be woken; where both sides spin instead, \
         the round trip itself shows. Requests that come together are read, answered and sent \
         together: that is why 32 x 16 is so much cheaper. The last row is an open loop: requests come \
         at random instants whatever the server does, as users do, and their latency counts from the \
         instant at which they were meant to be sent.",
    );
    if let Some(open) = rows.open.as_ref().filter(|open| !open.is_valid) {
        open.notes.iter().for_each(|warning| say(warning));
    }
    if manifest.host.is_virtual_machine {
        say("This is a virtual machine: its cores are shared, so figures vary from run to run.");
    }
    say("Next: `catena-bench floor` compares with a bare echo; `catena-bench run --help`.");
    paragraphs.join("\n")
}
