//! PURE: the bytes. `docs/protocol.md` is the contract that this module implements.

pub mod output;
