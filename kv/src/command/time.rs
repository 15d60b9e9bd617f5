//! Instants at which keys expire, as commands name them: Unix time in milliseconds.

use super::error::Error;
use super::number;
use crate::resp::Args;

/// How a command names an instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// `EX`: seconds from now.
    Seconds,
    /// `PX`: milliseconds from now.
    Millis,
    /// `EXAT`: Unix time in seconds.
    AtSeconds,
    /// `PXAT`: Unix time in milliseconds.
    AtMillis,
}

impl Unit {
    /// The one that an option of `SET` or `GETEX` names.
    pub fn of_option(option: &[u8]) -> Option<Self> {
        const OPTIONS: [(&[u8], Unit); 4] = [
            (b"ex", Unit::Seconds),
            (b"px", Unit::Millis),
            (b"exat", Unit::AtSeconds),
            (b"pxat", Unit::AtMillis),
        ];
        let mut options = OPTIONS.iter();
        Some(options.find(|(name, _)| option.eq_ignore_ascii_case(name))?.1)
    }

    /// The instant, if there is one; it may have passed.
    pub fn instant(self, value: i64, now_ms: u64) -> Option<i64> {
        let millis = match self {
            Unit::Seconds | Unit::AtSeconds => value.checked_mul(1_000)?,
            Unit::Millis | Unit::AtMillis => value,
        };
        match self {
            Unit::Seconds | Unit::Millis => millis.checked_add(i64::try_from(now_ms).ok()?),
            Unit::AtSeconds | Unit::AtMillis => Some(millis),
        }
    }
}

/// An instant that is to be read from an argument.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    /// How it is named.
    pub unit: Unit,
    /// Which argument.
    pub text: usize,
}

impl Expiry {
    /// The instant, in Unix milliseconds.
    ///
    /// # Errors
    /// If it is no integer, not above 0, or beyond what 64 bits hold.
    pub fn instant(&self, args: &Args<'_>, now_ms: u64, command: &str) -> Result<u64, Error> {
        let value = number::integer(args.at(self.text))?;
        let instant = (value > 0).then(|| self.unit.instant(value, now_ms)).flatten();
        instant.map(i64::unsigned_abs).ok_or_else(|| Error::expire_time(command))
    }
}
