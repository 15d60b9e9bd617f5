//! Where the view of a cluster is kept: a small linearizable store that nothing on the way of a request asks.

pub mod directory;

use super::view::{Change, Refused, View};
use catena_engine::Local;
use catena_engine::time::Duration;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// A config store, as the first shard of a node asks it.
pub trait ConfigStore: Send + Sync {
    /// The view, now.
    fn read(&self, local: &Local) -> Asked<View>;

    /// Makes changes, one after the other: each, or says why not. With the view behind them.
    fn change(&self, local: &Local, changes: Vec<Change>) -> Asked<Changed>;
}

/// What it answers, later.
pub type Asked<T> = Pin<Box<dyn Future<Output = Result<T, ConfigStoreError>>>>;

/// What became of changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// Of each.
    pub results: Vec<Result<(), Refused>>,
    /// Behind them.
    pub view: View,
}

/// It does not answer. What was to be changed may have been, or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigStoreError(pub String);

impl fmt::Display for ConfigStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigStoreError {}

/// One in memory, for clusters in one process: those of the simulator.
#[derive(Clone, Debug)]
pub struct InMemory {
    view: Arc<Mutex<View>>,
    /// How long it takes to answer.
    delay: Duration,
}

impl InMemory {
    /// With this view.
    pub fn new(view: View, delay: Duration) -> Self {
        InMemory { view: Arc::new(Mutex::new(view)), delay }
    }

    /// The view, now.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ConfigStore for InMemory {
    fn read(&self, local: &Local) -> Asked<View> {
        let (store, local) = (self.clone(), local.clone());
        Box::pin(async move {
            local.sleep(store.delay).await;
            Ok(store.view())
        })
    }

    fn change(&self, local: &Local, changes: Vec<Change>) -> Asked<Changed> {
        let (store, local) = (self.clone(), local.clone());
        Box::pin(async move {
            local.sleep(store.delay).await;
            let mut view = store.view.lock().unwrap_or_else(PoisonError::into_inner);
            let results = changes.iter().map(|change| view.apply(change)).collect();
            Ok(Changed { results, view: view.clone() })
        })
    }
}
