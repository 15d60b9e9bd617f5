//! What the binaries have in common: `catena` and `catena-bench` say, read and show alike.
//!
//! | file | what |
//! |---|---|
//! | [`log`] | log lines, on standard error |
//! | [`units`] | numbers with units, as people type them: on the command line, in a file of settings |
//! | [`address`] | where to listen |
//! | [`admin`] | pages over HTTP: counters, health |
//! | [`notify`] | what a service manager is told |
//! | [`docs`] | for tests: a command's flags against the table that documents them |
//!
//! Nothing of the engine is in here, and nothing that a service needs: a library takes values, a binary
//! reads them.

#![forbid(unsafe_code)]

pub mod address;
pub mod admin;
pub mod docs;
pub mod log;
pub mod notify;
pub mod units;
