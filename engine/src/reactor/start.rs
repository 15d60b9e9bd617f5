//! From a plan to running shards: listen, pin, make each driver on its own thread, then run.
//!
//! Two rounds: every shard first gets ready and reports (its driver, its bed), and only when all of
//! them are ready they are told of each other, and run. So either all serve or none.

use super::descriptors::{self, Share};
use super::epoll::{EpollConfig, EpollDriver};
use super::listen::{KernelDriver, OwnPorts, listen};
use super::turn;
use super::uring::{Features, UringConfig, UringDriver};
use crate::application::Addresses;
use crate::config::between;
use crate::driver::{Driver, Parker};
use crate::handle::Handle;
use crate::limits::{
    CONNECTIONS_MAX, MAILBOX_MESSAGES_MAX, SHARD_MAILBOX_MESSAGES_MAX, SHARDS_MAX,
};
use crate::mailbox::{Mailboxes, mesh};
use crate::metrics::ShardMetrics;
use crate::server::{Cores, DriverChoice, ServerBuilder, StartError, StreamListen};
use crate::shard::message::{Control, Inbox, ShardMessage};
use crate::shard::{Shard, ShardConfig};
use crate::shard_index::ShardIndex;
use crate::sys::clock;
use crate::time::Duration;
use crate::watch::{FailureCause, Watch};
use crate::wire::hello::ShardMap;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// One shard to start.
#[derive(Debug)]
pub(crate) struct ShardPlan {
    index: ShardIndex,
    count: u16,
    core: Option<usize>,
    pub(crate) inbox: Arc<Inbox>,
}

/// What became of the plans.
pub(crate) struct Started {
    pub(crate) requests: Addresses,
    pub(crate) streams: Addresses,
    pub(crate) description: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) metrics: Vec<Arc<ShardMetrics>>,
    pub(crate) threads: Vec<JoinHandle<()>>,
}

impl ShardPlan {
    /// A plan for each shard that the builder asks for.
    pub(crate) fn all(builder: &ServerBuilder) -> Result<Vec<ShardPlan>, StartError> {
        builder.admission.validate().map_err(StartError::Config)?;
        if let Some(asked) = builder.connections_max {
            check("connections_max", asked.into(), CONNECTIONS_MAX.into())?;
        }
        let cores = cores_of_shards(&builder.cores)?;
        let count = u16::try_from(cores.len()).expect("SHARDS_MAX is far below");
        let plan = |(index, core)| ShardPlan {
            index: ShardIndex(index),
            count,
            core,
            inbox: Arc::default(),
        };
        Ok((0..count).zip(cores).map(plan).collect())
    }
}

/// The core of each shard, as many as there will be shards; `None`: not pinned. The only place that
/// counts them: whatever is sized by the number of shards has it from here.
pub(crate) fn cores_of_shards(cores: &Cores) -> Result<Vec<Option<usize>>, StartError> {
    let chosen = choose_cores(cores, &available_cores().map_err(StartError::Thread)?)?;
    check("the number of shards", chosen.len() as u64, SHARDS_MAX as u64)?;
    Ok(chosen)
}

/// What every driver asks for alike is checked before any of them is made.
fn check(name: &'static str, value: u64, high: u64) -> Result<(), StartError> {
    between(name, value, 1, high).map_err(StartError::Config)
}

/// How many messages may wait between each two of so many shards; a power of two.
fn mailbox_messages(shards: u16) -> usize {
    let share = SHARD_MAILBOX_MESSAGES_MAX / usize::from(shards.max(1));
    (1 << share.ilog2()).min(MAILBOX_MESSAGES_MAX)
}

/// The same, where these cores may be used.
fn choose_cores(cores: &Cores, available: &[usize]) -> Result<Vec<Option<usize>>, StartError> {
    let chosen = match cores {
        Cores::All => available.to_vec(),
        Cores::List(list) => list.clone(),
        Cores::Count(asked) if usize::from(*asked) > available.len() => {
            let available = available.len();
            return Err(StartError::TooManyShards { asked: *asked, available });
        }
        Cores::Count(asked) => available[..usize::from(*asked)].to_vec(),
        Cores::Unpinned(0) => return Err(StartError::NoCores),
        Cores::Unpinned(count) => return Ok(vec![None; usize::from(*count)]),
    };
    if chosen.is_empty() {
        return Err(StartError::NoCores);
    }
    for (at, core) in chosen.iter().enumerate() {
        if !available.contains(core) {
            let available = available.to_vec();
            return Err(StartError::CoreNotAvailable { core: *core, available });
        }
        if chosen[..at].contains(core) {
            return Err(StartError::CoreTwice(*core));
        }
    }
    Ok(chosen.into_iter().map(Some).collect())
}

fn available_cores() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect())
}

/// What a shard reports when it is ready.
struct Ready {
    description: String,
    notes: Vec<String>,
    parker: Arc<Parker>,
    metrics: Arc<ShardMetrics>,
}

/// What all shards are told when all are ready.
struct Go {
    parkers: Vec<Arc<Parker>>,
}

/// What one shard's thread needs.
struct ShardStart {
    plan: ShardPlan,
    builder: Arc<ServerBuilder>,
    shard_ports: Vec<u16>,
    /// Listening: for requests, and for streams.
    sockets: Vec<OwnedFd>,
    stream_sockets: Vec<OwnedFd>,
    stream_addresses: Addresses,
    /// What it may open, as far as the limit on descriptors allows.
    share: Share,
    mailboxes: Mailboxes<ShardMessage>,
}

/// A thread that gets its shard ready, and waits.
struct Starting {
    thread: JoinHandle<()>,
    ready: Receiver<Result<Ready, StartError>>,
    go: Sender<Go>,
}

/// Sees to it that the end of one shard does not go unnoticed.
#[derive(Clone)]
pub(crate) struct Supervision {
    pub(crate) handle: Handle,
    pub(crate) watch: Watch,
}

impl Supervision {
    /// Runs a shard on its thread. When it ends before its time, whoever watches is told, and so are
    /// the other shards, which may take a while where an inbox is full.
    fn supervise(&self, shard: ShardIndex, run: impl FnOnce() -> io::Result<()>) {
        // What a shard leaves behind when it panics was dropped with it: nobody sees it half done.
        let cause = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(FailureCause::Driver(Arc::new(error))),
            Err(panic) => Some(FailureCause::of_panic(&*panic)),
        };
        let has_failed = cause.is_some();
        self.watch.ended(shard, cause);
        if has_failed {
            self.handle.control_all(|| Control::Lost(shard));
        }
    }
}

/// Starts all shards, or none.
pub(crate) fn start(
    builder: ServerBuilder,
    plans: Vec<ShardPlan>,
    supervision: &Supervision,
) -> Result<Started, StartError> {
    let count = u16::try_from(plans.len()).expect("shards are counted in a u16 by their plans");
    let (share, lowered) = descriptors::share(builder.connections_max, count)?;
    let own_ports = if builder.shard_ports { OwnPorts::Any } else { OwnPorts::None };
    let requests = builder.listen.map(|address| listen(address, count, own_ports));
    let requests = requests.transpose()?.unwrap_or_default();
    let streams = builder.streams.map(|StreamListen { address, ports_from }| {
        listen(address, count, ports_from.map_or(OwnPorts::Any, OwnPorts::From))
    });
    let streams = streams.transpose()?.unwrap_or_default();
    let shard_ports: Vec<u16> = requests.addresses.shards.iter().map(SocketAddr::port).collect();
    let mut sockets = requests.sockets.into_iter();
    let mut stream_sockets = streams.sockets.into_iter();
    let builder = Arc::new(builder);
    let mailboxes = mesh(count, mailbox_messages(count));
    let starts = plans.into_iter().zip(mailboxes).map(|(plan, mailboxes)| ShardStart {
        plan,
        builder: builder.clone(),
        shard_ports: shard_ports.clone(),
        sockets: sockets.next().unwrap_or_default(),
        stream_sockets: stream_sockets.next().unwrap_or_default(),
        stream_addresses: streams.addresses.clone(),
        share,
        mailboxes,
    });
    let mut starting = Vec::new();
    let all_ready = match get_ready(starts, supervision, &mut starting) {
        Ok(all_ready) => all_ready,
        Err(error) => {
            abandon(starting);
            return Err(error);
        }
    };
    let parkers: Vec<_> = all_ready.iter().map(|ready| ready.parker.clone()).collect();
    let metrics = all_ready.iter().map(|ready| ready.metrics.clone()).collect();
    // What concerns every shard alike is said once.
    let of_shards = all_ready.iter().flat_map(|ready| ready.notes.clone());
    let mut notes: Vec<String> = lowered.into_iter().chain(of_shards).collect();
    notes.dedup();
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    let description = all_ready.into_iter().map(|ready| ready.description).collect();
    let threads = starting.into_iter().map(|Starting { thread, go, .. }| {
        go.send(Go { parkers: parkers.clone() }).expect("a shard that is ready waits for this");
        thread
    });
    let threads = threads.collect();
    let (requests, streams) = (requests.addresses, streams.addresses);
    Ok(Started { requests, streams, description, notes, metrics, threads })
}

/// Lets all shards get ready beside each other, and waits for them.
fn get_ready(
    starts: impl Iterator<Item = ShardStart>,
    supervision: &Supervision,
    starting: &mut Vec<Starting>,
) -> Result<Vec<Ready>, StartError> {
    for start in starts {
        let (ready_sender, ready) = channel();
        let (go, go_receiver) = channel();
        let thread = std::thread::Builder::new().name(format!("catena-{}", start.plan.index.0));
        let (index, supervision) = (start.plan.index, supervision.clone());
        let run = move || run_shard(start, &ready_sender, &go_receiver);
        let thread = thread.spawn(move || supervision.supervise(index, run));
        starting.push(Starting { thread: thread.map_err(StartError::Thread)?, ready, go });
    }
    let outcomes = starting.iter().map(|starting| starting.ready.recv());
    outcomes.map(|outcome| outcome.map_err(|_| StartError::ShardEnded)?).collect()
}

/// One shard cannot start: the others end, and are waited for, so that nothing runs any more.
fn abandon(starting: Vec<Starting>) {
    for Starting { thread, go, .. } in starting {
        drop(go);
        // What it ended with, be it a panic, is what made the start fail, or follows from it.
        drop(thread.join());
    }
}

/// A shard's thread: get ready, report, run.
fn run_shard(
    start: ShardStart,
    ready: &Sender<Result<Ready, StartError>>,
    go: &Receiver<Go>,
) -> io::Result<()> {
    let report = Report { ready, go };
    if let Some(core) = start.plan.core {
        let mut only = CpuSet::new();
        only.set(core);
        if let Err(error) = sched_setaffinity(None, &only) {
            return report.failed(StartError::Thread(error.into()));
        }
    }
    let choice = start.builder.driver;
    if choice == DriverChoice::Epoll {
        return run_on_epoll(start, &report, Vec::new());
    }
    let (sockets_max, gather) = (start.share.sockets, start.builder.gather);
    let config = UringConfig { sockets_max, gather, ..Default::default() };
    match UringDriver::new(&config) {
        Ok(driver) => {
            let gathers = driver.features().contains(Features::MIN_WAIT);
            let notes = cannot_gather(gather).filter(|_| !gathers);
            run_on(start, &report, driver, notes.into_iter().collect())
        }
        Err(error) if choice == DriverChoice::Auto && error.suggests_another_driver() => {
            let note = format!("io_uring cannot be used ({error}); running on epoll");
            run_on_epoll(start, &report, vec![note])
        }
        Err(error) => {
            let (driver, reason) = (DriverChoice::Uring, error.to_string());
            report.failed(StartError::Driver { driver, reason })
        }
    }
}

/// What is to be said where a shard was asked to gather and wakes at once nonetheless.
fn cannot_gather(gather: Duration) -> Option<String> {
    let note = || {
        format!(
            "completions are not gathered for {gather:?}, which takes io_uring and Linux 6.12: a shard \
             wakes for each"
        )
    };
    (gather > Duration::ZERO).then(note)
}

fn run_on_epoll(start: ShardStart, report: &Report<'_>, mut notes: Vec<String>) -> io::Result<()> {
    notes.extend(cannot_gather(start.builder.gather));
    let config = EpollConfig { sockets_max: start.share.sockets, ..Default::default() };
    match EpollDriver::new(&config) {
        Ok(driver) => run_on(start, report, driver, notes),
        Err(error) => {
            let (driver, reason) = (DriverChoice::Epoll, error.to_string());
            report.failed(StartError::Driver { driver, reason })
        }
    }
}

/// A shard's line to whoever starts it.
struct Report<'a> {
    ready: &'a Sender<Result<Ready, StartError>>,
    go: &'a Receiver<Go>,
}

impl Report<'_> {
    fn failed(&self, error: StartError) -> io::Result<()> {
        // The starter may have given up already because of another shard.
        drop(self.ready.send(Err(error)));
        Ok(())
    }

    /// Says that the shard is ready, and waits until all are. `None`: one is not.
    fn ready(&self, ready: Ready) -> Option<Go> {
        drop(self.ready.send(Ok(ready)));
        self.go.recv().ok()
    }
}

fn run_on<D: KernelDriver>(
    start: ShardStart,
    report: &Report<'_>,
    mut driver: D,
    notes: Vec<String>,
) -> io::Result<()> {
    let ShardStart { plan, builder, shard_ports, share, mailboxes, .. } = start;
    let mut shard = make_shard(&plan, &builder, share, &driver, mailboxes);
    let sockets = (start.sockets, start.stream_sockets);
    if let Err(error) = add_listeners(&mut shard, &mut driver, &builder, sockets) {
        return report.failed(error);
    }
    let place = plan.core.map_or("unpinned".to_owned(), |core| format!("core {core}"));
    let description = format!("shard {} on {place}: {}", plan.index.0, driver.describe());
    let (parker, metrics) = (driver.parker(), shard.metrics());
    let Some(go) = report.ready(Ready { description, notes, parker, metrics }) else {
        return Ok(());
    };
    shard.set_peers(ShardMap { here: plan.index.0, ports: shard_ports }, go.parkers);
    shard.set_stream_addresses(start.stream_addresses);
    turn::run(&mut shard, &mut driver, builder.poll)
}

/// Accepts on sockets that listen already: those of requests, and those of streams.
fn add_listeners<D: KernelDriver>(
    shard: &mut Shard,
    driver: &mut D,
    builder: &ServerBuilder,
    (sockets, stream_sockets): (Vec<OwnedFd>, Vec<OwnedFd>),
) -> Result<(), StartError> {
    let failed = |address: Option<SocketAddr>| {
        let address = address.expect("there are sockets only where it listens");
        move |error| StartError::Listen { address, error }
    };
    for socket in sockets {
        shard.add_listener(driver.listen_on(socket).map_err(failed(builder.listen))?);
    }
    if !stream_sockets.is_empty() && !shard.has_application() {
        return Err(StartError::NoApplication);
    }
    let address = builder.streams.map(|streams| streams.address);
    for (place, socket) in stream_sockets.into_iter().enumerate() {
        let is_own_port = place > 0;
        let listener = driver.listen_on(socket).map_err(failed(address))?;
        shard.add_stream_listener(listener, is_own_port);
    }
    Ok(())
}

fn make_shard<D: Driver>(
    plan: &ShardPlan,
    builder: &ServerBuilder,
    share: Share,
    driver: &D,
    mailboxes: Mailboxes<ShardMessage>,
) -> Shard {
    let seed = builder.seed.unwrap_or_else(|| clock::now().as_nanos());
    let config = ShardConfig {
        index: plan.index,
        count: plan.count,
        connection: Arc::new(builder.connection.clone()),
        admission: builder.admission,
        connections_max: share.connections,
        seed: seed.wrapping_add(u64::from(plan.index.0)),
    };
    Shard::new(config, driver, mailboxes, plan.inbox.clone(), |local| (builder.service)(local))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox;

    #[test]
    fn the_memory_of_all_mailboxes_is_bounded() {
        assert_eq!(mailbox_messages(1), MAILBOX_MESSAGES_MAX);
        assert_eq!(mailbox_messages(32), MAILBOX_MESSAGES_MAX);
        assert_eq!(mailbox_messages(33), MAILBOX_MESSAGES_MAX / 2);
        for shards in 1..=SHARDS_MAX as u16 {
            let messages = mailbox_messages(shards);
            assert!(messages.is_power_of_two() && messages >= 32, "{messages} for {shards} shards");
            assert!(messages * usize::from(shards) <= SHARD_MAILBOX_MESSAGES_MAX);
        }
        let mesh = mailbox::mesh::<u8>(40, mailbox_messages(40));
        assert_eq!(mesh.len(), 40, "every size that is chosen can be made");
    }
}
