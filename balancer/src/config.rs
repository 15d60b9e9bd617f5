//! What every configuration has to keep to: checked once, with an error that names the value.
//!
//! Constructors believe what they are given, and panic on what `validate` refuses: whoever takes
//! values from outside calls `validate` first, and tells its error. The bounds keep arithmetic finite and
//! nothing unbounded; most are far wider than anything that makes sense.

use crate::balancer::{BalancerConfig, HedgeConfig};
use crate::budget::BudgetConfig;
use crate::client::BalancedConfig;
use crate::health::HealthConfig;
use crate::histogram::LATENCY_MAX;
use crate::policy::COMPARE_ALL_MAX;
use crate::policy::c3::C3Config;
use crate::policy::hist::HistConfig;
use crate::policy::peak_ewma::PeakEwmaConfig;
use crate::policy::prequal::PrequalConfig;
use crate::proxy::ProxyConfig;
use catena_engine::relay::TRIES_MAX;
use catena_engine::time::Duration;
use std::fmt;

/// The greatest weight of an endpoint: two endpoints differ by no more than a machine of a few cores and
/// the largest there are do, and sums of weights stay exact in single precision.
pub const WEIGHT_MAX: u32 = 10_000;
/// The most often that one call is sent: past ten failures the eleventh is no use.
const ATTEMPTS_MAX: u32 = 10;
/// The most calls that any rule waits for: some hours' worth of few calls.
const CALLS_MAX: u64 = 1_000_000;
/// The longest pause, window or memory.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MILLI: Duration = Duration::from_millis(1);

/// A configuration value that is out of its bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Which value, with the configurations that it is in: `health.slow_factor`.
    pub field: String,
    /// What it was.
    pub value: String,
    /// What it may be: `between 1 and 100`.
    pub bounds: String,
}

impl ConfigError {
    /// The same of a configuration that is the field `outer` of another.
    pub fn within(self, outer: &str) -> Self {
        ConfigError { field: format!("{outer}.{}", self.field), ..self }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}; it must be {}", self.field, self.value, self.bounds)
    }
}

impl std::error::Error for ConfigError {}

/// Refuses a value that is not from `low` to `high`; no number is out of all bounds.
pub(crate) fn between<T: PartialOrd + fmt::Debug>(
    field: &str,
    value: T,
    low: T,
    high: T,
) -> Result<(), ConfigError> {
    if low <= value && value <= high {
        return Ok(());
    }
    Err(ConfigError {
        field: field.to_owned(),
        value: format!("{value:?}"),
        bounds: format!("between {low:?} and {high:?}"),
    })
}

/// Refuses to construct `what` of values that were not checked.
pub(crate) fn believe(what: &str, checked: Result<(), ConfigError>) {
    checked.unwrap_or_else(|error| panic!("{what} cannot be made: {error}"));
}

impl BalancedConfig {
    /// Checks every value against its bounds, those of the parts included.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let BalancedConfig { balancer, client, attempts_max, timeout } = self;
        balancer.validate().map_err(|error| error.within("balancer"))?;
        client.validate().map_err(of_client)?;
        between("attempts_max", *attempts_max, 1, ATTEMPTS_MAX)?;
        between("timeout", *timeout, MILLI, DAY)
    }
}

impl ProxyConfig {
    /// Checks every value against its bounds, those of the parts included.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ProxyConfig { balancer, client, relay, attempts_max, patience } = self;
        balancer.validate().map_err(|error| error.within("balancer"))?;
        client.validate().map_err(of_client)?;
        relay.validate().map_err(|error| of_engine(&error, error.name.to_owned()))?;
        between("attempts_max", *attempts_max, 1, TRIES_MAX)?;
        between("patience", *patience, MILLI, DAY)
    }
}

fn of_client(error: catena_engine::config::ConfigError) -> ConfigError {
    let field = match error.name.strip_prefix("client.") {
        Some(_) => error.name.to_owned(),
        None => format!("client.connection.{}", error.name),
    };
    of_engine(&error, field)
}

fn of_engine(error: &catena_engine::config::ConfigError, field: String) -> ConfigError {
    let bounds = format!("between {} and {}", error.low, error.high);
    ConfigError { field, value: error.value.to_string(), bounds }
}

impl BalancerConfig {
    /// Checks every value against its bounds, those of the parts included.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let BalancerConfig { health, budget, hedge, explain } = self;
        // Either is right.
        let _: &bool = explain;
        health.validate().map_err(|error| error.within("health"))?;
        budget.validate().map_err(|error| error.within("budget"))?;
        hedge.validate().map_err(|error| error.within("hedge"))
    }
}

impl HedgeConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let HedgeConfig { delay_min, evidence_min } = *self;
        between("delay_min", delay_min, Duration::ZERO, LATENCY_MAX)?;
        between("evidence_min", evidence_min, 1, CALLS_MAX)
    }
}

impl BudgetConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let BudgetConfig { share, reserve_per_second, hedge_share, memory } = *self;
        // More than as many extra calls as first ones is no budget.
        between("share", share, 0.0, 1.0)?;
        between("reserve_per_second", reserve_per_second, 0.0, CALLS_MAX as f64)?;
        between("hedge_share", hedge_share, 0.0, 1.0)?;
        between("memory", memory, MILLI, DAY)
    }
}

impl HealthConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Named one by one, so that none is forgotten when there is a new one.
        let HealthConfig {
            ejects: _,
            failures_in_row,
            failure_share_above_peers,
            failure_share_calls_min,
            review_interval,
            slow_in_row,
            slow_factor,
            evidence_min,
            ejected_share_max,
            pause_min,
            pause_max,
            slow_start_answers,
            slow_start_share_min,
            phi_max,
            heartbeat_interval,
        } = *self;
        let calls_max = CALLS_MAX as u32;
        between("failures_in_row", failures_in_row, 1, u16::MAX.into())?;
        between("failure_share_above_peers", failure_share_above_peers, 0.0, 1.0)?;
        between("failure_share_calls_min", failure_share_calls_min, 1, calls_max)?;
        between("review_interval", review_interval, MILLI, DAY)?;
        between("slow_in_row", slow_in_row, 1, u16::MAX.into())?;
        between("slow_factor", slow_factor, 1.0, 1e6)?;
        between("evidence_min", evidence_min, 1, CALLS_MAX)?;
        between("ejected_share_max", ejected_share_max, 0.0, 1.0)?;
        between("pause_min", pause_min, MILLI, DAY)?;
        between("pause_max", pause_max, pause_min, DAY)?;
        between("slow_start_answers", slow_start_answers, 0, calls_max)?;
        between("slow_start_share_min", slow_start_share_min, 0.0, 1.0)?;
        between("phi_max", phi_max, 1.0, 300.0)?;
        heartbeat_interval.map_or(Ok(()), |it| between("heartbeat_interval", it, MILLI, DAY))
    }
}

impl HistConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let HistConfig { choices, explore_share, explore_age, told_fade } = *self;
        between("choices", choices, 1, COMPARE_ALL_MAX)?;
        between("explore_share", explore_share, 0.0, 1.0)?;
        between("explore_age", explore_age, Duration::ZERO, DAY)?;
        between("told_fade", told_fade, Duration::from_nanos(1), DAY)
    }
}

impl PeakEwmaConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let PeakEwmaConfig { decay, default_latency } = *self;
        between("decay", decay, Duration::from_micros(1), DAY)?;
        between("default_latency", default_latency, Duration::ZERO, LATENCY_MAX)
    }
}

impl C3Config {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let C3Config { clients, alpha } = *self;
        between("clients", clients, 1, CALLS_MAX as u32)?;
        between("alpha", alpha, 0.0, 1.0)
    }
}

impl PrequalConfig {
    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let PrequalConfig { probes, removals, pool_max, age_max, hot_quantile, delta, piggyback } =
            *self;
        // Either is right.
        let _: bool = piggyback;
        between("probes", probes, 0.0, 100.0)?;
        between("removals", removals, 0.0, 100.0)?;
        // The best of one is no choice.
        between("pool_max", pool_max, 2, 10_000)?;
        between("age_max", age_max, Duration::from_micros(1), DAY)?;
        between("hot_quantile", hot_quantile, 0.0, 1.0)?;
        between("delta", delta, 0.0, 1e6)
    }
}

/// Of `known`, the one that `name` was most likely meant to be; `None`: it is like none of them.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |other: &&str| edits(name, other);
    let close = |other: &&str| edits(name, other) <= 1 + other.chars().count() / 3;
    known.into_iter().filter(close).min_by_key(distance)
}

/// How many characters have to be put in, taken out or replaced (Levenshtein's distance).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, one) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(one != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests;
