//! Commands on their way to the shard that has their keys, and the answers on their way back.
//!
//! All that one shard has for another in a turn goes as one message, and the same memory comes back with the
//! answers: in steady state nothing is allocated for it.

use crate::resp::{Args, Protocol, Reply};
use slotmap::new_key_type;
use std::ops::Range;

new_key_type! {
    /// What the shard that asks knows an asked command by.
    pub struct AskKey;
}

/// From shard to shard.
#[derive(Debug)]
pub enum Bundle {
    /// Commands to carry out.
    Asked(Commands),
    /// Their answers, as far as they are known.
    Told(Commands),
}

/// Commands, and answers to them.
#[derive(Debug, Default)]
pub struct Commands {
    items: Vec<Item>,
    asked: Vec<u8>,
    told: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Item {
    ask: AskKey,
    protocol: Protocol,
    whole: Whole,
    text: Range<usize>,
}

/// Of what the answer is the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whole {
    /// Of the command: it goes to the client as it is.
    Answer,
    /// Of a shard's part of it: the one that asks puts the parts together.
    Part,
    /// Of each of several commands of one name, one behind the other, as of a part.
    Each,
}

/// One asked command.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// To be given back with the answer.
    pub ask: AskKey,
    /// What its client speaks.
    pub protocol: Protocol,
    /// Whether all of the answer is wanted, or a part.
    pub whole: Whole,
    /// The command, as an array of bulk strings.
    pub text: &'a [u8],
}

impl Default for Bundle {
    fn default() -> Self {
        Bundle::Told(Commands::default())
    }
}

impl Bundle {
    /// What it carries; it carries nothing then.
    pub fn take(&mut self) -> Commands {
        match self {
            Bundle::Asked(commands) | Bundle::Told(commands) => std::mem::take(commands),
        }
    }
}

impl Commands {
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a command.
    pub fn ask(&mut self, ask: AskKey, protocol: Protocol, whole: Whole, args: &Args<'_>) {
        let start = self.asked.len();
        let mut text = Reply::new(&mut self.asked, Protocol::Resp2);
        text.array(args.len());
        args.iter().for_each(|arg| text.bulk(arg));
        self.items.push(Item { ask, protocol, whole, text: start..self.asked.len() });
    }

    /// Adds commands of one name that stand in `text` already.
    pub fn ask_each(&mut self, ask: AskKey, protocol: Protocol, text: &[u8]) {
        let start = self.asked.len();
        self.asked.extend_from_slice(text);
        let text = start..self.asked.len();
        self.items.push(Item { ask, protocol, whole: Whole::Each, text });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// One of the commands that are asked.
    pub fn asked(&self, place: usize) -> Asked<'_> {
        let Item { ask, protocol, whole, text } = self.items[place].clone();
        Asked { ask, protocol, whole, text: &self.asked[text] }
    }

    /// The answers so far.
    pub fn told(&self) -> impl Iterator<Item = (AskKey, &[u8])> {
        self.items.iter().map(|item| (item.ask, &self.told[item.text.clone()]))
    }

    /// Adds an answer.
    pub fn tell(&mut self, ask: AskKey, text: &[u8]) {
        let start = self.told.len();
        self.told.extend_from_slice(text);
        let text = start..self.told.len();
        let (protocol, whole) = (Protocol::Resp2, Whole::Answer);
        self.items.push(Item { ask, protocol, whole, text });
    }

    /// Bytes of the answers.
    pub fn told_bytes(&self) -> usize {
        self.told.len()
    }

    /// Empties it, and keeps its memory up to a bound.
    pub fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 64 * 1_024;
        self.items.clear();
        for bytes in [&mut self.asked, &mut self.told] {
            bytes.clear();
            bytes.shrink_to(KEPT_BYTES_MAX);
        }
    }
}
