//! The one clock of the kernel drivers.

use crate::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// The time since boot, suspend included (`CLOCK_BOOTTIME`).
///
/// The kernel's vDSO serves it without a system call wherever the machine's clock source allows.
#[inline]
pub fn now() -> Instant {
    let stamp = clock_gettime(ClockId::Boottime);
    // Both parts are never negative on this clock, and 584 years fit.
    Instant::from_nanos(stamp.tv_sec as u64 * 1_000_000_000 + stamp.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards() {
        let mut last = now();
        assert!(last > Instant::ZERO);
        for _ in 0..10_000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }
}
