//! The methods that `serve` offers and `run` calls.

use bytes::Bytes;
use catena_engine::MethodId;
use std::fmt;
use std::str::FromStr;

/// Names on the wire.
pub const ECHO: &str = "echo";
/// See [`ECHO`].
pub const SINK: &str = "sink";
/// See [`ECHO`].
pub const SOURCE: &str = "source";
/// See [`ECHO`].
pub const SPIN: &str = "spin";
/// See [`ECHO`].
pub const SLEEP: &str = "sleep";
/// See [`ECHO`].
pub const WORK: &str = "work";
/// See [`ECHO`]. Not for `run`: it says what is wrong with `work`.
pub const FAULT: &str = "fault";

/// What is called, and what its payload says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Method {
    /// Answers with what it was sent.
    Echo,
    /// Takes what it is sent, answers with nothing.
    Sink,
    /// Answers with so many bytes; without a number with as many as are otherwise sent.
    Source(Option<u32>),
    /// Keeps the core busy for so many microseconds.
    Spin(u32),
    /// Answers after so many microseconds, which cost nothing.
    Sleep(u32),
    /// Any other method, sent zeroes.
    Other(String),
}

impl Method {
    /// The id on the wire.
    pub fn id(&self) -> MethodId {
        MethodId::of(self.name())
    }

    /// The payload of a call, `bytes` long unless the method says otherwise.
    pub fn payload(&self, bytes: u32) -> Bytes {
        match self {
            Method::Echo | Method::Sink | Method::Other(_) => Bytes::from(vec![0; bytes as usize]),
            Method::Source(count) => word(count.unwrap_or(bytes)),
            Method::Spin(micros) | Method::Sleep(micros) => word(*micros),
        }
    }

    fn name(&self) -> &str {
        match self {
            Method::Echo => ECHO,
            Method::Sink => SINK,
            Method::Source(_) => SOURCE,
            Method::Spin(_) => SPIN,
            Method::Sleep(_) => SLEEP,
            Method::Other(name) => name,
        }
    }
}

fn word(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

impl FromStr for Method {
    type Err = String;

    /// `echo`, `sink`, `source:BYTES`, `spin:MICROS`, `sleep:MICROS` (or `sleep:2ms`), or the name of
    /// any other method.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let micros = || match argument {
            Some(argument) => parse_micros(argument),
            None => Err(format!("{name} needs microseconds: {name}:100")),
        };
        Ok(match (name, argument) {
            (ECHO, None) => Method::Echo,
            (SINK, None) => Method::Sink,
            (SOURCE, None) => Method::Source(None),
            (SOURCE, Some(bytes)) => Method::Source(Some(catena_cli::units::parse_bytes(bytes)?)),
            (SPIN, _) => Method::Spin(micros()?),
            (SLEEP, _) => Method::Sleep(micros()?),
            (ECHO | SINK, Some(_)) => return Err(format!("{name} takes no argument; see -s")),
            ("", _) => return Err("a method has a name".to_owned()),
            _ => Method::Other(text.to_owned()),
        })
    }
}

/// A plain number is microseconds here.
fn parse_micros(text: &str) -> Result<u32, String> {
    if let Ok(micros) = text.parse() {
        return Ok(micros);
    }
    let duration = catena_cli::units::parse_duration(text)?;
    u32::try_from(duration.as_micros()).map_err(|_| format!("{text:?} is longer than 71 minutes"))
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Method::Source(Some(number)) | Method::Spin(number) | Method::Sleep(number) => {
                write!(f, ":{number}")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_with_their_arguments() {
        let read = |text: &str| text.parse::<Method>();
        assert_eq!(read("echo"), Ok(Method::Echo));
        assert_eq!(read("source"), Ok(Method::Source(None)));
        assert_eq!(read("source:64k"), Ok(Method::Source(Some(65_536))));
        assert_eq!(read("spin:50"), Ok(Method::Spin(50)));
        assert_eq!(read("sleep:2ms"), Ok(Method::Sleep(2_000)));
        assert_eq!(read("ledger.deposit"), Ok(Method::Other("ledger.deposit".to_owned())));
        for wrong in ["", "spin", "sleep:x", "echo:3", "source:-1"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        for text in ["echo", "source:64", "sleep:2000", "a.b"] {
            assert_eq!(read(text).map(|method| method.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn payloads_say_what_the_method_needs() {
        assert_eq!(Method::Echo.payload(3)[..], [0; 3]);
        assert_eq!(Method::Source(None).payload(3)[..], 3u32.to_le_bytes());
        assert_eq!(Method::Sleep(9).payload(300)[..], 9u32.to_le_bytes());
    }
}
