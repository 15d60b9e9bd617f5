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
