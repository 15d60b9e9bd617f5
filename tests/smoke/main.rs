//! placeholder while the first crate grows
