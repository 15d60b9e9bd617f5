//! Numbers with units, as people type them.

use catena_engine::time::Duration;

/// The longest duration, in seconds: a day.
const DURATION_SECS_MAX: f64 = 86_400.0;

/// A duration: `10` and `10s` are seconds; `500ms`, `250us`, `2m`, `1h`.
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

/// A number of bytes, `max` at most: `32`, `4k` or `4KiB` (4,096), `1m` or `1MiB`.
pub fn parse_bytes_up_to(max: u32) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| {
        const KIB: f64 = 1_024.0;
        const MIB: f64 = 1_048_576.0;
        let (number, factor) = split(text, &[("kib", KIB), ("mib", MIB), ("k", KIB), ("m", MIB)]);
        let count = number.parse::<u32>().ok().and_then(|count| count.checked_mul(factor as u32));
        let count = count.filter(|count| *count <= max);
        count.ok_or_else(|| {
            format!("{text:?} is no size; say bytes, like 32 or 4KiB ({max} at most)")
        })
    }
}

/// A positive count, `max` at most.
pub fn count_up_to(max: u32) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| match text.parse() {
        Ok(count) if (1..=max).contains(&count) => Ok(count),
        _ => Err(format!("{text:?} is no count; say a number from 1 to {max}")),
    }
}

/// The number, and the factor of the unit behind it; 1 without one.
fn split<'t>(text: &'t str, units: &[(&str, f64)]) -> (&'t str, f64) {
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit = unit.to_ascii_lowercase();
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => (number.trim(), *factor),
        None => (text, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood_and_nonsense_is_not() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert!(parse_duration("-1s").is_err() && parse_duration("1d").is_err());
        assert_eq!(parse_bytes_up_to(4_096)("4KiB"), Ok(4_096));
        assert!(parse_bytes_up_to(4_096)("4097").is_err() && parse_bytes_up_to(9)("x").is_err());
        assert_eq!(count_up_to(8)("8"), Ok(8));
        assert!(count_up_to(8)("9").is_err() && count_up_to(8)("0").is_err());
    }
}
