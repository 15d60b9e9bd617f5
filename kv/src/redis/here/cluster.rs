//! `CLUSTER`: where the slots are. Each shard that has a port of its own is a node, so that a cluster client
//! of any language talks to the core that has the key. Without such ports the server is one node.
//!
//! In a cluster of several servers a node orders the writes of some slots and answers reads of others as
//! well, which Redis has no word for: `SLOTS` tells both, `NODES` and `SHARDS` the former.

use super::Place;
use super::subcommand::{Sub, choose, sub};
use crate::chain::{Life, NodeId};
use crate::cluster::view::View;
use crate::command::Done;
use crate::command::error::Error;
use crate::command::number::integer;
use crate::redis::server::Server;
use crate::resp::{Args, Reply};
use crate::slot::{Partition, Partitions, SLOTS, Slot, shard_of};
use catena_engine::shard_index::ShardIndex;
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;

#[derive(Clone, Copy)]
enum Verb {
    CountKeysInSlot,
    Info,
    KeySlot,
    MyId,
    Nodes,
    Shards,
    Slots,
}

const SUBS: &[Sub<Verb>] = &[
    sub(
        "countkeysinslot",
        3,
        Verb::CountKeysInSlot,
        "COUNTKEYSINSLOT <slot>",
        "Counts the keys that this node has in a slot.",
    ),
    sub("info", 2, Verb::Info, "INFO", "Tells how the cluster is."),
    sub("keyslot", 3, Verb::KeySlot, "KEYSLOT <key>", "Tells the slot of a key."),
    sub("myid", 2, Verb::MyId, "MYID", "Tells the id of this node."),
    sub("nodes", 2, Verb::Nodes, "NODES", "Tells the nodes, one a line."),
    sub("shards", 2, Verb::Shards, "SHARDS", "Tells the nodes and their slots."),
    sub("slots", 2, Verb::Slots, "SLOTS", "Tells the slots and their nodes."),
];

pub(super) fn run(place: &Place<'_>, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let Some(verb) = choose("cluster", SUBS, args, reply)? else { return Ok(()) };
    match verb {
        Verb::CountKeysInSlot => {
            let slot = u16::try_from(integer(args.at(2))?).ok().and_then(Slot::new);
            let slot = slot.ok_or(Error::fixed("ERR Invalid slot"))?;
            reply.integer(place.store.keys_in_slot(slot).into());
        }
        Verb::Info => reply.verbatim(b"txt", info(place).as_bytes()),
        Verb::KeySlot => reply.integer(Slot::of(args.at(2)).number().into()),
        Verb::MyId => {
            let node = nodes(place).into_iter().find(|node| Some(node.address) == this(place));
            reply.bulk(node.map(|node| node.id).unwrap_or_default().as_bytes());
        }
        Verb::Nodes => reply.verbatim(b"txt", lines(place).as_bytes()),
        Verb::Shards => shards(place, reply),
        Verb::Slots => slots(place, reply),
    }
    Ok(())
}

/// The host under which a server that listens on `address` is told to clients; empty: the one that they have
/// connected to.
pub fn host_of(server: &Server, address: SocketAddr) -> String {
    match &server.config.announce {
        Some(host) => host.clone(),
        None if address.ip().is_unspecified() => String::new(),
        None => address.ip().to_string(),
    }
}

/// One node: a shard that has a port of its own.
struct Node {
    id: String,
    address: SocketAddr,
    host: String,
    slots: Vec<Range<u16>>,
}

/// Slots, and who has them: who orders their writes first, then who answers reads as well.
struct Held {
    slots: Range<u16>,
    by: Vec<SocketAddr>,
}

fn nodes(place: &Place<'_>) -> Vec<Node> {
    let view = place.server.view();
    if let Some(view) = &view {
        return nodes_of(place, view);
    }
    let node = |shard: ShardIndex, address: SocketAddr, slots: Range<u16>| Node {
        id: place.server.node_id_of(shard),
        address,
        host: host_of(place.server, address),
        slots: if slots.is_empty() { Vec::new() } else { vec![slots] },
    };
    let own = &place.addresses.shards;
    if own.is_empty() {
        let shared = place.addresses.shared.map(|address| node(ShardIndex(0), address, 0..SLOTS));
        return shared.into_iter().collect();
    }
    let config = place.store.config();
    let shards = (0..config.shards).map(ShardIndex).zip(own);
    let slots =
        |shard| slots_of(config.partitions, config.partitions.of_shard(shard, config.shards));
    shards.map(|(shard, address)| node(shard, *address, slots(shard))).collect()
}

/// The slots of partitions that lie side by side.
fn slots_of(all: Partitions, own: Range<u16>) -> Range<u16> {
    let first = |partition: u16| match partition < all.count() {
        true => Partition(partition).slots(all).start,
        false => SLOTS,
    };
    first(own.start)..first(own.end)
}

/// Those of all nodes of a cluster. Each has the slots whose writes it orders.
fn nodes_of(place: &Place<'_>, view: &View) -> Vec<Node> {
    let held = held(view);
    let node = |id: NodeId, shard: usize, address: SocketAddr| {
        let own = held.iter().filter(|held| held.by.first() == Some(&address));
        let mut slots: Vec<Range<u16>> = Vec::new();
        for Held { slots: more, .. } in own {
            match slots.last_mut() {
                Some(last) if last.end == more.start => last.end = more.end,
                _ => slots.push(more.clone()),
            }
        }
        let id = format!("{}{:04x}{shard:04x}", view.config().id, id.0);
        // What this process announces is said of itself alone.
        let is_own = place.addresses.shards.contains(&address);
        let host = if is_own { host_of(place.server, address) } else { address.ip().to_string() };
        Node { id, address, host, slots }
    };
    let shards = view.nodes().flat_map(|(id, record)| {
        record.redis.iter().enumerate().map(move |(shard, address)| (id, shard, *address))
    });
    shards.map(|(id, shard, address)| node(id, shard, address)).collect()
}

/// Who has which slots of a cluster.
fn held(view: &View) -> Vec<Held> {
    let all = view.config().partitions;
    let mut held: Vec<Held> = Vec::new();
    for (partition, chain) in all.iter().zip(view.chains()) {
        let address = |life: Life| {
            let redis = &view.node(life.node)?.redis;
            let shards = u16::try_from(redis.len()).ok()?;
            redis.get(shard_of(partition, all, shards).index()).copied()
        };
        let by: Vec<SocketAddr> = chain.serving().filter_map(address).collect();
        let slots = partition.slots(all);
        match held.last_mut() {
            Some(last) if last.by == by && last.slots.end == slots.start => {
                last.slots.end = slots.end;
            }
            _ => held.push(Held { slots, by }),
        }
    }
    held
}

/// The address of the node that the client talks to.
fn this(place: &Place<'_>) -> Option<SocketAddr> {
    let own = place.addresses.shards.get(place.store.config().shard.index()).copied();
    own.or(place.addresses.shared)
}

fn slots(place: &Place<'_>, reply: &mut Reply<'_>) {
    let nodes = nodes(place);
    let held = match place.server.view() {
        Some(view) => held(&view),
        None => {
            let of = |node: &Node| {
                let slots = node.slots.first()?.clone();
                Some(Held { slots, by: vec![node.address] })
            };
            nodes.iter().filter_map(of).collect()
        }
    };
    reply.array(held.len());
    for Held { slots, by } in held {
        let by = by.iter().filter_map(|address| nodes.iter().find(|it| it.address == *address));
        let by: Vec<&Node> = by.collect();
        reply.array(2 + by.len());
        reply.integer(slots.start.into());
        reply.integer(i64::from(slots.end) - 1);
        for Node { id, host, address, .. } in by {
            reply.array(4);
            reply.bulk(host.as_bytes());
            reply.integer(address.port().into());
            reply.bulk(id.as_bytes());
            reply.array(0);
        }
    }
}

fn shards(place: &Place<'_>, reply: &mut Reply<'_>) {
    let nodes = nodes(place);
    reply.array(nodes.len());
    for node in nodes {
        reply.map(2);
        reply.bulk(b"slots");
        reply.array(2 * node.slots.len());
        for slots in &node.slots {
            reply.integer(slots.start.into());
            reply.integer(i64::from(slots.end) - 1);
        }
        reply.bulk(b"nodes");
        reply.array(1);
        reply.map(7);
        reply.bulk(b"id");
        reply.bulk(node.id.as_bytes());
        reply.bulk(b"port");
        reply.integer(node.address.port().into());
        for (name, value) in [("ip", &*node.host), ("endpoint", &*node.host), ("role", "master")] {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
        reply.bulk(b"replication-offset");
        reply.integer(0);
        reply.bulk(b"health");
        reply.bulk(b"online");
    }
}

fn lines(place: &Place<'_>) -> String {
    let mut text = String::new();
    for Node { id, host, address, slots } in nodes(place) {
        let port = address.port();
        let flags = if this(place) == Some(address) { "myself,master" } else { "master" };
        // No bus port: what nodes say to each other is no business of clients.
        write!(text, "{id} {host}:{port}@0 {flags} - 0 0 1 connected").expect(STRING);
        for slots in slots {
            match slots.len() {
                1 => write!(text, " {}", slots.start).expect(STRING),
                _ => write!(text, " {}-{}", slots.start, slots.end - 1).expect(STRING),
            }
        }
        text.push('\n');
    }
    text
}

const STRING: &str = "a string takes it all";

fn info(place: &Place<'_>) -> String {
    let nodes = nodes(place);
    let with_slots = nodes.iter().filter(|node| !node.slots.is_empty()).count();
    format!(
        "cluster_state:ok\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{SLOTS}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{}\r\n\
         cluster_size:{with_slots}\r\ncluster_current_epoch:1\r\ncluster_my_epoch:1\r\n",
        nodes.len()
    )
}
