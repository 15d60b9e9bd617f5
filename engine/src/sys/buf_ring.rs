//! Receive buffers that the kernel picks from by itself (a ring of provided buffers).
//!
//! Who owns the memory, and what hands it over:
//!
//! ```text
//!               received              lend                 give_back
//!   Kernel ───────────────► Held ───────────────► HeldLent ──────────────► Lent
//!     ▲                      │ ▲                     │                      │
//!     ├───── give_back ──────┘ └──── last Bytes ─────┘                      │
//!     └──────────────────────── last Bytes dropped ─────────────────────────┘
//! ```
//!
//! `Kernel`: it may write at any time, nobody reads. `Held`: the driver's, a chunk of it is out.
//! `Lent`: somebody's [`LentBuffer`]; it comes home through the pool's queue. A step that is not
//! drawn is a bug and panics: a buffer returned twice would let the kernel write under a reader.

use super::pool::{LentBuffer, Pool, map, unmap};
use io_uring::types::BufRingEntry;
use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Kernel,
    Held,
    HeldLent,
    Lent,
}

/// The ring of buffers and the account of who owns each.
pub struct BufRing {
    entries: NonNull<BufRingEntry>,
    mask: u16,
    /// Where the next buffer for the kernel goes; counts on, modulo 2^16.
    tail: u16,
    owners: Box<[Cell<Owner>]>,
    with_kernel: u16,
    lent: Cell<u16>,
    pool: Arc<Pool>,
}

impl BufRing {
    /// A ring with all of `pool` in the kernel's hands.
    ///
    /// # Errors
    /// As `mmap` reports them.
    pub(super) fn new(pool: Arc<Pool>) -> io::Result<Self> {
        let count = pool.count();
        assert!(count.is_power_of_two() && count <= 1 << 15, "the kernel takes 2^n, at most 2^15");
        let entries = map(entries_bytes(count))?.cast();
        let owners = (0..count).map(|_| Cell::new(Owner::Kernel)).collect();
        let lent = Cell::new(0);
        let mut ring =
            BufRing { entries, mask: count - 1, tail: 0, owners, with_kernel: 0, lent, pool };
        for buffer in 0..count {
            ring.provide(buffer);
        }
        Ok(ring)
    }

    /// Address and entries of the ring, for registering it. It lives as long as `self`.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.entries.as_ptr().expose_provenance() as u64, self.pool.count())
    }

    /// Notes that the kernel has filled `buffer` and will not touch it again.
    pub(super) fn received(&mut self, buffer: u16) {
        self.step(buffer, Owner::Kernel, Owner::Held);
        self.with_kernel -= 1;
    }

    /// Received bytes.
    ///
    /// # Panics
    /// If the buffer is not held by the driver, or the range is not within it.
    pub fn bytes(&self, buffer: u16, offset: u32, length: u32) -> &[u8] {
        let owner = self.owners[usize::from(buffer)].get();
        assert!(
            matches!(owner, Owner::Held | Owner::HeldLent),
            "buffer {buffer} is read while {owner:?}"
        );
        // SAFETY: the kernel does not own the buffer, and giving it back takes `&mut self`.
        unsafe { self.pool.slice(buffer, offset, length) }
    }

    /// Lends part of a held buffer, unless part of it is lent already.
    ///
    /// # Panics
    /// If the buffer is not held by the driver.
    pub fn lend(&self, buffer: u16, offset: u32, length: u32) -> Option<LentBuffer> {
        if self.owners[usize::from(buffer)].get() == Owner::HeldLent {
            return None;
        }
        self.step(buffer, Owner::Held, Owner::HeldLent);
        self.lent.set(self.lent.get() + 1);
        // SAFETY: the buffer goes to the kernel again only after it has come back through the
        // pool, and until then it is not lent a second time.
        Some(unsafe { LentBuffer::new(self.pool.clone(), buffer, offset, length) })
    }

    /// Ends the driver's hold on `buffer`.
    ///
    /// # Panics
    /// If the driver does not hold it.
    pub fn give_back(&mut self, buffer: u16) {
        if self.owners[usize::from(buffer)].get() == Owner::HeldLent {
            self.step(buffer, Owner::HeldLent, Owner::Lent);
        } else {
            self.step(buffer, Owner::Held, Owner::Kernel);
            self.provide(buffer);
        }
    }

    /// Takes in the lent buffers whose holders are done with them.
    pub fn collect_returned(&mut self) {
        while let Some(buffer) = self.pool.next_returned() {
            self.lent.set(self.lent.get() - 1);
            if self.owners[usize::from(buffer)].get() == Owner::HeldLent {
                self.step(buffer, Owner::HeldLent, Owner::Held);
            } else {
                self.step(buffer, Owner::Lent, Owner::Kernel);
                self.provide(buffer);
            }
        }
    }

    /// Buffers that are lent out, or were and have not been collected yet.
    pub fn lent(&self) -> u16 {
        self.lent.get()
    }

    /// Buffers that the kernel can receive into, as far as its completions have been reaped.
    pub fn with_kernel(&self) -> u16 {
        self.with_kernel
    }

    /// The memory behind the ring.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn step(&self, buffer: u16, from: Owner, to: Owner) {
        let owner = self.owners[usize::from(buffer)].replace(to);
        assert!(owner == from, "buffer {buffer} goes from {from:?} to {to:?}, but it is {owner:?}");
    }

    /// Puts a buffer that is `Kernel`'s into the ring.
    fn provide(&mut self, buffer: u16) {
        let address = self.pool.address(buffer).as_ptr().expose_provenance();
        // SAFETY: the masked tail is below the number of entries that were mapped.
        let mut entry = unsafe { self.entries.add(usize::from(self.tail & self.mask)) };
        // SAFETY: entries from the tail on are ours until the tail is published below; the kernel
        // reads what is before it. Zeroed memory is a valid entry.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address as u64);
        entry.set_len(self.pool.buffer_bytes());
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.with_kernel += 1;
        self.shared_tail().store(self.tail, Ordering::Release);
    }

    /// The tail that the kernel reads; it lies in a reserved field of the first entry.
    fn shared_tail(&self) -> &AtomicU16 {
        // SAFETY: `entries` is the base of the ring, mapped for as long as `self` lives.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: it is aligned, mapped as above, and both sides access it atomically.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        let length = entries_bytes(self.pool.count());
        // SAFETY: mapped with this length; the ring of submissions, which the kernel reads these
        // entries for, is closed before this is dropped.
        unsafe { unmap(self.entries.cast(), length) }
    }
}

impl std::fmt::Debug for BufRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufRing")
            .field("pool", &self.pool)
            .field("with_kernel", &self.with_kernel)
            .field("lent", &self.lent)
            .finish_non_exhaustive()
    }
}

fn entries_bytes(count: u16) -> usize {
    usize::from(count) * size_of::<BufRingEntry>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn ring(count: u16) -> BufRing {
        let pool = Pool::new(count, 4096, Box::new(|| {})).expect("memory is to be had");
        BufRing::new(pool).expect("memory is to be had")
    }

    #[test]
    fn a_buffer_goes_round() {
        let mut ring = ring(4);
        assert_eq!(ring.with_kernel(), 4);
        for turn in 0..10 {
            let buffer = turn % 4;
            ring.received(buffer);
            assert_eq!(ring.with_kernel(), 3);
            assert_eq!(ring.bytes(buffer, 8, 3), [0; 3]);
            ring.give_back(buffer);
            assert_eq!(ring.with_kernel(), 4);
        }
        assert_eq!(ring.shared_tail().load(Ordering::Relaxed), 14, "4 at first and 10 given back");
    }

    #[test]
    fn a_lent_buffer_comes_home_when_both_holders_are_done() {
        for bytes_first in [false, true] {
            let mut ring = ring(2);
            ring.received(0);
            let bytes = Bytes::from_owner(ring.lend(0, 0, 5).expect("not lent yet"));
            assert!(ring.lend(0, 0, 5).is_none(), "one lend at a time");
            if bytes_first {
                drop(bytes);
                ring.collect_returned();
                assert_eq!(ring.with_kernel(), 1, "the chunk is still out");
                ring.give_back(0);
            } else {
                ring.give_back(0);
                ring.collect_returned();
                assert_eq!((ring.with_kernel(), ring.lent()), (1, 1), "the bytes are still out");
                drop(bytes);
                ring.collect_returned();
            }
            assert_eq!((ring.with_kernel(), ring.lent()), (2, 0));
        }
    }

    #[test]
    fn lent_bytes_outlive_their_ring() {
        let mut ring = ring(2);
        ring.received(1);
        let bytes = Bytes::from_owner(ring.lend(1, 100, 4).expect("not lent yet"));
        drop(ring);
        let reader = std::thread::spawn(move || bytes.to_vec());
        assert_eq!(reader.join().expect("reading does not panic"), [0; 4]);
    }

    #[test]
    #[should_panic(expected = "goes from Held to Kernel, but it is Kernel")]
    fn returning_a_buffer_twice_is_noticed() {
        let mut ring = ring(2);
        ring.received(0);
        ring.give_back(0);
        ring.give_back(0);
    }

    #[test]
    #[should_panic(expected = "goes from Held to Kernel, but it is Lent")]
    fn returning_a_lent_buffer_twice_is_noticed() {
        let mut ring = ring(2);
        ring.received(0);
        let _bytes = ring.lend(0, 0, 1);
        ring.give_back(0);
        ring.give_back(0);
    }

    #[test]
    #[should_panic(expected = "is read while Kernel")]
    fn reading_what_the_kernel_owns_is_noticed() {
        let mut ring = ring(2);
        ring.received(0);
        ring.give_back(0);
        let _ = ring.bytes(0, 0, 1);
    }

    #[test]
    #[should_panic(expected = "4096 + 1 of 4096")]
    fn reading_beyond_a_buffer_is_noticed() {
        let mut ring = ring(2);
        ring.received(0);
        let _ = ring.bytes(0, 4096, 1);
    }
}
