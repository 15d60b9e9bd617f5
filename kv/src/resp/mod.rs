//! The Redis protocol: commands in, replies out.
