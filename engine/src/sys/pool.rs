//! The memory that receives land in, and the way home of buffers that were lent out.
//!
//! One mapping holds all buffers of a ring side by side. The ring and every lent buffer keep it
//! alive together, so a payload may outlive the reactor that received it.

use crossbeam_queue::ArrayQueue;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Receive buffers, shared between the ring and whoever holds a lent one.
pub struct Pool {
    base: NonNull<u8>,
    count: u16,
    buffer_bytes: u32,
    /// Lent buffers whose holder is done with them.
    returned: ArrayQueue<u16>,
    /// True while the ring's owner waits for a buffer and wants to hear of every return.
    awaited: AtomicBool,
    on_return: Box<dyn Fn() + Send + Sync>,
}

// SAFETY: the mapping belongs to the pool alone and does not move. A buffer is reached either
// through the ring that owns it or through the one `LentBuffer` that exists for it, never both.
unsafe impl Send for Pool {}
// SAFETY: as above; everything else in the pool is `Sync` by itself.
unsafe impl Sync for Pool {}

impl Pool {
    /// Maps `count` buffers of `buffer_bytes` each; the kernel backs them with memory at first use.
    ///
    /// `on_return` is called from whatever thread drops a lent buffer while [`Pool::await_return`]
    /// is in force.
    ///
    /// # Errors
    /// As `mmap` reports them.
    pub fn new(
        count: u16,
        buffer_bytes: u32,
        on_return: Box<dyn Fn() + Send + Sync>,
    ) -> io::Result<Arc<Pool>> {
        let base = map(usize::from(count) * buffer_bytes as usize)?;
        let returned = ArrayQueue::new(usize::from(count));
        let awaited = AtomicBool::new(false);
        Ok(Arc::new(Pool { base, count, buffer_bytes, returned, awaited, on_return }))
    }

    /// How many buffers there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The size of each.
    pub fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Whether to call `on_return` when a lent buffer is dropped.
    pub fn await_return(&self, awaited: bool) {
        self.awaited.store(awaited, Ordering::Relaxed);
        // Pairs with the fence in `LentBuffer::drop`: either the holder sees the wish, or the
        // owner, who looks at the queue after this, sees the buffer.
        fence(Ordering::SeqCst);
    }

    /// The next lent buffer that came back.
    pub(super) fn next_returned(&self) -> Option<u16> {
        // An empty queue, the usual case, costs two loads.
        if self.returned.is_empty() { None } else { self.returned.pop() }
    }

    /// True when a lent buffer has come back.
    pub fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// Where `buffer` starts.
    pub(super) fn address(&self, buffer: u16) -> NonNull<u8> {
        assert!(buffer < self.count, "buffer {buffer} of {}", self.count);
        // SAFETY: the buffer lies within the mapping, as just asserted.
        unsafe { self.base.add(usize::from(buffer) * self.buffer_bytes as usize) }
    }

    /// Part of `buffer`.
    ///
    /// # Safety
    /// Nobody writes to the buffer for as long as the slice is used.
    pub(super) unsafe fn slice(&self, buffer: u16, offset: u32, length: u32) -> &[u8] {
        let end = offset.checked_add(length).expect("a range of bytes ends below 4 GiB");
        assert!(end <= self.buffer_bytes, "{offset} + {length} of {}", self.buffer_bytes);
        // SAFETY: `offset` lies within the buffer, which lies within the mapping.
        let start = unsafe { self.address(buffer).add(offset as usize) };
        // SAFETY: the range is mapped, initialised (anonymous memory is zero) and, as the caller
        // promises, not written to.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), length as usize) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let length = usize::from(self.count) * self.buffer_bytes as usize;
        // SAFETY: the mapping was made with this length and nothing refers to it any more: the
        // last owner is going.
        unsafe { unmap(self.base, length) }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (count, buffer_bytes) = (self.count, self.buffer_bytes);
        f.debug_struct("Pool")
            .field("count", &count)
            .field("buffer_bytes", &buffer_bytes)
            .finish_non_exhaustive()
    }
}

/// Part of a receive buffer, held beyond the turn and on any thread. Dropping it sends the buffer
/// home.
#[derive(Debug)]
pub struct LentBuffer {
    pool: Arc<Pool>,
    buffer: u16,
    offset: u32,
    length: u32,
}

impl LentBuffer {
    /// Lends part of `buffer`.
    ///
    /// # Safety
    /// The buffer is written to by nobody until it comes back through [`Pool::next_returned`], and
    /// no other `LentBuffer` of it exists until then.
    pub(super) unsafe fn new(pool: Arc<Pool>, buffer: u16, offset: u32, length: u32) -> Self {
        LentBuffer { pool, buffer, offset, length }
    }
}

impl AsRef<[u8]> for LentBuffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: whoever made this promised that nobody writes to the buffer while it is lent.
        unsafe { self.pool.slice(self.buffer, self.offset, self.length) }
    }
}

impl Drop for LentBuffer {
    fn drop(&mut self) {
        self.pool.returned.push(self.buffer).expect("one place for each buffer");
        // Pairs with the fence in `Pool::await_return`.
        fence(Ordering::SeqCst);
        if self.pool.awaited.load(Ordering::Relaxed) {
            (self.pool.on_return)();
        }
    }
}

/// Maps `length` zeroed bytes, aligned to a page.
pub(super) fn map(length: usize) -> io::Result<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh private mapping at an address of the kernel's choice overlaps nothing.
    let base =
        unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE) }?;
    Ok(NonNull::new(base.cast()).expect("mmap never answers the null page"))
}

/// Ends a mapping.
///
/// # Safety
/// `base` and `length` are those of a call of [`map`], and nothing refers to the memory any more.
pub(super) unsafe fn unmap(base: NonNull<u8>, length: usize) {
    // SAFETY: as the caller promises.
    let ended = unsafe { rustix::mm::munmap(base.as_ptr().cast(), length) };
    debug_assert!(ended.is_ok(), "a mapping of our own ends: {ended:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn returns_are_told_only_while_they_are_awaited() {
        let told = Arc::new(AtomicU32::new(0));
        let count = told.clone();
        let on_return = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let pool = Pool::new(2, 4096, on_return).expect("8 KiB are to be had");
        // SAFETY: no ring writes to this pool, and each buffer is lent once at a time.
        let lend = |buffer| unsafe { LentBuffer::new(pool.clone(), buffer, 1, 2) };
        drop(lend(0));
        assert_eq!(told.load(Ordering::Relaxed), 0);
        pool.await_return(true);
        drop(lend(1));
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert_eq!((pool.next_returned(), pool.next_returned()), (Some(0), Some(1)));
        assert_eq!(pool.next_returned(), None);
    }
}
