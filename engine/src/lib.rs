//! Catena's engine.

pub mod config;
pub mod driver;
pub mod limits;
pub mod reactor;
mod primitive;
pub mod rng;
pub mod rpc;
mod sys;
pub mod time;
pub mod timers;
pub mod wire;
