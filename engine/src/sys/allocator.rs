//! What the C library's allocator keeps for later.

/// Gives back to the system whole pages that are free in the middle of the allocator's heaps, of all threads;
/// it gives back those at their ends by itself. Takes a tenth of a millisecond for each megabyte, and whoever
/// allocates meanwhile waits, shards too: for when little is going on. Where the allocator is another one
/// than glibc's, nothing.
pub fn give_free_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the function takes a number of bytes to keep at the ends of heaps, and may be called at any
        // time from any thread.
        unsafe { libc::malloc_trim(0) };
    }
}
