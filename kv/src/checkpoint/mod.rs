//! Checkpoints: all keys of a shard's partitions, each partition as of one index, taken while it serves.
//!
//! | file | what |
//! |---|---|
//! | [`walk`] | goes through a partition bit by bit, and saves what is changed before it comes there |
//! | [`mod@format`] | frames with checksums: what a checkpoint's file, and a backup's, is made of |
//! | [`mod@write`] | partitions → frames |
//! | [`read`] | frames → partitions |
//!
//! Pure; [`crate::disk`] writes and reads the files.

pub mod format;
pub mod read;
pub mod walk;
pub mod write;

#[cfg(test)]
mod tests;
