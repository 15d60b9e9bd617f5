//! The drivers that touch the kernel, in safe code.

#![forbid(unsafe_code)]

pub mod epoll;
pub mod uring;
