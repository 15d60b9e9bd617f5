//! A bounded ring from one thread to one other.
//!
//! ```text
//!            head, written by the consumer       tail, written by the producer
//!              ▼                                   ▼
//!   ┌───────┬───────┬───────┬───────┬───────┬───────┬───────┬───────┐
//!   │ empty │ value │ value │ value │ value │ empty │ empty │ empty │   index = count % capacity
//!   └───────┴───────┴───────┴───────┴───────┴───────┴───────┴───────┘
//!            └ the consumer's: head..tail ─┘└ the producer's: the rest ┘
//! ```
//!
//! Both counts only grow (and wrap with `usize`). A slot belongs to exactly one side at any time:
//!
//! | what | hands a slot over | how the other side learns of it |
//! |---|---|---|
//! | [`Producer::push`] | to the consumer, by a release store of `tail` | acquire load of `tail` |
//! | [`Consumer::pop`] | to the producer, by a release store of `head` | acquire load of `head` |
//!
//! Each side keeps its own count, and the last it saw of the other's, in its own memory. It reads the
//! other's cache line only when the ring looks full or empty by what it knows, that is once a batch.
//!
//! Dropped early: a producer or a consumer may go at any time. What is in the ring is dropped with
//! the later of the two.

use crate::primitive::{Arc, AtomicUsize, CachePadded, Ordering, UnsafeCell};
use std::fmt;
use std::mem::MaybeUninit;

/// A ring for up to `capacity` values.
///
/// # Panics
/// If `capacity` is not a power of two.
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    ring_from(0, capacity)
}

/// A ring whose counts begin at `start`.
fn ring_from<T>(start: usize, capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "a capacity of {capacity} is not a power of two");
    let slots = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared {
        head: CachePadded(AtomicUsize::new(start)),
        tail: CachePadded(AtomicUsize::new(start)),
        slots,
    });
    let producer = Producer { shared: shared.clone(), tail: start, head_seen: start };
    (producer, Consumer { shared, head: start, tail_seen: start })
}

/// The end that values go in. There is one of each ring, and it can be sent to its thread.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// What `shared.tail` is; nobody else writes it.
    tail: usize,
    /// What `shared.head` was when last looked at.
    head_seen: usize,
}

/// The end that values come out. There is one of each ring, and it can be sent to its thread.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// What `shared.head` is; nobody else writes it.
    head: usize,
    /// What `shared.tail` was when last looked at.
    tail_seen: usize,
}

struct Shared<T> {
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: the cells are what makes it not `Sync` by itself. Each is accessed by one side at a time,
// by the table of the module page, and values move from thread to thread, which `T: Send` allows.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, count: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[count & (self.slots.len() - 1)]
    }

    /// Moves a value into a slot.
    ///
    /// # Safety
    /// The slot is the caller's, and holds no value.
    unsafe fn write(&self, count: usize, value: T) {
        self.slot(count).with_mut(|slot| {
            // SAFETY: nobody else accesses the slot, as the caller says; it has the layout of a `T`.
            unsafe { slot.cast::<T>().write(value) }
        });
    }

    /// Moves the value out of a slot.
    ///
    /// # Safety
    /// The slot is the caller's, and holds a value, which the caller does not read again.
    unsafe fn read(&self, count: usize) -> T {
        self.slot(count).with_mut(|slot| {
            // SAFETY: nobody else accesses the slot, and it was written, as the caller says.
            unsafe { slot.cast::<T>().read() }
        })
    }
}

impl<T> Producer<T> {
    /// Puts a value in.
    ///
    /// # Errors
    /// The value itself, when the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == capacity {
                return Err(value);
            }
        }
        // SAFETY: less than a capacity lies between `head` and `tail`, so the slot at `tail` is the
        // producer's: never written yet, or its value was moved out before the `head` we acquired.
        unsafe { self.shared.write(self.tail, value) };
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest value out, if there is one.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: `head` is not `tail_seen`, so the slot was written before the `tail` we acquired
        // and is the consumer's; storing `head` below gives it back, so it is read once.
        let value = unsafe { self.shared.read(self.head) };
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// True if nothing is in the ring. Looks afresh whenever it would say so: what was pushed before,
    /// and is ordered before this call, is seen.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
        }
        self.head == self.tail_seen
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: the last `Arc` to go has synchronised with the other.
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut head = self.head.0.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: both sides are gone, and `head..tail` holds values that nobody moved out.
            drop(unsafe { self.read(head) });
            head = head.wrapping_add(1);
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("head", &self.head).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(catena_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::rc::Rc;

    /// Close enough to the end that every test walks over it.
    const NEAR_THE_END: usize = usize::MAX - 5;

    #[test]
    fn is_for_one_thread_at_each_end() {
        fn is_send<T: Send>() {}
        is_send::<Producer<Box<u8>>>();
        is_send::<Consumer<Box<u8>>>();
    }

    #[test]
    #[should_panic(expected = "a capacity of 3 is not a power of two")]
    fn refuses_other_capacities() {
        ring::<u8>(3);
    }

    #[test]
    fn what_is_left_is_dropped_with_the_later_end() {
        for producer_first in [true, false] {
            let value = Rc::new(());
            let (mut producer, mut consumer) = ring_from(NEAR_THE_END, 8);
            for _ in 0..8 {
                producer.push(value.clone()).expect("there is room");
                drop(consumer.pop());
                producer.push(value.clone()).expect("there is room");
            }
            assert!(producer.push(value.clone()).is_err());
            assert_eq!(Rc::strong_count(&value), 9);
            if producer_first {
                drop(producer);
                assert!(consumer.pop().is_some(), "what was pushed is still there");
                drop(consumer);
            } else {
                drop(consumer);
                assert!(producer.push(value.clone()).is_err(), "nobody makes room any more");
                drop(producer);
            }
            assert_eq!(Rc::strong_count(&value), 1);
        }
    }

    #[test]
    fn two_threads_lose_nothing_and_keep_the_order() {
        let count = if cfg!(miri) { 200 } else { 200_000 };
        for capacity in [1, 2, 64] {
            let (mut producer, mut consumer) = ring_from(NEAR_THE_END, capacity);
            let sender = std::thread::spawn(move || {
                for n in 0..count {
                    // On the heap, so that a value that is lost or read twice is seen.
                    let mut value = Box::new((n, !n));
                    while let Err(back) = producer.push(value) {
                        value = back;
                        std::thread::yield_now();
                    }
                }
            });
            for n in 0..count {
                let value = loop {
                    match consumer.pop() {
                        Some(value) => break value,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!(*value, (n, !n));
            }
            sender.join().expect("the sender does not panic");
            assert!(consumer.pop().is_none());
        }
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Push,
        Pop,
        IsEmpty,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            3 => Just(Operation::Push),
            3 => Just(Operation::Pop),
            1 => Just(Operation::IsEmpty),
        ]
    }

    proptest! {
        #[test]
        fn does_what_a_bounded_queue_does(
            start in any::<usize>(),
            bits in 0u32..4,
            operations in prop::collection::vec(operation(), 0..200),
        ) {
            let capacity = 1 << bits;
            let (mut producer, mut consumer) = ring_from(start, capacity);
            let mut oracle = VecDeque::new();
            for (n, operation) in operations.into_iter().enumerate() {
                match operation {
                    Operation::Push if oracle.len() < capacity => {
                        oracle.push_back(n);
                        prop_assert_eq!(producer.push(Box::new(n)), Ok(()));
                    }
                    Operation::Push => {
                        prop_assert_eq!(producer.push(Box::new(n)), Err(Box::new(n)));
                    }
                    Operation::Pop => {
                        prop_assert_eq!(consumer.pop().map(|value| *value), oracle.pop_front());
                    }
                    Operation::IsEmpty => {
                        prop_assert_eq!(consumer.is_empty(), oracle.is_empty());
                    }
                }
            }
        }
    }
}

/// Every order in which two threads may meet; see [`crate::primitive`] for the command.
#[cfg(all(test, catena_loom))]
mod loom_tests {
    use super::*;
    use loom::thread;

    /// Two words that belong together: loom sees if they are written and read at once.
    fn push_all(producer: &mut Producer<Box<(usize, usize)>>, count: usize) {
        for n in 0..count {
            let mut value = Box::new((n, !n));
            while let Err(back) = producer.push(value) {
                value = back;
                thread::yield_now();
            }
        }
    }

    #[test]
    fn nothing_is_lost_doubled_or_torn() {
        for capacity in [1, 2] {
            loom::model(move || {
                let (mut producer, mut consumer) = ring(capacity);
                let sender = thread::spawn(move || push_all(&mut producer, 3));
                for n in 0..3 {
                    let value = loop {
                        match consumer.pop() {
                            Some(value) => break value,
                            None => thread::yield_now(),
                        }
                    };
                    assert_eq!(*value, (n, !n));
                }
                assert!(consumer.is_empty());
                sender.join().expect("the sender does not panic");
            });
        }
    }

    #[test]
    fn a_full_ring_gives_the_value_back() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring(1);
            let sender = thread::spawn(move || {
                producer.push(1).expect("it is empty");
                producer.push(2)
            });
            let first = consumer.pop();
            let second = sender.join().expect("the sender does not panic");
            let rest = std::iter::from_fn(|| consumer.pop());
            let received: Vec<i32> = first.into_iter().chain(rest).collect();
            assert_eq!(received, if second.is_ok() { vec![1, 2] } else { vec![1] });
        });
    }

    #[test]
    fn every_value_is_dropped_once_whoever_goes_last() {
        loom::model(|| {
            let value = Arc::new(());
            let (mut producer, mut consumer) = ring(2);
            let sent = [value.clone(), value.clone()];
            let sender = thread::spawn(move || {
                for value in sent {
                    producer.push(value).expect("there is room for two");
                }
            });
            drop(consumer.pop());
            drop(consumer);
            sender.join().expect("the sender does not panic");
            assert_eq!(Arc::strong_count(&value), 1);
        });
    }
}
