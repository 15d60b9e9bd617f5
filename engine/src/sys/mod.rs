//! UNSAFE ISLAND: kernel and memory. Mechanism only, no policy; imported by [`crate::reactor`] alone.

#![allow(unsafe_code)]

pub mod clock;
pub mod socket;
