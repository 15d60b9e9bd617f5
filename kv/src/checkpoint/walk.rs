//! Through a partition as of one index, while it is changed.
//!
//! ```text
//! hash words   0 ──── walked ────►│cursor            not walked yet            2^32
//!              changes here are   │ what a change overwrites here is saved first, if it is of the
//!              none of the walk's │ state that is walked; what is newer is passed by
//! ```
//!
//! The saved ones come out with the others. So the walk gives each entry of the partition as of its
//! index once, costs a change of an entry that it has not reached one copy, and stops nobody. Entries come
//! out in pieces, each of which becomes a frame: however many are saved while a disk stands still, and
//! however large they are, none is too long. Large values are not copied before their piece is taken.

use super::write::FRAME_BYTES;
use crate::effect::EffectRef;
use crate::memory::Memory;
use crate::table::{Entry, KeyHash, Table, Value};
use bytes::Bytes;
use std::collections::VecDeque;

/// See the module page.
#[derive(Debug)]
pub struct Walk {
    as_of: u64,
    /// The next hash word; `None`: all were walked.
    cursor: Option<u32>,
    /// What came out and was not taken yet.
    pieces: VecDeque<Piece>,
    /// The piece that grows.
    out: Vec<u8>,
    count: u64,
    /// All keys were deleted meanwhile: what has come out is void.
    is_void: bool,
}

/// Entries that have come out: the content of one frame.
#[derive(Debug)]
pub enum Piece {
    /// Small ones, encoded.
    Small(Vec<u8>),
    /// One with a large value, which is shared with the table.
    Large {
        /// Of the entry.
        index: u64,
        /// Its key.
        key: Vec<u8>,
        /// Its expiry.
        expires_at: Option<u64>,
        /// Its value.
        value: Bytes,
    },
}

impl Piece {
    /// Appends its entries.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Piece::Small(entries) => out.extend_from_slice(&entries),
            Piece::Large { index, key, expires_at, value } => {
                let put = EffectRef::Put { key: &key, value: &value, expires_at };
                out.reserve(8 + put.encoded_bytes());
                encode(out, index, &put);
            }
        }
    }
}

impl Walk {
    /// Through what there is now, the last entry being `as_of`.
    pub fn new(as_of: u64) -> Self {
        let (pieces, out) = (VecDeque::new(), Vec::new());
        Walk { as_of, cursor: Some(0), pieces, out, count: 0, is_void: false }
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

    /// True when it has come to the end, and all pieces were taken.
    pub fn is_done(&self) -> bool {
        self.cursor.is_none() && self.pieces.is_empty() && self.out.is_empty()
    }

    /// Goes on by about so many entries, unless there are pieces to be taken.
    pub fn step(&mut self, table: &Table, memory: &Memory, entries: usize) {
        let Some(from) = self.cursor.filter(|_| self.pieces.is_empty()) else { return };
        let as_of = self.as_of;
        self.cursor = table.walk(&memory.arena, from, entries, |entry| {
            if entry.index() <= as_of {
                self.push(&entry);
            }
        });
    }

    /// Takes a piece, if one is complete.
    pub fn take_piece(&mut self) -> Option<Piece> {
        if self.cursor.is_none() {
            self.close_piece();
        }
        self.pieces.pop_front()
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
            self.push(&entry);
        }
    }

    fn push(&mut self, entry: &Entry<'_>) {
        self.count += 1;
        let (index, key, expires_at) = (entry.index(), entry.key(), entry.expires_at());
        match entry.value() {
            Value::Small(value) => {
                encode(&mut self.out, index, &EffectRef::Put { key, value, expires_at });
                if self.out.len() >= FRAME_BYTES {
                    self.close_piece();
                }
            }
            Value::Large(value) => {
                let (key, value) = (key.to_vec(), value.clone());
                self.pieces.push_back(Piece::Large { index, key, expires_at, value });
            }
        }
    }

    fn close_piece(&mut self) {
        if !self.out.is_empty() {
            self.pieces.push_back(Piece::Small(std::mem::take(&mut self.out)));
        }
    }
}

/// Appends an entry as a checkpoint has it.
fn encode(out: &mut Vec<u8>, index: u64, put: &EffectRef<'_>) {
    out.extend_from_slice(&index.to_le_bytes());
    put.encode(out);
}
