//! The one clock of the kernel drivers.
//!
//! [`now`] asks the kernel, through its vDSO: 25 ns and more, which is a quarter of what the engine
//! spends on a small request. [`Clock`] is what a driver stamps requests with: it reads the
//! processor's time stamp counter, and asks the kernel once a millisecond how far that has got.
//!
//! ```text
//! kernel    ├── asked ───────────────────────────── asked ──┤   at most 1 ms apart
//! counter   ┴─┴──┴─────┴─┴───────┴──┴─┴──┴──────┴───┴───────┴   ~8 ns a reading
//! ```
//!
//! The rate of the counter is learned from the same two clocks, over a window that grows to a second,
//! so the error within a millisecond is that of the kernel's own reading: well below a microsecond,
//! the unit in which times are reported. Steps of the counter (a suspended or migrated guest) are
//! seen as a reading out of its window, and the kernel is asked. A counter that does not run at a
//! constant rate, or that the kernel itself does not trust as its clock source, is not used at all.

use crate::time::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;

/// The time since boot, suspend included (`CLOCK_BOOTTIME`).
///
/// The kernel's vDSO serves it without a system call wherever the machine's clock source allows.
#[inline]
pub fn now() -> Instant {
    let stamp = clock_gettime(ClockId::Boottime);
    // Both parts are never negative on this clock, and 584 years fit.
    Instant::from_nanos(stamp.tv_sec as u64 * 1_000_000_000 + stamp.tv_nsec as u64)
}

/// Nanoseconds after which the kernel is asked again.
const SYNC_NS: u64 = 1_000_000;
/// The rate is not believed before it was learned over so many nanoseconds, and is learned anew, from
/// a window that begins now, once the window is as long as this times a hundred.
const LEARN_NS: u64 = 10_000_000;
/// The two clocks are read one after the other, and a thread can be held up in between. Nanoseconds
/// up to which that is taken for one moment: many times what the reading costs, and little enough.
const WIDTH_NS_MAX: u64 = 2_000;
/// How often that is tried in a row.
const TRIES: u32 = 3;
/// The same when a clock is made, and can be done without.
const FIRST_TRIES: u32 = 100;
/// Nanoseconds a tick, as a fixed-point number with so many binary places.
const RATE_BITS: u32 = 32;

/// The clock of one driver: [`now`], cheaper. Does not run backwards.
#[derive(Debug)]
pub struct Clock {
    state: Cell<State>,
    last: Cell<Instant>,
    is_usable: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Counter and kernel's time when the kernel was last asked.
    synced: Reading,
    /// The same at the beginning of the window over which the rate is learned.
    learning: Reading,
    /// Nanoseconds a tick, [`RATE_BITS`] binary places; 0: not known yet.
    rate: u64,
    /// For so many ticks after `synced` the rate is believed.
    trusted_ticks: u64,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    ticks: u64,
    nanos: u64,
}

/// The counter, and the kernel's nanoseconds before and after it.
#[derive(Clone, Copy, Debug)]
struct Bracket {
    before: u64,
    ticks: u64,
    after: u64,
}

impl Default for Clock {
    fn default() -> Self {
        let first = narrow(FIRST_TRIES, Bracket::read);
        // A kernel that takes so long to tell the time is not asked less by comparing with it.
        let is_usable = counter::is_trustworthy() && first.is_narrow();
        let reading = first.reading();
        let state = State { synced: reading, learning: reading, rate: 0, trusted_ticks: 0 };
        Clock { state: Cell::new(state), last: Cell::new(Instant::ZERO), is_usable }
    }
}

impl Clock {
    /// The time since boot, never earlier than what was given before.
    #[inline]
    pub fn now(&self) -> Instant {
        if !self.is_usable {
            return now();
        }
        let State { synced, rate, trusted_ticks, .. } = self.state.get();
        let ticks = counter::read().wrapping_sub(synced.ticks);
        let nanos = if ticks < trusted_ticks {
            // Below 2^64: the trusted time is a millisecond and a bit, 2^21 ns.
            synced.nanos + ((ticks * rate) >> RATE_BITS)
        } else {
            self.sync()
        };
        let instant = Instant::from_nanos(nanos).max(self.last.get());
        self.last.set(instant);
        instant
    }

    /// Asks the kernel, and learns the counter's rate.
    #[cold]
    fn sync(&self) -> u64 {
        let bracket = narrow(TRIES, Bracket::read);
        if bracket.is_narrow() {
            self.state.set(self.state.get().after(bracket.reading()));
        }
        // Else nothing is learned: the counter stays out of trust, and the next reading asks again.
        bracket.reading().nanos
    }
}

impl Bracket {
    fn read() -> Bracket {
        let before = now().as_nanos();
        let ticks = counter::read();
        Bracket { before, ticks, after: now().as_nanos() }
    }

    fn width(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }

    fn is_narrow(&self) -> bool {
        self.width() < WIDTH_NS_MAX
    }

    /// The counter was read between the two: in the middle it is off by half the width at most.
    fn reading(&self) -> Reading {
        Reading { ticks: self.ticks, nanos: self.before + self.width() / 2 }
    }
}

/// The first of so many brackets that is narrow, or the narrowest of them.
fn narrow(tries: u32, mut read: impl FnMut() -> Bracket) -> Bracket {
    let mut best = read();
    for _ in 1..tries {
        if best.is_narrow() {
            break;
        }
        let next = read();
        best = if next.width() < best.width() { next } else { best };
    }
    best
}

impl State {
    /// The state after the kernel was asked.
    fn after(self, reading: Reading) -> State {
        let State { learning, mut rate, mut trusted_ticks, .. } = self;
        let nanos = reading.nanos.saturating_sub(learning.nanos);
        let ticks = reading.ticks.wrapping_sub(learning.ticks);
        // A counter that ran backwards looks like one that is centuries ahead.
        let is_sane = ticks > 0 && ticks < u64::MAX >> 1;
        if !is_sane || nanos > LEARN_NS * 100 {
            // After a long sleep the rate is as good as before; after a step it is learned anew.
            let is_step = !is_sane || !is_close(rate_of(nanos, ticks), rate);
            let state = State { synced: reading, learning: reading, rate, trusted_ticks };
            return if is_step { State { rate: 0, trusted_ticks: 0, ..state } } else { state };
        }
        if nanos >= LEARN_NS {
            let seen = rate_of(nanos, ticks);
            if rate != 0 && !is_close(seen, rate) {
                // One of the two has stepped.
                let state = State { synced: reading, learning: reading, rate: 0, trusted_ticks: 0 };
                return state;
            }
            rate = seen;
            trusted_ticks = ((u128::from(SYNC_NS) << RATE_BITS) / u128::from(rate.max(1))) as u64;
        }
        State { synced: reading, learning, rate, trusted_ticks }
    }
}

fn rate_of(nanos: u64, ticks: u64) -> u64 {
    ((u128::from(nanos) << RATE_BITS) / u128::from(ticks.max(1))) as u64
}

/// Within a thousandth.
fn is_close(rate: u64, other: u64) -> bool {
    rate.abs_diff(other) <= other / 1_000
}

#[cfg(target_arch = "x86_64")]
mod counter {
    use std::arch::x86_64::{__cpuid, _rdtsc};

    /// The time stamp counter.
    #[inline]
    pub fn read() -> u64 {
        // SAFETY: every x86-64 processor has the instruction, and Linux leaves it to user space unless
        // a process asks for the contrary of itself.
        unsafe { _rdtsc() }
    }

    /// True if it runs at a constant rate in all states, and the kernel itself keeps time by it.
    pub fn is_trustworthy() -> bool {
        const POWER_LEAF: u32 = 0x8000_0007;
        const INVARIANT: u32 = 1 << 8;
        let has_leaf = __cpuid(0x8000_0000).eax >= POWER_LEAF;
        let is_invariant = has_leaf && __cpuid(POWER_LEAF).edx & INVARIANT != 0;
        let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let source = std::fs::read_to_string(path).unwrap_or_default();
        is_invariant && source.trim() == "tsc"
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod counter {
    /// No counter is known on this processor.
    pub fn read() -> u64 {
        0
    }

    /// No.
    pub fn is_trustworthy() -> bool {
        false
    }
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

    #[test]
    fn a_pause_between_the_two_clocks_is_read_again() {
        let torn = Bracket { before: 1_000, ticks: 50, after: 5_001_000 };
        let whole = Bracket { before: 5_002_000, ticks: 60, after: 5_002_100 };
        let mut readings = [torn, whole, torn].into_iter();
        let read = narrow(TRIES, || readings.next().expect("tried three times at most"));
        assert_eq!((read.ticks, read.reading().nanos), (60, 5_002_050));
        assert_eq!(readings.len(), 1, "a narrow one is enough");
        // Held up every time: the best there is, which is not good enough to trust the counter by.
        let less = Bracket { after: 4_000, ..torn };
        let mut readings = [torn, less, torn].into_iter();
        let read = narrow(TRIES, || readings.next().expect("tried three times at most"));
        assert_eq!(read.width(), 3_000);
        assert!(!read.is_narrow());
    }

    /// Bounded by kernel readings on both sides, so that no pause of this thread can fail it, nor one
    /// while the clock reads both: the counter may be off by half of [`WIDTH_NS_MAX`] and by the
    /// error of its rate over a millisecond, which are allowed 20 µs here.
    #[test]
    fn the_cheap_clock_keeps_to_the_kernels() {
        let clock = Clock::default();
        let slack = crate::time::Duration::from_micros(20);
        let mut last = clock.now();
        let until = now() + crate::time::Duration::from_millis(60);
        while now() < until {
            let before = now();
            let cheap = clock.now();
            let after = now();
            assert!(cheap >= last, "runs backwards");
            assert!(cheap + slack >= before, "late: {cheap:?}, the kernel said {before:?} before");
            assert!(cheap <= after + slack, "early: {cheap:?}, the kernel says {after:?} after");
            last = cheap;
        }
    }

    const START: Reading = Reading { ticks: 1_000, nanos: 5_000 };

    fn learned() -> State {
        let fresh = State { synced: START, learning: START, rate: 0, trusted_ticks: 0 };
        // 2 ticks a nanosecond over 20 ms.
        fresh.after(Reading { ticks: 1_000 + 40_000_000, nanos: 5_000 + 20_000_000 })
    }

    #[test]
    fn a_rate_is_believed_once_it_was_seen_for_long_enough() {
        let fresh = State { synced: START, learning: START, rate: 0, trusted_ticks: 0 };
        let soon = fresh.after(Reading { ticks: 3_000, nanos: 6_000 });
        assert_eq!(soon.trusted_ticks, 0, "1 µs is too short to learn from");
        let state = learned();
        assert_eq!(state.rate, 1 << (RATE_BITS - 1), "half a nanosecond a tick");
        assert_eq!(state.trusted_ticks, 2 * SYNC_NS);
    }

    #[test]
    fn a_rate_that_changes_is_not_believed() {
        let state = learned();
        // 5 ms pass between the two halves of a reading.
        let late = Reading { ticks: state.synced.ticks + 4_000_000, nanos: 7_000_000 };
        let torn = Reading { nanos: state.synced.nanos + late.nanos, ..late };
        let after = state.after(torn);
        assert_eq!((after.rate, after.trusted_ticks), (0, 0));
        // The counter is days ahead all at once: it would stand for minutes.
        let ahead = Reading { ticks: 1 << 48, nanos: state.synced.nanos + 2_000_000 };
        assert_eq!(state.after(ahead).trusted_ticks, 0);
    }

    #[test]
    fn a_step_of_the_counter_is_not_believed() {
        let state = learned();
        let far = state.synced.nanos + 3 * LEARN_NS * 100;
        let stepped = state.after(Reading { ticks: state.synced.ticks + 10, nanos: far });
        assert_eq!((stepped.rate, stepped.trusted_ticks), (0, 0), "it stood still");
        let backwards = state.after(Reading { ticks: 3, nanos: far });
        assert_eq!((backwards.rate, backwards.trusted_ticks), (0, 0));
        let slept =
            Reading { ticks: state.learning.ticks + 2 * (far - state.learning.nanos), nanos: far };
        assert_eq!(state.after(slept).rate, state.rate, "a long sleep changes nothing");
    }
}
