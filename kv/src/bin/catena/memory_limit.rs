//! How much memory this process may have: the host's, or what its control groups leave it.
//!
//! Source: the kernel's `cgroup-v2.rst` (`memory.max`) and `cgroup-v1/memory.rst` (`memory.limit_in_bytes`).

use std::fs::read_to_string;
use std::path::Path;

/// The least limit in bytes of the control groups that this process is in; `None`: there is none.
pub fn of_this_process() -> Option<u64> {
    let groups = read_to_string("/proc/self/cgroup").ok()?;
    least_limit(&groups, Path::new("/sys/fs/cgroup"))
}

/// `groups` as in `/proc/self/cgroup`; their files are below `root`.
fn least_limit(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => least_on_the_way(root, path, "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                least_on_the_way(&root.join("memory"), path, "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    limits.min()
}

/// A group is limited by those above it, too. In a container its path may be one that only the host has: then
/// what is mounted as the root is its own.
fn least_on_the_way(root: &Path, group: &str, file: &str) -> Option<u64> {
    let group = root.join(group.trim_start_matches('/'));
    let above = group.ancestors().take_while(|path| path.starts_with(root));
    // "max", and what cannot be read, is no limit.
    above.filter_map(|path| read_to_string(path.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_least_limit_counts() {
        let root = std::env::temp_dir().join(format!("catena-cgroup-{}", std::process::id()));
        let put = |path: &str, content: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a temporary directory");
            fs::write(path, content).expect("a temporary file");
        };
        put("a.slice/memory.max", "4096000\n");
        put("a.slice/b.service/memory.max", "max\n");
        put("memory/old/memory.limit_in_bytes", "8192\n");
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let least = |groups: &str| least_limit(groups, &root);
        assert_eq!(least("0::/a.slice/b.service\n"), Some(4_096_000), "one above it");
        assert_eq!(least("0::/a.slice/b.service/c\n"), Some(4_096_000), "none of its own");
        assert_eq!(least("5:cpu,memory:/old\n0::/\n"), Some(8_192), "the older hierarchy");
        assert_eq!(
            least("5:memory:/host/only\n"),
            Some(9_223_372_036_854_771_712),
            "the mounted root"
        );
        assert_eq!(least("0::/\n3:cpu:/x\n"), None);
        put("memory.max", "4096\n");
        assert_eq!(least("0::/../host/only\n"), Some(4_096), "the mounted root");
        fs::remove_dir_all(root).expect("nobody uses it any more");
    }
}
