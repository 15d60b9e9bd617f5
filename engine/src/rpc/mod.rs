//! PURE: what the bytes mean. No clock, random source, thread, socket or file in here.

#![forbid(unsafe_code)]

pub mod admission;
pub mod connection;
pub mod error;
pub mod in_flight;
