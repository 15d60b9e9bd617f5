//! What touches the kernel, on a real one. What every driver owes to a shard is checked in
//! `tests/driver`; here is what is particular to one driver.

mod uring;
