//! The native service: the store as methods of the engine.
//!
//! | file | what |
//! |---|---|
//! | [`wire`] | the layouts, for server and client |
//! | [`execute`] | what a request that writes comes to |
//! | [`service`] | the methods, and the answers that wait for the disk |

pub mod execute;
pub mod service;
pub mod wire;
