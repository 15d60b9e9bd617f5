//! Which endpoints there are: told once, or looked up again and again.
//!
//! ```text
//! thread "discovery":  find ─► publish if it differs ─► wait, until there is reason to look again
//!                        └ failed: what is known stays in use, and the trouble is told
//! any shard:           version changed? ─► list ─► Balancer::set_members: those that left drain
//! ```
//!
//! A [`Source`] runs on a thread of its own, where it may block (a resolver, a file system, a config
//! store's connection). What it finds is published as one list; balancers on any shard look at a version
//! number now and then, and take the list when it has changed. The thread ends soon after the last handle
//! is dropped.
//!
//! A source that fails keeps what it had: an outage of a name server must not be one of the service.

mod closing;
mod dns;
mod file;

pub use closing::Closing;
pub use dns::Dns;
pub use file::EndpointFile;

use crate::config::WEIGHT_MAX;
use catena_engine::time::Duration;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How often sources that have to ask do so, unless told otherwise.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// One endpoint, with where it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Resolved {
    /// Where to connect.
    pub address: SocketAddr,
    /// Its share relative to the others' under equal conditions, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
}

impl From<SocketAddr> for Resolved {
    fn from(address: SocketAddr) -> Self {
        Resolved { address, weight: 1 }
    }
}

/// Finds endpoints.
pub trait Source: Send + 'static {
    /// All endpoints as they are now; may block for as long as an answer takes.
    ///
    /// # Errors
    /// Why there is no answer this time; what was found before stays in use.
    fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError>;

    /// Waits until there is reason to look again, or `closing` says that nobody needs to know any more.
    /// A source that is told of changes (a config store's watch) waits for them here, with a bound on
    /// each wait after which it looks at [`Closing::is_closed`].
    fn wait(&mut self, closing: &Closing) {
        closing.sleep(LOOK_INTERVAL);
    }

    /// What it is, for messages: `dns example.org:7400`, `file endpoints.txt`.
    fn describe(&self) -> String;
}

/// Why endpoints could not be found.
#[derive(Debug)]
pub enum DiscoveryError {
    /// There are none: nothing to balance over.
    NoEndpoints {
        /// Where they were looked for.
        source: String,
    },
    /// A name could not be resolved.
    Resolve {
        /// The name.
        name: String,
        /// What the resolver says.
        error: io::Error,
    },
    /// A file could not be read.
    Read {
        /// Which one.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// A line of a file, or an argument, is no endpoint.
    Malformed {
        /// Where: a file and line, or an argument.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Its thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiscoveryError::NoEndpoints { source } => {
                write!(f, "{source}: no endpoints; name at least one as HOST:PORT")
            }
            DiscoveryError::Resolve { name, error } => {
                write!(f, "cannot resolve {name}: {error}; is the name right, and the resolver up?")
            }
            DiscoveryError::Read { path, error } => write!(f, "cannot read {path}: {error}"),
            DiscoveryError::Malformed { place, reason } => write!(f, "{place}: {reason}"),
            DiscoveryError::Thread(error) => {
                write!(f, "cannot start the thread that looks for endpoints: {error}")
            }
        }
    }
}

impl std::error::Error for DiscoveryError {}

/// The endpoints as they are known; clones see the same. With the last one the search for more ends.
#[derive(Clone, Debug)]
pub struct Endpoints(Arc<Published>);

#[derive(Debug)]
struct Published {
    version: AtomicU64,
    current: Mutex<Current>,
    closing: Arc<Closing>,
}

#[derive(Debug)]
struct Current {
    list: Arc<[Resolved]>,
    /// Why the last look was in vain.
    trouble: Option<Arc<str>>,
}

impl Endpoints {
    /// These, for good.
    ///
    /// # Errors
    /// If there are none, if one is named twice, or if a weight is out of its bounds.
    pub fn fixed(list: impl IntoIterator<Item = Resolved>) -> Result<Self, DiscoveryError> {
        Ok(Endpoints::of(strict(list)?))
    }

    /// Those that `source` finds, from now on; it looks for the first time before this returns.
    ///
    /// # Errors
    /// Why it finds nothing the first time.
    pub fn watch(mut source: impl Source) -> Result<Self, DiscoveryError> {
        let endpoints = Endpoints::of(tidy(source.find()?, &source.describe())?);
        let (published, closing) = (Arc::downgrade(&endpoints.0), endpoints.0.closing.clone());
        let builder = std::thread::Builder::new().name("discovery".to_owned());
        builder
            .spawn(move || follow(source, &published, &closing))
            .map_err(DiscoveryError::Thread)?;
        Ok(endpoints)
    }

    /// Counts the changes; cheap to look at.
    #[inline]
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The list as it is now: in order of address, each once.
    pub fn list(&self) -> Arc<[Resolved]> {
        self.0.current().list.clone()
    }

    /// Why the last look was in vain; `None`: it was not. The list is the last good one meanwhile.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.0.current().trouble.clone()
    }

    /// Puts another list in its place.
    ///
    /// # Errors
    /// As [`Endpoints::fixed`]; what was there stays.
    pub fn replace(&self, list: impl IntoIterator<Item = Resolved>) -> Result<(), DiscoveryError> {
        self.0.publish(strict(list)?);
        Ok(())
    }

    fn of(list: Arc<[Resolved]>) -> Self {
        let current = Mutex::new(Current { list, trouble: None });
        let closing = Arc::default();
        Endpoints(Arc::new(Published { version: AtomicU64::new(1), current, closing }))
    }
}

impl Published {
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, list: Arc<[Resolved]>) {
        let mut current = self.current();
        current.trouble = None;
        if *current.list != *list {
            current.list = list;
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.closing.close();
    }
}

/// Publishes what is found for as long as anybody looks.
fn follow(mut source: impl Source, published: &Weak<Published>, closing: &Closing) {
    loop {
        source.wait(closing);
        if closing.is_closed() {
            return;
        }
        let found = source.find().and_then(|list| tidy(list, &source.describe()));
        let Some(published) = published.upgrade() else { return };
        let before = published.current().trouble.clone();
        match found {
            Ok(list) => {
                if before.is_some() {
                    tracing::info!(source = source.describe(), "endpoints are found again");
                }
                published.publish(list);
            }
            Err(error) => {
                let trouble: Arc<str> = error.to_string().into();
                // Said once, not at every look.
                if before.is_none_or(|before| before != trouble) {
                    let source = source.describe();
                    tracing::warn!(source, %error, "no endpoints found; those known stay in use");
                }
                published.current().trouble = Some(trouble);
            }
        }
    }
}

/// In order, each address once (with its greatest weight: a name may lead to what another leads to), none
/// without weight, and not none.
fn tidy(mut list: Vec<Resolved>, source: &str) -> Result<Arc<[Resolved]>, DiscoveryError> {
    let bounds = 1..=WEIGHT_MAX;
    if let Some(wrong) = list.iter().find(|endpoint| !bounds.contains(&endpoint.weight)) {
        return Err(DiscoveryError::Malformed {
            place: source.to_owned(),
            reason: format!(
                "weight of {} is {}; it must be between 1 and {WEIGHT_MAX}",
                wrong.address, wrong.weight
            ),
        });
    }
    list.sort_unstable_by(|a, b| b.cmp(a));
    list.dedup_by(|later, kept| later.address == kept.address);
    list.reverse();
    match list.is_empty() {
        true => Err(DiscoveryError::NoEndpoints { source: source.to_owned() }),
        false => Ok(list.into()),
    }
}

/// The same of a list that somebody wrote: an address in it twice is a slip.
fn strict(list: impl IntoIterator<Item = Resolved>) -> Result<Arc<[Resolved]>, DiscoveryError> {
    let place = "the list of endpoints";
    let list: Vec<Resolved> = list.into_iter().collect();
    let count = list.len();
    let mut addresses: Vec<SocketAddr> = list.iter().map(|endpoint| endpoint.address).collect();
    let tidied = tidy(list, place)?;
    if tidied.len() == count {
        return Ok(tidied);
    }
    addresses.sort_unstable();
    let twice = addresses.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    let twice = twice.expect("fewer are left, so one was there twice");
    let reason = format!("{twice} is there twice; give it a weight to send it more");
    Err(DiscoveryError::Malformed { place: place.to_owned(), reason })
}

#[cfg(test)]
mod tests;
