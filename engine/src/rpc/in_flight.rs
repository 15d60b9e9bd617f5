//! Calls that have begun and have not ended, by id.
//!
//! The same table serves both sides of a connection. A client takes a free slot for each call it
//! starts; a server finds the slot in the id. Nothing is hashed, and nothing is allocated once the
//! table has grown to what is really in flight.
//!
//! **Deadlines** are kept as a *lower bound* of the earliest one. When a call ends the bound stays,
//! though it may be too early now; when the bound passes, one scan of the table expires what is due
//! and finds the next bound. With a timeout far above the latency, as timeouts are, that is one scan
//! a timeout and connection, where a heap or a wheel would pay at every call. The table is bounded
//! by the window, so the scan is too.

use crate::time::Instant;
use crate::wire::frame::CallId;

/// The calls in flight on one connection, each with a deadline and a `T` of its owner's.
#[derive(Debug)]
pub struct InFlight<T> {
    slots: Vec<Slot<T>>,
    /// Free slots that a client used before, last used first (its memory is warm).
    free: Vec<u32>,
    count: u32,
    /// No call has an earlier deadline than this.
    earliest: Instant,
    /// New slots begin after this generation, so that ids stay unique when memory was given back.
    generation_floor: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    deadline: Instant,
    value: Option<T>,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        InFlight {
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
            earliest: Instant::FAR_FUTURE,
            generation_floor: 0,
        }
    }
}

impl<T> InFlight<T> {
    /// Calls in flight.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// True when no call is in flight.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Client: starts a call in a free slot below `window`; `None`: the window is full.
    #[inline]
    pub fn start(&mut self, window: u32, deadline: Option<Instant>, value: T) -> Option<CallId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if (self.slots.len() as u32) < window => {
                self.grow_to(self.slots.len() + 1);
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let call = CallId::new(index, slot.generation);
        self.occupy(call, deadline, value);
        Some(call)
    }

    /// Server: enters a call under the id that its caller chose. The slot must be below the window
    /// and free, which [`InFlight::is_busy`] tells.
    pub fn enter(&mut self, call: CallId, deadline: Option<Instant>, value: T) {
        self.grow_to(call.slot() as usize + 1);
        self.slots[call.slot() as usize].generation = call.generation();
        self.occupy(call, deadline, value);
    }

    /// True if a call is in flight in this slot, whichever its generation.
    #[inline]
    pub fn is_busy(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|slot| slot.value.is_some())
    }

    /// The call that is in flight in this slot, if there is one.
    #[cfg(feature = "sim")]
    pub fn in_slot(&self, slot: u32) -> Option<CallId> {
        let generation = self.slots.get(slot as usize)?.generation;
        self.is_busy(slot).then(|| CallId::new(slot, generation))
    }

    /// Ends a call. `None`: it is not in flight (any more).
    #[inline]
    pub fn end(&mut self, call: CallId) -> Option<T> {
        let slot = self.slots.get_mut(call.slot() as usize)?;
        if slot.generation != call.generation() {
            return None;
        }
        let value = slot.value.take()?;
        self.count -= 1;
        if self.count == 0 {
            self.earliest = Instant::FAR_FUTURE;
        }
        Some(value)
    }

    /// Client: ends a call and frees its slot for the next [`InFlight::start`].
    #[inline]
    pub fn end_and_free(&mut self, call: CallId) -> Option<T> {
        let value = self.end(call)?;
        self.free.push(call.slot());
        Some(value)
    }

    /// No deadline passes before this instant. `None`: no call in flight has one.
    #[inline]
    pub fn earliest_deadline(&self) -> Option<Instant> {
        (self.earliest != Instant::FAR_FUTURE).then_some(self.earliest)
    }

    /// Ends each call whose deadline has passed, in slot order, and hands it to `on_expired`. One
    /// scan of the table, and none before [`InFlight::earliest_deadline`]; the bound is exact again
    /// afterwards.
    pub fn expire(&mut self, now: Instant, mut on_expired: impl FnMut(CallId, T)) {
        if now < self.earliest {
            return;
        }
        let mut earliest = Instant::FAR_FUTURE;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.value.is_none() {
                continue;
            }
            if slot.deadline > now {
                earliest = earliest.min(slot.deadline);
                continue;
            }
            let value = slot.value.take().expect("looked at just now");
            self.count -= 1;
            on_expired(CallId::new(index as u32, slot.generation), value);
        }
        self.earliest = earliest;
    }

    /// Client: as [`InFlight::expire`], and frees the slots.
    pub fn expire_and_free(&mut self, now: Instant, mut on_expired: impl FnMut(CallId, T)) {
        let mut free = std::mem::take(&mut self.free);
        self.expire(now, |call, value| {
            free.push(call.slot());
            on_expired(call, value);
        });
        self.free = free;
    }

    /// Ends one call, the last in slot order, and forgets the slots from there on: to end all of
    /// them, one after the other, at the end of a connection.
    pub fn pop(&mut self) -> Option<T> {
        self.free.clear();
        while let Some(slot) = self.slots.pop() {
            self.generation_floor = self.generation_floor.max(slot.generation);
            if let Some(value) = slot.value {
                self.count -= 1;
                return Some(value);
            }
        }
        self.earliest = Instant::FAR_FUTURE;
        None
    }

    /// Gives the memory back if no call is in flight. Ids stay unique: an answer that is still on
    /// its way finds nobody.
    pub fn release_memory(&mut self) {
        if self.is_empty() {
            let used = self.slots.iter().map(|slot| slot.generation).max().unwrap_or(0);
            self.generation_floor = self.generation_floor.max(used);
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }

    /// Memory held, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<T>>() + self.free.capacity() * size_of::<u32>()
    }

    fn grow_to(&mut self, length: usize) {
        let generation = self.generation_floor;
        while self.slots.len() < length {
            self.slots.push(Slot { generation, deadline: Instant::ZERO, value: None });
        }
    }

    #[inline]
    fn occupy(&mut self, call: CallId, deadline: Option<Instant>, value: T) {
        let slot = &mut self.slots[call.slot() as usize];
        assert!(slot.value.is_none(), "a slot carries one call at a time");
        slot.deadline = deadline.unwrap_or(Instant::FAR_FUTURE);
        slot.value = Some(value);
        self.earliest = self.earliest.min(slot.deadline);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn the_window_bounds_and_late_answers_find_nobody() {
        let mut calls = InFlight::default();
        let first = calls.start(2, None, 'a').expect("room for two");
        let second = calls.start(2, None, 'b').expect("room for two");
        assert_eq!(calls.start(2, None, 'c'), None);
        assert_eq!(calls.end_and_free(first), Some('a'));
        let third = calls.start(2, None, 'c').expect("a slot is free again");
        assert_eq!(third.slot(), first.slot());
        assert_eq!(calls.end_and_free(first), None, "the generation has moved on");
        assert_eq!(calls.end_and_free(third), Some('c'));
        assert_eq!(calls.end_and_free(second), Some('b'));
        assert!(calls.is_empty());
    }

    #[test]
    fn ids_out_of_range_are_nobody() {
        let mut calls: InFlight<()> = InFlight::default();
        assert_eq!(calls.end(CallId(u64::MAX)), None);
        assert!(!calls.is_busy(u32::MAX));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Start { deadline: Option<u64> },
        End { nth: prop::sample::Index },
        Expire { now: u64 },
        Release,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            prop::option::of(0u64..1_000).prop_map(|deadline| Op::Start { deadline }),
            any::<prop::sample::Index>().prop_map(|nth| Op::End { nth }),
            (0u64..1_000).prop_map(|now| Op::Expire { now }),
            Just(Op::Release),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_sorted_map(ops in prop::collection::vec(op(), 0..200)) {
            const WINDOW: u32 = 16;
            let mut calls = InFlight::default();
            let mut oracle: BTreeMap<CallId, Option<u64>> = BTreeMap::new();
            let mut used = BTreeSet::new();
            for (number, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Start { deadline } => {
                        let call = calls.start(WINDOW, deadline.map(at), number);
                        prop_assert_eq!(call.is_none(), oracle.len() == WINDOW as usize);
                        if let Some(call) = call {
                            prop_assert!(oracle.insert(call, deadline).is_none());
                            prop_assert!(used.insert(call), "ids are unique");
                        }
                    }
                    Op::End { nth } if !oracle.is_empty() => {
                        let call = *oracle.keys().nth(nth.index(oracle.len())).expect("in range");
                        oracle.remove(&call);
                        prop_assert!(calls.end_and_free(call).is_some());
                    }
                    Op::End { .. } => {}
                    Op::Release => {
                        calls.release_memory();
                        prop_assert!(!oracle.is_empty() || calls.memory_bytes() == 0);
                    }
                    Op::Expire { now } => {
                        let mut expired = Vec::new();
                        calls.expire_and_free(at(now), |call, _| expired.push(call));
                        let mut due: Vec<CallId> = oracle.iter()
                            .filter(|(_, deadline)| deadline.is_some_and(|deadline| deadline <= now))
                            .map(|(call, _)| *call).collect();
                        oracle.retain(|call, _| !due.contains(call));
                        due.sort_by_key(|call| call.slot());
                        prop_assert_eq!(expired, due);
                    }
                }
                let exact = oracle.values().flatten().min().map(|nanos| at(*nanos));
                match (calls.earliest_deadline(), exact) {
                    (Some(bound), Some(exact)) => prop_assert!(bound <= exact),
                    (None, Some(_)) => prop_assert!(false, "a deadline is forgotten"),
                    (_, None) => {}
                }
                prop_assert_eq!(calls.len() as usize, oracle.len());
            }
            for left in (0..oracle.len()).rev() {
                prop_assert!(calls.pop().is_some());
                prop_assert_eq!(calls.len() as usize, left);
            }
            prop_assert_eq!(calls.pop(), None);
            let again = calls.start(WINDOW, None, 0).expect("an empty table has room");
            prop_assert!(used.insert(again), "ids stay unique");
        }
    }
}
