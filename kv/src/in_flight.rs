//! Entries that are ordered and have not committed, and the newest state of the keys that they touch.
//!
//! ```text
//! bytes    [ before │ effect ][ before │ effect ] …      one behind the other, oldest first
//! entries  ── end of each ──►
//! newest   key ─► where its last effect begins; `before` leads to the one before it on the same key
//! ```

use crate::effect::EffectRef;
use crate::memory::Memory;
use crate::table::KeyHash;
use hashbrown::HashTable;
use std::collections::VecDeque;

/// See the module page.
#[derive(Debug, Default)]
pub struct InFlight {
    bytes: Vec<u8>,
    /// The place of the first byte, counted over all that there ever were.
    base: u64,
    /// Where the oldest entry begins.
    head: u64,
    entries: VecDeque<Entry>,
    newest: HashTable<Touched>,
    /// The index of the last entry that empties its partition, while it is in flight, and where it begins.
    cleared: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    index: u64,
    end: u64,
}

/// The last effect on a key.
#[derive(Clone, Copy, Debug)]
struct Touched {
    hash: KeyHash,
    at: u64,
    index: u64,
}

/// Where an effect on a key has none before it in flight.
const NONE: u64 = u64::MAX;

/// Memory that is kept while nothing is in flight: there may be a thousand partitions.
const KEPT_BYTES: usize = 64 * 1_024;

/// Bytes of `before`.
const BEFORE_BYTES: usize = 8;

/// What is in flight of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Newest<'a> {
    /// The last effect on it.
    pub effect: EffectRef<'a>,
    /// The entry that this is of.
    pub index: u64,
    /// The place of the effect before it on the same key, if that is in flight too.
    pub before: Option<u64>,
}

impl InFlight {
    /// True if nothing is in flight.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory in bytes for effects.
    #[cfg(test)]
    pub fn bytes_held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds an entry. `hash` is that of a key.
    pub fn push(&mut self, index: u64, effects: &[EffectRef<'_>], hash: impl Fn(&[u8]) -> KeyHash) {
        for effect in effects {
            let at = self.base + self.bytes.len() as u64;
            let before = match effect.key() {
                Some(key) => self.touch(Touched { hash: hash(key), at, index }, key),
                None => NONE,
            };
            self.bytes.extend_from_slice(&before.to_le_bytes());
            effect.encode(&mut self.bytes);
            if matches!(effect, EffectRef::Clear) {
                self.cleared = Some((index, at));
            }
        }
        self.entries.push_back(Entry { index, end: self.base + self.bytes.len() as u64 });
    }

    /// What is in flight of a key: the last effect on it, or that all keys are cleared.
    pub fn newest(&self, hash: KeyHash, key: &[u8]) -> Option<Newest<'_>> {
        let is_it = |touched: &Touched| touched.hash == hash && self.key_at(touched.at) == key;
        let found = self.newest.find(spread(hash), is_it);
        match (found, self.cleared) {
            (Some(touched), cleared) if cleared.is_none_or(|(_, at)| at < touched.at) => {
                Some(self.at(touched.at, touched.index))
            }
            (_, Some((index, _))) => Some(Newest { effect: EffectRef::Clear, index, before: None }),
            _ => None,
        }
    }

    /// The effect on a key before another one, given its place.
    pub fn before(&self, place: u64) -> Newest<'_> {
        match self.cleared {
            Some((index, at)) if at > place => {
                Newest { effect: EffectRef::Clear, index, before: None }
            }
            _ => self.at(place, 0),
        }
    }

    /// The key that the first effect of the oldest entry is about, if it is about one.
    #[inline]
    pub fn oldest_key(&self) -> Option<&[u8]> {
        let _oldest = self.entries.front()?;
        self.effect_at(self.head).0.key()
    }

    /// Takes the oldest entry if its index is up to `committed`: its effects are given to `apply`, in order.
    /// False: there is none.
    pub fn commit(
        &mut self,
        committed: u64,
        memory: &mut Memory,
        mut apply: impl FnMut(&mut Memory, u64, EffectRef<'_>),
    ) -> bool {
        let Some(entry) = self.entries.front().copied().filter(|it| it.index <= committed) else {
            return false;
        };
        self.entries.pop_front();
        let mut at = self.head;
        while at < entry.end {
            let (effect, bytes) = self.effect_at(at);
            apply(memory, entry.index, effect);
            if let Some(key) = effect.key() {
                let hash = spread(KeyHash::of(&memory.seed, key));
                let is_it = |touched: &Touched| touched.at == at;
                if let Ok(touched) = self.newest.find_entry(hash, is_it) {
                    touched.remove();
                }
            }
            at += (BEFORE_BYTES + bytes) as u64;
        }
        self.head = entry.end;
        self.cleared = self.cleared.filter(|(index, _)| *index > committed);
        self.let_go();
        true
    }

    /// The index of the oldest entry, if there is one.
    pub fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Appends the effects of an entry, as they were encoded when it was ordered.
    ///
    /// # Panics
    /// If it is not in flight.
    pub fn copy_effects(&self, index: u64, out: &mut Vec<u8>) {
        let place = self.place_of(index);
        let mut at = self.start_of(place);
        while at < self.entries[place].end {
            let (_, bytes) = self.effect_at(at);
            let start = (at - self.base) as usize + BEFORE_BYTES;
            out.extend_from_slice(&self.bytes[start..start + bytes]);
            at += (BEFORE_BYTES + bytes) as u64;
        }
    }

    /// Takes back every entry behind `index`, as if it had not been added.
    pub fn cut(&mut self, index: u64, memory: &Memory) {
        while let Some(entry) = self.entries.back().copied().filter(|entry| entry.index > index) {
            self.entries.pop_back();
            let start = self.entries.back().map_or(self.head, |before| before.end);
            self.take_back(start, entry, memory);
            self.bytes.truncate((start - self.base) as usize);
        }
        if self.cleared.is_some_and(|(cleared, _)| cleared > index) {
            self.cleared = self.last_clear();
        }
    }

    /// The effects of the last entry, the last of them first, are not the newest on their keys any more.
    fn take_back(&mut self, start: u64, entry: Entry, memory: &Memory) {
        let (mut places, mut at) = (Vec::new(), start);
        while at < entry.end {
            places.push(at);
            at += (BEFORE_BYTES + self.effect_at(at).1) as u64;
        }
        for at in places.into_iter().rev() {
            let Some(key) = self.effect_at(at).0.key() else { continue };
            let hash = spread(KeyHash::of(&memory.seed, key));
            let before = self.at(at, 0).before;
            let Ok(mut touched) = self.newest.find_entry(hash, |touched| touched.at == at) else {
                continue;
            };
            match before {
                None => drop(touched.remove()),
                Some(place) => {
                    let holder = self.entries.partition_point(|older| older.end <= place);
                    // It may be an earlier effect of the entry that is taken back.
                    let index = self.entries.get(holder).map_or(entry.index, |older| older.index);
                    let touched = touched.get_mut();
                    (touched.at, touched.index) = (place, index);
                }
            }
        }
    }

    /// The last entry that empties its partition.
    fn last_clear(&self) -> Option<(u64, u64)> {
        let mut found = None;
        for (place, entry) in self.entries.iter().enumerate() {
            let mut at = self.start_of(place);
            while at < entry.end {
                let (effect, bytes) = self.effect_at(at);
                if matches!(effect, EffectRef::Clear) {
                    found = Some((entry.index, at));
                }
                at += (BEFORE_BYTES + bytes) as u64;
            }
        }
        found
    }

    fn place_of(&self, index: u64) -> usize {
        let first = self.first().expect("something is in flight");
        let place = index.checked_sub(first).expect("it is in flight");
        usize::try_from(place).expect("there are far fewer")
    }

    /// Where an entry begins.
    fn start_of(&self, place: usize) -> u64 {
        place.checked_sub(1).map_or(self.head, |before| self.entries[before].end)
    }

    /// Notes the last effect on a key; answers the place of the one before it.
    fn touch(&mut self, touched: Touched, key: &[u8]) -> u64 {
        let hash = spread(touched.hash);
        let is_it = |other: &Touched| {
            other.hash == touched.hash && key_in(&self.bytes, self.base, other.at) == key
        };
        match self.newest.find_mut(hash, is_it) {
            Some(last) => std::mem::replace(last, touched).at,
            None => {
                self.newest.insert_unique(hash, touched, |it| spread(it.hash));
                NONE
            }
        }
    }

    fn at(&self, place: u64, index: u64) -> Newest<'_> {
        let start = (place - self.base) as usize;
        let before = self.bytes[start..].first_chunk().expect("an effect has a place before it");
        let before = u64::from_le_bytes(*before);
        let (effect, _) = self.effect_at(place);
        Newest { effect, index, before: (before != NONE && before >= self.head).then_some(before) }
    }

    fn effect_at(&self, place: u64) -> (EffectRef<'_>, usize) {
        effect_in(&self.bytes, self.base, place)
    }

    fn key_at(&self, place: u64) -> &[u8] {
        key_in(&self.bytes, self.base, place)
    }

    /// Gives up the bytes of what has committed, once they are half of all: each is then moved once at most
    /// on average.
    fn let_go(&mut self) {
        let gone = (self.head - self.base) as usize;
        if gone == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
        } else if gone > self.bytes.len() / 2 {
            self.bytes.drain(..gone);
        } else {
            return;
        }
        self.base = self.head;
    }
}

fn effect_in(bytes: &[u8], base: u64, place: u64) -> (EffectRef<'_>, usize) {
    let from = &bytes[(place - base) as usize + BEFORE_BYTES..];
    let mut rest = from;
    let effect = EffectRef::decode(&mut rest).expect("it was encoded when it was pushed");
    (effect, from.len() - rest.len())
}

fn key_in(bytes: &[u8], base: u64, place: u64) -> &[u8] {
    let (effect, _) = effect_in(bytes, base, place);
    effect.key().expect("what touches a key has one")
}

/// The table takes the bucket from the low bits and a tag from the top ones.
fn spread(hash: KeyHash) -> u64 {
    u64::from(hash.word()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Partitions;
    use crate::slot_counts::SlotCounts;
    use crate::table::{Arena, HashSeed};
    use catena_engine::rng::Rng;

    fn memory() -> Memory {
        let partitions = Partitions::new(1).expect("a power of two");
        Memory::new(Arena::new(16), HashSeed::new(7), SlotCounts::new(partitions, 0..1))
    }

    fn key(number: u64) -> Vec<u8> {
        format!("key-{number}").into_bytes()
    }

    /// One to three effects, on a few keys; now and then all keys go.
    fn effects(rng: &mut Rng) -> Vec<Vec<u8>> {
        let count = 1 + rng.below(3);
        let one = |rng: &mut Rng| {
            let (key, mut bytes) = (key(rng.below(6)), Vec::new());
            let effect = match rng.below(12) {
                0 => EffectRef::Clear,
                1 => EffectRef::NoOp,
                2 | 3 => EffectRef::Delete { key: &key },
                4 => EffectRef::Expire { key: &key, expires_at: Some(rng.next_u64() >> 1) },
                5 => EffectRef::Splice { key: &key, offset: 3, bytes: b"piece" },
                _ => EffectRef::Put { key: &key, value: b"value", expires_at: None },
            };
            effect.encode(&mut bytes);
            bytes
        };
        (0..count).map(|_| one(rng)).collect()
    }

    fn push(in_flight: &mut InFlight, memory: &Memory, index: u64, entry: &[Vec<u8>]) {
        let bytes = entry.concat();
        let effects = crate::effect::effects(&bytes).collect::<Result<Vec<_>, _>>();
        let effects = effects.expect("they were encoded here");
        in_flight.push(index, &effects, |key| memory.hash(key));
    }

    /// All that can be asked: for each key what was done to it, the last first.
    fn seen(in_flight: &InFlight, memory: &Memory) -> Vec<(Option<u64>, Vec<String>)> {
        let of_key = |number| {
            let key = key(number);
            let newest = in_flight.newest(memory.hash(&key), &key);
            let mut effects = Vec::new();
            let mut next = newest;
            while let Some(found) = next {
                effects.push(format!("{:?}", found.effect));
                next = found.before.map(|place| in_flight.before(place));
            }
            (newest.map(|newest| newest.index), effects)
        };
        (0..6).map(of_key).collect()
    }

    #[test]
    fn what_is_cut_was_never_there() {
        let mut rng = Rng::from_seed(1);
        for round in 0..2_000 {
            let mut memory = memory();
            let (mut cut, mut never) = (InFlight::default(), InFlight::default());
            let entries: Vec<_> = (0..rng.below(12)).map(|_| effects(&mut rng)).collect();
            let keeps = rng.below(entries.len() as u64 + 1);
            let committed = rng.below(keeps + 1);
            for (index, entry) in (1..).zip(&entries) {
                push(&mut cut, &memory, index, entry);
                if index <= keeps {
                    push(&mut never, &memory, index, entry);
                }
            }
            for in_flight in [&mut cut, &mut never] {
                while in_flight.commit(committed, &mut memory, |_, _, _| {}) {}
            }
            cut.cut(keeps, &memory);
            // And goes on with others.
            for index in keeps + 1..keeps + 3 {
                assert_eq!(seen(&cut, &memory), seen(&never, &memory), "round {round}");
                let entry = effects(&mut rng);
                push(&mut cut, &memory, index, &entry);
                push(&mut never, &memory, index, &entry);
                let mut copied = Vec::new();
                cut.copy_effects(index, &mut copied);
                assert_eq!(copied, entry.concat());
            }
            assert_eq!(cut.first(), Some(committed + 1));
            while cut.commit(u64::MAX, &mut memory, |_, _, _| {}) {}
            assert!(cut.is_empty() && cut.newest.is_empty() && cut.cleared.is_none());
        }
    }
}
