//! A scenario: servers, calls, and what goes wrong when. Written in TOML; those that are built in are
//! written in the same form, under `scenarios/`.

use super::values::{Distribution, Rate, ServerSet, Span, exponential};
use crate::Failure;
use catena_engine::rng::Rng;
use catena_engine::time::Duration;
use serde::Deserialize;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};

/// The scenarios that are built in, in the order of their telling.
pub const BUILT_IN: [(&str, &str); 14] = [
    ("supermarket", include_str!("../../scenarios/supermarket.toml")),
    ("beyond-round-robin", include_str!("../../scenarios/beyond-round-robin.toml")),
    ("slow-replicas", include_str!("../../scenarios/slow-replicas.toml")),
    ("load-ramp", include_str!("../../scenarios/load-ramp.toml")),
    ("rate-flips", include_str!("../../scenarios/rate-flips.toml")),
    ("fast-failing", include_str!("../../scenarios/fast-failing.toml")),
    ("flapping", include_str!("../../scenarios/flapping.toml")),
    ("cold-start", include_str!("../../scenarios/cold-start.toml")),
    ("slow-core", include_str!("../../scenarios/slow-core.toml")),
    ("gc-pauses", include_str!("../../scenarios/gc-pauses.toml")),
    ("global-slowdown", include_str!("../../scenarios/global-slowdown.toml")),
    ("pause-one", include_str!("../../scenarios/pause-one.toml")),
    ("kill-one", include_str!("../../scenarios/kill-one.toml")),
    ("rolling-restart", include_str!("../../scenarios/rolling-restart.toml")),
];

/// The longest text of a scenario in bytes, 1 MiB: those that are built in have 1 KiB.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// Most servers: a table of 10,000 is as much as one looks at.
const SERVERS_MAX: u32 = 10_000;
/// Most pairs of a client and a server: each is 23 KiB of histograms, together 2.3 GiB.
const PAIRS_MAX: u64 = 100_000;
/// Parts of the time that are told apart, unless the scenario says how long one is.
const INTERVALS_DEFAULT: u32 = 30;
/// Most of them.
const INTERVALS_MAX: f64 = 2_000.0;

/// See the module page.
#[derive(Clone, PartialEq, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One or two sentences: what it shows.
    pub about: String,
    /// Calls come for so long.
    pub duration: Span,
    /// Those that come before this are not counted.
    #[serde(default = "Scenario::no_warmup")]
    pub warmup: Span,
    /// How long a part of the time is that is told apart; a thirtieth of the duration by default.
    interval: Option<Span>,
    /// Each has a balancer of its own, and knows nothing of the others.
    #[serde(default = "Scenario::one")]
    pub clients: u32,
    /// How calls follow each other.
    #[serde(default)]
    pub arrival: Arrival,
    /// Calls a second of all clients together; or `load`.
    rate: Option<Rate>,
    /// The same in steps.
    #[serde(default)]
    load: Vec<Step>,
    /// In place of a rate: that share of what the servers can do at most, which is measured first.
    /// Live only.
    of_saturation: Option<f64>,
    /// From one step to the next the rate changes evenly, instead of at once.
    #[serde(default)]
    ramp: bool,
    /// One way.
    #[serde(default = "Scenario::no_warmup")]
    pub network: Span,
    /// A call that takes longer ends unanswered. The server works on, unless `cancel_expired`.
    pub timeout: Option<Span>,
    /// The server is told of calls that took too long, and drops them.
    #[serde(default)]
    pub cancel_expired: bool,
    /// An answer that comes later is no success.
    pub success_within: Option<Span>,
    /// Each call can go to so many neighbouring servers only, drawn at random; to all by default.
    pub replicas: Option<u32>,
    /// The servers, in groups of equal ones; at least one.
    pub servers: Vec<Group>,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// How calls follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Default, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Arrival {
    /// As those of many independent users do.
    #[default]
    Poisson,
    /// As a metronome ticks; the clients take turns.
    Const,
}

/// A rate from some time on.
#[derive(Clone, Copy, PartialEq, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// From then on.
    pub at: Span,
    /// Calls a second.
    pub rate: Rate,
}

/// Equal servers.
#[derive(Clone, PartialEq, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// How many.
    pub count: u32,
    /// How they work.
    pub model: Model,
    /// How long the work of a call takes, if nothing slows it down.
    pub time: Distribution,
    /// Of the `queue` model: calls that are worked on at a time. Default 1.
    pub workers: Option<u32>,
    /// Of the `sharing` model: cores, of which each call uses one at most.
    pub capacity: Option<f64>,
    /// What the balancer is told. Default 1.
    #[serde(default = "Scenario::one")]
    pub weight: u32,
}

/// How a server works.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// As many calls at a time as there are, each as fast as if it were alone.
    Latency,
    /// First come, first served, by so many workers.
    Queue,
    /// All calls at a time; they share the cores evenly.
    Sharing,
}

/// What goes wrong with some servers, from … until …; if `every` is given, for `lasts` in each such
/// period. Says exactly one of the things that can go wrong.
#[derive(Clone, PartialEq, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which servers.
    pub servers: ServerSet,
    /// From the start by default.
    #[serde(default = "Scenario::no_warmup")]
    pub from: Span,
    /// To the end by default.
    pub until: Option<Span>,
    every: Option<Span>,
    lasts: Option<Span>,
    /// The periods of all its servers begin together, rather than each at a time of its own.
    #[serde(default)]
    pub together: bool,

    latency: Option<Span>,
    slow: Option<f64>,
    add: Option<Span>,
    pause: Option<bool>,
    fail: Option<Span>,
    down: Option<bool>,
    drain: Option<bool>,
    cold: Option<Cold>,
    speeds: Option<Vec<f64>>,
    capacity: Option<[f64; 2]>,
}

/// Slow at first.
#[derive(Clone, Copy, PartialEq, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Cold {
    /// Work takes so many times as long at first …
    pub factor: f64,
    /// … evenly less, until it takes as long as ever after so long.
    pub over: Span,
}

/// One thing that goes wrong.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Work takes so long, whatever was drawn.
    Latency(Duration),
    /// Everything takes so many times as long, what is under way included.
    Slow(f64),
    /// Answers leave so much later.
    Add(Duration),
    /// Nothing goes on.
    Pause,
    /// Calls fail after so long, without any work.
    Fail(Duration),
    /// Calls are refused; what was under way is lost.
    Down,
    /// It is told to end, and ends when it has answered what was under way. Live only.
    Drain,
    /// It begins slowly.
    Cold(Cold),
    /// The speed is one of these, drawn anew in each period.
    Speeds(Vec<f64>),
    /// The cores of the sharing model are so many times as many, drawn anew in each period.
    Capacity(f64, f64),
}

/// When a fault is on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rhythm {
    /// All the time.
    Always,
    /// For so long in each period.
    Pulses {
        /// The period.
        every: Duration,
        /// The part of it.
        lasts: Duration,
    },
    /// All the time, and drawn anew in each period.
    Draws {
        /// The period.
        every: Duration,
    },
}

/// The rate over time.
#[derive(Clone, PartialEq, Debug)]
pub struct Load {
    /// From when (seconds), how many calls a second, and by how much that grows each second.
    pieces: Vec<(f64, f64, f64)>,
}

impl Load {
    /// The same rate all the time.
    pub fn steady(rate: f64) -> Self {
        Load { pieces: vec![(0.0, rate, 0.0)] }
    }

    /// When, in seconds, `calls` more calls than at `after` are due: the rate summed up over time.
    pub fn due(&self, after: f64, calls: f64) -> f64 {
        let (mut at, mut calls) = (after, calls);
        loop {
            let index = self.pieces.partition_point(|piece| piece.0 <= at).max(1) - 1;
            let (from, rate, growth) = self.pieces[index];
            let rate = rate + growth * (at - from);
            // Solves rate × x + growth × x² / 2 = calls.
            let root = rate.mul_add(rate, 2.0 * growth * calls).max(0.0).sqrt();
            let due = at + 2.0 * calls / (rate + root);
            let end = self.pieces.get(index + 1).map_or(f64::INFINITY, |next| next.0);
            if due <= end {
                return due;
            }
            let passed = end - at;
            calls -= passed * (rate + growth * passed / 2.0);
            (at, calls) = (end, calls.max(0.0));
        }
    }

    /// The next call after `after`, in seconds.
    pub fn next(&self, after: f64, arrival: Arrival, rng: &mut Rng) -> f64 {
        let calls = match arrival {
            Arrival::Poisson => exponential(rng),
            Arrival::Const => 1.0,
        };
        self.due(after, calls)
    }
}

impl Scenario {
    /// One that is built in, or from a file.
    pub fn load(name_or_file: &str) -> Result<Scenario, Failure> {
        Scenario::parse(&Scenario::text(name_or_file)?)
            .map_err(|error| format!("scenario {name_or_file}: {error}").into())
    }

    /// As it is written.
    pub fn text(name_or_file: &str) -> Result<String, Failure> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_file) {
            return Ok((*text).to_owned());
        }
        let names = super::built_in();
        read_up_to(TEXT_BYTES_MAX, name_or_file).map_err(|error| {
            format!(
                "--scenario {name_or_file:?} is not built in, and cannot be read as a file \
                 ({error}); built in are {names}"
            )
            .into()
        })
    }

    /// From TOML. An error names the field that is wrong.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The rate over time.
    pub fn rates(&self) -> Load {
        if let Some(Rate(rate)) = self.rate {
            return Load::steady(rate);
        }
        let pieces = self.load.iter().enumerate().map(|(index, step)| {
            let (at, rate) = (step.at.0.as_secs_f64(), step.rate.0);
            let growth = match self.load.get(index + 1).filter(|_| self.ramp) {
                Some(next) => (next.rate.0 - rate) / (next.at.0.as_secs_f64() - at),
                None => 0.0,
            };
            (at, rate, growth)
        });
        Load { pieces: pieces.collect() }
    }

    /// From when on, and how many calls a second: what is told apart as a step.
    pub fn steps(&self) -> Vec<(Duration, f64)> {
        match self.rate {
            Some(Rate(rate)) => vec![(Duration::ZERO, rate)],
            None => self.load.iter().map(|step| (step.at.0, step.rate.0)).collect(),
        }
    }

    /// This rate all the time, in place of what the scenario says.
    pub fn set_rate(&mut self, rate: f64) {
        self.rate = Some(Rate(rate));
        self.load.clear();
        self.of_saturation = None;
    }

    /// That share of what the servers can do at most, in place of what the scenario says.
    pub fn set_of_saturation(&mut self, share: f64) {
        self.rate = None;
        self.load.clear();
        self.of_saturation = Some(share);
    }

    /// Set if the rate is still to be found: it is that share of what the servers can do at most.
    pub fn of_saturation(&self) -> Option<f64> {
        self.of_saturation
    }

    /// So many servers, in place of what the scenario says.
    pub fn set_server_count(&mut self, count: u32) -> Result<(), String> {
        let [group] = self.servers.as_mut_slice() else {
            return Err("the scenario has several groups of servers; of which one?".to_owned());
        };
        group.count = count;
        self.check()
    }

    /// What cannot be simulated is refused.
    pub fn check_simulated(&self) -> Result<(), String> {
        if self.of_saturation.is_some() {
            let hint = "is measured on real servers: say --live, or --rate with calls a second";
            return Err(format!("of_saturation: {hint}"));
        }
        match self.faults.iter().position(|fault| fault.drain.is_some()) {
            Some(index) => {
                Err(format!("faults[{index}].drain: shows with real servers only: --live"))
            }
            None => Ok(()),
        }
    }

    /// Calls come for so long, in place of what the scenario says.
    pub fn set_duration(&mut self, duration: Duration) -> Result<(), String> {
        self.duration = Span(duration);
        self.check()
    }

    /// The length of the parts of the time that are told apart.
    pub fn interval(&self) -> Duration {
        self.interval.map_or(self.duration.0 / INTERVALS_DEFAULT, |interval| interval.0)
    }

    /// How many servers there are.
    pub fn server_count(&self) -> u32 {
        self.servers.iter().map(|group| group.count).sum()
    }

    fn no_warmup() -> Span {
        Span(Duration::ZERO)
    }

    fn one() -> u32 {
        1
    }

    /// Finds what TOML cannot.
    fn check(&self) -> Result<(), String> {
        let positive = |field: &str, span: Option<Span>| match span {
            Some(span) if span.0.is_zero() => Err(format!("{field}: must be longer than 0")),
            _ => Ok(()),
        };
        positive("duration", Some(self.duration))?;
        positive("interval", self.interval)?;
        positive("timeout", self.timeout)?;
        positive("success_within", self.success_within)?;
        if self.warmup.0 >= self.duration.0 {
            return Err("warmup: must be shorter than duration, or nothing is counted".to_owned());
        }
        if self.duration.0.as_secs_f64() / self.interval().as_secs_f64() > INTERVALS_MAX {
            return Err(format!("interval: more than {INTERVALS_MAX} of them in the duration"));
        }
        self.check_load()?;
        self.check_servers()?;
        let count = self.server_count();
        for (index, fault) in self.faults.iter().enumerate() {
            fault.check(count).map_err(|error| format!("faults[{index}].{error}"))?;
        }
        Ok(())
    }

    fn check_load(&self) -> Result<(), String> {
        if let Some(share) = self.of_saturation {
            return match (self.rate, self.load.as_slice()) {
                (None, []) if share > 0.0 && share <= 1.0 => Ok(()),
                (None, []) => Err("of_saturation: must be above 0, and 1 at most".to_owned()),
                _ => Err("of_saturation: there is a rate or load, too; say one of them".to_owned()),
            };
        }
        match (self.rate, self.load.as_slice()) {
            (Some(_), []) => Ok(()),
            (Some(_), _) => Err("rate: there is a load, too; say one of the two".to_owned()),
            (None, []) => Err("rate: is missing; say calls a second, or [[load]]".to_owned()),
            (None, [first, ..]) if !first.at.0.is_zero() => {
                Err("load[0].at: must be \"0s\": what is before it?".to_owned())
            }
            (None, steps) => match (1..steps.len()).find(|&n| steps[n].at.0 <= steps[n - 1].at.0) {
                Some(n) => Err(format!("load[{n}].at: must be later than that of the one before")),
                None => Ok(()),
            },
        }
    }

    fn check_servers(&self) -> Result<(), String> {
        if self.servers.is_empty() {
            return Err("servers: there must be one".to_owned());
        }
        for (index, group) in self.servers.iter().enumerate() {
            group.check().map_err(|error| format!("servers[{index}].{error}"))?;
        }
        let count = self.servers.iter().map(|group| u64::from(group.count)).sum::<u64>();
        if count > u64::from(SERVERS_MAX) {
            return Err(format!("servers: {count} are more than {SERVERS_MAX}"));
        }
        if self.clients == 0 {
            return Err("clients: there must be one".to_owned());
        }
        if u64::from(self.clients) * count > PAIRS_MAX {
            let clients = self.clients;
            return Err(format!(
                "clients: {clients} of them and {count} servers make more than {PAIRS_MAX} pairs, \
                 each of which takes 23 KiB"
            ));
        }
        match self.replicas {
            Some(replicas) if replicas == 0 || u64::from(replicas) > count => {
                Err(format!("replicas: must be between 1 and the number of servers, {count}"))
            }
            _ => Ok(()),
        }
    }
}

impl Group {
    fn check(&self) -> Result<(), String> {
        let misplaced = |field: &str, model: &str| {
            Err(format!("{field}: means something for the {model} model only"))
        };
        match (self.model, self.workers, self.capacity) {
            _ if self.count == 0 => Err("count: must be positive".to_owned()),
            _ if self.weight == 0 => Err("weight: must be positive".to_owned()),
            _ if self.time.is_zero() => {
                Err(format!("time: {} is no work at all; say how long it takes", self.time))
            }
            (Model::Latency | Model::Sharing, Some(_), _) => misplaced("workers", "queue"),
            (Model::Latency | Model::Queue, _, Some(_)) => misplaced("capacity", "sharing"),
            (Model::Queue, Some(0), _) => Err("workers: must be positive".to_owned()),
            (Model::Sharing, _, None) => Err("capacity: is missing; say cores".to_owned()),
            (Model::Sharing, _, Some(cores)) if !is_factor(cores) => {
                Err(format!("capacity: {cores} is not between 0.001 and 1000"))
            }
            _ => Ok(()),
        }
    }
}

impl Fault {
    /// What goes wrong.
    pub fn effect(&self) -> Result<Effect, String> {
        let on = |field: &str, flag: Option<bool>, effect: Effect| match flag {
            Some(false) => Err(format!("{field}: can only be true")),
            Some(true) => Ok(Some(effect)),
            None => Ok(None),
        };
        let factor = |field: &str, factor: f64| match is_factor(factor) {
            true => Ok(factor),
            false => Err(format!("{field}: {factor} is not between 0.001 and 1000")),
        };
        let said = [
            self.latency.map(|span| Effect::Latency(span.0)),
            self.slow.map(|by| factor("slow", by)).transpose()?.map(Effect::Slow),
            self.add.map(|span| Effect::Add(span.0)),
            on("pause", self.pause, Effect::Pause)?,
            self.fail.map(|span| Effect::Fail(span.0)),
            on("down", self.down, Effect::Down)?,
            on("drain", self.drain, Effect::Drain)?,
            self.cold.map(Effect::Cold),
            self.speeds.clone().map(Effect::Speeds),
            self.capacity.map(|[low, high]| Effect::Capacity(low, high)),
        ];
        let mut said = said.into_iter().flatten();
        let all = "latency, slow, add, pause, fail, down, drain, cold, speeds, capacity";
        let effect =
            said.next().ok_or_else(|| format!("servers: what is with them? One of {all}"))?;
        match (&effect, said.next()) {
            (_, Some(_)) => {
                return Err(format!("servers: say only one of {all}; more faults for more"));
            }
            (Effect::Cold(cold), _) => {
                factor("cold.factor", cold.factor)?;
            }
            (Effect::Speeds(speeds), _) if speeds.is_empty() => {
                return Err("speeds: there must be one".to_owned());
            }
            (Effect::Speeds(speeds), _) => {
                speeds.iter().try_for_each(|speed| factor("speeds", *speed).map(drop))?;
            }
            (Effect::Capacity(low, high), _) => {
                factor("capacity", *low)?;
                factor("capacity", *high)?;
                if low > high {
                    return Err("capacity: from the lower to the higher".to_owned());
                }
            }
            _ => {}
        }
        Ok(effect)
    }

    /// When it is on.
    pub fn rhythm(&self) -> Result<Rhythm, String> {
        let is_drawn = self.speeds.is_some() || self.capacity.is_some();
        match (self.every, self.lasts) {
            (Some(Span(every)), _) if every < Duration::from_micros(10) => {
                Err("every: must be 10 us at least".to_owned())
            }
            (Some(Span(every)), None) if is_drawn => Ok(Rhythm::Draws { every }),
            (Some(_), Some(_)) if is_drawn => Err("lasts: it is on all the time".to_owned()),
            (None, _) if is_drawn => Err("every: is missing; how often is it drawn?".to_owned()),
            (Some(Span(every)), Some(Span(lasts))) if lasts < every && !lasts.is_zero() => {
                Ok(Rhythm::Pulses { every, lasts })
            }
            (Some(_), Some(_)) => Err("lasts: must be between 0 and every".to_owned()),
            (Some(_), None) => Err("lasts: is missing; for how long of each period?".to_owned()),
            (None, Some(_)) => Err("every: is missing; how often?".to_owned()),
            (None, None) => Ok(Rhythm::Always),
        }
    }

    fn check(&self, count: u32) -> Result<(), String> {
        match self.servers.of(count) {
            Ok(servers) if servers.is_empty() => {
                return Err("servers: there must be one".to_owned());
            }
            Err(server) => {
                return Err(format!("servers: there is no {server}; there are 0 to {}", count - 1));
            }
            Ok(_) => {}
        }
        if self.until.is_some_and(|until| until.0 <= self.from.0) {
            return Err("until: must be later than from".to_owned());
        }
        self.effect()?;
        self.rhythm()?;
        Ok(())
    }
}

impl Effect {
    /// In a word or two, for legends.
    pub fn label(&self) -> String {
        let ms = |duration: &Duration| number(duration.as_secs_f64() * 1e3);
        match self {
            Effect::Latency(latency) => format!("latency {} ms", ms(latency)),
            Effect::Slow(factor) => format!("{} x slow", number(*factor)),
            Effect::Add(add) => format!("+{} ms", ms(add)),
            Effect::Pause => "pauses".to_owned(),
            Effect::Fail(_) => "fails".to_owned(),
            Effect::Down => "down".to_owned(),
            Effect::Drain => "drains".to_owned(),
            Effect::Cold(_) => "cold".to_owned(),
            Effect::Speeds(_) => "speed flips".to_owned(),
            Effect::Capacity(..) => "capacity varies".to_owned(),
        }
    }
}

/// The text of a file that is no longer than that.
fn read_up_to(bytes_max: u64, path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        let what = format!("it is longer than {} MiB, which no scenario is", bytes_max >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

fn is_factor(factor: f64) -> bool {
    (0.001..=1_000.0).contains(&factor)
}

fn number(number: impl Display) -> String {
    format!("{number}")
}
