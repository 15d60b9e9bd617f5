//! Values as a scenario writes them: spans of time, distributions, rates, sets of servers.

use catena_cli::units::{parse_duration, parse_rate};
use catena_engine::rng::Rng;
use catena_engine::time::Duration;
use serde::{Deserialize, Deserializer, de};
use std::f64::consts::TAU;
use std::fmt;
use std::str::FromStr;

/// A span of time: `"250us"`, `"4ms"`, `"15s"`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Span).map_err(de::Error::custom)
    }
}

/// Calls a second: `1500`, `0.5`, `"70k"`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate(pub f64);

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a rate is a number or a text like \"70k\"")]
        enum Written {
            Number(f64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        parse_rate(&text).map(Rate).map_err(de::Error::custom)
    }
}

/// The most that a lognormal's logarithm may deviate by: its mean is 268,337 times its median then, and
/// what simulations are made of deviates by 2 at most.
const SIGMA_MAX: f64 = 5.0;
/// The longest mean of a lognormal, in seconds: as long as any span of time that can be written.
const MEAN_SECS_MAX: f64 = 86_400.0;

/// How long something takes, as a law of chance.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// `const:T`
    Const(Duration),
    /// `exp:MEAN`
    Exp(Duration),
    /// `normal:MEAN,DEVIATION`, of which what would be below zero is drawn again.
    Normal(Duration, Duration),
    /// `lognormal:MEDIAN,SIGMA`: its logarithm deviates by sigma.
    LogNormal(Duration, f64),
    /// `bimodal:T,OTHER,SHARE`: the other one in a share of all cases.
    Bimodal(Duration, Duration, f64),
    /// `uniform:LOW,HIGH`
    Uniform(Duration, Duration),
}

impl Distribution {
    /// True if it takes no time, whatever is drawn.
    pub fn is_zero(&self) -> bool {
        match *self {
            Distribution::Const(only) | Distribution::Exp(only) => only.is_zero(),
            Distribution::LogNormal(median, _) => median.is_zero(),
            Distribution::Normal(one, other)
            | Distribution::Bimodal(one, other, _)
            | Distribution::Uniform(one, other) => one.is_zero() && other.is_zero(),
        }
    }

    /// One of them, in nanoseconds.
    pub fn draw(&self, rng: &mut Rng) -> f64 {
        let nanos = |duration: Duration| duration.as_nanos() as f64;
        match *self {
            Distribution::Const(duration) => nanos(duration),
            Distribution::Exp(mean) => nanos(mean) * exponential(rng),
            Distribution::Normal(mean, deviation) => loop {
                let drawn = nanos(mean) + nanos(deviation) * normal(rng);
                if drawn >= 0.0 {
                    return drawn;
                }
            },
            Distribution::LogNormal(median, sigma) => nanos(median) * (sigma * normal(rng)).exp(),
            Distribution::Bimodal(one, other, share) => {
                nanos(if rng.chance(share) { other } else { one })
            }
            Distribution::Uniform(low, high) => {
                nanos(low) + (nanos(high) - nanos(low)) * rng.unit()
            }
        }
    }
}

impl fmt::Display for Distribution {
    /// As it is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |time: Duration| format!("{}us", time.as_nanos() as f64 / 1e3);
        match *self {
            Distribution::Const(time) => write!(f, "const:{}", us(time)),
            Distribution::Exp(mean) => write!(f, "exp:{}", us(mean)),
            Distribution::Normal(mean, by) => write!(f, "normal:{},{}", us(mean), us(by)),
            Distribution::LogNormal(median, sigma) => {
                write!(f, "lognormal:{},{sigma}", us(median))
            }
            Distribution::Bimodal(one, other, share) => {
                write!(f, "bimodal:{},{},{share}", us(one), us(other))
            }
            Distribution::Uniform(low, high) => write!(f, "uniform:{},{}", us(low), us(high)),
        }
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no distribution; say const:T, exp:MEAN, normal:MEAN,DEVIATION, \
                 lognormal:MEDIAN,SIGMA, bimodal:T,OTHER,SHARE or uniform:LOW,HIGH"
            )
        };
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let words: Vec<&str> = rest.split(',').map(str::trim).collect();
        let time = parse_duration;
        let number = |text: &str| match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
            _ => Err(format!("{text:?} is no positive number")),
        };
        let distribution = match (kind, words.as_slice()) {
            ("const", [t]) => Distribution::Const(time(t)?),
            ("exp", [mean]) => Distribution::Exp(time(mean)?),
            ("normal", [mean, by]) => Distribution::Normal(time(mean)?, time(by)?),
            ("lognormal", [median, sigma]) => {
                let (median, sigma) = (time(median)?, number(sigma)?);
                if sigma > SIGMA_MAX {
                    return Err(format!("{text:?}: sigma is at most {SIGMA_MAX}"));
                }
                if median.as_secs_f64() * (sigma * sigma / 2.0).exp() > MEAN_SECS_MAX {
                    return Err(format!("{text:?}: its mean is longer than 24h"));
                }
                Distribution::LogNormal(median, sigma)
            }
            ("bimodal", [one, other, share]) => {
                let share = number(share)?;
                if share > 1.0 {
                    return Err(format!("{text:?}: a share is at most 1"));
                }
                Distribution::Bimodal(time(one)?, time(other)?, share)
            }
            ("uniform", [low, high]) => {
                let (low, high) = (time(low)?, time(high)?);
                if low > high {
                    return Err(format!("{text:?}: from the lower to the higher"));
                }
                Distribution::Uniform(low, high)
            }
            _ => return Err(wrong()),
        };
        Ok(distribution)
    }
}

impl<'de> Deserialize<'de> for Distribution {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Exponential, of mean 1.
pub fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - rng.unit()).ln()
}

/// Normal, of mean 0 and deviation 1 (Box and Muller; the second one is not kept).
fn normal(rng: &mut Rng) -> f64 {
    (2.0 * exponential(rng)).sqrt() * (TAU * rng.unit()).cos()
}

/// Some of the servers, counted from 0 over all groups: `"all"`, `"0-3,7"`, `[0, 1]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServerSet {
    /// All there are.
    All,
    /// From … to, both included; ascending, and none twice.
    Ranges(Vec<(u32, u32)>),
}

impl ServerSet {
    /// Those of `count` servers that are meant, ascending; or the first that is not among them.
    pub fn of(&self, count: u32) -> Result<Vec<u32>, u32> {
        let ranges = match self {
            ServerSet::All => return Ok((0..count).collect()),
            ServerSet::Ranges(ranges) => ranges,
        };
        if let Some(&(_, last)) = ranges.iter().find(|(_, last)| *last >= count) {
            return Err(last);
        }
        Ok(ranges.iter().flat_map(|&(a, b)| a..=b).collect())
    }

    /// A server that is named twice is a slip: its fault would not be on twice.
    fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Result<Self, String> {
        ranges.sort_unstable();
        match ranges.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            Some(pair) => Err(format!("server {} is named twice", pair[1].0)),
            None => Ok(ServerSet::Ranges(ranges)),
        }
    }
}

impl FromStr for ServerSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(ServerSet::All);
        }
        let wrong = || format!("{text:?} names no servers; say \"all\", \"0-3,7\" or [0, 1]");
        let ranges = text.split(',').map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
            let (first, last) = (number(first)?, number(last)?);
            if first <= last { Ok((first, last)) } else { Err(wrong()) }
        });
        ServerSet::from_ranges(ranges.collect::<Result<_, _>>()?)
    }
}

impl<'de> Deserialize<'de> for ServerSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "servers are \"all\", \"0-3,7\" or [0, 1]")]
        enum Written {
            List(Vec<u32>),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::List(list) => {
                let ranges = list.iter().map(|&n| (n, n)).collect();
                ServerSet::from_ranges(ranges).map_err(de::Error::custom)
            }
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_have_the_means_they_say() {
        let mut rng = Rng::from_seed(1);
        for (text, mean) in [
            ("const:2ms", 2.0),
            ("exp:4ms", 4.0),
            ("normal:10ms,2ms", 10.0),
            // Of a normal one cut at zero: mean + deviation x density(1) / probability(1).
            ("normal:39ms,39ms", 39.0 * 1.2876),
            ("lognormal:1ms,0.5", (0.5f64 * 0.25).exp()),
            ("bimodal:1ms,11ms,0.1", 2.0),
            ("uniform:2ms,4ms", 3.0),
        ] {
            let distribution: Distribution = text.parse().expect(text);
            assert_eq!(distribution.to_string().parse(), Ok(distribution), "{text}");
            let count = 100_000;
            let sum: f64 = (0..count).map(|_| distribution.draw(&mut rng)).sum();
            let drawn = sum / f64::from(count) / 1e6;
            assert!((drawn / mean - 1.0).abs() < 0.015, "{text}: {drawn} for {mean}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            "",
            "exp",
            "exp:x",
            "exp:1ms,2ms",
            "bimodal:1ms,2ms,3",
            "zipf:1ms",
            "uniform:2ms,1ms",
            "lognormal:10ms,1e9",
            "lognormal:24h,50",
            "lognormal:24h,1",
        ] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong:?}");
        }
        assert!("lognormal:100ms,5".parse::<Distribution>().is_ok());
        for wrong in ["", "one", "3-1", "1,,2", "-1", "0,0", "0-2,2", "4,0-9"] {
            assert!(wrong.parse::<ServerSet>().is_err(), "{wrong:?}");
        }
        let set: ServerSet = "7,0-2".parse().expect("ranges");
        assert_eq!((set.of(8), set.of(7)), (Ok(vec![0, 1, 2, 7]), Err(7)));
    }
}
