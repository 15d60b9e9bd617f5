//! `CLUSTER`: where the slots are. Each shard that has a port of its own is a node, so that a cluster client
//! of any language talks to the core that has the key. Without such ports the server is one node.

use super::Place;
use super::subcommand::{Sub, choose, sub};
use crate::command::Done;
use crate::command::error::Error;
use crate::command::number::integer;
use crate::redis::server::Server;
use crate::resp::{Args, Reply};
use crate::slot::{Partition, SLOTS, Slot};
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
        Verb::MyId => reply.bulk(place.server.node_id_of(this(place)).as_bytes()),
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

/// One node.
struct Node {
    shard: ShardIndex,
    id: String,
    host: String,
    port: u16,
    slots: Range<u16>,
}

fn nodes(place: &Place<'_>) -> Vec<Node> {
    let node = |shard: ShardIndex, address: SocketAddr, slots| Node {
        shard,
        id: place.server.node_id_of(shard),
        host: host_of(place.server, address),
        port: address.port(),
        slots,
    };
    let own = &place.addresses.shards;
    if own.is_empty() {
        let shared = place.addresses.shared.map(|address| node(ShardIndex(0), address, 0..SLOTS));
        return shared.into_iter().collect();
    }
    let config = place.store.config();
    let shards = (0..config.shards).map(ShardIndex).zip(own);
    let slots = |shard| {
        let partitions = config.partitions.of_shard(shard, config.shards);
        let first = |partition: u16| match partition < config.partitions.count() {
            true => Partition(partition).slots(config.partitions).start,
            false => SLOTS,
        };
        first(partitions.start)..first(partitions.end)
    };
    shards.map(|(shard, address)| node(shard, *address, slots(shard))).collect()
}

/// The shard whose node the client talks to.
fn this(place: &Place<'_>) -> ShardIndex {
    if place.addresses.shards.is_empty() { ShardIndex(0) } else { place.store.config().shard }
}

fn slots(place: &Place<'_>, reply: &mut Reply<'_>) {
    let mut nodes = nodes(place);
    nodes.retain(|node| !node.slots.is_empty());
    reply.array(nodes.len());
    for node in nodes {
        reply.array(3);
        reply.integer(node.slots.start.into());
        reply.integer(i64::from(node.slots.end) - 1);
        reply.array(4);
        reply.bulk(node.host.as_bytes());
        reply.integer(node.port.into());
        reply.bulk(node.id.as_bytes());
        reply.array(0);
    }
}

fn shards(place: &Place<'_>, reply: &mut Reply<'_>) {
    let nodes = nodes(place);
    reply.array(nodes.len());
    for node in nodes {
        reply.map(2);
        reply.bulk(b"slots");
        if node.slots.is_empty() {
            reply.array(0);
        } else {
            reply.array(2);
            reply.integer(node.slots.start.into());
            reply.integer(i64::from(node.slots.end) - 1);
        }
        reply.bulk(b"nodes");
        reply.array(1);
        reply.map(7);
        reply.bulk(b"id");
        reply.bulk(node.id.as_bytes());
        reply.bulk(b"port");
        reply.integer(node.port.into());
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
    for Node { shard, id, host, port, slots } in nodes(place) {
        let flags = if shard == this(place) { "myself,master" } else { "master" };
        // No bus port: the nodes are one process.
        write!(text, "{id} {host}:{port}@0 {flags} - 0 0 1 connected").expect(STRING);
        match slots.len() {
            0 => {}
            1 => write!(text, " {}", slots.start).expect(STRING),
            _ => write!(text, " {}-{}", slots.start, slots.end - 1).expect(STRING),
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
