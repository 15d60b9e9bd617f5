//! `catena cluster`.

use crate::Failure;
use crate::cli::{ClusterArgs, ClusterVerb, InitArgs, StatusArgs};
use crate::facts::random_bits;
use catena_kv::cluster::config_store::directory::InDirectory;
use catena_kv::cluster::view::{ClusterConfig, View};
use catena_kv::log::DirectoryId;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{ErrorKind, Write as _};

/// Does what is asked for.
///
/// # Errors
/// If the config store cannot be read or written, or has a cluster already.
pub fn run(args: &ClusterArgs) -> Result<(), Failure> {
    match &args.verb {
        ClusterVerb::Init(args) => init(args),
        ClusterVerb::Status(args) => status(args),
    }
}

fn init(args: &InitArgs) -> Result<(), Failure> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random_bits().to_le_bytes());
    id[8..].copy_from_slice(&random_bits().to_le_bytes());
    let config = ClusterConfig {
        id: DirectoryId(id),
        partitions: args.partitions,
        hash_seed: random_bits(),
        members: usize::try_from(args.replicas)?,
        first_nodes: usize::try_from(args.nodes)?,
    };
    InDirectory::create(&args.store, &View::new(config))?;
    let path = args.store.display();
    println!("made a cluster; start {} nodes, each with a name of its own:", args.nodes);
    println!("  catena serve --cluster directory:{path} --node NAME --listen PORT");
    Ok(())
}

fn status(args: &StatusArgs) -> Result<(), Failure> {
    let view = InDirectory::look(&args.store)?;
    let written = std::io::stdout().write_all(described(&view)?.as_bytes());
    match written {
        // Whoever reads has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn described(view: &View) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let out = &mut text;
    writeln!(out, "cluster {}: {} partitions", view.config().id, view.config().partitions.count())?;
    let mut heads: BTreeMap<_, usize> = BTreeMap::new();
    for chain in view.chains() {
        *heads.entry(chain.head().node).or_default() += 1;
    }
    for (id, node) in view.nodes() {
        let headed = heads.get(&id).copied().unwrap_or(0);
        let redis: Vec<String> = node.redis.iter().map(ToString::to_string).collect();
        let (name, start, shards) = (&node.name, node.incarnation.0, redis.join(" "));
        writeln!(
            out,
            "node {} {name:?}: start {start}, head of {headed} partitions, shards at {shards}",
            id.0
        )?;
    }
    if view.chains().is_empty() {
        let (come, wanted) = (view.nodes().count(), view.config().first_nodes);
        writeln!(
            out,
            "{come} of {wanted} nodes have come; nothing is served before the others have"
        )?;
    }
    // Epoch, then node and start of each member, head first; who is syncing in brackets.
    for (partition, chain) in view.chains().iter().enumerate() {
        writeln!(out, "partition {partition} epoch {chain}")?;
    }
    Ok(text)
}
