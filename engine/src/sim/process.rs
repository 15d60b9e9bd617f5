//! What runs on a simulated host, and how it is run: a turn at a time.

use super::driver::SimDriver;
use super::host::{HostId, ShardAt};
use super::world::Shared;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::rc::Rc;

/// When a shard wants its next turn, unless something completes or somebody unparks it before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Next {
    /// At this instant of its own clock; `None`: there is no timer.
    pub until: Option<Instant>,
    /// At once: there is work left.
    pub busy: bool,
    /// Never: this was the last turn. When all shards of a process have said so, it exits, and its
    /// kernel closes what it left open.
    pub stopped: bool,
}

/// What runs on one shard. A closure `FnMut(&mut SimDriver) -> Next` is one, too.
///
/// A turn takes the completions that there are, does what they ask for, and returns; it never
/// parks. It uses no time of the virtual clock but what it burns ([`SimDriver::burn`]), and a
/// little that the world adds at its end.
pub trait Process {
    /// One pass over what completed.
    fn turn(&mut self, driver: &mut SimDriver) -> Next;
}

impl<F: FnMut(&mut SimDriver) -> Next> Process for F {
    fn turn(&mut self, driver: &mut SimDriver) -> Next {
        self(driver)
    }
}

/// What a process is given when it starts, for the first time or after a crash. What a host is to
/// remember beyond a crash must be in its files.
pub struct Boot<'a> {
    /// The machine.
    pub host: HostId,
    /// 1 for the first process of the host, 2 after its first crash, and so on.
    pub incarnation: u32,
    /// A driver for each shard, to listen and to begin to open files with before the first turn.
    pub drivers: &'a mut [SimDriver],
    /// Randomness of the process's own.
    pub rng: Rng,
    pub(super) shared: Rc<Shared>,
}

impl Boot<'_> {
    /// A handle for what has no driver at hand, such as a request handler.
    pub fn hook(&self) -> Hook {
        Hook { shared: self.shared.clone() }
    }
}

/// Starts the process of a host: one [`Process`] for each driver, in their order.
pub(super) type BootFn = Box<dyn FnMut(Boot<'_>) -> Vec<Box<dyn Process>>>;

/// A process and its driver, between turns.
pub(super) struct Running {
    pub process: Box<dyn Process>,
    pub driver: SimDriver,
}

/// A handle on the world for code inside a turn that has no driver at hand: a request handler that
/// simulates work, say.
#[derive(Clone)]
pub struct Hook {
    pub(super) shared: Rc<Shared>,
}

impl Hook {
    /// Uses CPU time of the shard whose turn it is: what it does next happens so much later.
    ///
    /// # Panics
    /// Outside of a turn: nobody's time would be used.
    pub fn burn(&self, time: Duration) {
        let mut core = self.shared.core.borrow_mut();
        let at = core.running.expect("time is burned within a turn");
        core.burn(at, time);
    }

    /// Adds a remark to the event log.
    pub fn note(&self, text: &str) {
        self.shared.core.borrow_mut().note(text);
    }

    /// The time of the world, which no host's clock shows.
    pub fn now(&self) -> Instant {
        self.shared.core.borrow().stage.now()
    }

    /// The shard whose turn it is. `None`: between turns.
    pub fn running(&self) -> Option<ShardAt> {
        self.shared.core.borrow().running
    }
}
