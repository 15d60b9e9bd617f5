//! UNSAFE ISLAND: kernel and memory. Mechanism only, no policy.

#![allow(unsafe_code)]

pub mod clock;
pub mod socket;
#[allow(dead_code, reason = "the mailboxes come next")]
pub mod spsc;
