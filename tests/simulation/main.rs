//! The simulated driver: is it a network, a disk and a clock that one can believe in, and does a
//! seed replay? And the engine on it, unchanged, whatever goes wrong.

mod audit;
mod bare;
mod clients;
mod crash;
mod disk;
mod drain;
mod echo;
mod engine;
mod journal;
mod names;
mod network;
mod replay;
mod time;

/// How this binary is run, for the command that replays a seed.
const COMMAND: &str = "cargo test --test simulation";
