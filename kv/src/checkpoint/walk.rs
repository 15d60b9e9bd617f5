//! Through a partition as of one index, while it is changed.
//!
//! ```text
//! hash words   0 ──── walked ────►│cursor            not walked yet            2^32
//!              changes here are   │ what a change overwrites here is saved first, if it is of the
//!              none of the walk's │ state that is walked; what is newer is passed by
//! ```
//!
//! The saved ones come out with the next step. So the walk gives each entry of the partition as of its
//! index once, costs a change of an entry that it has not reached one copy, and stops nobody.

use crate::effect::EffectRef;
use crate::memory::Memory;
use crate::table::{Entry, KeyHash, Table};

/// See the module page.
#[derive(Debug)]
pub struct Walk {
    as_of: u64,
    /// The next hash word; `None`: all were walked.
    cursor: Option<u32>,
    /// Entries that came out and were not taken yet, encoded.
    out: Vec<u8>,
    count: u64,
    /// All keys were deleted meanwhile: what has come out is void.
    is_void: bool,
}

impl Walk {
    /// Through what there is now, the last entry being `as_of`.
    pub fn new(as_of: u64) -> Self {
        Walk { as_of, cursor: Some(0), out: Vec::new(), count: 0, is_void: false }
    }

    /// The index that it is as of.
    pub fn as_of(&self) -> u64 {
        self.as_of
    }

    /// Entries that have come out so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True if all keys were deleted since it began: it has to begin again.
    pub fn is_void(&self) -> bool {
        self.is_void
    }

    /// True when it has come to the end.
    pub fn is_done(&self) -> bool {
        self.cursor.is_none()
    }

    /// Goes on by about so many entries.
    pub fn step(&mut self, table: &Table, memory: &Memory, entries: usize) {
        let Some(from) = self.cursor else { return };
        let Walk { as_of, out, count, .. } = self;
        let next = table.walk(&memory.arena, from, entries, |entry| {
            if entry.index() <= *as_of {
                push(out, &entry);
                *count += 1;
            }
        });
        self.cursor = next;
    }

    /// What has come out and was not taken.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// An effect is about to change the table.
    #[inline]
    pub fn before(&mut self, effect: &EffectRef<'_>, table: &Table, memory: &Memory) {
        if let EffectRef::Clear = effect {
            self.is_void = true;
        } else if let Some(key) = effect.key() {
            self.save(memory.hash(key), key, table, memory);
        }
    }

    fn save(&mut self, hash: KeyHash, key: &[u8], table: &Table, memory: &Memory) {
        if self.cursor.is_none_or(|cursor| hash.word() < cursor) {
            return;
        }
        if let Some(entry) = table.get(&memory.arena, hash, key)
            && entry.index() <= self.as_of
        {
            push(&mut self.out, &entry);
            self.count += 1;
        }
    }
}

/// Appends an entry as a checkpoint has it.
fn push(out: &mut Vec<u8>, entry: &Entry<'_>) {
    out.extend_from_slice(&entry.index().to_le_bytes());
    let (key, expires_at) = (entry.key(), entry.expires_at());
    EffectRef::Put { key, value: entry.value().bytes(), expires_at }.encode(out);
}
