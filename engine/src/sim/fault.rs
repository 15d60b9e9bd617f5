//! What goes wrong, and when: a plan is a list of faults, written by hand or drawn from a seed.
//!
//! A drawn plan is plain data. Print it, delete lines, run it again: that is how a failing seed is
//! reduced to the two faults that matter.

use super::config::Span;
use super::host::HostId;
use crate::rng::Rng;
use crate::time::Duration;

/// How a host crashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process is killed. Its kernel closes the sockets, and keeps what was written; writes in
    /// flight may have been done, in part or not at all.
    Kill,
    /// The machine goes dark. Peers hear nothing; what was not synced is kept, lost or torn; the
    /// clock starts anew with the machine.
    PowerLoss,
}

/// How a third party ends a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Both ends are reset.
    Reset,
    /// Nothing gets through any more and nobody says so, as when a firewall forgets it. Whoever
    /// waits for an acknowledgement gives up in the end; whoever does not never learns of it.
    Silence,
}

/// Kinds of file operations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DiskOp {
    /// [`crate::driver::Driver::read`]
    Read,
    /// [`crate::driver::Driver::write`]
    Write,
    /// [`crate::driver::Driver::sync`]
    Sync,
    /// [`crate::driver::Driver::file_task`], of whatever kind but the next.
    Task,
    /// [`crate::driver::FileTask::SyncDirectory`]
    SyncDirectory,
}

/// One thing that goes wrong. Most end by themselves after `lasts`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// A process ends at once. It starts again after `down_for`; `None`: at [`Fault::Restart`].
    Crash {
        /// Which.
        host: HostId,
        /// With its machine, or alone.
        how: Crash,
        /// Until it starts again.
        down_for: Option<Duration>,
    },
    /// A crashed process starts again.
    Restart {
        /// Which.
        host: HostId,
    },
    /// A process stands still; its kernel goes on, and so does its clock.
    Pause {
        /// Which.
        host: HostId,
        /// For so long.
        lasts: Duration,
    },
    /// Nothing gets through from one host to another. The way back works.
    Cut {
        /// Whose segments are lost.
        from: HostId,
        /// Who does not get them.
        to: HostId,
        /// For so long.
        lasts: Duration,
    },
    /// Nothing gets through between two hosts.
    Partition {
        /// One of them.
        a: HostId,
        /// The other.
        b: HostId,
        /// For so long.
        lasts: Duration,
    },
    /// Nothing gets through between a host and all others.
    Isolate {
        /// Which.
        host: HostId,
        /// For so long.
        lasts: Duration,
    },
    /// Everything between two hosts gets through again.
    Heal {
        /// One of them.
        a: HostId,
        /// The other.
        b: HostId,
    },
    /// One way between two hosts takes longer.
    SlowLink {
        /// Whose segments are late.
        from: HostId,
        /// Who gets them late.
        to: HostId,
        /// How late.
        latency: Span,
        /// For so long.
        lasts: Duration,
    },
    /// One of the open connections between hosts is lost.
    LoseConnection {
        /// Which, modulo how many there are.
        pick: u64,
        /// How.
        how: Loss,
    },
    /// A process has no file descriptors left for what it accepts.
    FailAccepts {
        /// Which.
        host: HostId,
        /// For so long.
        lasts: Duration,
    },
    /// File operations take longer.
    SlowDisk {
        /// Whose.
        host: HostId,
        /// So many times as long.
        factor: u32,
        /// For so long.
        lasts: Duration,
    },
    /// The next file operations of a kind fail with `EIO`. After a sync that failed, what it should
    /// have covered is kept, lost or torn, and no later sync helps. A task that failed did nothing.
    FailDisk {
        /// Whose.
        host: HostId,
        /// Which kind.
        op: DiskOp,
        /// So many.
        times: u32,
    },
    /// Whatever takes room fails with `ENOSPC`: writes beyond what a file has taken already,
    /// reservations, new files and directories.
    FillDisk {
        /// Whose.
        host: HostId,
        /// For so long.
        lasts: Duration,
    },
    /// A bit of what a disk holds durably flips, and stays so. Reads see it unless something newer
    /// that was not yet synced lies over it.
    FlipBit {
        /// Whose.
        host: HostId,
        /// Which, modulo how many there are in the files that have a name.
        pick: u64,
    },
    /// A clock runs at another rate from now on.
    SkewClock {
        /// Whose.
        host: HostId,
        /// Millionths too fast; above -1,000,000.
        drift_ppm: i32,
    },
}

/// Faults and when they begin, counted from the moment the plan is given to the world.
pub type FaultPlan = Vec<(Duration, Fault)>;

/// From what a plan is drawn.
#[derive(Clone, Debug)]
pub struct FaultMix {
    /// Between one fault and the next.
    pub every: Span,
    /// How long a fault lasts.
    pub lasts: Span,
    /// At most so many hosts are crashed at a time.
    pub hosts_down_max: usize,
    /// How slow a slow link is.
    pub slow_latency: Span,
    /// How wrong a clock may go, in millionths either way.
    pub clock_drift_ppm_max: i32,
    /// How often each kind comes up, against the others.
    pub weights: FaultWeights,
}

impl Default for FaultMix {
    fn default() -> Self {
        FaultMix {
            every: Span::millis(5, 400),
            lasts: Span::millis(1, 3_000),
            hosts_down_max: 1,
            slow_latency: Span::millis(1, 200),
            clock_drift_ppm_max: 20_000,
            weights: FaultWeights::default(),
        }
    }
}

/// How often each kind of fault comes up, against the others; 0 is never.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is named after the fault or the crash it weighs")]
pub struct FaultWeights {
    pub kill: u32,
    pub power_loss: u32,
    pub pause: u32,
    pub cut: u32,
    pub partition: u32,
    pub isolate: u32,
    pub slow_link: u32,
    pub reset_connection: u32,
    pub silence_connection: u32,
    pub fail_accepts: u32,
    pub slow_disk: u32,
    pub fail_read: u32,
    pub fail_write: u32,
    pub fail_sync: u32,
    pub fail_task: u32,
    pub fail_sync_directory: u32,
    pub fill_disk: u32,
    pub flip_bit: u32,
    pub skew_clock: u32,
}

impl FaultWeights {
    /// No fault at all, to add the wanted ones to.
    pub const NONE: FaultWeights = FaultWeights {
        kill: 0,
        power_loss: 0,
        pause: 0,
        cut: 0,
        partition: 0,
        isolate: 0,
        slow_link: 0,
        reset_connection: 0,
        silence_connection: 0,
        fail_accepts: 0,
        slow_disk: 0,
        fail_read: 0,
        fail_write: 0,
        fail_sync: 0,
        fail_task: 0,
        fail_sync_directory: 0,
        fill_disk: 0,
        flip_bit: 0,
        skew_clock: 0,
    };
}

impl Default for FaultWeights {
    fn default() -> Self {
        FaultWeights {
            kill: 2,
            power_loss: 2,
            pause: 3,
            cut: 2,
            partition: 3,
            isolate: 1,
            slow_link: 3,
            reset_connection: 4,
            silence_connection: 1,
            fail_accepts: 1,
            slow_disk: 2,
            fail_read: 1,
            fail_write: 1,
            fail_sync: 1,
            fail_task: 1,
            fail_sync_directory: 1,
            fill_disk: 1,
            // What no single copy recovers from is asked for by name.
            flip_bit: 0,
            skew_clock: 1,
        }
    }
}

/// Draws a plan for `hosts` hosts and so much time.
///
/// # Panics
/// If there is no host, or all weights are zero.
pub fn draw_plan(rng: &mut Rng, hosts: u32, until: Duration, mix: &FaultMix) -> FaultPlan {
    assert!(hosts > 0, "faults need a host to befall");
    let mut planner = Planner { rng, hosts, mix, down: Vec::new() };
    let mut plan = FaultPlan::new();
    let mut at = planner.mix.every.draw(planner.rng);
    while at < until {
        plan.extend(planner.draw(at).map(|fault| (at, fault)));
        at += planner.mix.every.draw(planner.rng).max(Duration::from_nanos(1));
    }
    plan
}

struct Planner<'a> {
    rng: &'a mut Rng,
    hosts: u32,
    mix: &'a FaultMix,
    /// Hosts that are down, each with the time it starts again.
    down: Vec<(HostId, Duration)>,
}

/// A kind of fault, before it is drawn whom it befalls.
#[derive(Clone, Copy)]
enum Kind {
    Crash(Crash),
    Pause,
    Cut,
    Partition,
    Isolate,
    SlowLink,
    Lose(Loss),
    FailAccepts,
    SlowDisk,
    FailDisk(DiskOp),
    FillDisk,
    FlipBit,
    SkewClock,
}

impl Planner<'_> {
    /// A fault that begins `at`. `None`: the one that came up is not allowed just then.
    fn draw(&mut self, at: Duration) -> Option<Fault> {
        let kind = self.draw_kind();
        let (host, lasts) = (self.draw_host(), self.mix.lasts.draw(self.rng));
        Some(match kind {
            Kind::Crash(how) => {
                self.down.retain(|(_, until)| *until > at);
                let is_down = self.down.iter().any(|(down, _)| *down == host);
                if is_down || self.down.len() >= self.mix.hosts_down_max {
                    return None;
                }
                self.down.push((host, at + lasts));
                Fault::Crash { host, how, down_for: Some(lasts) }
            }
            Kind::Pause => Fault::Pause { host, lasts },
            Kind::Cut => Fault::Cut { from: host, to: self.draw_other(host)?, lasts },
            Kind::Partition => Fault::Partition { a: host, b: self.draw_other(host)?, lasts },
            Kind::Isolate => Fault::Isolate { host, lasts },
            Kind::SlowLink => {
                let (to, latency) = (self.draw_other(host)?, self.mix.slow_latency);
                Fault::SlowLink { from: host, to, latency, lasts }
            }
            Kind::Lose(how) => Fault::LoseConnection { pick: self.rng.next_u64(), how },
            Kind::FailAccepts => Fault::FailAccepts { host, lasts },
            Kind::SlowDisk => {
                let factor = 1 << (1 + self.rng.below(10));
                Fault::SlowDisk { host, factor, lasts }
            }
            Kind::FailDisk(op) => Fault::FailDisk { host, op, times: 1 + self.rng.below(3) as u32 },
            Kind::FillDisk => Fault::FillDisk { host, lasts },
            Kind::FlipBit => Fault::FlipBit { host, pick: self.rng.next_u64() },
            Kind::SkewClock => {
                let max = i64::from(self.mix.clock_drift_ppm_max);
                let drift_ppm = (self.rng.below(2 * max as u64 + 1) as i64 - max) as i32;
                Fault::SkewClock { host, drift_ppm }
            }
        })
    }

    fn draw_kind(&mut self) -> Kind {
        let weights = &self.mix.weights;
        let kinds = [
            (weights.kill, Kind::Crash(Crash::Kill)),
            (weights.power_loss, Kind::Crash(Crash::PowerLoss)),
            (weights.pause, Kind::Pause),
            (weights.cut, Kind::Cut),
            (weights.partition, Kind::Partition),
            (weights.isolate, Kind::Isolate),
            (weights.slow_link, Kind::SlowLink),
            (weights.reset_connection, Kind::Lose(Loss::Reset)),
            (weights.silence_connection, Kind::Lose(Loss::Silence)),
            (weights.fail_accepts, Kind::FailAccepts),
            (weights.slow_disk, Kind::SlowDisk),
            (weights.fail_read, Kind::FailDisk(DiskOp::Read)),
            (weights.fail_write, Kind::FailDisk(DiskOp::Write)),
            (weights.fail_sync, Kind::FailDisk(DiskOp::Sync)),
            (weights.fail_task, Kind::FailDisk(DiskOp::Task)),
            (weights.fail_sync_directory, Kind::FailDisk(DiskOp::SyncDirectory)),
            (weights.fill_disk, Kind::FillDisk),
            (weights.flip_bit, Kind::FlipBit),
            (weights.skew_clock, Kind::SkewClock),
        ];
        let sum: u32 = kinds.iter().map(|(weight, _)| *weight).sum();
        let mut ticket = self.rng.below(u64::from(sum)) as u32;
        for (weight, kind) in kinds {
            match ticket.checked_sub(weight) {
                Some(rest) => ticket = rest,
                None => return kind,
            }
        }
        unreachable!("the ticket is below the sum of the weights")
    }

    fn draw_host(&mut self) -> HostId {
        HostId(self.rng.below(u64::from(self.hosts)) as u32)
    }

    fn draw_other(&mut self, host: HostId) -> Option<HostId> {
        let others = u64::from(self.hosts).checked_sub(1).filter(|others| *others > 0)?;
        let step = 1 + self.rng.below(others) as u32;
        Some(HostId((host.0 + step) % self.hosts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_its_seed_and_keeps_its_bounds() {
        let mix = FaultMix { hosts_down_max: 2, ..FaultMix::default() };
        let until = Duration::from_secs(200);
        let draw = |seed| draw_plan(&mut Rng::from_seed(seed), 5, until, &mix);
        let plan = draw(1);
        assert_eq!(plan, draw(1));
        assert_ne!(plan, draw(2));
        assert!(plan.len() > 300 && plan.is_sorted_by_key(|(at, _)| *at));
        let mut down: Vec<(HostId, Duration)> = Vec::new();
        for (at, fault) in plan {
            assert!(at < until);
            if let Fault::Crash { host, down_for: Some(down_for), .. } = fault {
                down.retain(|(_, until)| *until > at);
                assert!(down.iter().all(|(other, _)| *other != host), "crashed while down");
                down.push((host, at + down_for));
                assert!(down.len() <= 2);
            }
        }
    }

    #[test]
    fn only_what_has_weight_is_drawn() {
        let weights = FaultWeights { cut: 1, ..FaultWeights::NONE };
        let mix = FaultMix { weights, ..FaultMix::default() };
        let plan = draw_plan(&mut Rng::from_seed(3), 2, Duration::from_secs(50), &mix);
        assert!(!plan.is_empty());
        for (_, fault) in plan {
            assert!(matches!(fault, Fault::Cut { from, to, .. } if from != to), "{fault:?}");
        }
    }
}
