//! What each shard of a store runs: it recovers what is on disk, then serves, and at the end lets its log
//! come to rest.
//!
//! ```text
//! shard 0   opens the data directory ─┬─► recovers ─┬─► marks it ─┬─► serves ─► (drain) ─► settles ─► ends
//! shard 1   waits ◄───────────────────┴─► recovers ─┴─► waits ◄───┴─► serves …
//! ```
//!
//! The mark says for all later starts that this one may have acknowledged writes, on so many shards.

use crate::cluster::member::{ClusterMember, Joined, Member, Proposals, Seen};
use crate::cluster::view::View;
use crate::disk::checkpoint::{self, CheckpointConfig};
use crate::disk::former::{self, FormerStarts, Needs};
use crate::disk::journal::{self, Bell};
use crate::disk::manifest_file::ManifestFile;
use crate::disk::next_turn;
use crate::disk::open::{self, DataDirectory};
use crate::disk::recover::{Recovered, recover};
use crate::evict::Eviction;
use crate::log::batch::{LogWriter, WriterConfig};
use crate::log::manifest::Manifest;
use crate::log::{LogIdentity, LogStart};
use crate::native::Native;
use crate::redis::Redis;
use crate::redis::server::Server;
use crate::slot::Partitions;
use crate::store::{Durability, Store, StoreConfig};
use crate::upkeep::{Step, Upkeep};
use catena_engine::application::{Addresses, Message};
use catena_engine::shard_index::ShardIndex;
use catena_engine::stream::{Stream, StreamId, Streams};
use catena_engine::time::Duration;
use catena_engine::{Application, Local, Router};
use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// How a store is run.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where its files are; `None`: nothing outlives the process.
    pub directory: Option<PathBuf>,
    /// When a write is acknowledged. With a directory only.
    pub durability: Durability,
    /// How long a batch waits for more, where nobody waits for it.
    pub batch_interval: Duration,
    /// The length of a segment of the log, in bytes.
    pub segment_bytes: u64,
    /// When a checkpoint is taken.
    pub checkpoints: CheckpointConfig,
    /// How many partitions a new directory has; `None`: the default, or what it has.
    pub partitions: Option<Partitions>,
    /// The longest value in bytes.
    pub value_bytes_max: usize,
    /// Memory of all shards' keys in bytes above which writes are refused.
    pub memory_bytes_max: u64,
    /// What happens to writes then.
    pub eviction: Eviction,
    /// The cluster that it is a member of; then nothing is kept in a directory.
    pub cluster: Option<ClusterMember>,
    /// What commands about the server know of it.
    pub server: Arc<Server>,
    /// Unix time in milliseconds.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Told, once, why this store cannot go on. Nothing is acknowledged after it.
    pub on_failure: Arc<dyn Fn(ShardIndex, String) + Send + Sync>,
    /// Told by each shard when it serves.
    pub on_ready: Arc<dyn Fn(ShardIndex, Recovered) + Send + Sync>,
}

/// The handlers and the application of one shard.
pub fn router(local: &Local, config: &NodeConfig) -> Router {
    let node = Node::new(local, config.clone());
    let router = node.native.route(Router::new());
    let router = match &node.member {
        Some(member) => member.route(router),
        None => router,
    };
    router.application(node)
}

/// See the module page.
struct Node {
    local: Local,
    config: NodeConfig,
    redis: Redis,
    native: Native,
    store: Rc<RefCell<Store>>,
    member: Option<Member>,
    /// On the first shard: what former starts have left.
    former: Option<FormerStarts>,
    has_failed: bool,
    /// The log was asked to come to rest.
    settles: bool,
    /// Rings when the mark of this start is durable.
    may_serve: Bell,
}

/// From the first shard to all: its mark is durable.
struct MayServe;

/// From a shard to itself.
struct AnotherTurn;

/// How large a batch may become while the one before it is on its way to the disk, in bytes. Clients are
/// held long before.
const BATCH_BYTES_MAX: usize = 64 << 20;

impl Node {
    fn new(local: &Local, config: NodeConfig) -> Self {
        // A store that keeps nothing has one epoch, and a process after it another: what clients remember of
        // versions and sessions fits nothing there. In the lower half: a backup's epochs go on from it.
        let epoch = (local.random() as u32 >> 1).max(1);
        let store = Rc::new(RefCell::new(empty(local, &config, 0, epoch, None)));
        let clock = config.clock.clone();
        let server = config.server.clone();
        let redis = Redis::new(local, server.clone(), store.clone(), move || clock());
        let (clock, serving) = (config.clock.clone(), redis.serving());
        let native = Native::new(local, server.clone(), store.clone(), clock, serving);
        let cluster = config.cluster.clone();
        let member = cluster.map(|it| Member::new(local, it, server, store.clone()));
        Node {
            local: local.clone(),
            config,
            redis,
            native,
            store,
            member,
            former: None,
            has_failed: false,
            settles: false,
            may_serve: Bell::default(),
        }
    }

    fn fail(&mut self, reason: String) {
        if !std::mem::replace(&mut self.has_failed, true) {
            (self.config.on_failure)(self.local.shard(), reason);
        }
    }

    /// A shard says what it needs of former starts: what nobody needs is removed.
    fn note(&mut self, from: ShardIndex, needs: Needs) {
        let former = self.former.as_mut().expect("it is the first shard that is told");
        let had_all = former.have_all_recovered();
        let needless = former.note(from, needs);
        if !had_all && former.have_all_recovered() {
            let data = former.data().clone();
            self.mark_served(data, needless);
        } else if !needless.is_empty() {
            let removing = former::remove(self.local.clone(), former.path().into(), needless);
            self.local.spawn(removing).detach();
        }
    }

    /// All have recovered, so all may serve as soon as it is durable that they do. Until then the mark is
    /// that of a former start, whose directory has to be there.
    fn mark_served(&self, data: DataDirectory, needless: Vec<u64>) {
        let (local, on_failure) = (self.local.clone(), self.config.on_failure.clone());
        self.local.spawn_vital(async move {
            match open::mark_served(&local, &data).await {
                Ok(()) => send_to_all(&local, || Box::new(MayServe)),
                Err(error) => return on_failure(local.shard(), error.to_string()),
            }
            former::remove(local, data.path.clone(), needless).await;
        });
    }

    /// What the turn has brought goes to the other replicas. True if something was ordered.
    fn replicate(&self) -> bool {
        self.member.as_ref().is_some_and(Member::turn_ended)
    }

    /// Takes a message about the cluster; gives back one that is none.
    fn of_cluster(&mut self, message: Message) -> Option<Message> {
        let Some(member) = &mut self.member else { return Some(message) };
        let message = match message.downcast::<Joined>() {
            Ok(joined) => {
                let of = joined.view().config();
                let (local, partitions) = (&self.local, Some(of.partitions));
                *self.store.borrow_mut() = empty(local, &self.config, of.hash_seed, 0, partitions);
                member.join(&joined);
                keep_up(&self.local, self.store.clone(), self.config.clock.clone());
                self.see(joined.view());
                return None;
            }
            Err(message) => message,
        };
        let message = match message.downcast::<Seen>() {
            Ok(seen) => {
                self.see(seen.view());
                return None;
            }
            Err(message) => message,
        };
        match message.downcast::<Proposals>() {
            Ok(proposals) => member.propose(*proposals),
            Err(message) => return (!message.is::<AnotherTurn>()).then_some(message),
        }
        None
    }

    /// The view of the cluster is this by now.
    fn see(&mut self, view: &Arc<View>) {
        let Some(member) = &mut self.member else { return };
        if !member.see(view) {
            let name = member.name().to_owned();
            self.fail(format!(
                "another process has joined the cluster as {name:?}: this one is out, and ends. Give each \
                 node a name of its own"
            ));
            return;
        }
        let serving = self.redis.serving();
        if !serving.get() && !view.chains().is_empty() {
            serving.set(true);
            (self.config.on_ready)(self.local.shard(), Recovered::default());
        }
    }

    /// The first shard opens the directory for all.
    fn open(&self, directory: PathBuf) {
        let (local, partitions) = (self.local.clone(), self.config.partitions);
        let on_failure = self.config.on_failure.clone();
        let opening = async move {
            match open::open(&local, &directory, partitions).await {
                Ok(data) => send_to_all(&local, || Box::new(data.clone())),
                Err(error) => on_failure(local.shard(), error.to_string()),
            }
        };
        self.local.spawn_vital(opening);
    }

    /// Takes in what is there, then serves.
    fn recover(&self, data: DataDirectory) {
        let (local, config) = (self.local.clone(), self.config.clone());
        let (store, serving) = (self.store.clone(), self.redis.serving());
        let may_serve = self.may_serve.clone();
        let recovering = async move {
            let partitions = Partitions::new(data.identity.partitions);
            let mut recovered_store =
                empty(&local, &config, data.identity.hash_seed, 0, partitions);
            let (manifest, recovered) = match recover(&local, &data, &mut recovered_store).await {
                Ok(recovered) => recovered,
                Err(error) => return (config.on_failure)(local.shard(), error.to_string()),
            };
            let Manifest { directory, incarnation, shard, .. } = manifest;
            let oldest = manifest.older.iter().map(|older| older.incarnation).min();
            let needs = move |oldest| Box::new(Needs { oldest }) as Message;
            local.send(ShardIndex(0), needs(oldest.unwrap_or(incarnation)));
            may_serve.rung().await;
            let bell = Bell::default();
            let writer = LogWriter::new(
                WriterConfig {
                    segment_bytes: config.segment_bytes,
                    batch_bytes_max: BATCH_BYTES_MAX,
                    partitions: data.identity.partitions,
                },
                LogStart::NEW,
            );
            let epoch = u32::try_from(data.identity.incarnation).unwrap_or(u32::MAX);
            recovered_store.begin_epoch(epoch);
            recovered_store.begin_log(writer, bell.clone(), config.durability);
            *store.borrow_mut() = recovered_store;
            let gathers_for = match config.durability {
                Durability::Sync | Durability::Memory => Duration::ZERO,
                Durability::Batch => config.batch_interval,
            };
            let log = LogIdentity { directory, incarnation, shard };
            let directory = data.of_shard(incarnation, shard);
            let teller = local.clone();
            let published = move || teller.send(ShardIndex(0), needs(incarnation));
            let manifest = Rc::new(ManifestFile::new(directory, manifest));
            journal::begin(&local, log, manifest.clone(), store.clone(), bell, gathers_for);
            let (when, older_bytes) = (config.checkpoints, recovered.log_bytes);
            let clock = config.clock.clone();
            checkpoint::begin(&local, manifest, store.clone(), when, older_bytes, clock, published);
            keep_up(&local, store, config.clock.clone());
            serving.set(true);
            (config.on_ready)(local.shard(), recovered);
        };
        self.local.spawn_vital(recovering);
    }
}

impl Application for Node {
    fn started(&mut self, addresses: Addresses) {
        self.redis.started(addresses.clone());
        self.native.keep_up();
        if let Some(member) = &self.member {
            if self.local.shard() == ShardIndex(0) {
                member.register(&addresses);
            }
            return;
        }
        match &self.config.directory {
            None => {
                keep_up(&self.local, self.store.clone(), self.config.clock.clone());
                self.redis.serving().set(true);
                (self.config.on_ready)(self.local.shard(), Recovered::default());
            }
            Some(directory) if self.local.shard() == ShardIndex(0) => self.open(directory.clone()),
            Some(_) => {}
        }
    }

    fn accepted(&mut self, stream: &mut Stream<'_>) {
        self.redis.accepted(stream);
    }

    fn received(&mut self, bytes: &[u8], stream: &mut Stream<'_>) -> usize {
        self.redis.received(bytes, stream)
    }

    fn closed(&mut self, stream: StreamId) {
        self.redis.closed(stream);
    }

    fn owes(&self, stream: StreamId) -> bool {
        self.redis.owes(stream)
    }

    fn message(&mut self, from: ShardIndex, message: Message, streams: &mut Streams) {
        let message = match message.downcast::<DataDirectory>() {
            Ok(data) => {
                let shards = self.local.shard_count();
                let is_first = self.local.shard() == ShardIndex(0);
                self.former = is_first.then(|| FormerStarts::new((*data).clone(), shards));
                return self.recover(*data);
            }
            Err(message) => message,
        };
        let message = match message.downcast::<Needs>() {
            Ok(needs) => return self.note(from, *needs),
            Err(message) => message,
        };
        let message = match message.downcast::<MayServe>() {
            Ok(_) => return self.may_serve.ring(),
            Err(message) => message,
        };
        if let Some(message) = self.of_cluster(message) {
            self.redis.message(from, message, streams);
        }
    }

    fn turn_ended(&mut self, streams: &mut Streams) {
        // What has committed is answered in the same turn, …
        self.replicate();
        self.redis.turn_ended(streams);
        self.native.turn_ended();
        // … and what was put off until now is replicated as well.
        if self.replicate() {
            self.local.send(self.local.shard(), Box::new(AnotherTurn));
        }
        let failure = self.store.borrow().log_failure().map(ToString::to_string);
        if let Some(failure) = failure {
            self.fail(failure);
        }
    }

    fn is_finished(&mut self) -> bool {
        if !std::mem::replace(&mut self.settles, true) {
            self.store.borrow_mut().settle();
        }
        self.store.borrow().is_settled()
    }
}

fn send_to_all(local: &Local, message: impl Fn() -> Message) {
    for shard in (0..local.shard_count()).map(ShardIndex) {
        local.send(shard, message());
    }
}

/// A store without keys.
fn empty(
    local: &Local,
    config: &NodeConfig,
    hash_seed: u64,
    epoch: u32,
    partitions: Option<Partitions>,
) -> Store {
    Store::in_memory(StoreConfig {
        partitions: partitions.or(config.partitions).unwrap_or_default(),
        shard: local.shard(),
        shards: local.shard_count(),
        hash_seed,
        epoch,
        value_bytes_max: config.value_bytes_max,
        memory_bytes_max: config.memory_bytes_max,
        eviction: config.eviction,
    })
}

/// Does the upkeep of a store, beside its requests.
fn keep_up(local: &Local, store: Rc<RefCell<Store>>, clock: Arc<dyn Fn() -> u64 + Send + Sync>) {
    const IDLE: Duration = Duration::from_millis(100);
    // 256 looks in so long are 1 % of a core.
    const UNHURRIED: Duration = Duration::from_millis(3);
    let on = local.clone();
    let keeping = async move {
        let mut upkeep = Upkeep::default();
        loop {
            let step = upkeep.step(&mut store.borrow_mut(), clock(), || on.random());
            match step {
                Step::More => next_turn().await,
                Step::Later => on.sleep(UNHURRIED).await,
                Step::Idle => on.sleep(IDLE).await,
            }
        }
    };
    local.spawn_vital(keeping);
}

impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig")
            .field("directory", &self.directory)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}
