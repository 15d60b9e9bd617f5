//! catena-bench
fn main() {}
