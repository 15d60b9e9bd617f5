//! The drivers that touch the kernel, in safe code.

pub mod epoll;
