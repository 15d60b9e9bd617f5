//! What is going to happen, in the order of time; and a table of things that events speak of.

use catena_engine::time::Instant;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Events by time; those of one instant in the order in which they were put in, so that a run is the
/// same on every machine.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Instant,
    sequence: u64,
    event: E,
}

impl<E> Queue<E> {
    /// Nothing is going to happen.
    pub fn new() -> Self {
        Queue { heap: BinaryHeap::new(), sequence: 0 }
    }

    /// `event` happens at `at`.
    pub fn push(&mut self, at: Instant, event: E) {
        self.heap.push(Entry { at, sequence: self.sequence, event });
        self.sequence += 1;
    }

    /// What happens next, and when.
    pub fn pop(&mut self) -> Option<(Instant, E)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

impl<E> Ord for Entry<E> {
    /// The earlier is the greater: the heap gives out its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

/// Names one thing in a [`Table`] for good: a place, and how often that has been used before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id {
    index: u32,
    generation: u32,
}

/// Things that come and go. An event may speak of one that is gone, and finds nothing then.
#[derive(Debug)]
pub struct Table<T> {
    places: Vec<(u32, Option<T>)>,
    vacant: Vec<u32>,
}

impl<T> Table<T> {
    /// An empty table.
    pub fn new() -> Self {
        Table { places: Vec::new(), vacant: Vec::new() }
    }

    /// Takes a thing in.
    pub fn insert(&mut self, thing: T) -> Id {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        });
        let (generation, place) = &mut self.places[index as usize];
        *place = Some(thing);
        Id { index, generation: *generation }
    }

    /// The thing, if it is still there.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let (generation, place) = &mut self.places[id.index as usize];
        if *generation == id.generation { place.as_mut() } else { None }
    }

    /// Takes it out, if it is still there.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        let (generation, place) = &mut self.places[id.index as usize];
        if *generation != id.generation {
            return None;
        }
        let thing = place.take();
        *generation = generation.wrapping_add(1);
        self.vacant.push(id.index);
        thing
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    /// All that are there.
    pub fn ids(&self) -> Vec<Id> {
        let places = self.places.iter().enumerate().filter(|(_, (_, place))| place.is_some());
        places
            .map(|(index, (generation, _))| Id { index: index as u32, generation: *generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_their_order() {
        let mut queue = Queue::new();
        let at = Instant::from_nanos;
        for (nanos, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b'), (5, 'e')] {
            queue.push(at(nanos), event);
        }
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcde");
    }

    #[test]
    fn what_is_gone_is_not_found_again_in_the_same_place() {
        let mut table = Table::new();
        let a = table.insert('a');
        assert_eq!(table.remove(a), Some('a'));
        let b = table.insert('b');
        assert_eq!(table.get_mut(a), None);
        assert_eq!(table.remove(a), None);
        assert_eq!((table.get_mut(b).copied(), table.len()), (Some('b'), 1));
        assert_eq!(table.ids(), [b]);
    }
}
