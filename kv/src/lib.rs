//! Catena's store: keys in memory on every core, each write in a log before it is acknowledged.
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | pure | [`slot`], [`resp`], [`table`], [`effect`], [`log`] | bytes, instants, seeds: no clock, socket, file |

#![forbid(unsafe_code)]

pub mod effect;
pub mod limits;
pub mod log;
pub mod resp;
pub mod slot;
pub mod table;
