//! Which endpoints there are: told once, or looked up again and again.
//!
//! A [`Source`] runs on a thread of its own, where it may block (a resolver, a file system, a config
//! store's connection). What it finds is published as one list; balancers on any shard look at a version
//! number now and then, and take the list when it has changed.
//!
//! A source that fails keeps what it had: an outage of a name server must not be one of the service.

mod dns;
mod file;

pub use dns::Dns;
pub use file::EndpointFile;

use catena_engine::time::Duration;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One endpoint, with where it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Resolved {
    /// Where to connect.
    pub address: SocketAddr,
    /// Its share relative to the others' under equal conditions, at least 1.
    pub weight: u32,
}

impl From<SocketAddr> for Resolved {
    fn from(address: SocketAddr) -> Self {
        Resolved { address, weight: 1 }
    }
}

/// Finds endpoints.
pub trait Source: Send + 'static {
    /// All endpoints, as soon as there is reason to look; may block for that long. Called again at once.
    ///
    /// # Errors
    /// Why there is no answer this time; what was found before stays in use.
    fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError>;

    /// What it is, for messages: `dns example.org:7400`, `file endpoints.toml`.
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

/// The endpoints as they are known; clones see the same.
#[derive(Clone, Debug)]
pub struct Endpoints(Arc<Published>);

#[derive(Debug)]
struct Published {
    version: AtomicU64,
    list: Mutex<Arc<[Resolved]>>,
}

impl Published {
    fn list(&self) -> MutexGuard<'_, Arc<[Resolved]>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoints {
    /// These, for good.
    ///
    /// # Errors
    /// If there are none.
    pub fn fixed(list: impl IntoIterator<Item = Resolved>) -> Result<Self, DiscoveryError> {
        let list = tidy(list.into_iter().collect(), "the list of endpoints")?;
        Ok(Endpoints(Arc::new(Published { version: AtomicU64::new(1), list: Mutex::new(list) })))
    }

    /// Those that `source` finds, from now on; it looks for the first time before this returns.
    ///
    /// # Errors
    /// Why it finds nothing the first time.
    pub fn watch(mut source: impl Source) -> Result<Self, DiscoveryError> {
        let first = tidy(source.find()?, &source.describe())?;
        let endpoints = Endpoints::fixed(first.iter().cloned())?;
        let published = Arc::downgrade(&endpoints.0);
        let builder = std::thread::Builder::new().name("discovery".to_owned());
        builder.spawn(move || follow(source, &published)).map_err(DiscoveryError::Thread)?;
        Ok(endpoints)
    }

    /// Counts the changes; cheap to look at.
    #[inline]
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The list as it is now: in order of address, each once.
    pub fn list(&self) -> Arc<[Resolved]> {
        self.0.list().clone()
    }

    /// Puts another list in its place.
    ///
    /// # Errors
    /// If there are no endpoints in it: what was stays.
    pub fn replace(&self, list: impl IntoIterator<Item = Resolved>) -> Result<(), DiscoveryError> {
        self.0.publish(tidy(list.into_iter().collect(), "the list of endpoints")?);
        Ok(())
    }
}

impl Published {
    fn publish(&self, list: Arc<[Resolved]>) {
        let mut current = self.list();
        if **current != *list {
            *current = list;
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

/// Publishes what is found for as long as anybody looks.
fn follow(mut source: impl Source, published: &Weak<Published>) {
    let mut failed = false;
    loop {
        let found = source.find().and_then(|list| tidy(list, &source.describe()));
        let Some(published) = published.upgrade() else { return };
        match found {
            Ok(list) => {
                if std::mem::take(&mut failed) {
                    tracing::info!(source = source.describe(), "endpoints are found again");
                }
                published.publish(list);
            }
            Err(error) => {
                failed = true;
                let source = source.describe();
                tracing::warn!(source, %error, "no endpoints found; those known stay in use");
            }
        }
    }
}

/// In order, each address once (with its greatest weight), and not none.
fn tidy(mut list: Vec<Resolved>, source: &str) -> Result<Arc<[Resolved]>, DiscoveryError> {
    list.sort_unstable_by(|a, b| b.cmp(a));
    list.dedup_by(|later, kept| later.address == kept.address);
    list.reverse();
    match list.is_empty() {
        true => Err(DiscoveryError::NoEndpoints { source: source.to_owned() }),
        false => Ok(list.into()),
    }
}

/// How often sources that have to ask do so, unless told otherwise.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn at(port: u16) -> Resolved {
        SocketAddr::from(([127, 0, 0, 1], port)).into()
    }

    struct Scripted(Receiver<Result<Vec<Resolved>, DiscoveryError>>);

    impl Source for Scripted {
        fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError> {
            self.0.recv().unwrap_or_else(|_| {
                std::thread::park();
                Ok(Vec::new())
            })
        }

        fn describe(&self) -> String {
            "a script".to_owned()
        }
    }

    fn wait_for(endpoints: &Endpoints, version: u64) {
        while endpoints.version() < version {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_found_is_published_and_failures_change_nothing() {
        let (say, said) = channel();
        say.send(Ok(vec![at(2), at(1), at(2)])).expect("it listens");
        let endpoints = Endpoints::watch(Scripted(said)).expect("two are found");
        assert_eq!((*endpoints.list()).to_vec(), [at(1), at(2)]);
        let nothing = || DiscoveryError::NoEndpoints { source: "x".to_owned() };
        for found in [Err(nothing()), Ok(vec![]), Ok(vec![at(2), at(1)]), Ok(vec![at(3)])] {
            say.send(found).expect("it listens");
        }
        wait_for(&endpoints, 2);
        assert_eq!((*endpoints.list()).to_vec(), [at(3)]);
        assert_eq!(endpoints.version(), 2, "neither failures nor the same again are changes");
    }

    #[test]
    fn none_at_the_start_is_an_error_that_names_the_source() {
        let (say, said) = channel();
        say.send(Ok(vec![])).expect("it listens");
        let error = Endpoints::watch(Scripted(said)).expect_err("none are found");
        assert!(error.to_string().starts_with("a script: no endpoints"), "{error}");
        assert!(Endpoints::fixed([]).is_err());
    }
}
