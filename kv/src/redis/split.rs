//! Commands on keys of several slots, on the port that all shards share: each key's part is carried out by
//! the shard that has it, and the answers are put together. Each part is atomic, and the whole is not.
//!
//! On a shard's own port, where a client takes the shard for a node of a cluster, they are refused.

use super::bundle::AskKey;
use super::debts::Share;
use crate::command::error::Error;
use crate::command::spec::Spec;
use crate::limits::KEY_BYTES_MAX;
use crate::resp::{Args, Reply};
use catena_engine::shard_index::ShardIndex;

/// How the whole answer comes from those for each key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Joined {
    /// An array of the values, in the order of the keys.
    Values,
    /// Their sum.
    Sum,
    /// `OK`.
    Ok,
}

/// A command in parts, until the last answer has come.
#[derive(Debug)]
pub struct Split {
    /// What to do with the whole.
    pub waiting: AskKey,
    joined: Joined,
    /// Who has each key, in the order of the keys.
    shards: Vec<ShardIndex>,
    /// By shard and part: the answers for its keys, one behind the other.
    answers: Vec<Vec<(Vec<u8>, Option<Share>)>>,
    missing: usize,
    /// The longest answer; what is beyond it is not kept.
    bytes_max: usize,
    bytes: usize,
}

fn joined(spec: &Spec) -> Option<Joined> {
    match spec.name {
        "mget" => Some(Joined::Values),
        "del" | "exists" | "touch" | "unlink" => Some(Joined::Sum),
        "mset" => Some(Joined::Ok),
        _ => None,
    }
}

/// True if a command on keys of several slots may be carried out key by key.
pub fn may_be_split(spec: &Spec) -> bool {
    joined(spec).is_some()
}

/// Names a part of a split command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Who carries it out.
    pub shard: ShardIndex,
    /// Which of its parts it is.
    pub place: usize,
}

/// Bytes from which on a part that writes values has no further key: between two parts a shard may wait for
/// its disk. Where the answers may be long there is one part a shard, so that one bound holds for it.
const PART_BYTES: usize = 1 << 20;

/// A command, key by key.
#[derive(Debug)]
pub struct Parts {
    /// By shard: its parts, each with a command for each of its keys, one behind the other.
    pub texts: Vec<Vec<Vec<u8>>>,
    shards: Vec<ShardIndex>,
}

impl Parts {
    /// Of a command that [may be split](may_be_split).
    ///
    /// # Errors
    /// If a key lacks its value, or one of either is too long: all are looked at before the first is written.
    pub fn of(
        spec: &Spec,
        args: &Args<'_>,
        (shard_count, value_bytes_max): (u16, usize),
        shard_of: impl Fn(&[u8]) -> ShardIndex,
    ) -> Result<Self, Error> {
        let mut texts = vec![Vec::new(); shard_count.into()];
        let mut shards = Vec::new();
        let has_values = joined(spec) == Some(Joined::Ok);
        for at in spec.keys.among(args.len()) {
            let shard = shard_of(args.at(at));
            let behind = at + usize::from(spec.keys.step.unsigned_abs());
            if behind > args.len() {
                return Err(Error::arity(spec.name));
            }
            if args.at(at).len() > KEY_BYTES_MAX {
                return Err(Error::KEY_TOO_LONG);
            }
            if (at + 1..behind).any(|value| args.at(value).len() > value_bytes_max) {
                return Err(Error::TOO_LONG);
            }
            let parts: &mut Vec<Vec<u8>> = &mut texts[shard.index()];
            let is_long = |part: &Vec<u8>| has_values && part.len() >= PART_BYTES;
            if parts.last().is_none_or(is_long) {
                parts.push(Vec::new());
            }
            let part = parts.last_mut().expect("there is one now");
            let mut text = Reply::new(part, Default::default());
            text.array(1 + behind - at);
            text.bulk(args.name());
            (at..behind).for_each(|at| text.bulk(args.at(at)));
            shards.push(shard);
        }
        Ok(Parts { texts, shards })
    }
}

impl Split {
    /// Nothing has come yet.
    pub fn new(spec: &Spec, parts: &mut Parts, waiting: AskKey, bytes_max: usize) -> Self {
        let joined = joined(spec).expect("it was asked whether it may be split");
        let missing = parts.texts.iter().map(Vec::len).sum();
        let none_of = |parts: &Vec<_>| parts.iter().map(|_| Default::default()).collect();
        let answers = parts.texts.iter().map(none_of).collect();
        let shards = std::mem::take(&mut parts.shards);
        Split { waiting, joined, shards, answers, missing, bytes_max, bytes: 0 }
    }

    /// Adds the answer to a part; true with the last one.
    pub fn add(&mut self, part: Part, text: &[u8], share: Option<Share>) -> bool {
        self.bytes += text.len();
        if self.is_too_long() {
            self.answers.iter_mut().flatten().for_each(|answer| *answer = Default::default());
        } else {
            self.answers[part.shard.index()][part.place] = (text.to_vec(), share);
        }
        self.missing -= 1;
        self.missing == 0
    }

    /// Bytes that have come and count.
    pub fn bytes(&self) -> usize {
        let shares = self.answers.iter().flatten().filter_map(|(_, share)| share.as_ref());
        shares.map(Share::bytes).sum()
    }

    /// Appends the whole answer.
    pub fn finish(&self, reply: &mut Reply<'_>) {
        if self.is_too_long() {
            return reply.error(&*Error::ANSWER_TOO_LONG.0);
        }
        // Behind an error in a part there may be less than was asked for.
        let mut parts: Vec<_> = self.answers.iter().map(|parts| parts.iter()).collect();
        let mut left: Vec<&[u8]> = vec![&[]; parts.len()];
        let each = self.shards.iter().map(|shard| {
            let (left, parts) = (&mut left[shard.index()], &mut parts[shard.index()]);
            while left.is_empty()
                && let Some((text, _)) = parts.next()
            {
                *left = text;
            }
            take_reply(left)
        });
        let each: Vec<&[u8]> = each.collect();
        if let Some(error) = each.iter().find(|answer| answer.starts_with(b"-")) {
            return reply.raw(error);
        }
        match self.joined {
            Joined::Values => {
                reply.array(each.len());
                each.iter().for_each(|value| reply.raw(&value[ARRAY_OF_ONE.len()..]));
            }
            Joined::Sum => reply.integer(each.iter().map(|answer| integer(answer)).sum()),
            Joined::Ok => reply.ok(),
        }
    }
}

impl Split {
    fn is_too_long(&self) -> bool {
        self.bytes > self.bytes_max
    }
}

const ARRAY_OF_ONE: &[u8] = b"*1\r\n";

/// Takes one reply off the front: a line, a bulk string, or an array of one of these. Nothing, if nothing
/// is left: behind an error there may be less than was asked for.
fn take_reply<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let header = if text.starts_with(ARRAY_OF_ONE) { ARRAY_OF_ONE.len() } else { 0 };
    let Some(line) = text[header..].iter().position(|byte| *byte == b'\n') else { return &[] };
    let first_line = &text[header..=header + line];
    let bulk = match first_line {
        [b'$', b'0'..=b'9', ..] => integer(first_line) as usize + 2,
        _ => 0,
    };
    let (reply, rest) = text.split_at(header + first_line.len() + bulk);
    *text = rest;
    reply
}

/// The number in a line behind its first byte; shards write nothing else there.
fn integer(line: &[u8]) -> i64 {
    let digits = line[1..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
}
