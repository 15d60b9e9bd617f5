//! What replicas of a partition say to each other.

use crate::chain::lease::{Ask, Grant};
use crate::chain::{Chain, Life};

/// A message, with what has to fit before it is read (CHAIN §5: both incarnations, and the epoch).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Who says it.
    pub from: Life,
    /// To whom.
    pub to: Life,
    /// In which epoch.
    pub epoch: u32,
    /// What.
    pub message: Message,
}

/// See the module page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// To each other member, in every interval: asks for a grant, and tells how things stand.
    Heartbeat {
        /// For the grant.
        ask: Ask,
        /// Confirmed by the config store, as all chains that are passed on.
        chain: Chain,
        /// Whom the sender accuses.
        accused: Vec<Life>,
    },
    /// Answers it. Without a grant: the sender takes part in removing who asked, or knows it as no member.
    Granted(Option<Grant>),
    /// What was said belongs to an epoch that is over: this is the newest that is known.
    Stale(Chain),
    /// To the successor: the link begins anew.
    Open {
        /// The highest counts, on both sides.
        link: u64,
    },
    /// To the predecessor: older links are closed, and this is what has come.
    Opened {
        /// The link that was opened.
        link: u64,
        /// What is there.
        position: Position,
    },
    /// To a successor that is syncing: what comes on this link goes on from here.
    Begin {
        /// On which link.
        link: u64,
        /// From where.
        start: Start,
    },
    /// To a successor that is syncing: a part of a snapshot, which goes beside it.
    Piece {
        /// On which link.
        link: u64,
        /// How many were before it: one that is missing is not to be missed.
        number: u64,
        /// It is the last one.
        is_last: bool,
    },
    /// From a successor that is syncing: everything up to an index is safely on its disk, and so is the
    /// snapshot below, if there was one.
    Durable {
        /// On which link.
        link: u64,
        /// The index.
        index: u64,
    },
    /// From who is no member and wants to be one, to each that serves.
    Join {
        /// Those who have answered lately.
        heard: Vec<Life>,
    },
    /// Answers it.
    Heard,
    /// To the successor: entries, or just how far they are durable.
    Entries(Entries),
    /// To the predecessor: everything up to an index has committed.
    Committed {
        /// On which link.
        link: u64,
        /// The index.
        committed: u64,
    },
    /// To the predecessor: something is missing; the link has to be opened again.
    Closed {
        /// Which link.
        link: u64,
    },
    /// To the tail: up to where has it committed?
    Query {
        /// Comes back with the answer.
        number: u64,
    },
    /// To who asked: up to there, at some instant since.
    Told {
        /// Of the query.
        number: u64,
        /// The index.
        committed: u64,
    },
}

/// The head of entries on a link; the entries themselves go beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entries {
    /// On which link.
    pub link: u64,
    /// The index of the first.
    pub first: u64,
    /// How many there are, maybe none.
    pub count: u64,
    /// The sender, and all before it, have everything up to this index safely on their disks.
    pub upstream_durable: u64,
    /// The sender knows that everything up to this index has committed.
    pub committed: u64,
}

/// What a log has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    /// The index of the last entry.
    pub received: u64,
    /// What has committed, as far as is known; it is in the table, and cannot be taken back.
    pub committed: u64,
    /// The first index of each epoch, and its number.
    pub epochs: Vec<(u64, u32)>,
    /// A snapshot has begun to come and is not complete: nothing of it counts.
    pub is_void: bool,
}

/// Where a syncing member goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// Behind the entry with this index. What it has beyond was never acknowledged, and is cut off.
    Behind(u64),
    /// With a snapshot of what has committed up to an index; whatever it has gives way.
    Snapshot {
        /// The index.
        as_of: u64,
        /// The epochs up to there.
        epochs: Vec<(u64, u32)>,
    },
}

impl Position {
    /// The epoch of an entry.
    pub fn epoch_of(&self, index: u64) -> u32 {
        self.segment_of(index).1
    }

    /// The last entry that two logs have in common: with that, everything before it is the same. For an
    /// epoch has one head, and what that had before it ordered is what everybody has who has what it ordered.
    pub fn common(&self, other: &Position) -> u64 {
        let mut index = self.received.min(other.received);
        while index > 0 {
            let (own, others) = (self.segment_of(index), other.segment_of(index));
            if own.1 == others.1 {
                break;
            }
            index = own.0.max(others.0).max(1) - 1;
        }
        index
    }

    fn segment_of(&self, index: u64) -> (u64, u32) {
        let mut epochs = self.epochs.iter().rev();
        epochs.find(|(first, _)| *first <= index).copied().unwrap_or((0, 0))
    }
}
