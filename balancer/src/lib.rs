//! Catena's balancer: which of several servers gets a call, and what happens when one is slow, fails,
//! drains or comes back.

#![forbid(unsafe_code)]

pub mod balancer;
pub mod budget;
pub mod client;
pub mod config;
pub mod discovery;
pub mod endpoint;
pub mod evidence;
pub mod explain;
pub mod health;
pub mod histogram;
pub mod metrics;
pub mod policy;
pub mod proxy;
mod tending;
#[cfg(feature = "tower")]
pub mod tower;
