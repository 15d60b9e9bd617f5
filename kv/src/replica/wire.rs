//! What replicas say to each other, as bytes: little-endian, several messages one behind the other.
//!
//! | bytes | of a message |
//! |---|---|
//! | 4 | how many follow |
//! | 2 | partition |
//! | 10, 10 | from whom, to whom: node u16, incarnation u64 |
//! | 4 | epoch |
//! | 1 | kind |
//! | … | what it says |
//! | … | what goes beside it: entries, or a piece of a snapshot |
//!
//! A chain is its epoch (u32), the number of its members (u8), and each of these with its role (u8). An
//! entry is its epoch (u32), the length of its effects (u32), and these as they stand in the log.

use super::message::{Entries, Envelope, Message, Position, Start};
use crate::chain::lease::{Ask, Grant};
use crate::chain::{Chain, Incarnation, Life, Member, NodeId, Role};
use crate::fields::{Malformed, take, take_slice, take_u16, take_u32, take_u64};
use catena_engine::time::{Duration, Instant};

/// A message that has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received<'a> {
    /// Of which partition.
    pub partition: u16,
    /// What is said.
    pub envelope: Envelope,
    /// What goes beside it.
    pub beside: &'a [u8],
}

/// An entry beside a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRef<'a> {
    /// The epoch in which it was ordered.
    pub epoch: u32,
    /// Its effects.
    pub payload: &'a [u8],
}

mod kind {
    pub const HEARTBEAT: u8 = 1;
    pub const GRANTED: u8 = 2;
    pub const NOT_GRANTED: u8 = 3;
    pub const STALE: u8 = 4;
    pub const OPEN: u8 = 5;
    pub const OPENED: u8 = 6;
    pub const BEGIN_BEHIND: u8 = 7;
    pub const BEGIN_SNAPSHOT: u8 = 8;
    pub const PIECE: u8 = 9;
    pub const DURABLE: u8 = 10;
    pub const JOIN: u8 = 11;
    pub const HEARD: u8 = 12;
    pub const ENTRIES: u8 = 13;
    pub const COMMITTED: u8 = 14;
    pub const CLOSED: u8 = 15;
    pub const QUERY: u8 = 16;
    pub const TOLD: u8 = 17;
}

/// Appends a message; `beside` appends what goes beside it.
///
/// # Panics
/// If that is longer than 4 GiB.
pub fn encode(
    partition: u16,
    envelope: &Envelope,
    out: &mut Vec<u8>,
    beside: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&partition.to_le_bytes());
    push_life(out, envelope.from);
    push_life(out, envelope.to);
    out.extend_from_slice(&envelope.epoch.to_le_bytes());
    push_message(out, &envelope.message);
    beside(out);
    let length = u32::try_from(out.len() - start - 4).expect("messages are bounded by who sends");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Appends an entry to what goes beside a message; `effects` appends these.
///
/// # Panics
/// If it is longer than entries may be.
pub fn push_entry(out: &mut Vec<u8>, epoch: u32, effects: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&epoch.to_le_bytes());
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    effects(out);
    let length = u32::try_from(out.len() - start - 4).expect("an entry is some values long");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Takes an entry off the front of what goes beside a message.
///
/// # Errors
/// If there is too little.
pub fn take_entry<'a>(rest: &mut &'a [u8]) -> Result<EntryRef<'a>, Malformed> {
    let epoch = take_u32(rest)?;
    let length = take_u32(rest)?;
    Ok(EntryRef { epoch, payload: take_slice(rest, length as usize)? })
}

/// Takes a message off the front.
///
/// # Errors
/// If it is none.
pub fn decode<'a>(rest: &mut &'a [u8]) -> Result<Received<'a>, Malformed> {
    let length = take_u32(rest)?;
    let mut own = take_slice(rest, length as usize)?;
    let partition = take_u16(&mut own)?;
    let (from, to) = (take_life(&mut own)?, take_life(&mut own)?);
    let epoch = take_u32(&mut own)?;
    let message = take_message(&mut own)?;
    Ok(Received { partition, envelope: Envelope { from, to, epoch, message }, beside: own })
}

fn push_message(out: &mut Vec<u8>, message: &Message) {
    match message {
        Message::Heartbeat { ask, chain, accused } => {
            out.push(kind::HEARTBEAT);
            push_u64s(out, [ask.asked_at.as_nanos(), nanos(ask.length)]);
            push_lives(out, accused);
            push_chain(out, chain);
        }
        Message::Granted(Some(grant)) => {
            out.push(kind::GRANTED);
            push_life(out, grant.to);
            push_u64s(out, [grant.asked_at.as_nanos(), nanos(grant.length)]);
        }
        Message::Granted(None) => out.push(kind::NOT_GRANTED),
        Message::Stale(chain) => {
            out.push(kind::STALE);
            push_chain(out, chain);
        }
        Message::Open { link } => {
            out.push(kind::OPEN);
            push_u64s(out, [*link]);
        }
        Message::Opened { link, position } => {
            out.push(kind::OPENED);
            push_u64s(out, [*link, position.received, position.committed]);
            out.push(position.is_void.into());
            push_epochs(out, &position.epochs);
        }
        Message::Begin { link, start: Start::Behind(index) } => {
            out.push(kind::BEGIN_BEHIND);
            push_u64s(out, [*link, *index]);
        }
        Message::Begin { link, start: Start::Snapshot { as_of, epochs } } => {
            out.push(kind::BEGIN_SNAPSHOT);
            push_u64s(out, [*link, *as_of]);
            push_epochs(out, epochs);
        }
        Message::Piece { link, number, is_last } => {
            out.push(kind::PIECE);
            push_u64s(out, [*link, *number]);
            out.push((*is_last).into());
        }
        Message::Durable { link, index } => {
            out.push(kind::DURABLE);
            push_u64s(out, [*link, *index]);
        }
        Message::Join { heard } => {
            out.push(kind::JOIN);
            push_lives(out, heard);
        }
        Message::Heard => out.push(kind::HEARD),
        Message::Entries(Entries { link, first, count, upstream_durable, committed }) => {
            out.push(kind::ENTRIES);
            push_u64s(out, [*link, *first, *count, *upstream_durable, *committed]);
        }
        Message::Committed { link, committed } => {
            out.push(kind::COMMITTED);
            push_u64s(out, [*link, *committed]);
        }
        Message::Closed { link } => {
            out.push(kind::CLOSED);
            push_u64s(out, [*link]);
        }
        Message::Query { number } => {
            out.push(kind::QUERY);
            push_u64s(out, [*number]);
        }
        Message::Told { number, committed } => {
            out.push(kind::TOLD);
            push_u64s(out, [*number, *committed]);
        }
    }
}

fn take_message(rest: &mut &[u8]) -> Result<Message, Malformed> {
    let [kind] = take(rest)?;
    let mut next = || take_u64(rest);
    Ok(match kind {
        kind::HEARTBEAT => {
            let ask = Ask { asked_at: instant(next()?), length: duration(next()?) };
            let accused = take_lives(rest)?;
            Message::Heartbeat { ask, chain: take_chain(rest)?, accused }
        }
        kind::GRANTED => {
            let to = take_life(rest)?;
            let (asked_at, length) = (instant(take_u64(rest)?), duration(take_u64(rest)?));
            Message::Granted(Some(Grant { to, asked_at, length }))
        }
        kind::NOT_GRANTED => Message::Granted(None),
        kind::STALE => Message::Stale(take_chain(rest)?),
        kind::OPEN => Message::Open { link: next()? },
        kind::OPENED => {
            let (link, received, committed) = (next()?, next()?, next()?);
            let is_void = take::<1>(rest)? == [1];
            let position = Position { received, committed, epochs: take_epochs(rest)?, is_void };
            Message::Opened { link, position }
        }
        kind::BEGIN_BEHIND => Message::Begin { link: next()?, start: Start::Behind(next()?) },
        kind::BEGIN_SNAPSHOT => {
            let (link, as_of) = (next()?, next()?);
            let start = Start::Snapshot { as_of, epochs: take_epochs(rest)? };
            Message::Begin { link, start }
        }
        kind::PIECE => {
            let (link, number) = (next()?, next()?);
            Message::Piece { link, number, is_last: take::<1>(rest)? == [1] }
        }
        kind::DURABLE => Message::Durable { link: next()?, index: next()? },
        kind::JOIN => Message::Join { heard: take_lives(rest)? },
        kind::HEARD => Message::Heard,
        kind::ENTRIES => Message::Entries(Entries {
            link: next()?,
            first: next()?,
            count: next()?,
            upstream_durable: next()?,
            committed: next()?,
        }),
        kind::COMMITTED => Message::Committed { link: next()?, committed: next()? },
        kind::CLOSED => Message::Closed { link: next()? },
        kind::QUERY => Message::Query { number: next()? },
        kind::TOLD => Message::Told { number: next()?, committed: next()? },
        _ => return Err(Malformed("a message of unknown kind")),
    })
}

fn push_u64s<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn push_life(out: &mut Vec<u8>, life: Life) {
    out.extend_from_slice(&life.node.0.to_le_bytes());
    out.extend_from_slice(&life.incarnation.0.to_le_bytes());
}

fn take_life(rest: &mut &[u8]) -> Result<Life, Malformed> {
    let node = NodeId(take_u16(rest)?);
    Ok(Life { node, incarnation: Incarnation(take_u64(rest)?) })
}

fn push_lives(out: &mut Vec<u8>, lives: &[Life]) {
    out.push(u8::try_from(lives.len()).expect("members of a chain are few"));
    lives.iter().for_each(|life| push_life(out, *life));
}

fn take_lives(rest: &mut &[u8]) -> Result<Vec<Life>, Malformed> {
    let [count] = take(rest)?;
    (0..count).map(|_| take_life(rest)).collect()
}

fn push_chain(out: &mut Vec<u8>, chain: &Chain) {
    out.extend_from_slice(&chain.epoch().to_le_bytes());
    out.push(u8::try_from(chain.members().len()).expect("members of a chain are few"));
    for Member { life, role } in chain.members() {
        push_life(out, *life);
        out.push((*role == Role::Syncing).into());
    }
}

fn take_chain(rest: &mut &[u8]) -> Result<Chain, Malformed> {
    let epoch = take_u32(rest)?;
    let [count] = take(rest)?;
    let member = |_| {
        let life = take_life(rest)?;
        let role = match take(rest)? {
            [0] => Role::Serving,
            [1] => Role::Syncing,
            _ => return Err(Malformed("a member of unknown role")),
        };
        Ok(Member { life, role })
    };
    let members = (0..count).map(member).collect::<Result<_, _>>()?;
    Chain::new(epoch, members).map_err(|_| Malformed("members that are no chain"))
}

fn push_epochs(out: &mut Vec<u8>, epochs: &[(u64, u32)]) {
    let count =
        u32::try_from(epochs.len()).expect("there are no more epochs than numbers for them");
    out.extend_from_slice(&count.to_le_bytes());
    for (first, epoch) in epochs {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&epoch.to_le_bytes());
    }
}

fn take_epochs(rest: &mut &[u8]) -> Result<Vec<(u64, u32)>, Malformed> {
    let count = take_u32(rest)?;
    (0..count).map(|_| Ok((take_u64(rest)?, take_u32(rest)?))).collect()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn duration(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

fn instant(nanos: u64) -> Instant {
    Instant::ZERO + Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests;
