//! Watches over real files and scripted sources. Waits are for liveness: nothing depends on their length.

use super::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

fn at(port: u16) -> Resolved {
    SocketAddr::from(([127, 0, 0, 1], port)).into()
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ports(endpoints: &Endpoints) -> Vec<u16> {
    endpoints.list().iter().map(|endpoint| endpoint.address.port()).collect()
}

type Finding = Result<Vec<Resolved>, DiscoveryError>;

/// Finds what it is told to; hangs up when it is dropped.
struct Scripted {
    said: Receiver<Finding>,
    next: Option<Finding>,
    dropped: Arc<AtomicBool>,
}

fn scripted(first: Finding) -> (Scripted, Sender<Finding>, Arc<AtomicBool>) {
    let (say, said) = channel();
    let dropped = Arc::new(AtomicBool::new(false));
    (Scripted { said, next: Some(first), dropped: dropped.clone() }, say, dropped)
}

impl Source for Scripted {
    fn find(&mut self) -> Finding {
        self.next.take().expect("it waited for one")
    }

    fn wait(&mut self, closing: &Closing) {
        while self.next.is_none() && !closing.is_closed() {
            self.next = self.said.recv_timeout(Duration::from_millis(1)).ok();
        }
    }

    fn describe(&self) -> String {
        "a script".to_owned()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
    }
}

#[test]
fn what_is_found_is_published_and_failures_change_nothing() {
    let (source, say, _) = scripted(Ok(vec![at(2), at(1), at(2)]));
    let endpoints = Endpoints::watch(source).expect("two are found");
    assert_eq!(ports(&endpoints), [1, 2]);
    let nothing = || DiscoveryError::NoEndpoints { source: "x".to_owned() };
    let weightless = Resolved { weight: 0, ..at(9) };
    for (found, trouble) in [
        (Err(nothing()), Some("x: no endpoints")),
        (Ok(vec![]), Some("a script: no endpoints")),
        (Ok(vec![weightless]), Some("a script: weight of 127.0.0.1:9 is 0; it must be between")),
        (Ok(vec![at(2), at(1)]), None),
    ] {
        say.send(found).expect("it listens");
        wait_until("the trouble is told", || {
            let told = endpoints.trouble();
            told.is_some() == trouble.is_some()
                && told.is_none_or(|told| told.starts_with(trouble.expect("there is")))
        });
        assert_eq!((ports(&endpoints), endpoints.version()), (vec![1, 2], 1));
    }
    say.send(Ok(vec![at(3)])).expect("it listens");
    wait_until("the change is published", || endpoints.version() == 2);
    assert_eq!(ports(&endpoints), [3]);
}

#[test]
fn the_watch_ends_with_the_last_handle() {
    let (source, _say, dropped) = scripted(Ok(vec![at(1)]));
    let endpoints = Endpoints::watch(source).expect("one is found");
    let other = endpoints.clone();
    drop(endpoints);
    assert_eq!(ports(&other), [1]);
    assert!(!dropped.load(Ordering::Acquire), "somebody looks still");
    drop(other);
    wait_until("the source is dropped", || dropped.load(Ordering::Acquire));
}

#[test]
fn a_sleep_of_a_day_ends_with_the_last_handle() {
    struct Sleepy(Sender<()>);
    impl Source for Sleepy {
        fn find(&mut self) -> Finding {
            Ok(vec![at(1)])
        }
        fn wait(&mut self, closing: &Closing) {
            assert!(closing.sleep(Duration::from_secs(24 * 60 * 60)));
            self.0.send(()).expect("the test waits");
        }
        fn describe(&self) -> String {
            "sleep".to_owned()
        }
    }
    let (say, said) = channel();
    drop(Endpoints::watch(Sleepy(say)).expect("one is found"));
    said.recv_timeout(PATIENCE).expect("it was woken");
}

#[test]
fn lists_that_somebody_wrote_are_checked() {
    let (source, _say, _) = scripted(Ok(vec![]));
    let error = Endpoints::watch(source).expect_err("none are found");
    assert!(error.to_string().starts_with("a script: no endpoints"), "{error}");
    for (list, what) in [
        (vec![], "the list of endpoints: no endpoints"),
        (vec![at(1), at(2), at(1)], "the list of endpoints: 127.0.0.1:1 is there twice"),
        (vec![Resolved { weight: 0, ..at(1) }], "weight of 127.0.0.1:1 is 0"),
        (vec![Resolved { weight: WEIGHT_MAX + 1, ..at(1) }], "must be between 1 and 10000"),
    ] {
        let error = Endpoints::fixed(list.clone()).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
        let endpoints = Endpoints::fixed([at(7)]).expect("one endpoint");
        assert!(endpoints.replace(list).is_err());
        assert_eq!((ports(&endpoints), endpoints.version()), (vec![7], 1));
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("catena-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder of its own");
        Folder(folder)
    }

    fn list(&self) -> PathBuf {
        self.0.join("endpoints")
    }

    /// As an editor or a deployment does that knows better than to write in place.
    fn rename_over(&self, text: &str) {
        let new = self.0.join("endpoints.new");
        std::fs::write(&new, text).expect("a temporary file");
        std::fs::rename(new, self.list()).expect("within a folder");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn watch(path: &Path) -> Result<Endpoints, DiscoveryError> {
    Endpoints::watch(EndpointFile::new(path))
}

#[test]
fn a_file_is_followed_however_it_changes() {
    let folder = Folder::new("followed");
    std::fs::write(folder.list(), "127.0.0.1:1").expect("a temporary file");
    let endpoints = watch(&folder.list()).expect("one endpoint");
    assert_eq!(ports(&endpoints), [1]);
    folder.rename_over("127.0.0.1:1\n127.0.0.1:2 3\n");
    wait_until("a renamed file is read", || ports(&endpoints) == [1, 2]);
    std::fs::write(folder.list(), "[::1]:3\n").expect("a temporary file");
    wait_until("an edited file is read", || ports(&endpoints) == [3]);
}

#[test]
fn a_file_that_is_lost_or_spoiled_changes_nothing_and_is_told() {
    let folder = Folder::new("spoiled");
    folder.rename_over("127.0.0.1:1\n");
    let endpoints = watch(&folder.list()).expect("one endpoint");
    let told = |what: &str| {
        wait_until(what, || endpoints.trouble().is_some_and(|trouble| trouble.contains(what)));
        assert_eq!((ports(&endpoints), endpoints.version()), (vec![1], 1));
    };
    std::fs::remove_file(folder.list()).expect("it was there");
    told("cannot read");
    folder.rename_over("127.0.0.1:1\n127.0.0.1:2 none\n");
    told("line 2: weight is \"none\"");
    folder.rename_over("# nobody\n");
    told("no endpoints");
    std::fs::write(folder.list(), b"\xff\xfe").expect("a temporary file");
    told("UTF-8");
    folder.rename_over("127.0.0.1:1\n127.0.0.1:2\n");
    wait_until("it is well again", || ports(&endpoints) == [1, 2]);
    assert_eq!(endpoints.trouble(), None);
}

#[test]
fn what_is_no_file_is_an_error_at_once() {
    let folder = Folder::new("absent");
    for (path, what) in [(folder.list(), "cannot read"), (folder.0.clone(), "no regular file")] {
        let error = watch(&path).expect_err(what).to_string();
        assert!(error.contains(what) && error.contains(path.to_str().expect("a name")), "{error}");
    }
    std::fs::write(folder.list(), vec![b'#'; (1 << 20) + 1]).expect("a temporary file");
    let error = watch(&folder.list()).expect_err("it is too long").to_string();
    assert!(error.contains("longer than the 1048576 bytes"), "{error}");
}
