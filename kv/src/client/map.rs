//! Which shard of a server has which partition, and the connections to them.

use crate::native::wire::Info;
use crate::slot::{Partition, Partitions, Slot};
use catena_engine::{Client, ClientConfig, Local, Route};
use std::net::SocketAddr;

/// See the module page.
#[derive(Debug)]
pub(super) struct Map {
    partitions: Partitions,
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    client: Client,
    end: u16,
}

impl Map {
    /// What a server has said of itself; connections that `before` has are kept. `None`: that cannot be.
    pub fn new(
        local: &Local,
        entry: &Client,
        info: &Info,
        config: &ClientConfig,
        before: Option<&Map>,
    ) -> Option<Self> {
        let partitions = Partitions::new(info.partitions)?;
        let client = |port: u16| {
            if port == 0 {
                return entry.clone();
            }
            let address = SocketAddr::new(entry.address().ip(), port);
            let mut known = before.iter().flat_map(|map| &map.shards);
            let known = known.find(|shard| shard.client.address() == address);
            known.map_or_else(
                || Client::new(local, address, config.clone()),
                |shard| shard.client.clone(),
            )
        };
        let shards = info.shards.iter().map(|it| Shard { client: client(it.port), end: it.end });
        let shards: Vec<Shard> = shards.collect();
        let is_whole = shards.last().is_some_and(|last| last.end == info.partitions);
        (is_whole && shards.is_sorted_by_key(|shard| shard.end))
            .then_some(Map { partitions, shards })
    }

    /// The partition of a key.
    pub fn partition_of(&self, key: &[u8]) -> u16 {
        Partition::of(Slot::of(key), self.partitions).0
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u16 {
        self.partitions.count()
    }

    /// How a partition's shard is reached.
    pub fn shard_of(&self, partition: u16) -> (&Client, Route) {
        let at = self.shards.partition_point(|shard| shard.end <= partition);
        (&self.shards[at].client, Route(at as u32 + 1))
    }
}
