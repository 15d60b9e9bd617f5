//! The keys of one partition, in memory.
