//! A proxy between callers and servers, in the simulator: engine, relay and balancer unchanged, the
//! network, the clock and the faults simulated.

mod circles;
mod counters;
mod endings;
mod health;
mod metadata;
mod passing;
mod retries;
mod scene;
