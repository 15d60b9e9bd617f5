//! The io_uring driver.

mod config;
mod probe;

pub mod bare_echo;
pub use config::{Features, UringConfig, UringError};
