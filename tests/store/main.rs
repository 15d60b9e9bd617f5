//! The store on simulated machines: what it has promised outlives kills, power failures, and disks that fail,
//! fill up, or rot.
//!
//! | file | what |
//! |---|---|
//! | [`crashes`] | at any moment, also of a recovery or a checkpoint; with other numbers of shards |
//! | [`disk`] | disks that fail, fill up, or are slow |
//! | [`backups`] | taken under load, and served elsewhere |
//! | [`damage`] | bits that flip while it is down |
//!
//! [`machine`] is the store, [`client`] a connection, [`history`] what may be read, [`scene`] all of them.

mod backups;
mod client;
mod crashes;
mod damage;
mod disk;
mod history;
mod machine;
mod scene;
