//! Time is an argument.
//!
//! Pure code (`wire`, `rpc`, `shard`, every handler under simulation) never reads a clock: it is
//! handed an [`Instant`]. Kernel drivers stamp it from `CLOCK_BOOTTIME`, which counts through
//! suspend, as the leases of a replica chain need it; the simulator stamps it from its virtual clock.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
pub use std::time::Duration;

/// A point on a monotonic clock, in nanoseconds since that clock's own origin.
///
/// Comparable only with instants of the same clock, that is of the same machine or the same simulated world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock; earlier than every stamp that a driver gives.
    pub const ZERO: Instant = Instant(0);
    /// Later than every stamp: 584 years after the origin.
    pub const FAR_FUTURE: Instant = Instant(u64::MAX);

    /// The instant `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is in fact later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole microseconds from `earlier` to `self`, capped at `u32::MAX` (71 minutes): the unit of the wire.
    pub const fn micros_since(self, earlier: Instant) -> u32 {
        let micros = self.0.saturating_sub(earlier.0) / 1_000;
        if micros > u32::MAX as u64 { u32::MAX } else { micros as u32 }
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_sub(nanos))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// The earlier of two optional instants; `None` means never.
pub fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::FAR_FUTURE + Duration::MAX, Instant::FAR_FUTURE);
        assert_eq!(Instant::from_nanos(5).since(Instant::from_nanos(9)), Duration::ZERO);
    }

    #[test]
    fn micros_are_whole_and_capped() {
        assert_eq!(Instant::from_nanos(2_999).micros_since(Instant::ZERO), 2);
        assert_eq!(Instant::FAR_FUTURE.micros_since(Instant::ZERO), u32::MAX);
    }

    #[test]
    fn never_loses_against_some_instant() {
        let soon = Instant::from_nanos(1);
        assert_eq!(earliest(None, Some(soon)), Some(soon));
        assert_eq!(earliest(Some(Instant::from_nanos(2)), Some(soon)), Some(soon));
        assert_eq!(earliest(None, None), None);
    }
}
