//! What a machine can watch over in the source. Each rule is one function and names its exceptions.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a Rust file above which it should have been cut. Tests of a module count with it.
const FILE_LINES_MAX: usize = 750;
/// Columns of a line. Code is held to 100 by rustfmt; comments and tables get a little more.
const LINE_COLUMNS_MAX: usize = 110;

/// Whose code is pure but for [`IMPURE`].
const PURE: [&str; 2] = ["engine/src", "balancer/src"];

/// What of these may read a clock, draw random numbers, or touch the kernel. All else is pure, so that a
/// new file is held to it from its first day.
const IMPURE: [&str; 15] = [
    "engine/src/sys",
    "engine/src/reactor",
    // Whose randomness is a seed, and whose time is virtual; it has a file system of its own.
    "engine/src/sim",
    // Start threads, and wait for them.
    "engine/src/server.rs",
    // Live on the threads of others, and wait there.
    "engine/src/handle.rs",
    "engine/src/tokio.rs",
    // Swaps the atomics of the standard library for those of the model checker.
    "engine/src/primitive.rs",
    // Watch files and ask name servers, on threads of their own.
    "balancer/src/discovery",
    "balancer/src/discovery.rs",
    // Make the calls: on a shard, for others' frames, for others' clients.
    "balancer/src/client",
    "balancer/src/client.rs",
    "balancer/src/proxy",
    "balancer/src/proxy.rs",
    "balancer/src/tower",
    "balancer/src/tower.rs",
];

/// What the pure part may use of the impure ones.
const ALLOWED: [&str; 4] = [
    // Arithmetic, on the island only for the processor's instruction.
    "crate::sys::checksum",
    // A queue in memory, on the island only for its cells.
    "crate::sys::spsc",
    // Where a shard that ends waits for a thread that is about to wake it. There is none simulated.
    "std::thread::yield_now",
    // A panic that was caught: a type, and no thread.
    "std::thread::Result",
];

#[test]
fn unsafe_is_on_its_island() {
    for (path, text) in sources() {
        let is_island = path.starts_with("engine/src/sys");
        let has_unsafe = code_lines(&text).any(|line| {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let is_allowed = line.contains(concat!("allow(", "unsafe_code"));
            is_allowed || words.any(|word| word == concat!("un", "safe"))
        });
        assert!(is_island || !has_unsafe, "{}: leaves the island engine/src/sys", path.display());
    }
}

#[test]
fn the_pure_core_is_pure() {
    let impure = [
        "std::time::Instant",
        "std::time::{",
        "Instant::now",
        "SystemTime",
        "rand::rng",
        "rand::random",
        "OsRng",
        "SysRng",
        "from_os_rng",
        "getrandom",
        "std::thread",
        "std::net::Tcp",
        "std::fs",
        "rustix::",
        "io_uring::",
        "crate::sys",
        "crate::reactor",
        "crate::sim",
        "HashMap",
        "HashSet",
        "RandomState",
    ];
    for (path, text) in sources() {
        let is_pure = !IMPURE.iter().any(|impure| path.starts_with(impure));
        if PURE.iter().any(|pure| path.starts_with(pure)) && is_pure {
            let is_allowed = |line: &str| ALLOWED.iter().any(|allowed| line.contains(allowed));
            for line in code_lines(without_tests(&text)).filter(|line| !is_allowed(line)) {
                for word in impure {
                    assert!(!line.contains(word), "{}: {word} in {line:?}", path.display());
                }
            }
        }
    }
}

#[test]
fn drivers_do_not_know_each_other() {
    let foreign = [("engine/src/reactor", "crate::sim"), ("engine/src/sim", "crate::reactor")];
    for (path, text) in sources() {
        for (folder, other) in foreign {
            let is_there = path.starts_with(folder) && code_lines(&text).any(|l| l.contains(other));
            assert!(!is_there, "{}: knows {other}", path.display());
        }
    }
}

#[test]
fn files_and_lines_stay_readable() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines; is there a seam?", path.display());
        for (number, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            let place = format!("{}:{}", path.display(), number + 1);
            assert!(columns <= LINE_COLUMNS_MAX, "{place}: {columns} columns");
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (path, text) in sources() {
        for line in text.lines() {
            let is_left =
                ["TODO", "FIXME", "XXX", "#[ignore"].iter().any(|word| line.contains(word));
            let is_this_file = path.ends_with("tests/tidy/main.rs");
            assert!(is_this_file || !is_left, "{}: {line:?}", path.display());
        }
    }
}

#[test]
fn every_limit_says_why() {
    let path = root().join("engine/src/limits.rs");
    let text = fs::read_to_string(path).expect("the engine has limits");
    let mut documented = false;
    for line in text.lines() {
        if line.starts_with("pub const") {
            assert!(documented, "a limit without unit, reason and source: {line}");
        }
        documented = line.starts_with("///") || line.starts_with("#[");
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project with its path from the root.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let folders = [
        "engine",
        "balancer",
        "cli",
        "kv",
        "bench-harness",
        "examples",
        "tests",
        "benches",
        "fuzz",
    ];
    for folder in folders {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 40, "the search for sources finds too few: {}", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable file");
            let path = path.strip_prefix(root()).expect("found below the root").to_owned();
            files.push((path, text));
        }
    }
}

/// A file up to its own tests, which come last.
fn without_tests(text: &str) -> &str {
    let tests = text.find("#[cfg(test)]\nmod tests").or_else(|| text.find("#[cfg(all(test"));
    &text[..tests.unwrap_or(text.len())]
}

/// Lines that are not comments.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}
