//! `catena serve` from the outside: the real program, raw bytes, and the clients that people use.
//!
//! | file | what |
//! |---|---|
//! | [`server`] | starts Catena and Redis, and ends them |
//! | [`peer`] | a connection that sends bytes and takes whole replies |
//! | [`replies`] | what commands about the connection and the server answer, in both protocols |
//! | [`hostile`] | bytes that nobody should send, and peers that do not read |
//! | [`differential`] | random commands to Catena and Redis: the replies are equal |
//! | [`kills`] | killed under load, again and again: what was acknowledged is there |
//! | [`disasters`] | full, foreign, damaged and read-only directories, and the orderly end |
//! | [`operators`] | commands that end connections and the server, and what is asked of keys |
//! | [`watch`] | what operators see: pages, `INFO` |
//! | [`backups`] | `catena backup` and `catena restore`, and what they leave behind when they fail |
//! | [`flags`] | flags that cannot be meant, and what a start says |
//! | [`clients`] | redis-cli, redis-benchmark, redis-py |
//! | [`clusters`] | nodes that replicate each other, killed one after the other |
//!
//! What needs a program that is not there says so and passes. No verdict hangs on how fast this machine is.

mod backups;
mod clients;
mod clusters;
mod differential;
mod disasters;
mod flags;
mod hostile;
mod kills;
mod operators;
mod peer;
mod replies;
mod server;
mod watch;
