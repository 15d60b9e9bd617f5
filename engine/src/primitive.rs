//! The few primitives through which threads share memory, so that loom can put its own in their
//! place and try every order in which the threads may meet.
//!
//! Loom's tests are the modules named `loom_tests`; they run with
//!
//! ```text
//! RUSTFLAGS="--cfg catena_loom" cargo test -p catena-engine --release --lib loom_tests
//! ```
//!
//! The switch has a name of its own, since a plain `--cfg loom` reaches into dependencies, and tokio
//! does not build with it. Only the crate's own tests are built so: whoever embeds the engine gets
//! the real ones under any switch.

#[cfg(not(all(test, catena_loom)))]
pub(crate) use real::*;

#[cfg(all(test, catena_loom))]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

#[cfg(not(all(test, catena_loom)))]
mod real {
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

    /// A cell in loom's form: access is a closure, so that loom sees where it begins and ends.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }
}

/// A value on cache lines of its own.
///
/// 128 bytes: two lines, for the prefetchers of x86 fetch lines in pairs, and some Arm cores have
/// lines of that length.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);
