//! What the config store holds: the nodes of a cluster, and the chain of each partition. It is small, and
//! changes when something fails, comes or goes.
//!
//! ```text
//! a node ── registers ──► view ── the last of those that are waited for ──► first chains
//! a replica ── proposes ──► view: a chain is replaced by one of the next epoch, or the proposal has lost
//! ```
//!
//! It is written as TOML with a checksum, as the documents of a data directory are, for whoever has to look
//! at it at night.

use super::placement::first_chains;
use crate::chain::{Chain, Incarnation, Life, MEMBERS_MAX, NodeId};
use crate::log::DirectoryId;
use crate::log::manifest::{Problem, VERSION, checked, with_checksum};
use crate::slot::{Partition, Partitions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

/// The most nodes of a cluster: what a config store of a few hundred kilobytes holds, and operators look
/// through.
pub const NODES_MAX: usize = 256;

/// The longest name of a node in bytes: that of a host.
pub const NAME_BYTES_MAX: usize = 255;

/// What is decided when a cluster is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterConfig {
    /// Drawn then: whatever says another one belongs to another cluster.
    pub id: DirectoryId,
    /// How many partitions there are.
    pub partitions: Partitions,
    /// Seed of the tables' hash, the same on all replicas, so that cursors stay good.
    pub hash_seed: u64,
    /// How many members a chain should have.
    pub members: usize,
    /// The first chains are made when so many nodes have registered.
    pub first_nodes: usize,
}

/// A node, in its present start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// As its operator calls it; no other node has it.
    pub name: String,
    /// Which start it is.
    pub incarnation: Incarnation,
    /// Where its shards speak to other nodes.
    pub peers: Vec<SocketAddr>,
    /// Where they speak the Redis protocol.
    pub redis: Vec<SocketAddr>,
}

/// See the module page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    config: ClusterConfig,
    nodes: BTreeMap<NodeId, NodeRecord>,
    /// By partition; none before the first nodes have come.
    chains: Vec<Chain>,
}

/// What is to be changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A node has been started. It gets the incarnation that it asks for, or the next one of those that were
    /// given to its name if that is higher.
    Register(NodeRecord),
    /// A chain takes the place of the one before it.
    Replace(Partition, Chain),
}

/// A change is not made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The chain of this partition has another epoch than the one before the new chain's.
    Epoch(Partition, Option<u32>),
    /// There is no such partition.
    Partition(Partition),
    /// A node's name is empty, too long, or has more than letters, digits, `.`, `-` and `_`.
    Name(String),
    /// There are [`NODES_MAX`].
    NodesFull,
    /// It has no shards, or not as many addresses of one kind as of the other.
    Addresses,
}

impl View {
    /// Of a cluster without nodes.
    pub fn new(config: ClusterConfig) -> Self {
        View { config, nodes: BTreeMap::new(), chains: Vec::new() }
    }

    /// What was decided when it was made.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// Its nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// One of them.
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&id)
    }

    /// The present start of the node of this name.
    pub fn life_of(&self, name: &str) -> Option<Life> {
        let (node, record) = self.nodes.iter().find(|(_, node)| node.name == name)?;
        Some(Life { node: *node, incarnation: record.incarnation })
    }

    /// The chain of a partition, if it has one yet.
    pub fn chain(&self, partition: Partition) -> Option<&Chain> {
        self.chains.get(usize::from(partition.0))
    }

    /// All of them, by partition; none before the first nodes have come.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// Makes a change.
    ///
    /// # Errors
    /// [`Refused`]; nothing is changed then.
    pub fn apply(&mut self, change: &Change) -> Result<(), Refused> {
        match change {
            Change::Register(record) => self.register(record),
            Change::Replace(partition, chain) => self.replace(*partition, chain),
        }
    }

    fn register(&mut self, record: &NodeRecord) -> Result<(), Refused> {
        if !is_name(&record.name) {
            return Err(Refused::Name(record.name.clone()));
        }
        if record.peers.is_empty() || record.peers.len() != record.redis.len() {
            return Err(Refused::Addresses);
        }
        let known = self.nodes.iter().find(|(_, node)| node.name == record.name);
        let (id, next) = match known {
            Some((id, node)) => (*id, Incarnation(node.incarnation.0 + 1)),
            None if self.nodes.len() == NODES_MAX => return Err(Refused::NodesFull),
            None => {
                let last = self.nodes.keys().next_back();
                (NodeId(last.map_or(1, |id| id.0 + 1)), Incarnation(1))
            }
        };
        let incarnation = record.incarnation.max(next);
        self.nodes.insert(id, NodeRecord { incarnation, ..record.clone() });
        if self.chains.is_empty() && self.nodes.len() >= self.config.first_nodes {
            let life = |(id, node): (&NodeId, &NodeRecord)| Life {
                node: *id,
                incarnation: node.incarnation,
            };
            let lives: Vec<Life> = self.nodes.iter().map(life).collect();
            self.chains = first_chains(self.config.partitions, self.config.members, &lives);
        }
        Ok(())
    }

    /// CHAIN §2: by compare-and-swap on the epoch.
    fn replace(&mut self, partition: Partition, chain: &Chain) -> Result<(), Refused> {
        if partition.0 >= self.config.partitions.count() {
            return Err(Refused::Partition(partition));
        }
        let present = self.chains.get_mut(usize::from(partition.0));
        let epoch = present.as_ref().map(|present| present.epoch());
        match present {
            Some(present) if present.epoch().checked_add(1) == Some(chain.epoch()) => {
                *present = chain.clone();
                Ok(())
            }
            _ => Err(Refused::Epoch(partition, epoch)),
        }
    }
}

/// As a document.
impl View {
    /// Its content.
    pub fn encode(&self) -> String {
        let ClusterConfig { id, partitions, hash_seed, members, first_nodes } = &self.config;
        let node = |(id, node): (&NodeId, &NodeRecord)| NodeDocument {
            id: id.0,
            name: node.name.clone(),
            incarnation: node.incarnation.0,
            peers: node.peers.clone(),
            redis: node.redis.clone(),
        };
        with_checksum(&ViewDocument {
            version: VERSION,
            cluster: id.to_string(),
            partitions: partitions.count(),
            hash_seed: format!("{hash_seed:016x}"),
            members: *members,
            first_nodes: *first_nodes,
            chains: self.chains.iter().map(Chain::to_string).collect(),
            nodes: self.nodes.iter().map(node).collect(),
        })
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(content: &[u8]) -> Result<Self, Problem> {
        let document: ViewDocument = checked(content)?;
        let field = |field, expected| Problem::Field { field, expected };
        let partitions = Partitions::new(document.partitions);
        let partitions = partitions.ok_or(field("partitions", "a power of two from 1 to 1024"))?;
        let sound = |number: usize, most| (1..=most).contains(&number);
        if !sound(document.members, MEMBERS_MAX) {
            return Err(field("members", "from 1 to 8"));
        }
        if !sound(document.first_nodes, NODES_MAX) {
            return Err(field("first_nodes", "from 1 to 256"));
        }
        let hexadecimal = |text: &str, digits| {
            let is_it = text.len() == digits && text.bytes().all(|it| it.is_ascii_hexdigit());
            is_it.then(|| u128::from_str_radix(text, 16).ok()).flatten()
        };
        let id = hexadecimal(&document.cluster, 32);
        let id = id.ok_or(field("cluster", "32 hexadecimal digits"))?;
        let seed = hexadecimal(&document.hash_seed, 16);
        let seed = seed.ok_or(field("hash_seed", "16 hexadecimal digits"))?;
        let chains = document.chains.iter().map(|chain| chain.parse().ok());
        let chains: Option<Vec<Chain>> = chains.collect();
        let chains = chains.ok_or(field("chains", "chains like \"7: 1/4 2/9 (3/2)\""))?;
        if !chains.is_empty() && chains.len() != usize::from(partitions.count()) {
            return Err(field("chains", "one for each partition, or none"));
        }
        let mut nodes = BTreeMap::new();
        for NodeDocument { id, name, incarnation, peers, redis } in document.nodes {
            let incarnation = Incarnation(incarnation);
            if !is_name(&name) || nodes.values().any(|node: &NodeRecord| node.name == name) {
                return Err(field("nodes.name", "a name that no other node has"));
            }
            let before = nodes.insert(NodeId(id), NodeRecord { name, incarnation, peers, redis });
            if before.is_some() {
                return Err(field("nodes.id", "a number that no other node has"));
            }
        }
        let config = ClusterConfig {
            id: DirectoryId(id.to_be_bytes()),
            partitions,
            hash_seed: seed as u64,
            members: document.members,
            first_nodes: document.first_nodes,
        };
        Ok(View { config, nodes, chains })
    }
}

/// True of a name that is safe in a line of a log, in a path and in a label of a metric.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

/// Numbers above 2^63 are none of TOML's: these fields are hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ViewDocument {
    version: u32,
    cluster: String,
    partitions: u16,
    hash_seed: String,
    members: usize,
    first_nodes: usize,
    chains: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeDocument {
    id: u16,
    name: String,
    incarnation: u64,
    peers: Vec<SocketAddr>,
    redis: Vec<SocketAddr>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Epoch(partition, None) => {
                write!(f, "partition {} has no chain yet", partition.0)
            }
            Refused::Epoch(partition, Some(epoch)) => {
                write!(f, "the chain of partition {} is of epoch {epoch} by now", partition.0)
            }
            Refused::Partition(partition) => write!(f, "there is no partition {}", partition.0),
            Refused::Name(name) => write!(
                f,
                "{name:?} is no name of a node: 1 to {NAME_BYTES_MAX} letters, digits, '.', '-' and '_'"
            ),
            Refused::NodesFull => write!(f, "a cluster has {NODES_MAX} nodes at most"),
            Refused::Addresses => {
                f.write_str("a node has one address of each kind for each of its shards")
            }
        }
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests;
