//! Files from inside a shard.

use crate::kernel;
use crate::lab::Lab;
use catena_engine::DriverChoice;
use catena_engine::driver::OpenFile;
use futures_util::future::FutureExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many descriptors of this process are of that file.
fn descriptors_of(path: &Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").expect("Linux tells");
    let targets = all.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target == path).count()
}

/// A file of the test's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let file = format!("catena-{}-{name}", std::process::id());
        Scratch(std::env::temp_dir().canonicalize().expect("there is one").join(file))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Whenever it is dropped: before the shard has looked at it, and when the file is open already.
#[test]
fn an_open_that_is_dropped_leaves_no_file_open() {
    for driver in [DriverChoice::Epoll, DriverChoice::Uring] {
        let scratch = Scratch::new(&format!("dropped-open-{driver}"));
        kernel::on(driver, |lab| {
            let path = scratch.0.clone();
            let kept = lab.run(move |local| async move {
                let open =
                    || Box::pin(local.open_file(&path, OpenFile { create: true, direct: false }));
                let mut too_early = open();
                assert!(too_early.as_mut().now_or_never().is_none());
                drop(too_early);
                let mut unread = open();
                assert!(unread.as_mut().now_or_never().is_none());
                local.sleep(Duration::from_millis(1)).await;
                assert_eq!(descriptors_of(&path), 1, "it is open, and nobody has asked for it");
                drop(unread);
                let kept = open().await.expect("the directory is writable");
                local.sleep(Duration::from_millis(1)).await;
                let count = descriptors_of(&path);
                local.close_file(kept);
                local.sleep(Duration::from_millis(1)).await;
                (count, descriptors_of(&path))
            });
            assert_eq!(kept, (1, 0), "descriptors while one is kept, and after it was closed");
        });
    }
}
