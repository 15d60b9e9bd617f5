//! A world: hosts, what lies between them, and one queue of what happens next.

use super::config::WorldConfig;
use super::core::{Call, Core};
use super::driver::SimDriver;
use super::event_log::EventKind;
use super::fault::{Fault, FaultMix, FaultPlan, draw_plan};
use super::host::{HostId, ShardAt};
use super::process::{Boot, BootFn, Hook, Next, Process, Running};
use super::stage::Event;
use crate::time::{Duration, Instant};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

/// A simulated world. See the [module page](super) for how to use one.
pub struct World {
    shared: Rc<Shared>,
    seed: u64,
}

/// What the world, its drivers and its hooks share. `core` is never borrowed while a process runs.
pub(super) struct Shared {
    pub core: RefCell<Core>,
    processes: RefCell<Vec<HostProcesses>>,
}

/// The processes of one host.
struct HostProcesses {
    shards: u32,
    /// `None`: a bare host, whose drivers are called from outside.
    boot: Option<BootFn>,
    /// By shard; empty while the host is down, `None` while its turn runs.
    running: Vec<Option<Running>>,
}

impl World {
    /// A world without hosts, in which everything that is left to chance is left to `seed`.
    pub fn new(seed: u64, config: WorldConfig) -> Self {
        let core = RefCell::new(Core::new(seed, config));
        World { shared: Rc::new(Shared { core, processes: RefCell::default() }), seed }
    }

    /// The seed of this world.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds a host and starts its process; `boot` is called now and after each crash.
    ///
    /// # Panics
    /// If `boot` does not return one process for each of `shards`.
    pub fn start_host(
        &mut self,
        shards: u32,
        boot: impl FnMut(Boot<'_>) -> Vec<Box<dyn Process>> + 'static,
    ) -> HostId {
        let host = self.add_host(shards, Some(Box::new(boot)));
        self.shared.boot(host);
        host
    }

    /// As [`World::start_host`], with one shard whose process is `boot`'s answer.
    pub fn start_process<P: Process + 'static>(
        &mut self,
        mut boot: impl FnMut(Boot<'_>) -> P + 'static,
    ) -> HostId {
        self.start_host(1, move |given| vec![Box::new(boot(given)) as Box<dyn Process>])
    }

    /// Adds a host without a process: its drivers are called from outside, and calling them makes
    /// the world go on. For tests of a driver, and for a test that plays the client itself.
    pub fn bare_host(&mut self, shards: u32) -> Vec<SimDriver> {
        let host = self.add_host(shards, None);
        self.restart_bare_host(host)
    }

    /// Starts a bare host that has crashed, with new drivers.
    ///
    /// # Panics
    /// If the host runs, or is not bare.
    pub fn restart_bare_host(&mut self, host: HostId) -> Vec<SimDriver> {
        assert!(!self.is_running(host), "a host that runs cannot be started");
        let processes = self.shared.processes.borrow();
        let HostProcesses { shards, boot, .. } = &processes[host.index()];
        assert!(boot.is_none(), "a host with a process starts by itself");
        self.shared.core.borrow_mut().boot(host, *shards);
        self.shared.drivers(host, *shards)
    }

    /// The time of the world, which no host's clock shows.
    pub fn now(&self) -> Instant {
        self.shared.core.borrow().stage.now()
    }

    /// Does what is to happen next. False: nothing ever will.
    pub fn step(&mut self) -> bool {
        self.shared.step(Instant::FAR_FUTURE)
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.shared.run_for(time);
    }

    /// Runs until `done`, which is asked after every event, or for at most `limit`. Says whether it
    /// is done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let until = self.now() + limit;
        loop {
            if done(self) {
                return true;
            }
            if !self.shared.step(until) {
                self.shared.core.borrow_mut().stage.advance_to(until);
                return done(self);
            }
        }
    }

    /// Lets a fault begin now.
    pub fn inject(&mut self, fault: Fault) {
        let call = self.shared.core.borrow_mut().befall(fault);
        self.shared.carry_out(call);
    }

    /// Puts faults on the agenda, counted from now.
    pub fn schedule(&mut self, plan: &FaultPlan) {
        let core = &mut *self.shared.core.borrow_mut();
        for (after, fault) in plan {
            core.stage.after(*after, Event::Fault(*fault, core.heals));
        }
    }

    /// Draws a plan for all hosts from the seed of this world. Give it to [`World::schedule`].
    pub fn draw_plan(&mut self, until: Duration, mix: &FaultMix) -> FaultPlan {
        let mut core = self.shared.core.borrow_mut();
        let (mut rng, hosts) = (core.fork_rng(), core.stage.hosts.len() as u32);
        draw_plan(&mut rng, hosts, until, mix)
    }

    /// Ends all faults, starts what has crashed, and lets no fault begin that was scheduled before.
    /// After this a cluster must make progress. (Connections that were silenced stay so, and file
    /// operations that began on a slow disk take their time.)
    pub fn heal_all(&mut self) {
        let to_boot = self.shared.core.borrow_mut().heal_all();
        to_boot.into_iter().for_each(|host| self.shared.carry_out(Call::Boot(host)));
    }

    /// False while the host is crashed.
    pub fn is_running(&self, host: HostId) -> bool {
        self.shared.core.borrow().stage.hosts[host.index()].running
    }

    /// Receive buffers of a shard in use: chunks not given back and payloads that were lent.
    pub fn buffers_in_use(&self, at: ShardAt) -> usize {
        let core = self.shared.core.borrow();
        core.stage.hosts[at.host.index()].shards[at.shard as usize].pool.in_use()
    }

    /// What a file of a host holds, as reads see it.
    pub fn file(&self, host: HostId, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.shared.core.borrow().disks[host.index()].contents(path.as_ref())
    }

    /// What a file of a host would hold if the power failed now and nothing else had luck. `None`: its
    /// name is not durable, whatever its bytes are.
    pub fn durable_file(&self, host: HostId, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.shared.core.borrow().disks[host.index()].durable_contents(path.as_ref())
    }

    /// Flips a bit of a file on its disk, as [`Fault::FlipBit`] does somewhere.
    ///
    /// # Panics
    /// If there is no such file, or no such bit in what is durable of it.
    pub fn flip_bit(&mut self, host: HostId, path: impl AsRef<Path>, bit: u64) {
        let core = &mut *self.shared.core.borrow_mut();
        core.disks[host.index()].flip_bit(&mut core.stage, path.as_ref(), bit);
    }

    /// Takes the disk out of a machine that is down, and puts it into one that has not used its own yet:
    /// what was served with so many shards is then served with as many as that one has.
    ///
    /// # Panics
    /// If the first one runs, or the second has used its disk.
    pub fn move_disk(&mut self, from: HostId, to: HostId) {
        assert!(!self.is_running(from), "{from} uses its disk");
        let disks = &mut self.shared.core.borrow_mut().disks;
        let [from, to] = disks
            .get_disjoint_mut([from.index(), to.index()])
            .expect("there are both machines, and they are two");
        from.change_places(to);
    }

    /// A handle for code inside a turn that has no driver at hand.
    pub fn hook(&self) -> Hook {
        Hook { shared: self.shared.clone() }
    }

    /// Adds a remark to the event log.
    pub fn note(&self, text: &str) {
        self.shared.core.borrow_mut().note(text);
    }

    /// Everything that happened, in 64 bits: equal for two runs of one seed.
    pub fn log_hash(&self) -> u64 {
        self.shared.core.borrow().stage.log.hash()
    }

    /// How often a kind of thing happened.
    pub fn count(&self, kind: EventKind) -> u64 {
        self.shared.core.borrow().stage.log.count(kind)
    }

    /// The last events, one a line.
    pub fn log_text(&self) -> String {
        self.shared.core.borrow().stage.log.text()
    }

    fn add_host(&mut self, shards: u32, boot: Option<BootFn>) -> HostId {
        assert!(shards > 0, "a process has a shard at least");
        let host = self.shared.core.borrow_mut().add_host(boot.is_none());
        let processes = HostProcesses { shards, boot, running: Vec::new() };
        self.shared.processes.borrow_mut().push(processes);
        host
    }
}

impl Drop for World {
    /// Processes hold drivers, which hold the world: here the circle ends.
    fn drop(&mut self) {
        drop(self.shared.processes.take());
    }
}

impl Shared {
    /// Does what is to happen next, no later than `limit`. False: there is nothing.
    pub fn step(self: &Rc<Self>, limit: Instant) -> bool {
        let call = {
            let mut core = self.core.borrow_mut();
            // Whoever holds a handle may have unparked a shard between two events.
            core.stage.settle();
            let Some(event) = core.stage.next_event(limit) else { return false };
            core.handle(event)
        };
        self.carry_out(call);
        true
    }

    pub fn run_for(self: &Rc<Self>, time: Duration) {
        let until = self.core.borrow().stage.now() + time;
        while self.step(until) {}
        self.core.borrow_mut().stage.advance_to(until);
    }

    fn carry_out(self: &Rc<Self>, call: Call) {
        match call {
            Call::Nothing => {}
            Call::Turn(at) => self.turn(at),
            Call::Boot(host) => self.boot(host),
            Call::Drop(host) => {
                let dead = std::mem::take(&mut self.processes.borrow_mut()[host.index()].running);
                drop(dead);
                self.core.borrow_mut().stage.settle();
            }
        }
    }

    fn turn(self: &Rc<Self>, at: ShardAt) {
        let place = |processes: &mut Vec<HostProcesses>| {
            processes[at.host.index()].running.get_mut(at.shard as usize).and_then(Option::take)
        };
        // A bare host has no process; its drivers look for themselves.
        let Some(mut running) = place(&mut self.processes.borrow_mut()) else { return };
        self.core.borrow_mut().begin_turn(at);
        running.driver.collect();
        let Next { until, busy, stopped } = running.process.turn(&mut running.driver);
        let busy = busy || running.driver.has_completions();
        self.core.borrow_mut().end_turn(at, busy, until);
        if !stopped {
            let place = &mut self.processes.borrow_mut()[at.host.index()];
            place.running[at.shard as usize] = Some(running);
            return;
        }
        drop(running);
        let all = self.processes.borrow()[at.host.index()].running.iter().all(Option::is_none);
        if all {
            let call = self.core.borrow_mut().exit(at.host);
            self.carry_out(call);
        }
    }

    fn boot(self: &Rc<Self>, host: HostId) {
        let (shards, boot) = {
            let processes = &mut self.processes.borrow_mut()[host.index()];
            (processes.shards, processes.boot.take())
        };
        let Some(mut boot) = boot else { return };
        self.core.borrow_mut().boot(host, shards);
        let mut drivers = self.drivers(host, shards);
        let (incarnation, rng) = {
            let mut core = self.core.borrow_mut();
            core.running = Some(ShardAt { host, shard: 0 });
            (core.stage.host(host).incarnation, core.fork_rng())
        };
        let given = Boot { host, incarnation, drivers: &mut drivers, rng, shared: self.clone() };
        let processes = boot(given);
        assert_eq!(processes.len(), drivers.len(), "a process for each shard of {host}");
        let running = processes.into_iter().zip(drivers);
        let running = running.map(|(process, driver)| Some(Running { process, driver })).collect();
        {
            let mut core = self.core.borrow_mut();
            core.running = None;
            core.stage.end_boot(host);
        }
        let place = &mut self.processes.borrow_mut()[host.index()];
        (place.boot, place.running) = (Some(boot), running);
    }

    fn drivers(self: &Rc<Self>, host: HostId, shards: u32) -> Vec<SimDriver> {
        let at = |shard| ShardAt { host, shard };
        (0..shards).map(|shard| SimDriver::new(self.clone(), at(shard))).collect()
    }
}
