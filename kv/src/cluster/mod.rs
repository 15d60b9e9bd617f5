//! A cluster of nodes: who they are, and who replicates what.
//!
//! | file | what |
//! |---|---|
//! | [`view`] | what the config store holds: nodes and chains, and how they may change |
//! | [`placement`] | which nodes the first chains are made of |
//! | [`config_store`] | where the view is kept |
//! | [`member`] | a shard of a node: registers, hears of the view, has its replicas act |
//! | [`peers`] | the other nodes, as it speaks to them |
//!
//! Nobody is in charge: a node works out a change of the view, and has the config store put it in the place
//! of the one that it has read. What another one has changed meanwhile is read, and the change worked out
//! anew.

pub mod config_store;
pub mod member;
pub mod peers;
pub mod placement;
pub mod view;
