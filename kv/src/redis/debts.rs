//! Large answers of other shards, on their way and while they wait here.
//!
//! ```text
//! who answers ══ on its way ══► who has asked ══ waits for the rest, or its turn ══► client
//! ```
//!
//! While a shard has much of another that has not gone on to clients it is answered no more by that one: who
//! reads slowly waits, and fills no memory. Nobody waits for ever: what one shard asks of another is answered
//! in its order, and waits for nothing that others ask; so whatever the oldest answer that has not gone on
//! still lacks, its shard has given nothing beyond. But for a log that waits for room on its disk, for that
//! may last: then only what is on its way is waited for, and where too much has come for all clients
//! together the one that has most of it is ended.

use catena_engine::shard_index::ShardIndex;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers below are not counted: there are so many of them at most as connections may expect.
pub const COUNTED_BYTES_MIN: usize = 64 * 1_024;

/// What shards owe each other, by the one that has answered and the one that is answered.
#[derive(Debug)]
pub struct Debts {
    shards: usize,
    pairs: Box<[Pair]>,
}

/// Bytes.
#[derive(Default, Debug)]
struct Pair {
    owed: AtomicUsize,
    under_way: AtomicUsize,
}

/// Bytes that wait on this shard.
#[derive(Clone, Default, Debug)]
pub struct Gathered(Rc<Cell<usize>>);

/// An answer that waits, and counts until this is dropped.
#[derive(Debug)]
pub struct Share {
    of: Gathered,
    bytes: usize,
    /// As a debt, if it is another shard's.
    debt: Option<Debt>,
}

/// An answer of another shard that has not gone on.
#[derive(Debug)]
struct Debt {
    debts: Arc<Debts>,
    place: usize,
    bytes: usize,
}

impl Debts {
    /// Between so many shards.
    pub fn new(shards: u16) -> Self {
        let shards = usize::from(shards);
        Debts { shards, pairs: (0..shards * shards).map(|_| Pair::default()).collect() }
    }

    /// Bytes of answers that have not gone on; and of these, of those that are on their way.
    pub fn between(&self, from: ShardIndex, to: ShardIndex) -> (usize, usize) {
        let Pair { owed, under_way } = &self.pairs[self.place(from, to)];
        (owed.load(Ordering::Relaxed), under_way.load(Ordering::Relaxed))
    }

    /// An answer goes on its way.
    pub fn give(&self, from: ShardIndex, to: ShardIndex, bytes: usize) {
        if bytes >= COUNTED_BYTES_MIN {
            let Pair { owed, under_way } = &self.pairs[self.place(from, to)];
            owed.fetch_add(bytes, Ordering::Relaxed);
            under_way.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// It has come, and waits as one of `gathered`. `None`: it is not counted.
    pub fn take(
        self: &Arc<Self>,
        (from, to): (ShardIndex, ShardIndex),
        bytes: usize,
        gathered: &Gathered,
    ) -> Option<Share> {
        let mut share = gathered.share(bytes)?;
        let place = self.place(from, to);
        self.pairs[place].under_way.fetch_sub(bytes, Ordering::Relaxed);
        share.debt = Some(Debt { debts: self.clone(), place, bytes });
        Some(share)
    }

    fn place(&self, from: ShardIndex, to: ShardIndex) -> usize {
        from.index() * self.shards + to.index()
    }
}

impl Gathered {
    /// All of them.
    pub fn bytes(&self) -> usize {
        self.0.get()
    }

    /// An answer of so many bytes waits. `None`: it is not counted.
    pub fn share(&self, bytes: usize) -> Option<Share> {
        (bytes >= COUNTED_BYTES_MIN).then(|| {
            self.0.set(self.0.get() + bytes);
            Share { of: self.clone(), bytes, debt: None }
        })
    }
}

impl Share {
    /// How many bytes it counts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.debts.pairs[self.place].owed.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.0.set(self.of.0.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_counts_on_its_way_and_until_it_has_gone_on() {
        const LARGE: usize = COUNTED_BYTES_MIN;
        let (debts, one, two) = (Arc::new(Debts::new(3)), ShardIndex(1), ShardIndex(2));
        for bytes in [LARGE, LARGE + 5, LARGE - 1] {
            debts.give(one, two, bytes);
        }
        assert_eq!(debts.between(one, two), (2 * LARGE + 5, 2 * LARGE + 5));
        assert_eq!((debts.between(two, one), debts.between(one, one)), ((0, 0), (0, 0)));
        let gathered = Gathered::default();
        let share = debts.take((one, two), LARGE + 5, &gathered).expect("it is counted");
        assert!(debts.take((one, two), LARGE - 1, &gathered).is_none());
        assert_eq!(debts.between(one, two), (2 * LARGE + 5, LARGE));
        let own = gathered.share(LARGE);
        assert_eq!(gathered.bytes(), share.bytes() + LARGE);
        drop((share, own));
        assert_eq!((debts.between(one, two), gathered.bytes()), ((LARGE, LARGE), 0));
    }
}
