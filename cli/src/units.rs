//! Numbers with units, as people type them.

use std::fmt;
use std::time::Duration;

/// The highest rate: one request a nanosecond, which is what the clock tells apart.
const RATE_MAX: f64 = 1e9;

/// The longest duration.
const DURATION_MAX: Duration = Duration::from_secs(86_400);

/// The largest size in bytes: a pebibyte, more than any machine has.
const SIZE_MAX: u64 = 1 << 50;

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

/// A duration with its unit: `250us`, `500ms`, `10s`, `2m`, `1h`; and `0`. A number alone could be meant as
/// seconds or as milliseconds, which differ by a factor that nobody should find out later.
///
/// # Errors
/// What would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text, DURATION_MAX)
}

/// Reads durations of at most so much, or says what would be right.
pub fn duration_up_to(
    max: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| duration(text, max.min(DURATION_MAX))
}

fn duration(text: &str, max: Duration) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
    let (number, factor) = split(text, &units);
    let count = number.parse::<f64>().ok().filter(|count| count.is_finite() && *count >= 0.0);
    let Some(count) = count else {
        return Err(format!("{text:?} is no duration; say 0, 250us, 500ms, 10s, 2m or 1h"));
    };
    // Without its unit it is as long as the text.
    if number.len() == text.len() && count > 0.0 {
        return Err(format!("{text:?} has no unit; say {text}ms or {text}s"));
    }
    match Duration::try_from_secs_f64(count * factor) {
        Ok(duration) if duration <= max => Ok(duration),
        _ => Err(format!("{text} is too long; {} at most", shown(max))),
    }
}

/// A duration as people type it, in whole hours or as the standard library shows it.
fn shown(duration: Duration) -> String {
    match duration.as_secs() {
        secs if secs > 0 && secs.is_multiple_of(3_600) => format!("{}h", secs / 3_600),
        _ => format!("{duration:?}"),
    }
}

/// A number of bytes, of less than 4 GiB: see [`parse_memory`].
///
/// # Errors
/// What would be right.
pub fn parse_bytes(text: &str) -> Result<u32, String> {
    bytes_up_to(u32::MAX)(text)
}

/// A number of bytes: `512`; or of units of 1,024, 1,024² and so on: `64k`, `64kb`, `64KiB`, `64m`, `64MB`,
/// `8g`, `1t`.
///
/// # Errors
/// What would be right.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    size(text, SIZE_MAX)
}

/// The same, `max` at most.
pub fn bytes_up_to(max: u32) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| Ok(u32::try_from(size(text, max.into())?).expect("it is no more than one of these"))
}

fn size(text: &str, max: u64) -> Result<u64, String> {
    const KIB: f64 = 1_024.0;
    let letters =
        [("k", KIB), ("m", KIB * KIB), ("g", KIB * KIB * KIB), ("t", KIB * KIB * KIB * KIB)];
    // The "b" of "kb" goes before the "k" does; "MiB" loses both.
    let lower = text.to_ascii_lowercase();
    let short = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, factor) = split(short, &letters);
    let has_letter = number.len() < short.len();
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || (short.len() < lower.len() && !has_letter) {
        return Err(format!("{text:?} is no size; say bytes, like 4096, 64k, 64mb, 64MiB or 8g"));
    }
    // Digits beyond 64 bits are too much, whatever they say.
    let bytes = number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(factor as u64);
    if bytes > max {
        return Err(format!("{text} is too much; {} at most", size_text(max)));
    }
    Ok(bytes)
}

/// A size as people read it: in the largest unit of which it is a whole number.
pub fn size_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (bits, unit) in units {
        if bytes > 0 && bytes.trailing_zeros() >= bits {
            return format!("{} {unit}", thousands(bytes >> bits));
        }
    }
    format!("{} bytes", thousands(bytes))
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
        for (text, bytes) in
            [("64mb", 64 << 20), ("64MB", 64 << 20), ("1TiB", 1 << 40), ("2 gb", 2 << 30)]
        {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "x", "1.5g", "-1", "+1", "7b", "7ib", "b", "k", "4kib4", "1e3", "ü"] {
            let error = parse_memory(wrong).expect_err(wrong);
            assert!(error.contains("64mb"), "{wrong}: {error}");
        }
        for much in ["99999999t", "99999999999999999999", "1025t"] {
            let error = parse_memory(much).expect_err(much);
            assert!(error.contains("too much; 1,024 TiB at most"), "{much}: {error}");
        }
        let error = bytes_up_to(512 << 20)("4g").expect_err("that is more");
        assert_eq!(error, "4g is too much; 512 MiB at most");
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
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
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
        for bare in ["10", "0.5", "1e3"] {
            let error = parse_duration(bare).expect_err(bare);
            assert!(error.contains(&format!("say {bare}ms or {bare}s")), "{error}");
        }
        let error = duration_up_to(Duration::from_secs(1))("1m").expect_err("that is more");
        assert_eq!(error, "1m is too long; 1s at most");
        assert_eq!(parse_duration("25h"), Err("25h is too long; 24h at most".to_owned()));
        for wrong in ["", "-1", "1.5", "5000m"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_count("0").is_err());
        assert_eq!(count_up_to(10)("10"), Ok(10));
        assert!(count_up_to(10)("0").is_err());
        assert_eq!(bytes_up_to(4_096)("4KiB"), Ok(4_096));
        assert!(bytes_up_to(4_096)("4097").is_err_and(|error| error.contains("4 KiB")));
        assert!(bytes_up_to(9)("x").is_err_and(|error| error.contains("no size")));
        assert!(count_up_to(2_000)("4k").is_err_and(|error| error.contains("2,000 at most")));
    }
}
