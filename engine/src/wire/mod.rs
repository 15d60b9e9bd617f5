//! PURE: the bytes. `docs/protocol.md` is the contract that this module implements.
//!
//! | file | what |
//! |---|---|
//! | [`header`] | the 32 bytes every frame begins with |
//! | [`frame`] | what the header's words mean for each kind |
//! | [`hello`], [`metadata`], [`records`] | what is in a body that is not the application's |
//! | [`status`] | how a request ended, class in the number |
//! | [`deframer`] | bytes in → frames, in place |
//! | [`framer`], [`output`] | frames → bytes out, one vectored send |

#![forbid(unsafe_code)]

pub mod deframer;
pub mod frame;
pub mod framer;
pub mod header;
pub mod hello;
pub mod metadata;
pub mod output;
pub mod records;
pub mod spare;
pub mod status;
