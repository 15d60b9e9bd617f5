//! The `work` method of `serve`: what a call goes through in a real server, at next to no cost. It waits
//! for one of so many slots, first come, first served; holds it for a time that is drawn anew for each
//! call, by a timer, so that several such servers can share a core; and is answered.
//!
//! With `--faults` the method `fault` changes that while the server runs, in all its shards: see
//! [`Setting`].

use crate::balance::Distribution;
use bytes::Bytes;
use catena_engine::rng::Rng;
use catena_engine::service::{Failure as Refusal, OwnedRequest};
use catena_engine::time::Duration;
use catena_engine::{Local, Status};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Waker};

/// How a server works.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// How long a call holds its slot.
    pub time: Distribution,
    /// Calls that are worked on at a time, by each shard.
    pub slots: u32,
}

/// What is wrong with a server on purpose. On the wire: four u32, little-endian, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// How many thousandths of its time work takes; 1,000: as ever.
    pub slow_thousandths: u32,
    /// How much later answers leave, in microseconds, after the slot is free again.
    pub add_us: u32,
    /// How long work takes whatever was drawn, in microseconds; [`Setting::NOT`]: as drawn.
    pub latency_us: u32,
    /// After how many microseconds calls fail with "internal error", without a slot or any work;
    /// [`Setting::NOT`]: they do not fail.
    pub fail_us: u32,
}

impl Setting {
    /// A time that does not apply.
    pub const NOT: u32 = u32::MAX;
    /// Nothing is wrong.
    pub const WELL: Setting =
        Setting { slow_thousandths: 1_000, add_us: 0, latency_us: Self::NOT, fail_us: Self::NOT };

    /// The payload of a call of `fault`.
    pub fn encode(&self) -> Bytes {
        self.words().iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(payload: &[u8]) -> Option<Setting> {
        let (words, []) = payload.as_chunks::<4>() else { return None };
        let words: [[u8; 4]; 4] = words.try_into().ok()?;
        let [slow_thousandths, add_us, latency_us, fail_us] = words.map(u32::from_le_bytes);
        Some(Setting { slow_thousandths, add_us, latency_us, fail_us })
    }

    fn words(&self) -> [u32; 4] {
        [self.slow_thousandths, self.add_us, self.latency_us, self.fail_us]
    }
}

/// The setting of all shards of a server. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Faults {
    /// False: it stays as it is.
    is_settable: bool,
    words: Arc<[AtomicU32; 4]>,
}

impl Faults {
    /// Nothing is wrong; `is_settable`: that may change.
    pub fn new(is_settable: bool) -> Self {
        let words = Setting::WELL.words().map(AtomicU32::new);
        Faults { is_settable, words: Arc::new(words) }
    }

    /// Sets what the payload of a call of `fault` says.
    ///
    /// # Errors
    /// The status to answer with, and why, for people.
    pub fn set(&self, payload: &[u8]) -> Result<(), (Status, &'static str)> {
        if !self.is_settable {
            return Err((Status::DENIED, "this server takes no faults; start it with --faults"));
        }
        let setting = Setting::decode(payload)
            .ok_or((Status::MALFORMED, "fault takes 16 bytes; see catena-bench serve --help"))?;
        // A call that reads between two of these stores sees half of each setting: it is not the last.
        for (word, value) in self.words.iter().zip(setting.words()) {
            word.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn now(&self) -> Setting {
        let word = |index: usize| self.words[index].load(Ordering::Relaxed);
        Setting {
            slow_thousandths: word(0),
            add_us: word(1),
            latency_us: word(2),
            fail_us: word(3),
        }
    }
}

/// What one shard works with.
#[derive(Clone, Debug)]
pub struct Worker(Rc<Shop>);

#[derive(Debug)]
struct Shop {
    time: Distribution,
    faults: Faults,
    rng: RefCell<Rng>,
    slots: Slots,
}

impl Worker {
    /// One with all slots free.
    pub fn new(local: &Local, service: Service, faults: Faults) -> Self {
        let rng = RefCell::new(Rng::from_seed(local.random()));
        let slots = Slots { free: Cell::new(service.slots), waiting: RefCell::default() };
        Worker(Rc::new(Shop { time: service.time, faults, rng, slots }))
    }

    /// Serves a call.
    ///
    /// # Errors
    /// "Internal error", if the server was told to fail.
    pub async fn work(self, request: OwnedRequest) -> Result<&'static [u8; 0], Refusal> {
        let Worker(shop) = self;
        let local = request.local;
        let setting = shop.faults.now();
        let micros = |count: u32| Duration::from_micros(count.into());
        if setting.fail_us != Setting::NOT {
            local.sleep(micros(setting.fail_us)).await;
            return Err(Refusal::new(Status::INTERNAL, "this server was told to fail"));
        }
        let slot = shop.slots.take().await;
        local.sleep(shop.time(setting)).await;
        drop(slot);
        local.sleep(micros(setting.add_us)).await;
        Ok(b"")
    }
}

impl Shop {
    fn time(&self, setting: Setting) -> Duration {
        let drawn = match setting.latency_us {
            Setting::NOT => self.time.draw(&mut self.rng.borrow_mut()),
            micros => f64::from(micros) * 1e3,
        };
        Duration::from_nanos((drawn * f64::from(setting.slow_thousandths) / 1e3) as u64)
    }
}

/// Slots of one shard, and who waits for one, longest first.
#[derive(Debug)]
struct Slots {
    free: Cell<u32>,
    waiting: RefCell<VecDeque<Rc<Place>>>,
}

/// A place in the line.
#[derive(Debug, Default)]
struct Place {
    has_slot: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A slot, or a place in the line for one. Given back when dropped, as a call that is cancelled is.
#[derive(Debug)]
struct Slot<'a> {
    slots: &'a Slots,
    place: Rc<Place>,
}

impl Slots {
    async fn take(&self) -> Slot<'_> {
        let slot = Slot { slots: self, place: Rc::default() };
        if self.free.get() > 0 {
            self.free.set(self.free.get() - 1);
            slot.place.has_slot.set(true);
            return slot;
        }
        self.waiting.borrow_mut().push_back(slot.place.clone());
        poll_fn(|context| {
            if slot.place.has_slot.get() {
                return Poll::Ready(());
            }
            *slot.place.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        slot
    }

    /// A slot is free: the next one has it.
    fn give_back(&self) {
        let Some(next) = self.waiting.borrow_mut().pop_front() else {
            self.free.set(self.free.get() + 1);
            return;
        };
        next.has_slot.set(true);
        let waker = next.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if self.place.has_slot.get() {
            self.slots.give_back();
        } else {
            self.slots.waiting.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::Context;

    fn poll<'a>(taking: Pin<&mut impl Future<Output = Slot<'a>>>) -> Option<Slot<'a>> {
        match taking.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(slot) => Some(slot),
            Poll::Pending => None,
        }
    }

    #[test]
    fn slots_are_had_in_the_order_of_coming_and_never_lost() {
        let slots = Slots { free: Cell::new(1), waiting: RefCell::default() };
        let first = poll(pin!(slots.take())).expect("it is free");
        let mut second = pin!(slots.take());
        let mut third = Box::pin(slots.take());
        let mut fourth = pin!(slots.take());
        let mut fifth = Box::pin(slots.take());
        assert!(poll(second.as_mut()).is_none() && poll(third.as_mut()).is_none());
        assert!(poll(fourth.as_mut()).is_none() && poll(fifth.as_mut()).is_none());
        drop(third);
        drop(first);
        assert!(poll(fourth.as_mut()).is_none(), "the second came before");
        let second = poll(second.as_mut()).expect("it has waited longest");
        drop(second);
        let fourth = poll(fourth.as_mut()).expect("the third has gone");
        drop(fourth);
        // It was given the slot, and goes before it has looked.
        drop(fifth);
        assert_eq!((slots.free.get(), slots.waiting.borrow().len()), (1, 0));
    }

    #[test]
    fn a_setting_is_read_as_it_was_written_and_only_where_it_may_be() {
        let setting = Setting { slow_thousandths: 2_500, add_us: 7, ..Setting::WELL };
        let faults = Faults::new(true);
        assert_eq!(faults.now(), Setting::WELL);
        faults.set(&setting.encode()).expect("it may be set");
        assert_eq!(faults.now(), setting);
        let malformed = faults.set(&[0; 15]).expect_err("it is too short");
        assert_eq!(malformed.0, Status::MALFORMED);
        let denied = Faults::new(false).set(&setting.encode()).expect_err("it takes none");
        assert!(denied.0 == Status::DENIED && denied.1.contains("--faults"), "{denied:?}");
    }
}
