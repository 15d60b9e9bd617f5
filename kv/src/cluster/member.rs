//! A shard of a node as a member of a cluster: it registers, hears of changes of the view, and has its
//! replicas speak and act.
//!
//! ```text
//! shard 0   registers ─► config store ─► view ─┬─► shard 0 …   replicas of its partitions
//!           proposals ─► config store          └─► shard 1 …
//! ```

use super::config_store::{Changed, ConfigStore};
use super::peers::{Peers, TELL};
use super::view::{Change, NodeRecord, View};
use crate::chain::{Incarnation, Life};
use crate::fields::Malformed;
use crate::log::DirectoryId;
use crate::redis::here::connection::is_same;
use crate::redis::server::Server;
use crate::replica::ReplicaConfig;
use crate::slot::Partition;
use crate::store::Store;
use catena_engine::application::Addresses;
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Duration;
use catena_engine::wire::metadata::TOKEN;
use catena_engine::{Local, Router, Status};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// What a node is told of its cluster.
#[derive(Clone)]
pub struct ClusterMember {
    /// As its operator calls it.
    pub name: String,
    /// Where the view is kept.
    pub config_store: Arc<dyn ConfigStore>,
    /// Times of its replicas, the same on all nodes.
    pub replica: ReplicaConfig,
}

/// From one look at the config store to the next: who has missed a change hears of it from the others before.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long to wait before a config store that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// From the first shard to all: the node has registered.
#[derive(Clone, Debug)]
pub struct Joined {
    life: Life,
    view: Arc<View>,
}

/// From the first shard to all: the view, newer or not.
#[derive(Clone, Debug)]
pub struct Seen(Arc<View>);

/// From a shard to the first: chains that are to take the place of those before them.
#[derive(Debug)]
pub struct Proposals(Vec<Change>);

/// See the module page.
pub struct Member {
    local: Local,
    config: ClusterMember,
    server: Arc<Server>,
    store: Rc<RefCell<Store>>,
    /// As soon as it has joined.
    joined: Option<(Life, Peers)>,
    /// On the first shard: the view that was told last.
    told: Rc<RefCell<Option<Arc<View>>>>,
    /// The same, for whoever hears other nodes.
    cluster: Rc<Cell<Option<DirectoryId>>>,
}

impl Member {
    /// It has not joined yet.
    pub fn new(
        local: &Local,
        config: ClusterMember,
        server: Arc<Server>,
        store: Rc<RefCell<Store>>,
    ) -> Self {
        let (local, told, cluster) = (local.clone(), Rc::default(), Rc::default());
        Member { local, config, server, store, joined: None, told, cluster }
    }

    /// Adds the method by which others speak to it.
    pub fn route(&self, router: Router) -> Router {
        let (local, store, cluster) =
            (self.local.clone(), self.store.clone(), self.cluster.clone());
        let server = self.server.clone();
        router.method(TELL, move |request, reply| {
            if let Some(password) = &server.config.password {
                let token = request.metadata().find(TOKEN).ok().flatten();
                if !token.is_some_and(|token| is_same(token, password.as_bytes())) {
                    return reply.fail(Status::UNAUTHENTICATED, "it has another password");
                }
            }
            let Some(cluster) = cluster.get() else {
                return reply.fail(Status::UNAVAILABLE, "this node has not joined its cluster yet");
            };
            let Some((id, messages)) = request.payload().split_first_chunk() else {
                return reply.fail(Status::MALFORMED, "the id of a cluster is missing");
            };
            if DirectoryId(*id) != cluster {
                return reply.fail(Status::DENIED, "this node is one of another cluster");
            }
            match store.borrow_mut().take_messages(local.now(), messages) {
                Ok(()) => reply.answer(Status::OK, (&[]).into()),
                Err(Malformed(text)) => reply.fail(Status::MALFORMED, text),
            }
        })
    }

    /// The first shard registers the node, and goes on looking at the view.
    pub fn register(&self, addresses: &Addresses) {
        let ports = self.local.shard_ports();
        let peer = |(address, port): (&SocketAddr, u16)| SocketAddr::new(address.ip(), port);
        let record = NodeRecord {
            name: self.config.name.clone(),
            incarnation: Incarnation(0),
            peers: addresses.shards.iter().zip(ports).map(peer).collect(),
            redis: addresses.shards.clone(),
        };
        let (local, config, told) = (self.local.clone(), self.config.clone(), self.told.clone());
        self.local.spawn_vital(async move {
            loop {
                let change = vec![Change::Register(record.clone())];
                match config.config_store.change(&local, change).await {
                    Ok(Changed { results, view }) => {
                        if let Err(refused) = &results[0] {
                            tracing::error!(%refused, "the cluster does not take this node");
                            return;
                        }
                        let life = view.life_of(&config.name).expect("it has registered");
                        let joined = Joined { life, view: Arc::new(view) };
                        tell_all(&local, || Box::new(joined.clone()));
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the config store does not take this node yet");
                        local.sleep(ASK_AGAIN).await;
                    }
                }
            }
            loop {
                local.sleep(LOOK_INTERVAL).await;
                if let Ok(view) = config.config_store.read(&local).await {
                    tell(&local, &told, view);
                }
            }
        });
    }

    /// It has registered: its replicas begin, with what the view says of them.
    pub fn join(&mut self, joined: &Joined) {
        let Joined { life, view } = joined;
        let (life, config) = (*life, view.config());
        let mut store = self.store.borrow_mut();
        store.replicate(life, self.config.replica, config.members, false);
        drop(store);
        let password = self.server.config.password.as_deref();
        let peers = Peers::new(&self.local, self.store.clone(), config.id.0, password);
        self.cluster.set(Some(config.id));
        self.joined = Some((life, peers));
        let (local, store, interval) =
            (self.local.clone(), self.store.clone(), self.config.replica.heartbeat);
        self.local.spawn_vital(async move {
            loop {
                local.sleep(interval).await;
                store.borrow_mut().tick(local.now());
            }
        });
    }

    /// The view is this by now. False: this node has been started again elsewhere, and is to end.
    pub fn see(&mut self, view: &Arc<View>) -> bool {
        let Some((life, peers)) = &mut self.joined else { return true };
        let mut is_current = true;
        let mut store = self.store.borrow_mut();
        for (id, node) in view.nodes() {
            if id == life.node {
                is_current = node.incarnation == life.incarnation;
                continue;
            }
            let shards = u16::try_from(node.peers.len()).unwrap_or(u16::MAX);
            store.node_has_shards(id, shards);
            peers.set(id, &node.peers);
        }
        let own = store.own_partitions();
        for partition in own.map(Partition) {
            if let Some(chain) = view.chain(partition) {
                store.chain_seen(partition, chain);
            }
        }
        self.server.set_view(view.clone());
        is_current
    }

    /// As its operator calls it.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What the turn has brought is acted on, and said. True if something was ordered since this was asked.
    pub fn turn_ended(&self) -> bool {
        let Some((_, peers)) = &self.joined else { return false };
        let (has_ordered, proposals) = {
            let mut store = self.store.borrow_mut();
            (store.replicate_turn(self.local.now()), store.take_proposals())
        };
        peers.send();
        if !proposals.is_empty() {
            let change = |(partition, chain)| Change::Replace(partition, chain);
            let proposals = Proposals(proposals.into_iter().map(change).collect());
            self.local.send(ShardIndex(0), Box::new(proposals));
        }
        has_ordered
    }

    /// As the first shard: has the config store take what shards propose.
    pub fn propose(&self, Proposals(changes): Proposals) {
        let (local, config, told) = (self.local.clone(), self.config.clone(), self.told.clone());
        let proposing = async move {
            // Without an answer it is not known what became of them: whoever proposed asks again.
            if let Ok(Changed { view, .. }) = config.config_store.change(&local, changes).await {
                tell(&local, &told, view);
            }
        };
        self.local.spawn(proposing).detach();
    }
}

/// Tells all shards the view, if it is another one than that before.
fn tell(local: &Local, told: &Rc<RefCell<Option<Arc<View>>>>, view: View) {
    let mut told = told.borrow_mut();
    if told.as_deref() != Some(&view) {
        let view = told.insert(Arc::new(view)).clone();
        tell_all(local, || Box::new(Seen(view.clone())));
    }
}

fn tell_all(local: &Local, message: impl Fn() -> catena_engine::application::Message) {
    for shard in (0..local.shard_count()).map(ShardIndex) {
        local.send(shard, message());
    }
}

impl Joined {
    /// The view behind that.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }
}

impl Seen {
    /// What was seen.
    pub fn view(&self) -> &Arc<View> {
        &self.0
    }
}

impl fmt::Debug for ClusterMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterMember").field("name", &self.name).finish_non_exhaustive()
    }
}
