//! What happened: every event of a world, folded into one hash and counted by kind; the last ones
//! are kept to be read.
//!
//! Two runs of a seed are the same run if their hashes are equal, so a test compares 64 bits and
//! not two transcripts. Nothing that differs from run to run may be recorded: no address of memory,
//! no time of the real clock, no order of a hash table.

use super::host::{HostId, ShardAt};
use crate::time::Instant;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};

/// Declares the kinds of events with their names, and a table of them all.
macro_rules! event_kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal)*) => {
        /// What kind of thing happened. Counted, so that a test can assert that it really did.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum EventKind { $($(#[$doc])* $kind),* }

        impl EventKind {
            /// All of them.
            pub const ALL: &[EventKind] = &[$(EventKind::$kind),*];

            /// As it stands in the text of the log.
            pub fn name(self) -> &'static str {
                match self { $(EventKind::$kind => $name),* }
            }
        }
    };
}

event_kinds! {
    /// Somebody added a remark.
    Note "note"
    /// A process began.
    HostBooted "host booted"
    /// A process ended by its own will.
    HostExited "host exited"
    /// A process ended without its machine, or was killed.
    HostKilled "host killed"
    /// A machine lost its power.
    HostLostPower "host lost power"
    /// A process stands still for a while.
    HostPaused "host paused"
    /// A shard had its turn.
    Turn "turn"
    /// A handler used CPU time.
    CpuBurned "cpu burned"
    /// A shard was unparked by another.
    Unparked "unparked"
    /// A clock runs at another rate.
    ClockSkewed "clock skewed"

    /// A shard listens.
    Listening "listening"
    /// A shard stopped to listen.
    ListeningStopped "listening stopped"
    /// A connection attempt began.
    Connecting "connecting"
    /// A connection attempt went unanswered and is repeated.
    ConnectRetried "connect retried"
    /// A connection attempt ended well.
    Connected "connected"
    /// A connection attempt ended badly.
    ConnectFailed "connect failed"
    /// A connection waits because the backlog is full.
    BacklogFull "backlog full"
    /// A connection was accepted.
    Accepted "accepted"
    /// Accepting failed.
    AcceptFailed "accept failed"
    /// A send was wholly taken at once.
    SendDone "send done"
    /// A send was wholly taken at once and is reported later.
    SendLater "send later"
    /// A send waits for room.
    SendBlocked "send blocked"
    /// A send that was in flight ended.
    Sent "sent"
    /// A segment arrived.
    Segment "segment"
    /// A stream's end arrived.
    EndOfStream "end of stream"
    /// A path does not work; what travels on it waits.
    PathStalled "path stalled"
    /// A path works again.
    PathResumed "path resumed"
    /// An end answered what it could not take with a reset.
    ResetSent "reset sent"
    /// A reset did not arrive.
    ResetLost "reset lost"
    /// An end of a connection is broken.
    ConnectionBroken "connection broken"
    /// A chunk was reported.
    Received "received"
    /// A receive found no buffer.
    BufferWait "buffer wait"
    /// Bytes to keep were lent.
    LentShared "lent shared"
    /// Bytes to keep were copied.
    LentCopied "lent copied"
    /// The end of a stream was reported.
    ReceiveEnded "receive ended"
    /// A reader paused.
    ReceivePaused "receive paused"
    /// A reader resumed.
    ReceiveResumed "receive resumed"
    /// A socket was closed with a send in flight, which was cut short.
    SendCutShort "send cut short"
    /// A socket's sending side was ended.
    SendEnded "send ended"
    /// A socket is being closed.
    Closing "closing"
    /// A close was reported.
    Closed "closed"

    /// A link was cut, in one direction.
    LinkCut "link cut"
    /// A link was healed, in one direction.
    LinkHealed "link healed"
    /// A link became slow, in one direction.
    LinkSlowed "link slowed"
    /// A connection was reset by a third party.
    ConnectionLost "connection lost"
    /// A connection was forgotten by a third party, so that nothing gets through.
    ConnectionSilenced "connection silenced"
    /// A host cannot accept for a while.
    AcceptsFailing "accepts failing"

    /// A file was opened.
    FileOpened "file opened"
    /// A read ended.
    Read "read"
    /// A write ended.
    Written "written"
    /// A sync ended.
    Synced "synced"
    /// A file operation failed.
    FileFailed "file failed"
    /// A file operation failed for want of room.
    DiskWasFull "disk was full"
    /// A disk became slow.
    DiskSlowed "disk slowed"
    /// A disk became full.
    DiskFilled "disk filled"
    /// File operations will fail.
    DiskFailing "disk failing"
    /// A write that was not synced survived a crash or a failed sync.
    WriteKept "write kept"
    /// A write that was not synced was lost in a crash or a failed sync.
    WriteLost "write lost"
    /// A write that was not synced survived a crash or a failed sync in part.
    WriteTorn "write torn"
    /// A name that was made, moved or removed without a sync of its directory survived a crash or a
    /// failed sync as it was.
    NameKept "name kept"
    /// A name that was made, moved or removed without a sync of its directory is, after a crash or a
    /// failed sync, as before.
    NameLost "name lost"
    /// A bit on a disk flipped.
    BitFlipped "bit flipped"

    /// Directories were created.
    DirectoryCreated "directory created"
    /// A directory was listed.
    DirectoryListed "directory listed"
    /// A directory was synced.
    DirectorySynced "directory synced"
    /// A file or directory has another name.
    Renamed "renamed"
    /// A file or directory has no name any more.
    Removed "removed"
    /// The length of a file was told.
    LengthTold "length told"
    /// Room was reserved for a file.
    Preallocated "preallocated"
    /// A file of zeros was created.
    ZerosCreated "zeros created"
    /// The room on a disk was told.
    SpaceTold "space told"
    /// A file was locked.
    FileLocked "file locked"
}

/// Where something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    World,
    Host(HostId),
    Shard(ShardAt),
}

/// Facts of one event: names and numbers.
pub(super) type Facts<'a> = &'a [(&'static str, u64)];

const FACTS_MAX: usize = 4;

#[derive(Debug)]
struct Record {
    at: Instant,
    place: Place,
    kind: EventKind,
    facts: [(&'static str, u64); FACTS_MAX],
    text: Option<Box<str>>,
}

/// The log of one world.
#[derive(Debug)]
pub(super) struct EventLog {
    hash: Hash,
    counts: Vec<u64>,
    kept: VecDeque<Record>,
    keep: usize,
}

impl EventLog {
    pub fn new(keep: usize) -> Self {
        let counts = vec![0; EventKind::ALL.len()];
        EventLog { hash: Hash::new(), counts, kept: VecDeque::new(), keep }
    }

    pub fn record(&mut self, at: Instant, place: Place, kind: EventKind, facts: Facts<'_>) {
        self.add(at, place, kind, facts, None);
    }

    pub fn note(&mut self, at: Instant, place: Place, text: &str) {
        self.record_about(at, place, EventKind::Note, text);
    }

    /// Records what no numbers say.
    pub fn record_about(&mut self, at: Instant, place: Place, kind: EventKind, text: &str) {
        self.hash.fold_bytes(text.as_bytes());
        self.add(at, place, kind, &[], Some(text.into()));
    }

    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    pub fn count(&self, kind: EventKind) -> u64 {
        self.counts[kind as usize]
    }

    /// The records kept, one a line, oldest first.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let total: u64 = self.counts.iter().sum();
        let left_out = total - self.kept.len() as u64;
        if left_out > 0 {
            let _ = writeln!(text, "({left_out} earlier events are not kept)");
        }
        for record in &self.kept {
            let _ = writeln!(text, "{record}");
        }
        text
    }

    fn add(
        &mut self,
        at: Instant,
        place: Place,
        kind: EventKind,
        facts: Facts<'_>,
        text: Option<Box<str>>,
    ) {
        assert!(facts.len() <= FACTS_MAX, "{kind:?} is recorded with {} facts", facts.len());
        self.counts[kind as usize] += 1;
        self.hash.fold(at.as_nanos());
        self.hash.fold(kind as u64);
        match place {
            Place::World => self.hash.fold(u64::MAX),
            Place::Host(host) => self.hash.fold(u64::from(host.0)),
            Place::Shard(at) => self.hash.fold(u64::from(at.host.0) << 32 | u64::from(at.shard)),
        }
        let mut all = [("", 0); FACTS_MAX];
        for (slot, fact) in all.iter_mut().zip(facts) {
            self.hash.fold(fact.1);
            *slot = *fact;
        }
        if self.kept.len() == self.keep {
            self.kept.pop_front();
        }
        if self.keep > 0 {
            self.kept.push_back(Record { at, place, kind, facts: all, text });
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}  ", self.at)?;
        match self.place {
            Place::World => write!(f, "{:<9}", "world")?,
            Place::Host(host) => write!(f, "{:<9}", host.to_string())?,
            Place::Shard(at) => write!(f, "{:<9}", at.to_string())?,
        }
        write!(f, " {}", self.kind.name())?;
        for (name, value) in self.facts.iter().filter(|(name, _)| !name.is_empty()) {
            write!(f, " {name}={value}")?;
        }
        self.text.as_ref().map_or(Ok(()), |text| write!(f, " {text}"))
    }
}

/// A 64-bit fold with the constants of FNV-1a, a word a step: quick, the same on every machine, and
/// good enough to tell two runs apart. It resists no one who means harm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash(pub u64);

impl Hash {
    pub fn new() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    pub fn fold(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        // A multiplication carries nothing downwards; the rotation lets high bits reach low ones.
        self.0 = mixed.rotate_left(29) ^ (mixed >> 32);
    }

    pub fn fold_bytes(&mut self, bytes: &[u8]) {
        self.fold(bytes.len() as u64);
        for word in bytes.chunks(8) {
            let mut padded = [0u8; 8];
            padded[..word.len()].copy_from_slice(word);
            self.fold(u64::from_le_bytes(padded));
        }
    }

    /// The hash of `bytes` alone.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut hash = Hash::new();
        hash.fold_bytes(bytes);
        hash.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(facts: &[u64]) -> EventLog {
        let mut log = EventLog::new(2);
        for fact in facts {
            log.record(Instant::ZERO, Place::World, EventKind::Turn, &[("n", *fact)]);
        }
        log
    }

    #[test]
    fn the_hash_tells_order_and_facts_apart() {
        assert_eq!(log_of(&[1, 2, 3]).hash(), log_of(&[1, 2, 3]).hash());
        assert_ne!(log_of(&[1, 2, 3]).hash(), log_of(&[1, 3, 2]).hash());
        assert_ne!(log_of(&[1, 2]).hash(), log_of(&[1, 2, 0]).hash());
        assert_ne!(Hash::of(b"a\0"), Hash::of(b"a"));
    }

    #[test]
    fn the_last_records_are_kept_and_all_are_counted() {
        let log = log_of(&[1, 2, 3]);
        assert_eq!(log.count(EventKind::Turn), 3);
        let text = log.text();
        assert!(text.starts_with("(1 earlier events are not kept)"), "{text}");
        assert!(text.contains("n=3") && !text.contains("n=1"), "{text}");
    }

    #[test]
    fn the_table_of_kinds_is_in_order() {
        for (index, kind) in EventKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }
}
