//! The drivers that touch the kernel, in safe code, and the loop and the start of what runs on them.

#![forbid(unsafe_code)]

mod accept_errors;
pub(crate) mod descriptors;
mod direct_io;
pub mod epoll;
mod file_tasks;
mod helper;
pub(crate) mod listen;
pub(crate) mod start;
pub mod turn;
pub mod uring;
