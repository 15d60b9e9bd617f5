//! What a write does, with its result resolved: as it stands in the log and goes along a chain.
//!
//! A request is carried out once, by whoever orders it; everybody else, and whoever recovers, only repeats
//! its effect. So an effect names instants and values, never "now" or "one more".
//!
//! An **entry** is one or several effects that happen together, of one partition. Its bytes are its effects,
//! one after the other, little-endian:
//!
//! | kind | what follows the kind byte |
//! |---|---|
//! | 1 put | key length u16, value length u32, key, value |
//! | 2 put that expires | expiry u64, key length u16, value length u32, key, value |
//! | 3 delete | key length u16, key |
//! | 4 expire | expiry u64 (0: never), key length u16, key |
//! | 5 splice | offset u32, key length u16, bytes length u32, key, bytes |
//! | 6 clear | nothing |
//! | 7 no-op | nothing |
//! | 8 session opened | lifetime u64, in milliseconds: so long it stays when nobody uses it |
//! | 9 session closed | session: epoch u32, index u64 |
//! | 10 request | session as in 9; number u64, first unanswered u64, status u16, length u32, result |
//!
//! Expiries are Unix time in milliseconds. Kinds are never given a new meaning; an unknown one is an error.

use std::fmt;

/// One effect, its bytes borrowed from wherever they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EffectRef<'a> {
    /// The key has this value and this expiry, whatever it had before.
    Put {
        /// Up to [`KEY_BYTES_MAX`](crate::limits::KEY_BYTES_MAX).
        key: &'a [u8],
        /// Up to [`VALUE_BYTES_MAX`](crate::limits::VALUE_BYTES_MAX).
        value: &'a [u8],
        /// Unix milliseconds; `None`: it lives until it is deleted.
        expires_at: Option<u64>,
    },
    /// The key is not there.
    Delete {
        /// Which.
        key: &'a [u8],
    },
    /// The key keeps its value and has this expiry.
    Expire {
        /// Which; without effect if it is not there.
        key: &'a [u8],
        /// Unix milliseconds; `None`: it lives until it is deleted.
        expires_at: Option<u64>,
    },
    /// The key keeps its expiry, and these bytes of its value are as given; the value grows, with zeros
    /// between, if it was shorter. For large values, which would otherwise be logged whole. Exact because
    /// the effects on a key are repeated in order, each once.
    Splice {
        /// Which; without effect if it is not there.
        key: &'a [u8],
        /// Where the bytes begin in the value.
        offset: u32,
        /// What stands there.
        bytes: &'a [u8],
    },
    /// No key is there.
    Clear,
    /// Nothing happens; the index is used up.
    NoOp,
    /// A session begins; its id is this entry's (epoch, index).
    OpenSession {
        /// It is ended when it was not used for so many milliseconds.
        lifetime_ms: u64,
    },
    /// A session ends: its numbers are forgotten.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// The effects before this one in the entry are those of a request that may be repeated; a repetition
    /// gets this result.
    Request(RequestRef<'a>),
}

/// Names a session: the (epoch, index) of the entry that opened it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionId {
    /// The epoch in which it was opened.
    pub epoch: u32,
    /// The index of the entry.
    pub index: u64,
}

/// A request of a session, and its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestRef<'a> {
    /// Whose.
    pub session: SessionId,
    /// Its number, which the client chose.
    pub number: u64,
    /// The first number whose answer the client has not seen: those before it may be forgotten.
    pub first_unanswered: u64,
    /// The status it was answered with.
    pub status: u16,
    /// The answer.
    pub result: &'a [u8],
}

/// Bytes that are no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EffectError {
    /// They end before the effect does.
    Short,
    /// There is no such kind.
    UnknownKind(u8),
}

impl fmt::Display for EffectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EffectError::Short => f.write_str("an effect is cut short"),
            EffectError::UnknownKind(kind) => {
                write!(f, "effect of kind {kind}, which this version does not know")
            }
        }
    }
}

impl std::error::Error for EffectError {}

mod kind {
    pub const PUT: u8 = 1;
    pub const PUT_EXPIRING: u8 = 2;
    pub const DELETE: u8 = 3;
    pub const EXPIRE: u8 = 4;
    pub const SPLICE: u8 = 5;
    pub const CLEAR: u8 = 6;
    pub const NO_OP: u8 = 7;
    pub const OPEN_SESSION: u8 = 8;
    pub const CLOSE_SESSION: u8 = 9;
    pub const REQUEST: u8 = 10;
}

impl<'a> EffectRef<'a> {
    /// The key that it is about, if it is about one.
    pub fn key(&self) -> Option<&'a [u8]> {
        match *self {
            EffectRef::Put { key, .. }
            | EffectRef::Delete { key }
            | EffectRef::Expire { key, .. }
            | EffectRef::Splice { key, .. } => Some(key),
            _ => None,
        }
    }

    /// True if it is about a session, and about no key.
    #[inline]
    pub fn is_of_session(&self) -> bool {
        matches!(
            self,
            EffectRef::OpenSession { .. } | EffectRef::CloseSession { .. } | EffectRef::Request(_)
        )
    }

    /// Its length in bytes as [`EffectRef::encode`] writes it.
    #[inline]
    pub fn encoded_bytes(&self) -> usize {
        match self {
            EffectRef::Put { key, value, expires_at: None } => 7 + key.len() + value.len(),
            EffectRef::Put { key, value, expires_at: Some(_) } => 15 + key.len() + value.len(),
            EffectRef::Delete { key } => 3 + key.len(),
            EffectRef::Expire { key, .. } => 11 + key.len(),
            EffectRef::Splice { key, bytes, .. } => 11 + key.len() + bytes.len(),
            EffectRef::Clear | EffectRef::NoOp => 1,
            EffectRef::OpenSession { .. } => 9,
            EffectRef::CloseSession { .. } => 13,
            EffectRef::Request(request) => 35 + request.result.len(),
        }
    }

    /// Appends it.
    ///
    /// # Panics
    /// If a key or a value is longer than its length field holds, which whoever takes them in refuses.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            EffectRef::Put { key, value, expires_at } => {
                match expires_at {
                    None => out.push(kind::PUT),
                    Some(expires_at) => {
                        out.push(kind::PUT_EXPIRING);
                        out.extend_from_slice(&expires_at.to_le_bytes());
                    }
                }
                out.extend_from_slice(&key_length(key));
                out.extend_from_slice(&length(value));
                out.extend_from_slice(key);
                out.extend_from_slice(value);
            }
            EffectRef::Delete { key } => {
                out.push(kind::DELETE);
                out.extend_from_slice(&key_length(key));
                out.extend_from_slice(key);
            }
            EffectRef::Expire { key, expires_at } => {
                out.push(kind::EXPIRE);
                out.extend_from_slice(&expires_at.unwrap_or(0).to_le_bytes());
                out.extend_from_slice(&key_length(key));
                out.extend_from_slice(key);
            }
            EffectRef::Splice { key, offset, bytes } => {
                out.push(kind::SPLICE);
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&key_length(key));
                out.extend_from_slice(&length(bytes));
                out.extend_from_slice(key);
                out.extend_from_slice(bytes);
            }
            EffectRef::Clear => out.push(kind::CLEAR),
            EffectRef::NoOp => out.push(kind::NO_OP),
            EffectRef::OpenSession { lifetime_ms } => {
                out.push(kind::OPEN_SESSION);
                out.extend_from_slice(&lifetime_ms.to_le_bytes());
            }
            EffectRef::CloseSession { session } => {
                out.push(kind::CLOSE_SESSION);
                session.encode(out);
            }
            EffectRef::Request(request) => {
                out.push(kind::REQUEST);
                request.session.encode(out);
                out.extend_from_slice(&request.number.to_le_bytes());
                out.extend_from_slice(&request.first_unanswered.to_le_bytes());
                out.extend_from_slice(&request.status.to_le_bytes());
                out.extend_from_slice(&length(request.result));
                out.extend_from_slice(request.result);
            }
        }
    }

    /// Takes the first effect off the front of `bytes`.
    ///
    /// # Errors
    /// [`EffectError`]; `bytes` is as it was then.
    #[inline]
    pub fn decode(bytes: &mut &'a [u8]) -> Result<EffectRef<'a>, EffectError> {
        let mut rest = *bytes;
        let [kind] = take(&mut rest)?;
        let effect = match kind {
            kind::PUT | kind::PUT_EXPIRING => {
                let expires_at = match kind {
                    kind::PUT => None,
                    _ => Some(u64::from_le_bytes(take(&mut rest)?)),
                };
                let (key, value) = take_two(&mut rest)?;
                EffectRef::Put { key, value, expires_at }
            }
            kind::DELETE => EffectRef::Delete { key: take_key(&mut rest)? },
            kind::EXPIRE => {
                let expires_at = u64::from_le_bytes(take(&mut rest)?);
                let expires_at = (expires_at > 0).then_some(expires_at);
                EffectRef::Expire { key: take_key(&mut rest)?, expires_at }
            }
            kind::SPLICE => {
                let offset = u32::from_le_bytes(take(&mut rest)?);
                let (key, bytes) = take_two(&mut rest)?;
                EffectRef::Splice { key, offset, bytes }
            }
            kind::CLEAR => EffectRef::Clear,
            kind::NO_OP => EffectRef::NoOp,
            kind::OPEN_SESSION => {
                EffectRef::OpenSession { lifetime_ms: u64::from_le_bytes(take(&mut rest)?) }
            }
            kind::CLOSE_SESSION => {
                EffectRef::CloseSession { session: SessionId::decode(&mut rest)? }
            }
            kind::REQUEST => EffectRef::Request(RequestRef {
                session: SessionId::decode(&mut rest)?,
                number: u64::from_le_bytes(take(&mut rest)?),
                first_unanswered: u64::from_le_bytes(take(&mut rest)?),
                status: u16::from_le_bytes(take(&mut rest)?),
                result: {
                    let length = u32::from_le_bytes(take(&mut rest)?);
                    take_slice(&mut rest, length as usize)?
                },
            }),
            unknown => return Err(EffectError::UnknownKind(unknown)),
        };
        *bytes = rest;
        Ok(effect)
    }
}

/// The effects of an entry, in order; ends with the first error.
pub fn effects(mut bytes: &[u8]) -> impl Iterator<Item = Result<EffectRef<'_>, EffectError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let effect = EffectRef::decode(&mut bytes);
        if effect.is_err() {
            bytes = &[];
        }
        Some(effect)
    })
}

impl SessionId {
    /// Appends it, as effects and checkpoints have it.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
    }

    /// Takes one off the front of `rest`.
    ///
    /// # Errors
    /// If there is too little.
    pub fn decode(rest: &mut &[u8]) -> Result<Self, EffectError> {
        let epoch = u32::from_le_bytes(take(rest)?);
        Ok(SessionId { epoch, index: u64::from_le_bytes(take(rest)?) })
    }
}

fn key_length(key: &[u8]) -> [u8; 2] {
    u16::try_from(key.len()).expect("keys are checked when they come in").to_le_bytes()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("values are checked when they come in").to_le_bytes()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], EffectError> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or(EffectError::Short)?;
    *rest = left;
    Ok(*taken)
}

fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], EffectError> {
    let (taken, left) = rest.split_at_checked(length).ok_or(EffectError::Short)?;
    *rest = left;
    Ok(taken)
}

fn take_key<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], EffectError> {
    let length = u16::from_le_bytes(take(rest)?);
    take_slice(rest, length.into())
}

fn take_two<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), EffectError> {
    let key = u16::from_le_bytes(take(rest)?);
    let value = u32::from_le_bytes(take(rest)?);
    Ok((take_slice(rest, key.into())?, take_slice(rest, value as usize)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SESSION: SessionId = SessionId { epoch: 3, index: 1 << 40 };

    fn all() -> Vec<EffectRef<'static>> {
        vec![
            EffectRef::Put { key: b"k", value: b"value", expires_at: None },
            EffectRef::Put { key: b"", value: b"", expires_at: Some(7) },
            EffectRef::Delete { key: b"gone" },
            EffectRef::Expire { key: b"k", expires_at: Some(u64::MAX) },
            EffectRef::Expire { key: b"k", expires_at: None },
            EffectRef::Splice { key: b"k", offset: 9, bytes: b"more" },
            EffectRef::Clear,
            EffectRef::NoOp,
            EffectRef::OpenSession { lifetime_ms: 5 },
            EffectRef::CloseSession { session: SESSION },
            EffectRef::Request(RequestRef {
                session: SESSION,
                number: 2,
                first_unanswered: 1,
                status: 9,
                result: b"result",
            }),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        for effect in all() {
            let before = bytes.len();
            effect.encode(&mut bytes);
            assert_eq!(bytes.len() - before, effect.encoded_bytes(), "{effect:?}");
        }
        let read: Result<Vec<_>, _> = effects(&bytes).collect();
        assert_eq!(read, Ok(all()));
    }

    #[test]
    fn what_is_cut_short_is_no_effect() {
        for effect in all() {
            let mut whole = Vec::new();
            effect.encode(&mut whole);
            for length in 0..whole.len() {
                let mut rest = &whole[..length];
                assert_eq!(EffectRef::decode(&mut rest), Err(EffectError::Short), "{effect:?}");
                assert_eq!(rest.len(), length, "nothing is taken");
            }
        }
        assert_eq!(EffectRef::decode(&mut &[0][..]), Err(EffectError::UnknownKind(0)));
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_a_panic(bytes in prop::collection::vec(0..12u8, 0..200)) {
            let read: Vec<_> = effects(&bytes).collect();
            prop_assert!(read.len() <= bytes.len());
        }
    }
}
