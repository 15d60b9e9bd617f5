//! The loop of one core, on one screen: turn, look, spin, sleep.

use crate::driver::Driver;
use crate::limits::{SPIN_MAX, SPIN_RETRY_WAITS};
use crate::shard::Shard;
use crate::time::{Duration, Instant};
use std::fmt;
use std::io;
use std::str::FromStr;

/// What a shard does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PollMode {
    /// Spins for a moment when that has paid lately, then sleeps.
    #[default]
    Adaptive,
    /// Never sleeps: the least latency, and a core that is always busy.
    Always,
    /// Sleeps at once: the least CPU time.
    Never,
}

impl FromStr for PollMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "adaptive" => Ok(PollMode::Adaptive),
            "always" => Ok(PollMode::Always),
            "never" => Ok(PollMode::Never),
            other => Err(format!("{other:?} is no poll mode; say adaptive, always or never")),
        }
    }
}

impl fmt::Display for PollMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PollMode::Adaptive => "adaptive",
            PollMode::Always => "always",
            PollMode::Never => "never",
        })
    }
}

/// Runs a shard on a kernel driver until it has drained or was told to stop.
///
/// # Errors
/// Only when the driver itself is broken.
pub fn run<D: Driver>(shard: &mut Shard, driver: &mut D, mode: PollMode) -> io::Result<()> {
    let parker = driver.parker();
    let mut spin = Spin::new(mode);
    loop {
        let next = shard.turn(driver);
        if next.stopped {
            return Ok(());
        }
        if next.busy {
            driver.poll()?;
            continue;
        }
        if spin.may_begin(next.awaits_files)
            && spin_until_ready(shard, driver, &mut spin, next.until)?
        {
            continue;
        }
        // Say "parked", then look once more: whoever adds work after the look sees the word.
        parker.announce();
        if shard.has_mail() {
            parker.withdraw();
            driver.poll()?;
            continue;
        }
        let sleeps_at = driver.now();
        driver.park(next.until)?;
        spin.slept(driver.now().since(sleeps_at));
    }
}

/// Looks without sleeping. True: there is something to do. False: spinning did not pay.
fn spin_until_ready<D: Driver>(
    shard: &mut Shard,
    driver: &mut D,
    spin: &mut Spin,
    until: Option<Instant>,
) -> io::Result<bool> {
    // Hands over what the turn has asked for.
    let mut is_ready = driver.poll()?;
    let began_at = driver.now();
    let mut looks = 0u32;
    loop {
        if is_ready || shard.has_mail() {
            spin.found(driver.now().since(began_at));
            driver.poll()?;
            return Ok(true);
        }
        std::hint::spin_loop();
        is_ready = driver.is_ready();
        looks = looks.wrapping_add(1);
        // The clock costs as much as a few looks.
        if looks.is_multiple_of(8) {
            let now = driver.now();
            if until.is_some_and(|until| until <= now) {
                driver.poll()?;
                return Ok(true);
            }
            if spin.is_over(now.since(began_at)) {
                return Ok(false);
            }
        }
    }
}

/// Whether and how long to spin, learned from how long the waits lately were.
///
/// The expected wait is a moving average over sleeps and spins alike (each new one counts 1/8, waits
/// are capped, so that one quiet hour is forgotten after a few quick answers). Spinning begins when
/// less than [`SPIN_MAX`] is expected; a long expectation is tested once in [`SPIN_RETRY_WAITS`] waits.
struct Spin {
    mode: PollMode,
    expected_ns: u64,
    waits: u32,
}

impl Spin {
    fn new(mode: PollMode) -> Self {
        Spin { mode, expected_ns: 0, waits: 0 }
    }

    /// `awaits_files`: the kernel, or a helper, works on a file, on a thread that may want this very core.
    fn may_begin(&mut self, awaits_files: bool) -> bool {
        match self.mode {
            PollMode::Always => true,
            PollMode::Never => false,
            PollMode::Adaptive if awaits_files => false,
            PollMode::Adaptive => {
                self.waits = self.waits.wrapping_add(1);
                self.expected_ns <= SPIN_MAX.as_nanos() as u64
                    || self.waits.is_multiple_of(SPIN_RETRY_WAITS)
            }
        }
    }

    fn is_over(&self, spun: Duration) -> bool {
        self.mode == PollMode::Adaptive && spun >= SPIN_MAX
    }

    fn found(&mut self, waited: Duration) {
        self.learn(waited);
    }

    fn slept(&mut self, slept: Duration) {
        self.learn(slept);
    }

    fn learn(&mut self, waited: Duration) {
        let waited_ns = waited.min(SPIN_MAX * 4).as_nanos() as u64;
        self.expected_ns = (self.expected_ns * 7 + waited_ns) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_spins_while_it_pays_and_tries_again_later() {
        let mut spin = Spin::new(PollMode::Adaptive);
        assert!(spin.may_begin(false), "nothing is known yet: try");
        for _ in 0..20 {
            spin.slept(Duration::from_secs(1));
        }
        let tries = (0..SPIN_RETRY_WAITS).filter(|_| spin.may_begin(false)).count();
        assert_eq!(tries, 1, "long waits: one try in {SPIN_RETRY_WAITS}");
        for _ in 0..20 {
            spin.slept(Duration::from_micros(5));
        }
        assert!(spin.may_begin(false), "short waits: worth it again");
        assert!(!spin.may_begin(true), "a sync would wait for this core");
    }

    #[test]
    fn modes_are_parsed_and_named() {
        for mode in [PollMode::Adaptive, PollMode::Always, PollMode::Never] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("sometimes".parse::<PollMode>().is_err());
    }
}
