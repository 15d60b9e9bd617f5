//! Catena's store: keys in memory on every core, each write in a log before it is acknowledged.
//!
//! # The way of a write
//!
//! 1. Bytes arrive on a stream ([`catena_engine::stream`]); [`resp`] finds the command in them, in place;
//!    [`command::spec`] says what it wants.
//! 2. Its key has a slot, a partition and a shard ([`slot`]). If that is another shard, the command goes
//!    there ([`redis::hand_over`]).
//! 3. The command sees the keys of its partition ([`keyspace`]), resolves what it comes to, and orders that
//!    as an entry of effects ([`effect`], [`partition`]).
//! 4. The entry goes into the log's batch ([`log`]), which [`disk::journal`] writes and syncs.
//! 5. What is durable commits: it is applied to the table ([`table`]), and the answers that waited for it
//!    go out ([`redis::answers`]).
//!
//! In a [`cluster`] an entry goes to the partition's other replicas as well ([`store::replication`],
//! [`replica`]), and commits when the last of them has it.
//!
//! A read is steps 1 to 3, and waits like a write if it has seen something that has not committed.
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | pure | [`slot`], [`resp`], [`table`], [`effect`], [`session`], [`log`], [`store`] | bytes, instants |
//! | pure | [`upkeep`] | bytes, instants |
//! | pure | [`chain`], [`replica`]: how partitions are replicated | instants, messages |
//! | protocol | [`redis`], [`command`], [`keyspace`] | the engine's streams |
//! | protocol | [`native`], [`keyspace`] | the engine's requests |
//! | cluster | [`cluster`] | the engine's calls, the config store |
//! | disk | [`disk`], [`backup`] | the driver's file operations; backups: plain files |
//! | start | [`node`] | all of these |

#![forbid(unsafe_code)]

pub mod backup;
pub mod chain;
pub mod checkpoint;
pub mod client;
pub mod cluster;
pub mod command;
pub mod disk;
pub mod effect;
pub mod evict;
pub mod fields;
mod in_flight;
pub mod keyspace;
pub mod limits;
pub mod log;
pub mod memory;
pub mod native;
pub mod node;
pub mod partition;
pub mod redis;
pub mod replica;
pub mod resp;
pub mod session;
pub mod slot;
mod slot_counts;
pub mod store;
pub mod table;
pub mod upkeep;
