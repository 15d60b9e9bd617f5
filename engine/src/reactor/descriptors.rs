//! The limit on file descriptors: how many sockets it leaves room for, and what to do about it.

use crate::limits::DESCRIPTORS_RESERVED;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;

/// As many sockets as `wanted`, or as there is room for, and then a note that says so.
pub(super) fn sockets_max(wanted: u32) -> (u32, Option<String>) {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = limit.saturating_sub(DESCRIPTORS_RESERVED).max(1);
    match u32::try_from(room) {
        Ok(room) if room < wanted => {
            let note = format!(
                "{room} sockets instead of {wanted}: the process may open {limit} files (ulimit -n)"
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
