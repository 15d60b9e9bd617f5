//! The protocol from outside: golden frames, and bytes that no good peer would send.
//!
//! `docs/protocol.md` is the contract; `golden.txt` is its letter. [`reference`] is a second
//! implementation of what it takes to write a frame, made from that document alone, so that a
//! mistake in the engine is not checked against itself.

mod golden;
mod hostile;
mod peer;
mod reference;
mod slow_reader;
