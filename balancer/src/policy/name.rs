//! Policies by name, for command lines and configuration files.

use super::c3::{C3, C3Config};
use super::hist::{Hist, HistConfig};
use super::least_loaded::LeastLoaded;
use super::peak_ewma::{PeakEwma, PeakEwmaConfig};
use super::prequal::{Prequal, PrequalConfig};
use super::random::Random;
use super::round_robin::{RoundRobin, WeightedRoundRobin};
use super::{Policy, Sample};
use crate::config::nearest;
use std::fmt;

/// What there is.
const KNOWN: &str = "random, rr, wrr, ll[:D], ewma[:D], c3, prequal, prequal-piggyback, hist[:D]";

/// The policy called so: `random`, `rr` (round robin), `wrr` (weighted), `ll` (least loaded), `ewma` (peak
/// EWMA), `c3`, `prequal`, `prequal-piggyback` (answers are its probes), `hist` (ours). `:D` says how many
/// candidates are drawn to be compared: 2 unless said otherwise. `hist` compares all of eight or fewer, and
/// others than those drawn too.
///
/// # Errors
/// There is none of that name, or it does not compare so many.
pub fn by_name(name: &str) -> Result<Box<dyn Policy>, UnknownPolicy> {
    let unknown = |why: &str| UnknownPolicy { name: name.to_owned(), why: why.to_owned() };
    let (kind, choices) = match name.split_once(':') {
        None => (name, None),
        Some((kind @ ("ll" | "ewma" | "hist"), count)) => {
            let count = count.parse().ok();
            let checked = count.filter(|count| Sample::checked(*count).is_ok());
            (kind, Some(checked.ok_or_else(|| unknown("between 1 and 8 candidates are compared"))?))
        }
        Some((kind, _)) if names().any(|known| known == kind) => {
            return Err(unknown("it takes no number of candidates"));
        }
        Some((kind, _)) => (kind, None),
    };
    let sample = Sample::of(choices.unwrap_or(2));
    Ok(match kind {
        "random" => Box::new(Random),
        "rr" => Box::<RoundRobin>::default(),
        "wrr" => Box::<WeightedRoundRobin>::default(),
        "ll" => Box::new(LeastLoaded::new(sample)),
        "ewma" => Box::new(PeakEwma::new(sample, PeakEwmaConfig::default())),
        "c3" => Box::new(C3::new(C3Config::default())),
        "prequal" => Box::new(Prequal::new(PrequalConfig::default())),
        "prequal-piggyback" => Box::new(Prequal::new(PrequalConfig::piggybacked())),
        "hist" => {
            let config = HistConfig::default();
            let choices = choices.unwrap_or(config.choices);
            Box::new(Hist::new(HistConfig { choices, ..config }))
        }
        _ => {
            let hint = nearest(kind, names()).map(|name| format!("; did you mean {name}?"));
            let why = format!("there is none of that name{}", hint.unwrap_or_default());
            return Err(unknown(&why));
        }
    })
}

fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.split(", ").map(|name| name.trim_end_matches("[:D]"))
}

/// A name that is no policy's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownPolicy {
    name: String,
    why: String,
}

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {:?}: {}; known are {KNOWN}", self.name, self.why)
    }
}

impl std::error::Error for UnknownPolicy {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_are_known_are_there() {
        for name in KNOWN.split(", ") {
            let plain = name.trim_end_matches("[:D]");
            assert!(by_name(plain).is_ok(), "{plain}");
            assert_eq!(by_name(&format!("{plain}:3")).is_ok(), name.ends_with("[:D]"), "{name}");
        }
    }

    #[test]
    fn a_slip_is_answered_with_what_was_meant() {
        for (name, meant) in
            [("hits", "hist"), ("prequel", "prequal"), ("Rr", "rr"), ("emwa:3", "ewma")]
        {
            let error = by_name(name).expect_err("it is a slip").to_string();
            assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
        }
        let error = by_name("nonsense").expect_err("like none").to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_named() {
        for name in ["p2c", "ll:0", "ll:9", "ll:x", "rr:2", ""] {
            let error = by_name(name).expect_err("there is no such thing").to_string();
            assert!(error.contains(&format!("{name:?}")) && error.contains("hist"), "{error}");
        }
    }
}
