//! Numbers in values and arguments, read and written as Redis does.

use super::error::Error;

/// A 64-bit integer in its only spelling: no sign `+`, no leading zeros, no spaces.
///
/// # Errors
/// [`Error::NOT_INTEGER`]
pub fn integer(text: &[u8]) -> Result<i64, Error> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let is_canonical = match digits {
        [] => false,
        [b'0'] => !is_negative,
        [b'0', ..] => false,
        _ => digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit),
    };
    if !is_canonical {
        return Err(Error::NOT_INTEGER);
    }
    let value = digits.iter().fold(0u64, |value, digit| {
        // Nineteen digits fit into 64 bits.
        value * 10 + u64::from(digit - b'0')
    });
    match is_negative {
        false => i64::try_from(value).map_err(|_| Error::NOT_INTEGER),
        true => 0i64.checked_sub_unsigned(value).ok_or(Error::NOT_INTEGER),
    }
}

/// The decimal digits of an integer, without an allocation.
pub struct Digits {
    bytes: [u8; 20],
    start: usize,
}

impl Digits {
    /// Those of `value`.
    pub fn of(value: i64) -> Self {
        let mut digits = Digits { bytes: [0; 20], start: 20 };
        let mut rest = value.unsigned_abs();
        loop {
            digits.push((rest % 10) as u8 + b'0');
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            digits.push(b'-');
        }
        digits
    }

    fn push(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[self.start] = byte;
    }

    /// As text.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// A finite number, as `strtold` takes it, without spaces.
///
/// # Errors
/// [`Error::NOT_FLOAT`]
pub fn float(text: &[u8]) -> Result<f64, Error> {
    if let Some(number) = Hexadecimal::parse(text) {
        return Ok(number.value());
    }
    let text = std::str::from_utf8(text).map_err(|_| Error::NOT_FLOAT)?;
    let value: f64 = text.parse().map_err(|_| Error::NOT_FLOAT)?;
    if value.is_nan() { Err(Error::NOT_FLOAT) } else { Ok(value) }
}

/// `a + b` for `INCRBYFLOAT`, to 17 places behind the point.
///
/// Redis adds in 80-bit floating point, so that 0.1 + 0.2 is 0.3. Here both are taken as the decimal
/// fractions that they are written as, added exactly, and rounded once; numbers too long or too far
/// apart for that are added in 64-bit floating point.
///
/// # Errors
/// [`Error::NOT_FLOAT`] if either is no number, [`Error::NOT_FINITE`] if the sum is none.
pub fn add_floats(a: &[u8], b: &[u8]) -> Result<String, Error> {
    let (value_a, value_b) = (float(a)?, float(b)?);
    if let (Some(a), Some(b)) = (Decimal::parse(a), Decimal::parse(b))
        && let Some(sum) = a.add(b)
    {
        return Ok(sum.to_text());
    }
    let sum = value_a + value_b;
    if !sum.is_finite() {
        return Err(Error::NOT_FINITE);
    }
    let text = format!("{sum:.17}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    Ok(if text == "-0" { "0" } else { text }.to_owned())
}

/// `digits` · 2^`exponent`, as C writes such numbers: `0x10`, `0x1.8p3`.
#[derive(Clone, Copy, Debug)]
struct Hexadecimal {
    digits: i128,
    exponent: i32,
}

impl Hexadecimal {
    /// Digits that a 64-bit number has.
    const DIGITS_MAX: usize = 16;

    /// `None`: it is none, or too long a one.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(&text)),
        };
        let text = text.strip_prefix("0x")?;
        let (mantissa, exponent) = match text.split_once('p') {
            None => (text, 0),
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = || whole.chars().chain(fraction.chars());
        if !(1..=Self::DIGITS_MAX).contains(&all().count()) {
            return None;
        }
        let add = |value, digit: char| Some(value * 16 + i128::from(digit.to_digit(16)?));
        let digits = all().try_fold(0, add)?;
        let digits = if is_negative { -digits } else { digits };
        Some(Hexadecimal { digits, exponent: exponent.checked_sub(4 * fraction.len() as i32)? })
    }

    fn value(self) -> f64 {
        self.digits as f64 * 2f64.powi(self.exponent)
    }

    /// Exactly the same: a half is five tenths.
    fn to_decimal(self) -> Option<Decimal> {
        let factor: i128 = if self.exponent < 0 { 5 } else { 2 };
        let digits = self.digits.checked_mul(factor.checked_pow(self.exponent.unsigned_abs())?)?;
        Some(Decimal { digits, exponent: self.exponent.min(0) })
    }
}

/// `digits` · 10^`exponent`.
#[derive(Clone, Copy, Debug)]
struct Decimal {
    digits: i128,
    exponent: i32,
}

impl Decimal {
    /// Digits that are surely added without overflow.
    const DIGITS_MAX: usize = 34;
    /// Behind the point, as many as Redis shows.
    const PLACES_MAX: u32 = 17;

    /// `None`: not a plain number, or too long a one.
    fn parse(text: &[u8]) -> Option<Self> {
        if let Some(number) = Hexadecimal::parse(text) {
            return number.to_decimal();
        }
        let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
        let (mantissa, exponent) = match text.split_once('e') {
            None => (text.as_str(), 0),
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        };
        let (is_negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        if all().count() > Self::DIGITS_MAX || !all().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = all().fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        let digits = if is_negative { -digits } else { digits };
        Some(Decimal { digits, exponent: exponent.checked_sub(fraction.len() as i32)? })
    }

    fn add(self, other: Decimal) -> Option<Decimal> {
        let exponent = self.exponent.min(other.exponent);
        let scaled = |number: Decimal| {
            let shift = u32::try_from(number.exponent - exponent).ok()?;
            number.digits.checked_mul(10i128.checked_pow(shift)?)
        };
        let digits = scaled(self)?.checked_add(scaled(other)?)?;
        // Written out in full it may be no longer than what a reader would take.
        (exponent.abs() < 64).then_some(Decimal { digits, exponent })
    }

    /// Without an exponent and without zeros at the end of the fraction.
    fn to_text(mut self) -> String {
        let mut magnitude = self.digits.unsigned_abs();
        let surplus = self.exponent.saturating_neg() - Self::PLACES_MAX as i32;
        if let Ok(surplus @ 1..) = u32::try_from(surplus) {
            // Beyond what a number can be, nothing is left of it.
            let unit = 10u128.checked_pow(surplus).unwrap_or(u128::MAX);
            let (quotient, rest) = (magnitude / unit, magnitude % unit);
            let half = unit / 2;
            let rounds_up = rest > half || (rest == half && quotient % 2 == 1);
            magnitude = quotient + u128::from(rounds_up);
            self.exponent += surplus as i32;
        }
        while magnitude > 0 && magnitude.is_multiple_of(10) && self.exponent < 0 {
            magnitude /= 10;
            self.exponent += 1;
        }
        if magnitude == 0 {
            return "0".to_owned();
        }
        let sign = if self.digits < 0 { "-" } else { "" };
        let digits = magnitude.to_string();
        if self.exponent >= 0 {
            return format!("{sign}{digits}{}", "0".repeat(self.exponent as usize));
        }
        let places = self.exponent.unsigned_abs() as usize;
        let padded = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        format!("{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_spelling() {
        for (text, value) in [
            ("0", 0),
            ("-1", -1),
            ("42", 42),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text.as_bytes()), Ok(value));
            assert_eq!(Digits::of(value).bytes(), text.as_bytes());
        }
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "1.0",
            "x",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
        ] {
            assert_eq!(integer(text.as_bytes()), Err(Error::NOT_INTEGER), "{text:?}");
        }
    }

    #[test]
    fn floats_are_added_as_they_are_written() {
        for (a, b, sum) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1", "0"),
            ("0", "-0.5", "-0.5"),
            ("3", "1.000", "4"),
            ("-5.25", "0.25", "-5"),
            ("1e17", "1", "100000000000000001"),
            ("123456789012345678", "0", "123456789012345678"),
            ("913113831648622805", "783.375", "913113831648623588.375"),
            ("0.12345678901234567", "0.000000000000000005", "0.12345678901234568"),
            ("0.00000000000000001", "0.000000000000000004", "0.00000000000000001"),
            ("1e-40", "-1e-30", "0"),
            ("-1e-60", "0", "0"),
            ("0.000001", "0", "0.000001"),
            ("1", "0x10", "17"),
            ("0x10", "-0X1F", "-15"),
            ("1", "0x1p3", "9"),
            ("1", "0X1.8", "2.5"),
            ("1", "+0x.8", "1.5"),
            ("0", "0x1p-4", "0.0625"),
            ("0", "0x1p80", "1208925819614629174706176"),
        ] {
            assert_eq!(add_floats(a.as_bytes(), b.as_bytes()).as_deref(), Ok(sum), "{a} + {b}");
        }
        assert_eq!(add_floats(b"1e308", b"9e308"), Err(Error::NOT_FINITE));
        assert_eq!(add_floats(b"1", b"0x1p5000"), Err(Error::NOT_FINITE));
        for wrong in ["x", "0x", "0x.", "0xg", "0x1p", "0x1e+", "--0x1", "0x-1", "0x1pp1"] {
            assert_eq!(add_floats(wrong.as_bytes(), b"1"), Err(Error::NOT_FLOAT), "{wrong}");
        }
        assert_eq!(add_floats(b"1", b" 1"), Err(Error::NOT_FLOAT));
    }
}
