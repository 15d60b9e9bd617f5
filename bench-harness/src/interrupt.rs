//! ^C and SIGTERM: the first one ends a measurement in order, the second one the process.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a measurement that was interrupted: 128 and the number of SIGINT, as shells do.
pub const EXIT_CODE: u8 = 130;

/// Whether somebody wants the measurement to end. Clones hear of the same wish.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// One that is set by the first signal from now on. The second signal ends the process.
    ///
    /// # Errors
    /// If signals cannot be listened for.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = Interrupt::default();
        let wish = interrupt.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut pending = signals.forever();
            if pending.next().is_some() {
                // Said before anything else, for what follows may take as long as an answer.
                let _nobody_reads = writeln!(io::stderr(), "stopping; once more ends at once");
                wish.set();
            }
            if pending.next().is_some() {
                std::process::exit(EXIT_CODE.into());
            }
        })?;
        Ok(interrupt)
    }

    /// From now on everybody is to come to an end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True if the measurement is to end.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
