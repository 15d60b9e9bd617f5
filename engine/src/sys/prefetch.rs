//! A hint to the processor: that memory will be read soon.

/// Has the cache line of `place` brought into the cache, and does not wait for it. Nothing else comes of it;
/// where there is no such instruction, nothing at all.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = core::ptr::from_ref(place).cast::<i8>();
        // SAFETY: a prefetch reads no memory that the program could see, and the instruction is part of
        // every x86-64 processor; the place is that of a reference anyway.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_such_instruction = place;
}
