//! A policy and what is put around it, as the command line names it: `ll`, `ewma:3`, `hist+hedge`.

use super::scenario::Scenario;
use catena_balancer::balancer::BalancerConfig;
use catena_balancer::health::HealthConfig;
use catena_balancer::policy::c3::{C3, C3Config};
use catena_balancer::policy::prequal::{Prequal, PrequalConfig};
use catena_balancer::policy::{Policy, by_name};
use std::fmt;
use std::str::FromStr;

/// What is on by default around our own policy, and off around all others: what is published about
/// those was measured without.
const OURS: &str = "hist";
/// What can be put around a policy.
const OPTIONS: [&str; 3] = ["health", "hedge", "retry"];

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
    /// The policy, new, for one of the clients of a scenario.
    pub fn policy(&self, scenario: &Scenario) -> Box<dyn Policy> {
        let prequal = |config: PrequalConfig| {
            // Where a call has but a few replicas, a pool of 16 random servers would seldom hold two of
            // them: the pool has room for all then.
            let all = scenario.replicas.map_or(0, |_| scenario.server_count() as usize);
            let pool_max = config.pool_max.max(all);
            Box::new(Prequal::new(PrequalConfig { pool_max, ..config }))
        };
        match self.policy.as_str() {
            // Its rule has the number of clients in it.
            "c3" => {
                Box::new(C3::new(C3Config { clients: scenario.clients, ..C3Config::default() }))
            }
            "prequal" => prequal(PrequalConfig::default()),
            "prequal-piggyback" => prequal(PrequalConfig::piggybacked()),
            other => by_name(other).expect("it was tried when the name was read"),
        }
    }

    /// How a balancer behaves with it.
    pub fn config(&self) -> BalancerConfig {
        let health = HealthConfig { ejects: self.health, ..HealthConfig::default() };
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
        // A policy's own name may hold a hyphen.
        let is_option = |rest: &str| OPTIONS.iter().any(|option| rest[1..].starts_with(option));
        let marks = text.match_indices(['+', '-']).map(|(at, _)| at);
        let end = marks
            .clone()
            .find(|&at| text[at..].starts_with('+') || is_option(&text[at..]))
            .unwrap_or(text.len());
        let (policy, mut rest) = text.split_at(end);
        by_name(policy).map_err(|error| error.to_string())?;
        let mut contender = Contender {
            text: text.to_owned(),
            policy: policy.to_owned(),
            health: policy.split(':').next() == Some(OURS),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_what_is_put_around() {
        let read = |text: &str| text.parse::<Contender>().expect(text);
        let ll = read("ll:3+hedge+health");
        assert_eq!(
            (ll.policy.as_str(), ll.health, ll.hedge, ll.retry),
            ("ll:3", true, true, false)
        );
        let ours = read("hist:4-health");
        assert_eq!(
            (ours.policy.as_str(), ours.health, read("hist").health),
            ("hist:4", false, true)
        );
        assert_eq!(read("prequal-piggyback+hedge").policy, "prequal-piggyback");
        let rr = read("rr+retry");
        assert_eq!(
            (rr.health, rr.hedge, rr.retry, rr.to_string().as_str()),
            (false, false, true, "rr+retry")
        );
    }

    #[test]
    fn all_are_configurations_that_clients_take() {
        for text in ["rr", "hist", "ll+health+hedge+retry"] {
            let contender: Contender = text.parse().expect(text);
            contender.config().validate().expect(text);
        }
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
        assert!("ll:9".parse::<Contender>().is_err_and(|error| error.contains("between 1 and 8")));
    }
}
