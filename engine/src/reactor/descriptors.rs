//! The limit on file descriptors: how many sockets it leaves room for, and what to do about it.

use crate::limits::{DESCRIPTORS_OF_SHARD, DESCRIPTORS_RESERVED, GOODBYES_MAX, SOCKETS_MIN};
use crate::server::StartError;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;

/// Connections of each shard where nobody asks for a number.
const CONNECTIONS_DEFAULT: u32 = 65_536;

/// So few are worth a word to somebody who asked for no number: a service on a loaded machine may meet them.
const CONNECTIONS_FEW: u32 = 1_000;

/// What each shard of a server may open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    /// Connections that it serves or makes.
    pub connections: u32,
    /// Sockets of its driver: some more than that, for those who are told that they are too many.
    pub sockets: u32,
}

/// What each of so many shards may open, of the connections that are asked of each; with a note if it
/// is less, or, where nobody asked, if it is few. The limit is the process's: the shards share what it
/// leaves.
///
/// # Errors
/// If it leaves too little to serve anybody.
pub(crate) fn share(
    asked: Option<u32>,
    shards: u16,
) -> Result<(Share, Option<String>), StartError> {
    divide(limit(), asked, shards)
}

/// As many sockets for a driver on its own as `wanted`, or as there is room for, and then a note that
/// says so.
pub(super) fn sockets_max(wanted: u32) -> (u32, Option<String>) {
    let limit = limit();
    let room = room(limit, 1).max(1);
    match u32::try_from(room) {
        Ok(room) if room < wanted => {
            let files = format!("the process may open {limit} files (ulimit -n)");
            (room, Some(format!("{room} sockets instead of {wanted}: {files}")))
        }
        _ => (wanted, None),
    }
}

fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Sockets of each shard.
fn room(limit: u64, shards: u16) -> u64 {
    limit.saturating_sub(reserved(shards)) / u64::from(shards.max(1))
}

fn reserved(shards: u16) -> u64 {
    DESCRIPTORS_RESERVED + DESCRIPTORS_OF_SHARD * u64::from(shards)
}

fn divide(
    limit: u64,
    asked: Option<u32>,
    shards: u16,
) -> Result<(Share, Option<String>), StartError> {
    let wanted = asked.unwrap_or(CONNECTIONS_DEFAULT);
    let room = room(limit, shards);
    let least = u64::from(wanted.min(SOCKETS_MIN));
    if room < least {
        let needed = reserved(shards) + least * u64::from(shards);
        return Err(StartError::TooFewDescriptors { limit, needed, shards });
    }
    let sockets = u32::try_from(room).unwrap_or(u32::MAX).min(wanted + GOODBYES_MAX);
    let goodbyes = GOODBYES_MAX.min(sockets / 4);
    let connections = wanted.min(sockets - goodbyes);
    let note = (connections < asked.unwrap_or(CONNECTIONS_FEW)).then(|| {
        format!(
            "{connections} connections instead of {wanted} on each shard: the process may open \
             {limit} files (ulimit -n), which {shards} shards share"
        )
    });
    Ok((Share { connections, sockets }, note))
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
    use crate::limits::CONNECTIONS_MAX;

    fn connections(limit: u64, wanted: u32, shards: u16) -> u32 {
        divide(limit, Some(wanted), shards).expect("it is enough to start with").0.connections
    }

    #[test]
    fn shards_share_what_the_process_may_open() {
        let (share, note) = divide(1_024, Some(65_536), 4).expect("it is enough to start with");
        assert_eq!(share.sockets, 235, "a quarter of 1,024 - 64 - 4 × 5");
        assert_eq!(share.connections, 235 - GOODBYES_MAX);
        let note = note.expect("it is less than was asked for");
        assert!(note.contains("203 connections instead of 65536"), "{note}");
        assert!(note.contains("1024 files") && note.contains("4 shards"), "{note}");
        let ample = Share { connections: 200, sockets: 232 };
        assert_eq!(divide(1_024, Some(200), 4).expect("it is enough"), (ample, None));
        assert_eq!(connections(u64::MAX, 65_536, 1_024), 65_536);
        assert_eq!(connections(u64::MAX, CONNECTIONS_MAX, 1), CONNECTIONS_MAX);
    }

    #[test]
    fn who_asked_for_no_number_hears_only_of_few() {
        let note = |limit, asked| divide(limit, asked, 2).expect("it is enough to start with").1;
        assert_eq!(note(20_000, None), None, "nobody asked for more than there is");
        assert!(note(20_000, Some(65_536)).is_some_and(|note| note.contains("instead of 65536")));
        assert_eq!(note(20_000, Some(500)), None);
        let few = note(1_024, None).expect("one service could take them all");
        assert!(few.contains("443 connections") && few.contains("1024 files"), "{few}");
    }

    #[test]
    fn too_few_to_serve_anybody_are_refused() {
        assert_eq!(connections(64 + 5 + 16, 65_536, 1), 12, "and four to say goodbye");
        assert_eq!(connections(64 + 5 + 1, 1, 1), 1, "who asks for one has one");
        for (limit, shards, needed) in [(10, 1, 85), (64, 1, 85), (84, 1, 85), (100, 2, 106)] {
            let refused = divide(limit, Some(65_536), shards).expect_err("it is too little");
            let text = refused.to_string();
            assert!(text.contains(&format!("{needed} are needed")), "{text}");
            assert!(
                text.contains(&format!("{limit} files")) && text.contains("ulimit -n"),
                "{text}"
            );
        }
    }
}
