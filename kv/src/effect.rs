//! What a write does, with its result resolved: as it stands in the log and goes along a chain.
