//! A policy and what is put around it, as the command line names it: `ll`, `ewma:3`, `hist+hedge`.

use catena_balancer::balancer::BalancerConfig;
use catena_balancer::health::HealthConfig;
use catena_balancer::policy::least_loaded::LeastLoaded;
use catena_balancer::policy::peak_ewma::{PeakEwma, PeakEwmaConfig};
use catena_balancer::policy::random::Random;
use catena_balancer::policy::round_robin::{RoundRobin, WeightedRoundRobin};
use catena_balancer::policy::{Policy, Sample};
use std::fmt;
use std::str::FromStr;

/// What is on by default around our own policy, and off around all others: what is published about
/// those was measured without.
const OURS: &str = "hist";

/// See the module page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contender {
    /// As it was named.
    text: String,
    policy: String,
    /// Endpoints are ejected, and come back.
    pub health: bool,
    /// A second copy of a slow call is sent.
    pub hedge: bool,
    /// Calls that failed are tried elsewhere.
    pub retry: bool,
}

impl Contender {
    /// The policy, new.
    pub fn policy(&self) -> Box<dyn Policy> {
        by_name(&self.policy).expect("it was tried when the name was read")
    }

    /// How a balancer behaves with it.
    pub fn config(&self) -> BalancerConfig {
        let health = if self.health { HealthConfig::default() } else { no_health() };
        BalancerConfig { health, ..BalancerConfig::default() }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(['+', '-']).unwrap_or(text.len());
        let (policy, mut rest) = text.split_at(end);
        by_name(policy)?;
        let mut contender = Contender {
            text: text.to_owned(),
            policy: policy.to_owned(),
            health: policy == OURS,
            hedge: false,
            retry: false,
        };
        while !rest.is_empty() {
            let end = rest[1..].find(['+', '-']).map_or(rest.len(), |end| end + 1);
            let (option, others) = rest.split_at(end);
            let is_on = option.starts_with('+');
            match &option[1..] {
                "health" => contender.health = is_on,
                "hedge" => contender.hedge = is_on,
                "retry" => contender.retry = is_on,
                other => {
                    return Err(format!(
                        "{text:?}: {other:?} is not known; add or take away health, hedge, retry, \
                         like hist+hedge or hist-health"
                    ));
                }
            }
            rest = others;
        }
        Ok(contender)
    }
}

/// The policies by name.
fn by_name(name: &str) -> Result<Box<dyn Policy>, String> {
    let (kind, count) = match name.split_once(':') {
        Some((kind, count)) => (kind, Some(count)),
        None => (name, None),
    };
    let sample = match count.map(str::parse::<usize>) {
        None => Sample::of(2),
        Some(Ok(count)) if (1..=8).contains(&count) => Sample::of(count),
        Some(_) => return Err(format!("{name:?}: after the colon, how many are compared: 1 to 8")),
    };
    match (kind, count) {
        ("random", None) => Ok(Box::new(Random)),
        ("rr", None) => Ok(Box::new(RoundRobin::default())),
        ("wrr", None) => Ok(Box::new(WeightedRoundRobin::default())),
        ("ll", _) => Ok(Box::new(LeastLoaded::new(sample))),
        ("ewma", _) => Ok(Box::new(PeakEwma::new(sample, PeakEwmaConfig::default()))),
        _ => Err(format!(
            "{name:?} is no policy; known are random, rr, wrr, ll, ll:D, ewma, ewma:D"
        )),
    }
}

/// Nobody is ejected, whatever happens.
fn no_health() -> HealthConfig {
    HealthConfig {
        failures_in_row: u32::MAX,
        failure_share_above_peers: f64::INFINITY,
        evidence_min: u64::MAX,
        slow_in_row: u32::MAX,
        heartbeat_interval: None,
        ..HealthConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_what_is_put_around() {
        let read = |text: &str| text.parse::<Contender>().expect(text);
        let ll = read("ll:3+hedge+health");
        assert_eq!((ll.policy.as_str(), ll.health, ll.hedge, ll.retry), ("ll:3", true, true, false));
        let rr = read("rr+retry");
        assert_eq!((rr.health, rr.hedge, rr.retry, rr.to_string().as_str()), (false, false, true, "rr+retry"));
    }

    #[test]
    fn what_is_not_known_is_named_beside_what_is() {
        for (text, hint) in
            [("best", "known are random, rr"), ("", "known are"), ("rr:2", "known are")]
        {
            let error = text.parse::<Contender>().expect_err(text);
            assert!(error.contains(hint), "{error}");
        }
        assert!("rr+speed".parse::<Contender>().is_err_and(|error| error.contains("hedge")));
        assert!("ll:9".parse::<Contender>().is_err_and(|error| error.contains("1 to 8")));
    }
}
