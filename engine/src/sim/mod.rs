//! guide
#![forbid(unsafe_code)]

mod config;
mod core;
mod disk;
mod driver;
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
pub use event_log::EventKind;
pub use fault::{Crash, DiskOp, Fault, FaultMix, FaultPlan, FaultWeights, Loss, draw_plan};
pub use host::{HostId, ShardAt};
pub use process::{Boot, Hook, Next, Process};
pub use seeds::{Coverage, SEED_COUNT_VARIABLE, SEED_VARIABLE, each_seed};
pub use world::World;
