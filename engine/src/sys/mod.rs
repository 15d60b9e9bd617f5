//! UNSAFE ISLAND: kernel and memory. Mechanism only, no policy; imported by [`crate::reactor`] alone.

#![allow(unsafe_code)]

#[allow(dead_code, reason = "the mailboxes come next")]
pub mod spsc;
