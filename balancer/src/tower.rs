//! The policies for clients that are built of tower's parts: tonic's, hyper's, anybody's.
//!
//! - [`Balance`] stands in place of `tower::balance::p2c::Balance`: this crate's policies over the whole
//!   set, with ejection, slow start and trials.
//! - [`HistogramLoad`] is a `Load` for `tower::balance::p2c::Balance`, whose metric is our cost.
//! - [`RetryBudget`] is our budget for tower's `retry` layer.
//!
//! tower's balancer only ever compares the loads of two, so half of a small set is never looked at:
//! prefer [`Balance`]. Retries and hedges are left to tower's own layers around it. How an answer counts is
//! said by a [`Classify`]: what a status means is known to the protocol alone.
//!
//! Unlike the rest of this crate these are `Send`, and shared by the threads of a tokio runtime: one
//! balancer behind a lock that is held for the length of a pick or an outcome, some 100 ns.

mod balance;
mod budget;
mod classify;
mod load;
mod tracked;

pub use balance::{Balance, BalanceConfig, NoEndpoint, View};
pub use budget::RetryBudget;
pub use classify::{ByResult, Class, Classify};
pub use load::{Cost, HistogramDiscover, HistogramLoad};
pub use tracked::Tracked;

use catena_engine::time::{Duration, Instant};
use std::sync::OnceLock;

/// The time, on a clock of this process that never shows zero: evidence is shared by all who read it.
fn now() -> Instant {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let start = START.get_or_init(std::time::Instant::now);
    Instant::ZERO + Duration::from_secs(1) + start.elapsed()
}

#[cfg(test)]
mod tests;
