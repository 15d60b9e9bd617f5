//! Catena's engine.

pub mod driver;
pub mod limits;
pub mod rng;
pub mod time;
pub mod timers;
pub mod wire;
