//! The log of one shard: records, segments, batches, recovery.
