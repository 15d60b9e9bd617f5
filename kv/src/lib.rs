//! Catena's store: keys in memory on every core, each write in a log before it is acknowledged.
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | pure | [`slot`], [`resp`], [`table`], [`effect`], [`log`] | bytes, instants, seeds: no clock, socket, file |

#![forbid(unsafe_code)]

pub mod command;
pub mod effect;
mod in_flight;
pub mod keyspace;
pub mod limits;
pub mod log;
pub mod memory;
pub mod partition;
pub mod redis;
pub mod resp;
pub mod slot;
mod slot_counts;
pub mod store;
pub mod table;
pub mod upkeep;
