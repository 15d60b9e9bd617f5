//! Catena's engine.

pub mod config;
pub mod driver;
pub mod limits;
pub mod rng;
pub mod rpc;
pub mod time;
pub mod timers;
pub mod wire;
