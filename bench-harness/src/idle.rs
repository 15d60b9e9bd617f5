//! Connections that do nothing, beside those that do: what a server holds most of.

use crate::host::{self, AnyDriver};
use crate::lanes::Lanes;
use crate::load::{CONNECT_PATIENCE, LoadError, Plan, Target, check_descriptors};
use crate::protocol::Protocol;
use crate::protocol::catena::Catena;
use crate::protocol::echo::Echo;
use crate::recording::{Recording, Window};
use crate::worker::Worker;
use catena_engine::driver::Driver;
use catena_engine::reactor::turn::PollMode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Idle connections, kept alive by a thread of their own.
#[derive(Debug)]
pub struct Idlers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Idlers {
    /// Opens so many connections to where `plan` goes, and keeps them alive until dropped.
    ///
    /// # Errors
    /// Why they could not be opened.
    pub fn start(plan: &Plan, count: u32) -> Result<Idlers, LoadError> {
        check_descriptors(u64::from(count) + u64::from(plan.connections))?;
        let plan = Plan { connections: count, depth: 0, poll: PollMode::Never, ..plan.clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (ready, readiness) = channel();
        let hold = move || {
            if let Some(Some(core)) = plan.cores.first() {
                // Anywhere else they would be a little more in the way, no more.
                let _best_effort = host::pin(*core);
            }
            match AnyDriver::open(plan.driver, count + 16) {
                Err(reason) => drop(ready.send(Err(LoadError::Driver(reason)))),
                Ok(AnyDriver::Uring(driver)) => hold(*driver, &plan, &ready, &stopped),
                Ok(AnyDriver::Epoll(driver)) => hold(*driver, &plan, &ready, &stopped),
            }
        };
        let builder = std::thread::Builder::new().name("load-idle".to_owned());
        let thread = builder.spawn(hold).map_err(LoadError::Thread)?;
        let idlers = Idlers { stop, thread: Some(thread) };
        readiness.recv().map_err(|_| LoadError::WorkerEnded)??;
        Ok(idlers)
    }
}

impl Drop for Idlers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What they idled beside is measured already.
            let _ended = thread.join();
        }
    }
}

fn hold(
    driver: impl Driver,
    plan: &Plan,
    ready: &Sender<Result<(), LoadError>>,
    stop: &AtomicBool,
) {
    fn hold_for<P: Protocol>(
        driver: impl Driver,
        plan: &Plan,
        request: &Arc<P::Request>,
        ready: &Sender<Result<(), LoadError>>,
        stop: &AtomicBool,
    ) {
        let now = driver.now();
        let nothing = Recording::new(Window { from: now, until: now });
        let lanes = Lanes::<P>::new(plan.connections, 0, request.clone(), nothing);
        let mut worker =
            Worker::new(driver, lanes, plan.address, plan.poll, plan.interrupt.clone());
        let opened = worker.connect(CONNECT_PATIENCE);
        let is_open = opened.is_ok();
        let _gone = ready.send(opened.map_err(|error| LoadError::worker(plan, error)));
        if is_open {
            // If its driver breaks, that shows at the worker beside it too.
            let _ended = worker.hold(stop);
        }
    }
    match &plan.target {
        Target::Catena(request) => hold_for::<Catena>(driver, plan, request, ready, stop),
        Target::Echo(request) => hold_for::<Echo>(driver, plan, request, ready, stop),
    }
}
