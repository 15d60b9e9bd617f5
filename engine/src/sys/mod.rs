//! UNSAFE ISLAND: kernel and memory. Mechanism only, no policy.

#![allow(unsafe_code)]

pub mod buf_ring;
pub mod checksum;
pub mod clock;
pub mod in_flight;
pub mod pool;
pub mod ring;
pub mod socket;
pub mod spsc;
pub mod submit;
