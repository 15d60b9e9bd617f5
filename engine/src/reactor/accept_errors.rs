//! What it means when accepting fails: one table for both drivers.

use crate::limits::ACCEPT_RETRY_MS;
use crate::time::Duration;
use rustix::io::Errno;

/// Pause before accepting is tried again by itself: file descriptors ran out, most likely.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(ACCEPT_RETRY_MS);

/// True if one connection was lost on its way, and others may wait behind it. Linux hands the errors
/// of a connection that died in the backlog to who accepts it (`accept(2)`). Everything else concerns
/// the listener, is told, and is tried again after a pause.
pub(super) fn concerns_one_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::PERM
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NONET
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lost_connection_leaves_is_told_from_what_the_listener_lacks() {
        for lost in [Errno::CONNABORTED, Errno::PROTO, Errno::PERM, Errno::HOSTUNREACH] {
            assert!(concerns_one_connection(lost), "{lost}");
        }
        for lacking in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL] {
            assert!(!concerns_one_connection(lacking), "{lacking}");
        }
    }
}
