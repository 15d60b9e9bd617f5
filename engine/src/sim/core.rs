//! The state of a world without its processes: stage, network and disks, and what befalls them.

use super::config::WorldConfig;
use super::disk::Disk;
use super::event_log::{EventKind, Place};
use super::fault::{Crash, Fault, Loss};
use super::host::{Host, HostClock, HostId, Shard, ShardAt};
use super::network::Network;
use super::stage::{Event, Stage};
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// See the module page.
#[derive(Debug)]
pub(super) struct Core {
    pub stage: Stage,
    pub network: Network,
    pub disks: Vec<Disk>,
    pub config: WorldConfig,
    /// Seeds for what is added to the world later: a host's disk, clock and process.
    seeds: Rng,
    /// The shard whose turn it is.
    pub running: Option<ShardAt>,
    /// How often everything was healed.
    pub heals: u32,
}

/// What an event asks of the processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Nothing,
    Turn(ShardAt),
    /// The process of a host is gone.
    Drop(HostId),
    Boot(HostId),
}

impl Core {
    pub fn new(seed: u64, config: WorldConfig) -> Self {
        let mut rng = Rng::from_seed(seed);
        let (schedule, network, seeds) = (rng.fork(), rng.fork(), rng.fork());
        Core {
            stage: Stage::new(config.cpu.clone(), config.log.records_kept, schedule),
            network: Network::new(config.network.clone(), network),
            disks: Vec::new(),
            config,
            seeds,
            running: None,
            heals: 0,
        }
    }

    /// Generators forked here are the same in every run of the seed.
    pub fn fork_rng(&mut self) -> Rng {
        self.seeds.fork()
    }

    pub fn begin_turn(&mut self, at: ShardAt) {
        self.running = Some(at);
        self.stage.record_at(at, EventKind::Turn, &[]);
    }

    pub fn end_turn(&mut self, at: ShardAt, busy: bool, until: Option<Instant>) {
        self.running = None;
        self.stage.end_turn(at, busy, until);
    }

    /// Uses CPU time of the shard whose turn it is.
    pub fn burn(&mut self, at: ShardAt, time: Duration) {
        self.stage.burn(time);
        self.stage.record_at(at, EventKind::CpuBurned, &[nanos("time", time)]);
    }

    /// Adds a remark to the log, by whoever's turn it is.
    pub fn note(&mut self, text: &str) {
        let place = self.running.map_or(Place::World, Place::Shard);
        let now = self.stage.now();
        self.stage.log.note(now, place, text);
    }

    /// Adds a machine; its process is to be booted.
    pub fn add_host(&mut self, bare: bool) -> HostId {
        let host = HostId(self.stage.hosts.len() as u32);
        let rng = self.fork_rng();
        self.disks.push(Disk::new(host, self.config.disk.clone(), rng));
        let max = u64::from(self.config.cpu.clock_drift_ppm_max.unsigned_abs());
        let drift_ppm = (self.seeds.below(2 * max + 1) as i64 - max as i64) as i32;
        let origin = self.config.cpu.clock_origin.draw(&mut self.seeds);
        self.stage.hosts.push(Host {
            clock: HostClock::new(self.stage.now(), origin, drift_ppm),
            drift_ppm,
            powered: true,
            incarnation: 0,
            running: false,
            bare,
            paused_until: Instant::ZERO,
            shards: Vec::new(),
        });
        host
    }

    /// A new process begins on a host, with so many shards.
    pub fn boot(&mut self, host: HostId, shards: u32) {
        let state = self.stage.host(host);
        state.incarnation += 1;
        state.running = true;
        let incarnation = state.incarnation;
        if !state.powered {
            state.powered = true;
            let origin = self.config.cpu.clock_origin.draw(&mut self.seeds);
            let (now, state) = (self.stage.now(), self.stage.host(host));
            state.clock = HostClock::new(now, origin, state.drift_ppm);
        }
        let (buffers, wakes) = (self.config.network.receive_buffers, self.stage.wakes.clone());
        self.stage.host(host).shards = (0..shards)
            .map(|shard| Shard::new(ShardAt { host, shard }, incarnation, buffers, &wakes))
            .collect();
        let facts = [("incarnation", u64::from(incarnation))];
        self.stage.record(Place::Host(host), EventKind::HostBooted, &facts);
        // Its kernel answers again: what peers sent meanwhile reaches it, and is reset.
        self.network.resume_paths(&mut self.stage);
    }

    /// Does what is due, and says what it means for the processes.
    pub fn handle(&mut self, event: Event) -> Call {
        let (stage, network) = (&mut self.stage, &mut self.network);
        match event {
            Event::Turn(at) => {
                return if stage.begin_turn(at) { Call::Turn(at) } else { Call::Nothing };
            }
            Event::Boot(host, incarnation) => {
                let state = stage.host(host);
                let due = !state.running && state.incarnation == incarnation;
                return if due { Call::Boot(host) } else { Call::Nothing };
            }
            Event::Fault(_, heals) if heals != self.heals => {}
            Event::Fault(fault, _) => return self.befall(fault),
            Event::Resume(host) => wake_all(stage, host),
            Event::Syn(id) => network.on_syn(stage, id),
            Event::SynAck(id) => network.on_syn_ack(stage, id),
            Event::Deliver(id, from) => network.on_deliver(stage, id, from),
            Event::Ack(id, from) => network.on_ack(stage, id, from),
            Event::Reset(id, side) => network.on_reset(stage, id, side),
            Event::GiveUp(id, side, since) => network.on_give_up(stage, id, side, since),
            Event::CloseDone(at, incarnation, socket) => {
                network.on_close_done(stage, at, incarnation, socket);
            }
            Event::AcceptAgain(at, incarnation, listener) => {
                network.on_accept_again(stage, at, incarnation, listener);
            }
            Event::DiskDone(host, key) => self.disks[host.index()].on_done(stage, key),
            Event::Heal => network.resume_paths(stage),
        }
        Call::Nothing
    }

    /// A fault begins.
    pub fn befall(&mut self, fault: Fault) -> Call {
        match fault {
            Fault::Crash { host, how, down_for } => return self.crash(host, how, down_for),
            Fault::Restart { host } => {
                return if self.stage.host(host).running {
                    Call::Nothing
                } else {
                    Call::Boot(host)
                };
            }
            Fault::Pause { host, lasts } => self.pause(host, lasts),
            Fault::Cut { from, to, lasts } => self.cut(from, to, lasts),
            Fault::Partition { a, b, lasts } => {
                self.cut(a, b, lasts);
                self.cut(b, a, lasts);
            }
            Fault::Isolate { host, lasts } => {
                for other in (0..self.stage.hosts.len() as u32).map(HostId) {
                    self.cut(host, other, lasts);
                    self.cut(other, host, lasts);
                }
            }
            Fault::Heal { a, b } => {
                for (from, to) in [(a, b), (b, a)] {
                    self.network.links.heal(from, to);
                    let facts = [("to", u64::from(to.0))];
                    self.stage.record(Place::Host(from), EventKind::LinkHealed, &facts);
                }
                self.network.resume_paths(&mut self.stage);
            }
            Fault::SlowLink { from, to, latency, lasts } => {
                let facts = [("to", u64::from(to.0)), nanos("latency_max", latency.high)];
                self.stage.record(Place::Host(from), EventKind::LinkSlowed, &facts);
                self.network.links.slow(from, to, latency, self.stage.now() + lasts);
            }
            Fault::LoseConnection { pick, how } => self.lose(pick, how),
            Fault::FailAccepts { host, lasts } => {
                let facts = [nanos("lasts", lasts)];
                self.stage.record(Place::Host(host), EventKind::AcceptsFailing, &facts);
                self.network.fail_accepts(host, self.stage.now() + lasts);
            }
            Fault::SlowDisk { host, factor, lasts } => {
                let facts = [("factor", u64::from(factor)), nanos("lasts", lasts)];
                self.stage.record(Place::Host(host), EventKind::DiskSlowed, &facts);
                self.disks[host.index()].slow(factor, self.stage.now() + lasts);
            }
            Fault::FailDisk { host, op, times } => {
                let facts = [("op", op as u64), ("times", u64::from(times))];
                self.stage.record(Place::Host(host), EventKind::DiskFailing, &facts);
                self.disks[host.index()].fail(op, times);
            }
            Fault::FillDisk { host, lasts } => {
                self.stage.record(
                    Place::Host(host),
                    EventKind::DiskFilled,
                    &[nanos("lasts", lasts)],
                );
                self.disks[host.index()].fill(self.stage.now() + lasts);
            }
            Fault::FlipBit { host, pick } => {
                self.disks[host.index()].flip_any_bit(&mut self.stage, pick);
            }
            Fault::SkewClock { host, drift_ppm } => self.skew_clock(host, drift_ppm),
        }
        Call::Nothing
    }

    /// Ends all faults and lets no scheduled one begin. Says which hosts are to be booted.
    pub fn heal_all(&mut self) -> Vec<HostId> {
        self.heals += 1;
        self.network.links.heal_all();
        self.network.heal_accepts();
        self.disks.iter_mut().for_each(Disk::heal);
        let now = self.stage.now();
        let mut to_boot = Vec::new();
        for host in (0..self.stage.hosts.len() as u32).map(HostId) {
            let state = self.stage.host(host);
            state.paused_until = Instant::ZERO;
            let drift_ppm = state.drift_ppm;
            state.clock.set_drift(now, drift_ppm);
            if state.running {
                wake_all(&mut self.stage, host);
            } else {
                to_boot.push(host);
            }
        }
        self.network.resume_paths(&mut self.stage);
        to_boot
    }

    /// All shards of a process have stopped. Nobody starts it again but [`Fault::Restart`].
    pub fn exit(&mut self, host: HostId) -> Call {
        self.stage.record(Place::Host(host), EventKind::HostExited, &[]);
        self.crash(host, Crash::Kill, None)
    }

    fn crash(&mut self, host: HostId, how: Crash, down_for: Option<Duration>) -> Call {
        let state = self.stage.host(host);
        if !state.running {
            return Call::Nothing;
        }
        state.running = false;
        state.paused_until = Instant::ZERO;
        let incarnation = state.incarnation;
        let kind = match how {
            Crash::Kill => EventKind::HostKilled,
            Crash::PowerLoss => EventKind::HostLostPower,
        };
        self.stage.record(Place::Host(host), kind, &[]);
        self.network.crash(&mut self.stage, host, how);
        self.disks[host.index()].crash(&mut self.stage, how);
        if how == Crash::PowerLoss {
            self.stage.host(host).powered = false;
        }
        if let Some(down_for) = down_for {
            self.stage.after(down_for, Event::Boot(host, incarnation));
        }
        Call::Drop(host)
    }

    fn pause(&mut self, host: HostId, lasts: Duration) {
        self.stage.record(Place::Host(host), EventKind::HostPaused, &[nanos("lasts", lasts)]);
        let until = self.stage.now() + lasts;
        let paused_until = &mut self.stage.host(host).paused_until;
        *paused_until = (*paused_until).max(until);
        self.stage.at(until, Event::Resume(host));
    }

    fn cut(&mut self, from: HostId, to: HostId, lasts: Duration) {
        if from == to {
            return;
        }
        let facts = [("to", u64::from(to.0)), nanos("lasts", lasts)];
        self.stage.record(Place::Host(from), EventKind::LinkCut, &facts);
        let until = self.stage.now() + lasts;
        self.network.links.cut(from, to, until);
        self.stage.at(until, Event::Heal);
    }

    fn lose(&mut self, pick: u64, how: Loss) {
        self.network.lose(&mut self.stage, pick, how);
    }

    fn skew_clock(&mut self, host: HostId, drift_ppm: i32) {
        assert!(drift_ppm > -1_000_000, "a clock may be slow but does not stand still");
        let facts = [("drift_ppm", drift_ppm as u64)];
        self.stage.record(Place::Host(host), EventKind::ClockSkewed, &facts);
        let now = self.stage.now();
        self.stage.host(host).clock.set_drift(now, drift_ppm);
        // Timers were set by the old rate.
        wake_all(&mut self.stage, host);
    }
}

fn wake_all(stage: &mut Stage, host: HostId) {
    if stage.host(host).running {
        for shard in 0..stage.host(host).shards.len() as u32 {
            stage.wake(ShardAt { host, shard });
        }
    }
}

fn nanos(name: &'static str, duration: Duration) -> (&'static str, u64) {
    (name, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}
