//! UNSAFE ISLAND: kernel and memory. Mechanism only, no policy.

#![allow(unsafe_code)]

pub mod clock;
pub mod socket;
pub mod spsc;
