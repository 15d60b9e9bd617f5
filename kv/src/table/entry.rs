//! How an entry lies in its run of cells, and the view of it.
//!
//! ```text
//!  0      1          3            5         7         15            15 or 23
//!  flags  key bytes  value bytes  touched   index     [expires at]  key  value
//!  u8     u16        u16          u16       u64       [u64]
//! ```
//! Little-endian, without padding: 15 bytes in front, so that a key of 16 and a value of 32 bytes
//! fill four cells but for one byte. A key or value that lies apart has the number of its slot, 4
//! bytes, in its place. In a free run the flags are 0.

use super::class::RUN_BYTES_MAX;
use super::slab::Slab;
use bytes::Bytes;

/// The longest key in bytes: what the header's 16 bits tell. A key is stored, logged and hashed
/// whole with every write; whoever has more than this to say wants a value.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Bytes before the key of an entry that never expires.
const HEADER_BYTES: usize = 15;

/// Bytes that an expiry adds to it.
const EXPIRY_BYTES: usize = 8;

/// Bytes in the place of what lies apart: the number of its slot.
const APART_BYTES: usize = 4;

const HELD: u8 = 1;
const EXPIRES: u8 = 1 << 1;
const KEY_APART: u8 = 1 << 2;
const VALUE_APART: u8 = 1 << 3;

const FLAGS: usize = 0;
const KEY_LEN: usize = 1;
const VALUE_LEN: usize = 3;
const TOUCHED: usize = 5;
const INDEX: usize = 7;

/// An entry to be stored.
#[derive(Clone, Debug)]
pub struct NewEntry<'a> {
    /// At most [`KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// The whole value.
    pub value: NewValue<'a>,
    /// The index of the write within its partition.
    pub index: u64,
    /// The first millisecond, unix time, at which it is gone.
    pub expires_at: Option<u64>,
    /// A coarse stamp of access for eviction; 0 where that is off.
    pub touched: u16,
}

/// A value to be stored.
#[derive(Clone, Debug)]
pub enum NewValue<'a> {
    /// Copied.
    Copied(&'a [u8]),
    /// Kept without a copy if it is too large for a run of cells, else copied. Counted by its
    /// length: let it not be a small part of a large buffer.
    Shared(Bytes),
}

impl NewValue<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Copied(slice) => slice,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A stored entry. The view shows what has expired as well: replay and replication must see it. Who
/// answers a client asks [`is_expired`](Self::is_expired), or uses
/// [`Table::get_live`](super::Table::get_live).
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// From its first byte; may reach beyond its end.
    run: &'a [u8],
    apart: &'a Slab,
}

/// A stored value, by where it lies.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// In the cells.
    Small(&'a [u8]),
    /// In memory of its own: a clone shares it.
    Large(&'a Bytes),
}

impl<'a> Entry<'a> {
    #[inline]
    pub(super) fn new(run: &'a [u8], apart: &'a Slab) -> Self {
        debug_assert!(is_held(run), "a free run is no entry");
        Self { run, apart }
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        let key = &self.run[self.key_starts()..][..u16_at(self.run, KEY_LEN) as usize];
        if self.run[FLAGS] & KEY_APART == 0 { key } else { self.apart.at(slot_number(key)) }
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> Value<'a> {
        let starts = self.key_starts() + u16_at(self.run, KEY_LEN) as usize;
        let value = &self.run[starts..][..u16_at(self.run, VALUE_LEN) as usize];
        if self.run[FLAGS] & VALUE_APART == 0 {
            Value::Small(value)
        } else {
            Value::Large(self.apart.at(slot_number(value)))
        }
    }

    /// The index of the last write to it.
    #[inline]
    pub fn index(&self) -> u64 {
        u64_at(self.run, INDEX)
    }

    /// The first millisecond, unix time, at which it is gone.
    #[inline]
    pub fn expires_at(&self) -> Option<u64> {
        let expires = self.run[FLAGS] & EXPIRES != 0;
        expires.then(|| u64_at(self.run, HEADER_BYTES))
    }

    /// Whether it is gone at `now_ms`, unix time.
    #[inline]
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at().is_some_and(|at| now_ms >= at)
    }

    /// The stamp of its last access.
    #[inline]
    pub fn touched(&self) -> u16 {
        u16_at(self.run, TOUCHED)
    }

    /// The slots of what lies apart.
    pub(super) fn apart(&self) -> impl Iterator<Item = u32> + use<> {
        let flags = self.run[FLAGS];
        let key_ends = self.key_starts() + u16_at(self.run, KEY_LEN) as usize;
        let key = (flags & KEY_APART != 0).then(|| slot_number(&self.run[self.key_starts()..]));
        let value = (flags & VALUE_APART != 0).then(|| slot_number(&self.run[key_ends..]));
        key.into_iter().chain(value)
    }

    /// Bytes it fills in its run.
    pub(super) fn len(&self) -> usize {
        let (key, value) = (u16_at(self.run, KEY_LEN), u16_at(self.run, VALUE_LEN));
        self.key_starts() + key as usize + value as usize
    }

    #[inline]
    fn key_starts(&self) -> usize {
        let expires = self.run[FLAGS] & EXPIRES != 0;
        HEADER_BYTES + if expires { EXPIRY_BYTES } else { 0 }
    }
}

impl<'a> Value<'a> {
    /// Its bytes, wherever they lie.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

/// How an entry lies: what of it lies apart, and the bytes that its run takes. The lengths and
/// whether it expires decide it, not how the entry came to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    key_apart: bool,
    value_apart: bool,
    pub(super) run_bytes: usize,
}

impl Shape {
    /// How an entry will lie.
    pub(super) fn of(entry: &NewEntry<'_>) -> Self {
        Self::new(entry.key.len(), entry.value.as_slice().len(), entry.expires_at.is_some())
    }

    /// How an entry that is there will lie once its expiry is set or taken away.
    pub(super) fn with_expiry(entry: Entry<'_>, expires: bool) -> Self {
        Self::new(entry.key().len(), entry.value().bytes().len(), expires)
    }

    /// Whether the same parts lie apart as of an entry that is there.
    pub(super) fn is_as_in(self, entry: Entry<'_>) -> bool {
        let is_set = |flag| entry.run[FLAGS] & flag != 0;
        (self.key_apart, self.value_apart) == (is_set(KEY_APART), is_set(VALUE_APART))
    }

    /// If not all fits into a run, the longer of key and value lies apart; if that does not do,
    /// both.
    fn new(key: usize, value: usize, expires: bool) -> Self {
        let header = HEADER_BYTES + if expires { EXPIRY_BYTES } else { 0 };
        let longer_apart = Self {
            key_apart: key > value,
            value_apart: key <= value,
            run_bytes: header + APART_BYTES + key.min(value),
        };
        if header + key + value <= RUN_BYTES_MAX {
            Self { key_apart: false, value_apart: false, run_bytes: header + key + value }
        } else if longer_apart.run_bytes <= RUN_BYTES_MAX {
            longer_apart
        } else {
            Self { key_apart: true, value_apart: true, run_bytes: header + 2 * APART_BYTES }
        }
    }
}

/// Writes `entry` into its run, and what of it lies apart into `apart`.
pub(super) fn write(run: &mut [u8], apart: &mut Slab, entry: NewEntry<'_>, shape: Shape) {
    let flag = |condition: bool, flag: u8| if condition { flag } else { 0 };
    run[FLAGS] = HELD
        | flag(entry.expires_at.is_some(), EXPIRES)
        | flag(shape.key_apart, KEY_APART)
        | flag(shape.value_apart, VALUE_APART);
    set_touched(run, entry.touched);
    set_index(run, entry.index);
    let mut at = HEADER_BYTES;
    let mut append = |bytes: &[u8]| {
        run[at..][..bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
        u16::try_from(bytes.len()).expect("what lies in a run is shorter than a run")
    };
    if let Some(expires_at) = entry.expires_at {
        append(&expires_at.to_le_bytes());
    }
    let key_len = if shape.key_apart {
        append(&apart.insert(Bytes::copy_from_slice(entry.key)).to_le_bytes())
    } else {
        append(entry.key)
    };
    let value_len = match entry.value {
        value if !shape.value_apart => append(value.as_slice()),
        NewValue::Copied(slice) => {
            append(&apart.insert(Bytes::copy_from_slice(slice)).to_le_bytes())
        }
        NewValue::Shared(bytes) => append(&apart.insert(bytes).to_le_bytes()),
    };
    put(run, KEY_LEN, key_len.to_le_bytes());
    put(run, VALUE_LEN, value_len.to_le_bytes());
}

/// Sets or takes away the expiry of the entry that fills the first `len` bytes of `run`. The run
/// has room for the result.
pub(super) fn set_expiry(run: &mut [u8], len: usize, expires_at: Option<u64>) {
    let expires = run[FLAGS] & EXPIRES != 0;
    match (expires, expires_at) {
        (false, Some(_)) => {
            run.copy_within(HEADER_BYTES..len, HEADER_BYTES + EXPIRY_BYTES);
            run[FLAGS] |= EXPIRES;
        }
        (true, None) => {
            run.copy_within(HEADER_BYTES + EXPIRY_BYTES..len, HEADER_BYTES);
            run[FLAGS] &= !EXPIRES;
        }
        _ => {}
    }
    if let Some(expires_at) = expires_at {
        put(run, HEADER_BYTES, expires_at.to_le_bytes());
    }
}

pub(super) fn set_index(run: &mut [u8], index: u64) {
    put(run, INDEX, index.to_le_bytes());
}

pub(super) fn set_touched(run: &mut [u8], stamp: u16) {
    put(run, TOUCHED, stamp.to_le_bytes());
}

/// Whether a run holds an entry.
pub(super) fn is_held(run: &[u8]) -> bool {
    run[FLAGS] != 0
}

/// Marks a run as free and notes the free run after it.
pub(super) fn set_free(run: &mut [u8], next: u16) {
    run[FLAGS] = 0;
    put(run, KEY_LEN, next.to_le_bytes());
}

/// The free run after this free one.
pub(super) fn next_free(run: &[u8]) -> u16 {
    debug_assert!(!is_held(run), "the list of free runs names free ones");
    u16_at(run, KEY_LEN)
}

fn slot_number(place: &[u8]) -> u32 {
    let bytes = place.first_chunk().expect("4 bytes stand in the place of what lies apart");
    u32::from_le_bytes(*bytes)
}

#[inline]
fn u16_at(run: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([run[at], run[at + 1]])
}

#[inline]
fn u64_at(run: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*run[at..].first_chunk().expect("the header has these bytes"))
}

fn put<const N: usize>(run: &mut [u8], at: usize, bytes: [u8; N]) {
    run[at..][..N].copy_from_slice(&bytes);
}
