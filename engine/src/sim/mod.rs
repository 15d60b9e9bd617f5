//! The third driver: whole clusters in one thread, from one seed.
//!
//! A [`World`] owns hosts, the network between them, their disks and one virtual clock. On each host
//! runs a process of several shards, and each shard has a [`SimDriver`], which is a
//! [`Driver`](crate::driver::Driver) like any other: engine and store run on it unchanged. Nothing
//! in a world reads a real clock, a real file or a hash table's order, so a seed is a run, bit for
//! bit, on every machine; and an hour of a cluster's life takes seconds.
//!
//! ```text
//!  World ─ run_for, run_until, inject, schedule ─────────────────────────────┐
//!    │ takes the next event of the agenda, ordered by (time, sequence)       │
//!    ├──► a host's kernel: a segment, an acknowledgement, a file operation   │ faults
//!    │      └─ tells a shard: what will be reported at its next poll         │
//!    └──► a shard's turn: Process::turn(driver)                              │
//!           └─ driver calls: connect, send, write, … put events on the agenda│
//!  EventLog ◄─ all of it, folded into one hash ◄─────────────────────────────┘
//! ```
//!
//! # A simulation
//!
//! ```
//! use catena_engine::driver::{Completion, Driver, Output};
//! use catena_engine::sim::{Crash, EventKind, Fault, Next, SimDriver, World, WorldConfig};
//! use catena_engine::time::Duration;
//!
//! let mut world = World::new(42, WorldConfig::default());
//!
//! // A host with one shard. The closure outside starts the process, now and after each crash; the
//! // one inside is the process, called for every turn.
//! let server = world.start_process(|boot| {
//!     boot.drivers[0].listen(([0, 0, 0, 0], 7_000).into()).expect("the port is free");
//!     |driver: &mut SimDriver| {
//!         while let Some(completion) = driver.next_completion() {
//!             if let Completion::Accepted { socket, .. } = completion {
//!                 let mut output = Output::default();
//!                 output.copied_mut().extend_from_slice(b"hello");
//!                 driver.send(socket, output);
//!                 driver.close(socket);
//!             }
//!         }
//!         Next::default() // No timer: the next turn comes when something completes.
//!     }
//! });
//!
//! // The test plays the client itself, on a host without a process.
//! let mut client = world.bare_host(1).remove(0);
//! client.connect((server.ip(), 7_000).into())?;
//! let mut received = Vec::new();
//! while received.len() < 5 {
//!     client.park(None)?; // Runs the world until there is something for this driver.
//!     while let Some(completion) = client.next_completion() {
//!         if let Completion::Received { chunk, .. } = completion {
//!             received.extend_from_slice(client.bytes(&chunk));
//!             client.give_back(chunk);
//!         }
//!     }
//! }
//! assert_eq!(received, b"hello");
//!
//! // Faults are injected by hand, or drawn: `world.draw_plan(...)`, then `world.schedule(...)`.
//! let down_for = Some(Duration::from_secs(1));
//! world.inject(Fault::Crash { host: server, how: Crash::PowerLoss, down_for });
//! world.run_for(Duration::from_secs(2));
//! assert!(world.is_running(server));
//! assert_eq!(world.count(EventKind::HostLostPower), 1);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! To put more than a closure on a shard, implement [`Process`]; to start several shards, see
//! [`World::start_host`]. A handler that is to take CPU time calls [`Hook::burn`]. What must outlive a
//! crash goes into files; what the test wants to know goes into an `Rc` that the test shares with its
//! processes, or into the log with [`Hook::note`].
//!
//! A good simulation draws faults for a while, calls [`World::heal_all`] and then asks for two things:
//! that nothing wrong was ever seen, and that everything makes progress again. It ends with
//! [`Coverage::require`], because a test of torn writes in which nothing was torn is no test.
//!
//! # Replay
//!
//! [`each_seed`] runs a simulation for many seeds, and some of them twice to see that they replay. When
//! one fails it prints the end of the event log and a command such as
//!
//! ```text
//! CATENA_SEED=17 cargo test --test simulation echo::an_echo_is_exact -- --exact --nocapture
//! ```
//!
//! which runs that seed alone, the same way every time, with a longer log. `CATENA_SEED_COUNT=5000`
//! runs so many seeds instead of the few hundred that a test names. A fault plan is plain data
//! ([`FaultPlan`]): print it, take lines out, and see which of them matter. The generator is forked
//! for each part of the world, so one part's draws do not shift another's.
//!
//! # What is simulated
//!
//! - **Streams**: latency and its jitter in order, bandwidth, pieces of every size, bounded buffers on
//!   both sides with a window that closes when nobody reads, acknowledgements, orderly ends, resets
//!   (also for a close with bytes unread), refusals, backlog, descriptors that run out, half-dead peers.
//! - **Paths**: cuts in one or both directions, with bytes held and sent again, or given up; slow links;
//!   connections that a third party resets, or silently forgets.
//! - **Cores**: a turn takes time, a handler may take much; a pause stops a process and not its kernel.
//! - **Clocks**: each host's starts anywhere and drifts; how much can be changed under way.
//! - **Crashes**: of a process, whose kernel closes its sockets and keeps its page cache; or of the
//!   machine, which falls silent and loses what was not synced, in part or whole or not at all.
//! - **Disks**: operations that overtake each other, slow disks, full disks, failing operations, syncs
//!   that fail and leave the cache ahead of the disk, torn writes at sectors of 512 bytes, names that are
//!   durable when their directory was synced and not before, bits that flip at rest.
//! - **The driver's freedom**: a send that is done at once or reported later, a chunk lent or copied,
//!   few completions at a poll or many, too few receive buffers.
//!
//! # What is not
//!
//! - Packets. Loss and reordering below a stream show as latency alone; a connection's share of a link
//!   does not depend on others. There is no congestion control, no keepalive by the kernel.
//! - Threads. Shards take turns in one thread, so what needs two cores at one instant (memory order,
//!   queues between shards) is for loom and the like.
//! - Bytes that change on their way, reads that lie, a clock that jumps, a disk that forgets what it
//!   said was durable.
//! - The kernel interface itself: rings, buffer rings, `epoll`. `tests/driver` holds every driver to the
//!   same rules, this one included.

#![forbid(unsafe_code)]

mod config;
mod core;
mod disk;
mod driver;
mod engine;
mod event_log;
mod fault;
mod handshake;
mod host;
mod image;
mod link;
mod network;
mod process;
mod seeds;
mod stage;
mod stream;
mod traffic;
mod world;

pub use config::{CpuConfig, DiskConfig, LogConfig, NetworkConfig, Span, WorldConfig};
pub use driver::SimDriver;
pub use engine::{Engine, EngineConfig};
pub use event_log::EventKind;
pub use fault::{Crash, DiskOp, Fault, FaultMix, FaultPlan, FaultWeights, Loss, draw_plan};
pub use host::{HostId, ShardAt};
pub use process::{Boot, Hook, Next, Process};
pub use seeds::{Coverage, SEED_COUNT_VARIABLE, SEED_VARIABLE, each_seed};
pub use world::World;
