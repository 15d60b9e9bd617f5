//! Files from inside a shard.

use crate::kernel;
use crate::lab::Lab;
use catena_engine::DriverChoice;
use catena_engine::driver::{FileBuffer, OpenFile};
use catena_engine::local::Local;
use futures_util::future::FutureExt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many descriptors of this process are of that file.
fn descriptors_of(path: &Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").expect("Linux tells");
    let targets = all.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target == path).count()
}

/// A file or directory of the test's own, gone with it.
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
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Waits until so many descriptors are of that file; the files are opened and closed by helpers.
async fn until_open(local: &Local, path: &Path, count: usize) {
    let give_up_at = local.now() + Duration::from_secs(30);
    while descriptors_of(path) != count {
        assert!(local.now() < give_up_at, "{} descriptors, not {count}", descriptors_of(path));
        local.sleep(Duration::from_millis(1)).await;
    }
}

/// Whenever it is dropped: before the shard has looked at it, while a helper is at it, and when the file
/// is open already.
#[test]
fn an_open_that_is_dropped_leaves_no_file_open() {
    for driver in [DriverChoice::Epoll, DriverChoice::Uring] {
        let scratch = Scratch::new(&format!("dropped-open-{driver}"));
        kernel::on(driver, |lab| {
            let path = scratch.0.clone();
            lab.run(move |local| async move {
                let open =
                    || Box::pin(local.open_file(&path, OpenFile { create: true, direct: false }));
                let mut too_early = open();
                assert!(too_early.as_mut().now_or_never().is_none());
                drop(too_early);
                let mut unread = open();
                assert!(unread.as_mut().now_or_never().is_none());
                until_open(&local, &path, 1).await;
                drop(unread);
                for _ in 0..50 {
                    let mut at_work = open();
                    assert!(at_work.as_mut().now_or_never().is_none());
                    // The shard hands it over at the end of this turn.
                    local.sleep(Duration::from_nanos(1)).await;
                }
                let kept = open().await.expect("the directory is writable");
                until_open(&local, &path, 1).await;
                local.close_file(kept);
                until_open(&local, &path, 0).await;
            });
        });
    }
}

/// As the store starts, prepares a segment and replaces a manifest.
pub fn a_future_does_with_files_whatever_a_store_needs(lab: &mut impl Lab) {
    // The same in every run of a seed, and not that of another driver.
    let test = std::thread::current().name().expect("a test's thread has its name").to_owned();
    let scratch = Scratch::new(&test.replace(':', "-"));
    let base = scratch.0.clone();
    lab.run(move |local| async move { keep_store(&local, &base).await.expect("it works") });
}

async fn keep_store(local: &Local, base: &Path) -> io::Result<()> {
    let directory = base.join("gen-1/shard-0");
    local.create_directory(&directory).await?;
    for made in [base, &base.join("gen-1")] {
        local.sync_directory(made).await?;
    }
    let lock = local.lock_file(&base.join("LOCK")).await?;
    let refused = local.lock_file(&base.join("LOCK")).await.expect_err("it is locked");
    assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy, "{refused}");
    assert!(local.free_space(base).await?.available_bytes > 0);

    let segment = directory.join("log-1");
    local.create_zeroed(&segment, 3 << 20).await?;
    let (manifest, new) = (directory.join("MANIFEST"), directory.join("MANIFEST.new"));
    let file = local.open_file(&new, OpenFile { create: true, direct: false }).await?;
    local.preallocate(&new, 8_192).await?;
    local.write_file(file, 0, FileBuffer::copy_of(b"log-1")).await.1?;
    local.sync_file(file).await?;
    local.close_file(file);
    local.rename(&new, &manifest).await?;
    local.sync_directory(&directory).await?;
    assert_eq!(local.file_length(&manifest).await?, 8_192);

    let listed = local.list_directory(&directory).await?;
    let listed: Vec<_> = listed.iter().map(|entry| (entry.name.to_str(), entry.length)).collect();
    assert_eq!(listed, [(Some("MANIFEST"), 8_192), (Some("log-1"), 3 << 20)]);
    local.remove_file(&segment).await?;
    local.remove_file(&manifest).await?;
    local.remove_directory(&directory).await?;
    let gone = local.list_directory(&directory).await.expect_err("it was removed");
    assert!(gone.to_string().contains("gen-1/shard-0"), "{gone}");
    drop(lock);
    local.lock_file(&base.join("LOCK")).await.map(drop)
}
