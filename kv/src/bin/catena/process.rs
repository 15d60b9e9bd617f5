//! What the system says of this process.

use catena_kv::redis::server::ProcessFacts;
use std::fs::read_to_string;

/// Ticks of the processor's clock in `/proc`, a second. Source: `USER_HZ`, part of Linux' interface.
const TICKS: f64 = 100.0;

/// Bytes of a page as `/proc/self/statm` counts them, where pages are of the usual size.
const PAGE_BYTES: u64 = 4_096;

/// What can be read; zero where the system does not tell.
pub fn process_facts() -> ProcessFacts {
    let read = |path: &str| read_to_string(path).unwrap_or_default();
    // Behind the name, which may hold anything, the third field comes first.
    let stat = read("/proc/self/stat");
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |place: usize| number(fields.split_ascii_whitespace().nth(place)) as f64 / TICKS;
    let statm = read("/proc/self/statm");
    let meminfo = read("/proc/meminfo");
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    ProcessFacts {
        cpu_user_s: ticks(11),
        cpu_system_s: ticks(12),
        resident_bytes: number(statm.split_ascii_whitespace().nth(1)) * PAGE_BYTES,
        host_bytes: number(total.and_then(|line| line.split_ascii_whitespace().next())) * 1_024,
    }
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells() {
        let facts = process_facts();
        assert!(facts.resident_bytes > 100_000, "{facts:?}");
        assert!(facts.host_bytes > facts.resident_bytes, "{facts:?}");
    }
}
