//! Catena's engine.

pub mod driver;
pub mod limits;
pub mod reactor;
pub mod rng;
mod sys;
pub mod time;
pub mod wire;
