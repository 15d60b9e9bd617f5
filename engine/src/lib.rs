//! Catena's engine.

pub mod driver;
pub mod limits;
pub mod rng;
#[cfg(feature = "sim")]
pub mod sim;
pub mod time;
pub mod wire;
