//! Where servers are named on the command line, and how they are found.

use crate::Failure;
use catena_balancer::discovery::{
    Closing, DiscoveryError, Dns, EndpointFile, Endpoints, Resolved, Source,
};
use catena_engine::time::Duration;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// One `--upstream`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Upstream {
    /// `HOST:PORT` or `HOST:PORT=WEIGHT`: resolved once.
    Fixed {
        /// `HOST:PORT`
        name: String,
        /// Its share relative to the others'.
        weight: u32,
    },
    /// `dns:NAME:PORT`: all addresses, looked up again and again.
    Dns(String),
    /// `file:PATH`: read again when it changes.
    File(PathBuf),
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            return match path {
                "" => Err("file: without a path; say file:/etc/catena/servers".to_owned()),
                path => Ok(Upstream::File(path.into())),
            };
        }
        if let Some(name) = text.strip_prefix("dns:") {
            return with_port(name).map(|name| Upstream::Dns(name.to_owned()));
        }
        let (name, weight) = match text.rsplit_once('=') {
            None => (text, 1),
            Some((name, weight)) => {
                let weight = weight.parse().ok().filter(|weight| *weight > 0);
                let wrong = || format!("the weight in {text:?} is not a whole number above 0");
                (name, weight.ok_or_else(wrong)?)
            }
        };
        Ok(Upstream::Fixed { name: with_port(name)?.to_owned(), weight })
    }
}

fn with_port(name: &str) -> Result<&str, String> {
    let has_port = name.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    has_port.then_some(name).ok_or_else(|| {
        format!("{name:?} is no HOST:PORT; say 10.0.0.1:7400, dns:NAME:PORT or file:PATH")
    })
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Upstream::Fixed { name, weight: 1 } => f.write_str(name),
            Upstream::Fixed { name, weight } => write!(f, "{name}={weight}"),
            Upstream::Dns(name) => write!(f, "dns:{name}"),
            Upstream::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// The servers of all of `upstreams` together, from now on.
///
/// # Errors
/// The first upstream that finds none at the start, and why.
pub fn find(upstreams: &[Upstream]) -> Result<Endpoints, Failure> {
    let told = |upstream: &Upstream, error: DiscoveryError| -> Failure {
        format!("--upstream {upstream}: {error}").into()
    };
    let mut fixed = Vec::new();
    let mut watched = Vec::new();
    for upstream in upstreams {
        let found = match upstream {
            Upstream::Fixed { name, weight } => {
                let addresses = resolve(name).map_err(|error| told(upstream, error))?;
                fixed.extend(addresses.map(|address| Resolved { address, weight: *weight }));
                continue;
            }
            Upstream::Dns(name) => Endpoints::watch(Dns::new(name)),
            Upstream::File(path) => Endpoints::watch(EndpointFile::new(path)),
        };
        watched.push(found.map_err(|error| told(upstream, error))?);
    }
    match (fixed.is_empty(), &watched[..]) {
        (false, []) => Ok(Endpoints::fixed(fixed)?),
        (true, [only]) => Ok(only.clone()),
        _ => Ok(Endpoints::watch(Together { fixed, watched, seen: Vec::new() })?),
    }
}

fn resolve(name: &str) -> Result<impl Iterator<Item = SocketAddr>, DiscoveryError> {
    name.to_socket_addrs().map_err(|error| DiscoveryError::Resolve { name: name.to_owned(), error })
}

/// Several sources as one: looks at what each has published.
struct Together {
    fixed: Vec<Resolved>,
    watched: Vec<Endpoints>,
    /// The versions of the lists that were found last.
    seen: Vec<u64>,
}

/// How often it looks: cheap, and below what a file takes to be noticed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Together {
    fn versions(&self) -> Vec<u64> {
        self.watched.iter().map(Endpoints::version).collect()
    }
}

impl Source for Together {
    fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError> {
        // Before the lists: what changes in between is found once more.
        self.seen = self.versions();
        let watched = self.watched.iter().flat_map(|source| source.list().to_vec());
        Ok(self.fixed.iter().cloned().chain(watched).collect())
    }

    fn wait(&mut self, closing: &Closing) {
        while !closing.sleep(LOOK_INTERVAL) && self.versions() == self.seen {}
    }

    fn describe(&self) -> String {
        "all upstreams".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_say_where() {
        let fixed = |name: &str, weight| Upstream::Fixed { name: name.to_owned(), weight };
        for (text, upstream) in [
            ("10.0.0.1:7400", fixed("10.0.0.1:7400", 1)),
            ("[::1]:7400=3", fixed("[::1]:7400", 3)),
            ("dns:db:7400", Upstream::Dns("db:7400".to_owned())),
            ("file:a=b", Upstream::File("a=b".into())),
        ] {
            assert_eq!(text.parse(), Ok(upstream.clone()));
            assert_eq!(upstream.to_string(), text);
        }
        for wrong in
            ["", "db", ":1", "db:", "db:0", "db:99999", "db:1=0", "db:1=-1", "dns:db", "file:"]
        {
            assert!(wrong.parse::<Upstream>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sources_are_one_list() {
        let path = std::env::temp_dir().join(format!("catena-upstream-{}", std::process::id()));
        std::fs::write(&path, "127.0.0.1:2\n127.0.0.1:3 4\n").expect("a file can be written");
        let specs = ["127.0.0.1:1".parse(), format!("file:{}", path.display()).parse()];
        let endpoints = find(&specs.map(|spec| spec.expect("a spec"))).expect("three are found");
        std::fs::remove_file(&path).expect("it is there");
        let found: Vec<(u16, u32)> =
            endpoints.list().iter().map(|found| (found.address.port(), found.weight)).collect();
        assert_eq!(found, [(1, 1), (2, 1), (3, 4)]);
    }

    /// A source that tells when its thread has let go of it.
    struct Told<S>(S, std::sync::mpsc::Sender<()>);

    impl<S: Source> Source for Told<S> {
        fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError> {
            self.0.find()
        }

        fn wait(&mut self, closing: &Closing) {
            self.0.wait(closing);
        }

        fn describe(&self) -> String {
            self.0.describe()
        }
    }

    impl<S> Drop for Told<S> {
        fn drop(&mut self) {
            let _nobody_waits = self.1.send(());
        }
    }

    #[test]
    fn what_changes_in_one_source_is_found_and_with_the_last_reader_the_search_ends() {
        let at = |port: u16| Resolved::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let one = Endpoints::fixed([at(2)]).expect("there is one");
        let together =
            Together { fixed: vec![at(1)], watched: vec![one.clone()], seen: Vec::new() };
        let (told, ended) = std::sync::mpsc::channel();
        let all = Endpoints::watch(Told(together, told)).expect("there are two");
        assert_eq!(*all.list(), [at(1), at(2)]);
        one.replace([at(3), at(4)]).expect("there are two");
        let give_up = std::time::Instant::now() + Duration::from_secs(60);
        while *all.list() != [at(1), at(3), at(4)] {
            assert!(std::time::Instant::now() < give_up, "the change is not found");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(all);
        ended.recv_timeout(Duration::from_secs(60)).expect("the thread ends, and lets go of it");
    }

    #[test]
    fn the_upstream_that_is_not_there_is_named() {
        for spec in ["host.invalid:1", "dns:host.invalid:1", "file:/nowhere/servers"] {
            let upstream: Upstream = spec.parse().expect("well formed");
            let error = find(&[upstream]).expect_err("not there").to_string();
            assert!(error.starts_with(&format!("--upstream {spec}: ")), "{error}");
        }
    }
}
