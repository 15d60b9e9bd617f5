//! Which shard of one process.

use std::fmt;

/// The number of a shard among those of its process, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardIndex(pub u16);

impl ShardIndex {
    /// As an index into what a process has one of for each shard.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}
