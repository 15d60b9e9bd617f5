//! Catena's engine.

pub mod config;
pub mod driver;
pub mod limits;
pub mod reactor;
pub mod rng;
pub mod rpc;
#[cfg(feature = "sim")]
pub mod sim;
mod sys;
pub mod time;
pub mod timers;
pub mod wire;
