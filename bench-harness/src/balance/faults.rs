//! When each fault is on, for each server that it hits, and what they make of a server together.

use super::scenario::{Cold, Effect, Fault, Rhythm, Scenario};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant, earliest};

/// What the faults that are on make of a server.
#[derive(Clone, PartialEq, Debug)]
pub struct Condition {
    /// How fast everything goes; 1: as ever, 0: not at all.
    pub speed: f64,
    /// How many times as many cores.
    pub capacity: f64,
    /// How long work takes, whatever was drawn.
    pub latency: Option<Duration>,
    /// How much later answers leave.
    pub add: Duration,
    /// How soon calls fail.
    pub fail: Option<Duration>,
    /// Calls are refused.
    pub down: bool,
    /// It takes nothing new, and ends.
    pub drain: bool,
    /// Since when it has been running cold.
    pub cold: Option<(Cold, Instant)>,
}

impl Condition {
    /// Nothing is wrong.
    pub const WELL: Condition = Condition {
        speed: 1.0,
        capacity: 1.0,
        latency: None,
        add: Duration::ZERO,
        fail: None,
        down: false,
        drain: false,
        cold: None,
    };

    /// How many times as long work takes that begins now.
    pub fn cold_factor(&self, now: Instant) -> f64 {
        let Some((Cold { factor, over }, since)) = &self.cold else { return 1.0 };
        let left = 1.0 - now.since(*since).as_secs_f64() / over.0.as_secs_f64();
        1.0 + (factor - 1.0) * left.max(0.0)
    }
}

/// One fault of one server.
#[derive(Debug)]
pub struct Case {
    /// The server that it hits.
    pub server: u32,
    effect: Effect,
    rhythm: Rhythm,
    until: Option<Instant>,
    is_on: bool,
    since: Instant,
    /// When the next period begins.
    period_at: Instant,
    /// Of what is drawn anew in each period.
    drawn: f64,
}

impl Case {
    /// All cases of a scenario, each with the time of its first change.
    pub fn all(scenario: &Scenario, rng: &mut Rng) -> Vec<(Instant, Case)> {
        let count = scenario.server_count();
        let mut cases = Vec::new();
        for fault in &scenario.faults {
            let servers = fault.servers.of(count).expect("the scenario was checked");
            let effect = fault.effect().expect("the scenario was checked");
            let rhythm = fault.rhythm().expect("the scenario was checked");
            for server in servers {
                cases.push(Case::new(server, fault, effect.clone(), rhythm, rng));
            }
        }
        cases
    }

    fn new(
        server: u32,
        fault: &Fault,
        effect: Effect,
        rhythm: Rhythm,
        rng: &mut Rng,
    ) -> (Instant, Case) {
        let from = Instant::ZERO + fault.from.0;
        let phase = match rhythm {
            Rhythm::Pulses { every, .. } | Rhythm::Draws { every } if !fault.together => {
                rng.between(Duration::ZERO, every)
            }
            Rhythm::Draws { every } => every,
            Rhythm::Pulses { .. } | Rhythm::Always => Duration::ZERO,
        };
        let until = fault.until.map(|until| Instant::ZERO + until.0);
        let case = Case {
            server,
            effect,
            rhythm,
            until,
            is_on: false,
            since: from,
            period_at: from + phase,
            drawn: 1.0,
        };
        // What is drawn is so from the start, even if the first period is a short one.
        let first = if matches!(rhythm, Rhythm::Draws { .. }) { from } else { from + phase };
        (first, case)
    }

    /// It is time for its next change. Returns the time of the one after that.
    pub fn change(&mut self, now: Instant, rng: &mut Rng) -> Option<Instant> {
        if self.until.is_some_and(|until| until <= now) {
            self.is_on = false;
            return None;
        }
        let next = match self.rhythm {
            Rhythm::Always => {
                self.turn_on(now);
                None
            }
            Rhythm::Pulses { every, lasts } => {
                if self.is_on {
                    self.is_on = false;
                    Some(self.period_at)
                } else {
                    self.turn_on(now);
                    self.period_at += every;
                    Some(now + lasts)
                }
            }
            Rhythm::Draws { every } => {
                self.turn_on(now);
                self.drawn = match &self.effect {
                    Effect::Speeds(speeds) => speeds[rng.below(speeds.len() as u64) as usize],
                    Effect::Capacity(low, high) => low + (high - low) * rng.unit(),
                    other => unreachable!("{other:?} is not drawn"),
                };
                let next = self.period_at;
                self.period_at += if next <= now { every * 2 } else { every };
                Some(if next <= now { now + every } else { next })
            }
        };
        earliest(next, self.until)
    }

    /// Adds what it does, if it is on, to what others do.
    pub fn apply(&self, condition: &mut Condition) {
        if !self.is_on {
            return;
        }
        match &self.effect {
            Effect::Latency(latency) => condition.latency = Some(*latency),
            Effect::Slow(factor) => condition.speed /= factor,
            Effect::Add(add) => condition.add += *add,
            Effect::Pause => condition.speed = 0.0,
            Effect::Fail(after) => condition.fail = Some(*after),
            Effect::Down => condition.down = true,
            Effect::Drain => condition.drain = true,
            Effect::Cold(cold) => condition.cold = Some((*cold, self.since)),
            Effect::Speeds(_) => condition.speed *= self.drawn,
            Effect::Capacity(..) => condition.capacity *= self.drawn,
        }
    }

    fn turn_on(&mut self, now: Instant) {
        self.is_on = true;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When, in milliseconds, and to what a fault changes server 0.
    fn changes(fault: &str, until_ms: u64) -> Vec<(u64, Condition)> {
        let text = format!(
            "about = ''\nduration = '1s'\nrate = 1\n[[servers]]\ncount = 1\nmodel = 'latency'\n\
             time = 'const:1ms'\n[[faults]]\nservers = 'all'\n{fault}"
        );
        let scenario = Scenario::parse(&text).expect(fault);
        let mut rng = Rng::from_seed(1);
        let (first, mut case) = Case::all(&scenario, &mut rng).remove(0);
        let mut next = Some(first);
        let mut seen = Vec::new();
        while let Some(at) = next.filter(|at| at.as_nanos() <= until_ms * 1_000_000) {
            next = case.change(at, &mut rng);
            let mut condition = Condition::WELL;
            case.apply(&mut condition);
            seen.push((at.as_nanos() / 1_000_000, condition));
        }
        seen
    }

    #[test]
    fn once_means_from_and_until() {
        let slow = Condition { speed: 0.1, ..Condition::WELL };
        let seen = changes("slow = 10\nfrom = '10ms'\nuntil = '30ms'", 1_000);
        assert_eq!(seen, [(10, slow), (30, Condition::WELL)]);
    }

    #[test]
    fn pulses_go_on_until_the_end_and_not_beyond() {
        let fault = "down = true\nfrom = '10ms'\nuntil = '55ms'\nevery = '20ms'\nlasts = '5ms'\n\
                     together = true";
        let downs: Vec<(u64, bool)> =
            changes(fault, 1_000).into_iter().map(|(at, condition)| (at, condition.down)).collect();
        let expected = [(10, true), (15, false), (30, true), (35, false), (50, true), (55, false)];
        assert_eq!(downs, expected);
    }

    #[test]
    fn each_period_draws_one_of_the_speeds() {
        for together in ["true", "false"] {
            let fault = format!("speeds = [1, 3]\nevery = '10ms'\ntogether = {together}");
            let seen = changes(&fault, 10_000);
            assert_eq!(seen[0].0, 0, "there is a speed from the start");
            assert!((1_000..=1_002).contains(&seen.len()), "{} draws", seen.len());
            let fast = seen.iter().filter(|(_, condition)| condition.speed == 3.0).count();
            assert!((400..600).contains(&fast), "{fast} of 1,000 are the fast one");
        }
    }

    #[test]
    fn what_is_cold_warms_up_evenly() {
        let cold = changes("cold = { factor = 5, over = '8ms' }\nfrom = '4ms'", 10).remove(0).1;
        let factor = |ms: u64| cold.cold_factor(Instant::from_nanos(ms * 1_000_000));
        assert_eq!([4, 8, 12, 100].map(factor), [5.0, 3.0, 1.0, 1.0]);
    }
}
