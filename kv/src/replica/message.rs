//! What replicas of a partition say to each other.

use crate::chain::lease::{Ask, Grant};
use crate::chain::{Chain, Life};
use crate::partition::Version;

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
        /// The last entry in the log.
        received: Version,
        /// What has committed, as far as is known.
        committed: u64,
    },
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
}
