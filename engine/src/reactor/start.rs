//! From a plan to running shards: pin, make the driver on its own thread, listen, then run.
//!
//! Two rounds: every shard first gets ready and reports (its address, its driver), and only when all
//! of them are ready they are told where the others listen, and run. So either all serve or none.

use super::epoll::{EpollConfig, EpollDriver};
use super::turn;
use super::uring::{UringConfig, UringDriver};
use crate::driver::{Driver, Parker};
use crate::limits::MAILBOX_MESSAGES_MAX;
use crate::mailbox::{Mailboxes, mesh};
use crate::metrics::ShardMetrics;
use crate::server::{Cores, DriverChoice, ServerBuilder, StartError};
use crate::shard::message::{Inbox, ShardMessage};
use crate::shard::{Shard, ShardConfig};
use crate::shard_index::ShardIndex;
use crate::sys::{clock, socket};
use crate::wire::hello::ShardMap;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::net::SocketAddr;
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
    pub(crate) address: Option<SocketAddr>,
    pub(crate) shard_addresses: Vec<SocketAddr>,
    pub(crate) description: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) metrics: Vec<Arc<ShardMetrics>>,
    pub(crate) threads: Vec<JoinHandle<io::Result<()>>>,
}

impl ShardPlan {
    /// A plan for each shard that the builder asks for.
    pub(crate) fn all(builder: &ServerBuilder) -> Result<Vec<ShardPlan>, StartError> {
        let cores = choose_cores(&builder.cores, &available_cores().map_err(StartError::Thread)?)?;
        let count = u16::try_from(cores.len())
            .map_err(|_| StartError::TooManyShards { asked: u16::MAX, available: cores.len() })?;
        let plan = |(index, core)| ShardPlan {
            index: ShardIndex(index),
            count,
            core,
            inbox: Arc::default(),
        };
        Ok((0..count).zip(cores).map(plan).collect())
    }
}

/// The core of each shard; `None`: not pinned.
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
    shard_address: Option<SocketAddr>,
    description: String,
    notes: Vec<String>,
    parker: Arc<Parker>,
    metrics: Arc<ShardMetrics>,
}

/// What all shards are told when all are ready.
struct Go {
    shard_ports: Vec<u16>,
    parkers: Vec<Arc<Parker>>,
}

/// What one shard's thread needs.
struct ShardStart {
    plan: ShardPlan,
    builder: Arc<ServerBuilder>,
    address: Option<SocketAddr>,
    mailboxes: Option<Mailboxes<ShardMessage>>,
    ready: Sender<Result<Ready, StartError>>,
    go: Receiver<Go>,
}

/// Starts all shards, or none.
pub(crate) fn start(builder: ServerBuilder, plans: Vec<ShardPlan>) -> Result<Started, StartError> {
    let address = builder.listen.map(claim_address).transpose()?;
    let builder = Arc::new(builder);
    let count = u16::try_from(plans.len()).expect("shards are counted in a u16 by their plans");
    let mut threads = Vec::new();
    let mut waiting = Vec::new();
    for (plan, mailboxes) in plans.into_iter().zip(mesh(count, MAILBOX_MESSAGES_MAX)) {
        let mailboxes = Some(mailboxes);
        let (ready, readiness) = channel();
        let (go_sender, go) = channel();
        let name = format!("catena-{}", plan.index.0);
        let start = ShardStart { plan, builder: builder.clone(), address, mailboxes, ready, go };
        let thread = std::thread::Builder::new().name(name).spawn(move || run_shard(start));
        threads.push(thread.map_err(StartError::Thread)?);
        waiting.push((readiness, go_sender));
    }
    // An error drops the senders of "go", which ends the shards that are ready.
    let mut all_ready = Vec::new();
    for (readiness, _) in &waiting {
        all_ready.push(readiness.recv().map_err(|_| StartError::ShardEnded)??);
    }
    let shard_addresses: Vec<_> =
        all_ready.iter().filter_map(|ready| ready.shard_address).collect();
    for (_, go) in &waiting {
        let shard_ports = shard_addresses.iter().map(SocketAddr::port).collect();
        let parkers = all_ready.iter().map(|ready| ready.parker.clone()).collect();
        go.send(Go { shard_ports, parkers }).map_err(|_| StartError::ShardEnded)?;
    }
    let mut notes: Vec<String> = all_ready.iter().flat_map(|ready| ready.notes.clone()).collect();
    notes.dedup();
    let metrics = all_ready.iter().map(|ready| ready.metrics.clone()).collect();
    let description = all_ready.into_iter().map(|ready| ready.description).collect();
    Ok(Started { address, shard_addresses, description, notes, metrics, threads })
}

/// Finds out, before any shard starts, whether the address can be had, and picks the port if the
/// system is to choose. The shards share the port by `SO_REUSEPORT`, with which a second server on
/// the same port would not be noticed; this look is made without it.
fn claim_address(address: SocketAddr) -> Result<SocketAddr, StartError> {
    let (_closed_again, bound) = socket::listen_socket(address, false, 1)
        .map_err(|error| StartError::Listen { address, error })?;
    Ok(bound)
}

/// A shard's thread: get ready, report, run.
fn run_shard(start: ShardStart) -> io::Result<()> {
    if let Some(core) = start.plan.core {
        let mut only = CpuSet::new();
        only.set(core);
        if let Err(error) = sched_setaffinity(None, &only) {
            return report(&start, Err(StartError::Thread(error.into())));
        }
    }
    let choice = start.builder.driver;
    if choice != DriverChoice::Epoll {
        let config =
            UringConfig { sockets_max: start.builder.connections_max, ..Default::default() };
        match UringDriver::new(&config) {
            Ok(driver) => return run_on(start, driver, Vec::new()),
            Err(error) if choice == DriverChoice::Uring => {
                let reason = error.to_string();
                return report(&start, Err(StartError::Driver { driver: choice, reason }));
            }
            Err(error) => {
                let note = format!("io_uring cannot be used ({error}); running on epoll");
                tracing::warn!("{note}");
                return run_on_epoll(start, vec![note]);
            }
        }
    }
    run_on_epoll(start, Vec::new())
}

fn run_on_epoll(start: ShardStart, notes: Vec<String>) -> io::Result<()> {
    let config = EpollConfig { sockets_max: start.builder.connections_max, ..Default::default() };
    match EpollDriver::new(&config) {
        Ok(driver) => run_on(start, driver, notes),
        Err(error) => {
            let (driver, reason) = (DriverChoice::Epoll, error.to_string());
            report(&start, Err(StartError::Driver { driver, reason }))
        }
    }
}

fn report(start: &ShardStart, result: Result<Ready, StartError>) -> io::Result<()> {
    // The starter may have given up already because of another shard.
    drop(start.ready.send(result));
    Ok(())
}

fn run_on<D: Driver>(mut start: ShardStart, mut driver: D, notes: Vec<String>) -> io::Result<()> {
    let mailboxes = start.mailboxes.take().expect("a shard is started once");
    let mut shard = make_shard(&start, &driver, mailboxes);
    let shard_address = match listen(&start, &mut shard, &mut driver) {
        Ok(shard_address) => shard_address,
        Err(error) => return report(&start, Err(error)),
    };
    let place = start.plan.core.map_or("unpinned".to_owned(), |core| format!("core {core}"));
    let description = format!("shard {} on {place}: {}", start.plan.index.0, driver.describe());
    let parker = driver.parker();
    let metrics = shard.metrics();
    report(&start, Ok(Ready { shard_address, description, notes, parker, metrics }))?;
    let Ok(go) = start.go.recv() else { return Ok(()) };
    shard.set_peers(ShardMap { here: start.plan.index.0, ports: go.shard_ports }, go.parkers);
    turn::run(&mut shard, &mut driver, start.builder.poll)
}

fn make_shard<D: Driver>(
    start: &ShardStart,
    driver: &D,
    mailboxes: Mailboxes<ShardMessage>,
) -> Shard {
    let ShardPlan { index, count, .. } = start.plan;
    let seed = start.builder.seed.unwrap_or_else(|| clock::now().as_nanos());
    let config = ShardConfig {
        index,
        count,
        connection: Arc::new(start.builder.connection.clone()),
        admission: start.builder.admission,
        seed: seed.wrapping_add(u64::from(index.0)),
    };
    let inbox = start.plan.inbox.clone();
    Shard::new(config, driver, mailboxes, inbox, |local| (start.builder.service)(local))
}

/// Listens on the shared port and on one of the shard's own; returns the latter.
fn listen<D: Driver>(
    start: &ShardStart,
    shard: &mut Shard,
    driver: &mut D,
) -> Result<Option<SocketAddr>, StartError> {
    let Some(address) = start.address else { return Ok(None) };
    let failed = |address| move |error| StartError::Listen { address, error };
    shard.listen(driver, address).map_err(failed(address))?;
    if !start.builder.shard_ports {
        return Ok(None);
    }
    let own = SocketAddr::new(address.ip(), 0);
    shard.listen(driver, own).map_err(failed(own)).map(Some)
}
