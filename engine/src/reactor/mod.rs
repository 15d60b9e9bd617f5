//! The drivers that touch the kernel, in safe code, and the loop and the start of what runs on them.

pub mod epoll;
pub(crate) mod start;
pub mod turn;
