//! Catena's balancer: which of several servers gets a call, and what happens when one is slow, fails,
//! drains or comes back.
//!
//! # The way of the data
//! Each core has a balancer of its own, and asks no other when it picks.
//!
//! ```text
//! members ─► candidates ─► pick ─► the call ─► outcome ─┬─► signal, recorder ─┐
//!               ▲           ▲                           └─► health            │ each 20 ms
//!               │           └── signal: p50, p95, p99 ◄─────────── digest ◄───┤ merged, over cores
//!               └────────────── standings ◄── review against the peers ◄──────┘
//! ```
//!
//! | step | where |
//! |---|---|
//! | endpoints come and go | [`discovery`] finds them; `balancer/members.rs` gives a slot, drains |
//! | a call is to be made | by [`client`]; by [`proxy`], for other programs; by `tower`, for other clients |
//! | **candidates**: whoever is well | [`health`]: live, returning, out, on trial |
//! | **pick** | [`balancer`] asks one [`policy`], which reads a cache line an endpoint, the [`Signal`] |
//! | a retry, a hedge | out of one [`budget`] |
//! | **outcome** | [`Balancer::end`]: its cost into signal, [`histogram`] and policy; its end into health |
//! | **snapshot** | `balancer/refresh.rs`: all cores' recorders merged into one [`evidence::Digest`] |
//! | **review** | `health/review.rs`: medians against the peers', shares of failures, silence |
//! | next pick | by what the digest says, and by whom the review left |
//! | why, and how many | [`explain`] one choice; [`metrics`] count all of them, for any thread to read |
//!
//! All but `discovery`, `client`, `proxy` and `tower` is pure: it reads no clock, draws from no generator
//! of its own, depends on no order of a hash; the instant and the generator are arguments. So the simulator
//! of `catena-bench balance` runs this code, not a model of it, and a test is a few lines:
//!
//! ```
//! use catena_balancer::balancer::{Balancer, BalancerConfig, Member};
//! use catena_balancer::endpoint::Outcome;
//! use catena_balancer::evidence::SharedEvidence;
//! use catena_balancer::policy;
//! use catena_engine::{rng::Rng, time::{Duration, Instant}};
//!
//! let (mut now, mut rng) = (Instant::from_nanos(1_000_000_000), Rng::from_seed(1));
//! let policy = policy::by_name("hist")?;
//! let mut balancer = Balancer::new(BalancerConfig::default(), policy, SharedEvidence::new(1), 0, now);
//! balancer.set_members(&["fast:1", "slow:1"].map(|name| Member { name: name.into(), weight: 1 }), now);
//! let fast = balancer.endpoints().find(|(_, it)| &*it.name == "fast:1").expect("just joined").0;
//!
//! let mut to_fast = 0;
//! for _ in 0..1_000 {
//!     let ticket = balancer.start(&[], now, &mut rng).expect("there are endpoints");
//!     let is_fast = ticket.slot() == fast;
//!     to_fast += u32::from(is_fast);
//!     now += Duration::from_millis(if is_fast { 1 } else { 10 });
//!     balancer.end(ticket, &Outcome::Answered(None), now, &mut rng);
//!     balancer.tick(now, &mut rng);
//! }
//! assert!(to_fast > 900);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A program that calls servers wants [`client::Balanced`], which does all this by itself.
//!
//! [`Balancer::end`]: balancer::Balancer::end
//! [`Signal`]: endpoint::Signal

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
