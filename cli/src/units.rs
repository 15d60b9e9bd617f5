//! Numbers with units, as people type them.

use std::fmt;
use std::time::Duration;

/// The highest rate: one request a nanosecond, which is what the clock tells apart.
const RATE_MAX: f64 = 1e9;

/// The longest duration, in seconds: a day.
const DURATION_SECS_MAX: f64 = 86_400.0;

/// A rate in requests a second: `1500`, `200k`, `1.5m`, `1G`, `0.2`.
///
/// # Errors
/// What would be right.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = split(text, &[("k", 1e3), ("m", 1e6), ("g", 1e9)]);
    match number.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate * factor <= RATE_MAX => Ok(rate * factor),
        _ => Err(format!(
            "{text:?} is no rate; say requests a second, like 1500, 200k, 0.5 or 2M (1G at most)"
        )),
    }
}

/// A duration: `10` and `10s` are seconds; `500ms`, `250us`, `2m`, `1h`.
///
/// # Errors
/// What would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
    let (number, factor) = split(text, &units);
    match number.parse::<f64>() {
        Ok(count) if count >= 0.0 && count * factor <= DURATION_SECS_MAX => {
            Ok(Duration::from_secs_f64(count * factor))
        }
        _ => Err(format!("{text:?} is no duration; say 10, 10s, 500ms, 2m or 1h (24h at most)")),
    }
}

/// Reads durations of at most so much, or says what would be right.
pub fn duration_up_to(
    max: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| match parse_duration(text)? {
        duration if duration > max => Err(format!("{text:?} is more than {max:?}")),
        duration => Ok(duration),
    }
}

/// A number of bytes: `32`, `4k` or `4KiB` (4,096), `1m` or `1MiB`.
///
/// # Errors
/// What would be right.
pub fn parse_bytes(text: &str) -> Result<u32, String> {
    const KIB: f64 = 1_024.0;
    const MIB: f64 = 1_048_576.0;
    let (number, factor) = split(text, &[("kib", KIB), ("mib", MIB), ("k", KIB), ("m", MIB)]);
    let count = number.parse::<u32>().ok().and_then(|count| count.checked_mul(factor as u32));
    count.ok_or_else(|| {
        format!("{text:?} is no size; say bytes, like 32, 4KiB or 1MiB (less than 4096MiB)")
    })
}

/// A number of bytes of memory or disk: as [`parse_bytes`], and `8g` or `8GiB`, `1t` or `1TiB`.
///
/// # Errors
/// What would be right.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    // Powers of two are exact as floating-point numbers.
    let power = |bits| f64::from(bits).exp2();
    let units = [("kib", 10), ("mib", 20), ("gib", 30), ("tib", 40)];
    let short = [("k", 10), ("m", 20), ("g", 30), ("t", 40)];
    let all = units.into_iter().chain(short);
    let factors: Vec<(&str, f64)> = all.map(|(unit, bits)| (unit, power(bits))).collect();
    let (number, factor) = split(text, &factors);
    let bytes = number.parse::<u64>().ok().and_then(|count| count.checked_mul(factor as u64));
    bytes.ok_or_else(|| format!("{text:?} is no size; say bytes, like 512MiB or 8GiB"))
}

/// The same, `max` at most.
pub fn bytes_up_to(max: u32) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| match parse_bytes(text)? {
        bytes if bytes > max => {
            Err(format!("{text} is too long; {} bytes at most", thousands(max)))
        }
        bytes => Ok(bytes),
    }
}

/// A positive count: `32`, `10k`.
///
/// # Errors
/// What would be right.
pub fn parse_count(text: &str) -> Result<u32, String> {
    let (number, factor) = split(text, &[("k", 1e3), ("m", 1e6)]);
    let count = number.parse::<u32>().ok().and_then(|count| count.checked_mul(factor as u32));
    count
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("{text:?} is no count; say a positive number, like 32 or 10k"))
}

/// A positive count, `max` at most.
pub fn count_up_to(max: u32) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| match parse_count(text)? {
        count if count > max => Err(format!("{text} is too many; {} at most", thousands(max))),
        count => Ok(count),
    }
}

/// A count that may be 0.
///
/// # Errors
/// What would be right.
pub fn parse_count_or_zero(text: &str) -> Result<u32, String> {
    if text == "0" { Ok(0) } else { parse_count(text) }
}

/// A whole number with its thousands set apart: `16,777,216`.
pub fn thousands(number: impl fmt::Display) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The number and the factor of its unit, the first that fits.
fn split<'a>(text: &'a str, units: &[(&str, f64)]) -> (&'a str, f64) {
    for (unit, factor) in units {
        let cut = text.len().checked_sub(unit.len()).filter(|cut| text.is_char_boundary(*cut));
        if let Some((number, end)) = cut.map(|cut| text.split_at(cut))
            && end.eq_ignore_ascii_case(unit)
        {
            return (number.trim_end(), *factor);
        }
    }
    (text, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_its_unit() {
        for (text, bytes) in [("7", 7), ("4k", 4_096), ("512MiB", 512 << 20), ("8g", 8 << 30)] {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "x", "1.5g", "-1", "99999999t"] {
            assert!(parse_memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_read_as_people_mean_them() {
        assert_eq!(parse_rate("1500"), Ok(1_500.0));
        assert_eq!(parse_rate("200k"), Ok(200_000.0));
        assert_eq!(parse_rate("1.5M"), Ok(1_500_000.0));
        assert_eq!(parse_rate("0.25"), Ok(0.25));
        assert_eq!(parse_rate("1G"), Ok(1e9));
        assert_eq!(duration_up_to(Duration::from_millis(1))("1ms"), Ok(Duration::from_millis(1)));
        assert!(duration_up_to(Duration::from_millis(1))("2ms").is_err());
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("0.5 s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_duration("40ms"), Ok(Duration::from_millis(40)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(parse_bytes("4k"), Ok(4_096));
        assert_eq!(parse_bytes("1KiB"), Ok(1_024));
        assert_eq!(parse_bytes("1MiB"), Ok(1_048_576));
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_count("10k"), Ok(10_000));
        assert_eq!(parse_count_or_zero("0"), Ok(0));
        for (number, text) in [(0, "0"), (999, "999"), (1_000_000, "1,000,000")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for wrong in ["", "k", "-1", "0", "x", "nan", "inf", "1e400", "1.1G", "ü"] {
            assert!(parse_rate(wrong).is_err_and(|error| error.contains("like")), "{wrong:?}");
        }
        for wrong in ["", "s", "-1s", "2 days", "90000s", "25h", "nan"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "-1", "1.5", "5000m", "4kb"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_count("0").is_err());
        assert_eq!(count_up_to(10)("10"), Ok(10));
        assert!(count_up_to(10)("0").is_err());
        assert_eq!(bytes_up_to(4_096)("4KiB"), Ok(4_096));
        assert!(bytes_up_to(4_096)("4097").is_err_and(|error| error.contains("4,096 bytes")));
        assert!(bytes_up_to(9)("x").is_err_and(|error| error.contains("no size")));
        assert!(count_up_to(2_000)("4k").is_err_and(|error| error.contains("2,000 at most")));
    }
}
