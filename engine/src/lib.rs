//! Catena's engine.

pub mod config;
pub mod driver;
pub mod limits;
mod primitive;
pub mod reactor;
pub mod rng;
pub mod rpc;
pub mod shard_index;
mod sys;
pub mod time;
pub mod timers;
pub mod wire;
