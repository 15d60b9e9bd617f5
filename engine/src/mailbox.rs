//! Messages between the shards of one process.
//!
//! One ring for each ordered pair of shards, so that no two shards ever write the same word:
//!
//! ```text
//!              to shard 0   to shard 1   to shard 2
//! from shard 0    ring         ring         ring   ─── shard 0 sends along its row …
//! from shard 1    ring         ring         ring
//! from shard 2    ring         ring         ring
//!                  │
//!                  └── … and polls down its column, its own ring included
//! ```
//!
//! **Waking.** A message is visible to its peer as soon as it is sent, but nobody is woken by it: the
//! shard collects whom it sent to, and at the end of its turn unparks each of them once, which costs
//! a system call only where the peer sleeps:
//!
//! ```text
//! sender, at the end of a turn                  receiver, before it sleeps
//! for peer in mailboxes.peers_to_wake() {       parker.announce();
//!     driver.unpark(&parkers[peer.index()]);    if mailboxes.is_empty() { driver.park(until) }
//! }                                             parker.withdraw();
//! ```
//!
//! The fences within [`Parker`](crate::driver::Parker) see to it that the receiver finds the message
//! or the sender finds it parked. A sender that sleeps with peers to wake breaks this.
//!
//! **Back-pressure.** A full ring gives the message back, and the sender keeps it for a later turn.
//! Nobody says when there is room again: a shard that keeps messages polls and does not park.
//!
//! **Cost.** A poll that finds nothing reads one word from each peer, which stays in the cache for as
//! long as the peer sends nothing. All rings together take (number of shards)² × capacity messages.

use crate::limits::PEER_BATCH;
use crate::shard_index::ShardIndex;
use crate::sys::spsc::{self, Consumer, Producer};

/// What one shard has of the mesh: its ways to every shard, and from every shard.
#[derive(Debug)]
pub struct Mailboxes<T> {
    /// By index of the receiving shard.
    to: Vec<Producer<T>>,
    /// By index of the sending shard.
    from: Vec<Consumer<T>>,
    /// Where the next message is looked for, an index into `from`.
    reading: usize,
    /// How many more may be taken from there.
    batch_left: u32,
    /// One bit for each peer that was sent to and is not woken yet.
    to_wake: Vec<u64>,
    own: ShardIndex,
}

/// The mailboxes of all shards of a process, by index. Up to `capacity` messages wait on each way.
///
/// # Panics
/// If `capacity` is not a power of two.
pub fn mesh<T>(shards: u16, capacity: usize) -> Vec<Mailboxes<T>> {
    let mut all: Vec<Mailboxes<T>> = (0..shards).map(|own| Mailboxes::alone(own, shards)).collect();
    for sender in 0..all.len() {
        for receiver in 0..all.len() {
            let (producer, consumer) = spsc::ring(capacity);
            all[sender].to.push(producer);
            all[receiver].from.push(consumer);
        }
    }
    all
}

impl<T> Mailboxes<T> {
    fn alone(own: u16, shards: u16) -> Self {
        let count = usize::from(shards);
        Mailboxes {
            to: Vec::with_capacity(count),
            from: Vec::with_capacity(count),
            reading: 0,
            batch_left: PEER_BATCH,
            to_wake: vec![0; count.div_ceil(u64::BITS as usize)],
            own: ShardIndex(own),
        }
    }

    /// The shard that these are for.
    pub fn own(&self) -> ShardIndex {
        self.own
    }

    /// How many shards there are, this one included.
    pub fn shards(&self) -> u16 {
        self.to.len() as u16
    }

    /// Sends a message, which the peer sees at once if it is awake, and when it is woken if it is not:
    /// see [`Mailboxes::peers_to_wake`]. A shard may send to itself.
    ///
    /// # Errors
    /// The message itself, when as many wait there as may.
    ///
    /// # Panics
    /// If there is no such shard; a number that came over the wire is checked by who reads it.
    #[inline]
    pub fn send(&mut self, to: ShardIndex, message: T) -> Result<(), T> {
        self.to[to.index()].push(message)?;
        if to != self.own {
            self.to_wake[to.index() / 64] |= 1 << (to.index() % 64);
        }
        Ok(())
    }

    /// The next message from any shard, in order for each of them. Peers take turns, a batch each.
    ///
    /// There may be no end to them while others send: the caller bounds how many it takes in a turn.
    #[inline]
    pub fn poll(&mut self) -> Option<T> {
        // One look more than there are peers: the first may be the rest of a batch.
        for _ in 0..=self.from.len() {
            if self.batch_left > 0
                && let Some(message) = self.from[self.reading].pop()
            {
                self.batch_left -= 1;
                return Some(message);
            }
            self.reading = if self.reading + 1 == self.from.len() { 0 } else { self.reading + 1 };
            self.batch_left = PEER_BATCH;
        }
        None
    }

    /// The next message from one shard, past the turn of the others: for what a shard that has ended
    /// left behind.
    pub fn poll_from(&mut self, from: ShardIndex) -> Option<T> {
        self.from[from.index()].pop()
    }

    /// True if no message waits for this shard. Ask once more after saying that the shard is parked.
    pub fn is_empty(&mut self) -> bool {
        self.from.iter_mut().all(Consumer::is_empty)
    }

    /// Every peer that was sent to since this was last drained, once and in order. Drain it once a
    /// turn, after the last message and before the shard sleeps, and unpark each.
    pub fn peers_to_wake(&mut self) -> impl Iterator<Item = ShardIndex> {
        self.to_wake.iter_mut().enumerate().flat_map(|(word, bits)| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                *bits &= bits.checked_sub(1)?;
                Some(ShardIndex(word as u16 * 64 + bit as u16))
            })
        })
    }
}

#[cfg(all(test, not(catena_loom)))]
mod tests {
    use super::*;
    use crate::driver::Parker;
    use crate::rng::Rng;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, VecDeque};
    use std::sync::{Arc, OnceLock};
    use std::thread::{self, Thread};

    fn drain<T>(mailboxes: &mut Mailboxes<T>) -> Vec<T> {
        std::iter::from_fn(|| mailboxes.poll()).collect()
    }

    fn wakes<T>(mailboxes: &mut Mailboxes<T>) -> Vec<u16> {
        mailboxes.peers_to_wake().map(|peer| peer.0).collect()
    }

    #[test]
    fn each_peer_is_woken_once_a_turn_and_oneself_never() {
        let mut all = mesh(130, 4);
        for to in [129, 0, 64, 63, 64, 5, 129] {
            all[5].send(ShardIndex(to), to).expect("there is room");
        }
        assert_eq!(wakes(&mut all[5]), [0, 63, 64, 129]);
        assert_eq!(wakes(&mut all[5]), [0u16; 0], "drained");
        assert_eq!(drain(&mut all[129]), [129, 129]);
        assert!(!all[5].is_empty(), "its own message waits");
        assert_eq!(drain(&mut all[5]), [5]);
        assert!(all[5].is_empty());
    }

    #[test]
    fn a_full_ring_gives_the_message_back_and_holds_up_nobody_else() {
        let mut all = mesh(3, 2);
        all[0].send(ShardIndex(1), 'a').expect("there is room");
        all[0].send(ShardIndex(1), 'b').expect("there is room");
        assert_eq!(all[0].send(ShardIndex(1), 'c'), Err('c'));
        assert_eq!(all[0].send(ShardIndex(2), 'd'), Ok(()));
        assert_eq!(all[2].send(ShardIndex(1), 'e'), Ok(()));
        assert_eq!(all[1].poll(), Some('a'));
        assert_eq!(all[0].send(ShardIndex(1), 'c'), Ok(()));
        let mut rest = drain(&mut all[1]);
        rest.sort_unstable();
        assert_eq!(rest, ['b', 'c', 'e']);
    }

    #[test]
    fn a_peer_that_floods_does_not_keep_the_others_out() {
        let mut all = mesh(3, 1 << 10);
        for n in 0..1_000 {
            all[0].send(ShardIndex(2), (0, n)).expect("there is room");
        }
        for n in 0..10 {
            all[1].send(ShardIndex(2), (1, n)).expect("there is room");
        }
        let order = drain(&mut all[2]);
        let last = order.iter().rposition(|message| message.0 == 1).expect("they came");
        assert!(last < 100, "the last came at {last}");
        assert_eq!(order.len(), 1_010);
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Send { from: usize, to: usize },
        Poll(usize),
        Wake(usize),
    }

    const SHARDS: usize = 3;
    const CAPACITY: usize = 4;

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            4 => (0..SHARDS, 0..SHARDS).prop_map(|(from, to)| Operation::Send { from, to }),
            3 => (0..SHARDS).prop_map(Operation::Poll),
            1 => (0..SHARDS).prop_map(Operation::Wake),
        ]
    }

    proptest! {
        #[test]
        fn does_what_a_queue_for_each_pair_does(
            operations in prop::collection::vec(operation(), 0..300),
        ) {
            let mut all = mesh(SHARDS as u16, CAPACITY);
            let mut queues = vec![vec![VecDeque::new(); SHARDS]; SHARDS];
            let mut sent = vec![BTreeSet::new(); SHARDS];
            for (n, operation) in operations.into_iter().enumerate() {
                match operation {
                    Operation::Send { from, to } => {
                        let has_room = queues[from][to].len() < CAPACITY;
                        let result = all[from].send(ShardIndex(to as u16), (from, n));
                        prop_assert_eq!(result, if has_room { Ok(()) } else { Err((from, n)) });
                        if has_room {
                            queues[from][to].push_back(n);
                        }
                        if has_room && from != to {
                            sent[from].insert(to as u16);
                        }
                    }
                    Operation::Poll(to) => match all[to].poll() {
                        Some((from, n)) => prop_assert_eq!(queues[from][to].pop_front(), Some(n)),
                        None => prop_assert!(queues.iter().all(|row| row[to].is_empty())),
                    },
                    Operation::Wake(from) => {
                        let expected: Vec<u16> = std::mem::take(&mut sent[from]).into_iter().collect();
                        prop_assert_eq!(wakes(&mut all[from]), expected);
                    }
                }
                for (to, mailboxes) in all.iter_mut().enumerate() {
                    let is_empty = queues.iter().all(|row| row[to].is_empty());
                    prop_assert_eq!(mailboxes.is_empty(), is_empty);
                }
            }
        }
    }

    /// Hands a count on to the next shard until it has run out, and sleeps in between as a reactor
    /// does, or now and then does not.
    fn pass_on(mut mailboxes: Mailboxes<u32>, parkers: &[Parker]) {
        let own = mailboxes.own();
        let next = ShardIndex((own.0 + 1) % mailboxes.shards());
        let mut rng = Rng::from_seed(u64::from(own.0));
        let mut left = u32::MAX;
        while left >= u32::from(mailboxes.shards()) {
            if rng.chance(0.5) {
                parkers[own.index()].announce();
                if mailboxes.is_empty() {
                    thread::park();
                }
                parkers[own.index()].withdraw();
            }
            if let Some(message) = mailboxes.poll() {
                left = message;
                mailboxes.send(next, left.saturating_sub(1)).expect("one message goes round");
            }
            for peer in mailboxes.peers_to_wake() {
                parkers[peer.index()].unpark();
            }
        }
    }

    /// Were one wake lost, all shards would sleep for ever.
    #[test]
    fn shards_that_sleep_pass_a_message_round() {
        let mut all = mesh(3, 2);
        all[0].send(ShardIndex(0), 20_000).expect("there is room");
        let threads: Arc<[OnceLock<Thread>; 3]> = Arc::default();
        let parkers: Vec<Parker> = (0..3)
            .map(|shard| {
                let threads = threads.clone();
                let wake = move || threads[shard].get().expect("set before it sleeps").unpark();
                Parker::new(None, Box::new(wake))
            })
            .collect();
        thread::scope(|scope| {
            for mailboxes in all {
                let (threads, parkers) = (threads.clone(), &parkers);
                scope.spawn(move || {
                    threads[mailboxes.own().index()].set(thread::current()).expect("set once");
                    pass_on(mailboxes, parkers);
                });
            }
        });
    }
}

/// Every order in which two shards may meet; see [`crate::primitive`] for the command.
#[cfg(all(test, catena_loom))]
mod loom_tests {
    use super::*;
    use crate::driver::Parker;
    use loom::sync::Notify;
    use loom::thread;
    use std::sync::Arc;

    /// Receives so many messages, and sleeps as a reactor does while there are none.
    fn receive(mailboxes: &mut Mailboxes<usize>, parker: &Parker, bed: &Notify, count: usize) {
        for n in 0..count {
            let message = loop {
                parker.announce();
                if mailboxes.is_empty() {
                    bed.wait();
                }
                parker.withdraw();
                if let Some(message) = mailboxes.poll() {
                    break message;
                }
            };
            assert_eq!(message, n);
        }
    }

    /// Were a wake lost, loom would report a deadlock.
    fn send_in_turns_of(messages_a_turn: usize) {
        loom::model(move || {
            let mut all = mesh(2, 2);
            let mut receiver = all.pop().expect("shard 1");
            let mut sender = all.pop().expect("shard 0");
            let bed = Arc::new(Notify::new());
            let wake = bed.clone();
            let parker = Arc::new(Parker::new(None, Box::new(move || wake.notify())));
            let parker_of_peer = parker.clone();
            let sending = thread::spawn(move || {
                for n in 0..2 {
                    sender.send(ShardIndex(1), n).expect("there is room for two");
                    if (n + 1) % messages_a_turn == 0 {
                        for _ in sender.peers_to_wake() {
                            parker_of_peer.unpark();
                        }
                    }
                }
            });
            receive(&mut receiver, &parker, &bed, 2);
            sending.join().expect("the sender does not panic");
        });
    }

    #[test]
    fn no_wake_is_lost() {
        send_in_turns_of(1);
    }

    #[test]
    fn one_wake_a_turn_is_enough() {
        send_in_turns_of(2);
    }
}
