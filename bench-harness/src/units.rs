//! Numbers with units, as people type them.

use catena_engine::time::Duration;

/// A rate in requests a second: `1500`, `200k`, `1.5m`, `0.2`.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = split(text, &[("k", 1e3), ("m", 1e6)]);
    match number.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate * factor),
        _ => Err(format!("{text:?} is no rate; say requests a second, like 1500, 200k or 0.5")),
    }
}

/// A duration: `10` and `10s` are seconds; `500ms`, `250us`, `2m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let (number, factor) = split(text, &units);
    match number.parse::<f64>() {
        Ok(count) if count >= 0.0 && count * factor <= 86_400.0 => {
            Ok(Duration::from_secs_f64(count * factor))
        }
        _ => Err(format!("{text:?} is no duration; say 10, 10s, 500ms or 2m (a day at most)")),
    }
}

/// A number of bytes: `32`, `4k` (4,096), `1m`.
pub fn parse_bytes(text: &str) -> Result<u32, String> {
    let (number, factor) = split(text, &[("k", 1_024.0), ("m", 1_048_576.0)]);
    let count = number.parse::<u32>().ok().and_then(|count| count.checked_mul(factor as u32));
    count.ok_or_else(|| format!("{text:?} is no size; say bytes, like 32, 4k or 1m"))
}

/// A positive count: `32`, `10k`.
pub fn parse_count(text: &str) -> Result<u32, String> {
    let (number, factor) = split(text, &[("k", 1e3), ("m", 1e6)]);
    let count = number.parse::<u32>().ok().and_then(|count| count.checked_mul(factor as u32));
    count
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("{text:?} is no count; say a positive number, like 32 or 10k"))
}

/// A count that may be 0.
pub fn parse_count_or_zero(text: &str) -> Result<u32, String> {
    if text == "0" { Ok(0) } else { parse_count(text) }
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
    fn numbers_are_read_as_people_mean_them() {
        assert_eq!(parse_rate("1500"), Ok(1_500.0));
        assert_eq!(parse_rate("200k"), Ok(200_000.0));
        assert_eq!(parse_rate("1.5M"), Ok(1_500_000.0));
        assert_eq!(parse_rate("0.25"), Ok(0.25));
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("0.5 s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_duration("40ms"), Ok(Duration::from_millis(40)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_bytes("4k"), Ok(4_096));
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_count("10k"), Ok(10_000));
        assert_eq!(parse_count_or_zero("0"), Ok(0));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for wrong in ["", "k", "-1", "0", "x", "nan", "inf", "1e400", "ü"] {
            assert!(parse_rate(wrong).is_err_and(|error| error.contains("like")), "{wrong:?}");
        }
        for wrong in ["", "s", "-1s", "2 days", "90000s", "nan"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "-1", "1.5", "5000m", "4kb"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_count("0").is_err());
    }
}
