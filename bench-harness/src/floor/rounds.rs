//! Measurements that take turns, and the ratios between them.

use super::report::Row;
use crate::Failure;
use crate::cell::{Bench, Cell, Contender, Polls, Shape};
use indicatif::ProgressBar;
use std::collections::BTreeMap;

/// Figures to compare by.
pub fn cpu(cell: &Cell) -> f64 {
    cell.server_cpu_us_per_request
}

/// See [`cpu`].
pub fn rate(cell: &Cell) -> f64 {
    cell.rps
}

/// See [`cpu`].
pub fn p50(cell: &Cell) -> f64 {
    cell.p50_us
}

/// True if the generator had no more to give, so that its server could be asked for more.
pub fn is_spent(cell: &Cell) -> bool {
    cell.client_busy_share >= 0.95
}

/// Which of two bare echoes is the better one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Best {
    /// The one with less.
    Lowest,
    /// The one with more.
    Highest,
}

/// Every measurement, by load and server, one a round.
#[derive(Default, Debug)]
pub struct Rounds(pub BTreeMap<Shape, ShapeRounds>);

/// The measurements of one load.
#[derive(Clone, Default, Debug)]
pub struct ShapeRounds(pub BTreeMap<Contender, Vec<Cell>>);

impl Rounds {
    /// One round of one load, every contender in turn.
    ///
    /// # Errors
    /// Whatever went wrong with one of them.
    pub fn measure(
        &mut self,
        bench: &Bench,
        contenders: &[Contender],
        polls: Polls,
        shape: Shape,
        round: u32,
        progress: &ProgressBar,
    ) -> Result<(), Failure> {
        for contender in contenders {
            let round = round + 1;
            progress.set_message(format!("round {round}: {contender} at {shape}"));
            let cell = bench.measure(*contender, polls, shape, &mut |_| progress.tick())?;
            let cells = self.0.entry(shape).or_default().0.entry(*contender).or_default();
            cells.push(cell);
            progress.inc(1);
        }
        Ok(())
    }

    /// The measurements of one load.
    pub fn of(&self, shape: Shape) -> ShapeRounds {
        self.0.get(&shape).cloned().unwrap_or_default()
    }

    /// A ratio of each load that has it, by the load's name.
    pub fn by_shape(&self, ratio: impl Fn(&ShapeRounds) -> Option<f64>) -> BTreeMap<String, f64> {
        let named = |(shape, rounds): (&Shape, &ShapeRounds)| {
            ratio(rounds).map(|ratio| (shape.to_string(), ratio))
        };
        self.0.iter().filter_map(named).collect()
    }

    /// The names of the loads of which `is_so` holds.
    pub fn shapes(&self, is_so: impl Fn(&ShapeRounds) -> bool) -> Vec<String> {
        let of = self.0.iter().filter(|(_, rounds)| is_so(rounds));
        of.map(|(shape, _)| shape.to_string()).collect()
    }

    /// Rows for the report.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (shape, rounds) in &self.0 {
            for (contender, cells) in &rounds.0 {
                let server = contender.to_string();
                let Shape { conns, depth } = *shape;
                rows.push(Row {
                    server,
                    conns,
                    depth,
                    median: medians(cells),
                    rounds: cells.clone(),
                });
            }
        }
        rows
    }

    /// Each single measurement.
    pub fn cells(&self) -> impl Iterator<Item = (Shape, Contender, &Cell)> {
        self.0.iter().flat_map(|(shape, rounds)| {
            rounds
                .0
                .iter()
                .flat_map(|(contender, cells)| cells.iter().map(|cell| (*shape, *contender, cell)))
        })
    }
}

impl ShapeRounds {
    /// The engine over the better of the bare echoes, within each round; the median of that.
    pub fn ratio_to_bare(&self, figure: fn(&Cell) -> f64, best: Best) -> Option<f64> {
        let (_, engine) = self.0.iter().find(|(contender, _)| contender.is_engine())?;
        let bare: Vec<_> = self.0.iter().filter(|(contender, _)| !contender.is_engine()).collect();
        // The last round may have been interrupted before a bare echo's turn.
        let in_round = |(round, cell): (usize, &Cell)| {
            let figures = bare.iter().filter_map(|(_, cells)| cells.get(round)).map(figure);
            let best = match best {
                Best::Lowest => figures.reduce(f64::min)?,
                Best::Highest => figures.reduce(f64::max)?,
            };
            Some(figure(cell) / best)
        };
        median_of(engine.iter().enumerate().filter_map(in_round))
    }

    /// True if a bare echo could have been asked for more, and the engine at its best could not: then
    /// the ratio of their rates is an upper bound.
    pub fn rate_is_upper_bound(&self) -> bool {
        let is_spent = |cells: &Vec<Cell>| is_spent(&medians(cells));
        let engine = self.0.iter().find(|(contender, _)| contender.is_engine());
        let engine_is_spent = engine.is_some_and(|(_, cells)| is_spent(cells));
        let mut bare = self.0.iter().filter(|(contender, _)| !contender.is_engine());
        !engine_is_spent && bare.any(|(_, cells)| is_spent(cells))
    }

    /// The engine on epoll over the engine on io_uring, within each round; the median of that.
    pub fn ratio_epoll_uring(&self, figure: fn(&Cell) -> f64) -> Option<f64> {
        let epoll = self.0.get(&Contender::EngineEpoll)?;
        let uring = self.0.get(&Contender::EngineUring)?;
        median_of(epoll.iter().zip(uring).map(|(epoll, uring)| figure(epoll) / figure(uring)))
    }
}

/// The median of each figure, and all errors together.
pub fn medians(cells: &[Cell]) -> Cell {
    let of = |figure: fn(&Cell) -> f64| median(cells.iter().map(figure));
    Cell {
        rps: of(rate),
        p50_us: of(p50),
        p99_us: of(|cell| cell.p99_us),
        server_cpu_us_per_request: of(cpu),
        client_busy_share: of(|cell| cell.client_busy_share),
        waited_share: of(|cell| cell.waited_share),
        errors: cells.iter().map(|cell| cell.errors).sum(),
    }
}

/// The median, if there are any.
fn median_of(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures = figures.peekable();
    figures.peek().is_some().then(|| median(figures))
}

/// The middle one, or the mean of the two in the middle.
///
/// # Panics
/// If there are none: every row is measured at least once.
pub fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    assert!(!figures.is_empty(), "every row is measured at least once");
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() % 2 {
        1 => figures[middle],
        _ => (figures[middle - 1] + figures[middle]) / 2.0,
    }
}
