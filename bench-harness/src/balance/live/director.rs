//! Faults, at their times, while the load goes on.

use super::fleet::Fleet;
use super::{Home, Stop};
use crate::Failure;
use crate::balance::faults::{Case, Condition};
use crate::balance::scenario::Scenario;
use crate::host;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use std::thread;

/// How often somebody looks whether the run is over, or a server lost.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A time during which a server was not there for its clients.
#[derive(Clone, PartialEq, Debug)]
pub struct Absence {
    /// Which server.
    pub server: u32,
    /// Why, in a word.
    pub what: &'static str,
    /// When it began: an instant of the run, taken just before the signal was sent.
    pub from: Instant,
    /// When it ended: just after it was woken, or listened again. `None`: not within the run.
    pub until: Option<Instant>,
}

/// What was done.
#[derive(Clone, Default, Debug)]
pub struct Directed {
    /// In the order of their beginnings.
    pub absences: Vec<Absence>,
    /// A server that ended by itself, and when.
    pub lost: Option<(u32, Instant)>,
}

/// Makes faults of a run that begins at `began`, on the machine's clock, until `is_over`. Calls `tick`
/// now and then with the time since the beginning.
///
/// # Errors
/// If a fault cannot be made.
pub fn direct(
    scenario: &Scenario,
    seed: u64,
    began: Instant,
    (fleet, home): (&mut Fleet, &Home),
    is_over: &Stop,
    tick: &mut dyn FnMut(Duration),
) -> Result<Directed, Failure> {
    let mut rng = Rng::from_seed(seed);
    let (mut due, mut cases): (Vec<Option<Instant>>, Vec<Case>) =
        Case::all(scenario, &mut rng).into_iter().map(|(at, case)| (Some(at), case)).unzip();
    let mut directed = Directed::default();
    let now = || Instant::ZERO + host::now().since(began);
    while !is_over.is_set() {
        tick(host::now().since(began));
        if directed.lost.is_none() {
            directed.lost = fleet.lost().map(|server| (server, now()));
        }
        let next = (0..cases.len()).filter_map(|index| Some((due[index]?, index))).min();
        match next {
            Some((at, index)) if host::now() >= began + at.since(Instant::ZERO) => {
                // By the plan's clock, so that what repeats does not drift.
                due[index] = cases[index].change(at, &mut rng);
                let server = cases[index].server;
                let mut condition = Condition::WELL;
                let own = cases.iter().filter(|case| case.server == server);
                own.for_each(|case| case.apply(&mut condition));
                let before = now();
                fleet.apply(server, &condition, home)?;
                directed.note(server, &condition, before, now());
            }
            next => {
                let until_next =
                    next.map(|(at, _)| (began + at.since(Instant::ZERO)).since(host::now()));
                thread::sleep(until_next.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL));
            }
        }
    }
    Ok(directed)
}

impl Directed {
    fn note(&mut self, server: u32, condition: &Condition, before: Instant, after: Instant) {
        let what = match condition {
            Condition { down: true, .. } => Some("killed"),
            Condition { drain: true, .. } => Some("drained"),
            Condition { speed, .. } if *speed == 0.0 => Some("stopped"),
            _ => None,
        };
        let is_open = |absence: &&mut Absence| absence.server == server && absence.until.is_none();
        let open = self.absences.iter_mut().find(is_open);
        match (open, what) {
            (None, Some(what)) => {
                self.absences.push(Absence { server, what, from: before, until: None });
            }
            (Some(absence), None) => absence.until = Some(after),
            _ => {}
        }
    }
}
