//! The limit on file descriptors: how many sockets it leaves room for, and what to do about it.

use crate::limits::{DESCRIPTORS_OF_SHARD, DESCRIPTORS_RESERVED};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;

/// As many sockets for each of so many shards as `wanted`, or as there is room for, and then a note
/// that says so. The limit is the process's: the shards share what it leaves.
pub(super) fn sockets_max(wanted: u32, shards: u16) -> (u32, Option<String>) {
    share(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), wanted, shards)
}

fn share(limit: u64, wanted: u32, shards: u16) -> (u32, Option<String>) {
    let shards = u64::from(shards.max(1));
    let reserved = DESCRIPTORS_RESERVED + DESCRIPTORS_OF_SHARD * shards;
    let room = (limit.saturating_sub(reserved) / shards).max(1);
    match u32::try_from(room) {
        Ok(room) if room < wanted => {
            let note = format!(
                "{room} sockets instead of {wanted} on each shard: the process may open {limit} \
                 files (ulimit -n), which {shards} shards share"
            );
            (room, Some(note))
        }
        _ => (wanted, None),
    }
}

/// What to do about an error, if it is for want of descriptors; to be put behind its text.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "; raise the limit on open files (ulimit -n, LimitNOFILE=)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_what_the_process_may_open() {
        assert_eq!(share(120, 65_536, 1).0, 51);
        let (each, note) = share(1_024, 65_536, 4);
        assert_eq!(each, 235, "a quarter of 1,024 - 64 - 4 × 5");
        let note = note.expect("it is less than was asked for");
        assert!(note.contains("235 sockets instead of 65536"), "{note}");
        assert!(note.contains("1024 files") && note.contains("4 shards"), "{note}");
        assert_eq!(share(1_024, 200, 4), (200, None));
        assert_eq!(share(u64::MAX, 65_536, 1_024), (65_536, None));
        assert_eq!(share(10, 65_536, 4).0, 1, "one at least: what fails then says why");
    }
}
