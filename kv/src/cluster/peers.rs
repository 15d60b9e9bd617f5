//! The other nodes' shards, as one shard speaks to them: a call for what a turn has to say, on one connection
//! each. What becomes of a call tells what has come; what is said in it has no other answer.

use crate::chain::NodeId;
use crate::store::Store;
use catena_engine::client::{Client, ClientConfig};
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Duration;
use catena_engine::wire::frame::MethodId;
use catena_engine::wire::metadata::{MetadataBuf, TOKEN};
use catena_engine::{CallError, Local, Status};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// The method by which replicas speak to each other. The payload: the cluster's id, 16 bytes, and messages as
/// [`crate::replica::wire`] has them.
pub const TELL: &str = "kv.peer.tell";

/// After so long a connection on which nothing is answered is taken for lost: a few heartbeats.
const PATIENCE: Duration = Duration::from_millis(500);

/// See the module page.
pub struct Peers {
    local: Local,
    store: Rc<RefCell<Store>>,
    cluster: [u8; 16],
    /// The password as every call carries it, if there is one: that of all nodes is the same.
    metadata: Option<MetadataBuf>,
    clients: BTreeMap<(NodeId, ShardIndex), Client>,
    /// Those that are known not to belong to this cluster: told once.
    strangers: Rc<RefCell<Vec<SocketAddr>>>,
}

impl Peers {
    /// None yet.
    pub fn new(
        local: &Local,
        store: Rc<RefCell<Store>>,
        cluster: [u8; 16],
        password: Option<&str>,
    ) -> Self {
        let (local, clients) = (local.clone(), BTreeMap::new());
        let metadata = password.map(|password| {
            let mut metadata = MetadataBuf::default();
            let pushed = metadata.push(TOKEN, password.as_bytes());
            pushed.expect("a password is no longer than metadata may be");
            metadata
        });
        Peers { local, store, cluster, metadata, clients, strangers: Rc::default() }
    }

    /// Where the shards of a node are reached.
    pub fn set(&mut self, node: NodeId, addresses: &[SocketAddr]) {
        for (shard, address) in (0..).map(ShardIndex).zip(addresses) {
            let known = self.clients.get(&(node, shard));
            if known.is_some_and(|client| client.address() == *address) {
                continue;
            }
            let config = ClientConfig { waits_for_connection: false, ..ClientConfig::default() };
            self.clients.insert((node, shard), Client::new(&self.local, *address, config));
        }
    }

    /// Says what there is to say.
    pub fn send(&self) {
        let mut store = self.store.borrow_mut();
        let mut outbound = Vec::new();
        for (to, bytes) in store.messages() {
            let mut payload = Vec::with_capacity(self.cluster.len() + bytes.len());
            payload.extend_from_slice(&self.cluster);
            payload.append(bytes);
            outbound.push((to, payload));
        }
        for (to, payload) in outbound {
            let Some(client) = self.clients.get(&to) else { continue };
            let bytes = payload.len();
            store.messages_sent(to, bytes);
            let mut call = client.call(MethodId::of(TELL), payload).timeout(PATIENCE);
            if let Some(metadata) = &self.metadata {
                call = call.metadata(metadata.clone());
            }
            let call = call.into_future();
            let (store, address) = (self.store.clone(), client.address());
            let strangers = self.strangers.clone();
            let ended = async move {
                let result = call.await;
                let mut store = store.borrow_mut();
                store.messages_ended(to, bytes);
                let Err(error) = result else { return };
                store.disconnected(to.0, to.1);
                let CallError::Status { status, payload } = error else { return };
                let is_refused = [Status::DENIED, Status::UNAUTHENTICATED].contains(&status);
                if is_refused && !strangers.borrow().contains(&address) {
                    strangers.borrow_mut().push(address);
                    let why = String::from_utf8_lossy(&payload);
                    tracing::error!(%address, %why, "a node of the cluster takes nothing from this one");
                }
            };
            self.local.spawn(ended).detach();
        }
    }
}
