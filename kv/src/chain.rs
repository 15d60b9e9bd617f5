//! Who replicates a partition: the chain of its members under an epoch, and the steps by which it changes.
//!
//! ```text
//! head ──► … ──► tail ──► (one that is syncing)
//! ```
//!
//! A chain is changed by compare-and-swap on its epoch, one step at a time. A step is worked out here, and
//! refused here if it is none of those that the chain protocol allows: which are in the table below, with
//! who may take them.
//!
//! | step | by whom | what |
//! |---|---|---|
//! | [`Step::Drop`] | a serving member | members go, at least one that serves stays |
//! | [`Step::Append`] | the tail | a member is added at the end, syncing |
//! | [`Step::Promote`] | the tail | the syncing member serves |
//! | [`Step::Touch`] | a serving member | the same in the next epoch: for who changed its mind |
//! | [`Step::TakeOver`] | who served in an earlier incarnation | it alone, in its new one |
//!
//! Members never change places, and a node is in a chain once at most.

use std::fmt;
use std::str::FromStr;

pub mod lease;
pub mod rules;

/// A machine's process in the cluster, over all its starts: the number under which it is registered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u16);

/// One start of a node: higher at each, and on its disk before it is used. A process that was started again
/// is a new member, never its old self.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation(pub u64);

/// A node, in one of its starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// Which start of it.
    pub incarnation: Incarnation,
}

/// What a member of a chain does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// It has all entries, and takes part in committing them; it may answer reads.
    Serving,
    /// It is given what it lacks, and answers nothing.
    Syncing,
}

/// A place in a chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// Who has it.
    pub life: Life,
    /// What for.
    pub role: Role,
}

/// The members of one partition under one epoch, head first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Chain {
    epoch: u32,
    members: Vec<Member>,
}

/// A change of a chain.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// These go.
    Drop(Vec<Life>),
    /// This one comes, as syncing.
    Append(Life),
    /// This one, which is syncing, serves.
    Promote(Life),
    /// Nothing but the epoch.
    Touch,
    /// All serving members have been started again or have stopped: this one goes on alone.
    TakeOver(Life),
}

/// The most members of a chain: five serving ones survive the loss of four, and each costs a write a step.
pub const MEMBERS_MAX: usize = 8;

/// The members are no chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Nobody serves.
    NobodyServes,
    /// A node has two places.
    Twice(NodeId),
    /// Somebody who is syncing is not at the end, or not the only one.
    SyncingBeforeEnd(NodeId),
    /// There are more than [`MEMBERS_MAX`].
    TooMany(usize),
    /// What should be a chain is written otherwise.
    Text,
}

/// A step that the protocol does not allow, or not to who asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Illegal {
    /// Only a serving member, in its present incarnation, may take this step.
    NotServing(Life),
    /// Only the tail may.
    NotTail(Life),
    /// It is no member.
    NoMember(Life),
    /// It is a member already, in this incarnation or another one.
    IsMember(NodeId),
    /// There is a syncing member already, and one at a time.
    Syncs(Life),
    /// It is not syncing.
    NotSyncing(Life),
    /// A step that drops nobody.
    DropsNobody,
    /// Nobody would serve any more.
    DropsLast,
    /// Who takes over has to have served in an earlier incarnation.
    NeverServed(Life),
    /// There are [`MEMBERS_MAX`] members.
    Full,
    /// There is no epoch after this one.
    NoEpochLeft,
}

impl Chain {
    /// A chain of these members.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn new(epoch: u32, members: Vec<Member>) -> Result<Self, Malformed> {
        if members.len() > MEMBERS_MAX {
            return Err(Malformed::TooMany(members.len()));
        }
        let nodes: Vec<NodeId> = members.iter().map(|member| member.life.node).collect();
        for (place, node) in nodes.iter().enumerate() {
            if nodes[..place].contains(node) {
                return Err(Malformed::Twice(*node));
            }
        }
        let before_end = &members[..members.len().saturating_sub(1)];
        if let Some(member) = before_end.iter().find(|member| member.role == Role::Syncing) {
            return Err(Malformed::SyncingBeforeEnd(member.life.node));
        }
        if members.first().is_none_or(|member| member.role == Role::Syncing) {
            return Err(Malformed::NobodyServes);
        }
        Ok(Chain { epoch, members })
    }

    /// The first one of a partition: these serve, head first.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn first(epoch: u32, lives: impl IntoIterator<Item = Life>) -> Result<Self, Malformed> {
        let serving = |life| Member { life, role: Role::Serving };
        Self::new(epoch, lives.into_iter().map(serving).collect())
    }

    /// Under which epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Head first.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Those who serve, head first.
    pub fn serving(&self) -> impl DoubleEndedIterator<Item = Life> + '_ {
        self.members.iter().filter(|member| member.role == Role::Serving).map(|member| member.life)
    }

    /// Who orders writes.
    pub fn head(&self) -> Life {
        self.members[0].life
    }

    /// Who commits them: the last that serves.
    pub fn tail(&self) -> Life {
        self.serving().next_back().expect("a chain has a serving member")
    }

    /// Who is being added.
    pub fn syncing(&self) -> Option<Life> {
        let last = self.members.last().filter(|member| member.role == Role::Syncing);
        last.map(|member| member.life)
    }

    /// What a node does in it, in this incarnation.
    pub fn role(&self, life: Life) -> Option<Role> {
        self.members.iter().find(|member| member.life == life).map(|member| member.role)
    }

    /// In which incarnation a node is in it.
    pub fn life_of(&self, node: NodeId) -> Option<Life> {
        self.members.iter().map(|member| member.life).find(|life| life.node == node)
    }

    /// Who has the place before it.
    pub fn predecessor(&self, life: Life) -> Option<Life> {
        let place = self.place(life)?;
        Some(self.members[place.checked_sub(1)?].life)
    }

    /// Who has the place behind it, syncing or not.
    pub fn successor(&self, life: Life) -> Option<Life> {
        Some(self.members.get(self.place(life)? + 1)?.life)
    }

    /// All members but this one.
    pub fn others(&self, life: Life) -> impl Iterator<Item = Life> + '_ {
        self.members.iter().map(|member| member.life).filter(move |other| *other != life)
    }

    /// The chain after a step that `by` takes.
    ///
    /// # Errors
    /// [`Illegal`].
    pub fn after(&self, step: &Step, by: Life) -> Result<Chain, Illegal> {
        let members = match step {
            Step::Drop(gone) => self.without(gone, by)?,
            Step::Append(life) => self.with_syncing(*life, by)?,
            Step::Promote(life) => self.with_promoted(*life, by)?,
            Step::Touch => {
                self.check_serves(by)?;
                self.members.clone()
            }
            Step::TakeOver(life) => self.taken_over(*life, by)?,
        };
        let epoch = self.epoch.checked_add(1).ok_or(Illegal::NoEpochLeft)?;
        Ok(Chain { epoch, members })
    }

    fn place(&self, life: Life) -> Option<usize> {
        self.members.iter().position(|member| member.life == life)
    }

    /// CHAIN §2 ✦: only a serving member of the current epoch drops a serving one; any serving member drops
    /// a syncing one.
    fn without(&self, gone: &[Life], by: Life) -> Result<Vec<Member>, Illegal> {
        self.check_serves(by)?;
        if gone.is_empty() {
            return Err(Illegal::DropsNobody);
        }
        if let Some(stranger) = gone.iter().find(|life| self.place(**life).is_none()) {
            return Err(Illegal::NoMember(*stranger));
        }
        let left = self.members.iter().filter(|member| !gone.contains(&member.life));
        let left: Vec<Member> = left.copied().collect();
        match left.first() {
            Some(head) if head.role == Role::Serving => Ok(left),
            _ => Err(Illegal::DropsLast),
        }
    }

    /// CHAIN §2 ✦: only the tail appends and promotes.
    fn with_syncing(&self, life: Life, by: Life) -> Result<Vec<Member>, Illegal> {
        self.check_is_tail(by)?;
        if let Some(syncing) = self.syncing() {
            return Err(Illegal::Syncs(syncing));
        }
        if self.life_of(life.node).is_some() {
            return Err(Illegal::IsMember(life.node));
        }
        if self.members.len() == MEMBERS_MAX {
            return Err(Illegal::Full);
        }
        let mut members = self.members.clone();
        members.push(Member { life, role: Role::Syncing });
        Ok(members)
    }

    fn with_promoted(&self, life: Life, by: Life) -> Result<Vec<Member>, Illegal> {
        self.check_is_tail(by)?;
        if self.syncing() != Some(life) {
            return Err(Illegal::NotSyncing(life));
        }
        let serving = |member: &Member| Member { role: Role::Serving, ..*member };
        Ok(self.members.iter().map(serving).collect())
    }

    /// CHAIN §7: by a node that the chain names as serving in an earlier incarnation.
    fn taken_over(&self, life: Life, by: Life) -> Result<Vec<Member>, Illegal> {
        let has_served = self
            .serving()
            .any(|served| served.node == life.node && served.incarnation < life.incarnation);
        if !has_served || by != life {
            return Err(Illegal::NeverServed(life));
        }
        Ok(vec![Member { life, role: Role::Serving }])
    }

    fn check_serves(&self, by: Life) -> Result<(), Illegal> {
        match self.role(by) {
            Some(Role::Serving) => Ok(()),
            _ => Err(Illegal::NotServing(by)),
        }
    }

    fn check_is_tail(&self, by: Life) -> Result<(), Illegal> {
        if self.tail() == by { Ok(()) } else { Err(Illegal::NotTail(by)) }
    }
}

/// `node 3, start 7`.
impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}, start {}", self.node.0, self.incarnation.0)
    }
}

/// `7: 1/4 2/9 (3/2)`: epoch, then node and incarnation of each member; who is syncing in brackets.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.epoch)?;
        for Member { life, role } in &self.members {
            let name = format_args!("{}/{}", life.node.0, life.incarnation.0);
            match role {
                Role::Serving => write!(f, " {name}")?,
                Role::Syncing => write!(f, " ({name})")?,
            }
        }
        Ok(())
    }
}

/// As it is [displayed](fmt::Display).
impl FromStr for Chain {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (epoch, members) = text.split_once(':').ok_or(Malformed::Text)?;
        let epoch = epoch.parse().map_err(|_| Malformed::Text)?;
        let member = |word: &str| {
            let syncing = word.strip_prefix('(').and_then(|word| word.strip_suffix(')'));
            let role = if syncing.is_some() { Role::Syncing } else { Role::Serving };
            let (node, incarnation) = syncing.unwrap_or(word).split_once('/')?;
            let (node, incarnation) = (node.parse().ok()?, incarnation.parse().ok()?);
            let life = Life { node: NodeId(node), incarnation: Incarnation(incarnation) };
            Some(Member { life, role })
        };
        let members: Option<Vec<Member>> = members.split_whitespace().map(member).collect();
        Chain::new(epoch, members.ok_or(Malformed::Text)?)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::NobodyServes => f.write_str("no member of the chain serves"),
            Malformed::Twice(node) => write!(f, "node {} has two places in the chain", node.0),
            Malformed::SyncingBeforeEnd(node) => {
                write!(f, "node {} is syncing, and not at the end of the chain", node.0)
            }
            Malformed::Text => f.write_str("a chain is written like \"7: 1/4 2/9 (3/2)\""),
            Malformed::TooMany(count) => {
                write!(f, "the chain has {count} members, and may have {MEMBERS_MAX}")
            }
        }
    }
}

impl std::error::Error for Malformed {}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Illegal::NotServing(life) => write!(f, "{life} is no serving member of the chain"),
            Illegal::NotTail(life) => write!(f, "{life} is not the tail of the chain"),
            Illegal::NoMember(life) => write!(f, "{life} is no member of the chain"),
            Illegal::IsMember(node) => {
                write!(f, "node {} is a member of the chain already", node.0)
            }
            Illegal::Syncs(life) => write!(f, "{life} is syncing, and one does at a time"),
            Illegal::NotSyncing(life) => write!(f, "{life} is not syncing"),
            Illegal::DropsNobody => f.write_str("nobody is to be dropped"),
            Illegal::DropsLast => f.write_str("nobody would serve any more"),
            Illegal::NeverServed(life) => {
                write!(f, "{life} has not served in this chain in an earlier incarnation")
            }
            Illegal::Full => write!(f, "the chain has {MEMBERS_MAX} members, which is the most"),
            Illegal::NoEpochLeft => f.write_str("there is no epoch after this one"),
        }
    }
}

impl std::error::Error for Illegal {}

#[cfg(test)]
mod tests;
